//! Event-driven simulation of the schedules on the cluster's devices and links: what will happen, in microseconds.
//!
//! Every device goes through its actions as the emitted program does: it computes, or it is inside one exchange until
//! all of its messages have left (or its operating system has them) and come. Messages share ports, buses and wires
//! (`flows`). The same schedules are executed, so what the simulator knows of compute and communication is exactly what
//! overlaps: within one device what it has started and what its operating system sends, everything between devices.

mod flows;
pub mod outcomes;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};

pub use timeline::trace_json;

use crate::partition::cost;
use crate::partition::encodings::{conversion_seconds, is_encoded};
use crate::schedule::{Action, Message, Schedule, started_sends};
use crate::shard::Sharded;
use flows::Flows;
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};

/// Inferences that are simulated back to back for the throughput.
const STREAM: u32 = 6;

/// Most messages of an exchange that set out one after the other.
const APART: usize = 6;

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Index of the device.
    pub device: usize,
    /// What it was.
    pub name: String,
    /// The node of the graph of shards that was computed; none for exchanges.
    pub node: Option<NodeId>,
    /// Begin, in seconds.
    pub begin: f64,
    /// End, in seconds.
    pub end: f64,
}

/// What one device will do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DevicePrediction {
    /// Computing, per inference.
    pub compute_ms: f64,
    /// Energy of computing, per inference.
    pub compute_mj: f64,
    /// In exchanges, waiting included, per inference.
    pub link_ms: f64,
}

/// What will happen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Time of one inference by itself.
    pub latency_ms: f64,
    /// Answers per second when inputs come back to back.
    pub throughput_hz: f64,
    /// Bytes over all links, per inference.
    pub traffic_bytes: u64,
    /// Energy of one inference: computation and links.
    pub energy_mj: f64,
    /// By device of the cluster.
    pub devices: Vec<DevicePrediction>,
    /// Bytes from one device to another, per inference.
    pub links: BTreeMap<(usize, usize), u64>,
    /// What took time in one inference.
    pub spans: Vec<Span>,
}

/// Simulates one inference by itself, and a stream of them.
pub fn simulate(sharded: &Sharded, schedules: &[Schedule], cluster: &Cluster) -> Prediction {
    let durations = durations(sharded, schedules, cluster);
    let mut prediction = simulate_one(sharded, schedules, cluster, &durations);
    let stream = Replay::new(&sharded.graph, schedules, cluster, &durations, STREAM).run();
    prediction.throughput_hz = match (stream.first(), stream.last()) {
        (Some(first), Some(last)) if last > first => (stream.len() - 1) as f64 / (last - first),
        _ => 1e3 / prediction.latency_ms.max(1e-9),
    };
    prediction
}

/// Simulates one inference by itself: for who does not ask for the throughput, which is left 0.
pub fn simulate_alone(sharded: &Sharded, schedules: &[Schedule], cluster: &Cluster) -> Prediction {
    simulate_one(sharded, schedules, cluster, &durations(sharded, schedules, cluster))
}

/// What an action takes a device.
#[derive(Clone, Copy, Debug, Default)]
struct Duration {
    /// Seconds of computing; of an exchange, of what is converted before it leaves.
    begin: f64,
    /// Of an exchange: seconds of what is converted when it has come.
    end: f64,
}

/// What every action takes, by schedule.
fn durations(sharded: &Sharded, schedules: &[Schedule], cluster: &Cluster) -> Vec<Vec<Duration>> {
    schedules
        .iter()
        .map(|schedule| {
            let device = &cluster.devices[schedule.device];
            let started = started_sends(&schedule.actions);
            let duration = |action: &Action| match action {
                Action::Compute(node) => Duration { begin: sharded.node_seconds(*node, device), end: 0.0 },
                Action::Start { sends, .. } | Action::Exchange { sends, .. } => {
                    let receives = match action {
                        Action::Exchange { receives, .. } => &receives[..],
                        _ => &[],
                    };
                    let starts = |message: &&Message| {
                        matches!(action, Action::Start { .. }) || !started.contains(&message.number)
                    };
                    let own = |tensor: &TensorId| {
                        let maker = sharded.graph.tensor(*tensor).producer;
                        maker.is_some_and(|node| sharded.devices.get(&node) == Some(&schedule.device))
                    };
                    // What is sent to several is converted once; what is only passed on, not at all.
                    let sends = sends.iter().filter(starts).map(|message| message.tensor);
                    let sent: BTreeSet<TensorId> = sends.filter(own).collect();
                    let reads_here = |tensor: &TensorId| {
                        let readers = sharded.graph.consumers(*tensor);
                        readers.iter().any(|node| sharded.devices.get(node) == Some(&schedule.device))
                    };
                    let come = receives.iter().map(|message| message.tensor).filter(reads_here);
                    let seconds = |tensor: TensorId| match is_encoded(&sharded.graph, tensor) {
                        true => conversion_seconds(device, sharded.graph.tensor_type(tensor).element_count() as u64),
                        false => 0.0,
                    };
                    Duration { begin: sent.into_iter().map(seconds).sum(), end: come.map(seconds).sum() }
                }
                Action::Input { .. } | Action::Leave { .. } | Action::Output { .. } => Duration::default(),
            };
            schedule.actions.iter().map(duration).collect()
        })
        .collect()
}

