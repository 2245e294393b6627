//! The smallest largest RAM of a device.

use super::super::Objective;
use super::super::network::Network;
use super::super::price::Candidate;
use super::additive::{Start, limited};
use super::answer::{Answer, answer};
use super::effort::Effort;

/// Smallest largest RAM, and among the plans near it the fastest.
///
/// Memory does not depend on what travels, so the bound comes from each node by itself: multipliers on the devices'
/// weights make it tight where weights decide, the node that needs most by itself where activations do.
pub(super) fn least(mut network: Network<'_>, starts: Vec<Vec<usize>>, effort: Effort<'_>) -> Option<(Answer, f64)> {
    let devices = network.ram.len();
    let used =
        |network: &Network<'_>, assignment: &[usize]| network.ram_used(assignment).into_iter().max().unwrap_or(0);
    let alone = network.candidates.iter().map(|node| {
        let need = |choice: &Candidate| {
            (0..devices).map(|device| choice.weights_bytes[device] + choice.activation_bytes[device]).max().unwrap_or(0)
        };
        node.iter().map(need).min().unwrap_or(0)
    });
    let weights: u64 = network
        .candidates
        .iter()
        .map(|node| node.iter().map(|choice| choice.weights_bytes.iter().sum::<u64>()).min().unwrap_or(0))
        .sum();
    let bound = alone.max().unwrap_or(0).max(weights / devices as u64) as f64;
    let original = network.ram.clone();
    let mut best: Option<(u64, Vec<usize>)> = None;
    let keep = |network: &Network<'_>, found: Vec<usize>, best: &mut Option<(u64, Vec<usize>)>| {
        let used = used(network, &found);
        if best.as_ref().is_none_or(|(known, _)| used < *known) {
            *best = Some((used, found));
        }
    };
    for start in starts {
        if network.fits(&start) {
            keep(&network, start, &mut best);
        }
    }
    // Bisection on a common limit, with the fastest plan that keeps it as witness.
    let (mut low, mut high) =
        (bound, best.as_ref().map_or(original.iter().copied().max()? as f64, |(used, _)| *used as f64));
    let mut multipliers = Vec::new();
    for _ in 0..12 {
        let limit = (low + high) / 2.0;
        network.ram = original.iter().map(|ram| (*ram).min(limit as u64)).collect();
        let assignments = best.iter().map(|(_, found)| found.clone()).collect();
        let near = Start { assignments, multipliers: std::mem::take(&mut multipliers) };
        // Where everybody holds an equal part of the weights, this is left for activations.
        let left_bytes = limit as u64 - (weights / devices as u64).min(limit as u64);
        let allowed = |_: usize, candidate: &Candidate| candidate.activation_bytes.iter().all(|it| *it <= left_bytes);
        let part = effort.at_most(effort.left() / 16);
        let found = limited(&network, Objective::Latency, near.clone(), Effort { allowed: &allowed, ..part })
            .or_else(|| limited(&network, Objective::Latency, near, part));
        match found {
            Some(found) => {
                multipliers = found.multipliers;
                keep(&network, found.assignment, &mut best);
                high = best.as_ref().map_or(limit, |(used, _)| *used as f64).min(limit);
            }
            None => low = limit,
        }
        if high - low < 0.005 * high || effort.over() {
            break;
        }
    }
    network.ram = original;
    let (used, found) = best?;
    let gap = ((used as f64 - bound) / used as f64).max(0.0);
    Some((answer(&network, &found, gap), gap))
}
