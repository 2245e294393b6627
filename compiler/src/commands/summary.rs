//! The report's predicted figures, from the plan; measured ones are filled in later.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::executable::SectionSizes;
use crate::bundle::report::{
    DeviceReport, FamilyReport, LayerReport, LossReport, ModelReport, PlanReport, Report, SCHEMA, SinglePointReport,
    StateReport, SurvivalReport, TensorReport, WinogradReport,
};
use crate::config::System;
use crate::driver::{Advice, Compiled};
use crate::emit::steps::sanitize;
use crate::exits::ExitReport;
use crate::graph::ranges::inexact_sums;
use crate::graph::text::op_name;
use crate::graph::{Graph, NodeId, TensorId, TensorType};
use crate::memory::{ALIGNMENT_BYTES, least_arena_bytes};
use crate::partition::{Method, StrategyFamily, cost};
use crate::placement::survival::{Loss, SinglePoint};
use crate::program::Program;
use crate::schedule::{Action, Schedule};
use crate::shard::row_streaming::RowStreamingReport;
use crate::simulate::Prediction;
use crate::simulate::outcomes::{Outcome, mean, outcomes};
use partita_ir::parallel;

fn tensor_report(graph: &Graph, tensor: TensorId) -> TensorReport {
    let TensorType { element, shape } = graph.tensor_type(tensor).clone();
    TensorReport { name: graph.tensor(tensor).name.clone(), element: element.name(), shape }
}

fn state_report(graph: &Graph, made: TensorId, kept: TensorId) -> StateReport {
    StateReport { input: graph.tensor(kept).name.clone(), output: graph.tensor(made).name.clone() }
}

/// The report of a compiled model, before anything is built or run.
#[expect(clippy::too_many_lines, reason = "one field after the other, as the report has them")]
pub fn report(compiled: &Compiled) -> Report {
    let graph = &compiled.graph;
    let macs: u64 = graph.node_ids().map(|node| cost::node_macs(graph, node)).sum();
    let parameters = graph
        .tensor_ids()
        .filter(|tensor| !graph.is_unread(*tensor))
        .filter_map(|tensor| graph.value(tensor))
        .map(|value| value.data.len() as u64)
        .sum();
    let outcomes =
        outcomes(graph, &compiled.routed.placed.sharded, &compiled.routed.placed.schedules, &compiled.cluster);
    let devices = compiled
        .routed
        .placed
        .programs
        .iter()
        .zip(&compiled.routed.placed.schedules)
        .enumerate()
        .map(|(index, (program, schedule))| device_report(compiled, program, schedule, index, &outcomes))
        .collect::<Vec<_>>();
    let partition = &compiled.routed.placed.partition;
    let peak_ram_bytes =
        compiled.routed.placed.programs.iter().map(|program| ram_bytes(compiled, program)).max().unwrap_or(0);
    Report {
        schema: SCHEMA,
        model: ModelReport {
            name: sanitize(&compiled.model_name),
            opset: graph.opset,
            nodes: graph.node_count(),
            parameters,
            macs,
            inputs: graph.given_inputs().iter().map(|tensor| tensor_report(graph, *tensor)).collect(),
            outputs: graph.returned_outputs().iter().map(|tensor| tensor_report(graph, *tensor)).collect(),
            states: graph.state_pairs().map(|(made, kept)| state_report(graph, made, kept)).collect(),
            computed_in_f32: graph.computed_in_f32.iter().map(|element| element.name()).collect(),
        },
        plan: PlanReport {
            objective: partition.objective.to_string(),
            strategy: strategy_name(compiled),
            optimal: partition.optimal,
            gap: partition.gap,
            proven: partition.proven.clone(),
            lower_bound_ms: partition.lower_bound_ms,
            batch: compiled.batch,
            latency_ms: compiled.routed.prediction.latency_ms,
            mean_latency_ms: mean(&outcomes, |outcome| outcome.prediction.latency_ms),
            throughput_hz: compiled.routed.prediction.throughput_hz,
            traffic_bytes: compiled.routed.prediction.traffic_bytes,
            peak_ram_bytes,
            energy_mj: compiled.routed.prediction.energy_mj,
            mean_energy_mj: mean(&outcomes, |outcome| outcome.prediction.energy_mj),
            mean_traffic_bytes: mean(&outcomes, |outcome| outcome.prediction.traffic_bytes as f64).round() as u64,
            solve_ms: partition.solve_ms,
            hash: format!("{:016x}", compiled.plan_hash),
            security: (compiled.routed.placed.programs.len() > 1).then(|| compiled.cluster.security.word()),
            single_device_ms: partition.single_device_ms,
            unused_devices: unused_devices(compiled),
        },
        devices,
        layers: layers(compiled),
        patches: compiled.routed.placed.patches.clone(),
        row_streaming: compiled
            .routed
            .placed
            .partition
            .row_streaming
            .iter()
            .filter_map(|run| RowStreamingReport::of(&compiled.graph, run))
            .collect(),
        overlap: compiled.routed.placed.partition.overlap.as_ref().map(|overlap| {
            let named = |(id, count): (&NodeId, &usize)| (compiled.graph.node(*id).name.clone(), *count);
            overlap.pieces.iter().map(named).collect()
        }),
        quantization: compiled.quantization.clone(),
        links: compiled.links.clone(),
        exits: exits(compiled),
        calibration: compiled.exits.as_ref().map(|exits| exits.calibration.clone()),
        variants: compiled.routed.variants.as_ref().map_or(Vec::new(), |known| known.variants.clone()),
        family: compiled.routed.variants.as_ref().map(|known| FamilyReport {
            conditions: known.conditions.clone(),
            sensitivity: known.sensitivity.clone(),
            measured_sets: known.measured_sets,
            macs_bounds: known.macs_bounds.clone(),
            traffic_bounds: known.traffic_bounds.clone(),
            max_latency_ms: known.max_latency_ms,
            more_flash: known.more_flash,
            standalone_bytes: known.standalone_bytes,
            only_whole: known.only_whole.clone(),
            limits: known.limits,
            holdout: known.holdout,
        }),
        advice: Advice::of(&compiled.routed, &compiled.cluster, compiled.objective, compiled.changes.as_deref()),
        survival: survival(compiled),
        mean_macs: compiled.exits.as_ref().map_or(macs, |exits| exits.calibration.mean_macs),
        accuracy: None,
        evaluation: None,
        run: None,
        deployment: None,
        learned: compiled.learned.clone(),
        warnings: compiled.warnings.iter().map(ToString::to_string).collect(),
        compile: compiled.times_ms.clone(),
    }
}

