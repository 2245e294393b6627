//! Objectives that add up over nodes and what travels: latency, traffic, energy.
//!
//! Without memory limits the network is solved exactly by elimination. Limits enter by Lagrangian multipliers on the
//! weights, which give a lower bound; assignments met on the way are improved window by window; what the bound cannot
//! exclude goes to the ILP.

use super::super::elimination::Elimination;
use super::super::network::{Network, Variable};
use super::super::price::Candidate;
use super::super::{Objective, ilp};
use super::beam;
use super::effort::{Effort, GOOD_GAP, ROUNDS};

/// Solutions whose choices the ILP combines.
const MAX_POOL: usize = 40;

/// The same where that is too much for it.
const SMALL_POOL: usize = 12;

/// Assignments that the beam keeps at once.
const BEAM: usize = 400;

/// The optimum of these choices without limits on memory, and its value.
pub(super) fn unlimited(
    network: &Network<'_>,
    objective: Objective,
    choices: &[Vec<usize>],
) -> Option<(Vec<usize>, f64)> {
    let travel: Vec<f64> = network.reshards.iter().map(|reshard| network.travel_price(objective, reshard)).collect();
    let price = |node: usize, choice: usize| network.node_price(objective, node, &network.candidates[node][choice]);
    let factors = network.factors_of(choices, &price, &travel);
    let solved = Elimination::new(&choices.iter().map(Vec::len).collect::<Vec<usize>>(), factors)?;
    let found = || solved.assignment().into_iter().zip(choices).map(|(at, listed)| listed[at]).collect();
    solved.minimum().is_finite().then(|| (found(), solved.minimum()))
}

/// What a search begins with.
#[derive(Clone, Default)]
pub(super) struct Start {
    /// Known assignments.
    pub assignments: Vec<Vec<usize>>,
    /// Prices of a byte on each device; none yet if empty.
    pub multipliers: Vec<f64>,
}

/// What a search found.
pub(super) struct AdditivePlan {
    /// The assignment.
    pub assignment: Vec<usize>,
    /// Its relative distance to the bound.
    pub gap: f64,
    /// Prices of a byte on each device, of the best bound.
    pub multipliers: Vec<f64>,
}

/// The best that fits, and its relative distance to the bound: multipliers for bounds and first answers, windows to
/// improve those, the ILP for what they leave open. `None` if nothing was found that fits.
pub(super) fn limited(
    network: &Network<'_>,
    objective: Objective,
    start: Start,
    effort: Effort<'_>,
) -> Option<AdditivePlan> {
    let prices = Prices::new(network, objective, effort.allowed);
    let finite = |listed: &Vec<f64>| (0..listed.len()).filter(|choice| listed[*choice].is_finite()).collect();
    let kept: Vec<Vec<usize>> = prices.nodes.iter().map(finite).collect();
    if kept.iter().any(Vec::is_empty) {
        return None;
    }
    let mut search = Search { network, objective, prices, kept, best: None, bound: f64::NEG_INFINITY };
    // What was seen on the way; the ILP combines it.
    let mut pool = start.assignments.clone();
    for start in start.assignments {
        search.consider(start);
    }
    let multipliers = search.multiply(start.multipliers, &mut pool, effort.half())?;
    if search.gap() > GOOD_GAP {
        search.follow(&multipliers, effort.half());
        search.improve(&multipliers, &pool, effort.half());
        search.close_gap(&pool, effort);
    }
    let gap = search.gap();
    search.best.map(|(_, assignment)| AdditivePlan { assignment, gap, multipliers })
}

/// What every choice costs by itself; infinite where it is not allowed.
struct Prices {
    nodes: Vec<Vec<f64>>,
    travel: Vec<f64>,
}

impl Prices {
    fn new(network: &Network<'_>, objective: Objective, allowed: &dyn Fn(usize, &Candidate) -> bool) -> Prices {
        let is_node = |at: usize| matches!(network.variables[at], Variable::Node(_));
        let price = |node: usize, candidate: &Candidate| {
            if !is_node(node) || allowed(node, candidate) {
                network.node_price(objective, node, candidate)
            } else {
                f64::INFINITY
            }
        };
        let nodes = network.candidates.iter().enumerate();
        Prices {
            nodes: nodes
                .map(|(node, listed)| listed.iter().map(|candidate| price(node, candidate)).collect())
                .collect(),
            travel: network.reshards.iter().map(|reshard| network.travel_price(objective, reshard)).collect(),
        }
    }
}

/// Bytes of weights that a device may hold if nothing else needs room.
fn capacity(network: &Network<'_>, device: usize) -> f64 {
    let ram = if network.weights_in_ram(device) { network.ram[device] } else { u64::MAX };
    ram.min(network.flash[device]) as f64
}

/// What the weights of a candidate cost at these multipliers.
fn charged(candidate: &Candidate, multipliers: &[f64]) -> f64 {
    multipliers.iter().zip(&candidate.weights_bytes).map(|(price, bytes)| price * *bytes as f64).sum()
}

