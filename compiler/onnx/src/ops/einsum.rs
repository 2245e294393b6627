//! Einsum: operands are multiplied one after the other, each time as one batched matrix product.

use std::collections::BTreeMap;

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{Op, ReduceKind};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Einsum" => einsum,
        _ => return None,
    })
}

/// A tensor, with the label of each of its axes.
struct Term {
    tensor: TensorId,
    labels: Vec<char>,
}

fn einsum(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let equation = context.attributes.string("equation", "")?;
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let shown = printable(&equation);
    if text.contains('.') {
        return Err(context.attributes.unsupported(format!("`...` in equation `{shown}` is not supported")));
    }
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let inputs = context.all_inputs()?;
    let terms: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
    if terms.len() != inputs.len() || !left.chars().all(|c| c == ',' || c.is_ascii_alphabetic()) {
        return Err(context.refuse(format!("equation `{shown}` does not fit {} operands", inputs.len())));
    }
    let mut extents: BTreeMap<char, usize> = BTreeMap::new();
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    let mut open = Vec::with_capacity(inputs.len());
    for (labels, tensor) in terms.into_iter().zip(inputs) {
        let shape = context.shape(tensor);
        if shape.len() != labels.len() {
            return Err(context.refuse(format!("equation `{shown}` does not fit {}", context.tensor_type(tensor))));
        }
        for (position, (label, extent)) in labels.iter().zip(shape).enumerate() {
            if labels[..position].contains(label) {
                return Err(context
                    .attributes
                    .unsupported(format!("a diagonal in equation `{shown}` is not supported")));
            }
            if *extents.entry(*label).or_insert(extent) != extent {
                return Err(context.refuse(format!("dimension `{label}` of equation `{shown}` has two extents")));
            }
            *counts.entry(*label).or_default() += 1;
        }
        open.push(Term { tensor, labels });
    }
    let result: Vec<char> = match right {
        Some(right) => right.chars().collect(),
        None => counts.iter().filter(|(_, count)| **count == 1).map(|(label, _)| *label).collect(),
    };
    let is_set = result.iter().enumerate().all(|(at, label)| !result[..at].contains(label));
    if !is_set || result.iter().any(|label| !extents.contains_key(label)) {
        return Err(context.refuse(format!("equation `{shown}` has an impossible result")));
    }
    let mut terms = open.into_iter();
    let Some(mut whole) = terms.next() else { return Err(context.refuse("it has no operands")) };
    let rest: Vec<Term> = terms.collect();
    for (position, term) in rest.iter().enumerate() {
        let later = |label: &char| {
            result.contains(label) || rest[position + 1..].iter().any(|other| other.labels.contains(label))
        };
        let own = |label: &char| term.labels.contains(label) || later(label);
        whole = summed(context, whole, own)?;
        let first = whole.labels.clone();
        let other = Term { tensor: term.tensor, labels: term.labels.clone() };
        let other = summed(context, other, |label| first.contains(label) || later(label))?;
        whole = product(context, &whole, &other, &extents, later)?;
    }
    let whole = summed(context, whole, |label| result.contains(label))?;
    let arranged = arranged(context, &whole, &result)?;
    context.emit(Op::Identity, vec![arranged])
}

/// Without the axes that nothing else needs.
fn summed(context: &mut NodeContext<'_>, term: Term, is_needed: impl Fn(&char) -> bool) -> Result<Term, Diagnostic> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|axis| !is_needed(&term.labels[*axis])).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let labels = term.labels.iter().copied().filter(|label| is_needed(label)).collect();
    let tensor = context.value(Op::Reduce { kind: ReduceKind::Sum, axes, keep_dims: false }, &[term.tensor])?;
    Ok(Term { tensor, labels })
}

/// Its axes in another order.
fn arranged(context: &mut NodeContext<'_>, term: &Term, labels: &[char]) -> Result<TensorId, Diagnostic> {
    let permutation: Vec<usize> =
        labels.iter().filter_map(|label| term.labels.iter().position(|other| other == label)).collect();
    if permutation.is_sorted() {
        return Ok(term.tensor);
    }
    context.value(Op::Transpose { permutation }, &[term.tensor])
}

/// The product of two terms, summed over what both have and nothing else needs.
fn product(
    context: &mut NodeContext<'_>,
    first: &Term,
    second: &Term,
    extents: &BTreeMap<char, usize>,
    is_needed: impl Fn(&char) -> bool,
) -> Result<Term, Diagnostic> {
    let all = |term: &Term, wanted: &dyn Fn(&char) -> bool| -> Vec<char> {
        term.labels.iter().copied().filter(|label| wanted(label)).collect()
    };
    let in_both = |label: &char| first.labels.contains(label) && second.labels.contains(label);
    let batch = all(first, &|label| in_both(label) && is_needed(label));
    let inner = all(first, &|label| in_both(label) && !is_needed(label));
    let rows = all(first, &|label| !in_both(label));
    let columns = all(second, &|label| !in_both(label));
    let size = |labels: &[char]| labels.iter().map(|label| extents[label]).product::<usize>();
    let left = arranged(context, first, &[&batch[..], &rows, &inner].concat())?;
    let right = arranged(context, second, &[&batch[..], &inner, &columns].concat())?;
    let left = context.value(Op::Reshape { shape: vec![size(&batch), size(&rows), size(&inner)] }, &[left])?;
    let right = context.value(Op::Reshape { shape: vec![size(&batch), size(&inner), size(&columns)] }, &[right])?;
    let tensor = context.value(Op::MatMul, &[left, right])?;
    let labels = [&batch[..], &rows, &columns].concat();
    let shape = labels.iter().map(|label| extents[label]).collect();
    let tensor = context.value(Op::Reshape { shape }, &[tensor])?;
    Ok(Term { tensor, labels })
}
