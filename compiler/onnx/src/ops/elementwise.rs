//! Functions of single elements, and softmax.

use crate::importer::{Converter, NodeContext};
use crate::tensors::element_type_of;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, UnaryOp};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

#[expect(clippy::too_many_lines, reason = "one arm for each operator of ONNX")]
pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Relu" => |context| unary(context, UnaryOp::Activation(Activation::Relu)),
        "LeakyRelu" => |context| {
            let alpha = context.attributes.float("alpha", 0.01)?;
            unary(context, UnaryOp::Activation(Activation::LeakyRelu(alpha)))
        },
        "HardSwish" => |context| unary(context, UnaryOp::Activation(Activation::HardSwish)),
        "HardSigmoid" => |context| {
            let alpha = context.attributes.float("alpha", 0.2)?;
            let beta = context.attributes.float("beta", 0.5)?;
            unary(context, UnaryOp::Activation(Activation::HardSigmoid(alpha, beta)))
        },
        "Clip" => clip,
        "Sigmoid" => |context| unary(context, UnaryOp::Sigmoid),
        "Tanh" => |context| unary(context, UnaryOp::Tanh),
        "Elu" => |context| {
            let alpha = context.attributes.float("alpha", 1.0)?;
            unary(context, UnaryOp::Elu { alpha })
        },
        "Selu" => |context| {
            // ONNX Selu-6 defaults.
            let defaults = if context.opset() < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
            let alpha = context.attributes.float("alpha", defaults.0)?;
            let gamma = context.attributes.float("gamma", defaults.1)?;
            unary(context, UnaryOp::Selu { alpha, gamma })
        },
        "Softplus" => |context| unary(context, UnaryOp::Softplus),
        "Erf" => |context| unary(context, UnaryOp::Erf),
        "Gelu" => gelu,
        "Exp" => |context| unary(context, UnaryOp::Exp),
        "Log" => |context| unary(context, UnaryOp::Log),
        "Sqrt" => |context| unary(context, UnaryOp::Sqrt),
        "Neg" => |context| unary(context, UnaryOp::Neg),
        "Abs" => |context| unary(context, UnaryOp::Abs),
        "Reciprocal" => |context| unary(context, UnaryOp::Reciprocal),
        "Floor" => |context| unary(context, UnaryOp::Floor),
        "Ceil" => |context| unary(context, UnaryOp::Ceil),
        "Round" => |context| unary(context, UnaryOp::Round),
        "Sin" => |context| unary(context, UnaryOp::Sin),
        "Cos" => |context| unary(context, UnaryOp::Cos),
        "Tan" => |context| unary(context, UnaryOp::Tan),
        "Asin" => |context| unary(context, UnaryOp::Asin),
        "Acos" => |context| unary(context, UnaryOp::Acos),
        "Atan" => |context| unary(context, UnaryOp::Atan),
        "Sinh" => |context| unary(context, UnaryOp::Sinh),
        "Cosh" => |context| unary(context, UnaryOp::Cosh),
        "Asinh" => |context| unary(context, UnaryOp::Asinh),
        "Acosh" => |context| unary(context, UnaryOp::Acosh),
        "Atanh" => |context| unary(context, UnaryOp::Atanh),
        "Sign" => |context| unary(context, UnaryOp::Sign),
        "Not" => |context| unary(context, UnaryOp::Not),
        "PRelu" => |context| {
            let (x, mut slope) = (context.input(0)?, context.input(1)?);
            let (shape, slopes) = (context.shape(x), context.shape(slope));
            // One for each channel, before operators broadcast as numpy does.
            if context.opset() < 7 && slopes.len() == 1 && slopes[0] > 1 && shape.len() > 2 {
                let along = std::iter::once(slopes[0]).chain(std::iter::repeat_n(1, shape.len() - 2)).collect();
                slope = context.value(Op::Reshape { shape: along }, &[slope])?;
            }
            context.emit(Op::PRelu, vec![x, slope])
        },
        "Add" => |context| {
            let operands = operands(context)?;
            if context.emit_bias(operands)? { Ok(()) } else { binary(context, BinaryOp::Add) }
        },
        "Sub" => |context| binary(context, BinaryOp::Sub),
        "Mul" => |context| binary(context, BinaryOp::Mul),
        "Div" => |context| binary(context, BinaryOp::Div),
        "Pow" => pow,
        "Mod" => modulo,
        "Equal" => |context| binary(context, BinaryOp::Equal),
        "Less" => |context| binary(context, BinaryOp::Less),
        "LessOrEqual" => |context| binary(context, BinaryOp::LessOrEqual),
        "Greater" => |context| binary(context, BinaryOp::Greater),
        "GreaterOrEqual" => |context| binary(context, BinaryOp::GreaterOrEqual),
        "And" => |context| binary(context, BinaryOp::And),
        "Or" => |context| binary(context, BinaryOp::Or),
        "Min" => |context| chain(context, BinaryOp::Min),
        "Max" => |context| chain(context, BinaryOp::Max),
        "Sum" => |context| chain(context, BinaryOp::Add),
        "Where" => |context| {
            let inputs = (0..3).map(|position| context.input(position)).collect::<Result<Vec<_>, _>>()?;
            context.emit(Op::Where, inputs)
        },
        "Identity" => |context| {
            let x = context.input(0)?;
            context.emit(Op::Identity, vec![x])
        },
        "Dropout" => dropout,
        "Cast" => cast,
        "Softmax" => |context| softmax(context, |axis| Op::Softmax { axis }),
        "LogSoftmax" => |context| softmax(context, |axis| Op::LogSoftmax { axis }),
        _ => return None,
    })
}

