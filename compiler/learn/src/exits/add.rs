//! From calibration samples to a graph with exits: what is read is looked at, places are found, and everything that learns is
//! called in order.

use std::path::Path;

use anyhow::{Context, ensure};

use super::candidates::ExitPlace;
use super::co_optimize::Wanted;
use super::dataset::{Dataset, FEW};
use super::options::ExitOptions;
use super::report::ExitsReport;
use super::split::SampleSplit;
use super::{candidates, co_optimize, dequantize, existing_exits, features, study};
use crate::accuracy::{self, Limits};
use crate::classifier;
use crate::confidence::least_loss;
use crate::holdout::{self, Beside, Calibration};
use crate::host::{Host, Runner};
use crate::progress::note;
use crate::samples::{self, Samples};
use partita_config::{Cluster, System};
use partita_files::data;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{Graph, Value};
use partita_placement::{Failure, PlacementOptions};
use partita_plan::partition::{limits, node_macs};

/// Least number of samples from which anything can be learned, and per class.
const MIN_SAMPLES: usize = 100;

/// Most bytes of features kept at once.
const MAX_FEATURE_BYTES: usize = 1 << 30;

/// A head's weights may take one part in so many of the smallest device's room for weights.
const HEAD_PART: u64 = 8;

/// Groups of samples from which some can judge the others.
const MIN_GROUPS: usize = 8;

/// Pieces that a stream is cut into, where some of it judges heads that have learned from the rest.
const PIECES: usize = 16;

