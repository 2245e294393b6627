//! One device's program as source text and a static library: what both a bundle's crate and a build script write.

use anyhow::Context;
use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use crate::emit::expressions::{by_route, float, rust_type};
use crate::emit::family::Family;
#[cfg(feature = "aarch64")]
use crate::emit::object;
use crate::emit::plan::{Numbers, plan_text};
use crate::emit::steps::{StepText, sanitize, steps_text};
use crate::emit::{archive, rust_source, templates};
use crate::program::{BufferId, Program, StateRegions, Step};
use partita_config::{Architecture, Cluster, InstructionSet, System, Target};
use partita_ir::graph::{Graph, TensorId};
use partita_kernel::Kernel;

/// What the emitted text needs to know beside the programs.
pub struct ModelContext<'a> {
    /// The routes, one per program of a device.
    pub routes: Vec<RouteContext<'a>>,
    /// When each is taken, if there are several.
    pub family: Option<&'a Family>,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Name of the model, for readers.
    pub model: &'a str,
    /// First eight bytes of the plan's digest.
    pub plan_hash: u64,
}

/// One route: a graph over the shared weights.
pub struct RouteContext<'a> {
    /// Name, for readers.
    pub name: &'a str,
    /// The compiled graph, for names and types of inputs and outputs.
    pub graph: &'a Graph,
    /// Multiply-adds of each device of the cluster.
    pub macs: Vec<u64>,
    /// Programs of all devices that take part, in the order of the first route's.
    pub programs: &'a [Program],
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

/// Name of a device's static library, without `lib` and `.a`.
pub fn library_name(device: &str) -> String {
    format!("partita_model_{}", device.replace('-', "_"))
}

/// Where [`EmittedModel::model_source`] finds its kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KernelsPlace {
    /// In a sibling module `kernels`.
    Sibling,
    /// In a module inside the model's text, so that one `include!` suffices.
    Inline,
}

/// Emits the programs of one device, one per route; they share weights and kernels
/// ([`crate::program::family::link_routes`]).
pub fn emit_model(
    programs: &[&Program],
    context: &ModelContext<'_>,
    place: KernelsPlace,
) -> anyhow::Result<EmittedModel> {
    let program = programs.first().context("a device without a program")?;
    let device = &context.cluster.devices[program.device];
    let target = &device.target;
    let prefix = format!("partita_{:016x}_{}_", context.plan_hash, program.device);
    let library = library_name(&device.name);
    let (kernels_source, kernels_object) = emit_kernels(program, target, &prefix)
        .with_context(|| format!("emitting the kernels of device `{}`", device.name))?;
    let weights_symbol = format!("{prefix}weights");
    let library_bytes = emit_library(program, target, &weights_symbol, kernels_object)
        .with_context(|| format!("emitting the weights of device `{}`", device.name))?;
    let names: Vec<&str> = context.cluster.devices.iter().map(|device| device.name.as_str()).collect();
    let call_prefix = if is_object(target) { prefix.as_str() } else { "" };
    let steps = programs.iter().map(|program| steps_text(program, &names, call_prefix)).collect();
    let inline = (place == KernelsPlace::Inline).then_some(kernels_source.as_str());
    let model_source = model_source(programs, context, steps, &weights_symbol, inline)?;
    Ok(EmittedModel { model_source, kernels_source, library, library_bytes })
}

/// Whether a target's kernels are machine code rather than Rust source.
pub fn is_object(target: &Target) -> bool {
    target.instruction_set == InstructionSet::Neon
}

/// Whether this build of the compiler makes kernels for a target, or what it lacks.
pub fn lacks(target: &Target) -> Option<&'static str> {
    (is_object(target) && cfg!(not(feature = "aarch64"))).then_some("the feature `aarch64`")
}

/// Machine code of kernels, and how Rust declares it.
#[cfg(feature = "aarch64")]
fn machine_code(kernels: &[Kernel], target: &Target, prefix: &str) -> anyhow::Result<(String, Vec<u8>)> {
    Ok((object::declarations(kernels, prefix)?, object::compile_kernels(kernels, target, prefix)?))
}

#[cfg(not(feature = "aarch64"))]
fn machine_code(_: &[Kernel], target: &Target, _: &str) -> anyhow::Result<(String, Vec<u8>)> {
    anyhow::bail!("kernels for `{}` need a compiler with the feature `aarch64`", target.name)
}

