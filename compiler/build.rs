//! Compiles the plan's schema; protox reads it, so no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/plan.proto");
    println!("cargo:rerun-if-changed=../templates");
    println!("cargo:rerun-if-changed=../targets");
    println!("cargo:rerun-if-changed=../runtime-rt/src");
    let descriptors = protox::compile(["proto/plan.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
