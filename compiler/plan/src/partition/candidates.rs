//! The strategies of every node.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::axes::Axes;
use super::balance::{self, ChannelCuts};
use super::blocks::{Blocks, blocks, delay};
use super::cost;
use super::crossings::crossings;
use super::groups::{Group, ShareBy, cut, groups};
use super::price::{Breadth, Candidate, Scope, price};
use super::{Method, Objective, Strategy, StrategyFamily};
use crate::shard::{Region, Sharding};
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_ir::restrict::space;
use partita_ir::space::{AxisKind, Role};

/// Most nodes that multiply in one run of fused tiles.
const MAX_RUN: usize = 12;

/// Clusters up to this size are also cut into stages of several devices.
const MAX_STAGED: usize = 12;

/// Rows and columns of what Winograd's algorithm computes at once: less takes as long.
const TILE: usize = 4;

/// Blocks are listed whose slowest device takes less than this, of what it takes in rows, columns or a grid.
const GAIN: f64 = 0.96;

/// Fused tiles may compute this many times the multiply-adds of a plain split.
const MAX_RECOMPUTATION: f64 = 2.0;

/// The candidates of every node, in the order of `order`. Every node has at least one.
pub fn candidates(choice: &Scope<'_>, order: &[NodeId]) -> Vec<Vec<Candidate>> {
    let restricted = is_for_everyone(choice.family);
    let tight = choice.breadth == Breadth::Tight;
    let share_by: &[ShareBy] = match (choice.family, choice.objective) {
        (StrategyFamily::Auto, Objective::Memory) => &[ShareBy::Memory],
        _ if tight => &[ShareBy::SpeedWithinMemory],
        _ => &[ShareBy::Speed, ShareBy::SpeedWithinMemory],
    };
    // Memory is least where everybody takes part.
    let restricted = restricted || choice.objective == Objective::Memory;
    let stages = choice.breadth == Breadth::Full && choice.cluster.devices.len() <= MAX_STAGED;
    let weights_bytes = order.iter().map(|id| cost::node_weights_bytes(choice.graph, *id)).sum();
    let groups = groups(choice.cluster, weights_bytes, share_by, restricted, stages);
    let half = choice.cluster.devices.len().div_ceil(2);
    let brief = |group: &Group| !tight || group.devices.len() >= half;
    let groups: Vec<Group> = groups.into_iter().filter(brief).collect();
    let axes = Axes::of(choice.graph);
    let balanced =
        |group: &Group| balance::channel_cuts(choice.graph, order, group, group.lanes(choice.cluster), &axes);
    let by_memory = choice.objective == Objective::Memory;
    let channel_cuts = groups.iter().filter(|_| by_memory).map(balanced).collect();
    let wholes = whole_devices(choice);
    let found = Vec::with_capacity(order.len());
    let known = RefCell::default();
    let mut lister = Lister { choice, axes: &axes, groups: &groups, channel_cuts, known, found };
    for id in order {
        lister.list(*id, &wholes);
    }
    if matches!(choice.family, StrategyFamily::Auto | StrategyFamily::Ftp) {
        lister.runs(order);
    }
    let mut found = lister.found;
    for (id, node) in order.iter().zip(&mut found) {
        let kept = of_family(choice.graph, choice.family, *id, node);
        let mut at = 0..;
        node.retain(|_| at.next().is_some_and(|at| kept.binary_search(&at).is_ok()));
        keep_resident(choice, *id, node);
    }
    found
}

