//! The study: which heads are trained, and how each does on samples that it has not learned from.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use partita_train::averages::{self, Lesson};
use partita_train::head::Head;

use super::calibrate::HeldOut;
use super::candidates::ExitPlace;
use super::dataset::Dataset;
use super::judge::Possible;
use super::kept_heads::{self, Heads};
use super::propose::propose;
use super::reuse;
use super::training::{Student, Trained, Training};
use crate::classifier::class;
use crate::host::Runner;
use crate::progress::Progress;
use partita_ir::graph::op::{ExitRule, Patience};
use partita_ir::graph::{Op, TensorId};
use partita_ir::parallel::in_parallel;
use partita_placement::Failure;

/// Heads that are trained in every version; the others have lost the first comparison.
const MAX_FINALISTS: usize = 16;

/// Heads of one place that go on.
const RIVALS: usize = 2;

/// Widths of hidden layers that are tried, beside a single matrix.
const HIDDEN: [usize; 1] = [64];

/// Where heads that convolve are trained: about after these shares of the multiply-adds; and what such a head may cost, as
/// a share of them. The later ones only where all can learn as long as is of use: one that has learned well, early in the
/// network, leaves them little to do.
const CONVOLVING: [(f64, f64); 2] = [(0.0, 0.105), (0.35, 0.08)];

/// A head may have this times the root of the backbone's multiply-adds, at most: in larger backbones, a smaller share does
/// as well, and learns faster. (A tenth of ResNet-20.)
const ROOT_MACS: f64 = 670.0;

/// What a head sees.
#[derive(Clone, Copy, Debug, PartialEq)]
enum HeadInput {
    /// Averages: a view of the place, and the width of a hidden layer.
    Averages { view: usize, hidden: Option<usize> },
    /// The map: the number of the student.
    Map { student: usize },
}

/// A head under consideration.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Contender {
    place: usize,
    kind: HeadInput,
}

/// A head that may be compiled, and how it did.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// Index of the place.
    pub place: usize,
    /// The tensor that is looked at, and what is done to it first.
    pub tensor: TensorId,
    /// The operator that makes what the head sees; none if it is the tensor itself.
    pub view: Option<Op>,
    /// The head.
    pub head: Head,
    /// What its scores are divided by.
    pub temperature: f32,
    /// What counts as confidence.
    pub rule: ExitRule,
    /// In a stream, what the answers before count.
    pub patience: Option<Patience>,
    /// How it did on the samples that judge.
    pub possible: Possible,
    /// Its answers to them.
    pub answers: Vec<usize>,
    /// Weight of the scores of the exit that it needs, beside its own.
    pub weight: Option<f32>,
}

impl Judged {
    /// What it is like.
    pub fn kind(&self) -> String {
        let own = self.head.kind();
        if self.weight.is_some() { format!("{own} and an earlier head") } else { own }
    }
}

/// The study of one model.
struct Study<'a> {
    dataset: &'a Dataset<'a>,
    /// The backbone's probabilities of all samples.
    opinions: Vec<f32>,
    /// Whether the backbone is right, by sample that judges.
    base_right: Vec<bool>,
    students: Vec<Student>,
    /// Heads that convolve.
    convolving: Trained,
    /// Heads that have been trained.
    known: Heads,
    /// Where those are kept that see averages.
    file: PathBuf,
}

/// Trains heads and judges them.
pub(super) fn judge(dataset: &Dataset<'_>, runner: Runner<'_>, effort: f64) -> Result<Vec<Judged>, Failure> {
    let mut students = if dataset.existing { Vec::new() } else { students(dataset) };
    let training = Training { dataset, effort, runner };
    while students.len() > 1 && !training.suffices(&students) {
        students.pop();
    }
    let convolving = match students.as_slice() {
        [] => Trained { heads: Vec::new(), scores: Vec::new() },
        students => training.train(students)?,
    };
    let rows = dataset.features.answers.chunks_exact(dataset.classes);
    let opinions = rows.flat_map(|row| opinion(row, dataset.probabilities)).collect();
    let base_right = dataset.base_right();
    let mut study =
        Study { dataset, opinions, base_right, students, convolving, known: Heads::new(), file: PathBuf::new() };
    if !dataset.existing {
        study.file = kept_heads::path(runner.cache, dataset, &format!("{:?}", study.contenders()));
        study.known = kept_heads::read(&study.file);
    }
    study.run()
}

