//! Inputs and their records, on the device that is given inputs: every one that is accepted ends in exactly one record,
//! and records come in the order of acceptance.

use super::gossip::Answer;
use super::wire::{Put, Take};

/// Inputs that are accepted at once; each has a place of its own, which the driver keeps.
pub const INPUTS: usize = 8;

/// Why an input has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No route could be taken: devices or links that all of them need were not there.
    NoRoute,
    /// The node was stopped.
    Stopped,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The whole network's answer.
    Full,
    /// An exit's answer: its number, and how sure it was.
    Exit(u32, f32),
    /// The answer of a smaller network, and the exit if it ended at one.
    Variant(u8, Option<(u32, f32)>),
    /// The answer was not there in time.
    Late,
    /// There is none.
    Failed(Why),
}

/// What is said of an input, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Number of the input; counted up, from anywhere.
    pub input: u32,
    /// What the driver called it.
    pub tag: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// How many times it was tried.
    pub tries: u8,
    /// Microseconds from acceptance to this.
    pub took_us: u64,
}

impl Record {
    /// Bytes of a record.
    pub const BYTES: usize = 24;

    /// What a client is told: the input's number; outcome (0 full, 1 exit, 2 variant, 3 late, 4 no route, 5 stopped), route,
    /// tries, whether it ended at an exit; exit, confidence, microseconds. Who is told knows the tag.
    pub fn emit(&self) -> [u8; Record::BYTES] {
        let (outcome, route, exit) = match self.outcome {
            Outcome::Full => (0, 0, None),
            Outcome::Exit(exit, confidence) => (1, 0, Some((exit, confidence))),
            Outcome::Variant(route, exit) => (2, route, exit),
            Outcome::Late => (3, 0, None),
            Outcome::Failed(Why::NoRoute) => (4, 0, None),
            Outcome::Failed(Why::Stopped) => (5, 0, None),
        };
        let mut bytes = [0; Record::BYTES];
        let mut put = Put(&mut bytes);
        put.all(&self.input.to_le_bytes());
        put.all(&[outcome, route, self.tries, u8::from(exit.is_some())]);
        let (exit, confidence) = exit.unwrap_or((0, 0.0));
        put.all(&exit.to_le_bytes());
        put.all(&confidence.to_le_bytes());
        put.all(&self.took_us.to_le_bytes());
        bytes
    }

    /// Reads a record of the input that the reader calls `tag`.
    pub fn parse(tag: u64, bytes: &[u8]) -> Option<Record> {
        let mut take = Take(bytes);
        let input = take.u32()?;
        let [outcome, route, tries, at_exit] = take.bytes()?;
        let (exit, confidence, took_us) = (take.u32()?, f32::from_bits(take.u32()?), take.u64()?);
        let exit = (at_exit != 0).then_some((exit, confidence));
        let outcome = match (outcome, exit) {
            (0, None) => Outcome::Full,
            (1, Some((exit, confidence))) => Outcome::Exit(exit, confidence),
            (2, exit) => Outcome::Variant(route, exit),
            (3, None) => Outcome::Late,
            (4, None) => Outcome::Failed(Why::NoRoute),
            (5, None) => Outcome::Failed(Why::Stopped),
            _ => return None,
        };
        Some(Record { input, tag, outcome, tries, took_us })
    }
}

/// Where an input is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    /// It waits for its turn, or to be tried again.
    Waiting,
    /// It is worked on.
    Running {
        inference: u32,
        route: u8,
        since_us: u64,
    },
    Over(Outcome),
}

/// An accepted input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) number: u32,
    tag: u64,
    accepted_us: u64,
    pub(crate) deadline_us: u64,
    /// The only route that it may take, if whoever gave it has said so.
    pub(crate) wanted: Option<u8>,
    pub(crate) state: State,
    tries: u8,
    over_us: u64,
}

/// All accepted inputs without a record that has been taken.
#[derive(Debug)]
pub(crate) struct Inputs {
    waiting: [Option<Input>; INPUTS],
    next: u32,
}

impl Inputs {
    /// Numbers begin anywhere, so that those of two lives of a device differ.
    pub(crate) const fn new(first: u32) -> Inputs {
        Inputs { waiting: [None; INPUTS], next: first }
    }

    /// The place of an input's bytes.
    pub(crate) fn place(number: u32) -> usize {
        number as usize % INPUTS
    }

