//! Graphs within nodes: branches, and bodies of loops.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, Message, NodeProto, TensorProto};
use partita::onnx::{ImportOptions, import_bytes};
use partita_tests::clock::Clock;
use partita_tests::onnx::{integers, node, value_info};

use super::{LIMIT, floats, model, read, refused};

#[test]
fn nodes_of_branches_are_listed_too() {
    let branch = GraphProto { node: vec![node("Unheard", &["x"], &["b"], Vec::new())], ..GraphProto::default() };
    let attribute = AttributeProto {
        name: "then_branch".to_string(),
        type_: AttributeType::GRAPH.into(),
        g: protobuf::MessageField::some(branch),
        ..AttributeProto::default()
    };
    let bad = model(vec![node("If", &["x"], &["y"], vec![attribute])], Vec::new());
    refused(&bad, "E0140", &["the_If", "the_Unheard", "run time"]);
}

/// A graph in an attribute.
fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        type_: AttributeType::GRAPH.into(),
        g: protobuf::MessageField::some(graph),
        ..AttributeProto::default()
    }
}

/// A body of a loop that does `nodes` to the state `s` and makes `s2` of it.
fn body(nodes: Vec<NodeProto>) -> AttributeProto {
    let names = |names: &[&str]| names.iter().map(|name| value_info(name, &[])).collect();
    let graph = GraphProto {
        node: nodes,
        input: names(&["i", "c", "s"]),
        output: names(&["c", "s2"]),
        ..GraphProto::default()
    };
    graph_attribute("body", graph)
}

#[test]
fn loops_are_unrolled_within_a_budget() {
    let turns = |count: i64, nodes: Vec<NodeProto>| {
        let count = integers("n", &[count]);
        model(vec![node("Loop", &["n", "", "x"], &["y"], vec![body(nodes)])], vec![count])
    };
    let relu = || vec![node("Relu", &["s"], &["s2"], Vec::new())];
    assert_eq!(read(&turns(7, relu())).expect("few turns").node_count(), 7);
    let started = Clock::start();
    refused(&turns(1 << 40, relu()), "E0112", &["the_Loop", "turns"]);
    // Turns that only compute constants count, too.
    let constants = vec![node("Add", &["i", "i"], &["j"], Vec::new()), node("Relu", &["x"], &["s2"], Vec::new())];
    refused(&turns(1 << 40, constants), "E0112", &["the_Loop", "turns"]);
    let inner = body(relu());
    let nested = vec![node("Loop", &["n", "", "s"], &["s2"], vec![inner])];
    refused(&turns(100_000, nested), "E0110", &["made twice"]);
    assert!(started.elapsed() < LIMIT * 3, "{:?}", started.elapsed());
    // What stands in a node of a body is read in each turn.
    let large = floats("k", &[1 << 20]);
    let branch = |name: &str| {
        let result = if name == "then_branch" { "t" } else { "e" };
        let graph = GraphProto {
            node: vec![node("Relu", &["s"], &[result], Vec::new())],
            initializer: vec![TensorProto { name: format!("{name}_k"), ..large.clone() }],
            output: vec![value_info(result, &[])],
            ..GraphProto::default()
        };
        graph_attribute(name, graph)
    };
    let branches = vec![branch("then_branch"), branch("else_branch")];
    refused(&turns(100_000, vec![node("If", &["c"], &["s2"], branches)]), "E0112", &["MiB"]);
    let value = AttributeProto {
        name: "value".to_string(),
        type_: AttributeType::TENSOR.into(),
        t: protobuf::MessageField::some(large),
        ..AttributeProto::default()
    };
    let constant = vec![node("Constant", &[], &["k"], vec![value]), node("Relu", &["x"], &["s2"], Vec::new())];
    refused(&turns(100_000, constant), "E0122", &["the_Constant"]);
    let strange = model(vec![node("Loop", &["x", "", "x"], &["y"], vec![body(relu())])], Vec::new());
    refused(&strange, "E0140", &["the_Loop", "run time"]);
    let outer = vec![node("Relu", &["nobody"], &["s2"], Vec::new())];
    refused(&turns(2, outer), "E0110", &["nobody"]);
}

#[test]
fn branches_of_different_shapes_need_a_known_condition() {
    let branch = |nodes: Vec<NodeProto>, result: &str| GraphProto {
        node: nodes,
        output: vec![value_info(result, &[])],
        ..GraphProto::default()
    };
    let slice = node("Shape", &["x"], &["t"], Vec::new());
    let branches = vec![
        graph_attribute("then_branch", branch(vec![slice], "t")),
        graph_attribute("else_branch", branch(vec![node("Relu", &["x"], &["e"], Vec::new())], "e")),
    ];
    let mut graph = model(vec![node("If", &["sure"], &["y"], branches)], Vec::new());
    let mut condition = value_info("sure", &[1]);
    let of_bool = onnx_protobuf::type_proto::Tensor {
        elem_type: onnx_protobuf::tensor_proto::DataType::BOOL as i32,
        shape: condition.type_.mut_or_insert_default().mut_tensor_type().shape.clone(),
        ..Default::default()
    };
    condition.type_.mut_or_insert_default().set_tensor_type(of_bool);
    graph.graph.as_mut().expect("a graph").input.push(condition);
    refused(&graph, "E0140", &["the_If", "--set sure=VALUE"]);
    let options = ImportOptions { fixed: vec![("sure".to_string(), "false".to_string())], ..ImportOptions::default() };
    let bytes = graph.write_to_bytes().expect("bytes");
    assert_eq!(import_bytes(&bytes, None, &options).expect("now it is known").node_count(), 1);
}
