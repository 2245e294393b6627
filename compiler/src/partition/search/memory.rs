//! The smallest largest RAM of a device.

use super::super::Objective;
use super::super::candidates::Candidate;
use super::super::elimination::Elimination;
use super::super::network::{Edge, Network};
use super::additive::{Start, limited};
use super::{Answer, Effort, answer};
use crate::shard::Region;

/// Limits on activations that are tried, each this many times the last.
const NEXT_LIMIT: f64 = 1.19;

/// Bytes that a second of latency is worth where plans need the same memory.
const BYTES_PER_SECOND: f64 = 1e4;

/// For a limit on activations, the plan within it whose weights load the devices least: exactly, by elimination. What an
/// exchange needs beside operands and results, parts that are cut out and parts that come, is kept within the limit too.
/// The best over all limits.
fn by_limits(network: &Network<'_>, effort: Effort<'_>) -> Option<Vec<usize>> {
    let most = |candidate: &Candidate| candidate.activation_bytes.iter().copied().max().unwrap_or(0);
    let least = |node: &Vec<Candidate>| node.iter().map(most).min().unwrap_or(0);
    let lowest = network.candidates.iter().map(least).max()?;
    let highest = network.candidates.iter().flatten().map(most).max()?;
    let exchanges: Vec<Vec<u64>> = network.edges.iter().map(|edge| exchange_bytes(network, edge)).collect();
    let mut best: Option<(u64, Vec<usize>)> = None;
    let mut limit = lowest as f64;
    while limit <= highest as f64 * NEXT_LIMIT && !effort.over() {
        let node_price = |node: usize, choice: usize| {
            let candidate = &network.candidates[node][choice];
            let heaviest = candidate.weights_bytes.iter().copied().max().unwrap_or(0) as f64;
            let seconds = network.node_price(Objective::Latency, node, candidate);
            if most(candidate) as f64 <= limit { heaviest + seconds * BYTES_PER_SECOND } else { f64::INFINITY }
        };
        let mut factors = network.factors(&node_price, &|travel| {
            network.travel_price(Objective::Latency, &network.reshards[travel]) * BYTES_PER_SECOND
        });
        let first_edge = network.candidates.len();
        for (factor, bytes) in factors[first_edge..].iter_mut().zip(&exchanges) {
            for (price, bytes) in factor.table.iter_mut().zip(bytes) {
                if *bytes as f64 > limit {
                    *price = f64::INFINITY;
                }
            }
        }
        let solved = Elimination::new(&network.domains(), factors)?;
        effort.spend(solved.work());
        if solved.minimum().is_finite() {
            let assignment = solved.assignment();
            let weights = network.weights(&assignment).into_iter().max().unwrap_or(0);
            let used = weights + limit as u64;
            // With higher limits only activations grow from here on.
            if best.as_ref().is_some_and(|(known, _)| (limit as u64) > *known) {
                break;
            }
            if best.as_ref().is_none_or(|(known, _)| used < *known) {
                best = Some((used, assignment));
            }
        }
        limit *= NEXT_LIMIT;
    }
    best.map(|(_, assignment)| assignment)
}

/// Bytes alive on the fullest device in the exchanges of an edge, for each pair of choices: what it holds, what it cuts
/// out of that, and what it needs.
fn exchange_bytes(network: &Network<'_>, edge: &Edge) -> Vec<u64> {
    let devices = network.ram.len();
    let bytes_of = |region: &Option<Region>| region.as_ref().map_or(0, |region| region.element_count() * 4);
    let held = |row: usize| edge.producer.map(|producer| &network.candidates[producer][row].strategy.outputs);
    let needed = |column: usize| {
        edge.consumer.and_then(|(consumer, operand)| network.candidates[consumer][column].needs[operand].as_ref())
    };
    let price = |(at, index): (usize, &u32)| {
        let Some(reshard) = network.reshards.get(*index as usize) else { return u64::MAX };
        if reshard.steps.iter().all(Vec::is_empty) {
            return 0;
        }
        let (held, needed) = (held(at / edge.columns), needed(at % edge.columns));
        let mut alive: Vec<u64> = (0..devices)
            .map(|device| {
                held.map_or(0, |held| bytes_of(&held.0[device]))
                    + needed.map_or(0, |needed| bytes_of(&needed.0[device]))
            })
            .collect();
        for flow in reshard.steps.iter().flatten() {
            alive[flow.from] += flow.bytes;
        }
        alive.into_iter().max().unwrap_or(0)
    };
    edge.table.iter().enumerate().map(price).collect()
}

/// Smallest largest RAM, and among the plans near it the fastest; `heavier` if activations count more than by their
/// sizes, where the plan of least memory is worth more than a fast one near it.
///
/// Memory does not depend on what travels, so the bound comes from each node by itself: multipliers on the devices'
/// weights make it tight where weights decide, the node that needs most by itself where activations do.
pub(super) fn least(
    mut network: Network<'_>,
    starts: Vec<Vec<usize>>,
    heavier: bool,
    effort: Effort<'_>,
) -> Option<(Answer, f64)> {
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
    let limited_activations = if heavier { by_limits(&network, effort.half()) } else { None };
    for start in starts.into_iter().chain(limited_activations) {
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
        let quarter = effort.at_most(effort.left() / 4);
        let found = limited(&network, Objective::Latency, near.clone(), Effort { allowed: &allowed, ..quarter })
            .or_else(|| limited(&network, Objective::Latency, near, quarter));
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
