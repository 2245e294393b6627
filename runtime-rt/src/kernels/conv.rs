//! Convolution and transposed convolution, 1 to 3 spatial dimensions.

use super::Activation;

/// Window of a convolution or pooling: depth, height, width; unused leading ones are 1 (0 for pads).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Window3 {
    /// Extent of the window.
    pub kernel: [usize; 3],
    /// Step of the window.
    pub stride: [usize; 3],
    /// Distance between taps.
    pub dilation: [usize; 3],
    /// Elements before the first.
    pub pad_begin: [usize; 3],
}

/// Convolution (ONNX Conv-1, -11, -22).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Conv<'a> {
    /// `[N, C, spatial]`
    pub x_shape: &'a [usize],
    /// `[N, M, spatial]`
    pub y_shape: &'a [usize],
    /// Window; padded elements are zero.
    pub window: Window3,
    /// Number of groups.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl Conv<'_> {
    /// `weights` are `[M, C / groups, kernel]`, `bias` `[M]`; `residual`, if any, has the shape of `y` and is added before the
    /// activation.
    pub fn run(&self, x: &[f32], weights: &[f32], bias: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let (batch, channels, [in_d, in_h, in_w]) = spatial(self.x_shape);
        let (_, filters, [out_d, out_h, out_w]) = spatial(self.y_shape);
        let groups = self.groups.max(1);
        let (group_channels, group_filters) = (channels / groups, (filters / groups).max(1));
        let [k_d, k_h, k_w] = self.window.kernel;
        let [s_d, s_h, s_w] = self.window.stride;
        let (in_plane, out_plane) = (in_d * in_h * in_w, out_d * out_h * out_w);
        if out_plane == 0 || in_plane == 0 {
            return;
        }
        for (index, plane) in y.chunks_exact_mut(out_plane).enumerate().take(batch * filters) {
            let (sample, filter) = (index / filters.max(1), index % filters.max(1));
            plane.fill(bias.get(filter).copied().unwrap_or(0.0));
            let first_channel = filter / group_filters * group_channels;
            for channel in 0..group_channels {
                let input = x.chunks_exact(in_plane).nth(sample * channels + first_channel + channel).unwrap_or(&[]);
                let taps = weights.chunks_exact(k_d * k_h * k_w).nth(filter * group_channels + channel).unwrap_or(&[]);
                for (tap, weight) in taps.iter().enumerate() {
                    let (t_d, t_h, t_w) = (
                        tap / (k_h * k_w) * self.window.dilation[0],
                        tap / k_w % k_h * self.window.dilation[1],
                        tap % k_w * self.window.dilation[2],
                    );
                    let [p_d, p_h, p_w] = self.window.pad_begin;
                    let (first, end) = valid_outputs(out_w, in_w, s_w, t_w, p_w);
                    for d in valid(out_d, in_d, s_d, t_d, p_d) {
                        for h in valid(out_h, in_h, s_h, t_h, p_h) {
                            let row = ((d * s_d + t_d - p_d) * in_h + (h * s_h + t_h - p_h)) * in_w;
                            let from = input.get(row + first * s_w + t_w - p_w.min(first * s_w + t_w)..).unwrap_or(&[]);
                            let to = (d * out_h + h) * out_w;
                            let Some(to) = plane.get_mut(to + first..to + end.max(first)) else { continue };
                            for (sum, element) in to.iter_mut().zip(from.iter().step_by(s_w.max(1))) {
                                *sum += element * weight;
                            }
                        }
                    }
                }
            }
        }
        finish(y, residual, self.activation);
    }
}

