//! Partita's own choice on the networks of DeeperThings, in the same setting: the hub holds the input and wants the
//! answer, devices are equal, and none may store more than its share of the weights.

use std::collections::BTreeMap;

use super::chain::{Kind, Layer, Network, alexnet, extraction, vgg16, yolov2};
use super::traffic;
use crate::config::{Cluster, cluster_file};
use crate::graph::op::{Conv, Pool, PoolKind, Window};
use crate::graph::{Activation, Graph, Op, TensorId, TensorType, Value};
use crate::partition::{Objective, Partition, PartitionOptions, StrategyFamily, limits, solve};
use crate::shard::{Event, apply};

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
            Kind::Convolution => {
                let shape = [layer.filters, layer.channels, layer.kernel, layer.kernel];
                let weights = Value::f32(shape, vec![0.0; shape.iter().product()]);
                let weights = self.graph.add_constant(format!("w{}", self.count), weights);
                let bias = self
                    .graph
                    .add_constant(format!("b{}", self.count), Value::f32([layer.filters], vec![0.0; layer.filters]));
                let conv = Conv { window, groups: 1, residual: false, activation: Activation::LeakyRelu(0.1) };
                (Op::Conv(conv), vec![input, weights, bias])
            }
            Kind::Other => {
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
fn graph(network: &Network) -> Graph {
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
    builder.graph.outputs = vec![x];
    builder.graph
}

/// Equal devices on a switch, each with room for its share of the weights and 3 % more.
fn cluster(network: &Network, devices: u64) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\ntarget = \"raspberry-pi-4\"\ncount = {devices}\n[[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n"
    );
    let mut cluster =
        cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound");
    let tail = &network.layers[network.break_point..];
    let bytes: u64 = tail
        .iter()
        .filter(|layer| layer.kind == Kind::Convolution)
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
        *weights.entry(*device).or_default() += crate::partition::cost::node_weights_bytes(&sharded.graph, *node);
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
fn show(network: &Network, devices: u64, method: &str, sent: &Sent) {
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
        for devices in 2..=8u64 {
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

#[test]
fn auto_sends_less_than_the_published_optimum() {
    for network in [yolov2(), vgg16(), extraction(), alexnet()] {
        let graph = graph(&network);
        let tail = &network.layers[network.break_point..];
        // All take minutes without optimisation.
        let small = ["VGG-16", "AlexNet"].contains(&network.name);
        let few: &[u64] = if small { &[2, 3, 6] } else { &[6] };
        let all: &[u64] = &[2, 3, 4, 5, 6, 7, 8];
        for devices in if cfg!(debug_assertions) { few } else { all } {
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

#[test]
fn zz_memory_debug() {
    use crate::driver::{Clock, Options};
    let wanted = std::env::var("NET").unwrap_or_default();
    let counts: Vec<u64> =
        std::env::var("NS").unwrap_or("6".into()).split(',').filter_map(|x| x.parse().ok()).collect();
    for network in [yolov2(), vgg16(), extraction(), alexnet()] {
        if !wanted.is_empty() && network.name != wanted {
            continue;
        }
        let graph = graph(&network);
        let mut one = 0u64;
        for devices in std::iter::once(1).chain(counts.iter().copied()) {
            let mut cluster = cluster(&network, devices.max(2));
            for device in &mut cluster.devices {
                device.ram_bytes = 1 << 32;
                device.flash_bytes = 1 << 34;
            }
            let mut options = Options::default();
            options.objective = if devices == 1 { Objective::Latency } else { Objective::Memory };
            options.family = if devices == 1 { StrategyFamily::Whole } else { StrategyFamily::Auto };
            let start = std::time::Instant::now();
            let placed = crate::placement::fit(&graph, &cluster, &options, &mut Clock::default()).ok().unwrap();
            let seconds = start.elapsed().as_secs_f64();
            let most = placed.programs.iter().map(|p| p.arena_bytes as u64 + p.weights_bytes as u64).max().unwrap();
            if devices == 1 {
                one = most;
            }
            println!(
                "MEM {} on {devices}: fullest {:.3} MB, one/N {:.3} MB, {:+.1} % ({seconds:.1} s)",
                network.name,
                most as f64 / 1e6,
                one as f64 / devices as f64 / 1e6,
                100.0 * (most as f64 * devices as f64 / one as f64 - 1.0)
            );
            for program in &placed.programs {
                println!(
                    "  device {}: arena {:.3} MB (least {:.3}), weights {:.3} MB",
                    program.device,
                    program.arena_bytes as f64 / 1e6,
                    crate::memory::least_arena_bytes(program, 64) as f64 / 1e6,
                    program.weights_bytes as f64 / 1e6
                );
                if std::env::var("PEAK").is_ok() {
                    let lives = crate::memory::lifetimes(program);
                    let bytes = |b: crate::program::BufferId| {
                        let b = &program.buffers[b.0 as usize];
                        b.elements * b.element.size_bytes()
                    };
                    let alive = |step: usize| -> usize {
                        lives.iter().filter(|(_, l)| l.first <= step && step <= l.last).map(|(b, _)| bytes(*b)).sum()
                    };
                    let peak = (0..=program.steps.len() + 1).max_by_key(|s| alive(*s)).unwrap();
                    let show = |step: usize| match &program.steps[step] {
                        crate::program::Step::Kernel { node, .. } => format!("kernel {node}"),
                        crate::program::Step::Reference { node, .. } => format!("reference {node}"),
                        crate::program::Step::Exchange { sends, receives } => {
                            format!("exchange {} sends {} receives", sends.len(), receives.len())
                        }
                        crate::program::Step::Copy { to, .. } => {
                            format!("copy to {}", program.buffers[to.0.0 as usize].name)
                        }
                        crate::program::Step::Reorder { to, .. } => {
                            format!("reorder to {}", program.buffers[to.0 as usize].name)
                        }
                        _ => "leave".into(),
                    };
                    if peak > 0 && peak <= program.steps.len() {
                        println!("    peak at step {peak} of {}: {}", program.steps.len(), show(peak - 1));
                    } else {
                        println!("    peak at step {peak} of {}", program.steps.len());
                    }
                    for (b, l) in lives.iter().filter(|(_, l)| l.first <= peak && peak <= l.last) {
                        let i = &program.buffers[b.0 as usize];
                        println!(
                            "      {} {:?} {:?} {:.3} MB ({}..{})",
                            i.name,
                            i.shape,
                            i.layout,
                            bytes(*b) as f64 / 1e6,
                            l.first,
                            l.last
                        );
                    }
                }
            }
            if std::env::var("PLAN").is_ok() {
                println!(
                    "{}",
                    crate::partition::text::Display { graph: &graph, cluster: &cluster, partition: &placed.partition }
                );
            }
        }
    }
}
