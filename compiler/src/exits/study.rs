//! The study: which heads are trained and judged, and what is made of it.

use super::calibrate::{Seen, class};
use super::candidates::{Place, View};
use super::choose::{self, Choice, Chosen, Limit, Possible};
use super::features::Features;
use super::heads::{self, Chance, Head, Lesson};
use super::progress::Progress;
use super::tables::{self, Answered};
use super::{CalibrationReport, CurvePoint, ExitOptions, ExitReport, ExitsReport, insert};
use crate::driver::Failure;
use crate::graph::Graph;
use crate::graph::op::ExitRule;
use crate::partition::node_macs;
use crate::samples::Samples;

/// Parts of the calibration set, each judged by heads that have learned from the others.
const FOLDS: usize = 4;

/// Heads that are trained on all folds; the others have lost the first comparison.
const MAX_FINALISTS: usize = 16;

/// Widths of hidden layers that are tried, beside a single matrix.
const HIDDEN: [usize; 1] = [64];

/// Loss of accuracy that is allowed unless the user says otherwise.
const DEFAULT_DROP: f64 = 0.01;

/// A head under consideration.
struct Contender {
    place: usize,
    view: usize,
    hidden: Option<usize>,
}

/// Everything that is known while exits are chosen.
pub(super) struct Study<'a> {
    places: &'a [Place],
    features: &'a Features,
    classes: usize,
    probabilities: bool,
    /// Whether the model has the heads already.
    given: bool,
    labels: Vec<u32>,
    /// Fold of each sample.
    folds: Vec<usize>,
    /// The backbone's probabilities.
    opinions: Vec<f32>,
    /// The backbone's answers.
    base: Vec<usize>,
    base_right: Vec<bool>,
    base_macs: u64,
}

/// An exit that is to be inserted.
struct Picked<'a> {
    contender: &'a Contender,
    possible: &'a Possible,
    /// Answers of heads that have not learned from the samples.
    answers: &'a [usize],
    rule: ExitRule,
    threshold: f32,
}

