//! The first nodes of a network in unequal rows: who has the input computes more of them while the others wait for theirs.
//!
//! The sum of steps that is minimised takes travel and computing one after the other, so it cannot see what is gained here; the
//! simulation can. These are the ways to try.

use std::collections::{BTreeSet, HashMap};

use super::cost;
use super::crossings::crossings;
use super::groups::cut;
use super::{Method, Partition, Strategy};
use crate::shard::{Region, Sharding, pieces};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId};
use partita_ir::restrict::restrict;

/// Axis of rows.
const ROWS: usize = 2;

/// Places behind which the first nodes may end: at most so many are tried.
const PLACES: usize = 8;

/// Multiply-adds that the first nodes may take, of what they take in one piece: rows at their borders are computed twice.
const MAX_RECOMPUTATION: f64 = 2.0;

/// The network of a plan, and where its first nodes may end.
pub struct Arrival<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    plan: &'a Partition,
    order: Vec<NodeId>,
    /// Positions of nodes of which somebody needs more than it has made: rows are exchanged behind them.
    ends: BTreeSet<usize>,
    /// Devices that share the first nodes, in the order of their rows, and the speed of each.
    devices: Vec<usize>,
    speeds: Vec<f64>,
}

impl<'a> Arrival<'a> {
    /// Of a plan that several devices carry out; `None` for others, and where there are no rows to share.
    pub fn of(graph: &'a Graph, cluster: &'a Cluster, plan: &'a Partition) -> Option<Arrival<'a>> {
        if !plan.row_streaming.is_empty() || !graph.exits().is_empty() {
            return None;
        }
        let order = graph.topological_order()?;
        let cut_by_rows = |strategy: &&Strategy| {
            let parts: Vec<(usize, Region)> = strategy.outputs.parts().collect();
            parts.len() > 1 && matches!(strategy.method, Method::Spatial | Method::Fused)
        };
        let first = order.iter().filter_map(|id| plan.strategies.get(id)).find(cut_by_rows)?;
        let mut devices: Vec<usize> = first.outputs.parts().map(|(device, _)| device).collect();
        if !devices.contains(&cluster.input) {
            devices.insert(0, cluster.input);
        }
        let speed = |device: &usize| cluster.devices[*device].target.rate.conv_macs_per_second;
        let speeds = devices.iter().map(speed).collect();
        let travels = |position: &usize| pieces::travels(graph, plan, cluster, order[*position]);
        let ends = (0..order.len()).filter(travels).collect();
        Some(Arrival { graph, cluster, plan, order, ends, devices, speeds })
    }

    /// Positions in the order of nodes at which the first ones may end, ascending: a single tensor with rows carries everything on.
    pub fn places(&self) -> Vec<usize> {
        let graph = self.graph;
        let rows = |position: &usize| {
            let shape = graph.node(self.order[*position]).outputs.first().map_or(&[][..], |it| graph.shape(*it));
            shape.len() == 4 && shape[ROWS] >= 2 * self.devices.len()
        };
        let found = crossings(graph, &self.order).into_iter().map(|(position, _)| position).filter(rows);
        found.take(PLACES).collect()
    }

    /// The plan with the nodes up to a position in rows, of which the device with the input makes so many times as many as
    /// its speed asks for; `None` if they cannot be cut so.
    pub fn plan(&self, place: usize, favour: f64) -> Option<Partition> {
        let shares: Vec<f64> = (self.devices.iter().zip(&self.speeds))
            .map(|(device, speed)| if *device == self.cluster.input { speed * favour } else { *speed })
            .collect();
        let mut plan = self.plan.clone();
        let mut needed: HashMap<usize, Vec<Option<Region>>> = HashMap::new();
        let position: HashMap<NodeId, usize> = self.order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let (mut macs, mut tiled_macs) = (0.0, 0.0);
        for at in (0..=place).rev() {
            let id = self.order[at];
            let node = self.graph.node(id);
            let [output] = node.outputs[..] else { return None };
            let is_end = at == place || self.ends.contains(&at);
            let tiles = if is_end { self.rows(self.graph.shape(output), &shares)? } else { needed.remove(&at)? };
            let (own, computed) = self.macs(id, &tiles);
            (macs, tiled_macs) = (macs + own, tiled_macs + computed);
            for (device, tile) in tiles.iter().enumerate().filter_map(|(device, tile)| Some((device, (*tile)?))) {
                let operands = restrict(self.graph, id, &tile)?.operands;
                for (input, part) in node.inputs.iter().zip(operands) {
                    let Some(producer) = self.graph.tensor(*input).producer else { continue };
                    let slots = needed.entry(*position.get(&producer)?).or_insert_with(|| vec![None; tiles.len()]);
                    slots[device] = match (slots[device], part) {
                        (Some(a), Some(b)) => Some(a.hull(&b)),
                        (a, b) => a.or(b),
                    };
                }
            }
            let method = if is_end && at != place { Method::Spatial } else { Method::Fused };
            plan.strategies.insert(id, Strategy { method, outputs: Sharding(tiles), partial_sums: None });
            plan.relays.retain(|(reader, _), _| *reader != id);
        }
        let behind: Vec<NodeId> = self.graph.consumers(self.graph.node(self.order[place]).outputs[0]);
        plan.relays.retain(|(reader, _), _| !behind.contains(reader));
        (tiled_macs <= macs * MAX_RECOMPUTATION).then_some(plan)
    }

    /// Rows of a tensor in these shares, by device of the cluster; `None` if it has none.
    fn rows(&self, shape: &[usize], shares: &[f64]) -> Option<Vec<Option<Region>>> {
        let extent = *shape.get(ROWS).filter(|_| shape.len() == 4)?;
        let mut tiles = vec![None; self.cluster.devices.len()];
        for (device, (begin, end)) in self.devices.iter().zip(cut(extent, shares, 1)) {
            tiles[*device] = Region::whole(shape).with(ROWS, begin, end);
        }
        Some(tiles)
    }

    /// Multiply-adds of a node in one piece, and in these tiles.
    fn macs(&self, id: NodeId, tiles: &[Option<Region>]) -> (f64, f64) {
        let macs = cost::node_macs(self.graph, id) as f64;
        let whole = Region::whole(self.graph.shape(self.graph.node(id).outputs[0])).element_count() as f64;
        let computed: f64 = tiles.iter().flatten().map(|tile| tile.element_count() as f64).sum();
        (macs, macs * computed / whole)
    }
}
