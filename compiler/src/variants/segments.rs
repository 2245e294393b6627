//! A network as a chain of segments, so that what is left of any set of parts is put together from few pieces.
//!
//! A segment lies between two tensors that carry everything on. Each has the ways in which it can be computed: as it is,
//! or without some part. All ways of all segments are compiled once, into one program for this machine.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::parts::{Part, Repair, dropped, macs};
use crate::driver::Failure;
use crate::graph::{Graph, NodeId, TensorId};
use crate::partition::crossings;
use crate::passes;

/// Routes of one program.
const MAX_WAYS: usize = 250;

/// One way to compute a segment.
#[derive(Clone, Debug)]
pub struct Way {
    /// Parts that are left out, each with what takes its place.
    pub drops: Vec<(usize, Option<Repair>)>,
    /// The segment as a graph; none if its input is its result.
    pub graph: Option<Graph>,
    /// Multiply-adds.
    pub macs: u64,
}

impl Way {
    /// Bytes that travel of what it computes, by node of the whole network.
    pub fn sent_bytes(&self, by_node: &BTreeMap<NodeId, u64>, whole: &Graph) -> u64 {
        let names: HashSet<&str> = self.graph.iter().flat_map(names).collect();
        by_node.iter().filter(|(id, _)| names.contains(whole.node(**id).name.as_str())).map(|(_, bytes)| bytes).sum()
    }
}

fn names(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.node_ids().map(|id| graph.node(id).name.as_str())
}

/// What lies between two tensors.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What comes in; none for the network's input.
    pub from: Option<TensorId>,
    /// What comes out.
    pub to: TensorId,
    /// Ways to compute it; the first is as it is.
    pub ways: Vec<Way>,
}

/// Cuts a graph into segments of which each holds all of any part that touches it.
pub fn segments(graph: &Graph, parts: &[Part]) -> Result<Vec<Segment>, Failure> {
    let order = graph.topological_order().unwrap_or_default();
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let spans = parts.iter().map(|part| span(graph, part, &position)).collect::<Result<Vec<_>, Failure>>()?;
    let mut from = None;
    let mut found: Vec<Segment> = Vec::new();
    let mut inside: Vec<usize> = Vec::new();
    let mut next = 0;
    let mut by_begin: Vec<usize> = (0..parts.len()).collect();
    by_begin.sort_by_key(|part| spans[*part]);
    let mut last_node = 0;
    for (at, tensor) in crossings(graph, &order) {
        if graph.is_output(tensor) {
            continue;
        }
        let crossed = spans.iter().any(|(first, last)| *first <= at && at < *last);
        // A cut behind nodes that compute nothing is not worth a piece of its own.
        let computes = order[last_node..=at].iter().any(|id| crate::partition::node_macs(graph, *id) > 0);
        if crossed || !computes {
            continue;
        }
        while let Some(part) = by_begin.get(next).filter(|part| spans[**part].1 <= at) {
            inside.push(*part);
            next += 1;
        }
        found.push(segment(graph, from, tensor, std::mem::take(&mut inside), parts)?);
        (from, last_node) = (Some(tensor), at + 1);
    }
    let output = graph.outputs.first().copied();
    if let Some(output) = output.filter(|output| from != Some(*output)) {
        found.push(segment(graph, from, output, by_begin[next..].to_vec(), parts)?);
    }
    // The chain has as many ways as routes can be told apart.
    let mut ways: usize = found.iter().map(|segment| segment.ways.len()).sum();
    while ways > MAX_WAYS {
        let Some(longest) = found.iter_mut().max_by_key(|segment| segment.ways.len()) else { break };
        longest.ways.pop();
        ways -= 1;
    }
    Ok(found)
}

/// First and last position of what goes with a part, its join included.
fn span(graph: &Graph, part: &Part, position: &HashMap<NodeId, usize>) -> Result<(usize, usize), Failure> {
    let without = dropped(graph, &[(part, None)]).map_err(|error| Failure::Internal(error.into()))?;
    let left: HashSet<&str> = without.node_ids().map(|id| without.node(id).name.as_str()).collect();
    let gone = graph.node_ids().filter(|id| !left.contains(graph.node(*id).name.as_str()));
    let touched: Vec<usize> = gone.chain([part.join]).filter_map(|id| position.get(&id).copied()).collect();
    let first = touched.iter().copied().min().unwrap_or(0);
    Ok((first, touched.iter().copied().max().unwrap_or(first)))
}

fn segment(
    graph: &Graph,
    from: Option<TensorId>,
    to: TensorId,
    inside: Vec<usize>,
    parts: &[Part],
) -> Result<Segment, Failure> {
    let whole = extract(graph, from, to)?;
    let mut ways = vec![Way { drops: Vec::new(), macs: whole.as_ref().map_or(0, macs), graph: whole }];
    for part in inside {
        ways.push(way(graph, from, to, vec![(part, None)], parts)?);
    }
    Ok(Segment { from, to, ways })
}

/// A segment without some parts.
pub fn way(
    graph: &Graph,
    from: Option<TensorId>,
    to: TensorId,
    drops: Vec<(usize, Option<Repair>)>,
    parts: &[Part],
) -> Result<Way, Failure> {
    let which: Vec<(&Part, Option<&Repair>)> =
        drops.iter().map(|(part, repair)| (&parts[*part], repair.as_ref())).collect();
    // The tensor may take over the name, not the number, of another: what comes out is kept as an output meanwhile.
    let mut marked = graph.clone();
    if !marked.is_output(to) {
        marked.outputs.push(to);
    }
    let place = marked.outputs.iter().position(|output| *output == to).unwrap_or(0);
    let without = dropped(&marked, &which).map_err(|error| Failure::Internal(error.into()))?;
    let graph = extract(&without, from, without.outputs[place])?;
    Ok(Way { drops, macs: graph.as_ref().map_or(0, macs), graph })
}

/// What lies between two tensors as a graph of its own; none if they are the same.
fn extract(graph: &Graph, from: Option<TensorId>, to: TensorId) -> Result<Option<Graph>, Failure> {
    if from == Some(to) {
        return Ok(None);
    }
    let mut piece = graph.clone();
    piece.outputs = vec![to];
    let tidy = |piece: &mut Graph| {
        passes::run(passes::TIDY, piece, &mut |_, _, _| {}).map_err(|error| Failure::Internal(error.into()))
    };
    if let Some(from) = from {
        if let Some(producer) = piece.tensor(from).producer {
            piece.remove_node(producer);
        }
        // What came before still stands on the other inputs until it is gone.
        piece.inputs.push(from);
        tidy(&mut piece)?;
        piece.inputs = vec![from];
    }
    tidy(&mut piece)?;
    Ok(Some(piece))
}
