//! Assignments that fit, close to the best that would not: a beam search through the eliminated network.
//!
//! With its nodes eliminated, the network tells for every choice of a node how much it adds to the least total, given
//! the choices before: its regret. The beam follows the choices of least regret, drops what exceeds a device's memory
//! on the way, and of assignments that fill the devices alike keeps the best, so that it does not fill up with
//! variations of one that will not fit.

use std::collections::HashMap;

use super::super::elimination::Elimination;
use super::super::network::Network;

/// Steps in which the fill of a device is told apart.
const FILL_STEPS: u64 = 48;

/// An assignment of some of the nodes.
#[derive(Clone)]
struct Partial {
    regret: f64,
    /// Position in the list of choices, per node.
    values: Vec<usize>,
    weights: Vec<u64>,
    activations: Vec<u64>,
}

/// Up to `width` complete assignments that fit, those of least regret first. `solved` has the nodes of `network`
/// eliminated, each with the choices `kept[node]`.
pub(super) fn fitting(
    network: &Network<'_>,
    kept: &[Vec<usize>],
    solved: &Elimination,
    width: usize,
) -> (Vec<Vec<usize>>, u64) {
    let devices = network.ram.len();
    // What the nodes still to come hold at least, all devices together.
    let least = |node: usize| -> u64 {
        let held = |choice: &usize| network.candidates[node][*choice].weights_bytes.iter().sum::<u64>();
        kept[node].iter().map(held).min().unwrap_or(0)
    };
    let mut to_come: u64 = (0..kept.len()).map(least).sum();
    let capacity: Vec<u64> = (0..devices)
        .map(|device| {
            let ram = if network.weights_in_ram(device) { network.ram[device] } else { u64::MAX };
            ram.min(network.flash[device])
        })
        .collect();
    let mut work = 0;
    let start =
        Partial { regret: 0.0, values: vec![0; kept.len()], weights: vec![0; devices], activations: vec![0; devices] };
    let mut beam = vec![start];
    for position in (0..kept.len()).rev() {
        let node = solved.variable(position);
        to_come -= least(node);
        let mut next: HashMap<(Vec<u64>, usize), Partial> = HashMap::new();
        for partial in &beam {
            let regrets = solved.regrets(position, &partial.values);
            work += regrets.len() as u64 * 8;
            for (value, regret) in regrets.into_iter().enumerate().filter(|(_, regret)| regret.is_finite()) {
                let candidate = &network.candidates[node][kept[node][value]];
                let weights: Vec<u64> =
                    partial.weights.iter().zip(&candidate.weights_bytes).map(|(sum, bytes)| sum + bytes).collect();
                let activations: Vec<u64> =
                    partial.activations.iter().zip(&candidate.activation_bytes).map(|(a, b)| *a.max(b)).collect();
                let room = |device: usize| {
                    let held = if network.weights_in_ram(device) { weights[device] } else { 0 };
                    weights[device] <= network.flash[device] && held + activations[device] <= network.ram[device]
                };
                let left: u64 = capacity
                    .iter()
                    .zip(&weights)
                    .fold(0, |sum, (room, held)| sum.saturating_add(room.saturating_sub(*held)));
                if !(0..devices).all(room) || left < to_come {
                    continue;
                }
                let regret = partial.regret + regret;
                let fill: Vec<u64> =
                    weights.iter().zip(&capacity).map(|(held, room)| held * FILL_STEPS / room.max(&1)).collect();
                if next.get(&(fill.clone(), value)).is_some_and(|known| known.regret <= regret) {
                    continue;
                }
                let mut values = partial.values.clone();
                values[node] = value;
                next.insert((fill, value), Partial { regret, values, weights, activations });
            }
        }
        beam = next.into_values().collect();
        // Equal regrets in a fixed order: the same question has the same answer.
        beam.sort_by(|a, b| a.regret.total_cmp(&b.regret).then_with(|| a.values.cmp(&b.values)));
        beam.truncate(width);
    }
    let complete = |partial: Partial| {
        partial.values.into_iter().zip(kept).map(|(value, choices)| choices[value]).collect::<Vec<usize>>()
    };
    (beam.into_iter().map(complete).collect(), work)
}
