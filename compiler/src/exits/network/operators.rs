//! What candle lacks on a CPU: depthwise convolutions and batch normalisation that do not copy, each with its gradient.
//!
//! Activations are `[samples, rows, columns, channels]`: channels lie side by side, so that loops over them are vectors
//! and a pointwise convolution is a matrix product.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;

/// Added to variances.
pub const EPSILON: f32 = 1e-5;

/// Elements of an operand, which must be contiguous.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&all[from..to]),
        _ => bail!("expected contiguous f32 elements"),
    }
}

/// Adds products of rows of channels, at the places given: of the sum, and of both factors.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn add_products(sums: &mut [f32], first: &[f32], second: &[f32], places: &[[usize; 3]], channels: usize) {
    for [sum, a, b] in places {
        let sum = &mut sums[sum * channels..][..channels];
        let (a, b) = (&first[a * channels..][..channels], &second[b * channels..][..channels]);
        sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
}

/// A depthwise convolution, window `kernel`, padding of half a window on every side.
///
/// Operands: `[samples, rows, columns, channels]` and weights `[kernel rows * kernel columns, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depthwise {
    /// Extent of the window, rows and columns; odd.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub stride: [usize; 2],
}

/// One row of the window: where it reads, where it writes.
struct Touch {
    input: usize,
    output: usize,
    tap: usize,
}

impl Depthwise {
    /// Rows and columns of the result.
    pub fn output(&self, space: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| (space[axis] + 2 * (self.kernel[axis] / 2) - self.kernel[axis]) / self.stride[axis] + 1)
    }

    /// Every pair of an input and an output pixel of one sample that a tap of the window connects.
    fn touches(&self, space: [usize; 2]) -> Vec<Touch> {
        let output = self.output(space);
        let mut found = Vec::new();
        for row in 0..output[0] {
            for column in 0..output[1] {
                for tap in 0..self.kernel[0] * self.kernel[1] {
                    let y = (row * self.stride[0] + tap / self.kernel[1]).wrapping_sub(self.kernel[0] / 2);
                    let x = (column * self.stride[1] + tap % self.kernel[1]).wrapping_sub(self.kernel[1] / 2);
                    if y < space[0] && x < space[1] {
                        found.push(Touch { input: y * space[1] + x, output: row * output[1] + column, tap });
                    }
                }
            }
        }
        found
    }
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, shape: &Layout, w: &CpuStorage, taps: &Layout) -> Result<(CpuStorage, Shape)> {
        let (samples, rows, columns, channels) = shape.shape().dims4()?;
        let (x, w) = (elements(x, shape)?, elements(w, taps)?);
        let output = self.output([rows, columns]);
        let touches = self.touches([rows, columns]);
        let mut sums = vec![0.0; samples * output[0] * output[1] * channels];
        let outputs = sums.chunks_exact_mut(output[0] * output[1] * channels);
        let places: Vec<[usize; 3]> = touches.iter().map(|touch| [touch.output, touch.input, touch.tap]).collect();
        for (sum, x) in outputs.zip(x.chunks_exact(rows * columns * channels)) {
            add_products(sum, x, w, &places, channels);
        }
        Ok((CpuStorage::F32(sums), (samples, output[0], output[1], channels).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, slope: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, rows, columns, _) = x.dims4()?;
        let slope = slope.contiguous()?;
        let to_input = slope.apply_op2_no_bwd(w, &ToInput { forward: *self, space: [rows, columns] })?;
        Ok((Some(to_input), Some(x.apply_op2_no_bwd(&slope, &ToWeights { forward: *self })?)))
    }
}

/// Gradient of [`Depthwise`] by its input: operands are the gradient of its result and the weights.
struct ToInput {
    forward: Depthwise,
    space: [usize; 2],
}

impl CustomOp2 for ToInput {
    fn name(&self) -> &'static str {
        "depthwise-to-input"
    }

    fn cpu_fwd(&self, g: &CpuStorage, shape: &Layout, w: &CpuStorage, taps: &Layout) -> Result<(CpuStorage, Shape)> {
        let (samples, rows, columns, channels) = shape.shape().dims4()?;
        let (g, w) = (elements(g, shape)?, elements(w, taps)?);
        let touches = self.forward.touches(self.space);
        let places: Vec<[usize; 3]> = touches.iter().map(|touch| [touch.input, touch.output, touch.tap]).collect();
        let plane = self.space[0] * self.space[1] * channels;
        let mut sums = vec![0.0; samples * plane];
        for (sum, g) in sums.chunks_exact_mut(plane).zip(g.chunks_exact(rows * columns * channels)) {
            add_products(sum, g, w, &places, channels);
        }
        Ok((CpuStorage::F32(sums), (samples, self.space[0], self.space[1], channels).into()))
    }
}

/// Gradient of [`Depthwise`] by its weights: operands are its input and the gradient of its result.
struct ToWeights {
    forward: Depthwise,
}

