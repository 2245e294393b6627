//! `report.json`: where every byte and every millisecond goes. Keys are stable: add, never rename.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::learned::Learned;
use crate::passes::store_weights::Stored;

/// Version of the report and of messages as JSON: it grows when a key changes its meaning, not when one is added.
pub const SCHEMA: u32 = 1;

/// The whole report. Figures are predictions; what was measured is in `measured` objects beside them, in `accuracy`,
/// `evaluation` and `run`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The model as compiled.
    pub model: ModelReport,
    /// What was decided and predicted.
    pub plan: PlanReport,
    /// Each device.
    pub devices: Vec<DeviceReport>,
    /// Each node of the simplified graph.
    pub layers: Vec<LayerReport>,
    /// Runs of nodes that are computed patch by patch.
    pub patches: Vec<crate::shard::patches::PatchReport>,
    /// Runs of nodes that are computed some rows at a time.
    #[serde(rename = "stripes")]
    pub row_streaming: Vec<crate::shard::row_streaming::RowStreamingReport>,
    /// Nodes of which devices compute their parts in pieces, so that what others need travels meanwhile, and into how many;
    /// none where nothing travels while a device computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<BTreeMap<String, usize>>,
    /// What calibration samples have made whole numbers of, with --quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<crate::quantize::report::QuantizationReport>,
    /// What is known of links that send fewer bytes than devices compute in, if any do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<crate::links::LinksReport>,
    /// Early exits.
    pub exits: Vec<crate::exits::ExitReport>,
    /// What the calibration set says of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<crate::exits::CalibrationReport>,
    /// Smaller graphs over the same weights.
    pub variants: Vec<crate::variants::report::VariantReport>,
    /// What is known of them beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<FamilyReport>,
    /// What holds the cluster back, and what would help.
    pub advice: crate::driver::Advice,
    /// What happens when a device is lost, with `survive = 1` of the cluster file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survival: Option<SurvivalReport>,
    /// Multiply-adds of an average inference.
    pub mean_macs: u64,
    /// Accuracy of the compiled program, with --evaluate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracyReport>,
    /// Measured on the running cluster, with --evaluate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// Measured latency and the answer, with --run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReport>,
    /// What the devices say of themselves, with --deploy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Vec<crate::deploy::state::DeviceState>>,
    /// Measurements and tuning records that the predictions and kernels rest on.
    pub learned: Vec<Learned>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Time of each stage of the compiler in ms.
    pub compile: BTreeMap<String, f64>,
}

/// When each variant is taken, and what the network can do without.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyReport {
    /// What is taken when.
    pub conditions: Vec<crate::variants::report::ConditionReport>,
    /// Each part alone.
    pub sensitivity: Vec<crate::variants::report::SensitivityReport>,
    /// Sets of parts that were measured.
    pub measured_sets: usize,
    /// What is proven of multiply-adds that can be saved at what loss.
    pub macs_bounds: Vec<crate::variants::search::Bound>,
    /// The same of traffic.
    pub traffic_bounds: Vec<crate::variants::search::Bound>,
    /// An answer should not take longer.
    pub max_latency_ms: f64,
    /// Share by which variants make the weights of the device where it is most larger.
    pub more_flash: f64,
    /// Bytes by which they make the weights of a standalone device larger, of the one where it is most.
    pub standalone_bytes: u64,
    /// Why there is nothing but the whole network, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_whole: Option<String>,
    /// What the user limits.
    pub limits: crate::accuracy::Limits,
    /// The whole network on other samples, if anything is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<crate::accuracy::HoldoutReport>,
}

/// What happens when any one device is lost.
#[derive(Clone, Debug, Serialize)]
pub struct SurvivalReport {
    /// Devices without which there is no answer.
    pub single_points: Vec<SinglePointReport>,
    /// Each of the others that take part.
    pub losses: Vec<LossReport>,
    /// Bytes by which the weights of a device grow for it, of the one where it is most.
    pub more_weights_bytes: u64,
}

/// A device without which there is no answer.
#[derive(Clone, Debug, Serialize)]
pub struct SinglePointReport {
    /// Its name.
    pub device: String,
    /// `input` or `output`, which it holds, or `bridge`: no other links lead to the output.
    pub why: &'static str,
}

