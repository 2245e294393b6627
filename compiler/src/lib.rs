//! Partita compiles one neural network, ahead of time, into one program per device.
//!
//! The way of the data is in [`driver::compile`]; each stage is a module here. Build scripts use [`Build`].

pub mod accuracy;
pub mod bits;
mod build_script;
pub mod bundle;
pub mod classifier;
pub mod cli;
pub mod commands;
pub mod confidence;
pub mod driver;
pub mod exits;
mod explain;
pub mod fit;
pub mod holdout;
pub mod host;
pub mod numbers;
pub mod options;
pub mod run;
pub mod samples;
pub mod usage;
pub mod variants;

pub use build_script::Build;

pub use partita_config as config;
pub use partita_files::{data, file, file_kind, npz};
pub use partita_ir::{diagnostic, graph, region, restrict};
pub use partita_kernel as kernel;
pub use partita_onnx as onnx;
pub use partita_passes as passes;
pub use partita_placement as placement;
pub use partita_plan::{partition, schedule, shard, simulate};
pub use partita_program::{emit, memory, program};
