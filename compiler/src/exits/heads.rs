//! Heads: small classifiers on the frozen backbone's features, trained with candle; those that see averages here, those
//! that convolve in `network`.
//!
//! Features are scaled to mean 0 and deviation 1; the scales are folded into the first matrix afterwards. Training is
//! deterministic: initial weights and the order of samples come from a seed, sums are taken in one order.

use std::ops::RangeInclusive;

use anyhow::Context;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss, ops};

use super::network::{self, Block};

/// Passes over the data, but at least and at most so many steps.
const EPOCHS: usize = 40;
const STEPS: RangeInclusive<usize> = 1200..=2400;

/// Share of the passes without a better score on the held-out part before training stops.
const PATIENCE: f64 = 0.15;

/// Samples per step.
const BATCH: usize = 128;

/// Share of the backbone's own opinion in the target, beside the label.
const DISTILLATION: f32 = 0.5;

/// A trained head: separable blocks and an average over space if it convolves, then one or two matrices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Rows and columns of the tensor that blocks see.
    pub space: [usize; 2],
    /// Blocks; none if the head sees averages.
    pub blocks: Vec<Separable>,
    /// Layers, each weights `[outputs, inputs]` and bias `[outputs]`; ReLU between them.
    pub layers: Vec<Layer>,
}

/// A depthwise convolution and a pointwise one, ReLU behind each; the block's input is added before the second if it
/// has the result's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Separable {
    /// Channels and window.
    pub block: Block,
    /// `[taps, inputs]`.
    pub depthwise: Vec<f32>,
    /// `[inputs]`.
    pub depthwise_bias: Vec<f32>,
    /// `[inputs, outputs]`.
    pub pointwise: Vec<f32>,
    /// `[outputs]`.
    pub pointwise_bias: Vec<f32>,
}

/// One matrix and bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Row-major `[outputs, inputs]`.
    pub weights: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// What a head learns from.
pub struct Lesson<'a> {
    /// Row-major `[samples, features]`.
    pub features: &'a [f32],
    /// Features of a sample.
    pub width: usize,
    /// Class of each sample; samples beyond have none and learn from opinions alone.
    pub labels: &'a [u32],
    /// Probabilities of the backbone, row-major `[samples, classes]`.
    pub opinions: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Samples to learn from.
    pub train: &'a [usize],
    /// Samples that say when to stop.
    pub held_out: &'a [usize],
    /// Width of the hidden layer; none for a single matrix.
    pub hidden: Option<usize>,
    /// Where chance begins.
    pub seed: u64,
}

impl Head {
    /// Scores of some samples, row-major `[samples, classes]`.
    pub fn scores(&self, features: &[f32], width: usize, samples: &[usize]) -> Vec<f32> {
        let mut found = Vec::new();
        for part in samples.chunks(BATCH) {
            let rows = part.iter().flat_map(|sample| &features[sample * width..(sample + 1) * width]);
            found.extend(self.answer(rows.copied().collect(), part.len()));
        }
        found
    }

    /// Scores of a few samples.
    fn answer(&self, features: Vec<f32>, samples: usize) -> Vec<f32> {
        let seen = match self.blocks.first() {
            None => features,
            Some(first) => {
                let channels = first.block.inputs;
                let maps = features.chunks_exact((features.len() / samples.max(1)).max(1));
                let maps = maps.flat_map(|map| network::channels_last(map, channels)).collect();
                network::averages(&self.blocks, maps, samples, self.space)
            }
        };
        let mut found = Vec::new();
        for row in seen.chunks_exact((seen.len() / samples.max(1)).max(1)) {
            let mut x = row.to_vec();
            for (index, layer) in self.layers.iter().enumerate() {
                let last = index + 1 == self.layers.len();
                x = layer
                    .weights
                    .chunks_exact(x.len())
                    .zip(&layer.bias)
                    .map(|(row, bias)| {
                        let sum: f32 = row.iter().zip(&x).map(|(w, x)| w * x).sum();
                        if last { sum + bias } else { (sum + bias).max(0.0) }
                    })
                    .collect();
            }
            found.extend(x);
        }
        found
    }

    /// What it is like, in a word or two.
    pub fn kind(&self) -> String {
        match (self.blocks.len(), self.layers.len()) {
            (0, 0) => "the model's own".to_string(),
            (0, 1) => "one matrix".to_string(),
            (0, layers) => format!("{layers} matrices"),
            (blocks, _) => format!("{blocks} blocks"),
        }
    }

