//! Which exits stay, decided together with the mapping.
//!
//! What an exit saves depends on where the network's parts run, and where they best run depends on what exits leave of
//! them. So both are sought in turn: exits by the multiply-adds that they save, then a mapping for such exits, which
//! weighs each node with the share of inferences that reaches it, then exits by the times at which that mapping has
//! computed what they look at, and so on. None of this depends on the limit. Of what is proven to keep the limit, from the
//! most cautious on, each is simulated, and takes the place of what was before where its mean inference is better by the
//! objective and takes no more multiply-adds; so with a looser limit neither gets worse.

use std::collections::HashMap;

use super::choose::{self, Priced, Proposals, Sides, Step};
use super::dataset::Dataset;
use super::insert;
use super::judge::{ExitSet, Possible};
use super::report::{
    CalibrationReport, CurvePoint, ExitReport, ExitsReport, HeadReport, LimitReport, NearestReport, Outcome,
    PredictedReport,
};
use super::study::Judged;
use super::tables::{self, Answered};
use crate::accuracy::{Evidence, HoldoutReport, Limits, overcharged, provable, worst_classes};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_placement::{Failure, Outlook, PlacementOptions, outlook};
use partita_plan::partition::{Objective, PartitionOptions};
use partita_plan::simulate::outcomes::{mean, outcomes};

/// Times that exits and mapping are sought in turn.
const ROUNDS: usize = 4;

/// Loss of the exits for which mappings are sought meanwhile.
const TYPICAL_LOSS: f64 = 0.005;

/// A step that is not this much cheaper than the last one that was simulated is not worth its simulation.
const CHEAPER: f64 = 0.99;

/// Classes that are named because they lose most.
const WORST: usize = 3;

/// What is to be kept.
pub(super) struct Wanted {
    /// The limits.
    pub limits: Limits,
    /// Whether the user chose them.
    pub by_hand: bool,
    /// The base on other samples.
    pub holdout: Option<HoldoutReport>,
}

impl Wanted {
    /// How much harder other samples are known to be.
    pub fn gap(&self) -> f64 {
        self.holdout.map_or(0.0, |holdout| holdout.widened_by)
    }

    /// What the samples that judge can prove of these limits at best.
    pub fn provable(&self, dataset: &Dataset<'_>) -> Limits {
        let labels = dataset.judged_labels();
        provable(&labels, dataset.classes, &self.limits, self.gap())
    }

    /// Whether they can prove them at all.
    pub fn is_provable(&self, dataset: &Dataset<'_>) -> bool {
        self.limits.allow(&self.provable(dataset))
    }
}

/// Exits in the graph, and what the samples that chose them say.
struct CarriedOut {
    graph: Graph,
    exits: Vec<ExitReport>,
    ends: Vec<Answered>,
    mean_macs: f64,
    worst_macs: u64,
    /// What a mean inference comes to by the objective.
    price: f64,
}

/// The graph without exits, where too few samples judge for any.
pub(super) fn nothing(dataset: &Dataset<'_>, wanted: &Wanted) -> Result<(Graph, ExitsReport), Failure> {
    let without = carried_out(dataset, &[], &[])?;
    let evidence = dataset_unchanged(dataset);
    let calibration = calibration(dataset, wanted, &without, &evidence, Outcome::TooFewSamples);
    Ok((without.graph, ExitsReport { exits: Vec::new(), calibration }))
}

