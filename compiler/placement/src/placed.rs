//! A partition carried out as far as memory: sharded, scheduled, proven, lowered, its memory planned and checked.

use partita_config::{Cluster, Settings, System};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::Graph;
use partita_ir::parallel;
use partita_plan::partition::{Partition, limits};
use partita_plan::schedule::{self, Schedule};
use partita_plan::shard::patches::{self, PatchReport};
use partita_plan::shard::{self, Sharded};
use partita_program::memory;
use partita_program::program::lower::Like;
use partita_program::program::{self, Program};

use crate::clock::Clock;
use crate::failure::{Failure, internal};

/// What a process needs of the flash beside its weights; where that is scarce, weights are kept small.
const PROCESS_CODE_BYTES: u64 = 768 << 10;

/// A partition carried out as far as memory.
#[derive(Debug)]
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
    let of_device = |at: usize| lower(&sharded, &schedules[at], cluster, like(&schedules[at]));
    let programs = parallel::map(schedules.len(), of_device).into_iter().collect::<Result<_, _>>()?;
    clock.lap("lower");
    Ok(Placed { partition, sharded, schedules, programs, patches: Vec::new() })
}

/// Schedules, proven.
pub(crate) fn schedules(sharded: &Sharded, cluster: &Cluster) -> Result<Vec<Schedule>, Failure> {
    let schedules = schedule::build(sharded, cluster).map_err(internal)?;
    schedule::check::check(&sharded.graph, &schedules, cluster).map_err(internal)?;
    Ok(schedules)
}

/// The program of one device, its memory planned and checked. Where Winograd's algorithm takes more memory than there is, it
/// is done without.
pub(crate) fn lower(
    sharded: &Sharded,
    schedule: &Schedule,
    cluster: &Cluster,
    like: Like<'_>,
) -> Result<Program, Failure> {
    let device = &cluster.devices[schedule.device];
    let planned = |settings: &Settings| {
        let mut program =
            program::lower::lower(&sharded.graph, schedule, (&device.target, settings), like).map_err(lower_failure)?;
        memory::plan(&mut program, memory::ALIGNMENT_BYTES);
        memory::check(&program).map_err(internal)?;
        Ok(program)
    };
    let program = planned(&device.settings)?;
    let too_large = ram_bytes(&program, cluster) > limits::ram_bytes(device)
        || program.weights_bytes as u64 + PROCESS_CODE_BYTES > limits::flash_bytes(device);
    if too_large && device.allows_winograd() {
        return planned(&Settings { winograd: false, ..device.settings.clone() });
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
    let beside = match cluster.devices[program.device].target.system {
        System::Linux => program.weights_bytes as u64,
        System::CortexM => limits::firmware_bytes(program.peers().len(), program.input_region().1),
    };
    program.arena_bytes as u64 + beside
}

impl Placed {
    /// Lets a device take part that has nothing to do in this plan, but in another that stands beside it.
    pub fn call(&mut self, device: usize) {
        if let Err(at) = self.programs.binary_search_by_key(&device, |program| program.device) {
            self.programs.insert(at, Program { device, ..Program::default() });
            self.schedules.insert(at, Schedule { device, actions: Vec::new() });
        }
    }

    /// Bytes by which each device's memory is too small.
    pub(crate) fn excess_bytes(&self, cluster: &Cluster) -> Vec<u64> {
        let mut excess = vec![0; cluster.devices.len()];
        for program in &self.programs {
            let device = &cluster.devices[program.device];
            let ram = ram_bytes(program, cluster).saturating_sub(limits::ram_bytes(device));
            let flash = (program.weights_bytes as u64).saturating_sub(limits::flash_bytes(device));
            excess[program.device] = ram.max(flash);
        }
        excess
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
