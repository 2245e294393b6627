//! Operators that choose elements by their size or by indices, written with comparisons, Where and Gather.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

/// Longest axis of a TopK: every element is compared with every other.
const MAX_RANKED: usize = 4096;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "TopK" => top_k,
        "Hardmax" => hardmax,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        "ScatterND" => scatter_nd,
        "ScatterElements" | "Scatter" => scatter_elements,
        "Compress" => compress,
        _ => return None,
    })
}

/// `0, 1, ..` along one axis of a tensor of `rank` dimensions.
fn positions(context: &mut NodeContext<'_>, axis: usize, rank: usize, extent: usize) -> Result<TensorId, Diagnostic> {
    let mut shape = vec![1; rank];
    shape[axis] = extent;
    context.make_constant("positions", shape, 0..extent as i64)
}

/// The place of each element in the order is how many come before it; the first of equals comes first.
fn top_k(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, shape.len())?;
    let extent = shape[axis];
    let wanted = if context.opset() < 10 {
        context.attributes.int("k", 0)?
    } else {
        match context.constant_ints(1)?[..] {
            [count] => count,
            _ => return Err(context.refuse("k should be one number")),
        }
    };
    let count = usize::try_from(wanted).ok().filter(|count| *count <= extent);
    let Some(count) = count else { return Err(context.refuse(format!("k is {wanted} of {extent} elements"))) };
    if extent > MAX_RANKED {
        let message = format!("an axis of {extent} elements; up to {MAX_RANKED} are supported");
        return Err(context.attributes.unsupported(message));
    }
    let is_largest = context.attributes.flag("largest", true)?;
    let (outer, inner): (usize, usize) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
    // [outer, this, other, inner]
    let this = context.value(Op::Reshape { shape: vec![outer, extent, 1, inner] }, &[x])?;
    let other = context.value(Op::Reshape { shape: vec![outer, 1, extent, inner] }, &[x])?;
    let earlier = (0..extent).flat_map(|this| (0..extent).map(move |other| other < this));
    let earlier = context.make_constant("order", [extent, extent, 1], earlier)?;
    let before = come_before(context, [other, this], earlier, is_largest)?;
    let before = context.value(Op::Cast { to: ElementType::F32 }, &[before])?;
    let sum = |axis: usize| Op::Reduce { kind: ReduceKind::Sum, axes: vec![axis], keep_dims: false };
    let place = context.value(sum(2), &[before])?;
    let place = context.value(Op::Reshape { shape: vec![outer, 1, extent, inner] }, &[place])?;
    let ranks = context.make_constant("ranks", [count, 1, 1], (0..count).map(|rank| rank as f32))?;
    let hit = context.binary(BinaryOp::Equal, place, ranks)?;
    let zero = context.number(0.0, x)?;
    let chosen = context.value(Op::Where, &[hit, other, zero])?;
    let mut result = shape.clone();
    result[axis] = count;
    let values = context.value(sum(2), &[chosen])?;
    let values = context.value(Op::Reshape { shape: result.clone() }, &[values])?;
    let numbers = context.make_constant("numbers", [extent, 1], (0..extent).map(|position| position as f32))?;
    let none = context.add_constant("none", Value::f32(Vec::new(), vec![0.0]))?;
    let chosen = context.value(Op::Where, &[hit, numbers, none])?;
    let indices = context.value(sum(2), &[chosen])?;
    let indices = context.value(Op::Reshape { shape: result }, &[indices])?;
    let indices = context.value(Op::Cast { to: ElementType::I64 }, &[indices])?;
    context.bind(&[values, indices])
}

