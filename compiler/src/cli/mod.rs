//! The command line, as typed; DESIGN's contract at the edge.

mod options;

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};

use crate::accuracy::{Demands, Holdout, Limits, parse_loss, parse_share};
use crate::config::WeightStorage;
use crate::fit::DataLayout;
use crate::links::LinkError;
use crate::options::Numbers;
use crate::partition::{Objective, StrategyFamily};
use crate::passes::states::Wanted;
use crate::quantize::RangeMethod;

pub use options::preparation;

/// Compiles one ONNX model, ahead of time, into one static program per device of a cluster.
#[derive(Clone, Debug, Parser)]
#[command(name = "partita", version = env!("PARTITA_VERSION"), max_term_width = 110)]
pub struct Arguments {
    /// The trained model (ONNX).
    #[arg(required_unless_present = "explain")]
    pub model: Option<PathBuf>,
    /// The cluster: devices, links, who holds the input and who wants the answer.
    #[arg(long, value_name = "CLUSTER.toml", required_unless_present = "explain")]
    pub targets: Option<PathBuf>,
    /// Output folder [default: ./out/MODEL]. Compiling again replaces what was written there before and leaves other
    /// files where they are; if files that were written have been changed since, they are named, and nothing is
    /// replaced. With --simulate, where to write the report; without this option it is only printed.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// What to minimise: latency, throughput, traffic, memory, energy, or weights of a sum, such as
    /// latency=1,traffic=0.5 (per ms, MB, mJ).
    #[arg(
        long,
        value_name = "OBJECTIVE",
        default_value = "latency",
        value_parser = Objective::parse,
        help_heading = "Plan"
    )]
    pub objective: Objective,
    /// Which family of splits to use; all but `auto` are for comparison.
    #[arg(long, value_parser = strategy_family(), default_value = StrategyFamily::Auto.name(), help_heading = "Plan")]
    pub strategy: StrategyFamily,
    /// Shape of an input whose dimensions the model leaves open, name=1x3x224x224, or extent of a symbol, height=320;
    /// one or several. Open batch dimensions are 1.
    #[arg(long = "shape", value_name = "NAME=DIMS", value_parser = parse_shape, help_heading = "Model")]
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Fix an input to a value, which is then a constant of the model: sr=16000, or roi=0,0,1,1 for one of four
    /// elements.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_fixed, help_heading = "Model")]
    pub fixed: Vec<(String, String)>,
    /// Make an output the input of the next inference: it stays on its device, zero at first, and is no input or output
    /// any more. `auto` takes the outputs that names say are states, such as stateN for state.
    #[arg(long = "state", value_name = "OUTPUT=INPUT", value_parser = parse_state, help_heading = "Model")]
    pub states: Vec<Wanted>,
    /// Answer this many samples together: inputs and outputs are stacked along their first dimension. For throughput,
    /// devices may then take whole samples each (data-parallel stages).
    #[arg(long, value_name = "SAMPLES", default_value_t = 1, value_parser = parse_batch, help_heading = "Plan")]
    pub batch: usize,
    /// Convolve directly: without Winograd's algorithm, which rounds more and takes more memory for weights. (Inputs
    /// that are no numbers, or 2^64 or larger, are convolved directly all the same.)
    #[arg(long, help_heading = "Model")]
    pub exact: bool,
    /// What is computed in. auto: quantized models in whole numbers of 8 bits where a device multiplies bytes,
    /// everything else in f32. f32: every number has 32 bits, where it is computed and on links; quantized models give
    /// the same answers, and microcontrollers store them in 8 bits all the same. int8: quantized models as with auto,
    /// and others as --quantize int8 makes them, which takes --calibration.
    #[arg(long, value_enum, value_name = "NUMBERS", default_value = "auto", help_heading = "Model")]
    pub numbers: Numbers,
    /// How the weights of matrix products are stored: in 16 or 8 bits they take a half or a quarter of the memory and
    /// of the time to read them. The report states the error.
    #[arg(long, value_parser = weight_storage(), default_value = WeightStorage::F32.name(), help_heading = "Model")]
    pub weights: WeightStorage,
    /// Compute in whole numbers: convolutions and matrix products of 8 bits, with ranges of activations that
    /// calibration samples teach. Layers stay in f32 where more would be lost than --max-loss, --min-accuracy and
    /// --max-class-loss allow, or, without these, more than a point on the samples that judge. Heads of exits, and what
    /// makes up for parts that variants leave out, stay in f32.
    #[arg(long, value_enum, value_name = "NUMBERS", help_heading = "Model")]
    pub quantize: Option<QuantizedNumbers>,
    /// How --quantize chooses the range of an activation.
    #[arg(
        long,
        value_name = "METHOD",
        value_parser = range_method(),
        default_value = RangeMethod::default().name(),
        help_heading = "Model"
    )]
    pub quantize_ranges: RangeMethod,
    /// Write the quantized model here, as ONNX with QuantizeLinear and DequantizeLinear (QDQ), to check or use it
    /// elsewhere. It is without exits and variants.
    #[arg(long, value_name = "FILE.onnx", help_heading = "Model")]
    pub write_onnx: Option<PathBuf>,
    /// Refuse plans slower than this.
    #[arg(long, value_name = "MS", value_parser = crate::config::ranges::parse_max_latency, help_heading = "Plan")]
    pub max_latency: Option<f64>,
    /// Say which changes of the cluster would help most: plans for clusters that differ in one thing each (links ten
    /// times as fast, threads on all cores, one more device, the input or the answer elsewhere, no `survive`) are made
    /// as well, and take their time.
    #[arg(long, help_heading = "Plan")]
    pub advise: bool,
    /// Use the strategies of an earlier plan instead of solving.
    #[arg(long, value_name = "PLAN.pb", help_heading = "Plan")]
    pub plan: Option<PathBuf>,
    /// How much links may change an answer, as a share of its largest element: tensors may then travel as f16, and,
    /// where --calibration shows their ranges, as multiples of a step in a byte. What it comes to is measured on the
    /// calibration samples, or on seeded noise, and reported. `exact` sends every number as it is; so do exits,
    /// variants, networks of whole numbers, and those of which an inference takes more than 40 GMAC or 256 MB, whatever
    /// this says. 1e-3 unless given.
    #[arg(long, value_name = "F|exact", value_parser = LinkError::parse, help_heading = "Plan")]
    pub link_error: Option<LinkError>,
    /// Run the model on the cluster's devices by several families of splits, and write what was measured beside the
    /// cluster file, where later compilations find it.
    #[arg(long, help_heading = "What is done")]
    pub measure: bool,
    /// Measurements to use [default: CLUSTER.measured.toml beside the cluster file, if it is there].
    #[arg(long, value_name = "FILE", help_heading = "Plan")]
    pub measured: Option<PathBuf>,
    /// Measure the kernels that can do each convolution on the cluster's devices, and write the best beside the cluster
    /// file, where later compilations find them.
    #[arg(long, help_heading = "What is done")]
    pub tune: bool,
    /// Let --measure and --tune learn from emulators, too: for tests of the tool. What an emulator needs says nothing
    /// about the device.
    #[arg(long, help_heading = "What is done")]
    pub measure_emulated: bool,
    /// Record of tuning to use [default: CLUSTER.tuned.toml beside the cluster file, if it is there].
    #[arg(long, value_name = "FILE", help_heading = "Plan")]
    pub tuned: Option<PathBuf>,
    /// Cross-compile the device crates too, into OUT/bin.
    #[arg(long, help_heading = "What is done")]
    pub build: bool,
    /// Keep the symbols and line numbers of every program, for debuggers and profilers, in OUT/symbols.
    #[arg(long, help_heading = "What is done")]
    pub symbols: bool,
    /// Build without the crates that earlier compilations have built, which are kept in the user's cache folder, and
    /// keep none.
    #[arg(long, help_heading = "What is done")]
    pub no_build_cache: bool,
    /// Build, start every device as a local process (QEMU for foreign ones), infer once, print the answer.
    #[arg(long, help_heading = "What is done")]
    pub run: bool,
    /// Input of --run: arrays named as the graph's inputs (a single input takes any single array). Default: seeded
    /// noise.
    #[arg(long, value_name = "X.npz", help_heading = "What is done")]
    pub input: Option<PathBuf>,
    /// Infer this many times with --run and report the median latency.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_repeat, help_heading = "What is done")]
    pub repeat: usize,
    /// Where --run writes the answer: arrays named as the graph's outputs.
    #[arg(long, value_name = "Y.npz", help_heading = "What is done")]
    pub output: Option<PathBuf>,
    /// Build, run over labelled samples (arrays `x`, `y`), report accuracy, latency and traffic.
    #[arg(long, value_name = "DATA.npz", help_heading = "What is done")]
    pub evaluate: Option<PathBuf>,
    /// Samples that quantization, exits and variants learn from and are judged on, and on which --link-error is
    /// measured: arrays `x`, and `y` with the right classes (without `y`, the model's own answers count as right). The
    /// model must not have been trained on them.
    #[arg(long, value_name = "DATA.npz", help_heading = "Exits and variants")]
    pub calibration: Option<PathBuf>,
    /// Add early exits: small classifiers inside the network, trained on the calibration samples, that answer inputs of
    /// which they are sure, so that the rest of the network need not run.
    #[arg(long, value_enum, default_value_t = Switch::Off, help_heading = "Exits and variants")]
    pub exits: Switch,
    /// Compile smaller variants of the network that use the same weights but leave out residual branches or skip
    /// connections. The devices switch to one when links get slow or a device is lost: under the conditions of the
    /// cluster file, or a default set of them.
    #[arg(long, value_enum, default_value_t = Switch::Off, help_heading = "Exits and variants")]
    pub variants: Switch,
    /// Outputs of the model that are early exits already (BranchyNet). Their thresholds are chosen; nothing is trained.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', help_heading = "Exits and variants")]
    pub exit_outputs: Vec<String>,
    /// More samples to train exits on; the model itself may have been trained on them. With 1000 calibration samples or
    /// more, those are then used for judging only.
    #[arg(long, value_name = "DATA.npz", help_heading = "Exits and variants")]
    pub training: Option<PathBuf>,
    /// Array of the calibration data that says which samples belong together, such as patients or speakers. An exit is
    /// never judged on a group that it was trained on.
    #[arg(long = "calibration-groups", value_name = "ARRAY", help_heading = "Exits and variants")]
    pub groups: Option<String>,
    /// The calibration samples are consecutive, as the inputs on the devices will be. An exit may then become surer
    /// when it has given the same answer several times in a row.
    #[arg(long = "calibration-stream", help_heading = "Exits and variants")]
    pub stream: bool,
    /// How long exits are trained, from 0.001 to 100; 1 takes some minutes.
    #[arg(
        long = "exit-effort",
        value_name = "F",
        default_value_t = 1.0,
        value_parser = parse_effort,
        help_heading = "Exits and variants"
    )]
    pub effort: f64,
    /// Largest loss of accuracy that quantization, exits and variants may cause, each by itself, as a share (0.01 is
    /// one point). It is kept with 90 % probability, and judged sample by sample: only answers that change count, so
    /// few samples prove much. By default 0.01 for exits, unless --min-accuracy is given; variants may by default be 5
    /// points less accurate on the samples.
    #[arg(long, value_name = "F", value_parser = parse_loss, help_heading = "Exits and variants")]
    pub max_loss: Option<f64>,
    /// Least accuracy, as a share (0.97 is 97 %). With exits it is reached with 90 % probability; unlike --max-loss,
    /// that also counts how sure the model's own accuracy is on so few samples, so it takes more of them. Variants
    /// reach it on the samples that judge.
    #[arg(long, value_name = "F", value_parser = parse_share, help_heading = "Exits and variants")]
    pub min_accuracy: Option<f64>,
    /// Like --max-loss, for every class by itself: no class may lose a larger share of its answers. Classes with few
    /// samples prove little. Without it, classes that lose more than three times the limit are named in a warning.
    #[arg(long, value_name = "F", value_parser = parse_loss, help_heading = "Exits and variants")]
    pub max_class_loss: Option<f64>,
    /// Labelled samples that are neither for training nor for calibration, or the accuracy that the model is known to
    /// have (0.915). Where the model is less accurate there than on the calibration samples, these are too easy, and
    /// what they prove is weakened by the difference.
    #[arg(long, value_name = "DATA.npz|ACCURACY", value_parser = Holdout::parse, help_heading = "Exits and variants")]
    pub holdout: Option<Holdout>,
    /// Use only this many samples of --evaluate.
    #[arg(long, value_name = "N", value_parser = parse_samples, help_heading = "What is done")]
    pub samples: Option<usize>,
    /// With --evaluate: write a line per inference here: sample, milliseconds, route, exit, whether it was right, how
    /// often it was given up before.
    #[arg(long, value_name = "FILE.csv", help_heading = "What is done")]
    pub log: Option<PathBuf>,
    /// Applied to `x` of calibration and evaluation data and to the input of --run: mean=..,std=.. with one value or
    /// one per channel, separated by `/`.
    #[arg(long, value_name = "mean=..,std=..", value_parser = crate::data::Normalization::parse, help_heading = "Data")]
    pub normalize: Option<crate::data::Normalization>,
    /// Layout of `x` in calibration and evaluation data and of the input of --run; converted to the model's.
    #[arg(long, value_parser = data_layout(), default_value = "nchw", help_heading = "Data")]
    pub layout: DataLayout,
    /// Start every device as PROGRAM NAME EXECUTABLE ARGUMENTS.. instead of as a local process, with the addresses of
    /// the cluster file: to reach other machines, or a test bed.
    #[arg(long, value_name = "PROGRAM", help_heading = "What is done")]
    pub launcher: Option<PathBuf>,
    /// Compare every emitted program with the reference kernels on random inputs; with --evaluate, on all of its
    /// samples.
    #[arg(long, help_heading = "What is done")]
    pub verify: bool,
    /// Build, install every device over ssh (`address`, `user` and `ssh_port` of the cluster file; ssh's own
    /// configuration and keys apply), start the cluster, and wait until it answers; what ran there before runs again if
    /// it does not.
    #[arg(long, help_heading = "What is done")]
    pub deploy: bool,
    /// Ask every device what runs there: version, since when, peers, inferences, the last fault. Compiles nothing.
    #[arg(long, help_heading = "What is done")]
    pub status: bool,
    /// Stop the cluster and remove what --deploy has installed on its devices, and nothing else. Compiles nothing.
    #[arg(long, help_heading = "What is done")]
    pub undeploy: bool,
    /// Predict latency, throughput, traffic and energy without building.
    #[arg(long, help_heading = "What is done")]
    pub simulate: bool,
    /// With --simulate: write the predicted course of one inference here, as a trace for Perfetto.
    #[arg(long, value_name = "TRACE.json", help_heading = "What is done")]
    pub timeline: Option<PathBuf>,
    /// Print the graph or plan after a stage: import, a pass, quantize, exits, batch, links, partition, shard,
    /// schedule, program; `all` prints each.
    #[arg(long, value_name = "PASS", value_parser = stages(), hide_possible_values = true, help_heading = "Output")]
    pub print_ir_after: Option<String>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Human, help_heading = "Output")]
    pub format: Format,
    /// Say what is being done.
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,
    /// Say nothing but results, warnings and errors.
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// Explain an error code, such as E0130, and stop.
    #[arg(long, value_name = "CODE", exclusive = true, help_heading = "Output")]
    pub explain: Option<String>,
}

