//! Finds the run and the tiles that save most: every run on a device, priced by what its tiles need of every tensor.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Patch;
use crate::partition::cost;
use crate::schedule::{Action, Schedule};
use crate::shard::Sharded;
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_ir::region::Region;
use partita_ir::restrict::restrict;

/// Most nodes of a run.
const MAX_RUN: usize = 48;

/// Most tiles along rows.
const ROWS: [usize; 9] = [2, 3, 4, 6, 8, 12, 16, 24, 32];

/// Tiles along columns.
const COLUMNS: [usize; 3] = [1, 2, 4];

/// Patches may compute this many times the multiply-adds of the run.
const MAX_RECOMPUTATION: f64 = 2.0;

/// Peaks this close to the least count as equal; the one with the fewest multiply-adds is then taken.
const AS_GOOD: f64 = 1.02;

/// Bytes of activations alive at most on a device, by the sizes of tensors: what [`Patch::peak_bytes`] compares with.
pub fn whole_bytes(sharded: &Sharded, schedule: &Schedule) -> u64 {
    Finder::new(&sharded.graph, schedule).alive.into_iter().max().unwrap_or(0)
}

/// The run and tiles that bring a device's activations down to `limit_bytes` with the fewest multiply-adds; if nothing
/// does, those that need least. `None` if there is no run that helps.
pub fn find(sharded: &Sharded, schedule: &Schedule, limit_bytes: u64) -> Option<Patch> {
    let finder = Finder::new(&sharded.graph, schedule);
    let mut found: Vec<Patch> = Vec::new();
    for last in 0..finder.actions.len() {
        finder.runs_to(last, &mut found);
    }
    let whole = finder.alive.iter().copied().max().unwrap_or(0);
    found.retain(|patch| patch.peak_bytes < whole);
    let least = found.iter().map(|patch| patch.peak_bytes).min()?;
    let good = limit_bytes.max((least as f64 * AS_GOOD) as u64);
    found.retain(|patch| patch.peak_bytes <= good);
    found.into_iter().min_by_key(|patch| (patch.macs.1 - patch.macs.0.min(patch.macs.1), patch.peak_bytes))
}

