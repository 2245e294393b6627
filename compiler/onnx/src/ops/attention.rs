//! Attention and rotary embeddings, as ONNX defines them by other operators.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op, PadMode, ReduceKind, UnaryOp};
use partita_ir::graph::{ElementType, TensorId};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Attention" => attention,
        "RotaryEmbedding" => |context| rotary_embedding(context, [0, 3, 1, 2]),
        _ => return None,
    })
}

/// A count in an attribute; nothing if it is not there.
pub(super) fn count(context: &NodeContext<'_>, name: &str) -> Result<Option<usize>, Diagnostic> {
    let Some(count) = context.attributes.optional_int(name)? else { return Ok(None) };
    match usize::try_from(count) {
        Ok(count) if (1..=1 << 20).contains(&count) => Ok(Some(count)),
        _ => Err(context.refuse(format!("attribute `{name}` is {count}, expected at least 1"))),
    }
}

/// `[batch, steps, heads * size]` to `[batch, heads, steps, size]`.
pub(super) fn unpacked(context: &mut NodeContext<'_>, x: TensorId, heads: usize) -> Result<TensorId, Diagnostic> {
    let [batch, steps, width] = context.shape(x)[..] else {
        return Err(context.refuse(format!("{} should be [batch, steps, heads * size]", context.tensor_type(x))));
    };
    if !width.is_multiple_of(heads) {
        return Err(context.refuse(format!("{} does not fit {heads} heads", context.tensor_type(x))));
    }
    let parted = context.value(Op::Reshape { shape: vec![batch, steps, heads, width / heads] }, &[x])?;
    context.value(Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[parted])
}

/// The inverse of [`unpacked`].
pub(super) fn packed(context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
    let [batch, heads, steps, size] = context.shape(x)[..] else { return Ok(x) };
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1, 3] }, &[x])?;
    context.value(Op::Reshape { shape: vec![batch, steps, heads * size] }, &[turned])
}

/// 0 where something is allowed, minus infinity elsewhere.
fn penalty(context: &mut NodeContext<'_>, allowed: TensorId, like: TensorId) -> Result<TensorId, Diagnostic> {
    let (zero, never) = (context.number(0.0, like)?, context.number(f64::NEG_INFINITY, like)?);
    context.value(Op::Where, &[allowed, zero, never])
}

/// `first + second`, of those that are there.
fn added(
    context: &mut NodeContext<'_>,
    first: Option<TensorId>,
    second: TensorId,
) -> Result<Option<TensorId>, Diagnostic> {
    match first {
        Some(first) => context.binary(BinaryOp::Add, first, second).map(Some),
        None => Ok(Some(second)),
    }
}

/// Which keys each query may see.
struct Sight {
    causal: bool,
    /// How far back and ahead; -1 for any distance.
    windows: [i64; 2],
}

/// ONNX Attention-23, -24, -25.
fn attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let [mut q, mut k, mut v] = [context.input(0)?, context.input(1)?, context.input(2)?];
    let is_packed = context.shape(q).len() == 3;
    if is_packed {
        let heads = (count(context, "q_num_heads")?, count(context, "kv_num_heads")?);
        let (Some(of_queries), Some(of_keys)) = heads else {
            return Err(context.refuse("operands of rank 3 need the attributes `q_num_heads` and `kv_num_heads`"));
        };
        q = unpacked(context, q, of_queries)?;
        (k, v) = (unpacked(context, k, of_keys)?, unpacked(context, v, of_keys)?);
    } else {
        // What is handed on keeps its own name.
        (k, v) = (context.value(Op::Identity, &[k])?, context.value(Op::Identity, &[v])?);
    }
    let mut past = 0;
    if let (Some(keys), Some(values)) = (context.optional_input(4), context.optional_input(5)) {
        past = context.shape(keys).get(2).copied().unwrap_or(0);
        k = context.value(Op::Concat { axis: 2 }, &[keys, k])?;
        v = context.value(Op::Concat { axis: 2 }, &[values, v])?;
    }
    let lengths = context.optional_input(6);
    let ([_, _, queries, size], [batch, _, keys, _]) = (&context.shape(q)[..], &context.shape(k)[..]) else {
        return Err(context.refuse("its operands should be [batch, heads, steps, size]"));
    };
    let (queries, size, batch, keys) = (*queries, *size, *batch, *keys);
    let scale = match context.attributes.optional_float("scale")? {
        Some(scale) => f64::from(scale),
        None => 1.0 / (size as f64).sqrt(),
    };
    let softcap = context.attributes.float("softcap", 0.0)?;
    let mask = match context.optional_input(3) {
        Some(mask) => Some(mask_of(context, mask, keys, q)?),
        None => None,
    };
    let sight = Sight {
        causal: context.attributes.flag("is_causal", false)?,
        windows: [context.attributes.int("left_window_size", -1)?, context.attributes.int("right_window_size", -1)?],
    };
    let bias = bias(context, q, mask, &sight, [batch, queries, keys, past], lengths)?;
    // Computed in f32 anyway; a precision that is named changes nothing.
    context.attributes.int("softmax_precision", 1)?;
    let mode = context.attributes.int("qk_matmul_output_mode", 0)?;
    let attended = attend(context, [q, k, v], scale, softcap, [bias, None])?;
    let shown = match mode {
        0 | 1 => attended.scores,
        2 => attended.biased,
        3 => attended.shares,
        other => return Err(context.refuse(format!("attribute `qk_matmul_output_mode` is {other}, expected 0 to 3"))),
    };
    let y = if is_packed { packed(context, attended.result)? } else { attended.result };
    context.bind(&[y, k, v, shown])
}

