//! What the user says about machines: targets and clusters.
pub mod cluster;
pub mod target;
pub use cluster::{Cluster, Condition, Device, Link, Transport};
pub use target::{InstructionSet, System, Target};
