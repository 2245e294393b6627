//! What comes of an inference on a running cluster: the answer and what it cost each device, or what went wrong.

use std::time::Duration;

use partita_rt::DeviceCosts;

/// What went wrong, naming the device.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A process could not be started.
    #[error("starting device `{device}` ({command}): {source}")]
    Start {
        /// Name of the device.
        device: String,
        /// Program that was started.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// A device ended or broke its control stream.
    #[error("device `{device}` stopped: {reason}{said}")]
    Stopped {
        /// Name of the device.
        device: String,
        /// Why, as far as known.
        reason: String,
        /// What it wrote to standard error.
        said: String,
    },
    /// A launcher needs to know where devices are.
    #[error("device `{0}` has no address; with --launcher, cluster.toml says where each device listens")]
    NoAddress(String),
    /// No answer in time.
    #[error("no answer within {seconds} s; still waiting for {waiting}{said}")]
    Deadline {
        /// How long.
        seconds: u64,
        /// Devices whose part is missing.
        waiting: String,
        /// What devices wrote to standard error.
        said: String,
    },
    /// Devices gave an inference up, and every repetition of it.
    #[error("the cluster gave the inference up: {reason}, after {times} tries{said}")]
    GivenUp {
        /// Why.
        reason: String,
        /// How often it was tried.
        times: usize,
        /// What devices wrote to standard error.
        said: String,
    },
    /// The local machine failed: folders, sockets.
    #[error("running the cluster: {0}")]
    Local(#[from] std::io::Error),
}

/// What an inference cost one device.
#[derive(Clone, Debug, Default)]
pub struct DeviceReport {
    /// Name of the device.
    pub name: String,
    /// Time in computing steps.
    pub compute_us: u64,
    /// Time in sends and receives.
    pub wait_us: u64,
    /// Payload bytes sent to peers.
    pub sent_bytes: u64,
    /// Payload bytes received from peers.
    pub received_bytes: u64,
    /// Exit at which its work ended, and the confidence there.
    pub exit: Option<(u32, f32)>,
}

impl DeviceReport {
    pub(super) fn of(name: &str, costs: DeviceCosts) -> DeviceReport {
        DeviceReport {
            name: name.to_string(),
            compute_us: costs.compute_us,
            wait_us: costs.wait_us,
            sent_bytes: costs.sent_bytes,
            received_bytes: costs.received_bytes,
            exit: costs.exit,
        }
    }

    /// Time in computing steps.
    pub fn compute_ms(&self) -> f64 {
        self.compute_us as f64 / 1e3
    }

    /// Time in sends and receives.
    pub fn wait_ms(&self) -> f64 {
        self.wait_us as f64 / 1e3
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct InferenceResult {
    /// Bytes of the outputs.
    pub output: Vec<u8>,
    /// From handing in the input to having the output.
    pub wall_time: Duration,
    /// Exit at which it ended, and the confidence there; none if it went to the end.
    pub exit: Option<(u32, f32)>,
    /// Route that it took; 0 is the whole network.
    pub route: u8,
    /// How often it was given up before.
    pub given_up: usize,
    /// Costs of each device that is there, in the order of the devices.
    pub reports: Vec<DeviceReport>,
    /// Nanoseconds of each step of each device, if they were asked to time them.
    pub profiles: Vec<Vec<u64>>,
}
