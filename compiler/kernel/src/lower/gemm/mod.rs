//! Matrix products on plain tensors: rows of A broadcast or multiplied lane by lane, vectors of B's columns.
//!
//! A constant B is packed `[column tile][depth][vector][lane]`, so it streams once per row tile (once in all for a single
//! row). An activation as B is read where it lies.

mod dot;
mod pack;

use std::ops::Range;

use super::build::{Builder, activate, binary, fetch_ahead, mul_add, plus, repeat, runs};
use super::bytes::WholeSums;
use super::functions::Functions;
use super::fused::{Fused, Joined};
use super::products::by_lane;
use super::tile::{FAR_BYTES_PER_CYCLE, Reading, Row, choose_tile};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{
    Access, Affine, Arithmetic, Bound, Buffer, Expression, Function, Kernel, LoopVar, Role, Statement, Variable,
};
use pack::pack;
use partita_ir::graph::op::Activation;
use partita_ir::graph::storage;
use partita_ir::graph::{ElementType, Op, TensorType};

/// Deeper products are summed in blocks, whose sums are added in memory.
const DEEP: usize = 4096;

/// Elements of a row that are multiplied at once in whole numbers.
const BYTES: usize = 4;

/// Terms of such a block; a multiple of all vectors.
const BLOCK: usize = 1024;

/// A product as rows, depth, columns, and how often it is done on other matrices.
struct Product {
    batch: usize,
    rows: usize,
    depth: usize,
    columns: usize,
    /// B is the same matrix for every batch.
    shared_b: bool,
    activation: Activation,
}

impl Product {
    /// How far ahead B's packed columns are fetched: a single row reads each of them once, from memory if there are many.
    fn ahead_bytes(&self, b_bytes: usize, machine: &Machine) -> usize {
        let streams = self.rows == 1 && b_bytes as u64 > machine.l2_bytes;
        if streams { machine.prefetch_bytes as usize } else { 0 }
    }

    /// The finished kernel.
    fn kernel(&self, builder: Builder, name: &str, tile: Tile, words: &str, body: Vec<Statement>) -> Kernel {
        let Product { batch, rows, depth, columns, .. } = *self;
        let times = if batch > 1 { format!(", {batch} times") } else { String::new() };
        let summary = format!(
            "matrix product [{rows}, {depth}] x [{depth}, {columns}]{times}, tile {} rows x {} vectors{words}",
            tile.rows, tile.vectors
        );
        builder.finish(
            format!("{name}_{rows}x{depth}x{columns}"),
            summary,
            body,
            (batch * rows * depth * columns) as u64,
        )
    }
}

