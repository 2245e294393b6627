//! What a node knows of its plan: tables in read-only memory, written by the compiler.

use crate::Family;

/// Most devices of a cluster.
pub const DEVICES: usize = 64;

/// A node's plan.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// First eight bytes of the plan's SHA-256.
    pub hash: u64,
    /// Number of this device, below [`DEVICES`].
    pub device: u8,
    /// The device that is given inputs, chooses routes and keeps records.
    pub input: u8,
    /// The device that has the answer.
    pub output: u8,
    /// The devices at the other ends of this one's links.
    pub peers: &'p [Peer],
    /// All routes; the first is the whole network on the whole cluster.
    pub routes: &'p [Route<'p>],
    /// When each route is best; without, the first that can be taken is.
    pub family: Option<&'p Family<'p>>,
    /// Microseconds without a sign of life after which a peer is lost: at least 300 ms, or 3 frame deadlines.
    pub detect_us: u32,
    /// Microseconds after which a step that still computes counts as hung, if that is longer than `detect_us`.
    pub hung_us: u32,
}

/// The other end of a link.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its number.
    pub device: u8,
    /// What carries the bytes.
    pub medium: Medium,
    /// Largest payload of a tensor frame, the same at both ends. The link should carry one in a tenth of
    /// [`Plan::detect_us`], since signs of life wait behind it.
    pub chunk_bytes: u16,
    /// Whether this end greets first, and connects where the medium has connections. One of the two does.
    pub calls: bool,
}

/// What carries bytes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A connection that begins and ends, such as TCP or a Unix socket.
    Connection,
    /// Bytes in order without an end, such as a serial line.
    Line,
    /// Whole frames or nothing, in any order, such as UDP.
    Datagrams,
}

/// One way through the network, as this device sees it.
#[derive(Clone, Copy, Debug)]
pub struct Route<'p> {
    /// What this device does, in order.
    pub steps: &'p [Step<'p>],
    /// The devices that do anything on this route, one bit each.
    pub devices: u64,
    /// Pairs of devices between which tensors travel, of the whole cluster.
    pub links: &'p [(u8, u8)],
}

/// One step of a device's program.
#[derive(Clone, Copy, Debug)]
pub enum Step<'p> {
    /// The program computes.
    Compute,
    /// Tensors leave and come, all at the same time; both lists in the order of message numbers.
    Exchange {
        /// What leaves.
        sends: &'p [Part],
        /// What comes.
        receives: &'p [Part],
    },
}

/// A tensor that travels.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The device at the other end.
    pub peer: u8,
    /// Number within the inference; between two devices they ascend in the order of steps.
    pub message: u16,
    /// Where it lies in this device's memory.
    pub offset_bytes: u32,
    /// Its length, at most 65535 chunks.
    pub bytes: u32,
    /// Of what leaves, the first step that writes over it, at least the one after the exchange: that step waits until the
    /// tensor has arrived. Of what comes, the first step from whose beginning on its place is free, at most the exchange.
    pub bound: u16,
}

/// A place in the list of a route's parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) step: u16,
    pub(crate) index: u16,
}

impl Route<'_> {
    /// The first part from `cursor` on that goes to `peer` (or comes from it), and the cursor behind it.
    pub(crate) fn next_part(&self, cursor: Cursor, peer: u8, leaves: bool) -> Option<(Cursor, u16, Part)> {
        let mut skip = usize::from(cursor.index);
        for (number, step) in (cursor.step..).zip(self.steps.iter().skip(usize::from(cursor.step))) {
            if let Step::Exchange { sends, receives } = step {
                let parts = if leaves { sends } else { receives };
                let found = (0u16..).zip(parts.iter()).skip(skip).find(|(_, part)| part.peer == peer);
                if let Some((index, part)) = found {
                    return Some((Cursor { step: number, index: index + 1 }, number, *part));
                }
            }
            skip = 0;
        }
        None
    }
}

impl Plan<'_> {
    /// The route of a number.
    pub(crate) fn route(&self, number: u8) -> Option<&Route<'_>> {
        self.routes.get(usize::from(number))
    }
}