    /// Multiply-adds.
    pub fn macs(&self) -> u64 {
        let mut space = self.space;
        let mut macs = 0;
        for Separable { block, depthwise, pointwise, .. } in &self.blocks {
            space = block.window.output(space);
            macs += space.iter().product::<usize>() * (depthwise.len() + pointwise.len());
        }
        macs as u64 + self.layers.iter().map(|layer| layer.weights.len() as u64).sum::<u64>()
    }

    /// Weights and biases.
    pub fn parameters(&self) -> u64 {
        let blocks = self.blocks.iter().map(|separable| {
            let Separable { depthwise, depthwise_bias, pointwise, pointwise_bias, .. } = separable;
            depthwise.len() + depthwise_bias.len() + pointwise.len() + pointwise_bias.len()
        });
        let layers = self.layers.iter().map(|layer| layer.weights.len() + layer.bias.len());
        blocks.chain(layers).sum::<usize>() as u64
    }
}

/// Trains a head.
pub fn train(lesson: &Lesson<'_>) -> anyhow::Result<Head> {
    let scale = Scale::of(lesson);
    let (train, held_out) = (scale.tensor(lesson, lesson.train)?, scale.tensor(lesson, lesson.held_out)?);
    let targets = targets(lesson)?;
    let held_out_labels = labels(lesson, lesson.held_out)?;
    let mut chance = Chance(lesson.seed);
    let mut layers: Vec<(Var, Var)> = Vec::new();
    let mut inputs = lesson.width;
    for outputs in lesson.hidden.into_iter().chain([lesson.classes]) {
        let bound = (6.0 / inputs as f32).sqrt() * if outputs == lesson.classes { 0.3 } else { 1.0 };
        let weights: Vec<f32> = (0..inputs * outputs).map(|_| (chance.unit() * 2.0 - 1.0) * bound).collect();
        let weights = Var::from_tensor(&Tensor::from_vec(weights, (outputs, inputs), &Device::Cpu)?)?;
        layers.push((weights, Var::zeros(outputs, DType::F32, &Device::Cpu)?));
        inputs = outputs;
    }
    let variables = layers.iter().flat_map(|(weights, bias)| [weights.clone(), bias.clone()]).collect();
    let parameters = ParamsAdamW { lr: 2e-3, weight_decay: 2e-2, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(variables, parameters)?;
    let mut best: Option<(f32, Head)> = None;
    let mut order: Vec<u32> = (0..lesson.train.len() as u32).collect();
    let mut since_best = 0;
    let steps_per_epoch = order.len().div_ceil(BATCH).max(1);
    let steps = (EPOCHS * steps_per_epoch).clamp(*STEPS.start(), *STEPS.end());
    let epochs = steps.div_ceil(steps_per_epoch);
    for epoch in 0..epochs {
        optimizer.set_learning_rate(2e-3 * 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / epochs as f64).cos()));
        chance.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let picked = Tensor::new(batch, &Device::Cpu)?;
            let (x, target) = (train.index_select(&picked, 0)?, targets.index_select(&picked, 0)?);
            let logs = ops::log_softmax(&forward(&layers, &x)?, 1)?;
            let cost = (logs * target)?.sum_all()?.affine(-1.0 / batch.len() as f64, 0.0)?;
            optimizer.backward_step(&cost)?;
        }
        let cost = loss::cross_entropy(&forward(&layers, &held_out)?, &held_out_labels)?.to_scalar::<f32>()?;
        since_best += 1;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, scale.fold(&layers)?));
            since_best = 0;
        }
        if since_best as f64 > epochs as f64 * PATIENCE {
            break;
        }
    }
    best.map(|(_, head)| head).context("training ended without a head: the features are not numbers")
}

fn forward(layers: &[(Var, Var)], x: &Tensor) -> candle_core::Result<Tensor> {
    let mut x = x.clone();
    for (index, (weights, bias)) in layers.iter().enumerate() {
        x = x.matmul(&weights.t()?)?.broadcast_add(bias)?;
        if index + 1 < layers.len() {
            x = x.relu()?;
        }
    }
    Ok(x)
}

fn labels(lesson: &Lesson<'_>, samples: &[usize]) -> candle_core::Result<Tensor> {
    let labels: Vec<u32> = samples.iter().map(|sample| lesson.labels[*sample]).collect();
    Tensor::new(labels, &Device::Cpu)
}

/// Label and the backbone's opinion, mixed: what the backbone finds alike is alike.
fn targets(lesson: &Lesson<'_>) -> candle_core::Result<Tensor> {
    let classes = lesson.classes;
    let mut mixed = Vec::with_capacity(lesson.train.len() * classes);
    for sample in lesson.train {
        let opinion = &lesson.opinions[sample * classes..(sample + 1) * classes];
        for (class, share) in opinion.iter().enumerate() {
            mixed.push(match lesson.labels.get(*sample) {
                Some(label) => {
                    let right = if *label as usize == class { 1.0 } else { 0.0 };
                    DISTILLATION * share + (1.0 - DISTILLATION) * right
                }
                None => *share,
            });
        }
    }
    Tensor::from_vec(mixed, (lesson.train.len(), classes), &Device::Cpu)
}

