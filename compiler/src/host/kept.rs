//! Where finished work on calibration samples is kept, and under which name.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cli::Arguments;
use crate::data;
use crate::graph::{Graph, Value};

/// The folder: beside the output folder.
pub fn folder(arguments: &Arguments) -> PathBuf {
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("out/model"));
    out.parent().unwrap_or(Path::new("")).join(".partita-features")
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
