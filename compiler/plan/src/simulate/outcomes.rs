//! What an inference comes to by where it ends: at each exit, and at the end.

use super::{Prediction, simulate};
use crate::schedule::{Schedule, until_exit};
use crate::shard::Sharded;
use partita_config::Cluster;
use partita_ir::graph::Graph;

/// One way for an inference to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Share of inferences that end like this.
    pub share: f64,
    /// What each device does until then.
    pub schedules: Vec<Schedule>,
    /// What that comes to.
    pub prediction: Prediction,
}

/// All outcomes, by exit; the last is that no exit is taken. `graph` is the one before sharding.
pub fn outcomes(graph: &Graph, sharded: &Sharded, schedules: &[Schedule], cluster: &Cluster) -> Vec<Outcome> {
    outcomes_by(simulate, graph, sharded, schedules, cluster)
}

/// The same by a way to simulate that knows less, or more.
pub fn outcomes_by(
    simulate: fn(&Sharded, &[Schedule], &Cluster) -> Prediction,
    graph: &Graph,
    sharded: &Sharded,
    schedules: &[Schedule],
    cluster: &Cluster,
) -> Vec<Outcome> {
    let exits = graph.exits();
    let shares = graph.exit_shares();
    let rest = (1.0 - shares.iter().sum::<f64>()).max(0.0);
    let early = (0..exits.len()).map(|exit| until_exit(schedules, exit));
    let all = early.chain([schedules.to_vec()]);
    all.zip(shares.iter().copied().chain([rest]))
        .map(|(schedules, share)| {
            let prediction = simulate(sharded, &schedules, cluster);
            Outcome { share, schedules, prediction }
        })
        .collect()
}

/// Mean over all outcomes of a figure.
pub fn mean(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    outcomes.iter().map(|outcome| outcome.share * figure(outcome)).sum()
}
