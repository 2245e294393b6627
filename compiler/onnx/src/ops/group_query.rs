//! GroupQueryAttention of com.microsoft: a decoder's attention, with keys and values of earlier steps in a cache.

use super::attention::{attend, count, packed, rotated, unpacked};
use super::microsoft::{only, scale};
use crate::expressions::part;
use crate::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op, PadMode};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

/// How many steps came before those of this call.
#[derive(Clone, Copy)]
enum Before {
    /// As many in every sample.
    Known(usize),
    /// `[batch]`, i64.
    Computed(TensorId),
}

/// Where keys and values of this call are put.
struct Cache {
    batch: usize,
    /// Heads of keys.
    heads: usize,
    /// Of this call.
    steps: usize,
    /// What the cache that comes in has room for.
    past: usize,
    /// What the cache that goes out has room for.
    length: usize,
    before: Before,
}

pub(super) fn group_query_attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &[
            "num_heads",
            "kv_num_heads",
            "scale",
            "softcap",
            "local_window_size",
            "do_rotary",
            "rotary_interleaved",
            "smooth_softmax",
            "qk_output",
        ],
    )?;
    if context.attributes.int("qk_output", 0)? > 0 {
        return Err(context.attributes.unsupported("`qk_output` is not supported"));
    }
    if (12..14).any(|position| context.optional_input(position).is_some()) {
        return Err(context.attributes.unsupported("scales of a cache are not supported"));
    }
    let [mut q, mut k, v] = operands(context)?;
    let cache = Cache::of(context, k)?;
    if context.attributes.flag("do_rotary", false)? {
        let positions = cache.positions(context)?;
        let interleaved = context.attributes.flag("rotary_interleaved", false)?;
        let mut tables = [context.input(7)?, context.input(8)?];
        for table in &mut tables {
            *table = context.value(Op::Gather { axis: 0 }, &[*table, positions])?;
        }
        let turned = 2 * context.shape(tables[0]).last().copied().unwrap_or(0);
        q = rotated(context, q, tables, turned, interleaved)?;
        k = rotated(context, k, tables, turned, interleaved)?;
    }
    let (keys, values) = (cache.extended(context, 3, k)?, cache.extended(context, 4, v)?);
    let mut bias = cache.bias(context, q)?;
    if let Some(addend) = context.optional_input(10) {
        bias = Some(match bias {
            Some(bias) => context.binary(BinaryOp::Add, bias, addend)?,
            None => addend,
        });
    }
    let (scale, softcap) = (scale(context, q)?, context.attributes.float("softcap", 0.0)?);
    let sink = sink(context, q)?;
    let attended = attend(context, [q, keys, values], scale, softcap, [bias, sink])?;
    let result = packed(context, attended.result)?;
    context.bind(&[result, keys, values])
}

/// The score of a key that is nowhere, of which each query has one more where softmax is smooth: 0, or the heads' own.
fn sink(context: &mut NodeContext<'_>, q: TensorId) -> Result<Option<TensorId>, Diagnostic> {
    let heads = context.shape(q).get(1).copied().unwrap_or(0);
    if let Some(sinks) = context.optional_input(11) {
        if context.shape(sinks) != [heads] {
            return Err(context.refuse(format!("sinks {} of {heads} heads", context.tensor_type(sinks))));
        }
        return context.value(Op::Reshape { shape: vec![1, heads, 1, 1] }, &[sinks]).map(Some);
    }
    if context.attributes.int("smooth_softmax", 0)? > 0 { context.number(0.0, q).map(Some) } else { Ok(None) }
}

