//! What a strategy of a node costs by itself.

use super::cost::{self, Flow};
use super::encodings::Encodings;
use super::resident::ResidentWeights;
use super::{Objective, Strategy, StrategyFamily};
use crate::shard::{Region, Sharding};
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, NodeId};
use partita_ir::restrict::{Restriction, partial_sum, restrict};

/// One way to compute a node, with what it costs by itself.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The strategy.
    pub strategy: Strategy,
    /// The run of fused tiles it belongs to, and whether the node is its last.
    pub run: Option<(usize, bool)>,
    /// Groups of devices that share the node so, a bit for each; none for what stays whole.
    pub groups: u64,
    /// Per operand the part that each device reads; `None` for constants.
    pub needs: Vec<Option<Sharding>>,
    /// Seconds of computation, per device.
    pub seconds: Vec<f64>,
    /// Energy of computation.
    pub joules: f64,
    /// Bytes of weights, per device.
    pub weights_bytes: Vec<u64>,
    /// Bytes of operands and results at the same time, per device.
    pub activation_bytes: Vec<u64>,
    /// The exchange of partial sums that is part of the strategy.
    pub flows: Vec<Flow>,
}

/// What may be chosen.
pub struct Scope<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Allowed strategies.
    pub family: StrategyFamily,
    /// What is minimised.
    pub objective: Objective,
    /// How much is listed.
    pub breadth: Breadth,
    /// Share of activations that counts.
    pub activation_share: f64,
    /// Weights that devices hold, if others may not be used.
    pub resident: Option<&'a ResidentWeights>,
    /// What may travel in fewer bytes.
    pub encodings: &'a Encodings,
}

/// How many candidates are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// For devices with memory enough: equal ones are exchangeable, so one of each kind may stand for all.
    Roomy,
    /// For devices short of memory, in brief: whole nodes anywhere, shares of all or half of the devices.
    Tight,
    /// For devices short of memory: whole nodes anywhere, groups of all sizes, and stages.
    Full,
}

/// Prices a strategy; `None` if the node cannot be computed that way or a share does not fit a device by itself.
pub fn price(choice: &Scope<'_>, id: NodeId, strategy: Strategy, run: Option<(usize, bool)>) -> Option<Candidate> {
    let (graph, cluster) = (choice.graph, choice.cluster);
    let node = graph.node(id);
    let devices = cluster.devices.len();
    let output = *node.outputs.first()?;
    let mut candidate = Candidate {
        run,
        groups: 0,
        needs: node
            .inputs
            .iter()
            .map(|input| graph.value(*input).is_none().then(|| Sharding(vec![None; devices])))
            .collect(),
        seconds: vec![0.0; devices],
        joules: 0.0,
        weights_bytes: vec![0; devices],
        activation_bytes: vec![0; devices],
        flows: Vec::new(),
        strategy: strategy.clone(),
    };
    match &strategy.partial_sums {
        None => {
            for (device, region) in strategy.outputs.parts() {
                candidate.account(choice, id, device, &restrict(graph, id, &region)?);
            }
        }
        Some(partial_sums) => {
            let whole = Region::whole(graph.shape(output));
            let mut residual = None;
            for (index, (device, x)) in partial_sums.parts().enumerate() {
                let part = partial_sum(graph, id, &x, &whole, index == 0)?;
                residual = part.residual;
                candidate.account(choice, id, device, &part.restriction(whole));
            }
            let owners: Vec<usize> = partial_sums.parts().map(|(device, _)| device).collect();
            let element_bytes = graph.tensor_type(output).element.size_bytes() as u64;
            for (device, region) in strategy.outputs.parts() {
                let bytes = region.element_count() * element_bytes;
                let others = owners.iter().filter(|owner| **owner != device);
                candidate.flows.extend(others.map(|owner| Flow { from: *owner, to: device, bytes }));
                let memory = cluster.devices[device].target.rate.memory_bytes_per_second;
                candidate.seconds[device] += (3 * bytes * owners.len() as u64) as f64 / memory;
                candidate.activation_bytes[device] += bytes * owners.len() as u64;
                if let Some(Some(need)) = residual.and_then(|position| candidate.needs.get_mut(position)) {
                    need.0[device] = Some(region);
                }
            }
        }
    }
    cost::exchange_seconds(cluster, &candidate.flows)?;
    for bytes in &mut candidate.activation_bytes {
        *bytes = (*bytes as f64 * choice.activation_share) as u64;
    }
    let fits = (0..devices).all(|device| {
        let info = &cluster.devices[device];
        let in_ram = if info.target.system == System::Linux { candidate.weights_bytes[device] } else { 0 };
        candidate.weights_bytes[device] <= info.flash_bytes
            && in_ram + candidate.activation_bytes[device] <= info.ram_bytes
    });
    fits.then_some(candidate)
}

impl Candidate {
    /// Adds what one device computes.
    fn account(&mut self, choice: &Scope<'_>, id: NodeId, device: usize, restriction: &Restriction) {
        let work = cost::shard_work(choice.graph, id, restriction);
        let on = &choice.cluster.devices[device];
        let name = &choice.graph.node(id).name;
        self.seconds[device] += cost::corrected_seconds(&work, on, name, self.strategy.method);
        self.joules += cost::joules(&work, on);
        self.weights_bytes[device] += work.stored_weights_bytes(on);
        self.activation_bytes[device] += work.stored_activation_bytes(on);
        for (need, part) in self.needs.iter_mut().zip(&restriction.operands) {
            if let (Some(need), Some(part)) = (need, part) {
                need.0[device] = Some(need.0[device].map_or(*part, |old| old.hull(part)));
            }
        }
    }
}
