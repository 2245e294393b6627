//! Decides which device computes which node: the sharding ILP.
//!
//! First form: whole nodes on one device each, consecutive runs of layers (`whole`, `pipeline`). Split strategies enter
//! as further [`Strategy`] variants, with their own reshards and costs.

use std::collections::BTreeMap;

use crate::graph::NodeId;

/// One way to compute a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The device with this index computes all of it and holds all of its weights.
    Whole(usize),
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Time of one inference.
    Latency,
    /// Time of the slowest stage of a pipeline.
    Throughput,
    /// Bytes sent over all links.
    Traffic,
    /// Largest arena of any device.
    Memory,
    /// Energy of one inference.
    Energy,
}

/// The decision, with what was predicted for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// What was minimised.
    pub objective: Objective,
    /// Whether the solver proved that nothing is better.
    pub optimal: bool,
    /// Relative distance between the answer and the best bound; 0 if optimal.
    pub gap: f64,
    /// Predicted time of one inference.
    pub latency_ms: f64,
    /// Predicted inferences per second when inputs come back to back.
    pub throughput_hz: f64,
    /// Bytes sent over all links per inference.
    pub traffic_bytes: u64,
    /// Predicted energy of one inference.
    pub energy_mj: f64,
    /// Time the solver took.
    pub solve_ms: f64,
}
