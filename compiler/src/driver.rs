//! The compiler as a library: [`compile`], what it is told and what it gives.

use std::path::Path;

use crate::host::ThisMachine;
pub use crate::options::Options;
use crate::pipeline;
pub use crate::pipeline::{Advice, Change, Compiled, Dump, compile_graph, compile_partition, stages};
pub use crate::placement::Failure;

/// Compiles one model for one cluster; what exits and variants ask of networks, this machine computes.
pub fn compile(model: &Path, cluster: &Path, options: &Options, dump: &mut dyn Dump) -> Result<Compiled, Failure> {
    pipeline::compile(model, cluster, options, &ThisMachine, dump)
}
