//! What heads see of every sample: one pass over the data by the backbone itself, compiled for this machine.
//!
//! The graph gets the views of all places as further outputs and goes through the whole compiler; as many processes as
//! the machine has cores then answer the samples. Parts that are done are kept on disk, so that a run that was killed
//! goes on where it was.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};

use super::candidates::ExitPlace;
use crate::host::{Backbone, Host, Runner};
use crate::kept::key;
use crate::progress::Progress;
use partita_files::data;
use partita_ir::graph::infer::infer;
use partita_ir::graph::{Data, Graph, Op, TensorId, TensorType, Value};
use partita_ir::parallel::workers;
use partita_placement::Failure;

/// Samples of a part.
const PART: usize = 250;

/// All samples through the backbone.
pub struct Features {
    /// The model's output, row-major `[samples, classes]`.
    pub answers: Vec<f32>,
    /// Per place and view row-major `[samples, features]`.
    pub views: Vec<Vec<Vec<f32>>>,
}

/// Runs all samples. Finished parts are kept.
pub fn extract(graph: &Graph, places: &[ExitPlace], inputs: &[Value], runner: Runner<'_>) -> Result<Features, Failure> {
    let views = places.iter().flat_map(|place| place.views.iter().map(|view| (place.tensor, view.op.as_ref())));
    let probe = probe(graph, views)?;
    let folder = runner.cache.join(key(&probe, inputs));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("creating `{}`", folder.display()))
        .map_err(Failure::Environment)?;
    let parts = inputs.len().div_ceil(PART);
    let missing: Vec<usize> = (0..parts).filter(|part| !part_path(&folder, *part).is_file()).collect();
    if !missing.is_empty() {
        run(runner.host, &probe, inputs, &folder, &missing)?;
    }
    collect(&probe, places, inputs.len(), &folder).map_err(Failure::Environment)
}

/// The graph with every view as a further output.
pub(super) fn probe<'a>(
    graph: &Graph,
    views: impl Iterator<Item = (TensorId, Option<&'a Op>)>,
) -> Result<Graph, Failure> {
    let mut probe = graph.clone();
    for (number, (tensor, op)) in views.enumerate() {
        let Some(op) = op else {
            probe.outputs.push(tensor);
            continue;
        };
        let tensor_type = infer(op, &[probe.tensor_type(tensor)])
            .map_err(|error| Failure::Internal(anyhow::anyhow!("{error}")))?
            .swap_remove(0);
        let name = format!("partita.view.{number}");
        let output = probe.add_tensor(name.clone(), tensor_type);
        probe.add_node(name, op.clone(), vec![tensor], vec![output]);
        probe.outputs.push(output);
    }
    Ok(probe)
}

fn part_path(folder: &Path, part: usize) -> PathBuf {
    folder.join(format!("part-{part:05}.npz"))
}

/// Compiles the probe for this machine and lets processes of it answer the missing parts.
fn run(host: &dyn Host, probe: &Graph, inputs: &[Value], folder: &Path, missing: &[usize]) -> Result<(), Failure> {
    let backbone = Backbone::of(host, probe.clone());
    let samples: usize = missing.iter().map(|part| part_range(*part, inputs.len()).len()).sum();
    // Building it is no part of what each sample takes.
    drop(backbone.start().map_err(Failure::Environment)?);
    let progress = Progress::new(samples as u64, "samples through the backbone");
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let work = || -> anyhow::Result<()> {
        let mut process = backbone.start()?;
        while let Some(part) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut rows: Vec<Vec<f32>> = vec![Vec::new(); probe.outputs.len()];
            for sample in part_range(*part, inputs.len()) {
                for (row, elements) in rows.iter_mut().zip(process.answer(&inputs[sample])?) {
                    row.extend(elements);
                }
                progress.step();
            }
            let count = part_range(*part, inputs.len()).len();
            let array = |(index, elements): (usize, Vec<f32>)| {
                let shape = vec![count, elements.len() / count.max(1)];
                (format!("output-{index}"), Value { shape, data: Data::F32(elements) })
            };
            data::write_npz(&part_path(folder, *part), &rows.into_iter().enumerate().map(array).collect())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..workers(missing.len()) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    let mut slot = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    slot.get_or_insert(error);
                }
            });
        }
    });
    progress.finish();
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(Failure::of(error.context("running the calibration samples"))),
        None => Ok(()),
    }
}

fn part_range(part: usize, samples: usize) -> std::ops::Range<usize> {
    part * PART..((part + 1) * PART).min(samples)
}

fn collect(probe: &Graph, places: &[ExitPlace], samples: usize, folder: &Path) -> anyhow::Result<Features> {
    let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); probe.outputs.len()];
    for part in 0..samples.div_ceil(PART) {
        let path = part_path(folder, part);
        for (name, value) in data::read_npz(&path)? {
            let index: usize = name.strip_prefix("output-").and_then(|index| index.parse().ok()).unwrap_or(usize::MAX);
            let wanted = |output: usize| probe.tensor_type(probe.outputs[output]).element_count();
            let expected = part_range(part, samples).len();
            let fits = index < outputs.len() && value.data.len() == expected * wanted(index);
            ensure!(fits, "`{}` is not a part of these features; remove its folder", path.display());
            outputs[index].extend(data::to_f32(&value.data));
        }
    }
    for (output, elements) in probe.outputs.iter().zip(&outputs) {
        let tensor: &TensorType = probe.tensor_type(*output);
        ensure!(elements.len() == samples * tensor.element_count(), "`{}` lacks a part; remove it", folder.display());
    }
    let mut outputs = outputs.into_iter();
    let answers = outputs.next().unwrap_or_default();
    let views = places.iter().map(|place| outputs.by_ref().take(place.views.len()).collect()).collect();
    Ok(Features { answers, views })
}
