//! The search for the best assignment, with a certificate.
//!
//! Objectives that add up (latency, traffic, energy): the network without memory limits is solved exactly by
//! elimination; limits enter by Lagrangian multipliers, which give a lower bound, and by assignments that happen to keep
//! them. What the bound cannot exclude goes to the ILP, which closes the gap or states it. The largest share (memory,
//! throughput) is bounded the same way, with multipliers on the devices' shares.

use std::collections::BTreeMap;
use std::time::Instant;

use super::candidates::{Candidate, Choice};
use super::elimination::Elimination;
use super::groups::stages;
use super::network::Network;
use super::pipeline::Chain;
use super::{Objective, PartitionOptions, Strategy, StrategyFamily, cost, ilp, limits};
use crate::config::Cluster;
use crate::graph::{Graph, NodeId};
use crate::shard::Sharding;

/// Rounds of multipliers.
const ROUNDS: usize = 40;

/// Relative gap at which the search stops.
const GOOD_GAP: f64 = 1e-4;

/// Solutions whose choices the ILP combines.
const MAX_POOL: usize = 40;

/// The same where that is too much for it.
const SMALL_POOL: usize = 12;

/// How much a search with limits may try.
#[derive(Clone, Copy)]
struct Effort<'a> {
    /// What the rounds of multipliers may take.
    rounds_seconds: f64,
    /// What the ILP may take.
    ilp_seconds: f64,
    /// Candidates (of a node) that may be used.
    allowed: &'a dyn Fn(usize, &Candidate) -> bool,
}

impl Effort<'_> {
    const FULL: Effort<'static> = Effort { rounds_seconds: 4.0, ilp_seconds: 9.0, allowed: &|_, _| true };
    const LITTLE: Effort<'static> = Effort { rounds_seconds: 1.0, ilp_seconds: 1.0, allowed: &|_, _| true };
}

/// A decision and its relative distance to the proven bound.
pub struct Answer {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// Operands that travel in two steps.
    pub ways: BTreeMap<(NodeId, usize), Sharding>,
    /// 0 if proven optimal.
    pub gap: f64,
}

impl Answer {
    /// Whole nodes on devices, proven by who calls.
    pub fn of_devices(graph: &Graph, cluster: &Cluster, devices: &[(NodeId, usize)]) -> Answer {
        let whole = |(id, device): &(NodeId, usize)| {
            let shape = graph.node(*id).outputs.first().map_or(&[][..], |output| graph.shape(*output));
            (*id, Strategy::whole(*device, cluster.devices.len(), shape))
        };
        Answer { strategies: devices.iter().map(whole).collect(), ways: BTreeMap::new(), gap: 0.0 }
    }
}

/// The best assignment of the network of all allowed strategies; `None` if nothing keeps the limits.
pub fn search(graph: &Graph, cluster: &Cluster, options: &PartitionOptions, chain: &Chain) -> Option<Answer> {
    let reserve = |device: usize| options.reserve_bytes.get(device).copied().unwrap_or(0);
    let ram: Vec<u64> = cluster
        .devices
        .iter()
        .enumerate()
        .map(|(device, info)| limits::ram_bytes(info).saturating_sub(reserve(device)))
        .collect();
    let flash: Vec<u64> = cluster
        .devices
        .iter()
        .enumerate()
        .map(|(device, info)| limits::flash_bytes(info).saturating_sub(reserve(device)))
        .collect();
    let network = |pipeline: bool| {
        let choice = Choice { graph, cluster, family: options.family, objective: options.objective, pipeline };
        Network::new(&choice, ram.clone(), flash.clone())
    };
    let adds_up = matches!(options.objective, Objective::Latency | Objective::Traffic | Objective::Energy);
    if adds_up {
        // Without need for memory, equal devices are exchangeable and one of each kind may stand for all.
        let small = network(false);
        if let Some(found) = unlimited(&small, options.objective).filter(|found| small.fits(found)) {
            return Some(answer(&small, &found, 0.0));
        }
    }
    let full = network(true);
    // Warm starts: the families by themselves are small problems, and the answer is never worse than the best of them.
    let mut starts: Vec<Vec<usize>> = Vec::new();
    if options.family == StrategyFamily::Auto {
        for found in [chain.solve(options.objective, false), chain.best_single(options.objective)].into_iter().flatten()
        {
            let answer = Answer::of_devices(graph, cluster, &chain.devices(&found));
            starts.extend(full.assignment_of(&answer.strategies));
        }
        for family in [StrategyFamily::Lop, StrategyFamily::Fused, StrategyFamily::Spatial, StrategyFamily::Ftp] {
            let alone = PartitionOptions { family, ..options.clone() };
            if let Some(answer) = search(graph, cluster, &alone, chain) {
                starts.extend(full.assignment_of(&answer.strategies));
            }
        }
        starts.extend(staged(graph, &full, options));
    }
    let (found, gap) = match options.objective {
        Objective::Memory => least_memory(full, starts)?,
        Objective::Throughput => {
            let (found, gap) = largest_share(&full, starts)?;
            (answer(&full, &found, gap), gap)
        }
        _ => {
            let (found, gap) = limited(&full, options.objective, starts, Effort::FULL)?;
            (answer(&full, &found, gap), gap)
        }
    };
    Some(Answer { gap, ..found })
}

