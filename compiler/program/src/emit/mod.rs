//! Programs to files: Rust source from templates, machine code through Cranelift, weights as objects.

pub mod archive;
pub mod expressions;
pub mod family;
pub mod literal;
#[cfg(feature = "aarch64")]
mod load_pairs;
pub mod model;
#[cfg(feature = "aarch64")]
pub mod object;
pub mod plan;
pub mod reference_call;
pub mod rust_source;
pub mod steps;
pub mod templates;
