//! Warm starts: pipelines whose stages are shared by several devices.

use std::collections::BTreeMap;

use super::super::groups::stages;
use super::super::network::Network;
use super::super::price::Candidate;
use super::super::{Method, PartitionOptions, cost};
use super::additive::{Start, limited};
use super::effort::{Effort, START_WORK};
use partita_ir::graph::{Graph, NodeId};

/// Pipelines whose stages are shared by several devices: the order of nodes is cut where least crosses so that each
/// stage's weights fit its devices together; then the best strategies within each stage.
pub(super) fn staged(
    graph: &Graph,
    network: &Network<'_>,
    options: &PartitionOptions,
    effort: Effort<'_>,
) -> Vec<Vec<usize>> {
    let cluster = network.cluster;
    let count = cluster.devices.len();
    let (places, order): (Vec<usize>, Vec<NodeId>) = network.nodes().unzip();
    let weights: Vec<u64> = order.iter().map(|id| cost::node_weights_bytes(graph, *id)).collect();
    let crossing = crossing_bytes(graph, &order);
    let mut found = Vec::new();
    for size in 2..=count / 2 {
        let stages = stages(count, size);
        let room = |stage: &Vec<usize>| -> u64 {
            let held = |device: &usize| {
                let ram = if network.weights_in_ram(*device) { network.ram[*device] } else { u64::MAX };
                ram.min(network.flash[*device])
            };
            stage.iter().map(held).sum()
        };
        let rooms: Vec<u64> = stages.iter().map(room).collect();
        let Some(ends) = least_crossing(&weights, &crossing, &rooms) else { continue };
        let stage_of = |node: usize| ends.iter().position(|end| node < *end).unwrap_or(ends.len() - 1);
        let members: BTreeMap<usize, &Vec<usize>> =
            places.iter().enumerate().map(|(node, at)| (*at, &stages[stage_of(node)])).collect();
        let allowed = |node: usize, candidate: &Candidate| {
            let devices = candidate.strategy.devices();
            let shared = candidate.strategy.partial_sums.is_some() || devices.len() > 1;
            let has_weights = candidate.weights_bytes.iter().any(|bytes| *bytes > 0);
            devices.iter().all(|device| members[&node].contains(device))
                && (!has_weights || shared && devices.len() == members[&node].len())
                && (!has_weights || candidate.strategy.method != Method::Replicated)
        };
        let effort = Effort { allowed: &allowed, ..effort.at_most(START_WORK) };
        found.extend(limited(network, options.objective, Start::default(), effort).map(|found| found.assignment));
    }
    found
}

/// Bytes alive after each node of the order.
fn crossing_bytes(graph: &Graph, order: &[NodeId]) -> Vec<u64> {
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let mut crossing = vec![0; order.len()];
    for (at, id) in order.iter().enumerate() {
        for output in &graph.node(*id).outputs {
            let last = graph.consumers(*output).iter().map(|reader| position[reader]).max().unwrap_or(at);
            let bytes = graph.stored_bytes(*output) as u64;
            crossing[at..last].iter_mut().for_each(|sum| *sum += bytes);
        }
    }
    crossing
}

/// Ends of consecutive stages so that the weights of each fit its room and least crosses the cuts; `None` if there are
/// no such cuts.
fn least_crossing(weights: &[u64], crossing: &[u64], rooms: &[u64]) -> Option<Vec<usize>> {
    let count = weights.len();
    // best[end]: least crossing with the stages so far ending here, and where they end.
    let mut best: Vec<Option<(u64, Vec<usize>)>> = vec![None; count + 1];
    best[0] = Some((0, Vec::new()));
    for (stage, room) in rooms.iter().enumerate() {
        let mut next: Vec<Option<(u64, Vec<usize>)>> = vec![None; count + 1];
        for (begin, known) in best.iter().enumerate() {
            let Some((sum, ends)) = known else { continue };
            let mut held = 0;
            for end in begin + 1..=count {
                held += weights[end - 1];
                if held > *room {
                    break;
                }
                let last = stage + 1 == rooms.len();
                let total = sum + if end < count { crossing[end - 1] } else { 0 };
                let better = next[end].as_ref().is_none_or(|(known, _)| total < *known);
                if better && (!last || end == count) {
                    let mut ends = ends.clone();
                    ends.push(end);
                    next[end] = Some((total, ends));
                }
            }
        }
        best = next;
    }
    best[count].take().map(|(_, ends)| ends)
}
