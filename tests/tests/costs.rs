//! Small files that ask for much: each is compiled or refused within bounds on time and memory, which the system enforces,
//! so that a regression fails instead of hanging.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use onnx_protobuf::{GraphProto, Message, NodeProto, TensorProto};
use partita_tests::command::compile_binary;
use partita_tests::onnx::{self, constant, int, integers, ints, node, text, value_info};
use partita_tests::place::{further, is_long};

/// Address space of the compiler, in KiB: what it may take, and some for the program itself and its threads' stacks.
const MOST_KIB: u64 = 1_400_000;

/// Longest time, of a build that is hardly optimised on a busy machine. An optimised one takes a tenth.
const LIMIT: Duration = Duration::from_secs(60);

const HOST: &str =
    "[cluster]\nname = \"c\"\ninput = \"d\"\noutput = \"d\"\n[[device]]\nname = \"d\"\ntarget = \"host\"\n";

const THREE: &str = "[cluster]\nname = \"c\"\ninput = \"d-0\"\noutput = \"d-2\"\n[[device]]\nname = \"d\"\ntarget = \"host\"\ncount = 3\n\
                     [[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\nlatency = \"1 ms\"\n";

const MIXED: &str = "[cluster]\nname = \"c\"\nsecurity = \"none\"\ninput = \"m\"\noutput = \"h\"\n[[device]]\nname = \"m\"\ntarget = \"cortex-m7\"\n\
                     [[device]]\nname = \"h\"\ntarget = \"host\"\n\
                     [[link]]\nbetween = [\"m\", \"h\"]\ntransport = \"uart\"\nbandwidth = \"921600 bit/s\"\nlatency = \"1 ms\"\n";

/// So many, or half: what takes time by the square of a number still takes far too long.
fn many(count: usize) -> usize {
    if is_long() { count } else { count / 2 }
}

/// Simulates a model on a cluster within the bounds; what came of it.
fn simulate(name: &str, graph: GraphProto, cluster: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = onnx::model(17, graph).write_to_bytes().expect("bytes");
    assert!(bytes.len() <= 1 << 20, "{name}: {} bytes", bytes.len());
    std::fs::write(folder.path().join("model.onnx"), bytes).expect("written");
    std::fs::write(folder.path().join("cluster.toml"), cluster).expect("written");
    run(name, folder.path(), &["model.onnx", "--targets", "cluster.toml", "--simulate"])
}

/// Runs the compiler in a folder within the bounds.
fn run(name: &str, folder: &Path, arguments: &[&str]) -> Output {
    let started = Instant::now();
    let seconds = LIMIT.as_secs();
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MOST_KIB} && ulimit -t {seconds} && exec \"$0\" \"$@\"")])
        .arg(compile_binary())
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("there is a shell");
    println!("{name}: {:?}", started.elapsed());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code().is_some_and(|code| code <= 3),
        "{name}: {} after {:?}: {text}",
        output.status,
        started.elapsed()
    );
    output
}

fn accepted(name: &str, graph: GraphProto, cluster: &str) {
    let output = simulate(name, graph, cluster);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Refused, or done: what matters is that it ends.
fn survived(name: &str, graph: GraphProto, cluster: &str) {
    let output = simulate(name, graph, cluster);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || text.contains("error[E"), "{name}: {text}");
}

fn graph(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, input: &[i64], outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "g".to_string(),
        node: nodes,
        initializer: constants,
        input: vec![value_info("x", input)],
        output: outputs.iter().map(|name| value_info(name, &[])).collect(),
        ..GraphProto::default()
    }
}

fn op(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto { name: String::new(), ..node(op, inputs, &[output], Vec::new()) }
}

