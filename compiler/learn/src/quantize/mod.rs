//! Post-training quantization: from calibration samples to a graph of whole numbers.
//!
//! [`quantize`] does in order: `prepare` takes apart what stands between two quantizations, `equalize` makes the channels of
//! neighbouring layers alike (Nagel et al. 2019), `observe` runs the graph over the samples that teach and counts what every
//! tensor holds, `choose` makes grids and whole weights of that (biases corrected by what rounding weights does on average,
//! Nagel et al. 2019), `passes::quantize` makes the graph, and `judge` compares its answers with those of real numbers. Where
//! too much is lost, `search` keeps the layers that disturb the answer most in `f32`. Samples that judge have taught nothing.

mod choose;
mod equalize;
mod histogram;
mod judge;
mod observe;
mod options;
mod prepare;
mod quantized;
pub mod report;
mod search;

pub use histogram::RangeMethod;
pub use options::QuantizeOptions;
pub use quantized::{Quantized, quantize};
