//! What one compilation is told.

use std::path::PathBuf;

use crate::config::WeightStorage;
use crate::links::LinkOptions;
use crate::partition::{Objective, StrategyFamily};
use crate::passes::states::Wanted;
use crate::placement::PlacementOptions;
use crate::{exits, quantize, variants};

/// What networks are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// Quantized models in whole numbers of 8 bits where a device multiplies bytes; everything else in f32.
    #[default]
    Auto,
    /// Every number in 32 bits, where it is computed and where it is sent. Quantized models give the same answers.
    F32,
    /// Whole numbers of 8 bits: as a quantized model has them, or as calibration samples show.
    Int8,
}

/// What a compilation needs to be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shapes of inputs, by name.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Values of inputs that are constants from now on, by name.
    pub fixed: Vec<(String, String)>,
    /// Outputs that are inputs of the next inference.
    pub states: Vec<Wanted>,
    /// Samples that are answered together.
    pub batch: usize,
    /// What to minimise.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Convolve without Winograd's algorithm.
    pub exact: bool,
    /// What is computed in.
    pub numbers: Numbers,
    /// How the weights of matrix products are stored.
    pub weights: WeightStorage,
    /// Refuse slower plans.
    pub max_latency_ms: Option<f64>,
    /// Plan for clusters that differ in one thing, too.
    pub advise: bool,
    /// Strategies of an earlier plan.
    pub plan: Option<PathBuf>,
    /// How much links may change an answer.
    pub links: LinkOptions,
    /// Whole numbers to compute in.
    pub quantize: Option<quantize::QuantizeOptions>,
    /// Where the quantized model is written, in QDQ form.
    pub write_onnx: Option<PathBuf>,
    /// Exits to add.
    pub exits: Option<exits::ExitOptions>,
    /// Variants: smaller routes over the same weights.
    pub variants: Option<variants::VariantOptions>,
    /// Measurements that correct the cost model; those beside the cluster file unless given.
    pub measured: Option<PathBuf>,
    /// Which kernels are best; the record beside the cluster file unless given.
    pub tuned: Option<PathBuf>,
    /// Try this alternative of every convolution instead.
    pub trial: Option<usize>,
}

impl Default for Options {
    /// The best plan for least latency, one sample at a time, links that send every number as it is.
    fn default() -> Options {
        Options {
            shapes: Vec::new(),
            fixed: Vec::new(),
            states: Vec::new(),
            batch: 1,
            objective: Objective::Latency,
            family: StrategyFamily::Auto,
            exact: false,
            numbers: Numbers::Auto,
            weights: WeightStorage::F32,
            max_latency_ms: None,
            advise: false,
            plan: None,
            links: LinkOptions::exact(),
            quantize: None,
            write_onnx: None,
            exits: None,
            variants: None,
            measured: None,
            tuned: None,
            trial: None,
        }
    }
}

impl Options {
    /// What placement needs to know of them.
    pub fn placement(&self) -> PlacementOptions {
        PlacementOptions {
            objective: self.objective,
            family: self.family,
            plan: self.plan.clone(),
            max_latency_ms: self.max_latency_ms,
        }
    }
}
