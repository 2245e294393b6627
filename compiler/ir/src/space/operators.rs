//! Every operator, described once: its loops.

use std::collections::BTreeMap;

use super::reshape;
use super::{Access, Arithmetic, Axis, AxisKind, Index, Role, Space};
use crate::graph::Op;
use crate::graph::infer::broadcast;
use crate::graph::op::{Conv, ConvTranspose, Einsum, Gemm, PadMode, PoolKind, ReduceKind, ResizeMode, Window};

/// The loops of an operator on operands of these shapes, which it accepts (`graph::infer` checks).
#[expect(clippy::too_many_lines, reason = "one arm for each operator")]
pub fn iteration_space(op: &Op, shapes: &[&[usize]]) -> Space {
    let x = shapes[0];
    match op {
        Op::Conv(conv) => convolution(conv, shapes),
        Op::ConvTranspose(conv) => transposed_convolution(conv, shapes),
        Op::Gemm(gemm) => product(gemm, shapes),
        Op::MatMul => matrix_product(shapes),
        Op::Einsum(einsum) => labelled(einsum, shapes),
        Op::BatchNormalization { .. } => per_channel(shapes, |_| AxisKind::Parallel),
        Op::InstanceNormalization { .. } => {
            per_channel(shapes, |axis| if axis < 2 { AxisKind::Parallel } else { AxisKind::Coupled })
        }
        Op::GroupNormalization { groups, .. } => group_normalization(*groups, shapes),
        Op::LayerNormalization { axis, .. } => layer_normalization(*axis, shapes),
        // Padded with zeros at both ends of all channels, so no part of them stands for itself.
        Op::Lrn { size, .. } => {
            let kind = |axis| if axis == 1 { AxisKind::Coupled } else { AxisKind::Parallel };
            // Each element with its neighbours among the channels.
            looking_at(x.iter().copied().chain([*size.min(&x[1])]), per_channel(shapes, kind))
        }
        Op::Unary(_) | Op::Cast { .. } | Op::BitCast { .. } => along(x, Arithmetic::Elements, |_| AxisKind::Parallel),
        Op::Identity => along(x, Arithmetic::View, |_| AxisKind::Parallel),
        Op::Binary(..) | Op::PRelu | Op::Where => {
            let joined = |all: Vec<usize>, shape: &&[usize]| broadcast(&all, shape).unwrap_or(all);
            elementwise(shapes, shapes.iter().fold(Vec::new(), joined))
        }
        Op::Expand { shape } => elementwise(shapes, shape.clone()),
        Op::Pool(pool) => pooling(&pool.window, x),
        Op::GlobalPool(kind) => {
            let over = match kind {
                PoolKind::Average => AxisKind::Sum,
                PoolKind::Max => AxisKind::Reduction,
            };
            let roles = |axis| Some(image_role(axis));
            reduction(x, &(2..x.len()).collect::<Vec<usize>>(), true, over, roles)
        }
        Op::Softmax { axis } | Op::LogSoftmax { axis } => {
            along(x, Arithmetic::Elements, |other| if other == *axis { AxisKind::Coupled } else { AxisKind::Parallel })
        }
        Op::Reduce { kind, axes, keep_dims } => {
            let over = match kind {
                ReduceKind::Mean | ReduceKind::Sum => AxisKind::Sum,
                ReduceKind::Max | ReduceKind::Min | ReduceKind::L2 => AxisKind::Reduction,
            };
            reduction(x, axes, *keep_dims, over, |_| None)
        }
        Op::ArgMax { axis, keep_dims, .. } => reduction(x, &[*axis], *keep_dims, AxisKind::Reduction, |_| None),
        Op::Concat { axis } => concatenation(*axis, shapes),
        Op::Split { axis, sizes } => split(*axis, sizes, x),
        Op::Slice { starts, steps, sizes } => {
            let index = |axis: usize, d: usize| Index { offset: starts[axis] as isize, terms: vec![(d, steps[axis])] };
            moved(x, sizes, |_| AxisKind::Parallel, index, Arithmetic::Copies)
        }
        Op::Reshape { shape } => {
            let mut loops = Loops::default();
            let (from, to) = reshape::indices(&mut loops, x, shape);
            loops.space(vec![access(x, from)], vec![access(shape, to)], Arithmetic::View)
        }
        Op::Transpose { permutation } => transposition(permutation, x),
        Op::Pad { mode, begin, end } => {
            let shape: Vec<usize> =
                x.iter().zip(begin.iter().zip(end)).map(|(extent, (before, after))| extent + before + after).collect();
            // Reflections and edges are of the whole.
            let kind = |axis: usize| match mode {
                PadMode::Constant(_) => AxisKind::Parallel,
                PadMode::Reflect | PadMode::Edge if shape[axis] == x[axis] => AxisKind::Parallel,
                PadMode::Reflect | PadMode::Edge => AxisKind::Coupled,
            };
            let index = |axis: usize, d: usize| Index { offset: -(begin[axis] as isize), terms: vec![(d, 1)] };
            moved(x, &shape, kind, index, Arithmetic::Elements)
        }
        Op::Gather { axis } => gather(*axis, shapes),
        Op::Scatter { .. } => scatter(shapes),
        Op::Resize { scales, sizes, mode, .. } => {
            let mut loops = Loops::default();
            let same = |axis: usize| sizes[axis] == x[axis] && scales[axis] == 1.0;
            let kind = |axis: usize| if same(axis) { AxisKind::Parallel } else { AxisKind::Coupled };
            let to: Vec<Index> = (0..x.len()).map(|axis| loops.index(sizes[axis], kind(axis), None)).collect();
            let from = |(axis, to): (usize, &Index)| match same(axis) {
                true => to.clone(),
                false => loops.index(x[axis], AxisKind::Coupled, None),
            };
            let from = to.iter().enumerate().map(from).collect();
            let space = loops.space(vec![access(x, from)], vec![access(sizes, to)], Arithmetic::Elements);
            match mode {
                ResizeMode::Nearest(_) => space,
                // Two along each axis.
                ResizeMode::Linear => looking_at(sizes.iter().map(|size| 2usize.saturating_mul(*size)), space),
            }
        }
        Op::SpaceToDepth { block } => depth_and_space(*block, x, true, false),
        Op::DepthToSpace { block, column_row_depth } => depth_and_space(*block, x, false, *column_row_depth),
        Op::NonMaxSuppression(suppression) => {
            // Every box may be looked for among all, and compared with all.
            let (scores, boxes) = (shapes[1], shapes[1].last().copied().unwrap_or(1));
            looking_at(scores.iter().copied().chain([boxes]), opaque(shapes, &[&[suppression.rows, 3]]))
        }
        Op::RoiAlign(align) => {
            let samples = |axis: usize| match align.ratio {
                0 => 2 * (x[axis] + 3),
                ratio => ratio,
            };
            // Each bin of each region and channel has its samples, between four elements each.
            let made = [shapes[1][0], x[1], align.bins[0], align.bins[1]];
            looking_at(made.into_iter().chain([samples(2), samples(3), 4]), regions(align.bins, shapes))
        }
        // A row may pass all nodes of each tree.
        Op::TreeEnsemble(trees) => {
            let steps = [x[0], shapes[3][0], shapes[1][0]];
            looking_at(steps, rows_through_trees(trees.targets, shapes))
        }
        Op::Decide(_) => opaque(shapes, &[&[2]]),
    }
}

