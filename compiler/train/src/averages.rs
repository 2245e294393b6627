//! Heads that see averages of a tensor: one or two matrices, trained with AdamW.
//!
//! Features are scaled to mean 0 and deviation 1; the scales are folded into the first matrix afterwards. Training is
//! deterministic: initial weights and the order of samples come from a seed, sums are taken in one order.

use std::ops::RangeInclusive;

use anyhow::Context;

use crate::adam::Adam;
use crate::chance::Chance;
use crate::cross_entropy;
use crate::head::{Head, Layer};
use crate::matrix::{Matrix, column_sums, product};

/// Passes over the data, but at least and at most so many steps.
const EPOCHS: usize = 40;
const STEPS: RangeInclusive<usize> = 1200..=2400;

/// Share of the passes without a better score on the held-out part before training stops.
const PATIENCE: f64 = 0.15;

/// Samples per step.
const BATCH: usize = 128;

/// First learning rate of the descent, and its weight decay.
const RATE: f64 = 2e-3;
const WEIGHT_DECAY: f32 = 2e-2;

/// Share of the backbone's own opinion in the target, beside the label.
const DISTILLATION: f32 = 0.5;

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

/// Trains a head.
///
/// Errors: the features are not numbers.
pub fn train(lesson: &Lesson<'_>) -> anyhow::Result<Head> {
    let classes = lesson.classes;
    let scale = Scale::of(lesson);
    let (train, held_out) = (scale.rows(lesson, lesson.train), scale.rows(lesson, lesson.held_out));
    let (targets, held_out_targets) = (targets(lesson), held_out_targets(lesson));
    let mut chance = Chance::new(lesson.seed);
    let mut layers = Vec::new();
    let mut inputs = lesson.width;
    for outputs in lesson.hidden.into_iter().chain([classes]) {
        let bound = (6.0 / inputs as f32).sqrt() * if outputs == classes { 0.3 } else { 1.0 };
        let weights = (0..inputs * outputs).map(|_| (chance.unit() * 2.0 - 1.0) * bound).collect();
        layers.push(Layer { weights, bias: vec![0.0; outputs] });
        inputs = outputs;
    }
    let mut adam = Adam::new(layers.iter().flat_map(|layer| [layer.weights.len(), layer.bias.len()]), WEIGHT_DECAY);
    let mut best: Option<(f32, Head)> = None;
    let mut order: Vec<usize> = (0..lesson.train.len()).collect();
    let mut since_best = 0;
    let steps_per_epoch = order.len().div_ceil(BATCH).max(1);
    let steps = (EPOCHS * steps_per_epoch).clamp(*STEPS.start(), *STEPS.end());
    let epochs = steps.div_ceil(steps_per_epoch);
    for epoch in 0..epochs {
        let rate = RATE * 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / epochs as f64).cos());
        chance.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let x = picked(&train, lesson.width, batch);
            let slopes = slopes(&layers, x, &picked(&targets, classes, batch), classes);
            let values = layers.iter_mut().flat_map(|layer| [&mut layer.weights, &mut layer.bias]);
            adam.step(values.zip(slopes), rate as f32);
        }
        let scores = activations(&layers, held_out.clone()).pop().unwrap_or_default();
        let mut unused = vec![0.0; scores.len()];
        let cost = cross_entropy::add(&scores, &held_out_targets, classes, 1.0, 1.0, &mut unused);
        since_best += 1;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, scale.fold(&layers)));
            since_best = 0;
        }
        if since_best as f64 > epochs as f64 * PATIENCE {
            break;
        }
    }
    let head = best.map(|(_, head)| head).filter(Head::is_finite);
    head.context("training ended without a head: the features are not numbers")
}

/// Some rows of `[rows, width]`.
fn picked(elements: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &elements[row * width..(row + 1) * width]).copied().collect()
}

/// What goes into each layer, `[samples, inputs]`, then the scores.
fn activations(layers: &[Layer], x: Vec<f32>) -> Vec<Vec<f32>> {
    let mut all = vec![x];
    for (index, Layer { weights, bias }) in layers.iter().enumerate() {
        let inputs = weights.len() / bias.len().max(1);
        let x = all.last().map_or(&[][..], |x| x);
        let mut y = product(&Matrix::new(x, inputs), &Matrix::new(weights, inputs).transposed());
        let is_last = index + 1 == layers.len();
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, bias) in row.iter_mut().zip(bias) {
                *y = if is_last { *y + bias } else { (*y + bias).max(0.0) };
            }
        }
        all.push(y);
    }
    all
}

/// Gradients of the mean cost by the weights and the bias of each layer, in their order.
fn slopes(layers: &[Layer], x: Vec<f32>, targets: &[f32], classes: usize) -> Vec<Vec<f32>> {
    let mut all = activations(layers, x);
    let scores = all.pop().unwrap_or_default();
    let mut slope = vec![0.0; scores.len()];
    let samples = scores.len() / classes.max(1);
    cross_entropy::add(&scores, targets, classes, 1.0, 1.0 / samples.max(1) as f32, &mut slope);
    let mut found = Vec::with_capacity(2 * layers.len());
    for Layer { weights, bias } in layers.iter().rev() {
        let Some(x) = all.pop() else { break };
        let inputs = weights.len() / bias.len().max(1);
        let by_result = Matrix::new(&slope, bias.len());
        let to_bias = column_sums(&slope, bias.len());
        found.extend([to_bias, product(&by_result.transposed(), &Matrix::new(&x, inputs))]);
        if !all.is_empty() {
            let mut to_x = product(&by_result, &Matrix::new(weights, inputs));
            // Before this layer is a ReLU.
            to_x.iter_mut().zip(&x).filter(|(_, x)| **x <= 0.0).for_each(|(slope, _)| *slope = 0.0);
            slope = to_x;
        }
    }
    found.reverse();
    found
}

/// Labels of samples that say when to stop, as probabilities.
fn held_out_targets(lesson: &Lesson<'_>) -> Vec<f32> {
    let mut targets = vec![0.0; lesson.held_out.len() * lesson.classes];
    for (sample, row) in lesson.held_out.iter().zip(targets.chunks_exact_mut(lesson.classes)) {
        row[lesson.labels[*sample] as usize] = 1.0;
    }
    targets
}

/// Label and the backbone's opinion, mixed: what the backbone finds alike is alike.
fn targets(lesson: &Lesson<'_>) -> Vec<f32> {
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
    mixed
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

    /// Scaled features of some samples, `[samples, features]`.
    fn rows(&self, lesson: &Lesson<'_>, samples: &[usize]) -> Vec<f32> {
        let width = lesson.width;
        let mut scaled = Vec::with_capacity(samples.len() * width);
        for sample in samples {
            let row = &lesson.features[sample * width..(sample + 1) * width];
            scaled.extend(row.iter().zip(&self.mean).zip(&self.deviation).map(|((x, mean), d)| (x - mean) / d));
        }
        scaled
    }

    /// The layers as a head on unscaled features.
    fn fold(&self, layers: &[Layer]) -> Head {
        let mut layers = layers.to_vec();
        if let Some(Layer { weights, bias }) = layers.first_mut() {
            for (row, bias) in weights.chunks_exact_mut(self.mean.len()).zip(bias) {
                for ((weight, mean), deviation) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                    *weight /= deviation;
                    *bias -= *weight * mean;
                }
            }
        }
        Head { layers, ..Head::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes on two rings: a single matrix cannot tell them apart, two can.
    fn rings(count: usize) -> (Vec<f32>, Vec<u32>) {
        let mut chance = Chance::new(3);
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
