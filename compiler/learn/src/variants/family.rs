//! The whole network with the routes over its weights.

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_placement::{Placed, Route};
use partita_program::emit::family::Family as Choices;

use super::report::VariantsReport;

/// The whole network on its cluster, before it has routes.
pub struct Base<'a> {
    /// The network.
    pub graph: &'a Graph,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Who computes what, and how.
    pub placed: Placed,
}

/// The whole network and smaller routes over its weights.
pub struct Family {
    /// The whole network; its programs share their weights with those of routes.
    pub placed: Placed,
    /// Smaller routes over the same weights.
    pub routes: Vec<Route>,
    /// When each route is taken, if there are any; the first is the whole network.
    pub choices: Option<Choices>,
    /// What is known of variants.
    pub report: VariantsReport,
    /// The network of each variant, in the order of the report; the first is the whole one.
    pub graphs: Vec<Graph>,
}
