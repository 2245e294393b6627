//! Operators that ONNX defines by others, written as that definition.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, PadMode, ReduceKind, UnaryOp};
use partita_ir::graph::{ElementType, TensorId};

#[expect(clippy::too_many_lines, reason = "one arm for each operator of ONNX")]
pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "ReduceL1" => |context| {
            let x = context.input(0)?;
            let x = context.unary(UnaryOp::Abs, x)?;
            reduced(context, x, ReduceKind::Sum)
        },
        "ReduceL2" => |context| {
            let x = context.input(0)?;
            let (axes, keep_dims) = super::movement::reduced_axes(context, x, 18)?;
            if let (Some(axes), ElementType::F32) = (axes, context.promised(x)) {
                return context.emit(Op::Reduce { kind: ReduceKind::L2, axes, keep_dims }, vec![x]);
            }
            let square = context.binary(BinaryOp::Mul, x, x)?;
            of_sum(context, square, UnaryOp::Sqrt)
        },
        "ReduceSumSquare" => |context| {
            let x = context.input(0)?;
            let square = context.binary(BinaryOp::Mul, x, x)?;
            reduced(context, square, ReduceKind::Sum)
        },
        "ReduceLogSum" => |context| {
            let x = context.input(0)?;
            of_sum(context, x, UnaryOp::Log)
        },
        "ReduceLogSumExp" => reduce_log_sum_exp,
        "ReduceProd" => reduce_prod,
        "ArgMin" => |context| {
            let x = context.input(0)?;
            let x = context.unary(UnaryOp::Neg, x)?;
            super::movement::arg_max_of(context, x)
        },
        "CumSum" => |context| cumulated(context, BinaryOp::Add, 0.0),
        "CumProd" => |context| cumulated(context, BinaryOp::Mul, 1.0),
        "Mean" => mean,
        "Xor" => |context| {
            let [a, b] = super::elementwise::operands(context)?;
            let equal = context.binary(BinaryOp::Equal, a, b)?;
            context.emit(Op::Unary(UnaryOp::Not), vec![equal])
        },
        "IsNaN" => |context| {
            let x = context.input(0)?;
            let equal = context.binary(BinaryOp::Equal, x, x)?;
            context.emit(Op::Unary(UnaryOp::Not), vec![equal])
        },
        "IsInf" => is_inf,
        "Softsign" => |context| {
            let x = context.input(0)?;
            let size = context.unary(UnaryOp::Abs, x)?;
            let one = context.number(1.0, x)?;
            let sum = context.binary(BinaryOp::Add, size, one)?;
            context.emit(Op::Binary(BinaryOp::Div, Activation::None), vec![x, sum])
        },
        "Mish" => |context| {
            let x = context.input(0)?;
            let soft = context.unary(UnaryOp::Softplus, x)?;
            let gate = context.unary(UnaryOp::Tanh, soft)?;
            context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![x, gate])
        },
        "Celu" => celu,
        "Swish" => |context| {
            let x = context.input(0)?;
            let alpha = context.attributes.float("alpha", 1.0)?;
            let scaled = if alpha == 1.0 {
                x
            } else {
                let alpha = context.number(f64::from(alpha), x)?;
                context.binary(BinaryOp::Mul, x, alpha)?
            };
            let gate = context.unary(UnaryOp::Sigmoid, scaled)?;
            context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![x, gate])
        },
        "ThresholdedRelu" => |context| {
            let x = context.input(0)?;
            let alpha = context.attributes.float("alpha", 1.0)?;
            let (alpha, zero) = (context.number(f64::from(alpha), x)?, context.number(0.0, x)?);
            let above = context.binary(BinaryOp::Greater, x, alpha)?;
            context.emit(Op::Where, vec![above, x, zero])
        },
        "Shrink" => shrink,
        "GroupNormalization" => group_normalization,
        "RMSNormalization" => rms_normalization,
        // onnxruntime's name for it, in the default domain, before opset 23.
        "SimplifiedLayerNormalization" => |context| {
            super::microsoft::only(context, &["axis", "epsilon", "stash_type"])?;
            rms_normalization(context)
        },
        "MeanVarianceNormalization" => mean_variance_normalization,
        "LpNormalization" => lp_normalization,
        "OneHot" => one_hot,
        "Trilu" => trilu,
        "EyeLike" => eye_like,
        "CastLike" => |context| {
            let (x, like) = (context.input(0)?, context.input(1)?);
            let to = context.promised(like);
            context.emit_cast(x, to)
        },
        _ => return None,
    })
}

