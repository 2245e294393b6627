//! How well a network answers without some of its parts: sets of parts are scored together, and what two of them have
//! in common at their beginning is computed once.

use std::ops::AddAssign;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use sha2::{Digest, Sha256};

use super::segments::Segment;
use crate::accuracy::Evidence;
use crate::bits::Bits;
use crate::host::{Backbone, Host, MOST_GRAPHS, Process, Runner};
use crate::kept::{key, remembered};
use crate::progress::Progress;
use partita_ir::graph::{Graph, Value};
use partita_ir::parallel::{in_parallel, workers};

/// By which alternative each segment is computed.
pub type Set = Vec<u8>;

/// What samples say of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Samples with the right answer.
    pub right: usize,
    /// Sum over samples of the negative logarithm of the right class's probability.
    #[serde(rename = "surprise")]
    pub nll: f64,
    /// Samples.
    pub samples: usize,
}

impl Score {
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.samples.max(1) as f64
    }

    /// Mean negative log-likelihood.
    pub fn loss(&self) -> f64 {
        self.nll / self.samples.max(1) as f64
    }
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Score) {
        self.right += other.right;
        self.nll += other.nll;
        self.samples += other.samples;
    }
}

/// What samples say of a graph that may have exits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Of all of them.
    pub score: Score,
    /// How many ended at each exit.
    pub exits: Vec<usize>,
    /// Which samples got the right answer.
    pub right: Bits,
}

impl Ended {
    /// Of one sample.
    fn of(sample: usize, score: Score, exits: Vec<usize>) -> Ended {
        let mut right = Bits::default();
        if score.right > 0 {
            right.insert(sample);
        }
        Ended { score, exits, right }
    }

    /// What is lost where a graph answered the same samples, of these labels, like this.
    pub fn against(&self, base: &Ended, labels: &[u32], classes: usize) -> Evidence {
        let is_right = |ended: &Ended, sample: usize| ended.right.contains(sample);
        let samples = 0..self.score.samples;
        let change = |sample: usize| i8::from(is_right(base, sample)) - i8::from(is_right(self, sample));
        let changes: Vec<i8> = samples.clone().map(change).collect();
        let base_right: Vec<bool> = samples.map(|sample| is_right(base, sample)).collect();
        Evidence::of(&changes, &base_right, labels, classes, None)
    }

    /// Share of samples that ended at each exit.
    pub fn shares(&self) -> Vec<f64> {
        self.exits.iter().map(|ended| *ended as f64 / self.score.samples.max(1) as f64).collect()
    }
}

impl AddAssign for Ended {
    fn add_assign(&mut self, other: Ended) {
        self.score += other.score;
        self.exits.resize(self.exits.len().max(other.exits.len()), 0);
        self.exits.iter_mut().zip(other.exits).for_each(|(own, other)| *own += other);
        // Each sample is in one of the two only.
        self.right.join(&other.right);
    }
}

/// A set as a name.
pub fn name(set: &Set) -> String {
    set.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
}

/// All alternatives of all segments, ready to run.
pub struct Scorer<'a> {
    backbone: Backbone<'a>,
    segments: &'a [Segment],
    /// Number of the graph of each alternative of each segment.
    numbers: Vec<Vec<Option<usize>>>,
    /// Shape of what comes out of each segment.
    shapes: Vec<Vec<usize>>,
    /// Whether the model answers probabilities rather than scores.
    probabilities: bool,
    /// Where scores are kept.
    cache: PathBuf,
}

