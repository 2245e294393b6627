//! What is wanted of quantization.

use std::path::PathBuf;

use super::histogram::RangeMethod;
use crate::accuracy::Demands;
use crate::samples::Preparation;

/// What the user wants of quantization.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Calibration samples.
    pub calibration: PathBuf,
    /// How they lie in the file.
    pub preparation: Preparation,
    /// What must be kept. Without a limit, layers stay in `f32` while more than a point is lost on the samples that judge.
    pub demands: Demands,
    /// How ranges of activations are chosen.
    pub ranges: RangeMethod,
    /// Where finished work is kept.
    pub cache: PathBuf,
}