fn reduced(context: &mut NodeContext<'_>, x: TensorId, kind: ReduceKind) -> Result<(), Diagnostic> {
    let result = super::movement::reduce_of(context, x, kind, 18)?;
    context.emit(Op::Identity, vec![result])
}

/// A function of a sum, in the element type of what is summed. Whole numbers are summed in 64 bits, and the function is
/// that of a double, whose fraction goes.
fn of_sum(context: &mut NodeContext<'_>, x: TensorId, function: UnaryOp) -> Result<(), Diagnostic> {
    let element = context.promised(x);
    if !element.is_integer() {
        let sum = super::movement::reduce_of(context, x, ReduceKind::Sum, 18)?;
        return context.emit(Op::Unary(function), vec![sum]);
    }
    let wide = if element == ElementType::U64 { ElementType::U64 } else { ElementType::I64 };
    let x = context.value(Op::Cast { to: wide }, &[x])?;
    let sum = super::movement::reduce_of(context, x, ReduceKind::Sum, 18)?;
    let sum = context.emit_own(Op::Cast { to: ElementType::F64 }, vec![sum])?;
    let result = context.emit_own(Op::Unary(function), sum)?;
    let result = context.emit_own(Op::Cast { to: element }, result)?;
    context.bind(&result)
}

/// With the largest element taken out of the exponentials, so that they do not overflow; infinities stay what they are.
/// Of whole numbers it is that of doubles, whose fraction goes.
fn reduce_log_sum_exp(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let (axes, keep_dims) = super::movement::reduced_axes(context, x, 18)?;
    let Some(axes) = axes else { return context.emit(Op::Identity, vec![x]) };
    let over = |kind, keep_dims| Op::Reduce { kind, axes: axes.clone(), keep_dims };
    let shape = kept(&context.shape(x), &axes, keep_dims);
    let element = context.promised(x);
    if element.is_integer() {
        let binary = |function| Op::Binary(function, Activation::None);
        let mut real = |op: Op, operands: &[TensorId]| -> Result<TensorId, Diagnostic> {
            Ok(context.emit_own(op, operands.to_vec())?[0])
        };
        let x = real(Op::Cast { to: ElementType::F64 }, &[x])?;
        let largest = real(over(ReduceKind::Max, true), &[x])?;
        let less = real(binary(BinaryOp::Sub), &[x, largest])?;
        let powers = real(Op::Unary(UnaryOp::Exp), &[less])?;
        let sum = real(over(ReduceKind::Sum, true), &[powers])?;
        let log = real(Op::Unary(UnaryOp::Log), &[sum])?;
        let result = real(binary(BinaryOp::Add), &[log, largest])?;
        let result = real(Op::Cast { to: element }, &[result])?;
        let result = real(Op::Reshape { shape }, &[result])?;
        return context.bind(&[result]);
    }
    let largest = context.value(over(ReduceKind::Max, true), &[x])?;
    let finite = Op::Unary(UnaryOp::Activation(Activation::Clip(f32::MIN, f32::MAX)));
    let largest = context.value(finite, &[largest])?;
    let less = context.binary(BinaryOp::Sub, x, largest)?;
    let powers = context.unary(UnaryOp::Exp, less)?;
    let sum = context.value(over(ReduceKind::Sum, true), &[powers])?;
    let log = context.unary(UnaryOp::Log, sum)?;
    let result = context.binary(BinaryOp::Add, log, largest)?;
    context.emit(Op::Reshape { shape }, vec![result])
}

/// The shape that is left after a reduction.
fn kept(shape: &[usize], axes: &[usize], keep_dims: bool) -> Vec<usize> {
    let all = shape.iter().enumerate();
    if keep_dims {
        return all.map(|(axis, extent)| if axes.contains(&axis) { 1 } else { *extent }).collect();
    }
    all.filter(|(axis, _)| !axes.contains(axis)).map(|(_, extent)| *extent).collect()
}

/// Products of halves until one element is left on each axis.
fn reduce_prod(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let (axes, keep_dims) = super::movement::reduced_axes(context, x, 18)?;
    let Some(axes) = axes else { return context.emit(Op::Identity, vec![x]) };
    let whole = context.shape(x);
    let result_shape = kept(&whole, &axes, keep_dims);
    if axes.iter().any(|axis| whole[*axis] == 0) {
        let one = context.number(1.0, x)?;
        return context.emit(Op::Expand { shape: result_shape }, vec![one]);
    }
    let mut result = x;
    for axis in axes {
        loop {
            let shape = context.shape(result);
            let extent = shape[axis];
            if extent == 1 {
                break;
            }
            let half = extent / 2;
            let first = context.value(part(&shape, axis, 0, half), &[result])?;
            let second = context.value(part(&shape, axis, half, half), &[result])?;
            let mut product = context.binary(BinaryOp::Mul, first, second)?;
            if extent % 2 == 1 {
                let last = context.value(part(&shape, axis, extent - 1, 1), &[result])?;
                product = context.value(Op::Concat { axis }, &[product, last])?;
            }
            result = product;
        }
    }
    context.emit(Op::Reshape { shape: result_shape }, vec![result])
}

