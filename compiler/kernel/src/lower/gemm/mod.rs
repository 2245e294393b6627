//! Matrix products on plain tensors: rows of A broadcast or multiplied lane by lane, vectors of B's columns.
//!
//! A constant B is packed `[column tile][depth][vector][lane]`, so it streams once per row tile (once in all for a single
//! row). An activation as B is read where it lies.

mod dot;
mod loop_nest;
mod pack;
mod product;

use super::build::{Builder, repeat, runs};
use super::bytes::WholeSums;
use super::fused::{Fused, Joined};
use super::tile::{FAR_BYTES_PER_CYCLE, Reading, Row, choose_tile};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Role};
use loop_nest::GemmWriter;
use pack::pack;
use partita_ir::graph::storage;
use partita_ir::graph::{ElementType, Op, TensorType};
use product::{BYTES, Place, Product, Tile, column_runs, product};

/// Deeper products are summed in blocks, whose sums are added in memory.
const DEEP: usize = 4096;

pub(super) fn layouts(op: &Op, inputs: &[Operand<'_>], output: &TensorType) -> Vec<LayoutChoice> {
    match product(op, inputs, output) {
        Some(product) if product.rows * product.depth * product.columns > 0 => {
            vec![LayoutChoice { inputs: vec![Layout::Plain; inputs.len()], output: Layout::Plain }]
        }
        _ => Vec::new(),
    }
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
    // Of one row only: everything else is read where no vectors begin.
    if fused.is_some() && product.batch * product.rows != 1 {
        return None;
    }
    let kernel = (&mut builder, &mut bindings);
    let behind = Joined::declare_behind(fused, kernel, inputs.len(), output, [vectors * lanes; 2], machine)?;
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