/// What happens when a device is lost.
fn survival(compiled: &Compiled) -> Option<SurvivalReport> {
    let known = compiled.routed.survival.as_ref()?;
    let name = |device: usize| compiled.cluster.devices[device].name.clone();
    let point = |(device, why): &(usize, SinglePoint)| SinglePointReport { device: name(*device), why: why.word() };
    let loss = |loss: &Loss| LossReport {
        device: name(loss.device),
        latency_ms: loss.latency_ms,
        route: compiled.routed.routes[loss.route - 1].name.clone(),
        makes_do: loss.makes_do,
    };
    Some(SurvivalReport {
        single_points: known.single_points.iter().map(point).collect(),
        losses: known.losses.iter().map(loss).collect(),
        more_weights_bytes: known.more_weights_bytes.iter().copied().max().unwrap_or(0),
    })
}

/// Devices that no route through the network has a program for.
fn unused_devices(compiled: &Compiled) -> Vec<String> {
    let routes = compiled.routed.routes.iter().map(|route| &route.programs);
    let used: Vec<usize> = std::iter::once(&compiled.routed.placed.programs)
        .chain(routes)
        .flatten()
        .map(|program| program.device)
        .collect();
    let devices = compiled.cluster.devices.iter().enumerate();
    devices.filter(|(index, _)| !used.contains(index)).map(|(_, device)| device.name.clone()).collect()
}

/// The exits with the device that decides each.
fn exits(compiled: &Compiled) -> Vec<ExitReport> {
    let Some(report) = &compiled.exits else { return Vec::new() };
    let deciders = compiled.graph.exits().into_iter().map(|id| {
        let strategy = compiled.routed.placed.partition.strategies.get(&id);
        strategy.and_then(|strategy| strategy.outputs.only_device())
    });
    let name = |device: Option<usize>| device.map_or("", |device| &compiled.cluster.devices[device].name).to_string();
    report
        .exits
        .iter()
        .zip(deciders)
        .map(|(exit, device)| ExitReport { device: name(device), ..exit.clone() })
        .collect()
}

/// RAM that a program needs: the arena, and its weights where they are loaded into RAM.
fn ram_bytes(compiled: &Compiled, program: &Program) -> u64 {
    let weights = match compiled.cluster.devices[program.device].target.system {
        System::Linux => program.weights_bytes,
        System::CortexM => 0,
    };
    (program.arena_bytes + weights) as u64
}

