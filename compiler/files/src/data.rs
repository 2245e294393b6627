//! Data files: `.npz` archives of inputs, labels and answers, and their conversion to what a model's input wants.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use partita_rt::F16;

use crate::file;
use crate::file_kind;
use crate::npz;
use partita_ir::graph::{Data, Value};

pub use partita_ir::graph::values::{converted, from_bytes, from_f32, noise, to_bytes, to_f32};

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
                "mean" if values.iter().all(|value| value.is_finite()) => normalization.mean = values,
                "mean" => return Err("mean must be finite numbers".to_string()),
                "std" if values.iter().all(|value| *value != 0.0 && value.is_finite()) => normalization.std = values,
                "std" => return Err("std must be finite numbers other than 0".to_string()),
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
    let all = read_each(path)?;
    all.into_iter().map(|(name, value)| value.map(|value| (name, value))).collect()
}

/// The same of a file of which only the arrays of these names are used: others that hold no numbers, such as the names of
/// classes, are left out. If no array holds numbers, what the first one holds is the error.
pub fn read_npz_for(path: &Path, names: &[&str]) -> anyhow::Result<Arrays> {
    let (mut arrays, mut fault) = (Arrays::new(), None);
    for (name, value) in read_each(path)? {
        match value {
            Ok(value) => arrays.push((name, value)),
            Err(error) if names.contains(&name.as_str()) => return Err(error),
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    fault.filter(|_| arrays.is_empty()).map_or(Ok(arrays), Err)
}

/// The arrays of a file, each if it holds numbers.
fn read_each(path: &Path) -> anyhow::Result<Vec<(String, anyhow::Result<Value>)>> {
    refuse_other_formats(path)?;
    let file = open(path)?;
    let arrays = npz::read(BufReader::new(file)).with_context(|| format!("reading `{}`", path.display()))?;
    let value = |(name, array): (String, npz::Array)| {
        let value = read_array(array).with_context(|| format!("array `{name}` of `{}`", path.display()));
        (name, value)
    };
    Ok(arrays.into_iter().map(value).collect())
}

fn open(path: &Path) -> anyhow::Result<File> {
    let (file, _) = file::open(path).map_err(|why| anyhow::anyhow!("`{}` {why}", path.display()))?;
    Ok(file)
}

/// Refuses what its first bytes say is something else, with what to do instead.
pub fn refuse_other_formats(path: &Path) -> anyhow::Result<()> {
    let mut head = Vec::new();
    open(path)?.take(4096).read_to_end(&mut head).with_context(|| format!("reading `{}`", path.display()))?;
    match file_kind::recognise(&head) {
        Some(found) if found != file_kind::NPZ && !found.instead_of_data.is_empty() => {
            bail!("`{}` is {}, not an .npz archive; {}", path.display(), found.what, found.instead_of_data)
        }
        _ => Ok(()),
    }
}

fn read_array(array: npz::Array) -> anyhow::Result<Value> {
    fn read<const N: usize, T>(array: &npz::Array, element: impl Fn([u8; N]) -> T) -> Vec<T> {
        array.bytes.as_chunks::<N>().0.iter().map(|chunk| element(*chunk)).collect()
    }
    ensure!(!array.fortran_order || array.shape.len() < 2, "is stored in Fortran order; save it in C order");
    let data = match array.element()? {
        ('f', 2) => Data::F16(read(&array, |bytes| F16(u16::from_le_bytes(bytes)))),
        ('f', 4) => Data::F32(read(&array, f32::from_le_bytes)),
        ('f', 8) => Data::F64(read(&array, f64::from_le_bytes)),
        ('i', 8) => Data::I64(read(&array, i64::from_le_bytes)),
        ('i', 4) => Data::I32(read(&array, i32::from_le_bytes)),
        ('i', 2) => Data::I16(read(&array, i16::from_le_bytes)),
        ('i', 1) => Data::I8(read(&array, i8::from_le_bytes)),
        ('u', 8) => Data::U64(read(&array, u64::from_le_bytes)),
        ('u', 4) => Data::U32(read(&array, u32::from_le_bytes)),
        ('u', 2) => Data::U16(read(&array, u16::from_le_bytes)),
        ('u', 1) => Data::U8(array.bytes),
        ('b', 1) => Data::Bool(array.bytes.iter().map(|byte| *byte != 0).collect()),
        ('U' | 'S', _) => bail!(
            "holds text (`{}`), expected numbers; labels are whole numbers: np.unique(labels, return_inverse=True)[1]",
            array.descr
        ),
        _ => bail!("has element type `{}`, which is not supported; use floats, integers or bool", array.descr),
    };
    Ok(Value { shape: array.shape, data })
}

/// Writes arrays as an uncompressed `.npz` file, through a temporary file beside it.
pub fn write_npz(path: &Path, arrays: &Arrays) -> anyhow::Result<()> {
    let before = std::fs::metadata(path).ok();
    let is_replaceable = before.as_ref().is_none_or(std::fs::Metadata::is_file);
    ensure!(is_replaceable, "`{}` is no regular file, and would be replaced by one", path.display());
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As for any file that is made, not as for one that nobody else may see.
    let temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(|| format!("creating a file in `{}`", folder.display()))?;
    let mut archive = npz::Writer::new(BufWriter::new(temporary.reopen()?));
    for (name, value) in arrays {
        let (descr, bytes) = to_npy(&value.data);
        archive.add(name, descr, &value.shape, &bytes).with_context(|| format!("writing array `{name}`"))?;
    }
    archive.finish()?;
    if let Some(before) = before {
        temporary
            .as_file()
            .set_permissions(before.permissions())
            .with_context(|| format!("writing `{}`", path.display()))?;
    }
    temporary.persist(path).with_context(|| format!("writing `{}`", path.display()))?;
    Ok(())
}

/// Numpy's name of the element type, and the elements.
fn to_npy(data: &Data) -> (&'static str, Vec<u8>) {
    fn bytes<T, const N: usize>(elements: &[T], of: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
        elements.iter().flat_map(of).collect()
    }
    match data {
        Data::F32(elements) => ("<f4", bytes(elements, |x| x.to_le_bytes())),
        Data::F64(elements) => ("<f8", bytes(elements, |x| x.to_le_bytes())),
        Data::F16(elements) => ("<f2", bytes(elements, |x| x.0.to_le_bytes())),
        // numpy has no such numbers.
        Data::BF16(_) => ("<f4", bytes(&to_f32(data), |x| x.to_le_bytes())),
        Data::I64(elements) => ("<i8", bytes(elements, |x| x.to_le_bytes())),
        Data::I32(elements) => ("<i4", bytes(elements, |x| x.to_le_bytes())),
        Data::I16(elements) => ("<i2", bytes(elements, |x| x.to_le_bytes())),
        Data::I8(elements) => ("|i1", bytes(elements, |x| x.to_le_bytes())),
        Data::U64(elements) => ("<u8", bytes(elements, |x| x.to_le_bytes())),
        Data::U32(elements) => ("<u4", bytes(elements, |x| x.to_le_bytes())),
        Data::U16(elements) => ("<u2", bytes(elements, |x| x.to_le_bytes())),
        Data::U8(elements) => ("|u1", elements.clone()),
        Data::Bool(elements) => ("|b1", bytes(elements, |x| [u8::from(*x)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with numbers and words.
    fn written() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut writer = npz::Writer::new(file.reopen().expect("it is there"));
        writer.add("words", "<U1", &[2], b"a\0\0\0b\0\0\0").expect("written");
        writer.add("objects", "|O", &[2], b"whatever").expect("written");
        writer.add("x", "<i2", &[2], &[1, 0, 2, 0]).expect("written");
        writer.finish().expect("written");
        file
    }

    #[test]
    fn arrays_without_numbers_matter_where_they_are_used() {
        let file = written();
        let arrays = read_npz_for(file.path(), &["x", "y"]).expect("numbers");
        assert_eq!(arrays, [("x".to_string(), Value { shape: vec![2], data: Data::I16(vec![1, 2]) })]);
        for (names, says) in [(["words"], "array `words`: holds text (`<U1`)"), (["objects"], "Python objects")] {
            let error = read_npz_for(file.path(), &names).expect_err(says);
            let text = format!("{error:#}").replace(&format!(" of `{}`", file.path().display()), "");
            assert!(text.contains(says), "{text}");
        }
        assert!(read_npz(file.path()).is_err());
    }
}