impl Arguments {
    /// What is demanded of the accuracy of exits and variants.
    pub fn demands(&self) -> Demands {
        let Arguments { max_loss, min_accuracy, max_class_loss, .. } = *self;
        Demands { limits: Limits { max_loss, min_accuracy, max_class_loss }, holdout: self.holdout.clone() }
    }
}

/// Whether something is done that the user did not choose in detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Where it pays.
    Auto,
    /// Not at all.
    Off,
}

/// What --quantize can compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantizedNumbers {
    /// Whole numbers of 8 bits, with a scale per output channel of weights and per tensor of activations.
    Int8,
}

/// Methods that choose ranges, by name.
fn range_method() -> impl TypedValueParser<Value = RangeMethod> {
    let value = |method: RangeMethod| PossibleValue::new(method.name()).help(method.description());
    let named = |name: String| RangeMethod::ALL.into_iter().find(|method| method.name() == name);
    PossibleValuesParser::new(RangeMethod::ALL.map(value)).map(move |name| named(name).unwrap_or_default())
}

/// How weights can be stored, by name.
fn weight_storage() -> impl TypedValueParser<Value = WeightStorage> {
    let value = |storage: WeightStorage| PossibleValue::new(storage.name()).help(storage.description());
    let named = |name: String| WeightStorage::ALL.into_iter().find(|storage| storage.name() == name);
    PossibleValuesParser::new(WeightStorage::ALL.map(value)).map(move |name| named(name).unwrap_or_default())
}