/// Which of the candidates of everything a family by itself would have, were it asked for: tables that hold all of them
/// answer for each family too. Empty if it would have none.
pub fn family_of_all(
    choice: &Scope<'_>,
    family: StrategyFamily,
    order: &[NodeId],
    found: &[&[Candidate]],
) -> Vec<Vec<usize>> {
    let share_by = [ShareBy::Speed, ShareBy::SpeedWithinMemory];
    let weights_bytes = order.iter().map(|id| cost::node_weights_bytes(choice.graph, *id)).sum();
    let groups = groups(choice.cluster, weights_bytes, &share_by, false, false);
    let everyone = |group: &Group| !is_for_everyone(family) || group.devices.len() == choice.cluster.devices.len();
    let mask = groups.iter().enumerate().filter(|(_, group)| everyone(group)).fold(0, |mask, (at, _)| mask | bit(at));
    let of_node = |(id, listed): (&NodeId, &&[Candidate])| {
        let fits = |at: &usize| listed[*at].groups == 0 || listed[*at].groups & mask != 0;
        let of_groups: Vec<usize> = (0..listed.len()).filter(fits).collect();
        let chosen: Vec<&Candidate> = of_groups.iter().map(|at| &listed[*at]).collect();
        of_family(choice.graph, family, *id, &chosen).into_iter().map(|at| of_groups[at]).collect()
    };
    order.iter().zip(found).map(of_node).collect()
}

/// Whether all devices share each node of a family, if they share it at all.
fn is_for_everyone(family: StrategyFamily) -> bool {
    !matches!(family, StrategyFamily::Auto | StrategyFamily::Spatial | StrategyFamily::Batch)
}

/// The bit of a group among a candidate's groups.
fn bit(group: usize) -> u64 {
    1 << group.min(63)
}

/// Leaves what devices can compute with the weights that they hold, as they compute it with all of the network at
/// least.
fn keep_resident(choice: &Scope<'_>, id: NodeId, candidates: &mut Vec<Candidate>) {
    let Some(resident) = choice.resident else { return };
    if let Some(strategy) = resident.complete_strategy(choice.graph, id)
        && !candidates.iter().any(|candidate| candidate.strategy == *strategy)
    {
        candidates.extend(price(choice, id, strategy.clone(), None));
    }
    candidates.retain(|candidate| resident.allows(choice.graph, id, &candidate.strategy));
}

/// Devices that may hold whole nodes.
fn whole_devices(choice: &Scope<'_>) -> Vec<usize> {
    let devices = &choice.cluster.devices;
    let ends = [choice.cluster.input, choice.cluster.output];
    // One of a kind suffices where nothing but speed counts: equal devices are exchangeable.
    let stands_for_its_kind = |device: usize| {
        !devices[..device].iter().enumerate().any(|(other, info)| {
            !ends.contains(&other)
                && info.computes_like(&devices[device])
                && info.ram_bytes == devices[device].ram_bytes
                && info.flash_bytes == devices[device].flash_bytes
        })
    };
    let standalone = |device: usize| choice.resident.is_some_and(|resident| resident.is_standalone(device));
    let all = choice.breadth != Breadth::Roomy;
    (0..devices.len())
        .filter(|device| all || ends.contains(device) || standalone(*device) || stands_for_its_kind(*device))
        .collect()
}

/// Positions of the candidates that a family may use: of nodes that multiply those of its methods, if there are any.
fn of_family<C: Borrow<Candidate>>(graph: &Graph, family: StrategyFamily, id: NodeId, listed: &[C]) -> Vec<usize> {
    let with = |keep: &dyn Fn(Method) -> bool| -> Vec<usize> {
        (0..listed.len()).filter(|at| keep(listed[*at].borrow().strategy.method)).collect()
    };
    if matches!(graph.node(id).op, Op::Decide(_)) {
        // One device decides for all.
        return with(&|method| method == Method::Whole);
    }
    let has_windows = || space(graph, id).axes.iter().any(|axis| axis.kind == AxisKind::Tap);
    let allowed: &[Method] = match family {
        StrategyFamily::Lop => &[Method::Output],
        StrategyFamily::Lip => &[Method::Input],
        StrategyFamily::Fused => &[Method::Output, Method::Input],
        StrategyFamily::Ftp if has_windows() => &[Method::Fused],
        StrategyFamily::Batch => &[Method::Batch],
        StrategyFamily::Spatial if has_windows() => &[Method::Spatial],
        _ => {
            return with(&|method| {
                method != Method::Fused || matches!(family, StrategyFamily::Auto | StrategyFamily::Ftp)
            });
        }
    };
    let multiplies = cost::node_macs(graph, id) > 0;
    if multiplies {
        let own = with(&|method| allowed.contains(&method));
        if !own.is_empty() {
            return own;
        }
    }
    // What does not multiply follows its operands; fused tiles are of two families only.
    let foreign = |method: Method| match (family, method) {
        (StrategyFamily::Ftp, _) => false,
        (_, Method::Fused) => true,
        (StrategyFamily::Lop | StrategyFamily::Lip | StrategyFamily::Fused, Method::Spatial) => !multiplies,
        _ => false,
    };
    with(&|method| !foreign(method))
}

