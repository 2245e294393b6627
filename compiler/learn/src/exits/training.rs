//! Heads that convolve learn all together from one stream of augmented samples: the backbone answers each sample once, and
//! every head takes a step on what it sees of it. What has been learned goes to a file now and then, so that a run that
//! was killed goes on where it was.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use partita_train::chance::Chance;
use partita_train::design::Design;
use partita_train::head::Head;
use partita_train::network::{Batch, Network, channels_last};
use sha2::{Digest, Sha256};

use super::augment::{Augmentations, Draw};
use super::dataset::{Dataset, FEW};
use super::features;
use super::stream::{Answers, stream};
use crate::host::{Backbone, Runner};
use crate::kept;
use crate::progress::Progress;
use partita_ir::graph::{Data, Value};
use partita_ir::parallel::{gather, in_parallel};
use partita_placement::Failure;

/// Samples of a step.
const BATCH: usize = 64;

/// Samples whose activations stay in a cache, about; what a thread does at a time.
const PART: usize = 16;

/// Multiply-adds that training may take, backbone and heads together, with an effort of 1.
const EFFORT_MACS: f64 = 4e13;

/// Weights that do not stay in a cache are read anew for every sample, by processes that share the memory's bandwidth; in
/// that time so many multiply-adds could be done.
const CACHED_BYTES: u64 = 8 << 20;
const MACS_PER_BYTE: u64 = 16;

/// More passes over the samples than this teach nothing, and more samples, if the passes are short.
const MOST_EPOCHS: usize = 100;
const MOST_SAMPLES: usize = 500_000;

/// Largest step of the descent, and the share of steps in which it grows to that.
const RATE: f64 = 0.05;
const WARM_UP: f64 = 0.05;

/// Time between two files.
const BETWEEN_FILES: Duration = Duration::from_secs(30);

/// A head that is to learn.
#[derive(Clone, Debug, PartialEq)]
pub struct Student {
    /// Index of the place.
    pub place: usize,
    /// What it will be like.
    pub design: Design,
}

/// Everything that heads learn from.
pub struct Training<'a> {
    /// The samples, and what the model says of them.
    pub dataset: &'a Dataset<'a>,
    /// How long training may take; 1 is some minutes.
    pub effort: f64,
    /// Where the backbone runs, and where files go.
    pub runner: Runner<'a>,
}

/// Heads that have learned, by student and version; and their scores of samples, `[samples, classes]`, zeros for those that
/// neither judge nor are held out.
pub struct Trained {
    /// By student, then version.
    pub heads: Vec<Vec<Head>>,
    /// By student, then version.
    pub scores: Vec<Vec<Vec<f32>>>,
}

