//! LSTM, GRU and RNN over a sequence of known length: one step after the other, with the same weights.

mod direction;

use crate::importer::{Converter, NodeContext};
use direction::{Direction, activations};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{BinaryOp, Op};

/// Most steps of one node, both directions together: each becomes nodes of its own.
const MAX_STEPS: usize = 1024;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "LSTM" => |context| layer(context, Cell::Lstm),
        "GRU" => |context| layer(context, Cell::Gru),
        "RNN" => |context| layer(context, Cell::Rnn),
        _ => return None,
    })
}

/// Kinds of layers.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Cell {
    Lstm,
    Gru,
    Rnn,
}

impl Cell {
    /// Parts of the weights, and the names of the default activations.
    fn gates(self) -> (usize, &'static [&'static str]) {
        match self {
            Cell::Lstm => (4, &["Sigmoid", "Tanh", "Tanh"]),
            Cell::Gru => (3, &["Sigmoid", "Tanh"]),
            Cell::Rnn => (1, &["Tanh"]),
        }
    }
}

/// A matrix that steps are multiplied with, `[rows, gates * hidden]`.
#[derive(Clone, Copy)]
enum Matrix {
    Real(TensorId),
    /// Whole numbers in `f32`, and what they are scaled with; the other factor is quantized by its range.
    Quantized([TensorId; 2]),
}

impl Matrix {
    fn product(self, context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
        match self {
            Matrix::Real(weights) => context.value(Op::MatMul, &[x, weights]),
            Matrix::Quantized(weights) => super::integers::product_by_range(context, x, weights),
        }
    }
}

/// A layer of this kind; that of com.microsoft has quantized weights, which are not transposed.
#[expect(clippy::too_many_lines, reason = "operands and attributes, in the order of the standard")]
pub(super) fn layer(context: &mut NodeContext<'_>, cell: Cell) -> Result<(), Diagnostic> {
    let is_quantized = !matches!(context.attributes.node.domain.as_str(), "" | "ai.onnx");
    let (gates, _) = cell.gates();
    let x = context.input(0)?;
    let batch_first = context.attributes.flag("layout", false)?;
    let x = if batch_first { context.value(Op::Transpose { permutation: vec![1, 0, 2] }, &[x])? } else { x };
    let [steps, batch, inputs] = context.shape(x)[..] else {
        let found = context.tensor_type(x);
        return Err(context.refuse(format!("its input is {found}, expected [steps, batch, inputs]")));
    };
    let word = context.attributes.string("direction", "forward")?;
    let backwards: &[bool] = match word.as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => {
            let known = ["forward", "reverse", "bidirectional"];
            return Err(context.attributes.unknown_word("direction", other, &known));
        }
    };
    let directions = backwards.len();
    let of_state = context.input(2)?;
    let hidden = context.shape(of_state).get(if is_quantized { 1 } else { 2 }).copied().unwrap_or(0);
    let stated = context.attributes.int("hidden_size", hidden as i64)?;
    let expected = match is_quantized {
        false => [vec![directions, gates * hidden, inputs], vec![directions, gates * hidden, hidden]],
        true => [vec![directions, inputs, gates * hidden], vec![directions, hidden, gates * hidden]],
    };
    for (position, expected) in [1, 2].into_iter().zip(expected) {
        let found = context.input(position)?;
        if hidden == 0 || stated != hidden as i64 || context.shape(found) != expected {
            let found = context.tensor_type(found);
            return Err(context.refuse(format!("weights {found} should be {expected:?} (hidden_size {stated})")));
        }
    }
    if steps == 0 || steps * directions > MAX_STEPS {
        return Err(context.attributes.unsupported(format!(
            "{steps} steps in {directions} directions; up to {MAX_STEPS} are supported, each of which becomes nodes"
        )));
    }
    let lengths = lengths(context, steps, batch)?;
    let all_gates = activations(context, cell, directions)?;
    let clip = context.attributes.optional_float("clip")?;
    if clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
        return Err(context.refuse("attribute `clip` should be a positive number"));
    }
    let input_forget = cell == Cell::Lstm && context.attributes.flag("input_forget", false)?;
    let linear_before_reset = cell == Cell::Gru && context.attributes.flag("linear_before_reset", false)?;
    let mut outputs = Vec::with_capacity(directions);
    let (mut last_h, mut last_c) = (Vec::new(), Vec::new());
    for (number, backwards) in backwards.iter().enumerate() {
        let biases = match context.optional_input(3) {
            Some(bias) => {
                let size = gates * hidden;
                let both = vector(context, bias, number, 2 * size)?;
                [0, size].map(|start| cut(context, both, 0, start, size).map(Some))
            }
            None => [Ok(None), Ok(None)],
        };
        let [of_inputs, of_state] = biases;
        let biases = [of_inputs?, of_state?];
        let direction = Direction {
            cell,
            hidden,
            weights: matrix(context, 1, number)?,
            recurrence: recurrence(context, number, biases[1], cell, hidden, linear_before_reset)?,
            peepholes: match context.optional_input(7).filter(|_| cell == Cell::Lstm) {
                Some(peepholes) => Some(vector(context, peepholes, number, 3 * hidden)?),
                None => None,
            },
            gates: all_gates[number].clone(),
            clip,
            input_forget,
            linear_before_reset,
        };
        // The inputs' share of all gates and steps in one product.
        let flat = context.value(Op::Reshape { shape: vec![steps * batch, inputs] }, &[x])?;
        let mut shares = direction.weights.product(context, flat)?;
        if let Some(bias) = biases[0] {
            shares = context.binary(BinaryOp::Add, shares, bias)?;
        }
        let mut h = initial(context, 5, number, batch, hidden, batch_first)?;
        let mut c = match cell {
            Cell::Lstm => Some(initial(context, 6, number, batch, hidden, batch_first)?),
            Cell::Gru | Cell::Rnn => None,
        };
        let mut states = Vec::with_capacity(steps);
        for step in 0..steps {
            let at = if *backwards { steps - 1 - step } else { step };
            let share = cut(context, shares, 0, at * batch, batch)?;
            let (next_h, next_c) = direction.step(context, share, h, c)?;
            let mask = lengths.mask(context, at)?;
            states.push(match mask {
                Some(mask) => {
                    let zeros = context.number(0.0, next_h)?;
                    context.value(Op::Where, &[mask, next_h, zeros])?
                }
                None => next_h,
            });
            h = held(context, mask, next_h, h)?;
            c = match (next_c, c) {
                (Some(next), Some(c)) => Some(held(context, mask, next, c)?),
                _ => None,
            };
        }
        if *backwards {
            states.reverse();
        }
        outputs.push(states);
        last_h.push(h);
        last_c.extend(c);
    }
    let sequence = sequence(context, &outputs, batch, hidden, batch_first)?;
    let mut results = vec![sequence];
    for last in [last_h, last_c] {
        if !last.is_empty() {
            results.push(joined(context, &last, batch, hidden, batch_first)?);
        }
    }
    context.bind(&results)
}