/// Loops in the making.
#[derive(Default)]
pub(super) struct Loops {
    axes: Vec<Axis>,
}

impl Loops {
    pub(super) fn axis(&mut self, extent: usize, kind: AxisKind, role: Option<Role>) -> usize {
        self.axes.push(Axis { extent, kind, role });
        self.axes.len() - 1
    }

    /// The index of an axis of its own.
    fn index(&mut self, extent: usize, kind: AxisKind, role: Option<Role>) -> Index {
        only(self.axis(extent, kind, role))
    }

    fn space(self, operands: Vec<Access>, results: Vec<Access>, arithmetic: Arithmetic) -> Space {
        Space { axes: self.axes, operands, results, arithmetic, steps: None }
    }
}

/// The same, where so many elements are looked at.
fn looking_at(steps: impl IntoIterator<Item = usize>, space: Space) -> Space {
    Space { steps: Some(steps.into_iter().fold(1, |product, factor| product.saturating_mul(factor as u64))), ..space }
}

fn only(axis: usize) -> Index {
    Index { offset: 0, terms: vec![(axis, 1)] }
}

fn access(extents: &[usize], indices: Vec<Index>) -> Access {
    Access { extents: extents.to_vec(), indices }
}

/// What an axis of `[N, C, spatial..]` counts.
fn image_role(axis: usize) -> Role {
    match axis {
        0 => Role::Samples,
        1 => Role::Channels,
        _ => Role::Space,
    }
}

