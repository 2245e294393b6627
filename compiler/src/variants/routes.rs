//! From what was studied to routes: each situation gets, of the networks that are in time there, the one that loses least.

use super::mapping::{self, Mapped, Point};
use super::report::{self, Decided, VariantsReport};
use super::situations::{Situation, situations};
use super::study::Study;
use crate::config::Cluster;
use crate::driver::{Compiled, Failure, Options, Route};
use crate::emit::family::Row;
use crate::graph::Graph;
use crate::partition::Partition;
use crate::partition::held::Held;
use crate::placement::{self, Known, Placed};
use crate::program::Program;
use crate::simulate::outcomes::outcomes;

/// Share by which variants may make a device's weights larger, unless it is to hold all of them anyway.
const MORE_FLASH: f64 = 0.1;

/// Room that the code of one more kernel and one more route may take.
const KERNEL_CODE_BYTES: usize = 4 << 10;
const ROUTE_CODE_BYTES: usize = 4 << 10;

/// Where nobody says what is in time: so many times the latency of the whole network on the whole cluster.
const IN_TIME: f64 = 1.5;

/// A route to be: what is computed, and by whom.
struct Planned {
    name: String,
    member: usize,
    partition: Partition,
}

/// Adds to a compiled model the routes that situations ask for.
pub fn add(compiled: &mut Compiled, mut study: Study, options: &Options) -> Result<VariantsReport, Failure> {
    let graphs = study.with_exits(&compiled.graph)?;
    let study = &study;
    call_standalone(compiled);
    let held = Held::of(&compiled.graph, &compiled.partition, &compiled.cluster);
    let taking_part: Vec<usize> = compiled.programs.iter().map(|program| program.device).collect();
    let situations: Vec<Situation> = situations(&compiled.cluster, &taking_part)
        .into_iter()
        .map(|situation| with_only(situation, &taking_part))
        .collect();
    let nominal = mapping_of_base(compiled);
    let limit_ms = compiled.cluster.max_latency_ms.or(options.max_latency_ms).unwrap_or(nominal.latency_ms * IN_TIME);
    let mut tables: Vec<Vec<Mapped>> = Vec::with_capacity(situations.len());
    for (number, situation) in situations.iter().enumerate() {
        let mut mapped: Vec<Mapped> = Vec::new();
        for (member, graph) in graphs.iter().enumerate() {
            // Smaller networks may take as long as the whole one to send less.
            let goal_ms =
                mapped.iter().filter(|one| one.member == 0).map(|one| one.latency_ms).fold(f64::MAX, f64::min);
            let map = || mapping::map((member, graph), goal_ms, situation, &held, options);
            match (number, member) {
                (0, 0) => {
                    mapped.push(nominal.clone());
                    let others = map();
                    let best = std::slice::from_ref(&nominal);
                    mapped.extend(others.into_iter().filter(|other| other.adds_to(best, options.objective)));
                }
                // The plan as it is may still be best.
                (_, 0) => {
                    let mut ways = map();
                    if let Some(whole) = as_it_is(compiled, situation) {
                        ways.retain(|way| !whole.is_as_good_as(way));
                        if !ways.iter().any(|way| way.is_as_good_as(&whole)) {
                            ways.insert(0, whole);
                        }
                    }
                    mapped.extend(ways);
                }
                _ => mapped.extend(map()),
            }
        }
        tables.push(mapped);
    }
    let whole = |(situation, mapped): (&Situation, &Vec<Mapped>)| {
        let known: Vec<Mapped> = mapped.iter().filter(|one| one.member == 0).cloned().collect();
        mapping::front(&graphs[0], &known, situation, &held, options)
    };
    let wholes: Vec<Vec<Point>> = match graphs.len() {
        // Nothing is compared.
        1 => vec![Vec::new(); situations.len()],
        _ => situations.iter().zip(&tables).map(whole).collect(),
    };
    let losses = study.loss_bounds(&graphs);
    let loss = |member: usize| losses[member];
    // Routes that need too much flash get smaller weights, or are taken out, and situations choose again.
    let mut small = false;
    loop {
        let chosen: Vec<Option<&Mapped>> =
            tables.iter().map(|mapped| mapping::choose(mapped, limit_ms, loss)).collect();
        let mut planned: Vec<Planned> = Vec::new();
        let mut rows: Vec<Row> = Vec::new();
        for (situation, mapped) in situations.iter().zip(&chosen) {
            let Some(mapped) = mapped else { continue };
            let whole = mapped.member == 0 && mapped.partition.strategies == compiled.partition.strategies;
            let same = |known: &Planned| {
                known.member == mapped.member && known.partition.strategies == mapped.partition.strategies
            };
            let route = match (whole, planned.iter().position(same)) {
                (true, _) => 0,
                (false, Some(known)) => known + 1,
                (false, None) => {
                    let name = format!("{}, {}", report::name(mapped.member), situation.name);
                    planned.push(Planned { name, member: mapped.member, partition: mapped.partition.clone() });
                    planned.len()
                }
            };
            let (missing, bytes_per_second) = (situation.missing(), situation.bytes_per_second());
            rows.push(Row { missing, unneeded: Vec::new(), bytes_per_second, route, latency_ms: mapped.latency_ms });
        }
        let routes = planned
            .iter()
            .map(|plan| route(compiled, &graphs, plan, small))
            .collect::<Result<Vec<Route>, Failure>>()?;
        let before: Vec<usize> = compiled.programs.iter().map(|program| program.weights_bytes).collect();
        if let Some(worst) = too_large(compiled, &routes, &before) {
            if !std::mem::replace(&mut small, true) {
                continue;
            }
            let Planned { member, partition, .. } = &planned[worst];
            for mapped in &mut tables {
                mapped.retain(|one| one.member != *member || one.partition.strategies != partition.strategies);
            }
            continue;
        }
        for row in &mut rows {
            row.unneeded = unneeded(compiled, row.route.checked_sub(1).map(|further| &routes[further]));
        }
        let decided = Decided {
            situations: &situations,
            tables: &tables,
            wholes: &wholes,
            rows: &rows,
            limit_ms,
            graphs: &graphs,
            routes: &routes,
        };
        let report = report::report(compiled, study, &decided);
        compiled.variant_graphs.clone_from(&graphs);
        compiled.add_routes(routes);
        if let Some(choices) = &mut compiled.choices {
            choices.conditions = rows;
        }
        return Ok(report.with_flash(compiled, &before));
    }
}

