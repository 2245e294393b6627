//! Values of one type as another's, as bytes, and as noise.

use anyhow::ensure;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::{Data, ElementType, TensorType, Value};

/// Elements as `f32`, whatever they were.
pub fn to_f32(data: &Data) -> Vec<f32> {
    match data {
        Data::F32(elements) => elements.clone(),
        _ => match data.cast(ElementType::F32) {
            Data::F32(elements) => elements,
            _ => Vec::new(),
        },
    }
}

/// Numbers as elements of the given type; those of integers are rounded and saturate.
pub fn from_f32(elements: Vec<f32>, element: ElementType) -> Data {
    let rounded = elements.iter().map(|x| x.round_ties_even());
    match element {
        ElementType::F32 => Data::F32(elements),
        ElementType::F64 | ElementType::F16 | ElementType::BF16 | ElementType::Bool => {
            Data::F32(elements).cast(element)
        }
        ElementType::I64 => Data::I64(rounded.map(|x| x as i64).collect()),
        ElementType::I32 => Data::I32(rounded.map(|x| x as i32).collect()),
        ElementType::I16 => Data::I16(rounded.map(|x| x as i16).collect()),
        ElementType::I8 => Data::I8(rounded.map(|x| x as i8).collect()),
        ElementType::U64 => Data::U64(rounded.map(|x| x as u64).collect()),
        ElementType::U32 => Data::U32(rounded.map(|x| x as u32).collect()),
        ElementType::U16 => Data::U16(rounded.map(|x| x as u16).collect()),
        ElementType::U8 => Data::U8(rounded.map(|x| x as u8).collect()),
    }
}

/// A value as the bytes of a tensor of the given type (little-endian). Any number becomes a float, rounded if need be;
/// integers become others that hold the same numbers.
pub fn to_bytes(value: &Value, tensor_type: &TensorType) -> anyhow::Result<Vec<u8>> {
    ensure!(
        value.data.len() == tensor_type.element_count(),
        "has shape {:?}, but the model wants {tensor_type}",
        value.shape
    );
    Ok(converted(&value.data, tensor_type)?.to_bytes())
}

/// Elements as the given type wants them, see [`to_bytes`].
pub fn converted(data: &Data, tensor_type: &TensorType) -> anyhow::Result<Data> {
    let (from, to) = (data.element(), tensor_type.element);
    if from == to {
        return Ok(data.clone());
    }
    let refusal = || format!("has elements of {}, but the model wants {tensor_type}", from.name());
    ensure!(to.is_float() || (from.is_integer() && to.is_integer()), refusal());
    let cast = data.cast(to);
    ensure!(to.is_float() || cast.cast(from) == *data, "{}, which cannot hold some of them", refusal());
    Ok(cast)
}

/// The value that little-endian bytes of a tensor hold.
pub fn from_bytes(bytes: &[u8], tensor_type: &TensorType) -> anyhow::Result<Value> {
    ensure!(bytes.len() == tensor_type.size_bytes(), "{} bytes are not a {tensor_type}", bytes.len());
    Ok(Value { shape: tensor_type.shape.clone(), data: Data::from_bytes(tensor_type.element, bytes) })
}

/// Seeded noise in [-1, 1) for trying a model without data (splitmix64).
pub fn noise(tensor_type: &TensorType, seed: u64) -> Value {
    let mut bits = SplitMix64::seed_from_u64(seed);
    let count = tensor_type.element_count();
    let data = match tensor_type.element {
        ElementType::F32 | ElementType::F64 | ElementType::F16 | ElementType::BF16 => {
            Data::F32((0..count).map(|_| (bits.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect())
                .cast(tensor_type.element)
        }
        // Indices and counts: what else is valid is not known.
        ElementType::I64 | ElementType::I32 | ElementType::U64 | ElementType::U32 => {
            Data::I64(vec![0]).cast(tensor_type.element).repeated(count)
        }
        ElementType::I16 | ElementType::I8 | ElementType::U16 | ElementType::U8 => {
            Data::U64((0..count).map(|_| bits.next_u64()).collect()).cast(tensor_type.element)
        }
        ElementType::Bool => Data::Bool((0..count).map(|_| bits.next_u64() & 1 == 1).collect()),
    };
    Value { shape: tensor_type.shape.clone(), data }
}