/// Nothing can be said of it: it runs whole.
fn opaque(operands: &[&[usize]], results: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let mut of = |shapes: &[&[usize]]| -> Vec<Access> {
        let of_one = |shape: &&[usize]| {
            let indices = shape.iter().map(|extent| loops.index(*extent, AxisKind::Coupled, None)).collect();
            access(shape, indices)
        };
        shapes.iter().map(of_one).collect()
    };
    let (operands, results) = (of(operands), of(results));
    loops.space(operands, results, Arithmetic::Elements)
}

/// A result of the operand's shape, each axis of a kind of its own.
fn along(x: &[usize], arithmetic: Arithmetic, kind: impl Fn(usize) -> AxisKind) -> Space {
    moved(x, x, kind, |_, d| only(d), arithmetic)
}

/// A loop for each axis of the result, and for each of them where it reads.
fn moved(
    x: &[usize],
    shape: &[usize],
    kind: impl Fn(usize) -> AxisKind,
    read: impl Fn(usize, usize) -> Index,
    arithmetic: Arithmetic,
) -> Space {
    let mut loops = Loops::default();
    let axes: Vec<usize> = (0..shape.len()).map(|axis| loops.axis(shape[axis], kind(axis), None)).collect();
    let from = axes.iter().enumerate().map(|(axis, d)| read(axis, *d)).collect();
    let to = axes.iter().map(|d| only(*d)).collect();
    loops.space(vec![access(x, from)], vec![access(shape, to)], arithmetic)
}

/// The access of an operand that broadcasts to loops over `axes` of these extents.
fn broadcasting(shape: &[usize], axes: &[usize], extents: &[usize]) -> Access {
    let first = axes.len() - shape.len();
    let index = |(at, extent): (usize, &usize)| match *extent == extents[first + at] {
        true => only(axes[first + at]),
        false => Index::default(),
    };
    access(shape, shape.iter().enumerate().map(index).collect())
}

fn elementwise(shapes: &[&[usize]], result: Vec<usize>) -> Space {
    let mut loops = Loops::default();
    let axes: Vec<usize> = result.iter().map(|extent| loops.axis(*extent, AxisKind::Parallel, None)).collect();
    let operands = shapes.iter().map(|shape| broadcasting(shape, &axes, &result)).collect();
    let to = axes.iter().map(|d| only(*d)).collect();
    loops.space(operands, vec![access(&result, to)], Arithmetic::Elements)
}

/// `[N, C, spatial..]` with operands `[C]`.
fn per_channel(shapes: &[&[usize]], kind: impl Fn(usize) -> AxisKind) -> Space {
    let mut loops = Loops::default();
    let x = shapes[0];
    let axes: Vec<Index> = (0..x.len()).map(|axis| loops.index(x[axis], kind(axis), Some(image_role(axis)))).collect();
    let channels = shapes[1..].iter().map(|shape| access(shape, vec![axes[1].clone()]));
    let operands = std::iter::once(access(x, axes.clone())).chain(channels).collect();
    loops.space(operands, vec![access(x, axes)], Arithmetic::Elements)
}

