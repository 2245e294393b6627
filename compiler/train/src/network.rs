//! Heads that convolve: separable blocks (depthwise 3x3, then pointwise), average over space, one matrix.
//!
//! They see a tensor as it is, so a head behind the first layers is a small network of its own. It learns from the
//! backbone by distillation (Hinton et al. 2015) on samples that are augmented anew each time, as long as is affordable
//! (Beyer et al. 2022, Knowledge distillation: A good teacher is patient and consistent).

use anyhow::ensure;

use crate::chance::Chance;
use crate::cross_entropy;
use crate::design::{Block, Design};
use crate::head::{Head, Layer, Separable};
use crate::linear::Linear;
use crate::matrix::{Matrix, column_sums, product};
use crate::stage::{EPSILON, Made, Stage, Statistics};

/// Scores are divided by this where the head learns from the backbone's.
const TEMPERATURE: f32 = 2.0;

/// Weight of labels beside the backbone's opinion.
const LABEL_WEIGHT: f32 = 0.5;

/// Weight decay, and momentum, of the descent.
const DECAY: f32 = 5e-4;
const MOMENTUM: f32 = 0.9;

/// Weights of one part, and what the descent remembers of them.
struct Learned {
    value: Vec<f32>,
    velocity: Vec<f32>,
    /// Elements, from the first on, that decay.
    decaying: usize,
}

/// Share by which the statistics of normalisations follow each step.
const FOLLOW: f32 = 0.05;

/// A convolution, its normalisation and ReLU, while they learn.
struct Learning {
    linear: Linear,
    /// Channels that come in and go out.
    channels: [usize; 2],
    /// Weights, scales and offsets.
    learned: usize,
    /// What the statistics were lately, for the time after training.
    lately: Statistics,
}

/// A head while it learns.
pub struct Network {
    design: Design,
    learned: Vec<Learned>,
    /// Per block: depthwise and pointwise.
    blocks: Vec<[Learning; 2]>,
}

/// What some samples of a step teach.
pub struct Slopes {
    /// The sum of their costs.
    cost: f32,
    /// The sum of their gradients, by what is learned.
    slopes: Vec<Vec<f32>>,
    /// By normalisation.
    statistics: Vec<Statistics>,
}

/// What a head learns from in one step.
pub struct Batch {
    /// `[samples, rows, columns, channels]`.
    pub maps: Vec<f32>,
    /// The backbone's scores, `[samples, classes]`.
    pub scores: Vec<f32>,
    /// Labels as probabilities, `[samples, classes]`; zeros for samples without.
    pub labels: Vec<f32>,
}

impl Network {
    /// A head that knows nothing.
    pub fn new(design: Design, seed: u64) -> Network {
        let mut chance = Chance::new(seed);
        let mut learned = Vec::new();
        let mut blocks = Vec::with_capacity(design.blocks.len());
        let mut space = design.space;
        for block in &design.blocks {
            let Block { inputs, outputs, window } = *block;
            let depthwise = Linear::depthwise(window, space, inputs);
            space = window.output(space);
            let taps = window.kernel.iter().product::<usize>();
            let weights = normal(&mut chance, taps * inputs, taps);
            let depthwise = learning(&mut learned, depthwise, [inputs, inputs], weights);
            let weights = normal(&mut chance, inputs * outputs, inputs);
            blocks.push([depthwise, learning(&mut learned, Linear::Pointwise, [inputs, outputs], weights)]);
        }
        let (width, classes) = (design.width(), design.classes);
        let mut weights = normal(&mut chance, width * classes, width);
        weights.iter_mut().for_each(|weight| *weight *= 0.3);
        learn(&mut learned, weights, width * classes);
        learn(&mut learned, vec![0.0; classes], 0);
        Network { design, learned, blocks }
    }

    fn stage<'a>(&'a self, learning: &'a Learning) -> Stage<'a> {
        let [inputs, outputs] = learning.channels;
        Stage { linear: &learning.linear, inputs, outputs, learned: &self.learned[learning.learned].value }
    }

    /// The last matrix, `[channels, classes]`, and its bias.
    fn last(&self) -> (&[f32], &[f32]) {
        let last = self.learned.len() - 2;
        (&self.learned[last].value, &self.learned[last + 1].value)
    }

