//! What is decided of a graph on a cluster.

use std::collections::BTreeMap;

use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::NodeId;

use super::objective::Objective;
use super::strategy::Strategy;
use crate::shard::Sharding;

/// The decision, with what was predicted for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// Operands (node, position) that travel in several steps: the shardings in between, for example scattered before
    /// everybody gathers everything, or along a tree or a ring.
    pub relays: BTreeMap<(NodeId, usize), Vec<Sharding>>,
    /// Nodes that are computed some rows after others, so that no device has to hold whole operands.
    pub row_streaming: Vec<RowStreaming>,
    /// Whether tensors travel while devices compute, and how; without, a device that exchanges does nothing else.
    pub overlap: Option<Overlap>,
    /// What was minimised.
    pub objective: Objective,
    /// Whether nothing among the strategies that were compared has a smaller sum of steps than this plan: see
    /// [`Partition::sum`].
    pub optimal: bool,
    /// Relative distance between this plan and what no plan can beat: of what is reported where a bound on that is known
    /// (`bound`), else of what was minimised.
    pub gap: f64,
    /// What is minimised: the sum over nodes and travel, in seconds, bytes, joules or as weighted. The simulation, which
    /// lets devices work at the same time, knows better what comes of it. None where the objective is no sum.
    pub sum: Option<f64>,
    /// What was proven of this plan, in words.
    pub proven: String,
    /// No plan answers sooner.
    pub lower_bound_ms: f64,
    /// For throughput: seconds between answers that no plan can go below, as far as known.
    pub period_bound_seconds: Option<f64>,
    /// Time the solver took.
    pub solve_ms: f64,
    /// Predicted time of one inference on the best device that could hold everything alone, if there is one.
    pub single_device_ms: Option<f64>,
}

/// Nodes that follow each other in topological order and are computed together, in turns: each turn makes some rows of
/// every result, as many as the nodes behind need for theirs. Nothing is computed twice; rows that windows share are kept
/// from turn to turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowStreaming {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// How many turns.
    pub count: usize,
}

/// Tensors that travel while devices compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Nodes of which each device computes its part in pieces, what others need first; into how many, where they need all.
    pub pieces: BTreeMap<NodeId, usize>,
}

impl Partition {
    /// Strategies that somebody has chosen; nothing is known of their quality.
    pub fn given(strategies: BTreeMap<NodeId, Strategy>) -> Partition {
        Partition {
            strategies,
            relays: BTreeMap::new(),
            row_streaming: Vec::new(),
            overlap: None,
            objective: Objective::Latency,
            optimal: false,
            gap: 0.0,
            sum: None,
            proven: String::new(),
            lower_bound_ms: 0.0,
            period_bound_seconds: None,
            solve_ms: 0.0,
            single_device_ms: None,
        }
    }
}

/// Why there is no partition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartitionError {
    /// Some limit cannot be kept.
    #[error("{0}")]
    Infeasible(Diagnostic),
}

/// Relative gaps below this are rounding.
pub const OPTIMAL_GAP: f64 = 1e-6;
