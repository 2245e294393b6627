//! What convolutions and pools share: three spatial dimensions, clipped windows, tiles of columns.

use std::ops::Range;

use crate::{Affine, Bound};
use partita_ir::graph::op::Window;

/// Multiplications of one vector that the code for a row may have, one after the other; windows that need more are left to
/// the portable kernels, which loop.
const MOST_TAPS: usize = 8192;

/// Columns of a tile, where it does not matter exactly.
const TILE_WIDTH: usize = 4;

/// A window over three spatial dimensions: depth, height, width.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window3 {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub pad: [usize; 3],
    pub input: [usize; 3],
    pub output: [usize; 3],
}

impl Window3 {
    /// The window of an operator on `[N, C, spatial]` shapes.
    pub(super) fn new(window: &Window, input: &[usize], output: &[usize]) -> Window3 {
        use partita_ir::graph::call::three;
        Window3 {
            kernel: three(&window.kernel, 1),
            stride: three(&window.stride, 1),
            dilation: three(&window.dilation, 1),
            pad: three(&window.pad_begin, 0),
            input: three(&input[2..], 1),
            output: three(&output[2..], 1),
        }
    }

    /// A kernel of 1 that touches every input element in order sees one long row.
    pub(super) fn flattened(mut self) -> Window3 {
        let dense = self.kernel == [1; 3] && self.stride == [1; 3] && self.pad == [0; 3] && self.input == self.output;
        if dense {
            self.input = [1, 1, self.input.iter().product()];
            self.output = self.input;
        }
        self
    }

    pub(super) fn input_plane(&self) -> usize {
        self.input.iter().product()
    }

    pub(super) fn output_plane(&self) -> usize {
        self.output.iter().product()
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Range of taps along `axis` that lie inside the input for output index `at`: `at * stride + tap * dilation - pad`
    /// is at least 0 and less than the extent.
    pub(super) fn tap_range(&self, axis: usize, at: &Affine) -> (Bound, Bound) {
        let (pad, extent) = (self.pad[axis] as i64, self.input[axis] as i64);
        let (stride, dilation) = (self.stride[axis] as i64, self.dilation[axis] as i64);
        let kernel = self.kernel[axis] as i64;
        let last = (self.output[axis] as i64 - 1) * stride + (kernel - 1) * dilation - pad;
        let low = match pad {
            0 => Bound::Constant(0),
            pad => Bound::Max(0, Affine::constant(pad).plus_affine(at, -stride), dilation),
        };
        let high = if last < extent {
            Bound::Constant(kernel)
        } else {
            Bound::Min(kernel, Affine::constant(extent + pad).plus_affine(at, -stride), dilation)
        };
        (low, high)
    }

    /// Whether tap `tap` of output column `column` lies inside the input.
    pub(super) fn column_is_inside(&self, column: usize, tap: usize) -> bool {
        let at = column * self.stride[2] + tap * self.dilation[2];
        (self.pad[2]..self.pad[2] + self.input[2]).contains(&at)
    }

    /// Whether every tap of the columns lies inside the input.
    fn is_interior(&self, first: usize, count: usize) -> bool {
        self.column_is_inside(first, 0) && self.column_is_inside(first + count - 1, self.kernel[2] - 1)
    }

    /// Which taps of an output index along an axis lie within a range of the padded input: they follow each other.
    pub(super) fn taps_within(&self, axis: usize, at: usize, padded: &Range<usize>) -> Range<usize> {
        let (first, dilation) = (at * self.stride[axis], self.dilation[axis].max(1));
        let reach = |end: usize| end.saturating_sub(first).div_ceil(dilation).min(self.kernel[axis]);
        reach(padded.start)..reach(padded.end)
    }

    /// Which taps of an output column lie inside the input.
    fn taps_inside(&self, column: usize) -> Range<usize> {
        self.taps_within(2, column, &(self.pad[2]..self.pad[2] + self.input[2]))
    }

    /// Cuts the output row into tiles of at most `width` columns. Neighbours whose columns meet the same taps are one: all
    /// that touch no padding, and all that touch nothing else.
    pub(super) fn column_tiles(&self, width: usize) -> Vec<Columns> {
        let mut tiles: Vec<Columns> = Vec::new();
        let mut met_before = Vec::new();
        let mut first = 0;
        while first < self.output[2] {
            let count = width.min(self.output[2] - first);
            let interior = self.is_interior(first, count);
            let met: Vec<Range<usize>> = (first..first + count).map(|column| self.taps_inside(column)).collect();
            match tiles.last_mut() {
                Some(last) if met == met_before => last.repeat += 1,
                _ => tiles.push(Columns { first, count, repeat: 1, interior }),
            }
            met_before = met;
            first += count;
        }
        tiles
    }

    /// Whether the code for a row, which has no loops over taps and none over different columns, is of a reasonable length.
    pub(super) fn is_short(&self) -> bool {
        let taps = |tile: &Columns| -> usize {
            (tile.first..tile.first + tile.count).map(|column| self.taps_inside(column).len().max(1)).sum()
        };
        self.kernel[2] <= MOST_TAPS && self.column_tiles(TILE_WIDTH).iter().map(taps).sum::<usize>() <= MOST_TAPS
    }
}

/// Neighbouring tiles that run the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// First output column.
    pub first: usize,
    /// Columns of one tile.
    pub count: usize,
    /// How many tiles follow each other and run the same code.
    pub repeat: usize,
    /// No tap touches padding.
    pub interior: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: usize, stride: usize, dilation: usize, pad: usize, input: usize, output: usize) -> Window3 {
        let axis = |extent: usize| [1, 1, extent];
        Window3 {
            kernel: axis(kernel),
            stride: axis(stride),
            dilation: axis(dilation),
            pad: [0, 0, pad],
            input: axis(input),
            output: axis(output),
        }
    }

    #[test]
    fn tiles_cover_a_row_and_stand_for_equal_columns() {
        for (window, most) in [
            (row(3, 1, 1, 1, 20, 20), 4),
            (row(3, 1, 1, 4, 20, 65_557), 12),
            (row(5, 2, 3, 6, 30, 15), 12),
            (row(1, 1, 1, 70_000, 1, 140_001), 4),
        ] {
            let tiles = window.column_tiles(4);
            assert!(tiles.len() <= most, "{window:?}: {} tiles", tiles.len());
            let mut next = 0;
            for tile in &tiles {
                assert_eq!(tile.first, next);
                next += tile.count * tile.repeat;
                for column in tile.first..next {
                    let met = |column: usize| (0..window.kernel[2]).map(move |tap| (column, tap));
                    let like = tile.first + (column - tile.first) % tile.count;
                    for ((column, tap), (like, _)) in met(column).zip(met(like)) {
                        let inside = window.column_is_inside(column, tap);
                        assert_eq!(
                            inside,
                            window.column_is_inside(like, tap),
                            "{window:?}, column {column}, tap {tap}"
                        );
                        assert!(inside || !tile.interior);
                    }
                }
            }
            assert_eq!(next, window.output[2]);
            assert!(window.is_short());
        }
        assert!(!row(60_000, 1, 1, 40_000, 20, 20_021).is_short());
        assert!(!row(1500, 1, 1, 1499, 2000, 3499).is_short());
        assert!(row(400, 160, 1, 200, 16_000, 101).is_short());
    }
}
