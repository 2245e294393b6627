//! Functions of single elements, of all element types.

use partita_rt::kernels::{self, BinaryFunction, Comparison, Logic, UnaryFunction};

use super::error::{EvalError, f32s, wrong_type};
use super::spatial::activation;
use crate::graph::op::{Activation, BinaryOp, Op, UnaryOp};
use crate::graph::types::{Data, TensorType, Value, on_elements, on_numbers};

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
        Op::Cast { to } => Ok(inputs[0].data.cast(*to)),
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
        UnaryOp::Sin => UnaryFunction::Sin,
        UnaryOp::Cos => UnaryFunction::Cos,
        UnaryOp::Tan => UnaryFunction::Tan,
        UnaryOp::Asin => UnaryFunction::Asin,
        UnaryOp::Acos => UnaryFunction::Acos,
        UnaryOp::Atan => UnaryFunction::Atan,
        UnaryOp::Sinh => UnaryFunction::Sinh,
        UnaryOp::Cosh => UnaryFunction::Cosh,
        UnaryOp::Asinh => UnaryFunction::Asinh,
        UnaryOp::Acosh => UnaryFunction::Acosh,
        UnaryOp::Atanh => UnaryFunction::Atanh,
        UnaryOp::Sign => UnaryFunction::Sign,
        UnaryOp::Not => return None,
    })
}

fn unary(op: &Op, function: UnaryOp, x: &Value) -> Result<Data, EvalError> {
    if let (Data::Bool(elements), UnaryOp::Not) = (&x.data, function) {
        let mut y = vec![false; elements.len()];
        kernels::not(elements, &mut y);
        return Ok(Data::Bool(y));
    }
    let refused = || wrong_type(op, &[x]);
    let function = unary_function(function).ok_or_else(refused)?;
    Ok(on_numbers!(&x.data, elements => Self({
        let mut y = vec![Default::default(); elements.len()];
        kernels::map(elements, &mut y, function);
        y
    }), return Err(refused())))
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

/// A comparison as runtime-rt names it; `None` for what is none.
pub fn comparison(function: BinaryOp) -> Option<Comparison> {
    Some(match function {
        BinaryOp::Equal => Comparison::Equal,
        BinaryOp::Less => Comparison::Less,
        BinaryOp::LessOrEqual => Comparison::LessOrEqual,
        BinaryOp::Greater => Comparison::Greater,
        BinaryOp::GreaterOrEqual => Comparison::GreaterOrEqual,
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Pow
        | BinaryOp::Min
        | BinaryOp::Max
        | BinaryOp::Mod
        | BinaryOp::RoundedQuotient
        | BinaryOp::And
        | BinaryOp::Or => return None,
    })
}

/// A function of truth values as runtime-rt names it; `None` for what is none.
pub fn logic(function: BinaryOp) -> Option<Logic> {
    match function {
        BinaryOp::And => Some(Logic::And),
        BinaryOp::Or => Some(Logic::Or),
        _ => None,
    }
}

fn binary(
    op: &Op,
    function: BinaryOp,
    last: Activation,
    inputs: &[&Value],
    output: &TensorType,
) -> Result<Data, EvalError> {
    let (a, b) = (inputs[0], inputs[1]);
    let refused = || wrong_type(op, inputs);
    let count = output.element_count();
    if let (Data::Bool(left), Data::Bool(right), Some(function)) = (&a.data, &b.data, logic(function)) {
        let mut y = vec![false; count];
        kernels::logic(left, &a.shape, right, &b.shape, &mut y, &output.shape, function);
        return Ok(Data::Bool(y));
    }
    if let Some(comparison) = comparison(function) {
        let mut y = vec![false; count];
        on_elements!(&a.data, left => {
            let right = b.data.elements().ok_or_else(refused)?;
            kernels::compare(left, &a.shape, right, &b.shape, &mut y, &output.shape, comparison);
        });
        return Ok(Data::Bool(y));
    }
    let function = binary_function(function).ok_or_else(refused)?;
    if let (Data::F32(left), Data::F32(right)) = (&a.data, &b.data) {
        let mut y = vec![0.0; count];
        kernels::binary(left, &a.shape, right, &b.shape, &mut y, &output.shape, function, activation(last));
        return Ok(Data::F32(y));
    }
    let divides = matches!(function, BinaryFunction::Div | BinaryFunction::Mod);
    if divides && b.data.element().is_integer() && crate::graph::values::to_f32(&b.data).contains(&0.0) {
        return Err(EvalError::DivisionByZero);
    }
    Ok(on_numbers!(&a.data, left => Self({
        let right = b.data.elements().ok_or_else(refused)?;
        let mut y = vec![Default::default(); count];
        kernels::combine(left, &a.shape, right, &b.shape, &mut y, &output.shape, function);
        y
    }), return Err(refused())))
}

fn select(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    let [condition, a, b] = inputs else { return Err(wrong_type(op, inputs)) };
    let Data::Bool(chosen) = &condition.data else { return Err(wrong_type(op, inputs)) };
    Ok(on_elements!(&a.data, x => Self({
        let y = b.data.elements().ok_or_else(|| wrong_type(op, inputs))?;
        let mut out = vec![Default::default(); output.element_count()];
        kernels::select(chosen, &condition.shape, x, &a.shape, y, &b.shape, &mut out, &output.shape);
        out
    })))
}
