//! `TensorProto`, inline or external, to a [`Value`].

use std::path::Path;

use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::type_proto::Value as TypeValue;
use onnx_protobuf::{SparseTensorProto, TensorProto, ValueInfoProto};
use partita_rt::{Bf16, F16};

use super::external;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::infer::element_count;
use partita_ir::graph::types::on_elements;
use partita_ir::graph::{Data, ElementType, Value};

/// Reads a tensor; its data fields are emptied on the way to save memory.
pub fn read(mut tensor: TensorProto, folder: Option<&Path>) -> Result<Value, Diagnostic> {
    let name = printable(&tensor.name);
    let refuse = |message: String| Diagnostic::new("E0120", format!("tensor `{name}`: {message}"));
    let shape = tensor
        .dims
        .iter()
        .map(|dimension| usize::try_from(*dimension).map_err(|_| refuse(format!("dimension {dimension} is negative"))))
        .collect::<Result<Vec<usize>, Diagnostic>>()?;
    let count = element_count(&shape).map_err(|error| refuse(error.to_string()))?;
    if tensor.segment.is_some() {
        return Err(refuse("it is stored in segments, which is not supported".to_string()));
    }
    let kind: DataType = protobuf::Enum::from_i32(tensor.data_type)
        .ok_or_else(|| refuse(format!("unknown element type {}", tensor.data_type)))?;
    let in_halves = halves_of_bytes(kind);
    let Some(element) = in_halves.or(element_type(kind)) else {
        return Err(refuse(format!("element type {kind:?} is not supported; supported are {SUPPORTED}")));
    };
    let stored_bytes = match in_halves {
        Some(_) => count.div_ceil(2) as u64,
        None => count as u64 * element.size_bytes() as u64,
    };
    let bytes = match tensor.data_location.enum_value() {
        Ok(DataLocation::EXTERNAL) => Some(external::read(&tensor, folder, stored_bytes)?),
        Ok(DataLocation::DEFAULT) if !tensor.raw_data.is_empty() => Some(std::mem::take(&mut tensor.raw_data)),
        Ok(DataLocation::DEFAULT) => None,
        Err(location) => return Err(refuse(format!("unknown data location {location}"))),
    };
    let typed_fields = [
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
        tensor.string_data.len(),
    ];
    if typed_fields.iter().filter(|length| **length > 0).count() + usize::from(bytes.is_some()) > 1 {
        return Err(refuse("its elements are given in two places".to_string()));
    }
    // Two to a byte; the fields of integers hold those bytes, too.
    let bytes = match bytes {
        None if in_halves.is_some() => Some(tensor.int32_data.iter().map(|byte| *byte as u8).collect()),
        bytes => bytes,
    };
    let data = match bytes {
        Some(bytes) if bytes.len() as u64 != stored_bytes => {
            let found = bytes.len();
            return Err(refuse(format!("{found} bytes of data for {count} elements, which take {stored_bytes}")));
        }
        Some(bytes) if in_halves.is_some() => unpacked(element, &bytes, count),
        Some(bytes) => Data::from_bytes(element, &bytes),
        None => from_fields(element, tensor, count).map_err(refuse)?,
    };
    Ok(Value { shape, data })
}

/// Reads a sparse tensor as a dense one; `reserve` says whether so many elements may be made.
pub fn read_sparse(
    tensor: &SparseTensorProto,
    folder: Option<&Path>,
    reserve: impl FnOnce(usize) -> bool,
) -> Result<Value, Diagnostic> {
    let name = printable(&tensor.values.name);
    let refuse = |message: String| Diagnostic::new("E0120", format!("sparse tensor `{name}`: {message}"));
    let shape = tensor
        .dims
        .iter()
        .map(|dimension| usize::try_from(*dimension).map_err(|_| refuse(format!("dimension {dimension} is negative"))))
        .collect::<Result<Vec<usize>, Diagnostic>>()?;
    let count = element_count(&shape).map_err(|error| refuse(error.to_string()))?;
    let values = read(tensor.values.get_or_default().clone(), folder)?;
    let indices = read(tensor.indices.get_or_default().clone(), folder)?;
    let Data::I64(numbers) = &indices.data else {
        return Err(refuse(format!("its indices are {}, expected int64", indices.tensor_type())));
    };
    let given = values.data.len();
    // Positions in the dense tensor: as they are, or one index per axis.
    let positions: Option<Vec<usize>> = if indices.shape == [given] {
        numbers.iter().map(|at| usize::try_from(*at).ok().filter(|at| *at < count)).collect()
    } else if indices.shape == [given, shape.len()] && !shape.is_empty() {
        let position = |entry: &[i64]| {
            entry.iter().zip(&shape).try_fold(0, |position, (at, extent)| {
                let at = usize::try_from(*at).ok().filter(|at| at < extent)?;
                Some(position * extent + at)
            })
        };
        numbers.chunks(shape.len()).map(position).collect()
    } else {
        let found = indices.tensor_type();
        return Err(refuse(format!("{given} values with indices {found}, expected one or {} for each", shape.len())));
    };
    let Some(positions) = positions else { return Err(refuse(format!("an index lies outside {shape:?}"))) };
    if !reserve(count) {
        return Err(Diagnostic { code: "E0122", ..refuse(format!("{count} elements are too many")) });
    }
    fn scatter<T: Copy + Default>(values: &[T], positions: &[usize], count: usize) -> Vec<T> {
        let mut all = vec![T::default(); count];
        for (position, value) in positions.iter().zip(values) {
            all[*position] = *value;
        }
        all
    }
    let data = on_elements!(&values.data, elements => Self(scatter(elements, &positions, count)));
    Ok(Value { shape, data })
}