fn emit_kernels(program: &Program, target: &Target, prefix: &str) -> anyhow::Result<(String, Option<Vec<u8>>)> {
    let source =
        |head: &str, kernels: Vec<String>| templates::render("kernels/kernels.rs.j2", context! { head, kernels });
    if is_object(target) {
        let (declarations, machine_code) = machine_code(&program.kernels, target, prefix)?;
        return Ok((source(&declarations, Vec::new())?, Some(machine_code)));
    }
    let prelude = match program.kernels.is_empty() {
        true => String::new(),
        false => rust_source::prelude(target.instruction_set)?,
    };
    let kernels = program.kernels.iter().map(|kernel| rust_source::render(kernel, target.instruction_set));
    Ok((source(&prelude, kernels.collect::<anyhow::Result<Vec<_>>>()?)?, None))
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
    // A target's file is refused if there is none.
    let architecture = Architecture::of(&target.triple)
        .with_context(|| format!("there are no objects for the processors of `{}`", target.triple))?;
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
    offset: String,
}

/// A route in the template.
#[derive(Serialize)]
struct RouteText {
    number: usize,
    name: String,
    /// `_1`, empty where there is one route only.
    suffix: String,
    team_name: &'static str,
    /// Whether any step computes.
    computes: bool,
    steps: Vec<StepText>,
}

/// Inputs or outputs on a device: those of the first route, at the places that each route has for them.
fn ports(
    programs: &[&Program],
    graph: &Graph,
    bound: impl Fn(&Program) -> &[(usize, BufferId)],
    tensors: &[TensorId],
) -> Vec<Port> {
    let Some(first) = programs.first() else { return Vec::new() };
    bound(first)
        .iter()
        .filter(|(position, _)| *position < tensors.len())
        .map(|(position, _)| {
            let offset = |program: &&Program| {
                let found = bound(program).iter().find(|(other, _)| other == position);
                found.map_or(0, |(_, buffer)| program.buffers[buffer.0 as usize].offset_bytes)
            };
            let tensor = graph.tensor(tensors[*position]);
            let suffix = if tensors.len() == 1 { String::new() } else { format!("_{position}") };
            let shape: Vec<String> = tensor.tensor_type.shape.iter().map(usize::to_string).collect();
            Port {
                name: sanitize(&tensor.name),
                parameter: suffix.clone(),
                suffix,
                rank: shape.len(),
                shape: shape.join(", "),
                rust_type: rust_type(tensor.tensor_type.element),
                elements: tensor.tensor_type.element_count(),
                offset: by_route(&programs.iter().map(offset).collect::<Vec<_>>()),
            }
        })
        .collect()
}

/// Regions of all routes: expressions for the first byte and the size.
fn regions(programs: &[&Program], region: impl Fn(&Program) -> (usize, usize)) -> (String, String) {
    let (offsets, lengths): (Vec<usize>, Vec<usize>) = programs.iter().map(|program| region(program)).unzip();
    (by_route(&offsets), by_route(&lengths))
}

/// Where the states of a device are, if it holds any, as the template has it.
fn states(programs: &[&Program]) -> Option<Value> {
    let regions: Vec<StateRegions> = programs.iter().filter_map(|program| program.state_regions()).collect();
    let first = regions.first()?;
    let offset = |of: fn(&StateRegions) -> usize| by_route(&regions.iter().map(of).collect::<Vec<_>>());
    let (read, made) = (offset(|states| states.read), offset(|states| states.made));
    let routed = regions.iter().any(|other| (other.read, other.made) != (first.read, first.made));
    Some(context! { read => read, made => made, kept => first.kept, bytes => first.bytes, routed => routed })
}

/// Where the answers of exits are, by route, as the template has them.
fn answers(programs: &[&Program]) -> Vec<Value> {
    let of_route = |(route, program): (usize, &&Program)| -> Vec<Value> {
        let answer = |step: &Step| match step {
            Step::Leave { exit, answer: Some(answer), .. } => {
                let offset = program.buffers[answer.0 as usize].offset_bytes;
                Some(context! { route => route, exit => exit, offset => offset })
            }
            _ => None,
        };
        program.steps.iter().filter_map(answer).collect()
    };
    programs.iter().enumerate().flat_map(of_route).collect()
}