/// Devices that can answer by themselves take part, even if the whole network does without them.
fn call_standalone(compiled: &mut Compiled) {
    for (device, info) in compiled.cluster.devices.iter().enumerate() {
        if info.standalone && compiled.programs.iter().all(|program| program.device != device) {
            compiled.programs.push(Program { device, ..Program::default() });
        }
    }
    compiled.programs.sort_by_key(|program| program.device);
}

/// Devices that hold no weights cannot help; those that hold the input or want the answer take part all the same.
fn with_only(mut situation: Situation, devices: &[usize]) -> Situation {
    let ends = [situation.cluster.input, situation.cluster.output];
    situation.present.retain(|device| devices.contains(device) || ends.contains(device));
    situation
}

/// Devices that a route does without; the whole network if there is none.
fn unneeded(compiled: &Compiled, route: Option<&Route>) -> Vec<usize> {
    let programs = route.map_or(&compiled.programs, |route| &route.programs);
    let needed = |device: usize| programs.iter().any(|program| program.device == device && !program.steps.is_empty());
    (0..compiled.cluster.devices.len()).filter(|device| !needed(*device)).collect()
}

/// The whole network as it is compiled, in a situation; nothing if a device is missing.
fn as_it_is(compiled: &Compiled, situation: &Situation) -> Option<Mapped> {
    let there = |program: &Program| situation.present.contains(&program.device);
    compiled.programs.iter().all(there).then(|| mapped_on(compiled, &situation.cluster))
}

/// The whole network as it is compiled.
fn mapping_of_base(compiled: &Compiled) -> Mapped {
    mapped_on(compiled, &compiled.cluster)
}

fn mapped_on(compiled: &Compiled, cluster: &Cluster) -> Mapped {
    let outcomes = outcomes(&compiled.graph, &compiled.sharded, &compiled.schedules, cluster);
    let ram_bytes = placement::peak_ram_bytes(&compiled.sharded, &compiled.schedules, cluster);
    Mapped::new(0, compiled.partition.clone(), &outcomes, ram_bytes)
}

/// Programs of a route, in the order of the whole network's; devices that have nothing to do get empty ones.
fn route(compiled: &Compiled, graphs: &[Graph], plan: &Planned, small: bool) -> Result<Route, Failure> {
    let graph = graphs[plan.member].clone();
    let mut clock = crate::placement::Clock::default();
    let known = Known { programs: &compiled.programs, small };
    let placed = placement::place_like(&graph, &compiled.cluster, plan.partition.clone(), known, &mut clock)?;
    let Placed { partition, sharded, programs, .. } = placed;
    let mut by_device: std::collections::HashMap<usize, Program> =
        programs.into_iter().map(|program| (program.device, program)).collect();
    let programs = compiled
        .programs
        .iter()
        .map(|base| by_device.remove(&base.device).unwrap_or(Program { device: base.device, ..Program::default() }))
        .collect();
    if let Some(device) = by_device.keys().next() {
        return Err(Failure::Internal(anyhow::anyhow!(
            "a variant gives work to device {device}, which holds no weights"
        )));
    }
    Ok(Route { name: plan.name.clone(), graph, partition, sharded, programs })
}

/// The route that needs most of a device whose weights get too large, or whose memory does not suffice.
fn too_large(compiled: &Compiled, routes: &[Route], before: &[usize]) -> Option<usize> {
    let limit = |position: usize| before[position] as f64 * (1.0 + MORE_FLASH);
    let united = |position: usize, which: &[usize]| {
        let mut programs: Vec<Program> = vec![compiled.programs[position].clone()];
        programs.extend(which.iter().map(|route| routes[*route].programs[position].clone()));
        crate::program::family::unite(&mut programs.iter_mut().collect::<Vec<_>>());
        programs.swap_remove(0)
    };
    let all: Vec<usize> = (0..routes.len()).collect();
    for position in 0..compiled.programs.len() {
        let program = united(position, &all);
        let device = &compiled.cluster.devices[program.device];
        let in_ram = placement::ram_bytes(&program, &compiled.cluster) > crate::partition::limits::ram_bytes(device);
        let kernels = program.kernels.len() - compiled.programs[position].kernels.len();
        let code_bytes = kernels * KERNEL_CODE_BYTES + routes.len() * ROUTE_CODE_BYTES;
        let flash = (program.weights_bytes + code_bytes) as u64;
        let in_flash = flash > crate::partition::limits::flash_bytes(device);
        let too_much = program.weights_bytes as f64 > limit(position) && !device.standalone;
        if too_much || in_ram || in_flash {
            let size = |route: &usize| {
                let alone = united(position, &[*route]);
                alone.weights_bytes + alone.arena_bytes
            };
            return all.iter().copied().max_by_key(size);
        }
    }
    None
}
