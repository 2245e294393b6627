//! Sets of parts on the cluster in each situation: how each is best computed with the weights that devices hold, and which
//! is taken when.

use std::sync::Arc;

use super::situations::Situation;
use crate::driver::Options;
use crate::graph::Graph;
use crate::partition::held::Held;
use crate::partition::{Objective, Partition, PartitionOptions, Weights, roster};
use crate::placement;
use crate::simulate::outcomes::{Outcome, mean, outcomes};

/// How a set is best computed in a situation.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// Which member of the front.
    pub member: usize,
    /// Who computes what, of the whole cluster.
    pub partition: Partition,
    /// Mean time of an inference.
    pub latency_ms: f64,
    /// Mean bytes of an inference over all links.
    pub traffic_bytes: u64,
    /// Mean energy of an inference.
    pub energy_mj: f64,
    /// RAM of the device where it is most, by the sizes of tensors.
    pub ram_bytes: u64,
}

/// How often the gap between two ways is halved towards a time that is wanted; where that is not between them, once.
const HALVINGS: usize = 5;

/// The best ways to compute a graph in a situation with the weights that devices hold: by what the user wants, and, where
/// that is something else, by traffic, by energy, and by latency and traffic together, so that little is sent in `goal_ms`;
/// the fastest first. Nothing if there is none.
pub fn map(
    (member, graph): (usize, &Graph),
    goal_ms: f64,
    situation: &Situation,
    held: &Held,
    options: &Options,
) -> Vec<Mapped> {
    let there = &situation.present;
    if [situation.cluster.input, situation.cluster.output].iter().any(|end| !there.contains(end)) {
        return Vec::new();
    }
    let cluster = roster::restricted(&situation.cluster, there);
    let held = Some(Arc::new(held.restricted(there)));
    let by = |objective: Objective| {
        let wanted = PartitionOptions { held: held.clone(), ..PartitionOptions::new(objective, options.family) };
        let found = placement::outlook(graph, &cluster, &wanted)?;
        let outcomes = outcomes(graph, &found.sharded, &found.schedules, &cluster);
        let ram_bytes = placement::peak_ram_bytes(&found.sharded, &found.schedules, &cluster);
        let partition = roster::widened(found.partition, there, situation.cluster.devices.len());
        Some(Mapped::new(member, partition, &outcomes, ram_bytes))
    };
    let mut found: Vec<Mapped> = by(options.objective).into_iter().collect();
    // What one device does alone is as good in these.
    if found.first().is_some_and(|found| found.traffic_bytes > 0) {
        let mut others: Vec<Mapped> = [Objective::Traffic, Objective::Energy].into_iter().filter_map(by).collect();
        if let Some(leanest) = others.first().cloned() {
            let is_inside = found[0].latency_ms < goal_ms && goal_ms < leanest.latency_ms;
            others.extend(between(&found[0], &leanest, goal_ms, if is_inside { HALVINGS } else { 1 }, &by));
        }
        for other in others {
            if other.adds_to(&found, options.objective) {
                found.push(other);
            }
        }
    }
    found.sort_by(|a, b| a.latency_ms.total_cmp(&b.latency_ms));
    found
}

/// Ways that send less than a fast one and are faster than a lean one: at the price of traffic at which the two cost the
/// same, another may cost less than both. So on between that way and the one on the other side of `goal_ms`.
fn between(
    fast: &Mapped,
    lean: &Mapped,
    goal_ms: f64,
    halvings: usize,
    by: &impl Fn(Objective) -> Option<Mapped>,
) -> Vec<Mapped> {
    let (slower, leaner) = (lean.latency_ms - fast.latency_ms, fast.traffic_bytes.saturating_sub(lean.traffic_bytes));
    if halvings == 0 || slower <= 0.0 || leaner == 0 {
        return Vec::new();
    }
    let traffic = slower / (leaner as f64 * 1e-6);
    let is_between = |way: &Mapped| {
        way.latency_ms > fast.latency_ms && way.latency_ms < lean.latency_ms && way.traffic_bytes < fast.traffic_bytes
    };
    let Some(way) = by(Objective::Weighted(Weights { latency: 1.0, traffic, energy: 0.0 })).filter(is_between) else {
        return Vec::new();
    };
    let (fast, lean) = if way.latency_ms > goal_ms { (fast, &way) } else { (&way, lean) };
    let mut found = between(fast, lean, goal_ms, halvings - 1, by);
    found.push(way);
    found
}

impl Mapped {
    /// Whether this way is better in something than each of others, the first of which is best by an objective. Of one
    /// member the fastest is taken, so where the user wants something else than speed it must not be faster.
    pub fn adds_to(&self, known: &[Mapped], objective: Objective) -> bool {
        let stays_behind = |best: &Mapped| objective == Objective::Latency || self.latency_ms >= best.latency_ms;
        known.first().is_none_or(stays_behind) && !known.iter().any(|other| other.is_as_good_as(self))
    }

