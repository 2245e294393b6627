//! Variants: what is left of a network when links get slow or devices go away (Khan et al. 2023).
//!
//! `parts` finds what can go (`channels` between two convolutions among it), `segments` cuts the network into pieces from which what is left of any set is put together,
//! `repair` fits what takes the place of a part, `combined` lets several parts of one piece go together, `scores` measures
//! sets, `search` finds good ones with the help of `surrogate`, `study` does all that on the calibration samples: half of
//! them guide, the others judge (`guided`), and what is judged must keep what the user demands (`demanded`).
//! `situations` says what may happen, `mapping` how each set is best computed then with the weights that devices hold, and
//! which is taken; `routes` turns that into programs. The result is a family of routes over the same weights: see
//! [`crate::program::family`] and `partita_rt::family`.

pub mod channels;
pub mod combined;
pub mod demanded;
pub mod fitting;
mod guided;
pub mod mapping;
pub mod parts;
pub mod repair;
pub mod report;
pub mod routes;
pub mod scores;
pub mod search;
pub mod segments;
pub mod situations;
pub mod study;
pub mod surrogate;

use std::path::PathBuf;

use anyhow::Context;

use crate::accuracy::{self, Demands, Limits};
use crate::classifier;
use crate::cli::{Arguments, Switch};
use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::driver::{Failure, Options};
use crate::graph::Graph;
use crate::holdout::{self, Calibration};
use crate::host::progress::note;
use crate::partition::PartitionOptions;
use crate::placement;
use crate::samples::{self, Preparation, Samples};
use study::{Given, Study};

/// What the user wants of variants.
#[derive(Clone, Debug)]
pub struct VariantOptions {
    /// Calibration samples.
    pub calibration: PathBuf,
    /// How they lie in the file.
    pub preparation: Preparation,
    /// What variants must keep; 5 points may be lost if nothing is said.
    pub demands: Demands,
    /// Where finished work is kept.
    pub cache: PathBuf,
}

impl VariantOptions {
    /// As the command line says; `None` unless variants are wanted.
    pub fn of(arguments: &Arguments) -> Option<VariantOptions> {
        let calibration = arguments.calibration.clone().filter(|_| arguments.variants == Switch::Auto)?;
        let preparation = Preparation::of(arguments);
        Some(VariantOptions {
            calibration,
            preparation,
            demands: arguments.demands(),
            cache: crate::host::kept::folder(arguments),
        })
    }
}

/// Finds what can go in a simplified graph.
pub fn study(graph: &Graph, wanted: &VariantOptions, cluster: &Cluster, options: &Options) -> Result<Study, Failure> {
    let refuse = |refusal: Diagnostic| Failure::Input(vec![refusal]);
    let classes = classifier::classes(graph, "compile without --variants").map_err(refuse)?;
    let samples = samples::load(&wanted.calibration, graph, &wanted.preparation, None)
        .with_context(|| format!("calibration data `{}`", wanted.calibration.display()))
        .map_err(Failure::Environment)?;
    classifier::check_samples(&samples, classes, MIN_SAMPLES).map_err(refuse)?;
    let (path, labelled) = (wanted.calibration.as_path(), samples.labels.is_some());
    let known = Calibration { path, labelled, preparation: &wanted.preparation, classes };
    let beside = wanted.demands.holdout.as_ref().map(|holdout| holdout::read(holdout, graph, &known)).transpose()?;
    let whole = PartitionOptions::new(options.objective, options.family);
    let nominal = placement::outlook(graph, cluster, &whole);
    let sent_bytes = nominal.map_or_else(Default::default, |nominal| nominal.sharded.sent_bytes(graph));
    if let Some(reason) = hopeless(&samples, wanted, classes) {
        return study::whole(graph, &Given { samples, classes, beside }, wanted, reason);
    }
    let study = study::study(graph, &Given { samples, classes, beside }, wanted, &sent_bytes)?;
    if study.parts.is_empty() {
        let message = "nothing can go: the network has no residual blocks, skip connections or concatenations";
        return Err(refuse(Diagnostic::new("E0196", message).help("compile without --variants")));
    }
    Ok(study)
}

/// Why no variant could be proven to keep the losses that are wanted, where that is so: too few samples judge.
fn hopeless(samples: &Samples, wanted: &VariantOptions, classes: usize) -> Option<String> {
    let losses = Limits { min_accuracy: None, ..wanted.demands.limits };
    if losses == Limits::default() {
        return None;
    }
    let judging = samples.inputs.len() / 2;
    note(&format!("of variants, {}", accuracy::foresight(judging, &losses, 0.0)));
    let known =
        samples.labels.as_ref().map(|labels| labels.iter().skip(1).step_by(2).map(|label| *label as u32).collect());
    // Where nobody says what samples are, how many a class has is known later.
    let (labels, classes) = known.map_or((vec![0; judging], 0), |labels: Vec<u32>| (labels, classes));
    let best = accuracy::provable(&labels, classes, &losses, 0.0);
    (!losses.allow(&best)).then(|| {
        let (best, wanted) = (best.rounded().options(), losses.options());
        format!("nothing was sought: {judging} samples judge variants, and prove {best} at best, not {wanted}")
    })
}

/// Least calibration samples: half of them guide the search, the others judge.
const MIN_SAMPLES: usize = 100;