/// Pipelines whose stages are shared by several devices: the order of nodes is cut where least crosses so that each
/// stage's weights fit its devices together; then the best strategies within each stage.
fn staged(graph: &Graph, network: &Network<'_>, options: &PartitionOptions) -> Vec<Vec<usize>> {
    let cluster = network.cluster;
    let count = cluster.devices.len();
    let weights: Vec<u64> = network.order.iter().map(|id| cost::node_weights_bytes(graph, *id)).collect();
    let crossing = crossing_bytes(graph, &network.order);
    let mut found = Vec::new();
    for size in 2..=count / 2 {
        let stages = stages(count, size);
        let room = |stage: &Vec<usize>| -> u64 {
            let held = |device: &usize| {
                let ram = if network.weights_in_ram(*device) { network.ram[*device] } else { u64::MAX };
                ram.min(network.flash[*device])
            };
            stage.iter().map(held).sum()
        };
        let rooms: Vec<u64> = stages.iter().map(room).collect();
        let Some(ends) = least_crossing(&weights, &crossing, &rooms) else { continue };
        let stage_of = |node: usize| ends.iter().position(|end| node < *end).unwrap_or(ends.len() - 1);
        let members: Vec<&Vec<usize>> = (0..network.order.len()).map(|node| &stages[stage_of(node)]).collect();
        let allowed = |node: usize, candidate: &Candidate| {
            let devices = candidate.strategy.devices();
            let shared = candidate.strategy.addends.is_some() || devices.len() > 1;
            let has_weights = candidate.weights_bytes.iter().any(|bytes| *bytes > 0);
            devices.iter().all(|device| members[node].contains(device))
                && (!has_weights || shared && devices.len() == members[node].len())
                && (!has_weights || candidate.strategy.method != super::Method::Replicated)
        };
        let effort = Effort { allowed: &allowed, ..Effort::LITTLE };
        found.extend(limited(network, options.objective, Vec::new(), effort).map(|(assignment, _)| assignment));
    }
    found
}

/// Bytes alive after each node of the order.
fn crossing_bytes(graph: &Graph, order: &[NodeId]) -> Vec<u64> {
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let mut crossing = vec![0; order.len()];
    for (at, id) in order.iter().enumerate() {
        for output in &graph.node(*id).outputs {
            let last = graph.consumers(*output).iter().map(|reader| position[reader]).max().unwrap_or(at);
            let bytes = graph.tensor_type(*output).size_bytes() as u64;
            crossing[at..last].iter_mut().for_each(|sum| *sum += bytes);
        }
    }
    crossing
}

/// Ends of consecutive stages so that the weights of each fit its room and least crosses the cuts; `None` if there are
/// no such cuts.
fn least_crossing(weights: &[u64], crossing: &[u64], rooms: &[u64]) -> Option<Vec<usize>> {
    let count = weights.len();
    // best[end]: least crossing with the stages so far ending here, and where they end.
    let mut best: Vec<Option<(u64, Vec<usize>)>> = vec![None; count + 1];
    best[0] = Some((0, Vec::new()));
    for (stage, room) in rooms.iter().enumerate() {
        let mut next: Vec<Option<(u64, Vec<usize>)>> = vec![None; count + 1];
        for (begin, known) in best.iter().enumerate() {
            let Some((sum, ends)) = known else { continue };
            let mut held = 0;
            for end in begin + 1..=count {
                held += weights[end - 1];
                if held > *room {
                    break;
                }
                let last = stage + 1 == rooms.len();
                let total = sum + if end < count { crossing[end - 1] } else { 0 };
                let better = next[end].as_ref().is_none_or(|(known, _)| total < *known);
                if better && (!last || end == count) {
                    let mut ends = ends.clone();
                    ends.push(end);
                    next[end] = Some((total, ends));
                }
            }
        }
        best = next;
    }
    best[count].take().map(|(_, ends)| ends)
}

fn answer(network: &Network<'_>, assignment: &[usize], gap: f64) -> Answer {
    let (strategies, ways) = network.decode(assignment);
    Answer { strategies, ways, gap }
}

/// The optimum without limits on memory.
fn unlimited(network: &Network<'_>, objective: Objective) -> Option<Vec<usize>> {
    let factors = network.factors(&|_, candidate| network.node_price(objective, candidate), &|reshard| {
        network.travel_price(objective, reshard)
    });
    let solved = Elimination::new(&network.domains(), factors)?;
    solved.minimum().is_finite().then(|| solved.assignment())
}