impl Training<'_> {
    /// Trains every version of every student.
    pub fn train(&self, students: &[Student]) -> Result<Trained, Failure> {
        let views: Vec<_> = students.iter().map(|student| &self.dataset.places[student.place]).collect();
        let maps = views.iter().filter_map(|place| place.map.as_ref().map(|map| (place.tensor, map.op.as_ref())));
        let probe = features::probe(self.dataset.graph, maps)?;
        let backbone = Backbone::of(self.runner.host, probe);
        self.teach(&backbone, students).map_err(Failure::of)
    }

    fn teach(&self, backbone: &Backbone<'_>, students: &[Student]) -> anyhow::Result<Trained> {
        // Where nobody says what a sample is, the dataset has what the model says.
        let dataset = self.dataset;
        let known = if dataset.labelled > 0 { dataset.labelled } else { dataset.inputs.len() };
        let (inputs, labels) = (&dataset.inputs[..known], &dataset.labels[..known]);
        let versions = self.dataset.split.versions.len();
        let mut networks = fresh(students, versions);
        let batches = self.batches(self.steps(students));
        let key = self.key(students, batches.len());
        let path = self.runner.cache.join(format!("heads-{key}.npz"));
        let begin = restore(&path, &mut networks).map_or(0, |step| step.min(batches.len()));
        if begin == 0 {
            // A damaged file may have left its traces.
            networks = fresh(students, versions);
        }
        if begin < batches.len() {
            let few = self.learning().len() < FEW;
            let augmentations = Augmentations::harmless(&mut backbone.start()?, inputs, labels, few)?;
            self.learn(backbone, students, &mut networks, &augmentations, &batches, begin, &path)?;
        }
        let mut heads = networks.iter().map(Network::head);
        let heads: Vec<Vec<Head>> = students.iter().map(|_| heads.by_ref().take(versions).collect()).collect();
        let path = self.runner.cache.join(format!("scores-{key}.npz"));
        let counts: Vec<usize> =
            students.iter().map(|student| self.dataset.inputs.len() * student.design.classes).collect();
        if let Some(scores) = read_scores(&path, versions, &counts) {
            return Ok(Trained { heads, scores });
        }
        let scores = self.scores(backbone, students, &heads)?;
        write_scores(&path, &scores)?;
        Ok(Trained { heads, scores })
    }

    /// The steps from `begin` on.
    #[expect(clippy::too_many_arguments, reason = "the state of a long piece of work that goes on where it was")]
    fn learn(
        &self,
        backbone: &Backbone<'_>,
        students: &[Student],
        networks: &mut [Network],
        augmentations: &Augmentations,
        batches: &[Vec<Draw>],
        begin: usize,
        path: &Path,
    ) -> anyhow::Result<()> {
        let versions = self.dataset.split.versions.len();
        let progress = Progress::new((batches.len() - begin) as u64, "steps of heads that convolve");
        let members = self.members();
        let mut saved = Instant::now();
        stream(backbone, self.dataset.inputs, augmentations, &batches[begin..], |index, answers| {
            let step = begin + index;
            let lesson = Lesson {
                draws: &batches[step],
                members: &members,
                labels: self.dataset.known_labels(),
                answers: &answers,
            };
            let rate = rate(step, batches.len());
            let rows: Vec<Vec<usize>> = (0..versions).map(|version| lesson.rows(version)).collect();
            let mut all: Vec<(usize, &[usize])> = Vec::new();
            for at in 0..networks.len() {
                all.extend(parts(&rows[at % versions]).map(|part| (at, part)));
            }
            let slopes = gather(all.len(), |index| {
                let (at, rows) = all[index];
                let student = at / versions;
                let batch = lesson.batch(&students[student], student, rows, self.dataset.probabilities);
                anyhow::Ok((at, networks[at].slopes(&batch)))
            })?;
            for part in slopes.chunk_by(|a, b| a.0 == b.0) {
                let (at, slopes) = (part[0].0, part.iter().map(|(_, slopes)| slopes).collect::<Vec<_>>());
                let cost = networks[at].descend(&slopes, rows[at % versions].len(), rate);
                if !cost.is_finite() {
                    bail!("training went astray: the cost is {cost}");
                }
            }
            if saved.elapsed() > BETWEEN_FILES || step + 1 == batches.len() {
                save(path, networks, step + 1)?;
                saved = Instant::now();
            }
            progress.step();
            Ok(())
        })?;
        progress.finish();
        Ok(())
    }

    /// Scores of every head for the samples that are judged by, as they are; zeros for the others.
    fn scores(
        &self,
        backbone: &Backbone<'_>,
        students: &[Student],
        heads: &[Vec<Head>],
    ) -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
        // Those that judge, and those that say how sure a head may be.
        let wanted = |sample: &usize| {
            self.dataset.split.held_out(*sample) || self.dataset.split.judged.binary_search(sample).is_ok()
        };
        let wanted: Vec<usize> = (0..self.dataset.inputs.len()).filter(wanted).collect();
        let draws: Vec<Draw> =
            wanted.iter().map(|sample| Draw { sample: *sample, other: None, seed: *sample as u64 }).collect();
        let batches: Vec<Vec<Draw>> = draws.chunks(BATCH).map(<[Draw]>::to_vec).collect();
        let versions = self.dataset.split.versions.len();
        let scores: Vec<Mutex<Vec<f32>>> = (0..students.len() * versions).map(|_| Mutex::default()).collect();
        let progress = Progress::new(batches.len() as u64, "batches judged by heads that convolve");
        stream(backbone, self.dataset.inputs, &Augmentations::default(), &batches, |index, answers| {
            let samples: Vec<usize> = (0..batches[index].len()).collect();
            in_parallel(scores.len(), |at| {
                let maps = &answers[1 + at / versions];
                let found = heads[at / versions][at % versions].scores(maps, maps.len() / samples.len(), &samples);
                scores[at].lock().map_err(|_| anyhow!("a head has failed"))?.extend(found);
                anyhow::Ok(())
            })?;
            progress.step();
            Ok(())
        })?;
        progress.finish();
        let scores = scores.into_iter().zip(0..).map(|(scores, index): (_, usize)| {
            let classes = students[index / versions].design.classes;
            let found = scores.into_inner().unwrap_or_default();
            let mut all = vec![0.0; self.dataset.inputs.len() * classes];
            for (sample, row) in wanted.iter().zip(found.chunks_exact(classes)) {
                all[sample * classes..(sample + 1) * classes].copy_from_slice(row);
            }
            all
        });
        let mut scores = scores.collect::<Vec<Vec<f32>>>().into_iter();
        Ok(students.iter().map(|_| scores.by_ref().take(versions).collect()).collect())
    }

    /// Samples that at least one version learns from.
    fn learning(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self
            .dataset
            .split
            .versions
            .iter()
            .flatten()
            .copied()
            .filter(|s| !self.dataset.split.held_out(*s))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// By version, whether it learns from each sample.
    fn members(&self) -> Vec<Vec<bool>> {
        let member = |version: &Vec<usize>| {
            let mut member = vec![false; self.dataset.inputs.len()];
            version
                .iter()
                .filter(|sample| !self.dataset.split.held_out(**sample))
                .for_each(|sample| member[*sample] = true);
            member
        };
        self.dataset.split.versions.iter().map(member).collect()
    }

    /// Multiply-adds of one sample in one step, or what takes as long.
    fn sample_macs(&self, students: &[Student]) -> u64 {
        let heads: u64 = students.iter().map(|student| student.design.macs()).sum();
        // Backwards through a layer takes twice what forwards takes.
        let reading = MACS_PER_BYTE * self.weights_bytes().saturating_sub(CACHED_BYTES);
        self.dataset.macs + reading + 3 * heads * self.dataset.split.versions.len() as u64
    }

    /// Whether the effort is enough for that many heads to learn all that they can.
    pub fn suffices(&self, students: &[Student]) -> bool {
        affordable(self.effort, self.sample_macs(students)) >= useful(self.learning().len()) * self.effort.max(1.0)
    }

    /// Steps that the effort allows, if something is learned in them.
    fn steps(&self, students: &[Student]) -> usize {
        steps(self.effort, self.sample_macs(students), self.learning().len())
    }

    /// Bytes of the backbone's weights.
    fn weights_bytes(&self) -> u64 {
        let graph = self.dataset.graph;
        let constants = graph.tensor_ids().filter(|tensor| graph.value(*tensor).is_some());
        let used = constants.filter(|tensor| !graph.consumers(*tensor).is_empty());
        used.map(|tensor| graph.tensor_type(tensor).size_bytes() as u64).sum()
    }

    /// Which samples each step sees. What is mixed is of versions that learn from both.
    fn batches(&self, steps: usize) -> Vec<Vec<Draw>> {
        let members = self.members();
        let mut order = self.learning();
        let signature = |sample: usize| members.iter().map(|member| member[sample]).collect::<Vec<bool>>();
        let mut kin: HashMap<Vec<bool>, Vec<usize>> = HashMap::new();
        order.iter().for_each(|sample| kin.entry(signature(*sample)).or_default().push(*sample));
        let mut chance = Chance::new(0x1e55);
        let mut batches = Vec::with_capacity(steps);
        while batches.len() < steps && !order.is_empty() {
            chance.shuffle(&mut order);
            for part in order.chunks(BATCH).take(steps - batches.len()) {
                let draw = |sample: &usize| {
                    let kin = &kin[&signature(*sample)];
                    Draw::of(*sample, &mut chance, |chance| kin[(chance.bits() % kin.len() as u64) as usize])
                };
                batches.push(part.iter().map(draw).collect());
            }
        }
        batches
    }

    /// Names the work: other models, samples or designs get another file.
    fn key(&self, students: &[Student], steps: usize) -> String {
        let mut digest = Sha256::new();
        digest.update(kept::key(self.dataset.graph, self.dataset.inputs));
        digest.update(format!(
            "{students:?} {steps} {:?} {:?}",
            self.dataset.split.versions,
            self.dataset.known_labels()
        ));
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What one step teaches.
struct Lesson<'a> {
    draws: &'a [Draw],
    members: &'a [Vec<bool>],
    labels: &'a [u32],
    answers: &'a Answers,
}

impl Lesson<'_> {
    /// The samples that a version learns from.
    fn rows(&self, version: usize) -> Vec<usize> {
        (0..self.draws.len()).filter(|row| self.members[version][self.draws[*row].sample]).collect()
    }

    /// What a student learns from some of them.
    fn batch(&self, student: &Student, index: usize, rows: &[usize], probabilities: bool) -> Batch {
        let Design { channels, space, classes, .. } = student.design;
        let mut maps = Vec::with_capacity(rows.len() * channels * space[0] * space[1]);
        for row in rows {
            let width = channels * space[0] * space[1];
            maps.extend(channels_last(&self.answers[1 + index][row * width..(row + 1) * width], channels));
        }
        let pick = |elements: &[f32], width: usize| -> Vec<f32> {
            let mut picked = Vec::with_capacity(rows.len() * width);
            rows.iter().for_each(|row| picked.extend_from_slice(&elements[row * width..(row + 1) * width]));
            picked
        };
        let mut scores = pick(&self.answers[0], classes);
        if probabilities {
            scores.iter_mut().for_each(|score| *score = score.max(1e-9).ln());
        }
        let mut labels = vec![0.0f32; rows.len() * classes];
        for (row, label) in rows.iter().zip(labels.chunks_exact_mut(classes)) {
            let Draw { sample, other: None, .. } = self.draws[*row] else { continue };
            if let Some(class) = self.labels.get(sample) {
                label[*class as usize] = 1.0;
            }
        }
        Batch { maps, scores, labels }
    }
}

