//! The `compile` command.
fn main() {}