/// Sums, or products, of 1, 2, 4, .. elements each.
fn cumulated(context: &mut NodeContext<'_>, function: BinaryOp, neutral: f32) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let [axis] = context.constant_ints(1)?[..] else { return Err(context.refuse("its axis should be one number")) };
    let axis = context.axis(axis, shape.len())?;
    let exclusive = context.attributes.flag("exclusive", false)?;
    let reverse = context.attributes.flag("reverse", false)?;
    let extent = shape[axis];
    if extent == 0 {
        return context.emit(Op::Identity, vec![x]);
    }
    // The elements `by` places before, or behind if it goes backwards; neutral ones where there are none.
    let shifted = |context: &mut NodeContext<'_>, x: TensorId, by: usize| {
        let kept = context.value(part(&shape, axis, if reverse { by } else { 0 }, extent - by), &[x])?;
        let (mut begin, mut end) = (vec![0; shape.len()], vec![0; shape.len()]);
        *(if reverse { &mut end[axis] } else { &mut begin[axis] }) = by;
        context.value(Op::Pad { mode: PadMode::Constant(neutral), begin, end }, &[kept])
    };
    let mut sums = x;
    if exclusive {
        if extent == 1 {
            let neutral = context.number(f64::from(neutral), x)?;
            return context.emit(Op::Expand { shape: shape.clone() }, vec![neutral]);
        }
        sums = shifted(context, sums, 1)?;
    }
    let mut step = 1;
    while step < extent {
        let earlier = shifted(context, sums, step)?;
        sums = context.binary(function, sums, earlier)?;
        step *= 2;
    }
    context.emit(Op::Identity, vec![sums])
}

fn mean(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let inputs = context.all_inputs()?;
    let Some((first, rest)) = inputs.split_first() else { return Err(context.refuse("it has no inputs")) };
    let mut sum = *first;
    for operand in rest {
        sum = context.binary(BinaryOp::Add, sum, *operand)?;
    }
    let count = context.number(inputs.len() as f64, sum)?;
    context.emit(Op::Binary(BinaryOp::Div, Activation::None), vec![sum, count])
}

fn is_inf(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let negative = context.attributes.flag("detect_negative", true)?;
    let positive = context.attributes.flag("detect_positive", true)?;
    let infinity = context.number(f64::INFINITY, x)?;
    let candidate = match (negative, positive) {
        (true, true) => context.unary(UnaryOp::Abs, x)?,
        (false, true) => x,
        (true, false) => context.unary(UnaryOp::Neg, x)?,
        // Never.
        (false, false) => {
            let greater = context.binary(BinaryOp::Greater, x, infinity)?;
            return context.emit(Op::Identity, vec![greater]);
        }
    };
    context.emit(Op::Binary(BinaryOp::Equal, Activation::None), vec![candidate, infinity])
}

/// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`
fn celu(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let alpha = context.attributes.float("alpha", 1.0)?;
    if alpha == 1.0 {
        return context.emit(Op::Unary(UnaryOp::Elu { alpha }), vec![x]);
    }
    let factor = context.number(f64::from(alpha), x)?;
    let scaled = context.binary(BinaryOp::Div, x, factor)?;
    let unit = context.unary(UnaryOp::Elu { alpha: 1.0 }, scaled)?;
    let zero = context.number(0.0, x)?;
    let negative = context.binary(BinaryOp::Min, unit, zero)?;
    let negative = context.binary(BinaryOp::Mul, negative, factor)?;
    let positive = context.unary(UnaryOp::Activation(Activation::Relu), x)?;
    context.emit(Op::Binary(BinaryOp::Add, Activation::None), vec![positive, negative])
}

