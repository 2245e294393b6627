//! What is said of the plan that is taken: how far it may be from what no plan can beat, and what of it is proven.

use partita_plan::partition::{OPTIMAL_GAP, Objective, Partition, StrategyFamily, sum_of};

use super::{Contender, Contest};

impl Contest<'_> {
    /// The certificate of a plan: what is proven of it.
    pub fn certified(&self, contender: Contender) -> Partition {
        let objective = self.wanted.objective;
        let encodings = contender.encodings(&self.wanted.encodings).clone();
        let Contender { mut partition, figures, .. } = contender;
        partition.objective = objective;
        (partition.single_device_ms, partition.solve_ms) = (self.single.map(|it| it.latency_ms), self.solve_ms);
        let everyone: Vec<usize> = (0..self.cluster.devices.len()).collect();
        partition.lower_bound_ms = (self.bounds.latency_seconds(&everyone) * 1e3).min(figures.latency_ms);
        let least = self.least(&everyone);
        let price = figures.price(objective);
        let gap = |least: f64| if price > 0.0 { ((price - least) / price).clamp(0.0, 1.0) } else { 0.0 };
        partition.sum = sum_of(self.graph, self.cluster, objective, &partition, &encodings);
        let sums = partition.sum.zip(self.least_sum);
        let sum_gap = sums.map(|(sum, least)| ((sum - least) / sum.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0));
        let is_least = sums.is_some_and(|(sum, least)| sum <= least * (1.0 + OPTIMAL_GAP));
        partition.optimal = match self.wanted.family {
            // Every device alone was simulated.
            StrategyFamily::Whole => true,
            StrategyFamily::Pipeline => partition.optimal,
            _ => is_least && self.all_proven,
        };
        partition.gap = match objective {
            // What is reported is what is minimised.
            Objective::Traffic => sum_gap.unwrap_or(1.0),
            _ => gap(least),
        };
        partition.proven = self.words(&partition, sum_gap);
        partition
    }

    /// What no plan can beat, in the unit of what is asked for.
    pub(super) fn least(&self, devices: &[usize]) -> f64 {
        let (latency_seconds, joules) = (self.bounds.latency_seconds(devices), self.bounds.joules(devices));
        match self.wanted.objective {
            Objective::Latency | Objective::Memory => latency_seconds * 1e3,
            Objective::Throughput => self.bounds.period_seconds(devices) * 1e3,
            Objective::Energy => joules * 1e3,
            Objective::Traffic => 0.0,
            Objective::Weighted(weights) => weights.cost(latency_seconds, 0.0, joules),
        }
    }

    fn words(&self, partition: &Partition, sum_gap: Option<f64>) -> String {
        let competed = format!("best of {} plans as simulated", self.count);
        let sum = match (partition.optimal, sum_gap) {
            (true, _) if self.wanted.family == StrategyFamily::Whole => {
                "every device by itself is among them".to_string()
            }
            (true, _) => "none of the compared strategies has a smaller sum of steps".to_string(),
            (false, Some(gap)) if self.all_proven => {
                format!("its sum of steps is {:.1} % above the least, which is proven", gap * 100.0)
            }
            (false, Some(gap)) => {
                format!("its sum of steps is at most {:.1} % above the least that is known", gap * 100.0)
            }
            (false, None) => "nothing is proven of other strategies".to_string(),
        };
        let on_average = if self.graph.exits().is_empty() { "" } else { " on average" };
        format!("{competed}; {sum}; no plan at all takes less than {:.3} ms{on_average}", partition.lower_bound_ms)
    }
}
