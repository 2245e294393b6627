//! Patch by patch where whole activations are too large for a device.

use partita_config::Cluster;
use partita_plan::partition::{Objective, limits};
use partita_plan::schedule::Schedule;
use partita_plan::shard::Sharded;
use partita_plan::shard::patches::{self, PatchReport};
use partita_program::program::Program;
use partita_program::program::lower::Like;

use crate::failure::{Failure, internal};
use crate::placed::{Placed, lower, ram_bytes, schedules};

/// Shares of the room that tensors may take by their sizes: what a program really needs is known only afterwards.
const PATCH_ROOM: [f64; 4] = [1.0, 0.85, 0.7, 0.5];

/// With memory as the objective, what patches must save of a device's RAM to be worth their recomputation.
const WORTH_PATCHING: f64 = 0.05;

/// Runs of one device that may be computed patch by patch.
const MAX_PATCHES: usize = 3;

impl Placed {
    /// Computes patch by patch on devices whose RAM is too small for whole activations, and, if memory is the
    /// objective, wherever it saves enough.
    pub(crate) fn patch(&mut self, cluster: &Cluster) -> Result<(), Failure> {
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
