//! From a graph to programs that fit the devices: partition, shard, schedule, lower and plan memory, again where the
//! memory plan needs more than the partition thought, and patch by patch or in stripes where whole activations are too
//! large.

mod contest;
mod memory_objective;
#[cfg(test)]
mod published_tests;
pub mod score;
mod stripes;
#[cfg(test)]
mod tests;

use self::contest::{Breadth, Contest};
use self::score::Figures;
use crate::config::{Cluster, System, Target};
use crate::diagnostic::{Diagnostic, size};
use crate::driver::{Clock, Failure, Options, internal};
use crate::graph::Graph;
use crate::partition::{self, Objective, Partition, PartitionOptions, StrategyFamily, limits};
use crate::program::lower::Like;
use crate::program::{self, Program};
use crate::schedule::{self, Schedule};
use crate::shard::patches::{self, PatchReport};
use crate::shard::{self, Sharded};
use crate::{memory, plan, simulate};

/// A partition carried out as far as memory.
pub struct Placed {
    /// Who computes what.
    pub partition: Partition,
    /// The graph of shards.
    pub sharded: Sharded,
    /// One per device that takes part.
    pub schedules: Vec<Schedule>,
    /// One per schedule.
    pub programs: Vec<Program>,
    /// What is computed patch by patch.
    pub patches: Vec<PatchReport>,
}

/// Shares of activations that are counted, one after the other, until a plan is found: with less than all, plans whose
/// devices will have to compute patch by patch.
const ACTIVATION_SHARES: [f64; 3] = [1.0, 0.4, 0.15];

/// Shares of the room that tensors may take by their sizes: what a program really needs is known only afterwards.
const PATCH_ROOM: [f64; 4] = [1.0, 0.85, 0.7, 0.5];

/// What a process needs of the flash beside its weights; where that is scarce, weights are kept small.
const PROCESS_CODE_BYTES: u64 = 768 << 10;

/// With memory as the objective, what patches must save of a device's RAM to be worth their recomputation.
const WORTH_PATCHING: f64 = 0.05;

/// Plans that are carried out until one fits.
const ATTEMPTS: usize = 16;

/// Runs of one device that may be computed patch by patch.
const MAX_PATCHES: usize = 3;

/// The best plan that keeps every limit.
pub fn fit(graph: &Graph, cluster: &Cluster, options: &Options, clock: &mut Clock) -> Result<Placed, Failure> {
    let mut refusal = None;
    let firmware = cluster.devices.iter().any(|device| device.target.system == System::CortexM);
    for share in ACTIVATION_SHARES {
        match fit_counting(graph, cluster, options, share, clock) {
            Err(Failure::Infeasible(why)) => refusal = refusal.or(Some(why)),
            other => return other,
        }
        // Where weights lie in RAM too, and nodes are shared, whole activations are not what fails.
        if options.plan.is_some() || !firmware && cluster.devices.len() > 1 {
            break;
        }
    }
    Err(refusal.map_or_else(|| Failure::Internal(anyhow::anyhow!("no share was tried")), Failure::Infeasible))
}

/// The same with a share of activations counted.
fn fit_counting(
    graph: &Graph,
    cluster: &Cluster,
    options: &Options,
    activation_share: f64,
    clock: &mut Clock,
) -> Result<Placed, Failure> {
    let wanted = PartitionOptions { activation_share, ..PartitionOptions::new(options.objective, options.family) };
    if options.plan.is_none() && options.objective != Objective::Memory {
        return fit_best(graph, cluster, &wanted, clock);
    }
    let mut reserve_bytes = vec![0; cluster.devices.len()];
    loop {
        let partition = match &options.plan {
            Some(path) => plan::read_partition(path, graph, cluster)?,
            None => {
                let reserve_bytes = reserve_bytes.clone();
                least_memory(graph, cluster, &PartitionOptions { reserve_bytes, ..wanted.clone() })?
            }
        };
        clock.lap("partition");
        let mut placed = place(graph, cluster, partition, clock)?;
        placed.patch(cluster)?;
        clock.lap("patches");
        let excess = placed.excess_bytes(cluster);
        if excess.iter().all(|bytes| *bytes == 0) {
            return Ok(placed);
        }
        let given_up = options.plan.is_some()
            || reserve_bytes
                .iter()
                .zip(&excess)
                .any(|(reserve, excess)| *reserve > 0 && *excess > 0 && *reserve > 64 * *excess);
        if given_up {
            return Err(Failure::Infeasible(does_not_fit(&placed, &excess, cluster)));
        }
        for (reserve, excess) in reserve_bytes.iter_mut().zip(excess) {
            *reserve += excess + excess / 8;
        }
    }
}

