//! What the user says about machines: targets and clusters, and what was measured and tuned on them.
//!
//! May import messages, the names of types and storages, and the reading of files; deliberately absent: graphs, and the
//! options of one compilation.

pub mod architecture;
mod cluster;
mod cluster_devices;
pub mod cluster_file;
mod cluster_links;
mod corrections;
mod input_form;
pub mod learned;
pub mod measured;
mod quantity;
pub mod ranges;
mod rate;
mod security;
mod serial_lines;
mod settings;
mod tables;
pub mod target;
pub mod tuned;

pub use architecture::Architecture;
pub use cluster::{
    Cluster, Condition, DATAGRAM_PAYLOAD_BYTES, Device, KEY_BYTES, Link, Medium, Security, Topology, Transport,
};
pub use partita_ir::graph::storage::WeightStorage;
pub use rate::Rate;
pub use settings::Settings;
pub use target::{InstructionSet, System, Target};
