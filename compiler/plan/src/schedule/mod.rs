//! Sharded graph to one [`Schedule`] per device: computation and exchanges, in an order that is proven to match and not
//! to deadlock (`check`). `overlap` lets tensors travel while devices compute.

pub mod check;
mod overlap;
pub mod text;

pub use overlap::started_sends;

use std::collections::{BTreeMap, BTreeSet};

use crate::shard::{Event, Sharded, Transfer};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};

/// One tensor on its way between two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The tensor.
    pub tensor: TensorId,
    /// Index of the device at the other end.
    pub peer: usize,
    /// Number of the message within an inference, unique in the cluster.
    pub number: u32,
}

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
    /// From now on these may travel while the device computes: what leaves has been made, and nothing else lies where
    /// something comes. A later exchange has each of them again, and waits for it.
    Start {
        /// What leaves, in the order of message numbers.
        sends: Vec<Message>,
        /// What comes, in the order of message numbers.
        receives: Vec<Message>,
    },
    /// Sends and receives tensors, all at the same time where the links can; in the order of message numbers where
    /// they cannot. Waits until what comes is there, and what leaves lies elsewhere, too.
    Exchange {
        /// What leaves, in the order of message numbers.
        sends: Vec<Message>,
        /// What comes, in the order of message numbers.
        receives: Vec<Message>,
    },
    /// Ends the inference if the verdict says so.
    Leave {
        /// Number of the exit.
        exit: usize,
        /// The verdict.
        verdict: TensorId,
        /// The scores that are then the answer, on the device that wants it.
        answer: Option<TensorId>,
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

impl Schedule {
    /// Bytes of the constants that its nodes read, whole numbers in as few as hold them.
    pub fn weights_bytes(&self, graph: &Graph) -> u64 {
        let nodes = self.actions.iter().filter_map(|action| match action {
            Action::Compute(id) => Some(*id),
            _ => None,
        });
        let inputs = nodes.flat_map(|id| graph.node(id).inputs.iter().copied());
        let constants: BTreeSet<TensorId> = inputs.filter(|tensor| graph.value(*tensor).is_some()).collect();
        constants.into_iter().map(|tensor| graph.stored_bytes(tensor) as u64).sum()
    }
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// More messages than can be numbered.
    #[error("the plan has more than 4294967295 messages")]
    TooManyMessages,
}

/// Orders every device's work. Devices without work get no schedule.
///
/// All devices follow the one order of [`Sharded::events`], and messages are numbered in that order, so the messages
/// between two devices come in one order on both sides; `check` proves the rest.
pub fn build(sharded: &Sharded, cluster: &Cluster) -> Result<Vec<Schedule>, ScheduleError> {
    let graph = &sharded.graph;
    let mut actions: BTreeMap<usize, Vec<Action>> = BTreeMap::new();
    let mut push = |device: usize, action: Action| actions.entry(device).or_default().push(action);
    for (position, tensor) in graph.inputs.iter().enumerate() {
        push(cluster.input, Action::Input { tensor: *tensor, position });
    }
    let mut next_number = 0u32;
    for event in &sharded.events {
        match event {
            Event::Compute(node) => {
                if let Some(device) = sharded.devices.get(node) {
                    push(*device, Action::Compute(*node));
                }
            }
            Event::Leave(leave) => {
                for device in &leave.devices {
                    let answer = (*device == cluster.output).then_some(leave.answer);
                    push(*device, Action::Leave { exit: leave.exit, verdict: leave.verdict, answer });
                }
            }
            Event::Exchange(transfers) => {
                let mut messages: BTreeMap<usize, (Vec<Message>, Vec<Message>)> = BTreeMap::new();
                for Transfer { tensor, from, to } in transfers {
                    let number = next_number;
                    next_number = next_number.checked_add(1).ok_or(ScheduleError::TooManyMessages)?;
                    let tensor = *tensor;
                    messages.entry(*from).or_default().0.push(Message { tensor, peer: *to, number });
                    messages.entry(*to).or_default().1.push(Message { tensor, peer: *from, number });
                }
                for (device, (sends, receives)) in messages {
                    push(device, Action::Exchange { sends, receives });
                }
            }
        }
    }
    for (position, tensor) in graph.outputs.iter().enumerate() {
        push(cluster.output, Action::Output { tensor: *tensor, position });
    }
    let schedule = |(device, actions)| {
        let schedule = Schedule { device, actions };
        if sharded.overlaps { overlap::overlapped(schedule, graph, cluster) } else { schedule }
    };
    Ok(actions.into_iter().map(schedule).collect())
}

/// What happens in an inference that ends at an exit: each schedule up to its end there.
pub fn until_exit(schedules: &[Schedule], exit: usize) -> Vec<Schedule> {
    let cut = |schedule: &Schedule| {
        let leaves = |action: &Action| matches!(action, Action::Leave { exit: found, .. } if *found == exit);
        let end = schedule.actions.iter().position(leaves).map_or(schedule.actions.len(), |at| at + 1);
        Schedule { device: schedule.device, actions: schedule.actions[..end].to_vec() }
    };
    schedules.iter().map(cut).collect()
}