/// Parts of about [`PART`] samples each; none of fewer than two, which have no variance.
fn parts(rows: &[usize]) -> impl Iterator<Item = &[usize]> {
    let count = rows.len().div_ceil(PART).max(1);
    (0..count)
        .map(move |part| &rows[rows.len() * part / count..rows.len() * (part + 1) / count])
        .filter(|part| part.len() > 1)
}

/// Grows at first, then falls to nothing.
fn rate(step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps.max(1) as f64;
    RATE * (done / WARM_UP).min((1.0 - done) / (1.0 - WARM_UP)).max(1e-3)
}

/// Heads that know nothing, by student and version.
fn fresh(students: &[Student], versions: usize) -> Vec<Network> {
    let each = students.iter().enumerate().flat_map(|(index, student)| (0..versions).map(move |v| (index, student, v)));
    each.map(|(index, student, version)| Network::new(student.design.clone(), (index * 64 + version) as u64 + 1))
        .collect()
}

fn names(network: usize, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |index| format!("{network}.{index}"))
}

/// Writes what has been learned so far, in one go.
fn save(path: &Path, networks: &[Network], step: usize) -> anyhow::Result<()> {
    let mut arrays = vec![("step".to_string(), Value { shape: vec![1], data: Data::I64(vec![step as i64]) })];
    for (index, network) in networks.iter().enumerate() {
        let state = network.state();
        arrays.extend(names(index, state.len()).zip(state.into_iter().map(kept::array)));
    }
    kept::write_arrays(path, &arrays)
}

