//! Post-training quantization (`--quantize int8`), from calibration samples to whole numbers that onnxruntime computes, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use partita::data::{self, read_npz, write_npz};
use partita::driver::{self, Compiled, Failure, Options};
use partita::graph::{Data, ElementType, Graph, Value, eval};
use partita::onnx::{ImportOptions, import};
use partita::{passes, usage};
use partita_tests::bundle::{ClusterText, read_report};
use partita_tests::command::{compile, succeed};
use partita_tests::place;

fn example(name: &str) -> PathBuf {
    place::repository().join("examples/resnet").join(name)
}

/// The ResNet example for this machine, quantized, with these words.
fn quantized(folder: &Path, words: &[&str]) -> Result<Compiled, Failure> {
    let cluster = ClusterText::single("host").write(folder);
    let calibration = example("calibration.npz");
    let calibration = calibration.to_string_lossy();
    let all = ["compile", "m.onnx", "--targets", "c.toml", "--quantize", "int8", "--calibration", &calibration];
    let arguments = usage::parse(all.iter().chain(words).map(std::ffi::OsString::from)).expect("the words are sound");
    driver::compile(&example("model.onnx"), &cluster, &Options::of(&arguments), &mut ())
}

/// Samples of the example's test data.
fn samples(count: usize) -> Vec<Value> {
    let arrays = read_npz(&example("test.npz")).expect("the example has samples");
    let x = &arrays.iter().find(|(name, _)| name == "x").expect("it has inputs").1;
    let shape: Vec<usize> = std::iter::once(1).chain(x.shape[1..].iter().copied()).collect();
    let size = shape.iter().product();
    let elements = data::to_f32(&x.data);
    elements.chunks_exact(size).take(count).map(|sample| Value::f32(shape.clone(), sample.to_vec())).collect()
}

fn answers(graph: &Graph, samples: &[Value]) -> Vec<f32> {
    let answer = |sample: &Value| eval::evaluate(graph, std::slice::from_ref(sample)).expect("it is computed");
    samples.iter().flat_map(|sample| data::to_f32(&answer(sample)[0].data)).collect()
}

/// A Python that has onnxruntime, if there is one: in the repository's environment, or on the path.
fn python() -> Option<PathBuf> {
    let own = place::repository().join(".venv/bin/python");
    let has = |program: &PathBuf| {
        let mut command = Command::new(program);
        command.args(["-c", "import numpy, onnxruntime"]).output().is_ok_and(|output| output.status.success())
    };
    [own, PathBuf::from("python3")].into_iter().find(has)
}

/// Answers one sample after the other.
const ONNXRUNTIME: &str = "import sys, numpy, onnxruntime\n\
    session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n\
    name = session.get_inputs()[0].name\n\
    x = numpy.load(sys.argv[2])['x']\n\
    numpy.savez(sys.argv[3], y=numpy.stack([session.run(None, {name: one})[0] for one in x]))\n";

#[test]
fn whole_numbers_are_those_of_the_model_that_is_written_and_onnxruntime_agrees() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let written = folder.path().join("quantized.onnx");
    let compiled = quantized(folder.path(), &["--write-onnx", &written.to_string_lossy()]).expect("it compiles");
    let report = compiled.quantization.as_ref().expect("it is quantized");
    assert!(report.layers.iter().all(|layer| layer.numbers == "int8"), "{:?}", report.layers);
    assert!(report.signal_to_noise_db > 25.0, "{} dB", report.signal_to_noise_db);
    assert!(report.weights_bytes * 3 < report.real_weights_bytes, "{} bytes", report.weights_bytes);
    let accuracy = report.accuracy.as_ref().expect("it is a classifier");
    assert!(accuracy.labelled && accuracy.loss <= 0.01 && accuracy.quantized_range.0 < accuracy.quantized);
    // Every product's weights are whole, and what products read lies in a byte.
    let graph = &compiled.graph;
    let mut products = 0;
    for id in graph.node_ids() {
        let node = graph.node(id);
        if matches!(node.op, partita::graph::Op::Conv(_) | partita::graph::Op::Gemm(_)) {
            assert!(graph.is_whole(node.inputs[1]), "{}", node.name);
            assert!(matches!(graph.stored(node.inputs[0]).element, ElementType::I8 | ElementType::U8), "{}", node.name);
            products += 1;
        }
    }
    assert_eq!(products, report.layers.len());

    let samples = samples(16);
    let own = answers(graph, &samples);
    let mut again = import(&written, &ImportOptions::default()).expect("what is written is read");
    assert_eq!(answers(&again, &samples), own, "as it is read");
    // Compiling it puts the scale of the scores, which nothing multiplies any more, into the weights of the last layer.
    passes::simplify(&mut again, &mut |_, _, _| {}).expect("it can be simplified");
    let largest = own.iter().fold(0.0f32, |largest, score| largest.max(score.abs()));
    for (simplified, own) in answers(&again, &samples).iter().zip(&own) {
        assert!((simplified - own).abs() <= 1e-6 * largest, "{simplified} is not {own}");
    }

    let Some(python) = python() else {
        println!("skipped: no Python has numpy and onnxruntime (pip install numpy onnxruntime)");
        return;
    };
    let (given, found) = (folder.path().join("x.npz"), folder.path().join("y.npz"));
    let shape: Vec<usize> = std::iter::once(samples.len()).chain(samples[0].shape.iter().copied()).collect();
    let all = samples.iter().flat_map(|sample| data::to_f32(&sample.data)).collect();
    write_npz(&given, &vec![("x".to_string(), Value::f32(shape, all))]).expect("the folder is ours");
    let mut command = Command::new(python);
    succeed(command.args(["-c", ONNXRUNTIME]).arg(&written).arg(&given).arg(&found));
    let found = read_npz(&found).expect("it has answered");
    assert_eq!(data::to_f32(&found[0].1.data), own, "onnxruntime's answers");
}

