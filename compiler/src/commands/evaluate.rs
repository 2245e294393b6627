//! `--evaluate`: the running cluster over labelled samples.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use partita_learn::progress::say;

use super::build::note;
use super::infer::add_measured;
use super::ready::Labelled;
use crate::bundle::cargo::BuiltDevice;
use crate::bundle::report::{AccuracyReport, EvaluationReport, LatencyReport, Report};
use crate::cli::Arguments;
use crate::data;
use crate::driver::{Compiled, Failure};
use crate::graph::{Graph, TensorId, Value, eval};
use crate::host::ThisMachine;
use crate::partition::node_macs;
use crate::run::local::{LocalOptions, pack, start, unpack};
use crate::samples;
use crate::simulate::outcomes::{Outcome, mean, outcomes};
use crate::variants;

/// Samples whose answers are also computed by the reference kernels, to state the base accuracy on the same data; with
/// --verify it is all of them.
const BASE_SAMPLES: usize = 200;

/// Runs every sample and adds accuracy and latency to the report.
#[expect(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
pub(super) fn evaluate(
    arguments: &Arguments,
    samples: &Labelled,
    compiled: &Compiled,
    built: &[BuiltDevice],
    report: &mut Report,
) -> Result<(), Failure> {
    let graph = &compiled.graph;
    let labels = &samples.labels;
    let name = |output: &TensorId| crate::diagnostic::printable(&graph.tensor(*output).name);
    let judged = graph.outputs.iter().position(|output| name(output) == samples.judged).unwrap_or(0);
    if samples.outputs > 1 {
        let (judged, outputs) = (&samples.judged, samples.outputs);
        note(arguments, &format!("of {outputs} outputs the first, `{judged}`, is compared with the labels"));
    }
    let mut exits = Exits::new(compiled);
    let mut cluster =
        start(compiled, built, LocalOptions { launcher: arguments.launcher.as_deref(), ..LocalOptions::default() })
            .map_err(Failure::Environment)?;
    let mut times_ms = Vec::with_capacity(samples.inputs.len());
    let mut right = 0;
    let (mut base_right, mut disagreements) = (0, 0);
    let mut answers = Vec::with_capacity(samples.inputs.len());
    let mut sums: Vec<crate::run::DeviceReport> = Vec::new();
    let mut routes = vec![0usize; compiled.routed.routes.len() + 1];
    let mut log = arguments.log.as_deref().map(Log::create).transpose().map_err(Failure::Environment)?;
    let batches = samples::stacked(&samples.inputs, compiled.batch);
    for (index, (input, labels)) in batches.iter().zip(labels.chunks(compiled.batch)).enumerate() {
        let bytes = pack(graph, graph.given_inputs(), std::slice::from_ref(input)).map_err(Failure::Environment)?;
        let result = cluster.infer(&bytes).with_context(|| format!("sample {index}")).map_err(Failure::Environment)?;
        times_ms.push(result.wall_time.as_secs_f64() * 1e3);
        let outputs = unpack(graph, &result.output).map_err(Failure::Environment)?;
        let exit = result.exit.map(|(exit, _)| exit as usize);
        if let Some(taken) = routes.get_mut(usize::from(result.route)) {
            *taken += 1;
        }
        let right_before = right;
        for (answer, label) in classes(&outputs[judged].1, compiled.batch).into_iter().zip(labels) {
            right += usize::from(answer == *label);
            exits.count(exit, answer == *label);
            answers.push((answer, exit));
        }
        if let Some(log) = &mut log {
            log.line(index, &result, right - right_before).map_err(Failure::Environment)?;
        }
        accumulate(&mut sums, result.reports);
    }
    drop(cluster);
    // Only now: while this machine evaluates, devices would wait, and their waiting is part of what is reported.
    let count = samples.inputs.len();
    let base_count = if arguments.verify { count } else { count.min(BASE_SAMPLES) };
    let mut steady = BTreeMap::new();
    let mut rest = answers[..base_count].iter().zip(labels);
    for input in &batches[..base_count.div_ceil(compiled.batch)] {
        let expected = eval::evaluate_until_exit(graph, std::slice::from_ref(input), &mut steady)
            .map_err(|error| Failure::Internal(error.into()))?;
        let bases = classes(&expected.outputs[judged], compiled.batch);
        for (base, ((answer, exit), label)) in bases.into_iter().zip(rest.by_ref()) {
            base_right += usize::from(base == *label);
            disagreements += usize::from(base != *answer || expected.exit.map(|(exit, _)| exit) != *exit);
        }
    }
    for device in &mut sums {
        device.compute_us /= batches.len() as u64;
        device.wait_us /= batches.len() as u64;
        device.sent_bytes /= batches.len() as u64;
        device.received_bytes /= batches.len() as u64;
    }
    add_measured(report, &sums);
    if disagreements > 0 {
        say(format_args!("warning: {disagreements} of {base_count} answers differ from the reference kernels'"));
    }
    evaluate_variants(compiled, &samples.inputs, labels, report).map_err(Failure::of)?;
    let accuracy = right as f64 / count as f64;
    // What was predicted for inferences that end where these did.
    let outcomes =
        outcomes(graph, &compiled.routed.placed.sharded, &compiled.routed.placed.schedules, &compiled.cluster);
    let outcomes: Vec<Outcome> =
        outcomes.into_iter().zip(exits.shares()).map(|(outcome, share)| Outcome { share, ..outcome }).collect();
    report.accuracy = Some(AccuracyReport {
        base: (base_count == count).then(|| base_right as f64 / base_count as f64),
        compiled: accuracy,
        samples: count,
    });
    report.evaluation = Some(EvaluationReport {
        samples: count,
        output: samples.judged.clone(),
        accuracy,
        mean_macs: exits.mean_macs(),
        exit_shares: exits.shares(),
        exit_accuracies: exits.accuracies(),
        routes,
        predicted_ms: mean(&outcomes, |outcome| outcome.prediction.latency_ms),
        mean_energy_mj: mean(&outcomes, |outcome| outcome.prediction.energy_mj),
        measured_energy_mj: measured_energy_mj(compiled, &outcomes, &sums),
        mean_ms: times_ms.iter().sum::<f64>() / times_ms.len() as f64,
        latency_ms: LatencyReport::of(times_ms),
    });
    Ok(())
}

