//! Functions of single elements, of all element types.

use partita_rt::kernels::{self, BinaryFunction, UnaryFunction};

use super::spatial::activation;
use super::{EvalError, f32s, wrong_type};
use crate::graph::op::{Activation, BinaryOp, Op, UnaryOp};
use crate::graph::types::{Data, ElementType, TensorType, Value};

pub(super) fn evaluate(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    match op {
        Op::Unary(function) => unary(op, *function, inputs[0]),
        Op::Binary(function, last) => binary(op, *function, *last, inputs, output),
        Op::PRelu => {
            let mut y = vec![0.0; output.element_count()];
            kernels::p_relu(f32s(op, inputs[0])?, f32s(op, inputs[1])?, &inputs[1].shape, &mut y, &output.shape);
            Ok(Data::F32(y))
        }
        Op::Where => select(op, inputs, output),
        Op::Cast { to } => Ok(cast(&inputs[0].data, *to)),
        _ => Err(wrong_type(op, inputs)),
    }
}

/// A unary function as runtime-rt names it; `None` for those of integers and booleans only.
pub fn unary_function(function: UnaryOp) -> Option<UnaryFunction> {
    Some(match function {
        UnaryOp::Activation(last) => UnaryFunction::Activation(activation(last)),
        UnaryOp::Sigmoid => UnaryFunction::Sigmoid,
        UnaryOp::Tanh => UnaryFunction::Tanh,
        UnaryOp::Elu { alpha } => UnaryFunction::Elu { alpha },
        UnaryOp::Selu { alpha, gamma } => UnaryFunction::Selu { alpha, gamma },
        UnaryOp::Softplus => UnaryFunction::Softplus,
        UnaryOp::Erf => UnaryFunction::Erf,
        UnaryOp::Gelu { tanh } => UnaryFunction::Gelu { tanh },
        UnaryOp::Exp => UnaryFunction::Exp,
        UnaryOp::Log => UnaryFunction::Log,
        UnaryOp::Sqrt => UnaryFunction::Sqrt,
        UnaryOp::Neg => UnaryFunction::Neg,
        UnaryOp::Abs => UnaryFunction::Abs,
        UnaryOp::Reciprocal => UnaryFunction::Reciprocal,
        UnaryOp::Floor => UnaryFunction::Floor,
        UnaryOp::Ceil => UnaryFunction::Ceil,
        UnaryOp::Round => UnaryFunction::Round,
        UnaryOp::Silu => UnaryFunction::Silu,
        UnaryOp::Not => return None,
    })
}

fn unary(op: &Op, function: UnaryOp, x: &Value) -> Result<Data, EvalError> {
    match (&x.data, function) {
        (Data::Bool(x), UnaryOp::Not) => Ok(Data::Bool(x.iter().map(|x| !x).collect())),
        (Data::I64(x), UnaryOp::Neg) => Ok(Data::I64(x.iter().map(|x| x.wrapping_neg()).collect())),
        (Data::I64(x), UnaryOp::Abs) => Ok(Data::I64(x.iter().map(|x| x.wrapping_abs()).collect())),
        (Data::I64(x), UnaryOp::Activation(Activation::Relu)) => Ok(Data::I64(x.iter().map(|x| *x.max(&0)).collect())),
        (Data::F32(elements), _) => {
            let function = unary_function(function).ok_or_else(|| wrong_type(op, &[x]))?;
            let mut y = vec![0.0; elements.len()];
            kernels::unary(elements, &mut y, function);
            Ok(Data::F32(y))
        }
        _ => Err(wrong_type(op, &[x])),
    }
}

/// A binary function as runtime-rt names it; `None` for comparisons and logic.
pub fn binary_function(function: BinaryOp) -> Option<BinaryFunction> {
    Some(match function {
        BinaryOp::Add => BinaryFunction::Add,
        BinaryOp::Sub => BinaryFunction::Sub,
        BinaryOp::Mul => BinaryFunction::Mul,
        BinaryOp::Div => BinaryFunction::Div,
        BinaryOp::Pow => BinaryFunction::Pow,
        BinaryOp::Min => BinaryFunction::Min,
        BinaryOp::Max => BinaryFunction::Max,
        BinaryOp::Mod => BinaryFunction::Mod,
        BinaryOp::RoundedQuotient => BinaryFunction::RoundedQuotient,
        BinaryOp::Equal
        | BinaryOp::Less
        | BinaryOp::LessOrEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterOrEqual
        | BinaryOp::And
        | BinaryOp::Or => return None,
    })
}

fn binary(
    op: &Op,
    function: BinaryOp,
    last: Activation,
    inputs: &[&Value],
    output: &TensorType,
) -> Result<Data, EvalError> {
    let (a, b) = (inputs[0], inputs[1]);
    if let (Data::F32(left), Data::F32(right), Some(function)) = (&a.data, &b.data, binary_function(function)) {
        let mut y = vec![0.0; output.element_count()];
        kernels::binary(left, &a.shape, right, &b.shape, &mut y, &output.shape, function, activation(last));
        return Ok(Data::F32(y));
    }
    match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) => compare(op, function, &pairs(x, a, y, b, output), inputs),
        (Data::I64(x), Data::I64(y)) => integers(op, function, &pairs(x, a, y, b, output), inputs),
        (Data::I32(x), Data::I32(y)) => {
            let wide: Vec<(i64, i64)> =
                pairs(x, a, y, b, output).into_iter().map(|(x, y)| (i64::from(x), i64::from(y))).collect();
            match integers(op, function, &wide, inputs)? {
                Data::I64(elements) => Ok(Data::I32(elements.into_iter().map(|x| x as i32).collect())),
                other => Ok(other),
            }
        }
        (Data::Bool(x), Data::Bool(y)) => {
            let pairs = pairs(x, a, y, b, output).into_iter();
            match function {
                BinaryOp::And => Ok(Data::Bool(pairs.map(|(x, y)| x & y).collect())),
                BinaryOp::Or => Ok(Data::Bool(pairs.map(|(x, y)| x | y).collect())),
                BinaryOp::Equal => Ok(Data::Bool(pairs.map(|(x, y)| x == y).collect())),
                _ => Err(wrong_type(op, inputs)),
            }
        }
        _ => Err(wrong_type(op, inputs)),
    }
}

