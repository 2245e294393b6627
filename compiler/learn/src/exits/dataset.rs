//! What exits are made from: the model, places in it, and samples with what the model says of them.

use super::candidates::ExitPlace;
use super::features::Features;
use super::split::SampleSplit;
use crate::classifier::class;
use partita_ir::graph::{Graph, Value};

/// Fewer samples than this are learned by heart before all is learned: mirrored copies of them teach something new, and
/// heads that convolve see them augmented more. (Accuracy of the two such heads of DS-CNN for speech commands, which learn from
/// about 320 of 492 samples at a time and are judged by others: 80.5 and 84.3 % after 100,000 that were augmented less, 83.5 and
/// 87.4 % after 500,000 that were augmented more.)
pub const FEW: usize = 8000;

/// Samples, and what the backbone says of them.
pub struct Dataset<'a> {
    /// The graph, without exits.
    pub graph: &'a Graph,
    /// Places for exits.
    pub places: &'a [ExitPlace],
    /// What heads see of the samples; mirrored copies lie behind them.
    pub features: &'a Features,
    /// The samples.
    pub inputs: &'a [Value],
    /// Their classes, as far as they are known; otherwise the backbone's answers.
    pub labels: Vec<u32>,
    /// Of how many, from the first on, somebody has said what their classes are.
    pub labelled: usize,
    /// Who learns what.
    pub split: &'a SampleSplit,
    /// Number of classes.
    pub classes: usize,
    /// Whether the model answers probabilities rather than scores.
    pub probabilities: bool,
    /// Whether the model has the heads already.
    pub existing: bool,
    /// Multiply-adds of the model.
    pub macs: u64,
    /// Whether the samples that judge follow each other in time.
    pub stream: bool,
    /// Most bytes that a head's weights may take: what the smallest device can spare.
    pub head_bytes: u64,
}

impl Dataset<'_> {
    /// The backbone's answer to a sample.
    pub fn base(&self, sample: usize) -> usize {
        class(&self.features.answers[sample * self.classes..(sample + 1) * self.classes])
    }

    /// Whether the backbone is right, by sample that judges.
    pub fn base_right(&self) -> Vec<bool> {
        let judged = self.split.judged.iter();
        judged.map(|sample| self.base(*sample) == self.labels[*sample] as usize).collect()
    }

    /// Classes of the samples that judge.
    pub fn judged_labels(&self) -> Vec<u32> {
        self.split.judged.iter().map(|sample| self.labels[*sample]).collect()
    }

    /// What somebody has said that the first samples are.
    pub fn known_labels(&self) -> &[u32] {
        &self.labels[..self.labelled]
    }
}
