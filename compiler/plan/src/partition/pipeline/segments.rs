//! The graph as a chain: runs of nodes between places where a single tensor carries everything on.

use std::collections::HashSet;

use crate::partition::cost;
use crate::partition::encodings::{Encodings, travel_bytes};
use partita_ir::graph::{Graph, NodeId, TensorId};

/// Most links of the chain that the solver is given; shorter neighbours are joined beyond that.
const MAX_SEGMENTS: usize = 48;

/// A run of nodes that stays on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Nodes in topological order.
    pub nodes: Vec<NodeId>,
    /// Bytes of constants.
    pub weights_bytes: u64,
    /// Most bytes of activations alive at once, its first input and last result included.
    pub arena_bytes: u64,
    /// Bytes handed on to the next segment; the graph's outputs after the last.
    pub output_bytes: u64,
}

/// Cuts a graph into segments. The first receives the graph's inputs, the last makes its outputs.
pub fn segments(graph: &Graph, encodings: &Encodings) -> Vec<Segment> {
    let order = graph.topological_order().unwrap_or_default();
    let last_use = graph.last_uses(&order);
    let mut alive: HashSet<TensorId> = graph.inputs.iter().copied().filter(|t| last_use.contains_key(t)).collect();
    let mut found: Vec<Segment> = Vec::new();
    let mut current = Segment { nodes: Vec::new(), weights_bytes: 0, arena_bytes: 0, output_bytes: 0 };
    let mut seen_weights: HashSet<TensorId> = HashSet::new();
    let size = |tensor: &TensorId| graph.stored_bytes(*tensor) as u64;
    let travels = |tensor: &TensorId| travel_bytes(graph, encodings, *tensor);
    // Of what is alive: bytes, and how many of it the caller wants.
    let mut alive_bytes: u64 = alive.iter().map(size).sum();
    let mut outputs_pending = alive.iter().filter(|tensor| graph.is_output(**tensor)).count();
    for (position, id) in order.iter().enumerate() {
        let node = graph.node(*id);
        for output in node.outputs.iter().filter(|output| last_use.contains_key(output)) {
            if alive.insert(*output) {
                alive_bytes += size(output);
                outputs_pending += usize::from(graph.is_output(*output));
            }
        }
        current.arena_bytes = current.arena_bytes.max(alive_bytes);
        let constants = node.inputs.iter().filter(|input| graph.value(**input).is_some());
        current.weights_bytes += constants.filter(|input| seen_weights.insert(**input)).map(size).sum::<u64>();
        current.nodes.push(*id);
        for input in &node.inputs {
            if last_use.get(input) == Some(&position) && alive.remove(input) {
                alive_bytes -= size(input);
                outputs_pending -= usize::from(graph.is_output(*input));
            }
        }
        if alive.len() == 1 && outputs_pending == 0 && position + 1 < order.len() {
            current.output_bytes = alive.iter().map(travels).sum();
            // Constants shared with later segments count again there: each device stores its own copy.
            seen_weights.clear();
            found.push(std::mem::replace(
                &mut current,
                Segment { nodes: Vec::new(), weights_bytes: 0, arena_bytes: 0, output_bytes: 0 },
            ));
        }
    }
    current.output_bytes = graph.outputs.iter().map(travels).sum();
    found.push(current);
    join_small(graph, found)
}

/// Joins the cheapest neighbours until the chain is short enough for the solver.
fn join_small(graph: &Graph, mut segments: Vec<Segment>) -> Vec<Segment> {
    let work = |segment: &Segment| -> u64 { segment.nodes.iter().map(|node| 1 + cost::node_macs(graph, *node)).sum() };
    let mut loads: Vec<u64> = segments.iter().map(work).collect();
    while segments.len() > MAX_SEGMENTS {
        // Halving passes keep this linear in the number of segments, up to a logarithm.
        let mut pairs: Vec<u64> = loads.windows(2).map(|pair| pair[0] + pair[1]).collect();
        pairs.sort_unstable();
        let excess = (segments.len() - MAX_SEGMENTS).div_ceil(2).max(1);
        let limit = pairs[(excess - 1).min(pairs.len() - 1)];
        let (mut joined, mut joined_loads): (Vec<Segment>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut budget = segments.len() - MAX_SEGMENTS;
        let mut may_join = false;
        for (segment, load) in segments.into_iter().zip(loads) {
            match (joined.last_mut(), joined_loads.last_mut()) {
                (Some(last), Some(last_load)) if may_join && budget > 0 && *last_load + load <= limit => {
                    last.nodes.extend(segment.nodes);
                    last.weights_bytes += segment.weights_bytes;
                    last.arena_bytes = last.arena_bytes.max(segment.arena_bytes);
                    last.output_bytes = segment.output_bytes;
                    *last_load += load;
                    budget -= 1;
                    may_join = false;
                }
                _ => {
                    joined.push(segment);
                    joined_loads.push(load);
                    may_join = true;
                }
            }
        }
        (segments, loads) = (joined, joined_loads);
    }
    segments
}