impl CustomOp2 for ToWeights {
    fn name(&self) -> &'static str {
        "depthwise-to-weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, shape: &Layout, g: &CpuStorage, slopes: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, rows, columns, channels) = shape.shape().dims4()?;
        let (x, g) = (elements(x, shape)?, elements(g, slopes)?);
        let output = self.forward.output([rows, columns]);
        let touches = self.forward.touches([rows, columns]);
        let places: Vec<[usize; 3]> = touches.iter().map(|touch| [touch.tap, touch.input, touch.output]).collect();
        let taps = self.forward.kernel[0] * self.forward.kernel[1];
        let mut sums = vec![0.0; taps * channels];
        let outputs = g.chunks_exact(output[0] * output[1] * channels);
        for (x, g) in x.chunks_exact(rows * columns * channels).zip(outputs) {
            add_products(&mut sums, x, g, &places, channels);
        }
        Ok((CpuStorage::F32(sums), (taps, channels).into()))
    }
}

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

    /// One over the deviation of each channel.
    fn scales(&self) -> Vec<f32> {
        self.variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect()
    }

    /// Moves towards others by a share.
    fn follow(&mut self, other: &Statistics, share: f32) {
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

/// Mean and variance of each channel of rows.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn moments(x: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = (x.len() / channels.max(1)).max(1) as f32;
    let mut mean = vec![0.0f32; channels];
    for row in x.chunks_exact(channels) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    mean.iter_mut().for_each(|mean| *mean /= rows);
    let mut variance = vec![0.0f32; channels];
    for row in x.chunks_exact(channels) {
        variance.iter_mut().zip(row).zip(&mean).for_each(|((variance, x), mean)| *variance += (x - mean).powi(2));
    }
    variance.iter_mut().for_each(|variance| *variance /= rows);
    (mean, variance)
}

/// Batch normalisation (Ioffe and Szegedy 2015) by the statistics of the batch, then ReLU.
///
/// Operands: `[.., channels]`, and `[2, channels]`: scales and offsets. As a [`CustomOp3`] it adds a third operand of the
/// first's shape before the ReLU.
#[derive(Clone, Debug)]
pub struct Normalize {
    /// What the statistics were lately, for the time after training.
    pub lately: Arc<Mutex<Statistics>>,
    /// Those of this batch, once they are known.
    pub batch: Arc<Mutex<Statistics>>,
}

/// Share by which [`Normalize::lately`] follows each batch.
const FOLLOW: f32 = 0.05;

impl Normalize {
    fn forward(&self, x: &[f32], parameters: &[f32], added: Option<&[f32]>) -> Vec<f32> {
        let (scale, offset) = parameters.split_at(parameters.len() / 2);
        let statistics = Statistics::of(x, scale.len());
        let factors: Vec<f32> = statistics.scales().iter().zip(scale).map(|(a, b)| a * b).collect();
        let addends: Vec<f32> =
            offset.iter().zip(&statistics.mean).zip(&factors).map(|((offset, mean), f)| offset - mean * f).collect();
        let mut y = added.map_or_else(|| vec![0.0; x.len()], <[f32]>::to_vec);
        scale_rows(x, &factors, &addends, &mut y);
        self.lately.lock().unwrap_or_else(PoisonError::into_inner).follow(&statistics, FOLLOW);
        *self.batch.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
        y
    }

    /// Gradients by the input, by the parameters, and before the ReLU.
    fn backward(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        y: &Tensor,
        slope: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let slope = y.apply_op2_no_bwd(&slope.contiguous()?, &Passed)?;
        let statistics = self.batch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let packed = x.apply_op3_no_bwd(&slope, parameters, &NormalizeBack { statistics })?;
        let to_x = packed.narrow(0, 0, x.elem_count())?.reshape(x.shape())?;
        let to_parameters = packed.narrow(0, x.elem_count(), parameters.elem_count())?.reshape(parameters.shape())?;
        Ok((to_x, to_parameters, slope))
    }
}

/// `y = max(0, y + x * factors + addends)`, row by row.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scale_rows(x: &[f32], factors: &[f32], addends: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(factors.len()).zip(y.chunks_exact_mut(factors.len())) {
        for (((y, x), factor), addend) in y.iter_mut().zip(x).zip(factors).zip(addends) {
            *y = (*y + x * factor + addend).max(0.0);
        }
    }
}

impl CustomOp2 for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, shape: &Layout, p: &CpuStorage, two: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(elements(x, shape)?, elements(p, two)?, None);
        Ok((CpuStorage::F32(y), shape.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, p: &Tensor, y: &Tensor, slope: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_parameters, _) = self.backward(x, p, y, slope)?;
        Ok((Some(to_x), Some(to_parameters)))
    }
}

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        "normalize-and-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        shape: &Layout,
        p: &CpuStorage,
        two: &Layout,
        added: &CpuStorage,
        like: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(elements(x, shape)?, elements(p, two)?, Some(elements(added, like)?));
        Ok((CpuStorage::F32(y), shape.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        added: &Tensor,
        y: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_parameters, slope) = self.backward(x, p, y, slope)?;
        Ok((Some(to_x), Some(to_parameters), Some(slope.reshape(added.shape())?)))
    }
}

