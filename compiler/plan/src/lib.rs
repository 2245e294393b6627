//! Who computes what, what is exchanged, in which order, and what that takes.
//!
//! [`partition`] chooses the strategy of every node, [`shard`] makes a graph of shards of that, [`schedule`] one list of
//! computations and exchanges per device, and [`simulate`] says what they take. May import the graph, targets and clusters,
//! and what kernels cost; deliberately absent: programs, memory, code.

pub mod partition;
pub mod schedule;
pub mod shard;
pub mod simulate;
