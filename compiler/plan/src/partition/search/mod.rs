//! The search for the best assignment, with a certificate.
//!
//! Objectives that add up (latency, traffic, energy): the network without memory limits is solved exactly by
//! elimination; limits enter by Lagrangian multipliers, which give a lower bound, and by assignments that happen to keep
//! them. What the bound cannot exclude goes to the ILP, which closes the gap or states it. The largest share (memory,
//! throughput) is bounded the same way, with multipliers on the devices' shares.

mod additive;
mod answer;
mod beam;
mod busiest;
mod effort;
mod memory;
mod stages;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId};

use self::answer::answer;
use self::effort::{Effort, PARTS, SEARCH_WORK, START_WORK};
use super::candidates::family_of_all;
use super::network::Network;
use super::options::Effort as Asked;
use super::pipeline::Chain;
use super::price::{Breadth, Candidate, Scope};
use super::{Objective, PartitionOptions, Strategy, StrategyFamily, limits};

pub use self::answer::Answer;

/// A further question that the same tables answer, without limits on memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Further {
    /// Allowed strategies, among those of the tables.
    pub family: StrategyFamily,
    /// What is minimised.
    pub objective: Objective,
}

/// The best assignment of the network of all allowed strategies, `None` if nothing keeps the limits; and, one for each
/// further question, what the same tables say to it, if that keeps the limits.
pub fn search(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    chain: &dyn Fn() -> Rc<Chain>,
    further: &[Further],
) -> (Option<Answer>, Vec<Option<Answer>>) {
    let done = Cell::new(0);
    let mut answers = vec![None; further.len()];
    let work = match options.effort {
        Asked::Full => SEARCH_WORK,
        Asked::Part => SEARCH_WORK / PARTS,
        Asked::Exact => 0,
    };
    let effort = Effort::new(&done, work);
    let found = search_with(graph, cluster, options, chain, effort, (further, &mut answers));
    (found, answers)
}

#[expect(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
fn search_with(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    chain: &dyn Fn() -> Rc<Chain>,
    effort: Effort<'_>,
    (further, answers): (&[Further], &mut [Option<Answer>]),
) -> Option<Answer> {
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
    let choice = |breadth: Breadth| {
        let PartitionOptions { family, objective, activation_share, .. } = *options;
        let resident = options.resident.as_deref();
        let encodings = &*options.encodings;
        Scope { graph, cluster, family, objective, breadth, activation_share, resident, encodings }
    };
    let network = |breadth: Breadth| {
        let choice = choice(breadth);
        // A node that fits nowhere ends the search.
        Some(Network::new(&choice, ram.clone(), flash.clone())).filter(|network| !network.domains().contains(&0))
    };
    let adds_up = !matches!(options.objective, Objective::Throughput | Objective::Memory);
    if adds_up || !further.is_empty() {
        let roomy = network(Breadth::Roomy)?;
        let mut of_family: Vec<(StrategyFamily, Vec<Vec<usize>>)> = vec![(options.family, roomy.all())];
        for (Further { family, objective }, slot) in further.iter().zip(answers) {
            if of_family.iter().all(|(known, _)| known != family) {
                let choices =
                    roomy.choices_of(|nodes, listed| family_of_all(&choice(Breadth::Roomy), *family, nodes, listed));
                of_family.push((*family, choices));
            }
            let Some((_, choices)) = of_family.iter().find(|(known, _)| known == family) else { continue };
            let found = additive::unlimited(&roomy, *objective, choices).filter(|(found, _)| roomy.fits(found));
            *slot = found.map(|(found, sum)| Answer { sum: Some(sum), ..answer(&roomy, &found, 0.0) });
        }
        let found = if adds_up { additive::unlimited(&roomy, options.objective, &roomy.all()) } else { None };
        if let Some((found, sum)) = found.filter(|(found, _)| roomy.fits(found)) {
            return Some(Answer { sum: Some(sum), ..answer(&roomy, &found, 0.0) });
        }
    }
    if effort.over() {
        return None;
    }
    let full = network(Breadth::Full)?;
    let mut multipliers = Vec::new();
    // Warm starts: the families by themselves are small problems, and the answer is never worse than the best of them.
    let mut starts: Vec<Vec<usize>> = Vec::new();
    if options.family == StrategyFamily::Auto {
        let tight = network(Breadth::Tight)?;
        let objective = if adds_up { options.objective } else { Objective::Latency };
        let found = additive::limited(&tight, objective, additive::Start::default(), effort.at_most(effort.left() / 4));
        if let Some(found) = found {
            let answer = answer(&tight, &found.assignment, found.gap);
            starts.extend(full.assignment_of(&answer.strategies));
            multipliers = found.multipliers;
        }
        let chain = chain();
        let pipeline = chain.solve(options.objective, false).map(|(found, _)| found);
        for found in [pipeline, chain.best_single(options.objective)].into_iter().flatten() {
            let answer = Answer::of_devices(graph, cluster, &chain.devices(&found), false);
            starts.extend(full.assignment_of(&answer.strategies));
        }
        for family in [StrategyFamily::Lop, StrategyFamily::Fused, StrategyFamily::Spatial, StrategyFamily::Ftp] {
            let alone = PartitionOptions { family, ..options.clone() };
            if let Some(answer) =
                search_with(graph, cluster, &alone, &|| chain.clone(), effort.at_most(START_WORK), (&[], &mut []))
            {
                starts.extend(full.assignment_of(&answer.strategies));
            }
        }
        starts.extend(stages::staged(graph, &full, options, effort));
        if options.objective == Objective::Throughput {
            // What answers soonest is seldom far from what answers most often.
            let start = additive::Start { assignments: starts.clone(), multipliers: multipliers.clone() };
            let soonest = additive::limited(&full, Objective::Latency, start, effort.half());
            starts.extend(soonest.map(|found| found.assignment));
        }
    }
    let (found, gap) = match options.objective {
        Objective::Memory => memory::least(full, starts, effort)?,
        Objective::Throughput => {
            let found = busiest::least(&full, starts, effort)?;
            let answer = answer(&full, &found.assignment, found.gap);
            (Answer { period_bound_seconds: Some(found.bound_seconds), ..answer }, found.gap)
        }
        _ => {
            let start = additive::Start { assignments: starts, multipliers };
            let found = additive::limited(&full, options.objective, start, effort)?;
            let sum = Some(full.value(options.objective, &found.assignment));
            (Answer { sum, ..answer(&full, &found.assignment, found.gap) }, found.gap)
        }
    };
    Some(Answer { gap, ..found })
}

impl Network<'_> {
    /// The assignment that these strategies are, if all are candidates. Those of fused tiles belong to one run only.
    fn assignment_of(&self, strategies: &BTreeMap<NodeId, Strategy>) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for (at, id) in self.nodes() {
            let wanted = strategies.get(&id)?;
            found.push(self.candidates[at].iter().position(|candidate| candidate.strategy == *wanted)?);
        }
        Some(self.completed(Objective::Latency, &found))
    }

    /// All choices, of nodes only those that `chosen` takes of their lists.
    fn choices_of(&self, chosen: impl Fn(&[NodeId], &[&[Candidate]]) -> Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        let (places, nodes): (Vec<usize>, Vec<NodeId>) = self.nodes().unzip();
        let listed: Vec<&[Candidate]> = places.iter().map(|at| self.candidates[*at].as_slice()).collect();
        let mut choices = self.all();
        for (at, chosen) in places.into_iter().zip(chosen(&nodes, &listed)) {
            choices[at] = chosen;
        }
        choices
    }
}
