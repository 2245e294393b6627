//! Where finished work on calibration samples is kept, and under which name: what is there is not done again.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use partita_files::data;
use partita_ir::graph::{Data, Graph, Value};

/// Elements as an array of one axis.
pub fn array(elements: Vec<f32>) -> Value {
    Value { shape: vec![elements.len()], data: Data::F32(elements) }
}

/// The elements of such an array; none if it is another.
pub fn elements(array: Value) -> Option<Vec<f32>> {
    match array.data {
        Data::F32(elements) => Some(elements),
        _ => None,
    }
}

/// Writes arrays in one go: whoever reads the file finds all of them, or no file.
pub fn write_arrays(path: &Path, arrays: &data::Arrays) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    }
    data::write_npz(path, arrays).with_context(|| format!("writing `{}`", path.display()))
}

/// Reads them again, by name; none if there is no such file, or a damaged one.
pub fn read_arrays(path: &Path) -> HashMap<String, Value> {
    data::read_npz(path).map(|arrays| arrays.into_iter().collect()).unwrap_or_default()
}

/// What is known by name, from a file; of what it lacks (positions among the names) `make` says more, which is added. A file
/// that is damaged is as good as none.
pub fn remembered<T: Clone + Default + Serialize + DeserializeOwned>(
    file: &Path,
    names: &[String],
    make: impl FnOnce(&[usize]) -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let known = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut known: BTreeMap<String, T> = known.unwrap_or_default();
    let new: Vec<usize> = (0..names.len()).filter(|at| !known.contains_key(&names[*at])).collect();
    if !new.is_empty() {
        let made = make(&new)?;
        known.extend(new.iter().map(|at| names[*at].clone()).zip(made));
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
        let part = file.with_extension("part");
        std::fs::write(&part, serde_json::to_vec(&known)?).with_context(|| format!("writing `{}`", part.display()))?;
        std::fs::rename(&part, file).with_context(|| format!("writing `{}`", file.display()))?;
    }
    Ok(names.iter().map(|name| known.get(name).cloned().unwrap_or_default()).collect())
}

/// Names the work: another model, other views or other data get another folder.
pub fn key(probe: &Graph, inputs: &[Value]) -> String {
    let mut digest = Sha256::new();
    digest.update(probe.to_string());
    for tensor in probe.tensor_ids() {
        if let Some(elements) = probe.f32_value(tensor) {
            elements.iter().for_each(|element| digest.update(element.to_le_bytes()));
        }
    }
    for input in inputs {
        data::to_f32(&input.data).iter().for_each(|element| digest.update(element.to_le_bytes()));
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_made_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("deeper/squares.json");
        let names = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>();
        let asked = |numbers: &[usize], new: &[usize]| {
            let make = |missing: &[usize]| {
                assert_eq!(missing, new);
                Ok(missing.iter().map(|at| numbers[*at] * numbers[*at]).collect())
            };
            remembered(&file, &names(numbers), make).expect("the folder is writable")
        };
        assert_eq!(asked(&[2, 3], &[0, 1]), [4, 9]);
        assert_eq!(asked(&[3, 4, 2], &[1]), [9, 16, 4]);
        let never = |_: &[usize]| -> anyhow::Result<Vec<usize>> { panic!("all is known") };
        assert_eq!(remembered(&file, &names(&[4, 2]), never).expect("the file is there"), [16, 4]);
        std::fs::write(&file, b"{").expect("the folder is writable");
        assert_eq!(asked(&[2], &[0]), [4]);
    }
}
