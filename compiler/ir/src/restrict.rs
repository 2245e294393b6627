//! Which part of each operand a part of a node's result needs, and the operator that computes just that part.

use crate::graph::op::{Conv, Gemm, PadMode, Pool, PoolKind, ReduceKind, Window};
use crate::graph::{Activation, BinaryOp, ElementType, Graph, NodeId, Op};
use crate::region::Region;

/// A node restricted to a part of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Restriction {
    /// The operator on the restricted operands.
    pub op: Op,
    /// Part of each operand; `None` for an operand that is not needed.
    pub operands: Vec<Option<Region>>,
}

/// The node restricted to `result`, a part of its first output; `None` if that cannot be computed by itself.
///
/// Convolutions and poolings are cut along every axis (spatial cuts read a halo), matrix products by row and column,
/// element-wise operators anywhere, movements where their rule is a shift.
pub fn restrict(graph: &Graph, id: NodeId, result: &Region) -> Option<Restriction> {
    let node = graph.node(id);
    let shapes: Vec<&[usize]> = node.inputs.iter().map(|input| graph.shape(*input)).collect();
    let output = graph.shape(*node.outputs.first()?);
    if Region::whole(output) == *result {
        let operands = shapes.iter().map(|shape| Some(Region::whole(shape))).collect();
        return Some(Restriction { op: node.op.clone(), operands });
    }
    if node.outputs.len() != 1 {
        return None;
    }
    let same = |op: &Op, operands: Vec<Option<Region>>| Some(Restriction { op: op.clone(), operands });
    let full = |region: &Region, axis: usize| region.extent(axis) == output[axis];
    match &node.op {
        Op::Unary(_) | Op::Identity | Op::Cast { .. } => same(&node.op, vec![Some(*result)]),
        Op::Binary(..) | Op::PRelu | Op::Where => {
            same(&node.op, shapes.iter().map(|shape| broadcast_part(result, shape)).collect())
        }
        Op::Expand { .. } => same(&Op::Expand { shape: result.shape() }, vec![broadcast_part(result, shapes[0])]),
        Op::Conv(conv) => restrict_conv(conv, &shapes, result),
        Op::Pool(pool) => restrict_pool(pool, shapes[0], result),
        Op::GlobalPool(_) => {
            let x = Region::new((0..result.rank()).map(|axis| match axis {
                0 | 1 => (result.begin(axis), result.end(axis)),
                _ => (0, shapes[0][axis]),
            }))?;
            same(&node.op, vec![Some(x)])
        }
        Op::Gemm(gemm) => Some(restrict_gemm(gemm, &shapes, result)),
        Op::MatMul => {
            if shapes.iter().any(|shape| shape.len() < 2) {
                return None;
            }
            let last = result.rank() - 1;
            let inner = *shapes[0].last()?;
            let batch = |shape: &[usize]| broadcast_part(result, shape);
            let a = batch(shapes[0])?.with(shapes[0].len() - 2, result.begin(last - 1), result.end(last - 1))?;
            let a = a.with(shapes[0].len() - 1, 0, inner)?;
            let b = batch(shapes[1])?.with(shapes[1].len() - 2, 0, inner)?;
            let b = b.with(shapes[1].len() - 1, result.begin(last), result.end(last))?;
            same(&node.op, vec![Some(a), Some(b)])
        }
        Op::BatchNormalization { .. } => {
            let channels = Region::new([(result.begin(1), result.end(1))]);
            same(&node.op, [Some(*result)].into_iter().chain(std::iter::repeat_n(channels, shapes.len() - 1)).collect())
        }
        Op::InstanceNormalization { .. } if (2..result.rank()).all(|axis| full(result, axis)) => {
            let channels = Region::new([(result.begin(1), result.end(1))]);
            same(&node.op, vec![Some(*result), channels, channels])
        }
        Op::LayerNormalization { axis, .. } if (*axis..result.rank()).all(|axis| full(result, axis)) => {
            same(&node.op, vec![Some(*result), Some(Region::whole(shapes[1])), Some(Region::whole(shapes[2]))])
        }
        Op::Lrn { .. } if full(result, 1) => same(&node.op, vec![Some(*result)]),
        Op::Softmax { axis } | Op::LogSoftmax { axis } if full(result, *axis) => same(&node.op, vec![Some(*result)]),
        Op::Reduce { axes, keep_dims, .. } => {
            let mut kept = 0;
            let x = Region::new((0..shapes[0].len()).map(|axis| {
                let reduced = axes.contains(&axis);
                let range = if reduced { (0, shapes[0][axis]) } else { (result.begin(kept), result.end(kept)) };
                kept += usize::from(!reduced || *keep_dims);
                range
            }))?;
            same(&node.op, vec![Some(x)])
        }
        // Whole slices along the axis, in the order of the indices; the indices are read whole.
        Op::Gather { axis } => {
            let indices = shapes[1].len();
            if !(*axis..axis + indices).all(|axis| full(result, axis)) {
                return None;
            }
            let data = Region::new((0..shapes[0].len()).map(|dimension| match dimension.cmp(axis) {
                std::cmp::Ordering::Less => (result.begin(dimension), result.end(dimension)),
                std::cmp::Ordering::Equal => (0, shapes[0][dimension]),
                std::cmp::Ordering::Greater => {
                    (result.begin(dimension + indices - 1), result.end(dimension + indices - 1))
                }
            }))?;
            same(&node.op, vec![Some(data), Some(Region::whole(shapes[1]))])
        }
        Op::Concat { axis } => {
            let mut first = 0;
            let mut operands = Vec::with_capacity(shapes.len());
            for shape in &shapes {
                let (begin, end) = (result.begin(*axis).max(first), result.end(*axis).min(first + shape[*axis]));
                let part = if begin < end { result.with(*axis, begin - first, end - first) } else { None };
                operands.push(part);
                first += shape[*axis];
            }
            same(&node.op, operands)
        }
        Op::Slice { starts, steps, .. } if steps.iter().all(|step| *step > 0) => {
            let x = Region::new((0..result.rank()).map(|axis| {
                let step = steps[axis].unsigned_abs();
                let first = starts[axis] + result.begin(axis) * step;
                (first, first + (result.extent(axis) - 1) * step + 1)
            }))?;
            let op = Op::Slice { starts: vec![0; result.rank()], steps: steps.clone(), sizes: result.shape() };
            same(&op, vec![Some(x)])
        }
        Op::Reshape { .. } => {
            same(&Op::Reshape { shape: result.shape() }, vec![Some(reshaped_part(shapes[0], output, result)?)])
        }
        Op::Transpose { permutation } => {
            let mut ranges = vec![(0, 1); result.rank()];
            for (axis, from) in permutation.iter().enumerate() {
                ranges[*from] = (result.begin(axis), result.end(axis));
            }
            same(&node.op, vec![Region::new(ranges)])
        }
        Op::Pad { mode: mode @ PadMode::Constant(_), begin, .. } => {
            let shape = shapes[0];
            let inside = |axis: usize| {
                let clip = |index: usize| index.saturating_sub(begin[axis]).min(shape[axis]);
                (clip(result.begin(axis)), clip(result.end(axis)))
            };
            let x = Region::new((0..result.rank()).map(inside))?;
            let before = (0..result.rank()).map(|axis| begin[axis].saturating_sub(result.begin(axis))).collect();
            let after =
                (0..result.rank()).map(|axis| result.end(axis).saturating_sub(begin[axis] + shape[axis])).collect();
            same(&Op::Pad { mode: *mode, begin: before, end: after }, vec![Some(x)])
        }
        Op::Resize { mode, coordinates, scales, sizes } => {
            let mut sizes = sizes.clone();
            let mut x = *result;
            for axis in 0..result.rank() {
                if sizes[axis] == shapes[0][axis] && scales[axis] == 1.0 {
                    sizes[axis] = result.extent(axis);
                } else if full(result, axis) {
                    x = x.with(axis, 0, shapes[0][axis])?;
                } else {
                    return None;
                }
            }
            same(&Op::Resize { mode: *mode, coordinates: *coordinates, scales: scales.clone(), sizes }, vec![Some(x)])
        }
        Op::SpaceToDepth { block } if full(result, 1) => {
            let x = result.with(1, 0, shapes[0][1])?;
            let x = x.with(2, result.begin(2) * block, result.end(2) * block)?;
            same(&node.op, vec![x.with(3, result.begin(3) * block, result.end(3) * block)])
        }
        Op::DepthToSpace { block, .. }
            if full(result, 1)
                && [2, 3].iter().all(|axis| {
                    result.begin(*axis).is_multiple_of(*block) && result.end(*axis).is_multiple_of(*block)
                }) =>
        {
            let x = result.with(1, 0, shapes[0][1])?;
            let x = x.with(2, result.begin(2) / block, result.end(2) / block)?;
            same(&node.op, vec![x.with(3, result.begin(3) / block, result.end(3) / block)])
        }
        _ => None,
    }
}