/// How many steps each sample has.
struct Lengths {
    /// `[batch, 1]`, where not all samples have all steps.
    counts: Option<TensorId>,
    /// What is known of them.
    known: Option<Vec<i64>>,
}

/// Lengths of the samples' sequences; those that are not said have all steps.
fn lengths(context: &mut NodeContext<'_>, steps: usize, batch: usize) -> Result<Lengths, Diagnostic> {
    let all = Lengths { counts: None, known: None };
    let Some(counts) = context.optional_input(4) else { return Ok(all) };
    if context.shape(counts) != [batch] {
        return Err(
            context.refuse(format!("its sequence lengths are {}, expected [{batch}]", context.tensor_type(counts)))
        );
    }
    let is_known = context.importer.graph.value(counts).is_some();
    let known = if is_known { Some(context.constant_ints(4)?) } else { None };
    if known.as_ref().is_some_and(|known| known.iter().all(|length| *length >= steps as i64)) {
        return Ok(all);
    }
    let counts = context.value(Op::Reshape { shape: vec![batch, 1] }, &[counts])?;
    Ok(Lengths { counts: Some(counts), known })
}

impl Lengths {
    /// Which samples have this step, `[batch, 1]`; nothing if all have.
    fn mask(&self, context: &mut NodeContext<'_>, at: usize) -> Result<Option<TensorId>, Diagnostic> {
        let Some(counts) = self.counts else { return Ok(None) };
        if self.known.as_ref().is_some_and(|known| known.iter().all(|length| *length > at as i64)) {
            return Ok(None);
        }
        let at = context.number(at as f64, counts)?;
        context.binary(BinaryOp::Greater, counts, at).map(Some)
    }
}

/// The new state of samples that have this step, the old one of the others.
fn held(
    context: &mut NodeContext<'_>,
    mask: Option<TensorId>,
    new: TensorId,
    old: TensorId,
) -> Result<TensorId, Diagnostic> {
    match mask {
        Some(mask) => context.value(Op::Where, &[mask, new, old]),
        None => Ok(new),
    }
}

/// A part of one axis of a tensor.
fn cut(
    context: &mut NodeContext<'_>,
    x: TensorId,
    axis: usize,
    start: usize,
    size: usize,
) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(x);
    if start == 0 && shape[axis] == size {
        return Ok(x);
    }
    context.value(crate::expressions::part(&shape, axis, start, size), &[x])
}