/// A mask as what is added to scores, as long as there are keys: what it does not say of the last ones is no.
fn mask_of(
    context: &mut NodeContext<'_>,
    mut mask: TensorId,
    keys: usize,
    like: TensorId,
) -> Result<TensorId, Diagnostic> {
    if context.promised(mask) == ElementType::Bool {
        mask = penalty(context, mask, like)?;
    }
    let shape = context.shape(mask);
    let (Some(last), rank) = (shape.last(), shape.len()) else { return Ok(mask) };
    let (begin, mut end) = (vec![0; rank], vec![0; rank]);
    end[rank - 1] = keys.saturating_sub(*last);
    if end[rank - 1] == 0 {
        return Ok(mask);
    }
    context.value(Op::Pad { mode: PadMode::Constant(f32::NEG_INFINITY), begin, end }, &[mask])
}

/// All that is added to scores; nothing if every query sees every key.
fn bias(
    context: &mut NodeContext<'_>,
    like: TensorId,
    mut bias: Option<TensorId>,
    sight: &Sight,
    [batch, queries, keys, past]: [usize; 4],
    lengths: Option<TensorId>,
) -> Result<Option<TensorId>, Diagnostic> {
    let [left, right] = sight.windows;
    let mut limits: Vec<(BinaryOp, i64)> = Vec::new();
    if sight.causal {
        limits.push((BinaryOp::GreaterOrEqual, 0));
    }
    if left >= 0 {
        limits.push((BinaryOp::LessOrEqual, left));
    }
    if right >= 0 {
        limits.push((BinaryOp::GreaterOrEqual, -right));
    }
    let lengths = match lengths {
        Some(lengths) => Some(context.value(Op::Reshape { shape: vec![batch, 1, 1, 1] }, &[lengths])?),
        None => None,
    };
    if !limits.is_empty() {
        // Of each query and key, how much later the query is.
        let later = (0..queries).flat_map(|query| (0..keys).map(move |key| query as i64 - key as i64));
        let mut later = context.make_constant("later", [queries, keys], later)?;
        let offset = match lengths {
            Some(lengths) => {
                let own = context.number(queries as f64, lengths)?;
                context.binary(BinaryOp::Sub, lengths, own)?
            }
            None => context.number(past as f64, later)?,
        };
        later = context.binary(BinaryOp::Add, later, offset)?;
        for (comparison, limit) in limits {
            let limit = context.number(limit as f64, later)?;
            let allowed = context.binary(comparison, later, limit)?;
            let allowed = penalty(context, allowed, like)?;
            bias = added(context, bias, allowed)?;
        }
    }
    if let Some(lengths) = lengths {
        let places = context.make_constant("places", [keys], 0..keys as i64)?;
        let there = context.binary(BinaryOp::Less, places, lengths)?;
        let there = penalty(context, there, like)?;
        bias = added(context, bias, there)?;
    }
    Ok(bias)
}

/// What attention makes on its way.
pub(super) struct Attended {
    scores: TensorId,
    biased: TensorId,
    shares: TensorId,
    /// `[batch, heads of queries, queries, size of values]`
    pub result: TensorId,
}