/// Heads that convolve: at a few places, as large as they may be there.
fn students(dataset: &Dataset<'_>) -> Vec<Student> {
    let mut found: Vec<Student> = Vec::new();
    for (share, cost) in CONVOLVING {
        let wanted = share * dataset.macs as f64;
        let places = dataset.places.iter().enumerate().filter(|(_, place)| place.map.is_some());
        let nearest =
            places.min_by(|(_, a), (_, b)| (a.macs as f64 - wanted).abs().total_cmp(&(b.macs as f64 - wanted).abs()));
        let Some((place, ExitPlace { map: Some(map), .. })) = nearest else { continue };
        let macs = (dataset.macs as f64 * cost).min(ROOT_MACS * (dataset.macs as f64).sqrt()) as u64;
        let widest =
            partita_train::design::Design::within(map.channels, map.space, dataset.classes, macs, dataset.head_bytes);
        if let Some(design) = widest.filter(|_| found.iter().all(|student| student.place != place)) {
            found.push(Student { place, design });
        }
    }
    found
}

impl Study<'_> {
    fn run(mut self) -> Result<Vec<Judged>, Failure> {
        let contenders = self.contenders();
        // First comparison: every head in one version.
        let first: Vec<usize> = self.judged_by(0);
        let base: Vec<bool> = first.iter().map(|at| self.base_right[*at]).collect();
        let all: Vec<(usize, usize)> = (0..contenders.len()).map(|index| (index, 0)).collect();
        self.train_all(&contenders, &all, "heads").map_err(Failure::Environment)?;
        let mut worth: Vec<(f64, usize)> = Vec::new();
        for (index, contender) in contenders.iter().enumerate() {
            let (scores, head_macs) = self.judged(index, *contender, 0).map_err(Failure::Environment)?;
            let (possible, _) = self.possible(*contender, &scores, &first, head_macs);
            let curve = propose(std::slice::from_ref(&possible), self.dataset.macs as f64, &base, &[0.02]);
            let least = curve.iter().find(|choice| choice.difference.loss() <= 0.02);
            worth.push((least.map_or(f64::INFINITY, |choice| choice.cost), index));
        }
        worth.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut finalists: Vec<usize> = Vec::new();
        for (_, index) in worth {
            let rivals = finalists.iter().filter(|other| contenders[**other].place == contenders[index].place).count();
            if rivals < RIVALS && finalists.len() < MAX_FINALISTS {
                finalists.push(index);
            }
        }
        finalists.sort_unstable();
        // Then the finalists in every version, each judged by what it has not seen.
        let versions = self.dataset.split.versions.len();
        let all = finalists.iter().flat_map(|index| (0..versions).map(|version| (*index, version)));
        self.train_all(&contenders, &all.collect::<Vec<_>>(), "heads, on every part").map_err(Failure::Environment)?;
        let mut found = Vec::with_capacity(finalists.len());
        for index in &finalists {
            found.extend(self.finalist(*index, contenders[*index]).map_err(Failure::Environment)?);
        }
        // With patience, an exit is the first: there is nothing earlier.
        if !self.dataset.stream {
            let further = self.reusing(&contenders, &finalists, &found).map_err(Failure::Environment)?;
            found.extend(further);
        }
        Ok(found)
    }

    /// Finalists behind some that convolve, with each of those, where that helps; `judged` has the finalists in their
    /// order.
    fn reusing(&self, contenders: &[Contender], finalists: &[usize], judged: &[Judged]) -> anyhow::Result<Vec<Judged>> {
        let macs = |at: usize| self.dataset.places[judged[at].place].macs;
        let mut found = Vec::new();
        for later in 0..judged.len() {
            let earlier = (0..judged.len()).filter(|at| !judged[*at].head.blocks.is_empty() && macs(*at) < macs(later));
            for earlier in earlier {
                let pair = [earlier, later].map(|at| (finalists[at], contenders[finalists[at]]));
                found.extend(self.together(pair, earlier, &judged[later])?);
            }
        }
        Ok(found)
    }

    /// A later head with what an earlier one, the `needed`th of those judged, has said; none if that is of no use.
    fn together(&self, pair: [(usize, Contender); 2], needed: usize, plain: &Judged) -> anyhow::Result<Option<Judged>> {
        let (classes, split) = (self.dataset.classes, self.dataset.split);
        let mut scores = vec![0.0; split.judged.len() * classes];
        let mut compiled = None;
        for version in 0..split.versions.len() {
            let held_out = self.held_out(version);
            let judged = self.judged_by(version);
            let samples: Vec<usize> = judged.iter().map(|at| split.judged[*at]).collect();
            let of = |samples: &[usize]| -> anyhow::Result<[Vec<f32>; 2]> {
                let [earlier, later] = pair.map(|(index, contender)| -> anyhow::Result<Vec<f32>> {
                    let (head, _) = self.train(index, contender, version)?;
                    Ok(self.scores(contender, &head, version, samples))
                });
                Ok([earlier?, later?])
            };
            let labels: Vec<u32> = held_out.iter().map(|sample| self.dataset.labels[*sample]).collect();
            let [earlier, later] = of(&held_out)?;
            let fitted = reuse::fit(&earlier, &later, &labels, classes);
            let [earlier, later] = of(&samples)?;
            let both = reuse::together(&earlier, &later, fitted.weight);
            for (at, row) in judged.iter().zip(both.chunks_exact(classes)) {
                let own = scores[at * classes..(at + 1) * classes].iter_mut();
                own.zip(row).for_each(|(own, score)| *own = score / fitted.temperature);
            }
            if version == split.compiled {
                compiled = Some(fitted);
            }
        }
        let Some(fitted) = compiled.filter(|fitted| fitted.weight > 0.0) else { return Ok(None) };
        let everybody: Vec<usize> = (0..split.judged.len()).collect();
        let (possible, rule) = self.possible(pair[1].1, &scores, &everybody, plain.head.macs());
        Ok(Some(Judged {
            rule,
            temperature: fitted.temperature,
            weight: Some(fitted.weight),
            possible: Possible { needs: Some(needed), ..possible },
            answers: scores.chunks_exact(classes).map(class).collect(),
            ..plain.clone()
        }))
    }

    /// Samples of a version from which it does not learn, and which do not judge it.
    fn held_out(&self, version: usize) -> Vec<usize> {
        let learning = self.dataset.split.versions[version].iter().copied();
        learning.filter(|sample| self.dataset.existing || self.dataset.split.held_out(*sample)).collect()
    }

    fn contenders(&self) -> Vec<Contender> {
        let averages = self.dataset.places.iter().enumerate().flat_map(|(place, info)| {
            let hidden = HIDDEN.into_iter().filter(|_| !self.dataset.existing).map(Some);
            let widths: Vec<Option<usize>> = [None].into_iter().chain(hidden).collect();
            (0..info.views.len()).flat_map(move |view| {
                widths
                    .clone()
                    .into_iter()
                    .map(move |hidden| Contender { place, kind: HeadInput::Averages { view, hidden } })
            })
        });
        let maps = self.students.iter().enumerate();
        let maps = maps.map(|(student, info)| Contender { place: info.place, kind: HeadInput::Map { student } });
        averages.chain(maps).collect()
    }

    /// A head in all versions; in a stream also with patience, if that helps.
    fn finalist(&self, index: usize, contender: Contender) -> anyhow::Result<Vec<Judged>> {
        let classes = self.dataset.classes;
        let split = self.dataset.split;
        let mut scores = vec![0.0; split.judged.len() * classes];
        let mut head_macs = 0;
        for version in 0..split.versions.len() {
            let judged = self.judged_by(version);
            if !judged.is_empty() {
                let (found, macs) = self.judged(index, contender, version)?;
                for (at, row) in judged.iter().zip(found.chunks_exact(classes)) {
                    scores[at * classes..(at + 1) * classes].copy_from_slice(row);
                }
                head_macs = macs;
            }
        }
        let everybody: Vec<usize> = (0..split.judged.len()).collect();
        let (possible, rule) = self.possible(contender, &scores, &everybody, head_macs);
        let (head, temperature) = self.train(index, contender, split.compiled)?;
        let place = &self.dataset.places[contender.place];
        let view = match contender.kind {
            HeadInput::Averages { view, .. } => place.views[view].op.clone(),
            HeadInput::Map { .. } => place.map.as_ref().and_then(|map| map.op.clone()),
        };
        let answers = scores.chunks_exact(classes).map(class).collect();
        let labels: Vec<u32> = split.judged.iter().map(|sample| self.dataset.labels[*sample]).collect();
        let seen = HeldOut { scores: &scores, classes, labels: &labels };
        let patience = seen.best_patience(&possible.confidence).filter(|_| self.dataset.stream);
        let patient = patience.map(|patience| Possible {
            confidence: seen.patient(&possible.confidence, patience),
            first: true,
            ..possible.clone()
        });
        let plain = Judged {
            place: contender.place,
            tensor: place.tensor,
            view,
            head,
            temperature,
            rule,
            patience: None,
            possible,
            answers,
            weight: None,
        };
        let patient = patient.map(|possible| Judged { possible, patience, ..plain.clone() });
        Ok([plain].into_iter().chain(patient).collect())
    }

    /// Those of the samples that judge, by position, that a version judges.
    fn judged_by(&self, version: usize) -> Vec<usize> {
        let split = self.dataset.split;
        (0..split.judged.len()).filter(|at| split.judge[*at] == version).collect()
    }

    /// Trains heads, by contender and version, that are not known yet; on all cores.
    fn train_all(
        &mut self,
        contenders: &[Contender],
        wanted: &[(usize, usize)],
        what: &'static str,
    ) -> anyhow::Result<()> {
        let missing: Vec<(usize, usize)> =
            wanted.iter().copied().filter(|wanted| !self.known.contains_key(wanted)).collect();
        let progress = Progress::new(missing.len() as u64, what);
        let found = Mutex::new(Vec::with_capacity(missing.len()));
        in_parallel(missing.len(), |at| {
            let (index, version) = missing[at];
            let trained = self.trained(contenders[index], version)?;
            found.lock().unwrap_or_else(PoisonError::into_inner).push((missing[at], trained));
            progress.step();
            anyhow::Ok(())
        })?;
        progress.finish();
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let is_new = !self.dataset.existing && found.iter().any(|(_, (head, _))| head.blocks.is_empty());
        self.known.extend(found);
        if is_new { kept_heads::write(&self.file, &self.known) } else { Ok(()) }
    }

    /// A head in one version, from what is known.
    fn train(&self, index: usize, contender: Contender, version: usize) -> anyhow::Result<(Head, f32)> {
        match self.known.get(&(index, version)) {
            Some(known) => Ok(known.clone()),
            None => self.trained(contender, version),
        }
    }

    /// Trains one version. Every head gets the temperature of samples that it has not learned from, so that confidences
    /// of heads that have learned from different samples mean the same.
    fn trained(&self, contender: Contender, version: usize) -> anyhow::Result<(Head, f32)> {
        let dataset = self.dataset;
        let learning = &dataset.split.versions[version];
        let held_out_samples = self.held_out(version);
        let head = match contender.kind {
            _ if dataset.existing => Head::default(),
            HeadInput::Map { student } => self.convolving.heads[student][version].clone(),
            HeadInput::Averages { view, hidden } => {
                let mut train: Vec<usize> =
                    learning.iter().copied().filter(|sample| !dataset.split.held_out(*sample)).collect();
                // Mirrored copies lie behind the samples, in their order.
                let samples = dataset.labels.len();
                if self.opinions.len() == 2 * samples * dataset.classes {
                    train.extend(train.clone().into_iter().map(|sample| sample + samples));
                }
                averages::train(&Lesson {
                    features: &dataset.features.views[contender.place][view],
                    width: dataset.places[contender.place].views[view].features,
                    labels: &dataset.labels,
                    opinions: &self.opinions,
                    classes: dataset.classes,
                    train: &train,
                    held_out: &held_out_samples,
                    hidden,
                    seed: (contender.place * 64 + view * 8 + usize::from(hidden.is_some())) as u64,
                })?
            }
        };
        let labels: Vec<u32> = held_out_samples.iter().map(|sample| dataset.labels[*sample]).collect();
        let scores = self.scores(contender, &head, version, &held_out_samples);
        let temperature = HeldOut { scores: &scores, classes: dataset.classes, labels: &labels }.temperature();
        Ok((head, temperature))
    }

    /// Scores of samples by one version.
    fn scores(&self, contender: Contender, head: &Head, version: usize, samples: &[usize]) -> Vec<f32> {
        let classes = self.dataset.classes;
        match contender.kind {
            HeadInput::Averages { view, .. } => {
                let width = self.dataset.places[contender.place].views[view].features;
                head.scores(&self.dataset.features.views[contender.place][view], width, samples)
            }
            HeadInput::Map { student } => {
                let all = &self.convolving.scores[student][version];
                samples.iter().flat_map(|sample| &all[sample * classes..(sample + 1) * classes]).copied().collect()
            }
        }
    }

    /// Scores of the samples that a version judges, divided by its temperature; and the head's multiply-adds.
    fn judged(&self, index: usize, contender: Contender, version: usize) -> anyhow::Result<(Vec<f32>, u64)> {
        let (head, temperature) = self.train(index, contender, version)?;
        let judged: Vec<usize> = self.judged_by(version).into_iter().map(|at| self.dataset.split.judged[at]).collect();
        let scores = self.scores(contender, &head, version, &judged);
        Ok((scores.into_iter().map(|score| score / temperature).collect(), head.macs()))
    }

    /// A head as a possible exit, on samples that judge; `scores` are divided by temperatures already.
    fn possible(&self, contender: Contender, scores: &[f32], judged: &[usize], macs: u64) -> (Possible, ExitRule) {
        let dataset = self.dataset;
        let labels: Vec<u32> = judged.iter().map(|at| dataset.labels[dataset.split.judged[*at]]).collect();
        let seen = HeldOut { scores, classes: dataset.classes, labels: &labels };
        let rule = seen.best_rule(1.0);
        let place = &dataset.places[contender.place];
        let possible = Possible {
            cost: place.macs as f64,
            head_cost: (macs + place.head_macs) as f64,
            confidence: seen.confidence(rule, 1.0),
            right: seen.right(),
            place: contender.place,
            first: false,
            needs: None,
        };
        (possible, rule)
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
