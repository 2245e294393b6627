//! Links that send fewer bytes: which tensors travel encoded is the planner's choice, how much that may change an answer is
//! measured here.
//!
//! What travels is rounded where it is made, for everybody (`plan::shard::encoded`), so the error is one of the network and not
//! of who computes what: [`choose`] runs the network with and without, on calibration samples or on seeded noise (`study`), and
//! gives tensors back two bytes, or their `f32`, until no answer differs by more than is allowed. Ranges, which bytes need, are
//! learned from samples only: noise says nothing of them.

mod products;
mod study;

use std::path::PathBuf;

use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_placement::score::Figures;
use partita_placement::{Carried, Clock, Failure, PlacementOptions, Prospect, Verdict};
use partita_plan::partition::encodings::{Encoding, Encodings};
use partita_plan::partition::{Objective, StrategyFamily};
use serde::Serialize;

use self::study::Study;
use crate::samples::Preparation;

/// How much the links may change an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LinkError {
    /// Not at all: every number travels as it is.
    Exact,
    /// By this share of the answer's largest element.
    AtMost(f32),
}

/// The limit unless another is given.
pub const DEFAULT: LinkError = LinkError::AtMost(1e-3);

impl LinkError {
    /// Reads `exact`, or a share above 0.
    pub fn parse(text: &str) -> Result<LinkError, String> {
        match text.parse::<f32>() {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(LinkError::AtMost(share)),
            _ if text == "exact" => Ok(LinkError::Exact),
            _ => {
                Err("expected `exact`, or a share of the answer's largest element between 0 and 1, such as 1e-3".into())
            }
        }
    }
}

/// What is wanted of links.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// How much they may change an answer.
    pub error: LinkError,
    /// What it is measured on; seeded noise if there are none.
    pub calibration: Option<PathBuf>,
    /// How these data lie in their file.
    pub preparation: Preparation,
}

impl LinkOptions {
    /// Every number travels as it is.
    pub fn exact() -> LinkOptions {
        LinkOptions { error: LinkError::Exact, calibration: None, preparation: Preparation::default() }
    }
}

/// What is known of links that send fewer bytes.
#[derive(Clone, Debug, Serialize)]
pub struct LinksReport {
    /// Largest change of an answer that is allowed, as a share of its largest element; none where an earlier plan is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f32>,
    /// Largest change that was measured.
    pub error: f32,
    /// On what: `calibration` samples or `noise`.
    pub measured_on: &'static str,
    /// How many inputs were tried.
    pub samples: usize,
    /// What travels in fewer bytes.
    pub tensors: Vec<EncodedTensor>,
    /// Predicted latency of the best plan whose links send every number as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_latency_ms: Option<f64>,
    /// What that plan sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_traffic_bytes: Option<u64>,
}

/// A tensor that travels in fewer bytes.
#[derive(Clone, Debug, Serialize)]
pub struct EncodedTensor {
    /// Its name.
    pub tensor: String,
    /// What stands for an element on links: `f16` or `int8`.
    pub encoding: &'static str,
    /// With `int8`: all elements are multiples of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f32>,
    /// The same in full.
    #[serde(skip)]
    pub how: Encoding,
    /// Its elements.
    pub elements: usize,
}

/// From this limit on bytes are tried; below it there is no room for more than a few of them.
const BYTES_FROM: f32 = 3e-3;

/// What links that send fewer bytes come to.
#[derive(Default)]
pub struct Chosen {
    /// The best plan whose links do so and change no answer by more than is allowed, carried out; none if no such plan is
    /// better than the best plan without.
    pub encoded: Option<(Carried, LinksReport)>,
    /// The time of the fastest device by itself, whose input and answer may travel so, too: the same whatever strategy is
    /// asked for. None if no device can do it alone.
    pub single_device_ms: Option<f64>,
}

/// Looks for plans whose links send fewer bytes; `exact` are those whose links send every number as it is.
///
/// Errors: E0190 if the calibration samples do not fit the model.
pub fn choose(
    graph: &Graph,
    cluster: &Cluster,
    mapping: &PlacementOptions,
    wanted: &LinkOptions,
    exact: &mut Prospect<'_>,
    clock: &mut Clock,
) -> Result<Chosen, Failure> {
    let mut search = Search { graph, cluster, wanted, study: None };
    let single_device_ms = search.single_device_ms(exact, clock)?;
    Ok(Chosen { encoded: search.best(mapping, exact, clock)?, single_device_ms })
}

/// What is asked, and what was learned on the way.
struct Search<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    wanted: &'a LinkOptions,
    study: Option<Study>,
}

/// A plan that is better with links that send fewer bytes, not yet carried out.
struct Better<'a> {
    prospect: Prospect<'a>,
    encodings: Encodings,
    /// How much it changes an answer, and how much it may.
    error: f32,
    limit: f32,
}

