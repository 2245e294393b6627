//! Cuts by channels that are even over a whole network, where memory is what counts.
//!
//! Kernels hold weights in blocks of one vector of output channels, so a layer can only be cut into whole blocks. Cut by
//! itself, every layer gives its odd blocks to the same devices; here what a layer gives too much is made up for by the
//! next.

use std::collections::{BTreeMap, HashMap};

use super::axes::Axes;
use super::cost;
use super::groups::{Group, cut};
use super::{Partition, Strategy};
use crate::shard::{Region, Sharding};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::space::Role;

/// Per tensor the range of channels of each device of a group, in the group's order.
pub type ChannelCuts = HashMap<TensorId, Vec<(usize, usize)>>;

/// Cuts of every result with at least two channels per device: those of nodes with weights so that the weights so far are
/// in proportion to the group's shares, the others as their operands are. `lanes` are the channels of a block.
pub fn channel_cuts(graph: &Graph, order: &[NodeId], group: &Group, lanes: usize, axes: &Axes) -> ChannelCuts {
    let mut layers = layers(graph, order, lanes, axes);
    spread(&mut layers, &group.shares);
    let mut cuts = ChannelCuts::new();
    for layer in &layers {
        if let Some(followed) = layer.follows {
            if let Some(known) = cuts.get(&followed).cloned() {
                cuts.insert(layer.output, known);
            }
            continue;
        }
        let mut begin = 0;
        let range = |blocks: &usize| {
            let end = (begin + blocks * lanes).min(layer.channels);
            (std::mem::replace(&mut begin, end), end)
        };
        cuts.insert(layer.output, layer.blocks.iter().map(range).collect());
    }
    cuts
}

/// A result that is cut by channels.
struct Layer {
    output: TensorId,
    channels: usize,
    /// An operand whose cut it takes.
    follows: Option<TensorId>,
    block_bytes: f64,
    /// Blocks of each device.
    blocks: Vec<usize>,
}

/// Results with at least two blocks, in order.
fn layers(graph: &Graph, order: &[NodeId], lanes: usize, axes: &Axes) -> Vec<Layer> {
    let mut known: HashMap<TensorId, usize> = HashMap::new();
    let mut found = Vec::new();
    for id in order {
        let node = graph.node(*id);
        let [output] = node.outputs[..] else { continue };
        let are_channels = axes.role(graph, output, 1) == Role::Channels;
        let channels = graph.shape(output).get(1).copied().filter(|channels| are_channels && *channels >= 2 * lanes);
        let Some(channels) = channels else { continue };
        let same = |input: &&TensorId| known.get(*input) == Some(&channels);
        let weights_bytes = cost::node_weights_bytes(graph, *id) as f64;
        // A depthwise convolution follows its operand too: its weights are few.
        let follows = cost::node_macs(graph, *id) == 0 || cost::node_work(graph, *id).depthwise;
        let follows = node.inputs.iter().find(same).copied().filter(|_| follows);
        if follows.is_none() && weights_bytes == 0.0 {
            continue;
        }
        known.insert(output, channels);
        let block_bytes = weights_bytes * lanes as f64 / channels as f64;
        found.push(Layer { output, channels, follows, block_bytes, blocks: Vec::new() });
        let count = channels.div_ceil(lanes);
        if let Some(layer) = found.last_mut().filter(|layer| layer.follows.is_none()) {
            layer.blocks = vec![count];
        }
    }
    found
}

/// Hands out the blocks of all layers: each layer by what devices lack of their share so far, then single blocks from the
/// device that has most too much to the one that lacks most, as long as that helps.
fn spread(layers: &mut [Layer], shares: &[f64]) {
    let all: f64 = shares.iter().sum();
    let mut held = vec![0.0; shares.len()];
    let mut total = 0.0;
    for layer in layers.iter_mut().filter(|layer| layer.follows.is_none()) {
        let count: usize = layer.blocks.iter().sum();
        total += layer.block_bytes * count as f64;
        let missing = shares.iter().zip(&held).map(|(share, held)| (total * share / all - held).max(0.0));
        let ranges = cut(count, &missing.collect::<Vec<f64>>(), 1);
        layer.blocks = ranges.iter().map(|(begin, end)| end - begin).collect();
        for (held, blocks) in held.iter_mut().zip(&layer.blocks) {
            *held += *blocks as f64 * layer.block_bytes;
        }
    }
    let mut over: Vec<f64> = held.iter().zip(shares).map(|(held, share)| held - total * share / all).collect();
    let by_excess = |a: &usize, b: &usize, over: &[f64]| over[*a].total_cmp(&over[*b]);
    for _ in 0..layers.len() * shares.len() {
        let Some(most) = (0..over.len()).max_by(|a, b| by_excess(a, b, &over)) else { return };
        let Some(least) = (0..over.len()).min_by(|a, b| by_excess(a, b, &over)) else { return };
        // What evens the two out best: a block over, perhaps for a smaller one back.
        let difference = over[most] - over[least];
        let movable = |from: usize| {
            let has = move |layer: &Layer| layer.follows.is_none() && layer.blocks[from] > 0;
            layers
                .iter()
                .enumerate()
                .filter(move |(_, layer)| has(layer))
                .map(|(at, layer)| (Some(at), layer.block_bytes))
        };
        let mut best: Option<(f64, Option<usize>, Option<usize>)> = None;
        for (over_at, bytes) in movable(most) {
            for (back_at, back_bytes) in movable(least).chain([(None, 0.0)]) {
                let left = (difference - 2.0 * (bytes - back_bytes)).abs();
                if left < best.map_or(difference * 0.999, |(left, _, _)| left) {
                    best = Some((left, over_at, back_at));
                }
            }
        }
        let Some((_, over_at, back_at)) = best else { return };
        for (at, from, to) in [(over_at, most, least), (back_at, least, most)] {
            let Some(layer) = at.map(|at| &mut layers[at]) else { continue };
            layer.blocks[from] -= 1;
            layer.blocks[to] += 1;
            over[from] -= layer.block_bytes;
            over[to] += layer.block_bytes;
        }
    }
}

