//! What a placement is asked for.

use std::path::PathBuf;

use partita_plan::partition::{Objective, PartitionOptions, StrategyFamily};

/// What to place a graph by.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    /// What to minimise.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Plan file whose strategies are carried out instead of looking for better ones.
    pub plan: Option<PathBuf>,
    /// Plans that answer in this time come before those that do not.
    pub max_latency_ms: Option<f64>,
}

impl PlacementOptions {
    /// The same as a question to the partition.
    pub fn partition(&self) -> PartitionOptions {
        let max_latency_ms = self.max_latency_ms;
        PartitionOptions { max_latency_ms, ..PartitionOptions::new(self.objective, self.family) }
    }
}

impl Default for PlacementOptions {
    /// The best plan for least latency.
    fn default() -> PlacementOptions {
        let (objective, family) = (Objective::Latency, StrategyFamily::Auto);
        PlacementOptions { objective, family, plan: None, max_latency_ms: None }
    }
}
