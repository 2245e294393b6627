//! What a plan comes to when it is carried out, by the figures that are reported.

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_plan::partition::{Objective, Partition, PartitionOptions};
use partita_plan::schedule::{self, Schedule};
use partita_plan::shard::{self, Sharded};
use partita_plan::simulate::outcomes::{mean, outcomes_by};
use partita_plan::simulate::{simulate, simulate_alone};

/// The figures of a plan: means over all ways in which an inference can end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Milliseconds from input to answer.
    pub latency_ms: f64,
    /// Milliseconds between answers of a stream; 0 unless throughput is the objective.
    pub period_ms: f64,
    /// Bytes over all links.
    pub traffic_bytes: f64,
    /// Millijoules.
    pub energy_mj: f64,
}

impl Figures {
    /// Of a plan, without making programs of it; none if it cannot be carried out.
    pub fn of(graph: &Graph, cluster: &Cluster, partition: &Partition, objective: Objective) -> Option<Figures> {
        let sharded = shard::sketch(graph, partition, cluster).ok()?;
        let schedules = schedule::build(&sharded, cluster).ok()?;
        Some(Figures::of_schedules(graph, cluster, &sharded, &schedules, objective))
    }

    /// The same where tensors may travel encoded.
    pub fn of_encoded(
        graph: &Graph,
        cluster: &Cluster,
        partition: &Partition,
        wanted: &PartitionOptions,
    ) -> Option<Figures> {
        match shard::encoded(graph, partition, cluster, &wanted.encodings) {
            Some(encoded) => Figures::of(&encoded.graph, cluster, &encoded.partition, wanted.objective),
            None => Figures::of(graph, cluster, partition, wanted.objective),
        }
    }

    /// Of a plan that is carried out.
    pub fn of_schedules(
        graph: &Graph,
        cluster: &Cluster,
        sharded: &Sharded,
        schedules: &[Schedule],
        objective: Objective,
    ) -> Figures {
        let by = if objective == Objective::Throughput { simulate } else { simulate_alone };
        let outcomes = outcomes_by(by, graph, sharded, schedules, cluster);
        Figures {
            latency_ms: mean(&outcomes, |outcome| outcome.prediction.latency_ms),
            period_ms: mean(&outcomes, |outcome| match outcome.prediction.throughput_hz {
                0.0 => 0.0,
                throughput_hz => 1e3 / throughput_hz,
            }),
            traffic_bytes: mean(&outcomes, |outcome| outcome.prediction.traffic_bytes as f64),
            energy_mj: mean(&outcomes, |outcome| outcome.prediction.energy_mj),
        }
    }

    /// What is asked for, in its unit: less is better.
    pub fn price(&self, objective: Objective) -> f64 {
        match objective {
            // Memory is not simulated: among plans that need the same the faster is better.
            Objective::Latency | Objective::Memory => self.latency_ms,
            Objective::Throughput => self.period_ms,
            Objective::Traffic => self.traffic_bytes,
            Objective::Energy => self.energy_mj,
            Objective::Weighted(weights) => {
                weights.cost(self.latency_ms * 1e-3, self.traffic_bytes, self.energy_mj * 1e-3)
            }
        }
    }

    /// In which order plans are taken: those that answer in time, the others by their time; by what is asked for, then by the other figures. Differences that are rounding are
    /// none, so that the same plan is taken whatever order its sums were added in.
    pub fn rank(&self, objective: Objective, max_latency_ms: Option<f64>) -> Rank {
        let late_ms = max_latency_ms.filter(|limit| self.latency_ms > *limit).map_or(0.0, |_| self.latency_ms);
        let figures = [late_ms, self.price(objective), self.latency_ms, self.traffic_bytes, self.energy_mj];
        Rank(figures.map(|figure| figure.max(0.0).to_bits() >> ROUNDING_BITS))
    }
}

/// Last bits of a figure that may be rounding: 2^-36 of it.
const ROUNDING_BITS: u32 = 16;

/// Place of a plan among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank([u64; 5]);
