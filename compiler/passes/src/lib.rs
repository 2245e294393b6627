//! Rewrites of the graph: one pass, one file, one function.
//!
//! [`SIMPLIFY`] lists them in the order in which they run; each leaves a graph that `graph::verify` accepts. A pass never
//! changes a result beyond rounding, and keeps graph outputs and their names. May import the graph alone; deliberately absent:
//! devices.

pub mod batch;
mod eliminate_common;
mod eliminate_dead;
mod eliminate_identity;
mod fold_batch_norm;
mod fold_constants;
mod fuse_activation;
mod fuse_residual;
pub mod input_form;
mod merge_pad;
mod pass;
mod pattern;
mod products;
pub mod quantize;
mod recognize;
mod simplify;
pub mod states;
pub mod store_weights;
mod unique_names;

use std::time::{Duration, Instant};

use partita_ir::graph::Graph;
use partita_ir::graph::verify::verify;

pub use pass::{Pass, PassError};

/// From an imported graph to one that is worth compiling.
pub const SIMPLIFY: &[Pass] = &[
    FOLD_CONSTANTS,
    Pass { name: "products", summary: "sums of products become matrix products", run: products::run },
    ELIMINATE_IDENTITY,
    ELIMINATE_DEAD,
    Pass { name: "recognize", summary: "find operators that exporters spell out", run: recognize::run },
    // What a recognised operator replaced would count as a use below.
    ELIMINATE_DEAD,
    Pass { name: "simplify", summary: "local equations", run: simplify::run },
    ELIMINATE_IDENTITY,
    Pass { name: "eliminate-common", summary: "compute what is the same once", run: eliminate_common::run },
    Pass { name: "merge-pad", summary: "make padding part of the window that reads it", run: merge_pad::run },
    ELIMINATE_DEAD,
    Pass { name: "fold-batch-norm", summary: "fold per-channel scales into weights", run: fold_batch_norm::run },
    Pass { name: "fuse-residual", summary: "add a convolution's neighbour in its epilogue", run: fuse_residual::run },
    Pass {
        name: "fuse-activation",
        summary: "apply activations in their producer's epilogue",
        run: fuse_activation::run,
    },
    ELIMINATE_DEAD,
];

/// What tidies up behind a rewrite that makes nodes superfluous.
pub const TIDY: &[Pass] = &[ELIMINATE_IDENTITY, ELIMINATE_DEAD];

const FOLD_CONSTANTS: Pass =
    Pass { name: "fold-constants", summary: "evaluate nodes whose inputs are all known", run: fold_constants::run };

const ELIMINATE_IDENTITY: Pass =
    Pass { name: "eliminate-identity", summary: "remove nodes that change nothing", run: eliminate_identity::run };

const ELIMINATE_DEAD: Pass =
    Pass { name: "eliminate-dead", summary: "remove what no output needs", run: eliminate_dead::run };

/// Runs passes in order, tells constants apart that they have named alike, and verifies after each; `after` sees every result.
pub fn run(
    passes: &[Pass],
    graph: &mut Graph,
    after: &mut dyn FnMut(&Pass, &Graph, Duration),
) -> Result<(), PassError> {
    for pass in passes {
        let begin = Instant::now();
        (pass.run)(graph)?;
        unique_names::run(graph);
        verify(graph).map_err(|source| PassError::Broken { pass: pass.name, source })?;
        after(pass, graph, begin.elapsed());
    }
    Ok(())
}
