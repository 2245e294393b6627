//! A small residual network, and clusters that want variants of it.

use std::path::Path;

use onnx_protobuf::{GraphProto, Message, ModelProto, TensorProto};
use partita::accuracy::{Demands, Limits};
use partita::data::{noise, write_npz};
use partita::driver::{self, Compiled, Options};
use partita::partition::StrategyFamily;
use partita::variants::VariantOptions;
use partita_tests::onnx::{self, ints, node, value_info};

pub const CLASSES: i64 = 4;
pub const WIDE: i64 = 16;
pub const EXTENT: i64 = 16;

/// A constant of noise.
pub fn random(name: &str, dims: &[i64], seed: u64, scale: f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    let tensor_type = partita::graph::TensorType::new(partita::graph::ElementType::F32, vec![count]);
    let elements = partita::data::to_f32(&noise(&tensor_type, seed).data).iter().map(|x| x * scale).collect();
    onnx::constant(name, dims, elements)
}

/// A stem, three residual blocks whose branches add little, and a classifier.
pub fn model() -> ModelProto {
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let mut nodes = vec![node("Conv", &["x", "stem"], &["s"], pads()), node("Relu", &["s"], &["b0"], vec![])];
    let mut initializer = vec![random("stem", &[WIDE, 3, 3, 3], 1, 0.3)];
    for block in 0..3 {
        let name = |what: &str| format!("{what}{block}");
        let (first, second) = (name("first"), name("second"));
        initializer.push(random(&first, &[WIDE, WIDE, 3, 3], 10 + block, 0.1));
        initializer.push(random(&second, &[WIDE, WIDE, 3, 3], 20 + block, 0.02));
        let (input, output) = (name("b"), format!("b{}", block + 1));
        let (u, v, w, sum) = (name("u"), name("v"), name("w"), name("sum"));
        nodes.push(node("Conv", &[&input, &first], &[&u], pads()));
        nodes.push(node("Relu", &[&u], &[&v], vec![]));
        nodes.push(node("Conv", &[&v, &second], &[&w], pads()));
        nodes.push(node("Add", &[&w, &input], &[&sum], vec![]));
        nodes.push(node("Relu", &[&sum], &[&output], vec![]));
    }
    nodes.push(node("GlobalAveragePool", &["b3"], &["mean"], vec![]));
    nodes.push(node("Flatten", &["mean"], &["row"], vec![]));
    nodes.push(node("Gemm", &["row", "head", "bias"], &["scores"], vec![]));
    initializer.push(random("head", &[WIDE, CLASSES], 30, 1.0));
    initializer.push(random("bias", &[CLASSES], 31, 0.1));
    for (number, node) in nodes.iter_mut().enumerate() {
        node.name = format!("n{number}");
    }
    let graph = GraphProto {
        name: "residual".to_string(),
        node: nodes,
        initializer,
        input: vec![value_info("x", &[1, 3, EXTENT, EXTENT])],
        output: vec![value_info("scores", &[1, CLASSES])],
        ..GraphProto::default()
    };
    onnx::model(17, graph)
}

/// A board so slow, in the cost model, that all of them are worth their messages. Its programs run here.
pub const TARGET: &str = r#"
name = "slow"
description = "A slow board, imitated"
triple = "host"
cpu = "native"
system = "linux"
instruction-set = "sse2"
vector-registers = 16
# Kernels that take half as long to compile.
winograd = false
l1-bytes = 32768
l2-bytes = 1048576
clock-hz = 3.0e9
ram-bytes = 4294967296
flash-bytes = 32000000000
[rate]
conv-macs-per-second = 4e8
depthwise-macs-per-second = 1e8
element-per-second = 1e8
memory-bytes-per-second = 2e9
[energy]
picojoule-per-mac = 120.0
picojoule-per-byte = 160.0
idle-watt = 2.7
link-nanojoule-per-byte = 80.0
"#;

/// Four equal devices on a switch, one of which may be lost, and links that may get slow.
pub const CLUSTER: &str = r#"
[cluster]
name = "test"
input = "d-0"
output = "d-0"
max_latency = "25 ms"
[[device]]
name = "d"
target = "slow.toml"
count = 4
[[link]]
between = ["d"]
transport = "tcp"
bandwidth = "1 Gbit/s"
latency = "0.1 ms"
[[condition]]
bandwidth = { "d-d" = "2 Mbit/s" }
[[condition]]
missing = ["d-3"]
"#;

/// A weak hub that leaves the work to another device, and a spare one. Nothing is late here, however busy the machine
/// is.
pub const HUB: &str = r#"
[cluster]
name = "hub"
input = "hub"
output = "hub"
max_latency = "5 s"
[[device]]
name = "hub"
target = "slow.toml"
cpu = 0.05
[[device]]
name = "worker"
target = "slow.toml"
[[device]]
name = "spare"
target = "slow.toml"
cpu = 0.1
[[link]]
between = ["hub", "worker", "spare"]
transport = "tcp"
bandwidth = "1 Gbit/s"
[[condition]]
missing = ["worker"]
[[condition]]
missing = ["worker", "spare"]
"#;

/// A board that has the input and the answer, and a microcontroller on a serial line.
pub const SERIAL: &str = r#"
[cluster]
name = "serial"
security = "none"
input = "board"
output = "board"
[[device]]
name = "board"
target = "slow.toml"
cpu = 0.05
[[device]]
name = "camera"
target = "cortex-m7"
[[link]]
between = ["board", "camera"]
transport = "uart"
bandwidth = "20 Mbit/s"
[[condition]]
bandwidth = { "board-camera" = "1 Mbit/s" }
[[condition]]
missing = ["camera"]
"#;

/// The model on a cluster.
pub fn compiled(folder: &Path, cluster: &str, family: StrategyFamily) -> Compiled {
    let (model_path, cluster_path) = (folder.join("residual.onnx"), folder.join("cluster.toml"));
    std::fs::write(&model_path, model().write_to_bytes().expect("it can be written")).expect("the folder is writable");
    std::fs::write(&cluster_path, cluster).expect("the folder is writable");
    std::fs::write(folder.join("slow.toml"), TARGET).expect("the folder is writable");
    let extent = EXTENT as usize;
    let count = 240;
    let tensor_type = partita::graph::TensorType::new(partita::graph::ElementType::F32, vec![count, 3, extent, extent]);
    let x = noise(&tensor_type, 5);
    write_npz(&folder.join("calibration.npz"), &vec![("x".to_string(), x)]).expect("the folder is writable");
    let variants = VariantOptions {
        calibration: folder.join("calibration.npz"),
        preparation: partita::samples::Preparation::default(),
        demands: Demands { limits: Limits { min_accuracy: Some(0.2), ..Limits::default() }, holdout: None },
        cache: folder.join("cache"),
    };
    let options = Options { family, variants: Some(variants), ..Options::default() };
    driver::compile(&model_path, &cluster_path, &options, &mut ()).unwrap_or_else(|failure| panic!("{failure}"))
}
