//! What candle lacks on a CPU: a convolution, its normalisation and ReLU as one operation with its gradient, so that what
//! is between them goes through memory as seldom as possible.
//!
//! Activations are `[samples, rows, columns, channels]`: channels lie side by side, so that loops over them are vectors
//! and a pointwise convolution is a matrix product.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail};
use multiversion::multiversion;

use super::linear::Linear;

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
///
/// Operands: `[samples, rows, columns, channels]`, and what is learned: the weights, one row per term, then a row of scales
/// and one of offsets. As a [`CustomOp3`] it adds a third operand of the result's shape before the ReLU.
#[derive(Clone, Default)]
pub struct Stage {
    linear: Linear,
    made: Arc<Mutex<Made>>,
}

/// What the way forward leaves for the way back.
#[derive(Default)]
struct Made {
    /// What is normalised.
    sums: Vec<f32>,
    statistics: Statistics,
}

impl Stage {
    /// A stage that has seen nothing.
    pub fn new(linear: Linear) -> Stage {
        Stage { linear, made: Arc::default() }
    }

    /// Statistics of what the last way forward has normalised.
    pub fn statistics(&self) -> Statistics {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).statistics.clone()
    }

    fn forward(
        &self,
        x: &[f32],
        shape: &Shape,
        learned: &[f32],
        terms: &Shape,
        added: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (samples, rows, columns, inputs) = shape.dims4()?;
        let (terms, outputs) = terms.dims2()?;
        let [rows, columns] = self.linear.output([rows, columns]);
        let shape: Shape = (samples, rows, columns, outputs).into();
        if terms < 2 || added.is_some_and(|added| added.len() != shape.elem_count()) {
            bail!("operands of a stage do not fit each other")
        }
        let (weights, scales) = learned.split_at(learned.len() - 2 * outputs);
        let sums = self.linear.forward(x, weights, inputs, outputs);
        let statistics = Statistics::of(&sums, outputs);
        let (scale, offset) = scales.split_at(outputs);
        let factors: Vec<f32> = statistics.scales().iter().zip(scale).map(|(a, b)| a * b).collect();
        let addends: Vec<f32> =
            offset.iter().zip(&statistics.mean).zip(&factors).map(|((offset, mean), f)| offset - mean * f).collect();
        let y = match added {
            None => scaled(&sums, &factors, &addends),
            Some(added) => scaled_and_added(&sums, &factors, &addends, added),
        };
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Made { sums, statistics };
        Ok((CpuStorage::F32(y), shape))
    }

    /// Gradients by the input and by what is learned, and before the ReLU.
    fn backward(&self, x: &Tensor, learned: &Tensor, y: &Tensor, slope: &Tensor) -> Result<[Tensor; 3]> {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let (_, _, _, inputs) = x.dims4()?;
        let (_, outputs) = learned.dims2()?;
        let slope = slope.contiguous()?;
        let Made { mut sums, statistics } = made;
        let [x_cells, learned_cells, y_cells, slope_cells] = [x, learned, y, &slope].map(Tensor::storage_and_layout);
        let (weights, scales) = {
            let learned = elements(&learned_cells.0, learned_cells.1)?;
            learned.split_at(learned.len() - 2 * outputs)
        };
        let (y_elements, slope_elements) = (elements(&y_cells.0, y_cells.1)?, elements(&slope_cells.0, slope_cells.1)?);
        if [y_elements.len(), slope_elements.len()] != [sums.len(); 2] {
            bail!("a stage goes back another way than it came")
        }
        let passed = passed(y_elements, slope_elements);
        let to_scales = normalize_back(&mut sums, &passed, &scales[..outputs], &statistics.mean, &statistics.scales());
        let x_elements = elements(&x_cells.0, x_cells.1)?;
        let (to_x, mut to_learned) = self.linear.backward(x_elements, weights, &sums, inputs, outputs);
        to_learned.extend(to_scales);
        Ok([
            Tensor::from_vec(to_x, x.shape(), &Device::Cpu)?,
            Tensor::from_vec(to_learned, learned.shape(), &Device::Cpu)?,
            Tensor::from_vec(passed, y.shape(), &Device::Cpu)?,
        ])
    }
}

/// Elements of a tensor, which must be contiguous.
fn elements<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => cpu_elements(storage, layout),
        _ => bail!("expected elements in memory"),
    }
}

fn cpu_elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&all[from..to]),
        _ => bail!("expected contiguous f32 elements"),
    }
}

/// `max(0, x * factors + addends)`, row by row.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scaled(x: &[f32], factors: &[f32], addends: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (x, y) in x.chunks_exact(factors.len()).zip(y.chunks_exact_mut(factors.len())) {
        for (((y, x), factor), addend) in y.iter_mut().zip(x).zip(factors).zip(addends) {
            *y = (x * factor + addend).max(0.0);
        }
    }
    y
}

