//! Numbers that are out of the ordinary, through whole programs: NaN, infinity, what is too large for Winograd's algorithm, sums
//! of a million elements, and what the compiler says of such weights.

use std::path::{Path, PathBuf};

use onnx_protobuf::{GraphProto, Message, NodeProto, TensorProto};
use partita::data::{self, noise};
use partita::graph::{Data, TensorType, Value, eval};
use partita::onnx::{ImportOptions, import};
use partita_tests::bundle::{ClusterText, read_report};
use partita_tests::command::{compile, require, succeed};
use partita_tests::onnx;
use partita_tests::place::further;

/// Kinds of inputs.
const ORDINARY: &str = "ordinary";
const LARGE: &str = "large";
const SPOILT: &str = "NaN and infinity";

fn save(folder: &Path, graph: GraphProto) -> PathBuf {
    let path = folder.join("model.onnx");
    let bytes = onnx::model(13, graph).write_to_bytes().expect("it can be written");
    std::fs::write(&path, bytes).expect("the folder can be written");
    path
}

fn elements(shape: &[usize], seed: u64, factor: f32) -> Vec<f32> {
    let noise = noise(&TensorType::f32(shape.to_vec()), seed);
    noise.as_f32().expect("it is f32").iter().map(|x| x * factor).collect()
}

fn named(name: &str, node: NodeProto) -> NodeProto {
    NodeProto { name: name.to_string(), ..node }
}

/// Two convolutions with a skip connection, and a pool.
fn network(folder: &Path) -> PathBuf {
    let weights = |name: &str, shape: [i64; 4], seed: u64| {
        let extents = shape.map(|extent| extent as usize);
        onnx::constant(name, &shape, elements(&extents, seed, 0.05))
    };
    let conv = |name: &str, x: &str, w: &str, y: &str| {
        let attributes = vec![onnx::ints("kernel_shape", &[3, 3]), onnx::ints("pads", &[1, 1, 1, 1])];
        named(name, onnx::node("Conv", &[x, w], &[y], attributes))
    };
    let pool = vec![onnx::ints("kernel_shape", &[2, 2]), onnx::ints("strides", &[2, 2])];
    let graph = GraphProto {
        name: "numbers".to_string(),
        node: vec![
            conv("one", "x", "w1", "a"),
            named("relu", onnx::node("Relu", &["a"], &["b"], vec![])),
            conv("two", "b", "w2", "c"),
            onnx::node("Add", &["b", "c"], &["d"], vec![]),
            onnx::node("MaxPool", &["d"], &["y"], pool),
            onnx::node("ReduceMean", &["d"], &["mean"], vec![onnx::ints("axes", &[1, 2, 3]), onnx::int("keepdims", 0)]),
        ],
        input: vec![onnx::value_info("x", &[1, 32, 24, 20])],
        output: vec![onnx::value_info("y", &[1, 32, 12, 10]), onnx::value_info("mean", &[1])],
        initializer: vec![weights("w1", [32, 32, 3, 3], 1), weights("w2", [32, 32, 3, 3], 2)],
        ..GraphProto::default()
    };
    save(folder, graph)
}

/// NaN and infinity where the reference has them, and close to it elsewhere.
fn assert_same(label: &str, found: &[f32], expected: &[f32]) {
    let scale = expected.iter().filter(|x| x.is_finite()).fold(1e-3f32, |scale, x| scale.max(x.abs()));
    assert_eq!(found.len(), expected.len(), "{label}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = match expected {
            expected if expected.is_nan() => found.is_nan(),
            expected if expected.is_infinite() => found == expected,
            expected => (found - expected).abs() <= 1e-4 * scale,
        };
        assert!(same, "{label}: element {index} is {found}, expected {expected}");
    }
}

/// Compiles and runs on these kinds of inputs; every answer is the reference kernels'.
fn check(label: &str, kinds: &[&str], cluster: &ClusterText, more: &[&str], is_winograd: bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = network(folder.path());
    let graph = import(&model, &ImportOptions::default()).expect("it imports");
    let (out, input, answer) =
        (folder.path().join("out"), folder.path().join("input.npz"), folder.path().join("answer.npz"));
    let shape = [1, 32, 24, 20];
    let count: usize = shape.iter().product();
    let mut spoilt = elements(&shape, 7, 1.0);
    spoilt[count / 2 + 7] = f32::NAN;
    spoilt[count / 3] = f32::INFINITY;
    let inputs =
        [(ORDINARY, elements(&shape, 7, 1.0)), (LARGE, elements(&shape, 7, 1e36)), (SPOILT, spoilt)].into_iter();
    for (kind, x) in inputs.filter(|(kind, _)| kinds.contains(kind)) {
        let value = Value { shape: shape.to_vec(), data: Data::F32(x) };
        data::write_npz(&input, &vec![("x".to_string(), value.clone())]).expect("it can be written");
        let mut command = compile();
        command.arg(&model).arg("--targets").arg(cluster.write(folder.path())).arg("--out").arg(&out);
        // Halves have no place for numbers this large.
        command.args(["--link-error", "exact", "--run", "--input"]).arg(&input).arg("--output").arg(&answer).args(more);
        succeed(&mut command);
        let expected = eval::evaluate(&graph, &[value]).expect("it can be evaluated");
        let found = data::read_npz(&answer).expect("the answer");
        for (name, expected) in ["y", "mean"].iter().zip(&expected) {
            let found = found.iter().find(|(other, _)| other == name).map(|(_, value)| value).expect("it is there");
            let label = format!("{label}, {kind}, {name}");
            assert_same(&label, found.as_f32().expect("f32"), expected.as_f32().expect("f32"));
        }
    }
    let report = read_report(&out);
    let layers = report["layers"].as_array().expect("the report lists layers");
    let winograd = layers.iter().filter(|layer| layer["minimal_filtering"]["direct_from"].is_number()).count();
    assert_eq!(winograd > 0, is_winograd, "{label}: {winograd} layers are done by Winograd's algorithm");
}

