//! Einsum: operands are multiplied one after the other, each time summed over what nothing else needs.

use std::collections::BTreeMap;

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{Einsum, Op};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Einsum" => einsum,
        _ => return None,
    })
}

/// What the axis of an operand is called. Axes of `...` have numbers, counted from the last, and stand before letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// One of the axes of `...`: so many stand before it at most, however many an operand has.
    Ellipsis(usize),
    Letter(char),
}

/// A tensor, with the label of each of its axes.
struct Term {
    tensor: TensorId,
    labels: Vec<Label>,
}

/// ONNX Einsum-12.
fn einsum(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let equation = context.attributes.string("equation", "")?;
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let shown = printable(&equation);
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let inputs = context.all_inputs()?;
    let written: Vec<&str> = left.split(',').collect();
    let letters = |text: &str| text.replacen("...", "", 1).chars().all(|c| c.is_ascii_alphabetic());
    if written.len() != inputs.len() || !written.iter().copied().chain(right).all(letters) {
        return Err(context.refuse(format!("equation `{shown}` does not fit {} operands", inputs.len())));
    }
    let rank = |(text, input): (&&str, &TensorId)| {
        let letters = text.replacen("...", "", 1).len();
        let more = context.shape(*input).len().checked_sub(letters);
        more.filter(|more| *more == 0 || letters < text.len())
    };
    let Some(ranks) = written.iter().zip(&inputs).map(rank).collect::<Option<Vec<usize>>>() else {
        let types: Vec<String> = inputs.iter().map(|input| context.tensor_type(*input).to_string()).collect();
        return Err(context.refuse(format!("equation `{shown}` does not fit {}", types.join(" and "))));
    };
    let most = ranks.iter().copied().max().unwrap_or(0);
    let mut terms = Vec::with_capacity(inputs.len());
    for ((text, rank), tensor) in written.iter().zip(ranks).zip(inputs) {
        terms.push(Term { tensor, labels: labels(text, most - rank..most) });
    }
    let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    for term in &terms {
        for (label, extent) in term.labels.iter().zip(context.shape(term.tensor)) {
            let known = extents.entry(*label).or_insert(extent);
            if matches!(label, Label::Ellipsis(_)) && *known == 1 {
                *known = extent;
            }
            if *known != extent && !(matches!(label, Label::Ellipsis(_)) && extent == 1) {
                return Err(context.refuse(format!("a dimension of equation `{shown}` is {known} and {extent}")));
            }
            *counts.entry(*label).or_default() += 1;
        }
    }
    let result: Vec<Label> = match right {
        Some(right) => labels(right, 0..most),
        None => {
            let stays = |(label, count): (&Label, &usize)| matches!(label, Label::Ellipsis(_)) || *count == 1;
            counts.iter().filter(|entry| stays(*entry)).map(|(label, _)| *label).collect()
        }
    };
    let is_set = result.iter().enumerate().all(|(at, label)| !result[..at].contains(label));
    if !is_set || result.iter().any(|label| !extents.contains_key(label)) {
        return Err(context.refuse(format!("equation `{shown}` has an impossible result")));
    }
    for term in &mut terms {
        without_ones(context, term, &extents)?;
    }
    multiply(context, terms, &result)
}

/// Multiplies terms one after the other, each time summed over what neither those behind it nor the result needs.
fn multiply(context: &mut NodeContext<'_>, terms: Vec<Term>, result: &[Label]) -> Result<(), Diagnostic> {
    let mut rest = terms.into_iter();
    let Some(mut whole) = rest.next() else { return Err(context.refuse("it has no operands")) };
    let rest: Vec<Term> = rest.collect();
    for (position, term) in rest.iter().enumerate() {
        let later = &rest[position + 1..];
        if later.is_empty() {
            break;
        }
        let mut needed: Vec<Label> = Vec::new();
        for label in whole.labels.iter().chain(&term.labels) {
            let is_needed = result.contains(label) || later.iter().any(|other| other.labels.contains(label));
            if is_needed && !needed.contains(label) {
                needed.push(*label);
            }
        }
        let op = Op::Einsum(numbered(&[&whole.labels, &term.labels], &needed));
        whole = Term { tensor: context.value(op, &[whole.tensor, term.tensor])?, labels: needed };
    }
    match rest.last() {
        Some(last) => {
            let op = Op::Einsum(numbered(&[&whole.labels, &last.labels], result));
            context.emit(op, vec![whole.tensor, last.tensor])
        }
        None => context.emit(Op::Einsum(numbered(&[&whole.labels], result)), vec![whole.tensor]),
    }
}

/// The labels that a term of an equation gives its axes; those of `...` are the numbers of `more`.
fn labels(text: &str, more: std::ops::Range<usize>) -> Vec<Label> {
    let letters = |text: &str| text.chars().map(Label::Letter).collect::<Vec<Label>>();
    match text.split_once("...") {
        Some((before, behind)) => {
            letters(before).into_iter().chain(more.map(Label::Ellipsis)).chain(letters(behind)).collect()
        }
        None => letters(text),
    }
}

/// Leaves out axes of `...` that broadcast.
fn without_ones(
    context: &mut NodeContext<'_>,
    term: &mut Term,
    extents: &BTreeMap<Label, usize>,
) -> Result<(), Diagnostic> {
    let shape = context.shape(term.tensor);
    let stays: Vec<bool> = term.labels.iter().zip(&shape).map(|(label, extent)| extents[label] == *extent).collect();
    if stays.contains(&false) {
        let shape = shape.into_iter().zip(&stays).filter_map(|(extent, stays)| stays.then_some(extent)).collect();
        term.tensor = context.value(Op::Reshape { shape }, &[term.tensor])?;
        let mut stays = stays.into_iter();
        term.labels.retain(|_| stays.next() == Some(true));
    }
    Ok(())
}

/// With numbers for labels, in the order in which they come.
fn numbered(terms: &[&Vec<Label>], result: &[Label]) -> Einsum {
    let mut known: Vec<Label> = Vec::new();
    let mut number = |label: &Label| {
        known.iter().position(|other| other == label).unwrap_or_else(|| {
            known.push(*label);
            known.len() - 1
        })
    };
    let terms = terms.iter().map(|labels| labels.iter().map(&mut number).collect()).collect();
    Einsum { terms, result: result.iter().map(number).collect() }
}
