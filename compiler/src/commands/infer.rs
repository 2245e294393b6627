//! `--run`: one inference on the cluster, as local processes.

use anyhow::{Context, ensure};

use crate::bundle::cargo::BuiltDevice;
use crate::bundle::report::{LatencyReport, Report};
use crate::cli::{Arguments, Format};
use crate::data::{self, Arrays};
use crate::driver::{Compiled, Failure};
use crate::graph::types::on_elements;
use crate::graph::{Graph, Value};
use crate::run::DeviceReport;
use crate::run::local::{LocalOptions, pack, start, unpack};

/// Runs once and prints the answer; also writes it where --output says.
pub(super) fn run_once(
    arguments: &Arguments,
    compiled: &Compiled,
    built: &[BuiltDevice],
    report: &mut Report,
) -> Result<(), Failure> {
    let graph = &compiled.graph;
    let inputs = match &arguments.input {
        Some(path) => {
            let arrays = data::read_npz(path).map_err(Failure::Environment)?;
            bind_inputs(graph, &arrays)
                .with_context(|| format!("`{}` does not fit the model", path.display()))
                .map_err(Failure::Environment)?
        }
        None => noise_inputs(graph, 1),
    };
    let mut cluster =
        start(compiled, built, LocalOptions { launcher: arguments.launcher.as_deref(), ..LocalOptions::default() })
            .map_err(Failure::Environment)?;
    let input = pack(graph, &graph.inputs, &inputs).map_err(Failure::Environment)?;
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
        for device in &result.reports {
            println!(
                "  {:<12} compute {:>10.3} ms, waiting {:>10.3} ms, sent {} B, received {} B",
                device.name,
                device.compute_ms(),
                device.wait_ms(),
                device.sent_bytes,
                device.received_bytes
            );
        }
    }
    report.run = Some(latency);
    if let Some(path) = &arguments.output {
        data::write_npz(path, &outputs).map_err(Failure::Environment)?;
    }
    Ok(())
}

/// The arrays that feed the graph's inputs, in their order: by name, or any single array for a single input.
pub(super) fn bind_inputs(graph: &Graph, arrays: &Arrays) -> anyhow::Result<Vec<Value>> {
    graph
        .inputs
        .iter()
        .map(|input| {
            let tensor = graph.tensor(*input);
            let found = arrays.iter().find(|(name, _)| *name == tensor.name);
            let single = (graph.inputs.len() == 1 && arrays.len() == 1).then(|| &arrays[0]);
            let (_, value) = found.or(single).with_context(|| {
                let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
                format!("no array for input `{}`; the file has {}", tensor.name, names.join(", "))
            })?;
            ensure!(
                value.data.len() == tensor.tensor_type.element_count(),
                "input `{}` is {}, but its array has shape {:?}",
                tensor.name,
                tensor.tensor_type,
                value.shape
            );
            Ok(value.clone())
        })
        .collect()
}

/// Seeded noise for every input.
pub(super) fn noise_inputs(graph: &Graph, seed: u64) -> Vec<Value> {
    let tensors = graph.inputs.iter().enumerate();
    tensors.map(|(index, input)| data::noise(graph.tensor_type(*input), seed + index as u64)).collect()
}

/// Replaces predicted times by measured ones.
pub(super) fn add_measured(report: &mut Report, measured: &[DeviceReport]) {
    for device in measured {
        for entry in report.devices.iter_mut().filter(|entry| entry.name == device.name) {
            entry.compute_ms = device.compute_ms();
            entry.link_ms = device.wait_ms();
        }
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