/// The best of all plans that compete and fit. The partition counts tensors; the memory plan counts padding, alignment and
/// what stays alive: who does not fit is asked again with more room kept free.
fn fit_best(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions, clock: &mut Clock) -> Result<Placed, Failure> {
    let mut contest = Contest::new(graph, cluster, wanted, Breadth::All).map_err(partition_failure)?;
    clock.lap("partition");
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        let Some(best) = contest.pop() else { break };
        let mut placed = place(graph, cluster, best.partition.clone(), clock)?;
        placed.patch(cluster)?;
        clock.lap("patches");
        let excess = placed.excess_bytes(cluster);
        if excess.iter().any(|bytes| *bytes > 0) {
            refusal = refusal.or_else(|| Some(does_not_fit(&placed, &excess, cluster)));
            contest.ask_again(&best, &excess);
            clock.lap("partition");
            continue;
        }
        // What is computed patch by patch takes longer.
        let (sharded, schedules) = (&placed.sharded, &placed.schedules);
        let figures = Figures::of_schedules(graph, cluster, sharded, schedules, wanted.objective);
        if placed.patches.is_empty() || contest.put_back(best.clone(), figures) {
            placed.partition = contest.certified(best.with(figures));
            clock.lap("partition");
            return Ok(placed);
        }
    }
    if let Some(refused) = contest.refused.take() {
        return Err(partition_failure(refused));
    }
    let none = || Diagnostic::new("E0170", "no plan was found that keeps every limit");
    Err(Failure::Infeasible(refusal.unwrap_or_else(none)))
}

