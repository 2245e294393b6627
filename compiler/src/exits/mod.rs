//! Early exits, added to a trained classifier after the fact (Sponner et al. 2024): the backbone stays as it is.
//!
//! `candidates` finds places, `features` runs the calibration set through the backbone once, `heads` trains a small
//! classifier per place, `calibrate` says how sure it is, `choose` picks exits and thresholds together, `insert` adds
//! them to the graph. From there on an exit is nodes like any others, and one that decides ([`crate::graph::op::Decide`]).
//!
//! Heads are judged on samples that they have not learned from: the calibration set is cut into folds, a head is
//! trained on all but one and judged on that one; what is compiled is the head trained on all.

pub mod calibrate;
pub mod candidates;
pub mod choose;
pub mod features;
pub mod given;
pub mod heads;
pub mod insert;
mod progress;
mod study;
pub mod tables;

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Arguments;
use crate::data;
use crate::diagnostic::Diagnostic;
use crate::driver::Failure;
use crate::graph::op::ExitRule;
use crate::graph::{Graph, Op, Value};
use crate::samples::{self, Preparation, Samples};
use candidates::Place;
use study::Study;

/// Least number of samples from which anything can be learned, and per class.
const MIN_SAMPLES: usize = 100;

/// Most bytes of features kept at once.
const MAX_FEATURE_BYTES: usize = 2 << 30;

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
}

impl ExitOptions {
    /// As the command line says; `None` unless exits are wanted.
    pub fn of(arguments: &Arguments) -> Option<ExitOptions> {
        let outputs = arguments.exit_outputs.clone();
        let wanted = arguments.exits == crate::cli::Switch::Auto || !outputs.is_empty();
        let calibration = arguments.calibration.clone().filter(|_| wanted)?;
        let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out/model"));
        let cache = out.parent().unwrap_or(std::path::Path::new("")).join(".partita-features");
        let preparation = Preparation::of(arguments);
        Some(ExitOptions { calibration, preparation, min_accuracy: arguments.min_accuracy, outputs, cache })
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
    /// What scores are divided by.
    pub temperature: f32,
    /// Share of all samples that end here.
    pub share: f64,
    /// Share of right answers among those.
    pub accuracy: f64,
    /// Weights and biases of the head.
    pub head_parameters: u64,
    /// Multiply-adds of an inference that ends here.
    pub macs: u64,
}

/// A point of the accuracy-operations curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CurvePoint {
    /// Mean multiply-adds.
    pub mean_macs: u64,
    /// Accuracy.
    pub accuracy: f64,
}

/// Adds the exits that pay to a simplified graph.
pub fn add(graph: &mut Graph, options: &ExitOptions) -> Result<ExitsReport, Failure> {
    let samples = samples::load(&options.calibration, graph, &options.preparation, None).map_err(|error| {
        Failure::Environment(error.context(format!("calibration data `{}`", options.calibration.display())))
    })?;
    let given = match options.outputs.as_slice() {
        [] => None,
        names => Some(given::places(graph, names).map_err(|refusal| Failure::Input(vec![refusal]))?),
    };
    let classes = classes(graph)?;
    let probabilities = graph
        .outputs
        .first()
        .and_then(|output| graph.tensor(*output).producer)
        .is_some_and(|producer| matches!(graph.node(producer).op, Op::Softmax { .. }));
    check_samples(&samples, classes)?;
    let trained = given.is_none();
    let places = given.unwrap_or_else(|| affordable(candidates::places(graph), 2 * samples.inputs.len()));
    if places.is_empty() {
        let message = "there is no place for an exit: nowhere does a single tensor carry everything on";
        return Err(input_fault("E0191", message, "compile without --exits"));
    }
    let mut inputs = samples.inputs.clone();
    // Only what learns needs copies.
    inputs.extend(samples.inputs.iter().filter_map(mirrored).filter(|_| trained));
    let features = features::extract(graph, &places, &inputs, &options.cache)?;
    let study = Study::new(graph, &places, &features, &samples, classes, probabilities, !trained);
    let report = study.run(graph, options)?;
    if !trained {
        given::remove_others(graph);
    }
    Ok(report)
}

/// A picture (three channels and two dimensions of space) seen in a mirror. Heads learn from it what the backbone says of
/// it, so it does no harm where left and right matter.
fn mirrored(input: &Value) -> Option<Value> {
    let [1, 3, _, columns] = input.shape[..] else { return None };
    let elements = data::to_f32(&input.data);
    let rows = elements.chunks_exact(columns.max(1)).flat_map(|row| row.iter().rev().copied());
    Some(Value::f32(input.shape.clone(), rows.collect()))
}

fn input_fault(code: &'static str, message: impl Into<String>, help: &str) -> Failure {
    Failure::Input(vec![Diagnostic::new(code, message.into()).help(help)])
}

/// Number of classes of a classifier with one output.
fn classes(graph: &Graph) -> Result<usize, Failure> {
    match graph.outputs.as_slice() {
        [output] => match graph.shape(*output) {
            [1, classes] if *classes >= 2 => Ok(*classes),
            shape => Err(input_fault(
                "E0190",
                format!("exits need a classifier with scores [1, classes]; this model's output has shape {shape:?}"),
                "compile without --exits",
            )),
        },
        outputs => Err(input_fault(
            "E0190",
            format!("exits need a model with one output; this one has {}", outputs.len()),
            "compile without --exits",
        )),
    }
}

/// Refuses data from which nothing can be learned.
fn check_samples(samples: &Samples, classes: usize) -> Result<(), Failure> {
    let count = samples.inputs.len();
    if count < MIN_SAMPLES.max(5 * classes) {
        let wanted = MIN_SAMPLES.max(5 * classes);
        let message = format!("{count} calibration samples are too few to train and judge exits; at least {wanted}");
        return Err(input_fault("E0192", message, "give more samples that the model has not been trained on"));
    }
    if let Some(labels) = &samples.labels {
        if let Some((sample, label)) = labels.iter().enumerate().find(|(_, label)| **label >= classes) {
            let message = format!("label {label} of sample {sample} is not a class; the model has {classes}");
            return Err(input_fault("E0192", message, "labels count classes from 0"));
        }
        if labels.iter().all(|label| *label == labels[0]) {
            let message = format!("all {count} calibration samples are of class {}", labels[0]);
            return Err(input_fault("E0192", message, "give samples of every class"));
        }
    }
    Ok(())
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