/// One of several addends whose sum is the whole result.
#[derive(Clone, Debug, PartialEq)]
pub struct Addend {
    /// The operator without activation and residual.
    pub op: Op,
    /// Part of each operand; `None` for one that this addend leaves out (bias and residual of all but the first).
    pub operands: Vec<Option<Region>>,
    /// Factor of the addend, 1 if there is nothing to do.
    pub scale: f32,
    /// What the sum goes through.
    pub activation: Activation,
    /// Position of an operand that is added to the sum.
    pub residual: Option<usize>,
}

/// The part of a node's result that comes from the part `x` of its first operand (input splitting); `None` if the
/// result is not a sum over such parts. `result` is the part of the result that is wanted: all of it, or some rows of a
/// convolution's. `first` says whether this addend carries the bias.
pub fn addend(graph: &Graph, id: NodeId, x: &Region, result: &Region, first: bool) -> Option<Addend> {
    let node = graph.node(id);
    let shapes: Vec<&[usize]> = node.inputs.iter().map(|input| graph.shape(*input)).collect();
    let cut_only =
        |allowed: &[usize]| (0..x.rank()).all(|axis| allowed.contains(&axis) || x.extent(axis) == shapes[0][axis]);
    let whole = Region::whole(graph.shape(*node.outputs.first()?));
    if *result != whole && !matches!(node.op, Op::Conv(_)) {
        return None;
    }
    let bias = |position: usize| first.then(|| Region::whole(shapes[position]));
    match &node.op {
        Op::Conv(conv) if conv.groups == 1 && cut_only(&[1]) => {
            let weights = Region::whole(shapes[1]).with(1, x.begin(1), x.end(1))?;
            let (window, x) = windowed(&conv.window, shapes[0], result, (x.begin(1), x.end(1)))?;
            let op = Op::Conv(Conv { window, residual: false, activation: Activation::None, ..conv.clone() });
            let mut operands = vec![Some(x), Some(weights), bias(2)];
            operands.extend(conv.residual.then_some(None));
            let residual = conv.residual.then_some(3);
            Some(Addend { op, operands, scale: 1.0, activation: conv.activation, residual })
        }
        Op::Gemm(gemm) => {
            let (k_of_a, k_of_b) = (usize::from(!gemm.transpose_a), usize::from(gemm.transpose_b));
            if !cut_only(&[k_of_a]) {
                return None;
            }
            let b = Region::whole(shapes[1]).with(k_of_b, x.begin(k_of_a), x.end(k_of_a))?;
            let op = Op::Gemm(Gemm { activation: Activation::None, ..gemm.clone() });
            let mut operands = vec![Some(*x), Some(b)];
            operands.extend((shapes.len() > 2).then(|| bias(2)));
            Some(Addend { op, operands, scale: 1.0, activation: gemm.activation, residual: None })
        }
        Op::MatMul if shapes.iter().all(|shape| shape.len() >= 2) && cut_only(&[x.rank() - 1]) => {
            let k = x.rank() - 1;
            let b = Region::whole(shapes[1]).with(shapes[1].len() - 2, x.begin(k), x.end(k))?;
            let operands = vec![Some(*x), Some(b)];
            Some(Addend { op: Op::MatMul, operands, scale: 1.0, activation: Activation::None, residual: None })
        }
        Op::GlobalPool(PoolKind::Average) => {
            let spatial = |extents: &dyn Fn(usize) -> usize| (2..x.rank()).map(extents).product::<usize>() as f32;
            let scale = spatial(&|axis| x.extent(axis)) / spatial(&|axis| shapes[0][axis]);
            let operands = vec![Some(*x)];
            let whole_channels = x.extent(1) == shapes[0][1] && x.extent(0) == shapes[0][0];
            whole_channels.then(|| Addend {
                op: node.op.clone(),
                operands,
                scale,
                activation: Activation::None,
                residual: None,
            })
        }
        // Addends of real numbers only: means of integers truncate.
        Op::Reduce { kind: kind @ (ReduceKind::Mean | ReduceKind::Sum), axes, .. }
            if cut_only(axes) && graph.tensor_type(node.inputs[0]).element == ElementType::F32 =>
        {
            let scale = match kind {
                ReduceKind::Mean => x.element_count() as f32 / shapes[0].iter().product::<usize>() as f32,
                _ => 1.0,
            };
            let operands = vec![Some(*x)];
            Some(Addend { op: node.op.clone(), operands, scale, activation: Activation::None, residual: None })
        }
        _ => None,
    }
}

