//! Which runs of nodes are computed band by band (`shard::row_streaming`), so that the fullest device needs less
//! memory.
//!
//! A greedy search: where most bytes are alive, a node gets bands, narrower bands, or a neighbour to run with,
//! whichever helps most, until nothing does. Each step is judged on the graph of shards, by sizes of tensors; whoever
//! wants to know exactly lowers the result.

use std::collections::{BTreeMap, HashMap, HashSet};

use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_ir::restrict::space;
use partita_ir::space::Arithmetic;
use partita_plan::partition::{Partition, RowStreaming};
use partita_plan::schedule::{self, Action, Schedule};
use partita_plan::shard::{self, Sharded, row_streaming::rows};

/// Bands that a run has at first.
const FIRST_COUNT: usize = 4;

/// Most bands of a run: each costs messages.
const MAX_COUNT: usize = 64;

/// Computations and exchanges that one search may look at, some seconds of a desktop core. Counted, not timed, so that
/// the answer depends on nothing but the question.
const SEARCH_WORK: usize = 500_000;

/// Nodes with the most bytes alive that are tried before the search ends.
const MAX_SUSPECTS: usize = 4;

/// What a step must gain.
const GAIN: f64 = 1e-3;

/// Weight of the fullest moment against the others: an exponent.
const SHARPNESS: f64 = 48.0;

/// Bytes alive of a partition with row streaming.
struct Alive {
    /// Per device, most activations at once.
    devices: Vec<u64>,
    /// Per node of the original graph and device, most at once while it is computed.
    nodes: BTreeMap<NodeId, Vec<u64>>,
    /// Computations and exchanges.
    events: usize,
}

impl Alive {
    /// How full the devices are on average, since weights can go where room is left: each mostly by its fullest moment,
    /// but a step towards less is one also where several moments are equally full.
    fn score(&self) -> f64 {
        let fullness = |device: usize| {
            let most = self.devices[device].max(1) as f64;
            let others: f64 = self.nodes.values().map(|bytes| (bytes[device] as f64 / most).powf(SHARPNESS)).sum();
            most * others.powf(1.0 / SHARPNESS)
        };
        (0..self.devices.len()).map(fullness).sum::<f64>() / self.devices.len() as f64
    }

    /// Bytes at once while a node is computed, on all devices.
    fn of(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |bytes| bytes.iter().sum())
    }
}

/// The row streaming with which devices need little: what the search finds from none, from every node in bands
/// by itself, and from runs as long as they can be. Which needs least only programs know.
pub fn found(graph: &Graph, cluster: &Cluster, partition: &Partition) -> Vec<Partition> {
    let order = graph.topological_order().unwrap_or_default();
    let extents: Vec<Option<usize>> = order.iter().map(|id| rows(graph, *id, partition)).collect();
    let alive = |runs: &Runs| {
        let streamed = Partition { row_streaming: runs.row_streaming(&order), ..partition.clone() };
        alive(graph, cluster, &streamed)
    };
    let mut found: Vec<Vec<RowStreaming>> = Vec::new();
    for start in Runs::starts(&extents) {
        let Some(runs) = search(&order, &extents, start, &alive) else { continue };
        let row_streaming = runs.row_streaming(&order);
        if !found.contains(&row_streaming) {
            found.push(row_streaming);
        }
    }
    found.into_iter().map(|row_streaming| Partition { row_streaming, ..partition.clone() }).collect()
}

/// The greedy search from a start.
fn search(
    order: &[NodeId],
    extents: &[Option<usize>],
    mut runs: Runs,
    alive: &dyn Fn(&Runs) -> Option<Alive>,
) -> Option<Runs> {
    let mut known = alive(&runs)?;
    let mut work = known.events;
    'search: while work < SEARCH_WORK {
        let mut fullest: Vec<usize> = (0..order.len()).collect();
        fullest.sort_by_key(|at| std::cmp::Reverse(known.of(order[*at])));
        for suspect in fullest.into_iter().take(MAX_SUSPECTS) {
            let better = runs
                .moves(suspect, extents)
                .into_iter()
                .filter_map(|runs| Some((alive(&runs).inspect(|found| work += found.events)?, runs)))
                .min_by(|(a, _), (b, _)| a.score().total_cmp(&b.score()))
                .filter(|(found, _)| found.score() < known.score() * (1.0 - GAIN));
            if let Some((found, changed)) = better {
                (known, runs) = (found, changed);
                continue 'search;
            }
        }
        break;
    }
    Some(runs)
}

