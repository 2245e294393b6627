//! Operators of com.microsoft, which exporters and optimisers for onnxruntime write: what they fuse, one after the other.

use super::attention::{attend, packed, rotary_embedding, unpacked};
use super::group_query::group_query_attention;
use super::quantized::dequantized;
use super::recurrent::{Cell, layer};
use super::states::gated;
use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, ReduceKind, UnaryOp};
use partita_ir::graph::{ElementType, TensorId, Value};

/// The attributes that an operator is read with; any other is refused, since the standard's table does not know them.
type Attributes = &'static [&'static str];

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "DynamicQuantizeLSTM" => |context| layer(context, Cell::Lstm),
        "Gelu" => |context| gelu(context, false),
        "BiasGelu" => |context| gelu(context, false),
        "FastGelu" => |context| gelu(context, true),
        "QuickGelu" => |context| {
            only(context, &["alpha"])?;
            let x = context.input(0)?;
            let alpha = context.attributes.float("alpha", 1.702)?;
            let result = gated(context, x, alpha)?;
            context.bind(&[result])
        },
        "FusedMatMul" | "TransposeMatMul" => fused_product,
        "FusedConv" => fused_convolution,
        "SkipLayerNormalization" => |context| skip_normalization(context, true),
        "SkipSimplifiedLayerNormalization" => |context| skip_normalization(context, false),
        "EmbedLayerNormalization" => embed_normalization,
        "QEmbedLayerNormalization" => quantized_embed_normalization,
        "Attention" => attention,
        "QAttention" => quantized_attention,
        "GroupQueryAttention" => group_query_attention,
        "MultiHeadAttention" => multi_head_attention,
        "RotaryEmbedding" => |context| {
            only(context, &["num_heads", "rotary_embedding_dim", "interleaved", "is_packed_batching", "scale"])?;
            if context.attributes.float("scale", 1.0)? != 1.0 || context.attributes.flag("is_packed_batching", false)? {
                return Err(context.attributes.unsupported("`scale` and `is_packed_batching` are not supported"));
            }
            rotary_embedding(context, [0, 1, 2, 3])
        },
        _ => return super::microsoft_quantized::converter(op_type),
    })
}

/// Refuses attributes that the converter does not read.
pub(super) fn only(context: &NodeContext<'_>, known: Attributes) -> Result<(), Diagnostic> {
    let node = context.attributes.node;
    match node.attribute.iter().find(|attribute| !known.contains(&attribute.name.as_str())) {
        Some(other) => {
            let name = partita_ir::diagnostic::printable(&other.name);
            Err(context.attributes.unsupported(format!("attribute `{name}` is not supported")))
        }
        None => Ok(()),
    }
}

/// Gelu of an operand and, if there is one, a bias.
fn gelu(context: &mut NodeContext<'_>, tanh: bool) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let mut x = context.input(0)?;
    if let Some(bias) = context.optional_input(1) {
        x = context.binary(BinaryOp::Add, x, bias)?;
    }
    context.emit(Op::Unary(UnaryOp::Gelu { tanh }), vec![x])
}

/// A matrix product of operands that may be transposed, with a factor.
fn fused_product(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["alpha", "transA", "transB", "transBatchA", "transBatchB"])?;
    let mut factors = [context.input(0)?, context.input(1)?];
    for (factor, [plain, batch]) in factors.iter_mut().zip([["transA", "transBatchA"], ["transB", "transBatchB"]]) {
        if context.attributes.flag(batch, false)? {
            return Err(context.attributes.unsupported(format!("`{batch}` is not supported")));
        }
        let rank = context.shape(*factor).len();
        if context.attributes.flag(plain, false)? && rank >= 2 {
            let mut permutation: Vec<usize> = (0..rank).collect();
            permutation.swap(rank - 1, rank - 2);
            *factor = context.value(Op::Transpose { permutation }, &[*factor])?;
        }
    }
    let alpha = context.attributes.float("alpha", 1.0)?;
    if alpha == 1.0 {
        return context.emit(Op::MatMul, factors.to_vec());
    }
    let product = context.value(Op::MatMul, &factors)?;
    let alpha = context.number(f64::from(alpha), product)?;
    context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![product, alpha])
}

