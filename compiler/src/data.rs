//! Data files: `.npz` archives of inputs, labels and answers, and their conversion to what a model's input wants.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use half::f16;
use partita_rt::F16;

use crate::graph::{Data, ElementType, TensorType, Value};

/// Arrays of a file, by name, in the file's order.
pub type Arrays = Vec<(String, Value)>;

/// `(x - mean) / std`, per channel or for all.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Subtracted; one value, or one per channel.
    pub mean: Vec<f32>,
    /// Divided by; one value, or one per channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Reads `mean=0.5,std=0.25` or `mean=0.49/0.48/0.45,std=0.2/0.2/0.2`.
    pub fn parse(text: &str) -> Result<Normalization, String> {
        let mut normalization = Normalization { mean: vec![0.0], std: vec![1.0] };
        for part in text.split(',') {
            let (key, values) = part.split_once('=').ok_or_else(|| format!("`{part}`: expected mean=.. or std=.."))?;
            let values = values
                .split('/')
                .map(|value| value.parse::<f32>().map_err(|_| format!("`{value}` is not a number")))
                .collect::<Result<Vec<f32>, String>>()?;
            match key {
                "mean" => normalization.mean = values,
                "std" if values.iter().all(|value| *value != 0.0 && value.is_finite()) => normalization.std = values,
                "std" => return Err("std must not be 0".to_string()),
                other => return Err(format!("`{other}`: expected mean or std")),
            }
        }
        Ok(normalization)
    }

    /// Applies it to elements of `[.., C, spatial]` with `channels` channels of `plane` elements each.
    pub fn apply(&self, elements: &mut [f32], channels: usize, plane: usize) -> anyhow::Result<()> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            ensure!(
                values.len() == 1 || values.len() == channels,
                "--normalize gives {} values of {name}, but the input has {channels} channels",
                values.len()
            );
        }
        for (index, element) in elements.iter_mut().enumerate() {
            let channel = index / plane.max(1) % channels.max(1);
            let of = |values: &[f32]| if values.len() == 1 { values[0] } else { values[channel] };
            *element = (*element - of(&self.mean)) / of(&self.std);
        }
        Ok(())
    }
}

/// Reads every array of an `.npz` file, by name.
pub fn read_npz(path: &Path) -> anyhow::Result<Arrays> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    let mut archive = npyz::npz::NpzArchive::new(BufReader::new(file))
        .with_context(|| format!("`{}` is not an .npz archive", path.display()))?;
    let mut names: Vec<String> = archive.array_names().map(str::to_string).collect();
    names.sort_unstable();
    let mut arrays = Vec::with_capacity(names.len());
    for name in names {
        let array = archive
            .by_name(&name)
            .with_context(|| format!("reading array `{name}` of `{}`", path.display()))?
            .with_context(|| format!("`{}` lists array `{name}` but does not hold it", path.display()))?;
        let value = read_array(array).with_context(|| format!("array `{name}` of `{}`", path.display()))?;
        arrays.push((name, value));
    }
    Ok(arrays)
}

fn read_array<R: Read>(array: npyz::NpyFile<R>) -> anyhow::Result<Value> {
    use npyz::{DType, TypeChar};
    let shape: Vec<usize> = array.shape().iter().map(|extent| usize::try_from(*extent)).collect::<Result<_, _>>()?;
    ensure!(array.order() == npyz::Order::C || shape.len() < 2, "is stored in Fortran order; save it in C order");
    let DType::Plain(kind) = array.dtype() else { bail!("has a structured element type") };
    let data = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 2) => Data::F16(array.into_vec::<f16>()?.into_iter().map(|x| F16(x.to_bits())).collect()),
        (TypeChar::Float, 4) => Data::F32(array.into_vec()?),
        (TypeChar::Float, 8) => Data::F64(array.into_vec()?),
        (TypeChar::Int, 8) => Data::I64(array.into_vec()?),
        (TypeChar::Int, 4) => Data::I32(array.into_vec()?),
        (TypeChar::Int, 2) => Data::I16(array.into_vec()?),
        (TypeChar::Int, 1) => Data::I8(array.into_vec()?),
        (TypeChar::Uint, 8) => Data::U64(array.into_vec()?),
        (TypeChar::Uint, 4) => Data::U32(array.into_vec()?),
        (TypeChar::Uint, 2) => Data::U16(array.into_vec()?),
        (TypeChar::Uint, 1) => Data::U8(array.into_vec()?),
        (TypeChar::Bool, _) => Data::Bool(array.into_vec()?),
        _ => bail!("has element type {kind}, which is not supported; use floats, integers or bool"),
    };
    ensure!(data.len() == shape.iter().product::<usize>(), "holds {} elements, not what its shape says", data.len());
    Ok(Value { shape, data })
}

