//! What has been trained: a small classifier on the features of a frozen backbone.

use crate::design::Block;
use crate::network;

/// Samples that are looked at together.
const BATCH: usize = 128;

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

    /// Whether all of its layers are numbers.
    pub(crate) fn is_finite(&self) -> bool {
        self.layers.iter().flat_map(|layer| layer.weights.iter().chain(&layer.bias)).all(|weight| weight.is_finite())
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
