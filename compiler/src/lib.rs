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
pub mod config;
pub mod data;
pub mod diagnostic;
pub mod driver;
pub mod emit;
pub mod exits;
pub mod file_kind;
pub mod fit;
pub mod graph;
pub mod holdout;
pub mod host;
pub mod kernel;
pub mod memory;
pub mod npz;
pub mod numbers;
pub mod onnx;
pub mod partition;
pub mod passes;
pub mod placement;
pub mod plan;
pub mod program;
pub mod run;
pub mod samples;
pub mod schedule;
pub mod shard;
pub mod simulate;
pub mod usage;
pub mod variants;

pub use build_script::Build;
