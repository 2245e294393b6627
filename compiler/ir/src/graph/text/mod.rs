//! Text form of graphs: printed after any stage, read by tests (with the feature `parse`).
//!
//! ```text
//! graph "toy" opset 17
//! input %0 "x": f32[1,3,8,8]
//! const %1 "w": f32[8,3,3,3] = random(1)
//! const %2 "b": f32[2] = [0.5, -1.0]
//! %3 "y": f32[1,8,8,8] = "conv1"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],..),groups:1,residual:false,activation:Relu))
//! output %3
//! ```
//!
//! Names are quoted with Rust's escapes. A node lists its results, name, operands, and its operator
//! with attributes in RON, the notation of [`crate::graph::Op`]'s own fields. Constants are written out, or made by `random(seed)` (uniform in [-1, 1)) and `fill(value)`, or (in dumps of large graphs)
//! summarised as `digest(..)`, which cannot be read back. `;` begins a comment. Other texts refer to tensors and nodes of a
//! graph by their numbers here ([`Numbering`]).

mod name;
mod numbering;
#[cfg(any(test, feature = "parse"))]
mod parse;
mod print;

pub use crate::text::ParseError;
pub use name::op_name;
pub use numbering::Numbering;
#[cfg(any(test, feature = "parse"))]
pub use parse::{ConstantReader, parse, read_operator, tensor_type};
pub use print::{Constants, elements, operator, print, print_dot};
