//! Partita's own choice on the networks of DeeperThings, in the same setting: the hub holds the input and wants the
//! answer, devices are equal, and none may store more than its share of the weights.

use std::collections::BTreeMap;

use crate::{Clock, PlacementOptions, fit};
use partita_config::{Cluster, cluster_file};
use partita_ir::graph::op::{Conv, Pool, PoolKind, Window};
use partita_ir::graph::{Activation, Graph, Op, TensorId, TensorType, Value};
use partita_plan::partition::published::chain::{
    Layer, LayerKind, PublishedNetwork, alexnet, extraction, vgg16, yolov2,
};
use partita_plan::partition::published::traffic;
use partita_plan::partition::{Objective, Partition, PartitionOptions, StrategyFamily, limits, solve};
use partita_plan::shard::{Event, apply};
use partita_program::program::Program;

/// What a plan sends.
struct Sent {
    megabytes: f64,
    /// Most bytes through the port of one device, in or out.
    busiest_megabytes: f64,
    /// Largest share of the weights on one device.
    largest_share: f64,
}

struct Builder {
    graph: Graph,
    count: usize,
}

impl Builder {
    fn layer(&mut self, layer: &Layer, input: TensorId) -> TensorId {
        self.count += 1;
        let (rows, columns) = layer.output_extent();
        let output =
            self.graph.add_tensor(format!("t{}", self.count), TensorType::f32([1, layer.filters, rows, columns]));
        let mut window = Window {
            kernel: vec![layer.kernel; 2],
            stride: vec![layer.stride; 2],
            dilation: vec![1; 2],
            pad_begin: vec![layer.kernel / 2; 2],
            pad_end: vec![layer.kernel / 2; 2],
        };
        let (op, inputs) = match layer.kind {
            LayerKind::Convolution => {
                let shape = [layer.filters, layer.channels, layer.kernel, layer.kernel];
                // Equal weights would be stored once.
                let elements = (0..shape.iter().product::<usize>()).map(|index| (index + self.count) as f32);
                let weights = Value::f32(shape, elements.collect());
                let weights = self.graph.add_constant(format!("w{}", self.count), weights);
                let bias = self
                    .graph
                    .add_constant(format!("b{}", self.count), Value::f32([layer.filters], vec![0.0; layer.filters]));
                let conv = Conv { window, groups: 1, residual: false, activation: Activation::LeakyRelu(0.1) };
                (Op::Conv(conv), vec![input, weights, bias])
            }
            LayerKind::Other => {
                let missing = (rows - 1) * layer.stride + layer.kernel
                    - layer.extent.0.min((rows - 1) * layer.stride + layer.kernel);
                window.pad_begin = vec![0; 2];
                window.pad_end = vec![missing; 2];
                let pool =
                    Pool { kind: PoolKind::Max, declared_pad_end: vec![missing; 2], window, count_include_pad: false };
                (Op::Pool(pool), vec![input])
            }
        };
        self.graph.add_node(format!("n{}", self.count), op, inputs, vec![output]);
        output
    }
}

/// The convolutional tail as a graph; YOLOv2 with its way around from layer 16 to 28.
fn graph(network: &PublishedNetwork) -> Graph {
    let mut builder = Builder { graph: Graph::new(network.name), count: 0 };
    let first = &network.layers[network.break_point];
    let mut x = builder.graph.add_input("x", TensorType::f32([1, first.channels, first.extent.0, first.extent.1]));
    let mut branch = x;
    for (index, layer) in network.layers.iter().enumerate().skip(network.break_point) {
        if network.name != "YOLOv2" {
            x = builder.layer(layer, x);
            continue;
        }
        match index {
            16 => {
                x = builder.layer(layer, x);
                branch = x;
            }
            25 | 31 => {}
            26 => branch = builder.layer(layer, branch),
            27 => {
                let shape = [1, 256, 19, 19];
                let output = builder.graph.add_tensor("reorganised", TensorType::f32(shape));
                builder.graph.add_node("reorganise", Op::SpaceToDepth { block: 2 }, vec![branch], vec![output]);
                branch = output;
            }
            28 => {
                let output = builder.graph.add_tensor("joined", TensorType::f32([1, 1280, 19, 19]));
                builder.graph.add_node("join", Op::Concat { axis: 1 }, vec![branch, x], vec![output]);
                x = output;
            }
            _ => x = builder.layer(layer, x),
        }
    }
    builder.graph.outputs = vec![x].into();
    builder.graph
}

