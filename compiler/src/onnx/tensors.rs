//! `TensorProto`, inline or external, to a [`Value`].

use std::path::Path;

use onnx_protobuf::TensorProto;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};

use super::external;
use crate::diagnostic::{Diagnostic, printable};
use crate::graph::infer::element_count;
use crate::graph::{Data, Value};

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
    let bytes = match tensor.data_location.enum_value() {
        Ok(DataLocation::EXTERNAL) => {
            let width = size_bytes(kind).ok_or_else(|| refuse(format!("external {kind:?} is not supported")))?;
            Some(external::read(&tensor, folder, count as u64 * width as u64)?)
        }
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
    let data = match bytes {
        Some(bytes) => from_raw(kind, &bytes, count).map_err(refuse)?,
        None => from_fields(kind, tensor, count).map_err(refuse)?,
    };
    Ok(Value { shape, data })
}

/// Width of an element that can be read from bytes.
fn size_bytes(kind: DataType) -> Option<usize> {
    Some(match kind {
        DataType::FLOAT | DataType::INT32 => 4,
        DataType::INT64 | DataType::DOUBLE => 8,
        DataType::FLOAT16 | DataType::BFLOAT16 => 2,
        DataType::INT8 | DataType::UINT8 | DataType::BOOL => 1,
        _ => return None,
    })
}

fn from_raw(kind: DataType, bytes: &[u8], count: usize) -> Result<Data, String> {
    let Some(width) = size_bytes(kind) else {
        return Err(format!(
            "element type {kind:?} is not supported; supported are float, float16, bfloat16, double, int8, uint8, int32, int64, bool"
        ));
    };
    if bytes.len() as u64 != count as u64 * width as u64 {
        return Err(format!("{} bytes of data for {count} elements of {width} bytes", bytes.len()));
    }
    fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
    }
    Ok(match kind {
        DataType::FLOAT => Data::F32(chunks(bytes, f32::from_le_bytes)),
        DataType::DOUBLE => Data::F32(chunks(bytes, |b| f64::from_le_bytes(b) as f32)),
        DataType::FLOAT16 => Data::F32(chunks(bytes, |b| half_to_f32(u16::from_le_bytes(b)))),
        DataType::BFLOAT16 => Data::F32(chunks(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        DataType::INT64 => Data::I64(chunks(bytes, i64::from_le_bytes)),
        DataType::INT32 => Data::I32(chunks(bytes, i32::from_le_bytes)),
        DataType::INT8 => Data::I8(bytes.iter().map(|byte| *byte as i8).collect()),
        DataType::UINT8 => Data::U8(bytes.to_vec()),
        _ => Data::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
    })
}

fn from_fields(kind: DataType, tensor: TensorProto, count: usize) -> Result<Data, String> {
    let small = tensor.int32_data.iter();
    let data = match kind {
        DataType::FLOAT => Data::F32(tensor.float_data),
        DataType::DOUBLE => Data::F32(tensor.double_data.iter().map(|x| *x as f32).collect()),
        DataType::FLOAT16 => Data::F32(small.map(|x| half_to_f32(*x as u16)).collect()),
        DataType::BFLOAT16 => Data::F32(small.map(|x| f32::from_bits((*x as u32) << 16)).collect()),
        DataType::INT64 => Data::I64(tensor.int64_data),
        DataType::INT32 => Data::I32(tensor.int32_data),
        DataType::INT8 => Data::I8(small.map(|x| *x as i8).collect()),
        DataType::UINT8 => Data::U8(small.map(|x| *x as u8).collect()),
        DataType::BOOL => Data::Bool(small.map(|x| *x != 0).collect()),
        _ => return Err(format!("element type {kind:?} is not supported")),
    };
    if data.len() != count {
        return Err(format!("{} elements of data, but its shape has {count}", data.len()));
    }
    Ok(data)
}

/// IEEE 754 binary16 to binary32.
fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    match (exponent, fraction) {
        (0, fraction) => {
            // Zero and subnormals: fraction * 2^-24.
            let value = fraction as f32 * f32::from_bits(0x3380_0000);
            if sign == 0 { value } else { -value }
        }
        (31, fraction) => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        (exponent, fraction) => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::half_to_f32;

    #[test]
    fn halves_become_what_they_mean() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half_to_f32(bits), value, "{bits:#06x}");
        }
        assert_eq!(half_to_f32(0x7c00), f32::INFINITY);
        assert!(half_to_f32(0x7e00).is_nan());
    }
}
