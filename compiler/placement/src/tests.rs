//! No answer is worse than what else could have been done, and what is claimed of it holds.

use crate::score::Figures;
use crate::{Clock, Placed, PlacementOptions, fit};
use partita_config::{Cluster, cluster_file};
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Conv, Gemm, Pool, PoolKind, Window};
use partita_ir::graph::{Activation, BinaryOp, Graph, Op, TensorId, TensorType, UnaryOp, Value};
use partita_plan::partition::encodings::EXACT;
use partita_plan::partition::{Objective, Partition, Strategy, StrategyFamily, Weights, device_subset, sum_of};

/// Relative differences below this are rounding.
const SAME: f64 = 1e-6;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next(of.len())]
    }
}

fn window(kernel: usize, stride: usize) -> Window {
    Window::uniform(&[kernel, kernel], stride, 1, kernel / 2)
}

/// A graph under construction.
struct Builder {
    graph: Graph,
    count: usize,
}

impl Builder {
    fn new() -> Builder {
        Builder { graph: Graph::new("t"), count: 0 }
    }

    fn add(&mut self, op: Op, mut inputs: Vec<TensorId>, weights: &[&[usize]]) -> TensorId {
        self.count += 1;
        let count = self.count;
        for (index, shape) in weights.iter().enumerate() {
            let elements = (0..shape.iter().product::<usize>()).map(|at| (at % 7 + count) as f32 * 0.1).collect();
            let weight = self.graph.add_constant(format!("w{count}_{index}"), Value::f32(*shape, elements));
            inputs.insert(index + 1, weight);
        }
        let types: Vec<TensorType> = inputs.iter().map(|input| self.graph.tensor_type(*input).clone()).collect();
        let made = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the node is sound").swap_remove(0);
        let output = self.graph.add_tensor(format!("t{count}"), made);
        self.graph.add_node(format!("n{count}"), op, inputs, vec![output]);
        output
    }

    fn channels(&self, x: TensorId) -> usize {
        self.graph.shape(x)[1]
    }

    fn conv(&mut self, x: TensorId, filters: usize, kernel: usize, stride: usize) -> TensorId {
        let channels = self.channels(x);
        let conv = Conv { window: window(kernel, stride), groups: 1, residual: false, activation: Activation::Relu };
        self.add(Op::Conv(conv), vec![x], &[&[filters, channels, kernel, kernel], &[filters]])
    }

    fn depthwise(&mut self, x: TensorId) -> TensorId {
        let channels = self.channels(x);
        let conv = Conv { window: window(3, 1), groups: channels, residual: false, activation: Activation::Relu };
        self.add(Op::Conv(conv), vec![x], &[&[channels, 1, 3, 3], &[channels]])
    }

    fn pool(&mut self, x: TensorId, kernel: usize) -> TensorId {
        let pool = Pool {
            kind: PoolKind::Max,
            window: Window { pad_begin: vec![0; 2], pad_end: vec![0; 2], ..window(kernel, 2) },
            declared_pad_end: vec![0; 2],
            count_include_pad: false,
        };
        self.add(Op::Pool(pool), vec![x], &[])
    }

    fn gemm(&mut self, x: TensorId, outputs: usize) -> TensorId {
        let shape = self.graph.shape(x).to_vec();
        let flat: usize = shape[1..].iter().product();
        let row = self.add(Op::Reshape { shape: vec![1, flat] }, vec![x], &[]);
        let activation = Activation::None;
        let gemm = Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation };
        self.add(Op::Gemm(gemm), vec![row], &[&[flat, outputs], &[outputs]])
    }

    fn sum(&mut self, a: TensorId, b: TensorId) -> TensorId {
        self.add(Op::Binary(BinaryOp::Add, Activation::Relu), vec![a, b], &[])
    }

    fn concat(&mut self, a: TensorId, b: TensorId) -> TensorId {
        self.add(Op::Concat { axis: 1 }, vec![a, b], &[])
    }

    /// The graph, with everything that nobody reads as its outputs.
    fn finish(mut self) -> Graph {
        let made = self.graph.tensor_ids().filter(|id| self.graph.tensor(*id).producer.is_some());
        let outputs: Vec<TensorId> = made.filter(|id| !self.graph.is_read(*id)).collect();
        self.graph.outputs = outputs.into();
        self.graph
    }
}