fn model_source(
    programs: &[&Program],
    context: &ModelContext<'_>,
    steps: Vec<Vec<StepText>>,
    weights_symbol: &str,
    kernels_inline: Option<&str>,
) -> anyhow::Result<String> {
    let program = programs[0];
    let route = context.routes.first().context("a model without routes")?;
    let graph = route.graph;
    let cluster = context.cluster;
    let device = &cluster.devices[program.device];
    // States come last, and nobody outside sees them.
    let inputs = ports(programs, graph, |program| &program.inputs, graph.given_inputs());
    let outputs = ports(programs, graph, |program| &program.outputs, graph.returned_outputs());
    let states = states(programs);
    let peer_numbers = peers(programs, context.family, program.device);
    let participants: Vec<usize> = route.programs.iter().map(|program| program.device).collect();
    let numbers = Numbers(&participants);
    let plan = plan_text(programs, &peer_numbers, numbers, context);
    let peers: Vec<_> = peer_numbers
        .into_iter()
        .map(|index| context! { index => index, name => cluster.devices[index].name.as_str() })
        .collect();
    let (input_offset, input_length) = regions(programs, Program::input_region);
    let (output_offset, output_length) = regions(programs, Program::output_region);
    let thresholds: Vec<String> =
        graph.exits().into_iter().filter_map(|id| graph.decide(id)).map(|decide| float(decide.threshold)).collect();
    let several = context.family.is_some();
    let routes: Vec<RouteText> = (steps.into_iter().zip(programs).zip(&context.routes).enumerate())
        .map(|(number, ((steps, program), route))| RouteText {
            number,
            name: sanitize(route.name),
            suffix: if several { format!("_{number}") } else { String::new() },
            team_name: if threads(&[*program]) > 1 { "team" } else { "_team" },
            computes: program.steps.iter().any(|step| !matches!(step, Step::Start { .. } | Step::Exchange { .. })),
            steps,
        })
        .collect();
    templates::render(
        "crate/model.rs.j2",
        context! {
            version => env!("CARGO_PKG_VERSION"),
            model => sanitize(context.model),
            device => device.name.as_str(),
            device_index => program.device,
            target => device.target.name.as_str(),
            plan_hash => format!("{:016x}", context.plan_hash),
            plan => Value::from(Serde(&plan)),
            typed => peers.is_empty() && !(inputs.is_empty() && outputs.is_empty()),
            threads => threads(programs),
            team_name => if several || threads(programs) > 1 { "team" } else { "_team" },
            peers => peers,
            arena_bytes => program.arena_bytes,
            weights_bytes => program.weights_bytes,
            weights_words => program.weights_bytes.div_ceil(8),
            weights_symbol => weights_symbol,
            macs => route.macs[program.device],
            input_note => region_note(&inputs),
            output_note => region_note(&outputs),
            input_offset => input_offset,
            input_length => if several { input_length.as_str() } else { "INPUT_BYTES" },
            input_bytes => program.input_region().1,
            output_offset => output_offset,
            output_length => if several { output_length.as_str() } else { "OUTPUT_BYTES" },
            output_bytes => program.output_region().1,
            inputs => Value::from(Serde(&inputs)),
            outputs => Value::from(Serde(&outputs)),
            routes => Value::from(Serde(&routes)),
            family => context.family.map(|family| Value::from(Serde(&family.text(numbers)))),
            kernels_inline => kernels_inline,
            exits => thresholds.len(),
            steady => graph.exits().into_iter().filter_map(|id| graph.decide(id)).any(|decide| decide.patience.is_some()),
            thresholds => thresholds.join(", "),
            answers => answers(programs),
            states => states,
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

/// Devices that a device has links to, ascending: those that its programs exchange tensors with, and those that it follows
/// or leads.
pub fn peers(programs: &[&Program], family: Option<&Family>, device: usize) -> Vec<usize> {
    let exchanged = programs.iter().flat_map(|program| program.peers());
    let family = family.map_or_else(Vec::new, |family| family.neighbours(device));
    let mut found: Vec<usize> = exchanged.chain(family).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Threads that share the kernels of a device's programs; 1 if none is shared.
pub fn threads(programs: &[&Program]) -> usize {
    let steps = programs.iter().flat_map(|program| program.steps.iter().map(move |step| (program, step)));
    let parts = steps.filter_map(|(program, step)| match step {
        Step::Kernel { kernel, .. } => program.kernels[*kernel].split.as_ref().map(|split| split.parts),
        Step::Reference { .. }
        | Step::Reorder { .. }
        | Step::Copy { .. }
        | Step::Leave { .. }
        | Step::Start { .. }
        | Step::Exchange { .. } => None,
    });
    parts.max().unwrap_or(1)
}

/// Whether a target runs without an operating system.
pub fn is_firmware(target: &Target) -> bool {
    target.system == System::CortexM
}
