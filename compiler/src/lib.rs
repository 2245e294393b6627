//! Partita compiles one neural network, ahead of time, into one program per device.
//!
//! The way of the data is in `pipeline`; each of its stages is a crate below this one. [`driver::compile`] runs them, build
//! scripts use [`Build`]. The crates' modules have their short names here, for whoever uses the library and for tests.

mod build_script;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod deploy;
pub mod driver;
mod explain;
mod host;
mod interrupt;
mod numbers;
mod options;
mod pipeline;
pub mod run;
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
