//! Routes for the loss of any one device (`survive = 1` of the cluster file): the device with the input computes the inference
//! under way again on one of them.
//!
//! A device that goes takes its weights with it. Where the others hold all of them, as where rows are split, they go on with
//! what they have; elsewhere a plan without the device is stored beside, weights and all, if that fits.

use std::sync::Arc;

use partita_config::{Cluster, System};
use partita_ir::diagnostic::{Diagnostic, size};
use partita_ir::graph::Graph;
use partita_plan::partition::resident::ResidentWeights;
use partita_plan::partition::{Partition, PartitionOptions, StrategyFamily, device_subset, limits};
use partita_program::emit::family::{Family as Choices, Row};
use partita_program::program::Program;

use crate::contest::{Breadth, Contest};
use crate::failure::Failure;
use crate::options::PlacementOptions;
use crate::placed::{Known, Placed, ram_bytes};
use crate::routes::{Route, link_routes, unneeded};
use crate::score::Figures;

/// So much slower than with weights of its own may a plan be that makes do with those that are there.
const MAKES_DO: f64 = 1.1;

/// Why there is no answer without a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinglePoint {
    /// It has the input.
    Input,
    /// The answer is wanted there.
    Output,
    /// No other links lead to the device that wants the answer.
    Bridge,
}

impl SinglePoint {
    /// For readers.
    pub fn word(self) -> &'static str {
        match self {
            SinglePoint::Input => "input",
            SinglePoint::Output => "output",
            SinglePoint::Bridge => "bridge",
        }
    }
}

/// The loss of a device, and what is done then.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Which device.
    pub device: usize,
    /// Milliseconds from an input to its answer without it.
    pub latency_ms: f64,
    /// Number of the route that is taken; the first after the whole network is 1.
    pub route: usize,
    /// Whether the weights that the plan's devices have are enough for it.
    pub makes_do: bool,
}

/// What is known of losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Survival {
    /// Devices without which there is no answer.
    pub single_points: Vec<(usize, SinglePoint)>,
    /// What happens without each of the others that take part.
    pub losses: Vec<Loss>,
    /// Bytes by which the weights of each device that takes part grow, in the order of the programs.
    pub more_weights_bytes: Vec<u64>,
}

/// A plan, and routes beside it for the loss of each device.
#[derive(Debug)]
pub struct Survivable {
    /// The plan; its programs share their weights with those of the routes.
    pub placed: Placed,
    /// The routes.
    pub routes: Vec<Route>,
    /// When each is taken.
    pub choices: Option<Choices>,
    /// What is known of losses.
    pub survival: Survival,
}

/// The best plan without one device.
struct Without {
    device: usize,
    partition: Partition,
    latency_ms: f64,
    makes_do: bool,
}

/// Adds to a plan the routes that it takes to lose any one device and still answer.
///
/// Errors: E0183 where there is no plan without some device, or no memory for it.
pub fn survivable(
    graph: &Graph,
    cluster: &Cluster,
    placed: Placed,
    latency_ms: f64,
    options: &PlacementOptions,
) -> Result<Survivable, Failure> {
    let resident = Arc::new(ResidentWeights::of(graph, &placed.partition, cluster));
    let mut single_points = Vec::new();
    let mut without: Vec<Without> = Vec::new();
    let everyone = Everyone { graph, cluster, resident: &resident, options };
    for device in placed.programs.iter().map(|program| program.device) {
        match single_point(cluster, device) {
            Some(why) => single_points.push((device, why)),
            None => without.push(everyone.best_without(device)?),
        }
    }
    let mut placed = placed;
    let before: Vec<(usize, usize)> = weights_by_device(&placed.programs);
    call_helpers(&mut placed, &without);
    let mut losses: Vec<Loss> = Vec::new();
    let mut routes: Vec<Route> = Vec::new();
    for Without { device, partition, latency_ms, makes_do } in without {
        let same = |route: &Route| route.partition.strategies == partition.strategies;
        let known = routes.iter().position(same);
        let at = known.unwrap_or(routes.len());
        if known.is_none() {
            let name = format!("without {}", cluster.devices[device].name);
            let known = Known { programs: &placed.programs, small: false };
            routes.push(Route::beside(known, name, graph.clone(), cluster, partition)?);
        }
        losses.push(Loss { device, latency_ms, route: at + 1, makes_do });
    }
    let mut choices = link_routes(&mut placed.programs, &mut routes, cluster);
    too_large(&placed.programs, cluster)?;
    if let Some(choices) = &mut choices {
        choices.conditions = rows(&placed.programs, latency_ms, &losses, &routes, cluster);
    }
    let bytes_before = |device: usize| before.iter().find(|known| known.0 == device).map_or(0, |known| known.1);
    let more = |program: &Program| program.weights_bytes.saturating_sub(bytes_before(program.device)) as u64;
    let more_weights_bytes = placed.programs.iter().map(more).collect();
    Ok(Survivable { survival: Survival { single_points, losses, more_weights_bytes }, placed, routes, choices })
}

/// Why there is no answer without a device, if there is none.
fn single_point(cluster: &Cluster, device: usize) -> Option<SinglePoint> {
    if device == cluster.input {
        return Some(SinglePoint::Input);
    }
    if device == cluster.output {
        return Some(SinglePoint::Output);
    }
    (!reached_without(cluster, device).contains(&cluster.output)).then_some(SinglePoint::Bridge)
}

