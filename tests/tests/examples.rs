//! The committed examples: they compile, run on every kind of device, answer as onnxruntime does, and reach the
//! accuracy that their READMEs state.

use std::path::PathBuf;
use std::process::Command;

use partita_tests::bundle::{ClusterText, TOLERANCE, check, read_report};
use partita_tests::command::{compile, require, succeed};
use partita_tests::place::{further, is_long};
use partita_tests::{place, reference};

fn example(name: &str) -> PathBuf {
    place::repository().join("examples").join(name)
}

fn check_single(name: &str, target: &str) {
    let folder = example(name);
    let cluster = ClusterText::single(target);
    check(&format!("{name} on {target}"), &folder.join("model.onnx"), &cluster, &folder.join("reference.npz"), &[]);
}

#[test]
fn examples_by_reference_kernels() {
    for name in ["digits", "resnet"] {
        let difference = reference::difference(&example(name).join("model.onnx"), &example(name).join("reference.npz"));
        println!("{name} by reference kernels: differs by {difference:.1e} of the largest element");
        assert!(difference <= TOLERANCE, "{name}: differs by {difference:.2e} of the largest element");
    }
}

#[test]
fn digits_on_the_host() {
    check_single("digits", "host");
}

#[test]
fn digits_on_aarch64() {
    check_single("digits", "raspberry-pi-4");
}

#[test]
fn digits_on_armv7() {
    check_single("digits", "armv7");
}

#[test]
fn digits_on_microcontrollers() {
    for target in further(&["cortex-m4f"], &["cortex-m7", "cortex-m33", "cortex-m55"]) {
        check_single("digits", target);
    }
}

#[test]
fn resnet_on_x86_64() {
    let mut targets = vec!["host"];
    // The host's own instructions are among these.
    #[cfg(target_arch = "x86_64")]
    if is_long() {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            targets.push("x86-64-v3");
        }
        if is_x86_feature_detected!("avx512f") {
            targets.push("x86-64-v4");
        }
    }
    for target in targets {
        check_single("resnet", target);
    }
}

#[test]
fn resnet_on_aarch64() {
    for target in further(&["raspberry-pi-4"], &["raspberry-pi-3", "raspberry-pi-5", "aarch64"]) {
        check_single("resnet", target);
    }
}

#[test]
fn resnet_on_cortex_m7() {
    check_single("resnet", "cortex-m7");
}

/// README's first command: accuracy on the test samples is the one that the example's README states.
#[test]
fn resnet_over_three_devices_reaches_its_accuracy() {
    let folder = example("resnet");
    let out = tempfile::tempdir().expect("a temporary folder");
    succeed(
        compile()
            .arg(folder.join("model.onnx"))
            .arg("--targets")
            .arg(folder.join("cluster.toml"))
            .args(["--strategy", "pipeline", "--evaluate"])
            .arg(folder.join("test.npz"))
            .arg("--out")
            .arg(out.path()),
    );
    let report = read_report(out.path());
    let accuracy = report["evaluation"]["accuracy"].as_f64().expect("the evaluation has an accuracy");
    assert_eq!(report["evaluation"]["samples"], 200);
    let stated = stated_accuracy("resnet");
    println!("resnet over three devices: accuracy {accuracy}, stated {stated}");
    assert!((accuracy - stated).abs() < 1e-9, "accuracy is {accuracy}, README states {stated}");
    for device in report["devices"].as_array().expect("the report lists devices") {
        assert!(device["macs"].as_u64() > Some(0), "{} computes nothing", device["name"]);
    }
}

/// The accuracy on test.npz, from the table row of the example's README that names that file.
fn stated_accuracy(name: &str) -> f64 {
    let text = std::fs::read_to_string(example(name).join("README.md")).expect("the example has a README");
    let row = text.lines().find(|line| line.starts_with("| `test.npz`")).expect("its table has a row for test.npz");
    let cell = row.split('|').nth(3).expect("the row has a cell for accuracy");
    cell.trim().trim_end_matches('%').trim().parse::<f64>().expect("the accuracy is a number") / 100.0
}

