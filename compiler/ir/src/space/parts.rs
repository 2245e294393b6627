//! Of every operator, the one that computes a part of its result from parts of its operands, and what is summed.

use crate::graph::op::{Conv, ConvTranspose, Gemm, Pool, ReduceKind, Window};
use crate::graph::{Activation, Op};
use crate::region::Region;

/// A part of an operator's loops, as parts of its operands and of its first result.
pub struct Part<'a> {
    /// Shapes of the whole operands.
    pub shapes: &'a [&'a [usize]],
    /// What is read of each operand; `None` if nothing.
    pub operands: &'a [Option<Region>],
    /// The part of the first result.
    pub result: &'a Region,
}

/// The operator that computes a part from parts; `None` if none does.
pub fn on_part(op: &Op, part: &Part<'_>) -> Option<Op> {
    let result = part.result;
    if part.operands.contains(&None) && !matches!(op, Op::Concat { .. }) {
        return None;
    }
    let window = |window: &Window| window_on_part(window, part.shapes[0], result);
    Some(match op {
        Op::Conv(conv) => {
            let channels = part.operands[0]?.extent(1);
            let groups = if conv.groups == 1 { 1 } else { channels / part.shapes[1][1] };
            Op::Conv(Conv { window: window(&conv.window)?, groups, ..conv.clone() })
        }
        Op::ConvTranspose(conv) => {
            let per_group = part.shapes[0][1] / conv.groups;
            let groups = if conv.groups == 1 { 1 } else { part.operands[0]?.extent(1) / per_group };
            Op::ConvTranspose(ConvTranspose { groups, ..conv.clone() })
        }
        Op::GroupNormalization { groups, epsilon } => {
            let groups = groups * part.operands[0]?.extent(1) / part.shapes[0][1];
            Op::GroupNormalization { groups, epsilon: *epsilon }
        }
        Op::Pool(pool) => {
            let window = window(&pool.window)?;
            let declared_pad_end = pool.declared_pad_end.iter().zip(&window.pad_end).map(|(a, b)| *a.min(b)).collect();
            Op::Pool(Pool { window, declared_pad_end, ..pool.clone() })
        }
        Op::Expand { .. } => Op::Expand { shape: result.shape() },
        Op::Reshape { .. } => Op::Reshape { shape: result.shape() },
        Op::Slice { starts, steps, .. } => {
            let x = part.operands[0]?;
            let first = |axis: usize| {
                let first = starts[axis] as isize + result.begin(axis) as isize * steps[axis];
                first.unsigned_abs() - x.begin(axis)
            };
            let starts = (0..result.rank()).map(first).collect();
            Op::Slice { starts, steps: steps.clone(), sizes: result.shape() }
        }
        Op::Pad { mode, begin, end } => {
            let [begin, end] = pads_on_part(begin, end, part.shapes[0], result);
            Op::Pad { mode: *mode, begin, end }
        }
        Op::Resize { mode, coordinates, scales, .. } => {
            Op::Resize { mode: *mode, coordinates: *coordinates, scales: scales.clone(), sizes: result.shape() }
        }
        Op::Gemm(_)
        | Op::MatMul
        | Op::Einsum(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::Unary(_)
        | Op::Binary(..)
        | Op::PRelu
        | Op::Where
        | Op::GlobalPool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Transpose { .. }
        | Op::Gather { .. }
        | Op::Scatter { .. }
        | Op::Identity
        | Op::Cast { .. }
        | Op::BitCast { .. }
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. }
        | Op::NonMaxSuppression(_)
        | Op::RoiAlign(_)
        | Op::TreeEnsemble(_)
        | Op::Decide(_) => op.clone(),
    })
}

/// What is padded before and behind the part of each axis. What reflects is not cut.
fn pads_on_part(begin: &[usize], end: &[usize], x: &[usize], result: &Region) -> [Vec<usize>; 2] {
    let cut = |axis: usize| result.extent(axis) != begin[axis] + x[axis] + end[axis];
    let before = |axis: usize| match cut(axis) {
        true => begin[axis].saturating_sub(result.begin(axis)),
        false => begin[axis],
    };
    let after = |axis: usize| match cut(axis) {
        true => result.end(axis).saturating_sub(begin[axis] + x[axis]),
        false => end[axis],
    };
    [(0..result.rank()).map(before).collect(), (0..result.rank()).map(after).collect()]
}

/// A window restricted to the spatial part of `result`: the pads that are left. `None` if a tile lies in the pads so far
/// that its first or last window would read nothing else.
fn window_on_part(window: &Window, x: &[usize], result: &Region) -> Option<Window> {
    let mut restricted = window.clone();
    for index in 0..window.kernel.len() {
        let (begin, end, extent) = (result.begin(index + 2), result.end(index + 2), x[index + 2]);
        if begin == 0 && Some(end) == window.output_extent(index, extent) {
            continue;
        }
        let (stride, pad) = (window.stride[index], window.pad_begin[index]);
        let reach = (window.kernel[index] - 1) * window.dilation[index] + 1;
        let pad_begin = pad.saturating_sub(begin * stride);
        let pad_end = ((end - 1) * stride + reach).saturating_sub(pad + extent);
        if pad_begin >= reach || pad_end >= reach {
            return None;
        }
        (restricted.pad_begin[index], restricted.pad_end[index]) = (pad_begin, pad_end);
    }
    Some(restricted)
}

/// An operator whose result is a sum over parts of its first operand, without what follows the sum.
pub struct Summand {
    /// The operator that computes one of the parts.
    pub op: Op,
    /// What the sum goes through.
    pub activation: Activation,
    /// Position of an operand that is added to the sum.
    pub residual: Option<usize>,
    /// Whether it is a mean: each part counts by its share.
    pub mean: bool,
}

/// What is summed where axes of kind [`super::AxisKind::Sum`] are cut; `None` of an operator that has none.
pub fn summand(op: &Op) -> Option<Summand> {
    let plain = |op: Op, mean: bool| Summand { op, activation: Activation::None, residual: None, mean };
    let activation = Activation::None;
    Some(match op {
        Op::Conv(conv) => Summand {
            residual: conv.residual.then_some(3),
            activation: conv.activation,
            ..plain(Op::Conv(Conv { residual: false, activation, ..conv.clone() }), false)
        },
        Op::ConvTranspose(conv) => Summand {
            activation: conv.activation,
            ..plain(Op::ConvTranspose(ConvTranspose { activation, ..conv.clone() }), false)
        },
        Op::Gemm(gemm) => {
            Summand { activation: gemm.activation, ..plain(Op::Gemm(Gemm { activation, ..gemm.clone() }), false) }
        }
        Op::MatMul | Op::Einsum(_) => plain(op.clone(), false),
        Op::GlobalPool(_) => plain(op.clone(), true),
        Op::Reduce { kind, .. } => plain(op.clone(), *kind == ReduceKind::Mean),
        Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::Unary(_)
        | Op::Binary(..)
        | Op::PRelu
        | Op::Where
        | Op::Pool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::ArgMax { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Scatter { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Cast { .. }
        | Op::BitCast { .. }
        | Op::Resize { .. }
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. }
        | Op::NonMaxSuppression(_)
        | Op::RoiAlign(_)
        | Op::TreeEnsemble(_)
        | Op::Decide(_) => return None,
    })
}
