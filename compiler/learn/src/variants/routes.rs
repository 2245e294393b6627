//! From what was studied to routes: each situation gets, of the networks that are in time there, the one that loses
//! least.

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_placement::routes::{link_routes, unneeded};
use partita_placement::{Failure, Known, PlacementOptions, Route};
use partita_plan::partition::Partition;
use partita_plan::partition::resident::ResidentWeights;
use partita_plan::simulate::outcomes::outcomes;
use partita_program::emit::family::Row;
use partita_program::program::Program;

use super::family::{Base, Family};
use super::mapping::{self, Mapped, Point};
use super::situations::{Situation, situations};
use super::studied::Study;
use super::summary::{self, Decided};
use crate::host::Runner;

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

/// What is wanted of routes.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// How the whole network was placed.
    pub mapping: &'a PlacementOptions,
    /// An answer should not take longer.
    pub max_latency_ms: Option<f64>,
}

/// Adds to the whole network the routes that situations ask for.
#[allow(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
pub fn add(mut base: Base<'_>, mut study: Study, wanted: Wanted<'_>, runner: Runner<'_>) -> Result<Family, Failure> {
    let options = wanted.mapping;
    let graphs = study.with_exits(base.graph, runner)?;
    let study = &study;
    call_standalone(&mut base);
    let base = base;
    let resident = ResidentWeights::of(base.graph, &base.placed.partition, base.cluster);
    let taking_part: Vec<usize> = base.placed.programs.iter().map(|program| program.device).collect();
    let situations: Vec<Situation> = situations(base.cluster, &taking_part)
        .into_iter()
        .map(|situation| with_only(situation, &taking_part))
        .collect();
    let nominal = mapping_of_base(&base);
    let limit_ms = wanted.max_latency_ms.unwrap_or(nominal.latency_ms * IN_TIME);
    let mut tables: Vec<Vec<Mapped>> = Vec::with_capacity(situations.len());
    for (number, situation) in situations.iter().enumerate() {
        let mut mapped: Vec<Mapped> = Vec::new();
        for (member, graph) in graphs.iter().enumerate() {
            // Smaller networks may take as long as the whole one to send less.
            let goal_ms =
                mapped.iter().filter(|one| one.member == 0).map(|one| one.latency_ms).fold(f64::MAX, f64::min);
            let map = || mapping::map((member, graph), goal_ms, situation, &resident, options);
            match (number, member) {
                (0, 0) => {
                    mapped.push(nominal.clone());
                    let others = map();
                    let best = std::slice::from_ref(&nominal);
                    mapped.extend(others.into_iter().filter(|other| other.adds_to(best, options.objective)));
                }
                // The plan as it is may still be best.
                (_, 0) => {
                    let mut alternatives = map();
                    if let Some(whole) = as_it_is(&base, situation) {
                        alternatives.retain(|alternative| !whole.is_as_good_as(alternative));
                        if !alternatives.iter().any(|alternative| alternative.is_as_good_as(&whole)) {
                            alternatives.insert(0, whole);
                        }
                    }
                    mapped.extend(alternatives);
                }
                _ => mapped.extend(map()),
            }
        }
        tables.push(mapped);
    }
    let whole = |(situation, mapped): (&Situation, &Vec<Mapped>)| {
        let known: Vec<Mapped> = mapped.iter().filter(|one| one.member == 0).cloned().collect();
        mapping::front(&graphs[0], &known, situation, &resident, options)
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
            let whole = mapped.member == 0 && mapped.partition.strategies == base.placed.partition.strategies;
            let same = |known: &Planned| {
                known.member == mapped.member && known.partition.strategies == mapped.partition.strategies
            };
            let route = match (whole, planned.iter().position(same)) {
                (true, _) => 0,
                (false, Some(known)) => known + 1,
                (false, None) => {
                    let name = format!("{}, {}", summary::name(mapped.member), situation.name);
                    planned.push(Planned { name, member: mapped.member, partition: mapped.partition.clone() });
                    planned.len()
                }
            };
            let (missing, bytes_per_second) = (situation.missing(), situation.bytes_per_second());
            rows.push(Row { missing, unneeded: Vec::new(), bytes_per_second, route, latency_ms: mapped.latency_ms });
        }
        let routes =
            planned.iter().map(|plan| route(&base, &graphs, plan, small)).collect::<Result<Vec<Route>, Failure>>()?;
        let before: Vec<usize> = base.placed.programs.iter().map(|program| program.weights_bytes).collect();
        if let Some(worst) = too_large(&base, &routes, &before) {
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
            let further = row.route.checked_sub(1).map(|further| &routes[further].programs);
            row.unneeded = unneeded(further.unwrap_or(&base.placed.programs), base.cluster);
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
        let report = summary::report(&base, study, &decided);
        let Base { graph: _, cluster, mut placed } = base;
        let mut routes = routes;
        let mut choices = link_routes(&mut placed.programs, &mut routes, cluster);
        if let Some(choices) = &mut choices {
            choices.conditions = rows;
        }
        let report = summary::with_flash(report, &placed.programs, cluster, &before);
        return Ok(Family { placed, routes, choices, report, graphs });
    }
}