/// What holds the elements of a type that lies two to a byte in files: its numbers fit, and all that ONNX computes with them
/// is to read them with a scale (DequantizeLinear) or to move them.
fn halves_of_bytes(kind: DataType) -> Option<ElementType> {
    match kind {
        DataType::INT4 => Some(ElementType::I8),
        DataType::UINT4 => Some(ElementType::U8),
        _ => None,
    }
}

/// Whether the elements of a tensor of the file have four bits each.
pub fn has_four_bits(tensor: &TensorProto) -> bool {
    matches!(protobuf::Enum::from_i32(tensor.data_type), Some(DataType::INT4 | DataType::UINT4))
}

/// Numbers of four bits, the lower ones of each byte first.
fn unpacked(element: ElementType, bytes: &[u8], count: usize) -> Data {
    let halves = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(count);
    match element {
        // The upper bit is the sign.
        ElementType::I8 => Data::I8(halves.map(|half| (half << 4) as i8 >> 4).collect()),
        _ => Data::U8(halves.collect()),
    }
}

/// Our element type for one of ONNX; `None` if there is none.
pub fn element_type(kind: DataType) -> Option<ElementType> {
    Some(match kind {
        DataType::FLOAT => ElementType::F32,
        DataType::DOUBLE => ElementType::F64,
        DataType::FLOAT16 => ElementType::F16,
        DataType::BFLOAT16 => ElementType::BF16,
        DataType::INT64 => ElementType::I64,
        DataType::INT32 => ElementType::I32,
        DataType::INT16 => ElementType::I16,
        DataType::INT8 => ElementType::I8,
        DataType::UINT64 => ElementType::U64,
        DataType::UINT32 => ElementType::U32,
        DataType::UINT16 => ElementType::U16,
        DataType::UINT8 => ElementType::U8,
        DataType::BOOL => ElementType::Bool,
        _ => return None,
    })
}

/// Our element type for the number that a file has for one.
pub fn element_type_of(number: i32) -> Option<ElementType> {
    protobuf::Enum::from_i32(number).and_then(element_type)
}

/// The element type that a value of the file is declared with, if it is a tensor of one that is known.
pub fn declared_element(value: &ValueInfoProto) -> Option<ElementType> {
    match value.type_.as_ref()?.value.as_ref()? {
        TypeValue::TensorType(tensor) => element_type_of(tensor.elem_type),
        _ => None,
    }
}

/// What stands behind "supported are" in messages.
pub const SUPPORTED: &str =
    "float, double, float16, bfloat16, int8 to int64, uint8 to uint64, bool; of constants int4 and uint4";

fn from_fields(element: ElementType, tensor: TensorProto, count: usize) -> Result<Data, String> {
    let small = tensor.int32_data;
    // As the standard says: halves by their bits, in the fields of integers.
    let halves = || small.iter().map(|bits| *bits as u16);
    let data = match element {
        ElementType::F32 => Data::F32(tensor.float_data),
        ElementType::F64 => Data::F64(tensor.double_data),
        ElementType::F16 => Data::F16(halves().map(F16).collect()),
        ElementType::BF16 => Data::BF16(halves().map(Bf16).collect()),
        ElementType::I64 => Data::I64(tensor.int64_data),
        ElementType::U64 | ElementType::U32 => Data::U64(tensor.uint64_data).cast(element),
        ElementType::I32
        | ElementType::I16
        | ElementType::I8
        | ElementType::U16
        | ElementType::U8
        | ElementType::Bool => Data::I32(small).cast(element),
    };
    if data.len() != count {
        return Err(format!("{} elements of data, but its shape has {count}", data.len()));
    }
    Ok(data)
}
