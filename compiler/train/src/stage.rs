//! A convolution, its normalisation and ReLU as one operation with its gradient, so that what is between them goes through
//! memory as seldom as possible.
//!
//! Activations are `[samples, rows, columns, channels]`: channels lie side by side, so that loops over them are vectors
//! and a pointwise convolution is a matrix product.

use multiversion::multiversion;

use crate::linear::Linear;

/// Added to variances.
pub const EPSILON: f32 = 1e-5;

/// Mean and variance of each channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Means.
    pub mean: Vec<f32>,
    /// Variances.
    pub variance: Vec<f32>,
}

impl Statistics {
    /// Of rows of channels.
    fn of(x: &[f32], channels: usize) -> Statistics {
        let (mean, variance) = moments(x, channels);
        Statistics { mean, variance }
    }

    /// The mean of several.
    pub fn mean_of(all: &[&Statistics]) -> Statistics {
        let mut mean = Statistics::default();
        for (index, statistics) in all.iter().enumerate() {
            mean.follow(statistics, 1.0 / (index + 1) as f32);
        }
        mean
    }

    /// One over the deviation of each channel.
    fn scales(&self) -> Vec<f32> {
        self.variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect()
    }

    /// Moves towards others by a share.
    pub fn follow(&mut self, other: &Statistics, share: f32) {
        if self.mean.is_empty() {
            *self = other.clone();
        }
        let pairs = |known: &mut [f32], new: &[f32]| {
            known.iter_mut().zip(new).for_each(|(known, new)| *known += share * (new - *known));
        };
        pairs(&mut self.mean, &other.mean);
        pairs(&mut self.variance, &other.variance);
    }
}

/// Mean and variance of each channel of rows, in one pass: deviations are from the first row, so that large means do not
/// drown them.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn moments(x: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = (x.len() / channels.max(1)).max(1) as f32;
    let first: Vec<f32> = x.iter().take(channels).copied().collect();
    let (mut mean, mut variance) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    for row in x.chunks_exact(channels) {
        for (((mean, variance), x), first) in mean.iter_mut().zip(&mut variance).zip(row).zip(&first) {
            let deviation = x - first;
            *mean += deviation;
            *variance += deviation * deviation;
        }
    }
    for ((mean, variance), first) in mean.iter_mut().zip(&mut variance).zip(&first) {
        let shift = *mean / rows;
        *variance = (*variance / rows - shift * shift).max(0.0);
        *mean = first + shift;
    }
    (mean, variance)
}

/// A convolution, then batch normalisation (Ioffe and Szegedy 2015) by the statistics of the samples, then ReLU.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// The convolution.
    pub linear: &'a Linear,
    /// Channels that come in.
    pub inputs: usize,
    /// Channels that go out.
    pub outputs: usize,
    /// What is learned: the weights, one row of `outputs` per term, then a row of scales and one of offsets.
    pub learned: &'a [f32],
}

/// What the way forward leaves for the way back.
pub struct Made {
    /// The result, `[samples, rows, columns, channels]`.
    pub y: Vec<f32>,
    /// Of what was normalised.
    pub statistics: Statistics,
    /// What is normalised.
    sums: Vec<f32>,
}

/// Gradients of a stage.
pub struct Gradients {
    /// By the input.
    pub x: Vec<f32>,
    /// By what is learned.
    pub learned: Vec<f32>,
    /// By what is added before the ReLU.
    pub added: Vec<f32>,
}

