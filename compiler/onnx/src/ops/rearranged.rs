//! Operators that move elements to places that are known, or that follow from a few numbers.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, ConvTranspose, Op, PadMode, Window};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

/// Largest matrix whose determinant is written out.
const MAX_DETERMINANT: usize = 4;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "ReverseSequence" => reverse_sequence,
        "CenterCropPad" => center_crop_pad,
        "Col2Im" => column_to_image,
        "MaxUnpool" => max_unpool,
        "Det" => determinant,
        "BitCast" => bit_cast,
        _ => return None,
    })
}

/// Where each axis of the original is after a permutation.
pub(super) fn inverse(order: &[usize]) -> Vec<usize> {
    (0..order.len()).map(|axis| order.iter().position(|other| *other == axis).unwrap_or(axis)).collect()
}

/// ONNX ReverseSequence-10: the first steps of each sample backwards, the rest as it is.
fn reverse_sequence(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, lengths) = (context.input(0)?, context.input(1)?);
    let shape = context.shape(x);
    let axes = [context.attributes.int("batch_axis", 1)?, context.attributes.int("time_axis", 0)?];
    let [Ok(batch_axis), Ok(time_axis)] = axes.map(|axis| context.axis(axis, shape.len())) else {
        return Err(context.refuse(format!("axes {axes:?} of {shape:?}")));
    };
    let (batch, steps) = (shape[batch_axis], shape[time_axis]);
    if batch_axis == time_axis || context.shape(lengths) != [batch] {
        return Err(context.refuse(format!("lengths {} for {shape:?}", context.tensor_type(lengths))));
    }
    let mut order: Vec<usize> = (0..shape.len()).filter(|axis| *axis != batch_axis && *axis != time_axis).collect();
    order.splice(0..0, [batch_axis, time_axis]);
    let rest: Vec<usize> = order[2..].iter().map(|axis| shape[*axis]).collect();
    let turned = context.value(Op::Transpose { permutation: order.clone() }, &[x])?;
    let rows = context.value(Op::Reshape { shape: [&[batch * steps], &rest[..]].concat() }, &[turned])?;
    let lengths = context.value(Op::Reshape { shape: vec![batch, 1] }, &[lengths])?;
    let at = context.make_constant("steps", [steps], 0..steps as i64)?;
    let one = context.number(1.0, lengths)?;
    let last = context.binary(BinaryOp::Sub, lengths, one)?;
    let backwards = context.binary(BinaryOp::Sub, last, at)?;
    let is_early = context.binary(BinaryOp::Less, at, lengths)?;
    let step = context.value(Op::Where, &[is_early, backwards, at])?;
    let firsts = (0..batch).map(|sample| (sample * steps) as i64);
    let firsts = context.make_constant("firsts", [batch, 1], firsts)?;
    let places = context.binary(BinaryOp::Add, step, firsts)?;
    let taken = context.value(Op::Gather { axis: 0 }, &[rows, places])?;
    let wide = context.value(Op::Reshape { shape: [&[batch, steps], &rest[..]].concat() }, &[taken])?;
    context.emit(Op::Transpose { permutation: inverse(&order) }, vec![wide])
}