/// What became of a family of splits that was asked for, where layers are not computed so.
pub fn family_that_fell_back(compiled: &Compiled) -> Option<String> {
    let wanted: &[Method] = match compiled.family {
        StrategyFamily::Auto | StrategyFamily::Whole => return None,
        StrategyFamily::Pipeline => &[Method::Whole],
        StrategyFamily::Lop => &[Method::Output],
        StrategyFamily::Lip => &[Method::Input],
        StrategyFamily::Fused => &[Method::Output, Method::Input],
        StrategyFamily::Ftp => &[Method::Fused],
        StrategyFamily::Spatial => &[Method::Spatial],
        StrategyFamily::Batch => &[Method::Batch],
    };
    let name = format!("{:?}", compiled.family).to_lowercase();
    let plan = strategy_name(compiled);
    if compiled.cluster.devices.len() == 1 {
        return Some(format!("--strategy {name}: one device has nobody to share with; the plan is {plan}"));
    }
    if compiled.family == StrategyFamily::Pipeline {
        let alone = compiled.routed.placed.programs.len() == 1;
        return alone
            .then(|| format!("--strategy {name}: no run of layers pays on a second device; the plan is {plan}"));
    }
    let strategies = compiled.routed.placed.partition.strategies.iter();
    let multiplying: Vec<Method> = strategies
        .filter(|(id, _)| cost::node_macs(&compiled.graph, **id) > 0)
        .map(|(_, strategy)| strategy.method)
        .collect();
    let left = multiplying.iter().filter(|method| !wanted.contains(method)).count();
    (left > 0).then(|| {
        let all = multiplying.len();
        format!("--strategy {name}: {left} of {all} layers that multiply cannot be shared so, and are shared otherwise or whole; the plan is {plan}")
    })
}

/// The methods in use, most multiply-adds first; a pipeline if whole nodes lie on several devices.
fn strategy_name(compiled: &Compiled) -> String {
    let mut macs: BTreeMap<Method, u64> = BTreeMap::new();
    for (id, strategy) in &compiled.routed.placed.partition.strategies {
        *macs.entry(strategy.method).or_default() += cost::node_macs(&compiled.graph, *id);
    }
    let split = macs.iter().any(|(method, macs)| *method != Method::Whole && *macs > 0);
    if !split {
        // Whoever only holds the input or wants the answer is no stage.
        let stages = |least: u64| -> BTreeSet<Option<usize>> {
            let counts = |id: NodeId| cost::node_macs(&compiled.graph, id) >= least;
            let strategies = compiled.routed.placed.partition.strategies.iter().filter(|(id, _)| counts(**id));
            strategies.map(|(_, strategy)| strategy.outputs.only_device()).collect()
        };
        let stages = Some(stages(1)).filter(|stages| !stages.is_empty()).unwrap_or_else(|| stages(0));
        return if stages.len() > 1 { "pipeline" } else { "whole" }.to_string();
    }
    let mut used: Vec<(Method, u64)> = macs.into_iter().filter(|(_, macs)| *macs > 0).collect();
    used.sort_by_key(|(method, macs)| (std::cmp::Reverse(*macs), *method));
    used.iter().map(|(method, _)| method.name()).collect::<Vec<_>>().join("+")
}

fn device_report(
    compiled: &Compiled,
    program: &Program,
    schedule: &Schedule,
    index: usize,
    outcomes: &[Outcome],
) -> DeviceReport {
    let graph = &compiled.routed.placed.sharded.graph;
    let device = &compiled.cluster.devices[program.device];
    let predicted = compiled.routed.prediction.devices[program.device];
    let bytes = |end: &dyn Fn(&(usize, usize)) -> bool| {
        compiled.routed.prediction.links.iter().filter(|(pair, _)| end(pair)).map(|(_, bytes)| bytes).sum()
    };
    let macs = |action: &Action| match action {
        Action::Compute(node) => cost::node_macs(graph, *node),
        Action::Input { .. }
        | Action::Start { .. }
        | Action::Exchange { .. }
        | Action::Leave { .. }
        | Action::Output { .. } => 0,
    };
    let macs_of = |schedule: &Schedule| schedule.actions.iter().map(macs).sum::<u64>();
    let sent = |prediction: &Prediction| {
        prediction.links.iter().filter(|(pair, _)| pair.0 == program.device).map(|(_, bytes)| bytes).sum::<u64>()
    };
    DeviceReport {
        name: device.name.clone(),
        target: device.target.name.clone(),
        macs: macs_of(schedule),
        mean_macs: mean(outcomes, |outcome| macs_of(&outcome.schedules[index]) as f64).round() as u64,
        mean_compute_ms: mean(outcomes, |outcome| outcome.prediction.devices[program.device].compute_ms),
        mean_sent_bytes: mean(outcomes, |outcome| sent(&outcome.prediction) as f64).round() as u64,
        weights_bytes: program.weights_bytes as u64,
        arena_bytes: program.arena_bytes as u64,
        least_arena_bytes: least_arena_bytes(program, ALIGNMENT_BYTES) as u64,
        code_bytes: 0,
        flash_bytes: 0,
        ram_bytes: 0,
        sent_bytes: bytes(&|pair| pair.0 == program.device),
        received_bytes: bytes(&|pair| pair.1 == program.device),
        compute_ms: predicted.compute_ms,
        link_ms: predicted.link_ms,
        idle_mj: device.target.energy.idle_watt * compiled.routed.prediction.latency_ms,
        measured: None,
        shared_kernels: program.kernels.iter().filter(|kernel| kernel.split.is_some()).count(),
    }
}

