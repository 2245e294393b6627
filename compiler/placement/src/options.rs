//! What a placement is asked for.

use std::path::PathBuf;

use partita_plan::partition::{Objective, StrategyFamily};

/// What to place a graph by.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    /// What to minimise.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// Plan file whose strategies are carried out instead of looking for better ones.
    pub plan: Option<PathBuf>,
}

impl Default for PlacementOptions {
    /// The best plan for least latency.
    fn default() -> PlacementOptions {
        PlacementOptions { objective: Objective::Latency, family: StrategyFamily::Auto, plan: None }
    }
}
