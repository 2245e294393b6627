//! Normalisations, inference form.

use super::sum::{Fold, LANES, Sums, sum};

/// `scale * (x - mean) / sqrt(variance + epsilon) + bias` per channel (ONNX BatchNormalization).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BatchNormalization {
    /// Elements of one channel of one sample.
    pub plane: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl BatchNormalization {
    /// `scale`, `bias`, `mean` and `variance` are `[C]`.
    #[expect(clippy::too_many_arguments, reason = "the operands, as emitted programs pass them to every kernel")]
    pub fn run(&self, x: &[f32], scale: &[f32], bias: &[f32], mean: &[f32], variance: &[f32], y: &mut [f32]) {
        let parameters = scale.iter().zip(bias).zip(mean.iter().zip(variance));
        let planes = x.chunks_exact(self.plane.max(1)).zip(y.chunks_exact_mut(self.plane.max(1)));
        for ((x, y), ((scale, bias), (mean, variance))) in planes.zip(parameters.cycle()) {
            let factor = scale / libm::sqrtf(variance + self.epsilon);
            for (out, element) in y.iter_mut().zip(x) {
                *out = (element - mean) * factor + bias;
            }
        }
    }
}

/// The same with statistics of each sample and channel (ONNX InstanceNormalization).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct InstanceNormalization {
    /// Elements of one channel of one sample.
    pub plane: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl InstanceNormalization {
    /// `scale` and `bias` are `[C]`.
    pub fn run(&self, x: &[f32], scale: &[f32], bias: &[f32], y: &mut [f32]) {
        let planes = x.chunks_exact(self.plane.max(1)).zip(y.chunks_exact_mut(self.plane.max(1)));
        for ((x, y), (scale, bias)) in planes.zip(scale.iter().zip(bias).cycle()) {
            let statistics = Statistics::of(x);
            let factor = scale / libm::sqrtf(statistics.variance + self.epsilon);
            for (out, element) in y.iter_mut().zip(x) {
                *out = statistics.centred(*element) * factor + bias;
            }
        }
    }
}

/// The same with statistics of each sample and group of channels (ONNX GroupNormalization-21).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct GroupNormalization {
    /// Channels of one group.
    pub channels: usize,
    /// Elements of one channel of one sample.
    pub plane: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl GroupNormalization {
    /// `scale` and `bias` are `[C]`.
    pub fn run(&self, x: &[f32], scale: &[f32], bias: &[f32], y: &mut [f32]) {
        let (channels, plane) = (self.channels.max(1), self.plane.max(1));
        let groups = x.chunks_exact(channels * plane).zip(y.chunks_exact_mut(channels * plane));
        let parameters = scale.chunks_exact(channels).zip(bias.chunks_exact(channels));
        for ((x, y), (scale, bias)) in groups.zip(parameters.cycle()) {
            let statistics = Statistics::of(x);
            let root = libm::sqrtf(statistics.variance + self.epsilon);
            let planes = x.chunks_exact(plane).zip(y.chunks_exact_mut(plane));
            for ((x, y), (scale, bias)) in planes.zip(scale.iter().zip(bias)) {
                for (out, element) in y.iter_mut().zip(x) {
                    *out = statistics.centred(*element) * (scale / root) + bias;
                }
            }
        }
    }
}

/// The same with statistics of each row, which has as many elements as there are scales (ONNX LayerNormalization).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LayerNormalization {
    /// Added to the variance.
    pub epsilon: f32,
}

impl LayerNormalization {
    /// `scale` and `bias` are one row.
    pub fn run(&self, x: &[f32], scale: &[f32], bias: &[f32], y: &mut [f32]) {
        let width = scale.len().max(1);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let statistics = Statistics::of(x);
            let factor = 1.0 / libm::sqrtf(statistics.variance + self.epsilon);
            for ((out, element), (scale, bias)) in y.iter_mut().zip(x).zip(scale.iter().zip(bias)) {
                *out = statistics.centred(*element) * factor * scale + bias;
            }
        }
    }
}

/// `x / (bias + alpha / size * sum of squares)^beta` over `size` neighbouring channels (ONNX LRN).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Lrn {
    /// Channels of one sample.
    pub channels: usize,
    /// Elements of one channel of one sample.
    pub plane: usize,
    /// Scale.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Constant.
    pub bias: f32,
    /// Number of channels in the window.
    pub size: usize,
}

impl Lrn {
    /// `y` from `x`, of which every channel of every sample is a plane.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let (channels, plane) = (self.channels.max(1), self.plane.max(1));
        let before = self.size.saturating_sub(1) / 2;
        let after = self.size.saturating_sub(1) - before;
        for (x, y) in x.chunks_exact(channels * plane).zip(y.chunks_exact_mut(channels * plane)) {
            for (channel, out) in y.chunks_exact_mut(plane).enumerate() {
                let first = channel.saturating_sub(before);
                let last = (channel + after).min(channels - 1);
                for (position, out) in out.iter_mut().enumerate() {
                    let at = |channel: usize| x.get(channel * plane + position).copied().unwrap_or(0.0);
                    let squares = sum((first..=last).map(|channel| at(channel) * at(channel)));
                    *out = at(channel) / libm::powf(self.bias + self.alpha / self.size as f32 * squares, self.beta);
                }
            }
        }
    }
}

fn total(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    let mut sums = Sums::<LANES>::new();
    sums.add_row(x, map);
    sums.total()
}

/// How elements are brought to mean 0 and variance 1.
struct Statistics {
    /// The mean, rounded.
    mean: f32,
    /// What the mean of the differences to it says that it lacks: elements around 1000 that differ by thousandths have a mean
    /// that no `f32` is near enough to.
    rest: f32,
    variance: f32,
}

impl Statistics {
    fn of(x: &[f32]) -> Statistics {
        let count = x.len().max(1) as f32;
        let mean = total(x, |x| x) / count;
        let rest = total(x, |x| x - mean) / count;
        let squares = total(x, |x| {
            let difference = (x - mean) - rest;
            difference * difference
        });
        Statistics { mean, rest, variance: squares / count }
    }

    /// An element less the mean.
    #[inline(always)]
    fn centred(&self, x: f32) -> f32 {
        (x - self.mean) - self.rest
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// Many elements around 1000 that differ by little: mean and variance as `f64` has them.
    #[test]
    fn statistics_of_long_rows() {
        for (count, spread) in [(5, 0.01), (1000, 1.0), (if cfg!(miri) { 5000 } else { 1 << 20 }, 0.1)] {
            let x: Vec<f32> = (0..count as u32)
                .map(|index| 1000.0 + (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 * spread)
                .collect();
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count as f64;
            let mut y = vec![0.0; count];
            let (one, zero) = (vec![1.0; count], vec![0.0; count]);
            for rows in [false, true] {
                match rows {
                    true => LayerNormalization { epsilon: 1e-9 }.run(&x, &one, &zero, &mut y),
                    false => InstanceNormalization { plane: count, epsilon: 1e-9 }.run(&x, &[1.0], &[0.0], &mut y),
                }
                for (found, x) in y.iter().zip(&x) {
                    let expected = (f64::from(*x) - mean) / (variance + 1e-9).sqrt();
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "{found}, expected {expected}, of {count}");
                }
            }
        }
    }
}
