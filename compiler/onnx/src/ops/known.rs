//! Operators whose result's shape depends on the elements of their operands: these must be known.

use std::cmp::Ordering;

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::Op;
use partita_ir::graph::{Data, ElementType, Value};

/// Most elements that are sorted: it takes a hundred bytes for each.
const MAX_SORTED: usize = 1 << 22;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "NonZero" => non_zero,
        "Unique" => unique,
        _ => return None,
    })
}

/// ONNX NonZero-9, -13: the indices of what is not zero, one row for each axis.
fn non_zero(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let value = context.constant(0)?;
    let Data::F64(numbers) = value.data.cast(ElementType::F64) else { return Err(context.refuse("it has no numbers")) };
    let places: Vec<usize> = (0..numbers.len()).filter(|at| numbers[*at] != 0.0).collect();
    context.reserve("indices", places.len().saturating_mul(value.shape.len()))?;
    let mut indices = Vec::with_capacity(places.len() * value.shape.len());
    for (axis, extent) in value.shape.iter().enumerate() {
        let inner: usize = value.shape[axis + 1..].iter().product();
        indices.extend(places.iter().map(|place| (place / inner % extent) as i64));
    }
    let shape = [value.shape.len(), places.len()];
    let indices = context.name_constant("indices", Value::i64(shape, indices));
    context.bind(&[indices])
}

/// Numbers in the order of the elements, equal where these are.
fn ordered(data: &Data) -> Vec<i128> {
    let real = |number: f64| {
        // 0 and -0 are equal; the bits of positive numbers ascend, those of negative ones descend.
        let bits = (number + 0.0).to_bits();
        i128::from(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    };
    match data {
        Data::U64(elements) => elements.iter().map(|element| i128::from(*element)).collect(),
        data if data.element().is_float() => match data.cast(ElementType::F64) {
            Data::F64(elements) => elements.into_iter().map(real).collect(),
            _ => Vec::new(),
        },
        data => match data.cast(ElementType::I64) {
            Data::I64(elements) => elements.into_iter().map(i128::from).collect(),
            _ => Vec::new(),
        },
    }
}

/// ONNX Unique-11: the different elements, or slices of an axis, where each is first, which one each is, and how often.
fn unique(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, value) = (context.input(0)?, context.constant(0)?);
    let axis = match context.attributes.optional_int("axis")? {
        Some(axis) => Some(context.axis(axis, value.shape.len())?),
        None => None,
    };
    let is_sorted = context.attributes.flag("sorted", true)?;
    // [outer, count, inner]: slices of the axis, or single elements.
    let (outer, count, inner) = match axis {
        Some(axis) => {
            let shape = &value.shape;
            (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
        }
        None => (1, value.data.len(), 1),
    };
    if value.data.len() > MAX_SORTED {
        let message = format!("{} elements; up to {MAX_SORTED} are sorted while compiling", value.data.len());
        return Err(Diagnostic { code: "E0122", ..context.refuse(message) });
    }
    let numbers = ordered(&value.data);
    let slice = |index: usize| {
        (0..outer * inner).map(move |at| at / inner * count * inner + index * inner + at % inner).map(|at| numbers[at])
    };
    let order = |a: &usize, b: &usize| slice(*a).zip(slice(*b)).map(|(a, b)| a.cmp(&b)).find(|order| order.is_ne());
    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by(|a, b| order(a, b).unwrap_or(Ordering::Equal));
    // Groups of equal ones, each in the order of the input since sorting is stable.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in sorted {
        match groups.last_mut() {
            Some(group) if order(&group[0], &index).is_none() => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    if !is_sorted {
        groups.sort_by_key(|group| group[0]);
    }
    let firsts: Vec<i64> = groups.iter().map(|group| group[0] as i64).collect();
    let mut numbers_of = vec![0i64; count];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|index| numbers_of[*index] = number as i64);
    }
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    let flat = match axis {
        Some(_) => x,
        None => context.value(Op::Reshape { shape: vec![count] }, &[x])?,
    };
    let mut list = |role: &str, list: Vec<i64>| context.add_constant(role, Value::i64([list.len()], list));
    let firsts = list("firsts", firsts)?;
    let results = [list("inverse", numbers_of)?, list("counts", counts)?];
    let different = context.value(Op::Gather { axis: axis.unwrap_or(0) }, &[flat, firsts])?;
    context.bind(&[different, firsts, results[0], results[1]])
}