fn layers(compiled: &Compiled) -> Vec<LayerReport> {
    let (graph, sharded) = (&compiled.graph, &compiled.routed.placed.sharded);
    let sent = sharded.sent_bytes(graph);
    let name = |device: usize| compiled.cluster.devices[device].name.clone();
    let inexact = inexact_sums(graph);
    let order = graph.topological_order().unwrap_or_default();
    // Bounds on rounding errors look at every weight.
    parallel::map(order.len(), |at| {
        let (id, node) = (order[at], graph.node(order[at]));
        let strategy = compiled.routed.placed.partition.strategies.get(&id);
        LayerReport {
            node: sanitize(&node.name),
            op: op_name(&node.op).to_string(),
            strategy: strategy.map_or("whole", |strategy| strategy.method.name()).to_string(),
            macs: cost::node_macs(graph, id),
            devices: strategy.map_or(Vec::new(), |strategy| strategy.devices().into_iter().map(name).collect()),
            sent_bytes: sent.get(&id).copied().unwrap_or(0),
            opaque: partita_ir::restrict::space(graph, id).is_opaque(),
            winograd: winograd(compiled, id),
            inexact_sums_up_to: inexact.iter().find(|sum| sum.node == id).map(|sum| sum.largest),
            weights: compiled.stored.iter().find(|stored| stored.id == id).cloned(),
        }
    })
}

/// How a node is done by Winograd's algorithm on some device; nothing if it is not.
fn winograd(compiled: &Compiled, id: NodeId) -> Option<WinogradReport> {
    let graph = &compiled.graph;
    let weights = *graph.node(id).inputs.get(1)?;
    let elements = graph.f32_value(weights)?;
    let all = compiled.routed.placed.programs.iter().flat_map(|program| &program.weights);
    let shards = all.filter(|weight| weight.source.0.is_some_and(|original| original.tensor == weights));
    let forms = shards.filter_map(|weight| weight.order).find_map(|(_, order)| order.forms)?;
    let filters = elements.chunks_exact((elements.len() / graph.shape(weights).first()?).max(1));
    Some(WinogradReport {
        form: forms.to_string(),
        error_bound: filters.map(|filter| forms.error_bound(filter)).fold(0.0, f64::max),
        direct_from: f64::from(partita_rt::kernels::WINOGRAD_BELOW),
    })
}

/// Fills in what the linker made.
pub fn add_sizes(report: &mut Report, device: &str, sizes: &SectionSizes) {
    for entry in report.devices.iter_mut().filter(|entry| entry.name == device) {
        entry.code_bytes = sizes.code_bytes;
        entry.flash_bytes = sizes.flash_bytes;
        entry.ram_bytes = sizes.ram_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::report;
    use crate::config::cluster_file;
    use crate::driver::{Options, compile_graph};
    use crate::partition::StrategyFamily;

    #[test]
    fn devices_without_work_are_named() {
        let graph = "graph \"t\" opset 17\ninput %0 \"x\": f32[1,64]\n%1 \"y\": f32[1,64] = \"neg\"(%0) Unary(Neg)\noutput %1\n";
        let cluster = "[cluster]\nname = \"hall\"\ninput = \"cam\"\noutput = \"hub\"\n\
            [[device]]\nname = \"cam\"\ntarget = \"host\"\n[[device]]\nname = \"hub\"\ntarget = \"host\"\n\
            [[device]]\nname = \"spare\"\ntarget = \"host\"\n\
            [[link]]\nbetween = [\"cam\", \"hub\"]\ntransport = \"tcp\"\nbandwidth = \"1 Mbit/s\"\nlatency = \"5 ms\"\n\
            [[link]]\nbetween = [\"hub\", \"spare\"]\ntransport = \"tcp\"\nbandwidth = \"1 Mbit/s\"\nlatency = \"5 ms\"\n";
        let graph = crate::graph::text::parse(graph).expect("the text is a graph");
        let cluster = cluster_file::parse(cluster, "cluster.toml", ".".as_ref()).expect("the text is a cluster");
        let options = Options { family: StrategyFamily::Whole, ..Options::default() };
        let compiled = compile_graph("t".to_string(), graph, cluster, &options);
        let report = report(&compiled.expect("it is small"));
        assert_eq!(report.plan.unused_devices, ["spare"]);
        assert_eq!(report.plan.strategy, "whole", "who only holds the input or wants the answer is no stage");
        assert_eq!(report.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["cam", "hub"]);
    }
}