/// The best that fits: multipliers on weights for bounds and candidates, the ILP for what they leave open.
fn limited(
    network: &Network<'_>,
    objective: Objective,
    starts: Vec<Vec<usize>>,
    effort: Effort<'_>,
) -> Option<(Vec<usize>, f64)> {
    let devices = network.ram.len();
    let mut best: Option<(f64, Vec<usize>)> = None;
    let consider = |assignment: Vec<usize>, best: &mut Option<(f64, Vec<usize>)>| {
        let value = network.value(objective, &assignment);
        if value.is_finite() && network.fits(&assignment) && best.as_ref().is_none_or(|(known, _)| value < *known) {
            *best = Some((value, assignment));
        }
    };
    // What was seen on the way; the ILP combines it.
    let mut pool = starts.clone();
    starts.into_iter().for_each(|start| consider(start, &mut best));
    let begin = Instant::now();
    let capacity = |device: usize| {
        let ram = if network.weights_in_ram(device) { network.ram[device] } else { u64::MAX };
        ram.min(network.flash[device]) as f64
    };
    let mut multipliers = vec![0.0f64; devices];
    let mut bound = f64::NEG_INFINITY;
    let mut bounds: Vec<Vec<f64>> = Vec::new();
    let mut agility = 1.0;
    for round in 0..ROUNDS {
        let factors = network.factors(
            &|node, candidate| {
                if !(effort.allowed)(node, candidate) {
                    return f64::INFINITY;
                }
                let charged =
                    multipliers.iter().zip(&candidate.weights_bytes).map(|(price, bytes)| price * *bytes as f64);
                network.node_price(objective, candidate) + charged.sum::<f64>()
            },
            &|reshard| network.travel_price(objective, reshard),
        );
        let Some(solved) = Elimination::new(&network.domains(), factors) else { break };
        if !solved.minimum().is_finite() {
            return None;
        }
        let allowance: f64 = multipliers.iter().enumerate().map(|(device, price)| price * capacity(device)).sum();
        let value = solved.minimum() - allowance;
        if value > bound {
            bound = value;
            bounds = solved.lower_bounds();
            bounds.iter_mut().flatten().for_each(|least| *least -= allowance);
        } else {
            agility *= 0.9;
        }
        let assignment = solved.assignment();
        let (weights, activations) = (network.weights(&assignment), network.activations(&assignment));
        let fits = network.fits(&assignment);
        if pool.len() < MAX_POOL {
            pool.push(assignment.clone());
        }
        consider(assignment, &mut best);
        let gap = best.as_ref().map_or(f64::INFINITY, |(known, _)| (known - bound) / known.max(f64::MIN_POSITIVE));
        if gap < GOOD_GAP || (round == 0 && fits) || begin.elapsed().as_secs_f64() > effort.rounds_seconds {
            break;
        }
        // Towards room for the activations too.
        let excess: Vec<f64> = (0..devices)
            .map(|device| {
                let held = if network.weights_in_ram(device) { activations[device] } else { 0 };
                weights[device] as f64 + held as f64 - capacity(device)
            })
            .collect();
        let norm: f64 = excess.iter().map(|excess| excess * excess).sum();
        if norm == 0.0 {
            break;
        }
        let distance = best.as_ref().map_or(value.abs(), |(known, _)| known - value).max(value.abs() * 1e-3);
        for (price, excess) in multipliers.iter_mut().zip(&excess) {
            *price = (*price + agility * distance * excess / norm).max(0.0);
        }
    }
    close_gap(network, objective, best, (bound, &bounds), &pool, effort)
}

