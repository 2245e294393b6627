//! Kernel IR: one loop nest per (operator, shapes, target), every extent, stride and offset a constant.
//!
//! A kernel works on vectors of [`Kernel::lanes`] lanes of 32 bits: `f32`, or whole numbers, which may be four bytes
//! each ([`LaneType`]; `verify` knows the type of every value). Its body is structured: loops over affine ranges,
//! mutable vector variables (the accumulators of a register tile), loads, stores and arithmetic. Addresses are affine
//! in the loop variables, in elements from the start of a buffer; `verify` proves every access inside its buffer. There
//! is no other control flow, so each back end is a short translation:
//!
//! - `emit::rust_source` spells it as Rust, with one prelude per instruction set (AVX-512, AVX2, SSE2, scalar lanes);
//! - `emit::object` builds it with Cranelift for AArch64;
//! - `eval` interprets it, bounds-checked, for tests.
//!
//! What kernels are made of is in `expression`, `affine`, `buffer` and `loops`; statements and kernels are here.
//! `lower` makes kernels from operators, `split` shares them among threads, `unroll` writes short loops out twice,
//! `visit` walks over them, `text` prints and reads them, `layout` says how tensors lie. May import single operators,
//! targets and the runtime's kernels; deliberately absent: graphs as a whole, schedules, and code for a machine, which
//! `partita-program` makes.

use partita_rt::kernels::Winograd;

use partita_config::tuned::Choice;
use partita_ir::graph::ElementType;

mod affine;
mod buffer;
pub mod eval;
mod expression;
pub mod layout;
mod loops;
pub mod lower;
pub mod split;
pub mod text;
pub mod unroll;
pub mod verify;
pub mod visit;

pub use affine::{Affine, Bound, ceil_quotient, turns};
pub use buffer::{Access, Buffer, BufferDeclaration};
pub use expression::{Arithmetic, Bytes, Expression, Factors, Function, Half, Joining, LaneType, Variable};
pub use loops::{LoopDeclaration, LoopVar, Role};

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `for var in low..high step step { body }`. With `unroll` the back end writes the body out (constant bounds only).
    For {
        /// Counts from `low`.
        var: LoopVar,
        /// First value.
        low: Bound,
        /// End, exclusive.
        high: Bound,
        /// Added each time, positive.
        step: i64,
        /// Write the iterations out.
        unroll: bool,
        /// Executed for each value.
        body: Vec<Statement>,
    },
    /// First or later assignment of a variable.
    Assign(Variable, Expression),
    /// Stores all lanes.
    Store(Buffer, Affine, Expression),
    /// Stores the first `count` lanes (1..lanes).
    StorePartial(Buffer, Affine, u32, Expression),
    /// Asks for the memory around an element, which may lie past the end of the buffer, without waiting for it.
    Prefetch(Buffer, Affine),
    /// Threads that share the kernel wait for each other.
    Barrier,
    /// A line of explanation for the reader of emitted code.
    Comment(String),
}

/// A compiled loop nest.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Identifier, unique in its program: family and shapes, such as `conv_3x3_64x56x56_64`.
    pub name: String,
    /// What it computes, in words, for the emitted doc comment.
    pub summary: String,
    /// Elements of a vector: 4, 8 or 16.
    pub lanes: u32,
    /// Parameters in call order: inputs, then weights, then scratch, then outputs.
    pub buffers: Vec<BufferDeclaration>,
    /// Loop variables; several loops may use one of them, one after the other.
    pub loops: Vec<LoopDeclaration>,
    /// Names of vector variables, identifiers.
    pub variable_names: Vec<String>,
    /// Executed once per call.
    pub body: Vec<Statement>,
    /// Inputs whose memory the output may share exactly (same first element): each element is read before it is
    /// written, and never after.
    pub in_place: Vec<Buffer>,
    /// How threads share it; each has its own part of the scratch buffers.
    pub split: Option<split::Split>,
    /// Where there are several alternatives: what is done, and by which of them, as measurements name them.
    pub alternative: Option<(String, Choice)>,
    /// Of Winograd's algorithm: what the convolution is, to ask whether its inputs are small enough, and to do it directly where
    /// they are not.
    pub winograd: Option<Winograd>,
    /// Multiply-adds per call that the operator itself needs.
    pub macs: u64,
}

impl Kernel {
    /// Whether it rounds the rows of a product to 16 bits, to multiply them as whole numbers.
    pub fn rounds_rows(&self) -> bool {
        let is_bytes = |buffer: &BufferDeclaration| buffer.storage == ElementType::I8;
        self.buffers.iter().any(|buffer| buffer.access == Access::Scratch && is_bytes(buffer))
    }

    /// Whether it multiplies bytes.
    pub fn multiplies_bytes(&self) -> bool {
        let mut found = false;
        visit::each_expression(&self.body, &mut |part| {
            let joins = matches!(part, Expression::Join(Joining::Products(_), ..));
            found |= joins || matches!(part, Expression::DotBytes(..) | Expression::AddProducts(..));
        });
        found
    }
}