impl Stage<'_> {
    /// The weights; scales and offsets.
    fn parts(&self) -> (&[f32], &[f32]) {
        self.learned.split_at(self.learned.len() - 2 * self.outputs)
    }

    /// The result for `x`, `[samples, rows, columns, inputs]`; `added`, of the result's shape, is added before the ReLU.
    pub fn forward(&self, x: &[f32], added: Option<&[f32]>) -> Made {
        let (weights, scales) = self.parts();
        let sums = self.linear.forward(x, weights, self.inputs, self.outputs);
        let statistics = Statistics::of(&sums, self.outputs);
        let (scale, offset) = scales.split_at(self.outputs);
        let factors: Vec<f32> = statistics.scales().iter().zip(scale).map(|(a, b)| a * b).collect();
        let partial_sums: Vec<f32> =
            offset.iter().zip(&statistics.mean).zip(&factors).map(|((offset, mean), f)| offset - mean * f).collect();
        let y = match added {
            None => scaled(&sums, &factors, &partial_sums),
            Some(added) => scaled_and_added(&sums, &factors, &partial_sums, added),
        };
        Made { y, statistics, sums }
    }

    /// The way back: `x` is what `forward` was given and `made` what it returned, `slope` the gradient by the result.
    pub fn backward(&self, x: &[f32], made: Made, slope: &[f32]) -> Gradients {
        let (weights, scales) = self.parts();
        let Made { y, statistics, mut sums } = made;
        let added = passed(&y, slope);
        let scale = &scales[..self.outputs];
        let to_scales = normalize_back(&mut sums, &added, scale, &statistics.mean, &statistics.scales());
        let (x, mut learned) = self.linear.backward(x, weights, &sums, self.inputs, self.outputs);
        learned.extend(to_scales);
        Gradients { x, learned, added }
    }
}

/// `max(0, x * factors + partial_sums)`, row by row.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scaled(x: &[f32], factors: &[f32], partial_sums: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (x, y) in x.chunks_exact(factors.len()).zip(y.chunks_exact_mut(factors.len())) {
        for (((y, x), factor), partial_sum) in y.iter_mut().zip(x).zip(factors).zip(partial_sums) {
            *y = (x * factor + partial_sum).max(0.0);
        }
    }
    y
}

/// `max(0, added + x * factors + partial_sums)`, row by row.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scaled_and_added(x: &[f32], factors: &[f32], partial_sums: &[f32], added: &[f32]) -> Vec<f32> {
    let mut y = added.to_vec();
    for (x, y) in x.chunks_exact(factors.len()).zip(y.chunks_exact_mut(factors.len())) {
        for (((y, x), factor), partial_sum) in y.iter_mut().zip(x).zip(factors).zip(partial_sums) {
            *y = (*y + x * factor + partial_sum).max(0.0);
        }
    }
    y
}

/// A gradient where a ReLU has let something pass.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn passed(y: &[f32], slope: &[f32]) -> Vec<f32> {
    y.iter().zip(slope).map(|(y, slope)| if *y > 0.0 { *slope } else { 0.0 }).collect()
}

