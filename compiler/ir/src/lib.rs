//! The graph of operators that everything else works on, and the messages for users.
//!
//! [`graph`] has operators, types, values, shape inference, the reference interpreter and the text form; every graph that
//! [`graph::verify`] accepts is typed and shaped. [`diagnostic`] is what is said to users. May import the runtime's kernels
//! and numbers; deliberately absent: files, ONNX, devices, passes.

pub mod diagnostic;
pub mod graph;
pub mod region;
pub mod restrict;