/// A convolution, an addend of the result's shape, and an activation.
fn fused_convolution(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &["activation", "activation_params", "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"],
    )?;
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let op = super::spatial::convolution(context, x, weights)?;
    let bias = match context.optional_input(2) {
        Some(bias) => bias,
        None => {
            let filters = context.shape(weights)[0];
            context.make_zeros("bias", vec![filters])?
        }
    };
    let mut result = context.value(op, &[x, weights, bias])?;
    if let Some(addend) = context.optional_input(3) {
        result = context.binary(BinaryOp::Add, result, addend)?;
    }
    let parameters = context.attributes.floats("activation_params")?.unwrap_or_default();
    let parameter = |index: usize, default: f32| parameters.get(index).copied().unwrap_or(default);
    let function = match context.attributes.string("activation", "")?.as_str() {
        "" => return context.emit(Op::Identity, vec![result]),
        "Relu" => UnaryOp::Activation(Activation::Relu),
        "LeakyRelu" => UnaryOp::Activation(Activation::LeakyRelu(parameter(0, 0.01))),
        "Clip" => UnaryOp::Activation(Activation::Clip(parameter(0, f32::NEG_INFINITY), parameter(1, f32::INFINITY))),
        "HardSigmoid" => UnaryOp::Activation(Activation::HardSigmoid(parameter(0, 0.2), parameter(1, 0.5))),
        "Sigmoid" => UnaryOp::Sigmoid,
        "Tanh" => UnaryOp::Tanh,
        other => {
            let known = ["Relu", "LeakyRelu", "Clip", "HardSigmoid", "Sigmoid", "Tanh"];
            return Err(context.attributes.unknown_word("activation", other, &known));
        }
    };
    context.emit(Op::Unary(function), vec![result])
}

/// Layer normalization over the last axis, or, without means, RMS normalization.
fn normalized(
    context: &mut NodeContext<'_>,
    x: TensorId,
    gamma: TensorId,
    beta: Option<TensorId>,
    with_mean: bool,
) -> Result<TensorId, Diagnostic> {
    let epsilon = context.attributes.float("epsilon", if with_mean { 1e-12 } else { 1e-6 })?;
    let axis = context.shape(x).len().saturating_sub(1);
    if with_mean {
        let beta = match beta {
            Some(beta) => beta,
            None => {
                let shape = context.shape(gamma);
                context.make_zeros("beta", shape)?
            }
        };
        return context.value(Op::LayerNormalization { axis, epsilon }, &[x, gamma, beta]);
    }
    let square = context.binary(BinaryOp::Mul, x, x)?;
    let mean = context.value(Op::Reduce { kind: ReduceKind::Mean, axes: vec![axis], keep_dims: true }, &[square])?;
    let epsilon = context.number(f64::from(epsilon), x)?;
    let sum = context.binary(BinaryOp::Add, mean, epsilon)?;
    let root = context.unary(UnaryOp::Sqrt, sum)?;
    let normal = context.binary(BinaryOp::Div, x, root)?;
    context.binary(BinaryOp::Mul, normal, gamma)
}

/// The normalization of a sum; the sum itself is the fourth result.
fn skip_normalization(context: &mut NodeContext<'_>, with_mean: bool) -> Result<(), Diagnostic> {
    only(context, &["epsilon"])?;
    let outputs = &context.attributes.node.output;
    if outputs.iter().skip(1).take(2).any(|name| !name.is_empty()) {
        return Err(context.attributes.unsupported("its statistics as results belong to training"));
    }
    let (x, skip, gamma) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let (beta, bias) = match with_mean {
        true => (context.optional_input(3), context.optional_input(4)),
        false => (None, context.optional_input(3)),
    };
    let mut sum = context.binary(BinaryOp::Add, x, skip)?;
    if let Some(bias) = bias {
        sum = context.binary(BinaryOp::Add, sum, bias)?;
    }
    let result = normalized(context, sum, gamma, beta, with_mean)?;
    context.bind(&[result, sum, sum, sum])
}

