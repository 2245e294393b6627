//! Convolutions, products, normalisations, pooling, reductions, resizing.

use partita_rt::kernels::{self, ConvParameters, Coordinates, GemmParameters, PoolParameters, Reduction, Rounding};

use super::error::{EvalError, f32s, wrong_type};
use crate::graph::op::{
    Activation, Decide, NearestRounding, Op, PoolKind, ReduceKind, ResizeCoordinates, ResizeMode, Window,
};
use crate::graph::types::{Data, TensorType, Value, on_numbers};

/// The activation as runtime-rt names it.
pub fn activation(activation: Activation) -> kernels::Activation {
    match activation {
        Activation::None => kernels::Activation::None,
        Activation::Relu => kernels::Activation::Relu,
        Activation::Clip(low, high) => kernels::Activation::Clip(low, high),
        Activation::LeakyRelu(alpha) => kernels::Activation::LeakyRelu(alpha),
        Activation::HardSwish => kernels::Activation::HardSwish,
        Activation::HardSigmoid(alpha, beta) => kernels::Activation::HardSigmoid(alpha, beta),
    }
}

/// Depth, height, width from 1 to 3 spatial entries; missing ones are `missing`.
pub fn three(entries: &[usize], missing: usize) -> [usize; 3] {
    let mut result = [missing; 3];
    for (slot, entry) in result.iter_mut().rev().zip(entries.iter().rev()) {
        *slot = *entry;
    }
    result
}

/// A window as runtime-rt wants it.
pub fn conv_parameters(window: &Window, groups: usize, last: Activation) -> ConvParameters {
    ConvParameters {
        kernel: three(&window.kernel, 1),
        stride: three(&window.stride, 1),
        dilation: three(&window.dilation, 1),
        pad_begin: three(&window.pad_begin, 0),
        groups,
        activation: activation(last),
    }
}

/// Elements of one index of `axis`, and how many indices there are.
fn line(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[axis], shape[axis + 1..].iter().product())
}

pub(super) fn evaluate(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Vec<f32>, EvalError> {
    let mut y = vec![0.0f32; output.element_count()];
    let x_value = inputs[0];
    let x = f32s(op, x_value)?;
    let x_shape = &x_value.shape;
    let input = |index: usize| f32s(op, inputs[index]);
    match op {
        Op::Conv(conv) => {
            let residual = if conv.residual { Some(input(3)?) } else { None };
            let parameters = conv_parameters(&conv.window, conv.groups, conv.activation);
            kernels::conv(x, x_shape, input(1)?, input(2)?, residual, &mut y, &output.shape, &parameters);
        }
        Op::ConvTranspose(conv) => {
            let parameters = conv_parameters(&conv.window, conv.groups, conv.activation);
            kernels::conv_transpose(x, x_shape, input(1)?, input(2)?, &mut y, &output.shape, &parameters);
        }
        Op::Gemm(gemm) => {
            let parameters = GemmParameters {
                transpose_a: gemm.transpose_a,
                transpose_b: gemm.transpose_b,
                alpha: gemm.alpha,
                beta: gemm.beta,
                activation: activation(gemm.activation),
            };
            let depth = if gemm.transpose_a { x_shape[0] } else { x_shape[1] };
            let c = inputs.get(2).map(|c| f32s(op, c).map(|elements| (elements, c.shape.as_slice()))).transpose()?;
            kernels::gemm(x, input(1)?, c, &mut y, output.shape[0], depth, output.shape[1], &parameters);
        }
        Op::MatMul => {
            let shapes = matmul_shapes(x_shape, &inputs[1].shape, &output.shape);
            kernels::matmul(x, &shapes[0], input(1)?, &shapes[1], &mut y, &shapes[2]);
        }
        Op::BatchNormalization { epsilon } => {
            kernels::batch_normalization(x, x_shape, input(1)?, input(2)?, input(3)?, input(4)?, &mut y, *epsilon);
        }
        Op::InstanceNormalization { epsilon } => {
            kernels::instance_normalization(x, x_shape, input(1)?, input(2)?, &mut y, *epsilon);
        }
        Op::LayerNormalization { epsilon, .. } => {
            kernels::layer_normalization(x, input(1)?, input(2)?, &mut y, *epsilon);
        }
        Op::Lrn { alpha, beta, bias, size } => kernels::lrn(x, x_shape, &mut y, *alpha, *beta, *bias, *size),
        Op::Pool(pool) => {
            let parameters = PoolParameters {
                kernel: three(&pool.window.kernel, 1),
                stride: three(&pool.window.stride, 1),
                dilation: three(&pool.window.dilation, 1),
                pad_begin: three(&pool.window.pad_begin, 0),
                pad_end: three(&pool.declared_pad_end, 0),
                count_include_pad: pool.count_include_pad,
            };
            match pool.kind {
                PoolKind::Max => kernels::max_pool(x, x_shape, &mut y, &output.shape, &parameters),
                PoolKind::Average => kernels::average_pool(x, x_shape, &mut y, &output.shape, &parameters),
            }
        }
        Op::GlobalPool(kind) => {
            let plane = x_shape[2..].iter().product();
            match kind {
                PoolKind::Max => kernels::global_max_pool(x, &mut y, plane),
                PoolKind::Average => kernels::global_average_pool(x, &mut y, plane),
            }
        }
        Op::Softmax { axis } => {
            let (extent, inner) = line(x_shape, *axis);
            kernels::softmax(x, &mut y, extent, inner);
        }
        Op::LogSoftmax { axis } => {
            let (extent, inner) = line(x_shape, *axis);
            kernels::log_softmax(x, &mut y, extent, inner);
        }
        Op::Resize { mode: ResizeMode::Linear, coordinates, scales, .. } => {
            let coordinates = resize_coordinates(*coordinates);
            kernels::resize_linear(x, x_shape, &mut y, &output.shape, scales, coordinates);
        }
        _ => return Err(wrong_type(op, inputs)),
    }
    Ok(y)
}

/// Coordinate mapping as runtime-rt names it.
pub fn resize_coordinates(coordinates: ResizeCoordinates) -> Coordinates {
    match coordinates {
        ResizeCoordinates::HalfPixel => Coordinates::HalfPixel,
        ResizeCoordinates::PytorchHalfPixel => Coordinates::PytorchHalfPixel,
        ResizeCoordinates::AlignCorners => Coordinates::AlignCorners,
        ResizeCoordinates::Asymmetric => Coordinates::Asymmetric,
    }
}

/// Rounding as runtime-rt names it.
pub fn resize_rounding(rounding: NearestRounding) -> Rounding {
    match rounding {
        NearestRounding::RoundPreferFloor => Rounding::RoundPreferFloor,
        NearestRounding::RoundPreferCeil => Rounding::RoundPreferCeil,
        NearestRounding::Floor => Rounding::Floor,
        NearestRounding::Ceil => Rounding::Ceil,
    }
}

/// Shapes of A, B and the product with vectors made into matrices (numpy's matmul rules).
pub fn matmul_shapes(a: &[usize], b: &[usize], product: &[usize]) -> [Vec<usize>; 3] {
    let left = if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() };
    let right = if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() };
    let mut whole = product.to_vec();
    if b.len() == 1 {
        whole.push(1);
    }
    if a.len() == 1 {
        whole.insert(whole.len() - 1, 1);
    }
    [left, right, whole]
}

