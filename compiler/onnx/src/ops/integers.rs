//! Products of whole numbers (QLinearConv, ConvInteger, ..) and DynamicQuantizeLinear, as ONNX defines them.
//!
//! Sums of products are taken in `f32`, exact below 2^24. What may be larger is cut into parts that cannot, along the axis
//! that is summed over, and those are added as integers.

use super::quantized::{Parameters, grid_of};
use crate::importer::{Converter, NodeContext};
use crate::quantized::Grid;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, ReduceKind};
use partita_ir::graph::{ElementType, TensorId, Value};

/// Whole numbers up to this are exact in `f32`, and so are sums that never exceed it.
const EXACT: f64 = (1 << 24) as f64;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "DynamicQuantizeLinear" => dynamic_quantize,
        "MatMulInteger" => matmul_integer,
        "ConvInteger" => conv_integer,
        "QLinearMatMul" => qlinear_matmul,
        "QLinearConv" => qlinear_conv,
        _ => return None,
    })
}

fn dynamic_quantize(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let results = quantized_by_range(context, x)?;
    context.bind(&results)
}

/// To 8 bits by the range of the elements, which includes 0: the quantized tensor, its scale and its zero point.
pub(super) fn quantized_by_range(context: &mut NodeContext<'_>, x: TensorId) -> Result<[TensorId; 3], Diagnostic> {
    let axes: Vec<usize> = (0..context.shape(x).len()).collect();
    let over = |kind| Op::Reduce { kind, axes: axes.clone(), keep_dims: false };
    let number =
        |context: &mut NodeContext<'_>, value: f32| context.add_constant("number", Value::f32(Vec::new(), vec![value]));
    let (zero, one, steps) = (number(context, 0.0)?, number(context, 1.0)?, number(context, 255.0)?);
    let low = context.value(over(ReduceKind::Min), &[x])?;
    let low = context.binary(BinaryOp::Min, low, zero)?;
    let high = context.value(over(ReduceKind::Max), &[x])?;
    let high = context.binary(BinaryOp::Max, high, zero)?;
    let range = context.binary(BinaryOp::Sub, high, low)?;
    let scale = context.binary(BinaryOp::Div, range, steps)?;
    // Nothing but zeros: any scale will do, and onnxruntime takes this one.
    let is_zero = context.binary(BinaryOp::Equal, scale, zero)?;
    let scale = context.value(Op::Where, &[is_zero, one, scale])?;
    let below = context.binary(BinaryOp::Sub, zero, low)?;
    let point = Op::Binary(BinaryOp::RoundedQuotient, Activation::Clip(0.0, 255.0));
    let point = context.value(point, &[below, scale])?;
    let quotient = context.binary(BinaryOp::RoundedQuotient, x, scale)?;
    let saturated = Op::Binary(BinaryOp::Add, Activation::Clip(0.0, 255.0));
    let result = context.value(saturated, &[quotient, point])?;
    context.importer.promise(result, ElementType::U8);
    context.importer.promise(point, ElementType::U8);
    Ok([result, scale, point])
}

/// Largest distance of an element from its zero point.
fn reach(context: &NodeContext<'_>, x: TensorId, zero: Option<TensorId>) -> f64 {
    let (low, high) = match context.promised(x) {
        ElementType::I8 => (-128.0, 127.0),
        _ => (0.0, 255.0),
    };
    let zeros = zero.and_then(|zero| context.importer.graph.value(zero).cloned());
    match (zero, zeros) {
        (None, _) => f64::max(-low, high),
        (Some(_), None) => high - low,
        (Some(_), Some(zeros)) => {
            let of = |zero: &f32| f64::max(f64::from(*zero) - low, high - f64::from(*zero));
            partita_ir::graph::values::to_f32(&zeros.data).iter().map(of).fold(0.0, f64::max)
        }
    }
}

/// A product with quantized weights: the first factor is quantized by its range, the second is `steps * scale`.
pub(super) fn product_by_range(
    context: &mut NodeContext<'_>,
    x: TensorId,
    [steps, scale]: [TensorId; 2],
) -> Result<TensorId, Diagnostic> {
    let [x, x_scale, point] = quantized_by_range(context, x)?;
    let binary = |function| Op::Binary(function, Activation::None);
    let x = context.emit_own(binary(BinaryOp::Sub), vec![x, point])?[0];
    let product = context.emit_own(Op::MatMul, vec![x, steps])?[0];
    let scale = context.emit_own(binary(BinaryOp::Mul), vec![scale, x_scale])?[0];
    Ok(context.emit_own(binary(BinaryOp::Mul), vec![product, scale])?[0])
}

