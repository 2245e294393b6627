//! Operators that carry a state from call to call, and caches: LinearAttention, CausalConvWithState, TensorScatter.

use super::attention::{count, packed, unpacked};
use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Conv, Op, UnaryOp, Window};
use partita_ir::graph::{TensorId, Value};

/// Most steps of one node: each becomes nodes of its own.
const MAX_STEPS: usize = 1024;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "LinearAttention" => linear_attention,
        "CausalConvWithState" => causal_convolution,
        "TensorScatter" => tensor_scatter,
        "SwiGLU" => |context| {
            let (a, b) = (context.input(0)?, context.input(1)?);
            let alpha = context.attributes.float("alpha", 1.0)?;
            let gate = gated(context, a, alpha)?;
            context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![gate, b])
        },
        _ => return None,
    })
}

/// `x * sigmoid(alpha * x)`
pub(super) fn gated(context: &mut NodeContext<'_>, x: TensorId, alpha: f32) -> Result<TensorId, Diagnostic> {
    let mut scaled = x;
    if alpha != 1.0 {
        let alpha = context.number(f64::from(alpha), x)?;
        scaled = context.binary(BinaryOp::Mul, x, alpha)?;
    }
    let gate = context.unary(UnaryOp::Sigmoid, scaled)?;
    context.binary(BinaryOp::Mul, x, gate)
}

/// ONNX LinearAttention-27: a matrix per head that each step decays, corrects, adds to and reads.
#[expect(clippy::too_many_lines, reason = "operands and attributes, in the order of the standard")]
fn linear_attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let [q, k, v] = [context.input(0)?, context.input(1)?, context.input(2)?];
    let heads = (count(context, "q_num_heads")?, count(context, "kv_num_heads")?);
    let (Some(queries), Some(groups)) = heads else { return Err(context.refuse("its numbers of heads are missing")) };
    let rule = context.attributes.string("update_rule", "gated_delta")?;
    let (decays, corrects) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            let known = ["linear", "gated", "delta", "gated_delta"];
            return Err(context.attributes.unknown_word("update_rule", other, &known));
        }
    };
    // How many steps are taken at once changes no result.
    context.attributes.int("chunk_size", 64)?;
    let (q, k, v) = (unpacked(context, q, queries)?, unpacked(context, k, groups)?, unpacked(context, v, groups)?);
    let ([batch, _, steps, size], [_, _, _, width]) = (&context.shape(q)[..], &context.shape(v)[..]) else {
        return Err(context.refuse("its operands should be [batch, steps, heads * size]"));
    };
    let (batch, steps, size, width) = (*batch, *steps, *size, *width);
    if context.shape(k) != [batch, groups, steps, size]
        || context.shape(v)[..3] != [batch, groups, steps]
        || !queries.is_multiple_of(groups)
    {
        return Err(context.refuse("its queries, keys and values do not fit each other"));
    }
    if steps == 0 || steps > MAX_STEPS {
        let message = format!("{steps} steps; up to {MAX_STEPS} are supported, each of which becomes nodes");
        return Err(context.attributes.unsupported(message));
    }
    let needed = |context: &mut NodeContext<'_>, position: usize, is_needed: bool| match is_needed {
        true => context.input(position).map(Some),
        false => Ok(None),
    };
    let decay = match needed(context, 4, decays)? {
        Some(decay) => {
            let decay = unpacked(context, decay, groups)?;
            let decay = context.unary(UnaryOp::Exp, decay)?;
            // A factor per row of the state.
            Some(context.value(Op::Transpose { permutation: vec![0, 1, 3, 2] }, &[decay])?)
        }
        None => None,
    };
    let beta = match needed(context, 5, corrects)? {
        Some(beta) => {
            let heads = context.shape(beta).last().copied().unwrap_or(1).max(1);
            Some(unpacked(context, beta, heads)?)
        }
        None => None,
    };
    let mut state = match context.optional_input(3) {
        Some(state) => context.value(Op::Identity, &[state])?,
        None => context.make_zeros("state", vec![batch, groups, size, width])?,
    };
    let scale = context.attributes.float("scale", 0.0)?;
    let scale = if scale == 0.0 { 1.0 / (size as f64).sqrt() } else { f64::from(scale) };
    let scale = context.number(scale, q)?;
    let q = context.binary(BinaryOp::Mul, q, scale)?;
    let step_of = |context: &mut NodeContext<'_>, x: TensorId, axis: usize, step: usize| {
        context.value(part(&context.shape(x), axis, step, 1), &[x])
    };
    let mut outputs = Vec::with_capacity(steps);
    for step in 0..steps {
        if let Some(decay) = decay {
            let factor = step_of(context, decay, 3, step)?;
            state = context.binary(BinaryOp::Mul, state, factor)?;
        }
        let key = step_of(context, k, 2, step)?;
        let mut value = step_of(context, v, 2, step)?;
        if let Some(beta) = beta {
            let known = context.value(Op::MatMul, &[key, state])?;
            let fresh = context.binary(BinaryOp::Sub, value, known)?;
            let rate = step_of(context, beta, 2, step)?;
            value = context.binary(BinaryOp::Mul, rate, fresh)?;
        }
        let column = context.value(Op::Reshape { shape: vec![batch, groups, size, 1] }, &[key])?;
        let added = context.value(Op::MatMul, &[column, value])?;
        state = context.binary(BinaryOp::Add, state, added)?;
        let query = step_of(context, q, 2, step)?;
        let query = context.value(Op::Reshape { shape: vec![batch, groups, queries / groups, size] }, &[query])?;
        let read = context.value(Op::MatMul, &[query, state])?;
        outputs.push(context.value(Op::Reshape { shape: vec![batch, queries, 1, width] }, &[read])?);
    }
    let all = if outputs.len() == 1 { outputs[0] } else { context.value(Op::Concat { axis: 2 }, &outputs)? };
    let result = packed(context, all)?;
    context.bind(&[result, state])
}

