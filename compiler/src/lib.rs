//! Partita compiles one neural network, ahead of time, into one program per device.
pub mod config;
pub mod diagnostic;
pub mod graph;
pub mod kernel;
pub mod memory;
pub mod partition;
pub mod passes;
pub mod program;
pub mod schedule;
