//! ONNX models built in code.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

/// A model of the default operator set in this version.
pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 9,
        opset_import: vec![OperatorSetIdProto { version: opset, ..OperatorSetIdProto::default() }],
        graph: protobuf::MessageField::some(graph),
        ..ModelProto::default()
    }
}

/// A network `[1, 3, 32, 32]` to 10 scores of three convolutions, the last with steps of two, and a matrix product: worth
/// sharing, and soon compiled.
pub fn three_convolutions() -> ModelProto {
    let weights = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>();
        constant(name, dims, (0..count).map(|at| ((at * 37 % 101) as f32 / 101.0 - 0.5) / 8.0).collect())
    };
    let mut graph = GraphProto {
        name: "three_convolutions".to_string(),
        input: vec![value_info("x", &[1, 3, 32, 32])],
        output: vec![value_info("scores", &[1, 10])],
        ..GraphProto::default()
    };
    for (index, (channels, filters, step)) in [(3, 32, 1), (32, 32, 1), (32, 64, 2)].into_iter().enumerate() {
        let from = if index == 0 { "x".to_string() } else { format!("r{}", index - 1) };
        let (w, made, relu) = (format!("w{index}"), format!("c{index}"), format!("r{index}"));
        graph.initializer.push(weights(&w, &[filters, channels, 3, 3]));
        let attributes = vec![ints("pads", &[1; 4]), ints("strides", &[step; 2])];
        graph.node.push(node("Conv", &[&from, &w], &[&made], attributes));
        graph.node.push(node("Relu", &[&made], &[&relu], Vec::new()));
    }
    graph.initializer.push(weights("head", &[64, 10]));
    graph.node.push(node("GlobalAveragePool", &["r2"], &["mean"], Vec::new()));
    graph.node.push(node("Flatten", &["mean"], &["row"], Vec::new()));
    graph.node.push(node("MatMul", &["row", "head"], &["scores"], Vec::new()));
    model(17, graph)
}

/// An input or output of f32.
pub fn value_info(name: &str, extents: &[i64]) -> ValueInfoProto {
    value_info_of(name, extents.iter().map(|extent| dimension::Value::DimValue(*extent)).collect())
}

/// A tensor of u8.
pub fn value_info_u8(name: &str, extents: &[i64]) -> ValueInfoProto {
    typed(name, extents.iter().map(|extent| dimension::Value::DimValue(*extent)).collect(), 2)
}

/// A tensor of f32 with dimensions that may be names.
pub fn value_info_of(name: &str, dimensions: Vec<dimension::Value>) -> ValueInfoProto {
    typed(name, dimensions, 1)
}

/// A tensor of i64 with dimensions that may be names.
pub fn value_info_i64_of(name: &str, dimensions: Vec<dimension::Value>) -> ValueInfoProto {
    typed(name, dimensions, 7)
}

fn typed(name: &str, dimensions: Vec<dimension::Value>, elem_type: i32) -> ValueInfoProto {
    let dim = dimensions.into_iter().map(|value| Dimension { value: Some(value), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor {
        elem_type,
        shape: protobuf::MessageField::some(TensorShapeProto { dim, ..TensorShapeProto::default() }),
        ..type_proto::Tensor::default()
    };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_string(), type_: protobuf::MessageField::some(kind), ..ValueInfoProto::default() }
}

/// A constant of whole numbers, i64 in a row.
pub fn integers(name: &str, elements: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        dims: vec![elements.len() as i64],
        data_type: 7,
        int64_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

/// A constant of f32.
pub fn constant(name: &str, dims: &[i64], elements: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: elements,
        ..TensorProto::default()
    }
}

/// A node, named after its operator.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: format!("the_{op}"),
        op_type: op.to_string(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// An attribute with one integer.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::INT.into(), i: value, ..AttributeProto::default() }
}

/// An attribute with a word.
pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        type_: AttributeType::STRING.into(),
        s: value.as_bytes().to_vec(),
        ..AttributeProto::default()
    }
}

/// An attribute with several integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}