/// The graph with the exits that stay, and what is known of them.
pub(super) fn co_optimize(
    dataset: &Dataset<'_>,
    judged: &[Judged],
    wanted: &Wanted,
    cluster: &Cluster,
    options: &PlacementOptions,
) -> Result<(Graph, ExitsReport), Failure> {
    let (base_right, labels) = (dataset.base_right(), dataset.judged_labels());
    let sides = Sides {
        base_right: &base_right,
        labels: &labels,
        classes: dataset.classes,
        folds: &dataset.split.parts,
        groups: dataset.split.groups.as_deref(),
    };
    let market = Market { cluster, options };
    let exits: Vec<Possible> = judged.iter().map(|exit| exit.possible.clone()).collect();
    let lists = lists(dataset, judged, sides, &market)?;
    let steps = choose::steps(&exits, &lists, sides);
    let proven = choose::proven(&steps, &wanted.limits, wanted.gap());
    let needed = choose::needed(&steps, &wanted.limits, wanted.gap());
    let mut walk = Walk { dataset, judged, market: &market, last: vec![f64::INFINITY; lists.len()], seen: Vec::new() };
    let mut without = carried_out(dataset, judged, &[])?;
    without.price = market.price(&without).unwrap_or(f64::INFINITY);
    let price_without = without.price;
    let (mut best, mut evidence) = (without, dataset_unchanged(dataset));
    for step in &steps[..proven] {
        if let Some(better) = walk.better(step, &best)? {
            (best, evidence) = (better, step.evidence.clone());
        }
    }
    let mut nearest: Option<(CarriedOut, NearestReport)> = None;
    if best.exits.is_empty() {
        for (at, step) in steps.iter().enumerate().skip(proven) {
            // The best of all that is proven for the nearest limits, as they are said.
            let limits = needed[at].rounded().loosened(wanted.limits);
            if nearest.as_ref().is_some_and(|(_, known)| known.limits != limits) {
                break;
            }
            if let Some(better) = walk.better(step, nearest.as_ref().map_or(&best, |(known, _)| known))? {
                let samples = match &nearest {
                    Some((_, first)) => first.samples,
                    None => samples_for(&steps[..=at], wanted, dataset),
                };
                let report = NearestReport { limits, mean_macs: better.mean_macs as u64, samples };
                nearest = Some((better, report));
            }
        }
    }
    let nearest = nearest.map(|(_, report)| report);
    let outcome = match (best.exits.is_empty(), nearest) {
        (false, _) => Outcome::Exits,
        (true, Some(_)) => Outcome::NoExitKeepsTheLimits,
        (true, None) => Outcome::NoExitSaves,
    };
    let curve = lists.first().map_or(&[][..], |list| &list.all[..]);
    let calibration = CalibrationReport {
        heads: judged.iter().map(|exit| head_report(dataset, exit)).collect(),
        curve: curve.iter().map(point).collect(),
        nearest,
        predicted: (market.simulates() && price_without.is_finite()).then(|| PredictedReport {
            objective: options.objective.to_string(),
            without_exits: price_without,
            with_exits: best.price,
        }),
        by_limit: by_limit(dataset, &steps, &needed),
        ..calibration(dataset, wanted, &best, &evidence, outcome)
    };
    Ok((best.graph, ExitsReport { exits: best.exits, calibration }))
}

/// Proposals by multiply-adds, then by the times of mappings for typical exits.
fn lists(
    dataset: &Dataset<'_>,
    judged: &[Judged],
    sides: Sides<'_>,
    market: &Market<'_>,
) -> Result<Vec<Proposals>, Failure> {
    let proposals = |prices: &Prices| Proposals::of(&priced(judged, prices), sides).map_err(Failure::Environment);
    let by_macs = Prices {
        until: dataset.places.iter().map(|place| place.macs as f64).collect(),
        per_mac: vec![1.0; dataset.places.len()],
        whole: dataset.macs as f64,
    };
    let mut found = vec![proposals(&by_macs)?];
    let mut seen: Vec<Vec<(usize, f32)>> = Vec::new();
    while let Some(last) = found.last().filter(|_| found.len() <= ROUNDS && market.simulates()) {
        let typical = choose::cheapest(&last.all, TYPICAL_LOSS).map_or(Vec::new(), |choice| choice.exits.clone());
        if seen.contains(&typical) {
            break;
        }
        let graph = carried_out(dataset, judged, &typical)?.graph;
        seen.push(typical);
        let Some(outlook) = market.outlook(&graph) else { break };
        found.push(proposals(&by_time(dataset, &outlook, market.cluster))?);
    }
    Ok(found)
}

/// What exits are chosen by.
struct Prices {
    /// Cost of the backbone up to each place.
    until: Vec<f64>,
    /// Cost of a multiply-add of a head behind each place.
    per_mac: Vec<f64>,
    /// Cost of the whole network.
    whole: f64,
}

fn priced(judged: &[Judged], prices: &Prices) -> Priced {
    let possible = judged.iter().map(|exit| Possible {
        cost: prices.until[exit.place],
        head_cost: exit.possible.head_cost * prices.per_mac[exit.place],
        ..exit.possible.clone()
    });
    Priced { possible: possible.collect(), whole: prices.whole }
}

/// When a mapping has computed what exits look at, in an inference that takes none.
fn by_time(dataset: &Dataset<'_>, outlook: &Outlook, cluster: &Cluster) -> Prices {
    let until: Vec<f64> = (dataset.places.iter())
        .map(|place| {
            let is_shard = |id: &NodeId| {
                outlook.sharded.labels.contains_key(id) && outlook.sharded.origins.get(id) == Some(&place.node)
            };
            let parts = outlook.prediction.spans.iter().filter(|span| span.node.as_ref().is_some_and(is_shard));
            parts.map(|span| span.end).fold(0.0, f64::max)
        })
        .collect();
    let per_mac = dataset.places.iter().map(|place| {
        let device = outlook.partition.strategies.get(&place.node).and_then(|strategy| strategy.outputs.only_device());
        1.0 / cluster.devices[device.unwrap_or(cluster.input)].target.rate.conv_macs_per_second.max(1.0)
    });
    Prices { per_mac: per_mac.collect(), until, whole: outlook.prediction.latency_ms * 1e-3 }
}

