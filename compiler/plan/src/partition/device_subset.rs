//! Clusters of hundreds of devices: which of them are worth asking.
//!
//! A node gains nothing from its sixtieth helper that the messages to him do not cost. So large clusters are solved for
//! their best devices, and the rest have nothing to do; if these cannot hold the model, more are asked.

use std::collections::BTreeSet;

use super::Partition;
use crate::shard::Sharding;
use partita_config::{Cluster, Link};

/// Clusters up to this size are solved as they are.
pub const LARGEST: usize = 64;

/// Devices that links lead to from the one with the input, itself included and the one that wants the answer, ascending:
/// nobody else can take part.
pub fn reachable(cluster: &Cluster) -> Vec<usize> {
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); cluster.devices.len()];
    for Link { between: (a, b), .. } in &cluster.links {
        next[*a].push(*b);
        next[*b].push(*a);
    }
    let mut known = BTreeSet::from([cluster.input, cluster.output]);
    let mut open = vec![cluster.input];
    while let Some(device) = open.pop() {
        open.extend(next[device].iter().copied().filter(|other| known.insert(*other)));
    }
    known.into_iter().collect()
}

/// The best `size` of the devices that can take part, ascending: those that hold the input or want the answer, those that most others are
/// linked to, then the fastest.
pub fn best(cluster: &Cluster, size: usize) -> Vec<usize> {
    let count = cluster.devices.len();
    let mut links = vec![0usize; count];
    for link in &cluster.links {
        links[link.between.0] += 1;
        links[link.between.1] += 1;
    }
    let rank = |device: usize| {
        let end = device == cluster.input || device == cluster.output;
        let hub = links[device] * 2 > count;
        (!end, !hub)
    };
    let speed = |device: usize| cluster.devices[device].target.rate.conv_macs_per_second;
    let mut order = reachable(cluster);
    order.sort_by(|a, b| rank(*a).cmp(&rank(*b)).then(speed(*b).total_cmp(&speed(*a))).then(a.cmp(b)));
    order.truncate(size);
    order.sort_unstable();
    order
}

/// A cluster of these devices only.
pub fn restricted(cluster: &Cluster, devices: &[usize]) -> Cluster {
    let position = |device: usize| devices.binary_search(&device).ok();
    let links = cluster.links.iter().filter_map(|link| {
        let between = (position(link.between.0)?, position(link.between.1)?);
        Some(Link { between, ..link.clone() })
    });
    Cluster {
        name: cluster.name.clone(),
        devices: devices.iter().map(|device| cluster.devices[*device].clone()).collect(),
        links: links.collect(),
        media: cluster.media.clone(),
        input: position(cluster.input).unwrap_or(0),
        output: position(cluster.output).unwrap_or(0),
        // What may happen in the field is about the whole cluster.
        conditions: Vec::new(),
        max_latency_ms: cluster.max_latency_ms,
        input_form: cluster.input_form.clone(),
        security: cluster.security,
        survives: cluster.survives,
    }
}

/// A partition for some devices as one for all `count`. What was proven of it is not proven for all.
pub fn widened(partition: Partition, devices: &[usize], count: usize) -> Partition {
    let wide = |sharding: Sharding| {
        let mut regions = vec![None; count];
        for (region, device) in sharding.0.into_iter().zip(devices) {
            regions[*device] = region;
        }
        Sharding(regions)
    };
    let strategies = partition.strategies.into_iter().map(|(id, mut strategy)| {
        strategy.outputs = wide(strategy.outputs);
        strategy.partial_sums = strategy.partial_sums.map(wide);
        (id, strategy)
    });
    Partition {
        strategies: strategies.collect(),
        relays: partition
            .relays
            .into_iter()
            .map(|(operand, relay)| (operand, relay.into_iter().map(wide).collect()))
            .collect(),
        optimal: false,
        gap: 1.0,
        period_bound_seconds: None,
        ..partition
    }
}