    /// Whether this way is worse than another in nothing.
    pub fn is_as_good_as(&self, other: &Mapped) -> bool {
        self.latency_ms <= other.latency_ms
            && self.traffic_bytes <= other.traffic_bytes
            && self.energy_mj <= other.energy_mj
            && self.ram_bytes <= other.ram_bytes
    }

    /// A mapping whose inferences end as simulated.
    pub fn new(member: usize, partition: Partition, outcomes: &[Outcome], ram_bytes: u64) -> Mapped {
        Mapped {
            member,
            partition,
            latency_ms: mean(outcomes, |outcome| outcome.prediction.latency_ms),
            traffic_bytes: mean(outcomes, |outcome| outcome.prediction.traffic_bytes as f64) as u64,
            energy_mj: mean(outcomes, |outcome| outcome.prediction.energy_mj),
            ram_bytes,
        }
    }
}

/// Predictions may be too short by the rest.
const CERTAIN: f64 = 0.85;

/// The one to take: of those that surely keep the limit the one that loses least accuracy, then the fastest; the fastest if
/// none keeps it. `loss` is what a member does not exceed with some probability: a network that happens to be as good as the
/// whole one on a few samples does not take its place where that is in time.
pub fn choose(mapped: &[Mapped], limit_ms: f64, loss: impl Fn(usize) -> f64) -> Option<&Mapped> {
    let faster = |a: &&Mapped, b: &&Mapped| a.latency_ms.total_cmp(&b.latency_ms);
    let in_time = mapped.iter().filter(|one| one.latency_ms <= limit_ms * CERTAIN);
    let best = in_time.min_by(|a, b| loss(a.member).total_cmp(&loss(b.member)).then(faster(a, b)));
    best.or_else(|| mapped.iter().min_by(faster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn mapped(member: usize, latency_ms: f64) -> Mapped {
        let partition = Partition::given(BTreeMap::new());
        Mapped { member, partition, latency_ms, traffic_bytes: 0, energy_mj: 0.0, ram_bytes: 0 }
    }

    #[test]
    fn other_ways_are_better_in_something_and_do_not_replace_what_the_user_wants() {
        let way = |latency_ms: f64, traffic_bytes: u64| Mapped { traffic_bytes, ..mapped(0, latency_ms) };
        let best = [way(20.0, 100)];
        let adds = |way: Mapped, objective: Objective| way.adds_to(&best, objective);
        assert!(adds(way(30.0, 50), Objective::Energy) && !adds(way(10.0, 50), Objective::Energy));
        assert!(adds(way(30.0, 50), Objective::Latency) && adds(way(10.0, 50), Objective::Latency));
        assert!(!adds(way(30.0, 100), Objective::Latency) && !adds(way(30.0, 100), Objective::Energy));
        assert!(!way(30.0, 50).adds_to(&[way(20.0, 100), way(25.0, 50)], Objective::Latency), "the second beats it");
        let in_little = Mapped { energy_mj: 2.0, ram_bytes: 10, ..way(30.0, 100) };
        let known = Mapped { energy_mj: 1.0, ram_bytes: 20, ..way(20.0, 100) };
        assert!(in_little.adds_to(std::slice::from_ref(&known), Objective::Latency), "it takes less RAM");
        assert!(!Mapped { ram_bytes: 20, ..in_little }.adds_to(&[known], Objective::Latency));
    }

    #[test]
    fn ways_between_the_fastest_and_the_leanest_are_found() {
        // All ways there are; for a price of traffic the cheapest is the answer.
        let way = |latency_ms: f64, traffic_bytes: u64| Mapped { traffic_bytes, ..mapped(0, latency_ms) };
        let all = [way(10.0, 1_000_000), way(11.0, 700_000), way(14.0, 400_000), way(17.0, 390_000), way(30.0, 0)];
        let by = |objective: Objective| {
            let Objective::Weighted(weights) = objective else { return None };
            let cost = |way: &Mapped| weights.cost(way.latency_ms * 1e-3, way.traffic_bytes as f64, 0.0);
            all.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).cloned()
        };
        let found = |goal_ms: f64, halvings: usize| -> Vec<u64> {
            between(&all[0], &all[4], goal_ms, halvings, &by).iter().map(|way| way.traffic_bytes).collect()
        };
        assert_eq!(found(12.0, 3), [700_000, 400_000]);
        assert_eq!(found(20.0, 3), [400_000], "17 ms for 390 kB are dear at any price");
        assert!(found(12.0, 0).is_empty() && between(&all[4], &all[0], 12.0, 3, &by).is_empty());
    }

    #[test]
    fn what_loses_least_in_time_is_taken_and_the_fastest_if_nothing_is() {
        let all = [mapped(0, 30.0), mapped(1, 18.0), mapped(2, 12.0), mapped(3, 9.0)];
        let loss = |member: usize| [0.0, 0.01, 0.01, 0.2][member];
        let chosen = |limit: f64| choose(&all, limit / CERTAIN, loss).map(|one| one.member);
        assert_eq!((chosen(40.0), chosen(20.0), chosen(10.0), chosen(5.0)), (Some(0), Some(2), Some(3), Some(3)));
        assert!(choose(&[], 1.0, loss).is_none());
    }
}