/// The partition whose fullest device needs least: what memory a program takes, the memory plan knows best.
fn least_memory(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Result<Partition, Failure> {
    let best = partition::solve(graph, cluster, wanted).map_err(partition_failure)?;
    Ok(match wanted.family {
        StrategyFamily::Auto => memory_objective::least(graph, cluster, wanted, best),
        _ => best,
    })
}

/// The best of few, by the sizes of tensors.
fn best(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Result<Partition, Failure> {
    if wanted.objective == Objective::Memory {
        return least_memory(graph, cluster, wanted);
    }
    let mut contest = Contest::new(graph, cluster, wanted, Breadth::Few).map_err(partition_failure)?;
    let none = || Failure::Infeasible(Diagnostic::new("E0170", "no plan can be carried out"));
    let best = contest.pop().ok_or_else(none)?;
    Ok(contest.certified(best))
}

/// A mapping before programs are made of it.
pub struct Outlook {
    /// Strategies.
    pub partition: Partition,
    /// Each device's part.
    pub sharded: Sharded,
    /// What each device does.
    pub schedules: Vec<Schedule>,
    /// What that comes to.
    pub prediction: simulate::Prediction,
}

/// A good mapping by the sizes of tensors, quick to find; none if there is none.
pub fn outlook(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Option<Outlook> {
    let partition = best(graph, cluster, wanted).ok()?;
    let sharded = shard::apply(graph, &partition, cluster).ok()?;
    let schedules = schedule::build(&sharded, cluster).ok()?;
    let prediction = simulate::simulate(&sharded, &schedules, cluster);
    Some(Outlook { partition, sharded, schedules, prediction })
}

/// Shards, schedules and lowers a partition.
pub fn place(graph: &Graph, cluster: &Cluster, partition: Partition, clock: &mut Clock) -> Result<Placed, Failure> {
    place_like(graph, cluster, partition, Known::default(), clock)
}

/// Programs that devices have already.
#[derive(Clone, Copy, Default)]
pub struct Known<'a> {
    /// One per device that takes part.
    pub programs: &'a [Program],
    /// Weights that are not in these take as little room as they can.
    pub small: bool,
}

/// The same for devices that have programs already: what weights are in both is packed alike.
pub fn place_like(
    graph: &Graph,
    cluster: &Cluster,
    partition: Partition,
    known: Known<'_>,
    clock: &mut Clock,
) -> Result<Placed, Failure> {
    let sharded = shard::apply(graph, &partition, cluster).map_err(internal)?;
    clock.lap("shard");
    let schedules = schedules(&sharded, cluster)?;
    clock.lap("schedule");
    let like = |schedule: &Schedule| {
        let program = known.programs.iter().find(|program| program.device == schedule.device);
        Like { weights: program.map_or(&[][..], |program| &program.weights), small: known.small }
    };
    let programs = (schedules.iter().map(|schedule| lower(&sharded, schedule, cluster, like(schedule))))
        .collect::<Result<_, _>>()?;
    clock.lap("lower");
    Ok(Placed { partition, sharded, schedules, programs, patches: Vec::new() })
}

/// Schedules, proven.
fn schedules(sharded: &Sharded, cluster: &Cluster) -> Result<Vec<Schedule>, Failure> {
    let schedules = schedule::build(sharded, cluster).map_err(internal)?;
    schedule::check::check(&sharded.graph, &schedules, cluster).map_err(internal)?;
    Ok(schedules)
}

/// The program of one device, its memory planned and checked. Where minimal filtering takes more memory than there is, it
/// is done without.
fn lower(sharded: &Sharded, schedule: &Schedule, cluster: &Cluster, like: Like<'_>) -> Result<Program, Failure> {
    let device = &cluster.devices[schedule.device];
    let planned = |target: &Target| {
        let mut program = program::lower::lower(&sharded.graph, schedule, target, like).map_err(lower_failure)?;
        memory::plan(&mut program, memory::ALIGNMENT_BYTES);
        memory::check(&program).map_err(internal)?;
        Ok(program)
    };
    let program = planned(&device.target)?;
    let too_large = ram_bytes(&program, cluster) > limits::ram_bytes(device)
        || program.weights_bytes as u64 + PROCESS_CODE_BYTES > limits::flash_bytes(device);
    if too_large && device.target.minimal_filtering {
        return planned(&Target { minimal_filtering: false, ..device.target.clone() });
    }
    Ok(program)
}

/// RAM of the fullest device before programs are made, by the sizes of tensors: activations that are alive at once, and
/// weights where they live in RAM.
pub fn peak_ram_bytes(sharded: &Sharded, schedules: &[Schedule], cluster: &Cluster) -> u64 {
    let of_device = |schedule: &Schedule| {
        let activations = patches::whole_bytes(sharded, schedule);
        let in_ram = cluster.devices[schedule.device].target.system == System::Linux;
        activations + if in_ram { schedule.weights_bytes(&sharded.graph) } else { 0 }
    };
    schedules.iter().map(of_device).max().unwrap_or(0)
}

/// RAM that a program takes of its device.
pub fn ram_bytes(program: &Program, cluster: &Cluster) -> u64 {
    let in_ram = cluster.devices[program.device].target.system == System::Linux;
    program.arena_bytes as u64 + if in_ram { program.weights_bytes as u64 } else { 0 }
}

impl Placed {
    /// Bytes by which each device's memory is too small.
    fn excess_bytes(&self, cluster: &Cluster) -> Vec<u64> {
        let mut excess = vec![0; cluster.devices.len()];
        for program in &self.programs {
            let device = &cluster.devices[program.device];
            let ram = ram_bytes(program, cluster).saturating_sub(limits::ram_bytes(device));
            let flash = (program.weights_bytes as u64).saturating_sub(limits::flash_bytes(device));
            excess[program.device] = ram.max(flash);
        }
        excess
    }

    /// Computes patch by patch on devices whose RAM is too small for whole activations, and, if memory is the
    /// objective, wherever it saves enough.
    fn patch(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        for index in 0..self.programs.len() {
            for _ in 0..MAX_PATCHES {
                let program = &self.programs[index];
                let (ram, arena) = (ram_bytes(program, cluster), program.arena_bytes as u64);
                let over = ram.saturating_sub(limits::ram_bytes(&cluster.devices[program.device]));
                let enough = if over > 0 {
                    arena.saturating_sub(over)
                } else if self.partition.objective == Objective::Memory {
                    arena.saturating_sub((ram as f64 * WORTH_PATCHING) as u64)
                } else {
                    break;
                };
                // For memory as the objective the least is wanted, not just enough.
                let limit = if over > 0 { enough } else { 0 };
                if !self.patch_once(index, limit, enough, cluster)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the patches that bring one device's arena to `limit` bytes, or nearest to it and at most to `enough`; says
    /// whether there are any that save something. Too large an arena is better than one still larger.
    fn patch_once(&mut self, index: usize, limit: u64, enough: u64, cluster: &Cluster) -> Result<bool, Failure> {
        let device = self.schedules[index].device;
        let mut best: Option<(Sharded, Vec<Schedule>, Program, PatchReport)> = None;
        let whole_bytes = patches::whole_bytes(&self.sharded, &self.schedules[index]) as f64;
        let scale = whole_bytes / self.programs[index].arena_bytes.max(1) as f64;
        for room in PATCH_ROOM {
            let room_bytes = (limit as f64 * scale * room) as u64;
            let Some(patch) = patches::find(&self.sharded, &self.schedules[index], room_bytes) else { break };
            let name = |node| self.sharded.graph.node(node).name.clone();
            let report = PatchReport {
                device: cluster.devices[device].name.clone(),
                nodes: (name(patch.nodes[0]), name(patch.nodes[patch.nodes.len() - 1])),
                tiles: patch.tiles.len(),
                macs: patch.macs,
            };
            let mut sharded = self.sharded.clone();
            patches::apply(&mut sharded, &patch).map_err(internal)?;
            let schedules = schedules(&sharded, cluster)?;
            let program = lower(&sharded, &schedules[index], cluster, Like::default())?;
            let arena_bytes = program.arena_bytes;
            if best.as_ref().is_none_or(|(_, _, known, _)| arena_bytes < known.arena_bytes) {
                best = Some((sharded, schedules, program, report));
            }
            if arena_bytes as u64 <= limit || limit == 0 {
                break;
            }
        }
        let saves = |program: &Program| {
            let arena = program.arena_bytes as u64;
            if limit == 0 { arena <= enough } else { program.arena_bytes < self.programs[index].arena_bytes }
        };
        let Some((sharded, schedules, program, report)) = best.filter(|(_, _, program, _)| saves(program)) else {
            return Ok(false);
        };
        self.sharded = sharded;
        self.schedules = schedules;
        self.programs[index] = program;
        self.patches.push(report);
        Ok(true)
    }
}

/// Says which device's memory is too small for the plan, and by how much.
fn does_not_fit(placed: &Placed, excess: &[u64], cluster: &Cluster) -> Diagnostic {
    let mut diagnostic = Diagnostic::new("E0170", "the plan does not fit the devices' memories");
    for program in &placed.programs {
        let device = &cluster.devices[program.device];
        if excess[program.device] > 0 {
            diagnostic = diagnostic.note(format!(
                "device `{}` needs {} for weights and {} of working memory, {} more than it has",
                device.name,
                size(program.weights_bytes as u64),
                size(program.arena_bytes as u64),
                size(excess[program.device])
            ));
        }
    }
    diagnostic.help("more RAM or flash, a further device, or another --strategy would help")
}

fn partition_failure(error: partition::PartitionError) -> Failure {
    match error {
        partition::PartitionError::Infeasible(diagnostic) => Failure::Infeasible(diagnostic),
    }
}

fn lower_failure(error: program::lower::LowerError) -> Failure {
    match error {
        program::lower::LowerError::NoReference { .. } => {
            Failure::Input(vec![Diagnostic::new("E0141", error.to_string())])
        }
        other => internal(other),
    }
}