/// A tensor less its zero point, as `f32`. Zero points of several elements lie along `axis`.
pub(super) fn centred(
    context: &mut NodeContext<'_>,
    x: TensorId,
    zero: Option<TensorId>,
    axis: usize,
) -> Result<TensorId, Diagnostic> {
    let steps = context.as_f32(x)?;
    let Some(zero) = zero else { return Ok(steps) };
    let mut zero = context.as_f32(zero)?;
    let shape = context.shape(x);
    let count = context.tensor_type(zero).element_count();
    let is_scalar = count == 1;
    if is_scalar && context.importer.graph.f32_value(zero).is_some_and(|zero| zero[0] == 0.0) {
        return Ok(steps);
    }
    if !is_scalar && context.shape(zero).len() == 1 {
        if shape.get(axis) != Some(&count) {
            return Err(context.refuse(format!("{count} zero points for {}", context.tensor_type(x))));
        }
        let along = std::iter::once(count).chain(std::iter::repeat_n(1, shape.len() - 1 - axis)).collect();
        zero = context.emit_own(Op::Reshape { shape: along }, vec![zero])?[0];
    } else if is_scalar {
        zero = context.emit_own(Op::Reshape { shape: Vec::new() }, vec![zero])?[0];
    }
    Ok(context.emit_own(Op::Binary(BinaryOp::Sub, Activation::None), vec![steps, zero])?[0])
}

/// Largest sum of magnitudes of elements less their zero point, over the groups that are added; `None` if something is
/// not known. Several zero points lie along an axis with `inner` elements behind it.
fn largest_sum(
    context: &NodeContext<'_>,
    x: TensorId,
    zero: Option<TensorId>,
    inner: usize,
    group_of: impl Fn(usize) -> usize,
) -> Option<f64> {
    let value =
        |id: TensorId| context.importer.graph.value(id).map(|value| partita_ir::graph::values::to_f32(&value.data));
    let elements = value(x)?;
    let zeros = match zero {
        Some(zero) => value(zero)?,
        None => vec![0.0],
    };
    let mut sums = std::collections::BTreeMap::new();
    for (position, element) in elements.iter().enumerate() {
        let zero = zeros.get(position / inner.max(1) % zeros.len().max(1)).copied().unwrap_or(0.0);
        *sums.entry(group_of(position)).or_insert(0.0) += f64::from((element - zero).abs());
    }
    Some(sums.values().copied().fold(0.0, f64::max))
}

fn part(
    context: &mut NodeContext<'_>,
    x: TensorId,
    axis: usize,
    start: usize,
    size: usize,
) -> Result<TensorId, Diagnostic> {
    let op = crate::expressions::part(&context.shape(x), axis, start, size);
    Ok(context.emit_own(op, vec![x])?[0])
}

/// A product as `i32`, in parts of `most` along the axes that are summed over, so that each is exact.
fn exact_sum(
    context: &mut NodeContext<'_>,
    op: &Op,
    factors: [TensorId; 2],
    axes: [usize; 2],
    most: usize,
) -> Result<(), Diagnostic> {
    let depth = context.shape(factors[0])[axes[0]];
    let mut sum: Option<TensorId> = None;
    for start in (0..depth.max(1)).step_by(most.max(1)) {
        let size = most.min(depth - start);
        let mut operands = Vec::with_capacity(3);
        for (factor, axis) in factors.into_iter().zip(axes) {
            operands.push(if size == depth { factor } else { part(context, factor, axis, start, size)? });
        }
        if let Op::Conv(_) = op {
            let filters = context.shape(factors[1])[0];
            operands.push(context.make_zeros("bias", vec![filters])?);
        }
        let product = context.emit_own(op.clone(), operands)?[0];
        if size == depth {
            // Whole numbers; who wants real ones need not convert twice.
            context.importer.promise(product, ElementType::I32);
            let result = context.emit_own(Op::Cast { to: ElementType::I32 }, vec![product])?[0];
            context.importer.grids.whole.insert(result, product);
            return context.bind(&[result]);
        }
        let whole = context.emit_own(Op::Cast { to: ElementType::I32 }, vec![product])?[0];
        sum = Some(match sum {
            Some(sum) => context.emit_own(Op::Binary(BinaryOp::Add, Activation::None), vec![sum, whole])?[0],
            None => whole,
        });
    }
    match sum {
        Some(sum) => context.bind(&[sum]),
        None => Err(context.refuse("it sums nothing")),
    }
}

