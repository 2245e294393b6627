//! Looks at every step of a program: how long it takes; and, to imitate a slower processor, makes it take longer.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::thread::set_current_timer_slack;
use rustix::time::{ClockId, clock_gettime};

use crate::{Observer, Turn};

/// Sleeping ends later than it should by about this; what remains is waited for awake.
const OVERSLEEP: Duration = Duration::from_micros(60);

/// The processor that is imitated.
struct Pace {
    /// How many times as long as it needs the processor a step takes; waiting for peers takes as long as it takes.
    slower: f64,
    /// Processor time of this thread up to which that has been caught up with.
    until: Duration,
    /// Of that, what belongs to the step that is under way.
    used: Duration,
    /// How much longer the last wait took than it should have: so much less is waited for next time.
    late: Duration,
    /// The step that is under way: route and position.
    step: (usize, usize),
    /// The least processor time that each step of each route has needed so far. That is what counts: nobody else's
    /// programs disturb the processor that is imitated.
    least: Vec<Vec<Duration>>,
}

std::thread_local! {
    // Of the thread that runs the program: both its steps and its links catch up.
    static PACE: RefCell<Pace> = const { RefCell::new(Pace::new(1.0)) };
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
        if slower > 1.0 {
            // Sleeping may end late by as much as this; without leave, a little later.
            let _ = set_current_timer_slack(NonZeroU64::new(1));
        }
        PACE.set(Pace::new(slower));
        StepTimes { last: Instant::now(), bytes: Vec::new(), reported }
    }
}

impl Observer for StepTimes {
    fn step(&mut self, index: usize) {
        PACE.with_borrow_mut(|pace| {
            pace.catch_up();
            pace.end_step(index);
        });
        if self.reported {
            let now = Instant::now();
            let time = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
            self.bytes.extend(time.to_le_bytes());
            self.last = now;
        }
    }
}

impl StepTimes {
    /// An inference begins.
    pub(super) fn begin(&mut self, turn: Turn) {
        self.bytes.clear();
        self.last = Instant::now();
        PACE.with_borrow_mut(|pace| pace.begin(usize::from(turn.route)));
    }

    /// Nanoseconds of its steps; nothing unless they are wanted.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes
    }
}

impl Pace {
    const fn new(slower: f64) -> Pace {
        let none = Duration::ZERO;
        Pace { slower, until: none, used: none, late: none, step: (0, 0), least: Vec::new() }
    }

    /// An inference begins.
    fn begin(&mut self, route: usize) {
        (self.until, self.used, self.late, self.step) = (thread_time(), Duration::ZERO, Duration::ZERO, (route, 0));
    }

    /// What the step under way has needed at least, if it has ever ended.
    fn least(&self) -> Option<Duration> {
        self.least.get(self.step.0)?.get(self.step.1).copied()
    }

    /// Waits for as long as the imitated processor would take longer for what this thread has done since the last time.
    fn catch_up(&mut self) {
        if self.slower <= 1.0 {
            return;
        }
        let computed = thread_time().saturating_sub(self.until);
        let counted = |used: Duration| self.least().map_or(used, |least| used.min(least));
        let new = counted(self.used + computed) - counted(self.used);
        let owed = new.mul_f64(self.slower).saturating_sub(computed);
        self.late = wait_until(Instant::now() + owed.saturating_sub(self.late)) + self.late.saturating_sub(owed);
        (self.until, self.used) = (thread_time(), self.used + computed);
    }

    /// A step is over; the one behind it begins.
    fn end_step(&mut self, index: usize) {
        let (route, used) = (self.step.0, std::mem::take(&mut self.used));
        if self.least.len() <= route {
            self.least.resize(route + 1, Vec::new());
        }
        if let Some(steps) = self.least.get_mut(route) {
            if steps.len() <= index {
                steps.resize(index + 1, Duration::MAX);
            }
            if let Some(least) = steps.get_mut(index) {
                *least = used.min(*least);
            }
        }
        self.step = (route, index + 1);
    }
}

/// Catches up for this thread.
pub(super) fn catch_up() {
    PACE.with_borrow_mut(Pace::catch_up);
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

/// Sleeps, then waits awake, so that it ends in time; gives by how much it was late.
fn wait_until(end: Instant) -> Duration {
    let rest = end.saturating_duration_since(Instant::now());
    if rest > OVERSLEEP {
        std::thread::sleep(rest - OVERSLEEP);
    }
    loop {
        let now = Instant::now();
        if now >= end {
            return now - end;
        }
        core::hint::spin_loop();
    }
}

// Miri has no clock of a thread, nor does computing take as long there.
#[cfg(all(test, not(miri)))]
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
        thread_time() - PACE.with_borrow(|pace| pace.until)
    }

    const TURN: Turn = Turn { inference: 0, route: 0 };

    #[test]
    fn computing_takes_longer_and_waiting_does_not() {
        let mut steps = StepTimes::new(true, 10.0);
        steps.begin(TURN);
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
        steps.begin(TURN);
        let begin = Instant::now();
        compute(Duration::from_millis(2));
        catch_up();
        let in_link = begin.elapsed();
        assert!(in_link >= Duration::from_millis(20), "{in_link:?}");
        assert!(owed() < Duration::from_millis(1), "nothing is left for the step");
    }

    #[test]
    fn a_step_that_was_disturbed_takes_no_longer() {
        let mut steps = StepTimes::new(false, 10.0);
        let mut time_of = |needed_ms: u64, route: u8| {
            steps.begin(Turn { inference: 0, route });
            let begin = Instant::now();
            compute(Duration::from_millis(needed_ms));
            steps.step(0);
            begin.elapsed()
        };
        assert!(time_of(2, 0) >= Duration::from_millis(20));
        // Other programs may take the processor for a while; not always.
        let disturbed = (0..10).map(|_| time_of(6, 0)).min().unwrap_or_default();
        assert!(disturbed >= Duration::from_millis(20) && disturbed < Duration::from_millis(50), "{disturbed:?}");
        let of_another_route = time_of(6, 1);
        assert!(of_another_route >= Duration::from_millis(60), "{of_another_route:?}");
    }

    #[test]
    fn nothing_is_reported_unless_wanted() {
        let mut steps = StepTimes::new(false, 1.5);
        steps.begin(TURN);
        steps.step(0);
        assert!(steps.payload().is_empty());
    }
}
