//! The smallest share of the busiest device, for streams of inferences: throughput is its inverse.

use super::super::elimination::Elimination;
use super::super::network::Network;
use super::super::price::Candidate;
use super::effort::{Effort, GOOD_GAP, ROUNDS};

/// A plan for streams of inferences.
pub(super) struct BusiestPlan {
    /// Candidate of every node.
    pub assignment: Vec<usize>,
    /// Relative distance to the bound.
    pub gap: f64,
    /// No plan's busiest device is busy for less, in seconds per inference.
    pub bound_seconds: f64,
}

/// Smallest busiest device, for streams of inferences.
pub(super) fn least(network: &Network<'_>, starts: Vec<Vec<usize>>, effort: Effort<'_>) -> Option<BusiestPlan> {
    let devices = network.ram.len();
    let busy_of_node: Vec<Vec<Vec<f64>>> = network
        .candidates
        .iter()
        .map(|node| {
            let busy = |candidate: &Candidate| {
                let mut busy = candidate.seconds.clone();
                network.busy_of_flows(&candidate.flows, &mut busy);
                busy
            };
            node.iter().map(busy).collect()
        })
        .collect();
    let busy_of_travel: Vec<Vec<f64>> = network
        .reshards
        .iter()
        .map(|reshard| {
            let mut busy = vec![0.0; devices];
            reshard.steps.iter().for_each(|step| network.busy_of_flows(step, &mut busy));
            busy
        })
        .collect();
    let busiest = |assignment: &[usize]| {
        let mut busy = vec![0.0; devices];
        for (node, choice) in busy_of_node.iter().zip(assignment) {
            busy.iter_mut().zip(&node[*choice]).for_each(|(sum, seconds)| *sum += seconds);
        }
        for edge in &network.edges {
            match network.travel_index(edge, assignment) {
                Some(travel) => {
                    busy.iter_mut().zip(&busy_of_travel[travel]).for_each(|(sum, seconds)| *sum += seconds);
                }
                None => return vec![f64::INFINITY; devices],
            }
        }
        busy
    };
    let largest = |busy: &[f64]| busy.iter().copied().fold(0.0, f64::max);
    let mut best: Option<(f64, Vec<usize>)> = None;
    let consider = |assignment: Vec<usize>, best: &mut Option<(f64, Vec<usize>)>| {
        let busy = busiest(&assignment);
        let value = largest(&busy);
        if value.is_finite() && network.fits(&assignment) && best.as_ref().is_none_or(|(known, _)| value < *known) {
            *best = Some((value, assignment));
        }
        busy
    };
    for start in starts {
        consider(start, &mut best);
    }
    // Weights of the devices, adding up to 1: their weighted sum is at most the largest.
    let mut weights = vec![1.0 / devices as f64; devices];
    let mut bound = 0.0f64;
    for round in 0..ROUNDS {
        if effort.over() {
            break;
        }
        let weighted = |busy: &[f64]| busy.iter().zip(&weights).map(|(seconds, weight)| seconds * weight).sum::<f64>();
        let factors = network.factors(&|node, choice| weighted(&busy_of_node[node][choice]), &|travel| {
            weighted(&busy_of_travel[travel])
        });
        let Some(solved) = Elimination::new(&network.domains(), factors) else { break };
        effort.spend(solved.work());
        bound = bound.max(solved.minimum());
        let busy = consider(solved.assignment(), &mut best);
        if best.as_ref().is_some_and(|(known, _)| known - bound <= GOOD_GAP * known) {
            break;
        }
        // Multiplicative weights: busy devices weigh more.
        let most = largest(&busy).max(f64::MIN_POSITIVE);
        let eagerness = 2.0 / (1.0 + round as f64).sqrt();
        for (weight, seconds) in weights.iter_mut().zip(&busy) {
            *weight *= (eagerness * (seconds / most - 1.0)).exp();
        }
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    let (value, assignment) = best?;
    let gap = ((value - bound) / value.max(f64::MIN_POSITIVE)).max(0.0);
    Some(BusiestPlan { assignment, gap, bound_seconds: bound })
}
