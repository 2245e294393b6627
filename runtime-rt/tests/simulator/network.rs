//! Wires: how bytes travel, and what becomes of them on the way.

use partita_rt::node::Medium;

use super::events::Event;
use super::world::World;

/// What somebody else sends arrives within this.
const INJECTED_WITHIN_US: u64 = 1000;

/// What wires do all the time, in parts of a million per frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub twice: u64,
    pub flipped: u64,
    pub cut_short: u64,
}

/// One direction of a wire.
#[derive(Clone, Debug, Default)]
pub struct Pipe {
    pub free_at: u64,
    pub last_arrival: u64,
    pub inflight: usize,
    pub cut: u32,
    pub storm: bool,
    pub slow: f64,
    /// What waits for a cut connection to be whole again.
    pub held: Vec<(u32, Vec<u8>)>,
}

macro_rules! note {
    ($world:expr, $($argument:tt)*) => {
        if $world.trace.is_some() {
            $world.tell(format!($($argument)*));
        }
    };
}
pub(super) use note;

impl World<'_> {
    pub(super) fn send(&mut self, device: usize, link: usize, wire: usize) -> bool {
        let to = self.other(wire, device);
        let (medium, rate, latency, jitter) = {
            let wire = &self.cluster.wires[wire];
            (wire.medium, wire.bytes_per_second, wire.latency_us, wire.jitter_us)
        };
        let now = self.now;
        let side = usize::from(self.cluster.wires[wire].ends.1 == device);
        let pipe = &mut self.pipes[wire][side];
        let capacity = match medium {
            Medium::Connection => 20_000,
            Medium::Line => 600,
            Medium::Datagrams => 60_000,
        };
        let connection = self.connections[wire].unwrap_or(0);
        if (medium == Medium::Connection && connection == 0) || pipe.inflight >= capacity {
            return false;
        }
        let machine = &mut self.machines[device];
        let Some(node) = machine.node.as_mut() else { return false };
        let Some(pieces) = node.poll_send(link, machine.memory.as_slice(), &mut machine.rooms[link]) else {
            return false;
        };
        let mut bytes = pieces.concat();
        if medium != Medium::Datagrams {
            bytes.truncate(capacity - pipe.inflight);
        }
        node.on_sent(link, bytes.len());
        pipe.inflight += bytes.len();
        let took = (bytes.len() as f64 * 1e6 / (rate * pipe.slow)) as u64;
        pipe.free_at = pipe.free_at.max(now) + took;
        let jitter = if medium == Medium::Datagrams { self.random.below(1 + jitter) } else { 0 };
        let arrival =
            (pipe.free_at + latency + jitter).max(if medium == Medium::Datagrams { 0 } else { pipe.last_arrival });
        pipe.last_arrival = arrival.max(pipe.last_arrival);
        self.at(arrival, Event::Arrive { wire, to, connection, bytes });
        true
    }

    /// Somebody sends what was heard before.
    pub(super) fn replay(&mut self, wire: usize) {
        let heard: Vec<(usize, Vec<u8>)> = self.heard[wire].iter().cloned().collect();
        for (to, bytes) in heard {
            let (from, latest) = (self.other(wire, to), self.now + INJECTED_WITHIN_US);
            self.inject(wire, to, bytes);
            // On a line, what was swallowed behind something damaged is new when it comes again.
            if self.cluster.wires[wire].medium == Medium::Line {
                let pipe = self.pipe(wire, from);
                pipe.last_arrival = pipe.last_arrival.max(latest);
            }
        }
    }

    /// Somebody sends any bytes.
    pub(super) fn noise(&mut self, wire: usize, count: u64) {
        let ends = self.cluster.wires[wire].ends;
        for _ in 0..count {
            let bytes = (0..self.random.below(200)).map(|_| self.random.next() as u8).collect();
            let to = if self.random.below(2) == 0 { ends.0 } else { ends.1 };
            self.inject(wire, to, bytes);
        }
    }

    /// Bytes that no end has sent; nobody gets into a connection.
    fn inject(&mut self, wire: usize, to: usize, bytes: Vec<u8>) {
        if self.cluster.wires[wire].medium != Medium::Connection {
            let from = self.other(wire, to);
            self.pipe(wire, from).inflight += bytes.len();
            let at = self.now + self.random.below(INJECTED_WITHIN_US);
            self.at(at, Event::Arrive { wire, to, connection: 0, bytes });
        }
    }

    pub(super) fn chance(&mut self, parts: u64) -> bool {
        parts > 0 && self.random.below(1_000_000) < parts
    }

    pub(super) fn arrive(&mut self, wire: usize, to: usize, connection: u32, mut bytes: Vec<u8>) {
        let from = self.other(wire, to);
        let medium = self.cluster.wires[wire].medium;
        let late = self.machines[to].reads_late;
        if late > 0 && self.chance(500_000) {
            // Nothing is read for a while, and what is behind it waits too: order is kept by the pipe.
            let arrival = (self.now + late).max(self.pipe(wire, from).last_arrival);
            self.pipe(wire, from).last_arrival = arrival;
            if medium == Medium::Datagrams {
                self.at(arrival, Event::Arrive { wire, to, connection, bytes });
                return;
            }
        }
        let pipe = self.pipe(wire, from);
        if pipe.cut > 0 && medium == Medium::Connection {
            pipe.held.push((connection, bytes));
            return;
        }
        let (cut, storm) = (pipe.cut > 0, pipe.storm);
        pipe.inflight = pipe.inflight.saturating_sub(bytes.len());
        if medium == Medium::Connection && self.connections[wire] != Some(connection) {
            return;
        }
        if cut {
            self.go(from);
            return;
        }
        let weather = self.weather;
        let lost = if storm { 500_000 } else { weather.lost };
        match medium {
            Medium::Datagrams => {
                if self.chance(lost) {
                    self.go(from);
                    return;
                }
                if self.chance(weather.twice) {
                    let later = self.now + self.random.below(20_000);
                    self.pipe(wire, from).inflight += bytes.len();
                    self.at(later, Event::Arrive { wire, to, connection, bytes: bytes.clone() });
                }
                if self.chance(weather.cut_short) {
                    bytes.truncate(self.random.below(bytes.len() as u64) as usize);
                }
            }
            Medium::Line => {
                if self.chance(lost / 4) && !bytes.is_empty() {
                    let at = self.random.below(bytes.len() as u64) as usize;
                    let count = 1 + self.random.below(20) as usize;
                    bytes.drain(at..(at + count).min(bytes.len()));
                }
            }
            Medium::Connection => {}
        }
        if self.chance(if storm && medium != Medium::Connection { 200_000 } else { weather.flipped })
            && !bytes.is_empty()
        {
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        let heard = &mut self.heard[wire];
        heard.push_back((to, bytes.clone()));
        if heard.len() > 40 {
            heard.pop_front();
        }
        let link = self.link_of(wire, to);
        self.tick(to);
        // Streams come in pieces of any length.
        let whole = medium == Medium::Datagrams || !self.chance(200_000);
        let split = if whole { bytes.len() } else { self.random.below(1 + bytes.len() as u64) as usize };
        let (first, second) = bytes.split_at_mut(split);
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            let machine = &mut self.machines[to];
            if let Some(node) = machine.node.as_mut() {
                node.on_bytes(link, piece, machine.memory.as_mut_slice());
            }
            self.go(to);
        }
        self.go(from);
    }

    pub(super) fn connect(&mut self, wire: usize, device: usize) {
        let peer = self.other(wire, device);
        let latency = self.cluster.wires[wire].latency_us;
        let reachable = self.pipe(wire, device).cut == 0 && self.pipe(wire, peer).cut == 0;
        note!(self, "{device} connects to {peer} over wire {wire}, reachable: {reachable}");
        if !reachable {
            return;
        }
        if self.machines[peer].node.is_none() {
            let connection = self.next_connection;
            self.at(self.now + 2 * latency, Event::Closed { wire, device, connection });
            return;
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        self.connections[wire] = Some(connection);
        for side in &mut self.pipes[wire] {
            (side.inflight, side.held) = (0, Vec::new());
        }
        self.at(self.now + latency, Event::Connected { wire, device: peer, connection });
        self.at(self.now + 2 * latency, Event::Connected { wire, device, connection });
    }

    /// A connection is closed by one of its ends, or by both if by nobody.
    pub(super) fn close(&mut self, wire: usize, by: usize, told: bool) {
        let Some(connection) = self.connections[wire].take() else { return };
        for side in &mut self.pipes[wire] {
            (side.inflight, side.held) = (0, Vec::new());
        }
        let latency = self.cluster.wires[wire].latency_us;
        let peer = self.other(wire, by);
        let reachable = self.pipe(wire, by).cut == 0;
        if told && reachable {
            self.at(self.now + latency, Event::Closed { wire, device: peer, connection });
        }
    }
}
