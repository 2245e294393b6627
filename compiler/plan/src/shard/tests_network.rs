//! For tests: clusters, a network of every kind of layer, and the check that its shards compute what it computes.

use super::*;
use crate::partition::{Overlap, Partition};
use crate::schedule;
use partita_config::{Cluster, System, cluster_file};
use partita_ir::graph::eval::evaluate;
use partita_ir::graph::op::{Conv, Gemm, Pool, PoolKind, ReduceKind, Window};
use partita_ir::graph::{Activation, BinaryOp, Op, TensorType, UnaryOp, Value};

/// Equal devices, the input with the first, the output with the last; `extra` says more of their one link.
pub(super) fn cluster(devices: usize, extra: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-{}\"\n[[device]]\nname = \"d\"\ntarget = \"cortex-m7\"\ncount = {devices}\n{}",
        devices - 1,
        if devices > 1 {
            format!("[[link]]\nbetween = [\"d\"]\ntransport = \"uart\"\nbandwidth = \"100 Mbit/s\"\n{extra}")
        } else {
            String::new()
        },
    );
    cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

/// Devices that are linked to their neighbours only; `closed` joins the last to the first.
pub(super) fn neighbours(devices: usize, closed: bool) -> Cluster {
    let mut text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-1\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\ntarget = \"cortex-m7\"\ncount = {devices}\n"
    );
    for device in 0..if closed { devices } else { devices - 1 } {
        let next = (device + 1) % devices;
        text += &format!(
            "[[link]]\nbetween = [\"d-{device}\", \"d-{next}\"]\ntransport = \"uart\"\nbandwidth = \"10 Mbit/s\"\n"
        );
    }
    cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub(super) fn values(&mut self, shape: &[usize]) -> Value {
        let count = shape.iter().product();
        // Small integers, and activations that clip: sums are exact in any order.
        Value::f32(shape, (0..count).map(|_| self.next(3) as f32 - 1.0).collect())
    }
}

fn window(kernel: usize, stride: usize, pad: usize) -> Window {
    Window::uniform(&[kernel, kernel], stride, 1, pad)
}

/// Convolutions of every kind, pooling, a residual, a concatenation, a head.
pub(super) fn network(random: &mut Random) -> Graph {
    let mut graph = Graph::new("t");
    let (height, width) = (9 + random.next(6), 8 + random.next(5));
    let mut x = graph.add_input("x", TensorType::f32([1, 3, height, width]));
    let mut count = 0;
    let mut add = |graph: &mut Graph, random: &mut Random, op: Op, mut inputs: Vec<TensorId>, weights: &[&[usize]]| {
        count += 1;
        for (index, shape) in weights.iter().enumerate() {
            let value = random.values(shape);
            inputs.insert((index + 1).min(inputs.len()), graph.add_constant(format!("w{count}_{index}"), value));
        }
        let types: Vec<TensorType> = inputs.iter().map(|input| graph.tensor_type(*input).clone()).collect();
        let references: Vec<&TensorType> = types.iter().collect();
        let output_type = partita_ir::graph::infer::infer(&op, &references).expect("the node is sound").swap_remove(0);
        let output = graph.add_tensor(format!("t{count}"), output_type);
        graph.add_node(format!("n{count}"), op, inputs, vec![output]);
        output
    };
    let conv = |window: Window, groups: usize, residual: bool| {
        Op::Conv(Conv { window, groups, residual, activation: Activation::Clip(0.0, 20.0) })
    };
    let pool = |kind: PoolKind, window: Window| {
        let declared_pad_end = window.pad_end.clone();
        Op::Pool(Pool { kind, window, declared_pad_end, count_include_pad: false })
    };
    x = add(&mut graph, random, conv(window(3, 1, 1), 1, false), vec![x], &[&[10, 3, 3, 3], &[10]]);
    x = add(&mut graph, random, conv(window(3, 1, 1), 10, false), vec![x], &[&[10, 1, 3, 3], &[10]]);
    let branch = add(&mut graph, random, conv(window(1, 1, 0), 1, false), vec![x], &[&[10, 10, 1, 1], &[10]]);
    x = add(&mut graph, random, conv(window(3, 1, 1), 1, true), vec![branch, x], &[&[10, 10, 3, 3], &[10]]);
    x = add(&mut graph, random, pool(PoolKind::Max, window(3, 2, 1)), vec![x], &[]);
    let left = add(&mut graph, random, conv(window(5, 1, 2), 2, false), vec![x], &[&[6, 5, 5, 5], &[6]]);
    let right = add(&mut graph, random, Op::Binary(BinaryOp::Add, Activation::Clip(-9.0, 9.0)), vec![x, x], &[]);
    x = add(&mut graph, random, Op::Concat { axis: 1 }, vec![left, right], &[]);
    x = add(&mut graph, random, conv(window(3, 2, 0), 1, false), vec![x], &[&[8, 16, 3, 3], &[8]]);
    let shape = graph.shape(x).to_vec();
    let flat: usize = shape[1..].iter().product();
    let mean =
        add(&mut graph, random, Op::Reduce { kind: ReduceKind::Sum, axes: vec![2, 3], keep_dims: false }, vec![x], &[]);
    let row = add(&mut graph, random, Op::Reshape { shape: vec![1, flat] }, vec![x], &[]);
    let gemm =
        Op::Gemm(Gemm { transpose_a: false, transpose_b: true, alpha: 1.0, beta: 1.0, activation: Activation::None });
    let y = add(&mut graph, random, gemm, vec![row], &[&[8, flat], &[8]]);
    let y = add(&mut graph, random, Op::Binary(BinaryOp::Mul, Activation::None), vec![y, mean], &[]);
    let y = add(&mut graph, random, Op::Unary(UnaryOp::Neg), vec![y], &[]);
    graph.outputs = vec![y].into();
    graph
}