#[test]
fn code_does_not_grow_with_padding_or_windows() {
    let conv = |kernel: i64, pads: &[i64], dilation: i64| {
        let attributes = vec![ints("pads", pads), ints("dilations", &[dilation])];
        let weights = constant("w", &[1, 1, kernel], vec![0.5; kernel as usize]);
        graph(vec![node("Conv", &["x", "w"], &["y"], attributes)], vec![weights], &[1, 1, 20], &["y"])
    };
    for cluster in [HOST, MIXED] {
        accepted("pads", conv(3, &[4, 65535], 1), cluster);
        survived("two pads", conv(3, &[65535, 65535], 1), cluster);
        survived("dilated", conv(5, &[65535, 65535], 16000), cluster);
        survived("wide kernel", conv(60000, &[40000, 40000], 1), cluster);
    }
    let pool = |op: &str, kernel: i64| {
        let attributes = vec![ints("kernel_shape", &[kernel, kernel]), ints("pads", &[kernel - 1; 4])];
        graph(vec![node(op, &["x"], &["y"], attributes)], Vec::new(), &[1, 8, 20, 2000], &["y"])
    };
    for op in ["MaxPool", "AveragePool"] {
        survived(op, pool(op, 19), HOST);
        survived(op, pool(op, 1500), HOST);
    }
    let depthwise = graph(
        vec![node("Conv", &["x", "w"], &["y"], vec![ints("pads", &[0, 30000, 0, 30000]), int("group", 8)])],
        vec![constant("w", &[8, 1, 1, 9000], vec![0.5; 72000])],
        &[1, 8, 1, 2000],
        &["y"],
    );
    survived("depthwise", depthwise, HOST);
    let transposed = graph(
        vec![node("ConvTranspose", &["x", "w"], &["y"], vec![ints("strides", &[30000])])],
        vec![constant("w", &[1, 1, 3], vec![0.5; 3])],
        &[1, 1, 20],
        &["y"],
    );
    survived("transposed", transposed, HOST);
}

#[test]
fn memory_does_not_grow_with_extents() {
    let large = [1, 64, 1000, 1000];
    for cluster in further(&[HOST, MIXED], &[THREE]) {
        survived(
            "large",
            graph(vec![op("Relu", &["x"], "a"), op("Exp", &["a"], "y")], Vec::new(), &large, &["y"]),
            cluster,
        );
        let chain: Vec<NodeProto> = (0..16)
            .map(|at| {
                let (from, to) = (if at == 0 { "x".to_string() } else { format!("t{at}") }, format!("t{}", at + 1));
                let kernel = ints("kernel_shape", &[3, 3]);
                node("MaxPool", &[&from], &[&to], vec![kernel, ints("pads", &[1; 4])])
            })
            .collect();
        survived("large pools", graph(chain, Vec::new(), &large, &["t16"]), cluster);
    }
    // Constants that nodes make, each as large as is allowed.
    let sizes = integers("s", &[1 << 25]);
    let nodes = vec![
        op("ConstantOfShape", &["s"], "c"),
        op("Exp", &["c"], "d"),
        op("Neg", &["d"], "e"),
        op("Add", &["d", "e"], "f"),
        node("ReduceMean", &["f"], &["g"], vec![int("keepdims", 0)]),
        op("Add", &["x", "g"], "y"),
    ];
    survived("constants", graph(nodes, vec![sizes], &[1, 4], &["y"]), HOST);
}

#[test]
fn arithmetic_and_constants_are_limited_before_they_begin() {
    let filled = |shape: &str, result: &str| op("ConstantOfShape", &[shape], result);
    let shapes =
        vec![integers("image", &[1, 16, 512, 512]), integers("filters", &[16, 16, 65, 65]), integers("zero", &[1])];
    let nodes = vec![filled("image", "a"), filled("filters", "b"), op("Conv", &["a", "b"], "c")];
    let sum = [op("ReduceSum", &["c", "zero"], "d"), op("Add", &["x", "d"], "y")];
    survived("folded convolution", graph([nodes, sum.to_vec()].concat(), shapes, &[1], &["y"]), HOST);
    let nodes = vec![filled("s", "a"), op("MatMul", &["a", "a"], "b"), op("Add", &["x", "b"], "y")];
    survived("folded product", graph(nodes, vec![integers("s", &[4096, 4096])], &[1], &["y"]), HOST);
    // Masks and the like of the input's size.
    let large = [20_000, 20_000];
    let resize = node("Resize", &["x", "", "", "s"], &["y"], vec![text("mode", "cubic")]);
    for (what, constants) in [
        (op("EyeLike", &["x"], "y"), Vec::new()),
        (op("Trilu", &["x"], "y"), Vec::new()),
        (node("Hardmax", &["x"], &["y"], vec![int("axis", 0)]), Vec::new()),
        (node("Pad", &["x", "p"], &["y"], vec![text("mode", "wrap")]), vec![integers("p", &[1 << 19, 0, 0, 1 << 19])]),
        (resize, vec![integers("s", &[1, 1 << 31])]),
    ] {
        let name = what.op_type.clone();
        let output = simulate(&name, graph(vec![what], constants, &large, &["y"]), HOST);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("error[E0122]"), "{name}: {text}");
    }
}

