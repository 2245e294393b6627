//! Text form of programs: printed for people, read back by tests (with the feature `parse`).
//!
//! ```text
//! program device 0 arena 128 weights 64
//! buffer b0 "x": f32[1,4] plain elements 4 at 0 tensor 0
//! buffer b1 "y": f32[1,4] plain elements 4 at 64 tensor 3
//! buffer b2 "view": f32[4] plain elements 4 at 64 part of b1 from 0
//! weight w0 "w": f32[4] at 0 = [1.0, 2.0, 3.0, 4.0]
//! kernel add_1x4 lanes 4 macs 0 "add of 4 elements"
//! ...
//! call add_1x4 (b0, w0, b1) for "add", "relu"
//! reference (b2) -> (b1) for "sigmoid" Unary(Sigmoid)
//! reorder b0 -> b1
//! copy b0 from 0 -> b1 from 2 runs 1 of 2 by 2 to 2
//! exchange
//!   send b1 bytes 16 to device 1 message 0
//!   receive b0 bytes 16 from device 1 message 1
//! leave exit 0 if b0 with b1
//! input 0 b0
//! output 0 b1
//! ```
//!
//! Buffers and weights are numbered in order, kernels stand there in their own text form. `part of` is memory that is shared,
//! `over` memory that is written again; `order` says how a convolution's weights are packed. Elements are written out, or, in
//! dumps, summarised, which cannot be read back.

#[cfg(any(test, feature = "parse"))]
mod parse;
mod print;

#[cfg(any(test, feature = "parse"))]
pub use parse::parse;
pub use print::print;
