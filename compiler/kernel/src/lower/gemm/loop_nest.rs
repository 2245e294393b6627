//! What a tile of a product does: sums from the bias or zero, their terms, and what is stored.

use std::ops::Range;

use super::plan::Plan;
use super::product::{BYTES, Place, Product, column_runs};
use crate::lower::build::{Builder, activate, binary, fetch_ahead, mul_add, plus, repeat, runs};
use crate::lower::bytes::WholeSums;
use crate::lower::functions::Functions;
use crate::lower::fused::Joined;
use crate::lower::products::by_lane;
use crate::{Affine, Arithmetic, Bound, Buffer, Expression, Function, LoopVar, Role, Statement, Variable};

/// Terms of such a block; a multiple of all vectors.
const BLOCK: usize = 1024;

/// What a product reads, and where sums of blocks lie.
pub(super) struct Buffers {
    pub(super) a: Buffer,
    pub(super) b: Buffer,
    /// B lies in the order in which it is read.
    pub(super) is_packed: bool,
    pub(super) bias: Option<Buffer>,
    /// By what each column is multiplied, after the sum and before the bias.
    pub(super) steps: Option<Buffer>,
    /// Where the sums of the blocks before lie, of deep products.
    pub(super) sums: Option<Buffer>,
}

/// Writes the loop nest.
pub(super) struct GemmWriter<'a> {
    pub(super) builder: Builder,
    pub(super) plan: &'a Plan,
    pub(super) product: &'a Product,
    pub(super) lanes: usize,
    pub(super) buffers: Buffers,
    pub(super) y: Buffer,
    /// What is done to sums before they are stored.
    pub(super) behind: Option<&'a Joined<'a>>,
    /// Rows of `a` are loaded as vectors and multiplied by lane.
    pub(super) by_lane: bool,
    /// Loads stand between the multiplications.
    pub(super) in_order: bool,
    /// How far ahead `b` is fetched from memory, 0 if it is not.
    pub(super) ahead_bytes: usize,
    pub(super) batch: LoopVar,
}