    /// What each block makes of maps while statistics are the samples' own: its depthwise part, its result.
    fn forward(&self, maps: &[f32]) -> Vec<[Made; 2]> {
        let mut made: Vec<[Made; 2]> = Vec::with_capacity(self.blocks.len());
        for (block, [depthwise, pointwise]) in self.design.blocks.iter().zip(&self.blocks) {
            let x = made.last().map_or(maps, |[_, last]| &last.y);
            let first = self.stage(depthwise).forward(x, None);
            let second = self.stage(pointwise).forward(&first.y, block.residual().then_some(x));
            made.push([first, second]);
        }
        made
    }

    /// The sum of the samples' costs for scores `[samples, classes]`, and its gradient by them.
    fn cost(&self, scores: &[f32], batch: &Batch) -> (f32, Vec<f32>) {
        let classes = self.design.classes;
        let mut slope = vec![0.0; scores.len()];
        let opinions = cross_entropy::softmax(&batch.scores, classes, TEMPERATURE);
        // The square of the temperature keeps the slopes as large as they are without it.
        let imitation =
            cross_entropy::add(scores, &opinions, classes, TEMPERATURE, TEMPERATURE * TEMPERATURE, &mut slope);
        let labels = cross_entropy::add(scores, &batch.labels, classes, 1.0, LABEL_WEIGHT, &mut slope);
        (imitation + labels, slope)
    }