fn simulate_one(
    sharded: &Sharded,
    schedules: &[Schedule],
    cluster: &Cluster,
    durations: &[Vec<Duration>],
) -> Prediction {
    let graph = &sharded.graph;
    let mut one = Replay::new(graph, schedules, cluster, durations, 1);
    let done = one.run();
    let mut prediction = Prediction {
        latency_ms: done.first().copied().unwrap_or(0.0) * 1e3,
        devices: vec![DevicePrediction::default(); cluster.devices.len()],
        ..Prediction::default()
    };
    for span in &one.spans {
        let device = &mut prediction.devices[span.device];
        *(if span.node.is_none() { &mut device.link_ms } else { &mut device.compute_ms }) +=
            (span.end - span.begin) * 1e3;
    }
    prediction.spans = std::mem::take(&mut one.spans);
    for schedule in schedules {
        let device = &cluster.devices[schedule.device];
        for action in &schedule.actions {
            match action {
                Action::Compute(node) => {
                    let joules = cost::joules(&cost::node_work(graph, *node), device);
                    prediction.devices[schedule.device].compute_mj += joules * 1e3;
                }
                Action::Exchange { sends, .. } => {
                    for send in sends {
                        let bytes = graph.stored_bytes(send.tensor) as u64;
                        *prediction.links.entry((schedule.device, send.peer)).or_default() += bytes;
                        prediction.energy_mj +=
                            cost::transfer_joules(&device.target, &cluster.devices[send.peer].target, bytes) * 1e3;
                    }
                }
                Action::Input { .. } | Action::Start { .. } | Action::Leave { .. } | Action::Output { .. } => {}
            }
        }
    }
    prediction.energy_mj += prediction.devices.iter().map(|device| device.compute_mj).sum::<f64>();
    prediction.traffic_bytes = prediction.links.values().sum();
    prediction
}

/// Where a device is.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Busy, or about to take its next action, at this time.
    Until(f64),
    /// In an exchange since this time.
    Exchange(f64),
    Done,
}

struct Replay<'a> {
    graph: &'a Graph,
    schedules: &'a [Schedule],
    cluster: &'a Cluster,
    durations: &'a [Vec<Duration>],
    /// Per schedule: numbers of the messages that it starts.
    started: Vec<BTreeSet<u32>>,
    inferences: u32,
    /// Per schedule: inference and action.
    next: Vec<(u32, usize)>,
    states: Vec<State>,
    flows: Flows<'a>,
    /// When each message, by inference and number, has arrived.
    arrived: BTreeMap<(u32, u32), f64>,
    spans: Vec<Span>,
    /// When each inference's answer was there.
    done: Vec<f64>,
}