fn group_normalization(groups: usize, shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let x = shapes[0];
    let n = loops.index(x[0], AxisKind::Parallel, Some(Role::Samples));
    let group = loops.axis(groups, AxisKind::Parallel, Some(Role::Channels));
    let (channels, _) = grouped(&mut loops, Some(group), x[1] / groups, AxisKind::Coupled);
    let places = x[2..].iter().map(|extent| loops.index(*extent, AxisKind::Coupled, Some(Role::Space)));
    let axes: Vec<Index> = [n, channels.clone()].into_iter().chain(places).collect();
    let parameters = shapes[1..].iter().map(|shape| access(shape, vec![channels.clone()]));
    let operands = std::iter::once(access(x, axes.clone())).chain(parameters).collect();
    loops.space(operands, vec![access(x, axes)], Arithmetic::Elements)
}

fn layer_normalization(first: usize, shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let x = shapes[0];
    let axis = |axis: usize| match (axis < first, axis + 1 == x.len()) {
        (true, _) => loops.index(x[axis], AxisKind::Parallel, (axis > 0 && axis + 2 == x.len()).then_some(Role::Rows)),
        (false, last) => loops.index(x[axis], AxisKind::Coupled, last.then_some(Role::Channels)),
    };
    let axes: Vec<Index> = (0..x.len()).map(axis).collect();
    let parameters = shapes[1..].iter().map(|shape| access(shape, axes[first..].to_vec()));
    let operands = std::iter::once(access(x, axes.clone())).chain(parameters).collect();
    loops.space(operands, vec![access(x, axes)], Arithmetic::Elements)
}

/// Spatial axes of a window: where the operand is read, and the result's axes with their extents.
fn windows(loops: &mut Loops, window: &Window, x: &[usize]) -> (Vec<Index>, Vec<Index>, Vec<Index>, Vec<usize>) {
    let rank = window.kernel.len();
    let extents: Vec<usize> = (0..rank).map(|at| window.output_extent(at, x[at + 2]).unwrap_or(0)).collect();
    let places: Vec<usize> =
        extents.iter().map(|extent| loops.axis(*extent, AxisKind::Parallel, Some(Role::Space))).collect();
    let taps: Vec<usize> = window.kernel.iter().map(|taps| loops.axis(*taps, AxisKind::Tap, None)).collect();
    let read = |at: usize| Index {
        offset: -(window.pad_begin[at] as isize),
        terms: vec![(places[at], window.stride[at] as isize), (taps[at], window.dilation[at] as isize)],
    };
    let all = |axes: &[usize]| axes.iter().map(|d| only(*d)).collect();
    ((0..rank).map(read).collect(), all(&taps), all(&places), extents)
}

/// Loops over groups and the channels in each, or over one of the two: the index of a channel among all and within its
/// group.
fn grouped(loops: &mut Loops, groups: Option<usize>, channels: usize, kind: AxisKind) -> (Index, Index) {
    if let (Some(groups), 1) = (groups, channels) {
        return (only(groups), Index::default());
    }
    let within = loops.axis(channels, kind, Some(Role::Channels));
    let outer = groups.map(|groups| (groups, channels as isize));
    (Index { offset: 0, terms: outer.into_iter().chain([(within, 1)]).collect() }, only(within))
}

fn convolution(conv: &Conv, shapes: &[&[usize]]) -> Space {
    let (x, weights) = (shapes[0], shapes[1]);
    let mut loops = Loops::default();
    let n = loops.index(x[0], AxisKind::Parallel, Some(Role::Samples));
    let groups = (conv.groups > 1).then(|| loops.axis(conv.groups, AxisKind::Parallel, Some(Role::Channels)));
    let (filters, _) = grouped(&mut loops, groups, weights[0] / conv.groups, AxisKind::Parallel);
    let (channels, within) = grouped(&mut loops, groups, weights[1], AxisKind::Sum);
    let (read, taps, places, extents) = windows(&mut loops, &conv.window, x);
    let shape = [&[x[0], weights[0]], extents.as_slice()].concat();
    let to = [&[n.clone(), filters.clone()], places.as_slice()].concat();
    let mut operands = vec![
        access(x, [&[n, channels], read.as_slice()].concat()),
        access(weights, [&[filters.clone(), within], taps.as_slice()].concat()),
        access(shapes[2], vec![filters]),
    ];
    operands.extend(shapes.get(3).map(|shape| access(shape, to.clone())));
    loops.space(operands, vec![access(&shape, to)], Arithmetic::MultiplyAdd)
}

