//! Which parts of a cluster are asked for plans of their own.
//!
//! A device that takes part costs messages, so fewer may be quicker. Of equal devices only the number counts, and where they
//! stand among the others: parts of tensors lie in the order of devices. Where there are few sets, all are asked, so a
//! cluster never does worse than the same cluster without some of its devices; where there are more, one of each number of
//! each kind, and then the fastest devices in growing numbers, and all but one of each kind.

use std::collections::BTreeMap;

use super::device_subset;
use super::relay::route;
use partita_config::{Cluster, Link};

/// Most sets that are all asked, and of how many devices.
const ALL: (usize, usize) = (32, 9);

/// Most sets that are told apart by the order of devices, too; with more, ResNet-50 on six devices takes over 5 s to plan.
const ORDERED: usize = 16;

/// Numbers of devices that are asked in clusters with more: up to half of them, beyond that one less than all.
const SIZES: [usize; 12] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32];

/// Sets of devices, ascending, each with the devices that hold the input and want the answer and with those that links
/// lead over; the largest first. The whole cluster is not among them.
pub fn subsets(cluster: &Cluster) -> Vec<Vec<usize>> {
    let count = cluster.devices.len();
    let best = device_subset::best(cluster, device_subset::LARGEST);
    let kinds = kinds(cluster, &best);
    let ordered = if count <= ALL.1 { ordered(&kinds, [cluster.input, cluster.output]) } else { Vec::new() };
    let sets = kinds.iter().try_fold(1usize, |product, kind| product.checked_mul(kind.len() + 1));
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut add = |devices: Vec<usize>| {
        if let Some(closed) = closed(cluster, devices)
            && closed.len() < count
            && !found.contains(&closed)
        {
            found.push(closed);
        }
    };
    if count <= ALL.1 && ordered.len() <= ORDERED {
        ordered.into_iter().for_each(add);
    } else if count <= ALL.1 && sets.is_some_and(|sets| sets <= ALL.0) {
        let mut numbers = vec![0; kinds.len()];
        loop {
            add(kinds.iter().zip(&numbers).flat_map(|(kind, number)| kind[..*number].iter().copied()).collect());
            let Some(next) = (0..kinds.len()).find(|at| numbers[*at] < kinds[*at].len()) else { break };
            numbers[next] += 1;
            numbers[..next].fill(0);
        }
    } else {
        let order = by_speed(cluster, &best);
        let few = |size: &usize| *size <= ALL.1.max(order.len() / 2).min(order.len());
        SIZES.into_iter().filter(few).for_each(|size| add(order[..size].to_vec()));
        for kind in kinds.iter().filter(|_| count <= 2 * ALL.1) {
            let left_out = kind.last();
            add(best.iter().filter(|device| Some(*device) != left_out).copied().collect());
        }
    }
    found.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    found
}

/// Whether [`subsets`] are all that differ, at least in how many devices of each kind they have.
pub fn are_all(cluster: &Cluster) -> bool {
    let best = device_subset::best(cluster, device_subset::LARGEST);
    let kinds = kinds(cluster, &best);
    let sets = kinds.iter().try_fold(1usize, |product, kind| product.checked_mul(kind.len() + 1));
    cluster.devices.len() <= ALL.1
        && (sets.is_some_and(|sets| sets <= ALL.0) || ordered(&kinds, [cluster.input, cluster.output]).len() <= ORDERED)
}

/// Sets of devices, one of all that are the same kinds in the same order, the ends among them.
fn ordered(kinds: &[Vec<usize>], ends: [usize; 2]) -> Vec<Vec<usize>> {
    let mut devices: Vec<(usize, usize)> = kinds
        .iter()
        .enumerate()
        .flat_map(|(kind, devices)| devices.iter().map(move |device| (*device, kind)))
        .collect();
    devices.sort_unstable();
    let mut found: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    // Sets that take devices of low numbers come first.
    for set in 0..1usize << devices.len() {
        let taken = devices.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, device)| *device);
        let taken: Vec<(usize, usize)> = taken.collect();
        let before = |end: usize| taken.iter().filter(|(device, _)| *device < end).count();
        let order = ends.map(before).into_iter().chain(taken.iter().map(|(_, kind)| *kind)).collect();
        found.entry(order).or_insert_with(|| taken.iter().map(|(device, _)| *device).collect());
    }
    found.into_values().collect()
}

/// One of each kind of device, those at the ends included: what any device can do alone, one of these can.
pub fn representatives(cluster: &Cluster) -> Vec<usize> {
    let best = device_subset::best(cluster, device_subset::LARGEST);
    let mut found = vec![cluster.input, cluster.output];
    found.extend(kinds(cluster, &best).iter().filter_map(|kind| kind.first()));
    found.sort_unstable();
    found.dedup();
    found
}

/// The ends first, then the fastest.
fn by_speed(cluster: &Cluster, devices: &[usize]) -> Vec<usize> {
    let speed = |device: usize| cluster.devices[device].target.rate.conv_macs_per_second;
    let end = |device: usize| device == cluster.input || device == cluster.output;
    let mut order = devices.to_vec();
    order.sort_by(|a, b| end(*b).cmp(&end(*a)).then(speed(*b).total_cmp(&speed(*a))).then(a.cmp(b)));
    order
}

