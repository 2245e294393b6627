//! What is known of variants, for `report.json`.

use serde::Serialize;

use super::mapping::Gain;
use super::parts::PartKind;
use super::search::Bound;
use crate::accuracy::{ClassLoss, HoldoutReport, Limits};

/// Everything about variants.
#[derive(Clone, Debug, Serialize)]
pub struct VariantsReport {
    /// The front: sets of parts that nothing beats; the first is the whole network.
    pub variants: Vec<VariantReport>,
    /// What is taken when.
    pub conditions: Vec<ConditionReport>,
    /// Each part alone.
    pub sensitivity: Vec<SensitivityReport>,
    /// Sets of parts that were measured.
    pub measured_sets: usize,
    /// What is proven of multiply-adds that can be saved at what loss, on the samples that guide the search.
    pub macs_bounds: Vec<Bound>,
    /// The same of traffic.
    pub traffic_bounds: Vec<Bound>,
    /// An answer should not take longer.
    pub max_latency_ms: f64,
    /// Share by which variants make the weights of the device where it is most larger, of those that are not standalone.
    pub more_flash: f64,
    /// Bytes by which they make the weights of a standalone device larger, of the one where it is most.
    pub standalone_bytes: u64,
    /// Why there is nothing but the whole network, where that is so.
    pub only_whole: Option<String>,
    /// What the user limits.
    pub limits: Limits,
    /// The whole network on other samples, if anything is known of that.
    pub holdout: Option<HoldoutReport>,
}

/// A set of parts that can go.
#[derive(Clone, Debug, Serialize)]
pub struct VariantReport {
    /// Name: `base` or `v1`, `v2`, ..
    pub name: String,
    /// What goes: kind and node.
    pub dropped: Vec<DroppedReport>,
    /// The exit at which every inference ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at_exit: Option<usize>,
    /// Share of right answers on calibration samples that did not guide the search.
    pub accuracy: f64,
    /// Between these it lies with 95 % probability (Wilson).
    pub accuracy_range: (f64, f64),
    /// Accuracy that is lost to the whole network without exits, on the same samples.
    pub loss: f64,
    /// What that does not exceed with 90 % probability, of each variant by itself.
    pub loss_bound: f64,
    /// Multiply-adds.
    pub macs: u64,
    /// Predicted where everything is as cluster.toml says.
    pub latency_ms: f64,
    /// Per inference over all links, likewise.
    pub traffic_bytes: u64,
    /// Likewise.
    pub energy_mj: f64,
    /// Share of right answers on the samples of --evaluate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluated_accuracy: Option<f64>,
    /// Share of those samples that ended at each exit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluated_exit_shares: Vec<f64>,
    /// Share of inferences that end at each exit, on the calibration samples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exit_shares: Vec<f64>,
    /// Whether some condition takes it.
    pub compiled: bool,
    /// What it saves beside the whole network where everything is as cluster.toml says: the most in each column.
    #[serde(flatten)]
    pub gain: Gain,
    /// The classes that lose most.
    pub worst_classes: Vec<ClassLoss>,
    /// What all classes together may lose.
    pub allowed_loss: f64,
    /// Classes that lose more than three times that.
    pub overcharged_classes: Vec<ClassLoss>,
}

/// Something that goes.
#[derive(Clone, Debug, Serialize)]
pub struct DroppedReport {
    /// What it is.
    pub kind: PartKind,
    /// The node that joined it with the rest.
    pub node: String,
    /// What takes its place: `nothing`, `map` (a linear map of channels), `convolution` (of the neighbourhood, too),
    /// `shift` (a constant per channel), or `rest` (channels that go are a linear map of those that stay).
    #[serde(rename = "repair")]
    pub compensation: &'static str,
}

/// What is taken in a situation.
#[derive(Clone, Debug, Serialize)]
pub struct ConditionReport {
    /// What has happened.
    pub name: String,
    /// Names of the devices that are gone.
    pub missing: Vec<String>,
    /// Number of the route, as frames carry it; none if nothing can be computed then.
    pub route: Option<usize>,
    /// The variant that is taken.
    pub variant: Option<String>,
    /// Whether it is in time.
    pub in_time: bool,
    /// RAM that it takes of the device where it is most: working memory, and weights where they live in RAM.
    pub peak_ram_bytes: u64,
    /// How each variant is best computed then: by what the user wants, and what is better in traffic, energy or RAM.
    pub choices: Vec<ChoiceReport>,
}

/// A variant in a situation.
#[derive(Clone, Debug, Serialize)]
pub struct ChoiceReport {
    /// Name of the variant.
    pub variant: String,
    /// Predicted.
    pub latency_ms: f64,
    /// Per inference over all links.
    pub traffic_bytes: u64,
    /// Predicted.
    pub energy_mj: f64,
    /// RAM of the device where it is most, by the sizes of tensors, weights among them where they live in RAM.
    pub ram_bytes: u64,
    /// Names of the devices that compute something.
    pub devices: Vec<String>,
    /// Whether it is what is taken.
    pub taken: bool,
    /// Of variants, what is saved beside the whole network in the same situation.
    #[serde(flatten)]
    pub gain: Gain,
}

/// A part alone.
#[derive(Clone, Debug, Serialize)]
pub struct SensitivityReport {
    /// What it is.
    pub kind: PartKind,
    /// The node that joins it with the rest.
    pub node: String,
    /// Place among the model's operations, from 0 to 1.
    pub position: f64,
    /// Multiply-adds that go with it, as a share of the model's.
    pub macs_share: f64,
    /// What takes its place.
    #[serde(rename = "repair")]
    pub compensation: &'static str,
    /// Weights that this adds, as a share of the model's.
    pub weights_share: f64,
    /// Loss of accuracy, on the samples that guide the search.
    pub accuracy_loss: f64,
    /// Mean negative log-likelihood that it adds.
    #[serde(rename = "surprise")]
    pub nll: f64,
}
