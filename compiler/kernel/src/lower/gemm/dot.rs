//! Matrix products in whole numbers, where weights have 8 bits and the target multiplies bytes by fours (`sdot`).
//!
//! Every row of A is rounded to whole numbers of 16 bits, multiples of a 32512th of its largest element: none is further
//! off than 2^-16 of that. Such a number is two digits of 8 bits, `256 * high + low`. The products of each digit with the
//! weights add up exactly, in 32 bits; both sums together, times the steps of row and column, are the result.

use super::pack::pack;
use super::product::{Place, Product, Tile, column_runs};
use crate::lower::build::{Builder, activate, binary, fetch_ahead, mul_add, plus, repeat, runs};
use crate::lower::products::{Factor, ProductKind, multiply};
use crate::lower::{Binding, LoweredNode, Machine, Operand};
use crate::{Access, Affine, Arithmetic, Buffer, Bytes, Expression, Function, LoopVar, Role, Statement, Variable};
use partita_config::WeightStorage;
use partita_ir::graph::storage::Columns;
use partita_ir::graph::{ElementType, Op};

/// Bytes of a vector, and of them in a lane.
const VECTOR: usize = 16;
const FOUR: usize = 4;

/// What the largest element of a row becomes: a high digit of 127, and nothing left over.
const LARGEST: f32 = 127.0 * BASE;
const BASE: f32 = 256.0;

/// A row that is next to nothing is divided by this.
const SMALLEST: f32 = 1e-30;

/// Deepest product whose sums of digits cannot overflow: 128 * 127 times that is below 2^31.
const DEEPEST: usize = 1 << 17;

/// Most rows and vectors of a tile: two sums each, two digits per row, and a pair of weights in 32 registers.
const TILES: [(usize, usize); 3] = [(1, 8), (2, 6), (3, 4)];

pub(super) fn applies(product: &Product, machine: &Machine) -> bool {
    let is_narrow = machine.weight_storage == WeightStorage::Int8;
    machine.byte_products() == Some(Bytes::Signed)
        && machine.dot_product
        && is_narrow
        && product.depth >= VECTOR
        && product.depth < DEEPEST
}

/// The kernel; `stored` are B's whole numbers and the steps of its columns.
pub(super) fn lower(
    op: &Op,
    product: &Product,
    inputs: &[Operand<'_>],
    stored: &Columns,
    machine: &Machine,
) -> Option<LoweredNode> {
    let lanes = machine.instruction_set.lanes() as usize;
    let vectors = product.columns.div_ceil(lanes);
    let (rows, wide) = TILES.into_iter().rfind(|(rows, _)| *rows <= product.rows)?;
    let tile = Tile { rows, vectors: wide.min(vectors) };
    let depth = product.depth.next_multiple_of(VECTOR);
    let mut builder = Builder::new(lanes as u32);
    let plain = |elements: usize| elements.next_multiple_of(lanes);
    let a = builder.buffer("a", Access::Input, plain(product.batch * product.rows * product.depth));
    let packed = pack(&stored.stored, product, tile, lanes, (depth, FOUR));
    let b = builder.stored_buffer("b", Access::Weights, packed.len(), ElementType::I8);
    let per_column = |row: &[f32]| {
        let mut row = row.to_vec();
        row.resize(vectors * lanes, 0.0);
        row
    };
    let mut bindings = vec![Binding::Input(0), Binding::Weights { from: 1, elements: packed }];
    let mut bias = None;
    if let (Op::Gemm(_), Some(c)) = (op, inputs.get(2)) {
        bias = Some(builder.buffer("bias", Access::Weights, vectors * lanes));
        bindings.push(Binding::Weights { from: 2, elements: per_column(c.value?) });
    }
    let steps = builder.buffer("steps", Access::Weights, vectors * lanes);
    bindings.push(Binding::Weights { from: 1, elements: per_column(&stored.steps) });
    let digit_bytes = product.rows * 2 * depth;
    let digits = builder.stored_buffer("digits", Access::Scratch, digit_bytes, ElementType::I8);
    let scales = builder.buffer("scales", Access::Scratch, product.rows * lanes);
    bindings.extend([Binding::Scratch(digit_bytes.div_ceil(4)), Binding::Scratch(product.rows * lanes)]);
    let y = builder.buffer("y", Access::Output, plain(product.batch * product.rows * product.columns));
    bindings.push(Binding::Output);
    let batch = builder.loop_over(Role::Batch, "batch");
    let in_order = machine.in_order;
    let ahead_bytes = product.ahead_bytes(vectors * lanes * depth, machine);
    let buffers = Buffers { a, b, bias, steps, digits, scales, y };
    let mut writer = DotWriter { builder, product, depth, lanes, buffers, batch, in_order, ahead_bytes };
    let mut body = vec![writer.rounded_rows()];
    for (first_vector, wide, tiles) in column_runs(product, lanes, tile.vectors) {
        let column = writer.builder.loop_over(Role::Channels, "column_tile");
        let mut rows = Vec::new();
        for (first_row, count, times) in runs(product.rows, tile.rows) {
            let row = writer.builder.loop_over(Role::Row, "row");
            let place = Place { row, column, first_row, first_vector, rows: count, vectors: wide };
            rows.push(repeat(row, count * times, count, writer.tile(place)));
        }
        body.push(repeat(column, tiles, 1, rows));
    }
    let body = vec![repeat(batch, product.batch, 1, body)];
    let words = ", weights in 8 bits, rows in 16, products in whole numbers";
    let kernel = product.kernel(writer.builder, "dot", tile, words, body);
    Some(LoweredNode { kernel, bindings, order: None })
}

struct Buffers {
    a: Buffer,
    b: Buffer,
    bias: Option<Buffer>,
    /// Of the columns.
    steps: Buffer,
    /// `[row][high, low][depth]`
    digits: Buffer,
    /// `[row][lane]`, the steps of the rows.
    scales: Buffer,
    y: Buffer,
}

struct DotWriter<'a> {
    builder: Builder,
    product: &'a Product,
    /// Of the product, in whole vectors.
    depth: usize,
    lanes: usize,
    buffers: Buffers,
    batch: LoopVar,
    in_order: bool,
    /// How far ahead `b` is fetched from memory, 0 if it is not.
    ahead_bytes: usize,
}