/// Rows of up to three tables, added and normalized; its mask, how many tokens are not padding, is not supported.
fn embed_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["epsilon", "mask_index_type"])?;
    let outputs = &context.attributes.node.output;
    if context.optional_input(7).is_some() || outputs.get(2).is_some_and(|name| !name.is_empty()) {
        return Err(context.attributes.unsupported("its mask, and the sum as a result, are not supported"));
    }
    context.attributes.int("mask_index_type", 0)?;
    let (ids, words, places) = (context.input(0)?, context.input(2)?, context.input(3)?);
    let [_, steps] = context.shape(ids)[..] else {
        return Err(context.refuse(format!("its tokens are {}, expected [N, steps]", context.tensor_type(ids))));
    };
    let mut sum = context.value(Op::Gather { axis: 0 }, &[words, ids])?;
    let numbers = match context.optional_input(8) {
        Some(numbers) => numbers,
        None => context.make_constant("places", [steps], 0..steps as i64)?,
    };
    let place = context.value(Op::Gather { axis: 0 }, &[places, numbers])?;
    sum = context.binary(BinaryOp::Add, sum, place)?;
    if let (Some(segments), Some(table)) = (context.optional_input(1), context.optional_input(4)) {
        let segment = context.value(Op::Gather { axis: 0 }, &[table, segments])?;
        sum = context.binary(BinaryOp::Add, sum, segment)?;
    }
    let (gamma, beta) = (context.input(5)?, context.optional_input(6));
    let result = normalized(context, sum, gamma, beta, true)?;
    if context.uses_more_than_first() {
        return Err(context.attributes.unsupported("its mask as a result is not supported"));
    }
    context.bind(&[result])
}

/// The same of tables, and of factors and addends of the normalization, in whole numbers, each with a scale and a zero
/// point.
fn quantized_embed_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["epsilon"])?;
    if context.optional_input(7).is_some() {
        return Err(context.attributes.unsupported("its mask is not supported"));
    }
    let ids = context.input(0)?;
    let [_, steps] = context.shape(ids)[..] else {
        return Err(context.refuse(format!("its tokens are {}, expected [N, steps]", context.tensor_type(ids))));
    };
    let places = context.make_constant("places", [steps], 0..steps as i64)?;
    // Scales of operands 2 to 6 are 8 to 12, zero points 13 to 17.
    let rows = |context: &mut NodeContext<'_>, table: usize, indices: TensorId| {
        let all = context.input(table)?;
        let rows = context.value(Op::Gather { axis: 0 }, &[all, indices])?;
        dequantized(context, rows, [table + 6, table + 11])
    };
    let words = rows(context, 2, ids)?;
    let place = rows(context, 3, places)?;
    let mut sum = context.binary(BinaryOp::Add, words, place)?;
    if let (Some(segments), Some(_)) = (context.optional_input(1), context.optional_input(4)) {
        let segment = rows(context, 4, segments)?;
        sum = context.binary(BinaryOp::Add, sum, segment)?;
    }
    let (gamma, beta) = (context.input(5)?, context.input(6)?);
    let gamma = dequantized(context, gamma, [11, 16])?;
    let beta = dequantized(context, beta, [12, 17])?;
    let result = normalized(context, sum, gamma, Some(beta), true)?;
    if context.uses_more_than_first() {
        return Err(context.attributes.unsupported("its mask as a result is not supported"));
    }
    context.bind(&[result])
}

/// Numbers of heads.
fn heads(context: &NodeContext<'_>) -> Result<usize, Diagnostic> {
    super::attention::count(context, "num_heads")?.ok_or_else(|| context.refuse("attribute `num_heads` is missing"))
}

