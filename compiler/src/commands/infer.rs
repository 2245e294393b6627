//! `--run`: one inference on the cluster, as local processes.

use crate::bundle::cargo::BuiltDevice;
use crate::bundle::report::{LatencyReport, MeasuredDevice, OutputReport, Report, RunReport};
use crate::cli::{Arguments, Format};
use crate::data;
use crate::driver::{Compiled, Failure};
use crate::graph::types::on_elements;
use crate::graph::{Graph, Value};
use crate::run::DeviceReport;
use crate::run::local::{LocalOptions, pack, start, unpack};

/// Elements of an output that the report has; all of them are in the file of --output.
const MOST_ELEMENTS: usize = 10_000;

/// Runs once and prints the answer; also writes it where --output says.
pub(super) fn run_once(
    arguments: &Arguments,
    compiled: &Compiled,
    built: &[BuiltDevice],
    input: Option<&[Value]>,
    report: &mut Report,
) -> Result<(), Failure> {
    let graph = &compiled.graph;
    let inputs = input.map_or_else(|| noise_inputs(graph, 1), <[Value]>::to_vec);
    let mut cluster =
        start(compiled, built, LocalOptions { launcher: arguments.launcher.as_deref(), ..LocalOptions::default() })
            .map_err(Failure::Environment)?;
    let input = pack(graph, graph.given_inputs(), &inputs).map_err(Failure::Environment)?;
    let mut result = cluster.infer(&input).map_err(|error| Failure::Environment(error.into()))?;
    let mut times_ms = vec![result.wall_time.as_secs_f64() * 1e3];
    for _ in 1..arguments.repeat {
        result = cluster.infer(&input).map_err(|error| Failure::Environment(error.into()))?;
        times_ms.push(result.wall_time.as_secs_f64() * 1e3);
    }
    let latency = LatencyReport::of(times_ms);
    let outputs = unpack(graph, &result.output).map_err(Failure::Environment)?;
    add_measured(report, &result.reports);
    if arguments.format == Format::Human {
        for (name, value) in &outputs {
            println!("{}: {}", crate::diagnostic::printable(name), preview(value));
        }
        match arguments.repeat {
            0 | 1 => println!("answered in {:.3} ms", latency.p50),
            runs => println!("answered in {:.3} ms (median of {runs}; worst {:.3} ms)", latency.p50, latency.max),
        }
    }
    report.run = Some(RunReport { latency, repeat: arguments.repeat, outputs: outputs.iter().map(answer).collect() });
    if let Some(path) = &arguments.output {
        data::write_npz(path, &outputs).map_err(Failure::Environment)?;
    }
    Ok(())
}

/// Seeded noise for every input that the caller gives.
pub(super) fn noise_inputs(graph: &Graph, seed: u64) -> Vec<Value> {
    let tensors = graph.given_inputs().iter().enumerate();
    tensors.map(|(index, input)| data::noise(graph.tensor_type(*input), seed + index as u64)).collect()
}

/// Puts what was measured of each device beside what was predicted.
pub(super) fn add_measured(report: &mut Report, measured: &[DeviceReport]) {
    for device in measured {
        for entry in report.devices.iter_mut().filter(|entry| entry.name == device.name) {
            entry.measured = Some(MeasuredDevice {
                compute_ms: device.compute_ms(),
                link_ms: device.wait_ms(),
                sent_bytes: device.sent_bytes,
                received_bytes: device.received_bytes,
            });
        }
    }
}

/// An output as JSON has it.
fn answer((name, value): &(String, Value)) -> OutputReport {
    let elements = data::to_f32(&value.data);
    OutputReport {
        name: name.clone(),
        r#type: value.data.element().name().to_string(),
        shape: value.shape.clone(),
        largest: crate::classifier::class(&elements),
        elements: elements.iter().take(MOST_ELEMENTS).map(|element| element.is_finite().then_some(*element)).collect(),
    }
}

/// The first elements of a tensor, and the largest if it looks like class scores.
fn preview(value: &Value) -> String {
    let is_float = value.data.element().is_float();
    let shown: Vec<String> = match is_float {
        true => data::to_f32(&value.data).iter().take(8).map(|element| format!("{element:.5}")).collect(),
        false => on_elements!(&value.data, elements => elements.iter().take(8).map(|e| format!("{e:?}")).collect()),
    };
    let more = if value.data.len() > shown.len() { ", .." } else { "" };
    let elements = data::to_f32(&value.data);
    let largest = elements.iter().enumerate().filter(|_| is_float).max_by(|a, b| a.1.total_cmp(b.1));
    let largest = largest.map(|(index, element)| format!("; largest {element:.5} at {index}")).unwrap_or_default();
    format!("{} {:?} [{}{more}]{largest}", value.data.element().name(), value.shape, shown.join(", "))
}