/// Samples, again and again, that an effort allows.
fn affordable(effort: f64, sample_macs: u64) -> f64 {
    EFFORT_MACS * effort / sample_macs.max(1) as f64
}

/// Samples, again and again, from which something is learned with an effort of 1.
fn useful(samples: usize) -> f64 {
    (MOST_EPOCHS * samples).max(MOST_SAMPLES) as f64
}

/// Steps that an effort allows. Small networks could see every sample a thousand times: theirs is a share of what is useful.
fn steps(effort: f64, sample_macs: u64, samples: usize) -> usize {
    let samples = affordable(effort, sample_macs).min(useful(samples) * effort);
    ((samples / BATCH as f64).ceil() as usize).max(1)
}

/// Keeps scores, by student and version.
fn write_scores(path: &Path, scores: &[Vec<Vec<f32>>]) -> anyhow::Result<()> {
    let mut arrays = Vec::new();
    for (student, versions) in scores.iter().enumerate() {
        for (version, scores) in versions.iter().enumerate() {
            arrays.push((format!("{student}.{version}"), kept::array(scores.clone())));
        }
    }
    kept::write_arrays(path, &arrays)
}

/// Reads them again, `counts` of each version of each student; nothing if there is no such file, or a damaged one.
fn read_scores(path: &Path, versions: usize, counts: &[usize]) -> Option<Vec<Vec<Vec<f32>>>> {
    let mut arrays = kept::read_arrays(path);
    let mut one = |student: usize, version: usize| {
        let scores = arrays.remove(&format!("{student}.{version}")).and_then(kept::elements)?;
        (scores.len() == counts[student]).then_some(scores)
    };
    (0..counts.len()).map(|student| (0..versions).map(|version| one(student, version)).collect()).collect()
}