/// `x + bias` below `-lambd`, `x - bias` above `lambd`, else 0.
fn shrink(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let bias = context.attributes.float("bias", 0.0)?;
    let bound = context.attributes.float("lambd", 0.5)?;
    let (low, high) = (context.number(-f64::from(bound), x)?, context.number(f64::from(bound), x)?);
    let (bias, zero) = (context.number(f64::from(bias), x)?, context.number(0.0, x)?);
    let above = context.binary(BinaryOp::Greater, x, high)?;
    let less = context.binary(BinaryOp::Sub, x, bias)?;
    let upper = context.value(Op::Where, &[above, less, zero])?;
    let below = context.binary(BinaryOp::Less, x, low)?;
    let more = context.binary(BinaryOp::Add, x, bias)?;
    context.emit(Op::Where, vec![below, more, upper])
}

/// Statistics per sample and group of channels, then a scale and a bias per channel (per group before opset 21).
fn group_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, scale, bias) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = context.shape(x);
    if shape.len() < 2 {
        return Err(context.refuse(format!("its input is {}, expected batch and channels", context.tensor_type(x))));
    }
    let wanted = context.attributes.int("num_groups", 0)?;
    let channels = shape[1];
    let groups = usize::try_from(wanted).ok().filter(|groups| *groups > 0 && channels.is_multiple_of(*groups));
    let Some(groups) = groups else {
        let message = format!("attribute `num_groups` is {wanted}, which should divide {channels} channels");
        return Err(context.refuse(message));
    };
    let epsilon = context.attributes.float("epsilon", 1e-5)?;
    if [scale, bias].iter().all(|operand| context.shape(*operand) == [channels]) && context.opset() >= 21 {
        return context.emit(Op::GroupNormalization { groups, epsilon }, vec![x, scale, bias]);
    }
    // Before, parameters were of groups.
    let rest: usize = shape[2..].iter().product();
    let grouped = Op::Reshape { shape: vec![shape[0], groups, channels / groups * rest] };
    let grouped = context.value(grouped, &[x])?;
    let ones = context.make_constant("ones", [groups], std::iter::repeat(1f32))?;
    let zeros = context.make_zeros("zeros", vec![groups])?;
    let normal = context.value(Op::InstanceNormalization { epsilon }, &[grouped, ones, zeros])?;
    // Per group or per channel: both broadcast over [N, parts, rest].
    let mut per_part = |operand: TensorId| {
        let count = context.shape(operand).iter().product::<usize>();
        let expected = if context.opset() < 21 { groups } else { channels };
        if count != expected {
            let message = format!("a parameter is {}, expected [{expected}]", context.tensor_type(operand));
            return Err(context.refuse(message));
        }
        context.value(Op::Reshape { shape: vec![count, 1] }, &[operand])
    };
    let (scale, bias) = (per_part(scale)?, per_part(bias)?);
    let parts = context.shape(scale)[0];
    let parted = Op::Reshape { shape: vec![shape[0], parts, channels / parts * rest] };
    let parted = context.value(parted, &[normal])?;
    let scaled = context.binary(BinaryOp::Mul, parted, scale)?;
    let moved = context.binary(BinaryOp::Add, scaled, bias)?;
    context.emit(Op::Reshape { shape }, vec![moved])
}

/// `x / sqrt(mean(x^2) + epsilon) * scale`
fn rms_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, scale) = (context.input(0)?, context.input(1)?);
    let rank = context.shape(x).len();
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, rank)?;
    let epsilon = context.attributes.float("epsilon", 1e-5)?;
    let square = context.binary(BinaryOp::Mul, x, x)?;
    let over = Op::Reduce { kind: ReduceKind::Mean, axes: (axis..rank).collect(), keep_dims: true };
    let mean = context.value(over, &[square])?;
    let epsilon = context.number(f64::from(epsilon), x)?;
    let sum = context.binary(BinaryOp::Add, mean, epsilon)?;
    let root = context.unary(UnaryOp::Sqrt, sum)?;
    let normal = context.binary(BinaryOp::Div, x, root)?;
    context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![normal, scale])
}

/// `(x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9)`, the variance by what remains of the elements.
fn mean_variance_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let rank = context.shape(x).len();
    let axes = match context.attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|axis| context.axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => [0, 2, 3].iter().map(|axis| context.axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut axes = axes;
    axes.sort_unstable();
    axes.dedup();
    let over = Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims: true };
    let mean = context.value(over.clone(), &[x])?;
    let less = context.binary(BinaryOp::Sub, x, mean)?;
    let square = context.binary(BinaryOp::Mul, less, less)?;
    let variance = context.value(over, &[square])?;
    let deviation = context.unary(UnaryOp::Sqrt, variance)?;
    let epsilon = context.number(1e-9, x)?;
    let divisor = context.binary(BinaryOp::Add, deviation, epsilon)?;
    context.emit(Op::Binary(BinaryOp::Div, Activation::None), vec![less, divisor])
}

