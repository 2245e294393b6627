//! What the command line means for the stages.

use std::path::{Path, PathBuf};

use super::{Arguments, Switch};
use crate::accuracy::Holdout;
use crate::exits::ExitOptions;
use crate::links::{self, LinkOptions};
use crate::options::{Numbers, Options};
use crate::quantize::QuantizeOptions;
use crate::samples::Preparation;
use crate::variants::VariantOptions;

impl Options {
    /// The options among the command line's arguments.
    pub fn of(arguments: &Arguments) -> Options {
        Options {
            shapes: arguments.shapes.clone(),
            fixed: arguments.fixed.clone(),
            states: arguments.states.clone(),
            batch: arguments.batch,
            objective: arguments.objective,
            family: arguments.strategy,
            exact: arguments.exact,
            numbers: arguments.numbers,
            weights: arguments.weights,
            max_latency_ms: arguments.max_latency,
            advise: arguments.advise,
            plan: arguments.plan.clone(),
            links: links(arguments),
            quantize: quantize(arguments),
            write_onnx: arguments.write_onnx.clone(),
            exits: exits(arguments),
            variants: variants(arguments),
            measured: arguments.measured.clone(),
            tuned: arguments.tuned.clone(),
            trial: None,
        }
    }
}

impl Arguments {
    /// Whether whole numbers are to be made of calibration samples.
    pub fn quantizes(&self) -> bool {
        self.quantize.is_some() || self.numbers == Numbers::Int8 && self.calibration.is_some()
    }

    /// Files of arrays that are read, by their options.
    pub fn data_files(&self) -> Vec<(&'static str, &Path)> {
        let holdout = self.holdout.as_ref().and_then(|holdout| match holdout {
            Holdout::Data(path) => Some(path),
            Holdout::Accuracy(_) => None,
        });
        let all = [
            ("--input", self.input.as_ref()),
            ("--evaluate", self.evaluate.as_ref()),
            ("--calibration", self.calibration.as_ref()),
            ("--training", self.training.as_ref()),
            ("--holdout", holdout),
        ];
        all.into_iter().filter_map(|(option, path)| Some((option, path?.as_path()))).collect()
    }

    /// Files that are written, by their options; the bundle is not among them.
    pub fn written_files(&self) -> Vec<(&'static str, &Path)> {
        let all = [
            ("--output", &self.output),
            ("--log", &self.log),
            ("--timeline", &self.timeline),
            ("--write-onnx", &self.write_onnx),
        ];
        all.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect()
    }
}

/// How data lie in their files.
pub fn preparation(arguments: &Arguments) -> Preparation {
    Preparation { normalize: arguments.normalize.clone(), layout: Some(arguments.layout), batch: arguments.batch }
}

/// What is wanted of quantization; none unless it is wanted.
fn quantize(arguments: &Arguments) -> Option<QuantizeOptions> {
    if !arguments.quantizes() {
        return None;
    }
    Some(QuantizeOptions {
        calibration: arguments.calibration.clone()?,
        preparation: preparation(arguments),
        demands: arguments.demands(),
        ranges: arguments.quantize_ranges,
        cache: cache(arguments),
    })
}

/// What is wanted of links. What exits and variants are judged by, and what is measured, are networks whose links send every
/// number as it is, as they do where every number is to have 32 bits.
fn links(arguments: &Arguments) -> LinkOptions {
    let judged = arguments.exits == Switch::Auto
        || arguments.variants == Switch::Auto
        || !arguments.exit_outputs.is_empty()
        || arguments.quantizes()
        || arguments.numbers == Numbers::F32;
    if judged || arguments.measure || arguments.tune || arguments.plan.is_some() {
        return LinkOptions::exact();
    }
    LinkOptions {
        error: arguments.link_error.unwrap_or(links::DEFAULT),
        calibration: arguments.calibration.clone(),
        preparation: preparation(arguments),
    }
}

/// What is wanted of exits; none unless they are wanted.
fn exits(arguments: &Arguments) -> Option<ExitOptions> {
    let outputs = arguments.exit_outputs.clone();
    let wanted = arguments.exits == Switch::Auto || !outputs.is_empty();
    Some(ExitOptions {
        calibration: arguments.calibration.clone().filter(|_| wanted)?,
        preparation: preparation(arguments),
        demands: arguments.demands(),
        outputs,
        cache: cache(arguments),
        training: arguments.training.clone(),
        groups: arguments.groups.clone(),
        stream: arguments.stream,
        effort: arguments.effort,
    })
}

/// What is wanted of variants; none unless they are wanted.
fn variants(arguments: &Arguments) -> Option<VariantOptions> {
    Some(VariantOptions {
        calibration: arguments.calibration.clone().filter(|_| arguments.variants == Switch::Auto)?,
        preparation: preparation(arguments),
        demands: arguments.demands(),
        cache: cache(arguments),
    })
}

/// Where finished work on calibration samples is kept: beside the output folder.
fn cache(arguments: &Arguments) -> PathBuf {
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out/model"));
    out.parent().unwrap_or(Path::new("")).join(".partita-features")
}
