//! What a kernel does to its sums before it stores them: residual, activation, fused element-wise operators.

use partita_ir::graph::op::{Activation, Conv};

use super::build::{Builder, activate, binary};
use super::functions::Functions;
use super::fused::Joined;
use crate::visit::{each_expression_mut, each_inside};
use crate::{Access, Affine, Arithmetic, Buffer, Expression, Function, Statement, Variable};

/// Sums whose loads and stores stand beside each other: two are a pair, and four fill a vector with bytes.
const TOGETHER: usize = 2;
const TOGETHER_FUSED: usize = 4;

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
    /// Residual, activation, fused operators, store, of a few sums at a time: loads and stores of neighbours become one.
    pub(super) fn finish(&self, builder: &mut Builder, sums: &[(Variable, Affine)]) -> Vec<Statement> {
        let mut statements = Vec::new();
        let mut shared = Shared::default();
        let mut first = 0;
        while first < sums.len() {
            let mut few = sums[first..first + self.together(first, sums.len())].to_vec();
            if self.whole {
                for (side, (sum, _)) in few.iter_mut().enumerate() {
                    let number = Expression::Unary(Function::FromWhole, Box::new(Expression::Variable(*sum)));
                    *sum = builder.assign(&format!("sum_{side}"), number, &mut statements);
                }
            }
            let added: Option<Vec<Variable>> = self.residual.map(|residual| {
                let load = |(side, (_, at)): (usize, &(Variable, Affine))| {
                    let value = Expression::Load(residual, at.clone());
                    builder.assign(&format!("residual_{side}"), value, &mut statements)
                };
                few.iter().enumerate().map(load).collect()
            });
            let mut stores = Vec::with_capacity(few.len());
            for (side, (sum, at)) in few.iter().enumerate() {
                let mut value = Expression::Variable(*sum);
                if let Some(added) = added.as_ref().and_then(|added| added.get(side)) {
                    let both = binary(Arithmetic::Add, value, Expression::Variable(*added));
                    value = Expression::Variable(*sum);
                    statements.push(Statement::Assign(*sum, both));
                }
                if self.activation != Activation::None {
                    statements.push(Statement::Assign(*sum, activate(value.clone(), self.activation)));
                }
                if let Some((joined, channels)) = self.fused {
                    let channel = &channels[first + side];
                    let mut own = Vec::new();
                    let mut functions = Functions { builder, statements: &mut own };
                    // A tree of operators that are done on vectors has a value.
                    if let Some(fused) = joined.value(&value, [at, channel], &mut functions) {
                        value = fused;
                    }
                    stand_apart(side, (&mut own, &mut value), builder);
                    shared.share(channel, (&mut own, &mut value), builder, &mut statements);
                    statements.extend(own);
                }
                stores.push(Statement::Store(self.output, at.clone(), value));
            }
            statements.extend(stores);
            first += few.len();
        }
        statements
    }

    /// How many sums, from one on, are stored together: of the same channels, if something is read of these.
    fn together(&self, first: usize, sums: usize) -> usize {
        let left = sums - first;
        match self.fused {
            None => left.min(TOGETHER),
            Some((_, channels)) => {
                let same = channels[first..].iter().take_while(|channel| **channel == channels[first]);
                same.take(TOGETHER_FUSED).count().clamp(1, left)
            }
        }
    }
}

/// Gives the variables of a value names of its own, so that what is computed of several sums is there until all are stored.
fn stand_apart(side: usize, (before, value): (&mut [Statement], &mut Expression), builder: &mut Builder) {
    let mut renamed = Vec::new();
    for statement in before.iter_mut() {
        if let Statement::Assign(variable, _) = statement {
            let own = builder.variable(&format!("{}_{side}", builder.name(*variable)));
            renamed.push((*variable, own));
            *variable = own;
        }
    }
    let mut rename = |part: &mut Expression| {
        if let Expression::Variable(variable) | Expression::Lane(variable, _) = part
            && let Some((_, own)) = renamed.iter().find(|(before, _)| before == variable)
        {
            *variable = *own;
        }
    };
    each_expression_mut(before, &mut rename);
    each_inside(value, &mut rename);
}

/// Numbers of channels that are in variables, for all sums of these channels.
#[derive(Default)]
struct Shared {
    loaded: Vec<(Buffer, Affine, Variable)>,
}

impl Shared {
    /// Loads what a value and what comes before it read of the channels, if the sum before has not.
    fn share(
        &mut self,
        channel: &Affine,
        (before, value): (&mut [Statement], &mut Expression),
        builder: &mut Builder,
        statements: &mut Vec<Statement>,
    ) {
        self.loaded.retain(|(_, at, _)| at == channel);
        let mut replace = |part: &mut Expression| {
            let buffer = match part {
                Expression::Load(buffer, at) if at == channel => *buffer,
                _ => return,
            };
            if builder.access(buffer) != Access::Weights {
                return;
            }
            let found = self.loaded.iter().find(|(other, ..)| *other == buffer).map(|(_, _, variable)| *variable);
            let variable = found.unwrap_or_else(|| {
                let name = format!("of_channels_{}", self.loaded.len());
                let variable = builder.assign(&name, part.clone(), statements);
                self.loaded.push((buffer, channel.clone(), variable));
                variable
            });
            *part = Expression::Variable(variable);
        };
        each_expression_mut(before, &mut replace);
        each_inside(value, &mut replace);
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
