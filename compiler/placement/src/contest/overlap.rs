//! Tensors that travel while devices compute: which plans gain by it, what is computed in pieces for its sake, and how much more
//! of the first nodes the device with the input computes while it gives the others theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Breadth, Contender, Contest, working_devices};
use crate::score::Figures;
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, NodeId};
use partita_ir::parallel;
use partita_plan::partition::arrival::Arrival;
use partita_plan::partition::{Objective, Overlap, Partition, StrategyFamily};
use partita_plan::shard::pieces;

/// Plans for every part of a cluster of which other shares and pieces are tried.
const SEARCHED: usize = 2;

/// Plans that take longer than the best by more than this are not: overlapping never saves as much.
const WORTH_OVERLAPPING: f64 = 1.5;

/// Pieces into which a part is cut that others need as a whole: these are tried for all nodes at once, the first of them also for
/// groups of nodes.
const COUNTS: [usize; 2] = [2, 4];

/// How many times as many rows as its speed asks for the device with the input makes of the first nodes: tried at every place.
const FAVOUR: f64 = 2.5;

/// Places at which other shares are tried, and by what they differ from the last ones.
const PLACES: usize = 2;
const STEPS: [f64; 3] = [1.6, 1.25, 1.1];

/// Groups of nodes that are cut into pieces, or not, together.
const GROUPS: usize = 4;

/// Parts of nodes that are priced for one plan at most: a large cluster's are tried in fewer ways.
const EFFORT: usize = 20_000;

impl Contest<'_> {
    /// Lets the good plans compete once more, with tensors that travel while devices compute, and the best for every part of the
    /// cluster with other shares and pieces.
    pub fn overlap(&mut self) {
        let objective = self.wanted.objective;
        let latency_counts = match objective {
            Objective::Latency | Objective::Throughput => true,
            Objective::Weighted(weights) => weights.latency > 0.0,
            Objective::Memory | Objective::Traffic | Objective::Energy => false,
        };
        let latency_counts = latency_counts || self.wanted.max_latency_ms.is_some();
        if std::mem::replace(&mut self.overlapped, true) || self.breadth == Breadth::Few || !latency_counts {
            return;
        }
        let price = |contender: &Contender| contender.figures.price(objective);
        let limit = self.contenders.iter().map(price).fold(f64::INFINITY, f64::min) * WORTH_OVERLAPPING;
        // Which of them are in time is not known yet.
        let all_are = self.wanted.max_latency_ms.is_some();
        let worth = |contender: &&Contender| (all_are || price(contender) <= limit) && self.are_served(contender);
        let plans: Vec<Contender> = self.contenders.iter().filter(worth).cloned().collect();
        let mut by_part: BTreeMap<BTreeSet<usize>, Vec<Contender>> = BTreeMap::new();
        let overlapped = parallel::map(plans.len(), |at| {
            let partition = Partition { overlap: Some(Overlap::default()), ..plans[at].partition.clone() };
            let figures = Figures::of_encoded(self.graph, self.cluster, &partition, &self.wanted)?;
            Some((partition, figures))
        });
        for (plan, overlapped) in plans.into_iter().zip(overlapped) {
            let Some((partition, figures)) = overlapped else { continue };
            let rank = (self.rank(&figures), plan.rank.1);
            let overlapped = Contender { partition, figures, rank, ..plan };
            // What is tried of devices that carry out a plan must not depend on who else there is.
            if overlapped.common {
                by_part.entry(working_devices(&overlapped.partition)).or_default().push(overlapped.clone());
            }
            self.contenders.push(overlapped);
        }
        // Plans of one family keep to its strategies. So what all strategies come to is no worse than what one family does.
        if self.wanted.family != StrategyFamily::Auto {
            return;
        }
        let mut parts: Vec<Vec<Contender>> = by_part.into_values().collect();
        for of_part in &mut parts {
            of_part.sort_by_key(|plan| plan.rank);
            // Plans that come to the same are each other's mirror images, mostly.
            of_part.dedup_by_key(|plan| plan.rank.0);
            of_part.truncate(SEARCHED);
        }
        let found = parallel::map(parts.len(), |at| self.searched(&parts[at]));
        self.count += found.iter().flatten().count();
        self.contenders.extend(found.into_iter().flatten());
    }

    /// Whether several of the devices that carry out a plan have a thread for their links beside the one that computes.
    fn are_served(&self, contender: &Contender) -> bool {
        let linux = |device: &&usize| self.cluster.devices[**device].target.system == System::Linux;
        working_devices(&contender.partition).iter().filter(linux).count() > 1
    }

    /// The best that overlaps in some plans for one part of the cluster.
    fn searched(&self, plans: &[Contender]) -> Option<Contender> {
        let (graph, cluster, wanted) = (self.graph, self.cluster, &self.wanted);
        let price = |partition: &Partition| Figures::of_encoded(graph, cluster, partition, wanted);
        let mut search = Search { graph, cluster, objective: wanted.objective, price: &price, best: None, left: 0 };
        search.search(plans);
        let (figures, at, partition) = search.best?;
        let plan = plans[at].clone();
        let rank = (self.rank(&figures), plan.rank.1);
        Some(Contender { partition, figures, rank, ..plan })
    }
}

