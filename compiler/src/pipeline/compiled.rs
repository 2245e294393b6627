//! Everything decided about one model on one cluster, ready to be written out.

use std::collections::BTreeMap;

use super::advised::Change;
use super::routed::Routed;
use super::targets::Targets;
use super::taught::Taught;
use crate::config::Cluster;
use crate::config::learned::Learned;
use crate::diagnostic::Diagnostic;
use crate::emit::model::{ModelContext, RouteContext};
use crate::exits::ExitsReport;
use crate::graph::Graph;
use crate::links::{EncodedTensor, LinksReport};
use crate::options::Options;
use crate::partition::{Objective, StrategyFamily, node_macs};
use crate::passes::store_weights::Stored;
use crate::placement::routes::link_routes;
use crate::placement::{Clock, Route, plan_file};
use crate::program::Program;
use crate::quantize::report::QuantizationReport;
use crate::shard::Sharded;

/// A compiled model: what the stages have made, put together once.
#[derive(Debug)]
pub struct Compiled {
    /// File name of the model without extension.
    pub model_name: String,
    /// The network as it is placed.
    pub graph: Graph,
    /// What is known of its quantization, if calibration samples have made whole numbers of it.
    pub quantization: Option<QuantizationReport>,
    /// Matrix products whose weights are stored in fewer bytes.
    pub stored: Vec<Stored>,
    /// What is known of its exits, if it has been given any.
    pub exits: Option<ExitsReport>,
    /// What is known of its links, if they send fewer bytes.
    pub links: Option<LinksReport>,
    /// The cluster.
    pub cluster: Cluster,
    /// Measurements and records that corrected it.
    pub learned: Vec<Learned>,
    /// What was minimised.
    pub objective: Objective,
    /// Family of strategies that was allowed.
    pub family: StrategyFamily,
    /// Samples that are answered together.
    pub batch: usize,
    /// Programs and what they will take: of the whole network, and of smaller routes over its weights.
    pub routed: Routed,
    /// What would be predicted of clusters that differ in one thing, if that was asked for.
    pub changes: Option<Vec<Change>>,
    /// The plan file.
    pub plan_bytes: Vec<u8>,
    /// First eight bytes of the plan's digest.
    pub plan_hash: u64,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
    /// Time of each stage in ms, by name.
    pub times_ms: BTreeMap<String, f64>,
}

impl Compiled {
    /// Puts together what the stages have made, and writes the plan file of it.
    pub fn of(taught: Taught, targets: Targets, routed: Routed, options: &Options, mut clock: Clock) -> Compiled {
        let Taught { name, graph, quantization, stored, exits, links, warnings } = taught;
        let Targets { cluster, learned, objective } = targets;
        clock.restart();
        let encoded = |it: &EncodedTensor| (it.tensor.clone(), it.how);
        let encodings: Vec<_> = links.iter().flat_map(|links| &links.tensors).map(encoded).collect();
        let plan_bytes = plan_file::write(&plan_file::Decided {
            graph: &graph,
            cluster: &cluster,
            partition: &routed.placed.partition,
            prediction: &routed.prediction,
            programs: &routed.placed.programs,
            routes: &routed.routes,
            conditions: routed.choices.as_ref().map_or(&[], |choices| &choices.conditions),
            encodings: &encodings,
        });
        clock.lap("plan");
        Compiled {
            model_name: name,
            graph,
            quantization,
            stored,
            exits,
            links,
            cluster,
            learned,
            objective,
            family: options.family,
            batch: options.batch,
            routed,
            changes: None,
            plan_hash: plan_file::plan_hash(&plan_bytes),
            plan_bytes,
            warnings,
            times_ms: clock.into_times_ms(),
        }
    }

    /// As a route of another network.
    pub fn into_route(self, name: String) -> Route {
        Route::of(name, self.graph, self.routed.placed)
    }

    /// With routes whose programs stand in the order of this one's; all programs of a device then share their weights.
    /// Whoever feeds inputs says which route is taken; the plan file knows nothing of them.
    pub fn with_routes(mut self, mut routes: Vec<Route>) -> Compiled {
        let choices = link_routes(&mut self.routed.placed.programs, &mut routes, &self.cluster);
        self.routed = Routed { routes, choices, ..self.routed };
        self
    }

    /// Programs of the device at this position among those of the whole network, one per route.
    pub fn device_programs(&self, position: usize) -> Vec<&Program> {
        let further = self.routed.routes.iter().map(|route| &route.programs[position]);
        std::iter::once(&self.routed.placed.programs[position]).chain(further).collect()
    }

    /// Multiply-adds of each device of the cluster.
    pub fn device_macs(&self) -> Vec<u64> {
        device_macs(&self.routed.placed.sharded, &self.cluster)
    }

    /// What emitted text needs to know.
    pub fn model_context(&self) -> ModelContext<'_> {
        let whole = RouteContext {
            name: "the whole network",
            graph: &self.graph,
            macs: self.device_macs(),
            programs: &self.routed.placed.programs,
        };
        let further = self.routed.routes.iter().map(|route| RouteContext {
            name: &route.name,
            graph: &route.graph,
            macs: device_macs(&route.sharded, &self.cluster),
            programs: &route.programs,
        });
        ModelContext {
            routes: std::iter::once(whole).chain(further).collect(),
            family: self.routed.choices.as_ref(),
            cluster: &self.cluster,
            model: &self.model_name,
            plan_hash: self.plan_hash,
        }
    }
}

fn device_macs(sharded: &Sharded, cluster: &Cluster) -> Vec<u64> {
    let mut macs = vec![0; cluster.devices.len()];
    for (node, device) in &sharded.devices {
        macs[*device] += node_macs(&sharded.graph, *node);
    }
    macs
}
