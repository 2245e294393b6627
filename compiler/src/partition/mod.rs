//! Decides which device computes which part of which node: the sharding ILP.
//!
//! A [`Strategy`] is one way to compute a node: which part of the result each device makes, or which addend. The
//! choice over all nodes is one optimisation: `candidates` lists the strategies, `network` prices them and what has to
//! travel between them, `search` finds the best assignment and says whether it is proven: by elimination and
//! Lagrangian bounds (`elimination`), and by the ILP where these leave a gap (`ilp`). `pipeline` is the special case of
//! whole nodes in consecutive runs.

mod axes;
mod balance;
mod candidates;
pub mod cost;
mod elimination;
mod explain;
mod groups;
pub mod held;
mod ilp;
pub mod limits;
mod network;
mod objective;
mod pipeline;
pub mod published;
pub mod relay;
mod reshard;
pub mod roster;
mod search;
mod strategy;
pub mod text;

use std::collections::BTreeMap;
use std::time::Instant;

pub use balance::rebalanced;
pub use candidates::crossings;
pub use cost::node_macs;
pub use objective::{Objective, Weights};
pub use strategy::{Method, Strategy};

use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, NodeId};
use crate::shard::Sharding;

/// The decision, with what was predicted for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// Operands (node, position) that travel in several steps: the shardings in between, for example scattered before
    /// everybody gathers everything, or along a tree or a ring.
    pub ways: BTreeMap<(NodeId, usize), Vec<Sharding>>,
    /// Nodes that are computed some rows after others, so that no device has to hold whole operands.
    pub stripes: Vec<Stripes>,
    /// What was minimised.
    pub objective: Objective,
    /// Whether the solver proved that nothing is better.
    pub optimal: bool,
    /// Relative distance between the answer and the best bound; 0 if optimal.
    pub gap: f64,
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
pub struct Stripes {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// How many turns.
    pub count: usize,
}

impl Partition {
    /// Strategies that somebody has chosen; nothing is known of their quality.
    pub fn given(strategies: BTreeMap<NodeId, Strategy>) -> Partition {
        Partition {
            strategies,
            ways: BTreeMap::new(),
            stripes: Vec::new(),
            objective: Objective::Latency,
            optimal: false,
            gap: 0.0,
            period_bound_seconds: None,
            solve_ms: 0.0,
            single_device_ms: None,
        }
    }
}

/// Strategies that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyFamily {
    /// The best of all.
    Auto,
    /// Everything on one device.
    Whole,
    /// Consecutive runs of layers, on as many devices as can take part.
    Pipeline,
    /// Output splitting of everything that multiplies, over all devices.
    Lop,
    /// Input splitting, likewise.
    Lip,
    /// Output and input splitting, likewise; output before input needs no traffic in between.
    Fused,
    /// Fused tiles with recomputed halo for convolutions.
    Ftp,
    /// Spatial splitting with exchanged halo for convolutions.
    Spatial,
    /// Some of the samples that are answered together, for everything that multiplies.
    Batch,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Bytes of each device's memory that must stay free, beyond what every program needs; missing entries are 0.
    pub reserve_bytes: Vec<u64>,
    /// Share of activations that counts; less than 1 where devices will compute patch by patch (`shard::patches`).
    pub activation_share: f64,
    /// Weights that devices hold; others may not be used.
    pub held: Option<std::sync::Arc<held::Held>>,
}

impl PartitionOptions {
    /// All of every device's memory, all of every activation.
    pub fn new(objective: Objective, family: StrategyFamily) -> PartitionOptions {
        PartitionOptions { objective, family, reserve_bytes: Vec::new(), activation_share: 1.0, held: None }
    }
}

/// Why there is no partition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartitionError {
    /// Some limit cannot be kept.
    #[error("{0}")]
    Infeasible(Diagnostic),
}