/// Ways to overlap that are tried, and the best of them.
struct Search<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    objective: Objective,
    price: &'a dyn Fn(&Partition) -> Option<Figures>,
    /// What it comes to, and which of the plans it comes from.
    best: Option<(Figures, usize, Partition)>,
    /// How many more may be tried.
    left: usize,
}

impl Search<'_> {
    /// What a way to carry out a plan comes to; none if it cannot be carried out, or enough were tried.
    fn consider(&mut self, at: usize, partition: Partition) -> Option<f64> {
        self.left = self.left.checked_sub(1)?;
        let figures = (self.price)(&partition)?;
        let price = figures.price(self.objective);
        if self.best.as_ref().is_none_or(|(best, ..)| price < best.price(self.objective)) {
            self.best = Some((figures, at, partition));
        }
        Some(price)
    }

    /// Begins with the best of some plans.
    fn search(&mut self, plans: &[Contender]) {
        let parts = |plan: &Contender| plan.partition.strategies.values().map(|it| it.outputs.parts().count()).sum();
        let parts: usize = plans.iter().map(parts).max().unwrap_or(0);
        self.left = EFFORT.div_ceil(parts.max(1));
        self.best = plans.first().map(|plan| (plan.figures, 0, plan.partition.clone()));
        self.favour(plans);
        self.cut();
    }

    /// Gives the device with the input more of the first nodes.
    fn favour(&mut self, plans: &[Contender]) {
        let mut found: Vec<(f64, usize, usize)> = Vec::new();
        for (at, plan) in plans.iter().enumerate() {
            let Some(arrival) = Arrival::of(self.graph, self.cluster, &plan.partition) else { continue };
            // Another plan for the same devices at the best places only.
            let places = if at == 0 { arrival.places() } else { found.iter().map(|(_, _, place)| *place).collect() };
            for place in places {
                let price = arrival.plan(place, FAVOUR).and_then(|plan| self.consider(at, plan));
                found.extend(price.map(|price| (price, at, place)));
            }
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            found.truncate(PLACES);
        }
        for (least, at, place) in found {
            if let Some(arrival) = Arrival::of(self.graph, self.cluster, &plans[at].partition) {
                self.shares(&arrival, at, place, least);
            }
        }
    }

    /// The best shares of the nodes up to a place, from those that come to a price on.
    fn shares(&mut self, arrival: &Arrival<'_>, at: usize, place: usize, mut least: f64) {
        let (mut favour, mut up) = (FAVOUR, true);
        for step in STEPS {
            // As far as it goes one way; the other way if it does not go at all.
            let mut turned = false;
            loop {
                let other = if up { favour * step } else { favour / step };
                let price = arrival.plan(place, other).and_then(|plan| self.consider(at, plan));
                match price.filter(|price| *price < least) {
                    Some(price) => (least, favour, turned) = (price, other, true),
                    None if turned => break,
                    None => (up, turned) = (!up, true),
                }
            }
        }
    }

    /// Computes nodes in pieces.
    fn cut(&mut self) {
        let (graph, cluster) = (self.graph, self.cluster);
        let Some((_, at, plan)) = self.best.clone() else { return };
        let with = |pieces: BTreeMap<NodeId, usize>| Partition { overlap: Some(Overlap { pieces }), ..plan.clone() };
        let cut = |count: usize| -> BTreeMap<NodeId, usize> {
            let can = |id: &&NodeId| pieces::turns(graph, &plan, cluster, **id, count).is_some();
            plan.strategies.keys().filter(can).map(|id| (*id, count)).collect()
        };
        for count in COUNTS {
            let pieces = cut(count);
            if !pieces.is_empty() {
                self.consider(at, with(pieces));
            }
        }
        let nodes: Vec<(NodeId, usize)> = cut(COUNTS[0]).into_iter().collect();
        for group in nodes.chunks(nodes.len().div_ceil(GROUPS).max(1)) {
            let best = self.best.as_ref().and_then(|(_, _, best)| best.overlap.clone());
            let mut pieces = best.unwrap_or_default().pieces;
            let had = pieces.len();
            group.iter().for_each(|(id, _)| pieces.retain(|other, _| other != id));
            if pieces.len() == had {
                pieces.extend(group.iter().copied());
            }
            self.consider(at, with(pieces));
        }
    }
}