impl<'a> Replay<'a> {
    fn new(
        graph: &'a Graph,
        schedules: &'a [Schedule],
        cluster: &'a Cluster,
        durations: &'a [Vec<Duration>],
        inferences: u32,
    ) -> Replay<'a> {
        Replay {
            graph,
            schedules,
            cluster,
            durations,
            started: schedules.iter().map(|schedule| started_sends(&schedule.actions)).collect(),
            inferences,
            next: vec![(0, 0); schedules.len()],
            states: vec![State::Until(0.0); schedules.len()],
            flows: Flows::new(cluster),
            arrived: BTreeMap::new(),
            spans: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Runs to the end; when each inference was answered.
    fn run(&mut self) -> Vec<f64> {
        let mut now = 0.0;
        loop {
            // Everybody who can act at this time does.
            let mut acted = true;
            while acted {
                acted = false;
                for index in 0..self.schedules.len() {
                    acted |= match self.states[index] {
                        State::Until(time) if time <= now => self.act(index, now),
                        State::Exchange(since) => self.try_leave(index, since, now),
                        State::Until(_) | State::Done => false,
                    };
                }
            }
            let ready = self.states.iter().filter_map(|state| match state {
                State::Until(time) => Some(*time),
                State::Exchange(_) | State::Done => None,
            });
            let arriving = self.arrived.values().copied().filter(|time| *time > now);
            let next = ready.chain(arriving).chain(self.flows.next_end(now)).fold(f64::INFINITY, f64::min);
            if next.is_infinite() {
                return std::mem::take(&mut self.done);
            }
            now = next.max(now);
            for (key, latency) in self.flows.advance(now) {
                self.arrived.insert(key, now + latency);
            }
        }
    }

    /// Takes the next action; false at the end.
    fn act(&mut self, index: usize, now: f64) -> bool {
        let schedule = &self.schedules[index];
        let (inference, position) = self.next[index];
        let Some(action) = schedule.actions.get(position) else {
            self.next[index] = (inference + 1, 0);
            self.states[index] = if inference + 1 < self.inferences { State::Until(now) } else { State::Done };
            return true;
        };
        match action {
            Action::Input { .. } | Action::Leave { .. } | Action::Output { .. } => {
                let last = position + 1 == schedule.actions.len();
                if matches!(action, Action::Output { position: 0, .. })
                    || last && matches!(action, Action::Leave { answer: Some(_), .. })
                {
                    self.done.push(now);
                }
                self.next[index].1 += 1;
            }
            Action::Compute(node) => {
                let end = now + self.durations[index][position].begin;
                self.states[index] = State::Until(end);
                self.next[index].1 += 1;
                let name = self.graph.node(*node).name.clone();
                self.spans.push(Span { device: schedule.device, name, node: Some(*node), begin: now, end });
            }
            Action::Start { sends, .. } => {
                let end = self.set_out(index, inference, position, sends, now);
                self.states[index] = State::Until(end);
                self.next[index].1 += 1;
            }
            Action::Exchange { sends, .. } => {
                let own: Vec<Message> = self.not_started(index, sends).copied().collect();
                self.set_out(index, inference, position, &own, now);
                self.states[index] = State::Exchange(now);
            }
        }
        true
    }

    /// Those of an exchange's messages that were not started before it.
    fn not_started<'m>(&'m self, index: usize, sends: &'m [Message]) -> impl Iterator<Item = &'m Message> {
        sends.iter().filter(move |message| !self.started[index].contains(&message.number))
    }

    /// Messages set out, one after the other; when the device has handed over the last.
    fn set_out(&mut self, index: usize, inference: u32, position: usize, sends: &[Message], now: f64) -> f64 {
        let device = self.schedules[index].device;
        let cost = self.message_seconds(device);
        // Many set out together, at the end: there would be as many moments to look at otherwise.
        let together = sends.len() > APART;
        let ready = now + self.durations[index][position].begin;
        let end = ready + cost * sends.len() as f64;
        let mut begin = if together { end } else { ready };
        for Message { tensor, peer, number } in sends {
            let bytes = self.graph.stored_bytes(*tensor) as u64;
            begin += if together { 0.0 } else { cost };
            self.flows.start((inference, *number), device, *peer, bytes, begin);
        }
        end
    }

    /// Leaves an exchange when everything has left and come.
    fn try_leave(&mut self, index: usize, since: f64, now: f64) -> bool {
        let schedule = &self.schedules[index];
        let (inference, position) = self.next[index];
        let Some(Action::Exchange { sends, receives }) = schedule.actions.get(position) else { return false };
        let left = sends.iter().all(|message| !self.flows.holds_back((inference, message.number)));
        let come = receives
            .iter()
            .all(|message| self.arrived.get(&(inference, message.number)).is_some_and(|time| *time <= now));
        if !(left && come) {
            return false;
        }
        let arrivals = receives.iter().filter_map(|message| self.arrived.remove(&(inference, message.number)));
        let mut arrivals: Vec<f64> = arrivals.collect();
        arrivals.sort_unstable_by(f64::total_cmp);
        // What has come is taken one by one, after what was sent.
        let cost = self.message_seconds(schedule.device);
        let Duration { begin, end: after } = self.durations[index][position];
        let sent = since + begin + cost * self.not_started(index, sends).count() as f64;
        let taken = arrivals.into_iter().fold(sent, |busy, arrival| busy.max(arrival) + cost).max(now);
        let end = taken + after;
        self.next[index].1 += 1;
        self.states[index] = State::Until(end);
        let name = format!("exchange: {} out, {} in", sends.len(), receives.len());
        self.spans.push(Span { device: schedule.device, name, node: None, begin: since, end });
        true
    }

    /// Processor time of a device for each message that it sends or receives.
    fn message_seconds(&self, device: usize) -> f64 {
        self.cluster.devices[device].message_microseconds() * 1e-6
    }
}

#[cfg(test)]
mod tests;
