//! Where an inference may end: tensors that carry everything on, and what a head can see of them.

use partita_ir::graph::op::{Pool, PoolKind, Window};
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_plan::partition::{crossings, node_macs};

/// Most places that are looked at; evenly spread over the operations if there are more.
const MAX_PLACES: usize = 32;

/// Share of the model's operations behind which an exit saves nothing worth a head.
const LAST_SHARE: f64 = 0.95;

/// Most elements of a map that a head convolves.
const MAX_MAP: usize = 1 << 15;

/// A place for an exit.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitPlace {
    /// The tensor.
    pub tensor: TensorId,
    /// Node that makes it.
    pub node: NodeId,
    /// Multiply-adds up to there.
    pub macs: u64,
    /// Multiply-adds of a branch that the model has for this exit, beyond the way to its last answer.
    pub head_macs: u64,
    /// Views of it, coarsest first.
    pub views: Vec<View>,
    /// What heads that convolve see of it; none if it has no space.
    pub map: Option<Map>,
}

/// Channels over space.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The operator that makes it; none if it is the tensor itself.
    pub op: Option<Op>,
    /// Channels.
    pub channels: usize,
    /// Rows and columns; one row if space has one dimension.
    pub space: [usize; 2],
}

/// What a head sees of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The operator that makes it; none if it is the tensor itself.
    pub op: Option<Op>,
    /// Elements.
    pub features: usize,
    /// Average over space, one feature per channel.
    pub global: bool,
}

/// All places of a graph: behind every node whose first output is all that what follows reads, where something was
/// computed since the place before and something is left to save.
pub fn places(graph: &Graph) -> Vec<ExitPlace> {
    let order = graph.topological_order().unwrap_or_default();
    let total: u64 = order.iter().map(|id| node_macs(graph, *id)).sum();
    let mut macs_until = Vec::with_capacity(order.len());
    let mut macs = 0;
    for id in &order {
        macs += node_macs(graph, *id);
        macs_until.push(macs);
    }
    let mut found: Vec<ExitPlace> = Vec::new();
    for (position, tensor) in crossings(graph, &order) {
        let macs = macs_until[position];
        if macs == 0 || graph.is_output(tensor) || macs as f64 > total as f64 * LAST_SHARE {
            continue;
        }
        let views = views(graph.shape(tensor));
        // Of places with nothing multiplied between them the last is the smallest and most refined.
        if found.last().is_some_and(|last| last.macs == macs) {
            found.pop();
        }
        if !views.is_empty() {
            let map = map(graph.shape(tensor));
            found.push(ExitPlace { tensor, node: order[position], macs, head_macs: 0, views, map });
        }
    }
    if found.len() <= MAX_PLACES {
        return found;
    }
    // The place nearest to each even share of the operations.
    let mut kept: Vec<ExitPlace> = Vec::with_capacity(MAX_PLACES);
    for index in 0..MAX_PLACES {
        let wanted = total as f64 * LAST_SHARE * (index + 1) as f64 / MAX_PLACES as f64;
        let distance = |place: &&ExitPlace| (place.macs as f64 - wanted).abs();
        if let Some(nearest) = found.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))
            && kept.last() != Some(nearest)
        {
            kept.push(nearest.clone());
        }
    }
    kept
}

/// Ways to look at a tensor: averages over all of space, and over the cells of a grid.
fn views(shape: &[usize]) -> Vec<View> {
    match shape {
        [1, features] => vec![View { op: None, features: *features, global: true }],
        [1, channels, space @ ..] if (1..=2).contains(&space.len()) => {
            let global = View { op: Some(Op::GlobalPool(PoolKind::Average)), features: *channels, global: true };
            let cells: usize = if space.len() == 1 { 8 } else { 4 };
            let mut found = vec![global];
            if space.iter().all(|extent| *extent >= 2 * cells) {
                found.extend(grid(*channels, space, cells));
            } else if space.iter().all(|extent| *extent >= cells.div_ceil(2) * 2) {
                found.extend(grid(*channels, space, cells.div_ceil(2)));
            }
            found
        }
        _ => Vec::new(),
    }
}

/// The tensor itself, or, if it is large, averages over small cells of it.
fn map(shape: &[usize]) -> Option<Map> {
    let [1, channels, space @ ..] = shape else { return None };
    if !(1..=2).contains(&space.len()) || space.contains(&0) {
        return None;
    }
    let square = |space: &[usize]| if let [rows, columns] = space { [*rows, *columns] } else { [1, space[0]] };
    let size = |cell: usize| channels * space.iter().map(|extent| extent / cell.min(*extent)).product::<usize>();
    let cell = (1..).find(|cell| size(*cell) <= MAX_MAP || space.iter().all(|extent| extent <= cell))?;
    if cell == 1 {
        return Some(Map { op: None, channels: *channels, space: square(space) });
    }
    let kernel: Vec<usize> = space.iter().map(|extent| cell.min(*extent)).collect();
    let outputs: Vec<usize> = space.iter().zip(&kernel).map(|(extent, kernel)| extent / kernel).collect();
    Some(Map { op: Some(average(kernel)), channels: *channels, space: square(&outputs) })
}

/// Averages over cells; what does not fill a cell at the end is left out.
fn grid(channels: usize, space: &[usize], cells: usize) -> Option<View> {
    let kernel: Vec<usize> = space.iter().map(|extent| extent / cells).collect();
    let outputs: usize = space.iter().zip(&kernel).map(|(extent, kernel)| extent / kernel).product();
    (outputs > 1).then(|| View { op: Some(average(kernel)), features: channels * outputs, global: false })
}

/// Averages over cells that do not overlap.
fn average(kernel: Vec<usize>) -> Op {
    let none = vec![0; kernel.len()];
    let window = Window {
        stride: kernel.clone(),
        kernel,
        dilation: vec![1; none.len()],
        pad_begin: none.clone(),
        pad_end: none.clone(),
    };
    Op::Pool(Pool { kind: PoolKind::Average, window, declared_pad_end: none, count_include_pad: false })
}
