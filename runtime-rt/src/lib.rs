//! Run time of programs emitted by Partita.
#![cfg_attr(not(feature = "std"), no_std)]
mod arena;
pub mod kernels;

pub use arena::Arena;