/// What says how good a mapped graph is.
struct Market<'a> {
    cluster: &'a Cluster,
    options: &'a PlacementOptions,
}

impl Market<'_> {
    /// Whether there is more to say than multiply-adds.
    fn simulates(&self) -> bool {
        self.options.objective != Objective::Memory && self.options.plan.is_none()
    }

    fn outlook(&self, graph: &Graph) -> Option<Outlook> {
        let wanted = PartitionOptions::new(self.options.objective, self.options.family);
        outlook(graph, self.cluster, &wanted)
    }

    /// What a mean inference comes to. Where nothing fits, the mapping says so itself later.
    fn price(&self, carried: &CarriedOut) -> Option<f64> {
        if !self.simulates() {
            return Some(carried.mean_macs);
        }
        let outlook = self.outlook(&carried.graph)?;
        let outcomes = outcomes(&carried.graph, &outlook.sharded, &outlook.schedules, self.cluster);
        Some(mean(&outcomes, |outcome| match self.options.objective {
            Objective::Energy => outcome.prediction.energy_mj,
            Objective::Traffic => outcome.prediction.traffic_bytes as f64,
            Objective::Throughput => 1e3 / outcome.prediction.throughput_hz.max(1e-12),
            Objective::Latency | Objective::Memory => outcome.prediction.latency_ms,
            Objective::Weighted(weights) => weights.cost(
                outcome.prediction.latency_ms * 1e-3,
                outcome.prediction.traffic_bytes as f64,
                outcome.prediction.energy_mj * 1e-3,
            ),
        }))
    }
}

/// The way from the most cautious choice to the boldest. What happens at a step depends on those before it only.
struct Walk<'a> {
    dataset: &'a Dataset<'a>,
    judged: &'a [Judged],
    market: &'a Market<'a>,
    /// Cost of what was simulated last, by list of prices.
    last: Vec<f64>,
    /// Exits that have been simulated.
    seen: Vec<Vec<(usize, f32)>>,
}

impl Walk<'_> {
    /// What a step proposes, if it is better than the best so far by the objective and by multiply-adds.
    fn better(&mut self, step: &Step, best: &CarriedOut) -> Result<Option<CarriedOut>, Failure> {
        let ExitSet { exits, cost, .. } = &step.choice;
        if exits.is_empty() || *cost > self.last[step.list] * CHEAPER || self.seen.contains(exits) {
            return Ok(None);
        }
        self.last[step.list] = *cost;
        self.seen.push(exits.clone());
        let mut other = carried_out(self.dataset, self.judged, exits)?;
        if other.mean_macs > best.mean_macs {
            return Ok(None);
        }
        let Some(price) = self.market.price(&other) else { return Ok(None) };
        other.price = price;
        Ok((price < best.price).then_some(other))
    }
}

/// How many calibration samples would prove all of these steps, if they said the same.
fn samples_for(steps: &[Step], wanted: &Wanted, dataset: &Dataset<'_>) -> Option<usize> {
    let each = steps.iter().map(|step| step.evidence.samples_for(&wanted.limits, wanted.gap()));
    let judging = each.collect::<Option<Vec<usize>>>()?.into_iter().max()?;
    Some(dataset.split.calibration_for(judging))
}

/// What limits would leave of the multiply-adds.
fn by_limit(dataset: &Dataset<'_>, steps: &[Step], needed: &[Limits]) -> Vec<LimitReport> {
    let mut found: Vec<LimitReport> = Vec::new();
    let mut least = dataset.macs;
    for (step, limits) in steps.iter().zip(needed).filter(|(step, _)| step.list == 0) {
        let mean_macs = step.choice.cost as u64;
        if mean_macs >= least {
            continue;
        }
        least = mean_macs;
        let limits = limits.rounded();
        match found.last_mut().filter(|last| last.limits == limits) {
            Some(last) => last.mean_macs = mean_macs,
            None => found.push(LimitReport { limits, mean_macs }),
        }
    }
    found
}

fn head_report(dataset: &Dataset<'_>, exit: &Judged) -> HeadReport {
    let place = &dataset.places[exit.place];
    let right = exit.possible.right.iter().filter(|right| **right).count();
    HeadReport {
        after: dataset.graph.node(place.node).name.clone(),
        head: exit.kind(),
        backbone_macs: place.macs,
        head_macs: exit.head.macs() + place.head_macs,
        accuracy: right as f64 / exit.possible.right.len().max(1) as f64,
    }
}

fn point(choice: &ExitSet) -> CurvePoint {
    CurvePoint { mean_macs: choice.cost as u64, accuracy: choice.accuracy() }
}

fn dataset_unchanged(dataset: &Dataset<'_>) -> Evidence {
    Evidence::unchanged(&dataset.base_right(), &dataset.judged_labels(), dataset.classes)
}