/// Runs by position in the order: first, last and number of bands; ascending, apart from each other.
#[derive(Clone, Default, PartialEq)]
struct Runs(Vec<(usize, usize, usize)>);

impl Runs {
    fn row_streaming(&self, order: &[NodeId]) -> Vec<RowStreaming> {
        self.0
            .iter()
            .map(|(first, last, count)| RowStreaming { nodes: order[*first..=*last].to_vec(), count: *count })
            .collect()
    }

    /// Where the search begins.
    fn starts(extents: &[Option<usize>]) -> [Runs; 3] {
        let all = || extents.iter().enumerate().filter_map(|(at, extent)| Some((at, (*extent)?)));
        let alone = all().map(|(at, extent)| (at, at, extent.min(2 * FIRST_COUNT))).collect();
        let mut long: Vec<(usize, usize, usize)> = Vec::new();
        for (at, extent) in all() {
            match long.last_mut().filter(|(_, last, _)| last + 1 == at) {
                Some((_, last, _)) => *last = at,
                None => long.push((at, at, extent.min(4 * FIRST_COUNT))),
            }
        }
        [Runs::default(), Runs(alone), Runs(long)]
    }

    /// What may be changed around a position.
    fn moves(&self, at: usize, extents: &[Option<usize>]) -> Vec<Runs> {
        let Some(extent) = extents[at] else { return Vec::new() };
        let run = self.0.iter().find(|(first, last, _)| (*first..=*last).contains(&at)).copied();
        let (first, last, count) = run.unwrap_or((at, at, FIRST_COUNT.min(extent)));
        let mut found = Vec::new();
        let mut offer = |first: usize, last: usize, count: usize| {
            if extents[first..=last].iter().any(Option::is_none) {
                return;
            }
            let most = extents[first..=last].iter().flatten().copied().max().unwrap_or(1);
            let mut runs = self.clone();
            runs.0.retain(|(other, other_last, _)| *other_last < first || *other > last);
            runs.0.push((first, last, count.min(most).min(MAX_COUNT)));
            runs.0.sort_unstable();
            found.extend((runs != *self && !found.contains(&runs)).then_some(runs));
        };
        // A neighbour brings its whole run along.
        let before = first.checked_sub(1).map(|at| self.whole_run(at));
        let behind = (last + 1 < extents.len()).then(|| self.whole_run(last + 1));
        for count in [count, 2 * count] {
            offer(first, last, count);
            if let Some((first, _)) = before {
                offer(first, last, count);
            }
            if let Some((_, last)) = behind {
                offer(first, last, count);
            }
            if let (Some((first, _)), Some((_, last))) = (before, behind) {
                offer(first, last, count);
            }
        }
        if run.is_some() {
            let mut without = self.clone();
            without.0.retain(|(other, _, _)| *other != first);
            found.push(without);
        }
        found
    }

    fn whole_run(&self, at: usize) -> (usize, usize) {
        let run = self.0.iter().find(|(first, last, _)| (*first..=*last).contains(&at));
        run.map_or((at, at), |(first, last, _)| (*first, *last))
    }
}

/// Bytes alive when a partition is carried out; `None` if it cannot be.
fn alive(graph: &Graph, cluster: &Cluster, partition: &Partition) -> Option<Alive> {
    let sharded = shard::sketch(graph, partition, cluster).ok()?;
    let schedules = schedule::build(&sharded, cluster).ok()?;
    let count = cluster.devices.len();
    let mut found = Alive { devices: vec![0; count], nodes: BTreeMap::new(), events: sharded.events.len() };
    for schedule in &schedules {
        let bytes = bytes_alive(&sharded, schedule, cluster);
        found.devices[schedule.device] = bytes.iter().copied().max().unwrap_or(0);
        let mut origin = None;
        // An exchange belongs to the node that it is for: the next one that is computed.
        for (action, bytes) in schedule.actions.iter().zip(&bytes).rev() {
            if let Action::Compute(node) = action {
                origin = sharded.origins.get(node).copied().or(origin);
            }
            if let Some(origin) = origin {
                let most = &mut found.nodes.entry(origin).or_insert_with(|| vec![0; count])[schedule.device];
                *most = (*most).max(*bytes);
            }
        }
    }
    Some(found)
}

/// Whether a tensor of a sketch is a constant.
fn is_constant(graph: &Graph, tensor: TensorId) -> bool {
    graph.value(tensor).is_some() || graph.tensor(tensor).producer.is_none() && !graph.inputs.contains(&tensor)
}