/// ONNX CenterCropPad-18: the middle of an axis, or the axis in the middle of zeros.
fn center_crop_pad(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let wanted = context.constant_ints(1)?;
    let axes = match context.attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|axis| context.axis(*axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    if axes.len() != wanted.len() {
        return Err(context.refuse(format!("{} extents for {} axes", wanted.len(), axes.len())));
    }
    let (mut begin, mut end) = (vec![0; shape.len()], vec![0; shape.len()]);
    let (mut starts, mut sizes) = (vec![0; shape.len()], shape.clone());
    for (axis, size) in axes.into_iter().zip(wanted) {
        let Some(size) = usize::try_from(size).ok().filter(|size| (1..=1 << 28).contains(size)) else {
            return Err(context.refuse(format!("an extent is {size}, expected at least 1")));
        };
        let extent = shape[axis];
        if size < extent {
            (starts[axis], sizes[axis]) = ((extent - size) / 2, size);
        } else {
            begin[axis] = (size - extent) / 2;
            end[axis] = size - extent - begin[axis];
        }
    }
    let cut = context.value(Op::Slice { starts, steps: vec![1; shape.len()], sizes }, &[x])?;
    context.emit(Op::Pad { mode: PadMode::Constant(0.0), begin, end }, vec![cut])
}

/// ONNX Col2Im-18: blocks of an image added where they overlap, as a transposed convolution with filters of a single one.
fn column_to_image(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let sizes = |context: &NodeContext<'_>, position| -> Result<Vec<usize>, Diagnostic> {
        let sizes = context.constant_ints(position)?;
        let sizes = sizes.iter().map(|size| usize::try_from(*size).ok().filter(|size| (1..=1 << 20).contains(size)));
        sizes.collect::<Option<Vec<_>>>().ok_or_else(|| context.refuse(format!("input {position} should be extents")))
    };
    let (image, block) = (sizes(context, 1)?, sizes(context, 2)?);
    let rank = image.len();
    let list = |name: &str, default: Vec<usize>, least| -> Result<Vec<usize>, Diagnostic> {
        let length = default.len();
        let list = context.attributes.sizes(name, least)?.unwrap_or(default);
        if list.len() == length { Ok(list) } else { Err(context.refuse(format!("attribute `{name}` is {list:?}"))) }
    };
    let (stride, dilation) = (list("strides", vec![1; rank], 1)?, list("dilations", vec![1; rank], 1)?);
    let pads = list("pads", vec![0; 2 * rank], 0)?;
    let taps = block.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).unwrap_or(usize::MAX);
    let [batch, columns, count] = context.shape(x)[..] else {
        return Err(context.refuse(format!("its input is {}, expected [N, C * block, L]", context.tensor_type(x))));
    };
    if !(1..=3).contains(&rank) || block.len() != rank || !columns.is_multiple_of(taps) {
        return Err(context.refuse(format!("blocks {block:?} of an image {image:?} in {columns} columns")));
    }
    let mut blocks = Vec::with_capacity(rank);
    let mut output_padding = Vec::with_capacity(rank);
    for axis in 0..rank {
        let reach = dilation[axis] * (block[axis] - 1) + 1;
        let padded = image[axis] + pads[axis] + pads[axis + rank];
        let Some(room) = padded.checked_sub(reach) else {
            return Err(context.refuse(format!("a block of {reach} in an axis of {padded}")));
        };
        blocks.push(room / stride[axis] + 1);
        output_padding.push(room % stride[axis]);
    }
    if blocks.iter().product::<usize>() != count {
        return Err(context.refuse(format!("{count} blocks, expected {blocks:?}")));
    }
    context.reserve("filters", columns.saturating_mul(taps))?;
    let mut filters = vec![0.0; columns * taps];
    (0..columns).for_each(|column| filters[column * taps + column % taps] = 1.0);
    let filters = context.name_constant("filters", Value::f32([&[columns, 1], &block[..]].concat(), filters));
    let bias = context.make_zeros("bias", vec![columns / taps])?;
    let wide = context.value(Op::Reshape { shape: [&[batch, columns], &blocks[..]].concat() }, &[x])?;
    let window =
        Window { kernel: block, stride, dilation, pad_begin: pads[..rank].to_vec(), pad_end: pads[rank..].to_vec() };
    let groups = columns / taps;
    let op = ConvTranspose { window, output_padding, groups, activation: Activation::None };
    context.emit(Op::ConvTranspose(op), vec![wide, filters, bias])
}

/// ONNX MaxUnpool-9, -11, -22 with known indices: elements at their places among zeros.
fn max_unpool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let rank = shape.len().saturating_sub(2);
    let indices = context.constant(1)?;
    let Data::I64(indices) = &indices.data else { return Err(context.refuse("its indices should be i64")) };
    let Some(kernel) = context.attributes.sizes("kernel_shape", 1)?.filter(|kernel| kernel.len() == rank) else {
        return Err(context.refuse("attribute `kernel_shape` does not fit"));
    };
    let strides = context.attributes.sizes("strides", 1)?.unwrap_or(vec![1; rank]);
    let pads = context.attributes.sizes("pads", 0)?.unwrap_or(vec![0; 2 * rank]);
    if strides.len() != rank || pads.len() != 2 * rank || indices.len() != shape.iter().product::<usize>() {
        return Err(context.refuse("its attributes and indices do not fit its input"));
    }
    let mut result = shape[..shape.len() - rank].to_vec();
    for axis in 0..rank {
        let whole = (shape[axis + 2].max(1) - 1) * strides[axis] + kernel[axis];
        result.push(whole.saturating_sub(pads[axis] + pads[axis + rank]));
    }
    // Indices count elements of what was pooled; a larger result has more behind them.
    let mut end = vec![0; shape.len()];
    if context.optional_input(2).is_some() {
        let wanted = context.constant_ints(2)?;
        for (axis, (wanted, own)) in wanted.iter().zip(&result).enumerate() {
            let more = usize::try_from(*wanted).ok().and_then(|wanted| wanted.checked_sub(*own));
            let Some(more) = more.filter(|more| *more <= 1 << 20) else {
                return Err(context.refuse(format!("its output shape {wanted} is smaller than {own}")));
            };
            end[axis] = more;
        }
    }
    let count = partita_ir::graph::infer::element_count(&result).map_err(|error| context.attributes.refused(&error))?;
    context.reserve("sources", count)?;
    let mut sources = vec![indices.len() as i64; count];
    for (element, index) in indices.iter().enumerate() {
        let Some(source) = usize::try_from(*index).ok().and_then(|index| sources.get_mut(index)) else {
            return Err(context.refuse(format!("index {index} is outside {result:?}")));
        };
        *source = element as i64;
    }
    let sources = context.name_constant("sources", Value::i64([count], sources));
    let flat = context.value(Op::Reshape { shape: vec![indices.len()] }, &[x])?;
    let zero = context.number(0.0, x)?;
    let zero = context.value(Op::Reshape { shape: vec![1] }, &[zero])?;
    let all = context.value(Op::Concat { axis: 0 }, &[flat, zero])?;
    let placed = context.value(Op::Gather { axis: 0 }, &[all, sources])?;
    let placed = context.value(Op::Reshape { shape: result }, &[placed])?;
    let begin = vec![0; shape.len()];
    context.emit(Op::Pad { mode: PadMode::Constant(0.0), begin, end }, vec![placed])
}

