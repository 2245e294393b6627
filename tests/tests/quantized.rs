//! Quantized models (QDQ): answers are those of onnxruntime to the last digit, on every kind of device and however the
//! layers are split.

use std::path::{Path, PathBuf};

use onnx_protobuf::{AttributeProto, GraphProto, Message};
use partita::data;
use partita::graph::eval;
use partita::graph::{Data, Value};
use partita::onnx::{ImportOptions, import, import_bytes};
use partita_tests::bundle::ClusterText;
use partita_tests::command::{compile, require, succeed};
use partita_tests::onnx;
use partita_tests::place::{self, further};

/// A small network of all kinds of quantized layers.
fn network() -> PathBuf {
    place::repository().join("tests/conformance/vectors/quantized_network.onnx")
}

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
    // A Cortex-M7 computes as an M4F does. Bytes are multiplied in machine code; what rustc compiles beside it may be that for
    // a Raspberry Pi 4, which is compiled anyway.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let multiplies_bytes =
        variant("raspberry-pi-5", &[("cpu = \"cortex-a76\"", "cpu = \"cortex-a72\"")], folder.path());
    let always = ["host", "raspberry-pi-4", &multiplies_bytes, "armv7", "cortex-m4f", "cortex-m33", "cortex-m55"];
    for target in further(&always, &["raspberry-pi-5", "cortex-m7"]) {
        check(&format!("on {target}"), &network(), &ClusterText::single(target), &network().with_extension("npz"), &[]);
    }
}

/// Plans compete by sketches without weights, and reports are of programs with them: both know what is kept in bytes.
#[test]
fn plans_compete_by_what_is_reported() {
    for target in ["raspberry-pi-4", "raspberry-pi-5", "cortex-m4f"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = ClusterText::single(target).write(folder.path());
        let compiled = partita::driver::compile(&network(), &cluster, &partita::driver::Options::default(), &mut ())
            .unwrap_or_else(|failure| panic!("{failure}"));
        let alone = compiled.routed.placed.partition.single_device_ms.expect("one device can do it");
        let reported = compiled.routed.prediction.latency_ms;
        assert!(
            (alone - reported).abs() <= 1e-9 * reported,
            "{target}: {alone} ms competed, {reported} ms are reported"
        );
    }
}

/// A target of ours, changed; its path.
fn variant(target: &str, changes: &[(&str, &str)], folder: &Path) -> String {
    let path = place::repository().join("targets").join(format!("{target}.toml"));
    let mut text = std::fs::read_to_string(path).expect("a target of ours");
    for (from, to) in changes.iter().chain(&[(format!("name = \"{target}\"").as_str(), "name = \"variant\"")]) {
        assert!(text.contains(from), "{target} has no {from}");
        text = text.replacen(from, to, 1);
    }
    let path = folder.join("variant.toml");
    std::fs::write(&path, text).expect("the folder is ours");
    path.to_string_lossy().into_owned()
}

/// The host multiplies bytes in the widest vectors that it has; others have narrower ones.
#[test]
#[cfg(target_arch = "x86_64")]
fn bytes_are_multiplied_exactly_in_vectors_of_256_bits() {
    if !std::is_x86_feature_detected!("avxvnni") {
        println!("skipped: this processor has no AVX-VNNI");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The rest is compiled as for the host, which is compiled anyway.
    let changes = [("cpu = \"x86-64-v3\"", "cpu = \"native\""), ("[rate]", "dot-product = true\n\n[rate]")];
    let target = variant("x86-64-v3", &changes, folder.path());
    check("on AVX-VNNI", &network(), &ClusterText::single(&target), &network().with_extension("npz"), &[]);
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
    let models = std::iter::once(network()).chain(real_models());
    for (path, strategies) in models.zip([["lip", "ftp"], ["lop", "fused"]].into_iter().cycle()) {
        let strategies = further(&strategies[..1], &strategies[1..]);
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

/// One QuantizeLinear of `x: f32[1,2]` with these scales, or with as many that are an input.
fn quantize_linear(scales: Vec<f32>, attributes: Vec<AttributeProto>, scale_is_constant: bool) -> Vec<u8> {
    let scale_shape = [scales.len() as i64];
    let mut graph = GraphProto {
        input: vec![onnx::value_info("x", &[1, 2])],
        output: vec![onnx::value_info_u8("y", &[1, 2])],
        node: vec![onnx::node("QuantizeLinear", &["x", "scale"], &["y"], attributes)],
        ..GraphProto::default()
    };
    if scale_is_constant {
        graph.initializer.push(onnx::constant("scale", &scale_shape, scales));
    } else {
        graph.input.push(onnx::value_info("scale", &scale_shape));
    }
    onnx::model(21, graph).write_to_bytes().expect("it can be written")
}

/// What the importer says of it where the scales are constant.
fn refusal(scales: Vec<f32>, attributes: Vec<AttributeProto>) -> String {
    let bytes = quantize_linear(scales, attributes, true);
    let diagnostics = import_bytes(&bytes, None, &ImportOptions::default()).expect_err("it is refused");
    diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn scales_of_an_input_or_of_blocks_longer_than_the_axis_are_taken() {
    let x = Value { shape: vec![1, 2], data: Data::F32(vec![3.0, 700.0]) };
    let answer = |bytes: &[u8], inputs: &[Value]| {
        let graph = import_bytes(bytes, None, &ImportOptions::default()).expect("it imports");
        data::to_f32(&eval::evaluate(&graph, inputs).expect("it can be evaluated")[0].data).to_vec()
    };
    let scale = Value { shape: vec![1], data: Data::F32(vec![2.0]) };
    assert_eq!(answer(&quantize_linear(vec![2.0], vec![], false), &[x.clone(), scale]), [2.0, 255.0]);
    let mut blocks = GraphProto {
        input: vec![onnx::value_info("x", &[1, 2])],
        output: vec![onnx::value_info_u8("y", &[1, 2])],
        node: vec![onnx::node("QuantizeLinear", &["x", "scale"], &["y"], vec![onnx::int("block_size", i64::MAX)])],
        ..GraphProto::default()
    };
    blocks.initializer.push(onnx::constant("scale", &[1, 1], vec![4.0]));
    let bytes = onnx::model(21, blocks).write_to_bytes().expect("it can be written");
    assert_eq!(answer(&bytes, &[x]), [1.0, 175.0]);
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    for (said, expected) in [
        (refusal(vec![-0.5], vec![]), "its scale is -0.5"),
        (refusal(vec![f32::NAN], vec![]), "its scale is NaN"),
        (refusal(vec![0.5, 0.25, 0.1], vec![]), "3 scales for axis 1"),
        (refusal(vec![], vec![]), "0 scales"),
        (refusal(vec![0.5, 0.25], vec![onnx::int("axis", 7)]), "axis 7"),
        (refusal(vec![0.5], vec![onnx::int("block_size", 16)]), "blocks of 16 along axis 1"),
        (refusal(vec![0.5], vec![onnx::int("block_size", -1)]), "block_size"),
        (refusal(vec![0.5], vec![onnx::int("output_dtype", 17)]), "output_dtype"),
    ] {
        assert!(said.contains("the_QuantizeLinear") && said.contains(expected), "expected {expected}: {said}");
    }
}
