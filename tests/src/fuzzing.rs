//! What must hold for any input, one function per reader: targets of `tests/fuzz`, and of short runs in the tests.
//!
//! A reader refuses an input with an error or reads it; it neither panics nor takes all of memory or time. What it has read
//! is printed and read as the same again.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use partita_config::{Cluster, cluster_file, target};
use partita_ir::graph::eval::evaluate;
use partita_ir::graph::op::{Conv, Gemm, Pool, PoolKind, Window};
use partita_ir::graph::text::{Constants, parse, print};
use partita_ir::graph::verify::verify;
use partita_ir::graph::{Activation, BinaryOp, Graph, Op, TensorId, TensorType, UnaryOp, Value, infer::infer};
use partita_plan::partition::{self, Partition};
use partita_plan::{schedule, shard};
use partita_program::program;
use partita_rt::frame::{HEADER_BYTES, Header, Kind};

use crate::mutate::Random;
use crate::peer;

/// Graphs with more elements in their constants are not printed: that takes long and shows nothing new.
const MOST_PRINTED: usize = 1 << 16;

/// A function over any input; says whether the input could be read.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("importer", importer),
    ("graph", graph),
    ("partition", partition),
    ("schedule", schedule),
    ("program", program),
    ("kernel", kernel),
    ("cluster", cluster),
    ("target", target_file),
    ("plan", plan),
    ("npz", npz),
    ("frame", frame),
    ("link", link),
    ("differential", differential),
];

/// The graph that texts of partitions, schedules and plans refer to.
pub const GRAPH: &str = r#"graph "small" opset 17
input %0 "x": f32[1,4,6,6]
const %1 "w": f32[8,4,3,3] = random(1)
const %2 "b": f32[8] = random(2)
const %3 "m": f32[8,5] = random(3)
%4 "c": f32[1,8,6,6] = "conv"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:Relu))
%5 "p": f32[1,8,1,1] = "pool"(%4) GlobalPool(Average)
%6 "r": f32[1,8] = "flat"(%5) Reshape(shape:[1,8])
%7 "y": f32[1,5] = "product"(%6, %3) MatMul
output %7
"#;

/// The cluster that they refer to.
pub const CLUSTER: &str = r#"[cluster]
name = "two"
input = "a"
output = "b-2"
[[device]]
name = "a"
target = "raspberry-pi-4"
[[device]]
name = "b-2"
target = "cortex-m7"
[[link]]
between = ["a", "b-2"]
transport = "uart"
bandwidth = "1 Mbit/s"
"#;

/// [`GRAPH`] and [`CLUSTER`].
pub fn small() -> &'static (Graph, Cluster) {
    static SMALL: OnceLock<(Graph, Cluster)> = OnceLock::new();
    SMALL.get_or_init(|| {
        let cluster = cluster_file::parse(CLUSTER, "cluster.toml", Path::new(".")).expect("the cluster is sound");
        (parse(GRAPH).expect("the text is a graph"), cluster)
    })
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Models as ONNX files hold them.
pub fn importer(data: &[u8]) -> bool {
    let imported = partita::onnx::import_bytes(data, None, &partita::onnx::ImportOptions::default());
    if let Ok(graph) = &imported {
        verify(graph).expect("what is imported is sound");
    }
    imported.is_ok()
}

/// Texts of graphs.
pub fn graph(data: &[u8]) -> bool {
    let Some(Ok(graph)) = text(data).map(parse) else { return false };
    let _ = verify(&graph);
    let constants = graph.tensor_ids().filter_map(|id| graph.value(id));
    if constants.map(|value| value.data.len()).sum::<usize>() <= MOST_PRINTED {
        let shown = print(&graph, Constants::Full);
        let again = parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(print(&again, Constants::Full), shown);
    }
    true
}

/// Texts of partitions of [`GRAPH`]; what is read is cut or refused.
pub fn partition(data: &[u8]) -> bool {
    let (graph, cluster) = small();
    let Some(Ok(partition)) = text(data).map(|text| partition::text::parse(text, graph, cluster)) else { return false };
    let show = |partition: &Partition| partition::text::Display { partition, graph, cluster }.to_string();
    let shown = show(&partition);
    let again = partition::text::parse(&shown, graph, cluster).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(show(&again), shown);
    true
}

