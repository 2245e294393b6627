//! How long each stage takes.

use std::collections::BTreeMap;
use std::time::Instant;

/// Times of stages.
pub struct Clock {
    since: Instant,
    times_ms: BTreeMap<String, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { since: Instant::now(), times_ms: BTreeMap::new() }
    }
}

impl Clock {
    /// Adds the time since the last lap to a stage.
    pub fn lap(&mut self, name: &str) {
        let time_ms = self.since.elapsed().as_secs_f64() * 1e3;
        self.record(name, time_ms);
        self.restart();
    }

    /// Adds a time that was measured elsewhere to a stage.
    pub fn record(&mut self, name: &str, time_ms: f64) {
        *self.times_ms.entry(name.to_string()).or_insert(0.0) += time_ms;
    }

    /// Begins a lap; what has passed since the last one counts for no stage.
    pub fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Time of each stage in ms, by name.
    pub fn into_times_ms(self) -> BTreeMap<String, f64> {
        self.times_ms
    }
}
