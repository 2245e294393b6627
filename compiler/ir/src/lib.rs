//! The graph of operators that everything else works on, and the messages for users.
//!
//! [`graph`] has operators, types, values, shape inference, the reference interpreter and the text form; every graph that
//! [`graph::verify`] accepts is typed and shaped. [`region`] is the algebra of boxes, [`space`] describes every operator as loops
//! over its operands and results, and [`restrict`] says which boxes of its operands a box of a result needs. [`text`] reads the text forms
//! of this and all other crates, [`diagnostic`] is what is said to users, [`parallel`] does work on all cores. May import the runtime's kernels and numbers; deliberately absent: files, ONNX, devices, passes.

pub mod diagnostic;
pub mod graph;
pub mod parallel;
pub mod region;
pub mod restrict;
pub mod space;
pub mod text;
