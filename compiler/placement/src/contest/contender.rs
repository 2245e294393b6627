//! A plan that competes.

use std::collections::BTreeSet;
use std::sync::Arc;

use partita_plan::partition::Partition;
use partita_plan::partition::encodings::Encodings;

use crate::score::{Figures, Rank};

/// An answer, and what it comes to.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The plan, for the whole cluster.
    pub partition: Partition,
    /// What it comes to.
    pub figures: Figures,
    /// Place among the others; the order of questions decides between equals.
    pub(super) rank: (Rank, usize),
    /// Index of the question that it answers.
    pub(super) question: usize,
    /// Whether it answers a question that is asked of every part of a cluster, of those that carry it out.
    pub(super) common: bool,
    /// Of its strategies.
    pub(super) digest: u64,
    /// What its links may send, where that is less than what was asked for.
    pub weakened: Option<Weakened>,
}

/// What the links of a plan may send in fewer bytes, once its error was too large with all that was asked for.
#[derive(Clone, Debug)]
pub struct Weakened {
    /// What may travel in fewer bytes now.
    pub(super) encodings: Arc<Encodings>,
    /// What did before it became less.
    pub first: Arc<Encodings>,
    /// How often it became less.
    pub times: usize,
}

impl Contender {
    /// The same, now that more is known of what it comes to.
    pub fn with(self, figures: Figures) -> Contender {
        Contender { figures, ..self }
    }

    /// What its links may send in fewer bytes, of what was asked for.
    pub fn encodings<'a>(&'a self, asked: &'a Encodings) -> &'a Encodings {
        self.weakened.as_ref().map_or(asked, |weakened| &weakened.encodings)
    }
}

/// Devices that a plan gives something to do.
pub(super) fn working_devices(partition: &Partition) -> BTreeSet<usize> {
    partition.strategies.values().flat_map(|strategy| strategy.devices()).collect()
}
