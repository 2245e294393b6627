//! One device's program as source text and a static library: what both a bundle's crate and a build script write.

use anyhow::Context;
use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use crate::config::{Cluster, InstructionSet, System, Target};
use crate::emit::steps::{StepText, rust_type, steps_text, tame};
use crate::emit::{archive, object, rust_source, templates};
use crate::graph::{Graph, TensorId};
use crate::program::{BufferId, Program, Step};

/// What the emitted text needs to know beside the program.
pub struct ModelContext<'a> {
    /// The compiled graph, for names and types of inputs and outputs.
    pub graph: &'a Graph,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Name of the model, for readers.
    pub model: &'a str,
    /// First eight bytes of the plan's digest.
    pub plan_hash: u64,
    /// Multiply-adds of each device of the cluster.
    pub macs: Vec<u64>,
}

/// One device's program, emitted.
pub struct EmittedModel {
    /// `model.rs`: the static program.
    pub model_source: String,
    /// `kernels.rs`: the kernels, or their declarations.
    pub kernels_source: String,
    /// Name of the static library, without `lib` and `.a`.
    pub library: String,
    /// The static library: weights, and kernels where they are machine code.
    pub library_bytes: Vec<u8>,
}

/// Where [`EmittedModel::model_source`] finds its kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KernelsPlace {
    /// In a sibling module `kernels`.
    Sibling,
    /// In a module inside the model's text, so that one `include!` suffices.
    Inline,
}

/// Emits the program of one device.
pub fn emit_model(program: &Program, context: &ModelContext<'_>, place: KernelsPlace) -> anyhow::Result<EmittedModel> {
    let device = &context.cluster.devices[program.device];
    let target = &device.target;
    let prefix = format!("partita_{:016x}_{}_", context.plan_hash, program.device);
    let library = format!("partita_model_{}", device.name.replace('-', "_"));
    let (kernels_source, kernels_object) = emit_kernels(program, target, &prefix)
        .with_context(|| format!("emitting the kernels of device `{}`", device.name))?;
    let weights_symbol = format!("{prefix}weights");
    let library_bytes = emit_library(program, target, &weights_symbol, kernels_object)
        .with_context(|| format!("emitting the weights of device `{}`", device.name))?;
    let names: Vec<&str> = context.cluster.devices.iter().map(|device| device.name.as_str()).collect();
    let call_prefix = if is_object(target) { prefix.as_str() } else { "" };
    let steps = steps_text(program, &names, call_prefix);
    let inline = match place {
        KernelsPlace::Sibling => String::new(),
        KernelsPlace::Inline => format!("mod kernels {{\n{kernels_source}\n}}"),
    };
    let model_source = model_source(program, context, &steps, &weights_symbol, &inline)?;
    Ok(EmittedModel { model_source, kernels_source, library, library_bytes })
}

/// Whether a target's kernels are machine code rather than Rust source.
pub fn is_object(target: &Target) -> bool {
    target.instruction_set == InstructionSet::Neon
}

fn emit_kernels(program: &Program, target: &Target, prefix: &str) -> anyhow::Result<(String, Option<Vec<u8>>)> {
    let heading = "// Kernels of the layers: one loop nest per operator and shape, every extent a constant.\n\n";
    if is_object(target) {
        let machine_code = object::compile_kernels(&program.kernels, target, prefix)?;
        return Ok((format!("{heading}{}", object::declarations(&program.kernels, prefix)), Some(machine_code)));
    }
    let mut source = heading.to_string();
    if !program.kernels.is_empty() {
        source.push_str(&rust_source::prelude(target.instruction_set)?);
    }
    for kernel in &program.kernels {
        source.push('\n');
        source.push_str(&rust_source::render(kernel, target.instruction_set)?);
    }
    Ok((source, None))
}

fn emit_library(
    program: &Program,
    target: &Target,
    weights_symbol: &str,
    kernels_object: Option<Vec<u8>>,
) -> anyhow::Result<Vec<u8>> {
    let mut section = vec![0u8; program.weights_bytes.next_multiple_of(8)];
    for weight in &program.weights {
        section[weight.offset_bytes..weight.offset_bytes + weight.bytes.len()].copy_from_slice(&weight.bytes);
    }
    let architecture = archive::Architecture::of(target);
    let weights = archive::weights_object(section, weights_symbol, architecture)?;
    let mut members = vec![("weights.o".to_string(), weights)];
    members.extend(kernels_object.map(|bytes| ("kernels.o".to_string(), bytes)));
    archive::static_library(members)
}

