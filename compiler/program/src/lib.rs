//! The programs of devices, and what is emitted for them.
//!
//! [`program`] makes steps, kernels and packed weights of a schedule, [`memory`] gives every buffer and weight its place, and
//! [`emit`] spells it out: Rust source from templates, objects, archives. May import the graph, targets and clusters,
//! plans, kernels, and the runtime's kernels; deliberately absent: the folder that is written, cargo, options of one
//! compilation.

pub mod emit;
pub mod memory;
pub mod program;
