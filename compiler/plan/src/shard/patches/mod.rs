//! Patch by patch: a run of nodes on one device, computed for one tile of its result after the other.
//!
//! Large activations at the beginning of a network are what a small device's RAM fails on. They need not exist whole:
//! the result of a later, smaller node is cut into tiles, and each tile goes through all nodes of the run before the
//! next begins (patch-based inference; Lin et al. 2021, MCUNetV2, section 3). It is the fused tiling that devices share
//! (`partition::candidates`), on one device, one tile after the other: the halo is computed again by each, which is
//! what the memory costs.

mod apply;
mod find;

pub use apply::apply;
pub use find::{find, whole_bytes};

use partita_ir::graph::NodeId;
use partita_ir::region::Region;

/// A run of nodes and the tiles of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Index of the device.
    pub device: usize,
    /// The nodes, in the order in which the device computes them; the last makes the result.
    pub nodes: Vec<NodeId>,
    /// The tiles, in the order in which they are computed.
    pub tiles: Vec<Region>,
    /// Bytes of activations that are then alive at most, on the whole device, by the sizes of tensors.
    pub peak_bytes: u64,
    /// Multiply-adds of the run, whole and in tiles.
    pub macs: (u64, u64),
}

/// What was done on a device, for people.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PatchReport {
    /// Name of the device.
    pub device: String,
    /// First and last node of the run.
    pub nodes: (String, String),
    /// Number of tiles.
    pub tiles: usize,
    /// Multiply-adds of the run, whole and in tiles.
    pub macs: (u64, u64),
}
