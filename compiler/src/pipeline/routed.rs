//! Programs of the whole network and of smaller routes over its weights.

use std::path::Path;

use partita_learn::host::{Host, Runner};

use super::planned::Planned;
use crate::config::Cluster;
use crate::emit::family::Family as Choices;
use crate::graph::Graph;
use crate::options::Options;
use crate::placement::survival::{self, Survivable, Survival};
use crate::placement::{Failure, Placed, Route};
use crate::simulate::Prediction;
use crate::variants::family::{Base, Family};
use crate::variants::report::VariantsReport;
use crate::variants::{Study, routes};

/// All that devices can compute.
#[derive(Debug)]
pub struct Routed {
    /// The whole network; its programs share their weights with those of routes.
    pub placed: Placed,
    /// What will happen where the whole network is taken.
    pub prediction: Prediction,
    /// Smaller routes over the same weights.
    pub routes: Vec<Route>,
    /// When each route is taken, if there are several; the first is the whole network.
    pub choices: Option<Choices>,
    /// What happens when a device is lost, if that was asked for.
    pub survival: Option<Survival>,
    /// What is known of variants, if they were asked for.
    pub variants: Option<VariantsReport>,
    /// The network of each variant, in the order of the report; the first is the whole one.
    pub variant_graphs: Vec<Graph>,
}

impl Routed {
    /// The whole network alone.
    pub fn alone(planned: Planned) -> Routed {
        let Planned { placed, prediction } = planned;
        Routed {
            placed,
            prediction,
            routes: Vec::new(),
            choices: None,
            survival: None,
            variants: None,
            variant_graphs: Vec::new(),
        }
    }

    /// With routes for the loss of any one device, where the cluster file wants to survive that.
    ///
    /// Errors: E0183.
    pub fn surviving(planned: Planned, graph: &Graph, cluster: &Cluster, options: &Options) -> Result<Routed, Failure> {
        if !cluster.survives {
            return Ok(Routed::alone(planned));
        }
        let Planned { placed, prediction } = planned;
        let found = survival::survivable(graph, cluster, placed, prediction.latency_ms, &options.placement())?;
        let Survivable { placed, routes, choices, survival } = found;
        let alone = Routed::alone(Planned { placed, prediction });
        Ok(Routed { routes, choices, survival: Some(survival), ..alone })
    }

    /// With the routes that situations ask for.
    pub fn of(
        planned: Planned,
        study: Study,
        graph: &Graph,
        cluster: &Cluster,
        options: &Options,
        host: &dyn Host,
    ) -> Result<Routed, Failure> {
        let Planned { placed, prediction } = planned;
        let max_latency_ms = cluster.max_latency_ms.or(options.max_latency_ms);
        let cache = options.variants.as_ref().map_or(Path::new(""), |variants| &variants.cache);
        let wanted = routes::Wanted { mapping: &options.placement(), max_latency_ms };
        let base = Base { graph, cluster, placed };
        let Family { placed, routes, choices, report, graphs } =
            routes::add(base, study, wanted, Runner { host, cache })?;
        let alone = Routed::alone(Planned { placed, prediction });
        Ok(Routed { routes, choices, variants: Some(report), variant_graphs: graphs, ..alone })
    }
}