/// Whether each of the others comes before this one; of equals the `earlier` does. NaN is larger than any number, and equal
/// to NaN, as in onnxruntime and numpy.
fn come_before(
    context: &mut NodeContext<'_>,
    [other, this]: [TensorId; 2],
    earlier: TensorId,
    is_largest: bool,
) -> Result<TensorId, Diagnostic> {
    if !context.promised(this).is_float() {
        let comparison = if is_largest { BinaryOp::Greater } else { BinaryOp::Less };
        let before = context.binary(comparison, other, this)?;
        let equal = context.binary(BinaryOp::Equal, other, this)?;
        let tie = context.binary(BinaryOp::And, equal, earlier)?;
        return context.binary(BinaryOp::Or, before, tie);
    }
    // Which of two is no less than the other; NaN is no less than anything.
    let (first, second) = if is_largest { (this, other) } else { (other, this) };
    let at_least = |context: &mut NodeContext<'_>, a: TensorId, b: TensorId| {
        let equal = context.binary(BinaryOp::Equal, a, a)?;
        let is_nan = context.unary(UnaryOp::Not, equal)?;
        let at_least = context.binary(BinaryOp::GreaterOrEqual, a, b)?;
        context.binary(BinaryOp::Or, at_least, is_nan)
    };
    let not_behind = at_least(context, second, first)?;
    let not_before = at_least(context, first, second)?;
    let before = context.unary(UnaryOp::Not, not_before)?;
    context.value(Op::Where, &[earlier, not_behind, before])
}

/// 1 for the first largest element, 0 for all others; before opset 13 over a matrix, cut at the axis.
fn hardmax(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let whole = context.shape(x);
    let modern = context.opset() >= 13;
    let axis = context.attributes.int("axis", if modern { -1 } else { 1 })?;
    let axis = if !modern && axis == whole.len() as i64 { whole.len() } else { context.axis(axis, whole.len())? };
    let shape = if modern {
        vec![whole[..axis].iter().product(), whole[axis], whole[axis + 1..].iter().product()]
    } else {
        vec![whole[..axis].iter().product(), whole[axis..].iter().product(), 1]
    };
    let extent = shape[1];
    let flat = context.value(Op::Reshape { shape }, &[x])?;
    let largest = context.value(Op::ArgMax { axis: 1, keep_dims: true, select_last: false }, &[flat])?;
    let positions = positions(context, 1, 3, extent)?;
    let hit = context.binary(BinaryOp::Equal, largest, positions)?;
    let result = context.value(Op::Cast { to: context.promised(x) }, &[hit])?;
    context.emit(Op::Reshape { shape: whole }, vec![result])
}

/// Elements between consecutive indices of each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Indices from 0 on: negative ones count from the end of an axis. Those that are known are checked.
fn wrapped(context: &mut NodeContext<'_>, indices: TensorId, extent: usize) -> Result<TensorId, Diagnostic> {
    let indices = match context.tensor_type(indices).element {
        ElementType::I64 => indices,
        _ => context.value(Op::Cast { to: ElementType::I64 }, &[indices])?,
    };
    if let Some(value) = context.importer.graph.value(indices).cloned() {
        let Some(elements) = value.as_i64() else { return Err(context.refuse("the indices should be i64 or i32")) };
        let limit = extent as i64;
        if let Some(index) = elements.iter().find(|index| !(-limit..limit).contains(index)) {
            return Err(context.refuse(format!("index {index} is outside an axis of {extent}")));
        }
        let elements = elements.iter().map(|index| if *index < 0 { index + limit } else { *index });
        return context.make_constant("wrapped", value.shape.clone(), elements);
    }
    let zero = context.add_constant("zero", Value::i64(Vec::new(), vec![0]))?;
    let limit = context.add_constant("extent", Value::i64(Vec::new(), vec![extent as i64]))?;
    let negative = context.binary(BinaryOp::Less, indices, zero)?;
    let from_end = context.binary(BinaryOp::Add, indices, limit)?;
    context.value(Op::Where, &[negative, from_end, indices])
}

/// `factor * x + addends` of i64.
fn scaled_sum(
    context: &mut NodeContext<'_>,
    x: TensorId,
    factor: usize,
    addend: Option<TensorId>,
) -> Result<TensorId, Diagnostic> {
    let mut result = x;
    if factor != 1 {
        let factor = context.add_constant("stride", Value::i64(Vec::new(), vec![factor as i64]))?;
        result = context.binary(BinaryOp::Mul, result, factor)?;
    }
    match addend {
        Some(addend) => context.binary(BinaryOp::Add, result, addend),
        None => Ok(result),
    }
}