/// ONNX CausalConvWithState-27: a depthwise convolution of what was and what comes.
fn causal_convolution(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let ([batch, channels, length], [filters, 1, taps]) = (&context.shape(x)[..], &context.shape(weights)[..]) else {
        return Err(context.refuse("its operands should be [N, C, length] and [C, 1, taps]"));
    };
    let (batch, channels, length, taps) = (*batch, *channels, *length, *taps);
    if *filters != channels || taps == 0 {
        return Err(context.refuse(format!("{filters} filters of {taps} for {channels} channels")));
    }
    let mut whole = x;
    if taps > 1 {
        let before = match context.optional_input(3) {
            Some(state) => state,
            None => context.make_zeros("state", vec![batch, channels, taps - 1])?,
        };
        whole = context.value(Op::Concat { axis: 2 }, &[before, x])?;
    }
    let bias = match context.optional_input(2) {
        Some(bias) => bias,
        None => context.make_zeros("bias", vec![channels])?,
    };
    let window = Window::uniform(&[taps], 1, 1, 0);
    let conv = Conv { window, groups: channels, residual: false, activation: Activation::None };
    let mut result = context.value(Op::Conv(conv), &[whole, weights, bias])?;
    result = match context.attributes.string("activation", "none")?.as_str() {
        "none" => result,
        "silu" | "swish" => gated(context, result, 1.0)?,
        other => return Err(context.attributes.unknown_word("activation", other, &["none", "silu", "swish"])),
    };
    let kept = part(&[batch, channels, length + taps - 1], 2, length, taps - 1);
    let state = context.value(kept, &[whole])?;
    context.bind(&[result, state])
}

/// ONNX TensorScatter-24: rows of a cache that come from the update, by each sample's place.
fn tensor_scatter(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (cache, update) = (context.input(0)?, context.input(1)?);
    let (shape, of_update) = (context.shape(cache), context.shape(update));
    let axis = context.attributes.int("axis", -2)?;
    let axis = context.axis(axis, shape.len())?;
    let mut expected = shape.clone();
    if axis == 0 || of_update.len() != shape.len() {
        return Err(context.refuse(format!("an update {of_update:?} of {shape:?} along axis {axis}")));
    }
    expected[axis] = of_update[axis];
    let (batch, places, steps) = (shape[0], shape[axis], of_update[axis]);
    if of_update != expected || steps == 0 || steps > places {
        return Err(context.refuse(format!("an update {of_update:?} of {shape:?} along axis {axis}")));
    }
    let circular = match context.attributes.string("mode", "linear")?.as_str() {
        "linear" => false,
        "circular" => true,
        other => return Err(context.attributes.unknown_word("mode", other, &["linear", "circular"])),
    };
    let starts = match context.optional_input(2) {
        Some(starts) => context.value(Op::Reshape { shape: vec![batch, 1] }, &[starts])?,
        None => context.add_constant("starts", Value::i64([1, 1], vec![0]))?,
    };
    let along = context.make_constant("along", [places], 0..places as i64)?;
    let mut step = context.binary(BinaryOp::Sub, along, starts)?;
    if circular {
        let turn = context.number(places as f64, step)?;
        step = context.binary(BinaryOp::Mod, step, turn)?;
    }
    let (zero, end) = (context.number(0.0, step)?, context.number(steps as f64, step)?);
    let behind = context.binary(BinaryOp::GreaterOrEqual, step, zero)?;
    let before = context.binary(BinaryOp::Less, step, end)?;
    let is_new = context.binary(BinaryOp::And, behind, before)?;
    let step = context.value(Op::Where, &[is_new, step, zero])?;
    let firsts = (0..batch).map(|sample| (sample * steps) as i64);
    let firsts = context.make_constant("firsts", [batch, 1], firsts)?;
    let rows = context.binary(BinaryOp::Add, step, firsts)?;
    // The axis to the front, behind the batch.
    let mut order: Vec<usize> = (0..shape.len()).filter(|other| *other != axis).collect();
    order.insert(1, axis);
    let rest: Vec<usize> = order[2..].iter().map(|other| shape[*other]).collect();
    let turned = context.value(Op::Transpose { permutation: order.clone() }, &[update])?;
    let flat = context.value(Op::Reshape { shape: [&[batch * steps], &rest[..]].concat() }, &[turned])?;
    let new = context.value(Op::Gather { axis: 0 }, &[flat, rows])?;
    let new = context.value(Op::Reshape { shape: [&[batch, places], &rest[..]].concat() }, &[new])?;
    let back: Vec<usize> =
        (0..shape.len()).map(|axis| order.iter().position(|other| *other == axis).unwrap_or(axis)).collect();
    let new = context.value(Op::Transpose { permutation: back }, &[new])?;
    let mut mask = vec![1; shape.len()];
    (mask[0], mask[axis]) = (context.shape(is_new)[0], places);
    let is_new = context.value(Op::Reshape { shape: mask }, &[is_new])?;
    context.emit(Op::Where, vec![is_new, new, cache])
}
