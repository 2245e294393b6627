//! Independent proof of a set of schedules: replays all devices together.
//!
//! Every send has one receive of the same tensor; every operand is there when it is read; every node is computed once;
//! inputs and outputs are where the cluster wants them; and nothing deadlocks even if no message is buffered and every
//! device handles the messages of an exchange one after the other: a send waits until its receiver is at the matching
//! receive. Devices that handle them at the same time can only do more. What both ends have started passes while they do
//! something else; the exchange that has it again waits for it, and nobody reads what comes before that.

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
    /// Per schedule: the messages of the exchange it is in that it has not started, by number, and whether each is sent.
    exchange: Vec<Vec<(Message, bool)>>,
    /// Per schedule: what it has started and not waited for yet, by number and whether it is sent.
    started: Vec<BTreeMap<(u32, bool), Message>>,
    /// Per schedule, peer and direction: the number of the last message that it has started or handled.
    last: BTreeMap<(usize, usize, bool), u32>,
    present: Vec<BTreeSet<TensorId>>,
    computed: BTreeSet<NodeId>,
    delivered: BTreeSet<usize>,
    /// Messages that have passed, with their ends; and which ends know of it.
    messages: BTreeMap<u32, (TensorId, usize, usize)>,
    ends: BTreeSet<(u32, bool)>,
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
            started: vec![BTreeMap::new(); schedules.len()],
            last: BTreeMap::new(),
            present: vec![BTreeSet::new(); schedules.len()],
            computed: BTreeSet::new(),
            delivered: BTreeSet::new(),
            messages: BTreeMap::new(),
            ends: BTreeSet::new(),
        };
        (0..schedules.len()).for_each(|index| replay.enter(index));
        replay
    }

    /// Lists the messages of the exchange that a device has come to, if it is one. They go in the order of numbers.
    fn enter(&mut self, index: usize) {
        self.exchange[index].clear();
        if let Some(Action::Exchange { sends, receives }) = self.schedules[index].actions.get(self.next[index].0) {
            let started = &self.started[index];
            let all = sends.iter().map(|message| (*message, true)).chain(receives.iter().map(|it| (*it, false)));
            let own = all.filter(|(message, leaves)| !started.contains_key(&(message.number, *leaves)));
            self.exchange[index].extend(own);
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
                    Action::Exchange { sends, receives } => match self.message(index) {
                        None if self.has_passed(sends) && self.has_passed(receives) => {
                            self.wait(index, sends, receives)?;
                            self.advance(index);
                        }
                        // Whatever the other end does, it finds what this device has to say of it.
                        Some((message, leaves)) if self.try_message(index, message, leaves)? => {
                            self.in_order(index, message, leaves)?;
                            self.next[index].1 += 1;
                        }
                        None | Some(_) => break,
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

    /// Whether all of these have gone from one end to the other.
    fn has_passed(&self, messages: &[Message]) -> bool {
        messages.iter().all(|message| self.messages.contains_key(&message.number))
    }

    /// What was started has passed: it is there from now on.
    fn wait(&mut self, index: usize, sends: &[Message], receives: &[Message]) -> Result<(), CheckError> {
        for (messages, leaves) in [(sends, true), (receives, false)] {
            for message in messages {
                let started = self.started[index].remove(&(message.number, leaves));
                if started.is_some_and(|started| started != *message) {
                    return Err(CheckError(format!("message {} was started as another", message.number)));
                }
                if leaves {
                    self.need(index, message.tensor)?;
                } else {
                    self.present[index].insert(message.tensor);
                }
            }
        }
        Ok(())
    }

    /// Messages between two devices go in the order of their numbers.
    fn in_order(&mut self, index: usize, message: Message, leaves: bool) -> Result<(), CheckError> {
        let before = self.last.insert((index, message.peer, leaves), message.number);
        match before.filter(|before| *before >= message.number) {
            None => Ok(()),
            Some(before) => Err(CheckError(format!("message {} comes behind message {before}", message.number))),
        }
    }

    /// Whether a device offers a message, or takes it: it has started it, or is at it.
    fn has_come_to(&self, index: usize, message: Message, leaves: bool) -> bool {
        let started = self.started[index].get(&(message.number, leaves));
        started == Some(&message) || self.message(index) == Some((message, leaves))
    }

    /// Lets a message pass that a device has come to, if it has not passed yet and the other end has come to it, too. Whether
    /// it has passed.
    fn try_message(&mut self, index: usize, message: Message, leaves: bool) -> Result<bool, CheckError> {
        let Message { tensor, peer, number } = message;
        if leaves {
            self.need(index, tensor)?;
        }
        let device = self.schedules[index].device;
        let Some(other) = self.positions.get(&peer).copied() else {
            return Err(CheckError(format!("message {number} goes to device {peer}, which has no schedule")));
        };
        if self.cluster.link(device, peer).is_none() {
            return Err(CheckError(format!("message {number} needs a link between devices {device} and {peer}")));
        }
        let (from, to) = if leaves { (device, peer) } else { (peer, device) };
        if let Some(passed) = self.messages.get(&number) {
            // Once at each end.
            let same = *passed == (tensor, from, to) && self.ends.insert((number, leaves));
            return if same { Ok(true) } else { Err(CheckError(format!("message number {number} is used twice"))) };
        }
        if !self.has_come_to(other, Message { tensor, peer: device, number }, !leaves) {
            return Ok(false);
        }
        self.messages.insert(number, (tensor, from, to));
        self.ends.insert((number, leaves));
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
            Action::Start { ref sends, ref receives } => {
                let all = sends.iter().map(|message| (message, true)).chain(receives.iter().map(|it| (it, false)));
                for (message, leaves) in all {
                    self.in_order(index, *message, leaves)?;
                    self.started[index].insert((message.number, leaves), *message);
                    self.try_message(index, *message, leaves)?;
                }
            }
            Action::Leave { exit, verdict, answer } => {
                self.need(index, verdict)?;
                self.nothing_under_way(index)?;
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

    fn nothing_under_way(&self, index: usize) -> Result<(), CheckError> {
        match self.started[index].keys().next() {
            None => Ok(()),
            Some((number, _)) => Err(CheckError(format!("nobody waits for message {number}, which was started"))),
        }
    }

    fn check_finished(&self) -> Result<(), CheckError> {
        for (index, schedule) in self.schedules.iter().enumerate() {
            if let Some(action) = schedule.actions.get(self.next[index].0) {
                return Err(CheckError(format!("device {} waits for ever at {action:?}", schedule.device)));
            }
            self.nothing_under_way(index)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use partita_config::cluster_file;

    const GRAPH: &str = "input %0 \"x\": f32[2]\n%1 \"y\": f32[2] = \"n\"(%0) Unary(Neg)\n%2 \"z\": f32[2] = \"m\"(%1) Unary(Neg)\noutput %2\n";

    /// What is said of schedules on two boards, `a` with the input and the output.
    fn checked(text: &str) -> Result<(), String> {
        let graph = partita_ir::graph::text::parse(GRAPH).expect("the text is a graph");
        let cluster = "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\ntarget = \"host\"\n\
                       [[device]]\nname = \"b\"\ntarget = \"host\"\n[[link]]\nbetween = [\"a\", \"b\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n";
        let cluster = cluster_file::parse(cluster, "cluster.toml", std::path::Path::new(".")).expect("it is sound");
        let schedules = super::super::text::parse(text, &graph, &cluster).unwrap_or_else(|error| panic!("{error}"));
        check(&graph, &schedules, &cluster).map_err(|error| error.to_string())
    }

    const SOUND: &str = "device a
  input 0 %0 \"x\"
  compute %1 \"n\"
  start
    send %1 \"y\" to b message 0
  start
    receive %2 \"z\" from b message 1
  exchange
    send %1 \"y\" to b message 0
    receive %2 \"z\" from b message 1
  output 0 %2 \"z\"
device b
  exchange
    receive %1 \"y\" from a message 0
  compute %2 \"m\"
  exchange
    send %2 \"z\" to a message 1
";

    #[test]
    fn what_is_started_is_waited_for() {
        assert_eq!(checked(SOUND), Ok(()));
        for (old, new, message) in [
            // It waits for what comes, not for what leaves.
            (
                "  exchange\n    send %1 \"y\" to b message 0\n    receive",
                "  exchange\n    receive",
                "nobody waits for message 0",
            ),
            // Started before it is made.
            (
                "  compute %1 \"n\"\n  start\n    send %1 \"y\" to b message 0\n",
                "  start\n    send %1 \"y\" to b message 0\n  compute %1 \"n\"\n",
                "device 0 reads tensor `y` before it has it",
            ),
            // Read while it may still be on its way.
            (
                "  exchange\n    send %1 \"y\" to b message 0\n    receive %2 \"z\" from b message 1\n  output 0 %2 \"z\"\n",
                "  output 0 %2 \"z\"\n  exchange\n    send %1 \"y\" to b message 0\n    receive %2 \"z\" from b message 1\n",
                "device 0 reads tensor `z` before it has it",
            ),
            // Another tensor comes than leaves.
            ("    receive %2 \"z\" from b", "    receive %1 \"y\" from b", "waits for ever"),
            // The other end never comes to it.
            ("  exchange\n    send %2 \"z\" to a message 1\n", "", "waits for ever"),
        ] {
            assert!(SOUND.contains(old), "{old}");
            let text = if message == "waits for ever" { SOUND.replace(old, new) } else { SOUND.replacen(old, new, 1) };
            let found = checked(&text).expect_err(new);
            assert!(found.contains(message), "{found} is not {message}:\n{text}");
        }
    }

    #[test]
    fn messages_between_two_devices_keep_their_order() {
        let text = SOUND.replace("message 0", "message 2");
        assert_eq!(checked(&text), Ok(()), "numbers count for each direction by itself");
        let twice = "device a
  input 0 %0 \"x\"
  start
    send %0 \"x\" to b message 1
  exchange
    send %0 \"x\" to b message 0
    send %0 \"x\" to b message 1
device b
  exchange
    receive %0 \"x\" from a message 0
    receive %0 \"x\" from a message 1
";
        let found = checked(twice).expect_err("message 0 leaves behind message 1");
        assert!(found.contains("message 0 comes behind message 1"), "{found}");
    }
}