/// Whether a tensor is made by a kernel, and so in blocks of channels.
fn is_blocked(graph: &Graph, tensor: TensorId) -> bool {
    let moves = |node: NodeId| matches!(space(graph, node).arithmetic, Arithmetic::Copies | Arithmetic::View);
    graph.tensor(tensor).producer.is_some_and(|node| !moves(node))
}

/// Bytes alive during every action of a device, as the memory plan will have them: parts lie inside what they are
/// joined to where that is possible, and are copied there as soon as they are made where it is not.
#[expect(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
fn bytes_alive(sharded: &Sharded, schedule: &Schedule, cluster: &Cluster) -> Vec<u64> {
    let graph = &sharded.graph;
    let lanes = cluster.devices[schedule.device].target.instruction_set.lanes() as usize;
    let mut inside: HashMap<TensorId, TensorId> = HashMap::new();
    let mut lives: HashMap<TensorId, (usize, usize)> = HashMap::new();
    let mut copied: Vec<(TensorId, TensorId)> = Vec::new();
    let mut received: HashSet<TensorId> = HashSet::new();
    let mut change = vec![0i64; schedule.actions.len() + 1];
    for (position, action) in schedule.actions.iter().enumerate() {
        let mut touch = |tensor: TensorId| {
            lives.entry(tensor).or_insert((position, position)).1 = position;
        };
        match action {
            Action::Input { tensor, .. } | Action::Output { tensor, .. } => touch(*tensor),
            Action::Leave { verdict, answer, .. } => {
                touch(*verdict);
                answer.iter().for_each(|answer| touch(*answer));
            }
            Action::Start { sends, receives } | Action::Exchange { sends, receives } => {
                sends.iter().chain(receives).for_each(|message| touch(message.tensor));
                // What a kernel has made is sent from a copy in plain layout.
                let mut made: Vec<TensorId> = sends.iter().map(|message| message.tensor).collect();
                made.retain(|tensor| is_blocked(graph, *tensor));
                made.sort_unstable();
                made.dedup();
                let bytes: usize = made.iter().map(|tensor| graph.tensor_type(*tensor).size_bytes()).sum();
                change[position] += bytes as i64;
                change[position + 1] -= bytes as i64;
                received.extend(receives.iter().map(|message| message.tensor));
            }
            Action::Compute(id) => {
                let node = graph.node(*id);
                let output = node.outputs[0];
                node.outputs.iter().for_each(|output| touch(*output));
                if space(graph, *id).arithmetic == Arithmetic::View {
                    inside.insert(node.inputs[0], output);
                    touch(node.inputs[0]);
                } else if let Op::Concat { axis } = &node.op {
                    let outer = graph.shape(output)[..*axis].iter().all(|extent| *extent == 1);
                    // Joined to what a kernel has made, what was received needs another layout.
                    let blocked = node.inputs.iter().any(|input| is_blocked(graph, *input));
                    for input in &node.inputs {
                        let elements = graph.tensor_type(*input).element_count();
                        let reordered = blocked && received.contains(input);
                        if outer && !reordered && elements.is_multiple_of(lanes) && !inside.contains_key(input) {
                            inside.insert(*input, output);
                            touch(*input);
                        } else if received.contains(input) {
                            touch(*input);
                        } else {
                            copied.push((*input, output));
                        }
                    }
                } else {
                    node.inputs.iter().for_each(|input| touch(*input));
                }
            }
        }
    }
    for (part, whole) in copied {
        // The copy stands right behind what makes the part.
        let Some((first, _)) = lives.get(&part).copied() else { continue };
        if let Some(life) = lives.get_mut(&whole) {
            life.0 = life.0.min(first);
        }
    }
    let mut merged: HashMap<TensorId, (usize, usize)> = HashMap::new();
    for (tensor, life) in &lives {
        let mut root = *tensor;
        while let Some(whole) = inside.get(&root) {
            root = *whole;
        }
        let all = merged.entry(root).or_insert(*life);
        *all = (all.0.min(life.0), all.1.max(life.1));
    }
    for (tensor, (first, last)) in merged {
        if !is_constant(graph, tensor) {
            let bytes = graph.tensor_type(tensor).size_bytes() as i64;
            change[first] += bytes;
            change[last + 1] -= bytes;
        }
    }
    let mut alive = 0;
    change[..schedule.actions.len()]
        .iter()
        .map(|change| {
            alive += change;
            alive as u64
        })
        .collect()
}