/// What the samples say of what was carried out, and others of that.
fn calibration(
    dataset: &Dataset<'_>,
    wanted: &Wanted,
    carried: &CarriedOut,
    evidence: &Evidence,
    outcome: Outcome,
) -> CalibrationReport {
    let samples = dataset.split.judged.len();
    let base_accuracy = evidence.base_right as f64 / samples.max(1) as f64;
    let has_exits = !carried.exits.is_empty();
    CalibrationReport {
        samples,
        base_accuracy,
        accuracy: evidence.accuracy(),
        loss: evidence.difference.loss(),
        drop_bound: if has_exits { evidence.difference.loss_bound() + wanted.gap() } else { 0.0 },
        limits: wanted.limits,
        limits_by_hand: wanted.by_hand,
        outcome,
        provable: wanted.provable(dataset),
        nearest: None,
        predicted: None,
        by_limit: Vec::new(),
        holdout: wanted.holdout,
        worst_classes: worst_classes(&evidence.classes, WORST),
        overcharged_classes: overcharged(&evidence.classes, wanted.limits.allowed_loss(base_accuracy)),
        base_macs: dataset.macs,
        mean_macs: carried.mean_macs as u64,
        worst_macs: carried.worst_macs,
        heads: Vec::new(),
        curve: vec![CurvePoint { mean_macs: dataset.macs, accuracy: base_accuracy }],
        tables: tables::tables(&carried.ends, &evidence.classes, carried.exits.len()),
    }
}

/// Adds exits to the graph, and says what the samples that chose them say of them.
fn carried_out(dataset: &Dataset<'_>, judged: &[Judged], chosen: &[(usize, f32)]) -> Result<CarriedOut, Failure> {
    let mut graph = dataset.graph.clone();
    let samples = dataset.split.judged.len();
    let mut alive = vec![true; samples];
    let mut exits = Vec::with_capacity(chosen.len());
    let mut head_macs = 0;
    let answered = |sample: &usize| {
        let base = dataset.base(*sample);
        Answered { label: dataset.labels[*sample] as usize, base, answer: base, exit: None }
    };
    let mut ends: Vec<Answered> = dataset.split.judged.iter().map(answered).collect();
    let (mut mean_macs, mut macs_before) = (0.0, 0);
    // Scores of the exits so far, by index of what was judged.
    let mut scores: HashMap<usize, TensorId> = HashMap::new();
    for (number, (index, threshold)) in chosen.iter().enumerate() {
        let exit = &judged[*index];
        let place = &dataset.places[exit.place];
        let own_macs = exit.head.macs() + place.head_macs;
        let still = alive.iter().filter(|alive| **alive).count();
        mean_macs += still as f64 * (place.macs - macs_before + own_macs) as f64;
        macs_before = place.macs;
        let leaving: Vec<usize> =
            (0..samples).filter(|at| alive[*at] && exit.possible.confidence[*at] >= *threshold).collect();
        for at in &leaving {
            alive[*at] = false;
            ends[*at] = Answered { answer: exit.answers[*at], exit: Some(number), ..ends[*at] };
        }
        let share = leaving.len() as f64 / samples.max(1) as f64;
        let right = leaving.iter().filter(|at| exit.possible.right[**at]).count();
        head_macs += own_macs;
        exits.push(ExitReport {
            after: graph.node(place.node).name.clone(),
            device: String::new(),
            rule: exit.rule,
            threshold: *threshold,
            patience: exit.patience,
            temperature: exit.temperature,
            share,
            accuracy: right as f64 / leaving.len().max(1) as f64,
            head: exit.kind(),
            head_parameters: exit.head.parameters(),
            head_macs: own_macs,
            macs: place.macs + head_macs,
        });
        let reuses = exit.possible.needs.and_then(|earlier| scores.get(&earlier)).zip(exit.weight);
        let own = insert::insert(
            &mut graph,
            &insert::Exit {
                number,
                tensor: exit.tensor,
                view: exit.view.as_ref(),
                head: &exit.head,
                rule: exit.rule,
                patience: exit.patience,
                temperature: exit.temperature,
                threshold: *threshold,
                share,
                probabilities: dataset.probabilities,
                reuses: reuses.map(|(scores, weight)| (*scores, weight)),
            },
        )
        .map_err(|error| Failure::Internal(anyhow::anyhow!("exit {number}: {error}")))?;
        scores.insert(*index, own);
    }
    mean_macs += alive.iter().filter(|alive| **alive).count() as f64 * (dataset.macs - macs_before) as f64;
    mean_macs /= samples.max(1) as f64;
    Ok(CarriedOut { graph, exits, ends, mean_macs, worst_macs: dataset.macs + head_macs, price: f64::INFINITY })
}