impl<'a> Scorer<'a> {
    /// Compiles all alternatives. Scores are kept, by what was computed on which samples.
    pub fn new(
        graph: &Graph,
        segments: &'a [Segment],
        probabilities: bool,
        runner: Runner<'a>,
    ) -> Result<Scorer<'a>, partita_placement::Failure> {
        let mut graphs: Vec<Graph> = Vec::new();
        let mut number = |graph: &Option<Graph>| {
            graph.as_ref().map(|graph| {
                graphs.push(graph.clone());
                graphs.len() - 1
            })
        };
        let numbers = segments
            .iter()
            .map(|segment| segment.alternatives.iter().map(|alternative| number(&alternative.graph)).collect())
            .collect();
        let shapes = segments.iter().map(|segment| graph.shape(segment.to).to_vec()).collect();
        let mut digest = Sha256::new();
        graphs.iter().for_each(|graph| digest.update(key(graph, &[])));
        let cache = runner.cache.join(format!("variants-{:.16x}", digest.finalize()));
        Ok(Scorer { backbone: Backbone::of_all(runner.host, graphs)?, segments, numbers, shapes, probabilities, cache })
    }

    /// Scores of sets on some samples; those that are known from an earlier run are not measured again.
    pub fn score(
        &self,
        sets: &[Set],
        inputs: &[&Value],
        labels: &[u32],
        what: &'static str,
    ) -> anyhow::Result<Vec<Score>> {
        let names: Vec<String> = sets.iter().map(name).collect();
        remembered(&self.file("scores", inputs, labels), &names, |new| {
            let new: Vec<Set> = new.iter().map(|at| sets[*at].clone()).collect();
            self.measure(&new, inputs, labels, what)
        })
    }

    fn measure(
        &self,
        sets: &[Set],
        inputs: &[&Value],
        labels: &[u32],
        what: &'static str,
    ) -> anyhow::Result<Vec<Score>> {
        let mut order: Vec<usize> = (0..sets.len()).collect();
        order.sort_by_key(|at| &sets[*at]);
        over_samples(&self.backbone, sets.len(), inputs, labels, what, |process, input, _, label, scores| {
            self.descend(process, 0, input, sets, &order, label, scores)
        })
    }

    /// From a tensor on, all sets that agree so far.
    #[expect(clippy::too_many_arguments, reason = "a recursion over one sample")]
    fn descend(
        &self,
        process: &mut Process<'_>,
        depth: usize,
        tensor: &Value,
        sets: &[Set],
        agreeing: &[usize],
        label: usize,
        scores: &mut [Score],
    ) -> anyhow::Result<()> {
        if depth == self.segments.len() {
            let score = self.judge(tensor, label);
            agreeing.iter().for_each(|set| scores[*set] += score);
            return Ok(());
        }
        for same in agreeing.chunk_by(|a, b| sets[*a][depth] == sets[*b][depth]) {
            let alternative = usize::from(sets[same[0]][depth]);
            match self.numbers[depth].get(alternative).context("no such alternative")? {
                None => self.descend(process, depth + 1, tensor, sets, same, label, scores)?,
                Some(_) => {
                    let next = self.pass(process, depth, alternative as u8, tensor)?;
                    self.descend(process, depth + 1, &next, sets, same, label, scores)?;
                }
            }
        }
        Ok(())
    }

    /// What comes out of a segment.
    pub fn pass(
        &self,
        process: &mut Process<'_>,
        segment: usize,
        alternative: u8,
        tensor: &Value,
    ) -> anyhow::Result<Value> {
        match self.numbers[segment].get(usize::from(alternative)).context("no such alternative")? {
            None => Ok(tensor.clone()),
            Some(number) => {
                let elements = process.answer_by(*number, tensor)?.swap_remove(0);
                Ok(Value::f32(self.shapes[segment].clone(), elements))
            }
        }
    }

    /// Where what was found out about these alternatives on some samples is kept.
    pub fn file(&self, what: &str, inputs: &[&Value], labels: &[u32]) -> PathBuf {
        self.cache.join(format!("{what}-{}.json", digest(inputs, labels)))
    }

    /// A process that computes segments.
    pub fn start(&self) -> anyhow::Result<Process<'_>> {
        self.backbone.start()
    }

    fn judge(&self, answer: &Value, label: usize) -> Score {
        judge(answer.as_f32().unwrap_or(&[]), label, self.probabilities)
    }
}

