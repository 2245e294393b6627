//! Which numbers are taken from files and options. A number far outside of what any machine has is a slip of the pen, and
//! sums with it mean nothing; what depends on them would not end.

/// A quantity and the values that it may have, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Where it is written: a key, or an option.
    pub key: &'static str,
    /// What the ends are given in.
    pub unit: &'static str,
    /// Least value.
    pub least: f64,
    /// Greatest value.
    pub most: f64,
}

const fn range(key: &'static str, unit: &'static str, least: f64, most: f64) -> Range {
    Range { key, unit, least, most }
}

/// Share of a core, in cluster.toml and in measurements.
pub const CPU_SHARE: Range = range("cpu", "of a core", 0.001, 1.0);
/// Rate of a link: 100 bit/s to 1 Tbit/s.
pub const BANDWIDTH: Range = range("bandwidth", "bytes/s", 12.5, 1.25e11);
/// Rate of a serial line.
pub const BAUD: Range = range("baud", "bit/s", 300.0, 20e6);
/// Latency of a link.
pub const LINK_LATENCY: Range = range("latency", "ms", 0.0, 60e3);
/// Longest time that an answer may take.
pub const MAX_LATENCY: Range = range("max_latency, --max-latency", "ms", 1e-6, 1e9);
/// RAM and flash of a device.
pub const MEMORY: Range = range("ram, flash, ram-bytes, flash-bytes", "bytes", 1.0, 1e15);
/// Clock of a target.
pub const CLOCK: Range = range("clock-hz", "Hz", 1e4, 1e11);
/// Clocks of a board's UARTs and of its core.
pub const BOARD_CLOCK: Range = range("uart-hz, core-hz", "Hz", 1e6, 1e10);
/// Multiply-adds per second.
pub const MACS_RATE: Range = range("conv-macs-per-second, depthwise-macs-per-second", "per s", 1e2, 1e16);
/// Elements of portable kernels per second.
pub const ELEMENT_RATE: Range = range("element-per-second, result-per-second", "per s", 1e2, 1e16);
/// Reads from main memory.
pub const MEMORY_RATE: Range = range("memory-bytes-per-second", "bytes/s", 1e2, 1e16);
/// What a message costs a processor.
pub const MESSAGE_COST: Range = range("message-microseconds", "us", 0.0, 1e7);
/// What a processor can send or receive.
pub const LINK_RATE: Range = range("link-bytes-per-second", "bytes/s", 1e2, 1e16);
/// What a further thread adds.
pub const THREAD_GAIN: Range = range("thread-gain, thread-memory-gain", "of a core", 0.0, 1.0);
/// Caches.
pub const CACHE: Range = range("l1-bytes, l2-bytes", "bytes", 0.0, 1e10);
/// Energy of a multiply-add or of a byte from memory.
pub const PICOJOULE: Range = range("picojoule-per-mac, picojoule-per-byte", "pJ", 0.0, 1e9);
/// Energy of a byte over a link.
pub const NANOJOULE: Range = range("link-nanojoule-per-byte", "nJ", 0.0, 1e9);
/// Power of a device that does nothing.
pub const IDLE: Range = range("idle-watt", "W", 0.0, 1e5);
/// Measured time divided by predicted time.
pub const FACTOR: Range = range("factors of measurements", "times the prediction", 1e-6, 1e6);
/// A time that was measured.
pub const MEASURED: Range = range("measured microseconds", "us", 0.0, 1e12);

/// All of them, for the page that explains a refusal.
pub const ALL: &[Range] = &[
    CPU_SHARE,
    BANDWIDTH,
    BAUD,
    LINK_LATENCY,
    MAX_LATENCY,
    MEMORY,
    CLOCK,
    BOARD_CLOCK,
    MACS_RATE,
    ELEMENT_RATE,
    MEMORY_RATE,
    MESSAGE_COST,
    LINK_RATE,
    THREAD_GAIN,
    CACHE,
    PICOJOULE,
    NANOJOULE,
    IDLE,
    FACTOR,
    MEASURED,
];

impl Range {
    /// Whether a value is among them; NaN is not.
    pub fn contains(&self, value: f64) -> bool {
        (self.least..=self.most).contains(&value)
    }

    /// The value, or in words which values there are.
    pub fn check(&self, value: f64) -> Result<f64, String> {
        if self.contains(value) { Ok(value) } else { Err(format!("is {value}, expected {}", self.words())) }
    }

    /// `0.001 to 1 of a core`.
    pub fn words(&self) -> String {
        format!("{} to {} {}", number(self.least), number(self.most), self.unit)
    }
}

/// Powers of ten as such: `1e16`, not 10000000000000000.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value) { format!("{value:e}") } else { value.to_string() }
}

/// A line for each range.
pub fn table() -> String {
    ALL.iter().map(|range| format!("  {}: {}", range.key, range.words())).collect::<Vec<_>>().join("\n")
}

/// Reads an option's milliseconds.
pub fn parse_max_latency(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of milliseconds, such as 50".to_string())?;
    MAX_LATENCY.check(value)
}

#[cfg(test)]
mod tests {
    use super::{ALL, CPU_SHARE, parse_max_latency, table};

    #[test]
    fn ranges_hold_no_nonsense() {
        for range in ALL {
            assert!(range.least < range.most && range.contains(range.least) && range.contains(range.most), "{range:?}");
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -1e-300, 1e308] {
                assert!(!range.contains(value), "{range:?} takes {value}");
            }
        }
        assert!(CPU_SHARE.check(1e-300).is_err_and(|words| words.contains("0.001 to 1 of a core")));
        assert!(table().contains("bandwidth: 12.5 to 1.25e11 bytes/s"));
        assert_eq!(parse_max_latency("50"), Ok(50.0));
        for text in ["nan", "inf", "-1", "0", "x", ""] {
            assert!(parse_max_latency(text).is_err(), "{text}");
        }
    }
}