/// Broadcast pairs of elements.
fn pairs<T: Copy + Default>(x: &[T], a: &Value, y: &[T], b: &Value, output: &TensorType) -> Vec<(T, T)> {
    let mut left = vec![T::default(); output.element_count()];
    let mut right = left.clone();
    kernels::expand(x, &a.shape, &mut left, &output.shape);
    kernels::expand(y, &b.shape, &mut right, &output.shape);
    left.into_iter().zip(right).collect()
}

fn compare<T: PartialOrd>(op: &Op, function: BinaryOp, pairs: &[(T, T)], inputs: &[&Value]) -> Result<Data, EvalError> {
    let test: fn(&T, &T) -> bool = match function {
        BinaryOp::Equal => |x, y| x == y,
        BinaryOp::Less => |x, y| x < y,
        BinaryOp::LessOrEqual => |x, y| x <= y,
        BinaryOp::Greater => |x, y| x > y,
        BinaryOp::GreaterOrEqual => |x, y| x >= y,
        _ => return Err(wrong_type(op, inputs)),
    };
    Ok(Data::Bool(pairs.iter().map(|(x, y)| test(x, y)).collect()))
}

fn integers(op: &Op, function: BinaryOp, pairs: &[(i64, i64)], inputs: &[&Value]) -> Result<Data, EvalError> {
    let apply = |(x, y): &(i64, i64)| {
        let (x, y) = (*x, *y);
        Ok(match function {
            BinaryOp::Add => x.wrapping_add(y),
            BinaryOp::Sub => x.wrapping_sub(y),
            BinaryOp::Mul => x.wrapping_mul(y),
            // ONNX Div of integers truncates, Mod (fmod = 0) has the divisor's sign.
            BinaryOp::Div | BinaryOp::Mod if y == 0 => return Err(EvalError::DivisionByZero),
            BinaryOp::Div => x.wrapping_div(y),
            BinaryOp::Mod => x.wrapping_rem(y).wrapping_add(y).wrapping_rem(y),
            BinaryOp::Min => x.min(y),
            BinaryOp::Max => x.max(y),
            BinaryOp::Pow => x.wrapping_pow(u32::try_from(y).unwrap_or(0)),
            _ => return Err(wrong_type(op, inputs)),
        })
    };
    match function {
        BinaryOp::Equal | BinaryOp::Less | BinaryOp::LessOrEqual | BinaryOp::Greater | BinaryOp::GreaterOrEqual => {
            compare(op, function, pairs, inputs)
        }
        _ => Ok(Data::I64(pairs.iter().map(apply).collect::<Result<_, _>>()?)),
    }
}

fn select(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    let [condition, a, b] = inputs else { return Err(wrong_type(op, inputs)) };
    let Data::Bool(chosen) = &condition.data else { return Err(wrong_type(op, inputs)) };
    macro_rules! choose {
        ($variant:ident, $x:expr, $y:expr) => {{
            let mut out = vec![Default::default(); output.element_count()];
            kernels::select(chosen, &condition.shape, $x, &a.shape, $y, &b.shape, &mut out, &output.shape);
            Ok(Data::$variant(out))
        }};
    }
    match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) => choose!(F32, x, y),
        (Data::I64(x), Data::I64(y)) => choose!(I64, x, y),
        (Data::I32(x), Data::I32(y)) => choose!(I32, x, y),
        (Data::Bool(x), Data::Bool(y)) => choose!(Bool, x, y),
        _ => Err(wrong_type(op, inputs)),
    }
}

/// ONNX Cast: floats to integers truncate and saturate, anything to bool is `!= 0`.
pub fn cast(data: &Data, to: ElementType) -> Data {
    fn convert<T: Copy>(elements: &[T], to: ElementType, float: impl Fn(T) -> f32, integer: impl Fn(T) -> i64) -> Data {
        let all = elements.iter().copied();
        match to {
            ElementType::F32 => Data::F32(all.map(float).collect()),
            ElementType::I64 => Data::I64(all.map(integer).collect()),
            ElementType::I32 => Data::I32(all.map(|x| integer(x) as i32).collect()),
            ElementType::I8 => Data::I8(all.map(|x| integer(x) as i8).collect()),
            ElementType::U8 => Data::U8(all.map(|x| integer(x) as u8).collect()),
            ElementType::Bool => Data::Bool(all.map(|x| float(x) != 0.0).collect()),
        }
    }
    match data {
        Data::F32(x) => convert(x, to, |x| x, |x| x as i64),
        Data::I64(x) => convert(x, to, |x| x as f32, |x| x),
        Data::I32(x) => convert(x, to, |x| x as f32, i64::from),
        Data::I8(x) => convert(x, to, f32::from, i64::from),
        Data::U8(x) => convert(x, to, f32::from, i64::from),
        Data::Bool(x) => convert(x, to, |x| f32::from(u8::from(x)), i64::from),
    }
}
