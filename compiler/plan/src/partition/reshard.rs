//! What has to travel between two shardings of a tensor, and the cheapest way for it.

use super::cost::{Flow, exchange_seconds};
use super::encodings::{TravellingElement, conversion_seconds};
use super::relay;
use crate::shard::{Region, Sharding};
use partita_config::Cluster;

/// The traffic between what devices hold and what they need.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshard {
    /// The shardings in between, one after the other, where several steps are cheaper than one or links do not lead
    /// there directly: scattered before everybody gathers, along a tree, around a ring, or over a hub.
    pub relays: Vec<Sharding>,
    /// The exchanges, one after the other.
    pub steps: Vec<Vec<Flow>>,
    /// Time of all of them.
    pub seconds: f64,
}

impl Reshard {
    /// Whether nothing has to travel.
    pub fn flows_nothing(&self) -> bool {
        self.steps.iter().all(Vec::is_empty)
    }

    /// Bytes over all links.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().flatten().map(|flow| flow.bytes).sum()
    }
}

/// The cheapest way from `held` to `needed`; `None` if no links lead there.
pub fn reshard(
    cluster: &Cluster,
    held: &Sharding,
    needed: &Sharding,
    shape: &[usize],
    element: TravellingElement,
) -> Option<Reshard> {
    let direct = flows(cluster, held, needed, element.bytes).and_then(|flows| {
        let seconds = exchange_seconds(cluster, &flows)? + ends_seconds(cluster, &flows, (held, needed), element);
        Some(Reshard { relays: Vec::new(), steps: vec![flows], seconds })
    });
    if direct.as_ref().is_some_and(|direct| direct.steps[0].is_empty()) {
        return direct;
    }
    let mut best = direct;
    for relays in routes(cluster, held, needed, shape, best.is_some()) {
        if let Some(found) = by_way_of(cluster, held, relays, needed, element)
            && best.as_ref().is_none_or(|best| found.seconds < best.seconds)
        {
            best = Some(found);
        }
    }
    best.or_else(|| by_way_of(cluster, held, relay::flood(cluster, held, needed)?, needed, element))
}

/// The exchanges through intermediate shardings; `None` if some step has no links.
fn by_way_of(
    cluster: &Cluster,
    held: &Sharding,
    relays: Vec<Sharding>,
    needed: &Sharding,
    element: TravellingElement,
) -> Option<Reshard> {
    let mut holdings: Vec<Vec<Region>> = held.0.iter().map(|region| region.iter().copied().collect()).collect();
    let mut steps = Vec::with_capacity(relays.len() + 1);
    let mut seconds = 0.0;
    for relay in &relays {
        let flows = gather(cluster, &holdings, relay, element.bytes)?;
        seconds += exchange_seconds(cluster, &flows)?;
        steps.push(flows);
        for (holdings, region) in holdings.iter_mut().zip(&relay.0) {
            holdings.extend(region);
        }
    }
    let last = gather(cluster, &holdings, needed, element.bytes)?;
    seconds += exchange_seconds(cluster, &last)?;
    // Whoever received anything on the way joins it in the end.
    let all: Vec<Flow> = steps.iter().flatten().chain(&last).copied().collect();
    seconds += ends_seconds(cluster, &all, (held, needed), element);
    steps.push(last);
    steps.retain(|step: &Vec<Flow>| !step.is_empty());
    Some(Reshard { relays, steps, seconds })
}

