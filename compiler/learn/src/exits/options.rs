//! What is wanted of exits.

use std::path::PathBuf;

use crate::accuracy::Demands;
use crate::samples::Preparation;

/// What the user wants of exits.
#[derive(Clone, Debug)]
pub struct ExitOptions {
    /// Calibration samples.
    pub calibration: PathBuf,
    /// How they lie in the file.
    pub preparation: Preparation,
    /// What must be kept; the loss is limited to a point if nothing else is.
    pub demands: Demands,
    /// Outputs of the model that are exits; places are looked for, and heads trained, if there are none.
    pub outputs: Vec<String>,
    /// Where finished work is kept.
    pub cache: PathBuf,
    /// Samples that heads learn from, and that the model may have been trained on; the calibration samples then only
    /// judge.
    pub training: Option<PathBuf>,
    /// Array of the calibration data that says which samples belong together: they are never on both sides.
    pub groups: Option<String>,
    /// Whether calibration samples follow each other in time.
    pub stream: bool,
    /// How long heads that convolve may learn; 1 is some minutes.
    pub effort: f64,
}
