//! Words where programs have numbers: classes, maps, constants that are chosen from.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use partita::graph::{Value, eval};
use partita_tests::onnx::{self, int, node, value_info};

use super::{codes, read};

/// A forest alone says which version of ai.onnx.ml it is of, and no other. Words become places in their list, a list of maps a
/// table, and both are said.
#[test]
fn classes_that_are_words_are_numbered() {
    let list = |name: &str, kind: AttributeType, numbers: &[f32], words: &[&str]| AttributeProto {
        name: name.to_string(),
        type_: kind.into(),
        floats: numbers.to_vec(),
        strings: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        ..AttributeProto::default()
    };
    let names = list("classlabels_strings", AttributeType::STRINGS, &[], &["cat", "dog"]);
    let classifier = vec![
        list("coefficients", AttributeType::FLOATS, &[1.0, 0.0, 0.0, 1.0], &[]),
        list("intercepts", AttributeType::FLOATS, &[0.0, 0.0], &[]),
        names.clone(),
    ];
    let mut nodes = vec![
        node("LinearClassifier", &["x"], &["label", "scores"], classifier),
        node("ZipMap", &["scores"], &["maps"], vec![names]),
    ];
    nodes.iter_mut().for_each(|node| node.domain = "ai.onnx.ml".to_string());
    let output = |name: &str| ValueInfoProto { name: name.to_string(), ..ValueInfoProto::default() };
    let graph = GraphProto {
        node: nodes,
        input: vec![value_info("x", &[2, 2])],
        output: vec![output("label"), output("maps")],
        ..GraphProto::default()
    };
    let own = OperatorSetIdProto { domain: "ai.onnx.ml".to_string(), version: 3, ..OperatorSetIdProto::default() };
    let model = ModelProto { opset_import: vec![own], ..onnx::model(17, graph) };
    let graph = read(&model, &[]).expect("it is taken");
    assert_eq!(codes(&graph), ["N0136", "N0136"]);
    assert!(graph.remarks[0].to_string().contains("in order: cat, dog"), "{}", graph.remarks[0]);
    let x = Value::f32([2, 2], vec![0.5, 2.0, 3.0, 1.0]);
    let answers = eval::evaluate(&graph, std::slice::from_ref(&x)).expect("it can be evaluated");
    assert_eq!(answers, [Value::i64([2], vec![1, 0]), x]);
}

/// Words that are only chosen from are numbered; where something else reads them, they are refused as before.
#[test]
fn words_that_are_chosen_from_are_numbered() {
    let with = |reader: &str| {
        let words = TensorProto {
            name: "words".to_string(),
            dims: vec![3],
            data_type: 8,
            string_data: ["red", "green", "blue"].map(|word| word.as_bytes().to_vec()).to_vec(),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: vec![
                node("ArgMax", &["x"], &["at"], vec![int("axis", 1), int("keepdims", 0)]),
                node("Gather", &["words", "at"], &["chosen"], Vec::new()),
                node(reader, &["chosen"], &["word"], Vec::new()),
            ],
            initializer: vec![words],
            input: vec![value_info("x", &[2, 3])],
            output: vec![ValueInfoProto { name: "word".to_string(), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        read(&onnx::model(17, graph), &[])
    };
    let graph = with("Identity").expect("it is taken");
    assert_eq!(codes(&graph), ["N0136"]);
    assert!(graph.remarks[0].to_string().contains("in order: red, green, blue"), "{}", graph.remarks[0]);
    let x = Value::f32([2, 3], vec![0.0, 1.0, 2.0, 3.0, 1.0, 2.0]);
    assert_eq!(eval::evaluate(&graph, &[x]).expect("it can be evaluated"), [Value::i64([2], vec![2, 0])]);
    let refusal = with("Neg").expect_err("words have no opposite");
    assert!(refusal[0].message.contains("STRING"), "{}", refusal[0]);
}