/// The families of strategies, by name.
fn strategy_family() -> impl TypedValueParser<Value = StrategyFamily> {
    let value = |family: StrategyFamily| PossibleValue::new(family.name()).help(family.description());
    let named = |name: String| StrategyFamily::ALL.into_iter().find(|family| family.name() == name);
    PossibleValuesParser::new(StrategyFamily::ALL.map(value))
        .map(move |name| named(name).unwrap_or(StrategyFamily::Auto))
}

/// Layouts of images in a data file, by name.
fn data_layout() -> impl TypedValueParser<Value = DataLayout> {
    let named = |name: String| if name == "nhwc" { DataLayout::Nhwc } else { DataLayout::Nchw };
    PossibleValuesParser::new(["nchw", "nhwc"]).map(named)
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Format {
    Human,
    Json,
}

fn parse_effort(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(effort) if (0.001..=100.0).contains(&effort) => Ok(effort),
        _ => Err("expected a number from 0.001 to 100".to_string()),
    }
}

fn parse_repeat(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(times @ 1..=1_000_000) => Ok(times),
        _ => Err("expected a number from 1 to 1000000".to_string()),
    }
}

/// Names that --print-ir-after takes.
fn stages() -> PossibleValuesParser {
    PossibleValuesParser::new(crate::pipeline::stages().into_iter().chain(["all"]))
}

