//! A device's part of a node in several pieces, computed one after the other: what other devices need of it first, so that it
//! travels while the rest is computed.

use super::ShardError;
use super::rewrite::Rewriter;
use crate::partition::{Partition, Strategy};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, UnaryOp};
use partita_ir::region::{Region, Sharding};
use partita_ir::restrict::{self, restrict};

/// Axis of the channels, along which a part that is needed as a whole is cut.
const CHANNELS: usize = 1;

/// Vectors of channels that kernels compute together at least.
const VECTORS: usize = 2;

/// Most pieces of a part, whatever a plan asks for.
const MOST: usize = 4;

/// The node that rounds what a node makes to what travels, if nobody else reads it: both are computed piece by piece.
pub fn rounding(graph: &Graph, partition: &Partition, id: NodeId) -> Option<NodeId> {
    let [output] = graph.node(id).outputs[..] else { return None };
    let [reader] = graph.consumers(output)[..] else { return None };
    let rounds =
        matches!(graph.node(reader).op, Op::Unary(UnaryOp::Half | UnaryOp::Steps { .. })) && !graph.is_output(output);
    let outputs = |id: NodeId| partition.strategies.get(&id).map(|strategy| &strategy.outputs);
    (rounds && outputs(id) == outputs(reader)).then_some(reader)
}

/// The pieces in which devices compute a node, by turns; `None` if nobody else needs anything of them, or if they cannot be
/// cut. A part of which others need only some rows is cut there, any other into so many pieces by channels.
pub fn turns(
    graph: &Graph,
    partition: &Partition,
    cluster: &Cluster,
    id: NodeId,
    count: usize,
) -> Option<Vec<Sharding>> {
    let strategy = partition.strategies.get(&id).filter(|strategy| strategy.partial_sums.is_none())?;
    let [output] = graph.node(id).outputs[..] else { return None };
    let made = rounding(graph, partition, id).and_then(|it| graph.node(it).outputs.first().copied()).unwrap_or(output);
    let needs = needs(graph, partition, cluster, made);
    let mut turns: Vec<Sharding> = Vec::new();
    for (device, part) in strategy.outputs.parts() {
        let others = needs.iter().filter(|(reader, _)| *reader != device);
        let boxes: Vec<Region> = others.filter_map(|(_, need)| need.intersection(&part)).collect();
        let unit = VECTORS * cluster.devices[device].target.instruction_set.lanes() as usize;
        let pieces = pieces(&part, &boxes, (count, unit))?;
        for (turn, piece) in pieces.into_iter().enumerate() {
            if turns.len() == turn {
                turns.push(Sharding(vec![None; cluster.devices.len()]));
            }
            restrict(graph, id, &piece)?;
            turns[turn].0[device] = Some(piece);
        }
    }
    (turns.len() > 1).then_some(turns)
}

/// Whether a device needs something of a node's result that it has not made.
pub fn travels(graph: &Graph, partition: &Partition, cluster: &Cluster, id: NodeId) -> bool {
    let made = |device: usize| partition.strategies.get(&id).and_then(|it| it.outputs.0.get(device).copied().flatten());
    let lacks = |(device, need): (usize, Region)| made(device).is_none_or(|made| !made.contains(&need));
    let node = graph.node(id);
    node.outputs.iter().any(|output| needs(graph, partition, cluster, *output).into_iter().any(lacks))
}

/// What each reader of a tensor needs where it is first brought to.
fn needs(graph: &Graph, partition: &Partition, cluster: &Cluster, tensor: TensorId) -> Vec<(usize, Region)> {
    let mut found = Vec::new();
    for reader in graph.consumers(tensor) {
        let Some(strategy) = partition.strategies.get(&reader) else { continue };
        for (position, _) in graph.node(reader).inputs.iter().enumerate().filter(|(_, input)| **input == tensor) {
            match partition.relays.get(&(reader, position)).and_then(|relays| relays.first()) {
                Some(relay) => found.extend(relay.parts()),
                None => found.extend(read_by(graph, reader, strategy, position)),
            }
        }
    }
    if graph.is_output(tensor) {
        found.push((cluster.output, Region::whole(graph.shape(tensor))));
    }
    found
}

/// What devices read of one operand of a node.
fn read_by(graph: &Graph, id: NodeId, strategy: &Strategy, position: usize) -> Vec<(usize, Region)> {
    let operand = |(device, part): (usize, Region)| {
        let operands = match &strategy.partial_sums {
            None => restrict(graph, id, &part)?.operands,
            Some(_) => {
                let whole = Region::whole(graph.shape(graph.node(id).outputs[0]));
                restrict::partial_sum(graph, id, &part, &whole, false)?.operands
            }
        };
        Some((device, (*operands.get(position)?)?))
    };
    let parts = strategy.partial_sums.as_ref().unwrap_or(&strategy.outputs).parts();
    parts.filter_map(operand).collect()
}

/// Cuts a part: what is in boxes first. What is in them as a whole, into so many pieces of whole units of channels.
fn pieces(part: &Region, boxes: &[Region], (count, unit): (usize, usize)) -> Option<Vec<Region>> {
    if boxes.is_empty() {
        return Some(vec![*part]);
    }
    if boxes.contains(part) {
        return channels(part, count, unit);
    }
    // The outermost axis along which somebody needs only some.
    let axis = (0..part.rank()).find(|axis| boxes.iter().any(|some| some.extent(*axis) < part.extent(*axis)))?;
    let mut cuts: Vec<usize> = boxes.iter().flat_map(|some| [some.begin(axis), some.end(axis)]).collect();
    cuts.extend([part.begin(axis), part.end(axis)]);
    cuts.sort_unstable();
    cuts.dedup();
    let slabs = cuts.windows(2).filter_map(|cut| part.with(axis, cut[0], cut[1]));
    let (needed, rest): (Vec<Region>, Vec<Region>) =
        slabs.partition(|slab| boxes.iter().any(|some| some.intersection(slab).is_some()));
    let all: Vec<Region> = needed.into_iter().chain(rest).collect();
    Some(if all.len() <= MOST { all } else { vec![*part] })
}

/// Cuts a part into so many pieces by channels, in whole units; fewer if it has too few.
fn channels(part: &Region, count: usize, unit: usize) -> Option<Vec<Region>> {
    if part.rank() <= CHANNELS {
        return Some(vec![*part]);
    }
    let (begin, extent) = (part.begin(CHANNELS), part.extent(CHANNELS));
    let groups = extent.div_ceil(unit);
    let count = count.clamp(1, MOST).min(groups);
    let cut = |at: usize| begin + (groups * at / count * unit).min(extent);
    (0..count).map(|at| part.with(CHANNELS, cut(at), cut(at + 1))).collect()
}

impl Rewriter<'_> {
    /// Splits a node, and the one that rounds what it makes, piece by piece.
    pub(super) fn by_pieces(
        &mut self,
        partition: &Partition,
        (id, rounds): (NodeId, Option<NodeId>),
        turns: &[Sharding],
    ) -> Result<(), ShardError> {
        self.bring_operands(partition, id)?;
        for turn in turns {
            for id in [Some(id), rounds].into_iter().flatten() {
                let strategy = partition.strategies.get(&id);
                let strategy = strategy.ok_or_else(|| ShardError::NoStrategy(self.from.node_label(id)))?;
                self.origin = Some(id);
                self.node(id, strategy.method, turn, strategy.outputs.only_device().is_some())?;
            }
        }
        Ok(())
    }
}
