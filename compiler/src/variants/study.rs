//! What a model loses without its parts: each alone, then the best sets, measured on the calibration samples.
//!
//! Half of the samples guide the search, the others say what the sets that were found are worth.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::VariantOptions;
use super::combined;
use super::demanded::Demanded;
use super::fitting;
use super::guided::{Guided, Singles};
use super::parts::{Drop, Part, Repair, dropped, macs, parts};
use super::scores::{Ended, Score, Scorer, Set, score_graphs};
use super::search::Bound;
use super::segments::{Segment, segments};
use crate::accuracy::{Evidence, HoldoutReport};
use crate::classifier::{answers_probabilities, class};
use crate::exits::features;
use crate::graph::{Graph, NodeId, Value};
use crate::holdout::Beside;
use crate::host::backbone::MOST_GRAPHS;
use crate::host::progress::note;
use crate::passes;
use crate::placement::{Failure, internal};
use crate::samples::Samples;

/// What is known of a model's parts.
#[derive(Default)]
pub struct Study {
    /// The parts.
    pub parts: Vec<Part>,
    /// The model as a chain.
    pub segments: Vec<Segment>,
    /// Each way of each segment alone: which, and what it scores on the first of the samples that guide.
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
    /// Where scores are kept.
    pub cache: PathBuf,
    /// What variants must keep.
    pub demanded: Demanded,
    /// The whole model on other samples, if anything is known of that.
    pub holdout: Option<HoldoutReport>,
    /// Why nothing was sought, where that is so.
    pub unsought: Option<String>,
}

/// What variants are studied on.
pub struct Given {
    /// Calibration samples.
    pub samples: Samples,
    /// Number of classes.
    pub classes: usize,
    /// What is known of other samples.
    pub beside: Option<Beside>,
}

/// A set of parts that can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which way each segment is computed.
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
    pub fn drops<'a>(&'a self, parts: &'a [Part]) -> Vec<(&'a Part, Option<&'a Repair>)> {
        self.drops.iter().map(|(part, repair)| (&parts[*part], repair.as_ref())).collect()
    }
}

/// Studies a classifier. Sets that are less accurate than the user wants are not pursued. `sent_bytes` are those of each
/// node where the whole network runs on the whole cluster.
pub fn study(
    graph: &Graph,
    given: &Given,
    wanted: &VariantOptions,
    sent_bytes: &BTreeMap<NodeId, u64>,
) -> Result<Study, Failure> {
    let (samples, classes) = (&given.samples, given.classes);
    let mut demanded = Demanded { limits: wanted.demands.limits, gap: 0.0 };
    let parts = parts(graph);
    if parts.is_empty() {
        return Ok(Study { parts, ..Study::default() });
    }
    let cache = wanted.cache.as_path();
    let mut segments = segments(graph, &parts)?;
    let (labels, fitter) = fitting::add_repairs(graph, &parts, &mut segments, samples, cache)?;
    let alone = segments.clone();
    let mut scorer = Scorer::new(graph, &alone, answers_probabilities(graph), cache)?;
    let travels: Vec<u64> = alone.iter().map(|segment| segment.ways[0].sent_bytes(sent_bytes, graph)).collect();
    let mut guided = Guided::new(&scorer, &alone, travels.clone(), samples, &labels, cache);
    let mut singles = guided.singles(Singles::default()).map_err(Failure::of)?;
    if combined::add(graph, &parts, &mut segments, &singles.ways, singles.whole, MOST_GRAPHS)? {
        scorer = Scorer::new(graph, &segments, answers_probabilities(graph), cache)?;
        guided = Guided::new(&scorer, &segments, travels, samples, &labels, cache);
        singles = guided.singles(singles).map_err(Failure::of)?;
    }
    let (found, known) = guided.search(singles, &demanded).map_err(Failure::of)?;
    let sets = guided.worth(known, demanded.floor(found.guide));
    // What each set's repairs are where all of its parts have gone.
    let refitted = fitting::refit(&parts, &segments, &sets, &fitter, &scorer).map_err(Failure::of)?;
    let (base, mut front) = guided.judge(graph, &parts, &sets, refitted, classes)?;
    let holdout = compare(given.beside.as_ref(), graph, wanted, given.classes, base.score.accuracy())?;
    demanded.gap = holdout.map_or(0.0, |holdout| holdout.widened_by);
    front.retain(|member| member.drops.is_empty() || demanded.is_kept(base.score, member.score, &member.evidence));
    let judges = (guided.judges.0.iter().map(|input| (*input).clone()).collect(), guided.judges.1.clone());
    let segments = segments.clone();
    Ok(Study { base, demanded, holdout, front, segments, parts, judges, cache: cache.to_path_buf(), ..found })
}

