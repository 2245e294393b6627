//! The network with its plan: who computes what, and what travels in fewer bytes.

use super::taught::Taught;
use crate::config::Cluster;
use crate::links::{self, Chosen};
use crate::options::Options;
use crate::partition::Objective;
use crate::partition::encodings::Encodings;
use crate::placement::{self, Carried, Clock, Failure, Placed, PlacementOptions, Prospect, plan_file};

/// A network, and its plan carried out.
pub struct Linked {
    /// The network; what travels in fewer bytes is rounded first.
    pub taught: Taught,
    /// The plan.
    pub placed: Placed,
}

impl Linked {
    /// The best plan, with links that send fewer bytes where that is better and changes no answer by more than is allowed;
    /// or what an earlier plan says. Of several routes all send every number as it is.
    ///
    /// Errors: E0170 and others where no plan keeps the limits, E0175 of an earlier plan, E0190 of calibration samples.
    pub fn of(
        taught: Taught,
        cluster: &Cluster,
        options: &Options,
        has_routes: bool,
        clock: &mut Clock,
    ) -> Result<Linked, Failure> {
        let limits = [options.max_latency_ms, cluster.max_latency_ms].into_iter().flatten();
        let mapping = PlacementOptions { max_latency_ms: limits.reduce(f64::min), ..options.placement() };
        if let Some(path) = &options.plan {
            let encodings = plan_file::read_encodings(path, &taught.graph)?;
            let (graph, _) = crate::shard::rounded(&taught.graph, &encodings);
            let placed = placement::fit(&graph, cluster, &mapping, clock)?;
            if encodings.is_empty() {
                return Ok(Linked { taught, placed });
            }
            let report = links::measured(&taught.graph, &graph, &encodings)?;
            clock.lap("link error");
            return Ok(Linked { taught: Taught { graph, links: Some(report), ..taught }, placed });
        }
        if has_routes || taught.exits.is_some() || mapping.objective == Objective::Memory {
            let placed = placement::fit(&taught.graph, cluster, &mapping, clock)?;
            return Ok(Linked { taught, placed });
        }
        let mut exact = Prospect::asked(&taught.graph, cluster, &mapping, Encodings::default(), clock);
        let (graph, links) = (&taught.graph, &options.links);
        let chosen = match &mut exact {
            Ok(exact) => links::choose(graph, cluster, &mapping, links, exact, clock)?,
            Err(_) => Chosen::default(),
        };
        let (taught, mut placed) = match chosen.encoded {
            Some((Carried { placed, encoded: Some(encoded), .. }, report)) => {
                (Taught { graph: encoded.graph, links: Some(report), ..taught }, placed)
            }
            _ => {
                let placed = placement::fit_known(exact, graph, cluster, &mapping, clock)?;
                (taught, placed)
            }
        };
        placed.partition.single_device_ms = chosen.single_device_ms.or(placed.partition.single_device_ms);
        Ok(Linked { taught, placed })
    }
}
