//! Decides which device computes which part of which node: the sharding ILP.
//!
//! A [`Strategy`] is one way to compute a node: which part of the result each device makes, or which partial sum. The
//! choice over all nodes is one optimisation: `candidates` lists the strategies, `network` prices them and what has to
//! travel between them, `search` finds the best assignment and says whether it is proven: by elimination and
//! Lagrangian bounds (`elimination`), and by the ILP where these leave a gap (`ilp`). `pipeline` is the special case of
//! whole nodes in consecutive runs.

pub mod arrival;
mod axes;
mod balance;
mod blocks;
pub mod bound;
mod candidates;
mod connect;
mod copies;
pub mod cost;
mod crossings;
mod decision;
pub mod device_subset;
mod elimination;
pub mod encodings;
mod explain;
mod groups;
mod ilp;
pub mod limits;
mod network;
mod objective;
mod options;
mod pipeline;
mod price;
pub mod published;
pub mod relay;
mod reshard;
pub mod resident;
mod search;
mod solve;
mod strategy;
pub mod subsets;
mod sum;
pub mod text;

pub use balance::rebalanced;
pub use cost::node_macs;
pub use crossings::crossings;
pub use decision::{OPTIMAL_GAP, Overlap, Partition, PartitionError, RowStreaming};
pub use explain::weights_exceed;
pub use objective::{Objective, Weights};
pub use options::{Effort, PartitionOptions, StrategyFamily};
pub use search::Further;
#[doc(hidden)]
pub use solve::strategies_of;
pub use solve::{solve, solve_also};
pub use strategy::{Method, Strategy};
pub use sum::sum_of;
