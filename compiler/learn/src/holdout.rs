//! What the network does on samples that are not for calibration: where it does worse there, what is proven on calibration
//! samples says too much.

use std::path::Path;

use anyhow::Context;

use crate::accuracy::{Holdout, HoldoutReport};
use crate::classifier::class;
use crate::exits::features;
use crate::host::Runner;
use crate::samples::{self, Preparation};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{Graph, Value};
use partita_placement::Failure;

/// What is known beside the calibration samples.
pub enum Beside {
    /// The network's accuracy, as somebody has measured it.
    Accuracy(f64),
    /// Samples, and what they are.
    Samples(Vec<Value>, Vec<usize>),
}

/// The calibration samples, beside which others are held.
pub struct Calibration<'a> {
    /// Where they are.
    pub path: &'a Path,
    /// Whether somebody has said what they are.
    pub labelled: bool,
    /// How they lie in files, and others, too.
    pub preparation: &'a Preparation,
    /// Number of classes.
    pub classes: usize,
}

/// Reads what is known of other samples.
///
/// Errors: E0192 where the two cannot be compared.
pub fn read(holdout: &Holdout, graph: &Graph, calibration: &Calibration<'_>) -> Result<Beside, Failure> {
    let refuse = |message: String, help: &str| {
        Err(Failure::Input(vec![Diagnostic::new("E0192", format!("--holdout: {message}")).help(help)]))
    };
    if !calibration.labelled {
        let message = "the calibration data has no labels, so its accuracy, which is to be compared, is not known";
        return refuse(message.to_string(), "give labels `y` in both, or leave --holdout out");
    }
    let path = match holdout {
        Holdout::Accuracy(accuracy) => return Ok(Beside::Accuracy(*accuracy)),
        Holdout::Data(path) => path,
    };
    let same = |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    if same(path, calibration.path) {
        let message = format!("`{}` is the calibration data", path.display());
        return refuse(
            message,
            "give samples that are in no other file, or the accuracy that the model is known to have",
        );
    }
    let samples = samples::load(path, graph, calibration.preparation, None)
        .with_context(|| format!("holdout data `{}`", path.display()))
        .map_err(Failure::Environment)?;
    let Some(labels) = samples.labels else {
        return refuse(format!("`{}` has no labels", path.display()), "add an array `y` with the right classes");
    };
    if let Some((sample, label)) = labels.iter().enumerate().find(|(_, label)| **label >= calibration.classes) {
        let (path, classes) = (path.display(), calibration.classes);
        let message = format!("label {label} of sample {sample} of `{path}` is not a class; the model has {classes}");
        return refuse(message, "labels count classes from 0");
    }
    Ok(Beside::Samples(samples.inputs, labels))
}

impl Beside {
    /// The network's accuracy there, beside that on calibration samples.
    pub fn compare(
        &self,
        graph: &Graph,
        classes: usize,
        calibration_accuracy: f64,
        runner: Runner<'_>,
    ) -> Result<HoldoutReport, Failure> {
        let (inputs, labels) = match self {
            Beside::Accuracy(accuracy) => return Ok(HoldoutReport::of(*accuracy, None, calibration_accuracy)),
            Beside::Samples(inputs, labels) => (inputs, labels),
        };
        let answers = features::extract(graph, &[], inputs, runner)?.answers;
        let right = answers.chunks_exact(classes).zip(labels).filter(|(scores, label)| class(scores) == **label);
        let accuracy = right.count() as f64 / labels.len().max(1) as f64;
        Ok(HoldoutReport::of(accuracy, Some(labels.len()), calibration_accuracy))
    }
}