/// Transposed convolution (ONNX ConvTranspose-1, -11).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ConvTranspose<'a> {
    /// `[N, C, spatial]`
    pub x_shape: &'a [usize],
    /// `[N, M, spatial]`
    pub y_shape: &'a [usize],
    /// Window; pads are cropped from the full result.
    pub window: Window3,
    /// Number of groups.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl ConvTranspose<'_> {
    /// `weights` are `[C, M / groups, kernel]`, `bias` `[M]`.
    pub fn run(&self, x: &[f32], weights: &[f32], bias: &[f32], y: &mut [f32]) {
        let (batch, channels, [in_d, in_h, in_w]) = spatial(self.x_shape);
        let (_, filters, [out_d, out_h, out_w]) = spatial(self.y_shape);
        let groups = self.groups.max(1);
        let (group_channels, group_filters) = ((channels / groups).max(1), filters / groups);
        let [k_d, k_h, k_w] = self.window.kernel;
        let (in_plane, out_plane) = (in_d * in_h * in_w, out_d * out_h * out_w);
        if out_plane == 0 || in_plane == 0 {
            return;
        }
        for (index, plane) in y.chunks_exact_mut(out_plane).enumerate().take(batch * filters) {
            plane.fill(bias.get(index % filters.max(1)).copied().unwrap_or(0.0));
        }
        for (index, input) in x.chunks_exact(in_plane).enumerate().take(batch * channels) {
            let (sample, channel) = (index / channels, index % channels);
            let first_filter = channel / group_channels * group_filters;
            for filter in 0..group_filters {
                let taps = weights.chunks_exact(k_d * k_h * k_w).nth(channel * group_filters + filter).unwrap_or(&[]);
                let plane = (sample * filters + first_filter + filter) * out_plane;
                let Some(plane) = y.get_mut(plane..plane + out_plane) else { continue };
                for (position, element) in input.iter().enumerate() {
                    let at = [position / (in_h * in_w), position / in_w % in_h, position % in_w];
                    for (tap, weight) in taps.iter().enumerate() {
                        let tap = [tap / (k_h * k_w), tap / k_w % k_h, tap % k_w];
                        let to = |axis: usize, extent: usize| {
                            (at[axis] * self.window.stride[axis] + tap[axis] * self.window.dilation[axis])
                                .checked_sub(self.window.pad_begin[axis])
                                .filter(|index| *index < extent)
                        };
                        let (Some(d), Some(h), Some(w)) = (to(0, out_d), to(1, out_h), to(2, out_w)) else { continue };
                        if let Some(sum) = plane.get_mut((d * out_h + h) * out_w + w) {
                            *sum += element * weight;
                        }
                    }
                }
            }
        }
        finish(y, None, self.activation);
    }
}

/// Batch, channels and spatial extents of `[N, C, (D, (H,)) W]`; missing spatial dimensions are 1.
pub(super) fn spatial(shape: &[usize]) -> (usize, usize, [usize; 3]) {
    let mut extents = [1; 3];
    let (outer, inner) = shape.split_at(shape.len().min(2));
    for (slot, extent) in extents.iter_mut().rev().zip(inner.iter().rev()) {
        *slot = *extent;
    }
    (outer.first().copied().unwrap_or(1), outer.get(1).copied().unwrap_or(1), extents)
}

/// Output positions `first..end` whose tap lies inside an input of `extent` elements.
fn valid_outputs(output: usize, extent: usize, stride: usize, tap: usize, pad: usize) -> (usize, usize) {
    // The input index is o * stride + tap - pad and must lie in 0..extent.
    let first = pad.saturating_sub(tap).div_ceil(stride.max(1));
    let end = match (extent + pad).checked_sub(tap) {
        Some(room) => room.div_ceil(stride.max(1)),
        None => 0,
    };
    (first.min(output), end.min(output))
}

fn valid(output: usize, extent: usize, stride: usize, tap: usize, pad: usize) -> core::ops::Range<usize> {
    let (first, end) = valid_outputs(output, extent, stride, tap, pad);
    first..end
}

/// Adds the residual and applies the activation.
fn finish(y: &mut [f32], residual: Option<&[f32]>, activation: Activation) {
    if let Some(residual) = residual {
        for (sum, element) in y.iter_mut().zip(residual) {
            *sum += element;
        }
    }
    for element in y {
        *element = activation.apply(*element);
    }
}