/// `x` divided by its norm along an axis.
fn lp_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, context.shape(x).len())?;
    let over = Op::Reduce { kind: ReduceKind::Sum, axes: vec![axis], keep_dims: true };
    let norm = match context.attributes.int("p", 2)? {
        1 => {
            let size = context.unary(UnaryOp::Abs, x)?;
            context.value(over, &[size])?
        }
        2 => {
            let square = context.binary(BinaryOp::Mul, x, x)?;
            let sum = context.value(over, &[square])?;
            context.unary(UnaryOp::Sqrt, sum)?
        }
        other => return Err(context.refuse(format!("attribute `p` is {other}, expected 1 or 2"))),
    };
    // What is nothing but zeros stays so.
    let (zero, one) = (context.number(0.0, x)?, context.number(1.0, x)?);
    let is_zero = context.binary(BinaryOp::Equal, norm, zero)?;
    let norm = context.value(Op::Where, &[is_zero, one, norm])?;
    context.emit(Op::Binary(BinaryOp::Div, Activation::None), vec![x, norm])
}

/// The second value where an index is the position along the new axis, else the first.
fn one_hot(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (indices, values) = (context.input(0)?, context.input(2)?);
    let depth = match partita_ir::graph::values::to_f32(&context.constant(1)?.data)[..] {
        [depth] if (1.0..=f64::from(1 << 24) as f32).contains(&depth) => depth as usize,
        _ => return Err(context.refuse("its depth should be one positive number")),
    };
    let shape = context.shape(indices);
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, shape.len() + 1)?;
    if context.shape(values) != [2] {
        return Err(context.refuse(format!("its values are {}, expected two", context.tensor_type(values))));
    }
    let element = context.promised(indices);
    let extent = context.number(depth as f64, indices)?;
    // Negative indices count from the end; what is out of range anyway meets no position.
    let zero = context.number(0.0, indices)?;
    let negative = context.binary(BinaryOp::Less, indices, zero)?;
    let wrapped = context.binary(BinaryOp::Add, indices, extent)?;
    let indices = context.value(Op::Where, &[negative, wrapped, indices])?;
    let mut wide = shape.clone();
    wide.insert(axis, 1);
    let indices = context.value(Op::Reshape { shape: wide.clone() }, &[indices])?;
    let mut along = vec![1; wide.len()];
    along[axis] = depth;
    let mut positions = context.make_constant("positions", along, 0..depth as i64)?;
    if element != ElementType::I64 {
        positions = context.value(Op::Cast { to: element }, &[positions])?;
    }
    let hit = context.binary(BinaryOp::Equal, indices, positions)?;
    let off = context.value(part(&[2], 0, 0, 1), &[values])?;
    let on = context.value(part(&[2], 0, 1, 1), &[values])?;
    context.emit(Op::Where, vec![hit, on, off])
}

/// One triangle of matrices; the other is 0.
fn trilu(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let [.., rows, columns] = shape[..] else {
        return Err(context.refuse(format!("its input is {}, expected matrices", context.tensor_type(x))));
    };
    let diagonal = match context.optional_input(1) {
        None => 0,
        Some(_) => match context.constant_ints(1)?[..] {
            [diagonal] => diagonal,
            _ => return Err(context.refuse("its diagonal should be one number")),
        },
    };
    let upper = context.attributes.flag("upper", true)?;
    let keeps = |row: usize, column: usize| {
        let ahead = column as i64 - row as i64;
        if upper { ahead >= diagonal } else { ahead <= diagonal }
    };
    let mask = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let mask = mask.map(|(row, column)| keeps(row, column));
    let mask = context.make_constant("mask", [rows, columns], mask)?;
    let zero = context.number(0.0, x)?;
    context.emit(Op::Where, vec![mask, x, zero])
}

/// Ones on a diagonal, of the input's shape.
fn eye_like(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let [rows, columns] = shape[..] else {
        return Err(context.refuse(format!("its input is {}, expected a matrix", context.tensor_type(x))));
    };
    let diagonal = context.attributes.int("k", 0)?;
    let element = match context.attributes.optional_int("dtype")? {
        Some(kind) => super::elementwise::element_type(context, "dtype", kind)?,
        None => context.promised(x),
    };
    let ones = (0..rows).flat_map(|row| (0..columns).map(move |column| column as i64 - row as i64));
    let ones = ones.map(|ahead| f32::from(u8::from(ahead == diagonal)));
    let eye = context.make_constant("eye", shape, ones)?;
    context.emit(Op::Cast { to: element }, vec![eye])
}
