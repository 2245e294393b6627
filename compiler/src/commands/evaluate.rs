//! `--evaluate`: the running cluster over labelled samples.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::infer::{add_measured, pack, start, unpack};
use crate::bundle::cargo::BuiltDevice;
use crate::bundle::report::{AccuracyReport, EvaluationReport, LatencyReport, Report};
use crate::cli::{Arguments, DataLayout};
use crate::data;
use crate::driver::{Compiled, Failure};
use crate::graph::{Data, TensorType, Value, eval};

/// Samples whose answers are also computed by the reference kernels, to state the base accuracy on the same data.
const BASE_SAMPLES: usize = 200;

/// Labelled samples, converted to the model's input.
struct Samples {
    /// Each the model's input type.
    inputs: Vec<Value>,
    /// Right class of each.
    labels: Vec<usize>,
}

/// Runs every sample and adds accuracy and latency to the report.
pub(super) fn evaluate(
    arguments: &Arguments,
    path: &Path,
    compiled: &Compiled,
    built: &[BuiltDevice],
    report: &mut Report,
) -> Result<(), Failure> {
    let graph = &compiled.graph;
    let samples = load(arguments, path, compiled)
        .with_context(|| format!("`{}` does not fit the model", path.display()))
        .map_err(Failure::Environment)?;
    let mut cluster = start(compiled, built, arguments.launcher.as_deref(), false).map_err(Failure::Environment)?;
    let mut times_ms = Vec::with_capacity(samples.inputs.len());
    let mut right = 0;
    let (mut base_right, mut disagreements) = (0, 0);
    let mut sums: Vec<crate::run::DeviceReport> = Vec::new();
    for (index, (input, label)) in samples.inputs.iter().zip(&samples.labels).enumerate() {
        let bytes = pack(graph, &graph.inputs, std::slice::from_ref(input)).map_err(Failure::Environment)?;
        let result = cluster.infer(&bytes).with_context(|| format!("sample {index}")).map_err(Failure::Environment)?;
        times_ms.push(result.wall_time.as_secs_f64() * 1e3);
        let outputs = unpack(graph, &result.output).map_err(Failure::Environment)?;
        let answer = class(&outputs[0].1);
        right += usize::from(answer == *label);
        if index < BASE_SAMPLES {
            let expected =
                eval::evaluate(graph, std::slice::from_ref(input)).map_err(|error| Failure::Internal(error.into()))?;
            let base = class(&expected[0]);
            base_right += usize::from(base == *label);
            disagreements += usize::from(base != answer);
        }
        accumulate(&mut sums, result.reports);
    }
    let count = samples.inputs.len();
    for device in &mut sums {
        device.compute_us /= count as u64;
        device.wait_us /= count as u64;
    }
    add_measured(report, &sums);
    let base_count = count.min(BASE_SAMPLES);
    if disagreements > 0 {
        eprintln!("warning: {disagreements} of {base_count} answers differ from the reference kernels'");
    }
    let accuracy = right as f64 / count as f64;
    report.accuracy = Some(AccuracyReport {
        base: (base_count == count).then(|| base_right as f64 / base_count as f64),
        compiled: accuracy,
        samples: count,
    });
    report.evaluation = Some(EvaluationReport {
        samples: count,
        accuracy,
        mean_macs: report.model.macs,
        exit_shares: Vec::new(),
        latency_ms: LatencyReport::of(times_ms),
    });
    Ok(())
}

fn accumulate(sums: &mut Vec<crate::run::DeviceReport>, reports: Vec<crate::run::DeviceReport>) {
    if sums.is_empty() {
        *sums = reports;
        return;
    }
    for (sum, report) in sums.iter_mut().zip(reports) {
        sum.compute_us += report.compute_us;
        sum.wait_us += report.wait_us;
    }
}

/// Index of the largest score.
fn class(scores: &Value) -> usize {
    let elements = data::to_f32(&scores.data);
    elements.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(index, _)| index)
}

fn load(arguments: &Arguments, path: &Path, compiled: &Compiled) -> anyhow::Result<Samples> {
    let graph = &compiled.graph;
    let [input] = graph.inputs[..] else {
        bail!("--evaluate needs a model with one input; this one has {}", graph.inputs.len());
    };
    let wanted = graph.tensor_type(input);
    let arrays = data::read_npz(path)?;
    let array = |name: &str| {
        arrays.iter().find(|(other, _)| other == name).map(|(_, value)| value).with_context(|| {
            let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
            format!("there is no array `{name}`, only {}", names.join(", "))
        })
    };
    let (x, y) = (array("x")?, array("y")?);
    let count = *x.shape.first().context("array `x` is a scalar; its first dimension should count samples")?;
    ensure!(y.data.len() == count, "there are {count} samples but {} labels", y.data.len());
    ensure!(count > 0, "there are no samples");
    let labels: Vec<usize> = match &y.data {
        Data::F32(_) => bail!("labels `y` are floats; expected integers"),
        labels => data::to_f32(labels).into_iter().map(|label| label as usize).collect(),
    };
    let count = arguments.samples.unwrap_or(count).min(count);
    let per_sample = x.data.len() / x.shape[0];
    ensure!(
        per_sample == wanted.element_count(),
        "a sample of `x` has shape {:?}, but the model's input is {wanted}",
        &x.shape[1..]
    );
    let elements = data::to_f32(&x.data);
    let inputs = elements
        .chunks_exact(per_sample)
        .take(count)
        .map(|sample| sample_value(arguments, sample, wanted))
        .collect::<anyhow::Result<Vec<Value>>>()?;
    Ok(Samples { inputs, labels: labels.into_iter().take(count).collect() })
}

/// One sample in the model's layout and scale.
fn sample_value(arguments: &Arguments, sample: &[f32], wanted: &TensorType) -> anyhow::Result<Value> {
    let mut elements = sample.to_vec();
    let channels = wanted.shape.get(1).copied().unwrap_or(1);
    let plane: usize = wanted.shape.iter().skip(2).product();
    if arguments.layout == DataLayout::Nhwc {
        ensure!(wanted.rank() >= 3, "--layout nhwc needs an input with channels and space, not {wanted}");
        for (index, element) in elements.iter_mut().enumerate() {
            *element = sample[index % plane * channels + index / plane % channels];
        }
    }
    if let Some(normalization) = &arguments.normalize {
        normalization.apply(&mut elements, channels, plane)?;
    }
    Ok(Value::f32(wanted.shape.clone(), elements))
}