/// Queries, keys and values as `[batch, heads, steps, size]`; all three may be packed in the first operand.
fn operands(context: &mut NodeContext<'_>) -> Result<[TensorId; 3], Diagnostic> {
    let (Some(heads), Some(shared)) = (count(context, "num_heads")?, count(context, "kv_num_heads")?) else {
        return Err(context.refuse("attributes `num_heads` and `kv_num_heads` are missing"));
    };
    let q = context.input(0)?;
    if let (Some(k), Some(v)) = (context.optional_input(1), context.optional_input(2)) {
        return Ok([unpacked(context, q, heads)?, unpacked(context, k, shared)?, unpacked(context, v, shared)?]);
    }
    let all = unpacked(context, q, heads + 2 * shared)?;
    let shape = context.shape(all);
    let mut one = |first: usize, heads: usize| context.value(part(&shape, 1, first, heads), &[all]);
    Ok([one(0, heads)?, one(heads, shared)?, one(heads + shared, shared)?])
}

impl Cache {
    fn of(context: &mut NodeContext<'_>, k: TensorId) -> Result<Cache, Diagnostic> {
        let [batch, heads, steps, size] = context.shape(k)[..] else {
            return Err(context.refuse("its keys are no heads"));
        };
        let past = match context.optional_input(3).map(|past| context.shape(past)) {
            None => 0,
            Some(shape) if shape.len() == 4 && [shape[0], shape[1], shape[3]] == [batch, heads, size] => shape[2],
            Some(shape) => {
                let message = format!("a past of {shape:?}, expected [{batch},{heads},steps,{size}]");
                return Err(context.refuse(message));
            }
        };
        let [total] = context.constant_ints(6)?[..] else {
            return Err(context.refuse("`total_sequence_length` should be one number"));
        };
        let Some(total) =
            usize::try_from(total).ok().filter(|total| (steps..=steps + past.max(1 << 20)).contains(total))
        else {
            return Err(context.refuse(format!("`total_sequence_length` is {total} for {steps} steps")));
        };
        let length = total.max(past);
        let before = if total == steps { Before::Known(0) } else { before(context, batch, steps)? };
        if let Before::Known(before) = before
            && (before > past || before + steps > length)
        {
            return Err(context.refuse(format!("{before} steps before these, but a past of {past} steps")));
        }
        if past == 0 && total > steps {
            return Err(context.refuse(format!("`total_sequence_length` is {total} for {steps} steps without a past")));
        }
        Ok(Cache { batch, heads, steps, past, length, before })
    }

    /// Positions of the steps: as the model says, or those behind what came before.
    fn positions(&self, context: &mut NodeContext<'_>) -> Result<TensorId, Diagnostic> {
        if let Some(positions) = context.optional_input(9) {
            return Ok(positions);
        }
        let steps = self.steps as i64;
        match self.before {
            Before::Known(before) => {
                context.make_constant("steps", [1, self.steps], before as i64..before as i64 + steps)
            }
            Before::Computed(before) => {
                let along = context.make_constant("steps", [self.steps], 0..steps)?;
                let before = context.value(Op::Reshape { shape: vec![self.batch, 1] }, &[before])?;
                context.binary(BinaryOp::Add, before, along)
            }
        }
    }

    /// The cache with what is new in its place; what lies behind stays as it was.
    fn extended(&self, context: &mut NodeContext<'_>, position: usize, new: TensorId) -> Result<TensorId, Diagnostic> {
        let Cache { batch, heads, steps, past, length, .. } = *self;
        let mut cache = match context.optional_input(position) {
            Some(cache) => cache,
            // What is handed on keeps its own name.
            None => return context.value(Op::Identity, &[new]),
        };
        let mut shape = context.shape(new);
        (shape[2], cache) = match length - past {
            0 => (length, cache),
            more => {
                let op = Op::Pad { mode: PadMode::Constant(0.0), begin: vec![0; 4], end: vec![0, 0, more, 0] };
                (length, context.value(op, &[cache])?)
            }
        };
        let before = match self.before {
            Before::Known(before) => {
                let behind = before + steps;
                let mut parts = Vec::with_capacity(3);
                if before > 0 {
                    parts.push(context.value(part(&shape, 2, 0, before), &[cache])?);
                }
                parts.push(new);
                if behind < length {
                    parts.push(context.value(part(&shape, 2, behind, length - behind), &[cache])?);
                }
                return context.value(Op::Concat { axis: 2 }, &parts);
            }
            Before::Computed(before) => before,
        };
        let size = shape[3];
        let flat = context.value(Op::Reshape { shape: vec![batch * heads * length, size] }, &[cache])?;
        let rows = context.value(Op::Reshape { shape: vec![batch * heads * steps, size] }, &[new])?;
        let place = |at: usize| (at / steps * length + at % steps) as i64;
        let firsts = (0..batch * heads * steps).map(place);
        let firsts = context.make_constant("firsts", [batch, heads, steps], firsts)?;
        let before = context.value(Op::Reshape { shape: vec![batch, 1, 1] }, &[before])?;
        let places = context.binary(BinaryOp::Add, before, firsts)?;
        let places = context.value(Op::Reshape { shape: vec![batch * heads * steps] }, &[places])?;
        let result = context.value(Op::Scatter { function: None }, &[flat, rows, places])?;
        context.value(Op::Reshape { shape }, &[result])
    }