/// The weights of one direction, `[rows, gates * hidden]`.
fn matrix(context: &mut NodeContext<'_>, position: usize, direction: usize) -> Result<Matrix, Diagnostic> {
    let all = context.input(position)?;
    let [_, rows, columns] = context.shape(all)[..] else { return Err(context.refuse("weights are no matrices")) };
    let one = cut(context, all, 0, direction, 1)?;
    let one = context.value(Op::Reshape { shape: vec![rows, columns] }, &[one])?;
    if matches!(context.attributes.node.domain.as_str(), "" | "ai.onnx") {
        return context.value(Op::Transpose { permutation: vec![1, 0] }, &[one]).map(Matrix::Real);
    }
    // Scale and zero point of the inputs' weights are operands 8 and 9, of the state's 10 and 11; one for all or one
    // for each column.
    let at = 8 + 2 * (position - 1);
    let mut parameters = [None; 2];
    for (parameter, position) in parameters.iter_mut().zip([at, at + 1]) {
        let Some(operand) = context.optional_input(position) else { continue };
        let count = context.tensor_type(operand).element_count() / context.shape(operand).first().copied().unwrap_or(1);
        if ![1, columns].contains(&count) || context.shape(operand).first().is_none_or(|first| *first <= direction) {
            let found = context.tensor_type(operand);
            return Err(context.refuse(format!("input {position} is {found}, expected one or {columns} per direction")));
        }
        let one = cut(context, operand, 0, direction, 1)?;
        let shape = if count == 1 { Vec::new() } else { vec![count] };
        *parameter = Some(context.value(Op::Reshape { shape }, &[one])?);
    }
    let [Some(scale), zero] = parameters else { return Err(context.refuse(format!("input {at} is missing"))) };
    let steps = super::integers::centred(context, one, zero, 1)?;
    Ok(Matrix::Quantized([steps, scale]))
}

/// The state's share of all gates; of a GRU in two parts, unless the reset gate stands behind the product.
fn recurrence(
    context: &mut NodeContext<'_>,
    direction: usize,
    bias: Option<TensorId>,
    cell: Cell,
    hidden: usize,
    linear_before_reset: bool,
) -> Result<Vec<(Matrix, Option<TensorId>)>, Diagnostic> {
    let whole = matrix(context, 2, direction)?;
    let (Matrix::Real(weights), true) = (whole, cell == Cell::Gru && !linear_before_reset) else {
        return Ok(vec![(whole, bias)]);
    };
    let mut parts = Vec::with_capacity(2);
    for (first, count) in [(0, 2), (2, 1)] {
        let weights = cut(context, weights, 1, first * hidden, count * hidden)?;
        let bias = match bias {
            Some(bias) => Some(cut(context, bias, 0, first * hidden, count * hidden)?),
            None => None,
        };
        parts.push((Matrix::Real(weights), bias));
    }
    Ok(parts)
}

/// A vector of one direction.
fn vector(context: &mut NodeContext<'_>, all: TensorId, direction: usize, size: usize) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(all);
    if shape.len() != 2 || shape[0] <= direction || shape[1] != size {
        return Err(context.refuse(format!("{} should have {size} elements per direction", context.tensor_type(all))));
    }
    let one = cut(context, all, 0, direction, 1)?;
    context.value(Op::Reshape { shape: vec![size] }, &[one])
}

/// What a direction begins with: `[batch, hidden]`, zeros if nothing is given.
fn initial(
    context: &mut NodeContext<'_>,
    position: usize,
    direction: usize,
    batch: usize,
    hidden: usize,
    batch_first: bool,
) -> Result<TensorId, Diagnostic> {
    let Some(mut all) = context.optional_input(position) else {
        return context.make_zeros("initial", vec![batch, hidden]);
    };
    if batch_first {
        all = context.value(Op::Transpose { permutation: vec![1, 0, 2] }, &[all])?;
    }
    let shape = context.shape(all);
    if shape.len() != 3 || shape[0] <= direction || shape[1..] != [batch, hidden] {
        let found = context.tensor_type(all);
        return Err(context.refuse(format!("the initial state {found} should be [directions, {batch}, {hidden}]")));
    }
    let one = cut(context, all, 0, direction, 1)?;
    context.value(Op::Reshape { shape: vec![batch, hidden] }, &[one])
}

/// States of all steps: `[steps, directions, batch, hidden]`, or `[batch, steps, directions, hidden]`.
fn sequence(
    context: &mut NodeContext<'_>,
    outputs: &[Vec<TensorId>],
    batch: usize,
    hidden: usize,
    batch_first: bool,
) -> Result<TensorId, Diagnostic> {
    let mut sides = Vec::with_capacity(outputs.len());
    for states in outputs {
        let rows = context.value(Op::Concat { axis: 0 }, states)?;
        sides.push(context.value(Op::Reshape { shape: vec![states.len(), 1, batch, hidden] }, &[rows])?);
    }
    let all = if sides.len() == 1 { sides[0] } else { context.value(Op::Concat { axis: 1 }, &sides)? };
    if batch_first {
        return context.value(Op::Transpose { permutation: vec![2, 0, 1, 3] }, &[all]);
    }
    Ok(all)
}

/// The last states: `[directions, batch, hidden]`, or `[batch, directions, hidden]`.
fn joined(
    context: &mut NodeContext<'_>,
    last: &[TensorId],
    batch: usize,
    hidden: usize,
    batch_first: bool,
) -> Result<TensorId, Diagnostic> {
    let rows = if last.len() == 1 { last[0] } else { context.value(Op::Concat { axis: 0 }, last)? };
    let all = context.value(Op::Reshape { shape: vec![last.len(), batch, hidden] }, &[rows])?;
    if batch_first { context.value(Op::Transpose { permutation: vec![1, 0, 2] }, &[all]) } else { Ok(all) }
}
