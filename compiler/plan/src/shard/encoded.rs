//! What travels is rounded where it is made: the graph and the partition of a network whose links send fewer bytes.

use std::collections::{BTreeMap, HashSet};

use crate::partition::encodings::Encodings;
use crate::partition::{Partition, Strategy};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::region::{Region, Sharding};
use partita_ir::restrict::result_part;

use super::sketch;

/// A graph in which what travels is rounded first, and its partition.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The graph, with an operator behind each tensor that travels in fewer bytes.
    pub graph: Graph,
    /// The partition, each of these operators where its tensor is made.
    pub partition: Partition,
    /// What travels in fewer bytes, by the tensors of the graph before.
    pub encodings: Encodings,
    /// How many elements of what travels are sent, to all who get them.
    pub travelling: BTreeMap<TensorId, u64>,
}

/// The same network with those tensors rounded that have an encoding and of which parts travel under a partition. `None` if
/// none does, or if the partition cannot be carried out.
pub fn encoded(graph: &Graph, partition: &Partition, cluster: &Cluster, encodings: &Encodings) -> Option<Encoded> {
    // Rows that are streamed are made and read by turns, node by node.
    if encodings.is_empty() || !partition.row_streaming.is_empty() {
        return None;
    }
    let travelling = sketch(graph, partition, cluster).ok()?.travelling;
    let chosen: Encodings =
        encodings.iter().filter(|(tensor, _)| travelling.contains_key(tensor)).map(|(at, how)| (*at, *how)).collect();
    if chosen.is_empty() {
        return None;
    }
    let (to, nodes) = rounded(graph, &chosen);
    let mut partition = partition.clone();
    for (tensor, node) in nodes {
        partition.strategies.insert(node, where_it_is(graph, &partition, cluster, tensor)?);
    }
    Some(Encoded { graph: to, partition, encodings: chosen, travelling })
}

/// A graph with these tensors rounded for everybody who reads them, and the nodes that do so.
pub fn rounded(graph: &Graph, encodings: &Encodings) -> (Graph, Vec<(TensorId, NodeId)>) {
    let mut to = graph.clone();
    let mut taken: HashSet<String> = graph.tensor_ids().map(|tensor| graph.tensor(tensor).name.clone()).collect();
    taken.extend(graph.node_ids().map(|id| graph.node(id).name.clone()));
    let mut nodes = Vec::with_capacity(encodings.len());
    for (tensor, encoding) in encodings {
        let wanted = format!("{}.{}", graph.tensor(*tensor).name, encoding.name());
        let numbered = (1..).map(|number| format!("{wanted}.{number}"));
        let name = std::iter::once(wanted.clone()).chain(numbered).find(|name| taken.insert(name.clone()));
        let name = name.unwrap_or(wanted);
        let result = to.add_tensor(name.clone(), graph.tensor_type(*tensor).clone());
        to.replace_uses(*tensor, result);
        let node = to.add_node(name.clone(), encoding.rounding(), vec![*tensor], vec![result]);
        if graph.is_output(*tensor) {
            // The rounded one is what the caller is given, under the name that is known.
            to.rename_tensor(*tensor, name);
        }
        nodes.push((*tensor, node));
    }
    (to, nodes)
}

/// How a tensor is rounded: by everybody, what of it is there.
fn where_it_is(graph: &Graph, partition: &Partition, cluster: &Cluster, tensor: TensorId) -> Option<Strategy> {
    let Some(producer) = graph.tensor(tensor).producer else {
        return Some(Strategy::whole(cluster.input, cluster.devices.len(), graph.shape(tensor)));
    };
    let made = partition.strategies.get(&producer)?;
    let position = graph.node(producer).outputs.iter().position(|output| *output == tensor)?;
    let part = |first: Region| match position {
        0 => Some(first),
        _ => result_part(graph, producer, &first, position),
    };
    let outputs = Sharding(made.outputs.0.iter().map(|region| region.and_then(part)).collect());
    Some(Strategy { method: made.method, outputs, partial_sums: None })
}
