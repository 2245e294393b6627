//! Element-wise operators on values that are still in registers: what follows a convolution, a product or another element-wise
//! operator, without memory between them.
//!
//! Operators that follow each other are one tree. Its leaves are operands and what the kernel itself has summed up. Each
//! operator computes what it computes alone, so results are the same to the last bit.

use partita_ir::graph::op::BinaryOp;
use partita_ir::graph::{Op, TensorType};

use super::build::Builder;
use super::elementwise::{Source, apply, source};
use super::functions::Functions;
use super::{Binding, Operand};
use crate::{Access, Affine, Buffer, Expression};

/// What an element is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// What the kernel has summed up.
    Sum,
    /// One of [`Fused::operands`].
    Operand(usize),
    /// An element-wise operator on such.
    Apply(Op, Vec<Tree>),
}

impl Tree {
    /// Whether it is, or holds, an operand by which something is divided.
    fn divides_by(&self, operand: usize) -> bool {
        let Tree::Apply(op, inputs) = self else { return false };
        let is_quotient = matches!(op, Op::Binary(BinaryOp::Div | BinaryOp::RoundedQuotient, _));
        is_quotient && inputs.get(1) == Some(&Tree::Operand(operand))
            || inputs.iter().any(|input| input.divides_by(operand))
    }

    /// Operators in it.
    fn operators(&self) -> usize {
        match self {
            Tree::Sum | Tree::Operand(_) => 0,
            Tree::Apply(_, inputs) => 1 + inputs.iter().map(Tree::operators).sum::<usize>(),
        }
    }
}

/// Element-wise operators behind a kernel's sums.
#[derive(Clone, Copy, Debug)]
pub struct Fused<'a> {
    /// What is stored.
    pub tree: &'a Tree,
    /// Of the tree. In a kernel's bindings they are numbered behind the node's own inputs.
    pub operands: &'a [Operand<'a>],
}

impl Fused<'_> {
    /// In words, to go behind a summary.
    pub(super) fn words(fused: Option<&Fused<'_>>) -> String {
        match fused.map(|fused| fused.tree.operators()) {
            None => String::new(),
            Some(1) => ", then an element-wise operator".to_string(),
            Some(count) => format!(", then {count} element-wise operators"),
        }
    }
}

/// How one operand is read.
#[derive(Clone, Copy)]
enum Read {
    All(f32),
    /// At the same place as the result.
    Same(Buffer),
    /// One number per channel or column.
    Channel(Buffer),
}

/// A tree whose operands are buffers of a kernel.
pub(super) struct Joined<'a> {
    tree: &'a Tree,
    reads: Vec<Read>,
}

impl<'a> Joined<'a> {
    /// Declares the operands' buffers. A result has `elements`, and so many `channels`, both with what lies beside the last
    /// vector; operands are numbered from `first` on.
    pub(super) fn declare(
        fused: &Fused<'a>,
        builder: &mut Builder,
        bindings: &mut Vec<Binding>,
        first: usize,
        output: &TensorType,
        [elements, channels]: [usize; 2],
    ) -> Option<Joined<'a>> {
        let mut reads = Vec::with_capacity(fused.operands.len());
        for (index, operand) in fused.operands.iter().enumerate() {
            // What stands beside the last channel is divided, too, and must stay a number.
            let beyond = if fused.tree.divides_by(index) { 1.0 } else { 0.0 };
            let name = match index {
                0 if first == 0 => "a".to_string(),
                1 if first == 0 => "b".to_string(),
                index => format!("operand_{index}"),
            };
            let mut packed = |builder: &mut Builder, constant: &[f32], count: usize| {
                let mut elements = constant.to_vec();
                elements.resize(count, beyond);
                bindings.push(Binding::Weights { from: first + index, elements });
                builder.buffer(&name, Access::Weights, count)
            };
            reads.push(match source(operand, output)? {
                Source::Same if let Some(constant) = operand.value => Read::Same(packed(builder, constant, elements)),
                Source::Same => {
                    bindings.push(Binding::Input(first + index));
                    Read::Same(builder.buffer(&name, Access::Input, elements))
                }
                Source::Channel => Read::Channel(packed(builder, operand.value?, channels)),
                Source::Scalar(value) => Read::All(value),
            });
        }
        Some(Joined { tree: fused.tree, reads })
    }

    /// Buffers that are read where the result is written, and nowhere else.
    pub(super) fn in_place(&self, operands: &[Operand<'_>]) -> Vec<Buffer> {
        let reads = self.reads.iter().zip(operands).filter(|(_, operand)| operand.value.is_none());
        reads.filter_map(|(read, _)| if let Read::Same(buffer) = read { Some(*buffer) } else { None }).collect()
    }

    /// The vector at a place of the result whose channels, or columns, begin at another.
    pub(super) fn value(
        &self,
        sum: &Expression,
        [at, channel]: [&Affine; 2],
        functions: &mut Functions<'_>,
    ) -> Option<Expression> {
        self.part(self.tree, sum, [at, channel], functions)
    }

    fn part(
        &self,
        tree: &Tree,
        sum: &Expression,
        [at, channel]: [&Affine; 2],
        functions: &mut Functions<'_>,
    ) -> Option<Expression> {
        Some(match tree {
            Tree::Sum => sum.clone(),
            Tree::Operand(index) => match *self.reads.get(*index)? {
                Read::All(value) => Expression::Constant(value),
                Read::Same(buffer) => Expression::Load(buffer, at.clone()),
                Read::Channel(buffer) => Expression::Load(buffer, channel.clone()),
            },
            Tree::Apply(op, inputs) => {
                let each = |input| self.part(input, sum, [at, channel], functions);
                let values = inputs.iter().map(each).collect::<Option<Vec<Expression>>>()?;
                apply(op, values, functions)?
            }
        })
    }
}