/// Turns what was normalised into the gradient by it; returns the gradient by scales and offsets.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn normalize_back(x: &mut [f32], slope: &[f32], scales: &[f32], mean: &[f32], inverse: &[f32]) -> Vec<f32> {
    let channels = inverse.len();
    let rows = (x.len() / channels.max(1)).max(1) as f32;
    let mut sums = vec![0.0f32; 2 * channels];
    let (to_scale, to_offset) = sums.split_at_mut(channels);
    for (x, slope) in x.chunks_exact(channels).zip(slope.chunks_exact(channels)) {
        for ((((to_scale, to_offset), x), slope), mean) in
            to_scale.iter_mut().zip(to_offset.iter_mut()).zip(x).zip(slope).zip(mean)
        {
            *to_offset += slope;
            *to_scale += (x - mean) * slope;
        }
    }
    to_scale.iter_mut().zip(inverse).for_each(|(sum, inverse)| *sum *= inverse);
    // With x' = (x - mean) * inverse: scale * inverse * (slope - mean(slope) - x' * mean(slope * x')).
    let factor: Vec<f32> = scales.iter().zip(inverse).map(|(scale, inverse)| scale * inverse).collect();
    let pull: Vec<f32> = to_scale.iter().zip(inverse).map(|(sum, inverse)| sum * inverse / rows).collect();
    let rest: Vec<f32> = (0..channels).map(|c| to_offset[c] / rows - pull[c] * mean[c]).collect();
    for (x, slope) in x.chunks_exact_mut(channels).zip(slope.chunks_exact(channels)) {
        let each = x.iter_mut().zip(slope).zip(&factor).zip(&pull).zip(&rest);
        each.for_each(|((((x, slope), factor), pull), rest)| *x = factor * (slope - rest - *x * pull));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::linear::Depthwise;

    fn random(chance: &mut Chance, count: usize) -> Vec<f32> {
        (0..count).map(|_| chance.unit() * 2.0 - 1.0).collect()
    }

    /// A stage's operands.
    #[derive(Clone)]
    struct Operands {
        x: Vec<f32>,
        learned: Vec<f32>,
        added: Option<Vec<f32>>,
    }

    /// The gradients that are claimed against differences of the function, in one direction of the result.
    fn check(linear: &Linear, [inputs, outputs]: [usize; 2], operands: &Operands) {
        let made = |operands: &Operands| {
            Stage { linear, inputs, outputs, learned: &operands.learned }
                .forward(&operands.x, operands.added.as_deref())
        };
        let first = made(operands);
        let direction = random(&mut Chance::new(7), first.y.len());
        let value =
            |operands: &Operands| made(operands).y.iter().zip(&direction).map(|(y, to)| f64::from(y * to)).sum::<f64>();
        let stage = Stage { linear, inputs, outputs, learned: &operands.learned };
        let claimed = stage.backward(&operands.x, first, &direction);
        type Pick = fn(&mut Operands) -> &mut [f32];
        let by: [(&[f32], Pick); 3] = [
            (&claimed.x, |operands| &mut operands.x),
            (&claimed.learned, |operands| &mut operands.learned),
            (&claimed.added, |operands| operands.added.as_deref_mut().unwrap_or_default()),
        ];
        for (claimed, pick) in by {
            let mut moved = operands.clone();
            let count = pick(&mut moved).len();
            for index in (0..count).step_by(count / 7 + 1) {
                let at = |shift: f32| {
                    let mut moved = operands.clone();
                    pick(&mut moved)[index] += shift;
                    value(&moved)
                };
                let seen = ((at(1e-2) - at(-1e-2)) / 2e-2) as f32;
                assert!((seen - claimed[index]).abs() < 2e-2 * (1.0 + seen.abs()), "{seen} {}", claimed[index]);
            }
        }
    }

    /// Parameters of a stage: weights, scales, and offsets at which nearly all channels are either cut off or not; differences
    /// across the edge would say nothing.
    fn learned(chance: &mut Chance, terms: usize, channels: usize) -> Vec<f32> {
        let mut elements = random(chance, (terms + 1) * channels);
        elements.extend((0..channels).map(|channel| if channel == 1 { -9.0 } else { 9.0 }));
        elements
    }

    #[test]
    fn gradients_are_what_differences_say() {
        let mut chance = Chance::new(1);
        for (kernel, stride, space) in [([3, 3], [1, 1], [4, 5]), ([3, 3], [2, 1], [5, 4]), ([1, 3], [1, 2], [1, 9])] {
            let x = random(&mut chance, 2 * space[0] * space[1] * 3);
            let learned = learned(&mut chance, kernel[0] * kernel[1], 3);
            let linear = Linear::depthwise(Depthwise { kernel, stride }, space, 3);
            check(&linear, [3, 3], &Operands { x, learned, added: None });
        }
        let (x, learned) = (random(&mut chance, 2 * 2 * 3 * 5), learned(&mut chance, 5, 4));
        let added = Some(random(&mut chance, 2 * 2 * 3 * 4));
        for added in [None, added] {
            check(&Linear::Pointwise, [5, 4], &Operands { x: x.clone(), learned: learned.clone(), added });
        }
    }

    #[test]
    fn large_means_do_not_drown_variances() {
        let x: Vec<f32> = (0..4000).map(|index| 3000.0 + [0.5, -0.5][index / 2 % 2] + (index % 2) as f32).collect();
        let Statistics { mean, variance } = Statistics::of(&x, 2);
        assert!((mean[0] - 3000.0).abs() < 1e-3 && (mean[1] - 3001.0).abs() < 1e-3, "{mean:?}");
        assert!(variance.iter().all(|variance| (variance - 0.25).abs() < 1e-4), "{variance:?}");
    }
}
