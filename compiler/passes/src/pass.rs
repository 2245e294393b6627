//! What a pass is, and why one fails.

use partita_ir::graph::Graph;
use partita_ir::graph::eval::EvalError;
use partita_ir::graph::infer::InferError;
use partita_ir::graph::verify::VerifyError;

/// A rewrite of the whole graph.
pub struct Pass {
    /// File, command-line and test name.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// The rewrite.
    pub run: fn(&mut Graph) -> Result<(), PassError>,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A constant could not be computed: an index past the end, a division by zero.
    #[error("folding a constant: {0}")]
    Fold(#[from] EvalError),
    /// What was written in the place of a node does not fit its operands; a bug of ours.
    #[error("rewriting: {0}")]
    Rewrite(#[from] InferError),
    /// The pass left a broken graph; a bug of ours.
    #[error("pass `{pass}` left a broken graph: {source}")]
    Broken {
        /// Name of the pass.
        pass: &'static str,
        /// What is broken.
        source: VerifyError,
    },
}
