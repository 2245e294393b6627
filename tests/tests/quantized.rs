//! Quantized models (QDQ): answers are those of onnxruntime to the last digit, on every kind of device and however the
//! layers are split.

use std::path::{Path, PathBuf};

use partita::data;
use partita::graph::Value;
use partita::graph::eval;
use partita::onnx::{ImportOptions, import};
use partita_tests::bundle::ClusterText;
use partita_tests::command::{compile, require, succeed};
use partita_tests::place;

/// Compiles, runs on the inputs in `reference`, and compares every array of the answer.
fn check(label: &str, model: &Path, cluster: &ClusterText, reference: &Path, more: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let answer = folder.path().join("answer.npz");
    let mut command = compile();
    command.arg(model).arg("--targets").arg(cluster.write(folder.path()));
    command.arg("--out").arg(folder.path().join("out")).args(["--run", "--input"]).arg(reference);
    succeed(command.arg("--output").arg(&answer).args(more));
    let expected = data::read_npz(reference).expect("the reference");
    let found = data::read_npz(&answer).expect("the answer");
    assert!(!found.is_empty(), "{label}: there is no answer");
    for (name, value) in found {
        let expected = expected.iter().find(|(other, _)| *other == name).map(|(_, value)| value);
        assert_eq!(Some(&value), expected, "{label}: output `{name}`");
    }
}

#[test]
fn a_network_answers_exactly_on_every_target() {
    for emulator in ["qemu-aarch64", "qemu-arm", "qemu-system-arm"] {
        require(emulator);
    }
    let folder = place::repository().join("tests/conformance/vectors");
    let (model, reference) = (folder.join("quantized_network.onnx"), folder.join("quantized_network.npz"));
    for target in ["host", "raspberry-pi-4", "armv7", "cortex-m7"] {
        check(&format!("on {target}"), &model, &ClusterText::single(target), &reference, &[]);
    }
}

/// Models of MLPerf Tiny, where they are at hand.
fn real_models() -> Vec<PathBuf> {
    let folder = place::shared().map(|folder| folder.join("data/models")).unwrap_or_default();
    let found = place::files_below(&folder, &|path| path.to_string_lossy().ends_with("_int8qdq.onnx"));
    if found.is_empty() {
        println!("skipped: there are no quantized models beside the repository");
    }
    found
}

#[test]
fn real_models_answer_as_onnxruntime_does() {
    for path in real_models() {
        let golden = path.parent().and_then(Path::parent).expect("models lie in a folder").join("golden");
        let golden = golden.join(path.file_name().expect("a file")).with_extension("npz");
        let arrays = data::read_npz(&golden).expect("the answers");
        let array =
            |name: &str| arrays.iter().find(|(other, _)| other == name).map(|(_, value)| value).expect("an array");
        let graph = import(&path, &ImportOptions::default()).expect("it imports");
        let one = |all: &Value, sample: usize| -> Vec<f32> {
            let count = all.data.len() / all.shape[0];
            data::to_f32(&all.data)[sample * count..(sample + 1) * count].to_vec()
        };
        for sample in 0..array("in_0").shape[0] {
            let wanted = graph.tensor_type(graph.inputs[0]);
            let elements = data::from_f32(one(array("in_0"), sample), wanted.element);
            let input = Value { shape: wanted.shape.clone(), data: elements };
            let answers = eval::evaluate(&graph, &[input]).expect("it can be evaluated");
            let expected = one(array("out_0"), sample);
            assert_eq!(data::to_f32(&answers[0].data), expected, "{}, sample {sample}", path.display());
        }
    }
}

#[test]
fn split_models_answer_as_whole_ones() {
    let three = ["a", "b", "c"]
        .iter()
        .fold(ClusterText::new("a", "a"), |cluster, name| cluster.device(name, "host", "cpu = 0.01"));
    let three = three.network(&["a", "b", "c"], "bandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, strategies) in real_models().into_iter().zip([vec!["lip", "ftp"], vec!["lop", "fused"]]) {
        let graph = import(&path, &ImportOptions::default()).expect("it imports");
        let input = data::noise(graph.tensor_type(graph.inputs[0]), 3);
        let answers = eval::evaluate(&graph, std::slice::from_ref(&input)).expect("it can be evaluated");
        let outputs = graph.outputs.iter().zip(answers);
        let outputs = outputs.map(|(output, value)| (graph.tensor(*output).name.clone(), value));
        let input = (graph.tensor(graph.inputs[0]).name.clone(), input);
        let reference = folder.path().join("reference.npz");
        data::write_npz(&reference, &std::iter::once(input).chain(outputs).collect()).expect("it is writable");
        for strategy in strategies {
            let label = format!("{}, {strategy}", path.display());
            check(&label, &path, &three, &reference, &["--strategy", strategy]);
        }
    }
}
