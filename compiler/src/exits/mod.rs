//! Early exits, added to a trained classifier after the fact (Sponner et al. 2024): the backbone stays as it is.
//!
//! `candidates` finds places; `split` says which samples teach and which judge; `features` runs all of them through the
//! backbone once, and `heads` trains small classifiers on what that gives; heads that convolve (`network`) learn in
//! `training` from a `stream` of samples that `alter` changes each time; `study` lets heads compete, `calibrate` says how
//! sure each is, `reuse` lets later ones count on what earlier ones have said, `choose` picks exits and thresholds
//! together, `settle` does so with the mapping to devices, `insert` adds them to the graph. From there on an exit is nodes
//! like any others, and one that decides ([`crate::graph::op::Decide`]).

mod alter;
mod answer;
pub mod calibrate;
pub mod candidates;
pub mod choose;
pub mod features;
pub mod given;
pub mod heads;
pub mod insert;
mod material;
mod network;
mod reuse;
mod settle;
mod split;
mod stream;
mod study;
pub mod tables;
mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::classifier;
use crate::cli::Arguments;
use crate::config::{Cluster, System};
use crate::data;
use crate::diagnostic::Diagnostic;
use crate::driver::{Failure, Options};
use crate::graph::op::{ExitRule, Patience};
use crate::graph::{Graph, Value};
use crate::host::kept;
use crate::partition::{limits, node_macs};
use crate::samples::{self, Preparation, Samples};
use candidates::Place;
use choose::Limit;
use material::Material;
use split::Split;

/// Least number of samples from which anything can be learned, and per class.
const MIN_SAMPLES: usize = 100;

/// Fewer samples than this are learned by heart before all is learned: mirrored copies of them teach something new, and
/// heads that convolve see them altered more. (Accuracy of the two such heads of DS-CNN for speech commands, which learn from
/// about 320 of 492 samples at a time and are judged by others: 80.5 and 84.3 % after 100,000 that were altered less, 83.5 and
/// 87.4 % after 500,000 that were altered more.)
const FEW: usize = 8000;

/// Most bytes of features kept at once.
const MAX_FEATURE_BYTES: usize = 1 << 30;

/// Loss of accuracy that is allowed unless the user says otherwise.
const DEFAULT_DROP: f64 = 0.01;

/// A head's weights may take one part in so many of the smallest device's room for weights.
const HEAD_PART: u64 = 8;

/// Groups of samples from which some can judge the others.
const MIN_GROUPS: usize = 8;

/// Pieces that a stream is cut into, where some of it judges heads that have learned from the rest.
const PIECES: usize = 16;

/// What the user wants of exits.
#[derive(Clone, Debug)]
pub struct ExitOptions {
    /// Calibration samples.
    pub calibration: PathBuf,
    /// How they lie in the file.
    pub preparation: Preparation,
    /// Least accuracy; the base's less one point if not given.
    pub min_accuracy: Option<f64>,
    /// Outputs of the model that are exits; places are looked for, and heads trained, if there are none.
    pub outputs: Vec<String>,
    /// Where finished work is kept.
    pub cache: PathBuf,
    /// Samples that heads learn from, and that the model may have been trained on; the calibration samples then only
    /// judge.
    pub training: Option<PathBuf>,
    /// Array of the calibration data that says which samples belong together: they are never on both sides.
    pub groups: Option<String>,
    /// Whether calibration samples follow each other in time.
    pub stream: bool,
    /// How long heads that convolve may learn; 1 is some minutes.
    pub effort: f64,
}

impl ExitOptions {
    /// As the command line says; `None` unless exits are wanted.
    pub fn of(arguments: &Arguments) -> Option<ExitOptions> {
        let outputs = arguments.exit_outputs.clone();
        let wanted = arguments.exits == crate::cli::Switch::Auto || !outputs.is_empty();
        let calibration = arguments.calibration.clone().filter(|_| wanted)?;
        let preparation = Preparation::of(arguments);
        Some(ExitOptions {
            calibration,
            preparation,
            min_accuracy: arguments.min_accuracy,
            outputs,
            cache: kept::folder(arguments),
            training: arguments.training.clone(),
            groups: arguments.groups.clone(),
            stream: arguments.stream,
            effort: arguments.effort,
        })
    }
}

/// What is known of the exits that were chosen.
#[derive(Clone, Debug)]
pub struct ExitsReport {
    /// The exits, in the order of the graph.
    pub exits: Vec<ExitReport>,
    /// What the calibration set says of them.
    pub calibration: CalibrationReport,
}

