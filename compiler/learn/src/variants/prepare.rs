//! What a study of variants is made of: calibration samples that fit the model, and what the whole network sends.

use anyhow::Context;

use super::options::VariantOptions;
use super::studied::Study;
use super::study::{self, Dataset};
use crate::accuracy::{self, Limits};
use crate::classifier;
use crate::holdout::{self, Calibration};
use crate::host::{Host, Runner};
use crate::progress::note;
use crate::samples::{self, Samples};
use partita_config::Cluster;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::Graph;
use partita_placement::{self as placement, Failure, PlacementOptions};
use partita_plan::partition::PartitionOptions;

/// Least calibration samples: half of them guide the search, the others judge.
const MIN_SAMPLES: usize = 100;

/// Finds what can go in a simplified graph.
pub fn study(
    graph: &Graph,
    wanted: &VariantOptions,
    cluster: &Cluster,
    mapping: &PlacementOptions,
    host: &dyn Host,
) -> Result<Study, Failure> {
    let runner = Runner { host, cache: &wanted.cache };
    let refuse = |refusal: Diagnostic| Failure::Input(vec![refusal]);
    let classes = classifier::classes(graph, "compile without --variants").map_err(refuse)?;
    let samples = samples::load(&wanted.calibration, graph, &wanted.preparation, None)
        .with_context(|| format!("calibration data `{}`", wanted.calibration.display()))
        .map_err(Failure::Environment)?;
    classifier::check_samples(&samples, classes, MIN_SAMPLES).map_err(refuse)?;
    let (path, labelled) = (wanted.calibration.as_path(), samples.labels.is_some());
    let known = Calibration { path, labelled, preparation: &wanted.preparation, classes };
    let beside = wanted.demands.holdout.as_ref().map(|holdout| holdout::read(holdout, graph, &known)).transpose()?;
    let whole = PartitionOptions::new(mapping.objective, mapping.family);
    let nominal = placement::outlook(graph, cluster, &whole);
    let sent_bytes = nominal.map_or_else(Default::default, |nominal| nominal.sharded.sent_bytes(graph));
    if let Some(reason) = hopeless(&samples, wanted, classes) {
        return study::whole(graph, &Dataset { samples, classes, beside }, wanted, reason, runner);
    }
    let study = study::study(graph, &Dataset { samples, classes, beside }, wanted, &sent_bytes, runner)?;
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