/// Loops over the operand: each of its elements is multiplied by all taps, and added to the result where they meet.
fn transposed_convolution(conv: &ConvTranspose, shapes: &[&[usize]]) -> Space {
    let (x, weights, window) = (shapes[0], shapes[1], &conv.window);
    let mut loops = Loops::default();
    let n = loops.index(x[0], AxisKind::Parallel, Some(Role::Samples));
    let groups = (conv.groups > 1).then(|| loops.axis(conv.groups, AxisKind::Parallel, Some(Role::Channels)));
    let (filters, within) = grouped(&mut loops, groups, weights[1], AxisKind::Parallel);
    let (channels, _) = grouped(&mut loops, groups, x[1] / conv.groups, AxisKind::Sum);
    let mut read = vec![n.clone(), channels.clone()];
    let mut of_weights = vec![channels, within];
    let (mut to, mut shape) = (vec![n, filters.clone()], vec![x[0], shapes[2][0]]);
    for at in 0..window.kernel.len() {
        let place = loops.axis(x[at + 2], AxisKind::Coupled, Some(Role::Space));
        let tap = loops.axis(window.kernel[at], AxisKind::Tap, None);
        let terms = vec![(place, window.stride[at] as isize), (tap, window.dilation[at] as isize)];
        read.push(only(place));
        of_weights.push(only(tap));
        to.push(Index { offset: -(window.pad_begin[at] as isize), terms });
        let full = x[at + 2].saturating_sub(1) * window.stride[at] + window.dilation[at] * (window.kernel[at] - 1) + 1;
        shape.push((full + conv.output_padding[at]).saturating_sub(window.pad_begin[at] + window.pad_end[at]));
    }
    let operands = vec![access(x, read), access(weights, of_weights), access(shapes[2], vec![filters])];
    loops.space(operands, vec![access(&shape, to)], Arithmetic::MultiplyAdd)
}

fn product(gemm: &Gemm, shapes: &[&[usize]]) -> Space {
    let (a, b) = (shapes[0], shapes[1]);
    let mut loops = Loops::default();
    let extents = [a[usize::from(gemm.transpose_a)], b[usize::from(!gemm.transpose_b)]];
    let m = loops.axis(extents[0], AxisKind::Parallel, None);
    let n = loops.axis(extents[1], AxisKind::Parallel, Some(Role::Channels));
    let k = loops.axis(a[usize::from(!gemm.transpose_a)], AxisKind::Sum, Some(Role::Channels));
    let matrix = |rows: usize, columns: usize, transposed: bool| {
        let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
        vec![only(rows), only(columns)]
    };
    let mut operands = vec![access(a, matrix(m, k, gemm.transpose_a)), access(b, matrix(k, n, gemm.transpose_b))];
    operands.extend(shapes.get(2).map(|shape| broadcasting(shape, &[m, n], &extents)));
    loops.space(operands, vec![access(&extents, vec![only(m), only(n)])], Arithmetic::MultiplyAdd)
}

