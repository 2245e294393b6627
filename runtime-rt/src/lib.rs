//! Run time of programs emitted by Partita.
#![cfg_attr(not(feature = "std"), no_std)]
pub mod kernels;
