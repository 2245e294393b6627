//! What a kernel does to its sums before it stores them: residual, activation, fused element-wise operators.

use partita_ir::graph::op::{Activation, Conv};

use super::build::{Builder, activate, binary};
use super::functions::Functions;
use super::fused::Joined;
use crate::{Affine, Arithmetic, Buffer, Expression, Function, Statement, Variable};

/// What a kernel does to its sums before it stores them.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Added where it lies at the same place as the output.
    pub residual: Option<Buffer>,
    pub activation: Activation,
    /// Element-wise operators, and per sum where its channels begin.
    pub fused: Option<(&'a Joined<'a>, &'a [Affine])>,
    /// Sums are whole numbers.
    pub whole: bool,
    pub output: Buffer,
}

impl Epilogue<'_> {
    /// Residual, activation, fused operators, store, of two sums at a time: loads and stores of neighbours become pairs.
    pub(super) fn finish(&self, builder: &mut Builder, sums: &[(Variable, Affine)]) -> Vec<Statement> {
        let mut statements = Vec::new();
        for (index, pair) in sums.chunks(2).enumerate() {
            let mut pair = pair.to_vec();
            if self.whole {
                for (side, (sum, _)) in pair.iter_mut().enumerate() {
                    let number = Expression::Unary(Function::FromWhole, Box::new(Expression::Variable(*sum)));
                    *sum = builder.assign(&format!("sum_{side}"), number, &mut statements);
                }
            }
            let added = self.residual.map(|residual| {
                let added = [builder.variable("residual_0"), builder.variable("residual_1")];
                let loads = pair.iter().zip(added);
                statements
                    .extend(loads.map(|((_, at), to)| Statement::Assign(to, Expression::Load(residual, at.clone()))));
                added
            });
            for (side, (sum, _)) in pair.iter().enumerate() {
                if let Some(added) = added {
                    let value = binary(Arithmetic::Add, Expression::Variable(*sum), Expression::Variable(added[side]));
                    statements.push(Statement::Assign(*sum, value));
                }
                if self.activation != Activation::None {
                    let value = activate(Expression::Variable(*sum), self.activation);
                    statements.push(Statement::Assign(*sum, value));
                }
                if let Some((joined, channels)) = self.fused {
                    let at = [&pair[side].1, &channels[2 * index + side]];
                    let mut functions = Functions { builder, statements: &mut statements };
                    // A tree of operators that are done on vectors has a value.
                    if let Some(value) = joined.value(&Expression::Variable(*sum), at, &mut functions) {
                        statements.push(Statement::Assign(*sum, value));
                    }
                }
            }
            statements.extend(
                pair.iter().map(|(sum, at)| Statement::Store(self.output, at.clone(), Expression::Variable(*sum))),
            );
        }
        statements
    }
}

/// Residual and activation in words, to go behind a summary.
pub(super) fn epilogue_words(conv: &Conv) -> String {
    let residual = if conv.residual { ", plus residual" } else { "" };
    match conv.activation {
        Activation::None => residual.to_string(),
        activation => format!("{residual}, then {activation:?}"),
    }
}
