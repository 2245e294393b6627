//! Quantized operators of com.microsoft: between reading whole numbers and writing them, they are what their names say.

use super::microsoft::only;
use super::quantized::{dequantized, quantized};
use super::spatial::pool_window;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Gemm, Op, Pool, PoolKind, ReduceKind, UnaryOp};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

/// Most bits of a weight of MatMulNBits.
const MAX_BITS: usize = 8;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "QuantizeLinear" | "DequantizeLinear" => |context| {
            only(context, &["axis"])?;
            let convert = super::quantized::converter(&context.attributes.node.op_type);
            convert.ok_or_else(|| context.refuse("it is not known")).and_then(|convert| convert(context))
        },
        "QLinearAdd" => |context| binary(context, BinaryOp::Add),
        "QLinearMul" => product,
        "QLinearSigmoid" => |context| {
            only(context, &[])?;
            unary(context, UnaryOp::Sigmoid)
        },
        "QLinearLeakyRelu" => |context| {
            only(context, &["alpha"])?;
            let alpha = context.attributes.float("alpha", 0.01)?;
            unary(context, UnaryOp::Activation(Activation::LeakyRelu(alpha)))
        },
        "QLinearAveragePool" => average_pool,
        "QLinearConcat" => concat,
        "QLinearGlobalAveragePool" => global_average_pool,
        "QLinearReduceMean" => reduce_mean,
        "QLinearWhere" => choose,
        "QLinearSoftmax" => softmax,
        "QGemm" => gemm,
        "DynamicQuantizeMatMul" => dynamic_product,
        "MatMulIntegerToFloat" => integer_product,
        "GatherBlockQuantized" => gather_of_few_bits,
        "MatMulNBits" => product_of_few_bits,
        _ => return None,
    })
}

/// A result on the scale and zero point at these places; of the type of that zero point, or of the operand `like`.
fn finish(context: &mut NodeContext<'_>, real: TensorId, places: [usize; 2], like: TensorId) -> Result<(), Diagnostic> {
    let element = context.promised(context.optional_input(places[1]).unwrap_or(like));
    let result = quantized(context, real, places, element)?;
    context.bind(&[result])
}

fn unary(context: &mut NodeContext<'_>, function: UnaryOp) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let real = dequantized(context, x, [1, 2])?;
    let real = context.unary(function, real)?;
    finish(context, real, [3, 4], x)
}

fn binary(context: &mut NodeContext<'_>, function: BinaryOp) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (a, b) = (context.input(0)?, context.input(3)?);
    let first = dequantized(context, a, [1, 2])?;
    let second = dequantized(context, b, [4, 5])?;
    let real = context.binary(function, first, second)?;
    finish(context, real, [6, 7], a)
}

/// A product of whole numbers, scaled once, as onnxruntime takes it.
fn product(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (a, b) = (context.input(0)?, context.input(3)?);
    let zeros = [context.optional_input(2), context.optional_input(5)];
    let left = super::integers::centred(context, a, zeros[0], 0)?;
    let right = super::integers::centred(context, b, zeros[1], 0)?;
    let mut scales = [1, 4, 6].map(|position| context.input(position));
    for scale in &mut scales {
        let whole = context.emit_own(Op::Reshape { shape: Vec::new() }, vec![scale.clone()?])?[0];
        *scale = Ok(whole);
    }
    let [of_a, of_b, of_result] = scales;
    let op = |function| Op::Binary(function, Activation::None);
    let scale = context.emit_own(op(BinaryOp::Mul), vec![of_a?, of_b?])?[0];
    let scale = context.emit_own(op(BinaryOp::Div), vec![scale, of_result?])?[0];
    let steps = context.emit_own(op(BinaryOp::Mul), vec![left, right])?[0];
    let scaled = context.emit_own(op(BinaryOp::Mul), vec![steps, scale])?[0];
    let mut sum = scaled;
    if let Some(zero) = context.optional_input(7) {
        let zero = context.as_f32(zero)?;
        let zero = context.emit_own(Op::Reshape { shape: Vec::new() }, vec![zero])?[0];
        sum = context.emit_own(op(BinaryOp::Add), vec![scaled, zero])?[0];
    }
    // What lies between two numbers is rounded with the zero point.
    let one = context.add_constant("one", Value::f32(Vec::new(), vec![1.0]))?;
    let element = context.promised(context.optional_input(7).unwrap_or(a));
    let (low, high) = super::quantized::bounds(context, 7, element)?;
    let rounded = Op::Binary(BinaryOp::RoundedQuotient, Activation::Clip(low, high));
    let result = context.emit_own(rounded, vec![sum, one])?[0];
    context.importer.promise(result, element);
    context.bind(&[result])
}