/// With --simulate, what variants answer is computed here; nothing is built for devices.
pub(super) fn evaluate_here(samples: &Labelled, compiled: &Compiled, report: &mut Report) -> anyhow::Result<()> {
    evaluate_variants(compiled, &samples.inputs, &samples.labels, report)
}

/// What each variant of the front says of the samples, on this machine.
fn evaluate_variants(
    compiled: &Compiled,
    inputs: &[Value],
    labels: &[usize],
    report: &mut Report,
) -> anyhow::Result<()> {
    if compiled.routed.variant_graphs.len() < 2 {
        return Ok(());
    }
    let graphs: Vec<&Graph> = compiled.routed.variant_graphs.iter().collect();
    let inputs: Vec<&Value> = inputs.iter().collect();
    let labels: Vec<u32> = labels.iter().map(|label| *label as u32).collect();
    let ended = variants::scores::measure_graphs(&graphs, &inputs, &labels, false, &ThisMachine)?;
    for (variant, ended) in report.variants.iter_mut().zip(ended) {
        variant.evaluated_accuracy = Some(ended.score.accuracy());
        variant.evaluated_exit_shares = ended.shares();
    }
    Ok(())
}

/// A line per inference.
struct Log {
    file: std::fs::File,
    path: PathBuf,
}

impl Log {
    fn create(path: &Path) -> anyhow::Result<Log> {
        let file = std::fs::File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
        let mut log = Log { file, path: path.to_path_buf() };
        log.write("sample,ms,route,exit,right,given_up\n")?;
        Ok(log)
    }

