//! The search for the best assignment, with a certificate.
//!
//! Objectives that add up (latency, traffic, energy): the network without memory limits is solved exactly by
//! elimination; limits enter by Lagrangian multipliers, which give a lower bound, and by assignments that happen to keep
//! them. What the bound cannot exclude goes to the ILP, which closes the gap or states it. The largest share (memory,
//! throughput) is bounded the same way, with multipliers on the devices' shares.

use std::collections::BTreeMap;

use super::candidates::Choice;
use super::elimination::Elimination;
use super::network::Network;
use super::pipeline::Chain;
use super::{Objective, PartitionOptions, Strategy, StrategyFamily, ilp, limits};
use crate::config::Cluster;
use crate::graph::{Graph, NodeId};
use crate::shard::Sharding;

/// Rounds of multipliers.
const ROUNDS: usize = 40;

/// Relative gap at which the search stops.
const GOOD_GAP: f64 = 1e-4;

/// What the ILP may take.
const ILP_SECONDS: f64 = 6.0;

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
    let starts: Vec<Vec<usize>> = if options.family == StrategyFamily::Auto {
        let pipelines = [chain.solve(options.objective, false), chain.best_single(options.objective)];
        pipelines.into_iter().flatten().filter_map(|found| full.whole_assignment(&chain.devices(&found))).collect()
    } else {
        Vec::new()
    };
    let (found, gap) = match options.objective {
        Objective::Memory => least_memory(full, starts)?,
        Objective::Throughput => {
            let (found, gap) = largest_share(&full, starts)?;
            (answer(&full, &found, gap), gap)
        }
        _ => {
            let (found, gap) = limited(&full, options.objective, starts, ILP_SECONDS)?;
            (answer(&full, &found, gap), gap)
        }
    };
    Some(Answer { gap, ..found })
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
    ilp_seconds: f64,
) -> Option<(Vec<usize>, f64)> {
    let devices = network.ram.len();
    let mut best: Option<(f64, Vec<usize>)> = None;
    let consider = |assignment: Vec<usize>, best: &mut Option<(f64, Vec<usize>)>| {
        let value = network.value(objective, &assignment);
        if value.is_finite() && network.fits(&assignment) && best.as_ref().is_none_or(|(known, _)| value < *known) {
            *best = Some((value, assignment));
        }
    };
    starts.into_iter().for_each(|start| consider(start, &mut best));
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
            &|_, candidate| {
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
        consider(assignment, &mut best);
        let gap = best.as_ref().map_or(f64::INFINITY, |(known, _)| (known - bound) / known.max(f64::MIN_POSITIVE));
        if gap < GOOD_GAP || (round == 0 && fits) {
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
    close_gap(network, objective, best, bound, &bounds, ilp_seconds)
}

/// Leaves what the bounds exclude, gives the rest to the ILP.
fn close_gap(
    network: &Network<'_>,
    objective: Objective,
    mut best: Option<(f64, Vec<usize>)>,
    bound: f64,
    bounds: &[Vec<f64>],
    ilp_seconds: f64,
) -> Option<(Vec<usize>, f64)> {
    let known = best.as_ref().map_or(f64::INFINITY, |(known, _)| *known);
    let mut gap =
        if known.is_finite() { ((known - bound) / known.max(f64::MIN_POSITIVE)).max(0.0) } else { f64::INFINITY };
    if gap > GOOD_GAP {
        let node_prices: Vec<Vec<f64>> = network
            .candidates
            .iter()
            .map(|node| node.iter().map(|candidate| network.node_price(objective, candidate)).collect())
            .collect();
        let travel_prices: Vec<f64> =
            network.reshards.iter().map(|reshard| network.travel_price(objective, reshard)).collect();
        let allowed: Vec<Vec<bool>> = network
            .candidates
            .iter()
            .enumerate()
            .map(|(node, candidates)| {
                let least = bounds.get(node);
                (0..candidates.len()).map(|choice| least.is_none_or(|least| least[choice] <= known)).collect()
            })
            .collect();
        let start = best.as_ref().map(|(_, assignment)| assignment.as_slice());
        if let Some(found) = ilp::solve(network, &allowed, &node_prices, &travel_prices, start, ilp_seconds) {
            let value = network.value(objective, &found.assignment);
            if network.fits(&found.assignment) && value <= known {
                best = Some((value, found.assignment));
                gap = if found.proven { 0.0 } else { ((value - bound) / value.max(f64::MIN_POSITIVE)).max(0.0) };
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
        let need = |choice: &super::candidates::Candidate| {
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
        match limited(&network, Objective::Latency, Vec::new(), 1.0) {
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
            let busy = |candidate: &super::candidates::Candidate| {
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
    /// The assignment that puts whole nodes on these devices.
    fn whole_assignment(&self, devices: &[(NodeId, usize)]) -> Option<Vec<usize>> {
        let device_of: BTreeMap<NodeId, usize> = devices.iter().copied().collect();
        self.order
            .iter()
            .zip(&self.candidates)
            .map(|(id, candidates)| {
                let wanted = *device_of.get(id)?;
                candidates.iter().position(|candidate| {
                    candidate.strategy.method == super::Method::Whole
                        && candidate.strategy.outputs.only_device() == Some(wanted)
                })
            })
            .collect()
    }
}
