//! Partita compiles one neural network, ahead of time, into one program per device.
//!
//! The way of the data is in `pipeline`; each of its stages is a crate below this one. [`driver::compile`] runs them, build
//! scripts use [`Build`]. The crates' modules have their short names here: options and results are of their types.
//!
//! May import all crates below but `partita-train`, which `partita-learn` alone uses. Deliberately absent: what a stage
//! does. Modules that are public for the two commands and for tests alone are hidden from the documentation.

mod build_script;
// Hidden, here and below: the commands `compile` and `partita` and the tests of the whole tool call these; they may change
// with any version.
#[doc(hidden)]
pub mod bundle;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod deploy;
pub mod driver;
mod explain;
mod host;
mod interrupt;
mod numbers;
mod options;
mod pipeline;
#[doc(hidden)]
pub mod run;
#[doc(hidden)]
pub mod usage;

pub use build_script::Build;

pub use partita_config as config;
pub use partita_files::{data, npz};
pub use partita_ir::{diagnostic, graph};
pub use partita_kernel as kernel;
pub use partita_learn::{accuracy, exits, links, quantize, samples, variants};
pub(crate) use partita_learn::{classifier, confidence, fit};
pub use partita_onnx as onnx;
pub use partita_passes as passes;
pub use partita_placement as placement;
pub use partita_plan::{partition, schedule, shard, simulate};
pub(crate) use partita_program::memory;
pub use partita_program::{emit, program};