/// The loss of a device.
#[derive(Clone, Debug, Serialize)]
pub struct LossReport {
    /// Its name.
    pub device: String,
    /// Predicted time from an input to its answer without it. The inference under way is computed again: it takes this beside
    /// what had passed until the loss was noticed.
    pub latency_ms: f64,
    /// Name of the route that is taken.
    pub route: String,
    /// Whether the others do it with the weights that they have anyway.
    pub makes_do: bool,
}

/// The model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// File name without extension.
    pub name: String,
    /// ONNX opset.
    pub opset: i64,
    /// Nodes after simplification.
    pub nodes: usize,
    /// Elements of all constants.
    pub parameters: u64,
    /// Multiply-adds of one inference.
    pub macs: u64,
    /// What goes in, in the order of the bytes of an input frame: each little-endian, from a multiple of 8 bytes.
    pub inputs: Vec<TensorReport>,
    /// What comes out, laid out in the same way.
    pub outputs: Vec<TensorReport>,
    /// Inputs that are an output of the inference before, which stay on their device; neither is among those above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateReport>,
    /// Number types of the model that are computed in `f32`; inputs and outputs are of the types that it promises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub computed_in_f32: Vec<&'static str>,
}

/// An input or output of the model.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// The model's name for it.
    pub name: String,
    /// Type of an element.
    pub element: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
}

/// An output that is an input of the next inference, by the model's names.
#[derive(Clone, Debug, Serialize)]
pub struct StateReport {
    /// The input.
    pub input: String,
    /// The output that it becomes.
    pub output: String,
}

/// What was decided and predicted.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// What was minimised.
    pub objective: String,
    /// Family of strategies.
    pub strategy: String,
    /// Whether none of the compared strategies has a smaller sum of steps than this plan; the sum is what is minimised.
    pub optimal: bool,
    /// Relative distance between what is predicted of the objective and what no plan at all can beat, 0 to 1; of traffic
    /// and memory to the best that is proven.
    pub gap: f64,
    /// What was proven of this plan, in words.
    pub proven: String,
    /// No plan at all answers sooner.
    pub lower_bound_ms: f64,
    /// Samples that are answered together.
    pub batch: usize,
    /// Predicted; of an inference that takes no exit.
    pub latency_ms: f64,
    /// Predicted mean over all exits.
    pub mean_latency_ms: f64,
    /// Predicted.
    pub throughput_hz: f64,
    /// Per inference, all links.
    pub traffic_bytes: u64,
    /// Largest RAM need of any device: arena, and weights where they live in RAM.
    pub peak_ram_bytes: u64,
    /// Predicted; of an inference that takes no exit.
    pub energy_mj: f64,
    /// Predicted mean over all exits.
    pub mean_energy_mj: f64,
    /// Mean over all exits, all links.
    pub mean_traffic_bytes: u64,
    /// Time the solver took.
    pub solve_ms: f64,
    /// Digest that devices compare before they talk.
    pub hash: String,
    /// Whether devices prove to each other who they are: `noise` or `none`; not said of one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<&'static str>,
    /// Predicted latency of the best single device that can hold the model, for comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_device_ms: Option<f64>,
    /// Devices of the cluster that the plan has no use for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unused_devices: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// Name in the cluster.
    pub name: String,
    /// Name of its target.
    pub target: String,
    /// Multiply-adds of an inference that takes no exit here.
    pub macs: u64,
    /// Mean over all exits.
    pub mean_macs: u64,
    /// Predicted mean over all exits.
    pub mean_compute_ms: f64,
    /// Mean over all exits.
    pub mean_sent_bytes: u64,
    /// Packed weights.
    pub weights_bytes: u64,
    /// Working memory.
    pub arena_bytes: u64,
    /// Least working memory that any placement of these tensors could need.
    pub least_arena_bytes: u64,
    /// Machine code of the linked program, with --build; 0 if not built.
    pub code_bytes: u64,
    /// Flash of the linked program (code, constants, weights), with --build.
    pub flash_bytes: u64,
    /// RAM of the linked program (arena and other static data), with --build.
    pub ram_bytes: u64,
    /// Sent per inference.
    pub sent_bytes: u64,
    /// Received per inference.
    pub received_bytes: u64,
    /// Predicted.
    pub compute_ms: f64,
    /// Predicted.
    pub link_ms: f64,
    /// What the device draws by being on while one inference lasts; predicted, and no part of `energy_mj`.
    pub idle_mj: f64,
    /// Measured with --run or --evaluate, per inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredDevice>,
    /// Kernels that several threads share.
    pub shared_kernels: usize,
}