/// Time before the first exchange and after the last: what is encoded is rounded where it is, converted, and converted back where
/// it is wanted; what came and what was there is joined.
fn ends_seconds(
    cluster: &Cluster,
    flows: &[Flow],
    (held, needed): (&Sharding, &Sharding),
    element: TravellingElement,
) -> f64 {
    if !element.is_encoded || flows.is_empty() {
        return joining_seconds(cluster, flows, needed, element.bytes);
    }
    let joining = joining_seconds(cluster, flows, needed, size_of::<f32>() as u64);
    let seconds = |device: usize, elements: u64| conversion_seconds(&cluster.devices[device], elements);
    let slowest = |times: &mut dyn Iterator<Item = f64>| times.fold(0.0, f64::max);
    let sends = |device: usize| flows.iter().any(|flow| flow.from == device);
    let before = |(device, region): (usize, Region)| {
        let converted = if sends(device) { 2 } else { 1 };
        seconds(device, converted * region.element_count())
    };
    let came = |device: usize| {
        let bytes: u64 = flows.iter().filter(|flow| flow.to == device).map(|flow| flow.bytes).sum();
        bytes / element.bytes
    };
    let after = |(device, region): (usize, Region)| seconds(device, came(device).min(region.element_count()));
    joining + slowest(&mut held.parts().map(before)) + slowest(&mut needed.parts().map(after))
}

/// Time to put what came and what was there together: every byte of the operand is read and written once.
fn joining_seconds(cluster: &Cluster, flows: &[Flow], needed: &Sharding, element_bytes: u64) -> f64 {
    let receives = |device: usize| flows.iter().any(|flow| flow.to == device);
    let copy = |(device, region): (usize, Region)| {
        let bytes = 2 * region.element_count() * element_bytes;
        bytes as f64 / cluster.devices[device].target.rate.memory_bytes_per_second
    };
    needed.parts().filter(|(device, _)| receives(*device)).map(copy).fold(0.0, f64::max)
}

/// Sequences of shardings worth going through.
fn routes(cluster: &Cluster, held: &Sharding, needed: &Sharding, shape: &[usize], linked: bool) -> Vec<Vec<Sharding>> {
    let devices = cluster.devices.len();
    let mut found = Vec::new();
    let readers: Vec<usize> = needed.parts().map(|(device, _)| device).collect();
    let whole = Region::whole(shape);
    let copies = needed.parts().filter(|(_, region)| region.element_count() * 2 > whole.element_count()).count();
    // One device would send the same to many: it scatters, and everybody passes its part on.
    if held.parts().count() < copies && copies > 2 {
        let axis = (0..shape.len()).max_by_key(|axis| (shape[*axis].min(copies), usize::MAX - axis));
        if let Some(axis) = axis.filter(|axis| shape[*axis] >= copies) {
            let cuts = super::groups::cut(shape[axis], &vec![1.0; readers.len()], 1);
            let mut regions = vec![None; devices];
            for (reader, (begin, end)) in readers.iter().zip(cuts) {
                regions[*reader] = whole.with(axis, begin, end);
            }
            found.push(vec![Sharding(regions)]);
        }
        found.extend(relay::tree(held, needed));
    }
    if !linked {
        found.extend((0..devices).map(|hub| vec![Sharding::whole(hub, devices, shape)]));
        found.extend(relay::ring(cluster, held, needed));
    }
    found
}

/// Bytes that each device sends to each other so that all have what they need; `None` if nobody holds some of it.
pub fn flows(cluster: &Cluster, held: &Sharding, needed: &Sharding, element_bytes: u64) -> Option<Vec<Flow>> {
    let held: Vec<Vec<Region>> = held.0.iter().map(|region| region.iter().copied().collect()).collect();
    gather(cluster, &held, needed, element_bytes)
}

fn gather(cluster: &Cluster, held: &[Vec<Region>], needed: &Sharding, element_bytes: u64) -> Option<Vec<Flow>> {
    let mut found: Vec<Flow> = Vec::new();
    for (device, need) in needed.parts() {
        if held[device].iter().any(|region| region.contains(&need)) {
            continue;
        }
        for piece in crate::shard::pieces(held, device, &need, &|a, b| cluster.link(a, b).is_some())? {
            if piece.device == device {
                continue;
            }
            let bytes = piece.region.element_count() * element_bytes;
            match found.iter_mut().rfind(|flow| (flow.from, flow.to) == (piece.device, device)) {
                Some(flow) => flow.bytes += bytes,
                None => found.push(Flow { from: piece.device, to: device, bytes }),
            }
        }
    }
    Some(found)
}
