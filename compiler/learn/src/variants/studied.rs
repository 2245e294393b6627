//! What is known of a model's parts: the value of a study.

use partita_ir::graph::{Graph, Value};

use super::demanded::Demanded;
use super::parts::{Compensation, Drop, Part};
use super::scores::{Ended, Score, Set};
use super::search::Bound;
use super::segments::Segment;
use crate::accuracy::{Evidence, HoldoutReport};

/// What is known of a model's parts.
#[derive(Default)]
pub struct Study {
    /// The parts.
    pub parts: Vec<Part>,
    /// The model as a chain.
    pub segments: Vec<Segment>,
    /// Each alternative of each segment alone: which, and what it scores on the first of the samples that guide.
    pub singles: Vec<(usize, u8, Score)>,
    /// The whole model on those.
    pub alone: Score,
    /// The whole model on all samples that guide.
    pub guide: Score,
    /// The whole model, without exits, on the samples that judge.
    pub base: Ended,
    /// Sets that nothing beats in accuracy and in what they save, the whole model first.
    pub front: Vec<Member>,
    /// Sets that were measured.
    pub measured: usize,
    /// What is proven of multiply-adds and of traffic that can be saved.
    pub bounds: (Vec<Bound>, Vec<Bound>),
    /// The samples that judge, and what they are.
    pub judges: (Vec<Value>, Vec<u32>),
    /// What variants must keep.
    pub demanded: Demanded,
    /// The whole model on other samples, if anything is known of that.
    pub holdout: Option<HoldoutReport>,
    /// Why nothing was sought, where that is so.
    pub unsought: Option<String>,
}

/// A set of parts that can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// By which alternative each segment is computed.
    pub set: Set,
    /// What goes.
    pub drops: Vec<Drop>,
    /// What the samples that judge say.
    pub score: Score,
    /// The same beside the whole network without exits, of all classes and of each.
    pub evidence: Evidence,
    /// Multiply-adds.
    pub macs: u64,
    /// Bytes that travel of what stays, where the whole network runs on the whole cluster.
    pub sent_bytes: u64,
    /// The exit at which every inference ends; none if it goes on.
    pub ends_at: Option<usize>,
}

impl Member {
    /// What goes, each with what takes its place.
    pub fn drops<'a>(&'a self, parts: &'a [Part]) -> Vec<(&'a Part, Option<&'a Compensation>)> {
        self.drops.iter().map(|(part, compensation)| (&parts[*part], compensation.as_ref())).collect()
    }
}

impl Study {
    /// Accuracy that each member of the front, as it answers, surely does not lose more than to the whole network
    /// without exits, which loses nothing to itself.
    pub fn loss_bounds(&self, graphs: &[Graph]) -> Vec<f64> {
        let bound = |(member, graph): (&Member, &Graph)| {
            let is_whole = member.drops.is_empty() && graph.exits().is_empty() && member.ends_at.is_none();
            if is_whole { 0.0 } else { member.evidence.difference.loss_bound() + self.demanded.gap }
        };
        self.front.iter().zip(graphs).map(bound).collect()
    }
}
