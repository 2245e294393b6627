//! Pooling, 1 to 3 spatial dimensions.

use super::conv::{Window3, spatial};
use super::sum::{Fold, LANES, Largest, Sums, largest, sum};

/// Maximum or average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "the names say it")]
pub enum PoolKind {
    Max,
    Average,
}

/// Pooling (ONNX MaxPool, AveragePool). Padded elements never win a maximum; an average divides by the taps inside the
/// input, or, with `count_include_pad`, by the taps inside the input or its declared pads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Pool<'a> {
    /// Maximum or average.
    pub kind: PoolKind,
    /// `[N, C, spatial]`
    pub x_shape: &'a [usize],
    /// `[N, C, spatial]`
    pub y_shape: &'a [usize],
    /// Window.
    pub window: Window3,
    /// Elements after the last that the model declared (not those that `ceil_mode` adds).
    pub pad_end: [usize; 3],
    /// Whether declared pads count in an average.
    pub count_include_pad: bool,
}

impl Pool<'_> {
    /// `y` from `x`, of which every channel of every sample is a plane.
    // Inlined where the kind is a constant, so that a program links one of the two.
    #[inline(always)]
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        match self.kind {
            PoolKind::Max => self.largest(x, y),
            PoolKind::Average => self.average(x, y),
        }
    }

    fn largest(&self, x: &[f32], y: &mut [f32]) {
        self.planes(x, y, |x, taps, _| largest(taps.filter_map(|tap| x.get(tap).copied())));
    }

    fn average(&self, x: &[f32], y: &mut [f32]) {
        self.planes(x, y, |x, taps, declared| {
            let mut inside = 0;
            let sum = sum(taps.filter_map(|tap| x.get(tap).copied()).inspect(|_| inside += 1));
            let count = if self.count_include_pad { declared } else { inside };
            sum / count.max(1) as f32
        });
    }

    /// Every output is `each(plane of x, taps inside the input, taps inside the declared pads)`.
    #[inline]
    fn planes(&self, x: &[f32], y: &mut [f32], each: impl Fn(&[f32], &mut dyn Iterator<Item = usize>, usize) -> f32) {
        let (_, _, input) = spatial(self.x_shape);
        let (_, _, output) = spatial(self.y_shape);
        let (in_plane, out_plane) = (input.iter().product::<usize>(), output.iter().product::<usize>());
        for (x, y) in x.chunks_exact(in_plane.max(1)).zip(y.chunks_exact_mut(out_plane.max(1))) {
            self.windows(input, output, |index, taps, declared| {
                if let Some(out) = y.get_mut(index) {
                    *out = each(x, taps, declared);
                }
            });
        }
    }

    /// Calls `each(output, taps inside the input, taps inside the declared pads)` for every output of one plane.
    fn windows(
        &self,
        input: [usize; 3],
        output: [usize; 3],
        mut each: impl FnMut(usize, &mut dyn Iterator<Item = usize>, usize),
    ) {
        let axis = |axis: usize, at: usize| {
            let first = at * self.window.stride[axis];
            let dilation = self.window.dilation[axis];
            let pad = self.window.pad_begin[axis];
            (0..self.window.kernel[axis])
                .map(move |tap| first + tap * dilation)
                .filter_map(move |padded| padded.checked_sub(pad).filter(|index| *index < input[axis]))
        };
        let declared = |axis: usize, at: usize| {
            let end = input[axis] + self.window.pad_begin[axis] + self.pad_end[axis];
            let first = at * self.window.stride[axis];
            (0..self.window.kernel[axis]).filter(|tap| first + tap * self.window.dilation[axis] < end).count()
        };
        let mut index = 0;
        for d in 0..output[0] {
            for h in 0..output[1] {
                for w in 0..output[2] {
                    let mut taps = axis(0, d).flat_map(|i_d| {
                        axis(1, h)
                            .flat_map(move |i_h| axis(2, w).map(move |i_w| (i_d * input[1] + i_h) * input[2] + i_w))
                    });
                    each(index, &mut taps, declared(0, d) * declared(1, h) * declared(2, w));
                    index += 1;
                }
            }
        }
    }
}

/// Maximum or average of all spatial dimensions (ONNX GlobalMaxPool, GlobalAveragePool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct GlobalPool {
    /// Maximum or average.
    pub kind: PoolKind,
    /// Elements of one channel of one sample.
    pub plane: usize,
}

impl GlobalPool {
    /// Each element of `y` from a plane of `x`.
    #[inline(always)]
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        match self.kind {
            PoolKind::Max => self.largest(x, y),
            PoolKind::Average => self.average(x, y),
        }
    }

    fn largest(&self, x: &[f32], y: &mut [f32]) {
        for (x, out) in x.chunks_exact(self.plane.max(1)).zip(y) {
            let mut all = Largest::new();
            all.add_row(x, |x| x);
            *out = all.total();
        }
    }

    fn average(&self, x: &[f32], y: &mut [f32]) {
        for (x, out) in x.chunks_exact(self.plane.max(1)).zip(y) {
            let mut sums = Sums::<LANES>::new();
            sums.add_row(x, |x| x);
            *out = sums.total() / self.plane as f32;
        }
    }
}