    /// Accepts an input; its place, or none if all are taken.
    pub(crate) fn accept(&mut self, tag: u64, wanted: Option<u8>, now_us: u64, budget_us: u64) -> Option<usize> {
        let place = Inputs::place(self.next);
        let slot = self.waiting.get_mut(place)?;
        if slot.is_some() {
            return None;
        }
        *slot = Some(Input {
            number: self.next,
            tag,
            accepted_us: now_us,
            deadline_us: now_us.saturating_add(budget_us),
            wanted,
            state: State::Waiting,
            tries: 0,
            over_us: 0,
        });
        self.next = self.next.wrapping_add(1);
        Some(place)
    }

    /// Inputs that are not over, oldest first.
    pub(crate) fn open(&mut self) -> impl Iterator<Item = &mut Input> {
        let oldest = Inputs::place(self.next);
        let (late, early) = self.waiting.split_at_mut(oldest.min(INPUTS));
        let all = early.iter_mut().chain(late).flatten();
        all.filter(|input| !matches!(input.state, State::Over(_)))
    }

    /// The first deadline of those that are not over.
    pub(crate) fn deadline_us(&self) -> u64 {
        let open = self.waiting.iter().flatten().filter(|input| !matches!(input.state, State::Over(_)));
        open.map(|input| input.deadline_us).min().unwrap_or(u64::MAX)
    }

    /// Whether no record is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.iter().all(Option::is_none)
    }

    /// Whether an input waits for its turn.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.iter().flatten().any(|input| input.state == State::Waiting)
    }

    /// The record of the oldest input, if it is over.
    pub(crate) fn take(&mut self) -> Option<Record> {
        let oldest = Inputs::place(self.next);
        let order = (oldest..INPUTS).chain(0..oldest);
        let at = order.into_iter().find(|at| self.waiting.get(*at).is_some_and(Option::is_some))?;
        let slot = self.waiting.get_mut(at)?;
        let Input { number, tag, accepted_us, state: State::Over(outcome), tries, over_us, .. } = (*slot)? else {
            return None;
        };
        *slot = None;
        Some(Record { input: number, tag, outcome, tries, took_us: over_us.saturating_sub(accepted_us) })
    }
}

impl Input {
    /// It is over.
    pub(crate) fn close(&mut self, outcome: Outcome, now_us: u64) {
        (self.state, self.over_us) = (State::Over(outcome), now_us);
    }

    /// It is tried.
    pub(crate) fn run(&mut self, inference: u32, route: u8, now_us: u64) {
        self.state = State::Running { inference, route, since_us: now_us };
        self.tries = self.tries.saturating_add(1);
    }
}

/// What an answer is called.
pub(crate) fn outcome(answer: Answer) -> Outcome {
    match (answer.route, answer.exit) {
        (0, None) => Outcome::Full,
        (0, Some((exit, confidence))) => Outcome::Exit(exit, confidence),
        (route, exit) => Outcome::Variant(route, exit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn records_read_back() {
        for outcome in [
            Outcome::Full,
            Outcome::Exit(3, 0.75),
            Outcome::Variant(2, None),
            Outcome::Variant(9, Some((1, 0.5))),
            Outcome::Late,
            Outcome::Failed(Why::NoRoute),
            Outcome::Failed(Why::Stopped),
        ] {
            let record = Record { input: 7, tag: 5, outcome, tries: 2, took_us: u64::MAX };
            assert_eq!(Record::parse(5, &record.emit()), Some(record));
        }
        assert_eq!(Record::parse(5, &[9; Record::BYTES]), None);
        assert_eq!(Record::parse(5, &[0; Record::BYTES - 1]), None);
    }

    #[test]
    fn records_come_in_the_order_of_acceptance_and_once() {
        let mut inputs = Inputs::new(u32::MAX - 20);
        let mut records = Vec::new();
        for round in 0..20u64 {
            while inputs.accept(round, None, round, 100).is_some() {}
            // The younger half is over first.
            let open: Vec<u32> = inputs.open().map(|input| input.number).collect();
            let first = open[0];
            assert!(open.iter().zip(0..).all(|(number, at)| *number == first.wrapping_add(at)), "{open:?}");
            for input in inputs.open().skip(4) {
                input.close(Outcome::Late, 0);
            }
            assert_eq!(inputs.take(), None, "the oldest is not over");
            for input in inputs.open().take(4) {
                input.close(Outcome::Full, 0);
            }
            records.extend(core::iter::from_fn(|| inputs.take()).map(|record| record.input));
        }
        assert_eq!(records, (0..160).map(|at| (u32::MAX - 20).wrapping_add(at)).collect::<Vec<u32>>());
    }
}