#[test]
fn wide_graphs_take_time_by_their_size() {
    let names: Vec<String> = (0..20_000).map(|index| format!("t{index}")).collect();
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    let relus =
        |count: usize| -> Vec<NodeProto> { named[..count].iter().map(|name| op("Relu", &["x"], name)).collect() };
    for (cluster, count) in [(HOST, many(8000)), (THREE, many(1000))] {
        survived("many outputs", graph(relus(count), Vec::new(), &[1, 4], &named[..count]), cluster);
        let mut nodes = relus(count);
        nodes.push(node("Concat", &named[..count], &["y"], vec![int("axis", 1)]));
        survived("wide concat", graph(nodes, Vec::new(), &[1, 4], &["y"]), cluster);
        let mut nodes = relus(count);
        nodes.push(op("Sum", &named[..count], "y"));
        survived("wide sum", graph(nodes, Vec::new(), &[1, 4], &["y"]), cluster);
    }
    // One operand again and again, and pieces of one tensor.
    let again = vec!["x"; many(10_000)];
    survived(
        "one operand",
        graph(vec![node("Concat", &again, &["y"], vec![int("axis", 1)])], Vec::new(), &[1, 4], &["y"]),
        HOST,
    );
    let mut nodes = vec![node("Split", &["x"], &named[..4000], vec![int("axis", 1)])];
    nodes.push(node("Concat", &named[..4000], &["y"], vec![int("axis", 2)]));
    survived("split", graph(nodes, Vec::new(), &[1, 4000, 2], &["y"]), HOST);
}

#[test]
fn deep_and_dense_graphs_take_time_by_their_size() {
    let chain = |count: usize, op_type: &str| -> Vec<NodeProto> {
        (0..count)
            .map(|at| {
                let from = if at == 0 { "x".to_string() } else { format!("t{at}") };
                let to = if at + 1 == count { "y".to_string() } else { format!("t{}", at + 1) };
                op(op_type, &[&from], &to)
            })
            .collect()
    };
    survived("long chain", graph(chain(many(20_000), "Exp"), Vec::new(), &[1, 4], &["y"]), HOST);
    survived("chain of three devices", graph(chain(many(1500), "Exp"), Vec::new(), &[1, 4], &["y"]), THREE);
    survived("identities", graph(chain(many(20_000), "Identity"), Vec::new(), &[1, 4], &["y"]), HOST);
    let count = many(12_000);
    let convs: Vec<NodeProto> = (0..count)
        .map(|at| {
            let from = if at == 0 { "x".to_string() } else { format!("t{at}") };
            op("Conv", &[&from, "w"], &format!("t{}", at + 1))
        })
        .collect();
    let weights = constant("w", &[4, 4, 1, 1], vec![0.5; 16]);
    survived("convolutions", graph(convs, vec![weights], &[1, 4, 2, 2], &[&format!("t{count}")]), HOST);
    // Each node reads all before it.
    let names: Vec<String> = (0..300).map(|index| format!("t{index}")).collect();
    let nodes: Vec<NodeProto> = (0..300)
        .map(|at| {
            let inputs: Vec<&str> = std::iter::once("x").chain(names[..at].iter().map(String::as_str)).collect();
            op("Sum", &inputs, &names[at])
        })
        .collect();
    survived("everybody reads everybody", graph(nodes.clone(), Vec::new(), &[1, 4], &["t299"]), HOST);
    let few = GraphProto { node: nodes[..40].to_vec(), ..graph(Vec::new(), Vec::new(), &[1, 4], &["t39"]) };
    survived("everybody reads everybody, on three", few, THREE);
}