/// Decides which device computes what.
pub fn solve(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Result<Partition, PartitionError> {
    let everyone = matches!(options.family, StrategyFamily::Lop | StrategyFamily::Lip | StrategyFamily::Fused);
    let count = cluster.devices.len();
    if everyone || count <= roster::LARGEST {
        return solve_for(graph, cluster, options);
    }
    let mut size = roster::LARGEST;
    loop {
        let devices = roster::best(cluster, size);
        let reserve = |device: &usize| options.reserve_bytes.get(*device).copied().unwrap_or(0);
        let reserve_bytes = devices.iter().map(reserve).collect();
        let asked = PartitionOptions { reserve_bytes, ..options.clone() };
        match solve_for(graph, &roster::restricted(cluster, &devices), &asked) {
            Ok(found) => return Ok(roster::widened(found, &devices, count)),
            Err(error) if size >= count => return Err(error),
            Err(_) => size = (2 * size).min(count),
        }
    }
}

/// The same for a cluster of which all devices may be asked.
fn solve_for(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Result<Partition, PartitionError> {
    let begin = Instant::now();
    // Single devices and pipelines of very many devices are not worth their tables.
    let few = roster::best(cluster, roster::LARGEST);
    let small = (cluster.devices.len() > roster::LARGEST).then(|| roster::restricted(cluster, &few));
    let reserve: Vec<u64> = few.iter().map(|device| options.reserve_bytes.get(*device).copied().unwrap_or(0)).collect();
    let mut chain = match &small {
        Some(small) => pipeline::Chain::new(graph, small, &reserve),
        None => pipeline::Chain::new(graph, cluster, &options.reserve_bytes),
    };
    for bytes in &mut chain.problem.arena {
        *bytes = (*bytes as f64 * options.activation_share) as u64;
    }
    let found = match options.family {
        // What devices hold decides where weights are; the tables of chains do not know it.
        StrategyFamily::Whole | StrategyFamily::Pipeline if options.held.is_some() => {
            let family = StrategyFamily::Auto;
            search::search(graph, cluster, &PartitionOptions { family, ..options.clone() }, &chain)
        }
        StrategyFamily::Whole => chain
            .best_single(options.objective)
            .map(|found| search::Answer::of_devices(graph, cluster, &chain.devices(&found), true)),
        StrategyFamily::Pipeline => chain
            .solve(options.objective, true)
            .map(|(found, proven)| search::Answer::of_devices(graph, cluster, &chain.devices(&found), proven)),
        // Weights may be held more than once, never less.
        _ if explain::weights_exceed(&chain, cluster, &options.reserve_bytes) => None,
        _ => search::search(graph, cluster, options, &chain),
    };
    let Some(answer) = found else {
        return Err(PartitionError::Infeasible(explain::explain(graph, cluster, &chain, options)));
    };
    Ok(Partition {
        strategies: answer.strategies,
        ways: answer.ways,
        stripes: Vec::new(),
        objective: options.objective,
        optimal: answer.gap <= OPTIMAL_GAP,
        gap: if answer.gap <= OPTIMAL_GAP { 0.0 } else { answer.gap },
        period_bound_seconds: answer.period_bound_seconds,
        solve_ms: begin.elapsed().as_secs_f64() * 1e3,
        single_device_ms: chain
            .best_single(Objective::Latency)
            .map(|assignment| chain.problem.latency_seconds(&assignment) * 1e3),
    })
}

/// Relative gaps below this are rounding.
pub const OPTIMAL_GAP: f64 = 1e-6;

/// Every strategy of every node that is worth a look on a cluster, for tests of what follows.
#[cfg(test)]
pub(crate) fn strategies_of(graph: &Graph, cluster: &Cluster) -> BTreeMap<NodeId, Vec<Strategy>> {
    let (family, objective) = (StrategyFamily::Auto, Objective::Memory);
    let breadth = candidates::Breadth::Full;
    let choice = candidates::Choice { graph, cluster, family, objective, breadth, activation_share: 1.0, held: None };
    let order = graph.topological_order().unwrap_or_default();
    let listed = candidates::candidates(&choice, &order);
    let plain = |listed: Vec<candidates::Candidate>| {
        listed.into_iter().filter(|candidate| candidate.run.is_none()).map(|candidate| candidate.strategy).collect()
    };
    order.into_iter().zip(listed).map(|(id, listed)| (id, plain(listed))).collect()
}