fn unary(context: &mut NodeContext<'_>, function: UnaryOp) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    context.emit(Op::Unary(function), vec![x])
}

fn gelu(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    match context.attributes.string("approximate", "none")?.as_str() {
        "none" => unary(context, UnaryOp::Gelu { tanh: false }),
        "tanh" => unary(context, UnaryOp::Gelu { tanh: true }),
        other => Err(context.attributes.unknown_word("approximate", other, &["none", "tanh"])),
    }
}

/// Clip-6 has attributes, Clip-11 inputs.
fn clip(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
    if context.opset() < 11 {
        low = context.attributes.float("min", low)?;
        high = context.attributes.float("max", high)?;
    } else {
        let bounds = [1, 2].map(|position| context.optional_input(position));
        let is_known = |bound: &TensorId| context.importer.graph.value(*bound).is_some();
        if !context.promised(x).is_float() || !bounds.iter().flatten().all(is_known) {
            return clip_by_operands(context, x, bounds);
        }
        for (position, bound) in [(1, &mut low), (2, &mut high)] {
            if context.optional_input(position).is_some() {
                let values = context.constant_floats(position)?;
                let [value] = values[..] else {
                    return Err(context.refuse(format!("its bound has {} elements, expected one", values.len())));
                };
                *bound = value;
            }
        }
    }
    if low.is_nan() || high.is_nan() {
        return Err(context.refuse("a bound is not a number"));
    }
    unary(context, UnaryOp::Activation(Activation::Clip(low, high)))
}

/// Bounds of integers, and bounds that are computed at run time, are operands of Max and Min.
fn clip_by_operands(
    context: &mut NodeContext<'_>,
    x: TensorId,
    bounds: [Option<TensorId>; 2],
) -> Result<(), Diagnostic> {
    let mut result = x;
    for (bound, function) in bounds.into_iter().zip([BinaryOp::Max, BinaryOp::Min]) {
        let Some(bound) = bound else { continue };
        let count = context.tensor_type(bound).element_count();
        if count != 1 {
            return Err(context.refuse(format!("its bound has {count} elements, expected one")));
        }
        let bound = context.emit_unnamed(Op::Reshape { shape: Vec::new() }, vec![bound])?[0];
        result = context.emit_unnamed(Op::Binary(function, Activation::None), vec![result, bound])?[0];
    }
    context.emit(Op::Identity, vec![result])
}