/// `softmax(q * k' * scale + bias) * v`; several heads of queries may share one of keys and values. A query that sees
/// nothing gets zeros. A sink, `[1, heads or 1, 1, 1]`, is one more score of each query, of a key without a value.
pub(super) fn attend(
    context: &mut NodeContext<'_>,
    [q, k, v]: [TensorId; 3],
    scale: f64,
    softcap: f32,
    [bias, sink]: [Option<TensorId>; 2],
) -> Result<Attended, Diagnostic> {
    let shapes = [q, k, v].map(|operand| context.shape(operand));
    let [[batch, heads, queries, size], [_, groups, keys, _], [_, _, _, width]] =
        [&shapes[0][..], &shapes[1][..], &shapes[2][..]]
    else {
        return Err(context.refuse(format!("operands of shapes {shapes:?}")));
    };
    let (batch, heads, queries, size, groups, keys, width) = (*batch, *heads, *queries, *size, *groups, *keys, *width);
    if groups == 0 || !heads.is_multiple_of(groups) {
        return Err(context.refuse(format!("{heads} heads of queries for {groups} of keys")));
    }
    let scale = context.number(scale, q)?;
    let scaled = context.binary(BinaryOp::Mul, q, scale)?;
    // Heads that share keys stand in a row: they are as many more queries.
    let rows = heads / groups * queries;
    let together = context.value(Op::Reshape { shape: vec![batch, groups, rows, size] }, &[scaled])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 1, 3, 2] }, &[k])?;
    let scores = context.value(Op::MatMul, &[together, turned])?;
    let mut scores = context.value(Op::Reshape { shape: vec![batch, heads, queries, keys] }, &[scores])?;
    if softcap > 0.0 {
        let cap = context.number(f64::from(softcap), scores)?;
        let part = context.binary(BinaryOp::Div, scores, cap)?;
        let bent = context.unary(UnaryOp::Tanh, part)?;
        scores = context.binary(BinaryOp::Mul, bent, cap)?;
    }
    let biased = match bias {
        Some(bias) => context.binary(BinaryOp::Add, scores, bias)?,
        None => scores,
    };
    let mut shares = match sink {
        Some(sink) => {
            let sink = context.value(Op::Expand { shape: vec![batch, heads, queries, 1] }, &[sink])?;
            let all = context.value(Op::Concat { axis: 3 }, &[biased, sink])?;
            let shares = context.value(Op::Softmax { axis: 3 }, &[all])?;
            context.value(part(&[batch, heads, queries, keys + 1], 3, 0, keys), &[shares])?
        }
        None => context.value(Op::Softmax { axis: 3 }, &[biased])?,
    };
    if let Some(bias) = bias.filter(|bias| may_hide_all(context, *bias)) {
        let axis = context.shape(bias).len() - 1;
        let largest = Op::Reduce { kind: ReduceKind::Max, axes: vec![axis], keep_dims: true };
        let largest = context.value(largest, &[bias])?;
        let never = context.number(f64::NEG_INFINITY, largest)?;
        let hidden = context.binary(BinaryOp::Equal, largest, never)?;
        let zero = context.number(0.0, shares)?;
        shares = context.value(Op::Where, &[hidden, zero, shares])?;
    }
    let together = context.value(Op::Reshape { shape: vec![batch, groups, rows, keys] }, &[shares])?;
    let result = context.value(Op::MatMul, &[together, v])?;
    let result = context.value(Op::Reshape { shape: vec![batch, heads, queries, width] }, &[result])?;
    Ok(Attended { scores, biased, shares, result })
}

/// Whether a row of a bias may be minus infinity everywhere.
fn may_hide_all(context: &NodeContext<'_>, bias: TensorId) -> bool {
    let columns = context.shape(bias).last().copied().unwrap_or(0);
    let Some(value) = context.importer.graph.value(bias) else { return columns > 0 };
    let elements = partita_ir::graph::values::to_f32(&value.data);
    columns > 0 && elements.chunks(columns).any(|row| row.iter().all(|one| *one == f32::NEG_INFINITY))
}

