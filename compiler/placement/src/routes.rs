//! Several networks on the same devices, over the same weights: the whole one, and routes beside it.

use std::sync::Arc;

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_plan::partition::Partition;
use partita_plan::shard::Sharded;
use partita_program::emit::family::Family as Choices;
use partita_program::program::{self, Program};

use crate::clock::Clock;
use crate::failure::Failure;
use crate::placed::{Known, Placed, place_like};

/// A smaller route through the network.
#[derive(Debug)]
pub struct Route {
    /// Name, for readers.
    pub name: String,
    /// The network that it computes.
    pub graph: Graph,
    /// Who computes what.
    pub partition: Partition,
    /// The graph of shards.
    pub sharded: Sharded,
    /// One per program of the whole network, in the same order; a device may have nothing to do.
    pub programs: Vec<Program>,
}

impl Route {
    /// A placed network as a route beside another one.
    pub fn of(name: String, graph: Graph, placed: Placed) -> Route {
        let Placed { partition, sharded, programs, .. } = placed;
        Route { name, graph, partition, sharded, programs }
    }

    /// A network placed beside the programs that devices have, whose order it keeps; devices that have nothing to do get empty
    /// programs. Weights that are in both are packed alike, and kept in memory once.
    pub fn beside(
        known: Known<'_>,
        name: String,
        graph: Graph,
        cluster: &Cluster,
        partition: Partition,
    ) -> Result<Route, Failure> {
        let mut placed = place_like(&graph, cluster, partition, known, &mut Clock::default())?;
        let mut programs = Vec::with_capacity(known.programs.len());
        for own in known.programs {
            let at = placed.programs.iter().position(|program| program.device == own.device);
            let nothing = Program { device: own.device, ..Program::default() };
            let mut program = at.map_or(nothing, |at| placed.programs.swap_remove(at));
            share_weights(&mut program, own);
            programs.push(program);
        }
        if let Some(program) = placed.programs.first() {
            let device = program.device;
            return Err(Failure::Internal(anyhow::anyhow!(
                "`{name}` gives work to device {device}, which has no program"
            )));
        }
        Ok(Route { programs, ..Route::of(name, graph, placed) })
    }
}

/// Keeps what both programs hold once in memory.
fn share_weights(program: &mut Program, known: &Program) {
    for weight in &mut program.weights {
        if let Some(same) = known.weights.iter().find(|known| known.bytes == weight.bytes) {
            weight.bytes = Arc::clone(&same.bytes);
        }
    }
}

/// Devices of a cluster that have nothing to do in these programs.
pub fn unneeded(programs: &[Program], cluster: &Cluster) -> Vec<usize> {
    let works = |device: &usize| programs.iter().any(|program| program.device == *device && !program.steps.is_empty());
    (0..cluster.devices.len()).filter(|device| !works(device)).collect()
}

/// Lets all programs of a device share their weights, those of routes with those of the whole network, whose order routes
/// keep. What is left open is when each route is taken: whoever feeds inputs says so. None if there are no routes.
pub fn link_routes(whole: &mut [Program], routes: &mut [Route], cluster: &Cluster) -> Option<Choices> {
    if routes.is_empty() {
        return None;
    }
    for (position, program) in whole.iter_mut().enumerate() {
        let further = routes.iter_mut().map(|route| &mut route.programs[position]);
        program::family::link_routes(&mut std::iter::once(program).chain(further).collect::<Vec<_>>());
    }
    let names = std::iter::once("whole").chain(routes.iter().map(|route| route.name.as_str()));
    let devices: Vec<usize> = whole.iter().map(|program| program.device).collect();
    Some(Choices::new(names.map(str::to_string).collect(), cluster, &devices))
}
