//! Heads that convolve: separable blocks (depthwise 3x3, then pointwise), average over space, one matrix.
//!
//! They see a tensor as it is, so a head behind the first layers is a small network of its own. It learns from the
//! backbone by distillation (Hinton et al. 2015) on samples that are altered anew each time, as long as is affordable
//! (Beyer et al. 2022, Knowledge distillation: A good teacher is patient and consistent).

pub mod operators;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::ops;

use super::heads::{Chance, Head, Layer, Separable};
use operators::{Depthwise, EPSILON, Normalize, Statistics};

/// Halvings of space, at most.
const LEVELS: usize = 3;

/// Extent of space that is averaged at the end.
const LAST_EXTENT: usize = 4;

/// Scores are divided by this where the head learns from the backbone's.
const SOFTNESS: f64 = 2.0;

/// Weight of labels beside the backbone's opinion.
const LABEL_WEIGHT: f64 = 0.5;

/// Weight decay, and momentum, of the descent.
const DECAY: f64 = 5e-4;
const MOMENTUM: f64 = 0.9;

/// A separable block to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Channels that come in.
    pub inputs: usize,
    /// Channels that go out.
    pub outputs: usize,
    /// The window.
    pub window: Depthwise,
}

impl Block {
    /// Whether the input is added to the result.
    pub fn residual(&self) -> bool {
        self.inputs == self.outputs && self.window.stride == [1, 1]
    }
}

/// What a head that convolves will be like.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// Channels of the tensor.
    pub channels: usize,
    /// Rows and columns of the tensor; one row where space has one dimension.
    pub space: [usize; 2],
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Number of classes.
    pub classes: usize,
}

impl Design {
    /// The widest within so many multiply-adds and bytes of weights; none if even the narrowest needs more, or space is
    /// too small to convolve.
    pub fn within(channels: usize, space: [usize; 2], classes: usize, macs: u64, bytes: u64) -> Option<Design> {
        let widths = (1..=32).map(|width| Design::of(channels, space, classes, 4 * width));
        let small = widths.take_while(|design| design.macs() <= macs && design.weights() * 4 <= bytes);
        small.filter(|design| !design.blocks.is_empty()).last()
    }

    /// Two blocks on each level but the last, wider from level to level.
    fn of(channels: usize, space: [usize; 2], classes: usize, width: usize) -> Design {
        let mut blocks = Vec::new();
        let (mut extent, mut inputs) = (space, channels);
        for level in 1..=LEVELS {
            if extent.iter().all(|extent| *extent <= LAST_EXTENT) {
                break;
            }
            let kernel = extent.map(|extent| if extent > 1 { 3 } else { 1 });
            let window = Depthwise { kernel, stride: extent.map(|extent| if extent > 3 { 2 } else { 1 }) };
            let outputs = 2 * level * width;
            blocks.push(Block { inputs, outputs, window });
            extent = window.output(extent);
            if extent.iter().any(|extent| *extent > LAST_EXTENT) {
                let kernel = extent.map(|extent| if extent > 1 { 3 } else { 1 });
                blocks.push(Block { inputs: outputs, outputs, window: Depthwise { kernel, stride: [1, 1] } });
            }
            inputs = outputs;
        }
        Design { channels, space, blocks, classes }
    }

    /// Multiply-adds.
    pub fn macs(&self) -> u64 {
        let mut space = self.space;
        let mut macs = 0;
        for block in &self.blocks {
            space = block.window.output(space);
            let taps = block.window.kernel.iter().product::<usize>();
            macs += space.iter().product::<usize>() * block.inputs * (taps + block.outputs);
        }
        (macs + self.width() * self.classes) as u64
    }

    /// Weights and biases.
    pub fn weights(&self) -> u64 {
        let of = |block: &Block| {
            let taps = block.window.kernel.iter().product::<usize>();
            block.inputs * (taps + 1) + block.outputs * (block.inputs + 1)
        };
        (self.blocks.iter().map(of).sum::<usize>() + (self.width() + 1) * self.classes) as u64
    }

    /// Channels that are averaged.
    fn width(&self) -> usize {
        self.blocks.last().map_or(self.channels, |block| block.outputs)
    }
}

/// Weights of one part, and what the descent remembers of them.
struct Learned {
    value: Var,
    velocity: Tensor,
    decays: bool,
}

/// Scale and offset behind a convolution.
struct Normalized {
    parameters: usize,
    lately: Arc<Mutex<Statistics>>,
}

/// A head while it learns.
pub struct Network {
    design: Design,
    learned: Vec<Learned>,
    /// Per block: depthwise weights, pointwise weights; and what follows each.
    blocks: Vec<[(usize, Normalized); 2]>,
}