fn matrix_product(shapes: &[&[usize]]) -> Space {
    let (a, b) = (shapes[0], shapes[1]);
    let mut loops = Loops::default();
    // A vector has no rows, or no columns.
    let outer = |shape: &[usize]| shape[..shape.len().saturating_sub(2)].to_vec();
    let mut shape = broadcast(&outer(a), &outer(b)).unwrap_or_default();
    let batch: Vec<usize> = shape.iter().map(|extent| loops.axis(*extent, AxisKind::Parallel, None)).collect();
    let of = |matrix: &[usize]| broadcasting(&outer(matrix), &batch, &shape).indices;
    let (mut left, mut right) = (of(a), of(b));
    let mut to: Vec<Index> = batch.iter().map(|d| only(*d)).collect();
    if a.len() > 1 {
        let role = (!batch.is_empty()).then_some(Role::Rows);
        let rows = loops.index(a[a.len() - 2], AxisKind::Parallel, role);
        shape.push(a[a.len() - 2]);
        left.push(rows.clone());
        to.push(rows);
    }
    let inner = loops.index(a[a.len() - 1], AxisKind::Sum, Some(Role::Channels));
    left.push(inner.clone());
    right.push(inner);
    if b.len() > 1 {
        let columns = loops.index(b[b.len() - 1], AxisKind::Parallel, Some(Role::Channels));
        shape.push(b[b.len() - 1]);
        right.push(columns.clone());
        to.push(columns);
    }
    loops.space(vec![access(a, left), access(b, right)], vec![access(&shape, to)], Arithmetic::MultiplyAdd)
}

/// A loop for each label; those that are not in the result are summed.
fn labelled(einsum: &Einsum, shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let terms = &einsum.terms;
    let once = |label: usize| terms.iter().all(|term| term.iter().filter(|other| **other == label).count() == 1);
    let has_many = terms.len() > 1;
    let mut axes: BTreeMap<usize, Index> = BTreeMap::new();
    for (label, extent) in terms.iter().zip(shapes).flat_map(|(term, shape)| term.iter().zip(*shape)) {
        let is_kept = einsum.result.contains(label);
        let kind = match is_kept {
            true => AxisKind::Parallel,
            // A factor that does not have the label belongs to every part of the sum, a diagonal is no part of its operand.
            false if once(*label) => AxisKind::Sum,
            false => AxisKind::Reduction,
        };
        let role = match (is_kept, terms[0].contains(label), terms[terms.len() - 1].contains(label)) {
            (true, true, false) => Some(Role::Rows),
            (true, false, _) | (false, ..) if has_many => Some(Role::Channels),
            _ => None,
        };
        axes.entry(*label).or_insert_with(|| loops.index(*extent, kind, role));
    }
    let read = |labels: &[usize]| labels.iter().map(|label| axes[label].clone()).collect::<Vec<Index>>();
    let operands = terms.iter().zip(shapes).map(|(term, shape)| access(shape, read(term))).collect();
    let to = read(&einsum.result);
    let shape: Vec<usize> = to.iter().map(|index| loops.axes[index.terms[0].0].extent).collect();
    let arithmetic = if has_many { Arithmetic::MultiplyAdd } else { Arithmetic::Elements };
    loops.space(operands, vec![access(&shape, to)], arithmetic)
}

fn pooling(window: &Window, x: &[usize]) -> Space {
    let mut loops = Loops::default();
    let outer: Vec<Index> =
        (0..2).map(|axis| loops.index(x[axis], AxisKind::Parallel, Some(image_role(axis)))).collect();
    let (read, _, places, extents) = windows(&mut loops, window, x);
    let shape = [&x[..2], extents.as_slice()].concat();
    let (read, to) = ([outer.as_slice(), &read].concat(), [outer.as_slice(), &places].concat());
    loops.space(vec![access(x, read)], vec![access(&shape, to)], Arithmetic::Elements)
}

fn reduction(
    x: &[usize],
    axes: &[usize],
    keep_dims: bool,
    over: AxisKind,
    role: impl Fn(usize) -> Option<Role>,
) -> Space {
    let mut loops = Loops::default();
    let kind = |axis: usize| if axes.contains(&axis) { over } else { AxisKind::Parallel };
    let read: Vec<Index> = (0..x.len()).map(|axis| loops.index(x[axis], kind(axis), role(axis))).collect();
    let (mut shape, mut to) = (Vec::new(), Vec::new());
    for (axis, index) in read.iter().enumerate() {
        match axes.contains(&axis) {
            false => (shape.push(x[axis]), to.push(index.clone())),
            true if keep_dims => (shape.push(1), to.push(Index::default())),
            true => continue,
        };
    }
    loops.space(vec![access(x, read)], vec![access(&shape, to)], Arithmetic::Elements)
}