/// The sharded graph is sound, its schedules are proven, and it computes the same; also where tensors travel while devices
/// compute, and nodes are computed in pieces for its sake.
pub(super) fn check(
    graph: &Graph,
    partition: &Partition,
    cluster: &Cluster,
    input: &Value,
    expected: &[Value],
    label: &str,
) {
    check_one(graph, partition, cluster, input, expected, label);
    let cluster = &on_linux(cluster);
    for count in [1, 2, 5] {
        let pieces = partition.strategies.keys().filter(|_| count > 1).map(|id| (*id, count)).collect();
        let partition = Partition { overlap: Some(Overlap { pieces }), ..partition.clone() };
        let label = format!("{label}, overlapped in {count} pieces");
        check_one(graph, &partition, cluster, input, expected, &label);
    }
}

/// The same cluster of machines with an operating system.
pub(super) fn on_linux(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    cluster.devices.iter_mut().for_each(|device| device.target.system = System::Linux);
    cluster
}

fn check_one(graph: &Graph, partition: &Partition, cluster: &Cluster, input: &Value, expected: &[Value], label: &str) {
    let sharded = apply(graph, partition, cluster).unwrap_or_else(|error| panic!("{label}: {error}"));
    partita_ir::graph::verify::verify(&sharded.graph).unwrap_or_else(|error| panic!("{label}: {error}"));
    let schedules = crate::schedule::build(&sharded, cluster).expect("there are few messages");
    crate::schedule::check::check(&sharded.graph, &schedules, cluster)
        .unwrap_or_else(|error| panic!("{label}: {error}"));
    read_back(graph, partition, &sharded, &schedules, cluster, label);
    let found =
        evaluate(&sharded.graph, std::slice::from_ref(input)).unwrap_or_else(|error| panic!("{label}: {error}"));
    for (found, expected) in found.iter().zip(expected) {
        assert!(found == expected, "{label}: {found:?} is not {expected:?}");
    }
}

/// Texts of the partition and of the schedules are read as what they were made from.
fn read_back(
    graph: &Graph,
    partition: &Partition,
    sharded: &Sharded,
    schedules: &[schedule::Schedule],
    cluster: &Cluster,
    label: &str,
) {
    let text = crate::partition::text::Display { partition, graph, cluster }.to_string();
    let again = crate::partition::text::parse(&text, graph, cluster);
    assert_eq!(again.as_ref(), Ok(partition), "{label}: {text}");
    let graph = &sharded.graph;
    let text = schedule::text::Display { schedules, graph, cluster }.to_string();
    let again = schedule::text::parse(&text, graph, cluster);
    assert_eq!(again.as_deref(), Ok(schedules), "{label}: {text}");
}