/// What the calibration set says of the exits together.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrationReport {
    /// Calibration samples.
    pub samples: usize,
    /// Share of right answers on them without exits.
    pub base_accuracy: f64,
    /// The same with exits, by heads that have not learned from the samples.
    pub accuracy: f64,
    /// Loss of accuracy that is not exceeded with 90 % probability.
    pub drop_bound: f64,
    /// Multiply-adds without exits.
    pub base_macs: u64,
    /// Mean multiply-adds with exits.
    pub mean_macs: u64,
    /// Multiply-adds of an inference that takes no exit.
    pub worst_macs: u64,
    /// Heads that went into the choice.
    pub heads: Vec<HeadReport>,
    /// Best accuracy for every mean cost that was seen.
    pub curve: Vec<CurvePoint>,
    /// Confusion before and after, and each class by itself.
    pub tables: tables::ClassTables,
}

/// One exit.
#[derive(Clone, Debug, Serialize)]
pub struct ExitReport {
    /// Name of the node behind which it is.
    pub after: String,
    /// Name of the device that decides; filled in when it is known.
    pub device: String,
    /// What counts as confidence.
    pub rule: ExitRule,
    /// Least confidence.
    pub threshold: f32,
    /// In a stream, what the answers before count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
    /// What scores are divided by.
    pub temperature: f32,
    /// Share of all samples that end here.
    pub share: f64,
    /// Share of right answers among those.
    pub accuracy: f64,
    /// What the head is like.
    pub head: String,
    /// Weights and biases of the head.
    pub head_parameters: u64,
    /// Multiply-adds of the head alone.
    pub head_macs: u64,
    /// Multiply-adds of an inference that ends here.
    pub macs: u64,
}

/// A head that could have been chosen.
#[derive(Clone, Debug, Serialize)]
pub struct HeadReport {
    /// Name of the node behind which it is.
    pub after: String,
    /// What it is like.
    pub head: String,
    /// Multiply-adds of the backbone up to there.
    pub backbone_macs: u64,
    /// Multiply-adds of the head.
    pub head_macs: u64,
    /// Share of right answers if every inference ended here.
    pub accuracy: f64,
}

/// A point of the accuracy-operations curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CurvePoint {
    /// Mean multiply-adds.
    pub mean_macs: u64,
    /// Accuracy.
    pub accuracy: f64,
}

/// Adds the exits that pay on a cluster to a simplified graph. `mapping` says how the graph will be compiled.
pub fn add(
    graph: &mut Graph,
    wanted: &ExitOptions,
    cluster: &Cluster,
    mapping: &Options,
) -> Result<ExitsReport, Failure> {
    let load = |path: &Path, what: &str| {
        samples::load(path, graph, &wanted.preparation, None)
            .map_err(|error| Failure::Environment(error.context(format!("{what} `{}`", path.display()))))
    };
    let samples = load(&wanted.calibration, "calibration data")?;
    let further = wanted.training.as_ref().map(|path| load(path, "training data")).transpose()?;
    let groups = match &wanted.groups {
        // Samples near each other in time are alike.
        None if wanted.stream => Some(pieces(samples.inputs.len())),
        None => None,
        Some(array) => Some(
            samples::groups(&wanted.calibration, array, samples.inputs.len())
                .and_then(|groups| check_groups(groups, array))
                .with_context(|| format!("calibration data `{}`", wanted.calibration.display()))
                .map_err(Failure::Environment)?,
        ),
    };
    let given = match wanted.outputs.as_slice() {
        [] => None,
        names => Some(given::places(graph, names).map_err(|refusal| Failure::Input(vec![refusal]))?),
    };
    let refuse = |refusal: Diagnostic| Failure::Input(vec![refusal]);
    let tail = answer::detach(graph);
    let classes = classifier::classes(graph, "compile without --exits").map_err(refuse)?;
    let probabilities = classifier::answers_probabilities(graph);
    classifier::check_samples(&samples, classes, MIN_SAMPLES.max(5 * classes)).map_err(refuse)?;
    let calibration = samples.inputs.len();
    let samples = match further {
        None => samples,
        Some(further) => with_further(samples, further, classes)?,
    };
    let trained = given.is_none();
    let places = given.unwrap_or_else(|| affordable(candidates::places(graph), 2 * samples.inputs.len()));
    if places.is_empty() {
        let message = "there is no place for an exit: nowhere does a single tensor carry everything on";
        return Err(input_fault("E0191", message, "compile without --exits"));
    }
    let features = {
        let mut inputs = samples.inputs.clone();
        // Only what learns needs copies, and only where there is little to learn from.
        let copied = trained && inputs.len() < FEW;
        inputs.extend(samples.inputs.iter().filter_map(mirrored).filter(|_| copied));
        features::extract(graph, &places, &inputs, &wanted.cache)?
    };
    let split = Split::of(calibration, calibration..samples.inputs.len(), groups.as_deref());
    let answers = features.answers.chunks_exact(classes).take(samples.inputs.len()).map(classifier::class);
    // Where nobody says what a sample is, it is what the backbone says.
    let mut labels: Vec<u32> = answers.map(|answer| answer as u32).collect();
    let known = samples.labels.as_deref().unwrap_or(&[]);
    labels.iter_mut().zip(known).for_each(|(label, known)| *label = *known as u32);
    let branches: u64 = places.iter().map(|place| place.head_macs).sum();
    let all: u64 = graph.node_ids().map(|id| node_macs(graph, id)).sum();
    let material = Material {
        graph,
        places: &places,
        features: &features,
        inputs: &samples.inputs,
        labels,
        labelled: known.len(),
        split: &split,
        classes,
        probabilities,
        given: !trained,
        macs: all.saturating_sub(branches),
        stream: wanted.stream,
        head_bytes: head_bytes(cluster),
    };
    let judged = study::judge(&material, &wanted.cache, wanted.effort)?;
    let limit = wanted.min_accuracy.map_or(Limit::Drop(DEFAULT_DROP), Limit::Accuracy);
    let (with_exits, report) = settle::settle(&material, &judged, limit, cluster, mapping)?;
    *graph = with_exits;
    if !trained {
        given::remove_others(graph);
    }
    if let Some(tail) = tail {
        answer::attach(graph, &tail).map_err(|error| Failure::Internal(error.into()))?;
    }
    Ok(report)
}

