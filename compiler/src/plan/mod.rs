//! The plan file: what was decided, as protobuf (schema in `proto/plan.proto`).

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

use crate::config::Cluster;
use crate::diagnostic::{Diagnostic, printable};
use crate::graph::text::{Constants, op_name, print};
use crate::graph::{Graph, NodeId};
use crate::partition::{self, Partition, Strategy};
use crate::program::{Argument, BufferId, Layout, Program, Step};

#[allow(missing_docs, reason = "generated from plan.proto, which documents it")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/partita.plan.rs"));
}

use proto::step::Kind as StepKind;
use proto::strategy::Kind as StrategyKind;

/// Digest of a graph: its text with the digests of all constants.
fn model_digest(graph: &Graph) -> Vec<u8> {
    Sha256::digest(print(graph, Constants::Summary).as_bytes()).to_vec()
}

/// The plan file's bytes; the same input gives the same bytes.
pub fn write(graph: &Graph, cluster: &Cluster, partition: &Partition, programs: &[Program]) -> Vec<u8> {
    let nodes = graph.topological_order().unwrap_or_default();
    let plan = proto::Plan {
        model_digest: model_digest(graph),
        compiler: env!("CARGO_PKG_VERSION").to_string(),
        cluster: cluster.name.clone(),
        devices: cluster
            .devices
            .iter()
            .map(|device| proto::Device { name: device.name.clone(), target: device.target.name.clone() })
            .collect(),
        objective: format!("{:?}", partition.objective).to_lowercase(),
        optimal: partition.optimal,
        gap: partition.gap,
        latency_ms: partition.latency_ms,
        throughput_hz: partition.throughput_hz,
        traffic_bytes: partition.traffic_bytes,
        energy_mj: partition.energy_mj,
        nodes: nodes
            .iter()
            .map(|id| {
                let node = graph.node(*id);
                let kind =
                    partition.strategies.get(id).map(|Strategy::Whole(device)| StrategyKind::Whole(*device as u32));
                proto::Node {
                    name: node.name.clone(),
                    op: op_name(&node.op).to_string(),
                    strategy: Some(proto::Strategy { kind }),
                }
            })
            .collect(),
        programs: programs.iter().map(program).collect(),
    };
    plan.encode_to_vec()
}

fn program(program: &Program) -> proto::Program {
    let mut weights = Sha256::new();
    for weight in &program.weights {
        weights.update(&weight.bytes);
    }
    proto::Program {
        device: program.device as u32,
        arena_bytes: program.arena_bytes as u64,
        weights_bytes: program.weights_bytes as u64,
        weights_digest: weights.finalize().to_vec(),
        buffers: program
            .buffers
            .iter()
            .map(|buffer| proto::Buffer {
                name: buffer.name.clone(),
                element: buffer.element.name().to_string(),
                shape: buffer.shape.iter().map(|extent| *extent as u64).collect(),
                block: match buffer.layout {
                    Layout::Plain => 0,
                    Layout::Blocked(block) => block,
                },
                offset_bytes: buffer.offset_bytes as u64,
                elements: buffer.elements as u64,
            })
            .collect(),
        steps: program.steps.iter().map(|step| proto::Step { kind: Some(step_kind(program, step)) }).collect(),
    }
}

fn step_kind(program: &Program, step: &Step) -> StepKind {
    let index = |argument: &Argument| match argument {
        Argument::Buffer(BufferId(id)) => Some(*id),
        Argument::Weight(_) => None,
    };
    match step {
        Step::Kernel { node, kernel, arguments } => StepKind::Kernel(proto::Call {
            node: node.clone(),
            name: program.kernels[*kernel].name.clone(),
            buffers: arguments.iter().filter_map(index).collect(),
        }),
        Step::Reference { node, op, inputs, outputs } => StepKind::Reference(proto::Call {
            node: node.clone(),
            name: op_name(op).to_string(),
            buffers: inputs.iter().filter_map(index).chain(outputs.iter().map(|output| output.0)).collect(),
        }),
        Step::Reorder { from, to } => StepKind::Reorder(proto::Move { from: Some(from.0), to: to.0 }),
        Step::Copy { from, to, .. } => StepKind::Copy(proto::Move { from: index(&from.0), to: to.0.0 }),
        Step::Send { peer, message, buffer, bytes } => StepKind::Send(proto::Message {
            peer: *peer as u32,
            number: u32::from(*message),
            buffer: buffer.0,
            bytes: *bytes as u64,
        }),
        Step::Receive { peer, message, buffer, bytes } => StepKind::Receive(proto::Message {
            peer: *peer as u32,
            number: u32::from(*message),
            buffer: buffer.0,
            bytes: *bytes as u64,
        }),
    }
}

/// First eight bytes of the plan's SHA-256, compiled into every device.
pub fn plan_hash(plan_bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(plan_bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// The partition of an earlier plan for the same model and devices.
pub fn read_partition(path: &Path, graph: &Graph, cluster: &Cluster) -> Result<Partition, Vec<Diagnostic>> {
    let shown = printable(&path.display().to_string());
    let refuse = |message: String| vec![Diagnostic::new("E0180", format!("plan `{shown}`: {message}"))];
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let plan = proto::Plan::decode(&*bytes).map_err(|error| refuse(format!("not a plan: {error}")))?;
    if plan.model_digest != model_digest(graph) {
        return Err(refuse("it was made for another model".to_string()));
    }
    let names: Vec<&str> = plan.devices.iter().map(|device| device.name.as_str()).collect();
    if !cluster.devices.iter().map(|device| device.name.as_str()).eq(names.iter().copied()) {
        return Err(refuse(format!("it was made for devices {}", printable(&names.join(", ")))));
    }
    let order = graph.topological_order().unwrap_or_default();
    let mut strategies: BTreeMap<NodeId, Strategy> = BTreeMap::new();
    for (id, node) in order.iter().zip(&plan.nodes) {
        match node.strategy.as_ref().and_then(|strategy| strategy.kind.as_ref()) {
            Some(StrategyKind::Whole(device)) => strategies.insert(*id, Strategy::Whole(*device as usize)),
            None => return Err(refuse(format!("node `{}` has no strategy", printable(&node.name)))),
        };
    }
    let objective = match plan.objective.as_str() {
        "throughput" => partition::Objective::Throughput,
        "traffic" => partition::Objective::Traffic,
        "memory" => partition::Objective::Memory,
        "energy" => partition::Objective::Energy,
        _ => partition::Objective::Latency,
    };
    partition::from_strategies(graph, cluster, objective, strategies)
        .ok_or_else(|| refuse("it does not fit this cluster's links and memories".to_string()))
}
