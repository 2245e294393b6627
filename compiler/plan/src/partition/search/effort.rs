//! How much work a search may take, counted, not timed.

use std::cell::Cell;

use crate::partition::price::Candidate;

/// Rounds of multipliers.
pub const ROUNDS: usize = 40;

/// Relative gap at which the search stops.
pub const GOOD_GAP: f64 = 1e-4;

/// Work that everything together may take where limits bind: table entries, some 6 s of a desktop core. Counted, not
/// timed, so that the answer depends on nothing but the question.
pub const SEARCH_WORK: u64 = 400_000_000;

/// Work that one warm start may take.
pub const START_WORK: u64 = SEARCH_WORK / 20;

/// One of many questions may take one of so many parts of it.
pub const PARTS: u64 = 8;

/// How much a search with limits may try.
#[derive(Clone, Copy)]
pub struct Effort<'a> {
    /// Work done so far by the whole search.
    pub done: &'a Cell<u64>,
    /// Work at which this part must end.
    pub end: u64,
    /// Candidates (of a node) that may be used.
    pub allowed: &'a dyn Fn(usize, &Candidate) -> bool,
}

impl<'a> Effort<'a> {
    /// All candidates, that much work.
    pub fn new(done: &'a Cell<u64>, work: u64) -> Effort<'a> {
        Effort { done, end: done.get() + work, allowed: &|_, _| true }
    }

    /// The same with less work.
    pub fn at_most(self, work: u64) -> Effort<'a> {
        Effort { end: self.end.min(self.done.get() + work), ..self }
    }

    /// Half of the work that is left.
    pub fn half(self) -> Effort<'a> {
        self.at_most(self.left() / 2)
    }

    /// Work that is left.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.done.get())
    }

    /// Whether none is left.
    pub fn over(&self) -> bool {
        self.left() == 0
    }

    /// Counts work that is done.
    pub fn spend(&self, work: u64) {
        self.done.set(self.done.get() + work);
    }
}
