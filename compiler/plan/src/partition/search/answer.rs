//! What a search finds.

use std::collections::BTreeMap;

use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId};

use crate::partition::network::Network;
use crate::partition::strategy::Strategy;
use crate::shard::Sharding;

/// A decision and its relative distance to the proven bound.
#[derive(Clone)]
pub struct Answer {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// Operands that travel in several steps.
    pub relays: BTreeMap<(NodeId, usize), Vec<Sharding>>,
    /// 0 if proven optimal.
    pub gap: f64,
    /// The sum that was minimised, where the objective is one.
    pub sum: Option<f64>,
    /// For throughput: seconds between answers that no plan can go below.
    pub period_bound_seconds: Option<f64>,
}

impl Answer {
    /// Whole nodes on devices; who calls knows whether none is better.
    pub fn of_devices(graph: &Graph, cluster: &Cluster, devices: &[(NodeId, usize)], proven: bool) -> Answer {
        let whole = |(id, device): &(NodeId, usize)| {
            let shape = graph.node(*id).outputs.first().map_or(&[][..], |output| graph.shape(*output));
            (*id, Strategy::whole(*device, cluster.devices.len(), shape))
        };
        Answer {
            strategies: devices.iter().map(whole).collect(),
            relays: BTreeMap::new(),
            gap: if proven { 0.0 } else { 1.0 },
            sum: None,
            period_bound_seconds: None,
        }
    }
}

/// An assignment as an answer.
pub fn answer(network: &Network<'_>, assignment: &[usize], gap: f64) -> Answer {
    let (strategies, relays) = network.decode(assignment);
    Answer { strategies, relays, gap, sum: None, period_bound_seconds: None }
}
