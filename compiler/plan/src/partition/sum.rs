//! What is minimised, for any plan: the same prices of nodes and travel by which the search compares.

use super::network::Network;
use super::price::{Breadth, Scope, price};
use super::{Objective, Partition, StrategyFamily};
use partita_config::Cluster;
use partita_ir::graph::Graph;

/// The sum over nodes and travel under an objective that adds up; none if the plan cannot be carried out as it is.
pub fn sum_of(graph: &Graph, cluster: &Cluster, objective: Objective, partition: &Partition) -> Option<f64> {
    if matches!(objective, Objective::Throughput | Objective::Memory) {
        return None;
    }
    let (family, breadth) = (StrategyFamily::Auto, Breadth::Roomy);
    let choice = Scope { graph, cluster, family, objective, breadth, activation_share: 0.0, resident: None };
    let order = graph.topological_order()?;
    let only = |id| Some(vec![price(&choice, id, partition.strategies.get(&id)?.clone(), None)?]);
    let candidates = order.iter().map(|id| only(*id)).collect::<Option<Vec<_>>>()?;
    let nodes = order.len();
    let network = Network::of(&choice, order, candidates, (Vec::new(), Vec::new()));
    Some(network.value(objective, &vec![0; nodes])).filter(|sum| sum.is_finite())
}