fn parse_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(samples @ 1..=4096) => Ok(samples),
        _ => Err("expected a number of samples from 1 to 4096".to_string()),
    }
}

fn parse_fixed(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=VALUE, such as sr=16000")?;
    let is_value = |word: &str| matches!(word.trim(), "true" | "false") || word.trim().parse::<f64>().is_ok();
    match value.split(',').find(|word| !is_value(word)) {
        Some(word) => Err(format!("`{word}` is not a number")),
        None => Ok((name.to_string(), value.to_string())),
    }
}

fn parse_samples(text: &str) -> Result<usize, String> {
    let expected = "expected a number of samples, 1 or more";
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| expected.to_string())
}

fn parse_state(text: &str) -> Result<Wanted, String> {
    if text == "auto" {
        return Ok(Wanted::ByName);
    }
    let (made, kept) = text.split_once('=').ok_or("expected OUTPUT=INPUT, such as stateN=state, or auto")?;
    Ok(Wanted::Pair(made.to_string(), kept.to_string()))
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dimensions) = text.rsplit_once('=').ok_or("expected NAME=DIMS, such as input=1x3x224x224")?;
    let shape = dimensions
        .split('x')
        .map(|dimension| match dimension.parse() {
            Err(_) => Err(format!("`{dimension}` is not a dimension: expected a number")),
            Ok(value) => Ok(value),
        })
        .collect::<Result<Vec<usize>, String>>()?;
    Ok((name.to_string(), shape))
}
