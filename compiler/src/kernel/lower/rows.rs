//! Softmax and layer normalisation over the last elements of plain tensors: one row after the other, read three times.

use super::build::{Builder, binary, mul_add, plus, repeat};
use super::functions::Functions;
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::graph::{Op, TensorType};
use crate::kernel::{Access, Affine, Arithmetic, Buffer, Expression, Function, LoopVar, Statement, Variable};
use crate::program::Layout;

/// Rows and their width, of operators that this file can do.
fn rows(op: &Op, inputs: &[Operand<'_>]) -> Option<(usize, usize)> {
    let shape = &inputs[0].tensor_type.shape;
    let axis = match op {
        Op::Softmax { axis } if *axis + 1 == shape.len() => *axis,
        Op::LayerNormalization { axis, .. } => {
            inputs.get(1)?.value?;
            inputs.get(2)?.value?;
            *axis
        }
        _ => return None,
    };
    let width = shape[axis..].iter().product::<usize>();
    (width > 0 && inputs[0].value.is_none()).then(|| (shape[..axis].iter().product(), width))
}

pub(super) fn layouts(op: &Op, inputs: &[Operand<'_>]) -> Vec<LayoutChoice> {
    match rows(op, inputs) {
        Some(_) => vec![LayoutChoice { inputs: vec![Layout::Plain; inputs.len()], output: Layout::Plain }],
        None => Vec::new(),
    }
}

pub(super) fn lower(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Option<LoweredNode> {
    let (count, width) = rows(op, inputs)?;
    let lanes = machine.instruction_set.lanes() as usize;
    let mut builder = Builder::new(lanes as u32);
    let elements = output.element_count().next_multiple_of(lanes);
    let x = builder.buffer("x", Access::Input, elements);
    let mut bindings = vec![Binding::Input(0)];
    let row = builder.loop_var("row");
    let mut writer = Writer { builder, lanes, width, x, row };
    let (name, words, body) = match op {
        Op::Softmax { .. } => {
            let padded = width.next_multiple_of(lanes);
            let scratch = writer.builder.buffer("scratch", Access::Scratch, padded);
            let y = writer.builder.buffer("y", Access::Output, elements);
            bindings.push(Binding::Scratch(padded));
            ("softmax", "softmax", writer.softmax(scratch, y))
        }
        Op::LayerNormalization { epsilon, .. } => {
            let mut packed = |name: &str, from: usize| {
                let mut elements = inputs[from].value?.to_vec();
                elements.resize(width.next_multiple_of(lanes), 0.0);
                let buffer = writer.builder.buffer(name, Access::Weights, elements.len());
                bindings.push(Binding::Weights { from, elements });
                Some(buffer)
            };
            let (scale, bias) = (packed("scale", 1)?, packed("bias", 2)?);
            let y = writer.builder.buffer("y", Access::Output, elements);
            ("layer_normalization", "layer normalisation", writer.layer_normalization(scale, bias, y, *epsilon))
        }
        _ => return None,
    };
    bindings.push(Binding::Output);
    let body = vec![repeat(row, count, 1, body)];
    let summary = format!("{words} of {count} rows of {width}");
    let mut kernel = writer.builder.finish(format!("{name}_{count}x{width}"), summary, body, 0);
    // Each row is read before it is written, vector by vector.
    kernel.in_place = vec![x];
    Some(LoweredNode { kernel, bindings, order: None })
}

struct Writer {
    builder: Builder,
    lanes: usize,
    width: usize,
    x: Buffer,
    row: LoopVar,
}

/// One vector of a row.
#[derive(Clone, Copy)]
enum Piece {
    /// A whole vector, counted by a loop.
    Whole(LoopVar),
    /// The last elements, fewer than a vector.
    Tail,
}

impl Writer {
    /// Elements after the last whole vector.
    fn tail(&self) -> usize {
        self.width % self.lanes
    }

    /// A body for every vector of a row.
    fn vectors(&mut self, mut body: impl FnMut(&mut Writer, Piece) -> Vec<Statement>) -> Vec<Statement> {
        let mut statements = Vec::new();
        let whole = self.width / self.lanes;
        if whole > 0 {
            let vector = self.builder.loop_var("vector");
            let inside = body(self, Piece::Whole(vector));
            statements.push(repeat(vector, whole, 1, inside));
        }
        if self.tail() > 0 {
            statements.extend(body(self, Piece::Tail));
        }
        statements
    }

    /// Element of a row's vector, in a buffer whose rows are this many elements apart; 0 for one that all rows share.
    fn place(&self, piece: Piece, row: usize) -> Affine {
        let at = plus(&Affine::constant(0), self.row, row);
        match piece {
            Piece::Whole(vector) => plus(&at, vector, self.lanes),
            Piece::Tail => at.plus((self.width / self.lanes * self.lanes) as i64),
        }
    }

    /// Zero past the row's end.
    fn load(&self, buffer: Buffer, piece: Piece, row: usize) -> Expression {
        let at = self.place(piece, row);
        match piece {
            Piece::Whole(_) => Expression::Load(buffer, at),
            Piece::Tail => Expression::LoadPartial(buffer, at, self.tail() as u32),
        }
    }

    fn store(&self, buffer: Buffer, piece: Piece, row: usize, value: Expression) -> Statement {
        let at = self.place(piece, row);
        match piece {
            Piece::Whole(_) => Statement::Store(buffer, at, value),
            Piece::Tail => Statement::StorePartial(buffer, at, self.tail() as u32, value),
        }
    }

    fn softmax(&mut self, scratch: Buffer, y: Buffer) -> Vec<Statement> {
        let (x, width) = (self.x, self.width);
        let (largest, sum) = (self.builder.variable("largest"), self.builder.variable("sum"));
        let read = |variable: Variable| Expression::Variable(variable);
        let lowest = Expression::Constant(f32::NEG_INFINITY);
        let mut body = vec![Statement::Assign(largest, lowest.clone())];
        body.extend(self.vectors(|this, piece| {
            let mut statements = Vec::new();
            let value = match piece {
                Piece::Whole(_) => this.load(x, piece, width),
                // What is past the end must not be the largest.
                Piece::Tail => {
                    let at = this.place(piece, 0);
                    statements.push(Statement::Store(scratch, at.clone(), lowest.clone()));
                    statements.push(this.store(scratch, piece, 0, this.load(x, piece, width)));
                    Expression::Load(scratch, at)
                }
            };
            statements.push(Statement::Assign(largest, binary(Arithmetic::Max, read(largest), value)));
            statements
        }));
        body.push(Statement::Assign(largest, Expression::MaxLanes(Box::new(read(largest)))));
        body.push(Statement::Assign(sum, Expression::Constant(0.0)));
        body.extend(self.vectors(|this, piece| {
            let mut statements = Vec::new();
            let x = binary(Arithmetic::Sub, this.load(x, piece, width), read(largest));
            let mut functions = Functions { builder: &mut this.builder, statements: &mut statements };
            let x = functions.name("shifted", x);
            let value = functions.exp(x);
            let value = functions.name("exponential", value);
            statements.push(this.store(scratch, piece, 0, value.clone()));
            let counted = match piece {
                Piece::Whole(_) => value,
                Piece::Tail => this.load(scratch, piece, 0),
            };
            statements.push(Statement::Assign(sum, binary(Arithmetic::Add, read(sum), counted)));
            statements
        }));
        let total = Expression::SumLanes(Box::new(read(sum)));
        body.push(Statement::Assign(sum, binary(Arithmetic::Div, Expression::Constant(1.0), total)));
        body.extend(self.vectors(|this, piece| {
            let value = binary(Arithmetic::Mul, this.load(scratch, piece, 0), read(sum));
            vec![this.store(y, piece, width, value)]
        }));
        body
    }

    fn layer_normalization(&mut self, scale: Buffer, bias: Buffer, y: Buffer, epsilon: f32) -> Vec<Statement> {
        let (x, width) = (self.x, self.width);
        let (mean, factor) = (self.builder.variable("mean"), self.builder.variable("factor"));
        let read = |variable: Variable| Expression::Variable(variable);
        let share = Expression::Constant(1.0 / width as f32);
        let mut body = vec![Statement::Assign(mean, Expression::Constant(0.0))];
        body.extend(self.vectors(|this, piece| {
            vec![Statement::Assign(mean, binary(Arithmetic::Add, read(mean), this.load(x, piece, width)))]
        }));
        let sum = Expression::SumLanes(Box::new(read(mean)));
        body.push(Statement::Assign(mean, binary(Arithmetic::Mul, sum, share.clone())));
        body.push(Statement::Assign(factor, Expression::Constant(0.0)));
        let difference = self.builder.variable("difference");
        body.extend(self.vectors(|this, piece| {
            let value = binary(Arithmetic::Sub, this.load(x, piece, width), read(mean));
            let mut statements = vec![Statement::Assign(difference, value)];
            let square = mul_add(read(difference), read(difference), read(factor));
            statements.push(Statement::Assign(factor, square));
            statements
        }));
        // Each lane past the end has added the square of the mean.
        let squares = Expression::SumLanes(Box::new(read(factor)));
        let past = match self.tail() {
            0 => 0.0,
            tail => -((self.lanes - tail) as f32),
        };
        let square = binary(Arithmetic::Mul, read(mean), read(mean));
        let squares = if past == 0.0 { squares } else { mul_add(square, Expression::Constant(past), squares) };
        let variance = mul_add(squares, share, Expression::Constant(epsilon));
        let root = Expression::Unary(Function::Sqrt, Box::new(variance));
        body.push(Statement::Assign(factor, binary(Arithmetic::Div, Expression::Constant(1.0), root)));
        body.extend(self.vectors(|this, piece| {
            let centred = binary(Arithmetic::Sub, this.load(x, piece, width), read(mean));
            let normal = binary(Arithmetic::Mul, centred, read(factor));
            let at = this.place(piece, 0);
            let parameter = |buffer: Buffer| Expression::Load(buffer, at.clone());
            vec![this.store(y, piece, width, mul_add(normal, parameter(scale), parameter(bias)))]
        }));
        body
    }
}