/// Mean and deviation of every feature.
struct Scale {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Scale {
    fn of(lesson: &Lesson<'_>) -> Scale {
        let width = lesson.width;
        let count = lesson.train.len().max(1) as f64;
        let (mut sum, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
        for sample in lesson.train {
            for (index, x) in lesson.features[sample * width..(sample + 1) * width].iter().enumerate() {
                sum[index] += f64::from(*x);
                squares[index] += f64::from(*x) * f64::from(*x);
            }
        }
        let mean: Vec<f32> = sum.iter().map(|sum| (sum / count) as f32).collect();
        let deviation = squares
            .iter()
            .zip(&mean)
            .map(|(squares, mean)| ((squares / count - f64::from(*mean).powi(2)).max(0.0).sqrt() as f32).max(1e-4))
            .collect();
        Scale { mean, deviation }
    }

    fn tensor(&self, lesson: &Lesson<'_>, samples: &[usize]) -> candle_core::Result<Tensor> {
        let width = lesson.width;
        let mut scaled = Vec::with_capacity(samples.len() * width);
        for sample in samples {
            let row = &lesson.features[sample * width..(sample + 1) * width];
            scaled.extend(row.iter().zip(&self.mean).zip(&self.deviation).map(|((x, mean), d)| (x - mean) / d));
        }
        Tensor::from_vec(scaled, (samples.len(), width), &Device::Cpu)
    }

    /// The layers as a head on unscaled features.
    fn fold(&self, layers: &[(Var, Var)]) -> candle_core::Result<Head> {
        let mut head = Head::default();
        for (index, (weights, bias)) in layers.iter().enumerate() {
            let mut weights = weights.flatten_all()?.to_vec1::<f32>()?;
            let mut bias = bias.to_vec1::<f32>()?;
            if index == 0 {
                for (row, bias) in weights.chunks_exact_mut(self.mean.len()).zip(&mut bias) {
                    for ((weight, mean), deviation) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                        *weight /= deviation;
                        *bias -= *weight * mean;
                    }
                }
            }
            head.layers.push(Layer { weights, bias });
        }
        Ok(head)
    }
}

/// Seeded chance (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Of a normal distribution around 0 with deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let (radius, angle) = (1.0 - self.unit(), std::f32::consts::TAU * self.unit());
        (-2.0 * radius.ln()).sqrt() * angle.cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.bits() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes on two rings: a single matrix cannot tell them apart, two can.
    fn rings(count: usize) -> (Vec<f32>, Vec<u32>) {
        let mut chance = Chance(3);
        let mut features = Vec::new();
        let mut labels = Vec::new();
        for sample in 0..count {
            let (class, angle) = (sample % 2, chance.unit() * std::f32::consts::TAU);
            let radius = 10.0 + 20.0 * class as f32;
            features.extend([100.0 + radius * angle.cos(), radius * angle.sin()]);
            labels.push(class as u32);
        }
        (features, labels)
    }

    fn accuracy(hidden: Option<usize>) -> (f64, Head) {
        let (features, labels) = rings(600);
        let opinions: Vec<f32> = labels.iter().flat_map(|label| [1.0 - *label as f32, *label as f32]).collect();
        let (train, held_out): (Vec<usize>, Vec<usize>) = ((0..400).collect(), (400..600).collect());
        let lesson = Lesson {
            features: &features,
            width: 2,
            labels: &labels,
            opinions: &opinions,
            classes: 2,
            train: &train,
            held_out: &held_out,
            hidden,
            seed: 1,
        };
        let head = super::train(&lesson).expect("it can be trained");
        let scores = head.scores(&features, 2, &held_out);
        let right = scores
            .chunks_exact(2)
            .zip(&held_out)
            .filter(|(scores, sample)| usize::from(scores[1] > scores[0]) == labels[**sample] as usize);
        (right.count() as f64 / held_out.len() as f64, head)
    }

    #[test]
    fn a_hidden_layer_tells_rings_apart() {
        let (straight, _) = accuracy(None);
        let (curved, head) = accuracy(Some(16));
        assert!(straight < 0.75, "{straight}");
        assert!(curved > 0.97, "{curved}");
        assert_eq!(accuracy(Some(16)).1, head, "the same seed gives the same head");
    }
}