    /// What some samples teach. Normalisations see only these (Hoffer et al. 2017: ghost batches), so that what is
    /// between two layers stays in a cache, and parts of a batch can be learned from at the same time.
    pub fn slopes(&self, batch: &Batch) -> Slopes {
        let (width, classes) = (self.design.width(), self.design.classes);
        let samples = batch.labels.len() / classes.max(1);
        let mut made = self.forward(&batch.maps);
        let statistics = made.iter().flatten().map(|made| made.statistics.clone()).collect();
        let y = made.last().map_or(&batch.maps, |[_, last]| &last.y);
        let means = means(y, samples, width);
        let (weights, bias) = self.last();
        let (means, weights) = (Matrix::new(&means, width), Matrix::new(weights, classes));
        let mut scores = product(&means, &weights);
        for row in scores.chunks_exact_mut(classes) {
            row.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
        let (cost, to_scores) = self.cost(&scores, batch);
        let to_bias = column_sums(&to_scores, classes);
        let to_scores = Matrix::new(&to_scores, classes);
        let to_means = product(&to_scores, &weights.transposed());
        let pixels = y.len() / (samples * width).max(1);
        let mut slope = Vec::with_capacity(y.len());
        for row in to_means.chunks_exact(width.max(1)) {
            (0..pixels).for_each(|_| slope.extend(row.iter().map(|slope| slope / pixels as f32)));
        }
        // From the last block to the first, so in reverse of the order in which things are learned.
        let mut slopes = vec![to_bias, product(&means.transposed(), &to_scores)];
        for (block, [depthwise, pointwise]) in self.design.blocks.iter().zip(&self.blocks).rev() {
            let Some([first, second]) = made.pop() else { break };
            let back = self.stage(pointwise).backward(&first.y, second, &slope);
            slopes.push(back.learned);
            let x = made.last().map_or(&batch.maps, |[_, last]| &last.y);
            let added = block.residual().then_some(back.added);
            let back = self.stage(depthwise).backward(x, first, &back.x);
            slopes.push(back.learned);
            slope = back.x;
            if let Some(added) = added {
                slope.iter_mut().zip(added).for_each(|(slope, added)| *slope += added);
            }
        }
        slopes.reverse();
        Slopes { cost, slopes, statistics }
    }

    /// One step of descent (Nesterov's) on parts of a batch of so many samples. Returns the mean cost before it.
    pub fn descend(&mut self, parts: &[&Slopes], samples: usize, rate: f64) -> f32 {
        let (samples, rate) = (samples.max(1) as f32, rate as f32);
        for (index, learned) in self.learned.iter_mut().enumerate() {
            let mut slopes = vec![0.0f32; learned.value.len()];
            for part in parts {
                slopes.iter_mut().zip(&part.slopes[index]).for_each(|(sum, slope)| *sum += slope);
            }
            let each = learned.value.iter_mut().zip(&mut learned.velocity).zip(slopes).enumerate();
            for (at, ((value, velocity), slope)) in each {
                let decay = if at < learned.decaying { DECAY } else { 0.0 };
                let slope = slope / samples + *value * decay;
                *velocity = *velocity * MOMENTUM + slope;
                *value -= (slope + *velocity * MOMENTUM) * rate;
            }
        }
        for (index, learning) in self.blocks.iter_mut().flatten().enumerate() {
            let seen: Vec<&Statistics> = parts.iter().map(|part| &part.statistics[index]).collect();
            learning.lately.follow(&Statistics::mean_of(&seen), FOLLOW);
        }
        parts.iter().map(|part| part.cost).sum::<f32>() / samples
    }

    /// The head, its normalisations folded into weights.
    pub fn head(&self) -> Head {
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (block, [depthwise, pointwise]) in self.design.blocks.iter().zip(&self.blocks) {
            let (depthwise, depthwise_bias) = self.folded(depthwise);
            let (pointwise, pointwise_bias) = self.folded(pointwise);
            blocks.push(Separable { block: *block, depthwise, depthwise_bias, pointwise, pointwise_bias });
        }
        let (weights, bias) = self.last();
        let classes = self.design.classes;
        let column = |class: usize| weights.iter().skip(class).step_by(classes).copied();
        let layers = vec![Layer { weights: (0..classes).flat_map(column).collect(), bias: bias.to_vec() }];
        Head { space: self.design.space, blocks, layers }
    }

    /// Weights `[inputs or taps, outputs]` and biases with the normalisation behind them.
    fn folded(&self, learning: &Learning) -> (Vec<f32>, Vec<f32>) {
        let [_, channels] = learning.channels;
        let mut weights = self.learned[learning.learned].value.clone();
        let scales = weights.split_off(weights.len() - 2 * channels);
        let (scale, offset) = scales.split_at(channels);
        // A head that has never learned anything has seen no statistics.
        let (means, variances) = match learning.lately.mean.len() {
            0 => (vec![0.0; channels], vec![1.0; channels]),
            _ => (learning.lately.mean.clone(), learning.lately.variance.clone()),
        };
        let factors: Vec<f32> = scale.iter().zip(&variances).map(|(scale, v)| scale / (v + EPSILON).sqrt()).collect();
        let bias = (0..channels).map(|channel| offset[channel] - means[channel] * factors[channel]).collect();
        for row in weights.chunks_exact_mut(channels) {
            row.iter_mut().zip(&factors).for_each(|(weight, factor)| *weight *= factor);
        }
        (weights, bias)
    }

    /// Everything that has been learned, for a file.
    pub fn state(&self) -> Vec<Vec<f32>> {
        let learned = self.learned.iter().flat_map(|learned| [&learned.value, &learned.velocity]);
        let lately =
            self.blocks.iter().flatten().flat_map(|learning| [&learning.lately.mean, &learning.lately.variance]);
        learned.chain(lately).cloned().collect()
    }

    /// Continues where a state was taken.
    ///
    /// Errors: it is of another head; what has been learned is then of no use.
    pub fn restore(&mut self, state: Vec<Vec<f32>>) -> anyhow::Result<()> {
        let mut state = state.into_iter();
        let mut next = |lengths: &[usize]| {
            let part = state.next().unwrap_or_default();
            ensure!(lengths.contains(&part.len()), "the state is of another head");
            Ok(part)
        };
        for learned in &mut self.learned {
            let length = [learned.value.len()];
            (learned.value, learned.velocity) = (next(&length)?, next(&length)?);
        }
        for learning in self.blocks.iter_mut().flatten() {
            // Before the first step there are none.
            let lengths = [0, learning.channels[1]];
            learning.lately = Statistics { mean: next(&lengths)?, variance: next(&lengths)? };
        }
        Ok(())
    }
}

/// Something to learn, of which the first elements decay.
fn learn(learned: &mut Vec<Learned>, value: Vec<f32>, decaying: usize) -> usize {
    learned.push(Learned { velocity: vec![0.0; value.len()], value, decaying });
    learned.len() - 1
}

/// A layer to learn, that begins with these weights.
fn learning(learned: &mut Vec<Learned>, linear: Linear, channels: [usize; 2], weights: Vec<f32>) -> Learning {
    let decaying = weights.len();
    let [scales, offsets] = [1.0, 0.0].map(|value| vec![value; channels[1]]);
    let learned = learn(learned, [weights, scales, offsets].concat(), decaying);
    Learning { linear, channels, learned, lately: Statistics::default() }
}

/// Weights that keep the variance of what goes through them and a ReLU (He et al. 2015).
fn normal(chance: &mut Chance, count: usize, inputs: usize) -> Vec<f32> {
    let bound = (6.0 / inputs as f32).sqrt();
    (0..count).map(|_| (chance.unit() * 2.0 - 1.0) * bound).collect()
}

/// What the matrix of a finished head reads of maps `[samples, rows, columns, channels]`: averages over space,
/// `[samples, channels]`.
pub fn averages(blocks: &[Separable], maps: Vec<f32>, samples: usize, space: [usize; 2]) -> Vec<f32> {
    let (mut x, mut space, mut channels) = (maps, space, 0);
    for Separable { block, depthwise, depthwise_bias, pointwise, pointwise_bias } in blocks {
        let linear = Linear::depthwise(block.window, space, block.inputs);
        space = block.window.output(space);
        channels = block.outputs;
        let mut y = linear.forward(&x, depthwise, block.inputs, block.inputs);
        for row in y.chunks_exact_mut(block.inputs) {
            row.iter_mut().zip(depthwise_bias).for_each(|(y, bias)| *y = (*y + bias).max(0.0));
        }
        let mut y = Linear::Pointwise.forward(&y, pointwise, block.inputs, block.outputs);
        for (at, row) in y.chunks_exact_mut(block.outputs).enumerate() {
            let added = block.residual().then(|| &x[at * block.inputs..][..block.inputs]);
            for (channel, (y, bias)) in row.iter_mut().zip(pointwise_bias).enumerate() {
                *y = (*y + bias + added.map_or(0.0, |added| added[channel])).max(0.0);
            }
        }
        x = y;
    }
    means(&x, samples, channels)
}

/// Means over space, `[samples, channels]`, of `[samples, rows, columns, channels]`.
fn means(x: &[f32], samples: usize, channels: usize) -> Vec<f32> {
    let pixels = x.len() / (samples * channels).max(1);
    let mut means = vec![0.0; samples * channels];
    for (means, sample) in means.chunks_exact_mut(channels.max(1)).zip(x.chunks_exact((pixels * channels).max(1))) {
        for pixel in sample.chunks_exact(channels) {
            means.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
        }
        means.iter_mut().for_each(|sum| *sum /= pixels as f32);
    }
    means
}

/// A map `[channels, rows, columns]`, as graphs have it, as `[rows, columns, channels]`, as heads want it.
pub fn channels_last(maps: &[f32], channels: usize) -> Vec<f32> {
    let pixels = maps.len() / channels.max(1);
    let mut turned = vec![0.0; maps.len()];
    for (pixel, to) in turned.chunks_exact_mut(channels.max(1)).enumerate() {
        to.iter_mut().enumerate().for_each(|(channel, to)| *to = maps[channel * pixels + pixel]);
    }
    turned
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
        let scores = labels.iter().map(|label| label * 4.0).collect();
        Batch { maps, scores, labels }
    }

