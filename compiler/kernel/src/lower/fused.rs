//! Element-wise operators on values that are still in registers: what follows a convolution, a product or another element-wise
//! operator, without memory between them.
//!
//! Operators that follow each other are one tree. Its leaves are operands and what the kernel itself has summed up. Each
//! operator computes what it computes alone, so results are the same to the last bit.

use partita_ir::graph::op::{Activation, BinaryOp};
use partita_ir::graph::{Op, TensorType};

use super::build::{Builder, activate, binary, mul_add};
use super::elementwise::{Source, apply, source};
use super::functions::Functions;
use super::reciprocal::reciprocal;
use super::{Binding, Machine, Operand};
use crate::{Access, Affine, Arithmetic, Buffer, Expression, Function};

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

    /// Between which bounds quotients by an operand are rounded, if that is all that is done with it.
    fn rounds_quotients(&self, operand: usize) -> Option<[f32; 2]> {
        let Tree::Apply(op, inputs) = self else { return None };
        let own = match (op, &inputs[..]) {
            (Op::Binary(BinaryOp::RoundedQuotient, Activation::Clip(low, high)), [_, Tree::Operand(divisor)]) => {
                (*divisor == operand).then_some([*low, *high])
            }
            _ => None,
        };
        let dividends = if own.is_some() { &inputs[..1] } else { &inputs[..] };
        let mut found = dividends.iter().filter(|input| input.reads(operand));
        match (own, found.next()) {
            (Some(bounds), None) => Some(bounds),
            (None, Some(only)) if found.next().is_none() => only.rounds_quotients(operand),
            _ => None,
        }
    }

    /// Whether an operand is in it.
    fn reads(&self, operand: usize) -> bool {
        match self {
            Tree::Sum => false,
            Tree::Operand(other) => *other == operand,
            Tree::Apply(_, inputs) => inputs.iter().any(|input| input.reads(operand)),
        }
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
    /// A divisor of rounded quotients, as both parts of its reciprocal.
    Reciprocal([f32; 2]),
    /// The same per channel or column.
    ChannelReciprocal([Buffer; 2]),
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
        (builder, bindings): (&mut Builder, &mut Vec<Binding>),
        first: usize,
        output: &TensorType,
        [elements, channels]: [usize; 2],
        machine: &Machine,
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
            let mut packed = |builder: &mut Builder, name: &str, constant: &[f32], count: usize| {
                let mut elements = constant.to_vec();
                elements.resize(count, beyond);
                bindings.push(Binding::Weights { from: first + index, elements });
                builder.buffer(name, Access::Weights, count)
            };
            let source = source(operand, output)?;
            let bounds =
                fused.tree.rounds_quotients(index).filter(|_| machine.instruction_set.rounds_multiply_add_once());
            let reciprocals =
                bounds.filter(|_| source != Source::Same).zip(operand.value).and_then(|(bounds, divisors)| {
                    divisors.iter().map(|divisor| reciprocal(*divisor, bounds)).collect::<Option<Vec<[f32; 2]>>>()
                });
            if let Some(reciprocals) = reciprocals {
                reads.push(match (source, &reciprocals[..]) {
                    (Source::Scalar(_), [parts]) => Read::Reciprocal(*parts),
                    _ => Read::ChannelReciprocal([0, 1].map(|part| {
                        let parts: Vec<f32> = reciprocals.iter().map(|parts| parts[part]).collect();
                        packed(builder, &format!("{name}_{}", ["high", "low"][part]), &parts, channels)
                    })),
                });
                continue;
            }
            reads.push(match source {
                Source::Same if let Some(constant) = operand.value => {
                    Read::Same(packed(builder, &name, constant, elements))
                }
                Source::Same => {
                    bindings.push(Binding::Input(first + index));
                    Read::Same(builder.buffer(&name, Access::Input, elements))
                }
                Source::Channel => Read::Channel(packed(builder, &name, operand.value?, channels)),
                Source::Scalar(value) => Read::All(value),
            });
        }
        Some(Joined { tree: fused.tree, reads })
    }

    /// The same of what is done behind a node, if anything is; none where its kernel cannot do it.
    pub(super) fn declare_behind(
        fused: Option<&Fused<'a>>,
        kernel: (&mut Builder, &mut Vec<Binding>),
        first: usize,
        output: &TensorType,
        sizes: [usize; 2],
        machine: &Machine,
    ) -> Option<Option<Joined<'a>>> {
        match fused {
            Some(fused) => Joined::declare(fused, kernel, first, output, sizes, machine).map(Some),
            None => Some(None),
        }
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
                // Divisors by which nothing else is done; see below.
                Read::Reciprocal(_) | Read::ChannelReciprocal(_) => return None,
            },
            Tree::Apply(op, inputs) if let Some([high, low]) = self.reciprocal(inputs, channel) => {
                let Op::Binary(BinaryOp::RoundedQuotient, last) = op else { return None };
                let mut dividend = self.part(inputs.first()?, sum, [at, channel], functions)?;
                if !matches!(dividend, Expression::Variable(_)) {
                    dividend = functions.name("dividend", dividend);
                }
                let quotient = mul_add(dividend.clone(), high, binary(Arithmetic::Mul, dividend, low));
                // Bounds are whole and small, so it is the same before as after.
                Expression::Unary(Function::RoundSmall, Box::new(activate(quotient, *last)))
            }
            Tree::Apply(op, inputs) => {
                let each = |input| self.part(input, sum, [at, channel], functions);
                let values = inputs.iter().map(each).collect::<Option<Vec<Expression>>>()?;
                apply(op, values, functions)?
            }
        })
    }

    /// Both parts of the reciprocal of what is divided by, if it is known in these.
    fn reciprocal(&self, inputs: &[Tree], channel: &Affine) -> Option<[Expression; 2]> {
        let [_, Tree::Operand(divisor)] = inputs else { return None };
        match self.reads.get(*divisor)? {
            Read::Reciprocal(parts) => Some(parts.map(Expression::Constant)),
            Read::ChannelReciprocal(parts) => Some(parts.map(|part| Expression::Load(part, channel.clone()))),
            Read::All(_) | Read::Same(_) | Read::Channel(_) => None,
        }
    }
}