fn product(op: &Op, inputs: &[Operand<'_>], output: &TensorType) -> Option<Product> {
    let (a, b) = (&inputs[0].tensor_type.shape, &inputs[1].tensor_type.shape);
    if let Op::Gemm(gemm) = op {
        if gemm.transpose_a || gemm.transpose_b || gemm.alpha != 1.0 || gemm.beta != 1.0 || inputs[0].value.is_some() {
            return None;
        }
        // C must be a constant row.
        if let Some(c) = inputs.get(2) {
            let row = c.value?;
            let is_row = row.len() == output.shape[1] && c.tensor_type.shape.last() == Some(&row.len());
            if !is_row {
                return None;
            }
        }
        let (rows, depth, columns) = (a[0], a[1], b[1]);
        return Some(Product { batch: 1, rows, depth, columns, shared_b: true, activation: gemm.activation });
    }
    let Op::MatMul = op else { return None };
    let outer = a.len().checked_sub(2)?;
    let batch: usize = a[..outer].iter().product();
    let shared_b = b.len() == 2;
    let same = b.len() == a.len() && b[..outer] == a[..outer];
    if inputs[0].value.is_some() || !(shared_b || same) || b.len() < 2 || a.len() < 2 {
        return None;
    }
    let (rows, depth, columns) = (a[outer], a[outer + 1], b[b.len() - 1]);
    Some(Product { batch, rows, depth, columns, shared_b, activation: Activation::None })
}

pub(super) fn layouts(op: &Op, inputs: &[Operand<'_>], output: &TensorType) -> Vec<LayoutChoice> {
    match product(op, inputs, output) {
        Some(product) if product.rows * product.depth * product.columns > 0 => {
            vec![LayoutChoice { inputs: vec![Layout::Plain; inputs.len()], output: Layout::Plain }]
        }
        _ => Vec::new(),
    }
}

/// Rows and vectors of columns computed together.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    vectors: usize,
}

pub(super) fn lower(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    fused: Option<&Fused<'_>>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let product = product(op, inputs, output)?;
    let lanes = machine.instruction_set.lanes() as usize;
    let vectors = product.columns.div_ceil(lanes);
    let halves = machine.multiplies_halves() && whole_sums(op, &product, inputs, machine).is_some();
    let tile = choose(&product, halves, machine);
    let plain = |elements: usize| elements.next_multiple_of(lanes);
    let value = inputs[1].value.filter(|_| product.shared_b);
    // In fewer bytes only if nothing is lost: a pass has rounded what is to be stored so.
    let stored = value.and_then(|b| {
        let stored = storage::columns(b, product.columns, machine.weight_storage)?;
        let back = stored.stored.chunks_exact(product.columns).flat_map(|row| row.iter().zip(&stored.steps));
        b.iter()
            .zip(back)
            .all(|(b, (stored, step))| (b - stored * step).abs() <= f32::EPSILON * b.abs())
            .then_some(stored)
    });
    if let Some(stored) = stored.as_ref().filter(|_| dot::applies(&product, machine)) {
        return if fused.is_none() { dot::lower(op, &product, inputs, stored, machine) } else { None };
    }
    let a_elements = plain(product.batch * product.rows * product.depth);
    let whole = if stored.is_none() { whole_sums(op, &product, inputs, machine) } else { None };
    let at_once = if whole.is_some() { BYTES } else { 1 };
    let packed = value.map(|b| {
        let b = stored.as_ref().map_or(b, |stored| &stored.stored);
        pack(b, &product, tile, lanes, (product.depth.next_multiple_of(at_once), at_once))
    });
    let mut builder = Builder::new(lanes as u32);
    let a_storage = if whole.is_some() { inputs[0].stored.element } else { ElementType::F32 };
    let a = builder.stored_buffer("a", Access::Input, a_elements, a_storage);
    let mut bindings = vec![Binding::Input(0)];
    let storage = match (&stored, &whole) {
        (Some(_), _) => machine.weight_storage.element(),
        (None, Some(_)) => ElementType::I8,
        (None, None) => ElementType::F32,
    };
    let b = match &packed {
        Some(packed) => builder.stored_buffer("b", Access::Weights, packed.len(), storage),
        None => {
            let count = if product.shared_b { 1 } else { product.batch } * product.depth * product.columns;
            let access = if inputs[1].value.is_some() { Access::Weights } else { Access::Input };
            builder.buffer("b", access, if access == Access::Weights { count } else { plain(count) })
        }
    };
    let is_packed = packed.is_some();
    bindings.push(match packed {
        Some(elements) => Binding::Weights { from: 1, elements },
        None => Binding::Input(1),
    });
    let bias = match (&whole, inputs.get(2).filter(|_| matches!(op, Op::Gemm(_)))) {
        (Some(whole), c) => Some((&whole.bias[..], if c.is_some() { 2 } else { 1 }, ElementType::I32)),
        (None, Some(c)) => Some((c.value?, 2, ElementType::F32)),
        (None, None) => None,
    };
    let bias = bias.map(|(row, from, storage)| {
        let mut elements = row.to_vec();
        elements.resize(vectors * lanes, 0.0);
        let buffer = builder.stored_buffer("bias", Access::Weights, elements.len(), storage);
        bindings.push(Binding::Weights { from, elements });
        buffer
    });
    let steps = stored.filter(|_| storage == ElementType::I8).map(|stored| {
        let mut row = stored.steps;
        row.resize(vectors * lanes, 0.0);
        let buffer = builder.buffer("steps", Access::Weights, row.len());
        bindings.push(Binding::Weights { from: 1, elements: row });
        buffer
    });
    let sums = (product.depth > DEEP && whole.is_none()).then(|| {
        let elements = tile.rows * tile.vectors * lanes;
        bindings.push(Binding::Scratch(elements));
        builder.buffer("sums", Access::Scratch, elements)
    });
    let behind = match fused {
        // Of one row only: everything else is read where no vectors begin.
        Some(_) if product.batch * product.rows != 1 => return None,
        Some(fused) => {
            let sizes = [vectors * lanes; 2];
            Some(Joined::declare(fused, (&mut builder, &mut bindings), inputs.len(), output, sizes, machine)?)
        }
        None => None,
    };
    let y = builder.buffer("y", Access::Output, plain(product.batch * product.rows * product.columns));
    bindings.push(Binding::Output);
    let batch = builder.loop_over(Role::Batch, "batch");
    let (by_lane, in_order) = (machine.instruction_set.multiplies_by_lane(), machine.in_order);
    let depth = product.depth.next_multiple_of(at_once);
    let b_bytes = vectors * lanes * depth * storage.size_bytes();
    let ahead_bytes = if is_packed { product.ahead_bytes(b_bytes, machine) } else { 0 };
    let product = &product;
    let mut writer = GemmWriter {
        builder,
        product,
        lanes,
        a,
        b,
        bias,
        sums,
        y,
        steps,
        behind: behind.as_ref(),
        is_packed,
        whole: whole.as_ref(),
        by_lane: by_lane && whole.is_none(),
        in_order,
        storage,
        ahead_bytes,
        batch,
    };
    let mut body = Vec::new();
    for (first_vector, wide, tiles) in column_runs(product, lanes, tile.vectors) {
        let column = writer.builder.loop_over(Role::Channels, "column_tile");
        let mut rows = Vec::new();
        for (first_row, count, times) in runs(product.rows, tile.rows) {
            let row = writer.builder.loop_over(Role::Row, "row");
            let statements = writer.tile(Place { row, column, first_row, first_vector, rows: count, vectors: wide });
            rows.push(repeat(row, count * times, count, statements));
        }
        body.push(repeat(column, tiles, 1, rows));
    }
    let narrow = match storage {
        ElementType::F32 => String::new(),
        _ if whole.is_some() => ", sums of bytes in whole numbers".to_string(),
        narrow => format!(", weights in {} bits", 8 * narrow.size_bytes()),
    };
    let words = narrow + &Fused::words(fused);
    let body = vec![repeat(batch, product.batch, 1, body)];
    let kernel = product.kernel(writer.builder, "gemm", tile, &words, body);
    Some(LoweredNode { kernel, bindings, order: None })
}

/// The tile of least estimated time: the arithmetic, or the reading of B, once per tile of rows.
fn choose(product: &Product, halves: bool, machine: &Machine) -> Tile {
    let lanes = machine.instruction_set.lanes() as usize;
    let vectors = product.columns.div_ceil(lanes);
    if product.rows == 1 {
        return Tile { rows: 1, vectors: vectors.min((machine.registers as usize).saturating_sub(2).min(8)) };
    }
    let reading = if machine.instruction_set.multiplies_by_lane() { Reading::Lane } else { Reading::Broadcast };
    let best = (1..=vectors.min(4)).map(|wide| {
        let row = Row { width: product.rows, vectors, taps: 1, halves };
        let (arithmetic, tile) = choose_tile(row, Some(wide), machine, reading);
        // Rows of tiles after the first find a tile of columns in the second-level cache, if it is no larger.
        let column_bytes = (product.depth * wide * lanes * 4) as f64;
        let again = if column_bytes > machine.l2_bytes as f64 * 0.8 { product.rows.div_ceil(tile.pixels) } else { 1 };
        let b_bytes = (again * product.depth * vectors * lanes * 4) as f64;
        let cycles = (arithmetic * product.depth as f64).max(b_bytes / FAR_BYTES_PER_CYCLE);
        (cycles, Tile { rows: tile.pixels, vectors: wide })
    });
    best.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(Tile { rows: 1, vectors: 1 }, |(_, tile)| tile)
}

/// The sums of a product in whole numbers, if it can be done in these.
fn whole_sums(op: &Op, product: &Product, inputs: &[Operand<'_>], machine: &Machine) -> Option<WholeSums> {
    let b = inputs[1].value.filter(|_| product.shared_b)?;
    let bias = match (op, inputs.get(2)) {
        (Op::Gemm(_), Some(c)) => Some(c.value?),
        _ => None,
    };
    // Four elements of a row are read at once: what lies behind the last row must be in its buffer.
    let is_one_row = product.batch * product.rows == 1;
    let ends_well = product.depth.is_multiple_of(BYTES) || is_one_row;
    let columns = product.columns;
    let whole = WholeSums::of(&inputs[0], (b, |index| index % columns), bias, columns, machine);
    whole.filter(|_| ends_well)
}

/// Column tiles as (first vector, vectors, tiles); a tile with a cut vector stands alone, at the end.
fn column_runs(product: &Product, lanes: usize, wide: usize) -> Vec<(usize, usize, usize)> {
    let mut tiles = runs(product.columns.div_ceil(lanes), wide);
    if product.columns.is_multiple_of(lanes) {
        return tiles;
    }
    if let Some((first, part, times)) = tiles.pop() {
        if times > 1 {
            tiles.push((first, part, times - 1));
        }
        tiles.push((first + (times - 1) * part, part, 1));
    }
    tiles
}

struct GemmWriter<'a> {
    builder: Builder,
    product: &'a Product,
    lanes: usize,
    a: Buffer,
    b: Buffer,
    bias: Option<Buffer>,
    /// By what each column is multiplied, after the sum and before the bias.
    steps: Option<Buffer>,
    /// What is done to sums before they are stored.
    behind: Option<&'a Joined<'a>>,
    /// Where the sums of the blocks before lie, of deep products.
    sums: Option<Buffer>,
    y: Buffer,
    is_packed: bool,
    /// Of sums in whole numbers.
    whole: Option<&'a WholeSums>,
    /// Rows of `a` are loaded as vectors and multiplied by lane.
    by_lane: bool,
    /// Loads stand between the multiplications.
    in_order: bool,
    /// Of `b`, and how far ahead it is fetched from memory, 0 if it is not.
    storage: ElementType,
    ahead_bytes: usize,
    batch: LoopVar,
}

#[derive(Clone, Copy)]
struct Place {
    row: LoopVar,
    column: LoopVar,
    first_row: usize,
    first_vector: usize,
    rows: usize,
    vectors: usize,
}

impl GemmWriter<'_> {
    /// Lanes of a vector that are real columns.
    fn lanes_of(&self, place: Place, vector: usize) -> usize {
        (self.product.columns - (place.first_vector + vector) * self.lanes).min(self.lanes)
    }

    fn tile(&mut self, place: Place) -> Vec<Statement> {
        let mut statements = Vec::new();
        for vector in 0..place.vectors {
            let start = match self.bias.filter(|_| self.steps.is_none()) {
                Some(bias) => Expression::Load(bias, self.column_at(place, vector)),
                None => Expression::Constant(0.0),
            };
            for row in 0..place.rows {
                let sum = self.builder.variable(&format!("acc_{row}_{vector}"));
                statements.push(Statement::Assign(sum, start.clone()));
            }
        }
        let depth = self.product.depth;
        match self.sums {
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
        let in_vectors = if self.by_lane && self.is_packed { count / self.lanes * self.lanes } else { 0 };
        if in_vectors > 0 {
            let depth = self.builder.loop_var("k");
            let body = self.by_lane(place, &plus(first, depth, 1));
            statements.push(repeat(depth, in_vectors, self.lanes, body));
        }
        if let Some(whole) = self.whole {
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
        let (a, b) = ((self.a, &rows[..]), (self.b, &packed[..], place.vectors));
        let mut statements = self.fetch(place, &first, self.lanes);
        statements.extend(by_lane(&mut self.builder, a, b, self.lanes, self.in_order));
        statements
    }

    /// Asks for what so many rows of a tile of packed columns will be, further on.
    fn fetch(&self, place: Place, first: &Affine, rows: usize) -> Vec<Statement> {
        let elements = rows * place.vectors * self.lanes;
        fetch_ahead((self.b, self.storage), self.ahead_bytes, first, elements).collect()
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
            body.push(Statement::Assign(element, Expression::Broadcast(self.a, self.row_at(place, row, depth))));
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
            self.builder.assign(&format!("b_{vector}"), Expression::LoadBytes(self.b, packed), &mut body);
        }
        for row in 0..place.rows {
            let four = Expression::BroadcastBytes(self.a, self.row_at(place, row, &at));
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
        let at_once = if self.whole.is_some() { BYTES } else { 1 };
        let per_vector = self.product.depth.next_multiple_of(at_once) * self.lanes;
        let at = Affine::constant((place.first_vector * per_vector) as i64);
        let at = plus(&at, place.column, place.vectors * per_vector);
        at.plus_affine(depth, (place.vectors * self.lanes) as i64)
    }

    fn load_b(&self, place: Place, depth: &Affine, vector: usize) -> Expression {
        if self.is_packed {
            return Expression::Load(self.b, self.packed_at(place, depth).plus((vector * self.lanes) as i64));
        }
        let batch = if self.product.shared_b { 0 } else { self.product.depth * self.product.columns };
        let at = Affine::term(self.batch, batch as i64).plus_affine(depth, self.product.columns as i64);
        let at = plus(&at, place.column, place.vectors * self.lanes);
        let at = at.plus(((place.first_vector + vector) * self.lanes) as i64);
        match self.lanes_of(place, vector) {
            lanes if lanes == self.lanes => Expression::Load(self.b, at),
            lanes => Expression::LoadPartial(self.b, at, lanes as u32),
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
                if self.whole.is_some() {
                    let number = Expression::Unary(Function::FromWhole, Box::new(Expression::Variable(sum)));
                    sum = self.builder.assign("sum", number, &mut statements);
                }
                if let Some(steps) = self.steps {
                    let step = Expression::Load(steps, self.column_at(place, vector));
                    let bias = self.bias.map(|bias| Expression::Load(bias, self.column_at(place, vector)));
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
