//! What stands behind Winograd's algorithm: whether inputs are small enough for it, and the convolution done
//! directly where they are not.
//!
//! Winograd's algorithm adds and subtracts neighbouring inputs before it multiplies them, so a number that is infinite,
//! or becomes so on the way, and what is no number at all, would spoil a whole tile of outputs, where direct
//! convolution spoils those that read it. Weights on a device are transformed; what they were made from is computed
//! back here.

use super::Activation;
use super::sum::larger;

/// Inputs below this (2^64) are done by Winograd's algorithm: the compiler takes it only for weights that leave sums of
/// such inputs finite.
pub const WINOGRAD_BELOW: f32 = 18_446_744_073_709_551_616.0;

/// Outputs of a [`Tile`].
const TILE: usize = 32;

/// Most points and taps of a tile, in one dimension.
const MOST_POINTS: usize = 6;
const MOST_TAPS: usize = 5;

/// A convolution that a kernel does by Winograd's algorithm, all tensors in blocks of channels.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Winograd {
    /// Samples.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub filters: usize,
    /// Channels of a block.
    pub lanes: usize,
    /// Taps in depth, which are not transformed.
    pub kernel_depth: usize,
    /// Zero elements before the first: depth, height, width.
    pub pad: [usize; 3],
    /// Depth, height, width.
    pub input: [usize; 3],
    /// The same of the result, before any pooling.
    pub output: [usize; 3],
    /// Outputs of a tile: rows, columns.
    pub tile: [usize; 2],
    /// Taps of the filter: rows, columns.
    pub taps: [usize; 2],
    /// Blocks of output channels whose weights lie together.
    pub vectors: usize,
    /// Only the largest of every square of four outputs is stored.
    pub pooled: bool,
    /// Applied last.
    pub activation: Activation,
}

/// What is added before the activation.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// What lies in memory of its own.
    Apart(&'a [f32]),
    /// What lies where the result goes.
    InPlace,
}

/// Outputs that are computed together.
struct Tile {
    /// Depth, row and column of the first.
    at: [usize; 3],
    /// Outputs to a row.
    wide: usize,
    sums: [f32; TILE],
}

impl Winograd {
    /// Whether all inputs are numbers below [`WINOGRAD_BELOW`]. Lanes past the last channel may hold anything.
    pub fn is_within(&self, x: &[f32]) -> bool {
        let plane = self.input.iter().product::<usize>();
        let (whole, rest) = (self.channels / self.lanes.max(1), self.channels % self.lanes.max(1));
        let per_sample = self.channels.div_ceil(self.lanes.max(1)) * plane * self.lanes;
        x.chunks_exact(per_sample.max(1)).all(|sample| {
            let (blocks, last) = sample.split_at(whole * plane * self.lanes);
            // One bit says it of all: in the end, not one by one.
            let blocks = blocks.iter().fold(0, |bits, x| bits | past_limit(*x));
            let last = last.chunks_exact(self.lanes.max(1)).flat_map(|position| position.iter().take(rest));
            (blocks | last.fold(0, |bits, x| bits | past_limit(*x))) >> 31 == 0
        })
    }