/// What is added to scores: of a mask `[batch, keys]` of whole numbers, which are 0 where a key is not to be seen; of an
/// addend; and of what comes later, if queries do not look ahead.
fn bias(
    context: &mut NodeContext<'_>,
    like: TensorId,
    mask: Option<TensorId>,
    addend: Option<TensorId>,
    [queries, keys]: [usize; 2],
) -> Result<Option<TensorId>, Diagnostic> {
    let hidden = f64::from(context.attributes.float("mask_filter_value", -10000.0)?);
    let mut bias = addend;
    let mut add = |context: &mut NodeContext<'_>, allowed: TensorId, penalty: f64| {
        let (zero, penalty) = (context.number(0.0, like)?, context.number(penalty, like)?);
        let own = context.value(Op::Where, &[allowed, zero, penalty])?;
        bias = Some(match bias {
            Some(bias) => context.binary(BinaryOp::Add, bias, own)?,
            None => own,
        });
        Ok::<(), Diagnostic>(())
    };
    if let Some(mask) = mask {
        let [batch, count] = context.shape(mask)[..] else {
            let message = format!("a mask {} is not supported, only [batch, keys]", context.tensor_type(mask));
            return Err(context.attributes.unsupported(message));
        };
        let seen = match context.promised(mask) {
            ElementType::Bool => mask,
            _ => context.value(Op::Cast { to: ElementType::Bool }, &[mask])?,
        };
        let seen = context.value(Op::Reshape { shape: vec![batch, 1, 1, count] }, &[seen])?;
        add(context, seen, hidden)?;
    }
    if context.attributes.flag("unidirectional", false)? {
        let past = keys.saturating_sub(queries);
        context.reserve("earlier", queries.saturating_mul(keys))?;
        let seen = (0..queries).flat_map(|query| (0..keys).map(move |key| key <= query + past)).collect();
        let seen = Value { shape: vec![queries, keys], data: partita_ir::graph::Data::Bool(seen) };
        let seen = context.name_constant("earlier", seen);
        add(context, seen, f64::from(f32::MIN))?;
    }
    Ok(bias)
}

/// The scale of scores: what is said, or the root of a head's size.
pub(super) fn scale(context: &NodeContext<'_>, q: TensorId) -> Result<f64, Diagnostic> {
    let size = context.shape(q).last().copied().unwrap_or(1).max(1);
    let stated = f64::from(context.attributes.float("scale", 0.0)?);
    Ok(if stated == 0.0 { 1.0 / (size as f64).sqrt() } else { stated })
}

/// Attention whose queries, keys and values are one product with the input.
fn attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["num_heads", "unidirectional", "mask_filter_value", "scale", "qkv_hidden_sizes"])?;
    if context.optional_input(4).is_some() || context.optional_input(6).is_some() {
        return Err(context.attributes.unsupported("a past is not supported"));
    }
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let heads = heads(context)?;
    let mut all = context.value(Op::MatMul, &[x, weights])?;
    if let Some(bias) = context.optional_input(2) {
        all = context.binary(BinaryOp::Add, all, bias)?;
    }
    let (mask, addend) = (context.optional_input(3), context.optional_input(5));
    attention_of(context, all, heads, [mask, addend])
}

/// The same of whole numbers, whose product is taken in whole numbers and then scaled.
fn quantized_attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["num_heads", "unidirectional", "mask_filter_value", "scale"])?;
    if context.optional_input(8).is_some() {
        return Err(context.attributes.unsupported("a past is not supported"));
    }
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let heads = heads(context)?;
    let zeros = [context.optional_input(6), context.optional_input(7)];
    let left = super::integers::centred(context, x, zeros[0], 1)?;
    let right = super::integers::centred(context, weights, zeros[1], 1)?;
    let mut all = context.emit_own(Op::MatMul, vec![left, right])?[0];
    for position in [3, 4] {
        let scale = context.input(position)?;
        all = context.binary(BinaryOp::Mul, all, scale)?;
    }
    if let Some(bias) = context.optional_input(2) {
        all = context.binary(BinaryOp::Add, all, bias)?;
    }
    let mask = context.optional_input(5);
    attention_of(context, all, heads, [mask, None])
}