/// Branches that join, or end in outputs of their own.
fn random_graph(random: &mut Random) -> Graph {
    let mut builder = Builder::new();
    let extent = random.pick(&[8, 12, 15, 28]);
    let shape = [1, random.pick(&[3, 8, 16]), extent, extent];
    let x = builder.graph.add_input("x", TensorType::f32(shape));
    let mut made = vec![builder.conv(x, random.pick(&[8, 16, 24]), 3, 1)];
    for _ in 0..1 + random.next(6) {
        let from = made[made.len() - 1 - random.next(made.len().min(3))];
        let alike = made
            .iter()
            .copied()
            .rfind(|other| *other != from && builder.graph.shape(*other)[2..] == builder.graph.shape(from)[2..]);
        let large = builder.graph.shape(from)[2] >= 4;
        made.push(match random.next(8) {
            0 | 1 => builder.conv(from, random.pick(&[8, 16, 32]), random.pick(&[1, 3]), 1),
            2 => builder.depthwise(from),
            3 if large => builder.conv(from, 16, 3, 2),
            4 if large => builder.pool(from, random.pick(&[2, 3])),
            5 | 6 => match alike {
                Some(other) if builder.graph.shape(other) == builder.graph.shape(from) => builder.sum(from, other),
                Some(other) => builder.concat(from, other),
                None => builder.conv(from, 8, 1, 1),
            },
            _ => builder.add(Op::Unary(UnaryOp::Activation(Activation::Relu)), vec![from], &[]),
        });
    }
    if random.next(2) == 0 {
        let last = made[made.len() - 1];
        builder.gemm(last, 10);
    }
    builder.finish()
}

