//! Element-wise functions over whole vectors, in whatever layout the operands share.

use super::build::{Builder, activate, binary, plus, repeat};
use super::functions::{self, Functions};
use super::fused::{Fused, Joined, Tree};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Affine, Arithmetic, Expression, Function, Role, Statement};
use partita_ir::graph::op::{Activation, BinaryOp, UnaryOp};
use partita_ir::graph::{Op, TensorType};

/// Vectors per loop iteration.
const UNROLL: usize = 4;

/// Values below it are rounded in the short way.
const SMALL: f32 = 4_194_304.0;

/// How an operand is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    /// Element by element, like the output.
    Same,
    /// The same constant everywhere.
    Scalar(f32),
    /// One constant per channel.
    Channel,
}

pub(super) fn source(operand: &Operand<'_>, output: &TensorType) -> Option<Source> {
    if let Some([element]) = operand.value {
        return Some(Source::Scalar(*element));
    }
    if operand.tensor_type.shape == output.shape {
        return Some(Source::Same);
    }
    operand.value?;
    let shape = &operand.tensor_type.shape;
    // Behind axes of one element each.
    if shape.len() <= output.rank() && operand.tensor_type.element_count() == output.element_count() {
        return Some(Source::Same);
    }
    let (rank, channels) = (output.shape.len(), *output.shape.get(1)?);
    let missing = rank.checked_sub(shape.len())?;
    let fits = shape.iter().product::<usize>() == channels
        && shape.iter().enumerate().all(|(axis, extent)| *extent == 1 || axis + missing == 1);
    (fits && rank > 2).then_some(Source::Channel)
}

/// What is done to two elements, but for the rounding of a rounded quotient.
fn arithmetic(function: BinaryOp) -> Option<Arithmetic> {
    Some(match function {
        BinaryOp::Add => Arithmetic::Add,
        BinaryOp::Sub => Arithmetic::Sub,
        BinaryOp::Mul => Arithmetic::Mul,
        BinaryOp::Div | BinaryOp::RoundedQuotient => Arithmetic::Div,
        BinaryOp::Max => Arithmetic::Max,
        BinaryOp::Min => Arithmetic::Min,
        _ => return None,
    })
}

/// Whether an operator is done on vectors, whatever its operands are.
pub(super) fn has(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(
            UnaryOp::Activation(_)
                | UnaryOp::Neg
                | UnaryOp::Abs
                | UnaryOp::Sqrt
                | UnaryOp::Half
                | UnaryOp::Steps { .. }
        )
    ) || matches!(op, Op::Unary(function) if functions::has(*function))
        || matches!(op, Op::Binary(function, _) if arithmetic(*function).is_some())
}