/// A loop over the result: what lies before an operand or behind it does not read that.
fn concatenation(joined: usize, shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let mut shape = shapes[0].to_vec();
    shape[joined] = shapes.iter().map(|shape| shape[joined]).sum();
    let axes: Vec<Index> = shape.iter().map(|extent| loops.index(*extent, AxisKind::Parallel, None)).collect();
    let mut first = 0isize;
    let operand = |operand: &&[usize]| {
        let mut read = axes.clone();
        read[joined].offset = -first;
        first += operand[joined] as isize;
        access(operand, read)
    };
    let operands = shapes.iter().map(operand).collect();
    loops.space(operands, vec![access(&shape, axes)], Arithmetic::Copies)
}

/// A loop over the operand; every result is a part of it, so all of them are cut along any other axis together.
fn split(cut: usize, sizes: &[usize], x: &[usize]) -> Space {
    let mut loops = Loops::default();
    let kind = |axis: usize| if axis == cut { AxisKind::Coupled } else { AxisKind::Parallel };
    let axes: Vec<Index> = (0..x.len()).map(|axis| loops.index(x[axis], kind(axis), None)).collect();
    let mut first = 0isize;
    let result = |size: &usize| {
        let (mut to, mut shape) = (axes.clone(), x.to_vec());
        (to[cut].offset, shape[cut]) = (-first, *size);
        first += *size as isize;
        access(&shape, to)
    };
    let results = sizes.iter().map(result).collect();
    loops.space(vec![access(x, axes.clone())], results, Arithmetic::Copies)
}

fn transposition(permutation: &[usize], x: &[usize]) -> Space {
    let mut loops = Loops::default();
    let shape: Vec<usize> = permutation.iter().map(|from| x[*from]).collect();
    let to: Vec<Index> = shape.iter().map(|extent| loops.index(*extent, AxisKind::Parallel, None)).collect();
    let mut read = vec![Index::default(); x.len()];
    for (index, from) in to.iter().zip(permutation) {
        read[*from] = index.clone();
    }
    loops.space(vec![access(x, read)], vec![access(&shape, to)], Arithmetic::Elements)
}

/// Whole slices of the data along an axis, chosen by indices.
fn gather(axis: usize, shapes: &[&[usize]]) -> Space {
    let (data, indices) = (shapes[0], shapes[1]);
    let mut loops = Loops::default();
    let mut of = |extents: &[usize], kind: AxisKind| -> Vec<Index> {
        extents.iter().map(|extent| loops.index(*extent, kind, None)).collect()
    };
    let (before, chosen, behind) = (
        of(&data[..axis], AxisKind::Parallel),
        of(indices, AxisKind::Parallel),
        of(&data[axis + 1..], AxisKind::Parallel),
    );
    let gathered = of(&data[axis..=axis], AxisKind::Gathered);
    let shape = [&data[..axis], indices, &data[axis + 1..]].concat();
    let to = [before.as_slice(), &chosen, &behind].concat();
    let operands = vec![access(data, [before, gathered, behind].concat()), access(indices, chosen)];
    loops.space(operands, vec![access(&shape, to)], Arithmetic::Elements)
}

/// Any row may be updated, and by any of the updates; elements of rows stay by themselves.
fn scatter(shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let rows = loops.index(shapes[0][0], AxisKind::Coupled, None);
    let along = loops.index(shapes[0][1], AxisKind::Parallel, None);
    let updates = loops.index(shapes[1][0], AxisKind::Reduction, None);
    let data = access(shapes[0], vec![rows, along.clone()]);
    let of_updates = access(shapes[1], vec![updates.clone(), along]);
    let operands = vec![data.clone(), of_updates, access(shapes[2], vec![updates])];
    loops.space(operands, vec![data], Arithmetic::Elements)
}

