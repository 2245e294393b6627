//! This machine as a calculator: networks compiled for it, run by as many processes as there are cores.

pub mod backbone;
pub mod kept;
pub mod parallel;
pub mod progress;