pub(super) fn evaluate_reduction(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    let x_shape = &inputs[0].shape;
    match op {
        Op::Reduce { kind, axes, .. } => {
            let reduced: Vec<bool> = (0..x_shape.len()).map(|axis| axes.contains(&axis)).collect();
            let reduction = match kind {
                ReduceKind::Mean => Reduction::Mean,
                ReduceKind::Sum => Reduction::Sum,
                ReduceKind::Max => Reduction::Max,
                ReduceKind::Min => Reduction::Min,
            };
            if let Data::F32(x) = &inputs[0].data {
                let mut y = vec![0.0; output.element_count()];
                kernels::reduce(x, x_shape, &mut y, &reduced, reduction);
                return Ok(Data::F32(y));
            }
            Ok(on_numbers!(&inputs[0].data, elements => Self({
                let mut y = vec![Default::default(); output.element_count()];
                kernels::reduce_numbers(elements, x_shape, &mut y, &reduced, reduction);
                y
            }), return Err(wrong_type(op, inputs))))
        }
        Op::Decide(decide) => {
            let scores = f32s(op, inputs[0])?;
            let mut verdict = vec![0.0; output.element_count()];
            verdict_of(decide, scores, &mut verdict, &mut kernels::Steady::new());
            Ok(Data::F32(verdict))
        }
        Op::ArgMax { axis, select_last, .. } => {
            let mut y = vec![0i64; output.element_count()];
            let (extent, inner) = line(x_shape, *axis);
            match &inputs[0].data {
                Data::F32(x) => kernels::arg_max(x, &mut y, extent, inner, *select_last),
                other => on_numbers!(
                    other,
                    x => kernels::arg_max_numbers(x, &mut y, extent, inner, *select_last),
                    return Err(wrong_type(op, inputs))
                ),
            }
            Ok(Data::I64(y))
        }
        _ => Err(wrong_type(op, inputs)),
    }
}

/// What an exit decides; `steady` is what it has said before.
pub(super) fn verdict_of(decide: &Decide, scores: &[f32], verdict: &mut [f32], steady: &mut kernels::Steady) {
    let temperature = decide.logits.then_some(decide.temperature);
    let patience = decide.patience.map(|patience| (patience.into(), steady));
    kernels::decide(scores, verdict, decide.rule.into(), temperature, decide.threshold, patience);
}