/// What a head learns from in one step.
pub struct Batch {
    /// `[samples, rows, columns, channels]`.
    pub maps: Tensor,
    /// The backbone's scores, `[samples, classes]`.
    pub scores: Tensor,
    /// Labels as probabilities, `[samples, classes]`; zeros for samples without.
    pub labels: Tensor,
}

impl Network {
    /// A head that knows nothing.
    pub fn new(design: Design, seed: u64) -> Result<Network> {
        let mut chance = Chance(seed);
        let mut learned = Vec::new();
        let mut blocks = Vec::with_capacity(design.blocks.len());
        for block in &design.blocks {
            let taps = block.window.kernel.iter().product::<usize>();
            let depthwise = learn(&mut learned, normal(&mut chance, (taps, block.inputs), taps)?, true)?;
            let first = normalized(&mut learned, block.inputs)?;
            let pointwise = normal(&mut chance, (block.inputs, block.outputs), block.inputs)?;
            let pointwise = learn(&mut learned, pointwise, true)?;
            blocks.push([(depthwise, first), (pointwise, normalized(&mut learned, block.outputs)?)]);
        }
        let (width, classes) = (design.width(), design.classes);
        learn(&mut learned, (normal(&mut chance, (width, classes), width)? * 0.3)?, true)?;
        learn(&mut learned, Tensor::zeros(classes, DType::F32, &Device::Cpu)?, false)?;
        Ok(Network { design, learned, blocks })
    }

    fn value(&self, index: usize) -> &Tensor {
        self.learned[index].value.as_tensor()
    }

    /// Normalises, adds something if there is something to add, and cuts off what is negative.
    fn normalize(&self, x: &Tensor, by: &Normalized, added: Option<&Tensor>) -> Result<Tensor> {
        let op = Normalize { lately: by.lately.clone(), batch: Arc::default() };
        match added {
            None => x.apply_op2(self.value(by.parameters), op),
            Some(added) => x.apply_op3(self.value(by.parameters), added, op),
        }
    }

    /// Scores, `[samples, classes]`, while statistics are the batch's own.
    fn forward(&self, maps: &Tensor) -> Result<Tensor> {
        let mut x = maps.clone();
        for (block, [(depthwise, first), (pointwise, second)]) in self.design.blocks.iter().zip(&self.blocks) {
            let y = x.apply_op2(self.value(*depthwise), block.window)?;
            let y = self.normalize(&y, first, None)?;
            let (samples, rows, columns, channels) = y.dims4()?;
            let y = y.reshape((samples * rows * columns, channels))?.matmul(self.value(*pointwise))?;
            let added = block.residual().then_some(&x);
            x = self.normalize(&y, second, added)?.reshape((samples, rows, columns, block.outputs))?;
        }
        let last = self.learned.len() - 2;
        x.flatten(1, 2)?.mean(1)?.matmul(self.value(last))?.broadcast_add(self.value(last + 1))
    }

    /// One step of descent (Nesterov's). Returns the cost before it.
    pub fn step(&mut self, batch: &Batch, rate: f64) -> Result<f32> {
        let samples = batch.maps.dim(0)? as f64;
        let scores = self.forward(&batch.maps)?;
        let opinions = ops::softmax(&(&batch.scores / SOFTNESS)?, 1)?;
        let imitation = (ops::log_softmax(&(&scores / SOFTNESS)?, 1)? * opinions)?.sum_all()?;
        let labels = (ops::log_softmax(&scores, 1)? * &batch.labels)?.sum_all()?;
        // The square of the softness keeps the slopes as large as they are without it.
        let cost = ((imitation * (SOFTNESS * SOFTNESS))? + (labels * LABEL_WEIGHT)?)?.affine(-1.0 / samples, 0.0)?;
        let slopes = cost.backward()?;
        for learned in &mut self.learned {
            let Some(slope) = slopes.get(&learned.value) else { continue };
            let value = learned.value.as_tensor();
            let slope = if learned.decays { (slope + (value * DECAY)?)? } else { slope.clone() };
            let slope = slope.detach();
            learned.velocity = ((&learned.velocity * MOMENTUM)? + &slope)?.detach();
            let step = (slope + (&learned.velocity * MOMENTUM)?)?;
            learned.value.set(&(value - (step * rate)?)?.detach())?;
        }
        cost.to_scalar()
    }

    /// The head, its normalisations folded into weights.
    pub fn head(&self) -> Result<Head> {
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (block, [(depthwise, first), (pointwise, second)]) in self.design.blocks.iter().zip(&self.blocks) {
            let (depthwise, depthwise_bias) = self.folded(*depthwise, first)?;
            let (pointwise, pointwise_bias) = self.folded(*pointwise, second)?;
            blocks.push(Separable { block: *block, depthwise, depthwise_bias, pointwise, pointwise_bias });
        }
        let last = self.learned.len() - 2;
        let weights = self.value(last).t()?.flatten_all()?.to_vec1()?;
        let layers = vec![Layer { weights, bias: self.value(last + 1).to_vec1()? }];
        Ok(Head { space: self.design.space, blocks, layers })
    }

