//! (placeholder)
use super::Kernel;
/// Prints.
pub fn print(_k: &Kernel, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    Ok(())
}
