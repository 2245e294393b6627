//! What is known of a quantization, for `report.json`.

use serde::Serialize;

use super::histogram::RangeMethod;
use crate::accuracy::{ClassLoss, HoldoutReport, Limits};

/// What is known of a quantization.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizationReport {
    /// What products are computed in.
    pub numbers: &'static str,
    /// How ranges of activations were chosen.
    pub ranges: RangeMethod,
    /// Whether channels of neighbouring layers were made alike: where that helps the answer.
    pub equalized: bool,
    /// Samples that ranges and corrections were learned from.
    pub samples: usize,
    /// Others, which judge.
    pub judging_samples: usize,
    /// Signal to noise of the answer on the samples that judge, in dB: real numbers beside whole ones.
    pub signal_to_noise_db: f64,
    /// What it does to a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<QuantizedAccuracy>,
    /// Bytes of all constants before.
    pub real_weights_bytes: u64,
    /// Bytes of all constants as they are stored now.
    pub weights_bytes: u64,
    /// Bytes of all other tensors before.
    pub real_activations_bytes: u64,
    /// Bytes of all other tensors as they are stored now.
    pub activations_bytes: u64,
    /// Each layer that multiplies, in the order of the graph.
    pub layers: Vec<QuantizedLayer>,
}

/// Accuracy before and after, on the samples that judge.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizedAccuracy {
    /// Whether somebody has said what is right; otherwise the answers in real numbers are.
    pub labelled: bool,
    /// Share of right answers in real numbers.
    pub base: f64,
    /// Share of right answers now.
    pub quantized: f64,
    /// The same with 95 % probability.
    pub quantized_range: (f64, f64),
    /// Loss of accuracy; negative where more is right than before.
    pub loss: f64,
    /// Loss of accuracy that is not exceeded with 90 % probability.
    pub loss_bound: f64,
    /// What was to be kept.
    pub limits: Limits,
    /// Whether the user chose these limits: they are proven then.
    pub limits_by_hand: bool,
    /// Real numbers on other samples, if anything is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<HoldoutReport>,
    /// The classes that lose most.
    pub worst_classes: Vec<ClassLoss>,
    /// Classes that lose more than three times what all together may.
    pub overcharged_classes: Vec<ClassLoss>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizedLayer {
    /// Name.
    pub node: String,
    /// Operator.
    pub op: &'static str,
    /// `int8` or `f32`.
    pub numbers: &'static str,
    /// Why it is `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Signal to noise of its result, in dB: all that layers before it have done is part of the noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_to_noise_db: Option<f64>,
    /// Signal to noise of the answer where this layer alone is quantized, in dB; known where some layers had to stay in `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone_db: Option<f64>,
}
