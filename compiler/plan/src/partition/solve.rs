//! Asks the search, or the tables of chains, for the partition that is best by what is minimised.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId};

use super::candidates::candidates;
use super::decision::{OPTIMAL_GAP, Partition, PartitionError};
use super::encodings::EXACT;
use super::objective::Objective;
use super::options::{PartitionOptions, StrategyFamily};
use super::price;
use super::search::{self, Further};
use super::strategy::Strategy;
use super::{device_subset, explain, pipeline};

/// Decides which device computes what.
pub fn solve(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Result<Partition, PartitionError> {
    solve_also(graph, cluster, options, &[]).0
}

/// The same, and what the same tables say to further questions; answers that do not fit the devices' memories are left
/// out.
pub fn solve_also(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    further: &[Further],
) -> (Result<Partition, PartitionError>, Vec<(Further, Partition)>) {
    let everyone = matches!(options.family, StrategyFamily::Lop | StrategyFamily::Lip | StrategyFamily::Fused);
    let count = cluster.devices.len();
    let is_small = count <= device_subset::LARGEST && device_subset::reachable(cluster).len() == count;
    if everyone || is_small {
        return solve_for(graph, cluster, options, further);
    }
    let mut size = device_subset::LARGEST;
    loop {
        let devices = device_subset::best(cluster, size);
        let asked = options.restricted(&devices);
        let (found, others) = solve_for(graph, &device_subset::restricted(cluster, &devices), &asked, further);
        let widened = |partition: Partition| device_subset::widened(partition, &devices, count);
        let others = others.into_iter().map(|(question, partition)| (question, widened(partition))).collect();
        match found {
            Ok(found) => return (Ok(widened(found)), others),
            Err(error) if size >= count => return (Err(error), others),
            Err(_) => size = (2 * size).min(count),
        }
    }
}

/// The same for a cluster of which all devices may be asked.
fn solve_for(
    graph: &Graph,
    cluster: &Cluster,
    options: &PartitionOptions,
    further: &[Further],
) -> (Result<Partition, PartitionError>, Vec<(Further, Partition)>) {
    let begin = Instant::now();
    let made: OnceCell<Rc<pipeline::Chain>> = OnceCell::new();
    let chain = || made.get_or_init(|| Rc::new(chain_of(graph, cluster, options))).clone();
    let searched = |options: &PartitionOptions| search::search(graph, cluster, options, &chain, further);
    let (found, others) = match options.family {
        // What devices hold decides where weights are; the tables of chains do not know it.
        StrategyFamily::Whole | StrategyFamily::Pipeline if options.resident.is_some() => {
            searched(&PartitionOptions { family: StrategyFamily::Auto, ..options.clone() })
        }
        StrategyFamily::Whole => {
            let found = chain().best_single(options.objective);
            (found.map(|found| search::Answer::of_devices(graph, cluster, &chain().devices(&found), true)), Vec::new())
        }
        StrategyFamily::Pipeline => {
            let found = chain().solve(options.objective, true);
            let answer = |(found, proven): (Vec<usize>, bool)| {
                search::Answer::of_devices(graph, cluster, &chain().devices(&found), proven)
            };
            (found.map(answer), Vec::new())
        }
        // Weights may be held more than once, never less.
        _ if explain::weights_exceed(graph, cluster, &options.reserve_bytes) => (None, Vec::new()),
        _ => searched(options),
    };
    let solve_ms = begin.elapsed().as_secs_f64() * 1e3;
    let partition = |answer: search::Answer, objective: Objective| Partition {
        strategies: answer.strategies,
        relays: answer.relays,
        row_streaming: Vec::new(),
        overlap: None,
        objective,
        optimal: answer.gap <= OPTIMAL_GAP,
        gap: if answer.gap <= OPTIMAL_GAP { 0.0 } else { answer.gap },
        sum: answer.sum,
        proven: String::new(),
        lower_bound_ms: 0.0,
        period_bound_seconds: answer.period_bound_seconds,
        solve_ms,
        single_device_ms: None,
    };
    let others = further.iter().zip(others).filter_map(|(question, answer)| {
        let answer = answer?;
        Some((*question, partition(answer, question.objective)))
    });
    let others = others.collect();
    match found {
        Some(answer) => (Ok(partition(answer, options.objective)), others),
        None => (Err(PartitionError::Infeasible(explain::explain(graph, cluster, &chain(), options))), others),
    }
}

/// The graph as a chain on a cluster. Single devices and pipelines of very many devices are not worth their tables.
fn chain_of(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> pipeline::Chain {
    let few = device_subset::best(cluster, device_subset::LARGEST);
    let mut chain = if cluster.devices.len() > device_subset::LARGEST {
        let asked = options.restricted(&few);
        pipeline::Chain::new(graph, &device_subset::restricted(cluster, &few), &asked)
    } else {
        pipeline::Chain::new(graph, cluster, options)
    };
    for bytes in &mut chain.problem.arena {
        *bytes = (*bytes as f64 * options.activation_share) as u64;
    }
    chain
}

/// Every strategy of every node that is worth a look on a cluster; public for tests of what follows, here and elsewhere.
#[doc(hidden)]
pub fn strategies_of(graph: &Graph, cluster: &Cluster) -> BTreeMap<NodeId, Vec<Strategy>> {
    let (family, objective) = (StrategyFamily::Auto, Objective::Memory);
    let breadth = price::Breadth::Full;
    let (activation_share, resident, encodings) = (1.0, None, &EXACT);
    let choice = price::Scope { graph, cluster, family, objective, breadth, activation_share, resident, encodings };
    let order = graph.topological_order().unwrap_or_default();
    let listed = candidates(&choice, &order);
    let plain = |listed: Vec<price::Candidate>| {
        listed.into_iter().filter(|candidate| candidate.run.is_none()).map(|candidate| candidate.strategy).collect()
    };
    order.into_iter().zip(listed).map(|(id, listed)| (id, plain(listed))).collect()
}
