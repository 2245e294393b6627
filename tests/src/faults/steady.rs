//! What a cluster answers while nothing breaks: how soon, how often, right or wrong, and what its processes take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;

use super::cluster::{Bundle, Cluster, NAMES};
use super::stream::Stream;
use crate::arrays::relative_difference;
use crate::bundle::TOLERANCE;

/// Inputs under way where several are.
pub const UNDER_WAY: usize = 8;

/// How long an input may take.
const BUDGET: Duration = Duration::from_secs(10);

/// What became of inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// By the whole network.
    pub full: usize,
    /// On another route.
    pub variant: usize,
    /// Their time was up.
    pub late: usize,
    /// Nothing could take them.
    pub failed: usize,
    /// Answered wrongly.
    pub wrong: usize,
}

impl Outcomes {
    /// Whether every input was answered rightly.
    pub fn are_good(&self) -> bool {
        self.late + self.failed + self.wrong == 0
    }
}

/// A client of a running cluster, which asks for the bundle's samples in their order.
pub struct Asker {
    bundle: Arc<Bundle>,
    client: Client,
    given: usize,
    taken: usize,
    /// Of all that it has asked for.
    pub outcomes: Outcomes,
}

impl Asker {
    /// Waits until everybody takes part, and connects.
    pub fn connect(cluster: &Cluster) -> Asker {
        let stream = Stream::start(cluster, Duration::from_millis(10), Duration::from_secs(1));
        stream.is_well(Instant::now(), 8, Duration::from_secs(20));
        stream.stop();
        let bundle = cluster.bundle.clone();
        let output = Some(cluster.socket(bundle.shape.output())).filter(|_| bundle.shape.output() != 0);
        let client = Client::connect(bundle.plan_hash, &cluster.socket(0), output.as_deref());
        let mut client = client.expect("it listens");
        client.set_budget(BUDGET).expect("it hears");
        Asker { bundle, client, given: 0, taken: 0, outcomes: Outcomes::default() }
    }

    fn give(&mut self) {
        let sample = self.given % self.bundle.inputs.len();
        self.client.submit(&self.bundle.inputs[sample]).expect("it is taken");
        self.given += 1;
    }

    fn take(&mut self) {
        let expected = &self.bundle.answers[self.taken % self.bundle.answers.len()];
        self.taken += 1;
        let mut answer = vec![0; 4 * expected.len()];
        match self.client.next(&mut answer).expect("it answers").outcome {
            Outcome::Full | Outcome::Exit(..) => self.outcomes.full += 1,
            Outcome::Variant(..) => self.outcomes.variant += 1,
            Outcome::Late => return self.outcomes.late += 1,
            Outcome::Failed(_) => return self.outcomes.failed += 1,
        }
        let answer: Vec<f32> = answer.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        self.outcomes.wrong += usize::from(relative_difference(&answer, expected) > TOLERANCE);
    }

    /// How long each of so many inputs takes, one at a time.
    pub fn one_at_a_time(&mut self, count: usize) -> Vec<Option<Duration>> {
        let mut one = |_| {
            let begun = Instant::now();
            self.give();
            self.take();
            Some(begun.elapsed())
        };
        (0..count).map(&mut one).collect()
    }

    /// Answers per second with [`UNDER_WAY`] inputs under way.
    pub fn several_at_once(&mut self, count: usize) -> f64 {
        let begun = Instant::now();
        for at in 0..count + UNDER_WAY {
            if at < count {
                self.give();
            }
            if at >= UNDER_WAY {
                self.take();
            }
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }
}

/// Resident memory in KiB and open descriptors of every process.
pub fn taken(cluster: &Cluster) -> Vec<(u64, usize)> {
    let of = |device: usize| {
        let process = cluster.process_id(device);
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
        (resident.and_then(|kib| kib.parse().ok()).unwrap_or(0), open)
    };
    (0..NAMES.len()).map(of).collect()
}