/// Only the whole model, where nothing can be proven of what is left of it.
pub fn whole(graph: &Graph, given: &Given, wanted: &VariantOptions, reason: String) -> Result<Study, Failure> {
    let (samples, classes) = (&given.samples, given.classes);
    let labels: Vec<u32> = match &samples.labels {
        Some(labels) => labels.iter().map(|label| *label as u32).collect(),
        None => {
            let answers = features::extract(graph, &[], &samples.inputs, &wanted.cache)?.answers;
            answers.chunks_exact(classes).map(|scores| class(scores) as u32).collect()
        }
    };
    let judges: (Vec<Value>, Vec<u32>) = samples.inputs.iter().cloned().zip(labels).skip(1).step_by(2).unzip();
    let inputs: Vec<&Value> = judges.0.iter().collect();
    // As the search names it, which may have asked already.
    let alone = dropped(graph, &[]).map_err(internal)?;
    let ended = score_graphs(&[&alone], &inputs, &judges.1, answers_probabilities(graph), &wanted.cache);
    let base = ended.map_err(Failure::of)?.into_iter().next().unwrap_or_default();
    let evidence = base.against(&base, &judges.1, classes);
    let (set, drops, macs) = (Set::new(), Vec::new(), macs(graph));
    let front = vec![Member { set, drops, score: base.score, evidence, macs, sent_bytes: 0, ends_at: None }];
    let holdout = compare(given.beside.as_ref(), graph, wanted, given.classes, base.score.accuracy())?;
    let demanded = Demanded { limits: wanted.demands.limits, gap: holdout.map_or(0.0, |holdout| holdout.widened_by) };
    let cache = wanted.cache.clone();
    Ok(Study { base, front, judges, cache, demanded, holdout, unsought: Some(reason), ..Study::default() })
}

/// The whole model on other samples, if anything is known of that.
fn compare(
    beside: Option<&Beside>,
    graph: &Graph,
    wanted: &VariantOptions,
    classes: usize,
    accuracy: f64,
) -> Result<Option<HoldoutReport>, Failure> {
    let Some(beside) = beside else { return Ok(None) };
    let report = beside.compare(graph, classes, accuracy, &wanted.cache)?;
    note(&report.sentence());
    Ok(Some(report))
}

impl Study {
    /// Accuracy that each member of the front, as it answers, surely does not lose more than to the whole network without
    /// exits, which loses nothing to itself.
    pub fn loss_bounds(&self, graphs: &[Graph]) -> Vec<f64> {
        let bound = |(member, graph): (&Member, &Graph)| {
            let is_whole = member.drops.is_empty() && graph.exits().is_empty() && member.ends_at.is_none();
            if is_whole { 0.0 } else { member.evidence.difference.loss_bound() + self.demanded.gap }
        };
        self.front.iter().zip(graphs).map(bound).collect()
    }

    /// The front as it answers with exits: every set is measured again, and networks that end at each exit join it.
    pub fn with_exits(&mut self, graph: &Graph) -> Result<Vec<Graph>, Failure> {
        let without = |member: &Member| dropped(graph, &member.drops(&self.parts)).map_err(internal);
        let mut graphs = self.front.iter().map(without).collect::<Result<Vec<Graph>, Failure>>()?;
        if graph.exits().is_empty() {
            return Ok(graphs);
        }
        let mut ends: Vec<usize> = Vec::new();
        for exit in 0..graph.exits().len() {
            if let Some(short) = truncated(graph, exit)? {
                graphs.push(short);
                ends.push(exit);
            }
        }
        let probabilities = answers_probabilities(graph);
        let classes = self.front.first().map_or(0, |whole| whole.evidence.classes.len());
        let inputs: Vec<&Value> = self.judges.0.iter().collect();
        let all: Vec<&Graph> = graphs.iter().collect();
        let ended = score_graphs(&all, &inputs, &self.judges.1, probabilities, &self.cache);
        let ended = ended.map_err(Failure::of)?;
        let (known, short) = ended.split_at(self.front.len());
        for ((member, graph), ended) in self.front.iter_mut().zip(&mut graphs).zip(known) {
            member.score = ended.score;
            member.evidence = ended.against(&self.base, &self.judges.1, classes);
            // The whole network's exits have been weighed already, on more samples.
            if !member.drops.is_empty() {
                graph.set_exit_shares(&ended.shares());
            }
        }
        let mut kept = graphs.split_off(self.front.len()).into_iter();
        for (exit, ended) in ends.into_iter().zip(short) {
            let (score, evidence) = (ended.score, ended.against(&self.base, &self.judges.1, classes));
            let is_kept = self.demanded.is_kept(self.base.score, score, &evidence);
            let Some(graph) = kept.next().filter(|_| is_kept) else { continue };
            let (set, drops, macs) = (Set::new(), Vec::new(), macs(&graph));
            self.front.push(Member { set, drops, score, evidence, macs, sent_bytes: 0, ends_at: Some(exit) });
            graphs.push(graph);
        }
        Ok(graphs)
    }
}

/// A graph that ends at an exit, whatever the exit says; none if the exit cannot be the answer.
fn truncated(graph: &Graph, exit: usize) -> Result<Option<Graph>, Failure> {
    let (Some(decide), [output]) = (graph.exits().get(exit).copied(), &graph.outputs[..]) else { return Ok(None) };
    let scores = graph.node(decide).inputs[0];
    if graph.tensor_type(scores) != graph.tensor_type(*output) {
        return Ok(None);
    }
    let mut short = graph.clone();
    for id in graph.exits() {
        short.remove_node(id);
    }
    let name = graph.tensor(*output).name.clone();
    short.rename_tensor(*output, format!("{name}.whole"));
    short.rename_tensor(scores, name);
    short.outputs = vec![scores].into();
    passes::run(passes::TIDY, &mut short, &mut |_, _, _| {}).map_err(internal)?;
    Ok(Some(short))
}
