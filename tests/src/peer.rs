//! A node of two, in virtual time, and what its peer says to it: the bytes of a link, as they are or as somebody changed them.

use partita_rt::node::{Flow, Link, Medium, Node, Outcome, Part, Peer, Plan, Route, Step, Work};

/// Bytes of the tensor that the second device sends to the first.
const BYTES: usize = 48;

/// Bytes that come between two ticks.
const PIECE: usize = 64;

/// Time between two ticks.
const TICK_US: u64 = 1_000;

/// Ticks of a conversation.
const TICKS: usize = 400;

static PARTS: [Part; 2] = [part(1), part(0)];

const fn part(peer: u8) -> Part {
    Part { peer, message: 0, offset_bytes: 0, bytes: BYTES as u32, bound: if peer == 1 { 0 } else { 2 } }
}

static STEPS: [[Step<'static>; 2]; 2] = [
    [Step::Exchange { sends: &[], receives: PARTS.split_at(1).0 }, Step::Compute],
    [Step::Compute, Step::Exchange { sends: PARTS.split_at(1).1, receives: &[] }],
];

static PEERS: [[Peer; 1]; 2] = [[peer(1)], [peer(0)]];

const fn peer(device: u8) -> Peer {
    Peer { device, medium: Medium::Line, chunk_bytes: 16, calls: device == 0 }
}

static ROUTES: [[Route<'static>; 1]; 2] = [route(&STEPS[0]), route(&STEPS[1])];

const fn route(steps: &'static [Step<'static>]) -> [Route<'static>; 1] {
    [Route { steps, devices: 0b11, links: &[(0, 1)] }]
}

/// The plan of a device: the first has input and answer, the second computes a tensor for it.
fn plan(device: usize) -> Plan<'static> {
    let (peers, routes) = (&PEERS[device][..], &ROUTES[device][..]);
    let (device, family) = (device as u8, None);
    Plan { hash: 7, device, input: 0, output: 0, peers, routes, family, detect_us: 300_000, hung_us: 0 }
}

struct Side {
    node: Node<'static, [Link; 1]>,
    memory: [u8; BYTES],
}

impl Side {
    fn new(device: usize) -> Side {
        let mut node = Node::new(plan(device), 1 + device as u64);
        node.on_connected(0);
        Side { node, memory: [device as u8; BYTES] }
    }

    /// Bytes that the peer is to hear, after a tick in which it has said these.
    fn tick(&mut self, now_us: u64, heard: &[u8]) -> Vec<u8> {
        self.node.on_tick(now_us);
        self.node.on_bytes(0, &mut heard.to_vec(), &mut self.memory[..]);
        loop {
            match self.node.poll_work() {
                Work::Nothing => break,
                Work::Load { .. } | Work::Deliver { .. } | Work::Compute { .. } => self.node.on_done(Flow::Next),
            }
        }
        let mut said = Vec::new();
        // Whatever has come, a node has only so much to say at a time.
        while said.len() < 4096 {
            let Some(pieces) = self.node.poll_send(0, &self.memory[..], &mut []) else { break };
            let bytes = pieces.concat();
            said.extend(&bytes);
            self.node.on_sent(0, bytes.len());
        }
        said
    }
}

/// What the second device says to the first in a conversation of both in which one input is answered.
pub fn conversation() -> Vec<u8> {
    let (mut first, mut second) = (Side::new(0), Side::new(1));
    let (mut to_first, mut to_second, mut all): (Vec<u8>, Vec<u8>, Vec<u8>) = Default::default();
    for tick in 0..TICKS {
        let now_us = tick as u64 * TICK_US;
        offer(&mut first, tick);
        let piece: Vec<u8> = to_first.drain(..PIECE.min(to_first.len())).collect();
        all.extend(&piece);
        // What is not said now is said as nothing: the pieces of the recording are then the same.
        all.extend(std::iter::repeat_n(0, PIECE - piece.len()));
        to_second.extend(first.tick(now_us, &padded(piece)));
        let heard = std::mem::take(&mut to_second);
        to_first.extend(second.tick(now_us, &heard));
    }
    all
}

fn padded(mut piece: Vec<u8>) -> Vec<u8> {
    piece.resize(PIECE, 0);
    piece
}

/// One input, once both have greeted.
fn offer(first: &mut Side, tick: usize) {
    if tick == TICKS / 4 {
        first.node.accept(1, TICKS as u64 * TICK_US);
    }
}

/// The first device hears these bytes in the place of its peer's; says whether its input was answered.
pub fn hears(bytes: &[u8]) -> bool {
    let mut first = Side::new(0);
    let mut pieces = bytes.chunks(PIECE);
    let mut said = 0;
    let mut is_answered = false;
    for tick in 0..TICKS {
        offer(&mut first, tick);
        said += first.tick(tick as u64 * TICK_US, pieces.next().unwrap_or_default()).len();
        is_answered |= first.node.poll_record().is_some_and(|record| record.outcome == Outcome::Full);
    }
    // A line of 64 bytes a millisecond is not flooded, whatever is said on it.
    assert!(said < 64 * TICKS, "{said} bytes were said in return");
    is_answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_heard_again() {
        let recorded = conversation();
        assert!(hears(&recorded), "the input is answered");
        assert!(!hears(&recorded[..recorded.len() / 8]), "nobody answers after so few bytes");
    }
}
