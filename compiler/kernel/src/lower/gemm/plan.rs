//! What is decided about a product before its loops are written: its tile, and how a constant B is kept.

use super::loop_nest::Buffers;
use super::pack::pack;
use super::product::{BYTES, Product, Tile, product};
use crate::Access;
use crate::lower::build::Builder;
use crate::lower::bytes::WholeSums;
use crate::lower::tile::{FAR_BYTES_PER_CYCLE, Reading, Row, choose_tile};
use crate::lower::{Binding, Machine, Operand};
use partita_ir::graph::storage::{self, Columns, WeightStorage};
use partita_ir::graph::{ElementType, Op, TensorType};

/// Deeper products are summed in blocks, whose sums are added in memory.
const DEEP: usize = 4096;

/// Everything that is decided about one product.
pub(super) struct Plan {
    pub(super) product: Product,
    pub(super) lanes: usize,
    pub(super) tile: Tile,
    /// B in fewer bytes.
    pub(super) stored: Option<Columns>,
    /// Of sums in whole numbers.
    pub(super) whole: Option<WholeSums>,
    /// Of B.
    pub(super) storage: ElementType,
}

impl Plan {
    pub(super) fn new(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Option<Plan> {
        let product = product(op, inputs, output)?;
        let lanes = machine.instruction_set.lanes() as usize;
        let whole = whole_sums(op, &product, inputs, machine);
        let tile = choose(&product, machine.multiplies_halves() && whole.is_some(), machine);
        let b = inputs[1].value.filter(|_| product.shared_b);
        let stored = b.and_then(|b| in_fewer_bytes(b, product.columns, machine.weight_storage));
        let whole = whole.filter(|_| stored.is_none());
        let storage = match (&stored, &whole) {
            (Some(_), _) => machine.weight_storage.element(),
            (None, Some(_)) => ElementType::I8,
            (None, None) => ElementType::F32,
        };
        Some(Plan { product, lanes, tile, stored, whole, storage })
    }

    /// Columns, with what lies beside the last vector.
    pub(super) fn width(&self) -> usize {
        self.product.columns.div_ceil(self.lanes) * self.lanes
    }

    /// Elements of a row that are multiplied at once.
    fn at_once(&self) -> usize {
        if self.whole.is_some() { BYTES } else { 1 }
    }

    /// Rows of a packed B.
    pub(super) fn depth(&self) -> usize {
        self.product.depth.next_multiple_of(self.at_once())
    }

    /// Elements of a plain tensor, in whole vectors.
    pub(super) fn plain(&self, elements: usize) -> usize {
        elements.next_multiple_of(self.lanes)
    }

    /// Declares what is read, and where sums of blocks lie.
    pub(super) fn declare(
        &self,
        op: &Op,
        inputs: &[Operand<'_>],
        (builder, bindings): (&mut Builder, &mut Vec<Binding>),
    ) -> Option<Buffers> {
        let product = &self.product;
        let a_storage = if self.whole.is_some() { inputs[0].stored.element } else { ElementType::F32 };
        let a_elements = self.plain(product.batch * product.rows * product.depth);
        let a = builder.stored_buffer("a", Access::Input, a_elements, a_storage);
        bindings.push(Binding::Input(0));
        let constant = inputs[1].value.filter(|_| product.shared_b);
        let b = match constant {
            Some(b) => {
                let b = self.stored.as_ref().map_or(b, |stored| &stored.stored);
                let elements = pack(b, product, self.tile, self.lanes, (self.depth(), self.at_once()));
                let buffer = builder.stored_buffer("b", Access::Weights, elements.len(), self.storage);
                bindings.push(Binding::Weights { from: 1, elements });
                buffer
            }
            None => {
                let count = if product.shared_b { 1 } else { product.batch } * product.depth * product.columns;
                bindings.push(Binding::Input(1));
                match inputs[1].value {
                    Some(_) => builder.buffer("b", Access::Weights, count),
                    None => builder.buffer("b", Access::Input, self.plain(count)),
                }
            }
        };
        let mut per_column = |name: &str, row: &[f32], from: usize, storage: ElementType| {
            let mut elements = row.to_vec();
            elements.resize(self.width(), 0.0);
            let buffer = builder.stored_buffer(name, Access::Weights, elements.len(), storage);
            bindings.push(Binding::Weights { from, elements });
            buffer
        };
        let bias = match (&self.whole, inputs.get(2).filter(|_| matches!(op, Op::Gemm(_)))) {
            (Some(whole), c) => {
                Some(per_column("bias", &whole.bias, if c.is_some() { 2 } else { 1 }, ElementType::I32))
            }
            (None, Some(c)) => Some(per_column("bias", c.value?, 2, ElementType::F32)),
            (None, None) => None,
        };
        let stored = self.stored.as_ref().filter(|_| self.storage == ElementType::I8);
        let steps = stored.map(|stored| per_column("steps", &stored.steps, 1, ElementType::F32));
        let sums = (product.depth > DEEP && self.whole.is_none()).then(|| {
            let elements = self.tile.rows * self.tile.vectors * self.lanes;
            bindings.push(Binding::Scratch(elements));
            builder.buffer("sums", Access::Scratch, elements)
        });
        Some(Buffers { a, b, is_packed: constant.is_some(), bias, steps, sums })
    }

    /// In words, to go behind a summary.
    pub(super) fn words(&self) -> String {
        match self.storage {
            ElementType::F32 => String::new(),
            _ if self.whole.is_some() => ", sums of bytes in whole numbers".to_string(),
            narrow => format!(", weights in {} bits", 8 * narrow.size_bytes()),
        }
    }
}

/// A constant B in fewer bytes, but only if nothing is lost: a pass has rounded what is to be stored so.
fn in_fewer_bytes(b: &[f32], columns: usize, storage: WeightStorage) -> Option<Columns> {
    let stored = storage::columns(b, columns, storage)?;
    let back = stored.stored.chunks_exact(columns).flat_map(|row| row.iter().zip(&stored.steps));
    let is_same = |(b, (stored, step)): (&f32, (&f32, &f32))| (b - stored * step).abs() <= f32::EPSILON * b.abs();
    b.iter().zip(back).all(is_same).then_some(stored)
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