/// Positions in a flat tensor, of elements that lie where `shape` says but for one axis.
fn flat_positions(
    context: &mut NodeContext<'_>,
    indices: TensorId,
    data: &[usize],
    axis: usize,
) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(indices);
    if shape.len() != data.len() {
        return Err(context.refuse(format!("indices {shape:?} and data {data:?} have different ranks")));
    }
    if (0..data.len()).any(|other| other != axis && shape[other] > data[other]) {
        return Err(context.refuse(format!("indices {shape:?} reach beyond data {data:?}")));
    }
    let steps = strides(data);
    let own = strides(&shape);
    let count: usize = shape.iter().product();
    let place = |position: usize| {
        let along = |other: usize| position / own[other] % shape[other] * steps[other];
        (0..shape.len()).filter(|other| *other != axis).map(along).sum::<usize>() as i64
    };
    let places = context.make_constant("places", shape.clone(), (0..count).map(place))?;
    let indices = wrapped(context, indices, data[axis])?;
    scaled_sum(context, indices, steps[axis], Some(places))
}

fn gather_elements(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (data, indices) = (context.input(0)?, context.input(1)?);
    let shape = context.shape(data);
    let axis = context.attributes.int("axis", 0)?;
    let axis = context.axis(axis, shape.len())?;
    let positions = flat_positions(context, indices, &shape, axis)?;
    let flat = context.value(Op::Reshape { shape: vec![shape.iter().product()] }, &[data])?;
    context.emit(Op::Gather { axis: 0 }, vec![flat, positions])
}

/// Numbers of the rows that the last axis of the indices names, by the first axes of the data behind `batch` ones.
fn rows(
    context: &mut NodeContext<'_>,
    indices: TensorId,
    data: &[usize],
    batch: usize,
) -> Result<(TensorId, usize), Diagnostic> {
    let shape = context.shape(indices);
    let Some((depth, outer)) = shape.split_last() else { return Err(context.refuse("the indices are a scalar")) };
    if batch + depth > data.len() || outer.len() < batch || outer[..batch] != data[..batch] || *depth == 0 {
        return Err(context.refuse(format!("indices {shape:?} do not fit data {data:?}")));
    }
    let steps = strides(&data[batch..batch + depth]);
    let per_batch: usize = data[batch..batch + depth].iter().product();
    let mut sum: Option<TensorId> = None;
    if batch > 0 {
        let own = strides(outer);
        let count: usize = outer.iter().product();
        let batches = strides(&data[..batch]);
        let place = |position: usize| {
            let along = |axis: usize| position / own[axis] % outer[axis] * batches[axis];
            ((0..batch).map(along).sum::<usize>() * per_batch) as i64
        };
        sum = Some(context.make_constant("places", outer, (0..count).map(place))?);
    }
    for (level, step) in steps.iter().enumerate() {
        let one = context.value(part(&shape, outer.len(), level, 1), &[indices])?;
        let one = context.value(Op::Reshape { shape: outer.to_vec() }, &[one])?;
        let one = wrapped(context, one, data[batch + level])?;
        sum = Some(scaled_sum(context, one, *step, sum)?);
    }
    sum.map(|sum| (sum, *depth)).ok_or_else(|| context.refuse("the indices name no axis"))
}

fn gather_nd(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (data, indices) = (context.input(0)?, context.input(1)?);
    let shape = context.shape(data);
    let batch = context.attributes.int("batch_dims", 0)?;
    let Some(batch) = usize::try_from(batch).ok().filter(|batch| *batch < shape.len().max(1)) else {
        return Err(context.refuse(format!("attribute `batch_dims` is {batch}")));
    };
    let (rows, depth) = rows(context, indices, &shape, batch)?;
    let (named, rest) = shape.split_at(batch + depth);
    let mut flat = vec![named.iter().product()];
    flat.extend(rest);
    let flat = context.value(Op::Reshape { shape: flat }, &[data])?;
    context.emit(Op::Gather { axis: 0 }, vec![flat, rows])
}

