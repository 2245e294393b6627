//! How fast a core computes, reads memory and serves links, and what further threads add.

use serde::Deserialize;

use super::ranges;

/// Sustained rates of one core.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rate {
    /// Multiply-adds per second of dense convolutions and matrix products.
    pub conv_macs_per_second: f64,
    /// Multiply-adds per second of depthwise convolutions.
    pub depthwise_macs_per_second: f64,
    /// Results per second that convolutions and matrix products finish and write, beside multiplying; with Winograd's
    /// algorithm those of its products. No limit where the file says nothing.
    #[serde(default = "unlimited")]
    pub result_per_second: f64,
    /// Elements per second of portable reference kernels.
    pub element_per_second: f64,
    /// Streaming reads from main memory.
    pub memory_bytes_per_second: f64,
    /// Processor time to send or receive one message, whatever its size.
    #[serde(default = "default_message_microseconds")]
    pub message_microseconds: f64,
    /// Bytes per second that the processor can send or receive: copies, checksums and the network stack.
    #[serde(default = "default_link_bytes_per_second")]
    pub link_bytes_per_second: f64,
    /// What each further thread adds to multiply-adds, of the first one's rate.
    #[serde(default = "default_thread_gain")]
    pub thread_gain: f64,
    /// What each further thread adds to reading memory, of the first one's rate: nothing where one core reads as fast as
    /// memory gives.
    #[serde(default)]
    pub thread_memory_gain: f64,
}

impl Rate {
    /// The rates of a process that may use only a share of the core.
    pub fn scaled(&self, share: f64) -> Rate {
        Rate {
            conv_macs_per_second: self.conv_macs_per_second * share,
            depthwise_macs_per_second: self.depthwise_macs_per_second * share,
            result_per_second: (self.result_per_second * share).min(unlimited()),
            element_per_second: self.element_per_second * share,
            memory_bytes_per_second: self.memory_bytes_per_second * share,
            message_microseconds: self.message_microseconds / share,
            link_bytes_per_second: self.link_bytes_per_second * share,
            ..self.clone()
        }
    }

    /// The rates of a process whose kernels several threads share: those of what emitted kernels do. Portable ones run on
    /// one thread, and results are written no faster: threads wait for the same memory.
    pub fn shared(&self, threads: usize) -> Rate {
        let with_gain = |gain: f64| 1.0 + gain * threads.saturating_sub(1) as f64;
        let (arithmetic, memory) = (with_gain(self.thread_gain), with_gain(self.thread_memory_gain));
        Rate {
            conv_macs_per_second: self.conv_macs_per_second * arithmetic,
            depthwise_macs_per_second: self.depthwise_macs_per_second * arithmetic,
            memory_bytes_per_second: self.memory_bytes_per_second * memory,
            ..self.clone()
        }
    }
}

/// Writing results takes no time of its own.
fn unlimited() -> f64 {
    ranges::ELEMENT_RATE.most
}

/// Threads that share neither caches nor memory: measured with emitted kernels on x86-64.
fn default_thread_gain() -> f64 {
    0.9
}

/// An estimate for small Linux boards: two system calls and their wake-ups.
fn default_message_microseconds() -> f64 {
    40.0
}

/// An estimate for small Linux boards: a few copies and a checksum of every byte.
fn default_link_bytes_per_second() -> f64 {
    250e6
}
