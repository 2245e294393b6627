//! The best pipeline by dynamic programming over runs of segments.
//!
//! A state is the next segment, the device of the run before it, and how many devices of each kind have had their run.
//! Devices are of one kind if they cost the same, hold the same, and are linked alike; those of a kind are used in
//! order, which breaks the symmetry between them. Exact for every objective but throughput, whose busiest device pays
//! for both of its neighbours.

use std::collections::BTreeMap;

use super::problem::Problem;
use crate::partition::Objective;

/// Largest number of states.
const MAX_STATES: usize = 200_000;

/// Devices that have had their run, and the last of them.
type State = (u64, usize);

/// How a state is best reached.
#[derive(Clone, Copy)]
struct Label {
    /// What everything before the last run cost.
    before: f64,
    /// What the last run cost so far.
    run: f64,
    /// The state before, and the first segment of the last run.
    from: Option<(State, usize)>,
}

/// Device of each segment, and whether no pipeline is better; with `everyone` each device has something to multiply.
/// `None` if nothing satisfies the constraints, or there are too many states to know.
pub fn solve(problem: &Problem, objective: Objective, everyone: bool) -> (Option<Vec<usize>>, bool) {
    let (segments, devices) = (problem.segment_count(), problem.device_count());
    let kinds = kinds(problem);
    let count = kinds.iter().copied().max().map_or(0, |most| most + 1);
    let sizes: Vec<usize> = (0..count).map(|kind| kinds.iter().filter(|other| **other == kind).count()).collect();
    let sets = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(size + 1));
    let states = sets.and_then(|sets| sets.checked_mul(segments)?.checked_mul(devices));
    if devices > 64 || states.is_none_or(|states| states > MAX_STATES) {
        return (None, false);
    }
    let total = |label: &Label| match objective {
        Objective::Memory | Objective::Throughput => label.before.max(label.run),
        _ => label.before + label.run,
    };
    let mut labels: Vec<BTreeMap<State, Label>> = vec![BTreeMap::new(); segments + 1];
    labels[0].insert((0, problem.input), Label { before: 0.0, run: 0.0, from: None });
    for begin in 0..segments {
        for (state, label) in labels[begin].clone() {
            let (used, last) = state;
            for device in (0..devices).filter(|device| used & (1 << device) == 0) {
                if (0..device).any(|other| kinds[other] == kinds[device] && used & (1 << other) == 0) {
                    continue;
                }
                let Some(arrival) = arrival(problem, objective, begin, last, device) else { continue };
                let leaving = if objective == Objective::Throughput { arrival } else { 0.0 };
                let before = total(&Label { run: label.run + leaving, ..label });
                let mut run = Run::default();
                for (segment, ended) in labels[begin + 1..].iter_mut().enumerate() {
                    run.add(problem, objective, begin + segment, device);
                    if !run.fits(problem, device) {
                        break;
                    }
                    if everyone && !run.multiplies {
                        continue;
                    }
                    let run = arrival + run.value(problem, objective, device);
                    let found = Label { before, run, from: Some((state, begin)) };
                    let known = ended.entry((used | 1 << device, device)).or_insert(found);
                    if total(&found) < total(known) {
                        *known = found;
                    }
                }
            }
        }
    }
    let at_the_end = |(state, label): (&State, &Label)| {
        let (used, last) = *state;
        let arrival = arrival(problem, objective, segments, last, problem.output)?;
        let complete = !everyone || used.count_ones() as usize == devices;
        complete.then(|| (total(&Label { run: label.run + arrival, ..*label }), *state))
    };
    let exact = objective != Objective::Throughput;
    let best = labels[segments].iter().filter_map(at_the_end).min_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, mut state)) = best else { return (None, true) };
    let mut assignment = vec![0; segments];
    let mut end = segments;
    while let Some((before, begin)) = labels[end].get(&state).and_then(|label| label.from) {
        assignment[begin..end].fill(state.1);
        (end, state) = (begin, before);
    }
    (Some(assignment), exact)
}

/// Number of each device's kind.
fn kinds(problem: &Problem) -> Vec<usize> {
    let devices = problem.device_count();
    let alike = |a: usize, b: usize| {
        let ends = [problem.input, problem.output];
        let other = |device: usize| if device == a { b } else { device };
        !ends.contains(&a)
            && !ends.contains(&b)
            && problem.seconds.iter().zip(&problem.joules).all(|(s, j)| s[a] == s[b] && j[a] == j[b])
            && (problem.ram[a], problem.flash[a], problem.weights_in_ram[a])
                == (problem.ram[b], problem.flash[b], problem.weights_in_ram[b])
            && problem.transfer.iter().zip(&problem.transfer_joules).all(|(seconds, joules)| {
                (0..devices).filter(|device| *device != b).all(|device| {
                    seconds[a][device] == seconds[b][other(device)]
                        && seconds[device][a] == seconds[other(device)][b]
                        && joules[a][device] == joules[b][other(device)]
                        && joules[device][a] == joules[other(device)][b]
                })
            })
    };
    let mut found: Vec<usize> = Vec::with_capacity(devices);
    for device in 0..devices {
        let known = (0..device).find(|other| alike(*other, device)).map(|other| found[other]);
        let fresh = found.iter().copied().max().map_or(0, |most| most + 1);
        found.push(known.unwrap_or(fresh));
    }
    found
}

/// What it costs that a boundary goes from one device to another; `None` without a link.
fn arrival(problem: &Problem, objective: Objective, boundary: usize, from: usize, to: usize) -> Option<f64> {
    let seconds = problem.transfer[boundary][from][to]?;
    Some(match objective {
        _ if from == to => 0.0,
        Objective::Latency | Objective::Throughput => seconds,
        Objective::Traffic => problem.boundary_bytes[boundary] as f64,
        Objective::Energy => problem.transfer_joules[boundary][from][to],
        Objective::Weighted(weights) => {
            let joules = problem.transfer_joules[boundary][from][to];
            weights.cost(seconds, problem.boundary_bytes[boundary] as f64, joules)
        }
        Objective::Memory => 0.0,
    })
}

/// Consecutive segments of one device.
#[derive(Default)]
struct Run {
    cost: f64,
    weights: u64,
    arena: u64,
    multiplies: bool,
}

impl Run {
    fn add(&mut self, problem: &Problem, objective: Objective, segment: usize, device: usize) {
        self.cost += match objective {
            Objective::Energy => problem.joules[segment][device],
            Objective::Weighted(weights) => {
                weights.cost(problem.seconds[segment][device], 0.0, problem.joules[segment][device])
            }
            Objective::Latency | Objective::Throughput => problem.seconds[segment][device],
            Objective::Traffic | Objective::Memory => 0.0,
        };
        self.weights += problem.weights[segment];
        self.arena = self.arena.max(problem.arena[segment]);
        self.multiplies |= problem.multiplies[segment];
    }

    fn ram(&self, problem: &Problem, device: usize) -> u64 {
        self.arena + if problem.weights_in_ram[device] { self.weights } else { 0 }
    }

    fn fits(&self, problem: &Problem, device: usize) -> bool {
        self.ram(problem, device) <= problem.ram[device] && self.weights <= problem.flash[device]
    }

    fn value(&self, problem: &Problem, objective: Objective, device: usize) -> f64 {
        if objective == Objective::Memory { self.ram(problem, device) as f64 } else { self.cost }
    }
}
