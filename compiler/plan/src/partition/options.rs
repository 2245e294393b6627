//! What a partition is asked for.

use std::sync::Arc;

use super::encodings::Encodings;
use super::objective::Objective;
use super::resident::ResidentWeights;

/// Strategies that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyFamily {
    /// The best of all.
    Auto,
    /// Everything on one device.
    Whole,
    /// Consecutive runs of layers, on as many devices as can take part.
    Pipeline,
    /// Output splitting of everything that multiplies, over all devices.
    Lop,
    /// Input splitting, likewise.
    Lip,
    /// Output and input splitting, likewise; output before input needs no traffic in between.
    Fused,
    /// Fused tiles with recomputed halo for convolutions.
    Ftp,
    /// Spatial splitting with exchanged halo for convolutions.
    Spatial,
    /// Some of the samples that are answered together, for everything that multiplies.
    Batch,
}

impl StrategyFamily {
    /// Every family.
    pub const ALL: [StrategyFamily; 9] = [
        StrategyFamily::Auto,
        StrategyFamily::Whole,
        StrategyFamily::Pipeline,
        StrategyFamily::Lop,
        StrategyFamily::Lip,
        StrategyFamily::Fused,
        StrategyFamily::Ftp,
        StrategyFamily::Spatial,
        StrategyFamily::Batch,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            StrategyFamily::Auto => "auto",
            StrategyFamily::Whole => "whole",
            StrategyFamily::Pipeline => "pipeline",
            StrategyFamily::Lop => "lop",
            StrategyFamily::Lip => "lip",
            StrategyFamily::Fused => "fused",
            StrategyFamily::Ftp => "ftp",
            StrategyFamily::Spatial => "spatial",
            StrategyFamily::Batch => "batch",
        }
    }

    /// What it is, for users.
    pub fn description(self) -> &'static str {
        match self {
            StrategyFamily::Auto => "The best of all",
            StrategyFamily::Whole => "Everything on one device",
            StrategyFamily::Pipeline => "Consecutive runs of layers",
            StrategyFamily::Lop => "Output splitting: every device computes some output channels",
            StrategyFamily::Lip => "Input splitting: every device computes partial sums from some input channels",
            StrategyFamily::Fused => "Output and input splitting; output before input needs no traffic in between",
            StrategyFamily::Ftp => "Fused tiles with recomputed halo",
            StrategyFamily::Spatial => "Spatial splitting with exchanged halo",
            StrategyFamily::Batch => "Some of the samples of --batch on each device",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Bytes of each device's memory that must stay free, beyond what every program needs; missing entries are 0.
    pub reserve_bytes: Vec<u64>,
    /// Share of activations that counts; less than 1 where devices will compute patch by patch (`shard::patches`).
    pub activation_share: f64,
    /// Weights that devices hold; others may not be used.
    pub resident: Option<Arc<ResidentWeights>>,
    /// How much of the usual work a search may take where memory binds.
    pub effort: Effort,
    /// What may travel in fewer bytes.
    pub encodings: Arc<Encodings>,
    /// Plans that answer in this time come before those that do not, whatever is minimised.
    pub max_latency_ms: Option<f64>,
}

/// How much work a search may take where limits on memory bind; without such limits every answer is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// All of it.
    Full,
    /// A part, for one of many questions.
    Part,
    /// None: only what is best without limits, if that happens to keep them.
    Exact,
}

impl PartitionOptions {
    /// All of every device's memory, all of every activation.
    pub fn new(objective: Objective, family: StrategyFamily) -> PartitionOptions {
        PartitionOptions {
            objective,
            family,
            reserve_bytes: Vec::new(),
            activation_share: 1.0,
            resident: None,
            effort: Effort::Full,
            encodings: Arc::default(),
            max_latency_ms: None,
        }
    }
}

impl PartitionOptions {
    /// The same for a cluster of these devices only.
    pub fn restricted(&self, devices: &[usize]) -> PartitionOptions {
        let reserve = |device: &usize| self.reserve_bytes.get(*device).copied().unwrap_or(0);
        let resident = self.resident.as_ref().map(|resident| Arc::new(resident.restricted(devices)));
        PartitionOptions { reserve_bytes: devices.iter().map(reserve).collect(), resident, ..self.clone() }
    }
}