/// Devices that links lead to from the input, none over a device, ascending.
fn reached_without(cluster: &Cluster, device: usize) -> Vec<usize> {
    let mut reached = vec![cluster.input];
    let mut at = 0;
    while let Some(from) = reached.get(at).copied() {
        for other in 0..cluster.devices.len() {
            if other != device && !reached.contains(&other) && cluster.link(from, other).is_some() {
                reached.push(other);
            }
        }
        at += 1;
    }
    reached.sort_unstable();
    reached
}

/// What is asked of the others, whoever goes.
struct Everyone<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    resident: &'a Arc<ResidentWeights>,
    options: &'a PlacementOptions,
}

impl Everyone<'_> {
    /// The best plan without a device: with the weights that are resident, unless others make it much faster.
    fn best_without(&self, device: usize) -> Result<Without, Failure> {
        let present = reached_without(self.cluster, device);
        let with_resident = self.best_of(&present, Some(Arc::clone(self.resident)));
        let free = self.best_of(&present, None);
        let makes_do = match (&with_resident, &free) {
            (Some((_, resident)), Some((_, free))) => resident.latency_ms <= free.latency_ms * MAKES_DO,
            (resident, _) => resident.is_some(),
        };
        let best = if makes_do { with_resident } else { free };
        let Some((partition, figures)) = best else {
            let name = &self.cluster.devices[device].name;
            return Err(Failure::Infeasible(
                Diagnostic::new("E0183", format!("there is no plan without device `{name}`, as `survive = 1` wants"))
                    .help("more RAM or flash, a further device, or `survive = 0` would help"),
            ));
        };
        Ok(Without { device, partition, latency_ms: figures.latency_ms, makes_do })
    }

    /// The best plan of these devices; by all strategies where the one that is asked for has none.
    fn best_of(&self, present: &[usize], resident: Option<Arc<ResidentWeights>>) -> Option<(Partition, Figures)> {
        let part = device_subset::restricted(self.cluster, present);
        [self.options.family, StrategyFamily::Auto].into_iter().find_map(|family| {
            let wanted = PartitionOptions {
                resident: resident.clone(),
                ..PartitionOptions::new(self.options.objective, family)
            };
            let mut contest = Contest::new(self.graph, &part, &wanted.restricted(present), Breadth::Few).ok()?;
            let best = contest.pop()?;
            let count = self.cluster.devices.len();
            Some((device_subset::widened(best.partition, present, count), best.figures))
        })
    }
}

/// Devices that help only when another is gone take part, too.
fn call_helpers(placed: &mut Placed, without: &[Without]) {
    let strategies = without.iter().flat_map(|plan| plan.partition.strategies.values());
    let relays = without.iter().flat_map(|plan| plan.partition.relays.values().flatten());
    let of_relays = relays.flat_map(|relay| (0..relay.0.len()).filter(|device| relay.0[*device].is_some()));
    let mut needed: Vec<usize> = strategies.flat_map(|strategy| strategy.devices()).chain(of_relays).collect();
    needed.sort_unstable();
    needed.dedup();
    for device in needed {
        placed.call(device);
    }
}

fn weights_by_device(programs: &[Program]) -> Vec<(usize, usize)> {
    programs.iter().map(|program| (program.device, program.weights_bytes)).collect()
}

/// When each route is taken: however slow links are, there is but one for whoever is there.
fn rows(whole: &[Program], latency_ms: f64, losses: &[Loss], routes: &[Route], cluster: &Cluster) -> Vec<Row> {
    let bytes_per_second = vec![0.0; cluster.media.len()];
    let nominal = Row {
        missing: Vec::new(),
        unneeded: unneeded(whole, cluster),
        bytes_per_second: bytes_per_second.clone(),
        route: 0,
        latency_ms,
    };
    let row = |loss: &Loss| Row {
        missing: vec![loss.device],
        unneeded: unneeded(&routes[loss.route - 1].programs, cluster),
        bytes_per_second: bytes_per_second.clone(),
        route: loss.route,
        latency_ms: loss.latency_ms,
    };
    std::iter::once(nominal).chain(losses.iter().map(row)).collect()
}

/// Refuses routes whose weights do not fit beside the plan's.
fn too_large(programs: &[Program], cluster: &Cluster) -> Result<(), Failure> {
    for program in programs {
        let device = &cluster.devices[program.device];
        let (ram, flash) = (ram_bytes(program, cluster), program.weights_bytes as u64);
        let (most_ram, most_flash) = (limits::ram_bytes(device), limits::flash_bytes(device));
        let in_ram =
            if device.target.system == System::Linux { "weights and working memory" } else { "working memory" };
        let problem = if ram > most_ram {
            format!("{} of RAM for {in_ram}, {} more than it has", size(ram), size(ram - most_ram))
        } else if flash > most_flash {
            format!("{} of flash for weights, {} more than it has", size(flash), size(flash - most_flash))
        } else {
            continue;
        };
        return Err(Failure::Infeasible(
            Diagnostic::new(
                "E0183",
                "the plans for the loss of a device do not fit beside the first, as `survive = 1` wants",
            )
            .note(format!("device `{}` needs {problem}", device.name))
            .help("more RAM or flash, a further device, or `survive = 0` would help"),
        ));
    }
    Ok(())
}