    fn step_of(network: &mut Network, batch: &Batch, rate: f64) {
        let slopes = network.slopes(batch);
        network.descend(&[&slopes], 32, rate);
    }

    fn trained(seed: u64, steps: usize) -> Network {
        let design = Design::within(1, [16, 16], 2, 20_000, u64::MAX).expect("it is wide enough");
        let mut network = Network::new(design, seed);
        let mut chance = Chance::new(3);
        for step in 0..steps {
            step_of(&mut network, &bars(&mut chance, 32), 0.05 / (1 + step / 20) as f64);
        }
        network
    }

    #[test]
    fn a_head_learns_what_only_neighbours_show() {
        let head = trained(1, 150).head();
        let Batch { maps, labels, .. } = bars(&mut Chance::new(99), 200);
        let scores = head.scores(&maps, 256, &(0..200).collect::<Vec<_>>());
        let right = scores
            .chunks_exact(2)
            .zip(labels.chunks_exact(2))
            .filter(|(s, label)| (s[0] > s[1]) == (label[0] > label[1]));
        let right = right.count();
        assert!(right > 190, "{right} of 200");
        assert_eq!(trained(1, 5).head(), trained(1, 5).head(), "the same seed gives the same head");
    }

    #[test]
    fn training_goes_on_where_it_was_taken_down() {
        let whole = trained(1, 6);
        let part = trained(1, 4);
        let mut again = Network::new(part.design.clone(), 77);
        again.restore(part.state()).expect("the same design");
        let mut chance = Chance::new(3);
        (0..4).for_each(|_| drop(bars(&mut chance, 32)));
        for _ in 4..6 {
            step_of(&mut again, &bars(&mut chance, 32), 0.05);
        }
        assert_eq!(again.head(), whole.head());
    }
}