/// Adds the exits that pay on a cluster to a simplified graph. `mapping` says how the graph will be compiled.
#[allow(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
pub fn add(
    mut graph: Graph,
    wanted: &ExitOptions,
    cluster: &Cluster,
    mapping: &PlacementOptions,
    host: &dyn Host,
) -> Result<(Graph, ExitsReport), Failure> {
    let runner = Runner { host, cache: &wanted.cache };
    let load = |path: &Path, what: &str| {
        samples::load(path, &graph, &wanted.preparation, None)
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
    let existing = match wanted.outputs.as_slice() {
        [] => None,
        names => Some(existing_exits::places(&mut graph, names).map_err(|refusal| Failure::Input(vec![refusal]))?),
    };
    let refuse = |refusal: Diagnostic| Failure::Input(vec![refusal]);
    let tail = dequantize::detach(&mut graph);
    let classes = classifier::classes(&graph, "compile without --exits").map_err(refuse)?;
    let probabilities = classifier::answers_probabilities(&graph);
    classifier::check_samples(&samples, classes, MIN_SAMPLES.max(5 * classes)).map_err(refuse)?;
    let beside = {
        let (path, labelled) = (wanted.calibration.as_path(), samples.labels.is_some());
        let known = Calibration { path, labelled, preparation: &wanted.preparation, classes };
        let read = |holdout| holdout::read(holdout, &graph, &known);
        wanted.demands.holdout.as_ref().map(read).transpose()?
    };
    let calibration = samples.inputs.len();
    let samples = match further {
        None => samples,
        Some(further) => with_further(samples, further, classes)?,
    };
    let trained = existing.is_none();
    let branches: u64 = existing.iter().flatten().map(|place| place.head_macs).sum();
    let places = existing.unwrap_or_else(|| affordable(candidates::places(&graph), 2 * samples.inputs.len()));
    if places.is_empty() {
        let message = "there is no place for an exit: nowhere does a single tensor carry everything on";
        return Err(input_fault("E0191", message, "compile without --exits"));
    }
    let split = SampleSplit::of(calibration, calibration..samples.inputs.len(), groups.as_deref());
    let limits = wanted.demands.limits.or_loss(accuracy::DEFAULT_LOSS);
    // Then nothing is trained, and only the network's own answers are needed.
    let hopeless = limits.max_loss.is_some_and(|limit| least_loss(split.judged.len()) > limit);
    let places = if hopeless { Vec::new() } else { places };
    // With other samples to compare with, it is said when they are known.
    if beside.is_none() {
        note(&accuracy::foresight(split.judged.len(), &limits, 0.0));
    }
    let features = {
        let mut inputs = samples.inputs.clone();
        // Only what learns needs copies, and only where there is little to learn from.
        let copied = trained && inputs.len() < FEW && !hopeless;
        inputs.extend(samples.inputs.iter().filter_map(mirrored).filter(|_| copied));
        features::extract(&graph, &places, &inputs, runner)?
    };
    let answers = features.answers.chunks_exact(classes).take(samples.inputs.len()).map(classifier::class);
    // Where nobody says what a sample is, it is what the backbone says.
    let mut labels: Vec<u32> = answers.map(|answer| answer as u32).collect();
    let known = samples.labels.as_deref().unwrap_or(&[]);
    labels.iter_mut().zip(known).for_each(|(label, known)| *label = *known as u32);
    let all: u64 = graph.node_ids().map(|id| node_macs(&graph, id)).sum();
    let dataset = Dataset {
        graph: &graph,
        places: &places,
        features: &features,
        inputs: &samples.inputs,
        labels,
        labelled: known.len(),
        split: &split,
        classes,
        probabilities,
        existing: !trained,
        macs: all.saturating_sub(branches),
        stream: wanted.stream,
        head_bytes: head_bytes(cluster),
    };
    let base_right = dataset.base_right();
    let base_accuracy = base_right.iter().filter(|right| **right).count() as f64 / base_right.len().max(1) as f64;
    let compare = |beside: &Beside| beside.compare(&graph, classes, base_accuracy, runner);
    let holdout = beside.as_ref().map(compare).transpose()?;
    let by_hand = wanted.demands.limits != Limits::default();
    let kept = Wanted { limits, by_hand, holdout };
    foretell(&dataset, &kept, base_accuracy);
    let (mut with_exits, report) = if kept.is_provable(&dataset) {
        let judged = study::judge(&dataset, runner, wanted.effort)?;
        co_optimize::co_optimize(&dataset, &judged, &kept, cluster, mapping)?
    } else {
        co_optimize::nothing(&dataset, &kept)?
    };
    if !trained {
        existing_exits::remove_others(&mut with_exits);
    }
    if let Some(tail) = tail {
        dequantize::attach(&mut with_exits, &tail).map_err(|error| Failure::Internal(error.into()))?;
    }
    Ok((with_exits, report))
}

/// Says what else is known of what can be proven, before anything is trained.
fn foretell(dataset: &Dataset<'_>, wanted: &Wanted, base_accuracy: f64) {
    if let Some(holdout) = &wanted.holdout {
        note(&holdout.sentence());
        note(&accuracy::foresight(dataset.split.judged.len(), &wanted.limits, wanted.gap()));
    }
    if let Some(least) = wanted.limits.min_accuracy.filter(|least| *least > base_accuracy) {
        let (own, least) = (base_accuracy * 100.0, least * 100.0);
        note(&format!("the network itself answers {own:.2} % rightly; {least:.2} % ask exits to be better than that"));
    }
    if !wanted.is_provable(dataset) {
        let best = wanted.provable(dataset).rounded().options();
        let samples = dataset.split.judged.len();
        note(&format!("nothing is trained: {samples} samples prove {best} at best, not {}", wanted.limits.options()));
    }
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

/// A picture (three channels, which come first or last, and two dimensions of space) seen in a mirror. Heads learn from it
/// what the backbone says of it, so it does no harm where left and right matter.
fn mirrored(input: &Value) -> Option<Value> {
    let (columns, of_column) = match input.shape[..] {
        [1, 3, _, columns] => (columns, 1),
        [1, _, columns, 3] => (columns, 3),
        _ => return None,
    };
    let elements = data::to_f32(&input.data);
    let rows = elements.chunks_exact((columns * of_column).max(1));
    let mirrored = rows.flat_map(|row| row.chunks_exact(of_column).rev().flatten().copied());
    Some(Value { shape: input.shape.clone(), data: data::from_f32(mirrored.collect(), input.data.element()) })
}

fn input_fault(code: &'static str, message: impl Into<String>, help: &str) -> Failure {
    Failure::Input(vec![Diagnostic::new(code, message.into()).help(help)])
}

/// Leaves out views, the largest first, until the features fit in memory.
fn affordable(mut places: Vec<ExitPlace>, samples: usize) -> Vec<ExitPlace> {
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