/// Determinants of small matrices, along their first rows.
fn determinant(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let [outer @ .., rows, columns] = &shape[..] else { return Err(context.refuse("its input is no matrix")) };
    if rows != columns || *rows == 0 || *rows > MAX_DETERMINANT {
        let message = format!("{} by {columns}; up to {MAX_DETERMINANT} rows are supported", rows);
        return Err(context.attributes.unsupported(message));
    }
    let count: usize = outer.iter().product();
    let flat = context.value(Op::Reshape { shape: vec![count, *rows, *columns] }, &[x])?;
    let mut elements = Vec::with_capacity(rows * columns);
    for row in 0..*rows {
        let one = context.value(part(&[count, *rows, *columns], 1, row, 1), &[flat])?;
        for column in 0..*columns {
            let one = context.value(part(&[count, 1, *columns], 2, column, 1), &[one])?;
            elements.push(context.value(Op::Reshape { shape: outer.to_vec() }, &[one])?);
        }
    }
    let all: Vec<usize> = (0..*columns).collect();
    let result = minor(context, &elements, *columns, 0, &all)?;
    context.emit(Op::Identity, vec![result])
}

/// The determinant of the rows from `row` on in these columns; as deep as there are rows, which are few.
fn minor(
    context: &mut NodeContext<'_>,
    elements: &[TensorId],
    width: usize,
    row: usize,
    columns: &[usize],
) -> Result<TensorId, Diagnostic> {
    let mut sum: Option<TensorId> = None;
    for (position, column) in columns.iter().enumerate() {
        let element = elements[row * width + column];
        if columns.len() == 1 {
            return Ok(element);
        }
        let others: Vec<usize> = columns.iter().copied().filter(|other| other != column).collect();
        let rest = minor(context, elements, width, row + 1, &others)?;
        let product = context.binary(BinaryOp::Mul, element, rest)?;
        sum = Some(match sum {
            None => product,
            Some(sum) if position % 2 == 1 => context.binary(BinaryOp::Sub, sum, product)?,
            Some(sum) => context.binary(BinaryOp::Add, sum, product)?,
        });
    }
    sum.ok_or_else(|| context.refuse("it has no elements"))
}

/// ONNX BitCast-26. Doubles are computed in f32, so that only those of constants have bits.
fn bit_cast(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let to = context.attributes.int("to", 0)?;
    let to = super::elementwise::element_type(context, "to", to)?;
    let from = context.promised(x);
    if from.size_bytes() != to.size_bytes() {
        return Err(context.refuse(format!("{} and {} differ in size", from.name(), to.name())));
    }
    if let Some(value) = context.importer.graph.value(x).cloned() {
        let data = Data::from_bytes(to, &value.data.to_bytes());
        let id = context.add_constant("bits", Value { shape: value.shape.clone(), data })?;
        return context.bind(&[id]);
    }
    let is_plain = |element: ElementType| element.is_integer();
    if from == to {
        return context.emit(Op::Identity, vec![x]);
    }
    if is_plain(to) && (is_plain(from) || from == ElementType::Bool) {
        return context.emit(Op::Cast { to }, vec![x]);
    }
    if from == ElementType::F64 || to == ElementType::F64 || from.is_float() == to.is_float() {
        let message = format!("{} seen as {} at run time is not supported", from.name(), to.name());
        return Err(context.attributes.unsupported(message));
    }
    // Halves are carried as f32.
    let own = |element: ElementType| if element.is_float() { ElementType::F32 } else { element };
    let x = match own(from) == from {
        true => x,
        false => context.emit_own(Op::Cast { to: from }, vec![x])?[0],
    };
    let result = context.emit_own(Op::BitCast { to }, vec![x])?[0];
    if own(to) == to {
        return context.bind(&[result]);
    }
    let result = context.emit_own(Op::Cast { to: own(to) }, vec![result])?[0];
    context.importer.promise(result, to);
    context.bind(&[result])
}
