//! A model that has exits already, from `--exit-outputs` to running processes.

use std::path::Path;
use std::process::Output;

use onnx_protobuf::{GraphProto, Message, ModelProto};
use partita::data::write_npz;
use partita::graph::{Data, Value};
use partita_tests::bundle::{ClusterText, read_report};
use partita_tests::command::compile;
use partita_tests::onnx::{self, constant, ints, node, value_info};

const CLASSES: usize = 4;
const EXTENT: usize = 12;

/// The class is the channel with the largest mean. The trunk hands its input on through two convolutions and averages
/// all of it; `early` averages every fourth row and column of it and is right whenever the matter is clear; `blind` says
/// the same of everything.
fn model() -> ModelProto {
    let classes = CLASSES as i64;
    let identity = |rows: usize, columns: usize, kernel: usize, scale: f32| -> Vec<f32> {
        let middle = kernel * kernel / 2;
        (0..rows * columns * kernel * kernel)
            .map(|at| {
                let (row, rest) = (at / (columns * kernel * kernel), at % (columns * kernel * kernel));
                let hit = row == rest / (kernel * kernel) && rest % (kernel * kernel) == middle;
                if hit { scale } else { 0.0 }
            })
            .collect()
    };
    let (wide, pads) = (16, ints("pads", &[1, 1, 1, 1]));
    let nodes = vec![
        node("Conv", &["x", "first"], &["a"], vec![pads.clone()]),
        node("Conv", &["a", "middle"], &["b"], vec![pads]),
        node("GlobalAveragePool", &["b"], &["mean"], vec![]),
        node("Flatten", &["mean"], &["row"], vec![]),
        node("Gemm", &["row", "head", "no"], &["scores"], vec![]),
        node("Softmax", &["scores"], &["last"], vec![]),
        node("Conv", &["a", "sample"], &["some"], vec![ints("strides", &[4, 4])]),
        node("GlobalAveragePool", &["some"], &["early_mean"], vec![]),
        node("Flatten", &["early_mean"], &["early_row"], vec![]),
        node("Gemm", &["early_row", "early_head", "no"], &["early_scores"], vec![]),
        node("Softmax", &["early_scores"], &["early"], vec![]),
        node("Gemm", &["early_row", "nothing", "no"], &["blind"], vec![]),
    ];
    let initializers = vec![
        constant("first", &[wide, classes, 3, 3], identity(16, CLASSES, 3, 1.0)),
        constant("middle", &[wide, wide, 3, 3], identity(16, 16, 3, 1.0)),
        constant("sample", &[classes, wide, 1, 1], identity(CLASSES, 16, 1, 1.0)),
        constant("head", &[wide, classes], identity(16, CLASSES, 1, 40.0)),
        constant("early_head", &[classes, classes], identity(CLASSES, CLASSES, 1, 10.0)),
        constant("nothing", &[classes, classes], vec![0.0; CLASSES * CLASSES]),
        constant("no", &[classes], vec![0.0; CLASSES]),
    ];
    let graph = GraphProto {
        name: "branchy".to_string(),
        node: nodes,
        initializer: initializers,
        input: vec![value_info("x", &[1, classes, EXTENT as i64, EXTENT as i64])],
        output: ["early", "blind", "last"].iter().map(|name| value_info(name, &[1, classes])).collect(),
        ..GraphProto::default()
    };
    onnx::model(17, graph)
}

/// Noise, and in one channel something more: much, or little.
fn samples(path: &Path, count: usize, mut state: u64) {
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut x = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..count {
        let class = (next() * CLASSES as f32) as usize % CLASSES;
        let more = 0.15 + next() * 0.9;
        for channel in 0..CLASSES {
            let mean = if channel == class { more } else { 0.0 };
            x.extend((0..EXTENT * EXTENT).map(|_| mean + 2.0 * next() - 1.0));
        }
        labels.push(class as i64);
    }
    let x = Value::f32([count, CLASSES, EXTENT, EXTENT], x);
    let y = Value { shape: vec![count], data: Data::I64(labels) };
    write_npz(path, &vec![("x".to_string(), x), ("y".to_string(), y)]).expect("the folder is writable");
}

/// Compiles the model with these outputs as exits and evaluates it on other samples.
fn compiled(folder: &Path, outputs: &str) -> Output {
    let bytes = model().write_to_bytes().expect("the model is sound");
    std::fs::write(folder.join("branchy.onnx"), bytes).expect("the folder is writable");
    samples(&folder.join("calibration.npz"), 600, 1);
    samples(&folder.join("test.npz"), 200, 2);
    let cluster = ClusterText::new("a", "b").device("a", "host", "cpu = 0.01").device("b", "host", "cpu = 0.01");
    let cluster = cluster.network(&["a", "b"], "bandwidth = \"100 Mbit/s\"").write(folder);
    let mut command = compile();
    command.arg(folder.join("branchy.onnx")).arg("--targets").arg(cluster).arg("--out").arg(folder.join("out"));
    command.arg("--calibration").arg(folder.join("calibration.npz")).args(["--exit-outputs", outputs]);
    command.args(["--strategy", "pipeline", "--evaluate"]).arg(folder.join("test.npz"));
    command.output().expect("compile starts")
}

#[test]
fn branches_that_pay_become_exits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = compiled(folder.path(), "blind,early");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("differ"), "devices and reference kernels decide differently:\n{said}");
    let report = read_report(&folder.path().join("out"));
    let exits = report["exits"].as_array().expect("the report lists exits");
    // The blind one is gone with its branch.
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!(exits[0]["head_parameters"], 0);
    let layers = report["layers"].to_string();
    assert!(!layers.contains("nothing"), "{layers}");
    let evaluation = &report["evaluation"];
    let share = evaluation["exit_shares"][0].as_f64().expect("a share");
    assert!((0.3..1.0).contains(&share), "{share} of all samples leave early");
    assert!(evaluation["accuracy"].as_f64().expect("a number") > 0.95, "{evaluation}");
    let (mean, worst) = (&evaluation["mean_macs"], &report["calibration"]["worst_macs"]);
    assert!(mean.as_f64().expect("a number") < worst.as_f64().expect("a number"), "{mean} against {worst}");
}

#[test]
fn outputs_that_are_no_exits_are_refused() {
    let refusal = |outputs: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = compiled(folder.path(), outputs);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!folder.path().join("out").exists(), "nothing is written");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let unknown = refusal("early,late");
    assert!(unknown.contains("no output `late`") && unknown.contains("`early`, `blind`, `last`"), "{unknown}");
    let all = refusal("early,blind,last");
    assert!(all.contains("must leave one output"), "{all}");
    let twice = refusal("early,early");
    assert!(twice.contains("twice"), "{twice}");
}