    /// Weights `[inputs or taps, outputs]` and biases with the normalisation behind them.
    fn folded(&self, weights: usize, normalized: &Normalized) -> Result<(Vec<f32>, Vec<f32>)> {
        let lately = normalized.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let parameters = self.value(normalized.parameters).flatten_all()?.to_vec1::<f32>()?;
        let channels = parameters.len() / 2;
        let (scale, offset) = parameters.split_at(channels);
        // A head that has never learned anything has seen no statistics.
        let (means, variances) = match lately.mean.len() {
            0 => (vec![0.0; channels], vec![1.0; channels]),
            _ => (lately.mean.clone(), lately.variance.clone()),
        };
        let factors: Vec<f32> = scale.iter().zip(&variances).map(|(scale, v)| scale / (v + EPSILON).sqrt()).collect();
        let bias = (0..channels).map(|channel| offset[channel] - means[channel] * factors[channel]).collect();
        let mut weights = self.value(weights).flatten_all()?.to_vec1::<f32>()?;
        for row in weights.chunks_exact_mut(channels) {
            row.iter_mut().zip(&factors).for_each(|(weight, factor)| *weight *= factor);
        }
        Ok((weights, bias))
    }

    /// Everything that has been learned, for a file.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        let mut state = Vec::new();
        for learned in &self.learned {
            state.extend([learned.value.as_tensor().clone(), learned.velocity.clone()]);
        }
        for (_, normalized) in self.blocks.iter().flatten() {
            let lately = normalized.lately.lock().unwrap_or_else(PoisonError::into_inner);
            for statistic in [&lately.mean, &lately.variance] {
                state.push(Tensor::new(statistic.as_slice(), &Device::Cpu)?);
            }
        }
        Ok(state)
    }

    /// Continues where a state was taken. An error if it is of another head.
    pub fn restore(&mut self, state: &[Tensor]) -> Result<()> {
        let mut state = state.iter();
        let mut next = || state.next().ok_or_else(|| candle_core::Error::Msg("the state ends early".to_string()));
        for learned in &mut self.learned {
            learned.value.set(next()?)?;
            learned.velocity = next()?.clone();
        }
        for (_, normalized) in self.blocks.iter().flatten() {
            let mut lately = normalized.lately.lock().unwrap_or_else(PoisonError::into_inner);
            (lately.mean, lately.variance) = (next()?.to_vec1()?, next()?.to_vec1()?);
        }
        Ok(())
    }
}

fn learn(learned: &mut Vec<Learned>, value: Tensor, decays: bool) -> Result<usize> {
    let velocity = value.zeros_like()?;
    learned.push(Learned { value: Var::from_tensor(&value)?, velocity, decays });
    Ok(learned.len() - 1)
}

fn normalized(learned: &mut Vec<Learned>, channels: usize) -> Result<Normalized> {
    let [ones, zeros] = [1.0f32, 0.0].map(|value| vec![value; channels]);
    let parameters = Tensor::from_vec([ones, zeros].concat(), (2, channels), &Device::Cpu)?;
    Ok(Normalized { parameters: learn(learned, parameters, false)?, lately: Arc::default() })
}

/// Weights that keep the variance of what goes through them and a ReLU (He et al. 2015).
fn normal(chance: &mut Chance, shape: (usize, usize), inputs: usize) -> Result<Tensor> {
    let bound = (6.0 / inputs as f32).sqrt();
    let elements: Vec<f32> = (0..shape.0 * shape.1).map(|_| (chance.unit() * 2.0 - 1.0) * bound).collect();
    Tensor::from_vec(elements, shape, &Device::Cpu)
}

/// What the matrix of a finished head reads of maps `[samples, rows, columns, channels]`: averages over space,
/// `[samples, channels]`.
pub fn averages(blocks: &[Separable], maps: &Tensor) -> Result<Tensor> {
    let mut x = maps.clone();
    for Separable { block, depthwise, depthwise_bias, pointwise, pointwise_bias } in blocks {
        let taps = block.window.kernel.iter().product::<usize>();
        let weights = Tensor::from_slice(depthwise, (taps, block.inputs), &Device::Cpu)?;
        let bias = Tensor::from_slice(depthwise_bias, block.inputs, &Device::Cpu)?;
        let y = x.apply_op2_no_bwd(&weights, &block.window)?.broadcast_add(&bias)?.relu()?;
        let (samples, rows, columns, channels) = y.dims4()?;
        let weights = Tensor::from_slice(pointwise, (block.inputs, block.outputs), &Device::Cpu)?;
        let bias = Tensor::from_slice(pointwise_bias, block.outputs, &Device::Cpu)?;
        let y = y.reshape((samples * rows * columns, channels))?.matmul(&weights)?.broadcast_add(&bias)?;
        let y = y.reshape((samples, rows, columns, block.outputs))?;
        x = if block.residual() { (y + &x)?.relu()? } else { y.relu()? };
    }
    x.flatten(1, 2)?.mean(1)
}