struct Search<'a> {
    network: &'a Network<'a>,
    objective: Objective,
    prices: Prices,
    /// Choices of each node that the bounds do not exclude.
    kept: Vec<Vec<usize>>,
    /// Value and assignment of the best that fits.
    best: Option<(f64, Vec<usize>)>,
    /// No assignment that fits is below.
    bound: f64,
}

impl Search<'_> {
    /// Keeps an assignment if it fits and is better; says whether it did.
    fn consider(&mut self, assignment: Vec<usize>) -> bool {
        let value = self.network.value(self.objective, &assignment);
        let better = self.best.as_ref().is_none_or(|(known, _)| value < *known);
        let kept = value.is_finite() && better && self.network.fits(&assignment);
        if kept {
            self.best = Some((value, assignment));
        }
        kept
    }

    /// Relative distance of the best to the bound.
    fn gap(&self) -> f64 {
        match &self.best {
            Some((known, _)) => ((known - self.bound) / known.max(f64::MIN_POSITIVE)).max(0.0),
            None => f64::INFINITY,
        }
    }

    /// No assignment costs more than this.
    fn ceiling(&self) -> f64 {
        let most = |prices: &[f64]| prices.iter().copied().filter(|price| price.is_finite()).fold(0.0, f64::max);
        let nodes: f64 = self.prices.nodes.iter().map(|node| most(node)).sum();
        nodes + most(&self.prices.travel) * self.network.edges.len() as f64
    }

    /// Subgradient steps on the multipliers of the devices' weights; leaves out the choices that the bounds exclude.
    /// Returns the multipliers of the best bound; `None` if nothing can fit.
    fn multiply(&mut self, start: Vec<f64>, pool: &mut Vec<Vec<usize>>, effort: Effort<'_>) -> Option<Vec<f64>> {
        let network = self.network;
        let devices = network.ram.len();
        let ceiling = self.ceiling();
        let mut multipliers = start;
        multipliers.resize(devices, 0.0);
        let mut best_multipliers = multipliers.clone();
        let mut agility = 1.0;
        for _ in 0..ROUNDS {
            let Some(solved) = self.solve(&self.kept, &multipliers) else { break };
            effort.spend(2 * solved.work());
            if !solved.minimum().is_finite() {
                return None;
            }
            let allowance: f64 =
                multipliers.iter().enumerate().map(|(device, price)| price * capacity(network, device)).sum();
            let value = solved.minimum() - allowance;
            if value > ceiling {
                return None;
            }
            let assignment = self.choices(&self.kept, &solved);
            let (weights, activations) = (network.weights(&assignment), network.activations(&assignment));
            let fits = network.fits(&assignment);
            if pool.len() < MAX_POOL {
                pool.push(assignment.clone());
            }
            self.consider(assignment);
            if value > self.bound {
                self.bound = value;
                best_multipliers.clone_from(&multipliers);
                self.exclude(&solved.lower_bounds(), allowance);
            } else {
                agility *= 0.9;
            }
            if self.gap() < GOOD_GAP || (fits && multipliers.iter().all(|price| *price == 0.0)) || effort.over() {
                break;
            }
            // Towards room for the activations too.
            let excess: Vec<f64> = (0..devices)
                .map(|device| {
                    let held = if network.weights_in_ram(device) { activations[device] } else { 0 };
                    weights[device] as f64 + held as f64 - capacity(network, device)
                })
                .collect();
            let norm: f64 = excess.iter().map(|excess| excess * excess).sum();
            if norm == 0.0 {
                break;
            }
            let distance = self.best.as_ref().map_or(value.abs(), |(known, _)| known - value).max(value.abs() * 1e-3);
            for (price, excess) in multipliers.iter_mut().zip(&excess) {
                *price = (*price + agility * distance * excess / norm).max(0.0);
            }
        }
        Some(best_multipliers)
    }

    /// Leaves out choices whose least total exceeds the best known.
    fn exclude(&mut self, least: &[Vec<f64>], allowance: f64) {
        let Some((known, _)) = self.best else { return };
        let limit = known + known.abs() * 1e-9 + allowance;
        for (kept, least) in self.kept.iter_mut().zip(least) {
            let mut bounds = least.iter();
            kept.retain(|_| bounds.next().is_some_and(|bound| *bound <= limit));
        }
    }

    /// The cheapest assignment among these choices, with weights charged at these multipliers.
    fn solve(&self, choices: &[Vec<usize>], multipliers: &[f64]) -> Option<Elimination> {
        let network = self.network;
        let price = |node: usize, choice: usize| {
            self.prices.nodes[node][choice] + charged(&network.candidates[node][choice], multipliers)
        };
        let factors = network.factors_of(choices, &price, &self.prices.travel);
        Elimination::new(&choices.iter().map(Vec::len).collect::<Vec<usize>>(), factors)
    }

    /// The assignment that was found among these choices.
    fn choices(&self, choices: &[Vec<usize>], solved: &Elimination) -> Vec<usize> {
        solved.assignment().into_iter().zip(choices).map(|(at, listed)| listed[at]).collect()
    }

    /// Assignments that fit near the best at these multipliers, at some more and at less.
    fn follow(&mut self, multipliers: &[f64], effort: Effort<'_>) {
        for (scale, width) in [(1.0, BEAM), (1.5, BEAM), (0.6, BEAM), (3.0, BEAM), (1.0, 4 * BEAM)] {
            if effort.over() || self.gap() < GOOD_GAP {
                return;
            }
            let scaled: Vec<f64> = multipliers.iter().map(|price| price * scale).collect();
            let Some(solved) = self.solve(&self.kept, &scaled) else { return };
            if !solved.minimum().is_finite() {
                return;
            }
            let (found, work) = beam::fitting(self.network, &self.kept, &solved, width);
            effort.spend(solved.work() + work);
            for assignment in found {
                self.consider(assignment);
            }
        }
    }

    /// Bytes that an assignment needs beyond the devices' memory, and what it costs.
    fn merit(&self, assignment: &[usize]) -> (u64, f64) {
        let network = self.network;
        let (ram, weights) = (network.ram_used(assignment), network.weights(assignment));
        let over = |device: usize| {
            ram[device].saturating_sub(network.ram[device]) + weights[device].saturating_sub(network.flash[device])
        };
        ((0..ram.len()).map(over).sum(), network.value(self.objective, assignment))
    }

    /// Large neighbourhood search from the best, or from what nearly fits: everything but a window of consecutive
    /// nodes keeps its choice; the window is solved exactly, at several prices of memory, and the answer kept if it
    /// fits better or costs less.
    fn improve(&mut self, multipliers: &[f64], pool: &[Vec<usize>], effort: Effort<'_>) {
        let nodes = self.network.variables.len();
        let better = |a: (u64, f64), b: (u64, f64)| a.0 < b.0 || a.0 == b.0 && a.1 < b.1 * (1.0 - 1e-9);
        let merits = |assignment: &Vec<usize>| (self.merit(assignment), assignment.clone());
        let start = match &self.best {
            Some((_, best)) => Some((self.merit(best), best.clone())),
            None => pool.iter().map(merits).min_by(|a, b| a.0.0.cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1))),
        };
        let Some((mut merit, mut current)) = start else { return };
        let mut windows = [6, 12, 24].into_iter().peekable();
        while let Some(window) = windows.peek().copied() {
            let mut improved = false;
            for begin in (0..nodes).step_by(window / 2) {
                let free = begin..(begin + window).min(nodes);
                for scale in [0.0, 0.3, 1.0, 3.0, 10.0] {
                    if effort.over() {
                        return;
                    }
                    let choices: Vec<Vec<usize>> = (0..nodes)
                        .map(|node| if free.contains(&node) { self.kept[node].clone() } else { vec![current[node]] })
                        .collect();
                    let scaled: Vec<f64> = multipliers.iter().map(|price| price * scale).collect();
                    let Some(solved) = self.solve(&choices, &scaled) else { continue };
                    effort.spend(solved.work());
                    if !solved.minimum().is_finite() {
                        continue;
                    }
                    let found = self.choices(&choices, &solved);
                    let found_merit = self.merit(&found);
                    if better(found_merit, merit) {
                        (merit, current, improved) = (found_merit, found, true);
                        self.consider(current.clone());
                    }
                }
            }
            if !improved {
                windows.next();
            }
        }
    }

    /// Gives what is left to the ILP: first the best combination of what was seen, then everything that the bounds do
    /// not exclude.
    fn close_gap(&mut self, pool: &[Vec<usize>], effort: Effort<'_>) {
        for combined in [Some(&pool[..pool.len().min(SMALL_POOL)]), Some(pool), None] {
            if self.gap() < GOOD_GAP || effort.over() {
                return;
            }
            let seen = |node: usize, choice: usize| match combined {
                Some(pool) => pool.iter().any(|seen| seen[node] == choice),
                None => true,
            };
            let kept: Vec<Vec<usize>> = self
                .kept
                .iter()
                .enumerate()
                .map(|(node, listed)| listed.iter().copied().filter(|choice| seen(node, *choice)).collect())
                .collect();
            let start = self.best.as_ref().map(|(_, assignment)| assignment.as_slice());
            let work = ilp::work(self.network, &kept);
            if work > effort.left() {
                continue;
            }
            effort.spend(work);
            let found = ilp::solve(self.network, &kept, &self.prices.nodes, &self.prices.travel, start);
            let Some(found) = found else { continue };
            self.consider(found.assignment);
            if found.proven
                && combined.is_none()
                && let Some((known, _)) = self.best
            {
                self.bound = known;
            }
        }
    }
}
