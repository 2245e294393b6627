//! What a program is to a driver, who hears of its answers, and what an inference costs it.

use std::time::{Duration, Instant};

use super::steps::StepTimes;
use crate::node::{Finished, Flow, Plan};
use crate::{Observer, Turn};

/// A program as a list of steps.
///
/// # Safety
///
/// `memory` gives the same memory each time, which may be read and written as long as the program lives and longer: threads
/// of the driver do, at the places that the plan says. Steps reach it through that pointer only, and touch of it what the
/// plan leaves to them.
pub unsafe trait Steps: Send {
    /// Where the memory is, and how many bytes; both stay as they are.
    fn memory(&self) -> (*mut u8, usize);
    /// Bytes of an input on a route.
    fn input_bytes(&self, route: u8) -> usize;
    /// Puts an input to its place.
    fn load(&mut self, route: u8, input: &[u8]);
    /// Computes a step.
    fn step(&mut self, route: u8, step: u16) -> Flow;
    /// The answer is given out: states that the inference has left are those of the next.
    fn keep(&mut self, _route: u8) {}
    /// The next inference begins with states of zero.
    fn reset(&mut self) {}
    /// The answer, of an exit if it ended there.
    fn output(&self, route: u8, exit: Option<u32>) -> &[u8];
}

/// Is told of answers and of what they have cost, on the program's thread.
pub trait Results: Send {
    /// The answer to an input, on a route.
    fn answer(&mut self, input: u32, route: u8, bytes: &[u8]);

    /// Nothing is left to do here for an inference: what it cost, microseconds of it in steps that compute, and the
    /// nanoseconds of each step, little-endian, if they are wanted.
    fn finished(&mut self, _finished: &Finished, _compute_us: u64, _steps: &[u8]) {}
}

impl<F: FnMut(u32, u8, &[u8]) + Send> Results for F {
    fn answer(&mut self, input: u32, route: u8, bytes: &[u8]) {
        self(input, route, bytes);
    }
}

/// How a program's steps are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Every step is timed.
    pub profile: bool,
    /// How many times as slow as this processor the one is that is imitated.
    pub slower: f64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { profile: false, slower: 1.0 }
    }
}

/// The inference under way, as its steps are looked at.
pub(super) struct Account {
    inference: Option<u32>,
    /// The first step that has not been done.
    next: usize,
    compute: Duration,
    times: Option<StepTimes>,
}

impl Account {
    pub(super) fn new(watch: Watch) -> Account {
        let times = (watch.profile || watch.slower > 1.0).then(|| StepTimes::new(watch.profile, watch.slower));
        Account { inference: None, next: 0, compute: Duration::ZERO, times }
    }

    /// An inference may have begun.
    pub(super) fn begin(&mut self, under_way: Option<(u32, u8)>) {
        let Some((inference, route)) = under_way.filter(|(inference, _)| Some(*inference) != self.inference) else {
            return;
        };
        (self.inference, self.next, self.compute) = (Some(inference), 0, Duration::ZERO);
        self.times.iter_mut().for_each(|times| times.begin(Turn { inference, route }));
    }

    /// All steps before this one are done: those that computed have been told, the others exchanged.
    fn reach(&mut self, step: usize) {
        if let Some(times) = &mut self.times {
            (self.next..step).for_each(|step| times.step(step));
        }
        self.next = self.next.max(step);
    }

    pub(super) fn step(&mut self, program: &mut dyn Steps, route: u8, step: u16) -> Flow {
        self.reach(step.into());
        let begin = Instant::now();
        let flow = program.step(route, step);
        self.reach(usize::from(step) + 1);
        self.compute += begin.elapsed();
        flow
    }

    /// The inference is over.
    pub(super) fn end(&mut self, finished: &Finished, plan: &Plan<'_>, results: &mut dyn Results) {
        let steps = plan.routes.get(usize::from(finished.route)).map_or(0, |route| route.steps.len());
        if finished.exit.is_none() {
            self.reach(steps);
        }
        let compute_us = u64::try_from(self.compute.as_micros()).unwrap_or(u64::MAX);
        results.finished(finished, compute_us, self.times.as_ref().map_or(&[], |times| times.payload()));
        self.inference = None;
    }
}
