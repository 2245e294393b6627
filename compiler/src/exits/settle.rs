//! Which exits stay, decided together with the mapping.
//!
//! What an exit saves depends on where the network's parts run, and where they best run depends on what exits leave of
//! them. So both are sought in turn: exits by the multiply-adds that they save, then a mapping for those exits, which
//! weighs each node with the share of inferences that reaches it, then exits by the times at which that mapping has
//! computed what they look at, and so on. Each pair is simulated, and the one whose mean inference is best by the
//! objective stays; without exits, if that is best.

use std::collections::HashMap;

use super::choose::{self, Choice, Chosen, Limit, Possible, Sides};
use super::insert;
use super::material::Material;
use super::study::Judged;
use super::tables::{self, Answered};
use super::{CalibrationReport, CurvePoint, ExitReport, ExitsReport, HeadReport};
use crate::config::Cluster;
use crate::driver::{Failure, Options};
use crate::graph::Graph;
use crate::partition::{Objective, PartitionOptions};
use crate::placement::{self, Outlook};
use crate::simulate::outcomes::{mean, outcomes};

/// Times that exits and mapping are sought in turn.
const ROUNDS: usize = 4;

/// What exits are chosen by.
struct Prices {
    /// Cost of the backbone up to each place.
    until: Vec<f64>,
    /// Cost of a multiply-add of a head behind each place.
    per_mac: Vec<f64>,
    /// Cost of the whole network.
    whole: f64,
}

/// The graph with the exits that stay, and what is known of them.
pub(super) fn settle(
    material: &Material<'_>,
    judged: &[Judged],
    limit: Limit,
    cluster: &Cluster,
    options: &Options,
) -> Result<(Graph, ExitsReport), Failure> {
    let by_macs = Prices {
        until: material.places.iter().map(|place| place.macs as f64).collect(),
        per_mac: vec![1.0; material.places.len()],
        whole: material.macs as f64,
    };
    let first = chosen(material, judged, &by_macs, limit);
    let mut best = carried_out(material, judged, &first, &first.curve)?;
    if options.objective == Objective::Memory || options.plan.is_some() {
        return Ok(best);
    }
    // Where nothing fits, the mapping says so itself later.
    let wanted = PartitionOptions::new(options.objective, options.family);
    let Some(outlook) = placement::outlook(&best.0, cluster, &wanted) else { return Ok(best) };
    let mut least = price(&best.0, &outlook, cluster, options.objective);
    let mut outlook = outlook;
    let mut seen = vec![first.best.exits.clone()];
    for _ in 0..ROUNDS {
        let next = chosen(material, judged, &by_time(material, &outlook, cluster), limit);
        if seen.contains(&next.best.exits) {
            break;
        }
        seen.push(next.best.exits.clone());
        let other = carried_out(material, judged, &next, &first.curve)?;
        let Some(found) = placement::outlook(&other.0, cluster, &wanted) else { break };
        outlook = found;
        let price = price(&other.0, &outlook, cluster, options.objective);
        if price < least {
            (best, least) = (other, price);
        }
    }
    // An exit that costs more than it saves is none.
    let without =
        carried_out(material, judged, &Chosen::nothing(material.macs as f64, &material.base_right()), &first.curve)?;
    match placement::outlook(&without.0, cluster, &wanted) {
        Some(outlook) if price(&without.0, &outlook, cluster, options.objective) <= least => Ok(without),
        _ => Ok(best),
    }
}

/// What a mean inference comes to.
fn price(graph: &Graph, outlook: &Outlook, cluster: &Cluster, objective: Objective) -> f64 {
    let outcomes = outcomes(graph, &outlook.sharded, &outlook.schedules, cluster);
    mean(&outcomes, |outcome| match objective {
        Objective::Energy => outcome.prediction.energy_mj,
        Objective::Traffic => outcome.prediction.traffic_bytes as f64,
        Objective::Throughput => 1e3 / outcome.prediction.throughput_hz.max(1e-12),
        Objective::Latency | Objective::Memory | Objective::Weighted(_) => outcome.prediction.latency_ms,
    })
}