/// A group, rows and columns, and a unit.
type BlocksOf = (usize, [usize; 2], usize);

struct Lister<'a> {
    choice: &'a Scope<'a>,
    axes: &'a Axes,
    groups: &'a [Group],
    /// Per group, if memory is minimised.
    channel_cuts: Vec<ChannelCuts>,
    /// Blocks by group, rows, columns and unit, as far as they were asked for.
    known: RefCell<HashMap<BlocksOf, Option<Blocks>>>,
    found: Vec<Vec<Candidate>>,
}

impl Lister<'_> {
    fn devices(&self) -> usize {
        self.choice.cluster.devices.len()
    }

    /// All strategies of a node but the fused tiles.
    fn list(&mut self, id: NodeId, wholes: &[usize]) {
        let graph = self.choice.graph;
        let node = graph.node(id);
        let shape = node.outputs.first().map_or(Vec::new(), |output| graph.shape(*output).to_vec());
        let mut found: Vec<Candidate> = Vec::new();
        let mut seen: HashMap<Strategy, Option<usize>> = HashMap::new();
        let devices = self.devices();
        let mut strategies: Vec<(u64, Strategy)> =
            wholes.iter().map(|device| (0, Strategy::whole(*device, devices, &shape))).collect();
        if self.choice.family != StrategyFamily::Whole && self.choice.family != StrategyFamily::Pipeline {
            for (index, group) in self.groups.iter().enumerate() {
                let mut of_group = vec![self.replicated(group, &shape)];
                of_group.extend(self.splits(id, index, &shape));
                of_group.extend(self.sums(id, index, &shape));
                strategies.extend(of_group.into_iter().map(|strategy| (bit(index), strategy)));
            }
        }
        for (group, strategy) in strategies {
            match seen.get(&strategy) {
                Some(known) => known.iter().for_each(|at| found[*at].groups |= group),
                None => {
                    let priced = price(self.choice, id, strategy.clone(), None);
                    seen.insert(strategy, priced.is_some().then_some(found.len()));
                    found.extend(priced.map(|candidate| Candidate { groups: group, ..candidate }));
                }
            }
        }
        self.found.push(found);
    }

    fn replicated(&self, group: &Group, shape: &[usize]) -> Strategy {
        let mut regions = vec![None; self.devices()];
        for device in &group.devices {
            regions[*device] = Some(Region::whole(shape));
        }
        Strategy { method: Method::Replicated, outputs: Sharding(regions), partial_sums: None }
    }

    /// A tensor cut along one axis.
    fn along(&self, group: &Group, shape: &[usize], axis: usize, unit: usize) -> Sharding {
        let mut regions = vec![None; self.devices()];
        for (device, (begin, end)) in group.devices.iter().zip(cut(shape[axis], &group.shares, unit)) {
            regions[*device] = Region::whole(shape).with(axis, begin, end);
        }
        Sharding(regions)
    }

    /// A tensor cut into a grid of rows and columns.
    fn grid(&self, group: &Group, shape: &[usize]) -> Option<Sharding> {
        let count = group.devices.len();
        let rows = (2..count).filter(|rows| count.is_multiple_of(*rows) && rows * rows <= count).max()?;
        let columns = count / rows;
        let (rows, columns) = if shape[2] >= shape[3] { (columns, rows) } else { (rows, columns) };
        if shape[2] < rows || shape[3] < columns {
            return None;
        }
        let mut regions = vec![None; self.devices()];
        let row_cuts = cut(shape[2], &vec![1.0; rows], 1);
        let column_cuts = cut(shape[3], &vec![1.0; columns], 1);
        for (index, device) in group.devices.iter().enumerate() {
            let (row, column) = (row_cuts[index / columns], column_cuts[index % columns]);
            regions[*device] = Region::whole(shape).with(2, row.0, row.1)?.with(3, column.0, column.1);
        }
        Some(Sharding(regions))
    }

    /// A tensor cut into blocks of pixels and of tiles, where either leaves the slowest device less than other cuts do.
    fn blocks(&self, index: usize, shape: &[usize]) -> Vec<Sharding> {
        let [_, _, rows, columns] = shape[..] else { return Vec::new() };
        let group = &self.groups[index];
        let others =
            [Some(self.along(group, shape, 2, 1)), Some(self.along(group, shape, 3, 1)), self.grid(group, shape)];
        let of_unit = |unit: usize| {
            let mut known = self.known.borrow_mut();
            let found = known.entry((index, [rows, columns], unit));
            let found = found.or_insert_with(|| {
                let found = blocks([rows, columns], &group.shares, unit)?;
                let of_other = |other: &Sharding| {
                    let range = |region: &Region, axis: usize| (region.begin(axis), region.end(axis));
                    let block = |region: Region| [range(&region, 2), range(&region, 3)];
                    let held = group.devices.iter().map(|device| other.0[*device].map(block));
                    delay(&held.collect::<Blocks>(), &group.shares, unit)
                };
                let least = others.iter().flatten().map(of_other).fold(f64::INFINITY, f64::min);
                (delay(&found, &group.shares, unit) < GAIN * least).then_some(found)
            });
            let mut regions = vec![None; self.devices()];
            for (device, block) in group.devices.iter().zip(found.as_ref()?) {
                let Some([rows, columns]) = *block else { continue };
                regions[*device] = Region::whole(shape).with(2, rows.0, rows.1)?.with(3, columns.0, columns.1);
            }
            Some(Sharding(regions))
        };
        [1, TILE].into_iter().filter_map(of_unit).collect()
    }

    /// Vector width that channel cuts keep to where time counts.
    fn channel_unit(&self, group: &Group, channels: usize) -> usize {
        let lanes = group.lanes(self.choice.cluster);
        let exact = matches!(self.choice.objective, Objective::Traffic | Objective::Memory);
        if exact || channels < lanes * 2 { 1 } else { lanes }
    }

    /// A tensor cut along its channels.
    fn by_channels(&self, index: usize, tensor: TensorId) -> Sharding {
        let (group, shape) = (&self.groups[index], self.choice.graph.shape(tensor));
        let Some(ranges) = self.channel_cuts.get(index).and_then(|cuts| cuts.get(&tensor)) else {
            return self.along(group, shape, 1, self.channel_unit(group, shape[1]));
        };
        let mut regions = vec![None; self.devices()];
        for (device, (begin, end)) in group.devices.iter().zip(ranges) {
            regions[*device] = Region::whole(shape).with(1, *begin, *end);
        }
        Sharding(regions)
    }

    /// The cuts of a tensor along one axis: channels in vectors, everything else anywhere; and whole heads, or whole
    /// channels of what is flattened, so that who reads them need not cut again.
    fn cuts(&self, index: usize, tensor: TensorId, axis: usize) -> Vec<Sharding> {
        let (graph, group) = (self.choice.graph, &self.groups[index]);
        let shape = graph.shape(tensor);
        let are_channels = self.axes.role(graph, tensor, axis) == Role::Channels;
        let usual = match axis {
            1 if are_channels => self.by_channels(index, tensor),
            _ => self.along(group, shape, axis, 1),
        };
        let units = self.axes.units(tensor, axis, group.lanes(self.choice.cluster));
        let further = units.into_iter().map(|unit| self.along(group, shape, axis, unit));
        std::iter::once(usual).chain(further).collect()
    }

    /// Samples, output channels, rows, columns, planes, grids, blocks.
    fn splits(&self, id: NodeId, index: usize, shape: &[usize]) -> Vec<Strategy> {
        let (graph, group) = (self.choice.graph, &self.groups[index]);
        let Some(tensor) = graph.node(id).outputs.first().copied() else { return Vec::new() };
        let mut found = Vec::new();
        for (axis, extent) in shape.iter().enumerate() {
            if *extent < 2 {
                continue;
            }
            let method = self.axes.method(graph, tensor, axis);
            for outputs in self.cuts(index, tensor, axis) {
                found.push(Strategy { method, outputs, partial_sums: None });
            }
        }
        if shape.len() == 4
            && let Some(outputs) = self.grid(group, shape)
        {
            found.push(Strategy { method: Method::Spatial, outputs, partial_sums: None });
        }
        for outputs in self.blocks(index, shape) {
            found.push(Strategy { method: Method::Spatial, outputs, partial_sums: None });
        }
        found
    }

    /// Input splits: partial sums from parts of the first operand; the sum goes to one device, or is cut by channels or
    /// rows.
    fn sums(&self, id: NodeId, index: usize, shape: &[usize]) -> Vec<Strategy> {
        let (graph, group) = (self.choice.graph, &self.groups[index]);
        let node = graph.node(id);
        let Some(x) = node.inputs.first().map(|input| graph.shape(*input)) else { return Vec::new() };
        let multiplies = cost::node_macs(graph, id) > 0;
        let second_is_constant = node.inputs.get(1).is_none_or(|second| graph.value(*second).is_some());
        let space = self.axes.space(id);
        let is_summed = |axis: &usize| {
            let axis = space.operands[0].indices[*axis].only();
            axis.is_some_and(|axis| space.axes[axis].kind == AxisKind::Sum)
        };
        let axes: Vec<usize> = (0..x.len()).filter(is_summed).collect();
        if multiplies && !second_is_constant {
            return Vec::new();
        }
        let mut parts: Vec<Sharding> = Vec::new();
        for axis in axes {
            if x[axis] >= 2 {
                let units = self.axes.units(node.inputs[0], axis, group.lanes(self.choice.cluster));
                parts.extend(units.into_iter().map(|unit| self.along(group, x, axis, unit)));
                parts.push(match axis {
                    1 if multiplies => self.by_channels(index, node.inputs[0]),
                    _ if multiplies => self.along(group, x, axis, self.channel_unit(group, x[axis])),
                    _ => self.along(group, x, axis, 1),
                });
            }
        }
        if !multiplies && x.len() == 4 {
            parts.extend(self.grid(group, x));
            parts.extend(self.blocks(index, x));
        }
        let mut results: Vec<Sharding> = Vec::new();
        let mut ends = vec![self.choice.cluster.input, self.choice.cluster.output];
        ends.dedup();
        for device in ends {
            results.push(Sharding::whole(device, self.devices(), shape));
        }
        if shape.get(1).is_some_and(|channels| *channels >= 2) {
            results.extend(self.cuts(index, node.outputs[0], 1));
        }
        if shape.get(2).is_some_and(|rows| *rows >= 2) {
            results.push(self.along(group, shape, 2, 1));
        }
        let mut found = Vec::new();
        for partial_sums in parts.iter().filter(|parts| parts.only_device().is_none()) {
            for outputs in &results {
                let (outputs, partial_sums) = (outputs.clone(), Some(partial_sums.clone()));
                found.push(Strategy { method: Method::Input, outputs, partial_sums });
            }
        }
        found
    }

    /// Fused tiles: for every tensor that carries everything on by itself, the tiles of that tensor and what they need
    /// of the nodes before it, as deep as it pays.
    fn runs(&mut self, order: &[NodeId]) {
        let graph = self.choice.graph;
        let (roomy, devices) = (self.choice.breadth == Breadth::Roomy, self.devices());
        let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(index, id)| (*id, index)).collect();
        let mut run = 0;
        for (last, _) in crossings(graph, order) {
            let id = order[last];
            let shape = graph.shape(graph.node(id).outputs[0]).to_vec();
            if shape.len() < 4 {
                continue;
            }
            // Where memory binds, whole nodes and stages make the problem large enough.
            let groups = self.groups.iter().enumerate().filter(|(_, group)| roomy || group.devices.len() == devices);
            for (index, group) in groups {
                let tilings =
                    [Some(self.along(group, &shape, 2, 1)), self.grid(group, &shape).filter(|_| shape.len() == 4)];
                let blocks = self.blocks(index, &shape);
                for tiles in tilings.into_iter().flatten().chain(blocks) {
                    if tiles.only_device().is_none() {
                        self.run(order, &position, (last, bit(index)), tiles, run);
                        run += 1;
                    }
                }
            }
        }
    }

    /// One run: from the tiles of its last node backwards.
    fn run(
        &mut self,
        order: &[NodeId],
        position: &HashMap<NodeId, usize>,
        (last, groups): (usize, u64),
        tiles: Sharding,
        run: usize,
    ) {
        let graph = self.choice.graph;
        let mut needed: BTreeMap<usize, Vec<Option<Region>>> = BTreeMap::from([(last, tiles.0)]);
        let (mut multiplying, mut plain_macs, mut tiled_macs) = (0, 0u64, 0u64);
        let mut members: Vec<(usize, Candidate)> = Vec::new();
        while let Some((index, regions)) = needed.pop_last() {
            let id = order[index];
            let macs = cost::node_macs(graph, id);
            let strategy = Strategy { method: Method::Fused, outputs: Sharding(regions), partial_sums: None };
            // A node of the run is read inside the run only, but for its last.
            let leaves = index != last
                && graph.node(id).outputs.iter().any(|output| {
                    let outside = |reader: &NodeId| !members.iter().any(|(member, _)| *member == position[reader]);
                    graph.is_output(*output) || graph.consumers(*output).iter().any(outside)
                });
            let priced = if leaves { None } else { price(self.choice, id, strategy, Some((run, index == last))) };
            let Some(candidate) = priced.filter(|_| graph.node(id).outputs.len() == 1) else { break };
            let share = |region: &Region| region.element_count() as f64;
            let whole = Region::whole(graph.shape(graph.node(id).outputs[0])).element_count() as f64;
            let computed: f64 = candidate.strategy.outputs.0.iter().flatten().map(share).sum();
            plain_macs += macs;
            tiled_macs += (macs as f64 * computed / whole) as u64;
            multiplying += usize::from(macs > 0);
            if multiplying > MAX_RUN || tiled_macs as f64 > plain_macs as f64 * MAX_RECOMPUTATION {
                break;
            }
            for (input, need) in graph.node(id).inputs.iter().zip(&candidate.needs) {
                let Some(need) = need else { continue };
                let Some(producer) = graph.tensor(*input).producer else { continue };
                let slots = needed.entry(position[&producer]).or_insert_with(|| vec![None; need.0.len()]);
                for (slot, region) in slots.iter_mut().zip(&need.0) {
                    *slot = match (*slot, region) {
                        (Some(a), Some(b)) => Some(a.hull(b)),
                        (a, b) => a.or(*b),
                    };
                }
            }
            members.push((index, Candidate { groups, ..candidate }));
        }
        // One node alone is a plain spatial split.
        if members.len() > 1 {
            for (index, candidate) in members {
                self.found[index].push(candidate);
            }
        }
    }
}
