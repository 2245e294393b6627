//! The order of a constant matrix as kernels read it.

use super::product::{Product, Tile};
use crate::lower::build::runs;

/// `[depth, columns]` to `[tile][depth][vector][lane]`, zero past the last column; where `at_once` rows are multiplied at once,
/// to `[tile][depth / at_once][vector][lane][at_once]`, `depth` rows with those past the
/// last one, which are zero.
pub(super) fn pack(
    b: &[f32],
    product: &Product,
    tile: Tile,
    lanes: usize,
    (depth, at_once): (usize, usize),
) -> Vec<f32> {
    let vectors = product.columns.div_ceil(lanes);
    let element = |row: usize, column: usize| {
        if row < product.depth && column < product.columns { b[row * product.columns + column] } else { 0.0 }
    };
    let mut packed = Vec::with_capacity(vectors * lanes * depth);
    for (first, wide, times) in runs(vectors, tile.vectors) {
        for run in 0..times {
            let begin = (first + run * wide) * lanes;
            for row in (0..depth).step_by(at_once) {
                for column in begin..begin + wide * lanes {
                    packed.extend((row..row + at_once).map(|row| element(row, column)));
                }
            }
        }
    }
    packed
}