/// Attention of queries, keys and values beside each other, `[N, steps, width]`; a mask, and what is added to scores.
fn attention_of(
    context: &mut NodeContext<'_>,
    all: TensorId,
    heads: usize,
    [mask, addend]: [Option<TensorId>; 2],
) -> Result<(), Diagnostic> {
    let shape = context.shape(all);
    let [_, steps, width] = shape[..] else {
        return Err(context.refuse(format!("its product is {}, expected [N, steps, width]", context.tensor_type(all))));
    };
    let sizes = context.attributes.sizes("qkv_hidden_sizes", 1)?.unwrap_or(vec![width / 3; 3]);
    let [of_q, of_k, of_v] = sizes[..] else { return Err(context.refuse("`qkv_hidden_sizes` should be three")) };
    if of_q + of_k + of_v != width {
        return Err(context.refuse(format!("queries, keys and values of {sizes:?} in a width of {width}")));
    }
    let mut parts = Vec::with_capacity(3);
    for (start, size) in [(0, of_q), (of_q, of_k), (of_q + of_k, of_v)] {
        let one = context.value(part(&shape, 2, start, size), &[all])?;
        parts.push(unpacked(context, one, heads)?);
    }
    let bias = bias(context, parts[0], mask, addend, [steps, steps])?;
    let scale = scale(context, parts[0])?;
    let attended = attend(context, [parts[0], parts[1], parts[2]], scale, 0.0, [bias, None])?;
    let result = packed(context, attended.result)?;
    context.bind(&[result])
}

/// Attention of operands that are projected already, one for each or keys and values of earlier steps, too.
fn multi_head_attention(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["num_heads", "unidirectional", "mask_filter_value", "scale"])?;
    if [8, 9].iter().any(|position| context.optional_input(*position).is_some()) {
        return Err(context.attributes.unsupported("a past in a larger buffer is not supported"));
    }
    let heads = heads(context)?;
    let (Some(k), Some(v)) = (context.optional_input(1), context.optional_input(2)) else {
        return Err(context.attributes.unsupported("queries, keys and values in one operand are not supported"));
    };
    let mut operands = [context.input(0)?, k, v];
    let mut start = 0;
    for operand in &mut operands {
        let shape = context.shape(*operand);
        if shape.len() == 4 {
            continue;
        }
        let width = shape.last().copied().unwrap_or(0);
        if let Some(bias) = context.optional_input(3) {
            let all = context.shape(bias);
            let own = context.value(part(&all, 0, start.min(all[0]), width), &[bias])?;
            *operand = context.binary(BinaryOp::Add, *operand, own)?;
        }
        start += width;
        *operand = unpacked(context, *operand, heads)?;
    }
    let [q, mut k, mut v] = operands;
    if let (Some(keys), Some(values)) = (context.optional_input(6), context.optional_input(7)) {
        k = context.value(Op::Concat { axis: 2 }, &[keys, k])?;
        v = context.value(Op::Concat { axis: 2 }, &[values, v])?;
    } else {
        (k, v) = (context.value(Op::Identity, &[k])?, context.value(Op::Identity, &[v])?);
    }
    let ([_, _, queries, _], [_, _, keys, _]) = (&context.shape(q)[..], &context.shape(k)[..]) else {
        return Err(context.refuse("its operands should be [N, steps, width]"));
    };
    let extents = [*queries, *keys];
    let (mask, addend) = (context.optional_input(4), context.optional_input(5));
    let bias = bias(context, q, mask, addend, extents)?;
    let scale = scale(context, q)?;
    let attended = attend(context, [q, k, v], scale, 0.0, [bias, None])?;
    let result = packed(context, attended.result)?;
    context.bind(&[result, k, v])
}
