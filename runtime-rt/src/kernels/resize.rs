//! Interpolation to another size (ONNX Resize), any rank.

use super::{MAX_RANK, strides};

/// Interpolation of Resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub enum ResizeMode {
    /// Nearest element, rounded as told.
    Nearest(NearestRounding),
    /// Multilinear.
    Linear,
}

/// How an output coordinate maps to an input coordinate (ONNX `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "each variant is the ONNX value of the same name")]
pub enum ResizeCoordinates {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// How the nearest element is chosen (ONNX `nearest_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "each variant is the ONNX value of the same name")]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

impl ResizeCoordinates {
    fn original(self, at: usize, scale: f32, input: usize, output: usize) -> f32 {
        let at = at as f32;
        match self {
            ResizeCoordinates::HalfPixel => (at + 0.5) / scale - 0.5,
            ResizeCoordinates::PytorchHalfPixel if output > 1 => (at + 0.5) / scale - 0.5,
            ResizeCoordinates::PytorchHalfPixel => 0.0,
            ResizeCoordinates::AlignCorners if output > 1 => at * (input as f32 - 1.0) / (output as f32 - 1.0),
            ResizeCoordinates::AlignCorners => 0.0,
            // Where the scale is a quotient of sizes it is rounded already: halves would miss the half.
            ResizeCoordinates::Asymmetric if scale == output as f32 / input as f32 => at * input as f32 / output as f32,
            ResizeCoordinates::Asymmetric => at / scale,
        }
    }
}

impl NearestRounding {
    fn round(self, x: f32) -> f32 {
        match self {
            NearestRounding::RoundPreferFloor => libm::ceilf(x - 0.5),
            NearestRounding::RoundPreferCeil => libm::floorf(x + 0.5),
            NearestRounding::Floor => libm::floorf(x),
            NearestRounding::Ceil => libm::ceilf(x),
        }
    }
}

fn advance(index: &mut [usize; MAX_RANK], shape: &[usize]) {
    for (index, extent) in index.iter_mut().zip(shape).rev() {
        *index += 1;
        if *index < *extent {
            return;
        }
        *index = 0;
    }
}

/// Nearest elements (ONNX Resize, mode `nearest`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ResizeNearest<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// Size of the result / size of the input per axis, as the model gives it.
    pub scales: &'a [f32],
    /// Coordinate mapping.
    pub coordinates: ResizeCoordinates,
    /// Which element is nearest.
    pub rounding: NearestRounding,
}

impl ResizeNearest<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        nearest(x, y, [self.x_shape, self.y_shape], self.scales, self.coordinates, self.rounding);
    }
}

fn nearest<T: Copy>(
    x: &[T],
    y: &mut [T],
    [x_shape, y_shape]: [&[usize]; 2],
    scales: &[f32],
    coordinates: ResizeCoordinates,
    rounding: NearestRounding,
) {
    let own = strides(x_shape);
    let mut index = [0usize; MAX_RANK];
    for out in y {
        let mut position = 0;
        for ((at, scale), ((input, output), stride)) in
            index.iter().zip(scales).zip(x_shape.iter().zip(y_shape).zip(&own))
        {
            let original = rounding.round(coordinates.original(*at, *scale, *input, *output));
            let last = input.saturating_sub(1);
            position += if original <= 0.0 { 0 } else { (original as usize).min(last) } * stride;
        }
        if let Some(element) = x.get(position) {
            *out = *element;
        }
        advance(&mut index, y_shape);
    }
}

/// Multilinear interpolation along every axis whose scale is not 1 (ONNX Resize, mode `linear`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ResizeLinear<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// Size of the result / size of the input per axis, as the model gives it.
    pub scales: &'a [f32],
    /// Coordinate mapping.
    pub coordinates: ResizeCoordinates,
}

impl ResizeLinear<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        linear(x, y, self.x_shape, self.y_shape, self.scales, self.coordinates);
    }
}

fn linear(
    x: &[f32],
    y: &mut [f32],
    x_shape: &[usize],
    y_shape: &[usize],
    scales: &[f32],
    coordinates: ResizeCoordinates,
) {
    let own = strides(x_shape);
    let rank = x_shape.len().min(MAX_RANK);
    let mut index = [0usize; MAX_RANK];
    for out in y {
        // Per axis the two neighbours' positions and the weight of the second.
        let mut low = [0usize; MAX_RANK];
        let mut high = [0usize; MAX_RANK];
        let mut weight = [0.0f32; MAX_RANK];
        let slots = low.iter_mut().zip(&mut high).zip(&mut weight);
        let axes = index.iter().zip(scales).zip(x_shape.iter().zip(y_shape).zip(&own));
        for (((low, high), weight), ((at, scale), ((input, output), stride))) in slots.zip(axes) {
            let last = input.saturating_sub(1);
            let original = coordinates.original(*at, *scale, *input, *output).clamp(0.0, last as f32);
            let floor = original as usize;
            *low = floor * stride;
            *high = (floor + 1).min(last) * stride;
            *weight = original - floor as f32;
        }
        let mut sum = 0.0;
        for corner in 0..1usize << rank {
            let mut position = 0;
            let mut share = 1.0;
            for axis in 0..rank {
                if corner >> axis & 1 == 1 {
                    position += high[axis];
                    share *= weight[axis];
                } else {
                    position += low[axis];
                    share *= 1.0 - weight[axis];
                }
            }
            if share != 0.0 {
                sum += share * x.get(position).copied().unwrap_or(0.0);
            }
        }
        *out = sum;
        advance(&mut index, y_shape);
    }
}
