//! Plans for least memory: nodes by row streaming, and weights where activations leave room for them.

use std::collections::BTreeSet;

use crate::clock::Clock;
use crate::placed::{Placed, place, ram_bytes};
use crate::row_streaming;
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, TensorId};
use partita_plan::partition::subsets::subsets;
use partita_plan::partition::{self, Effort, Partition, PartitionOptions, StrategyFamily, device_subset};
use partita_program::program::Program;

/// What is asked for before row streaming is chosen: the family, and the share of activations that counts. First what
/// is asked for, then so little that weights decide, since row streaming makes activations small; and without cuts by
/// rows, which bands need for themselves.
const QUESTIONS: [(StrategyFamily, f64); 3] =
    [(StrategyFamily::Auto, 1.0), (StrategyFamily::Auto, 0.15), (StrategyFamily::Fused, 0.15)];

/// Families whose plans compete.
const FAMILIES: [StrategyFamily; 7] = [
    StrategyFamily::Whole,
    StrategyFamily::Pipeline,
    StrategyFamily::Lop,
    StrategyFamily::Lip,
    StrategyFamily::Fused,
    StrategyFamily::Ftp,
    StrategyFamily::Spatial,
];

/// Clusters up to this size are asked for what their parts can do, too.
const SMALL: usize = 4;

/// How often weights are distributed anew, by what activations then need.
const ROUNDS: usize = 5;

/// The fullest device against the mean where that is not worth the while any more.
const EVEN: f64 = 1.003;

/// Least share of the weights that a device is asked to hold, against an equal share.
const LEAST_SHARE: f64 = 0.02;

/// The partition whose fullest device needs least RAM: `best`, or one with row streaming. What a program needs beside
/// tensors, copies and parts, only the program knows: each partition is carried out.
pub fn least(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions, best: Partition) -> Partition {
    let carried_out = |partition: &Partition| {
        let mut placed = place(graph, cluster, partition.clone(), &mut Clock::default()).ok()?;
        if partition.row_streaming.is_empty() {
            placed.patch(cluster).ok()?;
        }
        Some(placed)
    };
    // What does not fit is worse than anything that does.
    let price = |placed: &Placed| {
        let excess: u64 = placed.excess_bytes(cluster).iter().sum();
        (excess, placed.programs.iter().map(|program| ram_bytes(program, cluster)).max().unwrap_or(0))
    };
    let Some(first) = carried_out(&best) else { return best };
    let mut least = (price(&first), best.clone());
    let mut answers = vec![best.strategies.clone()];
    for rival in rivals(graph, cluster, wanted) {
        if answers.contains(&rival.strategies) {
            continue;
        }
        answers.push(rival.strategies.clone());
        if let Some(price) = carried_out(&rival).map(|placed| price(&placed)).filter(|price| *price < least.0) {
            least = (price, rival);
        }
    }
    let weights_in_ram = cluster.devices.iter().all(|device| device.target.system == System::Linux);
    let mut asked_for = Vec::new();
    for (family, share) in QUESTIONS {
        let activation_share = wanted.activation_share * share;
        let asked = PartitionOptions { family, activation_share, ..wanted.clone() };
        let found = if asked == *wanted { Ok(best.clone()) } else { partition::solve(graph, cluster, &asked) };
        let Ok(mut partition) = found else { continue };
        if asked_for.contains(&partition.strategies) {
            continue;
        }
        asked_for.push(partition.strategies.clone());
        let mut previous = (u64::MAX, 0);
        for _ in 0..ROUNDS {
            let found = row_streaming::found(graph, cluster, &partition);
            let carried_out = found.iter().filter_map(carried_out);
            let Some(placed) = carried_out.min_by_key(price) else { break };
            let price = price(&placed);
            if price < least.0 {
                least = (price, placed.partition.clone());
            }
            let (shares, mean) = weights_shares(&placed.programs, cluster.devices.len());
            if !weights_in_ram || price.1 as f64 <= mean * EVEN || price >= previous {
                break;
            }
            previous = price;
            partition = partition::rebalanced(graph, cluster, &partition, &shares);
        }
    }
    // What the optimisation proved holds for whole operands; row streaming needs less.
    let ((_, bytes), found) = least;
    let bound = bound_bytes(graph, cluster, weights_in_ram) as f64;
    let proven = format!(
        "best of {} plans as carried out; no plan at all needs less than {bound:.0} B of RAM on its fullest device",
        answers.len()
    );
    let gap = ((bytes as f64 - bound) / bytes.max(1) as f64).max(0.0);
    Partition { gap, optimal: false, proven, objective: wanted.objective, ..found }
}

/// Plans of every family, of single devices, and of the parts of a small cluster.
fn rivals(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Vec<Partition> {
    let count = cluster.devices.len();
    let with = |family: StrategyFamily| PartitionOptions { family, effort: Effort::Part, ..wanted.clone() };
    let mut found: Vec<Partition> =
        FAMILIES.iter().filter_map(|family| partition::solve(graph, cluster, &with(*family)).ok()).collect();
    let parts = if count <= SMALL { subsets(cluster) } else { Vec::new() };
    for devices in parts.into_iter().filter(|devices| devices.len() > 1) {
        let options = with(StrategyFamily::Auto).restricted(&devices);
        let part = partition::solve(graph, &device_subset::restricted(cluster, &devices), &options);
        found.extend(part.map(|part| device_subset::widened(part, &devices, count)));
    }
    found
}

/// RAM that the fullest device needs whatever the plan: an equal share of the weights, or the inputs or outputs, which
/// are whole where they come from and go to.
fn bound_bytes(graph: &Graph, cluster: &Cluster, weights_in_ram: bool) -> u64 {
    let bytes =
        |tensors: &[TensorId]| tensors.iter().map(|tensor| graph.tensor_type(*tensor).size_bytes() as u64).sum();
    let constants: BTreeSet<TensorId> = graph
        .node_ids()
        .flat_map(|id| graph.node(id).inputs.clone())
        .filter(|input| weights_in_ram && graph.value(*input).is_some())
        .collect();
    let weights: u64 = bytes(&constants.into_iter().collect::<Vec<_>>());
    (weights / cluster.devices.len() as u64).max(bytes(&graph.inputs)).max(bytes(&graph.outputs))
}

/// Shares of the weights with which all devices would need the same, as far as that is possible, and what they need on
/// average.
fn weights_shares(programs: &[Program], devices: usize) -> (Vec<f64>, f64) {
    let mut activations = vec![0.0; devices];
    for program in programs {
        activations[program.device] = program.arena_bytes as f64;
    }
    let weights = programs.iter().map(|program| program.weights_bytes as f64).sum::<f64>().max(1.0);
    let each = (weights + activations.iter().sum::<f64>()) / devices as f64;
    let least = LEAST_SHARE * weights / devices as f64;
    (activations.into_iter().map(|activations| (each - activations).max(least) / weights).collect(), each)
}