#[test]
fn digits_on_a_microcontroller_and_a_board_over_a_serial_line() {
    require("qemu-aarch64");
    require("qemu-system-arm");
    let (mixed, digits) = (example("mixed"), example("digits"));
    let out = tempfile::tempdir().expect("a temporary folder");
    let run = succeed(
        compile()
            .arg(digits.join("model.onnx"))
            .arg("--targets")
            .arg(mixed.join("cluster.toml"))
            .args(["--strategy", "pipeline", "--samples", "20", "--evaluate"])
            .arg(digits.join("test.npz"))
            .arg("--out")
            .arg(out.path()),
    );
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(said.contains("measured on this machine, over loopback"), "{said}");
    let report = read_report(out.path());
    for device in report["devices"].as_array().expect("the report lists devices") {
        assert!(device["macs"].as_u64() > Some(0), "{} computes nothing", device["name"]);
    }
    assert_eq!(report["accuracy"]["base"], report["accuracy"]["compiled"]);
}

/// The application builds with its `build.rs`, answers, and is built again only when an input changed. Its build script
/// is the one that the tests were built with; with `PARTITA_LONG=1` cargo builds it, and so the whole compiler, again.
#[test]
fn application_embeds_its_model() {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let folder = copy.path().join("application");
    copy_application(&folder);
    if !is_long() {
        call_build_script(&folder, env!("CARGO_BIN_EXE_application_build"));
    }
    // As a user builds it: what build scripts need is not optimised, so nothing of the workspace's own builds is shared.
    let target = copy.path().join("target");
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(&folder).args(arguments).env("CARGO_TARGET_DIR", &target);
        command.args(["--config", "profile.dev.debug=false"]);
        String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned()
    };
    let answer = cargo(&["run", "--quiet"]);
    assert!(answer.contains("this is a 7"), "{answer}");
    let is_fresh = || {
        let messages = cargo(&["build", "--message-format=json"]);
        let line = messages.lines().find(|line| line.contains("compiler-artifact") && line.contains("\"application\""));
        line.expect("cargo reports the application").contains("\"fresh\":true")
    };
    assert!(is_fresh(), "built again although nothing changed");
    let cluster = folder.join("cluster.toml");
    let text = std::fs::read_to_string(&cluster).expect("the application has a cluster");
    std::fs::write(&cluster, text.replace("name = \"door\"", "name = \"gate\"")).expect("the copy is writable");
    assert!(!is_fresh(), "not built again although the cluster changed");
}

/// Copies the application, with the paths of its dependencies made absolute.
fn copy_application(folder: &std::path::Path) {
    let source = example("application");
    for path in place::files_below(&source, &|_| true) {
        let to = folder.join(path.strip_prefix(&source).expect("it lies below the folder"));
        std::fs::create_dir_all(to.parent().expect("a file lies in a folder")).expect("the copy is writable");
        std::fs::copy(&path, &to).expect("the copy is writable");
    }
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).expect("the application has a manifest");
    let root = place::repository();
    std::fs::write(&manifest, text.replace("../..", &root.to_string_lossy())).expect("the copy is writable");
}

/// Replaces the application's build script by one that calls `script`, which needs no dependencies.
fn call_build_script(folder: &std::path::Path, script: &str) {
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).expect("the application has a manifest");
    let (rest, _) = text.split_once("[build-dependencies]").expect("it has a build script's dependencies");
    std::fs::write(&manifest, rest).expect("the copy is writable");
    let call = format!("std::process::Command::new({script:?}).status().is_ok_and(|status| status.success())");
    std::fs::write(folder.join("build.rs"), format!("fn main() {{ assert!({call}); }}")).expect("the copy is writable");
}

#[test]
fn application_has_the_model_of_the_digits_example() {
    let read = |folder: &str| std::fs::read(example(folder).join("model.onnx")).expect("the example has a model");
    assert!(read("application") == read("digits"), "examples/application/model.onnx is not examples/digits/model.onnx");
}

/// As `compile .. | head -1` is: what else would be printed is not wanted.
#[test]
fn nobody_reading_is_no_fault() {
    let out = tempfile::tempdir().expect("a temporary folder");
    let cluster = ClusterText::single("host").write(out.path());
    let mut command = compile();
    command.arg(example("digits").join("model.onnx")).arg("--targets").arg(cluster).args(["--simulate", "--quiet"]);
    command.arg("--out").arg(out.path().join("out"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).output().expect("it starts");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