    /// What hides later steps from queries, and, with a window, those that are too long ago; nothing if none is hidden.
    fn bias(&self, context: &mut NodeContext<'_>, like: TensorId) -> Result<Option<TensorId>, Diagnostic> {
        let window = context.attributes.int("local_window_size", -1)?;
        let window = if window > 0 { window } else { i64::MAX };
        let Cache { steps, length, .. } = *self;
        context.reserve("later", steps.saturating_mul(length))?;
        // Of each query and key, how much later the query is among the steps of this call.
        let later = (0..steps).flat_map(|query| (0..length).map(move |key| query as i64 - key as i64));
        let seen = match self.before {
            Before::Known(before) => {
                let seen: Vec<bool> = later.map(|later| (0..window).contains(&(later + before as i64))).collect();
                if seen.iter().all(|seen| *seen) {
                    return Ok(None);
                }
                context.name_constant("seen", Value { shape: vec![steps, length], data: Data::Bool(seen) })
            }
            Before::Computed(before) => {
                let later = context.name_constant("later", Value::i64([steps, length], later.collect()));
                let before = context.value(Op::Reshape { shape: vec![self.batch, 1, 1, 1] }, &[before])?;
                let later = context.binary(BinaryOp::Add, later, before)?;
                let zero = context.number(0.0, later)?;
                let mut seen = context.binary(BinaryOp::GreaterOrEqual, later, zero)?;
                if window < i64::MAX {
                    let window = context.number(window as f64, later)?;
                    let near = context.binary(BinaryOp::Less, later, window)?;
                    seen = context.binary(BinaryOp::And, seen, near)?;
                }
                seen
            }
        };
        let (zero, hidden) = (context.number(0.0, like)?, context.number(f64::from(f32::MIN), like)?);
        context.value(Op::Where, &[seen, zero, hidden]).map(Some)
    }
}

/// The steps before these of each sample: its last position, which the sixth operand says, behind them.
fn before(context: &mut NodeContext<'_>, batch: usize, steps: usize) -> Result<Before, Diagnostic> {
    let lasts = context.input(5)?;
    if context.tensor_type(lasts).element_count() != batch {
        let message = format!("`seqlens_k` is {}, expected {batch} numbers", context.tensor_type(lasts));
        return Err(context.refuse(message));
    }
    let lasts = match context.tensor_type(lasts).element {
        ElementType::I64 => lasts,
        _ => context.value(Op::Cast { to: ElementType::I64 }, &[lasts])?,
    };
    let own = context.number(steps as f64 - 1.0, lasts)?;
    let before = context.binary(BinaryOp::Sub, lasts, own)?;
    let known = context.importer.graph.value(before).and_then(|value| value.as_i64().map(<[i64]>::to_vec));
    match known {
        Some(known) if known.iter().any(|before| *before < 0) => {
            Err(context.refuse(format!("`seqlens_k` says {known:?} steps came before these")))
        }
        Some(known) if known.iter().all(|before| *before == known[0]) => Ok(Before::Known(known[0] as usize)),
        _ => Ok(Before::Computed(before)),
    }
}
