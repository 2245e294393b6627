//! Text form of kernels: printed after lowering, read back by tests (with the feature `parse`).
//!
//! ```text
//! kernel relu_1x8 lanes 8 macs 0 "relu of 64 elements"
//! input x[72] in-place
//! output y[72]
//! loops sample: batch, block: channels, position: position
//! threads 2 share position
//! {
//!   for position in 0..8 step 1 {
//!     store y[8 * position] = max(0.0, load x[8 * position])
//!   }
//! }
//! ```
//!
//! Behind the head: buffers in the order of the call, with how they are stored; `alternative` and the one that
//! measurements name; `winograd` and the convolution that is done by Winograd's algorithm; `loops` with their roles;
//! `variables`, vectors all; `threads` and the loops that they share (`numbered` is the loop variable that holds a
//! thread's number). Lists that are empty are left out. `;` begins a comment, and in the body a statement that is one.

#[cfg(any(test, feature = "parse"))]
mod parse;
mod print;

#[cfg(any(test, feature = "parse"))]
pub use parse::{parse, read};
pub use print::{affine, code, print};