fn binary(context: &mut NodeContext<'_>, function: BinaryOp) -> Result<(), Diagnostic> {
    let inputs = operands(context)?;
    context.emit(Op::Binary(function, Activation::None), inputs.to_vec())
}

/// Both operands, so that they broadcast as numpy does: before opset 7 the second could lie along axes of the first.
pub(super) fn operands(context: &mut NodeContext<'_>) -> Result<[TensorId; 2], Diagnostic> {
    let (a, b) = (context.input(0)?, context.input(1)?);
    if context.opset() >= 7 || !context.attributes.flag("broadcast", false)? {
        return Ok([a, b]);
    }
    let (rank, mut shape) = (context.shape(a).len(), context.shape(b));
    let Some(axis) = context.attributes.optional_int("axis")? else { return Ok([a, b]) };
    let axis = context.axis(axis, rank)?;
    let Some(behind) = rank.checked_sub(axis + shape.len()) else {
        return Err(context.refuse(format!("{} does not fit behind axis {axis}", context.tensor_type(b))));
    };
    shape.extend(std::iter::repeat_n(1, behind));
    Ok([a, context.value(Op::Reshape { shape }, &[b])?])
}

/// `fmod` = 1 has the sign of the dividend, 0 that of the divisor; reals take the latter since opset 28 only.
fn modulo(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, y) = (context.input(0)?, context.input(1)?);
    let fmod = context.attributes.int("fmod", 0)?;
    if !(0..=1).contains(&fmod) {
        return Err(context.refuse(format!("attribute `fmod` is {fmod}, expected 0 or 1")));
    }
    let is_real = context.promised(x).is_float();
    let op = |function: BinaryOp| Op::Binary(function, Activation::None);
    match (is_real, fmod) {
        (true, 1) | (false, 0) => context.emit(op(BinaryOp::Mod), vec![x, y]),
        // x - trunc(x / y) * y; the quotient of whole numbers is cut off.
        (false, _) => {
            let quotient = context.emit_unnamed(op(BinaryOp::Div), vec![x, y])?[0];
            let product = context.emit_unnamed(op(BinaryOp::Mul), vec![quotient, y])?[0];
            context.emit(op(BinaryOp::Sub), vec![x, product])
        }
        // The remainder of a quotient that is cut off, or, where its sign is not the divisor's, that and the divisor.
        (true, _) if context.opset() >= 28 => {
            let rest = context.binary(BinaryOp::Mod, x, y)?;
            let zero = context.number(0.0, x)?;
            let [is_negative, is_positive] =
                [context.binary(BinaryOp::Less, rest, zero)?, context.binary(BinaryOp::Greater, rest, zero)?];
            let [below, above] =
                [context.binary(BinaryOp::Less, y, zero)?, context.binary(BinaryOp::Greater, y, zero)?];
            let one = context.binary(BinaryOp::And, is_negative, above)?;
            let other = context.binary(BinaryOp::And, is_positive, below)?;
            let differs = context.binary(BinaryOp::Or, one, other)?;
            let sum = context.binary(BinaryOp::Add, rest, y)?;
            context.emit(Op::Where, vec![differs, sum, rest])
        }
        (true, _) => Err(context.refuse("attribute `fmod` is 0, but real numbers need 1 before opset 28")),
    }
}

/// The exponent may have another element type than the base; the result has the base's.
fn pow(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let [base, exponent] = operands(context)?;
    let [of_base, of_exponent] = [base, exponent].map(|operand| context.promised(operand));
    let power = Op::Binary(BinaryOp::Pow, Activation::None);
    if of_base == of_exponent {
        return context.emit(power, vec![base, exponent]);
    }
    if of_base.is_float() || of_exponent.is_integer() {
        let exponent = context.emit_unnamed(Op::Cast { to: of_base }, vec![exponent])?[0];
        return context.emit(power, vec![base, exponent]);
    }
    // A whole number to a real power, cut off; constants in doubles.
    let is_known = [base, exponent].iter().all(|operand| context.importer.graph.value(*operand).is_some());
    let real = if is_known { ElementType::F64 } else { ElementType::F32 };
    let base = context.emit_unnamed(Op::Cast { to: real }, vec![base])?[0];
    let exponent = context.emit_unnamed(Op::Cast { to: real }, vec![exponent])?[0];
    let result = context.emit_unnamed(power, vec![base, exponent])?[0];
    context.emit(Op::Cast { to: of_base }, vec![result])
}

