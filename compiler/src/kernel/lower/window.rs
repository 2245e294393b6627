//! What convolutions and pools share: three spatial dimensions, clipped windows, tiles of columns.

use crate::graph::op::Window;
use crate::kernel::{Affine, Bound};

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
        use crate::graph::eval::spatial::three;
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

    /// Cuts the output row into tiles of at most `width` columns.
    pub(super) fn column_tiles(&self, width: usize) -> Vec<Columns> {
        let mut tiles: Vec<Columns> = Vec::new();
        let mut first = 0;
        while first < self.output[2] {
            let count = width.min(self.output[2] - first);
            let interior = self.is_interior(first, count);
            match tiles.last_mut() {
                Some(last) if interior && last.interior && last.count == count => last.repeat += 1,
                _ => tiles.push(Columns { first, count, repeat: 1, interior }),
            }
            first += count;
        }
        tiles
    }
}

/// Neighbouring tiles that run the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// First output column.
    pub first: usize,
    /// Columns of one tile.
    pub count: usize,
    /// How many tiles follow each other; more than one only for interior ones.
    pub repeat: usize,
    /// No tap touches padding.
    pub interior: bool,
}