struct Finder<'a> {
    graph: &'a Graph,
    device: usize,
    actions: &'a [Action],
    /// First and last action that needs each tensor to be there.
    lives: BTreeMap<TensorId, (usize, usize)>,
    /// Bytes alive during each action.
    alive: Vec<u64>,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a Graph, schedule: &'a Schedule) -> Finder<'a> {
        let mut lives: BTreeMap<TensorId, (usize, usize)> = BTreeMap::new();
        for (position, action) in schedule.actions.iter().enumerate() {
            let mut touch = |tensor: TensorId| {
                if graph.value(tensor).is_none() {
                    lives.entry(tensor).or_insert((position, position)).1 = position;
                }
            };
            match action {
                Action::Input { tensor, .. } | Action::Output { tensor, .. } => touch(*tensor),
                Action::Compute(node) => {
                    let node = graph.node(*node);
                    node.inputs.iter().chain(&node.outputs).for_each(|tensor| touch(*tensor));
                }
                Action::Start { sends, receives } | Action::Exchange { sends, receives } => {
                    sends.iter().chain(receives).for_each(|message| touch(message.tensor));
                }
                Action::Leave { verdict, answer, .. } => {
                    std::iter::once(verdict).chain(answer).for_each(|tensor| touch(*tensor));
                }
            }
        }
        let mut alive = vec![0; schedule.actions.len()];
        for (tensor, (first, last)) in &lives {
            alive[*first..=*last].iter_mut().for_each(|bytes| *bytes += size(graph, *tensor));
        }
        for (position, action) in schedule.actions.iter().enumerate() {
            let Action::Compute(node) = action else { continue };
            let dies = |tensor: TensorId| lives.get(&tensor).is_some_and(|(_, last)| *last == position);
            alive[position] -= in_place(graph, *node, &dies, &|tensor| size(graph, tensor));
        }
        Finder { graph, device: schedule.device, actions: &schedule.actions, lives, alive }
    }

    fn node(&self, position: usize) -> Option<NodeId> {
        match self.actions.get(position) {
            Some(Action::Compute(node)) => Some(*node),
            _ => None,
        }
    }

    /// The runs that end with the action `last`.
    fn runs_to(&self, last: usize, found: &mut Vec<Patch>) {
        let Some(id) = self.node(last) else { return };
        let [result] = self.graph.node(id).outputs[..] else { return };
        let shape = self.graph.shape(result);
        if shape.len() != 4 {
            return;
        }
        let begins = self.begins(last, result);
        if begins.is_empty() {
            return;
        }
        for columns in COLUMNS.into_iter().filter(|columns| *columns <= shape[3]) {
            for rows in ROWS.into_iter().filter(|rows| *rows <= shape[2]) {
                let cuts = |extent: usize, parts: usize| {
                    (0..parts).map(move |part| (extent * part / parts, extent * (part + 1) / parts))
                };
                let whole = Region::whole(shape);
                let tiles: Option<Vec<Region>> = cuts(shape[2], rows)
                    .flat_map(|row| cuts(shape[3], columns).map(move |column| (row, column)))
                    .map(|(row, column)| whole.with(2, row.0, row.1)?.with(3, column.0, column.1))
                    .collect();
                if let Some(tiles) = tiles {
                    self.tiled(&begins, last, result, &tiles, found);
                }
            }
        }
    }

    /// Where runs to `last` may begin, with the tensor that they read: everything else is made inside, and nothing but
    /// the result is read outside. Descending.
    fn begins(&self, last: usize, result: TensorId) -> Vec<(usize, TensorId)> {
        let mut made: BTreeSet<TensorId> = BTreeSet::new();
        let mut read: BTreeSet<TensorId> = BTreeSet::new();
        let mut found = Vec::new();
        for begin in (last.saturating_sub(MAX_RUN - 1)..=last).rev() {
            let Some(id) = self.node(begin) else { break };
            let node = self.graph.node(id);
            made.extend(&node.outputs);
            read.extend(node.inputs.iter().filter(|input| self.graph.value(**input).is_none()));
            if begin == last {
                continue;
            }
            let escapes = |tensor: &&TensorId| {
                **tensor != result && (self.lives[*tensor].1 > last || self.graph.is_output(**tensor))
            };
            let mut entries = read.difference(&made);
            if made.iter().find(escapes).is_none()
                && let (Some(entry), None) = (entries.next(), entries.next())
            {
                found.push((begin, *entry));
            }
        }
        found
    }

    /// Prices all runs to `last` with these tiles.
    fn tiled(
        &self,
        begins: &[(usize, TensorId)],
        last: usize,
        result: TensorId,
        tiles: &[Region],
        found: &mut Vec<Patch>,
    ) {
        let Some(first) = begins.last().map(|(begin, _)| *begin) else { return };
        // What each tile needs, as far back as it can be told.
        let mut reach = first;
        let needs: Vec<Needs> = tiles
            .iter()
            .map(|tile| {
                let needs = Needs::of(self, result, tile, reach, last);
                reach = reach.max(needs.begin);
                needs
            })
            .collect();
        for (begin, entry) in begins.iter().filter(|(begin, _)| *begin >= reach) {
            let macs = |position: usize| self.node(position).map_or(0, |id| cost::node_macs(self.graph, id));
            let plain: u64 = (*begin..=last).map(macs).sum();
            let tiled: u64 = needs.iter().map(|needs| needs.macs_from(self, *begin, last)).sum();
            if tiled as f64 > plain as f64 * MAX_RECOMPUTATION || plain == 0 {
                continue;
            }
            let inside: u64 = needs.iter().map(|needs| needs.peak_from(self, *begin, last, *entry)).max().unwrap_or(0);
            // What lives through the run, the tensor it reads, and its result.
            let outside: u64 = self
                .lives
                .iter()
                .filter(|(tensor, (made, used))| {
                    **tensor == *entry || **tensor == result || *made < *begin && *used >= *begin
                })
                .map(|(tensor, _)| size(self.graph, *tensor))
                .sum();
            let rest = self.alive[..*begin].iter().chain(&self.alive[last + 1..]).copied().max().unwrap_or(0);
            found.push(Patch {
                device: self.device,
                nodes: (*begin..=last).filter_map(|position| self.node(position)).collect(),
                tiles: tiles.to_vec(),
                peak_bytes: rest.max(outside + inside),
                macs: (plain, tiled),
            });
        }
    }
}

/// Bytes of a node's result that take the place of an operand which dies there (`memory::in_place`).
fn in_place(graph: &Graph, id: NodeId, dies: &dyn Fn(TensorId) -> bool, bytes: &dyn Fn(TensorId) -> u64) -> u64 {
    let node = graph.node(id);
    let replaceable: &[TensorId] = if matches!(node.op, Op::Unary(_) | Op::Binary(..)) {
        &node.inputs
    } else if matches!(&node.op, Op::Conv(conv) if conv.residual) {
        node.inputs.get(3..).unwrap_or_default()
    } else {
        &[]
    };
    let Some(result) = node.outputs.first() else { return 0 };
    let fits =
        |operand: &&TensorId| graph.value(**operand).is_none() && dies(**operand) && bytes(**operand) == bytes(*result);
    replaceable.iter().find(fits).map_or(0, |operand| bytes(*operand))
}

