//! Register tiles: how many output pixels and vectors of output channels are computed together.

use super::Machine;

/// Most statements of one column tile's inner body; larger tiles only bloat the code.
const MAX_BODY: usize = 700;

/// Bytes per cycle of weights that are read once per inference.
pub(super) const FAR_BYTES_PER_CYCLE: f64 = 9.0;

/// Output pixels and output-channel vectors computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub pixels: usize,
    pub vectors: usize,
}

/// What a tile has to cover.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Output pixels.
    pub width: usize,
    /// Vectors of output channels.
    pub vectors: usize,
    /// Taps that are written out in the innermost body.
    pub taps: usize,
    /// Sums are those of halves of bytes, two vectors each.
    pub halves: bool,
}

/// How a tile gets its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// One element at a time, in all lanes.
    Broadcast,
    /// A vector of input channels per pixel, multiplied lane by lane.
    Lane,
    /// Vectors of neighbouring columns of one channel, multiplied lane by lane.
    Row {
        /// Input columns from one pixel to the next.
        stride: usize,
        /// Input columns from one tap to the next.
        dilation: usize,
    },
}

impl Reading {
    /// Vectors of activations that a tile holds.
    fn vectors(self, pixels: usize, taps: usize) -> usize {
        match self {
            Reading::Broadcast => 1,
            Reading::Lane => pixels,
            Reading::Row { stride, dilation } => ((pixels - 1) * stride + (taps - 1) * dilation + 1).div_ceil(4),
        }
    }
}

/// The tile that needs the least estimated time over the row, and that time: cycles per input channel and tap.
///
/// Per input channel and tap a tile of P pixels and J vectors takes the longest of P * J multiply-adds (two per cycle),
/// P + J loads (two per cycle), and the latency of one multiply-add (four cycles, which at least eight independent
/// ones hide). Weights that are packed already give the vectors.
pub(super) fn choose_tile(row: Row, packed_vectors: Option<usize>, machine: &Machine, reading: Reading) -> (f64, Tile) {
    let Row { width, vectors, taps, halves } = row;
    let registers = machine.registers as usize;
    let mut best: Option<(f64, Tile)> = None;
    for wide in packed_vectors.map_or(1..=vectors.min(4), |wide| wide..=wide) {
        for pixels in 1..=width.min(14) {
            // A vector of input channels per pixel and pairs of weights, or the weights and one broadcast.
            let weights = if reading == Reading::Broadcast { wide } else { machine.pair_registers() };
            let temporaries = reading.vectors(pixels, taps) + weights;
            let needed = match halves {
                // Both factors of two products, held for all pixels or all vectors, and the products of two sums.
                true => 2 * pixels * wide + 2 * pixels.min(wide) + 2 + 4 + reading.vectors(pixels, taps),
                false => pixels * wide + temporaries,
            };
            let fits = needed <= registers;
            let body = taps * (pixels + if reading == Reading::Lane { 4 } else { 1 } * (wide + pixels * wide));
            if pixels * wide > 1 && (!fits || body > MAX_BODY) {
                continue;
            }
            let cost = |pixels: usize, wide: usize| match halves {
                true => cost_of_halves(pixels, wide, taps, reading),
                false => cost(pixels, wide, taps, reading),
            };
            let over = |total: usize, part: usize| {
                let mut parts = vec![(part, total / part)];
                if !total.is_multiple_of(part) {
                    parts.push((total % part, 1));
                }
                parts
            };
            let mut total = 0.0;
            for (pixels, columns) in over(width, pixels) {
                for (wide, rows) in over(vectors, wide) {
                    total += cost(pixels, wide) * (columns * rows) as f64;
                }
            }
            if best.is_none_or(|(least, _)| total < least) {
                best = Some((total, Tile { pixels, vectors: wide }));
            }
        }
    }
    best.unwrap_or((f64::INFINITY, Tile { pixels: 1, vectors: packed_vectors.unwrap_or(1) }))
}

/// Cycles per input channel and tap.
fn cost(pixels: usize, wide: usize, taps: usize, reading: Reading) -> f64 {
    let arithmetic = (pixels * wide) as f64 / 2.0;
    let activations = match reading {
        Reading::Broadcast => pixels as f64,
        Reading::Lane => pixels as f64 / 4.0,
        Reading::Row { .. } => reading.vectors(pixels, taps) as f64 / taps as f64,
    };
    let loads = (activations + wide as f64) / 2.0;
    arithmetic.max(loads).max(4.0) + 0.1 * loads
}

/// The same of four bytes: six instructions for every two products, one to have a pixel's bytes in all lanes, and loads, of
/// weights two at a time. Four pixels are stored together.
fn cost_of_halves(pixels: usize, wide: usize, taps: usize, reading: Reading) -> f64 {
    let activations = match reading {
        Reading::Row { .. } if pixels < 4 => pixels as f64,
        Reading::Row { .. } => reading.vectors(pixels, taps) as f64 / taps as f64,
        Reading::Broadcast | Reading::Lane => pixels as f64,
    };
    let cut = if pixels.is_multiple_of(4) { 0.0 } else { 0.1 * wide as f64 };
    ((3 * pixels * wide + pixels) as f64 + activations + wide as f64 / 2.0) / 2.0 + cut
}
