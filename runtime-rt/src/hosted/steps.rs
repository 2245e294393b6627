//! Looks at every step of a program: how long it takes; and, to imitate a slower processor, makes it take longer.

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::time::{ClockId, clock_gettime};

use crate::Observer;
use crate::serve::Profiler;

/// Sleeping ends later than it should by about this; what remains is waited for awake.
const OVERSLEEP: Duration = Duration::from_micros(90);

/// The processor that is imitated.
#[derive(Clone, Copy)]
struct Pace {
    /// How many times as long as it needs the processor a step takes; waiting for peers takes as long as it takes.
    slower: f64,
    /// Processor time of this thread up to which that has been caught up with.
    until: Duration,
}

std::thread_local! {
    // Of the thread that runs the program: both its steps and its links catch up.
    static PACE: Cell<Pace> = const { Cell::new(Pace { slower: 1.0, until: Duration::ZERO }) };
}

/// Nanoseconds of every step, little-endian.
pub(super) struct StepTimes {
    last: Instant,
    bytes: Vec<u8>,
    /// Whether times are reported.
    reported: bool,
}

impl StepTimes {
    /// Of a processor that is so many times as slow as this one.
    pub(super) fn new(reported: bool, slower: f64) -> StepTimes {
        PACE.set(Pace { slower, until: thread_time() });
        StepTimes { last: Instant::now(), bytes: Vec::new(), reported }
    }
}

impl Observer for StepTimes {
    fn step(&mut self, _index: usize) {
        catch_up();
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
        PACE.set(Pace { until: thread_time(), ..PACE.get() });
    }

    fn payload(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits for as long as the imitated processor would take longer for what this thread has done since the last time.
fn catch_up() {
    let pace = PACE.get();
    if pace.slower > 1.0 {
        let computed = thread_time().saturating_sub(pace.until);
        wait_until(Instant::now() + computed.mul_f64(pace.slower - 1.0));
        PACE.set(Pace { until: thread_time(), ..pace });
    }
}

/// Catches up where it goes out of scope: what a link does with the processor is part of the time in the link.
pub(super) struct CatchUp;

impl Drop for CatchUp {
    fn drop(&mut self) {
        catch_up();
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

    /// Processor time that has not been caught up with.
    fn owed() -> Duration {
        thread_time() - PACE.get().until
    }

    #[test]
    fn computing_takes_longer_and_waiting_does_not() {
        let mut steps = StepTimes::new(true, 10.0);
        steps.begin();
        compute(Duration::from_millis(2));
        steps.step(0);
        std::thread::sleep(Duration::from_millis(30));
        assert!(owed() < Duration::from_millis(1), "sleeping is not computing");
        steps.step(1);
        let times: Vec<u64> = steps.payload().as_chunks::<8>().0.iter().map(|time| u64::from_le_bytes(*time)).collect();
        assert!(times[0] >= 20_000_000 && times[1] >= 30_000_000, "{times:?}");
    }

    #[test]
    fn links_catch_up_by_themselves() {
        let mut steps = StepTimes::new(true, 10.0);
        steps.begin();
        let begin = Instant::now();
        let link = CatchUp;
        compute(Duration::from_millis(2));
        drop(link);
        let in_link = begin.elapsed();
        assert!(in_link >= Duration::from_millis(20), "{in_link:?}");
        assert!(owed() < Duration::from_millis(1), "nothing is left for the step");
    }

    #[test]
    fn nothing_is_reported_unless_wanted() {
        let mut steps = StepTimes::new(false, 1.5);
        steps.begin();
        steps.step(0);
        assert!(steps.payload().is_empty());
    }
}