/// Writes arrays as an uncompressed `.npz` file, through a temporary file beside it.
pub fn write_npz(path: &Path, arrays: &Arrays) -> anyhow::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("creating a file in `{}`", folder.display()))?;
    let mut archive = npyz::npz::NpzWriter::new(BufWriter::new(temporary.reopen()?));
    for (name, value) in arrays {
        let shape: Vec<u64> = value.shape.iter().map(|extent| *extent as u64).collect();
        write_array(&mut archive, name, &shape, &value.data).with_context(|| format!("writing array `{name}`"))?;
    }
    archive.zip_writer().flush()?;
    drop(archive);
    temporary.persist(path).with_context(|| format!("writing `{}`", path.display()))?;
    Ok(())
}

fn write_array<W: Write + std::io::Seek>(
    archive: &mut npyz::npz::NpzWriter<W>,
    name: &str,
    shape: &[u64],
    data: &Data,
) -> std::io::Result<()> {
    use npyz::WriterBuilder;
    fn put<T: npyz::AutoSerialize + Copy, W: Write + std::io::Seek>(
        archive: &mut npyz::npz::NpzWriter<W>,
        name: &str,
        shape: &[u64],
        elements: &[T],
    ) -> std::io::Result<()> {
        // As numpy's `savez` does it: floats hardly get smaller, and squeezing them took much of the time.
        let options = npyz::zip::write::FileOptions::default().compression_method(npyz::zip::CompressionMethod::Stored);
        let mut writer = archive.array(name, options)?.default_dtype().shape(shape).begin_nd()?;
        writer.extend(elements.iter().copied())?;
        writer.finish()
    }
    match data {
        Data::F32(elements) => put(archive, name, shape, elements),
        Data::F64(elements) => put(archive, name, shape, elements),
        Data::F16(elements) => {
            let halves: Vec<f16> = elements.iter().map(|half| f16::from_bits(half.0)).collect();
            put(archive, name, shape, &halves)
        }
        // numpy has no such numbers.
        Data::BF16(_) => put(archive, name, shape, &to_f32(data)),
        Data::I64(elements) => put(archive, name, shape, elements),
        Data::I32(elements) => put(archive, name, shape, elements),
        Data::I16(elements) => put(archive, name, shape, elements),
        Data::I8(elements) => put(archive, name, shape, elements),
        Data::U64(elements) => put(archive, name, shape, elements),
        Data::U32(elements) => put(archive, name, shape, elements),
        Data::U16(elements) => put(archive, name, shape, elements),
        Data::U8(elements) => put(archive, name, shape, elements),
        Data::Bool(elements) => put(archive, name, shape, elements),
    }
}

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
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let count = tensor_type.element_count();
    let data = match tensor_type.element {
        ElementType::F32 | ElementType::F64 | ElementType::F16 | ElementType::BF16 => {
            Data::F32((0..count).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect())
                .cast(tensor_type.element)
        }
        // Indices and counts: what else is valid is not known.
        ElementType::I64 | ElementType::I32 | ElementType::U64 | ElementType::U32 => {
            Data::I64(vec![0]).cast(tensor_type.element).repeated(count)
        }
        ElementType::I16 | ElementType::I8 | ElementType::U16 | ElementType::U8 => {
            Data::U64((0..count).map(|_| next()).collect()).cast(tensor_type.element)
        }
        ElementType::Bool => Data::Bool((0..count).map(|_| next() & 1 == 1).collect()),
    };
    Value { shape: tensor_type.shape.clone(), data }
}
