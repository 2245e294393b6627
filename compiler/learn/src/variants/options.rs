//! What is wanted of variants.

use std::path::PathBuf;

use crate::accuracy::Demands;
use crate::samples::Preparation;

/// What the user wants of variants.
#[derive(Clone, Debug)]
pub struct VariantOptions {
    /// Calibration samples.
    pub calibration: PathBuf,
    /// How they lie in the file.
    pub preparation: Preparation,
    /// What variants must keep; 5 points may be lost if nothing is said.
    pub demands: Demands,
    /// Where finished work is kept.
    pub cache: PathBuf,
}