fn parse(text: &str) -> Cluster {
    cluster_file::parse(text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

/// Devices of several kinds on a switch, around a hub or in a line; sometimes with little memory.
fn random_cluster(random: &mut Random, weights_bytes: u64) -> Cluster {
    let count = 2 + random.next(4);
    let (input, output) = (random.next(count), random.next(count));
    let mut text = format!("[cluster]\nname = \"t\"\ninput = \"d{input}\"\noutput = \"d{output}\"\n");
    let equal = random.next(3) == 0;
    let speeds = [1.0, 0.9, 0.5, 0.3, 0.05];
    let target = random.pick(&["raspberry-pi-3", "raspberry-pi-4", "cortex-m7"]);
    let little = random.next(4) == 0;
    for device in 0..count {
        let target = if equal { target } else { random.pick(&["raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"]) };
        let cpu = if equal { 1.0 } else { random.pick(&speeds) };
        text += &format!("[[device]]\nname = \"d{device}\"\ntarget = \"{target}\"\ncpu = {cpu}\n");
        if little && target != "cortex-m7" {
            let room = (600 << 10) + (weights_bytes as f64 * random.pick(&[0.7, 1.2, 3.0])) as u64 + (64 << 10);
            text += &format!("ram = \"{room} B\"\n");
        }
    }
    let names: Vec<String> = (0..count).map(|device| format!("\"d{device}\"")).collect();
    let rate = random.pick(&["10 Mbit/s", "100 Mbit/s", "1 Gbit/s", "10 Gbit/s"]);
    let latency = random.pick(&["1 us", "50 us", "0.3 ms"]);
    // Firmware has serial lines only.
    let transport = if equal && target == "cortex-m7" { "uart" } else { "tcp" };
    let links = format!("transport = \"{transport}\"\nbandwidth = \"{rate}\"\nlatency = \"{latency}\"\n");
    match random.next(5) {
        0 if count > 2 => {
            for pair in names.windows(2) {
                text += &format!("[[link]]\nbetween = [{}]\ntopology = \"switch\"\n{links}", pair.join(", "));
            }
        }
        1 if count > 2 => {
            text += &format!("[[link]]\nbetween = [{}]\ntopology = \"star\"\nhub = \"d1\"\n{links}", names.join(", "));
        }
        2 => text += &format!("[[link]]\nbetween = [{}]\ntopology = \"bus\"\n{links}", names.join(", ")),
        _ => text += &format!("[[link]]\nbetween = [{}]\ntopology = \"switch\"\n{links}", names.join(", ")),
    }
    parse(&text)
}

/// A plan as it is reported; none if nothing fits.
fn planned(graph: &Graph, cluster: &Cluster, objective: Objective, family: StrategyFamily) -> Option<Placed> {
    let options = PlacementOptions { objective, family, ..PlacementOptions::default() };
    fit(graph, cluster, &options, &mut Clock::default()).ok()
}

fn reported(graph: &Graph, cluster: &Cluster, placed: &Placed, objective: Objective) -> Figures {
    Figures::of_schedules(graph, cluster, &placed.sharded, &placed.schedules, objective)
}

/// Asserts everything that is said of a plan, against every other way.
fn check(graph: &Graph, cluster: &Cluster, objective: Objective, what: &str) {
    let found = planned(graph, cluster, objective, StrategyFamily::Auto);
    let mut rivals: Vec<(String, f64, Option<f64>)> = Vec::new();
    for family in StrategyFamily::ALL.into_iter().filter(|family| *family != StrategyFamily::Auto) {
        if let Some(placed) = planned(graph, cluster, objective, family) {
            let price = reported(graph, cluster, &placed, objective).price(objective);
            let sum = sum_of(graph, cluster, objective, &placed.partition, &EXACT);
            rivals.push((format!("{family:?}"), price, sum));
        }
    }
    for gone in (0..cluster.devices.len()).filter(|device| *device != cluster.input && *device != cluster.output) {
        let left: Vec<usize> = (0..cluster.devices.len()).filter(|device| *device != gone).collect();
        let smaller = device_subset::restricted(cluster, &left);
        if let Some(placed) = planned(graph, &smaller, objective, StrategyFamily::Auto) {
            let price = reported(graph, &smaller, &placed, objective).price(objective);
            rivals.push((format!("without device {gone}"), price, None));
        }
    }
    let Some(found) = found else {
        assert!(rivals.is_empty(), "{what}: nothing was found, but {rivals:?}");
        return;
    };
    let figures = reported(graph, cluster, &found, objective);
    let price = figures.price(objective);
    for (rival, other, sum) in &rivals {
        assert!(price <= other * (1.0 + SAME), "{what}: {price}, but {rival} has {other}");
        if let (true, Some(own), Some(sum)) = (found.partition.optimal, found.partition.sum, sum) {
            assert!(own <= sum * (1.0 + SAME), "{what}: `optimal` has a sum of {own}, {rival} one of {sum}");
        }
    }
    for device in 0..cluster.devices.len() {
        if let (false, Some(alone)) = (memory_binds(cluster), alone(graph, cluster, device, objective)) {
            assert!(price <= alone * (1.0 + SAME), "{what}: {price}, but device {device} alone has {alone}");
        }
    }
    let Partition { gap, lower_bound_ms, .. } = found.partition;
    assert!((0.0..=1.0).contains(&gap), "{what}: gap {gap}");
    assert!(lower_bound_ms <= figures.latency_ms, "{what}: {lower_bound_ms} is no bound of {figures:?}");
    assert!(lower_bound_ms > 0.0, "{what}: the bound says nothing");
}

fn memory_binds(cluster: &Cluster) -> bool {
    cluster.devices.iter().any(|device| device.ram_bytes < 64 << 20)
}

/// What a device by itself comes to.
fn alone(graph: &Graph, cluster: &Cluster, device: usize, objective: Objective) -> Option<f64> {
    let whole = |id| {
        let output = graph.node(id).outputs[0];
        (id, Strategy::whole(device, cluster.devices.len(), graph.shape(output)))
    };
    let partition = Partition::given(graph.node_ids().map(whole).collect());
    Some(Figures::of(graph, cluster, &partition, objective)?.price(objective))
}

fn weighted(latency: f64, traffic: f64) -> Objective {
    Objective::Weighted(Weights { latency, traffic, energy: 0.0 })
}

#[test]
fn no_plan_is_worse_than_another_way_and_certificates_hold() {
    let long = std::env::var_os("PARTITA_LONG").is_some();
    let objectives = [
        Objective::Latency,
        Objective::Latency,
        Objective::Latency,
        Objective::Throughput,
        Objective::Energy,
        Objective::Traffic,
        weighted(1.0, 1.0),
        Objective::Weighted(Weights { latency: 1.0, traffic: 0.3, energy: 0.2 }),
    ];
    for seed in 1..=if long { 500 } else { 30 } {
        let mut random = Random::new(seed);
        let graph = random_graph(&mut random);
        let weights = graph.tensor_ids().filter_map(|id| graph.value(id)).map(|value| 4 * value.data.len() as u64);
        let cluster = random_cluster(&mut random, weights.sum());
        let objective = random.pick(&objectives);
        check(&graph, &cluster, objective, &format!("seed {seed}, {objective}"));
    }
}

/// Equal devices on a switch.
fn equal(target: &str, count: usize, more: &str, latency: &str) -> Cluster {
    let names = if more.contains("[[device]]") { "\"d\", \"slow\"" } else { "\"d\"" };
    let link = format!("[[link]]\nbetween = [{names}]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n{latency}");
    let link = if count > 1 { link } else { String::new() };
    parse(&format!(
        "[cluster]\nname = \"c\"\ninput = \"d-0\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\ntarget = \"{target}\"\n\
         count = {count}\n{more}{link}"
    ))
}

/// Every other module of SqueezeNet 1.1, on a smaller input.
fn squeezenet() -> Graph {
    let mut builder = Builder::new();
    let input = builder.graph.add_input("x", TensorType::f32([1, 3, 112, 112]));
    let mut x = builder.conv(input, 64, 3, 2);
    x = builder.pool(x, 3);
    for (squeeze, expand, pooled) in [(16, 64, true), (32, 128, true), (48, 192, false), (64, 256, false)] {
        let narrow = builder.conv(x, squeeze, 1, 1);
        let (left, right) = (builder.conv(narrow, expand, 1, 1), builder.conv(narrow, expand, 3, 1));
        x = builder.concat(left, right);
        if pooled {
            x = builder.pool(x, 3);
        }
    }
    builder.conv(x, 1000, 1, 1);
    builder.finish()
}

/// Three stages of residual blocks on 32 x 32.
fn resnet(blocks: usize, width: usize) -> Graph {
    let mut builder = Builder::new();
    let input = builder.graph.add_input("x", TensorType::f32([1, 3, 32, 32]));
    let mut x = builder.conv(input, width, 3, 1);
    for stage in 0..3 {
        for block in 0..blocks {
            let (filters, stride) = (width << stage, if stage > 0 && block == 0 { 2 } else { 1 });
            let y = builder.conv(x, filters, 3, stride);
            let y = builder.conv(y, filters, 3, 1);
            let around = if stride == 1 { x } else { builder.conv(x, filters, 1, 2) };
            x = builder.sum(y, around);
        }
    }
    builder.gemm(x, 10);
    builder.finish()
}

fn latency_ms(graph: &Graph, cluster: &Cluster) -> f64 {
    let placed = planned(graph, cluster, Objective::Latency, StrategyFamily::Auto).expect("there is memory enough");
    reported(graph, cluster, &placed, Objective::Latency).latency_ms
}

#[test]
fn a_further_device_never_makes_a_plan_slower() {
    let never_slower = |graph: &Graph, clusters: &[(String, Cluster)]| {
        let mut best = (String::new(), f64::INFINITY);
        for (name, cluster) in clusters {
            let found = latency_ms(graph, cluster);
            assert!(found <= best.1 * (1.0 + SAME), "{name}: {found} ms, {}: {} ms", best.0, best.1);
            best = (name.clone(), found);
        }
    };
    let latency = "latency = \"0.2 ms\"\n";
    let mut clusters: Vec<(String, Cluster)> = [1, 2, 4, 6, 7, 8]
        .map(|count| (format!("{count} devices"), equal("raspberry-pi-3", count, "", latency)))
        .to_vec();
    let slow = "[[device]]\nname = \"slow\"\ntarget = \"raspberry-pi-3\"\ncpu = 0.01\n";
    never_slower(&squeezenet(), &clusters);
    clusters[5] = ("seven and a slow one".to_string(), equal("raspberry-pi-3", 7, slow, latency));
    never_slower(&squeezenet(), &clusters[4..]);
    let sizes = [1, 2, 3, 4, 6, 8];
    let clusters: Vec<(String, Cluster)> =
        sizes.iter().map(|count| (format!("{count} devices"), equal("raspberry-pi-4", *count, "", ""))).collect();
    never_slower(&resnet(1, 64), &clusters);
}

#[test]
fn every_objective_scores_what_the_others_find() {
    let graph = resnet(1, 16);
    let cluster = equal("raspberry-pi-3", 3, "cpu = 0.1\n", "");
    let objectives = [
        Objective::Latency,
        weighted(1.0, 1.0),
        weighted(1.0, 10.0),
        weighted(1.0, 40.0),
        Objective::Traffic,
        Objective::Energy,
    ];
    let plans: Vec<Figures> = objectives
        .iter()
        .map(|objective| {
            let placed = planned(&graph, &cluster, *objective, StrategyFamily::Auto).expect("there is memory enough");
            reported(&graph, &cluster, &placed, *objective)
        })
        .collect();
    for (at, objective) in objectives.iter().enumerate() {
        let own = plans[at].price(*objective);
        // A weight of one's own is nobody else's question.
        for (other, figures) in plans.iter().enumerate().filter(|(other, _)| *other != 3) {
            let price = figures.price(*objective);
            let found_by = objectives[other];
            assert!(own <= price * (1.0 + SAME), "{objective}: {own}, but {found_by} finds {price}");
        }
    }
}

#[test]
fn what_sends_least_in_time_is_taken() {
    let graph = resnet(1, 16);
    let cluster = equal("raspberry-pi-3", 3, "cpu = 0.1\n", "");
    let plan = |objective: Objective, max_latency_ms: Option<f64>| {
        let options = PlacementOptions { objective, max_latency_ms, ..PlacementOptions::default() };
        let placed = fit(&graph, &cluster, &options, &mut Clock::default()).expect("there is memory enough");
        reported(&graph, &cluster, &placed, objective)
    };
    let (fastest, least) = (plan(Objective::Latency, None), plan(Objective::Traffic, None));
    assert!(fastest.latency_ms < 0.8 * least.latency_ms, "{fastest:?} {least:?}");
    let limit = (fastest.latency_ms + least.latency_ms) / 2.0;
    let between = plan(Objective::Traffic, Some(limit));
    assert!(between.latency_ms <= limit && between.traffic_bytes <= fastest.traffic_bytes, "{between:?}, {limit} ms");
    // Where nothing is in time, what comes closest.
    let closest = plan(Objective::Traffic, Some(fastest.latency_ms / 2.0));
    assert!(closest.latency_ms <= 1.05 * fastest.latency_ms, "{closest:?} {fastest:?}");
}

#[test]
fn ends_on_different_devices_are_no_reason_to_be_slower_than_one_device() {
    // One small network with several outputs, on devices that differ and on fast links.
    let mut builder = Builder::new();
    let x = builder.graph.add_input("x", TensorType::f32([1, 3, 16, 16]));
    let a = builder.conv(x, 8, 3, 1);
    let (b, c) = (builder.conv(a, 8, 3, 1), builder.depthwise(a));
    let d = builder.sum(b, c);
    builder.gemm(d, 10);
    builder.pool(c, 2);
    let graph = builder.finish();
    for (target, rate, latency) in [("host", "10 Gbit/s", "1 us"), ("raspberry-pi-4", "1 Gbit/s", "100 us")] {
        let devices: String = [0.5, 0.3, 0.9]
            .iter()
            .enumerate()
            .map(|(at, cpu)| format!("[[device]]\nname = \"d{at}\"\ntarget = \"{target}\"\ncpu = {cpu}\n"))
            .collect();
        let cluster = parse(&format!(
            "[cluster]\nname = \"a\"\ninput = \"d0\"\noutput = \"d2\"\n{devices}[[link]]\nbetween = [\"d0\", \"d1\", \"d2\"]\n\
             transport = \"tcp\"\nbandwidth = \"{rate}\"\nlatency = \"{latency}\"\n"
        ));
        check(&graph, &cluster, Objective::Latency, target);
    }
}

#[test]
fn whole_numbers_make_no_plan_slower_to_find() {
    // What is known of a constant is found out once: a large one that is asked about often takes no longer.
    let mut builder = Builder::new();
    let mut x = builder.graph.add_input("x", TensorType::f32([1, 512]));
    for layer in 0..4 {
        let weights = builder.graph.add_constant(format!("w{layer}"), Value::f32([512, 512], vec![3.0; 512 * 512]));
        let activation = Activation::Relu;
        let gemm = Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation };
        x = builder.add(Op::Gemm(gemm), vec![x, weights], &[]);
    }
    let graph = builder.finish();
    let read: Vec<TensorId> = graph.tensor_ids().filter(|id| graph.is_constant(*id)).collect();
    assert!(read.iter().all(|id| graph.is_whole(*id)), "they are whole numbers");
    // The same in a copy of the graph: it asks the same facts.
    let facts: Vec<_> = read.iter().filter_map(|id| graph.facts(*id)).collect();
    assert!(facts.iter().all(|facts| facts.are_known()), "they are kept");
    latency_ms(&graph, &equal("raspberry-pi-3", 6, "", ""));
}
