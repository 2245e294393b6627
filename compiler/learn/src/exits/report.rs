//! What is known of exits, for `report.json`.

use serde::Serialize;

use super::tables;
use crate::accuracy::{ClassLoss, HoldoutReport, Limits};
use partita_ir::graph::op::{ExitRule, Patience};

/// What is known of the exits that were chosen.
#[derive(Clone, Debug)]
pub struct ExitsReport {
    /// The exits, in the order of the graph.
    pub exits: Vec<ExitReport>,
    /// What the calibration set says of them.
    pub calibration: CalibrationReport,
}

/// What the calibration set says of the exits together.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrationReport {
    /// Calibration samples.
    pub samples: usize,
    /// Share of right answers on them without exits.
    pub base_accuracy: f64,
    /// The same with exits, by heads that have not learned from the samples.
    pub accuracy: f64,
    /// Loss of accuracy that is expected: of both of these, the difference.
    pub loss: f64,
    /// Loss of accuracy that is not exceeded with 90 % probability, also where samples are as hard as those of the holdout
    /// set; 0 without exits, which lose nothing.
    pub drop_bound: f64,
    /// What was to be kept.
    pub limits: Limits,
    /// Whether the user chose these limits.
    pub limits_by_hand: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// What so many samples can prove at best: limits that are kept by what changes no answer.
    pub provable: Limits,
    /// Where there are no exits, what would be proven next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestReport>,
    /// What each limit would leave of the multiply-adds, by these alone; the strictest first.
    pub by_limit: Vec<LimitReport>,
    /// What a mean inference comes to by the objective, each in its best mapping; none where nothing is simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<PredictedReport>,
    /// The base on other samples, if anything is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<HoldoutReport>,
    /// The classes that lose most.
    pub worst_classes: Vec<ClassLoss>,
    /// Classes that lose more than three times what all together may.
    pub overcharged_classes: Vec<ClassLoss>,
    /// Multiply-adds without exits.
    pub base_macs: u64,
    /// Mean multiply-adds with exits.
    pub mean_macs: u64,
    /// Multiply-adds of an inference that takes no exit.
    pub worst_macs: u64,
    /// Heads that went into the choice.
    pub heads: Vec<HeadReport>,
    /// Best accuracy for every mean cost that was seen.
    pub curve: Vec<CurvePoint>,
    /// Confusion before and after, and each class by itself.
    pub tables: tables::ClassTables,
}

/// What came of the search for exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There are exits.
    Exits,
    /// So few samples cannot prove the limits whatever exits do; nothing was trained.
    TooFewSamples,
    /// Some exits would save something, but none of them is proven to keep the limits.
    NoExitKeepsTheLimits,
    /// None saves anything here, whatever may be lost.
    NoExitSaves,
}

/// What exits save, as it is predicted.
#[derive(Clone, Debug, Serialize)]
pub struct PredictedReport {
    /// By what.
    pub objective: String,
    /// Without exits.
    pub without_exits: f64,
    /// With them.
    pub with_exits: f64,
}

/// Exits that just fail to be proven.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NearestReport {
    /// Limits under which they are proven.
    pub limits: Limits,
    /// Mean multiply-adds with them.
    pub mean_macs: u64,
    /// How many calibration samples would prove the limits that are wanted, if they said the same; none if no number would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
}

/// What a limit would leave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LimitReport {
    /// The limits.
    pub limits: Limits,
    /// Mean multiply-adds of what they allow.
    pub mean_macs: u64,
}

/// One exit.
#[derive(Clone, Debug, Serialize)]
pub struct ExitReport {
    /// Name of the node behind which it is.
    pub after: String,
    /// Name of the device that decides; filled in when it is known.
    pub device: String,
    /// What counts as confidence.
    pub rule: ExitRule,
    /// Least confidence.
    pub threshold: f32,
    /// In a stream, what the answers before count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
    /// What scores are divided by.
    pub temperature: f32,
    /// Share of all samples that end here.
    pub share: f64,
    /// Share of right answers among those.
    pub accuracy: f64,
    /// What the head is like.
    pub head: String,
    /// Weights and biases of the head.
    pub head_parameters: u64,
    /// Multiply-adds of the head alone.
    pub head_macs: u64,
    /// Multiply-adds of an inference that ends here.
    pub macs: u64,
}

/// A head that could have been chosen.
#[derive(Clone, Debug, Serialize)]
pub struct HeadReport {
    /// Name of the node behind which it is.
    pub after: String,
    /// What it is like.
    pub head: String,
    /// Multiply-adds of the backbone up to there.
    pub backbone_macs: u64,
    /// Multiply-adds of the head.
    pub head_macs: u64,
    /// Share of right answers if every inference ended here.
    pub accuracy: f64,
}

/// A point of the accuracy-operations curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CurvePoint {
    /// Mean multiply-adds.
    pub mean_macs: u64,
    /// Accuracy.
    pub accuracy: f64,
}