/// What a device said of an inference, as mean where there were several.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredDevice {
    /// In computing steps.
    pub compute_ms: f64,
    /// In exchanges, waiting included.
    pub link_ms: f64,
    /// Sent to peers.
    pub sent_bytes: u64,
    /// Received from peers.
    pub received_bytes: u64,
}

/// What --run answered and how long it took.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// From handing in the input to having the answer; measured.
    #[serde(flatten)]
    pub latency: LatencyReport,
    /// Inferences.
    pub repeat: usize,
    /// The last answer.
    pub outputs: Vec<OutputReport>,
}

/// One output of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct OutputReport {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub r#type: String,
    /// Extent per axis.
    pub shape: Vec<usize>,
    /// Position of the largest element.
    pub largest: usize,
    /// The first elements; `null` where an element is no finite number.
    pub elements: Vec<Option<f32>>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Name.
    pub node: String,
    /// Operator.
    pub op: String,
    /// Strategy.
    pub strategy: String,
    /// Multiply-adds.
    pub macs: u64,
    /// Names of the devices that compute it.
    pub devices: Vec<String>,
    /// Bytes of its results that leave the device.
    pub sent_bytes: u64,
    /// Whether no axis of its loops can be cut, so that it always runs whole.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub opaque: bool,
    /// How a convolution is done with fewer products, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "minimal_filtering")]
    pub winograd: Option<WinogradReport>,
    /// The largest sum of whole numbers that weights and ranges allow, if that is more than 2^24, up to which such sums are
    /// exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inexact_sums_up_to: Option<f64>,
    /// How its weights are stored, if in fewer bytes than they are computed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Stored>,
}

/// What Winograd's algorithm comes to in one convolution.
#[derive(Clone, Debug, Serialize)]
pub struct WinogradReport {
    /// Outputs and taps of a tile, such as `F(4 x 4, 3 x 3)`.
    pub form: String,
    /// No output is further from the exact one than this times the largest input, however roundings fall.
    pub error_bound: f64,
    /// Where an input is this large or larger, or no number, the layer is convolved directly: additions between the transforms
    /// could overflow, and would spoil whole tiles.
    pub direct_from: f64,
}

/// Accuracy.
#[derive(Clone, Debug, Serialize)]
pub struct AccuracyReport {
    /// Share of right answers of the reference kernels, if they were run too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Share of right answers of the running cluster.
    pub compiled: f64,
    /// Labelled samples.
    pub samples: usize,
}

/// Measured over a data set.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluationReport {
    /// Labelled samples.
    pub samples: usize,
    /// Name of the output that is compared with the labels.
    pub output: String,
    /// Share of right answers.
    pub accuracy: f64,
    /// Multiply-adds of an average inference.
    pub mean_macs: u64,
    /// Share of each exit, and last of the network's end.
    pub exit_shares: Vec<f64>,
    /// Share of right answers of each of them.
    pub exit_accuracies: Vec<f64>,
    /// How many inferences took each route; the first is the whole network.
    pub routes: Vec<usize>,
    /// Predicted mean latency of inferences that end where these did.
    pub predicted_ms: f64,
    /// Predicted mean energy of inferences that end where these did.
    pub mean_energy_mj: f64,
    /// Mean energy by what was measured: what the targets' figures say of computing, for as long as each device computed
    /// instead of as long as it was to, and of links for the bytes that devices counted.
    pub measured_energy_mj: f64,
    /// Mean time from input to answer.
    pub mean_ms: f64,
    /// Time from input to answer, as the caller sees it.
    pub latency_ms: LatencyReport,
}

/// Quantiles of a latency.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyReport {
    /// Median.
    pub p50: f64,
    /// 95 % are below.
    pub p95: f64,
    /// Worst.
    pub max: f64,
}

impl LatencyReport {
    /// Quantiles of at least one measurement.
    pub fn of(mut times_ms: Vec<f64>) -> LatencyReport {
        times_ms.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((times_ms.len() as f64 * share).ceil() as usize).clamp(1, times_ms.len().max(1)) - 1;
            times_ms.get(index).copied().unwrap_or(0.0)
        };
        LatencyReport { p50: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}