/// Leaves what the bounds exclude, gives the rest to the ILP.
fn close_gap(
    network: &Network<'_>,
    objective: Objective,
    mut best: Option<(f64, Vec<usize>)>,
    (bound, bounds): (f64, &[Vec<f64>]),
    pool: &[Vec<usize>],
    effort: Effort<'_>,
) -> Option<(Vec<usize>, f64)> {
    let distance = |best: &Option<(f64, Vec<usize>)>| match best {
        Some((known, _)) => ((known - bound) / known.max(f64::MIN_POSITIVE)).max(0.0),
        None => f64::INFINITY,
    };
    let mut gap = distance(&best);
    if gap > GOOD_GAP {
        let node_prices: Vec<Vec<f64>> = network
            .candidates
            .iter()
            .map(|node| node.iter().map(|candidate| network.node_price(objective, candidate)).collect())
            .collect();
        let travel_prices: Vec<f64> =
            network.reshards.iter().map(|reshard| network.travel_price(objective, reshard)).collect();
        let seen = |node: usize, choice: usize, pool: &[Vec<usize>]| pool.iter().any(|seen| seen[node] == choice);
        // First the best combination of what was seen, then everything that the bounds cannot exclude.
        let small = &pool[..pool.len().min(SMALL_POOL)];
        for combined in [Some(small), Some(pool), None] {
            let known = best.as_ref().map_or(f64::INFINITY, |(known, _)| *known);
            let possible = |node: usize, choice: usize| bounds.get(node).is_none_or(|least| least[choice] <= known);
            let allowed: Vec<Vec<bool>> = network
                .domains()
                .into_iter()
                .enumerate()
                .map(|(node, choices)| {
                    let keep = |choice: usize| match combined {
                        Some(pool) => seen(node, choice, pool),
                        None => possible(node, choice),
                    };
                    let usable = |choice: usize| (effort.allowed)(node, &network.candidates[node][choice]);
                    (0..choices).map(|choice| usable(choice) && keep(choice)).collect()
                })
                .collect();
            let start = best.as_ref().map(|(_, assignment)| assignment.as_slice());
            let seconds = effort.ilp_seconds / 3.0;
            let found = ilp::solve(network, &allowed, &node_prices, &travel_prices, start, seconds);
            let Some(found) = found.filter(|found| network.fits(&found.assignment)) else { continue };
            let value = network.value(objective, &found.assignment);
            if value <= known * (1.0 + 1e-9) {
                best = Some((value, found.assignment));
                gap = if found.proven && combined.is_none() { 0.0 } else { distance(&best) };
            }
        }
    }
    best.map(|(_, assignment)| (assignment, gap))
}

/// Smallest largest RAM, and among the plans near it the fastest.
///
/// Memory does not depend on what travels, so the bound comes from each node by itself: multipliers on the devices'
/// weights make it tight where weights decide, the node that needs most by itself where activations do.
fn least_memory(mut network: Network<'_>, starts: Vec<Vec<usize>>) -> Option<(Answer, f64)> {
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
    for _ in 0..12 {
        let limit = (low + high) / 2.0;
        network.ram = original.iter().map(|ram| (*ram).min(limit as u64)).collect();
        match limited(&network, Objective::Latency, Vec::new(), Effort::LITTLE) {
            Some((found, _)) => {
                keep(&network, found, &mut best);
                high = best.as_ref().map_or(limit, |(used, _)| *used as f64).min(limit);
            }
            None => low = limit,
        }
        if high - low < 0.005 * high {
            break;
        }
    }
    network.ram = original;
    let (used, found) = best?;
    let gap = ((used as f64 - bound) / used as f64).max(0.0);
    Some((answer(&network, &found, gap), gap))
}

/// Smallest busiest device, for streams of inferences.
fn largest_share(network: &Network<'_>, starts: Vec<Vec<usize>>) -> Option<(Vec<usize>, f64)> {
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
    let busy_of_travel = |reshard: &super::reshard::Reshard| {
        let mut busy = vec![0.0; devices];
        reshard.steps.iter().for_each(|step| network.busy_of_flows(step, &mut busy));
        busy
    };
    let busiest = |assignment: &[usize]| {
        let mut busy = vec![0.0; devices];
        for (node, choice) in busy_of_node.iter().zip(assignment) {
            busy.iter_mut().zip(&node[*choice]).for_each(|(sum, seconds)| *sum += seconds);
        }
        for edge in &network.edges {
            match network.travel(edge, assignment) {
                Some(reshard) => {
                    busy.iter_mut().zip(busy_of_travel(reshard)).for_each(|(sum, seconds)| *sum += seconds)
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
        let weighted = |busy: &[f64]| busy.iter().zip(&weights).map(|(seconds, weight)| seconds * weight).sum::<f64>();
        let factors = network.factors(
            &|node, candidate| {
                let position = network.candidates[node].iter().position(|other| std::ptr::eq(other, candidate));
                position.map_or(f64::INFINITY, |choice| weighted(&busy_of_node[node][choice]))
            },
            &|reshard| weighted(&busy_of_travel(reshard)),
        );
        let Some(solved) = Elimination::new(&network.domains(), factors) else { break };
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
    let (value, found) = best?;
    Some((found, ((value - bound) / value.max(f64::MIN_POSITIVE)).max(0.0)))
}

impl Network<'_> {
    /// The assignment that these strategies are, if all are candidates. Those of fused tiles belong to one run only.
    fn assignment_of(&self, strategies: &BTreeMap<NodeId, Strategy>) -> Option<Vec<usize>> {
        let mut found = Vec::with_capacity(self.order.len());
        for (id, candidates) in self.order.iter().zip(&self.candidates) {
            let wanted = strategies.get(id)?;
            found.push(candidates.iter().position(|candidate| candidate.strategy == *wanted)?);
        }
        Some(found)
    }
}