/// Bins of regions, each somewhere in an image that another operand says.
fn regions(bins: [usize; 2], shapes: &[&[usize]]) -> Space {
    let (x, mut loops) = (shapes[0], Loops::default());
    let region = loops.index(shapes[1][0], AxisKind::Parallel, None);
    let channels = loops.index(x[1], AxisKind::Parallel, Some(Role::Channels));
    let bins = bins.map(|extent| (extent, loops.index(extent, AxisKind::Coupled, Some(Role::Space))));
    let mut whole = |extent: usize, kind: AxisKind| loops.index(extent, kind, None);
    let [image, row, column] = [0, 2, 3].map(|axis| whole(x[axis], AxisKind::Gathered));
    let corners = whole(4, AxisKind::Reduction);
    let operands = vec![
        access(x, vec![image, channels.clone(), row, column]),
        access(shapes[1], vec![region.clone(), corners]),
        access(shapes[2], vec![region.clone()]),
    ];
    let [(rows, of_rows), (columns, of_columns)] = bins;
    let result = access(&[shapes[1][0], x[1], rows, columns], vec![region, channels, of_rows, of_columns]);
    loops.space(operands, vec![result], Arithmetic::Elements)
}

/// Each row goes its own way through the same tables.
fn rows_through_trees(targets: usize, shapes: &[&[usize]]) -> Space {
    let mut loops = Loops::default();
    let rows = loops.index(shapes[0][0], AxisKind::Parallel, None);
    let features = loops.index(shapes[0][1], AxisKind::Reduction, None);
    let mut whole = |extent: usize, kind: AxisKind| loops.index(extent, kind, None);
    let tables = shapes[1..].iter().map(|shape| {
        let indices = shape.iter().map(|extent| whole(*extent, AxisKind::Gathered)).collect();
        access(shape, indices)
    });
    let tables: Vec<Access> = tables.collect();
    let of_targets = whole(targets, AxisKind::Coupled);
    let operands = std::iter::once(access(shapes[0], vec![rows.clone(), features])).chain(tables).collect();
    let result = access(&[shapes[0][0], targets], vec![rows, of_targets]);
    loops.space(operands, vec![result], Arithmetic::Elements)
}

/// Blocks of places and the channels that they become.
fn depth_and_space(block: usize, x: &[usize], to_depth: bool, column_row_depth: bool) -> Space {
    let (mut loops, area) = (Loops::default(), block * block);
    let extents = match to_depth {
        true => [x[1], x[2] / block, x[3] / block],
        false => [x[1] / area, x[2], x[3]],
    };
    let n = loops.index(x[0], AxisKind::Parallel, Some(Role::Samples));
    let c = loops.axis(extents[0], AxisKind::Parallel, Some(Role::Channels));
    let [rows, columns] = [1, 2].map(|at| loops.axis(extents[at], AxisKind::Parallel, Some(Role::Space)));
    let [row, column] = [0; 2].map(|_| loops.axis(block, AxisKind::Coupled, None));
    let (block, area) = (block as isize, area as isize);
    let terms = |terms: Vec<(usize, isize)>| Index { offset: 0, terms };
    let deep = match column_row_depth {
        true => terms(vec![(c, area), (row, block), (column, 1)]),
        false => terms(vec![(row, block * extents[0] as isize), (column, extents[0] as isize), (c, 1)]),
    };
    let wide = [only(c), terms(vec![(rows, block), (row, 1)]), terms(vec![(columns, block), (column, 1)])];
    let deep = vec![n.clone(), deep, only(rows), only(columns)];
    let wide = [&[n], wide.as_slice()].concat();
    let area = (block * block) as usize;
    let side = block as usize;
    let (from, to, shape) = match to_depth {
        true => (wide, deep, [x[0], x[1] * area, extents[1], extents[2]]),
        false => (deep, wide, [x[0], extents[0], x[2] * side, x[3] * side]),
    };
    loops.space(vec![access(x, from)], vec![access(&shape, to)], Arithmetic::Elements)
}
