//! Sets of parts on the cluster in each situation: how each is best computed with the weights that devices hold, and
//! which is taken when.

use std::cmp::Ordering;
use std::sync::Arc;

use super::situations::Situation;
use partita_ir::graph::Graph;
use partita_placement::PlacementOptions;
use partita_plan::partition::resident::ResidentWeights;
use partita_plan::partition::{Objective, Partition, PartitionOptions, Weights, device_subset};
use partita_plan::simulate::outcomes::{Outcome, mean, outcomes};

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

/// An alternative of the whole network, beside which variants are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Mean time of an inference.
    pub latency_ms: f64,
    /// Mean bytes of an inference over all links.
    pub traffic_bytes: u64,
}

/// What the whole network may take longer where traffic is compared: tenths of a percent of time are often bought with
/// half of the traffic, and no variant is needed to give them back.
const AS_FAST: f64 = 1.05;

/// How much less than the whole network something sends and takes, as shares. It may be more.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Gain {
    /// Traffic, of the alternative of the whole network that sends least in as much time and 5 % more. Where the whole
    /// network is never that fast, it may take its own least time and 5 % more. None where it sends nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub less_traffic_at_equal_latency: Option<f64>,
    /// Time, of the fastest alternative of the whole network that sends no more. Where it never sends so little, it may
    /// send as little as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub less_latency_at_equal_traffic: Option<f64>,
}

impl Gain {
    /// Of one alternative beside all that are known of the whole network; nothing if it cannot be computed at all.
    pub fn of(own: Point, whole: &[Point]) -> Gain {
        let fastest = whole.iter().map(|one| one.latency_ms).fold(f64::INFINITY, f64::min);
        let leanest = whole.iter().map(|one| one.traffic_bytes).min().unwrap_or(0);
        let as_fast = whole.iter().filter(|one| one.latency_ms <= AS_FAST * own.latency_ms.max(fastest));
        let as_lean = whole.iter().filter(|one| one.traffic_bytes <= own.traffic_bytes.max(leanest));
        let least_bytes = as_fast.map(|one| one.traffic_bytes).min().filter(|bytes| *bytes > 0);
        let least_ms = as_lean.map(|one| one.latency_ms).min_by(f64::total_cmp).filter(|time| *time > 0.0);
        Gain {
            less_traffic_at_equal_latency: least_bytes.map(|bytes| 1.0 - own.traffic_bytes as f64 / bytes as f64),
            less_latency_at_equal_traffic: least_ms.map(|time| 1.0 - own.latency_ms / time),
        }
    }
}

/// How often the gap between two alternatives is halved towards a time that is wanted; where that is not between them,
/// once.
const HALVINGS: usize = 5;

/// How often every gap of the whole network's front is divided.
const FRONT_ROUNDS: usize = 2;