/// ONNX RotaryEmbedding-23; operands: the tensor, positions, and tables of cosines and sines, at these places.
pub(super) fn rotary_embedding(context: &mut NodeContext<'_>, places: [usize; 4]) -> Result<(), Diagnostic> {
    let x = context.input(places[0])?;
    let is_packed = context.shape(x).len() == 3;
    let heads = count(context, "num_heads")?;
    let mut tables = [context.input(places[2])?, context.input(places[3])?];
    if let Some(mut positions) = context.optional_input(places[1]) {
        // One position is that of the first step.
        let steps = context.shape(x)[context.shape(x).len().saturating_sub(2)];
        if context.tensor_type(positions).element_count() == 1 && steps > 1 {
            let later = context.make_constant("later", [1, steps], 0..steps as i64)?;
            positions = context.binary(BinaryOp::Add, positions, later)?;
        }
        for table in &mut tables {
            *table = context.value(Op::Gather { axis: 0 }, &[*table, positions])?;
        }
    }
    let stated = context.attributes.int("rotary_embedding_dim", 0)?;
    let heads = match (is_packed, heads, context.shape(tables[0]).last()) {
        (true, Some(heads), _) => heads,
        // The tables say how wide a head is.
        (true, None, Some(half)) if stated == 0 && *half > 0 => context.shape(x)[2] / (2 * half),
        (true, None, _) => return Err(context.refuse("an operand of rank 3 needs the attribute `num_heads`")),
        (false, ..) => 1,
    };
    let whole = if is_packed { unpacked(context, x, heads.max(1))? } else { x };
    let size = context.shape(whole).last().copied().unwrap_or(0);
    let turned = if stated == 0 { size } else { usize::try_from(stated).unwrap_or(0) };
    let interleaved = context.attributes.flag("interleaved", false)?;
    let mut together = rotated(context, whole, tables, turned, interleaved)?;
    if is_packed {
        together = packed(context, together)?;
    }
    context.bind(&[together])
}

/// The first `turned` elements of heads `[batch, heads, steps, size]` in pairs, each by the angle whose cosine and sine
/// are in the tables, which have a row for each step.
pub(super) fn rotated(
    context: &mut NodeContext<'_>,
    whole: TensorId,
    mut tables: [TensorId; 2],
    turned: usize,
    interleaved: bool,
) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(whole);
    let [_, _, steps, size] = shape[..] else {
        return Err(context.refuse(format!("{} should be [batch, heads, steps, size]", context.tensor_type(whole))));
    };
    if turned == 0 || turned > size || !turned.is_multiple_of(2) {
        return Err(context.refuse(format!("it turns {turned} of {size} elements")));
    }
    let half = turned / 2;
    for table in &mut tables {
        let found = context.shape(*table);
        let [rows @ .., width] = &found[..] else { return Err(context.refuse("its tables are scalars")) };
        let count: usize = rows.iter().product();
        if *width != half || !count.is_multiple_of(steps) {
            return Err(context.refuse(format!("a table of {found:?} for {steps} steps of {half} pairs")));
        }
        *table = context.value(Op::Reshape { shape: vec![count / steps, 1, steps, half] }, &[*table])?;
    }
    let [cosines, sines] = tables;
    let pair = |first: usize| {
        let (mut starts, mut sizes, mut strides) = (vec![0; 4], shape.clone(), vec![1isize; 4]);
        (starts[3], sizes[3], strides[3]) = if interleaved { (first, half, 2) } else { (first * half, half, 1) };
        Op::Slice { starts, steps: strides, sizes }
    };
    let (first, second) = (context.value(pair(0), &[whole])?, context.value(pair(1), &[whole])?);
    let mut product = |a, b| context.binary(BinaryOp::Mul, a, b);
    let parts = [product(cosines, first)?, product(sines, second)?, product(sines, first)?, product(cosines, second)?];
    let real = context.binary(BinaryOp::Sub, parts[0], parts[1])?;
    let imaginary = context.binary(BinaryOp::Add, parts[2], parts[3])?;
    let mut together = if interleaved {
        let wide = [&shape[..3], &[half, 1]].concat();
        let real = context.value(Op::Reshape { shape: wide.clone() }, &[real])?;
        let imaginary = context.value(Op::Reshape { shape: wide }, &[imaginary])?;
        let pairs = context.value(Op::Concat { axis: 4 }, &[real, imaginary])?;
        let mut flat = shape.clone();
        flat[3] = turned;
        context.value(Op::Reshape { shape: flat }, &[pairs])?
    } else {
        context.value(Op::Concat { axis: 3 }, &[real, imaginary])?
    };
    if turned < size {
        let rest = context.value(part(&shape, 3, turned, size - turned), &[whole])?;
        together = context.value(Op::Concat { axis: 3 }, &[together, rest])?;
    }
    Ok(together)
}
