//! Heads that see averages, kept in a file: a run with another limit or another cluster trains none of them again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use partita_train::head::{Head, Layer};
use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use crate::kept;

/// Heads with their temperature, by contender and version.
pub type Heads = HashMap<(usize, usize), (Head, f32)>;

/// The file of everything that is learned from this dataset by contenders that print like this.
pub fn path(cache: &Path, dataset: &Dataset<'_>, contenders: &str) -> PathBuf {
    let mut digest = Sha256::new();
    digest.update(kept::key(dataset.graph, dataset.inputs));
    digest.update(format!("{contenders} {:?} {:?}", dataset.split.versions, dataset.labels));
    cache.join(format!("averages-{:.16x}.npz", digest.finalize()))
}

/// Writes those that have layers only; heads that convolve are kept elsewhere.
pub fn write(path: &Path, heads: &Heads) -> anyhow::Result<()> {
    let mut arrays = Vec::new();
    let mut heads: Vec<_> = heads.iter().filter(|(_, (head, _))| head.blocks.is_empty()).collect();
    heads.sort_by_key(|(key, _)| **key);
    for ((contender, version), (head, temperature)) in heads {
        let name = |what: &str| format!("{contender}.{version}.{what}");
        arrays.push((name("temperature"), kept::array(vec![*temperature])));
        for (number, Layer { weights, bias }) in head.layers.iter().enumerate() {
            for (what, elements) in [("weights", weights), ("bias", bias)] {
                arrays.push((name(&format!("{number}.{what}")), kept::array(elements.clone())));
            }
        }
    }
    kept::write_arrays(path, &arrays)
}

/// Reads them again; none if there is no such file, or a damaged one.
pub fn read(path: &Path) -> Heads {
    let arrays = kept::read_arrays(path);
    let elements = |name: String| kept::elements(arrays.get(&name)?.clone());
    let head = |name: &String| {
        let (contender, version) = name.strip_suffix(".temperature")?.split_once('.')?;
        let temperature = *elements(name.clone())?.first()?;
        let layer = |number: usize| {
            let of = |what: &str| elements(format!("{contender}.{version}.{number}.{what}"));
            Some(Layer { weights: of("weights")?, bias: of("bias")? })
        };
        let layers: Vec<Layer> = (0..).map_while(layer).collect();
        let head = Head { layers, ..Head::default() };
        Some(((contender.parse().ok()?, version.parse().ok()?), (head, temperature)))
    };
    arrays.keys().filter_map(head).filter(|(_, (head, _))| !head.layers.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_back_as_they_were() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper/averages.npz");
        let layer = |weights: &[f32], bias: &[f32]| Layer { weights: weights.to_vec(), bias: bias.to_vec() };
        let one = Head { layers: vec![layer(&[1.5, -0.1, 2e-9, 4.0], &[0.0, 1.0])], ..Head::default() };
        let two = Head { layers: vec![layer(&[1.0; 6], &[0.1; 3]), layer(&[-2.0; 6], &[0.3; 2])], ..Head::default() };
        let heads = Heads::from([((0, 0), (one.clone(), 1.25)), ((12, 4), (two, 0.7)), ((12, 0), (one, 1.0))]);
        write(&path, &heads).expect("the folder is writable");
        assert_eq!(read(&path), heads);
        let bytes = std::fs::read(&path).expect("the file");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("the folder is writable");
        assert!(read(&path).is_empty() && read(&folder.path().join("none")).is_empty());
    }
}