/// The best alternatives to compute a graph in a situation with the weights that devices hold: by what the user wants,
/// and, where that is something else, by traffic, by energy, and by latency and traffic together, so that little is
/// sent in `goal_ms`; the fastest first. Nothing if there is none.
pub fn map(
    (member, graph): (usize, &Graph),
    goal_ms: f64,
    situation: &Situation,
    resident: &ResidentWeights,
    options: &PlacementOptions,
) -> Vec<Mapped> {
    let Some(by) = solver((member, graph), situation, resident, options) else { return Vec::new() };
    let mut found: Vec<Mapped> = by(options.objective).into_iter().collect();
    // What one device does alone is as good in these.
    if found.first().is_some_and(|found| found.traffic_bytes > 0) {
        let mut others: Vec<Mapped> = [Objective::Traffic, Objective::Energy].into_iter().filter_map(&by).collect();
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

/// Alternatives of the whole network between the fastest and the leanest, so that variants are compared with what it
/// can do without them: a few over the whole range, and what sends least in hardly more than the least time. `known`
/// are those that are known already.
pub fn front(
    graph: &Graph,
    known: &[Mapped],
    situation: &Situation,
    resident: &ResidentWeights,
    options: &PlacementOptions,
) -> Vec<Point> {
    let mut alternatives: Vec<Mapped> = known.to_vec();
    if let Some(by) = solver((0, graph), situation, resident, options).filter(|_| !known.is_empty()) {
        if options.objective != Objective::Latency {
            alternatives.extend(by(Objective::Latency));
        }
        explore(&mut alternatives, &by);
    }
    alternatives.iter().map(|one| Point { latency_ms: one.latency_ms, traffic_bytes: one.traffic_bytes }).collect()
}

/// Adds alternatives between the fastest and the leanest.
fn explore(alternatives: &mut Vec<Mapped>, by: &impl Fn(Objective) -> Option<Mapped>) {
    let least = |of: &dyn Fn(&Mapped) -> (f64, f64)| {
        alternatives.iter().min_by(|a, b| of(a).partial_cmp(&of(b)).unwrap_or(Ordering::Equal))
    };
    let fastest = least(&|one| (one.latency_ms, one.traffic_bytes as f64)).cloned();
    let leanest = least(&|one| (one.traffic_bytes as f64, one.latency_ms)).cloned();
    let Some((fast, lean)) = fastest.zip(leanest) else { return };
    alternatives.extend(between(&fast, &lean, fast.latency_ms * AS_FAST, HALVINGS, by));
    // Both sides of an alternative between, and of those.
    let mut gaps = vec![(fast, lean)];
    for _ in 0..FRONT_ROUNDS {
        let halves = gaps.iter().flat_map(|(fast, lean)| {
            let middle = between(fast, lean, f64::INFINITY, 1, by).pop();
            middle.map(|middle| [(fast.clone(), middle.clone()), (middle, lean.clone())]).into_iter().flatten()
        });
        gaps = halves.collect();
        alternatives.extend(gaps.iter().map(|(_, lean)| lean.clone()));
    }
}

/// What finds the best alternative to compute a graph in a situation, by an objective; none if it cannot be computed
/// then.
fn solver<'a>(
    (member, graph): (usize, &'a Graph),
    situation: &'a Situation,
    resident: &ResidentWeights,
    options: &'a PlacementOptions,
) -> Option<impl Fn(Objective) -> Option<Mapped> + 'a> {
    let there = &situation.present;
    if [situation.cluster.input, situation.cluster.output].iter().any(|end| !there.contains(end)) {
        return None;
    }
    let cluster = device_subset::restricted(&situation.cluster, there);
    let resident = Some(Arc::new(resident.restricted(there)));
    Some(move |objective: Objective| {
        let wanted =
            PartitionOptions { resident: resident.clone(), ..PartitionOptions::new(objective, options.family) };
        let found = partita_placement::outlook(graph, &cluster, &wanted)?;
        let outcomes = outcomes(graph, &found.sharded, &found.schedules, &cluster);
        let ram_bytes = partita_placement::peak_ram_bytes(&found.sharded, &found.schedules, &cluster);
        let partition = device_subset::widened(found.partition, there, situation.cluster.devices.len());
        Some(Mapped::new(member, partition, &outcomes, ram_bytes))
    })
}

/// Alternatives that send less than a fast one and are faster than a lean one: at the price of traffic at which the two
/// cost the same, another may cost less than both. So on between that one and the one on the other side of `goal_ms`.
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
    let is_between = |one: &Mapped| {
        one.latency_ms > fast.latency_ms && one.latency_ms < lean.latency_ms && one.traffic_bytes < fast.traffic_bytes
    };
    let Some(one) = by(Objective::Weighted(Weights { latency: 1.0, traffic, energy: 0.0 })).filter(is_between) else {
        return Vec::new();
    };
    let (fast, lean) = if one.latency_ms > goal_ms { (fast, &one) } else { (&one, lean) };
    let mut found = between(fast, lean, goal_ms, halvings - 1, by);
    found.push(one);
    found
}

impl Mapped {
    /// Whether this alternative is better in something than each of others, the first of which is best by an objective.
    /// Of one member the fastest is taken, so where the user wants something else than speed it must not be faster.
    pub fn adds_to(&self, known: &[Mapped], objective: Objective) -> bool {
        let stays_behind = |best: &Mapped| objective == Objective::Latency || self.latency_ms >= best.latency_ms;
        known.first().is_none_or(stays_behind) && !known.iter().any(|other| other.is_as_good_as(self))
    }

    /// Whether this alternative is worse than another in nothing.
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

/// The one to take: of those that surely keep the limit the one that loses least accuracy, then the fastest; the
/// fastest if none keeps it. `loss` is what a member does not exceed with some probability: a network that happens to
/// be as good as the whole one on a few samples does not take its place where that is in time.
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
    fn other_alternatives_are_better_in_something_and_do_not_replace_what_the_user_wants() {
        let alternative = |latency_ms: f64, traffic_bytes: u64| Mapped { traffic_bytes, ..mapped(0, latency_ms) };
        let best = [alternative(20.0, 100)];
        let adds = |one: Mapped, objective: Objective| one.adds_to(&best, objective);
        assert!(adds(alternative(30.0, 50), Objective::Energy) && !adds(alternative(10.0, 50), Objective::Energy));
        assert!(adds(alternative(30.0, 50), Objective::Latency) && adds(alternative(10.0, 50), Objective::Latency));
        assert!(!adds(alternative(30.0, 100), Objective::Latency) && !adds(alternative(30.0, 100), Objective::Energy));
        assert!(
            !alternative(30.0, 50).adds_to(&[alternative(20.0, 100), alternative(25.0, 50)], Objective::Latency),
            "the second beats it"
        );
        let in_little = Mapped { energy_mj: 2.0, ram_bytes: 10, ..alternative(30.0, 100) };
        let known = Mapped { energy_mj: 1.0, ram_bytes: 20, ..alternative(20.0, 100) };
        assert!(in_little.adds_to(std::slice::from_ref(&known), Objective::Latency), "it takes less RAM");
        assert!(!Mapped { ram_bytes: 20, ..in_little }.adds_to(&[known], Objective::Latency));
    }