/// A variadic operator as a chain of binary ones.
fn chain(context: &mut NodeContext<'_>, function: BinaryOp) -> Result<(), Diagnostic> {
    let inputs = context.all_inputs()?;
    let Some((first, rest)) = inputs.split_first() else {
        return Err(context.refuse("it has no inputs"));
    };
    let mut result: TensorId = *first;
    if rest.is_empty() {
        return context.emit(Op::Identity, vec![result]);
    }
    // Constants are folded.
    let computed = inputs.iter().filter(|input| context.importer.graph.value(**input).is_none()).count();
    context.has_room_for(computed.saturating_sub(1))?;
    for (index, operand) in rest.iter().enumerate() {
        let op = Op::Binary(function, Activation::None);
        if index + 1 == rest.len() {
            return context.emit(op, vec![result, *operand]);
        }
        result = context.emit_unnamed(op, vec![result, *operand])?[0];
    }
    Ok(())
}

fn dropout(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    if context.optional_input(2).is_some() {
        let training = context.constant(2)?;
        if training.data != partita_ir::graph::Data::Bool(vec![false]) {
            return Err(context.attributes.unsupported("it is in training mode"));
        }
    }
    let x = context.input(0)?;
    let y = context.value(Op::Identity, &[x])?;
    if !context.uses_more_than_first() {
        return context.bind(&[y]);
    }
    // Nothing is dropped; before opset 10 masks had the input's type.
    let element = if context.opset() < 10 { context.promised(x) } else { ElementType::Bool };
    let all = Value { shape: Vec::new(), data: Data::Bool(vec![true]) };
    let all = context.add_constant("mask", all)?;
    let all = context.value(Op::Cast { to: element }, &[all])?;
    let mask = context.value(Op::Expand { shape: context.shape(x) }, &[all])?;
    context.bind(&[y, mask])
}

fn cast(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let to = if context.opset() < 6 {
        let name = context.attributes.string("to", "FLOAT")?;
        let kind = <onnx_protobuf::tensor_proto::DataType as protobuf::Enum>::from_str(&name.to_ascii_uppercase());
        kind.map_or(0, |kind| kind as i64)
    } else {
        context.attributes.int("to", 0)?
    };
    let to = element_type(context, "to", to)?;
    context.emit_cast(x, to)
}

/// The element type that an attribute names.
pub(super) fn element_type(context: &NodeContext<'_>, attribute: &str, kind: i64) -> Result<ElementType, Diagnostic> {
    i32::try_from(kind).ok().and_then(element_type_of).ok_or_else(|| {
        context.refuse(format!("attribute `{attribute}` is {kind}, not an element type that is supported"))
    })
}

/// Before opset 13 the input was seen as a matrix, cut at the axis.
fn softmax(context: &mut NodeContext<'_>, op: impl Fn(usize) -> Op) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    if context.opset() >= 13 {
        let axis = context.attributes.int("axis", -1)?;
        let axis = context.axis(axis, shape.len())?;
        return context.emit(op(axis), vec![x]);
    }
    let axis = context.attributes.int("axis", 1)?;
    let axis = if axis == shape.len() as i64 { shape.len() } else { context.axis(axis, shape.len())? };
    if axis + 1 == shape.len() {
        return context.emit(op(axis), vec![x]);
    }
    let matrix = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    let flat = context.emit_unnamed(Op::Reshape { shape: matrix }, vec![x])?[0];
    let result = context.emit_unnamed(op(1), vec![flat])?[0];
    context.emit(Op::Reshape { shape }, vec![result])
}