/// Reads what an earlier run has learned; how many steps it took. Nothing if there is no such file, or a damaged one.
fn restore(path: &Path, networks: &mut [Network]) -> Option<usize> {
    let mut arrays = kept::read_arrays(path);
    let Data::I64(step) = arrays.remove("step")?.data else { return None };
    for (index, network) in networks.iter_mut().enumerate() {
        let state = names(index, arrays.len()).map_while(|name| arrays.remove(&name).and_then(kept::elements));
        network.restore(state.collect()).ok()?;
    }
    usize::try_from(*step.first()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_read_back_and_a_damaged_file_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper/heads.npz");
        let design = Design::within(4, [8, 8], 3, 50_000, u64::MAX).expect("it is wide enough");
        let students = [Student { place: 0, design }];
        let written = fresh(&students, 2);
        save(&path, &written, 17).expect("the folder is writable");
        let mut read = fresh(&[Student { place: 1, ..students[0].clone() }], 2);
        assert_eq!(restore(&path, &mut read), Some(17));
        let head = |networks: &[Network]| networks[1].head();
        assert_eq!(head(&read), head(&written));
        let bytes = std::fs::read(&path).expect("the file");
        for length in [0, 7, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).expect("the folder is writable");
            assert_eq!(restore(&path, &mut fresh(&students, 2)), None, "{length} bytes");
        }
        let other = Design::within(5, [8, 8], 3, 50_000, u64::MAX).expect("it is wide enough");
        std::fs::write(&path, &bytes).expect("the folder is writable");
        assert_eq!(restore(&path, &mut fresh(&[Student { place: 0, design: other }], 2)), None);
    }

    #[test]
    fn scores_are_read_back_and_those_of_other_samples_are_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper/scores.npz");
        let scores =
            vec![vec![vec![0.1, -2.5, 3.0e-8], vec![1.0, 2.0, f32::MIN_POSITIVE]], vec![vec![0.0; 6], vec![7.0; 6]]];
        write_scores(&path, &scores).expect("the folder is writable");
        assert_eq!(read_scores(&path, 2, &[3, 6]), Some(scores));
        assert_eq!((read_scores(&path, 2, &[3, 5]), read_scores(&path, 3, &[3, 6])), (None, None));
        std::fs::write(&path, b"damaged").expect("the folder is writable");
        assert_eq!(read_scores(&path, 2, &[3, 6]), None);
    }

    #[test]
    fn parts_are_even_and_have_variance() {
        let rows: Vec<usize> = (0..100).collect();
        let sizes = |count: usize| parts(&rows[..count]).map(<[usize]>::len).collect::<Vec<_>>();
        assert_eq!((sizes(0), sizes(1), sizes(2), sizes(16)), (vec![], vec![], vec![2], vec![16]));
        assert_eq!((sizes(17), sizes(40)), (vec![8, 9], vec![13, 13, 14]));
    }

    #[test]
    fn every_effort_is_another_number_of_steps() {
        for sample_macs in [0, 3_000_000, 41_000_000, 4_000_000_000] {
            let steps: Vec<usize> = [0.01, 0.1, 0.5, 1.0, 2.0].map(|effort| steps(effort, sample_macs, 2000)).to_vec();
            assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{sample_macs}: {steps:?}");
        }
        assert_eq!(steps(1.0, 3_000_000, 2000), MOST_SAMPLES.div_ceil(BATCH));
    }

    #[test]
    fn steps_grow_then_shrink() {
        let rates: Vec<f64> = (0..100).map(|step| rate(step, 100)).collect();
        assert!(rates.iter().all(|rate| *rate > 0.0 && *rate <= RATE));
        assert!(rates[..5].windows(2).all(|pair| pair[0] < pair[1]), "{rates:?}");
        assert!(rates[5..].windows(2).all(|pair| pair[0] > pair[1]), "{rates:?}");
    }
}