    #[test]
    fn alternatives_between_the_fastest_and_the_leanest_are_found() {
        // All alternatives there are; for a price of traffic the cheapest is the answer.
        let alternative = |latency_ms: f64, traffic_bytes: u64| Mapped { traffic_bytes, ..mapped(0, latency_ms) };
        let all = [
            alternative(10.0, 1_000_000),
            alternative(11.0, 700_000),
            alternative(14.0, 400_000),
            alternative(17.0, 390_000),
            alternative(30.0, 0),
        ];
        let by = |objective: Objective| {
            let Objective::Weighted(weights) = objective else { return None };
            let cost = |one: &Mapped| weights.cost(one.latency_ms * 1e-3, one.traffic_bytes as f64, 0.0);
            all.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).cloned()
        };
        let found = |goal_ms: f64, halvings: usize| -> Vec<u64> {
            between(&all[0], &all[4], goal_ms, halvings, &by).iter().map(|one| one.traffic_bytes).collect()
        };
        assert_eq!(found(12.0, 3), [700_000, 400_000]);
        assert_eq!(found(20.0, 3), [400_000], "17 ms for 390 kB are dear at any price");
        assert!(found(12.0, 0).is_empty() && between(&all[4], &all[0], 12.0, 3, &by).is_empty());
    }

    #[test]
    fn variants_are_compared_with_what_the_whole_network_can_do() {
        let point = |latency_ms: f64, traffic_bytes: u64| Point { latency_ms, traffic_bytes };
        // Tenths of a percent of time are bought with half of the traffic.
        let whole = [point(71.994, 111_000), point(72.278, 58_000), point(90.0, 20_000)];
        let close = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-9);
        let faster = Gain::of(point(65.0, 50_000), &whole);
        assert!(close(faster.less_traffic_at_equal_latency, 1.0 - 50.0 / 58.0), "not 111: {faster:?}");
        assert!(close(faster.less_latency_at_equal_traffic, 1.0 - 65.0 / 90.0), "{faster:?}");
        let slower = Gain::of(point(86.0, 15_000), &whole);
        assert!(close(slower.less_traffic_at_equal_latency, 0.25), "with 5 % more it takes 90 ms: {slower:?}");
        assert!(close(slower.less_latency_at_equal_traffic, 1.0 - 86.0 / 90.0), "it never sends less: {slower:?}");
        let worse = Gain::of(point(73.0, 60_000), &whole);
        assert!(worse.less_traffic_at_equal_latency.is_some_and(|gain| gain < 0.0));
        assert!(worse.less_latency_at_equal_traffic.is_some_and(|gain| gain < 0.0));
        let alone = Gain::of(point(50.0, 0), &[point(100.0, 0)]);
        assert!(alone.less_traffic_at_equal_latency.is_none() && close(alone.less_latency_at_equal_traffic, 0.5));
        assert_eq!(Gain::of(point(50.0, 0), &[]), Gain::default());
    }

    #[test]
    fn the_front_of_the_whole_network_has_what_is_hardly_slower() {
        let alternative = |latency_ms: f64, traffic_bytes: u64| Mapped { traffic_bytes, ..mapped(0, latency_ms) };
        let all = [
            alternative(71.994, 111_000),
            alternative(72.278, 58_000),
            alternative(80.0, 40_000),
            alternative(90.0, 30_000),
            alternative(300.0, 0),
        ];
        let by = |objective: Objective| {
            let Objective::Weighted(weights) = objective else { return None };
            let cost = |one: &Mapped| weights.cost(one.latency_ms * 1e-3, one.traffic_bytes as f64, 0.0);
            all.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).cloned()
        };
        let mut alternatives = vec![all[4].clone(), all[0].clone()];
        explore(&mut alternatives, &by);
        assert!(alternatives.iter().any(|one| one.traffic_bytes == 58_000), "{alternatives:?}");
        let mut one = vec![all[4].clone()];
        explore(&mut one, &by);
        assert!(one.iter().all(|one| one.traffic_bytes == 0));
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
