//! Who computes what, what is exchanged, in which order, and what that takes.
//!
//! [`partition`] chooses the strategy of every node, [`shard`] makes a graph of shards of that, [`schedule`] one list of
//! computations and exchanges per device, and [`simulate`] says what they take. May import the graph, targets and clusters,
//! and what kernels cost; deliberately absent: programs, memory, code.

pub mod partition;
pub mod schedule;
pub mod shard;
pub mod simulate;

use partita_config::Cluster;
use partita_ir::text::{ParseError, Reader};

/// Reads the name of a device, in the text forms of plans.
fn read_device(reader: &mut Reader<'_>, cluster: &Cluster) -> Result<usize, ParseError> {
    let place = reader.place();
    let name = reader.name("a device")?;
    let found = cluster.devices.iter().position(|device| device.name == name);
    found.ok_or_else(|| reader.error_at(place, format!("cluster `{}` has no device `{name}`", cluster.name)))
}
