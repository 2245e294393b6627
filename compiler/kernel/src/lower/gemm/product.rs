//! A matrix product as rows, depth and columns, and the tiles that it is computed in.

use crate::lower::build::{Builder, runs};
use crate::lower::{Machine, Operand};
use crate::{Kernel, LoopVar, Statement};
use partita_ir::graph::op::Activation;
use partita_ir::graph::{Op, TensorType};

/// Elements of a row that are multiplied at once in whole numbers.
pub(super) const BYTES: usize = 4;

/// A product as rows, depth, columns, and how often it is done on other matrices.
pub(super) struct Product {
    pub(super) batch: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// B is the same matrix for every batch.
    pub(super) shared_b: bool,
    pub(super) activation: Activation,
}

impl Product {
    /// How far ahead B's packed columns are fetched: a single row reads each of them once, from memory if there are
    /// many.
    pub(super) fn ahead_bytes(&self, b_bytes: usize, machine: &Machine) -> usize {
        let streams = self.rows == 1 && b_bytes as u64 > machine.l2_bytes;
        if streams { machine.prefetch_bytes as usize } else { 0 }
    }

    /// The finished kernel.
    pub(super) fn kernel(&self, builder: Builder, name: &str, tile: Tile, words: &str, body: Vec<Statement>) -> Kernel {
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

pub(super) fn product(op: &Op, inputs: &[Operand<'_>], output: &TensorType) -> Option<Product> {
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

/// Rows and vectors of columns computed together.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) vectors: usize,
}

/// A tile: its loops, and what of rows and columns it is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) row: LoopVar,
    pub(super) column: LoopVar,
    pub(super) first_row: usize,
    pub(super) first_vector: usize,
    pub(super) rows: usize,
    pub(super) vectors: usize,
}

/// Column tiles as (first vector, vectors, tiles); a tile with a cut vector stands alone, at the end.
pub(super) fn column_runs(product: &Product, lanes: usize, wide: usize) -> Vec<(usize, usize, usize)> {
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