/// The operator that sums addends, with what follows the sum.
pub fn sum(activation: Activation) -> Op {
    Op::Binary(BinaryOp::Add, activation)
}

/// The part of a broadcast operand that a part of the result reads.
fn broadcast_part(result: &Region, shape: &[usize]) -> Option<Region> {
    let first = result.rank() - shape.len();
    Region::new(shape.iter().enumerate().map(|(axis, extent)| match extent {
        1 => (0, 1),
        _ => (result.begin(first + axis), result.end(first + axis)),
    }))
}

/// Range of input indices that outputs `begin..end` of a window read along one spatial axis, clipped to the input, and
/// the padding that is left on both sides. `None` if it lies in the padding altogether.
fn window_part(
    window: &Window,
    index: usize,
    extent: usize,
    begin: usize,
    end: usize,
) -> Option<(usize, usize, usize, usize)> {
    let (stride, pad) = (window.stride[index], window.pad_begin[index]);
    let reach = (window.kernel[index] - 1) * window.dilation[index] + 1;
    let (first, last) = (begin * stride, (end - 1) * stride + reach);
    let (input_begin, input_end) = (first.saturating_sub(pad).min(extent), last.saturating_sub(pad).min(extent));
    let (pad_begin, pad_end) = (pad.saturating_sub(first), last.saturating_sub(pad + extent));
    (input_begin < input_end && pad_begin < reach && pad_end < reach).then_some((
        input_begin,
        input_end,
        pad_begin,
        pad_end,
    ))
}