/// What one answer says.
fn judge(scores: &[f32], label: usize, probabilities: bool) -> Score {
    let best = crate::classifier::class(scores);
    let own = f64::from(scores.get(label).copied().unwrap_or(0.0));
    let nll = if probabilities {
        -own.max(1e-9).ln()
    } else {
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = scores.iter().map(|score| f64::from(score - most).exp()).sum();
        sum.ln() + f64::from(most) - own
    };
    Score { right: usize::from(best == label), nll: nll.min(20.0), samples: 1 }
}

/// Names samples and their labels.
pub fn digest(inputs: &[&Value], labels: &[u32]) -> String {
    let mut digest = Sha256::new();
    for input in inputs {
        partita_files::data::to_f32(&input.data).iter().for_each(|element| digest.update(element.to_le_bytes()));
    }
    labels.iter().for_each(|label| digest.update(label.to_le_bytes()));
    format!("{:.16x}", digest.finalize())
}

/// Scores of whole graphs with the same input and classes, all of them on all samples; those that are known from an
/// earlier run are not measured again.
pub fn score_graphs(
    graphs: &[&Graph],
    inputs: &[&Value],
    labels: &[u32],
    probabilities: bool,
    runner: Runner<'_>,
) -> anyhow::Result<Vec<Ended>> {
    let names: Vec<String> = graphs.iter().map(|graph| key(graph, &[])).collect();
    let file = runner.cache.join("variants").join(format!("answers-{}.json", digest(inputs, labels)));
    remembered(&file, &names, |new| {
        let mut scores = Vec::with_capacity(new.len());
        // As many routes as one program can have.
        for some in new.chunks(MOST_GRAPHS) {
            let some: Vec<&Graph> = some.iter().map(|at| graphs[*at]).collect();
            scores.extend(measure_graphs(&some, inputs, labels, probabilities, runner.host)?);
        }
        Ok(scores)
    })
}

/// The same for as many graphs as one program can have, without a memory.
pub fn measure_graphs(
    graphs: &[&Graph],
    inputs: &[&Value],
    labels: &[u32],
    probabilities: bool,
    host: &dyn Host,
) -> anyhow::Result<Vec<Ended>> {
    let count = graphs.len();
    let backbone = Backbone::of_all(host, graphs.iter().map(|graph| (*graph).clone()).collect())?;
    over_samples(&backbone, count, inputs, labels, "samples that judge", |process, input, sample, label, scores| {
        for (number, ended) in scores.iter_mut().enumerate() {
            let (answer, exit) = process.end_by(number, input)?;
            let mut exits = vec![0; graphs[number].exits().len()];
            if let Some(taken) = exit.and_then(|exit| exits.get_mut(exit)) {
                *taken = 1;
            }
            *ended += Ended::of(sample, judge(&answer, label, probabilities), exits);
        }
        Ok(())
    })
}

/// Adds up, on all cores, what `add` says of each sample: the input, its number, and its label.
fn over_samples<T: AddAssign + Clone + Default + Send>(
    backbone: &Backbone<'_>,
    count: usize,
    inputs: &[&Value],
    labels: &[u32],
    what: &'static str,
    add: impl Fn(&mut Process<'_>, &Value, usize, usize, &mut [T]) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Vec<T>> {
    let all = Mutex::new(vec![T::default(); count]);
    let progress = Progress::new(inputs.len() as u64, what);
    let pieces = workers(inputs.len());
    in_parallel(pieces, |piece| {
        let mut process = backbone.start()?;
        let mut own = vec![T::default(); count];
        for sample in (piece..inputs.len()).step_by(pieces) {
            add(&mut process, inputs[sample], sample, labels[sample] as usize, &mut own)?;
            progress.step();
        }
        let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
        anyhow::Ok(())
    })?;
    progress.finish();
    Ok(all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}