/// What a head's weights may take on the smallest device: a small part of where they would lie.
fn head_bytes(cluster: &Cluster) -> u64 {
    let room = cluster.devices.iter().map(|device| match device.target.system {
        System::Linux => limits::ram_bytes(device),
        System::CortexM => limits::flash_bytes(device),
    });
    room.min().unwrap_or(0) / HEAD_PART
}

/// Samples that judge, then samples that only teach.
fn with_further(samples: Samples, further: Samples, classes: usize) -> Result<Samples, Failure> {
    classifier::check_samples(&further, classes, 0).map_err(|refusal| Failure::Input(vec![refusal]))?;
    let labels = match (samples.labels, further.labels) {
        (Some(own), Some(further)) => Some([own, further].concat()),
        // Those without labels teach what the backbone says of them.
        (Some(own), None) => Some(own),
        (None, None) => None,
        (None, Some(_)) => {
            let message = "the training data has labels, but the calibration data, which judges, has none";
            return Err(input_fault("E0192", message, "give labels `y` in both, or in none"));
        }
    };
    Ok(Samples { inputs: [samples.inputs, further.inputs].concat(), labels })
}

/// Samples that follow each other, in pieces.
fn pieces(samples: usize) -> Vec<u32> {
    (0..samples).map(|sample| (sample * PIECES / samples.max(1)) as u32).collect()
}

/// Refuses groups of which too few are left when some judge the others.
fn check_groups(groups: Vec<u32>, array: &str) -> anyhow::Result<Vec<u32>> {
    let different = groups.iter().collect::<std::collections::BTreeSet<_>>().len();
    ensure!(different >= MIN_GROUPS, "array `{array}` has {different} groups; expected at least {MIN_GROUPS}");
    Ok(groups)
}

/// A picture (three channels and two dimensions of space) seen in a mirror. Heads learn from it what the backbone says of
/// it, so it does no harm where left and right matter.
fn mirrored(input: &Value) -> Option<Value> {
    let [1, 3, _, columns] = input.shape[..] else { return None };
    let elements = data::to_f32(&input.data);
    let rows = elements.chunks_exact(columns.max(1)).flat_map(|row| row.iter().rev().copied());
    Some(Value { shape: input.shape.clone(), data: data::from_f32(rows.collect(), input.data.element()) })
}

fn input_fault(code: &'static str, message: impl Into<String>, help: &str) -> Failure {
    Failure::Input(vec![Diagnostic::new(code, message.into()).help(help)])
}

/// Leaves out views, the largest first, until the features fit in memory.
fn affordable(mut places: Vec<Place>, samples: usize) -> Vec<Place> {
    loop {
        let features: usize = places.iter().flat_map(|place| &place.views).map(|view| view.features).sum();
        if features * samples * size_of::<f32>() <= MAX_FEATURE_BYTES {
            places.retain(|place| !place.views.is_empty());
            return places;
        }
        let largest = places
            .iter_mut()
            .flat_map(|place| {
                let views = &mut place.views;
                (0..views.len())
                    .max_by_key(|view| views[*view].features)
                    .map(|view| (views[view].features, view, views))
            })
            .max_by_key(|(features, _, _)| *features);
        match largest {
            Some((_, view, views)) => drop(views.remove(view)),
            None => return Vec::new(),
        }
    }
}
