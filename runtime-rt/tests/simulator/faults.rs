//! Faults: what can break, and what has to be noticed.

use super::events::Event;
use super::world::{PEERS, World};

/// What is broken.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The process is killed and started again after the fault's time; connections are closed or, as when power goes, not.
    Kill { device: usize, power: bool },
    /// The process does not run.
    Pause(usize),
    /// Nothing comes from an end of a wire to the other, or in both directions.
    Cut { wire: usize, from: Option<usize> },
    /// A connection is closed by somebody between.
    Reset(usize),
    /// Most frames are lost or damaged for a while.
    Storm(usize),
    /// A wire is slow.
    Slow(usize, f64),
    /// A device reads late.
    SlowReader(usize),
    /// A clock jumps forward.
    Jump(usize, u64),
    /// A step computes for ever, until the fault ends.
    Hang(usize),
    /// Somebody sends what came over a wire before once more, into a line or as datagrams.
    Replay(usize),
    /// Somebody sends any bytes.
    Noise(usize, u64),
}

impl World<'_> {
    pub(super) fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { device, power } => {
                self.count(*device);
                if self.machines[*device].node.take().is_none() {
                    return;
                }
                let machine = &mut self.machines[*device];
                machine.working = None;
                machine.life += 1;
                let mut waiting = Vec::new();
                for event in std::mem::take(&mut machine.inbox) {
                    if let Event::Arrive { wire, bytes, .. } = event {
                        let from = self.other(wire, *device);
                        let pipe = self.pipe(wire, from);
                        pipe.inflight = pipe.inflight.saturating_sub(bytes.len());
                        waiting.push(from);
                    }
                }
                if *device == self.cluster.input {
                    self.summary.disconnected += self.asked.len() as u64;
                    self.past.extend(std::mem::take(&mut self.asked).into_values());
                }
                for wire in self.wires_of(*device) {
                    if !power {
                        self.close(wire, *device, true);
                    }
                }
                // What nobody will read takes no room any more: who waited for it can send.
                waiting.sort_unstable();
                waiting.dedup();
                waiting.into_iter().for_each(|from| self.go(from));
            }
            Fault::Pause(device) => self.machines[*device].paused += 1,
            Fault::Cut { wire, from } => {
                let ends = self.cluster.wires[*wire].ends;
                for end in [ends.0, ends.1] {
                    self.pipe(*wire, end).cut += u32::from(from.is_none_or(|from| from == end));
                }
            }
            Fault::Reset(wire) => {
                if let Some(connection) = self.connections[*wire].take() {
                    for side in &mut self.pipes[*wire] {
                        (side.inflight, side.held) = (0, Vec::new());
                    }
                    let (a, b) = self.cluster.wires[*wire].ends;
                    for device in [a, b] {
                        self.at(
                            self.now + self.random.clone().below(500),
                            Event::Closed { wire: *wire, device, connection },
                        );
                    }
                }
            }
            Fault::Storm(wire) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.storm = true),
            Fault::Slow(wire, factor) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.slow = *factor),
            Fault::SlowReader(device) => self.machines[*device].reads_late = 5_000,
            Fault::Hang(device) => self.machines[*device].hangs = true,
            Fault::Replay(wire) => self.replay(*wire),
            Fault::Noise(wire, count) => self.noise(*wire, *count),
            Fault::Jump(device, by) => {
                let machine = &mut self.machines[*device];
                machine.clock.offset_us += by;
                machine.deaf_since = [None; PEERS];
                self.go(*device);
            }
        }
    }

    pub(super) fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { device, power } => {
                if self.machines[*device].node.is_some() {
                    return;
                }
                for wire in self.wires_of(*device) {
                    if *power {
                        // The peers' systems learn of it when they send to the new one.
                        self.close(wire, *device, true);
                    }
                }
                self.start(*device);
            }
            Fault::Pause(device) => {
                let machine = &mut self.machines[*device];
                machine.paused -= 1;
                machine.deaf_since = [None; PEERS];
                if machine.paused == 0 {
                    machine.wake_at = u64::MAX;
                    let events: Vec<Event> = machine.inbox.drain(..).collect();
                    for event in events {
                        self.at(self.now, event);
                    }
                    let device = *device;
                    self.go(device);
                }
            }
            Fault::Cut { wire, from } => {
                let ends = self.cluster.wires[*wire].ends;
                for end in [ends.0, ends.1] {
                    let to = self.other(*wire, end);
                    let now = self.now;
                    let pipe = self.pipe(*wire, end);
                    pipe.cut -= u32::from(from.is_none_or(|from| from == end));
                    if pipe.cut == 0 {
                        let held = std::mem::take(&mut pipe.held);
                        pipe.last_arrival = pipe.last_arrival.max(now);
                        for (connection, bytes) in held {
                            self.at(now, Event::Arrive { wire: *wire, to, connection, bytes });
                        }
                    }
                }
            }
            Fault::Hang(device) => {
                let machine = &mut self.machines[*device];
                machine.hangs = false;
                if let Some(event) = machine.hung.take() {
                    self.at(self.now, event);
                }
            }
            Fault::Reset(_) | Fault::Jump(..) | Fault::Replay(_) | Fault::Noise(..) => {}
            Fault::Storm(wire) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.storm = false),
            Fault::Slow(wire, _) => self.pipes[*wire].iter_mut().for_each(|pipe| pipe.slow = 1.0),
            Fault::SlowReader(device) => self.machines[*device].reads_late = 0,
        }
    }
}
