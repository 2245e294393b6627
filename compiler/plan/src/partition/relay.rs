//! Exchanges in several steps: along a tree, around a ring, from hop to hop.
//!
//! Each function gives the shardings in between, one per step. At each step a device receives one box; from whom follows
//! from who holds it by then and is linked (`shard::pieces`), nearest successor first.

use std::collections::VecDeque;

use crate::shard::{Region, Sharding};
use partita_config::Cluster;

/// Most devices of a ring: an order of neighbours is searched for.
const MAX_RING: usize = 16;

/// A broadcast along a tree: the devices that have the box double at each step. Lasts as long as the logarithm of the
/// number of readers, where direct sends take as long as their number. `None` unless one device sends one box to all.
pub fn tree(held: &Sharding, needed: &Sharding) -> Option<Vec<Sharding>> {
    let root = held.only_device()?;
    let devices = held.0.len();
    let readers: Vec<usize> = needed.parts().map(|(device, _)| device).filter(|device| *device != root).collect();
    let region = needed.parts().map(|(_, region)| region).reduce(|a, b| a.hull(&b))?;
    if readers.len() < 3 || needed.parts().any(|(_, part)| part != region) {
        return None;
    }
    // In the cyclic order from the root, whoever receives gets it from the next one that has it: halving the distances
    // gives everybody a sender of its own.
    let mut order = vec![root];
    order.extend((1..devices).map(|offset| (root + offset) % devices).filter(|device| readers.contains(device)));
    let count = order.len();
    let mut has = vec![false; count];
    has[0] = true;
    let mut relays = Vec::new();
    let mut stride = count.next_power_of_two();
    while stride > 1 {
        stride /= 2;
        let mut regions = vec![None; devices];
        for position in (0..count).step_by(stride).filter(|position| !has[*position]) {
            regions[order[position]] = Some(region);
        }
        for position in (0..count).step_by(stride) {
            has[position] = true;
        }
        relays.push(Sharding(regions));
    }
    // The last step is the exchange that follows.
    relays.pop();
    (!relays.is_empty()).then_some(relays)
}

/// An all-gather among neighbours: around a ring each device hands on at every step what it got at the last; on an open
/// chain in both directions. `None` unless everybody who takes part needs everything.
pub fn ring(cluster: &Cluster, held: &Sharding, needed: &Sharding) -> Option<Vec<Sharding>> {
    let parts: Vec<(usize, Region)> = held.parts().collect();
    let everything = parts.iter().map(|(_, region)| *region).reduce(|a, b| a.hull(&b))?;
    let takes_part = |device: usize| needed.0[device] == Some(everything);
    if parts.len() < 3 || needed.parts().count() != parts.len() || !parts.iter().all(|(device, _)| takes_part(*device))
    {
        return None;
    }
    let devices: Vec<usize> = parts.iter().map(|(device, _)| *device).collect();
    let (order, closed) = neighbours(cluster, &devices)?;
    let count = order.len();
    let piece_at = |position: usize| held.0[order[position]];
    let step = |from: &dyn Fn(usize) -> Option<usize>| {
        let mut regions = vec![None; held.0.len()];
        for position in 0..count {
            regions[order[position]] = from(position).and_then(piece_at);
        }
        Sharding(regions)
    };
    let mut relays = Vec::new();
    for distance in 1..count {
        if closed {
            relays.push(step(&|position| Some((position + distance) % count)));
        } else {
            relays.push(step(&|position| Some(position + distance).filter(|from| *from < count)));
            relays.push(step(&|position| position.checked_sub(distance)));
        }
    }
    Some(relays)
}

/// An order in which each device is linked to the next, and whether the last is linked to the first.
fn neighbours(cluster: &Cluster, devices: &[usize]) -> Option<(Vec<usize>, bool)> {
    if devices.len() > MAX_RING {
        return None;
    }
    let linked = |a: usize, b: usize| cluster.link(a, b).is_some();
    fn extend(
        path: &mut Vec<usize>,
        devices: &[usize],
        linked: &dyn Fn(usize, usize) -> bool,
        tries: &mut u32,
    ) -> bool {
        if path.len() == devices.len() {
            return true;
        }
        let last = path[path.len() - 1];
        for next in devices.iter().filter(|next| linked(last, **next)) {
            if path.contains(next) || *tries == 0 {
                continue;
            }
            *tries -= 1;
            path.push(*next);
            if extend(path, devices, linked, tries) {
                return true;
            }
            path.pop();
        }
        false
    }
    // The ends of an open chain have the fewest neighbours.
    let degree = |device: &usize| devices.iter().filter(|other| linked(*device, **other)).count();
    let mut starts = devices.to_vec();
    starts.sort_by_key(degree);
    let mut tries = 10_000;
    starts.into_iter().find_map(|start| {
        let mut path = vec![start];
        extend(&mut path, devices, &linked, &mut tries).then(|| {
            let closed = path.len() > 2 && linked(path[path.len() - 1], start);
            (path, closed)
        })
    })
}

