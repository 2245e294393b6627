//! By which alternative a kernel is best done, as measured by `compile --tune`: kept beside the cluster file, and read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::corrections::{Choice, Tuning};
use super::learned::Origin;
use super::{Cluster, ranges};
use partita_files::file;
use partita_ir::diagnostic::{Diagnostic, place, printable};

/// Most vectors of output channels of a register tile.
pub const MOST_VECTORS: usize = 4;

/// Most alternatives of one convolution that are measured.
pub const MOST_ALTERNATIVES: usize = 8;

/// What was measured, one entry per kind of device and convolution.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// When and on what, last; files of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Convolutions.
    #[serde(default)]
    pub convolution: Vec<TunedConvolution>,
}

/// The best alternative for a convolution on a kind of device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TunedConvolution {
    /// Name of the target.
    pub target: String,
    /// Threads that share the kernel.
    pub threads: usize,
    /// Shapes, stride, padding and all else that the kernel depends on.
    pub shape: String,
    /// The alternative.
    #[serde(flatten)]
    pub choice: Choice,
    /// What it takes.
    pub microseconds: f64,
    /// What it takes as the estimate would have it.
    pub estimated_best_microseconds: f64,
}

/// Where the record of a cluster lies unless told otherwise: beside its file.
pub fn default_path(cluster: &Path) -> PathBuf {
    cluster.with_extension("tuned.toml")
}

/// The record; an empty one if there is no file and none was asked for.
pub fn read(path: &Path, asked_for: bool) -> Result<Tuned, Vec<Diagnostic>> {
    if !asked_for && !path.exists() {
        return Ok(Tuned::default());
    }
    let shown = printable(&path.display().to_string());
    let refuse = |message: String| vec![Diagnostic::new("E0173", format!("tuning record `{shown}`: {message}"))];
    let text = file::read_text(path).map_err(refuse)?;
    let tuned: Tuned = toml::from_str(&text).map_err(|error| match error.span() {
        Some(span) => vec![
            Diagnostic::new("E0173", format!("tuning record `{shown}`: {}", printable(error.message())))
                .note(place(&text, &shown, span)),
        ],
        None => refuse(printable(error.message())),
    })?;
    for entry in &tuned.convolution {
        for time in [entry.microseconds, entry.estimated_best_microseconds] {
            ranges::MEASURED.check(time).map_err(|problem| refuse(format!("a time {problem}")))?;
        }
    }
    match tuned.convolution.iter().find(|entry| !(1..=MOST_VECTORS).contains(&entry.choice.vectors)) {
        Some(entry) => Err(refuse(format!("`vectors` is {}, expected 1 to {MOST_VECTORS}", entry.choice.vectors))),
        None => Ok(tuned),
    }
}

/// Tells every device what is known of its kind.
pub fn apply(cluster: &mut Cluster, tuned: &Tuned) {
    for device in &mut cluster.devices {
        let own = tuned
            .convolution
            .iter()
            .filter(|entry| entry.target == device.target.name && entry.threads == device.target.threads);
        let choices = own.map(|entry| (entry.shape.clone(), entry.choice.clone())).collect();
        device.settings.tuning = Arc::new(Tuning { choices, trial: None });
    }
}

/// Has every device do its kernels by their alternative of this number.
pub fn try_alternative(cluster: &mut Cluster, trial: Option<usize>) {
    for device in &mut cluster.devices {
        device.settings.tuning = Arc::new(Tuning { choices: BTreeMap::new(), trial });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.tuned.toml");
        assert_eq!(read(&path, false).expect("none is no fault"), Tuned::default());
        assert_eq!(read(&path, true).expect_err("but asked for")[0].code, "E0173");
        let entry = TunedConvolution {
            target: "host".to_string(),
            threads: 1,
            shape: "3x3".to_string(),
            choice: Choice { form: "direct".to_string(), vectors: 2 },
            microseconds: 1.5,
            estimated_best_microseconds: 2.0,
        };
        let tuned = Tuned { origin: None, convolution: vec![entry] };
        let text = toml::to_string(&tuned).expect("plain data");
        std::fs::write(&path, &text).expect("written");
        assert_eq!(read(&path, true).expect("reads back"), tuned);
        for bad in [text.replace("vectors = 2", "vectors = 9"), text.replace("form", "farm"), "[[".to_string()] {
            std::fs::write(&path, &bad).expect("written");
            assert_eq!(read(&path, true).expect_err(&bad)[0].code, "E0173");
        }
    }
}
