//! Options that say what a model is, and which numbers it is computed with: on models of one operator.

use std::path::Path;

use partita::driver::{self, Compiled, Failure, Options};
use partita_tests::place;

use super::{compiled, parsed};

/// A matrix product `[n, depth] x [depth, columns]`, with the dimension `n` left open.
fn product(depth: i64, columns: i64) -> tempfile::NamedTempFile {
    use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    use partita_tests::onnx;
    use protobuf::Message;
    let weights = (0..depth * columns).map(|index| (index * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let graph = onnx_protobuf::GraphProto {
        name: "product".to_string(),
        node: vec![onnx::node("MatMul", &["x", "w"], &["y"], vec![])],
        input: vec![onnx::value_info_of("x", vec![DimValue(1), DimParam("n".to_string()), DimValue(depth)])],
        output: vec![onnx::value_info_of("y", vec![DimValue(1), DimParam("n".to_string()), DimValue(columns)])],
        initializer: vec![onnx::constant("w", &[depth, columns], weights)],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().expect("a temporary file");
    std::fs::write(file.path(), onnx::model(17, graph).write_to_bytes().expect("it is plain data"))
        .expect("it is ours");
    file
}

fn product_for(target: &str, model: &Path, words: &[&str]) -> Result<Compiled, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = partita_tests::bundle::ClusterText::single(target).write(folder.path());
    driver::compile(model, &cluster, &Options::of(&parsed(words)), &mut ())
}

pub fn an_open_dimension_is_what_shape_says() {
    let model = product(8, 8);
    let failure = product_for("host", model.path(), &[]).expect_err("a dimension is open").to_string();
    assert!(failure.contains("--shape x="), "{failure}");
    for rows in [3, 7] {
        let shape = format!("x=1x{rows}x8");
        let compiled = product_for("host", model.path(), &["--shape", &shape]).expect("now it is known");
        assert_eq!(compiled.graph.shape(compiled.graph.outputs[0]), [1, rows, 8]);
    }
}

pub fn a_fixed_input_is_a_constant() {
    let words = |value: &str| vec!["--shape".to_string(), "n=2".to_string(), "--set".to_string(), value.to_string()];
    let fixed = |value: &str| {
        let words = words(value);
        product_for("host", sum_of_two().path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let graph = fixed("b=0.5").expect("a number is a value").graph;
    assert_eq!(graph.inputs.len(), 1);
    let given = partita::graph::Value::f32([1, 2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let answers = partita::graph::eval::evaluate(&graph, &[given]).expect("it is computed");
    assert_eq!(answers[0].as_f32(), Some(&[1.5, 2.5, 3.5, 4.5, 5.5, 6.5][..]));
    for (wrong, text) in [("nobody=1", "no input"), ("b=1,2", "2 numbers")] {
        let failure = fixed(wrong).expect_err(wrong).to_string();
        assert!(failure.contains(text), "{failure}");
    }
}

pub fn an_output_becomes_an_input() {
    let kept = |value: &str| product_for("host", sum_of_two().path(), &["--shape", "n=2", "--state", value]);
    let graph = kept("y=b").map(|compiled| compiled.graph);
    // Then no output would be left.
    let refusal = graph.expect_err("every output would be a state").to_string();
    assert!(refusal.contains("every output of the model would be a state"), "{refusal}");
    let refusal = kept("auto").expect_err("nothing is called alike").to_string();
    assert!(refusal.contains("E0144") && refusal.contains("--state OUTPUT=INPUT"), "{refusal}");
    let refusal = kept("nobody=b").expect_err("there is no such output").to_string();
    assert!(refusal.contains("no output `nobody`"), "{refusal}");
}

/// A sum of two inputs `[1, n, 3]`.
fn sum_of_two() -> tempfile::NamedTempFile {
    use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    use partita_tests::onnx;
    use protobuf::Message;
    let open = || vec![DimValue(1), DimParam("n".to_string()), DimValue(3)];
    let graph = onnx_protobuf::GraphProto {
        name: "sum".to_string(),
        node: vec![onnx::node("Add", &["a", "b"], &["y"], vec![])],
        input: vec![onnx::value_info_of("a", open()), onnx::value_info_of("b", open())],
        output: vec![onnx::value_info_of("y", open())],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().expect("a temporary file");
    std::fs::write(file.path(), onnx::model(17, graph).write_to_bytes().expect("it is plain data"))
        .expect("it is ours");
    file
}

/// A product of one row waits for its weights: in a quarter of the bytes they come in a quarter of the time.
pub fn weights_in_fewer_bytes_are_read_sooner() {
    let model = product(1024, 1024);
    let predicted = |storage: &str| {
        let words = ["--shape", "x=1x1x1024", "--weights", storage];
        product_for("raspberry-pi-5", model.path(), &words).expect("it compiles").routed.prediction.latency_ms
    };
    let [exact, half, quarter] = ["f32", "f16", "int8"].map(predicted);
    assert!((exact / half - 2.0).abs() < 0.1 && (exact / quarter - 4.0).abs() < 0.4, "{exact}, {half}, {quarter} ms");
    let none = partita_tests::onnx::node("Relu", &["x"], &["y"], vec![]);
    let graph = onnx_protobuf::GraphProto {
        name: "none".to_string(),
        node: vec![none],
        input: vec![partita_tests::onnx::value_info("x", &[1, 4])],
        output: vec![partita_tests::onnx::value_info("y", &[1, 4])],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes = protobuf::Message::write_to_bytes(&partita_tests::onnx::model(17, graph)).expect("plain data");
    std::fs::write(file.path(), bytes).expect("it is ours");
    let failure =
        product_for("host", file.path(), &["--weights", "int8"]).expect_err("there are no weights").to_string();
    assert!(failure.contains("E0143") && failure.contains("would change nothing"), "{failure}");
}

pub fn numbers_are_as_wanted() {
    let quantized = place::repository().join("tests/conformance/vectors/quantized_network.onnx");
    let predicted = |numbers: &str| {
        let compiled = product_for("raspberry-pi-4", &quantized, &["--numbers", numbers]).expect("it compiles");
        compiled.routed.prediction.latency_ms
    };
    let [auto, real, whole] = ["auto", "f32", "int8"].map(predicted);
    assert!(auto < real && auto == whole, "{auto}, {real}, {whole} ms");
    // Links send every number in 32 bits, and samples make whole numbers of real ones.
    let options = |words: &[&str]| Options::of(&parsed(words));
    assert_ne!(options(&[]).links.error, options(&["--numbers", "f32"]).links.error);
    let whole = options(&["--numbers", "int8", "--calibration", "c.npz"]);
    assert!(whole.quantize.is_some() && options(&["--numbers", "int8"]).quantize.is_none());
    let failure = compiled(&["--numbers", "int8"]).expect_err("the model has real numbers").to_string();
    assert!(failure.contains("E0197") && failure.contains("--calibration"), "{failure}");
}
