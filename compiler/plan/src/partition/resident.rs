//! Weights that devices hold already: what a smaller route may use without more flash.

use std::collections::{HashMap, HashSet};

use super::{Partition, Strategy};
use crate::shard::{Region, Sharding};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::restrict::{partial_sum, restrict};

/// For each constant the strategy by which devices hold it; for the graph that was partitioned, and graphs that are made of
/// it by editing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResidentWeights {
    by_weight: HashMap<TensorId, Strategy>,
    /// Constants of which a part is on devices that are not there.
    incomplete: HashSet<TensorId>,
    /// Devices that hold everything beside it.
    standalone: Vec<usize>,
}

/// Which part of a node's weights a device needs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slice {
    All,
    /// Those of a part of the result, such as some output channels.
    Output(Region),
    /// Those of a partial sum, such as some input channels.
    Input(Region),
}

impl ResidentWeights {
    /// What devices of a cluster hold when a graph is partitioned.
    pub fn of(graph: &Graph, partition: &Partition, cluster: &Cluster) -> ResidentWeights {
        let entry = |(id, strategy): (&NodeId, &Strategy)| Some((first_weight(graph, *id)?, strategy.clone()));
        let standalone = (0..cluster.devices.len()).filter(|device| cluster.devices[*device].standalone).collect();
        let by_weight = partition.strategies.iter().filter_map(entry).collect();
        ResidentWeights { by_weight, incomplete: HashSet::new(), standalone }
    }

    /// Whether a device holds everything.
    pub fn is_standalone(&self, device: usize) -> bool {
        self.standalone.contains(&device)
    }

    /// The same for a cluster of these devices only.
    pub fn restricted(&self, devices: &[usize]) -> ResidentWeights {
        let of = |sharding: &Sharding, device: &usize| sharding.0.get(*device).copied().flatten();
        let narrow = |sharding: &Sharding| Sharding(devices.iter().map(|device| of(sharding, device)).collect());
        let entry = |(weight, strategy): (&TensorId, &Strategy)| {
            let strategy = Strategy {
                method: strategy.method,
                outputs: narrow(&strategy.outputs),
                partial_sums: strategy.partial_sums.as_ref().map(narrow),
            };
            (*weight, strategy)
        };
        let standalone = (0..devices.len()).filter(|at| self.is_standalone(devices[*at])).collect();
        let loses = |strategy: &Strategy| strategy.devices().iter().any(|device| !devices.contains(device));
        let lost = self.by_weight.iter().filter(|(_, strategy)| loses(strategy)).map(|(weight, _)| *weight);
        let incomplete = self.incomplete.iter().copied().chain(lost).collect();
        ResidentWeights { by_weight: self.by_weight.iter().map(entry).collect(), incomplete, standalone }
    }

    /// The strategy by which a node's weights are resident; none if it has none, or new ones.
    pub fn strategy(&self, graph: &Graph, id: NodeId) -> Option<&Strategy> {
        self.by_weight.get(&first_weight(graph, id)?)
    }

    /// The same if those that are there compute all of the node by it: what is left of a sum is another sum.
    pub fn complete_strategy(&self, graph: &Graph, id: NodeId) -> Option<&Strategy> {
        self.strategy(graph, id)
            .filter(|_| first_weight(graph, id).is_some_and(|weight| !self.incomplete.contains(&weight)))
    }

    /// Whether a strategy needs no weights that its devices do not hold. Weights that nobody holds are new, and may go
    /// anywhere.
    pub fn allows(&self, graph: &Graph, id: NodeId, strategy: &Strategy) -> bool {
        let Some(resident) = self.strategy(graph, id) else { return true };
        strategy.devices().into_iter().all(|device| {
            let (needed, there) = (slice(graph, id, strategy, device), slice(graph, id, resident, device));
            // Output channels of all are part of all; input channels are packed apart from each other.
            let has_all = there == Some(Slice::All) || self.is_standalone(device);
            needed.is_some() && (needed == there || has_all && !matches!(needed, Some(Slice::Input(..))))
        })
    }
}

/// The first constant that a node reads.
fn first_weight(graph: &Graph, id: NodeId) -> Option<TensorId> {
    graph.node(id).inputs.iter().copied().find(|input| graph.value(*input).is_some())
}

