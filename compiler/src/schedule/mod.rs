//! Graph and partition to one [`Schedule`] per device: computation, sends and receives, in an order that is proven to
//! match and not to deadlock (`check`).

pub mod check;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Cluster;
use crate::graph::{Graph, NodeId, TensorId};
use crate::partition::{Partition, Strategy};

/// One action on whole tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The caller feeds graph input number `position` here.
    Input {
        /// The tensor.
        tensor: TensorId,
        /// Position among the graph's inputs.
        position: usize,
    },
    /// Computes a node; its operands are constants or have been made, fed or received before.
    Compute(NodeId),
    /// Sends a tensor.
    Send {
        /// The tensor.
        tensor: TensorId,
        /// Index of the receiving device.
        peer: usize,
        /// Number of the message within an inference, unique in the cluster.
        message: u16,
    },
    /// Waits for a tensor.
    Receive {
        /// The tensor.
        tensor: TensorId,
        /// Index of the sending device.
        peer: usize,
        /// Number of the message within an inference.
        message: u16,
    },
    /// Returns graph output number `position` to the caller here.
    Output {
        /// The tensor.
        tensor: TensorId,
        /// Position among the graph's outputs.
        position: usize,
    },
}

/// What one device does for one inference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Index of the device in the cluster.
    pub device: usize,
    /// In order.
    pub actions: Vec<Action>,
}

/// Why there is no schedule; `partition` has excluded it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A node has no strategy.
    #[error("node {0} has no strategy")]
    NoStrategy(String),
    /// More messages than a frame can number.
    #[error("the plan has more than 65535 messages")]
    TooManyMessages,
}

/// Orders every device's work. Devices without work get no schedule.
///
/// All devices follow one topological order of the graph. A tensor is sent as soon as it is made, and received at the
/// same place of that order, so the messages between two devices come in one order on both sides; `check` proves the
/// rest.
pub fn build(graph: &Graph, partition: &Partition, cluster: &Cluster) -> Result<Vec<Schedule>, ScheduleError> {
    let order = graph.topological_order().unwrap_or_default();
    let mut owner: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in &order {
        match partition.strategies.get(node) {
            Some(Strategy::Whole(device)) => owner.insert(*node, *device),
            None => return Err(ScheduleError::NoStrategy(graph.node_label(*node))),
        };
    }
    let mut builder = Builder { graph, cluster, owner, actions: BTreeMap::new(), messages: 0 };
    for (position, tensor) in graph.inputs.iter().enumerate() {
        builder.push(cluster.input, Action::Input { tensor: *tensor, position });
        builder.distribute(*tensor, cluster.input)?;
    }
    for node in order {
        let device = builder.owner[&node];
        builder.push(device, Action::Compute(node));
        for output in &graph.node(node).outputs {
            builder.distribute(*output, device)?;
        }
    }
    for (position, tensor) in graph.outputs.iter().enumerate() {
        builder.push(cluster.output, Action::Output { tensor: *tensor, position });
    }
    Ok(builder.actions.into_iter().map(|(device, actions)| Schedule { device, actions }).collect())
}

struct Builder<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    owner: BTreeMap<NodeId, usize>,
    actions: BTreeMap<usize, Vec<Action>>,
    messages: u32,
}

impl Builder<'_> {
    fn push(&mut self, device: usize, action: Action) {
        self.actions.entry(device).or_default().push(action);
    }

    /// Sends a tensor from where it was made to every other device that reads it.
    fn distribute(&mut self, tensor: TensorId, from: usize) -> Result<(), ScheduleError> {
        let mut readers: BTreeSet<usize> =
            self.graph.consumers(tensor).iter().map(|consumer| self.owner[consumer]).collect();
        if self.graph.is_output(tensor) {
            readers.insert(self.cluster.output);
        }
        readers.remove(&from);
        for to in readers {
            let message = u16::try_from(self.messages).map_err(|_| ScheduleError::TooManyMessages)?;
            self.messages += 1;
            self.push(from, Action::Send { tensor, peer: to, message });
            self.push(to, Action::Receive { tensor, peer: from, message });
        }
        Ok(())
    }
}
