//! What a model loses without its parts: each alone, then the best sets, measured on the calibration samples.
//!
//! Half of the samples guide the search, the others say what the sets that were found are worth.

use std::collections::BTreeMap;

use super::combined;
use super::demanded::Demanded;
use super::fitting;
use super::guided::{Guided, Singles};
use super::options::VariantOptions;
use super::parts::{dropped, macs, parts};
use super::scores::{Scorer, Set, score_graphs};
use super::segments::segments;
use super::studied::{Member, Study};
use crate::accuracy::HoldoutReport;
use crate::classifier::{answers_probabilities, class};
use crate::exits::features;
use crate::holdout::Beside;
use crate::host::{MOST_GRAPHS, Runner};
use crate::progress::note;
use crate::samples::Samples;
use partita_ir::graph::{Graph, NodeId, Value};
use partita_placement::{Failure, internal};

/// What variants are studied on.
pub struct Dataset {
    /// Calibration samples.
    pub samples: Samples,
    /// Number of classes.
    pub classes: usize,
    /// What is known of other samples.
    pub beside: Option<Beside>,
}

/// Studies a classifier. Sets that are less accurate than the user wants are not pursued. `sent_bytes` are those of
/// each node where the whole network runs on the whole cluster.
pub fn study(
    graph: &Graph,
    dataset: &Dataset,
    wanted: &VariantOptions,
    sent_bytes: &BTreeMap<NodeId, u64>,
    runner: Runner<'_>,
) -> Result<Study, Failure> {
    let (samples, classes) = (&dataset.samples, dataset.classes);
    let mut demanded = Demanded { limits: wanted.demands.limits, gap: 0.0 };
    let parts = parts(graph);
    if parts.is_empty() {
        return Ok(Study { parts, ..Study::default() });
    }
    let mut segments = segments(graph, &parts)?;
    let (labels, fitter) = fitting::add_compensations(graph, &parts, &mut segments, samples, runner)?;
    let alone = segments.clone();
    let mut scorer = Scorer::new(graph, &alone, answers_probabilities(graph), runner)?;
    let travels: Vec<u64> = alone.iter().map(|segment| segment.alternatives[0].sent_bytes(sent_bytes)).collect();
    let mut guided = Guided::new(&scorer, &alone, travels.clone(), samples, &labels, runner);
    let mut singles = guided.singles(Singles::default()).map_err(Failure::of)?;
    if combined::add(graph, &parts, &mut segments, &singles.alternatives, singles.whole, MOST_GRAPHS)? {
        scorer = Scorer::new(graph, &segments, answers_probabilities(graph), runner)?;
        guided = Guided::new(&scorer, &segments, travels, samples, &labels, runner);
        singles = guided.singles(singles).map_err(Failure::of)?;
    }
    let (found, known) = guided.search(singles, &demanded).map_err(Failure::of)?;
    let sets = guided.worth(known, demanded.floor(found.guide));
    // What each set's compensations are where all of its parts have gone.
    let refitted = fitting::refit(&parts, &segments, &sets, &fitter, &scorer).map_err(Failure::of)?;
    let (base, mut front) = guided.judge(graph, &parts, &sets, refitted, classes)?;
    let holdout = compare(dataset.beside.as_ref(), graph, runner, dataset.classes, base.score.accuracy())?;
    demanded.gap = holdout.map_or(0.0, |holdout| holdout.widened_by);
    front.retain(|member| member.drops.is_empty() || demanded.is_kept(base.score, member.score, &member.evidence));
    let judges = (guided.judges.0.iter().map(|input| (*input).clone()).collect(), guided.judges.1.clone());
    let segments = segments.clone();
    Ok(Study { base, demanded, holdout, front, segments, parts, judges, ..found })
}

/// Only the whole model, where nothing can be proven of what is left of it.
pub fn whole(
    graph: &Graph,
    dataset: &Dataset,
    wanted: &VariantOptions,
    reason: String,
    runner: Runner<'_>,
) -> Result<Study, Failure> {
    let (samples, classes) = (&dataset.samples, dataset.classes);
    let labels: Vec<u32> = match &samples.labels {
        Some(labels) => labels.iter().map(|label| *label as u32).collect(),
        None => {
            let answers = features::extract(graph, &[], &samples.inputs, runner)?.answers;
            answers.chunks_exact(classes).map(|scores| class(scores) as u32).collect()
        }
    };
    let judges: (Vec<Value>, Vec<u32>) = samples.inputs.iter().cloned().zip(labels).skip(1).step_by(2).unzip();
    let inputs: Vec<&Value> = judges.0.iter().collect();
    // As the search names it, which may have asked already.
    let alone = dropped(graph, &[]).map_err(internal)?;
    let ended = score_graphs(&[&alone], &inputs, &judges.1, answers_probabilities(graph), runner);
    let base = ended.map_err(Failure::of)?.into_iter().next().unwrap_or_default();
    let evidence = base.against(&base, &judges.1, classes);
    let (set, drops, macs) = (Set::new(), Vec::new(), macs(graph));
    let front = vec![Member { set, drops, score: base.score, evidence, macs, sent_bytes: 0, ends_at: None }];
    let holdout = compare(dataset.beside.as_ref(), graph, runner, dataset.classes, base.score.accuracy())?;
    let demanded = Demanded { limits: wanted.demands.limits, gap: holdout.map_or(0.0, |holdout| holdout.widened_by) };
    Ok(Study { base, front, judges, demanded, holdout, unsought: Some(reason), ..Study::default() })
}

/// The whole model on other samples, if anything is known of that.
fn compare(
    beside: Option<&Beside>,
    graph: &Graph,
    runner: Runner<'_>,
    classes: usize,
    accuracy: f64,
) -> Result<Option<HoldoutReport>, Failure> {
    let Some(beside) = beside else { return Ok(None) };
    let report = beside.compare(graph, classes, accuracy, runner)?;
    note(&report.sentence());
    Ok(Some(report))
}

impl Study {
    /// The front as it answers with exits: every set is measured again, and networks that end at each exit join it.
    pub fn with_exits(&mut self, graph: &Graph, runner: Runner<'_>) -> Result<Vec<Graph>, Failure> {
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
        let ended = score_graphs(&all, &inputs, &self.judges.1, probabilities, runner);
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
    partita_passes::run(partita_passes::TIDY, &mut short, &mut |_, _, _| {}).map_err(internal)?;
    Ok(Some(short))
}
