//! Decides which device computes which part of which node: the sharding ILP.
//!
//! A [`Strategy`] is one way to compute a node: which part of the result each device makes, or which addend. The
//! choice over all nodes is one optimisation: `candidates` lists the strategies, `network` prices them and what has to
//! travel between them, `search` finds the best assignment and says whether it is proven: by elimination and
//! Lagrangian bounds (`elimination`), and by the ILP where these leave a gap (`ilp`). `pipeline` is the special case of
//! whole nodes in consecutive runs.

mod candidates;
pub mod cost;
mod elimination;
mod groups;
mod ilp;
pub mod limits;
mod network;
mod objective;
mod pipeline;
pub mod published;
mod reshard;
mod search;
mod strategy;
pub mod text;

use std::collections::BTreeMap;
use std::time::Instant;

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
    /// Operands (node, position) that travel in two steps: the sharding in between, for example scattered before
    /// everybody gathers everything, or collected on a hub.
    pub ways: BTreeMap<(NodeId, usize), Sharding>,
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

impl Partition {
    /// Strategies that somebody has chosen; nothing is known of their quality.
    pub fn given(strategies: BTreeMap<NodeId, Strategy>) -> Partition {
        Partition {
            strategies,
            ways: BTreeMap::new(),
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
    let begin = Instant::now();
    let chain = pipeline::Chain::new(graph, cluster, &options.reserve_bytes);
    let found = match options.family {
        StrategyFamily::Whole => chain
            .best_single(options.objective)
            .map(|found| search::Answer::of_devices(graph, cluster, &chain.devices(&found), true)),
        StrategyFamily::Pipeline => chain
            .solve(options.objective, true)
            .map(|(found, proven)| search::Answer::of_devices(graph, cluster, &chain.devices(&found), proven)),
        // Weights may be held more than once, never less.
        _ if weights_exceed(&chain.problem) => None,
        _ => search::search(graph, cluster, options, &chain),
    };
    let Some(answer) = found else {
        return Err(PartitionError::Infeasible(explain(graph, cluster, &chain, options.family)));
    };
    Ok(Partition {
        strategies: answer.strategies,
        ways: answer.ways,
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

/// Whether the weights alone are too much for all devices together.
fn weights_exceed(problem: &pipeline::problem::Problem) -> bool {
    let room = limits::weights_room(&problem.ram, &problem.flash, &problem.weights_in_ram);
    problem.weights.iter().sum::<u64>() > room
}

/// Names the limit that nothing satisfies, and what it would take.
fn explain(graph: &Graph, cluster: &Cluster, chain: &pipeline::Chain, family: StrategyFamily) -> Diagnostic {
    let (problem, segments) = (&chain.problem, &chain.segments);
    let devices = 0..problem.device_count();
    let weights: u64 = problem.weights.iter().sum();
    let room = limits::weights_room(&problem.ram, &problem.flash, &problem.weights_in_ram);
    if weights_exceed(problem) {
        let mut diagnostic = Diagnostic::new(
            "E0170",
            format!("the model's weights take {weights} bytes; all devices together have room for {room}"),
        );
        for device in devices {
            diagnostic = diagnostic.note(format!(
                "device `{}`: {} bytes of RAM, {} of flash",
                cluster.devices[device].name, problem.ram[device], problem.flash[device]
            ));
        }
        return diagnostic.help("add devices or memory; nothing that a partition does makes weights smaller");
    }
    // Only where nodes stay whole is it one device that must hold them.
    let whole = matches!(family, StrategyFamily::Whole | StrategyFamily::Pipeline);
    for (segment, info) in segments.iter().enumerate().filter(|_| whole) {
        let needed = |device: usize| {
            problem.arena[segment] + if problem.weights_in_ram[device] { problem.weights[segment] } else { 0 }
        };
        if devices.clone().any(|d| needed(d) <= problem.ram[d] && problem.weights[segment] <= problem.flash[d]) {
            continue;
        }
        let largest = info.nodes.iter().max_by_key(|node| cost::node_weights_bytes(graph, **node));
        let label = largest.map_or(String::new(), |node| graph.node_label(*node));
        let mut diagnostic = Diagnostic::new(
            "E0170",
            format!("no device can hold the layers around node {}", crate::diagnostic::printable(&label)),
        );
        for device in devices.clone() {
            diagnostic = diagnostic.note(format!(
                "device `{}` has {} bytes of RAM and {} of flash for them; they need {} and {}",
                cluster.devices[device].name,
                problem.ram[device],
                problem.flash[device],
                needed(device),
                problem.weights[segment]
            ));
        }
        return diagnostic.help("add a device with that much memory, or further devices to split these layers over");
    }
    let mut diagnostic = Diagnostic::new("E0170", "no plan was found that keeps every limit")
        .note(format!("the model has {weights} bytes of weights; the devices have room for {room} together"));
    for device in devices {
        diagnostic = diagnostic.note(format!(
            "device `{}`: {} bytes of RAM, {} of flash",
            cluster.devices[device].name, problem.ram[device], problem.flash[device]
        ));
    }
    diagnostic.help("more RAM or flash, a further device, or a link between devices that have none would help")
}

/// Every strategy of every node that is worth a look on a cluster, for tests of what follows.
#[cfg(test)]
pub(crate) fn strategies_of(graph: &Graph, cluster: &Cluster) -> BTreeMap<NodeId, Vec<Strategy>> {
    let (family, objective) = (StrategyFamily::Auto, Objective::Memory);
    let choice = candidates::Choice { graph, cluster, family, objective, breadth: candidates::Breadth::Full };
    let order = graph.topological_order().unwrap_or_default();
    let listed = candidates::candidates(&choice, &order);
    let plain = |listed: Vec<candidates::Candidate>| {
        listed.into_iter().filter(|candidate| candidate.run.is_none()).map(|candidate| candidate.strategy).collect()
    };
    order.into_iter().zip(listed).map(|(id, listed)| (id, plain(listed))).collect()
}