    /// The convolution itself. `weights` are those of the kernel, transformed and in its order.
    pub fn convolve(&self, x: &[f32], weights: &[f32], bias: &[f32], residual: Residual<'_>, y: &mut [f32]) {
        let [depths, rows, columns] = self.output;
        let [high, wide] = if self.pooled { [2, TILE / 2] } else { [1, TILE] };
        for sample in 0..self.batch {
            for filter in 0..self.filters {
                for depth in 0..depths {
                    for row in (0..rows).step_by(high) {
                        for column in (0..columns).step_by(wide) {
                            let start = bias.get(filter).copied().unwrap_or(0.0);
                            let mut tile = Tile { at: [depth, row, column], wide, sums: [start; TILE] };
                            for channel in 0..self.channels {
                                for tap in 0..self.kernel_depth {
                                    let taps = self.filter(weights, filter, channel, tap);
                                    self.add(x, [sample, channel, tap], &taps, &mut tile);
                                }
                            }
                            self.finish([sample, filter], &tile, residual, y);
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of one channel and depth tap to a tile of sums.
    fn add(
        &self,
        x: &[f32],
        [sample, channel, tap]: [usize; 3],
        taps: &[[f32; MOST_TAPS]; MOST_TAPS],
        tile: &mut Tile,
    ) {
        let Tile { at: [depth, row, column], wide, ref mut sums } = *tile;
        let [in_d, in_h, in_w] = self.input;
        let Some(depth) = (depth + tap).checked_sub(self.pad[0]).filter(|depth| *depth < in_d) else { return };
        let block = sample * self.channels.div_ceil(self.lanes) + channel / self.lanes;
        let plane = (block * in_d + depth) * in_h;
        for (index, sum) in sums.iter_mut().enumerate() {
            for (down, line) in taps.iter().enumerate().take(self.taps[0]) {
                let at = row + index / wide + down;
                let Some(at) = at.checked_sub(self.pad[1]).filter(|at| *at < in_h) else { continue };
                for (across, weight) in line.iter().enumerate().take(self.taps[1]) {
                    let column = column + index % wide + across;
                    let Some(column) = column.checked_sub(self.pad[2]).filter(|at| *at < in_w) else { continue };
                    let place = ((plane + at) * in_w + column) * self.lanes + channel % self.lanes;
                    *sum += x.get(place).copied().unwrap_or(0.0) * weight;
                }
            }
        }
    }

    /// Residual, activation and pooling of a tile, to the output.
    fn finish(&self, [sample, filter]: [usize; 2], tile: &Tile, residual: Residual<'_>, y: &mut [f32]) {
        let Tile { at: [depth, row, column], wide, ref sums } = *tile;
        let side = if self.pooled { 2 } else { 1 };
        let [depths, rows, columns] = [self.output[0], self.output[1] / side, self.output[2] / side];
        let block = sample * self.filters.div_ceil(self.lanes) + filter / self.lanes;
        for index in 0..wide / side {
            let (row, column) = (row / side, column / side + index);
            let place = (((block * depths + depth) * rows + row) * columns + column) * self.lanes + filter % self.lanes;
            let Some(out) = y.get_mut(place).filter(|_| row < rows && column < columns) else { continue };
            let added = match residual {
                Residual::None => 0.0,
                Residual::Apart(residual) => residual.get(place).copied().unwrap_or(0.0),
                Residual::InPlace => *out,
            };
            let one = |down: usize, across: usize| {
                let sum = sums.get(down * wide + index * side + across).copied().unwrap_or(0.0);
                self.activation.apply(sum + added)
            };
            *out = match self.pooled {
                true => larger(larger(one(0, 0), one(0, 1)), larger(one(1, 0), one(1, 1))),
                false => one(0, 0),
            };
        }
    }

    /// The taps that a filter's transformed weights were made from; rounded a few times more than they were.
    fn filter(&self, weights: &[f32], filter: usize, channel: usize, tap: usize) -> [[f32; MOST_TAPS]; MOST_TAPS] {
        // `[point][tile of vectors][depth tap][channel][vector in tile][lane]`
        let all = self.filters.div_ceil(self.lanes);
        let depth = self.kernel_depth * self.channels;
        let (vector, lane) = (filter / self.lanes, filter % self.lanes);
        let first = vector / self.vectors.max(1) * self.vectors;
        let together = self.vectors.min(all - first);
        let within = (first * depth + (tap * self.channels + channel) * together + vector - first) * self.lanes + lane;
        let per_point = depth * all * self.lanes;
        let [high, wide] = self.points();
        let mut columns = [[0.0; MOST_TAPS]; MOST_POINTS];
        for (across, column) in columns.iter_mut().enumerate().take(wide) {
            let point = |down: usize| weights.get((down * wide + across) * per_point + within).copied().unwrap_or(0.0);
            *column = untransformed(core::array::from_fn(point), self.tile[0], high);
        }
        let mut taps = [[0.0; MOST_TAPS]; MOST_TAPS];
        for (down, line) in taps.iter_mut().enumerate().take(self.taps[0]) {
            let points = core::array::from_fn(|across| {
                columns.get(across).and_then(|column| column.get(down)).copied().unwrap_or(0.0)
            });
            *line = untransformed(points, self.tile[1], wide);
        }
        taps
    }

    /// Points of a tile: rows, columns.
    fn points(&self) -> [usize; 2] {
        [self.tile[0] + self.taps[0] - 1, self.tile[1] + self.taps[1] - 1]
    }
}

/// The highest bit says that it is no number below the limit.
#[inline(always)]
fn past_limit(x: f32) -> u32 {
    (x.to_bits() & 0x7fff_ffff).wrapping_add(0x8000_0000 - WINOGRAD_BELOW.to_bits())
}

/// The inverse of the filter transform in one dimension, for so many outputs of a tile.
fn untransformed(u: [f32; MOST_POINTS], outputs: usize, points: usize) -> [f32; MOST_TAPS] {
    match (outputs, points) {
        // One tap is not transformed.
        (1, _) => [u[0], 0.0, 0.0, 0.0, 0.0],
        // F(2, 3)
        (2, 4) => [u[0], u[1] - u[2], u[3], 0.0, 0.0],
        // F(4, 3)
        (4, 6) => [4.0 * u[0], 3.0 * (u[2] - u[1]), u[5], 0.0, 0.0],
        // F(2, 5)
        _ => {
            let (first, last) = (4.0 * u[0], u[5]);
            let odd = u[2] - u[1];
            let fourth = 2.0 * (u[3] - u[4]) - odd;
            [first, 3.0 * odd - fourth, -3.0 * (u[1] + u[2]) - first - last, fourth, last]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Winograd = Winograd {
        batch: 2,
        channels: 5,
        filters: 1,
        lanes: 4,
        kernel_depth: 1,
        pad: [0, 1, 1],
        input: [1, 3, 2],
        output: [1, 3, 2],
        tile: [2, 2],
        taps: [3, 3],
        vectors: 1,
        pooled: false,
        activation: Activation::None,
    };

    #[test]
    fn what_is_large_or_no_number_is_seen_in_every_place() {
        let elements = 2 * 2 * 6 * 4;
        let is_channel = |index: usize| (index / 24).is_multiple_of(2) || index.is_multiple_of(4);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, WINOGRAD_BELOW, -1e37] {
            for at in 0..elements {
                let mut x = [-1e19f32; 96];
                x[at] = bad;
                assert_eq!(SMALL.is_within(&x), !is_channel(at), "{bad} at {at}");
            }
        }
        assert!(SMALL.is_within(&[f32::MIN_POSITIVE; 96]) && SMALL.is_within(&[-0.0; 96]));
    }

    #[test]
    fn filters_are_computed_back() {
        // G of every form, as `compiler/kernel/src/lower/winograd/transform.rs` has it.
        let (sixth, part) = (1.0 / 6.0, 1.0 / 24.0);
        let two: &[&[f64]] = &[&[1.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0.0, 0.0, 1.0]];
        let four: &[&[f64]] = &[
            &[0.25, 0.0, 0.0],
            &[-sixth, -sixth, -sixth],
            &[-sixth, sixth, -sixth],
            &[part, 2.0 * part, 4.0 * part],
            &[part, -2.0 * part, 4.0 * part],
            &[0.0, 0.0, 1.0],
        ];
        let five: &[&[f64]] = &[
            &[0.25, 0.0, 0.0, 0.0, 0.0],
            &[-sixth; 5],
            &[-sixth, sixth, -sixth, sixth, -sixth],
            &[part, 2.0 * part, 4.0 * part, 8.0 * part, 16.0 * part],
            &[part, -2.0 * part, 4.0 * part, -8.0 * part, 16.0 * part],
            &[0.0, 0.0, 0.0, 0.0, 1.0],
        ];
        for (outputs, matrix) in [(2, two), (4, four), (2, five)] {
            let taps = [0.7, -1.3, 0.2, 2.1, -0.4];
            let mut points = [0.0; MOST_POINTS];
            for (point, row) in points.iter_mut().zip(matrix) {
                *point = row.iter().zip(taps).map(|(g, tap)| g * tap).sum::<f64>() as f32;
            }
            let back = untransformed(points, outputs, matrix.len());
            let count = matrix.first().map_or(0, |row| row.len());
            for (found, expected) in back.iter().zip(taps).take(count) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{back:?} of F({outputs}, {count})");
            }
        }
    }
}
