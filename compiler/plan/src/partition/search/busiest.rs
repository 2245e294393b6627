//! The smallest share of the busiest device, for streams of inferences: throughput is its inverse.

use super::super::elimination::Elimination;
use super::super::network::Network;
use super::super::price::Candidate;
use super::super::reshard::Reshard;
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

/// For how long what may be chosen keeps every device busy, in seconds per inference.
struct Loads {
    /// Of every node's candidates.
    of_nodes: Vec<Vec<Vec<f64>>>,
    /// Of what travels between two shardings.
    of_travel: Vec<Vec<f64>>,
}

impl Loads {
    fn of(network: &Network<'_>) -> Loads {
        let of_candidate = |candidate: &Candidate| {
            let mut busy = candidate.seconds.clone();
            network.busy_of_flows(&candidate.flows, &mut busy);
            busy
        };
        let of_nodes = network.candidates.iter().map(|node| node.iter().map(of_candidate).collect()).collect();
        let of_reshard = |reshard: &Reshard| {
            let mut busy = vec![0.0; network.ram.len()];
            reshard.steps.iter().for_each(|step| network.busy_of_flows(step, &mut busy));
            busy
        };
        Loads { of_nodes, of_travel: network.reshards.iter().map(of_reshard).collect() }
    }

    /// Of a plan: the candidate of every node, and what travels between them. Endless where something cannot.
    fn of_plan(&self, network: &Network<'_>, assignment: &[usize]) -> Vec<f64> {
        let mut busy = vec![0.0; network.ram.len()];
        for (node, choice) in self.of_nodes.iter().zip(assignment) {
            busy.iter_mut().zip(&node[*choice]).for_each(|(sum, seconds)| *sum += seconds);
        }
        for edge in &network.edges {
            match network.travel_index(edge, assignment) {
                Some(travel) => {
                    busy.iter_mut().zip(&self.of_travel[travel]).for_each(|(sum, seconds)| *sum += seconds);
                }
                None => return vec![f64::INFINITY; busy.len()],
            }
        }
        busy
    }
}

/// Smallest busiest device, for streams of inferences.
pub(super) fn least(network: &Network<'_>, starts: Vec<Vec<usize>>, effort: Effort<'_>) -> Option<BusiestPlan> {
    let devices = network.ram.len();
    let loads = Loads::of(network);
    let largest = |busy: &[f64]| busy.iter().copied().fold(0.0, f64::max);
    let mut best: Option<(f64, Vec<usize>)> = None;
    let consider = |assignment: Vec<usize>, best: &mut Option<(f64, Vec<usize>)>| {
        let busy = loads.of_plan(network, &assignment);
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
        let factors = network.factors(&|node, choice| weighted(&loads.of_nodes[node][choice]), &|travel| {
            weighted(&loads.of_travel[travel])
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