/// Texts of schedules of [`GRAPH`].
pub fn schedule(data: &[u8]) -> bool {
    let (graph, cluster) = small();
    let Some(Ok(schedules)) = text(data).map(|text| schedule::text::parse(text, graph, cluster)) else { return false };
    let shown = schedule::text::Display { schedules: &schedules, graph, cluster }.to_string();
    let again = schedule::text::parse(&shown, graph, cluster).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(again, schedules);
    true
}

/// Texts of programs.
pub fn program(data: &[u8]) -> bool {
    let Some(Ok(programs)) = text(data).map(program::text::parse) else { return false };
    let bytes: usize = programs.iter().flat_map(|program| &program.weights).map(|weight| weight.bytes.len()).sum();
    if bytes > MOST_PRINTED {
        return true;
    }
    let show = |programs: &[program::Program]| -> String {
        programs.iter().map(|program| program::text::print(program, Constants::Full)).collect()
    };
    let shown = show(&programs);
    let again = program::text::parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(show(&again), shown);
    true
}

/// Texts of kernels.
pub fn kernel(data: &[u8]) -> bool {
    let Some(Ok(kernel)) = text(data).map(partita_kernel::text::parse) else { return false };
    let shown = kernel.to_string();
    let again = partita_kernel::text::parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(again.to_string(), shown);
    true
}

/// Cluster files.
pub fn cluster(data: &[u8]) -> bool {
    text(data).is_some_and(|text| cluster_file::parse(text, "cluster.toml", Path::new(".")).is_ok())
}

/// Target files.
pub fn target_file(data: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("own.toml"), data).expect("written");
    target::load("./own.toml", folder.path()).is_ok()
}

/// Plans of [`GRAPH`]; what is read is cut or refused.
pub fn plan(data: &[u8]) -> bool {
    let (graph, cluster) = small();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plan.pb");
    std::fs::write(&path, data).expect("written");
    let Ok(partition) = partita::placement::plan_file::read_partition(&path, graph, cluster) else { return false };
    if let Ok(sharded) = shard::apply(graph, &partition, cluster) {
        verify(&sharded.graph).expect("what is cut is sound");
    }
    true
}

/// Archives of arrays.
pub fn npz(data: &[u8]) -> bool {
    partita::npz::read(Cursor::new(data)).is_ok()
}

