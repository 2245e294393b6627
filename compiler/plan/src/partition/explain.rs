//! Why nothing keeps the limits: which one cannot be kept, and what it would take.

use super::pipeline::Chain;
use super::{PartitionOptions, StrategyFamily, cost, limits, relay};
use partita_config::{Cluster, System};
use partita_ir::diagnostic::{Diagnostic, size, sizes};
use partita_ir::graph::Graph;

/// Devices that a message lists at most.
const LISTED: usize = 16;

/// RAM and flash that a device has for a network.
fn memory(cluster: &Cluster, device: usize, reserve_bytes: &[u64]) -> (u64, u64) {
    let reserve = reserve_bytes.get(device).copied().unwrap_or(0);
    let info = &cluster.devices[device];
    (limits::ram_bytes(info).saturating_sub(reserve), limits::flash_bytes(info).saturating_sub(reserve))
}

/// Bytes of weights that all devices together can hold.
fn room_for_weights(cluster: &Cluster, reserve_bytes: &[u64]) -> u64 {
    let room = |device: usize| {
        let (ram, flash) = memory(cluster, device, reserve_bytes);
        if cluster.devices[device].target.system == System::Linux { ram.min(flash) } else { flash }
    };
    (0..cluster.devices.len()).map(room).fold(0, u64::saturating_add)
}

/// Whether the weights alone are too much for all devices together.
pub fn weights_exceed(graph: &Graph, cluster: &Cluster, reserve_bytes: &[u64]) -> bool {
    let read = graph.tensor_ids().filter(|tensor| graph.value(*tensor).is_some() && graph.is_read(*tensor));
    let weights: u64 = read.map(|tensor| graph.stored_bytes(tensor) as u64).sum();
    weights > room_for_weights(cluster, reserve_bytes)
}

/// A line for each device, or for the first of very many.
fn list(mut diagnostic: Diagnostic, cluster: &Cluster, line: &dyn Fn(usize) -> String) -> Diagnostic {
    let count = cluster.devices.len();
    for device in 0..count.min(LISTED) {
        diagnostic = diagnostic.note(format!("device `{}`: {}", cluster.devices[device].name, line(device)));
    }
    if count > LISTED { diagnostic.note(format!("and {} further devices", count - LISTED)) } else { diagnostic }
}

/// Names the limit that nothing satisfies, and what it would take.
pub fn explain(graph: &Graph, cluster: &Cluster, chain: &Chain, options: &PartitionOptions) -> Diagnostic {
    let (problem, segments) = (&chain.problem, &chain.segments);
    if relay::route(cluster, cluster.input, cluster.output).is_none() {
        let name = |device: usize| &cluster.devices[device].name;
        let title = format!(
            "device `{}` holds the input and device `{}` wants the answer, but no links lead from one to the other",
            name(cluster.input),
            name(cluster.output)
        );
        return Diagnostic::new("E0171", title)
            .help("add a [[link]] to the cluster file that joins them, or a device between them");
    }
    let weights: u64 = problem.weights.iter().sum();
    let room = room_for_weights(cluster, &options.reserve_bytes);
    let has = |device: usize| {
        let (ram, flash) = memory(cluster, device, &options.reserve_bytes);
        format!("{} of RAM, {} of flash", size(ram), size(flash))
    };
    if weights > room {
        let (needed, available) = sizes(weights, room);
        let title = format!("the model's weights take {needed}; all devices together have room for {available}");
        return list(Diagnostic::new("E0170", title), cluster, &has)
            .help("add devices or memory; nothing that a partition does makes weights smaller");
    }
    // Only where nodes stay whole is it one device that must hold them.
    let whole = matches!(options.family, StrategyFamily::Whole | StrategyFamily::Pipeline);
    for (segment, info) in segments.iter().enumerate().filter(|_| whole) {
        let needed = |device: usize| {
            problem.arena[segment] + if problem.weights_in_ram[device] { problem.weights[segment] } else { 0 }
        };
        let holds =
            |device: usize| needed(device) <= problem.ram[device] && problem.weights[segment] <= problem.flash[device];
        if (0..problem.device_count()).any(holds) {
            continue;
        }
        let largest = info.nodes.iter().max_by_key(|node| cost::node_weights_bytes(graph, **node));
        let label = largest.map_or(String::new(), |node| graph.node_label(*node));
        let title = format!("no device can hold the layers around node {}", partita_ir::diagnostic::printable(&label));
        let line = |device: usize| {
            let (ram, flash) = (size(needed(device)), size(problem.weights[segment]));
            format!("{} for them; they need {ram} and {flash}", has(device))
        };
        return list(Diagnostic::new("E0170", title), cluster, &line)
            .help("add a device with that much memory, or further devices to split these layers over");
    }
    let diagnostic = Diagnostic::new("E0170", "no plan was found that keeps every limit").note(format!(
        "the model has {} of weights; the devices have room for {} together",
        size(weights),
        size(room)
    ));
    list(diagnostic, cluster, &has)
        .help("more RAM or flash, a further device, or a link between devices that have none would help")
}