/// On several devices the network is run to see what its links may send, unless that takes too long; operators that multiply
/// nothing take time, too.
#[test]
fn networks_that_are_slow_to_run_are_not_run() {
    let pool = node("MaxPool", &["x"], &["y"], vec![ints("kernel_shape", &[2000; 2]), ints("pads", &[999; 4])]);
    accepted("large windows", graph(vec![pool], vec![], &[1, 1, 4000, 4000], &["y"]), THREE);
    let regions = constant("r", &[100, 4], (0..400).map(|at| (at % 4) as f32 * 9.0).collect());
    let batch = integers("b", &[0; 100]);
    let (rows, columns) = (int("output_height", 100), int("output_width", 100));
    let align = node("RoiAlign", &["x", "r", "b"], &["y"], vec![rows, columns, int("sampling_ratio", 1000)]);
    accepted("many samples", graph(vec![align], vec![regions, batch], &[1, 4, 64, 64], &["y"]), THREE);
    let chain = many(6000);
    let node = |at: usize| op("Tanh", &[&format!("t{at}")], &format!("t{}", at + 1));
    let mut nodes: Vec<NodeProto> = (0..chain).map(node).collect();
    nodes[0].input = vec!["x".to_string()];
    nodes[chain - 1].output = vec!["y".to_string()];
    accepted("a long chain", graph(nodes, vec![], &[1, 8], &["y"]), THREE);
    // Nobody can reach the others.
    let alone = HOST.replace("input = \"d\"\noutput = \"d\"", "input = \"d-0\"\noutput = \"d-0\"");
    let relu = graph(vec![op("Relu", &["x"], "y")], vec![], &[1, 8], &["y"]);
    accepted("devices without links", relu, &format!("{alone}count = 500\n"));
}

#[test]
fn numbers_in_files_and_options_have_ranges() {
    let small = || graph(vec![op("Relu", &["x"], "y")], Vec::new(), &[1, 4], &["y"]);
    let refused = |cluster: String| {
        let output = simulate("cluster", small(), &cluster);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains("error[E016"), "{text}");
    };
    refused(HOST.replace("target = \"host\"", "target = \"host\"\ncpu = 1e-300"));
    refused(THREE.replace("100 Mbit/s", "0.001 bit/s"));
    refused(HOST.replace("\"host\"", "\"/dev/zero\""));
    refused(HOST.replace("\"host\"", "\"./\""));
    // The slowest and the fastest that are taken, together.
    let slow =
        THREE.replace("target = \"host\"", "target = \"host\"\ncpu = 0.001").replace("100 Mbit/s", "1000 Gbit/s");
    let weights = constant("w", &[64, 64, 3, 3], vec![0.5; 36864]);
    let conv = node("Conv", &["x", "w"], &["y"], vec![ints("pads", &[1; 4])]);
    survived(
        "slow devices, fast links",
        graph(vec![conv.clone()], vec![weights.clone()], &[1, 64, 150, 150], &["y"]),
        &slow,
    );
    let slow_links = THREE.replace("100 Mbit/s", "100 bit/s");
    survived("slow links", graph(vec![conv], vec![weights], &[1, 64, 150, 150], &["y"]), &slow_links);
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = onnx::model(17, small()).write_to_bytes().expect("bytes");
    std::fs::write(folder.path().join("model.onnx"), bytes).expect("written");
    std::fs::write(folder.path().join("cluster.toml"), HOST).expect("written");
    for latency in ["nan", "inf", "-1", "0", "1e300"] {
        let option = format!("--max-latency={latency}");
        let output = run("latency", folder.path(), &["model.onnx", "--targets", "cluster.toml", "--simulate", &option]);
        assert_eq!(output.status.code(), Some(2), "{latency}");
    }
    for option in ["--measured", "--tuned", "--plan"] {
        for file in ["/dev/zero", "/", "missing"] {
            let arguments = ["model.onnx", "--targets", "cluster.toml", "--simulate", option, file];
            let output = run(option, folder.path(), &arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && text.contains("error[E01"), "{option} {file}: {text}");
        }
    }
}