fn size(graph: &Graph, tensor: TensorId) -> u64 {
    graph.tensor_type(tensor).size_bytes() as u64
}

/// What one tile needs of every tensor of a run.
struct Needs {
    /// First action back to which everything can be computed in parts.
    begin: usize,
    /// Part of each tensor that is computed, and of an operand that a node reads of it.
    made: HashMap<TensorId, Region>,
    reads: HashMap<(usize, TensorId), Region>,
}

impl Needs {
    /// From a tile of the result backwards.
    fn of(finder: &Finder<'_>, result: TensorId, tile: &Region, first: usize, last: usize) -> Needs {
        let graph = finder.graph;
        let mut needs = Needs { begin: last + 1, made: HashMap::from([(result, *tile)]), reads: HashMap::new() };
        for position in (first..=last).rev() {
            let Some(id) = finder.node(position) else { break };
            let node = graph.node(id);
            let region = node.outputs.first().and_then(|output| needs.made.get(output)).copied();
            // A node whose result nobody in the run reads.
            let Some(region) = region.filter(|_| node.outputs.len() == 1) else { break };
            let Some(restriction) = restrict(graph, id, &region) else { break };
            for (input, part) in node.inputs.iter().zip(&restriction.operands) {
                let Some(part) = part else { return needs };
                if graph.value(*input).is_some() {
                    // A constant with rows of its own would have to be stored in parts: a run begins behind it.
                    if *part != Region::whole(graph.shape(*input)) {
                        return needs;
                    }
                    continue;
                }
                let hull = |old: &mut Region| *old = old.hull(part);
                needs.made.entry(*input).and_modify(hull).or_insert(*part);
                needs.reads.entry((position, *input)).and_modify(hull).or_insert(*part);
            }
            needs.begin = position;
        }
        needs
    }

    fn bytes(&self, graph: &Graph, tensor: TensorId) -> u64 {
        let element = graph.tensor_type(tensor).element.size_bytes() as u64;
        self.made.get(&tensor).map_or(0, |region| region.element_count() * element)
    }

    fn macs_from(&self, finder: &Finder<'_>, begin: usize, last: usize) -> u64 {
        let graph = finder.graph;
        let macs = |position: usize| {
            let id = finder.node(position)?;
            let output = graph.node(id).outputs[0];
            let whole = Region::whole(graph.shape(output)).element_count().max(1);
            let part = self.made.get(&output)?.element_count();
            Some((cost::node_macs(graph, id) as f64 * part as f64 / whole as f64) as u64)
        };
        (begin..=last).filter_map(macs).sum()
    }

    /// Most bytes alive while the tile goes through the run, without the whole tensor that is read and the result.
    fn peak_from(&self, finder: &Finder<'_>, begin: usize, last: usize, entry: TensorId) -> u64 {
        let graph = finder.graph;
        let mut last_use: HashMap<TensorId, usize> = HashMap::new();
        for position in begin..=last {
            let Some(id) = finder.node(position) else { continue };
            let node = graph.node(id);
            for tensor in node.inputs.iter().chain(&node.outputs).filter(|tensor| graph.value(**tensor).is_none()) {
                last_use.insert(*tensor, position);
            }
        }
        let (mut alive, mut most) = (self.bytes(graph, entry), 0);
        for position in begin..=last {
            let Some(id) = finder.node(position) else { continue };
            let node = graph.node(id);
            alive += node.outputs.iter().map(|output| self.bytes(graph, *output)).sum::<u64>();
            // An operand of which only a part is read is cut out first.
            let cuts = node.inputs.iter().filter_map(|input| {
                let part = self.reads.get(&(position, *input))?;
                let element = graph.tensor_type(*input).element.size_bytes() as u64;
                (self.made.get(input) != Some(part)).then(|| part.element_count() * element)
            });
            let dies = |tensor: TensorId| last_use.get(&tensor) == Some(&position);
            let saved = in_place(graph, id, &dies, &|tensor| self.bytes(graph, tensor));
            most = most.max((alive + cuts.sum::<u64>()).saturating_sub(saved));
            let dead: BTreeSet<TensorId> =
                node.inputs.iter().copied().filter(|input| last_use.get(input) == Some(&position)).collect();
            alive -= dead.iter().map(|input| self.bytes(graph, *input)).sum::<u64>();
        }
        most
    }
}
