//! Events of a simulation, and their order.

use super::faults::Fault;

/// What can happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Bytes come to an end of a wire.
    Arrive {
        wire: usize,
        to: usize,
        connection: u32,
        bytes: Vec<u8>,
    },
    /// A device looks at its timers.
    Wake {
        device: usize,
    },
    /// A device has done a step.
    Done {
        device: usize,
        life: u32,
        token: u64,
    },
    /// A connection is there, at one end; or is not.
    Connected {
        wire: usize,
        device: usize,
        connection: u32,
    },
    Closed {
        wire: usize,
        device: usize,
        connection: u32,
    },
    /// The client hands in an input.
    Feed,
    /// A fault begins, or ends.
    Begin(Fault, u64),
    End(Fault),
    /// What is promised of silence is looked at.
    Look,
}

/// An event and its time; those of one time come in the order in which they were thought of.
pub(super) struct Due {
    pub(super) time: u64,
    pub(super) number: u64,
    pub(super) event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}