impl<'a> Study<'a> {
    pub(super) fn new(
        graph: &Graph,
        places: &'a [Place],
        features: &'a Features,
        samples: &Samples,
        classes: usize,
        probabilities: bool,
        given: bool,
    ) -> Study<'a> {
        let count = samples.inputs.len();
        let answers: Vec<usize> = features.answers.chunks_exact(classes).take(count).map(class).collect();
        let labels: Vec<u32> = match &samples.labels {
            Some(labels) => labels.iter().map(|label| *label as u32).collect(),
            None => answers.iter().map(|answer| *answer as u32).collect(),
        };
        let mut order: Vec<usize> = (0..labels.len()).collect();
        Chance(0x5eed).shuffle(&mut order);
        let mut folds = vec![0; labels.len()];
        order.iter().enumerate().for_each(|(position, sample)| folds[*sample] = position % FOLDS);
        let opinions = features.answers.chunks_exact(classes).flat_map(|row| opinion(row, probabilities)).collect();
        let base_right = answers.iter().zip(&labels).map(|(answer, label)| *answer == *label as usize).collect();
        let branches: u64 = places.iter().map(|place| place.head_macs).sum();
        let all: u64 = graph.node_ids().map(|id| node_macs(graph, id)).sum();
        let base_macs = all.saturating_sub(branches);
        Study {
            places,
            features,
            classes,
            probabilities,
            given,
            labels,
            folds,
            opinions,
            base: answers,
            base_right,
            base_macs,
        }
    }

    fn view(&self, contender: &Contender) -> &View {
        &self.places[contender.place].views[contender.view]
    }

    /// Trains on all folds but one; on all if there is none. Every head gets the temperature of the samples that said
    /// when to stop, so that confidences of heads that have learned from different samples mean the same.
    fn train(&self, contender: &Contender, without: Option<usize>) -> anyhow::Result<(Head, f32)> {
        let rest: Vec<usize> = (0..self.labels.len()).filter(|sample| Some(self.folds[*sample]) != without).collect();
        if self.given {
            let head = Head { layers: Vec::new() };
            let labels: Vec<u32> = rest.iter().map(|sample| self.labels[*sample]).collect();
            let scores = self.scores(contender, &head, &rest);
            let temperature = Seen { scores: &scores, classes: self.classes, labels: &labels }.temperature();
            return Ok((head, temperature));
        }
        let held_out: Vec<usize> = rest.iter().copied().filter(|sample| sample % 8 == 7).collect();
        let mut train: Vec<usize> = rest.iter().copied().filter(|sample| sample % 8 != 7).collect();
        // Mirrored copies lie behind the samples, in their order.
        let copies = self.opinions.len() / self.classes - self.labels.len();
        if copies == self.labels.len() {
            train.extend(train.clone().into_iter().map(|sample| sample + copies));
        }
        let head = heads::train(&Lesson {
            features: &self.features.views[contender.place][contender.view],
            width: self.view(contender).features,
            labels: &self.labels,
            opinions: &self.opinions,
            classes: self.classes,
            train: &train,
            held_out: &held_out,
            hidden: contender.hidden,
            seed: (contender.place * 64 + contender.view * 8 + usize::from(contender.hidden.is_some())) as u64,
        })?;
        let labels: Vec<u32> = held_out.iter().map(|sample| self.labels[*sample]).collect();
        let scores = self.scores(contender, &head, &held_out);
        let temperature = Seen { scores: &scores, classes: self.classes, labels: &labels }.temperature();
        Ok((head, temperature))
    }

    fn samples_of(&self, fold: usize) -> Vec<usize> {
        (0..self.labels.len()).filter(|sample| self.folds[*sample] == fold).collect()
    }

    fn scores(&self, contender: &Contender, head: &Head, samples: &[usize]) -> Vec<f32> {
        head.scores(&self.features.views[contender.place][contender.view], self.view(contender).features, samples)
    }

    /// A head as a possible exit, on these samples; `scores` are divided by the heads' temperatures already.
    fn possible(
        &self,
        contender: &Contender,
        scores: &[f32],
        samples: &[usize],
        head_macs: u64,
    ) -> (Possible, ExitRule) {
        let labels: Vec<u32> = samples.iter().map(|sample| self.labels[*sample]).collect();
        let seen = Seen { scores, classes: self.classes, labels: &labels };
        let rule = seen.best_rule(1.0);
        let possible = Possible {
            cost: self.places[contender.place].macs as f64,
            head_cost: (head_macs + self.places[contender.place].head_macs) as f64,
            confidence: seen.confidence(rule, 1.0),
            right: seen.right(),
            place: contender.place,
        };
        (possible, rule)
    }

    /// Scores by a head that has not seen the fold, divided by its temperature.
    fn judged(&self, contender: &Contender, fold: usize) -> anyhow::Result<(Vec<f32>, u64)> {
        let (head, temperature) = self.train(contender, Some(fold))?;
        let scores = self.scores(contender, &head, &self.samples_of(fold));
        Ok((scores.into_iter().map(|score| score / temperature).collect(), head.macs()))
    }

    fn limit(&self, options: &ExitOptions) -> Limit {
        options.min_accuracy.map_or(Limit::Drop(DEFAULT_DROP), Limit::Accuracy)
    }

    pub(super) fn run(&self, graph: &mut Graph, options: &ExitOptions) -> Result<ExitsReport, Failure> {
        let contenders: Vec<Contender> = self
            .places
            .iter()
            .enumerate()
            .flat_map(|(place, info)| (0..info.views.len()).map(move |view| (place, view)))
            .flat_map(|(place, view)| {
                let hidden = HIDDEN.into_iter().filter(|_| !self.given).map(Some);
                let plain = [None].into_iter().chain(hidden);
                plain.map(move |hidden| Contender { place, view, hidden })
            })
            .collect();
        // First comparison: every head once, judged on the first fold.
        let progress = Progress::new(contenders.len() as u64, "heads");
        let first = self.samples_of(0);
        let base: Vec<bool> = first.iter().map(|sample| self.base_right[*sample]).collect();
        let mut worth: Vec<(f64, usize)> = Vec::new();
        for (index, contender) in contenders.iter().enumerate() {
            let (scores, head_macs) = self.judged(contender, 0).map_err(Failure::Environment)?;
            let (possible, _) = self.possible(contender, &scores, &first, head_macs);
            let curve = choose::propose(std::slice::from_ref(&possible), self.base_macs as f64, &base, 0.02);
            let least = curve.iter().find(|choice| choice.lost <= choice.gained + first.len() / 50);
            worth.push((least.map_or(f64::INFINITY, |choice| choice.cost), index));
            progress.step();
        }
        progress.finish();
        worth.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut finalists: Vec<usize> = Vec::new();
        for (_, index) in worth {
            // The two best of a place are enough.
            let rivals = finalists.iter().filter(|other| contenders[**other].place == contenders[index].place).count();
            if rivals < 2 && finalists.len() < MAX_FINALISTS {
                finalists.push(index);
            }
        }
        finalists.sort_unstable();
        // Then the finalists on every fold, by heads that have not seen it.
        let progress = Progress::new((finalists.len() * FOLDS) as u64, "heads, on every fold");
        let mut possible = Vec::with_capacity(finalists.len());
        let mut rules = Vec::with_capacity(finalists.len());
        let mut answers: Vec<Vec<usize>> = Vec::with_capacity(finalists.len());
        let everybody: Vec<usize> = (0..self.labels.len()).collect();
        for index in &finalists {
            let contender = &contenders[*index];
            let mut scores = vec![0.0; self.labels.len() * self.classes];
            let mut head_macs = 0;
            for fold in 0..FOLDS {
                let (found, macs) = self.judged(contender, fold).map_err(Failure::Environment)?;
                for (sample, row) in self.samples_of(fold).iter().zip(found.chunks_exact(self.classes)) {
                    scores[sample * self.classes..(sample + 1) * self.classes].copy_from_slice(row);
                }
                head_macs = macs;
                progress.step();
            }
            let (exit, rule) = self.possible(contender, &scores, &everybody, head_macs);
            answers.push(scores.chunks_exact(self.classes).map(class).collect());
            possible.push(exit);
            rules.push(rule);
        }
        progress.finish();
        let chosen =
            choose::choose(&possible, self.base_macs as f64, &self.base_right, &self.folds, self.limit(options));
        let picked: Vec<Picked<'_>> = chosen
            .best
            .exits
            .iter()
            .map(|(exit, threshold)| Picked {
                contender: &contenders[finalists[*exit]],
                possible: &possible[*exit],
                answers: &answers[*exit],
                rule: rules[*exit],
                threshold: *threshold,
            })
            .collect();
        self.insert(graph, &picked, &chosen)
    }

    /// Trains the chosen heads on everything and adds them to the graph.
    fn insert(&self, graph: &mut Graph, picked: &[Picked<'_>], chosen: &Chosen) -> Result<ExitsReport, Failure> {
        let samples = self.labels.len();
        let mut alive = vec![true; samples];
        let mut exits = Vec::with_capacity(picked.len());
        let mut head_macs = 0;
        let answered = |(sample, label): (usize, &u32)| {
            let base = self.base[sample];
            Answered { label: *label as usize, base, answer: base, exit: None }
        };
        let mut ends: Vec<Answered> = self.labels.iter().enumerate().map(answered).collect();
        for (number, Picked { contender, possible, answers, rule, threshold }) in picked.iter().enumerate() {
            let (head, temperature) = self.train(contender, None).map_err(Failure::Environment)?;
            let leaving: Vec<usize> =
                (0..samples).filter(|sample| alive[*sample] && possible.confidence[*sample] >= *threshold).collect();
            for sample in &leaving {
                alive[*sample] = false;
                ends[*sample] = Answered { answer: answers[*sample], exit: Some(number), ..ends[*sample] };
            }
            let share = leaving.len() as f64 / samples as f64;
            let right = leaving.iter().filter(|sample| possible.right[**sample]).count();
            let place = &self.places[contender.place];
            head_macs += head.macs() + place.head_macs;
            exits.push(ExitReport {
                after: graph.node(place.node).name.clone(),
                device: String::new(),
                rule: *rule,
                threshold: *threshold,
                temperature,
                share,
                accuracy: right as f64 / leaving.len().max(1) as f64,
                head_parameters: head.layers.iter().map(|layer| (layer.weights.len() + layer.bias.len()) as u64).sum(),
                macs: place.macs + head_macs,
            });
            insert::insert(
                graph,
                &insert::Exit {
                    number,
                    tensor: place.tensor,
                    view: self.view(contender),
                    head: &head,
                    rule: *rule,
                    temperature,
                    threshold: *threshold,
                    share,
                    probabilities: self.probabilities,
                },
            )
            .map_err(|error| Failure::Internal(anyhow::anyhow!("exit {number}: {error}")))?;
        }
        let right = self.base_right.iter().filter(|right| **right).count();
        let point = |choice: &Choice| CurvePoint { mean_macs: choice.cost as u64, accuracy: choice.accuracy() };
        let calibration = CalibrationReport {
            samples,
            base_accuracy: right as f64 / samples as f64,
            accuracy: chosen.expected.accuracy(),
            drop_bound: chosen.expected.drop_bound(),
            base_macs: self.base_macs,
            mean_macs: chosen.best.cost as u64,
            worst_macs: self.base_macs + head_macs,
            curve: chosen.curve.iter().map(point).collect(),
            tables: tables::tables(&ends, self.classes, picked.len()),
        };
        Ok(ExitsReport { exits, calibration })
    }
}

/// Scores as probabilities.
fn opinion(scores: &[f32], probabilities: bool) -> Vec<f32> {
    if probabilities {
        return scores.to_vec();
    }
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