#[test]
fn nan_infinity_and_large_numbers_on_this_machine() {
    let threads = ClusterText::new("one", "one").device("one", "host", "threads = 2");
    check("two threads", &[ORDINARY, LARGE, SPOILT], &threads, &[], true);
    check("exact", &further(&[LARGE], &[ORDINARY, SPOILT]), &ClusterText::single("host"), &["--exact"], false);
    let pair =
        ClusterText::new("a", "b").device("a", "host", "").device("b", "host", "").link("a", "b", "tcp", "10 Gbit/s");
    check("two devices", &further(&[SPOILT], &[ORDINARY, LARGE]), &pair, &["--strategy", "lop"], true);
}

#[test]
fn nan_infinity_and_large_numbers_on_other_machines() {
    require("qemu-aarch64");
    let kinds = further(&[SPOILT], &[ORDINARY, LARGE]);
    check("AArch64", &kinds, &ClusterText::single("raspberry-pi-4"), &[], true);
}

/// What a compilation says and reports.
fn compiled(graph: GraphProto) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = save(folder.path(), graph);
    let out = folder.path().join("out");
    let mut command = compile();
    command.arg(&model).arg("--targets").arg(ClusterText::single("host").write(folder.path())).arg("--out").arg(&out);
    let output = succeed(&mut command);
    (String::from_utf8_lossy(&output.stderr).into_owned(), read_report(&out))
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let model = |weight: f32| GraphProto {
        name: "weights".to_string(),
        node: vec![onnx::node("MatMul", &["x", "diverged"], &["y"], vec![])],
        input: vec![onnx::value_info("x", &[1, 2])],
        output: vec![onnx::value_info("y", &[1, 2])],
        initializer: vec![onnx::constant("diverged", &[2, 2], vec![1.0, weight, 2.0, 3.0])],
        ..GraphProto::default()
    };
    for (weight, word) in [(f32::NAN, "1 NaN of 4"), (f32::INFINITY, "1 infinite of 4")] {
        let (said, report) = compiled(model(weight));
        assert!(said.contains("warning[W0132]") && said.contains(&format!("`diverged`: {word}")), "{said}");
        assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1));
    }
    let (said, report) = compiled(model(0.5));
    assert!(!said.contains("warning") && report["warnings"].as_array().is_some_and(Vec::is_empty), "{said}");
}

/// A quantized convolution of so many channels, whose weights are all the same.
fn quantized(channels: i64, weight: i32) -> GraphProto {
    let byte = |name: &str, dims: &[i64], elements: Vec<i32>| TensorProto {
        name: name.to_string(),
        dims: dims.to_vec(),
        data_type: 3,
        int32_data: elements,
        ..TensorProto::default()
    };
    let scale = |name: &str| onnx::constant(name, &[], vec![0.5]);
    let pads = vec![onnx::ints("kernel_shape", &[3, 3]), onnx::ints("pads", &[1, 1, 1, 1])];
    GraphProto {
        name: "quantized".to_string(),
        node: vec![
            named("q", onnx::node("QuantizeLinear", &["x", "s", "zero"], &["xq"], vec![])),
            named("d", onnx::node("DequantizeLinear", &["xq", "s", "zero"], &["xd"], vec![])),
            named("dw", onnx::node("DequantizeLinear", &["w", "s", "zero"], &["wd"], vec![])),
            named("wide", onnx::node("Conv", &["xd", "wd"], &["c"], pads)),
            named("q2", onnx::node("QuantizeLinear", &["c", "s", "zero"], &["cq"], vec![])),
            named("d2", onnx::node("DequantizeLinear", &["cq", "s", "zero"], &["y"], vec![])),
        ],
        input: vec![onnx::value_info("x", &[1, channels, 4, 4])],
        output: vec![onnx::value_info("y", &[1, 8, 4, 4])],
        initializer: vec![
            scale("s"),
            byte("zero", &[], vec![0]),
            byte("w", &[8, channels, 3, 3], vec![weight; (8 * channels * 9) as usize]),
        ],
        ..GraphProto::default()
    }
}

#[test]
fn sums_of_whole_numbers_that_may_be_rounded_are_named() {
    let (said, report) = compiled(quantized(1024, -127));
    let most = 1024.0 * 9.0 * 128.0 * 127.0;
    assert!(said.contains("warning[W0133]") && said.contains("node `wide` (Conv)"), "{said}");
    assert!(said.contains("149815296") && said.contains("8.9 times 2^24"), "{said}");
    let layers = report["layers"].as_array().expect("the report lists layers");
    let found: Vec<f64> = layers.iter().filter_map(|layer| layer["inexact_sums_up_to"].as_f64()).collect();
    assert_eq!(found, [most]);
    let (said, _) = compiled(quantized(64, 100));
    assert!(!said.contains("warning"), "{said}");
}
