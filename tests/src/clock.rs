//! Time that a thread has computed: what else runs on the machine does not lengthen it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Counts the processor time of the thread that made it.
pub struct Clock(Duration);

impl Clock {
    /// Starts to count.
    pub fn start() -> Clock {
        Clock(thread_time())
    }

    /// Processor time of this thread since then.
    pub fn elapsed(&self) -> Duration {
        thread_time().saturating_sub(self.0)
    }
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