#[test]
fn devices_compute_the_same_whole_numbers_however_they_share_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = ["a", "b", "c"]
        .iter()
        .fold(ClusterText::new("a", "a"), |cluster, name| cluster.device(name, "host", "cpu = 0.01"));
    let cluster = cluster.network(&["a", "b", "c"], "bandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"");
    let out = folder.path().join("out");
    let mut command = compile();
    command.arg(example("model.onnx")).arg("--targets").arg(cluster.write(folder.path())).arg("--out").arg(&out);
    command.args([
        "--quantize",
        "int8",
        "--quantize-ranges",
        "min-max",
        "--strategy",
        "lop",
        "--verify",
        "--calibration",
    ]);
    command.arg(example("calibration.npz")).args(["--samples", "40", "--evaluate"]).arg(example("test.npz"));
    let output = succeed(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("verified 3 random inputs, largest relative difference 0.0e0"), "{said}");
    assert!(!said.contains("answers differ"), "{said}");
    let report = read_report(&out);
    partita_tests::schema::check_report(&report);
    assert_eq!(report["quantization"]["ranges"], "min-max");
    assert_eq!(report["accuracy"]["base"], report["accuracy"]["compiled"]);
    assert!(report["accuracy"]["compiled"].as_f64() >= Some(0.95), "{}", report["accuracy"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("quantized to int8: 10 of 10 layers"), "{said}");
}

#[test]
fn limits_that_cannot_be_proven_are_refused_with_what_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |words: &[&str]| quantized(folder.path(), words).expect_err("it is refused");
    // 128 samples prove no loss below 1.2816 / 129.
    let failure = refused(&["--max-loss", "0.005"]);
    let said = failure.to_string();
    assert!(matches!(failure, Failure::Infeasible(_)) && said.contains("E0194"), "{said}");
    assert!(said.contains("--max-loss 0.005") && said.contains("128 samples"), "{said}");
    let limited = quantized(folder.path(), &["--max-loss", "0.03"]).expect("that is proven");
    let report = limited.quantization.expect("it is quantized").accuracy.expect("it is a classifier");
    assert!(report.limits_by_hand && report.loss_bound <= 0.03, "{report:?}");
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = ClusterText::single("host").write(folder.path());
    let refused = |model: &Path, calibration: &Path| {
        let mut command = compile();
        command.arg(model).arg("--targets").arg(&cluster).arg("--simulate").arg("--quantize").arg("int8");
        let output = command.arg("--calibration").arg(calibration).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let network = place::repository().join("tests/conformance/vectors/quantized_network.onnx");
    let said = refused(&network, &example("calibration.npz"));
    assert!(said.contains("E0193") && said.contains("quantized already"), "{said}");
    let few = folder.path().join("few.npz");
    let x = Value { shape: vec![8, 3, 32, 32], data: Data::F32(vec![0.5; 8 * 3 * 32 * 32]) };
    write_npz(&few, &vec![("x".to_string(), x)]).expect("the folder is ours");
    let said = refused(&example("model.onnx"), &few);
    assert!(said.contains("E0192") && said.contains("8 calibration samples are too few"), "{said}");
}