impl GemmWriter<'_> {
    /// All of it.
    pub(super) fn body(&mut self) -> Vec<Statement> {
        let (product, tile) = (self.product, self.plan.tile);
        let mut body = Vec::new();
        for (first_vector, wide, tiles) in column_runs(product, self.lanes, tile.vectors) {
            let column = self.builder.loop_over(Role::Channels, "column_tile");
            let mut rows = Vec::new();
            for (first_row, count, times) in runs(product.rows, tile.rows) {
                let row = self.builder.loop_over(Role::Row, "row");
                let statements = self.tile(Place { row, column, first_row, first_vector, rows: count, vectors: wide });
                rows.push(repeat(row, count * times, count, statements));
            }
            body.push(repeat(column, tiles, 1, rows));
        }
        vec![repeat(self.batch, product.batch, 1, body)]
    }

    /// Lanes of a vector that are real columns.
    fn lanes_of(&self, place: Place, vector: usize) -> usize {
        (self.product.columns - (place.first_vector + vector) * self.lanes).min(self.lanes)
    }

    fn tile(&mut self, place: Place) -> Vec<Statement> {
        let mut statements = Vec::new();
        for vector in 0..place.vectors {
            let start = match self.buffers.bias.filter(|_| self.buffers.steps.is_none()) {
                Some(bias) => Expression::Load(bias, self.column_at(place, vector)),
                None => Expression::Constant(0.0),
            };
            for row in 0..place.rows {
                let sum = self.builder.variable(&format!("acc_{row}_{vector}"));
                statements.push(Statement::Assign(sum, start.clone()));
            }
        }
        let depth = self.product.depth;
        match self.buffers.sums {
            None => statements.extend(self.terms(place, &Affine::constant(0), depth)),
            Some(sums) => {
                let variables: Vec<Variable> = (0..place.rows)
                    .flat_map(|row| (0..place.vectors).map(move |vector| format!("acc_{row}_{vector}")))
                    .map(|name| self.builder.variable(&name))
                    .collect();
                let lanes = self.lanes;
                let keep = |(index, sum): (usize, &Variable)| {
                    Statement::Store(sums, Affine::constant((index * lanes) as i64), Expression::Variable(*sum))
                };
                let zero = |sum: &Variable| Statement::Assign(*sum, Expression::Constant(0.0));
                let add = |(index, sum): (usize, &Variable)| {
                    let kept = Expression::Load(sums, Affine::constant((index * lanes) as i64));
                    Statement::Assign(*sum, binary(Arithmetic::Add, Expression::Variable(*sum), kept))
                };
                statements.extend(variables.iter().enumerate().map(keep));
                let block = self.builder.loop_var("depth_block");
                let mut body: Vec<Statement> = variables.iter().map(zero).collect();
                body.extend(self.terms(place, &Affine::term(block, BLOCK as i64), BLOCK));
                body.extend(variables.iter().enumerate().map(add));
                body.extend(variables.iter().enumerate().map(keep));
                statements.push(repeat(block, depth / BLOCK, 1, body));
                statements.extend(variables.iter().map(zero));
                let rest = Affine::constant((depth / BLOCK * BLOCK) as i64);
                statements.extend(self.terms(place, &rest, depth % BLOCK));
                statements.extend(variables.iter().enumerate().map(add));
            }
        }
        statements.extend(self.store(place));
        statements
    }

    /// Adds so many products, from a place in the depth on.
    fn terms(&mut self, place: Place, first: &Affine, count: usize) -> Vec<Statement> {
        let mut statements = Vec::new();
        // Whole vectors of a row, then what is left.
        let in_vectors = if self.by_lane && self.buffers.is_packed { count / self.lanes * self.lanes } else { 0 };
        if in_vectors > 0 {
            let depth = self.builder.loop_var("k");
            let body = self.by_lane(place, &plus(first, depth, 1));
            statements.push(repeat(depth, in_vectors, self.lanes, body));
        }
        if let Some(whole) = &self.plan.whole {
            statements.push(self.of_bytes(whole, place, count));
        } else if in_vectors < count {
            statements.push(self.by_broadcast(place, first, in_vectors..count));
        }
        statements
    }

    /// Element of a vector of columns, in what there is one of per column.
    fn column_at(&self, place: Place, vector: usize) -> Affine {
        let at = Affine::term(place.column, (place.vectors * self.lanes) as i64);
        at.plus(((place.first_vector + vector) * self.lanes) as i64)
    }

    /// Element `depth` of a row of `a`.
    fn row_at(&self, place: Place, row: usize, depth: &Affine) -> Affine {
        let at = Affine::term(self.batch, (self.product.rows * self.product.depth) as i64).plus_affine(depth, 1);
        plus(&at, place.row, self.product.depth).plus(((place.first_row + row) * self.product.depth) as i64)
    }

    /// One vector of every row of `a`, lane by lane.
    fn by_lane(&mut self, place: Place, depth: &Affine) -> Vec<Statement> {
        let rows: Vec<(usize, Affine)> = (0..place.rows).map(|row| (row, self.row_at(place, row, depth))).collect();
        let first = self.packed_at(place, depth);
        let packed: Vec<Affine> =
            (0..self.lanes).map(|lane| first.clone().plus((lane * place.vectors * self.lanes) as i64)).collect();
        let (a, b) = ((self.buffers.a, &rows[..]), (self.buffers.b, &packed[..], place.vectors));
        let mut statements = self.fetch(place, &first, self.lanes);
        statements.extend(by_lane(&mut self.builder, a, b, self.lanes, self.in_order));
        statements
    }

    /// Asks for what so many rows of a tile of packed columns will be, further on.
    fn fetch(&self, place: Place, first: &Affine, rows: usize) -> Vec<Statement> {
        let elements = rows * place.vectors * self.lanes;
        fetch_ahead((self.buffers.b, self.plan.storage), self.ahead_bytes, first, elements).collect()
    }

    /// The rows' elements in a range, counted from a place in the depth, one by one.
    fn by_broadcast(&mut self, place: Place, first: &Affine, range: Range<usize>) -> Statement {
        let var = self.builder.loop_var("k");
        let depth = &plus(first, var, 1);
        let mut body = self.fetch(place, &self.packed_at(place, depth), 1);
        for vector in 0..place.vectors {
            let weight = self.builder.variable(&format!("b_{vector}"));
            body.push(Statement::Assign(weight, self.load_b(place, depth, vector)));
        }
        for row in 0..place.rows {
            let element = self.builder.variable("a_all");
            body.push(Statement::Assign(
                element,
                Expression::Broadcast(self.buffers.a, self.row_at(place, row, depth)),
            ));
            for vector in 0..place.vectors {
                let sum = self.builder.variable(&format!("acc_{row}_{vector}"));
                let weight = self.builder.variable(&format!("b_{vector}"));
                let value =
                    mul_add(Expression::Variable(element), Expression::Variable(weight), Expression::Variable(sum));
                body.push(Statement::Assign(sum, value));
            }
        }
        let (low, high) = (Bound::Constant(range.start as i64), Bound::Constant(range.end as i64));
        Statement::For { var, low, high, step: 1, unroll: false, body }
    }

    /// All elements of the rows in whole numbers, four at a time.
    fn of_bytes(&mut self, whole: &WholeSums, place: Place, depth: usize) -> Statement {
        let var = self.builder.loop_var("k");
        let at = Affine::term(var, 1);
        let mut body = self.fetch(place, &self.packed_at(place, &at), BYTES);
        for vector in 0..place.vectors {
            let packed = self.packed_at(place, &at).plus((vector * self.lanes * BYTES) as i64);
            self.builder.assign(&format!("b_{vector}"), Expression::LoadBytes(self.buffers.b, packed), &mut body);
        }
        for row in 0..place.rows {
            let four = Expression::BroadcastBytes(self.buffers.a, self.row_at(place, row, &at));
            let element = self.builder.assign("a_all", four, &mut body);
            for vector in 0..place.vectors {
                let [sum, weight] =
                    [format!("acc_{row}_{vector}"), format!("b_{vector}")].map(|name| self.builder.variable(&name));
                let [element, weight, before] = [element, weight, sum].map(|part| Box::new(Expression::Variable(part)));
                body.push(Statement::Assign(sum, Expression::DotBytes(whole.first, element, weight, before)));
            }
        }
        repeat(var, depth.next_multiple_of(BYTES), BYTES, body)
    }

    /// Element `depth` of the first vector of a tile of packed columns.
    fn packed_at(&self, place: Place, depth: &Affine) -> Affine {
        let per_vector = self.plan.depth() * self.lanes;
        let at = Affine::constant((place.first_vector * per_vector) as i64);
        let at = plus(&at, place.column, place.vectors * per_vector);
        at.plus_affine(depth, (place.vectors * self.lanes) as i64)
    }

    fn load_b(&self, place: Place, depth: &Affine, vector: usize) -> Expression {
        if self.buffers.is_packed {
            return Expression::Load(self.buffers.b, self.packed_at(place, depth).plus((vector * self.lanes) as i64));
        }
        let batch = if self.product.shared_b { 0 } else { self.product.depth * self.product.columns };
        let at = Affine::term(self.batch, batch as i64).plus_affine(depth, self.product.columns as i64);
        let at = plus(&at, place.column, place.vectors * self.lanes);
        let at = at.plus(((place.first_vector + vector) * self.lanes) as i64);
        match self.lanes_of(place, vector) {
            lanes if lanes == self.lanes => Expression::Load(self.buffers.b, at),
            lanes => Expression::LoadPartial(self.buffers.b, at, lanes as u32),
        }
    }

    fn store(&mut self, place: Place) -> Vec<Statement> {
        let mut statements = Vec::new();
        for row in 0..place.rows {
            for vector in 0..place.vectors {
                let at = Affine::term(self.batch, (self.product.rows * self.product.columns) as i64);
                let at = plus(&at, place.row, self.product.columns);
                let at = plus(&at, place.column, place.vectors * self.lanes);
                let first = (place.first_row + row) * self.product.columns + (place.first_vector + vector) * self.lanes;
                let at = at.plus(first as i64);
                let mut sum = self.builder.variable(&format!("acc_{row}_{vector}"));
                if self.plan.whole.is_some() {
                    let number = Expression::Unary(Function::FromWhole, Box::new(Expression::Variable(sum)));
                    sum = self.builder.assign("sum", number, &mut statements);
                }
                if let Some(steps) = self.buffers.steps {
                    let step = Expression::Load(steps, self.column_at(place, vector));
                    let bias = self.buffers.bias.map(|bias| Expression::Load(bias, self.column_at(place, vector)));
                    let value = mul_add(Expression::Variable(sum), step, bias.unwrap_or(Expression::Constant(0.0)));
                    statements.push(Statement::Assign(sum, value));
                }
                let mut value = activate(Expression::Variable(sum), self.product.activation);
                if let Some(joined) = self.behind {
                    let column = self.column_at(place, vector);
                    let mut functions = Functions { builder: &mut self.builder, statements: &mut statements };
                    let fused = joined.value(&value, [&column, &column], &mut functions);
                    // A tree of operators that are done on vectors has a value.
                    value = fused.unwrap_or(value);
                }
                statements.push(match self.lanes_of(place, vector) {
                    lanes if lanes == self.lanes => Statement::Store(self.y, at, value),
                    lanes => Statement::StorePartial(self.y, at, lanes as u32, value),
                });
            }
        }
        statements
    }
}