/// Maps `[samples, channels, rows, columns]`, as graphs have them, as heads want them.
pub fn channels_last(maps: &[f32], samples: usize, channels: usize, space: [usize; 2]) -> Result<Tensor> {
    let plane = space[0] * space[1];
    let mut turned = vec![0.0; maps.len()];
    for (from, to) in maps.chunks_exact(channels * plane).zip(turned.chunks_exact_mut(channels * plane)) {
        for (channel, from) in from.chunks_exact(plane).enumerate() {
            from.iter().enumerate().for_each(|(pixel, element)| to[pixel * channels + channel] = *element);
        }
    }
    Tensor::from_vec(turned, (samples, space[0], space[1], channels), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of a vertical or a horizontal bar somewhere: only what convolves and averages tells them apart.
    fn bars(chance: &mut Chance, count: usize) -> Batch {
        let (mut maps, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (at, vertical) = ((chance.unit() * 16.0) as usize, chance.unit() < 0.5);
            let pixels = (0..256).map(|pixel| if vertical { pixel % 16 == at } else { pixel / 16 == at });
            maps.extend(pixels.map(|lit| f32::from(u8::from(lit)) + 0.2 * chance.unit()));
            labels.extend(if vertical { [1.0f32, 0.0] } else { [0.0, 1.0] });
        }
        let labels = Tensor::from_vec(labels, (count, 2), &Device::Cpu).expect("labels");
        let scores = (&labels * 4.0).expect("scores");
        Batch { maps: Tensor::from_vec(maps, (count, 16, 16, 1), &Device::Cpu).expect("maps"), scores, labels }
    }

    fn trained(seed: u64, steps: usize) -> Network {
        let design = Design::within(1, [16, 16], 2, 20_000, u64::MAX).expect("it is wide enough");
        let mut network = Network::new(design, seed).expect("a network");
        let mut chance = Chance(3);
        for step in 0..steps {
            network.step(&bars(&mut chance, 32), 0.05 / (1 + step / 20) as f64).expect("a step");
        }
        network
    }

    #[test]
    fn a_head_learns_what_only_neighbours_show() {
        let head = trained(1, 150).head().expect("a head");
        let Batch { maps, labels, .. } = bars(&mut Chance(99), 200);
        let elements = maps.flatten_all().and_then(|maps| maps.to_vec1::<f32>()).expect("elements");
        let scores = head.scores(&elements, 256, &(0..200).collect::<Vec<_>>());
        let labels = labels.to_vec2::<f32>().expect("labels");
        let right = scores.chunks_exact(2).zip(&labels).filter(|(s, label)| (s[0] > s[1]) == (label[0] > label[1]));
        let right = right.count();
        assert!(right > 190, "{right} of 200");
        assert_eq!(trained(1, 5).head().ok(), trained(1, 5).head().ok(), "the same seed gives the same head");
    }

    #[test]
    fn training_goes_on_where_it_was_taken_down() {
        let whole = trained(1, 6);
        let part = trained(1, 4);
        let mut again = Network::new(part.design.clone(), 77).expect("a network");
        again.restore(&part.state().expect("a state")).expect("the same design");
        let mut chance = Chance(3);
        (0..4).for_each(|_| drop(bars(&mut chance, 32)));
        for _ in 4..6 {
            again.step(&bars(&mut chance, 32), 0.05).expect("a step");
        }
        assert_eq!(again.head().ok(), whole.head().ok());
    }

    #[test]
    fn designs_keep_their_limit() {
        for (channels, space) in [(16, [32, 32]), (64, [25, 5]), (8, [1, 256]), (300, [5, 5]), (3, [7, 1])] {
            for macs in [100_000, 1_000_000, 10_000_000] {
                let Some(design) = Design::within(channels, space, 10, macs, u64::MAX) else { continue };
                assert!(design.macs() <= macs && !design.blocks.is_empty(), "{design:?}");
            }
        }
        assert_eq!(Design::within(16, [32, 32], 10, 1000, u64::MAX), None);
        assert_eq!(Design::within(16, [4, 4], 10, u64::MAX, u64::MAX), None, "there is little to convolve");
    }
}