/// When a mapping has computed what exits look at, in an inference that takes none.
fn by_time(material: &Material<'_>, outlook: &Outlook, cluster: &Cluster) -> Prices {
    let until: Vec<f64> = (material.places.iter())
        .map(|place| {
            let name = &material.graph.node(place.node).name;
            let part = |other: &str| {
                other == name || other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('@'))
            };
            let parts = outlook.prediction.spans.iter().filter(|span| !span.exchange && part(&span.name));
            parts.map(|span| span.end).fold(0.0, f64::max)
        })
        .collect();
    let per_mac = material.places.iter().map(|place| {
        let device = outlook.partition.strategies.get(&place.node).and_then(|strategy| strategy.outputs.only_device());
        1.0 / cluster.devices[device.unwrap_or(cluster.input)].target.rate.conv_macs_per_second.max(1.0)
    });
    Prices { per_mac: per_mac.collect(), until, whole: outlook.prediction.latency_ms * 1e-3 }
}

/// The cheapest exits that keep the limit.
fn chosen(material: &Material<'_>, judged: &[Judged], prices: &Prices, limit: Limit) -> Chosen {
    let possible: Vec<Possible> = (judged.iter())
        .map(|exit| Possible {
            cost: prices.until[exit.place],
            head_cost: exit.possible.head_cost * prices.per_mac[exit.place],
            ..exit.possible.clone()
        })
        .collect();
    choose::choose(&possible, prices.whole, &material.base_right(), sides(material), limit)
}

fn head_report(material: &Material<'_>, exit: &Judged) -> HeadReport {
    let place = &material.places[exit.place];
    let right = exit.possible.right.iter().filter(|right| **right).count();
    HeadReport {
        after: material.graph.node(place.node).name.clone(),
        head: exit.kind(),
        backbone_macs: place.macs,
        head_macs: exit.head.macs() + place.head_macs,
        accuracy: right as f64 / exit.possible.right.len().max(1) as f64,
    }
}

/// What belongs together among the samples that judge.
fn sides<'a>(material: &'a Material<'_>) -> Sides<'a> {
    Sides { folds: &material.split.parts, groups: material.split.groups.as_deref() }
}

/// Adds the chosen exits to the graph, and says what the samples say of them.
fn carried_out(
    material: &Material<'_>,
    judged: &[Judged],
    chosen: &Chosen,
    curve: &[Choice],
) -> Result<(Graph, ExitsReport), Failure> {
    let mut graph = material.graph.clone();
    let samples = material.split.judged.len();
    let mut alive = vec![true; samples];
    let mut exits = Vec::with_capacity(chosen.best.exits.len());
    let mut head_macs = 0;
    let answered = |sample: &usize| {
        let base = material.base(*sample);
        Answered { label: material.labels[*sample] as usize, base, answer: base, exit: None }
    };
    let mut ends: Vec<Answered> = material.split.judged.iter().map(answered).collect();
    let (mut mean_macs, mut macs_before) = (0.0, 0);
    // Scores of the exits so far, by index of what was judged.
    let mut scores = HashMap::new();
    for (number, (index, threshold)) in chosen.best.exits.iter().enumerate() {
        let exit = &judged[*index];
        let place = &material.places[exit.place];
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
                probabilities: material.probabilities,
                reuses: reuses.map(|(scores, weight)| (*scores, weight)),
            },
        )
        .map_err(|error| Failure::Internal(anyhow::anyhow!("exit {number}: {error}")))?;
        scores.insert(*index, own);
    }
    mean_macs += alive.iter().filter(|alive| **alive).count() as f64 * (material.macs - macs_before) as f64;
    let right = material.base_right().into_iter().filter(|right| *right).count();
    let point = |choice: &Choice| CurvePoint { mean_macs: choice.cost as u64, accuracy: choice.accuracy() };
    let calibration = CalibrationReport {
        samples,
        base_accuracy: right as f64 / samples.max(1) as f64,
        accuracy: chosen.expected.accuracy(),
        drop_bound: chosen.expected.difference.loss_bound(),
        base_macs: material.macs,
        mean_macs: (mean_macs / samples.max(1) as f64) as u64,
        worst_macs: material.macs + head_macs,
        heads: judged.iter().map(|exit| head_report(material, exit)).collect(),
        curve: curve.iter().map(point).collect(),
        tables: tables::tables(&ends, material.classes, exits.len()),
    };
    Ok((graph, ExitsReport { exits, calibration }))
}
