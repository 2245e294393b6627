//! Element-wise functions over whole vectors, in whatever layout the operands share.

use super::build::{Builder, activate, binary, plus, repeat};
use super::functions::{self, Functions};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Affine, Arithmetic, Buffer, Expression, Function, LoopVar, Role, Statement};
use partita_ir::graph::op::{Activation, BinaryOp, UnaryOp};
use partita_ir::graph::{Op, TensorType};

/// Vectors per loop iteration.
const UNROLL: usize = 4;

/// Values below it are rounded in the short way.
const SMALL: f32 = 4_194_304.0;

/// How an operand is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// Element by element, like the output.
    Same,
    /// The same constant everywhere.
    Scalar(f32),
    /// One constant per channel.
    Channel,
}

fn source(operand: &Operand<'_>, output: &TensorType) -> Option<Source> {
    if let Some([element]) = operand.value {
        return Some(Source::Scalar(*element));
    }
    if operand.tensor_type.shape == output.shape {
        return Some(Source::Same);
    }
    operand.value?;
    let shape = &operand.tensor_type.shape;
    let (rank, channels) = (output.shape.len(), *output.shape.get(1)?);
    let missing = rank.checked_sub(shape.len())?;
    let fits = shape.iter().product::<usize>() == channels
        && shape.iter().enumerate().all(|(axis, extent)| *extent == 1 || axis + missing == 1);
    (fits && rank > 2).then_some(Source::Channel)
}

fn divides(op: &Op) -> bool {
    matches!(op, Op::Binary(function, _) if arithmetic(*function) == Some(Arithmetic::Div))
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

pub(super) fn layouts(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<LayoutChoice> {
    let sources: Option<Vec<Source>> = inputs.iter().map(|input| source(input, output)).collect();
    let running = |sources: &Vec<Source>| {
        inputs.iter().zip(sources).any(|(input, source)| *source == Source::Same && input.value.is_none())
    };
    let Some(sources) = sources.filter(running) else { return Vec::new() };
    let simple = matches!(op, Op::Unary(UnaryOp::Activation(_) | UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sqrt))
        || matches!(op, Op::Unary(function) if functions::has(*function))
        || matches!(op, Op::Binary(function, _) if arithmetic(*function).is_some());
    if !simple {
        return Vec::new();
    }
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

pub(super) fn lower(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    layout: Layout,
    machine: &Machine,
) -> Option<LoweredNode> {
    let lanes = machine.instruction_set.lanes() as usize;
    let sources = inputs.iter().map(|input| source(input, output)).collect::<Option<Vec<Source>>>()?;
    // Blocks of channels: [samples * blocks][plane][lanes]; plain tensors are one block.
    let (blocks_per_sample, samples, plane) = match layout {
        Layout::Plain => (1, 1, output.element_count().div_ceil(lanes)),
        Layout::Blocked(_) => {
            (output.shape[1].div_ceil(lanes), output.shape[0], output.shape[2..].iter().product::<usize>())
        }
    };
    let elements = samples * blocks_per_sample * plane * lanes;
    let mut builder = Builder::new(lanes as u32);
    let mut bindings = Vec::new();
    let mut operands: Vec<(Source, Option<Buffer>)> = Vec::new();
    for (index, (source, input)) in sources.iter().zip(inputs).enumerate() {
        let name = ["a", "b"].get(index)?;
        // What stands beside the last channel is divided, too, and must stay a number.
        let beyond = if index == 1 && divides(op) { 1.0 } else { 0.0 };
        let buffer = match source {
            Source::Same if let Some(constant) = input.value => {
                let mut packed = constant.to_vec();
                packed.resize(elements, beyond);
                bindings.push(Binding::Weights { from: index, elements: packed });
                Some(builder.buffer(name, Access::Weights, elements))
            }
            Source::Same => {
                bindings.push(Binding::Input(index));
                Some(builder.buffer(name, Access::Input, elements))
            }
            Source::Channel => {
                let mut packed = input.value?.to_vec();
                packed.resize(blocks_per_sample * lanes, beyond);
                let count = packed.len();
                bindings.push(Binding::Weights { from: index, elements: packed });
                Some(builder.buffer(name, Access::Weights, count))
            }
            Source::Scalar(_) => None,
        };
        operands.push((*source, buffer));
    }
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
            let values: Vec<Expression> =
                operands.iter().map(|(source, buffer)| read(*source, *buffer, &at, block, lanes)).collect();
            let mut functions = Functions { builder: &mut builder, statements: &mut statements };
            let value = apply(op, values, &mut functions)?;
            statements.push(Statement::Store(y, at, value));
        }
        body.push(repeat(position, count, step, statements));
    }
    let body = vec![repeat(sample, samples, 1, vec![repeat(block, blocks_per_sample, 1, body)])];
    let word = partita_ir::graph::text::op_name(op).to_lowercase();
    let name = format!("{word}_{}x{plane}", samples * blocks_per_sample);
    let mut kernel = builder.finish(name, format!("{word} of {} elements", output.element_count()), body, 0);
    kernel.in_place = operands
        .iter()
        .zip(inputs)
        .filter_map(|((source, buffer), input)| buffer.filter(|_| *source == Source::Same && input.value.is_none()))
        .collect();
    Some(LoweredNode { kernel, bindings, order: None })
}

fn read(source: Source, buffer: Option<Buffer>, at: &Affine, block: LoopVar, lanes: usize) -> Expression {
    match (source, buffer) {
        (Source::Same, Some(buffer)) => Expression::Load(buffer, at.clone()),
        (Source::Channel, Some(buffer)) => Expression::Load(buffer, Affine::term(block, lanes as i64)),
        (Source::Scalar(value), _) => Expression::Constant(value),
        (Source::Same | Source::Channel, None) => Expression::Constant(0.0),
    }
}

fn apply(op: &Op, mut operands: Vec<Expression>, functions: &mut Functions<'_>) -> Option<Expression> {
    if let Op::Unary(function) = op {
        let x = operands.pop()?;
        let simple = |function| Expression::Unary(function, Box::new(x.clone()));
        return Some(match function {
            UnaryOp::Activation(activation) => activate(x, *activation),
            UnaryOp::Neg => simple(Function::Neg),
            UnaryOp::Abs => simple(Function::Abs),
            UnaryOp::Sqrt => simple(Function::Sqrt),
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