/// A graph input or output in the template.
#[derive(Serialize)]
struct Port {
    name: String,
    /// `_2` for the third of several, empty for a single one.
    suffix: String,
    parameter: String,
    rank: usize,
    shape: String,
    rust_type: &'static str,
    elements: usize,
    offset: usize,
}

fn ports(program: &Program, graph: &Graph, bound: &[(usize, BufferId)], tensors: &[TensorId]) -> Vec<Port> {
    bound
        .iter()
        .map(|(position, buffer)| {
            let info = &program.buffers[buffer.0 as usize];
            let tensor = graph.tensor(tensors[*position]);
            let suffix = if tensors.len() == 1 { String::new() } else { format!("_{position}") };
            let shape: Vec<String> = tensor.tensor_type.shape.iter().map(usize::to_string).collect();
            Port {
                name: tame(&tensor.name),
                parameter: suffix.clone(),
                suffix,
                rank: shape.len(),
                shape: shape.join(", "),
                rust_type: rust_type(tensor.tensor_type.element),
                elements: tensor.tensor_type.element_count(),
                offset: info.offset_bytes,
            }
        })
        .collect()
}

fn model_source(
    program: &Program,
    context: &ModelContext<'_>,
    steps: &[StepText],
    weights_symbol: &str,
    kernels_inline: &str,
) -> anyhow::Result<String> {
    let graph = context.graph;
    let cluster = context.cluster;
    let device = &cluster.devices[program.device];
    let inputs = ports(program, graph, &program.inputs, &graph.inputs);
    let outputs = ports(program, graph, &program.outputs, &graph.outputs);
    let peers: Vec<_> = peers(program)
        .into_iter()
        .map(|index| context! { index => index, name => cluster.devices[index].name.as_str() })
        .collect();
    let input_region = program.input_region();
    let output_region = program.output_region();
    let thresholds: Vec<String> = graph
        .exits()
        .into_iter()
        .filter_map(|id| graph.decide(id))
        .map(|decide| rust_source::float(decide.threshold))
        .collect();
    let answers: Vec<_> = program
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Leave { exit, answer: Some(answer), .. } => {
                Some(context! { exit => exit, offset => program.buffers[answer.0 as usize].offset_bytes })
            }
            _ => None,
        })
        .collect();
    templates::render(
        "crate/model.rs.j2",
        context! {
            version => env!("CARGO_PKG_VERSION"),
            model => tame(context.model),
            device => device.name.as_str(),
            device_index => program.device,
            target => device.target.name.as_str(),
            plan_hash => format!("{:016x}", context.plan_hash),
            typed => !(inputs.is_empty() && outputs.is_empty() && peers.is_empty()),
            links_name => if peers.is_empty() { "_links" } else { "links" },
            peers => peers,
            arena_bytes => program.arena_bytes,
            weights_bytes => program.weights_bytes,
            weights_words => program.weights_bytes.div_ceil(8),
            weights_symbol => weights_symbol,
            macs => context.macs[program.device],
            input_note => region_note(&inputs),
            output_note => region_note(&outputs),
            input_offset => input_region.0,
            input_bytes => input_region.1,
            output_offset => output_region.0,
            output_bytes => output_region.1,
            inputs => Value::from(Serde(&inputs)),
            outputs => Value::from(Serde(&outputs)),
            steps => Value::from(Serde(steps)),
            kernels_inline => kernels_inline,
            exits => thresholds.len(),
            steady => graph.exits().into_iter().filter_map(|id| graph.decide(id)).any(|decide| decide.patience.is_some()),
            thresholds => thresholds.join(", "),
            answers => answers,
        },
    )
}

fn region_note(ports: &[Port]) -> String {
    match ports {
        [] => "none".to_string(),
        [port] => format!("{} `{}` elements of {}", port.elements, port.rust_type, port.name),
        several => {
            let names: Vec<String> =
                several.iter().map(|port| format!("{} ({} {})", port.name, port.elements, port.rust_type)).collect();
            format!("{}, each from a multiple of 8 bytes", names.join(", "))
        }
    }
}

/// Devices that a program exchanges tensors with, ascending.
pub fn peers(program: &Program) -> Vec<usize> {
    let mut found: Vec<usize> = program
        .steps
        .iter()
        .flat_map(|step| match step {
            Step::Exchange { sends, receives } => sends.iter().chain(receives).map(|message| message.peer).collect(),
            Step::Kernel { .. }
            | Step::Reference { .. }
            | Step::Reorder { .. }
            | Step::Copy { .. }
            | Step::Leave { .. } => Vec::new(),
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether a target runs without an operating system.
pub fn is_firmware(target: &Target) -> bool {
    target.system == System::CortexM
}