/// Equal devices on a switch, each with room for its share of the weights and 3 % more.
fn cluster(network: &PublishedNetwork, devices: u64) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\ntarget = \"raspberry-pi-4\"\ncount = {devices}\n[[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n"
    );
    let mut cluster =
        cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound");
    let tail = &network.layers[network.break_point..];
    let bytes: u64 = tail
        .iter()
        .filter(|layer| layer.kind == LayerKind::Convolution)
        .map(|layer| 4 * (layer.weights + layer.filters as u64))
        .sum();
    for device in &mut cluster.devices {
        let code = device.flash_bytes - limits::flash_bytes(device);
        device.flash_bytes = code + bytes / devices + bytes / devices * 3 / 100;
    }
    cluster
}

fn sent(graph: &Graph, partition: &Partition, cluster: &Cluster) -> Sent {
    let sharded = apply(graph, partition, cluster).expect("the partition can be carried out");
    let mut ports: BTreeMap<(usize, bool), u64> = BTreeMap::new();
    let mut total = 0;
    for event in &sharded.events {
        let Event::Exchange(transfers) = event else { continue };
        for transfer in transfers {
            let bytes = sharded.graph.tensor_type(transfer.tensor).size_bytes() as u64;
            total += bytes;
            *ports.entry((transfer.from, false)).or_default() += bytes;
            *ports.entry((transfer.to, true)).or_default() += bytes;
        }
    }
    let mut weights: BTreeMap<usize, u64> = BTreeMap::new();
    for (node, device) in &sharded.devices {
        *weights.entry(*device).or_default() +=
            partita_plan::partition::cost::node_weights_bytes(&sharded.graph, *node);
    }
    let all: u64 = weights.values().sum();
    Sent {
        megabytes: total as f64 / 1e6,
        busiest_megabytes: ports.values().copied().max().unwrap_or(0) as f64 / 1e6,
        largest_share: weights.values().copied().max().unwrap_or(0) as f64 / all.max(1) as f64,
    }
}

/// A plan of a family for least traffic.
fn plan(graph: &Graph, cluster: &Cluster, family: StrategyFamily) -> Sent {
    let options = PartitionOptions::new(Objective::Traffic, family);
    let partition = solve(graph, cluster, &options).expect("the weights fit the devices together");
    sent(graph, &partition, cluster)
}

/// One line of the comparison, for the README (`cargo test --release -p partita beyond -- --nocapture`).
fn show(network: &PublishedNetwork, devices: u64, method: &str, sent: &Sent) {
    let tail = &network.layers[network.break_point..];
    let megabytes = |elements: f64| 4.0 * elements / 1e6;
    println!(
        "{} on {devices}: LOP {:.3} MB, published optimum {:.3} MB; {method} {:.3} MB, busiest port {:.3} MB, largest share of the weights {:.3}",
        network.name,
        megabytes(traffic::output_splitting(tail, devices)),
        megabytes(traffic::least_by_dynamic_program(tail, devices)),
        sent.megabytes,
        sent.busiest_megabytes,
        sent.largest_share
    );
}

