//! What the user says about machines: targets and clusters.

mod cluster;
pub mod cluster_file;
pub mod learned;
pub mod measured;
pub mod quantity;
pub mod target;
pub mod tuned;

pub use cluster::{Cluster, Condition, Device, Link, Medium, Topology, Transport};
pub use target::{InstructionSet, System, Target, WeightStorage};