/// Devices that may stand for each other: of equal speed and memory, and linked alike. The ends are of no kind.
fn kinds(cluster: &Cluster, devices: &[usize]) -> Vec<Vec<usize>> {
    let link = |a: usize, b: usize| {
        let of =
            |link: &Link| (link.transport, link.bytes_per_second.to_bits(), link.latency_ms.to_bits(), link.medium);
        cluster.link(a, b).map(of)
    };
    let alike = |a: usize, b: usize| {
        let (one, other) = (&cluster.devices[a], &cluster.devices[b]);
        one.computes_like(other)
            && (one.ram_bytes, one.flash_bytes, one.standalone)
                == (other.ram_bytes, other.flash_bytes, other.standalone)
            && (0..cluster.devices.len()).all(|third| third == a || third == b || link(a, third) == link(b, third))
    };
    let mut found: Vec<Vec<usize>> = Vec::new();
    for device in devices.iter().copied().filter(|device| *device != cluster.input && *device != cluster.output) {
        match found.iter_mut().find(|kind| alike(kind[0], device)) {
            Some(kind) => kind.push(device),
            None => found.push(vec![device]),
        }
    }
    found
}

/// These devices, the ends, and the devices that lead from the input to each of them; none if no links do.
pub fn closed(cluster: &Cluster, devices: Vec<usize>) -> Option<Vec<usize>> {
    let mut all = vec![cluster.input];
    for device in devices.into_iter().chain([cluster.output]) {
        let linked = all.iter().any(|member| *member == device || cluster.link(*member, device).is_some());
        all.extend(if linked { vec![device] } else { route(cluster, cluster.input, device)? });
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_config::cluster_file;

    fn cluster(devices: &str, ends: (&str, &str), links: &str) -> Cluster {
        let (input, output) = ends;
        let text = format!("[cluster]\nname = \"t\"\ninput = \"{input}\"\noutput = \"{output}\"\n{devices}{links}");
        cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
    }

    fn device(name: &str, target: &str, count: usize) -> String {
        format!("[[device]]\nname = \"{name}\"\ntarget = \"{target}\"\ncount = {count}\n")
    }

    const SWITCH: &str = "transport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n";

    #[test]
    fn of_equal_devices_only_the_number_counts() {
        let equal = cluster(
            &device("d", "raspberry-pi-3", 8),
            ("d-0", "d-0"),
            &format!("[[link]]\nbetween = [\"d\"]\n{SWITCH}"),
        );
        let sizes: Vec<usize> = subsets(&equal).iter().map(Vec::len).collect();
        assert_eq!(sizes, [7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(representatives(&equal), [0, 1]);
        let ends = Cluster { output: 5, ..equal };
        let asked = subsets(&ends);
        assert!(asked.iter().all(|devices| devices.contains(&0) && devices.contains(&5)));
        // Four between the ends and two behind them.
        assert_eq!(asked.len(), 5 * 3 - 1);
        assert!(asked.contains(&vec![0, 1, 5, 6]) && asked.contains(&vec![0, 1, 2, 5]));
        assert_eq!(representatives(&ends), [0, 1, 5]);
    }

    #[test]
    fn every_set_of_unequal_devices_is_asked_with_what_links_it() {
        let devices = ["raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"];
        let devices: String =
            devices.iter().zip(["a", "b", "c"]).map(|(target, name)| device(name, target, 1)).collect();
        let all = cluster(&devices, ("a", "a"), &format!("[[link]]\nbetween = [\"a\", \"b\", \"c\"]\n{SWITCH}"));
        assert_eq!(subsets(&all), [vec![0, 1], vec![0, 2], vec![0]]);
        let line = format!("[[link]]\nbetween = [\"a\", \"b\"]\n{SWITCH}[[link]]\nbetween = [\"b\", \"c\"]\n{SWITCH}");
        let line = cluster(&devices, ("a", "a"), &line);
        assert_eq!(subsets(&line), [vec![0, 1], vec![0]], "c is reached over b");
    }

    #[test]
    fn the_order_of_unequal_devices_counts() {
        let devices = ["raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-3", "raspberry-pi-4"];
        let devices: String =
            devices.iter().zip(["a", "b", "c", "d"]).map(|(target, name)| device(name, target, 1)).collect();
        let switch = format!("[[link]]\nbetween = [\"a\", \"b\", \"c\", \"d\"]\n{SWITCH}");
        let asked = subsets(&cluster(&devices, ("a", "a"), &switch));
        // A fast one before the slow one, or behind it.
        assert_eq!(asked, [vec![0, 1, 2], vec![0, 1, 3], vec![0, 2, 3], vec![0, 1], vec![0, 2], vec![0]]);
    }

    #[test]
    fn large_clusters_are_asked_in_growing_numbers() {
        let switch = format!("[[link]]\nbetween = [\"d\"]\n{SWITCH}");
        let equal = cluster(&device("d", "raspberry-pi-3", 60), ("d-0", "d-0"), &switch);
        let sizes: Vec<usize> = subsets(&equal).iter().map(Vec::len).collect();
        assert_eq!(sizes, [24, 16, 12, 10, 8, 6, 5, 4, 3, 2, 1]);
    }
}