/// From hop to hop, one held box after the other: whatever the links are, as long as they lead there at all.
pub fn flood(cluster: &Cluster, held: &Sharding, needed: &Sharding) -> Option<Vec<Sharding>> {
    let mut relays = Vec::new();
    for (holder, box_held) in held.parts() {
        let reads = |(device, need): &(usize, Region)| {
            let has = |region: &Region| held.0[*device].is_some_and(|own| own.contains(region));
            need.intersection(&box_held).is_some_and(|shared| !has(&shared))
        };
        let mut wanted = vec![false; held.0.len()];
        for (device, _) in needed.parts().filter(reads) {
            let route = route(cluster, holder, device)?;
            // Who reads it at the end of a single hop gets it in the exchange that follows.
            route.iter().for_each(|hop| wanted[*hop] |= route.len() > 1);
        }
        let mut has = vec![false; held.0.len()];
        has[holder] = true;
        while wanted.iter().zip(&has).any(|(wanted, has)| *wanted && !has) {
            let next: Vec<usize> = (0..has.len())
                .filter(|device| wanted[*device] && !has[*device])
                .filter(|device| (0..has.len()).any(|other| has[other] && cluster.link(other, *device).is_some()))
                .collect();
            if next.is_empty() {
                return None;
            }
            let mut regions = vec![None; has.len()];
            for device in next {
                regions[device] = Some(box_held);
                has[device] = true;
            }
            relays.push(Sharding(regions));
        }
    }
    (!relays.is_empty()).then_some(relays)
}

/// The devices on a shortest way between two others, the last included, the first not; `None` if no links lead there.
pub fn route(cluster: &Cluster, from: usize, to: usize) -> Option<Vec<usize>> {
    let count = cluster.devices.len();
    let mut before = vec![usize::MAX; count];
    let mut queue = VecDeque::from([from]);
    before[from] = from;
    while let Some(device) = queue.pop_front() {
        if device == to {
            break;
        }
        for (next, before) in before.iter_mut().enumerate() {
            if *before == usize::MAX && cluster.link(device, next).is_some() {
                *before = device;
                queue.push_back(next);
            }
        }
    }
    if before[to] == usize::MAX {
        return None;
    }
    let mut route = vec![to];
    while let Some(device) = route.last().map(|last| before[*last]).filter(|device| *device != from) {
        route.push(device);
    }
    route.reverse();
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_doubles_the_senders_and_shares_them_out() {
        let whole = Region::whole(&[1, 8]);
        for devices in 4..20 {
            for root in [0, 1, devices - 1] {
                let mut held = vec![None; devices];
                held[root] = Some(whole);
                let needed = Sharding(vec![Some(whole); devices]);
                let relays = tree(&Sharding(held.clone()), &needed).expect("one device sends to all");
                let depth = devices.next_power_of_two().trailing_zeros() as usize;
                assert_eq!(relays.len() + 1, depth, "{devices} devices");
                for relay in relays.iter().chain([&needed]) {
                    let holdings: Vec<Vec<Region>> =
                        held.iter().map(|region| region.iter().copied().collect()).collect();
                    let mut sends = vec![0; devices];
                    for (device, region) in relay.parts().filter(|(device, _)| held[*device].is_none()) {
                        let pieces =
                            crate::shard::pieces(&holdings, device, &region, &|_, _| true).expect("it is held");
                        pieces.iter().for_each(|piece| sends[piece.device] += 1);
                    }
                    assert!(sends.iter().all(|count| *count <= 1), "{devices} devices from {root}: {sends:?}");
                    relay.parts().for_each(|(device, region)| held[device] = Some(region));
                }
            }
        }
    }
}
