//! What has to travel between two shardings of a tensor, and the cheapest way for it.

use super::cost::{Flow, exchange_seconds};
use crate::config::Cluster;
use crate::shard::{Region, Sharding};

/// The traffic between what devices hold and what they need.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshard {
    /// The sharding in between, if two steps are cheaper than one (scatter, then gather) or if there is no direct link
    /// (everything to the hub, then out again).
    pub way: Option<Sharding>,
    /// The exchanges, one after the other.
    pub steps: Vec<Vec<Flow>>,
    /// Time of all of them.
    pub seconds: f64,
}

impl Reshard {
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
    element_bytes: u64,
) -> Option<Reshard> {
    let direct = flows(cluster, held, needed, element_bytes).and_then(|flows| {
        let seconds = exchange_seconds(cluster, &flows)? + joining_seconds(cluster, &flows, needed, element_bytes);
        Some(Reshard { way: None, steps: vec![flows], seconds })
    });
    if direct.as_ref().is_some_and(|direct| direct.steps[0].is_empty()) {
        return direct;
    }
    let mut best = direct;
    for way in ways(cluster, held, needed, shape, best.is_some()) {
        let steps =
            [flows(cluster, held, &way, element_bytes), flows_of_both(cluster, held, &way, needed, element_bytes)];
        let [Some(first), Some(second)] = steps else { continue };
        let times = [exchange_seconds(cluster, &first), exchange_seconds(cluster, &second)];
        let [Some(first_seconds), Some(second_seconds)] = times else { continue };
        let joining = joining_seconds(cluster, &second, needed, element_bytes);
        let seconds = first_seconds + second_seconds + joining;
        if best.as_ref().is_none_or(|best| seconds < best.seconds) {
            best = Some(Reshard { way: Some(way), steps: vec![first, second], seconds });
        }
    }
    best
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

/// Shardings worth going through.
fn ways(cluster: &Cluster, held: &Sharding, needed: &Sharding, shape: &[usize], linked: bool) -> Vec<Sharding> {
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
            found.push(Sharding(regions));
        }
    }
    if !linked {
        found.extend((0..devices).map(|hub| Sharding::whole(hub, devices, shape)));
    }
    found
}

/// Bytes that each device sends to each other so that all have what they need; `None` if nobody holds some of it.
pub fn flows(cluster: &Cluster, held: &Sharding, needed: &Sharding, element_bytes: u64) -> Option<Vec<Flow>> {
    let held: Vec<Vec<Region>> = held.0.iter().map(|region| region.iter().copied().collect()).collect();
    gather(cluster, &held, needed, element_bytes)
}

/// The same with two holdings per device.
fn flows_of_both(
    cluster: &Cluster,
    first: &Sharding,
    second: &Sharding,
    needed: &Sharding,
    element_bytes: u64,
) -> Option<Vec<Flow>> {
    let held: Vec<Vec<Region>> =
        first.0.iter().zip(&second.0).map(|(a, b)| a.iter().chain(b).copied().collect()).collect();
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