/// What a device computes with; nothing if it takes no part.
fn slice(graph: &Graph, id: NodeId, strategy: &Strategy, device: usize) -> Option<Slice> {
    let region = |sharding: &Sharding| -> Option<Region> { sharding.0.get(device).copied().flatten() };
    let node = graph.node(id);
    let at = node.inputs.iter().position(|input| graph.value(*input).is_some())?;
    if let Some(partial_sums) = &strategy.partial_sums {
        let whole = Region::whole(graph.shape(*node.outputs.first()?));
        return partial_sum(graph, id, &region(partial_sums)?, &whole, true)?.operands[at].map(Slice::Input);
    }
    let part = restrict(graph, id, &region(&strategy.outputs)?)?.operands[at]?;
    let all = part == Region::whole(graph.shape(node.inputs[at]));
    Some(if all { Slice::All } else { Slice::Output(part) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Method;
    use partita_ir::graph::op::Gemm;
    use partita_ir::graph::{Activation, Op, TensorType, Value};

    #[test]
    fn only_what_is_resident_may_be_used() {
        // Tokens by channels: the channels that are made come last.
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", TensorType::f32([1, 6, 4]));
        let weights = graph.add_constant("w", Value::f32([4, 8], vec![0.0; 32]));
        let y = graph.add_tensor("y", TensorType::f32([1, 6, 8]));
        let id = graph.add_node("y", Op::MatMul, vec![x, weights], vec![y]);
        let slice = |strategy: &Strategy, device: usize| slice(&graph, id, strategy, device);
        let whole = Strategy::whole(1, 3, &[1, 6, 8]);
        assert_eq!(slice(&whole, 1), Some(Slice::All));
        assert_eq!(slice(&whole, 0), None);
        let split = |method: Method, axis: usize, middle: usize| {
            let whole = Region::whole(&[1, 6, 8]);
            let outputs = vec![whole.with(axis, 0, middle), whole.with(axis, middle, whole.end(axis)), None];
            Strategy { method, outputs: Sharding(outputs), partial_sums: None }
        };
        let columns = |begin, end| Region::new([(0, 4), (begin, end)]).expect("columns");
        assert_eq!(slice(&split(Method::Output, 2, 5), 1), Some(Slice::Output(columns(5, 8))));
        assert_eq!(slice(&split(Method::Tokens, 1, 2), 0), Some(Slice::All));
        let x = |begin, end| Region::new([(0, 1), (0, 6), (begin, end)]);
        let partial_sums = Some(Sharding(vec![x(0, 3), x(3, 4), None]));
        let inputs = Strategy { partial_sums, ..split(Method::Input, 2, 5) };
        assert_eq!(slice(&inputs, 0), Some(Slice::Input(Region::new([(0, 3), (0, 8)]).expect("rows"))));
    }

    #[test]
    fn standalone_devices_may_use_everything_and_keep_what_they_hold() {
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", TensorType::f32([1, 4]));
        let weights = graph.add_constant("w", Value::f32([4, 8], vec![0.0; 32]));
        let y = graph.add_tensor("y", TensorType::f32([1, 8]));
        let activation = Activation::None;
        let gemm = Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation };
        let id = graph.add_node("y", Op::Gemm(gemm), vec![x, weights], vec![y]);
        let region = |begin, end| Region::new([(0, 1), (begin, end)]);
        let inputs = Sharding(vec![region(0, 2), region(2, 4), None]);
        let by_inputs = Strategy { method: Method::Input, outputs: inputs.clone(), partial_sums: Some(inputs) };
        let swapped = Sharding(vec![region(2, 4), region(0, 2), None]);
        let other_inputs = Strategy { method: Method::Input, outputs: swapped.clone(), partial_sums: Some(swapped) };
        let resident = |standalone: Vec<usize>| {
            let by_weight = [(weights, by_inputs.clone())].into();
            ResidentWeights { by_weight, incomplete: HashSet::new(), standalone }
        };
        let allowed = |resident: &ResidentWeights, strategy: &Strategy| resident.allows(&graph, id, strategy);
        let alone = |device: usize| Strategy::whole(device, 3, &[1, 8]);
        for (standalone, of_first, of_last) in [(vec![], false, false), (vec![0], true, false), (vec![2], false, true)]
        {
            let resident = resident(standalone);
            assert_eq!((allowed(&resident, &alone(0)), allowed(&resident, &alone(2))), (of_first, of_last));
            assert!(
                allowed(&resident, &by_inputs) && !allowed(&resident, &other_inputs),
                "input channels lie as they lie"
            );
        }
        let fewer = resident(vec![2]).restricted(&[0, 2]);
        assert!(allowed(&fewer, &Strategy::whole(1, 2, &[1, 8])), "devices are numbered anew");
        assert!(!allowed(&fewer, &Strategy::whole(0, 2, &[1, 8])));
        assert!(fewer.complete_strategy(&graph, id).is_none(), "half of the sum went with the other device");
        let all = resident(vec![]).restricted(&[0, 1]);
        assert!(all.complete_strategy(&graph, id).is_some());
        assert!(fewer.restricted(&[0]).complete_strategy(&graph, id).is_none(), "it does not come back");
    }
}
