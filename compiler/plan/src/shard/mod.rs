//! Splits the nodes of a graph over devices: graph and strategies to a graph of shards, each whole on one device.
//!
//! `region` is the algebra of boxes, `restrict` says what a part of a node needs and which operator computes it, and
//! [`apply`] rewrites the graph: every shard becomes a node of its own with its slice of the weights, what is missing is
//! cut out where it lies (`Slice`), exchanged, and joined where it is read (`Concat`); partial sums of input splits are
//! exchanged and summed. Everything after this pass works on ordinary nodes.

mod assemble;
mod constants;
mod encoded;
mod leave;
mod names;
mod partial_sums;
pub mod patches;
pub mod pieces;
mod rewrite;
pub mod row_streaming;

use std::collections::BTreeMap;

pub use assemble::pieces;
pub use encoded::{Encoded, encoded, rounded};
pub use rewrite::{apply, sketch};

pub use partita_ir::region::{Region, Sharding};

use crate::partition::{Method, cost};
use partita_config::Device;
use partita_ir::graph::{Graph, NodeId, Op, TensorId};

/// A tensor that one device hands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The tensor; it is then on both devices.
    pub tensor: TensorId,
    /// Index of the sending device.
    pub from: usize,
    /// Index of the receiving device.
    pub to: usize,
}

/// An exit, once its verdict is everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Number of the exit.
    pub exit: usize,
    /// The verdict; on every one of `devices`.
    pub verdict: TensorId,
    /// The scores; on the device that wants the answer.
    pub answer: TensorId,
    /// Indices of the devices that still have something to do, and of the one that wants the answer.
    pub devices: Vec<usize>,
}

/// One thing that happens in a cluster; events are in an order that every device follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is computed on its device.
    Compute(NodeId),
    /// Tensors change places, all at the same time.
    Exchange(Vec<Transfer>),
    /// The inference ends here if the verdict says so.
    Leave(Leave),
}

/// A graph whose every node is computed by one device.
#[derive(Clone, Debug)]
pub struct Sharded {
    /// The nodes, shards and joints.
    pub graph: Graph,
    /// What happens, in order.
    pub events: Vec<Event>,
    /// Device of every node.
    pub devices: BTreeMap<NodeId, usize>,
    /// Node of the original graph that each node belongs to; none for what joins the graph's outputs.
    pub origins: BTreeMap<NodeId, NodeId>,
    /// What the shards proper, not the joints between them, are parts of: name of the original node and method.
    pub labels: BTreeMap<NodeId, (String, Method)>,
    /// Tensors of the original graph of which parts travel, and how many elements of them, to all who get them; partial sums
    /// are of none.
    pub travelling: BTreeMap<TensorId, u64>,
    /// Whether tensors travel while devices compute.
    pub overlaps: bool,
}

impl Sharded {
    /// Bytes that travel of the result of each node of the graph before sharding.
    pub fn sent_bytes(&self, graph: &Graph) -> BTreeMap<NodeId, u64> {
        let mut sent = BTreeMap::new();
        for event in &self.events {
            let Event::Exchange(transfers) = event else { continue };
            for transfer in transfers {
                if let Some(maker) = self.maker(graph, transfer.tensor) {
                    *sent.entry(maker).or_default() += self.graph.stored_bytes(transfer.tensor) as u64;
                }
            }
        }
        sent
    }

    /// The node of the original graph whose result a tensor is a part of; none for the graph's inputs.
    fn maker(&self, graph: &Graph, mut tensor: TensorId) -> Option<NodeId> {
        loop {
            let producer = self.graph.tensor(tensor).producer?;
            let origin = self.origins.get(&producer);
            let is_joint = |op: &Op| matches!(op, Op::Slice { .. } | Op::Concat { .. });
            let cut_for_a_reader = is_joint(&self.graph.node(producer).op)
                && origin.is_none_or(|origin| !is_joint(&graph.node(*origin).op));
            match origin {
                Some(origin) if !cut_for_a_reader => return Some(*origin),
                _ => tensor = *self.graph.node(producer).inputs.first()?,
            }
        }
    }

    /// Time of a node on its device.
    pub fn node_seconds(&self, id: NodeId, device: &Device) -> f64 {
        let work = cost::node_work(&self.graph, id);
        match self.labels.get(&id) {
            Some((name, method)) => cost::corrected_seconds(&work, device, name, *method),
            None => cost::seconds(&work, device) * device.settings.corrections.family_factor(cost::COPIES),
        }
    }
}

/// A fault of the partition that the rewrite cannot work around; always a bug of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// A node has no strategy, or one for another number of devices.
    #[error("node {0} has no strategy for this cluster")]
    NoStrategy(String),
    /// A node cannot be computed in these parts.
    #[error("node {node} cannot be restricted to {part}")]
    NotRestrictable {
        /// Label of the node.
        node: String,
        /// The part of its result.
        part: String,
    },
    /// Partial sums that leave terms out, or have some twice.
    #[error("the partial sums of node {0} do not have each of its terms once")]
    NotEveryTerm(String),
    /// Part of a tensor is needed that no device has.
    #[error("nobody holds {part} of tensor `{tensor}`")]
    Missing {
        /// Name of the tensor.
        tensor: String,
        /// The part.
        part: String,
    },
    /// A shard does not type-check.
    #[error("shard of node {node}: {problem}")]
    IllTyped {
        /// Label of the node.
        node: String,
        /// What does not fit.
        problem: String,
    },
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_network;
#[cfg(test)]
mod tests_overlap;