#[test]
fn fusion_between_peers_never_sends_more_than_the_published_optimum() {
    for network in [yolov2(), vgg16(), extraction(), alexnet()] {
        let graph = graph(&network);
        let tail = &network.layers[network.break_point..];
        for devices in (2..=8u64).filter(|devices| is_long() || devices % 3 == 2) {
            let published = 4.0 * traffic::least_by_dynamic_program(tail, devices) / 1e6;
            let found = plan(&graph, &cluster(&network, devices), StrategyFamily::Fused);
            show(&network, devices, "fused", &found);
            let what = format!("{} on {devices} devices", network.name);
            assert!(found.megabytes <= published * (1.0 + 1e-9), "{what}: {} against {published}", found.megabytes);
            // The published hub sends and receives everything; half of it leaves its port.
            assert!(devices < 3 || found.busiest_megabytes <= published / 2.0, "{what}: {}", found.busiest_megabytes);
            assert!(found.largest_share * devices as f64 <= 1.05, "{what}: {}", found.largest_share);
        }
    }
}

fn is_long() -> bool {
    std::env::var_os("PARTITA_LONG").is_some()
}

#[test]
fn auto_sends_less_than_the_published_optimum() {
    for network in [yolov2(), vgg16(), extraction(), alexnet()] {
        let graph = graph(&network);
        let tail = &network.layers[network.break_point..];
        // All take minutes.
        let few: &[u64] = if network.name == "AlexNet" { &[2, 6] } else { &[6] };
        let all: &[u64] = &[2, 3, 4, 5, 6, 7, 8];
        for devices in if is_long() { all } else { few } {
            let published = 4.0 * traffic::least_by_dynamic_program(tail, *devices) / 1e6;
            let found = plan(&graph, &cluster(&network, *devices), StrategyFamily::Auto);
            show(&network, *devices, "auto", &found);
            let what = format!("{} on {devices} devices", network.name);
            assert!(found.megabytes < published, "{what}: {} against {published}", found.megabytes);
            assert!(found.busiest_megabytes <= published / 2.0, "{what}: {}", found.busiest_megabytes);
            assert!(found.largest_share * *devices as f64 <= 1.05, "{what}: {}", found.largest_share);
        }
    }
}

/// Bytes of RAM (weights, working memory and what is exchanged) of the fullest device, as its program has them.
fn fullest_bytes(graph: &Graph, cluster: &Cluster, objective: Objective, family: StrategyFamily) -> u64 {
    let options = PlacementOptions { objective, family, ..PlacementOptions::default() };
    let placed = match fit(graph, cluster, &options, &mut Clock::default()) {
        Ok(placed) => placed,
        Err(failure) => panic!("there is memory for everything: {failure}"),
    };
    let bytes = |program: &Program| (program.arena_bytes + program.weights_bytes) as u64;
    placed.programs.iter().map(bytes).max().expect("somebody computes")
}

#[test]
fn memory_as_the_objective_is_shared_evenly() {
    for network in [alexnet(), vgg16(), extraction(), yolov2()] {
        let graph = graph(&network);
        let roomy = |devices: u64| {
            let mut cluster = cluster(&network, devices);
            for device in &mut cluster.devices {
                (device.ram_bytes, device.flash_bytes) = (1 << 32, 1 << 34);
                // As of a compilation for least memory.
                device.settings.winograd = false;
            }
            cluster
        };
        let alone = fullest_bytes(&graph, &roomy(2), Objective::Latency, StrategyFamily::Whole) as f64;
        // The others take minutes.
        let few: &[u64] = if network.name == "AlexNet" { &[2] } else { &[] };
        let all: &[u64] = &[2, 3, 4, 5, 6, 7, 8];
        for devices in if is_long() { all } else { few } {
            let found = fullest_bytes(&graph, &roomy(*devices), Objective::Memory, StrategyFamily::Auto) as f64;
            let fair = alone / *devices as f64;
            let what = format!("{} on {devices} devices", network.name);
            println!(
                "{what}: {:.3} MB of RAM on the fullest, {:.3} MB are its share of one device's ({:+.1} %)",
                found / 1e6,
                fair / 1e6,
                (found / fair - 1.0) * 100.0
            );
            assert!(found <= 1.05 * fair, "{what}: {found} against {fair}");
        }
    }
}
