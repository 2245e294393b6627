//! Losses, which some models carry as outputs: the score of the right class, chosen by comparing classes with labels.

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use partita_ir::graph::{ElementType, TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "NegativeLogLikelihoodLoss" => |context| {
            let x = context.input(0)?;
            let loss = loss(context, x)?;
            context.bind(&[loss])
        },
        "SoftmaxCrossEntropyLoss" => |context| {
            let x = context.input(0)?;
            let logarithms = context.value(Op::LogSoftmax { axis: 1 }, &[x])?;
            let loss = loss(context, logarithms)?;
            context.bind(&[loss, logarithms])
        },
        _ => return None,
    })
}

/// ONNX NegativeLogLikelihoodLoss-12, -13, -22 of logarithms of probabilities `[N, C, ..]`.
fn loss(context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
    let labels = context.input(1)?;
    let (shape, of_labels) = (context.shape(x), context.shape(labels));
    let [samples, classes, rest @ ..] = &shape[..] else {
        return Err(context.refuse(format!("its input is {}, expected samples and classes", context.tensor_type(x))));
    };
    if [&[*samples], rest].concat() != of_labels {
        let message = format!("labels {} for {}", context.tensor_type(labels), context.tensor_type(x));
        return Err(context.refuse(message));
    }
    let reduction = context.attributes.string("reduction", "mean")?;
    if !["none", "mean", "sum"].contains(&reduction.as_str()) {
        return Err(context.attributes.unknown_word("reduction", &reduction, &["none", "mean", "sum"]));
    }
    let labels = match context.tensor_type(labels).element {
        ElementType::I64 => labels,
        _ => context.value(Op::Cast { to: ElementType::I64 }, &[labels])?,
    };
    let mut wide = of_labels.clone();
    wide.insert(1, 1);
    let along: Vec<usize> = std::iter::once(*classes).chain(std::iter::repeat_n(1, rest.len())).collect();
    let numbers = context.make_constant("classes", along.clone(), 0..*classes as i64)?;
    let wanted = context.value(Op::Reshape { shape: wide }, &[labels])?;
    let right = context.binary(BinaryOp::Equal, wanted, numbers)?;
    let score = chosen(context, right, x)?;
    let mut loss = context.unary(UnaryOp::Neg, score)?;
    let mut weights = match context.optional_input(2) {
        Some(weights) => {
            let weights = context.value(Op::Reshape { shape: along }, &[weights])?;
            Some(chosen(context, right, weights)?)
        }
        None => None,
    };
    if let Some(ignored) = context.attributes.optional_int("ignore_index")? {
        let ignored = context.add_constant("ignored", Value::i64(Vec::new(), vec![ignored]))?;
        let left_out = context.binary(BinaryOp::Equal, labels, ignored)?;
        let (zero, one) = (context.number(0.0, x)?, context.number(1.0, x)?);
        loss = context.value(Op::Where, &[left_out, zero, loss])?;
        weights = Some(context.value(Op::Where, &[left_out, zero, weights.unwrap_or(one)])?);
    }
    if let Some(weights) = weights {
        loss = context.binary(BinaryOp::Mul, loss, weights)?;
    }
    let over = |kind| Op::Reduce { kind, axes: (0..of_labels.len()).collect(), keep_dims: false };
    match (reduction.as_str(), weights) {
        ("none", _) => Ok(loss),
        ("sum", _) => context.value(over(ReduceKind::Sum), &[loss]),
        (_, None) => context.value(over(ReduceKind::Mean), &[loss]),
        (_, Some(weights)) => {
            let sum = context.value(over(ReduceKind::Sum), &[loss])?;
            let weight = context.value(over(ReduceKind::Sum), &[weights])?;
            context.binary(BinaryOp::Div, sum, weight)
        }
    }
}

/// Of the classes' numbers, those of the right classes.
fn chosen(context: &mut NodeContext<'_>, right: TensorId, x: TensorId) -> Result<TensorId, Diagnostic> {
    let zero = context.number(0.0, x)?;
    let one = context.value(Op::Where, &[right, x, zero])?;
    context.value(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1], keep_dims: false }, &[one])
}
