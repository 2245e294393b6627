//! What became of the inputs of a simulation, counted.

use partita_rt::node::Counters;

/// What became of all inputs of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub offered: u64,
    pub refused: u64,
    pub full: u64,
    pub exits: u64,
    pub variants: u64,
    pub late: u64,
    pub failed: u64,
    /// Accepted by a device that then lost its memory; its clients were disconnected.
    pub disconnected: u64,
    pub delivered: u64,
    pub events: u64,
    pub counters: Counters,
    /// Longest time from the end of all faults to the first answer.
    pub recovered_us: u64,
    /// Sum of the times that answered inputs took.
    pub took_us: u64,
    /// When answers came.
    pub answers: Vec<u64>,
}

impl Summary {
    /// Adds what became of the inputs of another run.
    pub fn add(&mut self, other: &Summary) {
        self.offered += other.offered;
        self.refused += other.refused;
        self.full += other.full;
        self.exits += other.exits;
        self.variants += other.variants;
        self.late += other.late;
        self.failed += other.failed;
        self.disconnected += other.disconnected;
        self.delivered += other.delivered;
        self.events += other.events;
        self.recovered_us = self.recovered_us.max(other.recovered_us);
        let (sum, more) = (&mut self.counters, &other.counters);
        sum.damaged += more.damaged;
        sum.repeated += more.repeated;
        sum.unknown += more.unknown;
        sum.begun += more.begun;
        sum.silent += more.silent;
        sum.closed += more.closed;
        sum.tried_again += more.tried_again;
        sum.sent_bytes += more.sent_bytes;
    }
}
