//! Several networks on the same devices, over the same weights: the whole one, and routes beside it.

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_plan::partition::Partition;
use partita_plan::shard::Sharded;
use partita_program::emit::family::Family as Choices;
use partita_program::program::{self, Program};

use crate::placed::Placed;

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
