//! Programs that fit, and what they will take.

use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::options::Options;
use crate::placement::{Failure, Placed};
use crate::simulate::{self, Prediction};

/// A placed network, simulated.
pub struct Planned {
    /// Who computes what, and how.
    pub placed: Placed,
    /// What will happen.
    pub prediction: Prediction,
}

impl Planned {
    /// Simulates an inference that answers so many samples.
    pub fn of(placed: Placed, cluster: &Cluster, batch: usize) -> Planned {
        let mut prediction = simulate::simulate(&placed.sharded, &placed.schedules, cluster);
        prediction.throughput_hz *= batch as f64;
        Planned { placed, prediction }
    }

    /// The same if it is as fast as is wanted.
    ///
    /// Errors: E0172.
    pub fn in_time(self, cluster: &Cluster, options: &Options) -> Result<Planned, Failure> {
        let latency_ms = self.prediction.latency_ms;
        let limits =
            [("--max-latency", options.max_latency_ms), ("max_latency of the cluster", cluster.max_latency_ms)];
        match limits.into_iter().find_map(|(who, limit)| Some((who, limit.filter(|limit| latency_ms > *limit)?))) {
            Some((who, limit)) => Err(Failure::Infeasible(
                Diagnostic::new(
                    "E0172",
                    format!("the fastest plan that was found takes {latency_ms:.3} ms, but {who} is {limit} ms"),
                )
                .help("allow more time, use faster devices or links, or let the network shrink (--variants auto)"),
            )),
            None => Ok(self),
        }
    }
}
