//! Softmax and layer normalisation over the last elements of plain tensors: one row after the other, read three times.
//! Sums along a row are added in blocks.

use super::build::{Builder, add_in_blocks, binary, mul_add, plus, repeat};
use super::functions::Functions;
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Affine, Arithmetic, Buffer, Expression, Function, LoopVar, Role, Statement, Variable};
use partita_ir::graph::{Op, TensorType};

/// Rows and their width, of operators that this file can do.
fn rows(op: &Op, inputs: &[Operand<'_>]) -> Option<(usize, usize)> {
    let shape = &inputs[0].tensor_type.shape;
    let axis = if let Op::LayerNormalization { axis, .. } = op {
        inputs.get(1)?.value?;
        inputs.get(2)?.value?;
        *axis
    } else {
        let Op::Softmax { axis } = op else { return None };
        Some(*axis).filter(|axis| axis + 1 == shape.len())?
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
    let row = Row { lanes, width, x, row: builder.loop_over(Role::Row, "row") };
    let (name, words, body) = if let Op::LayerNormalization { epsilon, .. } = op {
        let mut packed = |name: &str, from: usize| {
            let mut elements = inputs[from].value?.to_vec();
            elements.resize(width.next_multiple_of(lanes), 0.0);
            let buffer = builder.buffer(name, Access::Weights, elements.len());
            bindings.push(Binding::Weights { from, elements });
            Some(buffer)
        };
        let (scale, bias) = (packed("scale", 1)?, packed("bias", 2)?);
        // Where the mean of a row's last elements lies, if they are fewer than a vector.
        let scratch = (row.tail() > 0).then(|| builder.buffer("scratch", Access::Scratch, lanes));
        bindings.extend(scratch.map(|_| Binding::Scratch(lanes)));
        let y = builder.buffer("y", Access::Output, elements);
        let body = row.layer_normalization(&mut builder, [scale, bias], scratch, y, *epsilon);
        ("layer_normalization", "layer normalisation", body)
    } else {
        let padded = width.next_multiple_of(lanes);
        let scratch = builder.buffer("scratch", Access::Scratch, padded);
        let y = builder.buffer("y", Access::Output, elements);
        bindings.push(Binding::Scratch(padded));
        ("softmax", "softmax", row.softmax(&mut builder, scratch, y))
    };
    bindings.push(Binding::Output);
    let body = vec![repeat(row.row, count, 1, body)];
    let summary = format!("{words} of {count} rows of {width}");
    let mut kernel = builder.finish(format!("{name}_{count}x{width}"), summary, body, 0);
    // Each row is read before it is written, vector by vector.
    kernel.in_place = vec![x];
    Some(LoweredNode { kernel, bindings, order: None })
}

/// A row of elements.
#[derive(Clone, Copy)]
struct Row {
    lanes: usize,
    width: usize,
    x: Buffer,
    row: LoopVar,
}

/// One vector of a row.
#[derive(Clone)]
enum Piece {
    /// A whole vector, of this number.
    Whole(Affine),
    /// The last elements, fewer than a vector.
    Tail,
}

fn read(variable: Variable) -> Expression {
    Expression::Variable(variable)
}

impl Row {
    /// Elements after the last whole vector.
    fn tail(&self) -> usize {
        self.width % self.lanes
    }

    /// A body for every vector of the row.
    fn vectors(
        &self,
        builder: &mut Builder,
        mut body: impl FnMut(&mut Builder, &Piece) -> Vec<Statement>,
    ) -> Vec<Statement> {
        let mut statements = Vec::new();
        let whole = self.width / self.lanes;
        if whole > 0 {
            let vector = builder.loop_over(Role::Vector, "vector");
            let inside = body(builder, &Piece::Whole(Affine::term(vector, 1)));
            statements.push(repeat(vector, whole, 1, inside));
        }
        if self.tail() > 0 {
            statements.extend(body(builder, &Piece::Tail));
        }
        statements
    }

    /// The same for a body that adds to variables, which are 0 at first and have the sums of all lanes in the end.
    fn sums(
        &self,
        builder: &mut Builder,
        sums: &[Variable],
        mut body: impl FnMut(&mut Builder, &Piece, &[Variable]) -> Vec<Statement>,
    ) -> Vec<Statement> {
        let mut statements: Vec<Statement> =
            sums.iter().map(|sum| Statement::Assign(*sum, Expression::Constant(0.0))).collect();
        let whole = self.width / self.lanes;
        if whole > 0 {
            let mut inside =
                |builder: &mut Builder, at: &Affine, sums: &[Variable]| body(builder, &Piece::Whole(at.clone()), sums);
            statements.extend(add_in_blocks(builder, whole, sums, &mut inside));
        }
        if self.tail() > 0 {
            statements.extend(body(builder, &Piece::Tail, sums));
        }
        statements.extend(sums.iter().map(|sum| Statement::Assign(*sum, Expression::SumLanes(Box::new(read(*sum))))));
        statements
    }

    /// Element of a row's vector, in a buffer whose rows are this many elements apart; 0 for one that all rows share.
    fn place(&self, piece: &Piece, row: usize) -> Affine {
        let at = plus(&Affine::constant(0), self.row, row);
        match piece {
            Piece::Whole(vector) => at.plus_affine(vector, self.lanes as i64),
            Piece::Tail => at.plus((self.width / self.lanes * self.lanes) as i64),
        }
    }

    /// Zero past the row's end.
    fn load(&self, buffer: Buffer, piece: &Piece, row: usize) -> Expression {
        let at = self.place(piece, row);
        match piece {
            Piece::Whole(_) => Expression::Load(buffer, at),
            Piece::Tail => Expression::LoadPartial(buffer, at, self.tail() as u32),
        }
    }

    fn store(&self, buffer: Buffer, piece: &Piece, row: usize, value: Expression) -> Statement {
        let at = self.place(piece, row);
        match piece {
            Piece::Whole(_) => Statement::Store(buffer, at, value),
            Piece::Tail => Statement::StorePartial(buffer, at, self.tail() as u32, value),
        }
    }

    fn softmax(&self, builder: &mut Builder, scratch: Buffer, y: Buffer) -> Vec<Statement> {
        let (x, width) = (self.x, self.width);
        let (largest, sum) = (builder.variable("largest"), builder.variable("sum"));
        let lowest = Expression::Constant(f32::NEG_INFINITY);
        let mut body = vec![Statement::Assign(largest, lowest.clone())];
        body.extend(self.vectors(builder, |_, piece| {
            let mut statements = Vec::new();
            let value = match piece {
                Piece::Whole(_) => self.load(x, piece, width),
                // What is past the end must not be the largest.
                Piece::Tail => {
                    let at = self.place(piece, 0);
                    statements.push(Statement::Store(scratch, at.clone(), lowest.clone()));
                    statements.push(self.store(scratch, piece, 0, self.load(x, piece, width)));
                    Expression::Load(scratch, at)
                }
            };
            statements.push(Statement::Assign(largest, binary(Arithmetic::Max, value, read(largest))));
            statements
        }));
        body.push(Statement::Assign(largest, Expression::MaxLanes(Box::new(read(largest)))));
        body.extend(self.sums(builder, &[sum], |builder, piece, sums| {
            let mut statements = Vec::new();
            let x = binary(Arithmetic::Sub, self.load(x, piece, width), read(largest));
            let mut functions = Functions { builder, statements: &mut statements };
            let x = functions.name("shifted", x);
            let value = functions.exp(x);
            let value = functions.name("exponential", value);
            statements.push(self.store(scratch, piece, 0, value.clone()));
            let counted = match piece {
                Piece::Whole(_) => value,
                Piece::Tail => self.load(scratch, piece, 0),
            };
            statements.push(Statement::Assign(sums[0], binary(Arithmetic::Add, read(sums[0]), counted)));
            statements
        }));
        body.push(Statement::Assign(sum, binary(Arithmetic::Div, Expression::Constant(1.0), read(sum))));
        body.extend(self.vectors(builder, |_, piece| {
            let value = binary(Arithmetic::Mul, self.load(scratch, piece, 0), read(sum));
            vec![self.store(y, piece, width, value)]
        }));
        body
    }

    /// The mean is rounded, so elements around 1000 that differ by little do not differ from it by 0 in the mean: what the
    /// differences come to is taken off as well, and their variance is that about their own mean.
    fn layer_normalization(
        &self,
        builder: &mut Builder,
        [scale, bias]: [Buffer; 2],
        scratch: Option<Buffer>,
        y: Buffer,
        epsilon: f32,
    ) -> Vec<Statement> {
        let (x, width) = (self.x, self.width);
        let [mean, rest, factor] = ["mean", "rest", "factor"].map(|name| builder.variable(name));
        let share = Expression::Constant(1.0 / width as f32);
        let mut body = self.sums(builder, &[mean], |_, piece, sums| {
            vec![Statement::Assign(sums[0], binary(Arithmetic::Add, read(sums[0]), self.load(x, piece, width)))]
        });
        body.push(Statement::Assign(mean, binary(Arithmetic::Mul, read(mean), share.clone())));
        let difference = builder.variable("difference");
        body.extend(self.sums(builder, &[rest, factor], |_, piece, sums| {
            let mut statements = Vec::new();
            // Past the row's end is no difference: what is loaded there is 0, so the mean must be, too.
            let own_mean = match (piece, scratch) {
                (Piece::Tail, Some(scratch)) => {
                    statements.push(Statement::Store(scratch, Affine::constant(0), read(mean)));
                    Expression::LoadPartial(scratch, Affine::constant(0), self.tail() as u32)
                }
                _ => read(mean),
            };
            let value = binary(Arithmetic::Sub, self.load(x, piece, width), own_mean);
            statements.push(Statement::Assign(difference, value));
            let sum = binary(Arithmetic::Add, read(sums[0]), read(difference));
            statements.push(Statement::Assign(sums[0], sum));
            let square = mul_add(read(difference), read(difference), read(sums[1]));
            statements.push(Statement::Assign(sums[1], square));
            statements
        }));
        body.push(Statement::Assign(rest, binary(Arithmetic::Mul, read(rest), share.clone())));
        body.push(Statement::Assign(factor, binary(Arithmetic::Mul, read(factor), share)));
        let square = binary(Arithmetic::Mul, read(rest), read(rest));
        let variance = binary(Arithmetic::Sub, read(factor), square);
        let variance = binary(Arithmetic::Max, Expression::Constant(0.0), variance);
        let variance = binary(Arithmetic::Add, variance, Expression::Constant(epsilon));
        let root = Expression::Unary(Function::Sqrt, Box::new(variance));
        body.push(Statement::Assign(factor, binary(Arithmetic::Div, Expression::Constant(1.0), root)));
        body.extend(self.vectors(builder, |_, piece| {
            let centred = binary(Arithmetic::Sub, self.load(x, piece, width), read(mean));
            let centred = binary(Arithmetic::Sub, centred, read(rest));
            let normal = binary(Arithmetic::Mul, centred, read(factor));
            let at = self.place(piece, 0);
            let parameter = |buffer: Buffer| Expression::Load(buffer, at.clone());
            vec![self.store(y, piece, width, mul_add(normal, parameter(scale), parameter(bias)))]
        }));
        body
    }
}
