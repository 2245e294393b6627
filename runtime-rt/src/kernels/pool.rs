//! Pooling, 1 to 3 spatial dimensions.

use super::conv::spatial;
use super::sum::{Fold, LANES, Largest, Sums, largest, sum};

/// Window of a pooling; arrays as in [`super::ConvParameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolParameters {
    /// Extent of the window.
    pub kernel: [usize; 3],
    /// Step of the window.
    pub stride: [usize; 3],
    /// Distance between taps.
    pub dilation: [usize; 3],
    /// Elements before the first.
    pub pad_begin: [usize; 3],
    /// Elements after the last that the model declared (not those that `ceil_mode` adds).
    pub pad_end: [usize; 3],
    /// Whether declared pads count in an average.
    pub count_include_pad: bool,
}

/// Calls `each(output, taps inside the input, taps inside the declared pads)` for every output of one plane.
fn windows(
    input: [usize; 3],
    output: [usize; 3],
    parameters: &PoolParameters,
    mut each: impl FnMut(usize, &mut dyn Iterator<Item = usize>, usize),
) {
    let axis = |axis: usize, at: usize| {
        let first = at * parameters.stride[axis];
        let dilation = parameters.dilation[axis];
        let pad = parameters.pad_begin[axis];
        (0..parameters.kernel[axis])
            .map(move |tap| first + tap * dilation)
            .filter_map(move |padded| padded.checked_sub(pad).filter(|index| *index < input[axis]))
    };
    let declared = |axis: usize, at: usize| {
        let end = input[axis] + parameters.pad_begin[axis] + parameters.pad_end[axis];
        let first = at * parameters.stride[axis];
        (0..parameters.kernel[axis]).filter(|tap| first + tap * parameters.dilation[axis] < end).count()
    };
    let mut index = 0;
    for d in 0..output[0] {
        for h in 0..output[1] {
            for w in 0..output[2] {
                let mut taps = axis(0, d).flat_map(|i_d| {
                    axis(1, h).flat_map(move |i_h| axis(2, w).map(move |i_w| (i_d * input[1] + i_h) * input[2] + i_w))
                });
                each(index, &mut taps, declared(0, d) * declared(1, h) * declared(2, w));
                index += 1;
            }
        }
    }
}

/// ONNX MaxPool. `x` `[N, C, spatial]`.
pub fn max_pool(x: &[f32], x_shape: &[usize], y: &mut [f32], y_shape: &[usize], parameters: &PoolParameters) {
    let (_, _, input) = spatial(x_shape);
    let (_, _, output) = spatial(y_shape);
    let (in_plane, out_plane) = (input.iter().product::<usize>(), output.iter().product::<usize>());
    for (x, y) in x.chunks_exact(in_plane.max(1)).zip(y.chunks_exact_mut(out_plane.max(1))) {
        windows(input, output, parameters, |index, taps, _| {
            if let Some(out) = y.get_mut(index) {
                *out = largest(taps.filter_map(|tap| x.get(tap).copied()));
            }
        });
    }
}

/// ONNX AveragePool. `x` `[N, C, spatial]`.
pub fn average_pool(x: &[f32], x_shape: &[usize], y: &mut [f32], y_shape: &[usize], parameters: &PoolParameters) {
    let (_, _, input) = spatial(x_shape);
    let (_, _, output) = spatial(y_shape);
    let (in_plane, out_plane) = (input.iter().product::<usize>(), output.iter().product::<usize>());
    for (x, y) in x.chunks_exact(in_plane.max(1)).zip(y.chunks_exact_mut(out_plane.max(1))) {
        windows(input, output, parameters, |index, taps, declared| {
            let mut inside = 0;
            let sum = sum(taps.filter_map(|tap| x.get(tap).copied()).inspect(|_| inside += 1));
            let count = if parameters.count_include_pad { declared } else { inside };
            if let Some(out) = y.get_mut(index) {
                *out = sum / count.max(1) as f32;
            }
        });
    }
}

/// ONNX GlobalAveragePool: the mean of each `plane` elements.
pub fn global_average_pool(x: &[f32], y: &mut [f32], plane: usize) {
    for (x, out) in x.chunks_exact(plane.max(1)).zip(y) {
        let mut sums = Sums::<LANES>::new();
        sums.add_row(x, |x| x);
        *out = sums.total() / plane as f32;
    }
}

/// ONNX GlobalMaxPool: the largest of each `plane` elements.
pub fn global_max_pool(x: &[f32], y: &mut [f32], plane: usize) {
    for (x, out) in x.chunks_exact(plane.max(1)).zip(y) {
        let mut all = Largest::new();
        all.add_row(x, |x| x);
        *out = all.total();
    }
}
