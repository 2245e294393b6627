//! The report's predicted figures, from the plan; measured ones are filled in later.

use std::collections::BTreeMap;

use crate::bundle::cargo::SectionSizes;
use crate::bundle::report::{DeviceReport, LayerReport, ModelReport, PlanReport, Report};
use crate::config::System;
use crate::driver::Compiled;
use crate::emit::steps::tame;
use crate::graph::text::op_name;
use crate::graph::{NodeId, TensorId};
use crate::memory::{ALIGNMENT_BYTES, least_arena_bytes};
use crate::partition::cost;
use crate::program::{Program, Step};
use crate::schedule::{Action, Schedule};

/// The report of a compiled model, before anything is built or run.
pub fn report(compiled: &Compiled) -> Report {
    let graph = &compiled.graph;
    let macs: u64 = graph.node_ids().map(|node| cost::node_macs(graph, node)).sum();
    let parameters = graph
        .tensor_ids()
        .filter(|tensor| !graph.consumers(*tensor).is_empty())
        .filter_map(|tensor| graph.value(tensor))
        .map(|value| value.data.len() as u64)
        .sum();
    let devices = compiled
        .programs
        .iter()
        .zip(&compiled.schedules)
        .map(|(program, schedule)| device_report(compiled, program, schedule))
        .collect::<Vec<_>>();
    let partition = &compiled.partition;
    let peak_ram_bytes = compiled.programs.iter().map(|program| ram_bytes(compiled, program)).max().unwrap_or(0);
    Report {
        model: ModelReport {
            name: tame(&compiled.model_name),
            opset: graph.opset,
            nodes: graph.node_count(),
            parameters,
            macs,
        },
        plan: PlanReport {
            objective: format!("{:?}", partition.objective).to_lowercase(),
            strategy: if compiled.programs.len() > 1 { "pipeline" } else { "whole" }.to_string(),
            optimal: partition.optimal,
            gap: partition.gap,
            latency_ms: partition.latency_ms,
            throughput_hz: partition.throughput_hz,
            traffic_bytes: partition.traffic_bytes,
            peak_ram_bytes,
            energy_mj: partition.energy_mj,
            solve_ms: partition.solve_ms,
            hash: format!("{:016x}", compiled.plan_hash),
            single_device_ms: partition.single_device_ms,
        },
        devices,
        layers: layers(compiled),
        exits: Vec::new(),
        variants: Vec::new(),
        mean_macs: macs,
        accuracy: None,
        evaluation: None,
        compile: compiled.times_ms.clone(),
    }
}

/// RAM that a program needs: the arena, and its weights where they are loaded into RAM.
fn ram_bytes(compiled: &Compiled, program: &Program) -> u64 {
    let weights = match compiled.cluster.devices[program.device].target.system {
        System::Linux => program.weights_bytes,
        System::CortexM => 0,
    };
    (program.arena_bytes + weights) as u64
}

fn device_report(compiled: &Compiled, program: &Program, schedule: &Schedule) -> DeviceReport {
    let graph = &compiled.graph;
    let device = &compiled.cluster.devices[program.device];
    let (mut sent_bytes, mut received_bytes, mut link_ms) = (0, 0, 0.0);
    for step in &program.steps {
        let (peer, bytes) = match step {
            Step::Send { peer, bytes, .. } => {
                sent_bytes += *bytes as u64;
                (*peer, *bytes)
            }
            Step::Receive { peer, bytes, .. } => {
                received_bytes += *bytes as u64;
                (*peer, *bytes)
            }
            Step::Kernel { .. } | Step::Reference { .. } | Step::Reorder { .. } | Step::Copy { .. } => continue,
        };
        if let Some(link) = compiled.cluster.link(program.device, peer) {
            link_ms += cost::transfer_seconds(link, bytes as u64) * 1e3;
        }
    }
    let nodes = computed(schedule);
    DeviceReport {
        name: device.name.clone(),
        target: device.target.name.clone(),
        macs: nodes.iter().map(|node| cost::node_macs(graph, *node)).sum(),
        weights_bytes: program.weights_bytes as u64,
        arena_bytes: program.arena_bytes as u64,
        least_arena_bytes: least_arena_bytes(program, ALIGNMENT_BYTES) as u64,
        code_bytes: 0,
        flash_bytes: 0,
        ram_bytes: 0,
        sent_bytes,
        received_bytes,
        compute_ms: nodes.iter().map(|node| cost::node_seconds(graph, *node, &device.target) * 1e3).sum(),
        link_ms,
    }
}

/// Nodes that a device computes.
fn computed(schedule: &Schedule) -> Vec<NodeId> {
    schedule
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Compute(node) => Some(*node),
            Action::Input { .. } | Action::Send { .. } | Action::Receive { .. } | Action::Output { .. } => None,
        })
        .collect()
}

fn layers(compiled: &Compiled) -> Vec<LayerReport> {
    let graph = &compiled.graph;
    let mut sent: BTreeMap<TensorId, u64> = BTreeMap::new();
    let mut devices: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for schedule in &compiled.schedules {
        let name = &compiled.cluster.devices[schedule.device].name;
        for action in &schedule.actions {
            match action {
                Action::Send { tensor, .. } => {
                    *sent.entry(*tensor).or_default() += graph.tensor_type(*tensor).size_bytes() as u64;
                }
                Action::Compute(node) => devices.entry(*node).or_default().push(name.clone()),
                Action::Input { .. } | Action::Receive { .. } | Action::Output { .. } => {}
            }
        }
    }
    graph
        .topological_order()
        .unwrap_or_default()
        .into_iter()
        .map(|id| {
            let node = graph.node(id);
            LayerReport {
                node: tame(&node.name),
                op: op_name(&node.op).to_string(),
                strategy: "whole".to_string(),
                macs: cost::node_macs(graph, id),
                devices: devices.remove(&id).unwrap_or_default(),
                sent_bytes: node.outputs.iter().filter_map(|output| sent.get(output)).sum(),
            }
        })
        .collect()
}

/// Fills in what the linker made.
pub fn add_sizes(report: &mut Report, device: &str, sizes: &SectionSizes) {
    for entry in report.devices.iter_mut().filter(|entry| entry.name == device) {
        entry.code_bytes = sizes.code_bytes;
        entry.flash_bytes = sizes.flash_bytes;
        entry.ram_bytes = sizes.ram_bytes;
    }
}
