//! Rewrites of the graph: one pass, one file, one function.
//!
//! [`SIMPLIFY`] lists them in the order in which they run, until none changes anything; each leaves a graph that
//! `graph::verify` accepts. A pass never changes a result beyond rounding, and keeps graph outputs and their names. May import
//! the graph alone; deliberately absent: devices.

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

use partita_ir::graph::verify::verify;
use partita_ir::graph::{Graph, Node, NodeId};

pub use pass::{Pass, PassError};

/// From an imported graph to one that is worth compiling, by [`simplify`].
pub const SIMPLIFY: &[Pass] = &[
    FOLD_CONSTANTS,
    Pass { name: "products", summary: "sums of products become matrix products", run: products::run },
    Pass { name: "recognize", summary: "find operators that exporters spell out", run: recognize::run },
    Pass { name: "simplify", summary: "local equations", run: simplify::run },
    Pass { name: "eliminate-common", summary: "compute what is the same once", run: eliminate_common::run },
    Pass { name: "merge-pad", summary: "make padding part of the window that reads it", run: merge_pad::run },
    Pass { name: "fold-batch-norm", summary: "fold per-channel scales into weights", run: fold_batch_norm::run },
    Pass { name: "fuse-residual", summary: "add a convolution's neighbour in its epilogue", run: fuse_residual::run },
    Pass {
        name: "fuse-activation",
        summary: "apply activations in their producer's epilogue",
        run: fuse_activation::run,
    },
    ELIMINATE_IDENTITY,
    ELIMINATE_DEAD,
];

/// Most times that all of [`SIMPLIFY`] is run: what one pass makes is rarely of use to an earlier one.
const MOST_ROUNDS: usize = 8;

/// What tidies up behind a rewrite that makes nodes superfluous.
pub const TIDY: &[Pass] = &[ELIMINATE_IDENTITY, ELIMINATE_DEAD];

const FOLD_CONSTANTS: Pass =
    Pass { name: "fold-constants", summary: "evaluate nodes whose inputs are all known", run: fold_constants::run };

const ELIMINATE_IDENTITY: Pass =
    Pass { name: "eliminate-identity", summary: "remove nodes that change nothing", run: eliminate_identity::run };

const ELIMINATE_DEAD: Pass =
    Pass { name: "eliminate-dead", summary: "remove what no output needs", run: eliminate_dead::run };

/// Runs [`SIMPLIFY`] until nothing changes any more. What a pass leaves behind would count as a use in the next, so it is
/// cleared away before that. `after` sees the first result of each pass, and every later one that differs.
pub fn simplify(graph: &mut Graph, after: &mut dyn FnMut(&Pass, &Graph, Duration)) -> Result<(), PassError> {
    for round in 0..MOST_ROUNDS {
        let mut is_done = true;
        for pass in SIMPLIFY {
            let (begin, before) = (Instant::now(), nodes(graph));
            run(std::slice::from_ref(pass), graph, &mut |_, _, _| {})?;
            let is_changed = nodes(graph) != before;
            if is_changed || round == 0 {
                after(pass, graph, begin.elapsed());
            }
            if is_changed {
                is_done = false;
                run(TIDY, graph, after)?;
            }
        }
        if is_done {
            break;
        }
    }
    Ok(())
}

/// All there is but constants, which passes replace and never edit.
fn nodes(graph: &Graph) -> Vec<(NodeId, Node)> {
    graph.node_ids().map(|id| (id, graph.node(id).clone())).collect()
}

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
