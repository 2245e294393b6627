//! The portable kernel of every operator with its parameters: what evaluation runs, what emitted programs call, and, for
//! lowering, whether there is one.

use partita_rt::kernels::{self, Call, Window3};

use super::elements;
use super::op::{self, Op, ResizeMode, Window};
use super::types::TensorType;

/// The kernel that computes an operator on operands and results of these types; `None` if it is not defined for them.
///
/// Its operands are the operator's, in order, and then the results.
#[expect(clippy::too_many_lines, reason = "one arm for each operator")]
pub fn reference_call<'a>(op: &'a Op, inputs: &[&'a TensorType], outputs: &[&'a TensorType]) -> Option<Call<'a>> {
    let values = inputs.get(elements::values(op, inputs.len()))?;
    if !values.iter().all(|value| elements::takes(op, value.element)) {
        return None;
    }
    let x_shape = inputs.first()?.shape.as_slice();
    let y_shape = outputs.first()?.shape.as_slice();
    let shape = |index: usize| inputs.get(index).map(|input| input.shape.as_slice());
    let [channels, plane] = [1, 2].map(|axis| x_shape.iter().skip(axis).product::<usize>());
    let channels = channels / plane.max(1);
    Some(match op {
        Op::Conv(conv) => {
            let (window, groups, activation) = (in_space(&conv.window), conv.groups, conv.activation);
            Call::Conv(kernels::Conv { x_shape, y_shape, window, groups, activation })
        }
        Op::ConvTranspose(conv) => {
            let (window, groups, activation) = (in_space(&conv.window), conv.groups, conv.activation);
            Call::ConvTranspose(kernels::ConvTranspose { x_shape, y_shape, window, groups, activation })
        }
        Op::Gemm(gemm) => {
            let [m, n] = *y_shape else { return None };
            Call::Gemm(kernels::Gemm {
                m,
                k: *x_shape.get(usize::from(!gemm.transpose_a))?,
                n,
                transpose_a: gemm.transpose_a,
                transpose_b: gemm.transpose_b,
                alpha: gemm.alpha,
                beta: gemm.beta,
                c_shape: shape(2).unwrap_or(&[]),
                activation: gemm.activation,
            })
        }
        Op::MatMul => Call::MatMul(kernels::MatMul { a_shape: x_shape, b_shape: shape(1)?, y_shape }),
        Op::Einsum(einsum) => {
            let (a_labels, y_labels) = (einsum.terms.first()?.as_slice(), einsum.result.as_slice());
            let (b_labels, b_shape) = (einsum.terms.get(1).map_or(&[][..], Vec::as_slice), shape(1).unwrap_or(&[]));
            Call::Einsum(kernels::Einsum { a_labels, a_shape: x_shape, b_labels, b_shape, y_labels, y_shape })
        }
        Op::BatchNormalization { epsilon } => {
            Call::BatchNormalization(kernels::BatchNormalization { plane, epsilon: *epsilon })
        }
        Op::InstanceNormalization { epsilon } => {
            Call::InstanceNormalization(kernels::InstanceNormalization { plane, epsilon: *epsilon })
        }
        Op::GroupNormalization { groups, epsilon } => {
            let (channels, epsilon) = (channels / (*groups).max(1), *epsilon);
            Call::GroupNormalization(kernels::GroupNormalization { channels, plane, epsilon })
        }
        Op::LayerNormalization { epsilon, .. } => {
            Call::LayerNormalization(kernels::LayerNormalization { epsilon: *epsilon })
        }
        Op::Lrn { alpha, beta, bias, size } => {
            let (alpha, beta, bias, size) = (*alpha, *beta, *bias, *size);
            Call::Lrn(kernels::Lrn { channels, plane, alpha, beta, bias, size })
        }
        Op::Unary(function) => Call::Unary(kernels::Unary { function: *function }),
        Op::Binary(function, _) if function.is_comparison() => {
            Call::Compare(kernels::Compare { a_shape: x_shape, b_shape: shape(1)?, y_shape, function: *function })
        }
        Op::Binary(function, activation) => {
            let (function, activation) = (*function, *activation);
            Call::Binary(kernels::Binary { a_shape: x_shape, b_shape: shape(1)?, y_shape, function, activation })
        }
        Op::PRelu => Call::PRelu(kernels::PRelu { slope_shape: shape(1)?, y_shape }),
        Op::Where => {
            Call::Where(kernels::Where { condition_shape: x_shape, a_shape: shape(1)?, b_shape: shape(2)?, y_shape })
        }
        Op::Pool(pool) => Call::Pool(kernels::Pool {
            kind: pool.kind,
            x_shape,
            y_shape,
            window: in_space(&pool.window),
            pad_end: three(&pool.declared_pad_end, 0),
            count_include_pad: pool.count_include_pad,
        }),
        Op::GlobalPool(kind) => Call::GlobalPool(kernels::GlobalPool { kind: *kind, plane }),
        Op::Softmax { axis } => {
            let (extent, inner) = line(x_shape, *axis)?;
            Call::Softmax(kernels::Softmax { extent, inner })
        }
        Op::LogSoftmax { axis } => {
            let (extent, inner) = line(x_shape, *axis)?;
            Call::LogSoftmax(kernels::LogSoftmax { extent, inner })
        }
        Op::Reduce { kind, axes, .. } => {
            let reduced = std::array::from_fn(|axis| axes.contains(&axis));
            Call::Reduce(kernels::Reduce { x_shape, reduced, kind: *kind })
        }
        Op::ArgMax { axis, select_last, .. } => {
            let (extent, inner) = line(x_shape, *axis)?;
            Call::ArgMax(kernels::ArgMax { extent, inner, select_last: *select_last })
        }
        Op::Concat { axis } => Call::Concat(kernels::Concat { row: y_shape.get(*axis..)?.iter().product() }),
        Op::Split { axis, .. } => Call::Split(kernels::Split { row: x_shape.get(*axis..)?.iter().product() }),
        Op::Slice { starts, steps, .. } => Call::Slice(kernels::Slice { x_shape, y_shape, starts, steps }),
        Op::Reshape { .. } | Op::Identity => Call::Identity(kernels::Identity),
        Op::Transpose { permutation } => Call::Transpose(kernels::Transpose { x_shape, y_shape, permutation }),
        Op::Pad { mode, begin, .. } => Call::Pad(kernels::Pad { x_shape, y_shape, begin, mode: *mode }),
        Op::Gather { axis } => {
            let (extent, inner) = line(x_shape, *axis)?;
            Call::Gather(kernels::Gather { extent, inner })
        }
        Op::Scatter { function } => {
            let (extent, inner) = line(x_shape, 0)?;
            Call::Scatter(kernels::Scatter { extent, inner, function: *function })
        }
        Op::Expand { .. } => Call::Expand(kernels::Expand { x_shape, y_shape }),
        Op::Cast { .. } => Call::Cast(kernels::Cast),
        Op::BitCast { .. } => Call::BitCast(kernels::BitCast),
        Op::Resize { mode: ResizeMode::Nearest(rounding), coordinates, scales, .. } => {
            let (coordinates, rounding) = (*coordinates, *rounding);
            Call::ResizeNearest(kernels::ResizeNearest { x_shape, y_shape, scales, coordinates, rounding })
        }
        Op::Resize { mode: ResizeMode::Linear, coordinates, scales, .. } => {
            Call::ResizeLinear(kernels::ResizeLinear { x_shape, y_shape, scales, coordinates: *coordinates })
        }
        Op::SpaceToDepth { block } => {
            Call::SpaceToDepth(kernels::SpaceToDepth { x_shape: x_shape.try_into().ok()?, block: *block })
        }
        Op::DepthToSpace { block, column_row_depth } => Call::DepthToSpace(kernels::DepthToSpace {
            x_shape: x_shape.try_into().ok()?,
            block: *block,
            column_row_depth: *column_row_depth,
        }),
        Op::NonMaxSuppression(suppression) => {
            let [_, classes, boxes] = *shape(1)? else { return None };
            let op::NonMaxSuppression { most, overlap, least, centred, .. } = *suppression;
            Call::NonMaxSuppression(kernels::NonMaxSuppression { classes, boxes, most, overlap, least, centred })
        }
        Op::RoiAlign(align) => {
            let [_, channels, height, width] = *x_shape else { return None };
            let op::RoiAlign { kind, bins, scale, half_pixel, ratio } = *align;
            let extents = [height, width];
            Call::RoiAlign(kernels::RoiAlign { channels, extents, bins, kind, scale, half_pixel, ratio })
        }
        Op::TreeEnsemble(trees) => {
            let (features, targets, kind) = (*x_shape.get(1)?, trees.targets, trees.kind);
            Call::TreeEnsemble(kernels::TreeEnsemble { features, targets, kind })
        }
        Op::Decide(decide) => Call::Decide(decide.call()),
    })
}

/// Depth, height, width from 1 to 3 spatial entries; missing ones are `missing`.
pub fn three(entries: &[usize], missing: usize) -> [usize; 3] {
    let mut result = [missing; 3];
    for (slot, entry) in result.iter_mut().rev().zip(entries.iter().rev()) {
        *slot = *entry;
    }
    result
}

fn in_space(window: &Window) -> Window3 {
    Window3 {
        kernel: three(&window.kernel, 1),
        stride: three(&window.stride, 1),
        dilation: three(&window.dilation, 1),
        pad_begin: three(&window.pad_begin, 0),
    }
}

/// Extent of an axis, and how far its elements lie apart.
fn line(shape: &[usize], axis: usize) -> Option<(usize, usize)> {
    Some((*shape.get(axis)?, shape.iter().skip(axis + 1).product()))
}