    fn line(&mut self, sample: usize, result: &crate::run::InferenceResult, right: usize) -> anyhow::Result<()> {
        let exit = result.exit.map_or(String::new(), |(exit, _)| exit.to_string());
        let milliseconds = result.wall_time.as_secs_f64() * 1e3;
        self.write(&format!("{sample},{milliseconds:.3},{},{exit},{right},{}\n", result.route, result.given_up))
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.file.write_all(text.as_bytes()).with_context(|| format!("writing `{}`", self.path.display()))
    }
}

/// Where inferences ended.
struct Exits {
    /// Multiply-adds of an inference that ends at each exit, and of one that goes to the end.
    macs: Vec<u64>,
    /// Inferences that ended there.
    ended: Vec<usize>,
    /// Right answers among them.
    right: Vec<usize>,
}

impl Exits {
    fn new(compiled: &Compiled) -> Exits {
        let macs = macs_until_exits(compiled);
        Exits { ended: vec![0; macs.len()], right: vec![0; macs.len()], macs }
    }

    fn count(&mut self, exit: Option<usize>, right: bool) {
        let end = self.macs.len() - 1;
        let place = exit.unwrap_or(end).min(end);
        self.ended[place] += 1;
        self.right[place] += usize::from(right);
    }

    fn total(&self) -> usize {
        self.ended.iter().sum::<usize>().max(1)
    }

    fn mean_macs(&self) -> u64 {
        let sum: u64 = self.macs.iter().zip(&self.ended).map(|(macs, ended)| macs * *ended as u64).sum();
        sum / self.total() as u64
    }

    fn shares(&self) -> Vec<f64> {
        self.ended.iter().map(|ended| *ended as f64 / self.total() as f64).collect()
    }

    fn accuracies(&self) -> Vec<f64> {
        self.right.iter().zip(&self.ended).map(|(right, ended)| *right as f64 / (*ended).max(1) as f64).collect()
    }
}

/// Multiply-adds of an inference that ends at each exit, and last of one that goes to the end.
fn macs_until_exits(compiled: &Compiled) -> Vec<u64> {
    let graph = &compiled.graph;
    let mut found = Vec::new();
    let mut sum = 0;
    for id in graph.topological_order().unwrap_or_default() {
        sum += node_macs(graph, id);
        found.extend(graph.decide(id).map(|_| sum));
    }
    found.push(sum);
    found
}

/// Energy of a mean inference by the times and bytes that devices have measured.
fn measured_energy_mj(compiled: &Compiled, outcomes: &[Outcome], measured: &[crate::run::DeviceReport]) -> f64 {
    let devices = compiled.cluster.devices.iter().enumerate();
    let energy_mj = devices.filter_map(|(index, device)| {
        let report = measured.iter().find(|report| report.name == device.name)?;
        let predicted_ms = mean(outcomes, |outcome| outcome.prediction.devices[index].compute_ms);
        let predicted_mj = mean(outcomes, |outcome| outcome.prediction.devices[index].compute_mj);
        let power = if predicted_ms > 0.0 { predicted_mj / predicted_ms } else { 0.0 };
        let bytes = (report.sent_bytes + report.received_bytes) as f64;
        Some(power * report.compute_ms() + bytes * device.target.energy.link_nanojoule_per_byte * 1e-6)
    });
    energy_mj.sum()
}

fn accumulate(sums: &mut Vec<crate::run::DeviceReport>, reports: Vec<crate::run::DeviceReport>) {
    if sums.is_empty() {
        *sums = reports;
        return;
    }
    for report in reports {
        if let Some(sum) = sums.iter_mut().find(|sum| sum.name == report.name) {
            sum.compute_us += report.compute_us;
            sum.wait_us += report.wait_us;
            sum.sent_bytes += report.sent_bytes;
            sum.received_bytes += report.received_bytes;
        }
    }
}

/// Index of the largest score of each sample.
fn classes(scores: &Value, batch: usize) -> Vec<usize> {
    let elements = data::to_f32(&scores.data);
    let largest = |scores: &[f32]| {
        scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(index, _)| index)
    };
    elements.chunks((elements.len() / batch.max(1)).max(1)).map(largest).collect()
}
