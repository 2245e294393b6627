//! Rewrites a run into its tiles.

use std::collections::{BTreeSet, HashMap};

use super::Patch;
use crate::shard::assemble;
use crate::shard::{Event, ShardError, Sharded};
use partita_ir::graph::infer::infer;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, TensorType};
use partita_ir::region::Region;
use partita_ir::restrict::restrict;

/// Rewrites a run into its tiles. The result becomes a concatenation of rows of tiles.
pub fn apply(sharded: &mut Sharded, patch: &Patch) -> Result<(), ShardError> {
    let at = |events: &[Event], node: NodeId| events.iter().position(|event| *event == Event::Compute(node));
    let Some((last, run)) = patch.nodes.split_last() else { return Ok(()) };
    let Some(place) = at(&sharded.events, *last) else { return Ok(()) };
    let mut writer = PatchWriter { sharded, patch, events: Vec::new(), count: 0 };
    let mut joined = Vec::with_capacity(patch.tiles.len());
    for tile in &patch.tiles {
        joined.push(writer.tile(tile)?);
    }
    // Tiles beside each other first, then rows.
    let mut rows: Vec<TensorId> = Vec::new();
    let mut pieces = joined.iter().zip(&patch.tiles).peekable();
    while let Some((piece, tile)) = pieces.next() {
        let mut row = vec![*piece];
        while let Some((piece, _)) = pieces.next_if(|(_, next)| next.begin(2) == tile.begin(2)) {
            row.push(*piece);
        }
        rows.push(match row[..] {
            [only] => only,
            _ => writer.add("row", *last, Op::Concat { axis: 3 }, row)?,
        });
    }
    let tiled = writer.events;
    sharded.graph.replace_node(*last, Op::Concat { axis: 2 }, rows);
    sharded.labels.remove(last);
    let gone: BTreeSet<NodeId> = run.iter().copied().collect();
    sharded.events.splice(place..place, tiled);
    sharded.events.retain(|event| !matches!(event, Event::Compute(node) if gone.contains(node)));
    for node in run.iter().rev() {
        sharded.graph.remove_node(*node);
        sharded.devices.remove(node);
        sharded.origins.remove(node);
        sharded.labels.remove(node);
    }
    Ok(())
}

struct PatchWriter<'a> {
    sharded: &'a mut Sharded,
    patch: &'a Patch,
    events: Vec<Event>,
    count: usize,
}

impl PatchWriter<'_> {
    /// Adds a node for a part of `origin`, a node of the run.
    fn add(&mut self, what: &str, origin: NodeId, op: Op, inputs: Vec<TensorId>) -> Result<TensorId, ShardError> {
        let graph = &mut self.sharded.graph;
        let name = format!("{}.patch{}.{what}", graph.node(origin).name, self.count);
        self.count += 1;
        let types: Vec<&TensorType> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
        let output_type = infer(&op, &types)
            .map_err(|error| ShardError::IllTyped { node: name.clone(), problem: error.to_string() })?
            .swap_remove(0);
        let output = graph.add_tensor(name.clone(), output_type);
        let node = graph.add_node(name, op, inputs, vec![output]);
        self.sharded.devices.insert(node, self.patch.device);
        if let Some(original) = self.sharded.origins.get(&origin).copied() {
            self.sharded.origins.insert(node, original);
        }
        if let Some(label) = self.sharded.labels.get(&origin).filter(|_| what == "tile").cloned() {
            self.sharded.labels.insert(node, label);
        }
        self.events.push(Event::Compute(node));
        Ok(output)
    }

    /// Takes one tile through the run.
    fn tile(&mut self, tile: &Region) -> Result<TensorId, ShardError> {
        let nodes = &self.patch.nodes;
        let graph = &self.sharded.graph;
        let refuse = |id: NodeId| ShardError::NotRestrictable {
            node: self.sharded.graph.node_label(id),
            part: tile.to_string(),
        };
        // Backwards: what is needed of every tensor. Forwards: who makes it.
        let Some(result) = nodes.last().map(|last| graph.node(*last).outputs[0]) else {
            return Err(ShardError::Missing { tensor: "patch".to_string(), part: tile.to_string() });
        };
        let mut needed: HashMap<TensorId, Region> = HashMap::from([(result, *tile)]);
        let mut plans = Vec::with_capacity(nodes.len());
        for id in nodes.iter().rev() {
            let output = graph.node(*id).outputs[0];
            let region = needed.get(&output).copied().ok_or_else(|| refuse(*id))?;
            let restriction = restrict(graph, *id, &region).ok_or_else(|| refuse(*id))?;
            for (input, part) in graph.node(*id).inputs.iter().zip(&restriction.operands) {
                if let (None, Some(part)) = (graph.value(*input), part) {
                    needed.entry(*input).and_modify(|old| *old = old.hull(part)).or_insert(*part);
                }
            }
            plans.push((*id, restriction));
        }
        let mut held: HashMap<TensorId, (Region, TensorId)> = HashMap::new();
        for (id, restriction) in plans.into_iter().rev() {
            let node = self.sharded.graph.node(id).clone();
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (input, part) in node.inputs.iter().zip(&restriction.operands) {
                let Some(part) = part else { return Err(refuse_part(&self.sharded.graph, id, tile)) };
                let whole = Region::whole(self.sharded.graph.shape(*input));
                if *part == whole && !held.contains_key(input) {
                    inputs.push(*input);
                    continue;
                }
                if self.sharded.graph.value(*input).is_some() {
                    // Weights are whole: tiles are cut in space only.
                    return Err(refuse_part(&self.sharded.graph, id, tile));
                }
                // The tensor that the run reads is cut once for each tile.
                let (region, source) = match held.get(input).copied() {
                    Some(found) => found,
                    None => {
                        let hull = needed[input];
                        let cut = self.slice(id, *input, &whole, &hull)?;
                        held.insert(*input, (hull, cut));
                        (hull, cut)
                    }
                };
                inputs.push(self.slice(id, source, &region, part)?);
            }
            let output = self.add("tile", id, restriction.op, inputs)?;
            held.insert(node.outputs[0], (needed[&node.outputs[0]], output));
        }
        Ok(held[&result].1)
    }

    fn slice(
        &mut self,
        origin: NodeId,
        source: TensorId,
        region: &Region,
        part: &Region,
    ) -> Result<TensorId, ShardError> {
        if region == part {
            return Ok(source);
        }
        // One axis at a time: such slices are copies of runs.
        let mut source = source;
        let mut region = *region;
        for axis in 0..part.rank() {
            let cut = region.with(axis, part.begin(axis), part.end(axis));
            let Some(cut) = cut.filter(|cut| *cut != region) else { continue };
            source = self.add("cut", origin, assemble::slice(&region, &cut), vec![source])?;
            region = cut;
        }
        Ok(source)
    }
}

fn refuse_part(graph: &Graph, id: NodeId, tile: &Region) -> ShardError {
    ShardError::NotRestrictable { node: graph.node_label(id), part: tile.to_string() }
}
