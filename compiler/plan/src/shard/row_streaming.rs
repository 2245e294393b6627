//! Runs of nodes that are computed in bands of rows: some rows of every result, then the next ones.
//!
//! Where several devices share a node by channels, each needs all channels of the operand, but only of the rows that it
//! is computing: gathered in bands, whole operands never lie on one device. Where several nodes run together, not even
//! the devices' own parts of what is between them are ever whole. Unlike tiles (`patches`), bands compute nothing
//! twice.

use std::collections::{BTreeMap, HashMap};

use super::ShardError;
use super::rewrite::Rewriter;
use crate::partition::{Partition, RowStreaming};
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_ir::region::{Region, Sharding};
use partita_ir::restrict::restrict;

/// A run, for people.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RowStreamingReport {
    /// First and last node.
    pub nodes: (String, String),
    /// Turns in which the rows are made.
    pub count: usize,
}

impl RowStreamingReport {
    /// Names the nodes of a run; `None` if there are none.
    pub fn of(graph: &Graph, row_streaming: &RowStreaming) -> Option<RowStreamingReport> {
        let name = |id: &NodeId| graph.node(*id).name.clone();
        let nodes = (name(row_streaming.nodes.first()?), name(row_streaming.nodes.last()?));
        Some(RowStreamingReport { nodes, count: row_streaming.count })
    }
}

/// Axis of the rows.
pub const ROWS: usize = 2;

/// A sharding of whole rows, cut to some of them.
pub fn of_rows(sharding: &Sharding, (begin, end): (usize, usize)) -> Sharding {
    Sharding(sharding.0.iter().map(|region| region.and_then(|region| region.with(ROWS, begin, end))).collect())
}

/// Rows of a node's result; `None` if it has no rows, or its strategy cuts them already.
pub fn rows(graph: &Graph, id: NodeId, partition: &Partition) -> Option<usize> {
    let node = graph.node(id);
    let [output] = node.outputs[..] else { return None };
    let shape = graph.shape(output);
    let rows = *shape.get(ROWS).filter(|_| graph.value(output).is_none())?;
    let strategy = partition.strategies.get(&id)?;
    let summed = strategy.partial_sums.as_ref().is_none_or(|partial_sums| {
        let x = graph.shape(node.inputs[0]);
        matches!(node.op, Op::Conv(_)) && partial_sums.parts().all(|(_, region)| region.extent(ROWS) == x[ROWS])
    });
    let uncut = strategy.outputs.parts().all(|(_, region)| region.extent(ROWS) == rows);
    let first = Region::whole(shape).with(ROWS, 0, 1)?;
    (rows > 1 && summed && uncut && restrict(graph, id, &first).is_some()).then_some(rows)
}

/// For every turn the rows of every node that have been made when it ends.
fn turns(graph: &Graph, row_streaming: &RowStreaming, extents: &[usize]) -> Vec<Vec<usize>> {
    let position: HashMap<TensorId, usize> =
        row_streaming.nodes.iter().enumerate().map(|(at, id)| (graph.node(*id).outputs[0], at)).collect();
    let mut done = vec![0; extents.len()];
    let mut found = Vec::with_capacity(row_streaming.count);
    for turn in 1..=row_streaming.count {
        let mut ends: Vec<Option<usize>> = vec![None; extents.len()];
        for (at, id) in row_streaming.nodes.iter().enumerate().rev() {
            let even = (extents[at] * turn).div_ceil(row_streaming.count);
            let end = if turn == row_streaming.count { extents[at] } else { ends[at].unwrap_or(even).max(done[at]) };
            ends[at] = Some(end);
            let node = graph.node(*id);
            let result = Region::whole(graph.shape(node.outputs[0])).with(ROWS, done[at], end);
            let operands = match result {
                Some(result) => restrict(graph, *id, &result).map(|restriction| restriction.operands),
                None => continue,
            };
            for (index, input) in node.inputs.iter().enumerate() {
                let Some(producer) = position.get(input) else { continue };
                // What cannot be restricted needs everything.
                let end = operands.as_ref().map_or(Some(extents[*producer]), |operands| {
                    operands[index].filter(|part| part.rank() > ROWS).map(|part| part.end(ROWS))
                });
                ends[*producer] = ends[*producer].max(end);
            }
        }
        for (done, end) in done.iter_mut().zip(&ends) {
            *done = end.unwrap_or(*done);
        }
        found.push(done.clone());
    }
    found
}

impl Rewriter<'_> {
    /// Splits a run of nodes, turn by turn. Afterwards each device holds its part of every result that others read, in
    /// one piece.
    pub(super) fn row_streaming(
        &mut self,
        partition: &Partition,
        row_streaming: &RowStreaming,
    ) -> Result<(), ShardError> {
        let graph = self.from;
        let refuse =
            |id: &NodeId| ShardError::NotRestrictable { node: graph.node_label(*id), part: "rows".to_string() };
        let extents: Vec<usize> = row_streaming
            .nodes
            .iter()
            .map(|id| rows(graph, *id, partition).ok_or_else(|| refuse(id)))
            .collect::<Result<_, _>>()?;
        let before = self.holdings.clone();
        let mut made: BTreeMap<(TensorId, usize), Vec<(Region, TensorId)>> = BTreeMap::new();
        let mut done = vec![0; extents.len()];
        for ends in turns(graph, row_streaming, &extents) {
            for (at, id) in row_streaming.nodes.iter().enumerate().filter(|(at, _)| ends[*at] > done[*at]) {
                let rows = (done[at], ends[at]);
                self.split(partition, *id, Some(rows))?;
                let output = graph.node(*id).outputs[0];
                let strategy = partition.strategies.get(id).ok_or_else(|| refuse(id))?;
                for (device, region) in of_rows(&strategy.outputs, rows).parts() {
                    let held = self.held(output, device).iter().rfind(|(held, _)| *held == region);
                    made.entry((output, device)).or_default().push(*held.ok_or_else(|| refuse(id))?);
                }
            }
            done = ends;
        }
        // What was gathered is forgotten; what has been made is put together where somebody behind wants it.
        self.holdings = before;
        let read_outside = |tensor: TensorId| {
            graph.outputs.contains(&tensor)
                || graph.consumers(tensor).iter().any(|reader| !row_streaming.nodes.contains(reader))
        };
        for id in &row_streaming.nodes {
            let tensor = graph.node(*id).outputs[0];
            if !read_outside(tensor) {
                continue;
            }
            self.origin = Some(*id);
            for device in 0..self.device_names.len() {
                let Some(parts) = made.remove(&(tensor, device)) else { continue };
                let (Some((first, _)), Some((last, _))) = (parts.first(), parts.last()) else { continue };
                let region = first.hull(last);
                let joined = match parts.as_slice() {
                    [(_, only)] => *only,
                    parts => {
                        let name = format!("{}@{}", graph.tensor(tensor).name, self.device_names[device]);
                        let inputs = parts.iter().map(|(_, part)| *part).collect();
                        self.add(device, None, name, Op::Concat { axis: ROWS }, inputs)?
                    }
                };
                self.hold(tensor, device, region, joined);
            }
        }
        Ok(())
    }
}
