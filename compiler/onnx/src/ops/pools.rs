//! Pools without a kernel of their own: sums of powers, and the places of largest elements.

use super::spatial::pool_window;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{Activation, BinaryOp, Conv, Op, PadMode, Pool, PoolKind, ReduceKind, UnaryOp};

/// Most elements of a window whose largest one is looked for.
const MAX_TAPS: usize = 1024;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "LpPool" => lp_pool,
        "GlobalLpPool" => global_lp_pool,
        _ => return None,
    })
}

/// The exponent: before version 2 of the operators a real number.
fn exponent(context: &NodeContext<'_>) -> Result<f64, Diagnostic> {
    let p = match context.opset() {
        1 => f64::from(context.attributes.float("p", 2.0)?),
        _ => context.attributes.int("p", 2)? as f64,
    };
    if p > 0.0 { Ok(p) } else { Err(context.refuse(format!("attribute `p` is {p}, expected a positive number"))) }
}

/// `|x| ^ p`
fn power(context: &mut NodeContext<'_>, x: TensorId, p: f64) -> Result<TensorId, Diagnostic> {
    if p == 2.0 {
        return context.binary(BinaryOp::Mul, x, x);
    }
    let size = context.unary(UnaryOp::Abs, x)?;
    if p == 1.0 {
        return Ok(size);
    }
    let p = context.number(p, x)?;
    context.binary(BinaryOp::Pow, size, p)
}

/// `x ^ (1 / p)`
fn root(context: &mut NodeContext<'_>, x: TensorId, p: f64) -> Result<(), Diagnostic> {
    if p == 2.0 {
        return context.emit(Op::Unary(UnaryOp::Sqrt), vec![x]);
    }
    if p == 1.0 {
        return context.emit(Op::Identity, vec![x]);
    }
    let inverse = context.number(1.0 / p, x)?;
    context.emit(Op::Binary(BinaryOp::Pow, Activation::None), vec![x, inverse])
}

/// ONNX LpPool-1, -2, -11, -18, -22: sums over windows are depthwise convolutions with ones.
fn lp_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let p = exponent(context)?;
    let (window, _) = pool_window(context, x)?;
    let channels = context.shape(x)[1];
    let ones = [&[channels, 1], &window.kernel[..]].concat();
    let ones = context.make_constant("ones", ones, std::iter::repeat(1f32))?;
    let bias = context.make_zeros("bias", vec![channels])?;
    let powers = power(context, x, p)?;
    let conv = Conv { window, groups: channels, residual: false, activation: Activation::None };
    let sum = context.value(Op::Conv(conv), &[powers, ones, bias])?;
    root(context, sum, p)
}

/// ONNX GlobalLpPool-1, -2, -22.
fn global_lp_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let p = exponent(context)?;
    let rank = context.shape(x).len();
    let powers = power(context, x, p)?;
    let over = Op::Reduce { kind: ReduceKind::Sum, axes: (2..rank).collect(), keep_dims: true };
    let sum = context.value(over, &[powers])?;
    root(context, sum, p)
}

/// MaxPool with its second result: the number of each largest element in the input, the first of equals.
pub(super) fn max_pool_with_indices(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let (window, declared_pad_end) = pool_window(context, x)?;
    let shape = context.shape(x);
    let spatial = shape[2..].to_vec();
    let rank = spatial.len();
    let column_major = context.attributes.flag("storage_order", false)?;
    let taps: usize = window.kernel.iter().try_fold(1usize, |taps, size| taps.checked_mul(*size)).unwrap_or(usize::MAX);
    if taps > MAX_TAPS {
        return Err(context
            .attributes
            .unsupported(format!("windows of {taps} elements; up to {MAX_TAPS} are supported")));
    }
    let pool = Pool { kind: PoolKind::Max, window: window.clone(), declared_pad_end, count_include_pad: false };
    let largest = context.value(Op::Pool(pool), &[x])?;
    let result = context.shape(largest);
    let pad = |ends: &[usize]| [&[0, 0], ends].concat();
    let lowest = Op::Pad {
        mode: PadMode::Constant(f32::NEG_INFINITY),
        begin: pad(&window.pad_begin),
        end: pad(&window.pad_end),
    };
    let padded = context.value(lowest, &[x])?;
    // Numbers of input elements, along each axis as the order of storage says.
    let mut steps = vec![1i64; rank];
    if column_major {
        (1..rank).for_each(|axis| steps[axis] = steps[axis - 1] * spatial[axis - 1] as i64);
    } else {
        (1..rank).rev().for_each(|axis| steps[axis - 1] = steps[axis] * spatial[axis] as i64);
    }
    let mut rows = Vec::with_capacity(taps);
    let mut offsets = Vec::with_capacity(taps);
    let wide = [&result[..], &[1]].concat();
    for tap in 0..taps {
        let (mut rest, mut starts, mut offset) = (tap, vec![0; rank + 2], 0);
        for axis in (0..rank).rev() {
            let place = rest % window.kernel[axis] * window.dilation[axis];
            rest /= window.kernel[axis];
            starts[axis + 2] = place;
            offset += place as i64 * steps[axis];
        }
        let stride = window.stride.iter().map(|stride| *stride as isize);
        let slice = Op::Slice { starts, steps: [1, 1].into_iter().chain(stride).collect(), sizes: result.clone() };
        let row = context.value(slice, &[padded])?;
        rows.push(context.value(Op::Reshape { shape: wide.clone() }, &[row])?);
        offsets.push(offset);
    }
    let all = context.value(Op::Concat { axis: rank + 2 }, &rows)?;
    let tap = context.value(Op::ArgMax { axis: rank + 2, keep_dims: false, select_last: false }, &[all])?;
    let offsets = context.make_constant("offsets", [taps], offsets)?;
    let offset = context.value(Op::Gather { axis: 0 }, &[offsets, tap])?;
    let count: usize = result.iter().product();
    let plane = spatial.iter().product::<usize>() as i64;
    let outputs: usize = result[2..].iter().product();
    let firsts = (0..count).map(|element| {
        let (channel, mut rest) = (element / outputs, element % outputs);
        let mut first = channel as i64 * plane;
        for axis in (0..rank).rev() {
            let place = rest % result[axis + 2];
            rest /= result[axis + 2];
            first += (place as i64 * window.stride[axis] as i64 - window.pad_begin[axis] as i64) * steps[axis];
        }
        first
    });
    let firsts = context.make_constant("firsts", result.clone(), firsts)?;
    let indices = context.binary(BinaryOp::Add, offset, firsts)?;
    context.bind(&[largest, indices])
}