fn choose(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (condition, a, b) = (context.input(0)?, context.input(1)?, context.input(4)?);
    let first = dequantized(context, a, [2, 3])?;
    let second = dequantized(context, b, [5, 6])?;
    let real = context.value(Op::Where, &[condition, first, second])?;
    finish(context, real, [7, 8], a)
}

fn concat(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["axis"])?;
    let axis = context.attributes.int("axis", 0)?;
    let mut parts = Vec::new();
    for position in (2..context.inputs.len()).step_by(3) {
        let part = context.input(position)?;
        parts.push(dequantized(context, part, [position + 1, position + 2])?);
    }
    let Some(first) = parts.first() else { return Err(context.refuse("it has no operands")) };
    let axis = context.axis(axis, context.shape(*first).len())?;
    let real = context.value(Op::Concat { axis }, &parts)?;
    let like = context.input(2)?;
    finish(context, real, [0, 1], like)
}

fn global_average_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["channels_last"])?;
    if context.attributes.flag("channels_last", false)? {
        return Err(context.attributes.unsupported("channels behind pixels are not supported"));
    }
    let x = context.input(0)?;
    let real = dequantized(context, x, [1, 2])?;
    let real = context.value(Op::GlobalPool(PoolKind::Average), &[real])?;
    finish(context, real, [3, 4], x)
}

/// Attributes of a pool.
const POOL: &[&str] =
    &["auto_pad", "ceil_mode", "channels_last", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];

fn average_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, POOL)?;
    if context.attributes.flag("channels_last", false)? {
        return Err(context.attributes.unsupported("channels behind pixels are not supported"));
    }
    let x = context.input(0)?;
    let real = dequantized(context, x, [1, 2])?;
    let (window, declared_pad_end) = pool_window(context, real)?;
    let count_include_pad = context.attributes.flag("count_include_pad", false)?;
    let pool = Pool { kind: PoolKind::Average, window, declared_pad_end, count_include_pad };
    let real = context.value(Op::Pool(pool), &[real])?;
    finish(context, real, [3, 4], x)
}

fn reduce_mean(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["axes", "keepdims"])?;
    let x = context.input(0)?;
    let rank = context.shape(x).len();
    let stated = context.attributes.ints("axes")?.unwrap_or_default().to_vec();
    let axes = if stated.is_empty() {
        (0..rank).collect()
    } else {
        stated.iter().map(|axis| context.axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?
    };
    let keep_dims = context.attributes.flag("keepdims", true)?;
    let real = dequantized(context, x, [1, 2])?;
    let real = context.value(Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims }, &[real])?;
    finish(context, real, [3, 4], x)
}

fn softmax(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["axis", "opset"])?;
    let x = context.input(0)?;
    let rank = context.shape(x).len();
    let modern = context.attributes.int("opset", 13)? >= 13;
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, rank)?;
    if !modern && axis + 1 != rank {
        return Err(context.attributes.unsupported("softmax over several axes is not supported"));
    }
    let real = dequantized(context, x, [1, 2])?;
    let real = context.value(Op::Softmax { axis }, &[real])?;
    finish(context, real, [3, 4], x)
}

