//! (placeholder)
use super::Op;
/// Name of an operator in the text form.
pub fn op_name(_op: &Op) -> &'static str {
    "op"
}