/// A window restricted to the spatial part of `result`, and the part of `x` it reads; channels of `x` as given.
fn windowed(window: &Window, shape: &[usize], result: &Region, channels: (usize, usize)) -> Option<(Window, Region)> {
    let mut restricted = window.clone();
    let mut ranges = vec![(result.begin(0), result.end(0)), channels];
    for index in 0..window.kernel.len() {
        let axis = index + 2;
        // Along an axis that is not cut the operand stays whole, with what strides pass over at its end: it need not be
        // copied then.
        if result.begin(axis) == 0 && Some(result.end(axis)) == window.output_extent(index, shape[axis]) {
            ranges.push((0, shape[axis]));
            continue;
        }
        let (begin, end, pad_begin, pad_end) =
            window_part(window, index, shape[axis], result.begin(axis), result.end(axis))?;
        (restricted.pad_begin[index], restricted.pad_end[index]) = (pad_begin, pad_end);
        ranges.push((begin, end));
    }
    Some((restricted, Region::new(ranges)?))
}

fn restrict_conv(conv: &Conv, shapes: &[&[usize]], result: &Region) -> Option<Restriction> {
    let outputs_per_group = shapes[1][0] / conv.groups;
    let inputs_per_group = shapes[1][1];
    let (begin, end) = (result.begin(1), result.end(1));
    let whole_groups = begin.is_multiple_of(outputs_per_group) && end.is_multiple_of(outputs_per_group);
    let (groups, channels) = if conv.groups == 1 {
        (1, (0, shapes[0][1]))
    } else if whole_groups {
        let (first, last) = (begin / outputs_per_group, end / outputs_per_group);
        (last - first, (first * inputs_per_group, last * inputs_per_group))
    } else {
        return None;
    };
    let (window, x) = windowed(&conv.window, shapes[0], result, channels)?;
    let weights = Region::whole(shapes[1]).with(0, begin, end)?;
    let mut operands = vec![Some(x), Some(weights), Region::new([(begin, end)])];
    operands.extend(conv.residual.then_some(Some(*result)));
    Some(Restriction { op: Op::Conv(Conv { window, groups, ..conv.clone() }), operands })
}

