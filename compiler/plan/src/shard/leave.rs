//! Exits among the events: the verdict goes to everybody who still has something to do, the scores to whom they answer.

use std::collections::BTreeSet;

use super::{Event, Leave, Transfer};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};

/// Adds the messages and the end of every exit behind its decision. `device_of` gives the device of a node.
pub fn add(
    events: Vec<Event>,
    graph: &Graph,
    cluster: &Cluster,
    device_of: impl Fn(NodeId) -> Option<usize>,
) -> Option<Vec<Event>> {
    if graph.exits().is_empty() {
        return Some(events);
    }
    let mut found = Vec::with_capacity(events.len());
    for (position, event) in events.iter().enumerate() {
        found.push(event.clone());
        let Event::Compute(node) = event else { continue };
        let Some(decide) = graph.decide(*node) else { continue };
        let decider = device_of(*node)?;
        let (verdict, answer) = (graph.node(*node).outputs[0], graph.answer(*node));
        let mut devices: BTreeSet<usize> =
            events[position + 1..].iter().flat_map(|event| busy(event, &device_of)).collect();
        devices.insert(cluster.output);
        spread(cluster, verdict, decider, &devices, &mut found)?;
        spread(cluster, answer, decider, &BTreeSet::from([cluster.output]), &mut found)?;
        found.push(Event::Leave(Leave { exit: decide.exit, verdict, answer, devices: devices.into_iter().collect() }));
    }
    Some(found)
}

/// Devices that take part in an event.
fn busy(event: &Event, device_of: &impl Fn(NodeId) -> Option<usize>) -> Vec<usize> {
    match event {
        Event::Compute(node) => device_of(*node).into_iter().collect(),
        Event::Exchange(transfers) => transfers.iter().flat_map(|transfer| [transfer.from, transfer.to]).collect(),
        Event::Leave(_) => Vec::new(),
    }
}

/// Sends a tensor from its owner to all of some devices, over others where there is no direct link; `None` if there is
/// no way.
fn spread(
    cluster: &Cluster,
    tensor: TensorId,
    owner: usize,
    wanted: &BTreeSet<usize>,
    events: &mut Vec<Event>,
) -> Option<()> {
    let mut reached = BTreeSet::from([owner]);
    loop {
        let missing: Vec<usize> = wanted.difference(&reached).copied().collect();
        if missing.is_empty() {
            return Some(());
        }
        let from = |to: usize| reached.iter().copied().find(|from| cluster.link(*from, to).is_some());
        let mut transfers: Vec<Transfer> =
            missing.iter().filter_map(|to| from(*to).map(|from| Transfer { tensor, from, to: *to })).collect();
        if transfers.is_empty() {
            // Somebody in between, nearest first: one that leads on, else any that is not reached yet.
            let outside = || (0..cluster.devices.len()).filter(|device| !reached.contains(device));
            let leads_on = |device: &usize| missing.iter().any(|to| cluster.link(*device, *to).is_some());
            let next = outside().filter(leads_on).chain(outside()).find(|device| from(*device).is_some())?;
            transfers.extend(from(next).map(|from| Transfer { tensor, from, to: next }));
        }
        reached.extend(transfers.iter().map(|transfer| transfer.to));
        events.push(Event::Exchange(transfers));
    }
}