/// `max(0, added + x * factors + addends)`, row by row.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scaled_and_added(x: &[f32], factors: &[f32], addends: &[f32], added: &[f32]) -> Vec<f32> {
    let mut y = added.to_vec();
    for (x, y) in x.chunks_exact(factors.len()).zip(y.chunks_exact_mut(factors.len())) {
        for (((y, x), factor), addend) in y.iter_mut().zip(x).zip(factors).zip(addends) {
            *y = (*y + x * factor + addend).max(0.0);
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

impl CustomOp2 for Stage {
    fn name(&self) -> &'static str {
        "stage"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        shape: &Layout,
        learned: &CpuStorage,
        terms: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, learned) = (cpu_elements(x, shape)?, cpu_elements(learned, terms)?);
        self.forward(x, shape.shape(), learned, terms.shape(), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        learned: &Tensor,
        y: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [to_x, to_learned, _] = self.backward(x, learned, y, slope)?;
        Ok((Some(to_x), Some(to_learned)))
    }
}

impl CustomOp3 for Stage {
    fn name(&self) -> &'static str {
        "stage-and-sum"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        shape: &Layout,
        learned: &CpuStorage,
        terms: &Layout,
        added: &CpuStorage,
        like: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, learned) = (cpu_elements(x, shape)?, cpu_elements(learned, terms)?);
        self.forward(x, shape.shape(), learned, terms.shape(), Some(cpu_elements(added, like)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        learned: &Tensor,
        _: &Tensor,
        y: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [to_x, to_learned, to_added] = self.backward(x, learned, y, slope)?;
        Ok((Some(to_x), Some(to_learned), Some(to_added)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::exits::heads::Chance;
    use crate::exits::network::linear::Depthwise;

    fn random(chance: &mut Chance, shape: impl Into<Shape>) -> Var {
        let shape = shape.into();
        let elements: Vec<f32> = (0..shape.elem_count()).map(|_| chance.unit() * 2.0 - 1.0).collect();
        Var::from_tensor(&Tensor::from_vec(elements, shape, &Device::Cpu).expect("it fits")).expect("a variable")
    }

    /// The gradient that is claimed against differences of the function.
    fn check(variables: &[Var], function: &dyn Fn() -> Tensor) {
        let mut chance = Chance(7);
        let direction = random(&mut chance, function().shape());
        let value =
            || (function() * direction.as_tensor()).and_then(|x| x.sum_all()).and_then(|x| x.to_scalar::<f32>());
        let slopes =
            (function() * direction.as_tensor()).and_then(|x| x.sum_all()).and_then(|x| x.backward()).expect("slopes");
        for variable in variables {
            let claimed = slopes.get(variable).expect("a slope").flatten_all().and_then(|x| x.to_vec1::<f32>());
            let claimed = claimed.expect("elements");
            let old = variable.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("elements");
            for index in (0..old.len()).step_by(old.len() / 7 + 1) {
                let at = |shift: f32| {
                    let mut moved = old.clone();
                    moved[index] += shift;
                    variable.set(&Tensor::from_vec(moved, variable.shape(), &Device::Cpu)?)?;
                    value()
                };
                let (high, low) = (at(1e-2).expect("a value"), at(-1e-2).expect("a value"));
                at(0.0).expect("a value");
                let seen = (high - low) / 2e-2;
                assert!((seen - claimed[index]).abs() < 2e-2 * (1.0 + seen.abs()), "{seen} {}", claimed[index]);
            }
        }
    }

    /// Parameters of a stage: weights, scales, and offsets at which nearly all channels are either cut off or not; differences
    /// across the edge would say nothing.
    fn learned(chance: &mut Chance, terms: usize, channels: usize) -> Var {
        let mut elements: Vec<f32> = (0..(terms + 1) * channels).map(|_| chance.unit() * 2.0 - 1.0).collect();
        elements.extend((0..channels).map(|channel| if channel == 1 { -9.0 } else { 9.0 }));
        let tensor = Tensor::from_vec(elements, (terms + 2, channels), &Device::Cpu);
        tensor.and_then(|tensor| Var::from_tensor(&tensor)).expect("parameters")
    }

    #[test]
    fn gradients_are_what_differences_say() {
        let mut chance = Chance(1);
        for (kernel, stride, space) in [([3, 3], [1, 1], [4, 5]), ([3, 3], [2, 1], [5, 4]), ([1, 3], [1, 2], [1, 9])] {
            let x = random(&mut chance, (2, space[0], space[1], 3));
            let parameters = learned(&mut chance, kernel[0] * kernel[1], 3);
            let stage = Stage::new(Linear::depthwise(Depthwise { kernel, stride }, space, 3));
            check(&[x.clone(), parameters.clone()], &|| x.apply_op2(&parameters, stage.clone()).expect("it fits"));
        }
        let (x, parameters) = (random(&mut chance, (2, 2, 3, 5)), learned(&mut chance, 5, 4));
        let added = random(&mut chance, (2, 2, 3, 4));
        let stage = Stage::default();
        check(&[x.clone(), parameters.clone()], &|| x.apply_op2(&parameters, stage.clone()).expect("it fits"));
        check(&[x.clone(), parameters.clone(), added.clone()], &|| {
            x.apply_op3(&parameters, &added, stage.clone()).expect("it fits")
        });
    }

    #[test]
    fn large_means_do_not_drown_variances() {
        let x: Vec<f32> = (0..4000).map(|index| 3000.0 + [0.5, -0.5][index / 2 % 2] + (index % 2) as f32).collect();
        let Statistics { mean, variance } = Statistics::of(&x, 2);
        assert!((mean[0] - 3000.0).abs() < 1e-3 && (mean[1] - 3001.0).abs() < 1e-3, "{mean:?}");
        assert!(variance.iter().all(|variance| (variance - 0.25).abs() < 1e-4), "{variance:?}");
    }
}