fn restrict_pool(pool: &Pool, shape: &[usize], result: &Region) -> Option<Restriction> {
    let (window, x) = windowed(&pool.window, shape, result, (result.begin(1), result.end(1)))?;
    let declared_pad_end = pool.declared_pad_end.iter().zip(&window.pad_end).map(|(a, b)| *a.min(b)).collect();
    Some(Restriction { op: Op::Pool(Pool { window, declared_pad_end, ..pool.clone() }), operands: vec![Some(x)] })
}

fn restrict_gemm(gemm: &Gemm, shapes: &[&[usize]], result: &Region) -> Restriction {
    let inner = shapes[0][usize::from(!gemm.transpose_a)];
    let (rows, columns) = ((result.begin(0), result.end(0)), (result.begin(1), result.end(1)));
    let a = if gemm.transpose_a { [(0, inner), rows] } else { [rows, (0, inner)] };
    let b = if gemm.transpose_b { [columns, (0, inner)] } else { [(0, inner), columns] };
    let mut operands = vec![Region::new(a), Region::new(b)];
    operands.extend(shapes.get(2).map(|shape| broadcast_part(result, shape)));
    Restriction { op: Op::Gemm(gemm.clone()), operands }
}

/// The part of a reshape's operand that holds the elements of `result`, if both are boxes of contiguous elements.
fn reshaped_part(from: &[usize], to: &[usize], result: &Region) -> Option<Region> {
    let (first, count) = contiguous(to, result)?;
    let mut inner: usize = from.iter().product();
    for (axis, extent) in from.iter().enumerate() {
        let outer_is_one = from[..axis].iter().all(|extent| *extent == 1);
        inner /= extent;
        if outer_is_one && first.is_multiple_of(inner) && count.is_multiple_of(inner) {
            return Region::whole(from).with(axis, first / inner, (first + count) / inner);
        }
    }
    None
}

/// First element and number of elements of a box that is contiguous in row-major order behind axes of extent 1.
fn contiguous(shape: &[usize], region: &Region) -> Option<(usize, usize)> {
    let cut = (0..region.rank()).find(|axis| region.extent(*axis) != shape[*axis])?;
    let outer_is_one = shape[..cut].iter().all(|extent| *extent == 1);
    let rest_is_whole = (cut + 1..region.rank()).all(|axis| region.extent(axis) == shape[axis]);
    let inner: usize = shape[cut + 1..].iter().product();
    (outer_is_one && rest_is_whole).then(|| (region.begin(cut) * inner, region.extent(cut) * inner))
}
