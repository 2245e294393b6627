//! Graph and partition to one [`Schedule`] per device: computation, sends and receives, in an order that is proven to
//! match and not to deadlock (`check`).

use crate::graph::{NodeId, TensorId};

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
