//! Local functions of models are inlined, within a budget.

use onnx_protobuf::FunctionProto;
use onnx_protobuf::attribute_proto::AttributeType;

use super::*;

/// `Scaled(x) = LeakyRelu(x; slope) + x` and `Twice(x) = Scaled(Scaled(x))`.
fn functions() -> Vec<FunctionProto> {
    let by_reference = AttributeProto {
        name: "alpha".to_string(),
        ref_attr_name: "slope".to_string(),
        type_: AttributeType::FLOAT.into(),
        ..AttributeProto::default()
    };
    let function = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: name.to_string(),
        domain: "local".to_string(),
        input: vec!["x".to_string()],
        output: vec!["y".to_string()],
        attribute: vec!["slope".to_string()],
        node: nodes,
        opset_import: vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }],
        ..FunctionProto::default()
    };
    let local = |node: NodeProto| NodeProto { domain: "local".to_string(), ..node };
    let slope = AttributeProto { name: "slope".to_string(), ..by_reference.clone() };
    let scaled =
        vec![node("LeakyRelu", &["x"], &["t"], vec![by_reference]), node("Add", &["t", "x"], &["y"], Vec::new())];
    let twice = vec![
        local(node("Scaled", &["x"], &["t"], vec![slope.clone()])),
        local(node("Scaled", &["t"], &["y"], vec![slope])),
    ];
    vec![function("Scaled", scaled), function("Twice", twice)]
}

#[test]
fn functions_of_the_model_are_inlined() {
    let call = |attributes: Vec<AttributeProto>| {
        let call = NodeProto { domain: "local".to_string(), ..node("Twice", &["x"], &["y"], attributes) };
        let graph = GraphProto {
            node: vec![call],
            input: vec![value_info("x", &[2])],
            output: vec![value_info("y", &[2])],
            ..GraphProto::default()
        };
        ModelProto { functions: functions(), ..onnx::model(13, graph) }
    };
    let slope = |value: f32| AttributeProto {
        name: "slope".to_string(),
        type_: AttributeType::FLOAT.into(),
        f: value,
        ..AttributeProto::default()
    };
    // 3 -> 6 -> 12 and -4 -> -4 (1 + slope)^2; without the attribute the operator's default holds.
    for (attributes, second) in [(vec![slope(0.5)], -9.0), (Vec::new(), -4.0804)] {
        let graph = read(&call(attributes), &[]).expect("inlined");
        let outputs = eval::evaluate(&graph, &[Value::f32([2], vec![3.0, -4.0])]).expect("it can be evaluated");
        let found = outputs[0].as_f32().expect("f32");
        assert!((found[0] - 12.0).abs() < 1e-6 && (found[1] - second).abs() < 1e-5, "{found:?}");
    }
    let unknown = read(&call(vec![int("width", 3)]), &[]).expect_err("no such attribute");
    assert_eq!(unknown[0].code, "E0111");
}

#[test]
fn functions_that_multiply_or_recur_are_refused() {
    let call = |callee: &str, output: &str| NodeProto {
        domain: "local".to_string(),
        ..node(callee, &["x"], &[output], Vec::new())
    };
    let function = |name: String, nodes: Vec<NodeProto>| FunctionProto {
        name,
        domain: "local".to_string(),
        input: vec!["x".to_string()],
        output: vec!["y".to_string()],
        node: nodes,
        ..FunctionProto::default()
    };
    let model = |functions: Vec<FunctionProto>, callee: &str| {
        let graph = GraphProto {
            node: vec![call(callee, "y")],
            input: vec![value_info("x", &[2])],
            output: vec![value_info("y", &[2])],
            ..GraphProto::default()
        };
        ModelProto { functions, ..onnx::model(17, graph) }
    };
    let itself = vec![function("F".to_string(), vec![call("F", "y")])];
    // Each calls the next one twenty times.
    let mut bomb: Vec<FunctionProto> = (0..20)
        .map(|level| {
            let mut calls: Vec<NodeProto> =
                (0..19).map(|index| call(&format!("F{}", level + 1), &format!("t{index}"))).collect();
            calls.push(call(&format!("F{}", level + 1), "y"));
            function(format!("F{level}"), calls)
        })
        .collect();
    bomb.push(function("F20".to_string(), vec![node("Relu", &["x"], &["y"], Vec::new())]));
    for (functions, callee) in [(itself, "F"), (bomb, "F0")] {
        assert_eq!(read(&model(functions, callee), &[]).expect_err("refused")[0].code, "E0111");
    }
}