impl DotWriter<'_> {
    /// All rows of A as digits and steps.
    fn rounded_rows(&mut self) -> Statement {
        let (product, lanes) = (self.product, self.lanes);
        let row = self.builder.loop_var("rounded_row");
        let at = Affine::term(self.batch, (product.rows * product.depth) as i64);
        let at = plus(&at, row, product.depth);
        let (whole, rest) = (product.depth / lanes * lanes, product.depth % lanes);
        let last =
            (rest > 0).then(|| Expression::LoadPartial(self.buffers.a, at.clone().plus(whole as i64), rest as u32));

        let largest = self.builder.variable("largest");
        let mut statements = vec![Statement::Assign(largest, Expression::Constant(SMALLEST))];
        let larger = |value: Expression| {
            let size = Expression::Unary(Function::Abs, Box::new(value));
            Statement::Assign(largest, binary(Arithmetic::Max, size, Expression::Variable(largest)))
        };
        let k = self.builder.loop_var("k");
        let body = vec![larger(Expression::Load(self.buffers.a, plus(&at, k, 1)))];
        statements.push(repeat(k, whole, lanes, body));
        statements.extend(last.clone().map(larger));
        let all = Expression::MaxLanes(Box::new(Expression::Variable(largest)));
        statements.push(Statement::Assign(largest, all));
        let scale = binary(Arithmetic::Mul, Expression::Variable(largest), Expression::Constant(1.0 / LARGEST));
        statements.push(Statement::Store(self.buffers.scales, Affine::term(row, lanes as i64), scale));
        let inverse = binary(Arithmetic::Div, Expression::Constant(LARGEST), Expression::Variable(largest));
        let inverse = self.builder.assign("inverse", inverse, &mut statements);

        let to = Affine::term(row, (2 * self.depth) as i64);
        let k = self.builder.loop_var("k");
        let body = self.digits_of(Expression::Load(self.buffers.a, plus(&at, k, 1)), inverse, &plus(&to, k, 1));
        statements.push(repeat(k, whole, lanes, body));
        if let Some(last) = last {
            statements.extend(self.digits_of(last, inverse, &to.clone().plus(whole as i64)));
        }
        for zero in (product.depth.next_multiple_of(lanes)..self.depth).step_by(lanes) {
            for digit in [zero, self.depth + zero] {
                let at = to.clone().plus(digit as i64);
                statements.push(Statement::Store(self.buffers.digits, at, Expression::Constant(0.0)));
            }
        }
        repeat(row, product.rows, 1, statements)
    }

    /// Rounds a vector of elements and stores its digits.
    fn digits_of(&mut self, value: Expression, inverse: Variable, to: &Affine) -> Vec<Statement> {
        let round = |value: Expression| Expression::Unary(Function::Round, Box::new(value));
        let mut statements = Vec::new();
        let scaled = binary(Arithmetic::Mul, value, Expression::Variable(inverse));
        let number = self.builder.assign("number", round(scaled), &mut statements);
        let number = Expression::Variable(number);
        // Halves go up, so that the low digit is from -128 to 127.
        let up = Expression::Constant(0.5 / BASE);
        let high = round(mul_add(number.clone(), Expression::Constant(1.0 / BASE), up));
        let high = Expression::Variable(self.builder.assign("high", high, &mut statements));
        let low = mul_add(high.clone(), Expression::Constant(-BASE), number);
        statements.push(Statement::Store(self.buffers.digits, to.clone(), high));
        statements.push(Statement::Store(self.buffers.digits, to.clone().plus(self.depth as i64), low));
        statements
    }

    fn sum(&mut self, row: usize, digit: usize, vector: usize) -> Variable {
        self.builder.variable(&format!("acc_{}_{vector}", 2 * row + digit))
    }

    fn tile(&mut self, place: Place) -> Vec<Statement> {
        let mut statements = Vec::new();
        for row in 0..place.rows {
            for (digit, vector) in [0, 1].into_iter().flat_map(|digit| (0..place.vectors).map(move |v| (digit, v))) {
                let sum = self.sum(row, digit, vector);
                statements.push(Statement::Assign(sum, Expression::Whole(0)));
            }
        }
        let k = self.builder.loop_var("k");
        let per_vector = self.depth * self.lanes;
        let packed = Affine::constant((place.first_vector * per_vector) as i64);
        let packed = plus(&packed, place.column, place.vectors * per_vector);
        let packed = plus(&packed, k, place.vectors * self.lanes);
        let stored = (self.buffers.b, ElementType::I8);
        let elements = VECTOR * place.vectors * self.lanes;
        let mut body: Vec<Statement> = fetch_ahead(stored, self.ahead_bytes, &packed, elements).collect();
        let mut loaded = Vec::with_capacity(2 * place.rows);
        for digit in 0..2 * place.rows {
            let at = Affine::term(place.row, (2 * self.depth) as i64);
            let at = plus(&at, k, 1).plus(((2 * place.first_row + digit) * self.depth) as i64);
            let element =
                self.builder.assign(&format!("x_{digit}"), Expression::LoadBytes(self.buffers.digits, at), &mut body);
            loaded.push(element);
        }
        let factors = (0..VECTOR / FOUR).flat_map(|lane| (0..place.vectors).map(move |vector| (lane, vector)));
        let factors: Vec<Factor> = factors
            .map(|(lane, vector)| Factor {
                vector,
                at: packed.clone().plus(((lane * place.vectors + vector) * VECTOR) as i64),
                elements: loaded.iter().enumerate().map(|(digit, x)| (digit, *x, lane as u32)).collect(),
            })
            .collect();
        body.extend(multiply(&mut self.builder, (ProductKind::Bytes, self.buffers.b), &factors, self.in_order));
        statements.push(repeat(k, self.depth, VECTOR, body));
        statements.extend(self.store(place));
        statements
    }

    /// Both sums together, times the steps, plus the bias.
    fn store(&mut self, place: Place) -> Vec<Statement> {
        let (product, lanes) = (self.product, self.lanes);
        let whole = |sum: Variable| Expression::Unary(Function::FromWhole, Box::new(Expression::Variable(sum)));
        let mut statements = Vec::new();
        for row in 0..place.rows {
            let at = Affine::term(place.row, lanes as i64).plus(((place.first_row + row) * lanes) as i64);
            let scale = self.builder.assign("scale", Expression::Load(self.buffers.scales, at), &mut statements);
            for vector in 0..place.vectors {
                let column = Affine::term(place.column, (place.vectors * lanes) as i64);
                let column = column.plus(((place.first_vector + vector) * lanes) as i64);
                let [high, low] = [0, 1].map(|digit| self.sum(row, digit, vector));
                let number = mul_add(whole(high), Expression::Constant(BASE), whole(low));
                let scaled = binary(Arithmetic::Mul, number, Expression::Variable(scale));
                let step = Expression::Load(self.buffers.steps, column.clone());
                let value = match self.buffers.bias {
                    Some(bias) => mul_add(scaled, step, Expression::Load(bias, column.clone())),
                    None => binary(Arithmetic::Mul, scaled, step),
                };
                let value = Expression::Variable(self.builder.assign("sum", value, &mut statements));
                let at = Affine::term(self.batch, (product.rows * product.columns) as i64);
                let at = plus(&at, place.row, product.columns).plus_affine(&column, 1);
                let at = at.plus(((place.first_row + row) * product.columns) as i64);
                let value = activate(value, product.activation);
                let real = product.columns - (place.first_vector + vector) * lanes;
                statements.push(match real.min(lanes) {
                    real if real == lanes => Statement::Store(self.buffers.y, at, value),
                    real => Statement::StorePartial(self.buffers.y, at, real as u32, value),
                });
            }
        }
        statements
    }
}