/// Layouts for one or several such operators: of all their operands, and of the result.
pub(super) fn layouts(inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<LayoutChoice> {
    let sources: Option<Vec<Source>> = inputs.iter().map(|input| source(input, output)).collect();
    let running = |sources: &Vec<Source>| {
        inputs.iter().zip(sources).any(|(input, source)| *source == Source::Same && input.value.is_none())
    };
    let Some(sources) = sources.filter(running) else { return Vec::new() };
    let choice = |layout| LayoutChoice {
        inputs: sources.iter().map(|source| if *source == Source::Same { layout } else { Layout::Plain }).collect(),
        output: layout,
    };
    let mut choices = Vec::new();
    let whole = inputs.iter().zip(&sources).any(|(input, source)| input.value.is_some() && *source == Source::Same);
    // Constants are plain.
    if output.rank() >= 3 && !whole {
        choices.push(choice(Layout::Blocked(machine.instruction_set.lanes())));
    }
    if !sources.contains(&Source::Channel) {
        choices.push(choice(Layout::Plain));
    }
    choices
}

/// Operators that follow each other, as one kernel.
pub(super) fn lower(fused: &Fused<'_>, output: &TensorType, layout: Layout, machine: &Machine) -> Option<LoweredNode> {
    let lanes = machine.instruction_set.lanes() as usize;
    let (blocks_per_sample, samples, plane) = match layout {
        Layout::Plain => (1, 1, output.element_count().div_ceil(lanes)),
        Layout::Blocked(_) => {
            (output.shape[1].div_ceil(lanes), output.shape[0], output.shape[2..].iter().product::<usize>())
        }
    };
    let elements = samples * blocks_per_sample * plane * lanes;
    let mut builder = Builder::new(lanes as u32);
    let mut bindings = Vec::new();
    let sizes = [elements, blocks_per_sample * lanes];
    let joined = Joined::declare(fused, (&mut builder, &mut bindings), 0, output, sizes, machine)?;
    let y = builder.buffer("y", Access::Output, elements);
    bindings.push(Binding::Output);
    let sample = builder.loop_over(Role::Batch, "sample");
    let block = builder.loop_over(Role::Channels, "block");
    let mut body = Vec::new();
    for (first, count, step) in [(0, plane / UNROLL * UNROLL, UNROLL), (plane / UNROLL * UNROLL, plane % UNROLL, 1)] {
        if count == 0 {
            continue;
        }
        let position = builder.loop_over(Role::Position, "position");
        let mut statements = Vec::new();
        for unrolled in 0..step {
            let at = plus(&Affine::term(sample, (blocks_per_sample * plane * lanes) as i64), block, plane * lanes);
            let at = plus(&at, position, lanes).plus(((first + unrolled) * lanes) as i64);
            let mut functions = Functions { builder: &mut builder, statements: &mut statements };
            let nothing = Expression::Constant(0.0);
            let value = joined.value(&nothing, [&at, &Affine::term(block, lanes as i64)], &mut functions)?;
            statements.push(Statement::Store(y, at, value));
        }
        body.push(repeat(position, count, step, statements));
    }
    let body = vec![repeat(sample, samples, 1, vec![repeat(block, blocks_per_sample, 1, body)])];
    let Tree::Apply(op, inputs) = fused.tree else { return None };
    let word = partita_ir::graph::text::op_name(op).to_lowercase();
    let name = format!("{word}_{}x{plane}", samples * blocks_per_sample);
    let before =
        if inputs.iter().any(|input| matches!(input, Tree::Apply(..))) { " and what is before it" } else { "" };
    let summary = format!("{word}{before} of {} elements", output.element_count());
    let mut kernel = builder.finish(name, summary, body, 0);
    kernel.in_place = joined.in_place(fused.operands);
    Some(LoweredNode { kernel, bindings, order: None })
}

/// An operator on vectors.
pub(super) fn apply(op: &Op, mut operands: Vec<Expression>, functions: &mut Functions<'_>) -> Option<Expression> {
    if let Op::Unary(function) = op {
        let x = operands.pop()?;
        let simple = |function| Expression::Unary(function, Box::new(x.clone()));
        return Some(match function {
            UnaryOp::Activation(activation) => activate(x, *activation),
            UnaryOp::Neg => simple(Function::Neg),
            UnaryOp::Abs => simple(Function::Abs),
            UnaryOp::Sqrt => simple(Function::Sqrt),
            UnaryOp::Half => simple(Function::Half),
            UnaryOp::Steps { step, low, high } => {
                let steps = binary(Arithmetic::Mul, x, Expression::Constant(1.0 / step));
                let clipped = activate(steps, Activation::Clip(*low, *high));
                let whole = Expression::Unary(Function::RoundSmall, Box::new(clipped));
                binary(Arithmetic::Mul, whole, Expression::Constant(*step))
            }
            other => functions.apply(*other, x)?,
        });
    }
    let Op::Binary(function, last) = op else { return None };
    let b = operands.pop()?;
    let a = operands.pop()?;
    let value = binary(arithmetic(*function)?, a, b);
    let round = |function: Function, value: Expression| Expression::Unary(function, Box::new(value));
    let is_bound = |bound: f32| bound.fract() == 0.0 && bound.abs() < SMALL;
    Some(match (function, last) {
        // Between whole bounds it is the same before as after, and small.
        (BinaryOp::RoundedQuotient, Activation::Clip(low, high)) if is_bound(*low) && is_bound(*high) => {
            round(Function::RoundSmall, activate(value, *last))
        }
        (BinaryOp::RoundedQuotient, _) => activate(round(Function::Round, value), *last),
        _ => activate(value, *last),
    })
}