/// `alpha * A * B + C` where C is of whole numbers on the product's scale; quantized, or real if no scale is given.
fn gemm(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["alpha", "transA", "transB"])?;
    let (a, b) = (context.input(0)?, context.input(3)?);
    let zeros = [context.optional_input(2), context.optional_input(5)];
    let transpose_a = context.attributes.flag("transA", false)?;
    let transpose_b = context.attributes.flag("transB", false)?;
    let alpha = context.attributes.float("alpha", 1.0)?;
    let left = super::integers::centred(context, a, zeros[0], 1)?;
    let right = super::integers::centred(context, b, zeros[1], usize::from(!transpose_b))?;
    let mut operands = vec![left, right];
    if let Some(addend) = context.optional_input(6) {
        operands.push(context.as_f32(addend)?);
    }
    let op = Gemm { transpose_a, transpose_b, alpha: 1.0, beta: 1.0, activation: Activation::None };
    let sum = context.emit_own(Op::Gemm(op), operands)?[0];
    let multiply = |context: &mut NodeContext<'_>, a: TensorId, b: TensorId| {
        Ok::<_, Diagnostic>(context.emit_own(Op::Binary(BinaryOp::Mul, Activation::None), vec![a, b])?[0])
    };
    let (of_a, of_b) = (context.input(1)?, context.input(4)?);
    let of_a = context.emit_own(Op::Reshape { shape: Vec::new() }, vec![of_a])?[0];
    let mut scale = multiply(context, of_a, of_b)?;
    if alpha != 1.0 {
        let alpha = context.add_constant("alpha", Value::f32(Vec::new(), vec![alpha]))?;
        scale = multiply(context, scale, alpha)?;
    }
    if context.tensor_type(scale).element_count() == 1 {
        scale = context.emit_own(Op::Reshape { shape: Vec::new() }, vec![scale])?[0];
    }
    let real = multiply(context, sum, scale)?;
    if context.optional_input(7).is_none() {
        return context.bind(&[real]);
    }
    finish(context, real, [7, 8], a)
}

/// A product whose first factor is quantized by its range.
fn dynamic_product(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (a, b, scale) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let rank = context.shape(b).len();
    let zero = context.optional_input(3);
    let steps = super::integers::centred(context, b, zero, rank.saturating_sub(1))?;
    let mut real = super::integers::product_by_range(context, a, [steps, scale])?;
    if let Some(bias) = context.optional_input(4) {
        real = context.binary(BinaryOp::Add, real, bias)?;
    }
    context.emit(Op::Identity, vec![real])
}

/// A product of whole numbers as real ones.
fn integer_product(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (a, b) = (context.input(0)?, context.input(1)?);
    let zeros = [context.optional_input(4), context.optional_input(5)];
    let (rank_a, rank_b) = (context.shape(a).len(), context.shape(b).len());
    let left = super::integers::centred(context, a, zeros[0], rank_a.saturating_sub(2))?;
    let right = super::integers::centred(context, b, zeros[1], rank_b.saturating_sub(1))?;
    let mut real = context.emit_own(Op::MatMul, vec![left, right])?[0];
    for position in [2, 3] {
        let scale = context.input(position)?;
        real = context.emit_own(Op::Binary(BinaryOp::Mul, Activation::None), vec![real, scale])?[0];
    }
    if let Some(bias) = context.optional_input(6) {
        real = context.binary(BinaryOp::Add, real, bias)?;
    }
    context.bind(&[real])
}