/// The same partition with what all devices share by channels cut anew, so that the weights are in proportion to
/// `shares`, one per device.
pub fn rebalanced(graph: &Graph, cluster: &Cluster, partition: &Partition, shares: &[f64]) -> Partition {
    let order = graph.topological_order().unwrap_or_default();
    let group = Group { devices: (0..shares.len()).collect(), shares: shares.to_vec() };
    let cuts = channel_cuts(graph, &order, &group, group.lanes(cluster), &Axes::of(graph));
    let recut = |tensor: TensorId, sharding: &Sharding| {
        let shape = graph.shape(tensor);
        let by_channels = shape.len() > 1
            && sharding.parts().all(|(_, part)| Region::whole(shape).with(1, part.begin(1), part.end(1)) == Some(part));
        let channels = shape.get(1).copied().unwrap_or(0);
        let covered: usize = sharding.parts().map(|(_, part)| if by_channels { part.extent(1) } else { 0 }).sum();
        // Neither what one device has whole nor what several have whole.
        if covered != channels || sharding.parts().count() < 2 {
            return sharding.clone();
        }
        let ranges = cuts.get(&tensor).cloned().unwrap_or_else(|| cut(channels, shares, 1));
        Sharding(ranges.into_iter().map(|(begin, end)| Region::whole(shape).with(1, begin, end)).collect())
    };
    let strategies = partition.strategies.iter().map(|(id, strategy)| {
        let node = graph.node(*id);
        let outputs = recut(node.outputs[0], &strategy.outputs);
        let partial_sums = strategy.partial_sums.as_ref().map(|partial_sums| recut(node.inputs[0], partial_sums));
        (*id, Strategy { method: strategy.method, outputs, partial_sums })
    });
    Partition { strategies: strategies.collect(), relays: BTreeMap::new(), ..partition.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::op::{Conv, Window};
    use partita_ir::graph::{Activation, Op, TensorType, Value};

    #[test]
    fn odd_blocks_go_round() {
        let mut graph = Graph::new("t");
        let mut x = graph.add_input("x", TensorType::f32([1, 20, 4, 4]));
        for layer in 0..12 {
            let weights = graph.add_constant(format!("w{layer}"), Value::f32([20, 20, 1, 1], vec![0.0; 400]));
            let bias = graph.add_constant(format!("b{layer}"), Value::f32([20], vec![0.0; 20]));
            let window = Window::uniform(&[1, 1], 1, 1, 0);
            let output = graph.add_tensor(format!("t{layer}"), TensorType::f32([1, 20, 4, 4]));
            let conv = Conv { window, groups: 1, residual: false, activation: Activation::None };
            graph.add_node(format!("n{layer}"), Op::Conv(conv), vec![x, weights, bias], vec![output]);
            x = output;
        }
        let order = graph.topological_order().expect("a chain");
        // Five blocks of four channels for three devices.
        let group = Group { devices: vec![0, 1, 2], shares: vec![1.0; 3] };
        let cuts = channel_cuts(&graph, &order, &group, 4, &Axes::of(&graph));
        let held: Vec<usize> =
            (0..3).map(|device| cuts.values().map(|ranges| ranges[device].1 - ranges[device].0).sum()).collect();
        assert_eq!(held, [80, 80, 80]);
        // By themselves the first two devices would have 96 each.
        assert_eq!(cut(20, &group.shares, 4), [(0, 8), (8, 16), (16, 20)]);
        // One that has half of the others' share.
        let uneven = Group { devices: vec![0, 1, 2], shares: vec![0.5, 1.0, 1.0] };
        let cuts = channel_cuts(&graph, &order, &uneven, 4, &Axes::of(&graph));
        let held: Vec<usize> =
            (0..3).map(|device| cuts.values().map(|ranges| ranges[device].1 - ranges[device].0).sum()).collect();
        assert_eq!(held, [48, 96, 96]);
    }
}