fn matmul_integer(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (a, b) = (context.input(0)?, context.input(1)?);
    let zeros = [context.optional_input(2), context.optional_input(3)];
    let (rank_a, rank_b) = (context.shape(a).len(), context.shape(b).len());
    if rank_a < 2 || rank_b < 2 {
        return Err(context.attributes.unsupported("operands of rank 1 are not supported"));
    }
    let (reach_a, reach_b) = (reach(context, a, zeros[0]), reach(context, b, zeros[1]));
    let left = centred(context, a, zeros[0], rank_a - 2)?;
    let right = centred(context, b, zeros[1], rank_b - 1)?;
    let depth = context.shape(left)[rank_a - 1];
    let columns = context.shape(right)[rank_b - 1];
    let group_of = |position: usize| position / (depth * columns).max(1) * columns + position % columns.max(1);
    let whole = largest_sum(context, b, zeros[1], 1, group_of);
    let is_exact = whole.is_some_and(|sum| sum * reach_a < EXACT);
    let most = if is_exact { depth } else { ((EXACT / (reach_a * reach_b)) as usize).clamp(1, depth.max(1)) };
    exact_sum(context, &Op::MatMul, [left, right], [rank_a - 1, rank_b - 2], most)
}

fn conv_integer(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let zeros = [context.optional_input(2), context.optional_input(3)];
    let reaches = [reach(context, x, zeros[0]), reach(context, weights, zeros[1])];
    let op = super::spatial::convolution(context, x, weights)?;
    let left = centred(context, x, zeros[0], 1)?;
    let right = centred(context, weights, zeros[1], 0)?;
    let shape = context.shape(right);
    let taps: usize = shape[2..].iter().product();
    let filter = taps * shape[1];
    let whole = largest_sum(context, weights, zeros[1], filter, |position| position / filter.max(1));
    let is_exact = whole.is_some_and(|sum| sum * reaches[0] < EXACT) || filter as f64 * reaches[0] * reaches[1] < EXACT;
    let channels = context.shape(left)[1];
    let most = ((EXACT / (reaches[0] * reaches[1] * taps as f64)) as usize).clamp(1, channels.max(1));
    if is_exact {
        return exact_sum(context, &op, [left, right], [1, 1], channels);
    }
    if shape[1] != channels {
        let message = "groups of convolutions whose sums may exceed 2^24 are not supported";
        return Err(context.attributes.unsupported(message));
    }
    exact_sum(context, &op, [left, right], [1, 1], most)
}

/// Operands and results of a QLinear operator.
fn qlinear(
    context: &mut NodeContext<'_>,
    op: &Op,
    weights_axis: usize,
    result_axis: usize,
    bias: Option<TensorId>,
) -> Result<(), Diagnostic> {
    let (a, b) = (context.input(0)?, context.input(3)?);
    let of_a = Parameters::at(context, a, [1, 2], 0)?;
    let of_b = Parameters::at(context, b, [4, 5], weights_axis as i64)?;
    let first = grid_of(context, a, of_a)?;
    let second = grid_of(context, b, of_b)?;
    let bias = match bias {
        Some(bias) => Some(context.as_f32(bias)?),
        None => None,
    };
    let count = context.shape(second.steps)[weights_axis];
    let scales: Vec<f32> = match (&first.scales[..], &second.scales[..]) {
        ([one], [other]) => vec![(f64::from(*one) * f64::from(*other)) as f32],
        ([one], many) if many.len() == count => {
            many.iter().map(|other| (f64::from(*one) * f64::from(*other)) as f32).collect()
        }
        _ => return Err(context.attributes.unsupported("scales per row are not supported")),
    };
    let operands = [first.steps, second.steps].into_iter().chain(bias).collect();
    let steps = context.emit_own(op.clone(), operands)?[0];
    let axis = if scales.len() == 1 { 0 } else { result_axis };
    super::quantized::requantize(context, Grid { steps, scales, axis }, [6, 7])
}

fn qlinear_matmul(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let ranks = [0, 3].map(|position| context.input(position).map(|operand| context.shape(operand).len()));
    let [Ok(rank_a), Ok(rank_b)] = ranks else { return Err(context.refuse("an operand is missing")) };
    if rank_a < 2 || rank_b < 2 {
        return Err(context.attributes.unsupported("operands of rank 1 are not supported"));
    }
    qlinear(context, &Op::MatMul, rank_b - 1, rank_a.max(rank_b) - 1, None)
}

fn qlinear_conv(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights) = (context.input(0)?, context.input(3)?);
    let op = super::spatial::convolution(context, x, weights)?;
    let filters = context.shape(weights)[0];
    let bias = match context.optional_input(8) {
        Some(bias) => bias,
        None => context.make_zeros("bias", vec![filters])?,
    };
    qlinear(context, &op, 0, 1, Some(bias))
}