/// A product with weights of a few bits in blocks along the axis that is summed over, each with its scale; they are
/// written out as real numbers.
fn product_of_few_bits(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["K", "N", "accuracy_level", "bits", "block_size", "weight_prepacked"])?;
    // How exact activations must be; they are in f32.
    context.attributes.int("accuracy_level", 0)?;
    if context.optional_input(4).is_some() || context.attributes.int("weight_prepacked", 0)? != 0 {
        return Err(context.attributes.unsupported("groups in another order are not supported"));
    }
    let size = |name: &str, default: i64| -> Result<usize, Diagnostic> {
        let size = context.attributes.int(name, default)?;
        match usize::try_from(size) {
            Ok(size) if (1..=1 << 24).contains(&size) => Ok(size),
            _ => Err(context.refuse(format!("attribute `{name}` is {size}"))),
        }
    };
    let (depth, columns, bits, block) = (size("K", 0)?, size("N", 0)?, size("bits", 4)?, size("block_size", 0)?);
    let blocks = depth.div_ceil(block);
    let per_byte = 8 / bits.min(MAX_BITS);
    if ![2, 4, 8].contains(&bits) || !block.is_multiple_of(per_byte) {
        return Err(context.attributes.unsupported(format!("{bits} bits in blocks of {block} are not supported")));
    }
    let packed = context.constant(1)?;
    let scales = context.constant_floats(2)?;
    let bytes_per_column = blocks * (block / per_byte);
    let Data::U8(bytes) = &packed.data else { return Err(context.refuse("its weights should be bytes")) };
    if bytes.len() != columns.saturating_mul(bytes_per_column) || scales.len() != columns.saturating_mul(blocks) {
        let message = format!("{} bytes and {} scales for {columns} columns of {depth}", bytes.len(), scales.len());
        return Err(context.refuse(message));
    }
    let digit = |bytes: &[u8], at: usize| {
        let shift = at % per_byte * bits;
        f32::from(bytes[at / per_byte] >> shift & (0xffu16 >> (8 - bits)) as u8)
    };
    let half = f32::from(1u16 << (bits - 1));
    let zeros: Vec<f32> = match context.optional_input(3) {
        None => vec![half; columns * blocks],
        Some(_) => {
            let zeros = context.constant(3)?;
            match &zeros.data {
                Data::U8(bytes) => {
                    let row = blocks.div_ceil(per_byte);
                    if bytes.len() != columns * row {
                        return Err(context.refuse(format!("{} bytes of zero points", bytes.len())));
                    }
                    let of = |index: usize| digit(&bytes[index / blocks * row..], index % blocks);
                    (0..columns * blocks).map(of).collect()
                }
                other if other.element().is_float() && other.len() == columns * blocks => {
                    partita_ir::graph::values::to_f32(other)
                }
                other => return Err(context.refuse(format!("{} zero points", other.len()))),
            }
        }
    };
    context.reserve("weights", depth.saturating_mul(columns))?;
    let mut weights = vec![0.0; depth * columns];
    for column in 0..columns {
        let own = &bytes[column * bytes_per_column..];
        for row in 0..depth {
            let parameter = column * blocks + row / block;
            weights[row * columns + column] = (digit(own, row) - zeros[parameter]) * scales[parameter];
        }
    }
    let weights = context.name_constant("weights", Value::f32([depth, columns], weights));
    let x = context.input(0)?;
    let mut result = context.value(Op::MatMul, &[x, weights])?;
    if let Some(bias) = context.optional_input(5) {
        result = context.binary(BinaryOp::Add, result, bias)?;
    }
    context.emit(Op::Identity, vec![result])
}

/// The digits of bytes, the lowest first: `[.., bytes]` to `[.., bytes * 8 / bits]`, in `f32`.
fn digits(context: &mut NodeContext<'_>, bytes: TensorId, bits: usize) -> Result<TensorId, Diagnostic> {
    let mut shape = context.shape(bytes);
    let mut rest = context.value(Op::Cast { to: ElementType::F32 }, &[bytes])?;
    let per_byte = 8 / bits;
    if per_byte == 1 {
        return Ok(rest);
    }
    let axis = shape.len();
    let mut one_each = shape.clone();
    one_each.push(1);
    let base = context.number(f64::from(1u16 << bits), rest)?;
    let mut all = Vec::with_capacity(per_byte);
    for _ in 0..per_byte {
        let quotient = context.binary(BinaryOp::Div, rest, base)?;
        let upper = context.unary(UnaryOp::Floor, quotient)?;
        let product = context.binary(BinaryOp::Mul, upper, base)?;
        let digit = context.binary(BinaryOp::Sub, rest, product)?;
        all.push(context.value(Op::Reshape { shape: one_each.clone() }, &[digit])?);
        rest = upper;
    }
    let all = context.value(Op::Concat { axis }, &all)?;
    shape[axis - 1] *= per_byte;
    context.value(Op::Reshape { shape }, &[all])
}

