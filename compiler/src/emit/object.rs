//! AArch64 through Cranelift (being written).
use crate::config::Target;
use crate::kernel::Kernel;
/// Stub.
pub fn compile_kernels(_k: &[Kernel], _t: &Target, _p: &str) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("not yet")
}
/// Stub.
pub fn declarations(_k: &[Kernel], _p: &str) -> String {
    String::new()
}
