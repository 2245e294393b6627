//! The arithmetic of learning: heads on the features of a frozen backbone, forwards, backwards and downhill, and least
//! squares.
//!
//! `averages` trains heads that see averages, `network` those that convolve (a `design`), by `stage` and `linear`; both descend by what
//! `cross_entropy` says. A finished [`head::Head`] is plain data. May import none of the compiler's crates, nor the runtime;
//! deliberately absent: graphs, files, clusters, and threads, which nothing here starts.

mod adam;
pub mod averages;
pub mod chance;
mod cross_entropy;
pub mod design;
pub mod head;
mod linear;
pub mod matrix;
pub mod network;
mod stage;
