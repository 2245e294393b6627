//! Nodes, attributes and tensors as the file has them.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

use partita_ir::graph::{Data, ElementType, TensorType};

/// Number of an element type.
pub fn number(element: ElementType) -> i32 {
    let kind = match element {
        ElementType::F32 => DataType::FLOAT,
        ElementType::F64 => DataType::DOUBLE,
        ElementType::F16 => DataType::FLOAT16,
        ElementType::BF16 => DataType::BFLOAT16,
        ElementType::I64 => DataType::INT64,
        ElementType::I32 => DataType::INT32,
        ElementType::I16 => DataType::INT16,
        ElementType::I8 => DataType::INT8,
        ElementType::U64 => DataType::UINT64,
        ElementType::U32 => DataType::UINT32,
        ElementType::U16 => DataType::UINT16,
        ElementType::U8 => DataType::UINT8,
        ElementType::Bool => DataType::BOOL,
    };
    kind as i32
}

/// An extent or index as the file has it.
pub fn whole(number: usize) -> i64 {
    number as i64
}

/// Several.
pub fn wholes(numbers: &[usize]) -> Vec<i64> {
    numbers.iter().copied().map(whole).collect()
}

/// An attribute with one integer.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::INT.into(), i: value, ..AttributeProto::default() }
}

/// An attribute with several integers.
pub fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        type_: AttributeType::INTS.into(),
        ints: values,
        ..AttributeProto::default()
    }
}

/// An attribute with one real number.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::FLOAT.into(), f: value, ..AttributeProto::default() }
}

/// An attribute with a word.
pub fn word(name: &str, value: &str) -> AttributeProto {
    let s = value.as_bytes().to_vec();
    AttributeProto { name: name.to_string(), type_: AttributeType::STRING.into(), s, ..AttributeProto::default() }
}

/// An input or output.
pub fn value_info(name: &str, tensor_type: &TensorType) -> ValueInfoProto {
    let dimension =
        |extent: &usize| Dimension { value: Some(dimension::Value::DimValue(whole(*extent))), ..Dimension::default() };
    let dim = tensor_type.shape.iter().map(dimension).collect();
    let tensor = type_proto::Tensor {
        elem_type: number(tensor_type.element),
        shape: protobuf::MessageField::some(TensorShapeProto { dim, ..TensorShapeProto::default() }),
        ..type_proto::Tensor::default()
    };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_string(), type_: protobuf::MessageField::some(kind), ..ValueInfoProto::default() }
}

/// A graph that is being written; every name in it stands once.
#[derive(Default)]
pub struct Writer {
    /// What there is so far.
    pub proto: GraphProto,
    names: std::collections::HashSet<String>,
}

impl Writer {
    /// A name that nothing has yet, like this one.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }

    /// A constant, under a name like this; gives the name.
    pub fn constant(&mut self, wanted: &str, shape: &[usize], data: &Data) -> String {
        let name = self.name(wanted);
        self.proto.initializer.push(TensorProto {
            name: name.clone(),
            dims: wholes(shape),
            data_type: number(data.element()),
            raw_data: data.to_bytes(),
            ..TensorProto::default()
        });
        name
    }

    /// A list of whole numbers as a constant.
    pub fn list(&mut self, wanted: &str, numbers: Vec<i64>) -> String {
        let shape = [numbers.len()];
        self.constant(wanted, &shape, &Data::I64(numbers))
    }

    /// A node with these operands (an empty one is left out) and results.
    pub fn node(&mut self, op: &str, inputs: &[String], outputs: &[String], attributes: Vec<AttributeProto>) {
        let name = outputs.first().map_or_else(|| op.to_string(), |output| format!("{op} {output}"));
        self.proto.node.push(NodeProto {
            name,
            op_type: op.to_string(),
            input: inputs.to_vec(),
            output: outputs.to_vec(),
            attribute: attributes,
            ..NodeProto::default()
        });
    }
}