/// Frames, once with a checksum that is right.
pub fn frame(data: &[u8]) -> bool {
    let Some((header, payload)) = data.split_first_chunk::<HEADER_BYTES>() else { return false };
    let mut sound = *header;
    let crc = Header::new(Kind::Hello, 0, 0, 0, 0, &sound[..HEADER_BYTES - 4]).payload_crc;
    sound[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    let headers = [*header, sound].map(|bytes| Header::parse(&bytes));
    for header in headers.iter().flatten() {
        assert_eq!(Header::parse(&header.emit()), Some(*header));
        let _ = header.check(payload);
    }
    headers.iter().any(Option::is_some)
}

/// Bytes of a link between two nodes, from the greeting on.
pub fn link(data: &[u8]) -> bool {
    peer::hears(data)
}

/// A graph, a cluster and strategies that follow from the input: all shards together compute what the graph computes.
pub fn differential(data: &[u8]) -> bool {
    let seed = data
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let mut random = Random::new(seed);
    let graph = random_graph(&mut random);
    let devices = 1 + random.below(6);
    let cluster = random_cluster(devices, &mut random);
    let choices = partition::strategies_of(&graph, &cluster);
    let strategies: BTreeMap<_, _> =
        choices.into_iter().map(|(id, choices)| (id, choices[random.below(choices.len())].clone())).collect();
    let partition = Partition::given(strategies);
    let shown = || {
        let text = partition::text::Display { partition: &partition, graph: &graph, cluster: &cluster };
        format!("{}\n{text}", print(&graph, Constants::Full))
    };
    let sharded = shard::apply(&graph, &partition, &cluster).unwrap_or_else(|error| panic!("{error}\n{}", shown()));
    verify(&sharded.graph).unwrap_or_else(|error| panic!("{error}\n{}", shown()));
    let schedules = schedule::build(&sharded, &cluster).expect("there are few messages");
    schedule::check::check(&sharded.graph, &schedules, &cluster).unwrap_or_else(|error| panic!("{error}\n{}", shown()));
    let input = whole_numbers(graph.shape(graph.inputs[0]), &mut random);
    let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
    let found = evaluate(&sharded.graph, &[input]).expect("the shards are sound");
    assert!(found == expected, "{found:?} is not {expected:?}\n{}", shown());
    true
}

/// Small whole numbers, whose sums are exact in any order.
fn whole_numbers(shape: &[usize], random: &mut Random) -> Value {
    Value::f32(shape, (0..shape.iter().product()).map(|_| random.below(3) as f32 - 1.0).collect())
}

fn random_cluster(devices: usize, random: &mut Random) -> Cluster {
    let star = if devices > 2 && random.below(2) == 0 { "topology = \"star\"\nhub = \"d-0\"\n" } else { "" };
    let link = "[[link]]\nbetween = [\"d\"]\ntransport = \"uart\"\nbandwidth = \"100 Mbit/s\"\n";
    let links = if devices > 1 { format!("{link}{star}") } else { String::new() };
    let (input, output) = (random.below(devices), random.below(devices));
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-{input}\"\noutput = \"d-{output}\"\n\
         [[device]]\nname = \"d\"\ntarget = \"cortex-m7\"\ncount = {devices}\n{links}"
    );
    cluster_file::parse(&text, "cluster.toml", Path::new(".")).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

/// A chain of layers of random kinds, with skip connections.
fn random_graph(random: &mut Random) -> Graph {
    let mut graph = Graph::new("random");
    let channels = 1 + random.below(6);
    let mut x = graph.add_input("x", TensorType::f32([1, channels, 4 + random.below(6), 4 + random.below(6)]));
    for layer in 0..1 + random.below(7) {
        x = random_layer(&mut graph, x, layer, random);
    }
    if graph.shape(x).len() == 4 && random.below(2) == 0 {
        let width = graph.shape(x)[1..].iter().product();
        x = add(&mut graph, "flat", Op::Reshape { shape: vec![1, width] }, vec![x]);
        let gemm = Gemm { transpose_a: false, transpose_b: true, alpha: 1.0, beta: 1.0, activation: Activation::None };
        let outputs = 1 + random.below(9);
        let weights = graph.add_constant("head.w", whole_numbers(&[outputs, width], random));
        let bias = graph.add_constant("head.b", whole_numbers(&[outputs], random));
        x = add(&mut graph, "head", Op::Gemm(gemm), vec![x, weights, bias]);
    }
    graph.outputs.push(x);
    graph
}

fn add(graph: &mut Graph, name: &str, op: Op, inputs: Vec<TensorId>) -> TensorId {
    let types: Vec<TensorType> = inputs.iter().map(|input| graph.tensor_type(*input).clone()).collect();
    let made = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the node is sound").swap_remove(0);
    let output = graph.add_tensor(format!("{name}.y"), made);
    graph.add_node(name, op, inputs, vec![output]);
    output
}

fn random_layer(graph: &mut Graph, x: TensorId, layer: usize, random: &mut Random) -> TensorId {
    let name = format!("n{layer}");
    let (channels, extent) = (graph.shape(x)[1], graph.shape(x)[2].min(graph.shape(x)[3]));
    let kernel = 1 + random.below(extent.min(3));
    let window = |stride: usize, pad: usize| Window::uniform(&[kernel, kernel], stride, 1, pad);
    let (stride, pad) = (1 + random.below(2), random.below(kernel));
    match random.below(7) {
        0..3 => {
            let groups = if random.below(3) == 0 { channels } else { 1 };
            let filters = if groups > 1 { channels } else { 1 + random.below(10) };
            let shape = [filters, channels / groups, kernel, kernel];
            let weights = graph.add_constant(format!("{name}.w"), whole_numbers(&shape, random));
            let bias = graph.add_constant(format!("{name}.b"), whole_numbers(&[filters], random));
            let (window, activation) = (window(stride, pad), Activation::Clip(-3.0, 3.0));
            add(graph, &name, Op::Conv(Conv { window, groups, residual: false, activation }), vec![x, weights, bias])
        }
        3 => {
            let window = window(stride, pad);
            let declared_pad_end = window.pad_end.clone();
            let pool = Pool { kind: PoolKind::Max, window, declared_pad_end, count_include_pad: false };
            add(graph, &name, Op::Pool(pool), vec![x])
        }
        4 => add(graph, &name, Op::Unary(UnaryOp::Neg), vec![x]),
        5 => add(graph, &name, Op::Concat { axis: 1 + random.below(3) }, vec![x, x]),
        _ => {
            // What may overflow exact sums is clipped.
            let other = add(graph, &format!("{name}.skip"), Op::Unary(UnaryOp::Abs), vec![x]);
            add(graph, &name, Op::Binary(BinaryOp::Add, Activation::Clip(-3.0, 3.0)), vec![x, other])
        }
    }
}