impl<'a> Search<'a> {
    fn best(
        &mut self,
        mapping: &PlacementOptions,
        exact: &mut Prospect<'_>,
        clock: &mut Clock,
    ) -> Result<Option<(Carried, LinksReport)>, Failure> {
        let Some(without) = exact.figures() else { return Ok(None) };
        // No plan at all would be better.
        if mapping.objective == Objective::Latency && exact.lower_bound_ms() >= without.latency_ms {
            return Ok(None);
        }
        let Some(better) = self.better(mapping, without, clock)? else { return Ok(None) };
        exact.overlap(clock);
        let without = exact.figures().unwrap_or(without);
        let carried = match better.prospect.carry_out(clock) {
            Ok(carried) => carried,
            Err(Failure::Infeasible(_)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // It is another plan, or a slower one, where the best did not fit as it was.
        let is_as_measured = carried.encoded.as_ref().is_some_and(|it| it.encodings == better.encodings);
        let rank = |figures: Figures| figures.rank(mapping.objective, mapping.max_latency_ms);
        if !is_as_measured || rank(carried.figures) >= rank(without) {
            return Ok(None);
        }
        let report = self.study.as_ref().map(|study| study.report(self.graph, &better.encodings, better.error));
        let complete = |report| LinksReport {
            limit: Some(better.limit),
            exact_latency_ms: Some(without.latency_ms),
            exact_traffic_bytes: Some(without.traffic_bytes.round() as u64),
            ..report
        };
        Ok(report.map(|report| (carried, complete(report))))
    }

    fn single_device_ms(&mut self, exact: &Prospect<'_>, clock: &mut Clock) -> Result<Option<f64>, Failure> {
        let Some(single) = exact.single() else { return Ok(None) };
        // Elsewhere the same would have to travel, too.
        let first = &self.cluster.devices[self.cluster.input];
        let alike = self.cluster.devices.iter().all(|device| device.computes_like(first));
        if single.traffic_bytes == 0.0 && alike {
            return Ok(Some(single.latency_ms));
        }
        let alone = PlacementOptions { family: StrategyFamily::Whole, ..PlacementOptions::default() };
        let better = self.better(&alone, single, clock)?;
        Ok(better.and_then(|better| better.prospect.figures()).or(Some(single)).map(|figures| figures.latency_ms))
    }

    /// The best plan whose links change no answer by more than is allowed, if it is better than what plans without come to.
    ///
    /// Every plan that competes is looked at with what it may send, the best first. So a further device makes no plan worse,
    /// and neither does a looser limit.
    fn better(
        &mut self,
        mapping: &PlacementOptions,
        without: Figures,
        clock: &mut Clock,
    ) -> Result<Option<Better<'a>>, Failure> {
        let (graph, cluster) = (self.graph, self.cluster);
        let LinkError::AtMost(limit) = self.wanted.error else { return Ok(None) };
        if why_exact(graph, cluster).is_some() {
            return Ok(None);
        }
        // Ranges first: of a plan that sends what cannot travel so, nothing would be worth knowing.
        let study = match &mut self.study {
            Some(study) => study,
            None => self.study.insert(Study::of(graph, self.wanted)?),
        };
        clock.lap("link error");
        let halves = study.offers(graph, false);
        let bytes = study.offers(graph, limit >= BYTES_FROM);
        let mut offers = vec![halves];
        if bytes != offers[0] {
            offers.insert(0, bytes);
        }
        let mut best: Option<Better<'a>> = None;
        let rank = |figures: Figures| figures.rank(mapping.objective, mapping.max_latency_ms);
        let mut least = rank(without);
        for offered in offers {
            let mut prospect = match Prospect::asked(graph, cluster, mapping, offered, clock) {
                Ok(prospect) => prospect,
                Err(Failure::Infeasible(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            };
            prospect.overlap(clock);
            if prospect.figures().is_none_or(|figures| rank(figures) >= least) {
                continue;
            }
            let found = prospect.judge(&mut |encoded, first, weakened| {
                let known = study.error_within(encoded, limit)?;
                if known <= limit {
                    return Ok(Verdict::Kept);
                }
                Ok(Verdict::Weaker(study.weaker_by(graph, encoded, first, limit, weakened)?))
            })?;
            clock.lap("link error");
            let Some(encoded) = prospect.encoded().filter(|_| found) else { continue };
            let Some(figures) = prospect.figures().filter(|figures| rank(*figures) < least) else { continue };
            let error = study.error_within(&encoded, f32::INFINITY)?;
            least = rank(figures);
            best = Some(Better { prospect, encodings: encoded.encodings, error, limit });
        }
        Ok(best)
    }
}

/// What an earlier plan's encodings change, measured again.
pub fn measured(graph: &Graph, encoded: &Graph, encodings: &Encodings) -> Result<LinksReport, Failure> {
    let study = Study::of(graph, &LinkOptions::exact())?;
    let error = study.error(encoded)?;
    Ok(study.report(graph, encodings, error))
}

/// Why no limit makes the links of a network send fewer bytes; none where one may.
pub fn why_exact(graph: &Graph, cluster: &Cluster) -> Option<&'static str> {
    if cluster.devices.len() < 2 {
        return Some("one device has nobody to send to");
    }
    // They travel in as few bytes as they can, exactly.
    let is_narrow = |tensor| graph.stored(tensor).element != graph.tensor_type(tensor).element;
    if graph.tensor_ids().any(|tensor| graph.tensor(tensor).producer.is_some() && is_narrow(tensor)) {
        return Some("the network computes in whole numbers, which travel as they are");
    }
    (!study::is_affordable(graph))
        .then_some("the network is too large to be computed here, so nothing would be measured")
}
