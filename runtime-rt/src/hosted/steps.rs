//! Looks at every step of a program: how long it takes; and, to imitate a slower processor, makes it take longer.

use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::time::{ClockId, clock_gettime};

use crate::Observer;
use crate::serve::Profiler;

/// Sleeping ends later than it should by about this; what remains is waited for awake.
const OVERSLEEP: Duration = Duration::from_micros(90);

/// Nanoseconds of every step, little-endian.
pub(super) struct StepTimes {
    last: Instant,
    bytes: Vec<u8>,
    /// Whether times are reported.
    reported: bool,
    /// How many times as long as it computes a step takes; waiting for peers takes as long as it takes.
    slower: f64,
    /// Processor time of this thread at the end of the last step.
    computed: Duration,
}

impl StepTimes {
    /// Of a processor that is so many times as slow as this one.
    pub(super) fn new(reported: bool, slower: f64) -> StepTimes {
        StepTimes { last: Instant::now(), bytes: Vec::new(), reported, slower, computed: thread_time() }
    }
}

impl Observer for StepTimes {
    fn step(&mut self, _index: usize) {
        if self.slower > 1.0 {
            let computed = thread_time().saturating_sub(self.computed);
            wait_until(Instant::now() + computed.mul_f64(self.slower - 1.0));
            self.computed = thread_time();
        }
        if self.reported {
            let now = Instant::now();
            let time = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
            self.bytes.extend(time.to_le_bytes());
            self.last = now;
        }
    }
}

impl Profiler for StepTimes {
    fn begin(&mut self) {
        self.bytes.clear();
        self.last = Instant::now();
        self.computed = thread_time();
    }

    fn payload(&self) -> &[u8] {
        &self.bytes
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

/// What a clock shows.
pub(super) fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sleeps, then waits awake, so that it ends in time.
fn wait_until(end: Instant) {
    let rest = end.saturating_duration_since(Instant::now());
    if rest > OVERSLEEP {
        std::thread::sleep(rest - OVERSLEEP);
    }
    while Instant::now() < end {
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes for about so long.
    fn compute(time: Duration) {
        let begin = thread_time();
        while thread_time() - begin < time {
            core::hint::spin_loop();
        }
    }

    #[test]
    fn computing_takes_longer_and_waiting_does_not() {
        let mut steps = StepTimes::new(true, 10.0);
        steps.begin();
        compute(Duration::from_millis(2));
        steps.step(0);
        std::thread::sleep(Duration::from_millis(30));
        steps.step(1);
        let times: Vec<u64> = steps.payload().as_chunks::<8>().0.iter().map(|time| u64::from_le_bytes(*time)).collect();
        assert!(times[0] >= 20_000_000, "{times:?}");
        // It may take longer where other processes compute; never ten times as long as it slept.
        assert!((30_000_000..300_000_000).contains(&times[1]), "{times:?}");
    }

    #[test]
    fn nothing_is_reported_unless_wanted() {
        let mut steps = StepTimes::new(false, 1.5);
        steps.begin();
        steps.step(0);
        assert!(steps.payload().is_empty());
    }
}