/// A gradient where a ReLU has let something pass. Operands: the ReLU's result, the gradient behind it.
struct Passed;

impl CustomOp2 for Passed {
    fn name(&self) -> &'static str {
        "passed"
    }

    fn cpu_fwd(&self, y: &CpuStorage, shape: &Layout, g: &CpuStorage, like: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, g) = (elements(y, shape)?, elements(g, like)?);
        let passed = y.iter().zip(g).map(|(y, g)| if *y > 0.0 { *g } else { 0.0 }).collect();
        Ok((CpuStorage::F32(passed), shape.shape().clone()))
    }
}

/// Gradients of a normalisation by its input and parameters, one behind the other. Operands: its input, the gradient of
/// its result, its parameters.
struct NormalizeBack {
    statistics: Statistics,
}

impl CustomOp3 for NormalizeBack {
    fn name(&self) -> &'static str {
        "normalize-back"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        shape: &Layout,
        slope: &CpuStorage,
        slopes: &Layout,
        p: &CpuStorage,
        two: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, slope, parameters) = (elements(x, shape)?, elements(slope, slopes)?, elements(p, two)?);
        let packed = normalize_back(x, slope, parameters, &self.statistics.mean, &self.statistics.scales());
        let count = packed.len();
        Ok((CpuStorage::F32(packed), count.into()))
    }
}

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn normalize_back(x: &[f32], slope: &[f32], parameters: &[f32], mean: &[f32], inverse: &[f32]) -> Vec<f32> {
    let channels = inverse.len();
    let rows = (x.len() / channels.max(1)).max(1) as f32;
    let (mut to_scale, mut to_offset) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    for (x, slope) in x.chunks_exact(channels).zip(slope.chunks_exact(channels)) {
        for ((((to_scale, to_offset), x), slope), mean) in
            to_scale.iter_mut().zip(&mut to_offset).zip(x).zip(slope).zip(mean)
        {
            *to_offset += slope;
            *to_scale += (x - mean) * slope;
        }
    }
    to_scale.iter_mut().zip(inverse).for_each(|(sum, inverse)| *sum *= inverse);
    // With x' = (x - mean) * inverse: scale * inverse * (slope - mean(slope) - x' * mean(slope * x')).
    let factor: Vec<f32> = parameters.iter().zip(inverse).map(|(scale, inverse)| scale * inverse).collect();
    let pull: Vec<f32> = to_scale.iter().zip(inverse).map(|(sum, inverse)| sum * inverse / rows).collect();
    let rest: Vec<f32> = (0..channels).map(|c| to_offset[c] / rows - pull[c] * mean[c]).collect();
    let mut packed = vec![0.0; x.len() + 2 * channels];
    let rows = packed.chunks_exact_mut(channels).zip(x.chunks_exact(channels).zip(slope.chunks_exact(channels)));
    for (to_x, (x, slope)) in rows {
        let each = to_x.iter_mut().zip(x).zip(slope).zip(&factor).zip(&pull).zip(&rest);
        each.for_each(|(((((to_x, x), slope), factor), pull), rest)| *to_x = factor * (slope - rest - x * pull));
    }
    packed[x.len()..][..channels].copy_from_slice(&to_scale);
    packed[x.len() + channels..].copy_from_slice(&to_offset);
    packed
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::exits::heads::Chance;

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

    #[test]
    fn gradients_are_what_differences_say() {
        let mut chance = Chance(1);
        for (kernel, stride, space) in [([3, 3], [1, 1], [4, 5]), ([3, 3], [2, 1], [5, 4]), ([1, 3], [1, 2], [1, 9])] {
            let x = random(&mut chance, (2, space[0], space[1], 3));
            let w = random(&mut chance, (kernel[0] * kernel[1], 3));
            let op = Depthwise { kernel, stride };
            check(&[x.clone(), w.clone()], &|| x.apply_op2(&w, op).expect("it fits"));
        }
        let [x, added] = [(), ()].map(|()| random(&mut chance, (6, 4)));
        // One channel is cut off, the others are not; differences across the edge would say nothing.
        let parameters = Tensor::new(&[[0.5f32, -0.7, 0.9, 0.4], [5.0, 6.0, -5.0, 7.0]], &Device::Cpu);
        let parameters = parameters.and_then(|tensor| Var::from_tensor(&tensor)).expect("parameters");
        let normalize = || Normalize { lately: Arc::default(), batch: Arc::default() };
        check(&[x.clone(), parameters.clone()], &|| x.apply_op2(&parameters, normalize()).expect("it fits"));
        check(&[x.clone(), parameters.clone(), added.clone()], &|| {
            x.apply_op3(&parameters, &added, normalize()).expect("it fits")
        });
    }
}
