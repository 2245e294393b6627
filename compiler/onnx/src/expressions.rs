//! Values that converters compute with, without names in the file.

use super::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, UnaryOp};
use partita_ir::graph::{Data, TensorId, Value};

impl NodeContext<'_> {
    /// The only result of an operator, without a name in the file.
    pub fn value(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId, Diagnostic> {
        Ok(self.emit_unnamed(op, inputs.to_vec())?[0])
    }

    /// A function of every element.
    pub fn unary(&mut self, function: UnaryOp, x: TensorId) -> Result<TensorId, Diagnostic> {
        self.value(Op::Unary(function), &[x])
    }

    /// A function of two tensors' elements.
    pub fn binary(&mut self, function: BinaryOp, a: TensorId, b: TensorId) -> Result<TensorId, Diagnostic> {
        self.value(Op::Binary(function, Activation::None), &[a, b])
    }

    /// A scalar of the element type that `like` has.
    pub fn number(&mut self, number: f64, like: TensorId) -> Result<TensorId, Diagnostic> {
        let number = Data::F64(vec![number]).cast(self.promised(like));
        let scalar = Value { shape: Vec::new(), data: number };
        self.add_constant("number", scalar)
    }
}

/// A part of one axis.
pub fn part(shape: &[usize], axis: usize, start: usize, size: usize) -> Op {
    let mut starts = vec![0; shape.len()];
    let mut sizes = shape.to_vec();
    (starts[axis], sizes[axis]) = (start, size);
    Op::Slice { starts, steps: vec![1; shape.len()], sizes }
}