/// `data` with the rows at `positions` replaced by those of the second operand, or taken together with them as the
/// attribute `reduction` says; both are `[rows, length]`.
fn replaced(
    context: &mut NodeContext<'_>,
    data: TensorId,
    updates: TensorId,
    positions: TensorId,
) -> Result<TensorId, Diagnostic> {
    let count = context.shape(data)[0];
    let function = match context.attributes.string("reduction", "none")?.as_str() {
        "none" => None,
        "add" => Some(BinaryOp::Add),
        "mul" => Some(BinaryOp::Mul),
        "max" => Some(BinaryOp::Max),
        "min" => Some(BinaryOp::Min),
        other => {
            return Err(context.attributes.unknown_word("reduction", other, &["none", "add", "mul", "max", "min"]));
        }
    };
    let known = context.importer.graph.value(positions).and_then(|value| value.as_i64().map(<[i64]>::to_vec));
    let (Some(known), None) = (known, function) else {
        return context.value(Op::Scatter { function }, &[data, updates, positions]);
    };
    context.reserve("sources", count)?;
    let mut sources: Vec<i64> = (0..count as i64).collect();
    for (update, position) in known.iter().enumerate() {
        // The last of several updates counts, as in onnxruntime.
        sources[*position as usize] = (count + update) as i64;
    }
    let both = context.value(Op::Concat { axis: 0 }, &[data, updates])?;
    let sources = context.name_constant("sources", Value::i64([count], sources));
    context.value(Op::Gather { axis: 0 }, &[both, sources])
}

/// The same of data of any shape, seen as rows of `length` elements; nothing is done where there are no updates.
fn scattered(
    context: &mut NodeContext<'_>,
    [data, updates, positions]: [TensorId; 3],
    length: usize,
) -> Result<(), Diagnostic> {
    let shape = context.shape(data);
    let count: usize = context.shape(positions).iter().product();
    if count == 0 || shape.contains(&0) {
        return context.emit(Op::Identity, vec![data]);
    }
    if context.tensor_type(updates).element_count() != count * length {
        let updates = context.tensor_type(updates);
        return Err(context.refuse(format!("updates {updates} for {count} indices of {length} elements each")));
    }
    let rows: usize = shape.iter().product::<usize>() / length;
    let flat = context.value(Op::Reshape { shape: vec![rows, length] }, &[data])?;
    let updates = context.value(Op::Reshape { shape: vec![count, length] }, &[updates])?;
    let positions = context.value(Op::Reshape { shape: vec![count] }, &[positions])?;
    let result = replaced(context, flat, updates, positions)?;
    context.emit(Op::Reshape { shape }, vec![result])
}

fn scatter_elements(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (data, indices, updates) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = context.shape(data);
    let axis = context.attributes.int("axis", 0)?;
    let axis = context.axis(axis, shape.len())?;
    if context.shape(indices) != context.shape(updates) {
        let (indices, updates) = (context.tensor_type(indices), context.tensor_type(updates));
        return Err(context.refuse(format!("updates {updates} should have the shape of the indices {indices}")));
    }
    let positions = flat_positions(context, indices, &shape, axis)?;
    scattered(context, [data, updates, positions], 1)
}

fn scatter_nd(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (data, indices, updates) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = context.shape(data);
    let (rows, depth) = rows(context, indices, &shape, 0)?;
    scattered(context, [data, updates, rows], shape[depth..].iter().product())
}

/// The elements, or slices of an axis, whose condition holds; the condition decides the shape and must be known.
fn compress(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let mut x = context.input(0)?;
    let condition = context.constant(1)?;
    let Data::Bool(chosen) = &condition.data else { return Err(context.refuse("its condition should be bool")) };
    let axis = match context.attributes.optional_int("axis")? {
        Some(axis) => context.axis(axis, context.shape(x).len())?,
        None => {
            let count = context.shape(x).iter().product();
            x = context.value(Op::Reshape { shape: vec![count] }, &[x])?;
            0
        }
    };
    let extent = context.shape(x)[axis];
    let indices: Vec<i64> = (0..extent.min(chosen.len())).filter(|at| chosen[*at]).map(|at| at as i64).collect();
    let indices = context.add_constant("chosen", Value::i64([indices.len()], indices))?;
    context.emit(Op::Gather { axis }, vec![x, indices])
}
