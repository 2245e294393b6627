//! Independent proof of a set of schedules: replays all devices together.
//!
//! Every send has one receive of the same tensor; every operand is there when it is read; every node is computed once;
//! inputs and outputs are where the cluster wants them; and nothing deadlocks even if no message is buffered and every
//! device handles the messages of an exchange one after the other: a send waits until its receiver is at the matching
//! receive. Devices that handle them at the same time can only do more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Message, Schedule};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};

/// What is wrong with a set of schedules; always a bug of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schedules do not fit together: {0}")]
pub struct CheckError(pub String);

/// Checks the schedules of all devices.
pub fn check(graph: &Graph, schedules: &[Schedule], cluster: &Cluster) -> Result<(), CheckError> {
    let mut replay = Replay::new(graph, schedules, cluster);
    while replay.step()? {}
    replay.check_end()?;
    // An inference that ends early must end everywhere.
    for exit in 0..graph.exits().len() {
        let early = super::until_exit(schedules, exit);
        let mut replay = Replay::new(graph, &early, cluster);
        while replay.step()? {}
        replay.check_finished()?;
        let answers =
            |action: &Action| matches!(action, Action::Leave { exit: found, answer: Some(_), .. } if *found == exit);
        if !early.iter().any(|schedule| schedule.actions.last().is_some_and(answers)) {
            return Err(CheckError(format!("exit {exit} gives no answer")));
        }
    }
    Ok(())
}

struct Replay<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    schedules: &'a [Schedule],
    /// Schedule of each device that has one.
    positions: BTreeMap<usize, usize>,
    /// Per schedule: the action, and within an exchange the message.
    next: Vec<(usize, usize)>,
    /// Per schedule: the messages of the exchange it is in, by number, and whether each is sent.
    exchange: Vec<Vec<(Message, bool)>>,
    present: Vec<BTreeSet<TensorId>>,
    computed: BTreeSet<NodeId>,
    delivered: BTreeSet<usize>,
    messages: BTreeMap<u32, TensorId>,
}

impl<'a> Replay<'a> {
    fn new(graph: &'a Graph, schedules: &'a [Schedule], cluster: &'a Cluster) -> Replay<'a> {
        let mut replay = Replay {
            graph,
            cluster,
            schedules,
            positions: schedules.iter().enumerate().map(|(position, schedule)| (schedule.device, position)).collect(),
            next: vec![(0, 0); schedules.len()],
            exchange: vec![Vec::new(); schedules.len()],
            present: vec![BTreeSet::new(); schedules.len()],
            computed: BTreeSet::new(),
            delivered: BTreeSet::new(),
            messages: BTreeMap::new(),
        };
        (0..schedules.len()).for_each(|index| replay.enter(index));
        replay
    }

    /// Lists the messages of the exchange that a device has come to, if it is one. They go in the order of numbers.
    fn enter(&mut self, index: usize) {
        self.exchange[index].clear();
        if let Some(Action::Exchange { sends, receives }) = self.schedules[index].actions.get(self.next[index].0) {
            self.exchange[index].extend(sends.iter().map(|message| (*message, true)));
            self.exchange[index].extend(receives.iter().map(|message| (*message, false)));
            self.exchange[index].sort_by_key(|(message, _)| message.number);
        }
    }

    /// Goes on to a device's next action.
    fn advance(&mut self, index: usize) {
        self.next[index] = (self.next[index].0 + 1, 0);
        self.enter(index);
    }

    /// Advances some device by one action or message; false if none can move.
    fn step(&mut self) -> Result<bool, CheckError> {
        let mut moved = false;
        for index in 0..self.schedules.len() {
            while let Some(action) = self.schedules[index].actions.get(self.next[index].0) {
                match action {
                    Action::Exchange { .. } => match self.message(index) {
                        None => self.advance(index),
                        Some((message, true)) if self.try_message(index, message)? => self.next[index].1 += 1,
                        Some(_) => break,
                    },
                    _ => {
                        self.local(index, action)?;
                        self.advance(index);
                    }
                }
                moved = true;
            }
        }
        Ok(moved)
    }

    /// The message a device is at, and whether it sends it.
    fn message(&self, index: usize) -> Option<(Message, bool)> {
        self.exchange[index].get(self.next[index].1).copied()
    }

    /// A send happens together with its receive.
    fn try_message(&mut self, from: usize, message: Message) -> Result<bool, CheckError> {
        let Message { tensor, peer, number } = message;
        self.need(from, tensor)?;
        let sender = self.schedules[from].device;
        let Some(to) = self.positions.get(&peer).copied() else {
            return Err(CheckError(format!("message {number} goes to device {peer}, which has no schedule")));
        };
        if self.cluster.link(sender, peer).is_none() {
            return Err(CheckError(format!("message {number} needs a link between devices {sender} and {peer}")));
        }
        if self.message(to) != Some((Message { tensor, peer: sender, number }, false)) {
            return Ok(false);
        }
        if self.messages.insert(number, tensor).is_some() {
            return Err(CheckError(format!("message number {number} is used twice")));
        }
        self.present[to].insert(tensor);
        self.next[to].1 += 1;
        Ok(true)
    }

    fn local(&mut self, index: usize, action: &Action) -> Result<(), CheckError> {
        let device = self.schedules[index].device;
        match *action {
            Action::Input { tensor, position } => {
                if device != self.cluster.input || self.graph.inputs.get(position) != Some(&tensor) {
                    return Err(CheckError(format!("input {position} is fed on device {device}")));
                }
                self.present[index].insert(tensor);
            }
            Action::Compute(node) => {
                for input in &self.graph.node(node).inputs {
                    if self.graph.value(*input).is_none() {
                        self.need(index, *input)?;
                    }
                }
                if !self.computed.insert(node) {
                    return Err(CheckError(format!("node {} is computed twice", self.graph.node_label(node))));
                }
                self.present[index].extend(&self.graph.node(node).outputs);
            }
            Action::Leave { exit, verdict, answer } => {
                self.need(index, verdict)?;
                match answer {
                    Some(answer) if device == self.cluster.output => self.need(index, answer)?,
                    None if device != self.cluster.output => {}
                    _ => return Err(CheckError(format!("exit {exit} answers on the wrong device"))),
                }
            }
            Action::Output { tensor, position } => {
                self.need(index, tensor)?;
                if device != self.cluster.output || self.graph.outputs.get(position) != Some(&tensor) {
                    return Err(CheckError(format!("output {position} is returned on device {device}")));
                }
                self.delivered.insert(position);
            }
            Action::Exchange { .. } => {}
        }
        Ok(())
    }

    fn need(&self, index: usize, tensor: TensorId) -> Result<(), CheckError> {
        if self.present[index].contains(&tensor) || self.graph.value(tensor).is_some() {
            return Ok(());
        }
        let name = &self.graph.tensor(tensor).name;
        Err(CheckError(format!("device {} reads tensor `{name}` before it has it", self.schedules[index].device)))
    }

    fn check_finished(&self) -> Result<(), CheckError> {
        for (index, schedule) in self.schedules.iter().enumerate() {
            if let Some(action) = schedule.actions.get(self.next[index].0) {
                return Err(CheckError(format!("device {} waits for ever at {action:?}", schedule.device)));
            }
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), CheckError> {
        self.check_finished()?;
        if let Some(node) = self.graph.node_ids().find(|node| !self.computed.contains(node)) {
            return Err(CheckError(format!("node {} is computed nowhere", self.graph.node_label(node))));
        }
        if self.delivered.len() != self.graph.outputs.len() {
            return Err(CheckError("an output is not returned".to_string()));
        }
        Ok(())
    }
}