/// Devices that can answer by themselves take part, even if the whole network does without them.
fn call_standalone(base: &mut Base<'_>) {
    for (device, info) in base.cluster.devices.iter().enumerate() {
        if info.standalone {
            base.placed.call(device);
        }
    }
}

/// Devices that hold no weights cannot help; those that hold the input or want the answer take part all the same.
fn with_only(mut situation: Situation, devices: &[usize]) -> Situation {
    let ends = [situation.cluster.input, situation.cluster.output];
    situation.present.retain(|device| devices.contains(device) || ends.contains(device));
    situation
}

/// The whole network as it is base, in a situation; nothing if a device is missing.
fn as_it_is(base: &Base<'_>, situation: &Situation) -> Option<Mapped> {
    let there = |program: &Program| situation.present.contains(&program.device);
    base.placed.programs.iter().all(there).then(|| mapped_on(base, &situation.cluster))
}

/// The whole network as it is compiled.
fn mapping_of_base(base: &Base<'_>) -> Mapped {
    mapped_on(base, base.cluster)
}

fn mapped_on(base: &Base<'_>, cluster: &Cluster) -> Mapped {
    let outcomes = outcomes(base.graph, &base.placed.sharded, &base.placed.schedules, cluster);
    let ram_bytes = partita_placement::peak_ram_bytes(&base.placed.sharded, &base.placed.schedules, cluster);
    Mapped::new(0, base.placed.partition.clone(), &outcomes, ram_bytes)
}

/// A route, with programs in the order of the whole network's.
fn route(base: &Base<'_>, graphs: &[Graph], plan: &Planned, small: bool) -> Result<Route, Failure> {
    let known = Known { programs: &base.placed.programs, small };
    Route::beside(known, plan.name.clone(), graphs[plan.member].clone(), base.cluster, plan.partition.clone())
}

/// The route that needs most of a device whose weights get too large, or whose memory does not suffice.
fn too_large(base: &Base<'_>, routes: &[Route], before: &[usize]) -> Option<usize> {
    let limit = |position: usize| before[position] as f64 * (1.0 + MORE_FLASH);
    let united = |position: usize, which: &[usize]| {
        let mut programs: Vec<Program> = vec![base.placed.programs[position].clone()];
        programs.extend(which.iter().map(|route| routes[*route].programs[position].clone()));
        partita_program::program::family::link_routes(&mut programs.iter_mut().collect::<Vec<_>>());
        programs.swap_remove(0)
    };
    let all: Vec<usize> = (0..routes.len()).collect();
    for position in 0..base.placed.programs.len() {
        let program = united(position, &all);
        let device = &base.cluster.devices[program.device];
        let in_ram =
            partita_placement::ram_bytes(&program, base.cluster) > partita_plan::partition::limits::ram_bytes(device);
        let kernels = program.kernels.len() - base.placed.programs[position].kernels.len();
        let code_bytes = kernels * KERNEL_CODE_BYTES + routes.len() * ROUTE_CODE_BYTES;
        let flash = (program.weights_bytes + code_bytes) as u64;
        let in_flash = flash > partita_plan::partition::limits::flash_bytes(device);
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