/// Rows of a table of few bits, with a scale and a zero point for each block of a row. The table stays as it is: only
/// rows that are chosen are made real numbers.
fn gather_of_few_bits(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["bits", "block_size", "gather_axis", "quantize_axis"])?;
    let (data, indices, scales) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = context.shape(data);
    let rank = shape.len();
    let axes = [context.attributes.int("gather_axis", 0)?, context.attributes.int("quantize_axis", 1)?];
    if rank < 2 || context.axis(axes[0], rank)? != 0 || context.axis(axes[1], rank)? != rank - 1 {
        let message =
            format!("axes {axes:?} of {} are not supported, only the first and the last", context.tensor_type(data));
        return Err(context.attributes.unsupported(message));
    }
    let (bits, block) = (context.attributes.int("bits", 4)?, context.attributes.int("block_size", 128)?);
    let (bits, block) = match (bits, usize::try_from(block)) {
        (2 | 4 | 8, Ok(block)) if block > 0 => (bits as usize, block),
        _ => return Err(context.refuse(format!("{bits} bits in blocks of {block}"))),
    };
    // Bytes hold several numbers; those of four bits are held in eight already.
    let is_packed = context.promised(data) == ElementType::U8 && !context.importer.four_bits.contains(&data);
    let depth = shape[rank - 1] * if is_packed { 8 / bits } else { 1 };
    let blocks = depth.div_ceil(block);
    let of_scales = context.shape(scales);
    if !depth.is_multiple_of(block) || of_scales.len() != rank || of_scales[rank - 1] != blocks {
        let message = format!("scales {of_scales:?} for rows of {depth} in blocks of {block} are not supported");
        return Err(context.attributes.unsupported(message));
    }
    let chosen = |context: &mut NodeContext<'_>, table: TensorId| -> Result<TensorId, Diagnostic> {
        let rows = context.value(Op::Gather { axis: 0 }, &[table, indices])?;
        match is_packed {
            true => digits(context, rows, bits),
            false => context.value(Op::Cast { to: ElementType::F32 }, &[rows]),
        }
    };
    let steps = chosen(context, data)?;
    let mut result = context.shape(steps);
    let mut parted = result.clone();
    let last = parted.len() - 1;
    parted[last] = blocks;
    let part = |context: &mut NodeContext<'_>, x: TensorId, parted: &[usize], size: usize| {
        let shape = parted.iter().copied().chain([size]).collect();
        context.value(Op::Reshape { shape }, &[x])
    };
    let mut steps = part(context, steps, &parted, block)?;
    let zero = match context.optional_input(3) {
        Some(zeros) => {
            let all = chosen(context, zeros)?;
            let own = context.shape(all);
            if own.get(last).is_none_or(|count| *count < blocks) {
                return Err(context.refuse(format!("zero points {own:?} for {blocks} blocks")));
            }
            let zeros = context.value(crate::expressions::part(&own, last, 0, blocks), &[all])?;
            part(context, zeros, &parted, 1)?
        }
        None => context.number(if is_packed { f64::from(1u16 << (bits - 1)) } else { 0.0 }, steps)?,
    };
    steps = context.binary(BinaryOp::Sub, steps, zero)?;
    let scales = context.value(Op::Gather { axis: 0 }, &[scales, indices])?;
    let scales = part(context, scales, &parted, 1)?;
    let real = context.binary(BinaryOp::Mul, steps, scales)?;
    result[last] = depth;
    context.emit(Op::Reshape { shape: result }, vec![real])
}
