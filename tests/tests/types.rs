//! Element types on devices: answers have the types and values that onnxruntime gives them, on every kind of device and
//! however the layers are split.

use std::path::{Path, PathBuf};

use onnx_protobuf::{GraphProto, Message, NodeProto, TensorProto, ValueInfoProto};
use partita::data;
use partita::graph::{Data, ElementType, Graph, Op, eval};
use partita::onnx::{ImportOptions, import_bytes};
use partita_tests::bundle::{ClusterText, forbidden_symbols, read_report};
use partita_tests::command::{compile, require, succeed};
use partita_tests::{onnx, place};

/// Operators on all element types.
fn everything() -> PathBuf {
    place::repository().join("tests/conformance/vectors/types_everything.onnx")
}

/// Largest difference of real results, relative to the largest element; of halves, a step more.
const TOLERANCE: f32 = 1e-5;
const TOLERANCE_HALF: f32 = 1.0 / 1024.0;

/// Compiles, runs on onnxruntime's inputs, and compares types and elements of every output with its answers. Gives the
/// bundle's folder to `look`.
fn check(label: &str, model: &Path, cluster: &ClusterText, more: &[&str], look: impl Fn(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (out, answer) = (folder.path().join("out"), folder.path().join("answer.npz"));
    let reference = model.with_extension("npz");
    let mut command = compile();
    command.arg(model).arg("--targets").arg(cluster.write(folder.path())).arg("--out").arg(&out);
    succeed(command.args(["--run", "--input"]).arg(&reference).arg("--output").arg(&answer).args(more));
    let expected = data::read_npz(&reference).expect("the reference");
    let found = data::read_npz(&answer).expect("the answer");
    assert!(found.len() > 20, "{label}: there are only {} answers", found.len());
    for (name, found) in found {
        let (_, expected) = expected.iter().find(|(other, _)| *other == name).expect("an answer of onnxruntime");
        assert_eq!(found.tensor_type(), expected.tensor_type(), "{label}: output `{name}`");
        if !found.data.element().is_float() {
            assert_eq!(found.data, expected.data, "{label}: output `{name}`");
            continue;
        }
        let tolerance = if matches!(found.data, Data::F16(_)) { TOLERANCE_HALF } else { TOLERANCE };
        let (found, expected) = (data::to_f32(&found.data), data::to_f32(&expected.data));
        let largest = expected.iter().fold(0.0f32, |largest, element| largest.max(element.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (found - expected).abs();
            assert!(difference <= tolerance * largest, "{label}: output `{name}` has {found}, expected {expected}");
        }
    }
    look(&out);
}

#[test]
fn every_type_is_answered_by_a_microcontroller_without_panics() {
    require("qemu-system-arm");
    check("on cortex-m7", &everything(), &ClusterText::single("cortex-m7"), &[], |out| {
        assert_eq!(forbidden_symbols(&out.join("bin/one")), Vec::<String>::new());
        assert_eq!(read_report(out)["model"]["computed_in_f32"], serde_json::json!(["f64", "f16"]));
    });
}

#[test]
fn every_type_is_shared_among_devices() {
    require("qemu-aarch64");
    let names = ["a", "b", "c"];
    let slow = |cluster: ClusterText, name: &&str| cluster.device(name, "raspberry-pi-4", "cpu = 0.02");
    let three = names.iter().fold(ClusterText::new("a", "c"), slow);
    let three = three.network(&names, "bandwidth = \"10 Gbit/s\"\nlatency = \"0.001 ms\"");
    // Sharing is worth its memory, if not its messages.
    check("on three devices", &everything(), &three, &["--strategy", "lop", "--objective", "memory"], |out| {
        let report = read_report(out);
        let layers = report["layers"].as_array().expect("layers");
        for name in ["conv", "above", "chosen", "counts", "bytes"] {
            let layer = layers.iter().find(|layer| layer["node"] == name).expect("a layer");
            let devices = layer["devices"].as_array().map_or(0, Vec::len);
            assert_eq!(devices, 3, "`{name}` is shared: {layer}");
        }
    });
}

/// An input or output of one of ONNX's element types, by its number.
fn typed(name: &str, element: i32) -> ValueInfoProto {
    let mut info = onnx::value_info(name, &[2, 3]);
    let kind = info.type_.as_mut().and_then(|kind| kind.value.as_mut());
    if let Some(onnx_protobuf::type_proto::Value::TensorType(tensor)) = kind {
        tensor.elem_type = element;
    }
    info
}

/// Numbers of element types in ONNX.
const FLOAT: i32 = 1;
const INT8: i32 = 3;
const INT64: i32 = 7;
const STRING: i32 = 8;
const BOOL: i32 = 9;
const FLOAT16: i32 = 10;
const DOUBLE: i32 = 11;

fn imported(
    nodes: Vec<NodeProto>,
    inputs: &[ValueInfoProto],
    outputs: &[ValueInfoProto],
    constants: Vec<TensorProto>,
) -> Result<Graph, String> {
    let graph = GraphProto {
        node: nodes,
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        initializer: constants,
        ..GraphProto::default()
    };
    let bytes = onnx::model(17, graph).write_to_bytes().expect("it can be written");
    import_bytes(&bytes, None, &ImportOptions::default())
        .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect())
}

#[test]
fn what_contradicts_is_refused_by_name() {
    let compare = vec![onnx::node("Equal", &["a", "b"], &["y"], vec![])];
    let said = imported(compare, &[typed("a", FLOAT), typed("b", FLOAT)], &[typed("y", INT8)], vec![]);
    let said = said.expect_err("a comparison is no int8");
    assert!(said.contains("graph output `y` is declared as i8, but is bool"), "{said}");
    for (declared, name) in [(DOUBLE, "f64"), (FLOAT16, "f16"), (INT8, "i8"), (INT64, "i64")] {
        let relu = vec![onnx::node("Relu", &["a"], &["y"], vec![])];
        let said = imported(relu, &[typed("a", FLOAT)], &[typed("y", declared)], vec![]).expect_err("it is float");
        assert!(said.contains(&format!("graph output `y` is declared as {name}, but is f32")), "{said}");
    }
    let said =
        imported(vec![onnx::node("Not", &["a"], &["y"], vec![])], &[typed("a", STRING)], &[typed("y", BOOL)], vec![]);
    let said = said.expect_err("there are no words");
    assert!(said.contains("input `a`") && said.contains("supported are float, double"), "{said}");
    let said = imported(
        vec![onnx::node("Sigmoid", &["a"], &["y"], vec![])],
        &[typed("a", INT64)],
        &[typed("y", INT64)],
        vec![],
    );
    let said = said.expect_err("integers have no sigmoid");
    assert!(said.contains("E0140") && said.contains("the_Sigmoid") && said.contains("i64[2,3]"), "{said}");
    let integers = |name: &str, elements: Vec<i64>| TensorProto {
        name: name.to_string(),
        dims: vec![elements.len() as i64],
        data_type: INT64,
        int64_data: elements,
        ..TensorProto::default()
    };
    let pads = integers("pads", vec![0, 1, 0, 0]);
    let fill = integers("fill", vec![(1 << 53) + 1]);
    let pad = vec![onnx::node("Pad", &["a", "pads", "fill"], &["y"], vec![])];
    let mut wide = typed("y", INT64);
    wide.type_ = Default::default();
    let said = imported(pad, &[typed("a", INT64)], &[wide], vec![pads, fill]).expect_err("f32 does not hold it");
    assert!(said.contains("the_Pad") && said.contains("more digits"), "{said}");
}

/// Inputs that are outputs, too, of types that are carried as others in between.
#[test]
fn what_only_passes_through_stays_what_it_is() {
    for (number, element) in [(FLOAT16, ElementType::F16), (DOUBLE, ElementType::F64), (INT8, ElementType::I8)] {
        let nodes = vec![onnx::node("Relu", &["x"], &["y"], vec![])];
        let graph = imported(nodes, &[typed("x", number)], &[typed("x", number), typed("y", number)], vec![]);
        let graph = graph.expect("it imports");
        let input = data::noise(graph.tensor_type(graph.inputs[0]), 5);
        let answers = eval::evaluate(&graph, std::slice::from_ref(&input)).expect("it can be evaluated");
        assert_eq!(answers[0], input);
        assert_eq!(answers[1].data.element(), element);
    }
}

/// A number that was stored in 16 bits is returned as it was stored.
#[test]
fn halves_are_returned_as_they_were_made() {
    let nodes = vec![onnx::node("Cast", &["x"], &["y"], vec![onnx::int("to", i64::from(FLOAT16))])];
    let graph = imported(nodes, &[typed("x", FLOAT)], &[typed("y", FLOAT16)], vec![]).expect("it imports");
    let casts = graph.node_ids().filter(|id| matches!(graph.node(*id).op, Op::Cast { .. })).count();
    let output = graph.tensor(graph.outputs[0]);
    assert_eq!((output.name.as_str(), output.tensor_type.element), ("y", ElementType::F16));
    // The one that widens it again has no reader and goes later.
    assert_eq!(casts, 2);
}
