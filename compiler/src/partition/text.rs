//! Text form of a partition, for people.

use std::fmt;

use super::{Partition, Strategy};
use crate::config::Cluster;
use crate::graph::Graph;
use crate::graph::text::op_name;

/// Shows a partition with the names of its graph and cluster.
pub struct Display<'a> {
    /// What is shown.
    pub partition: &'a Partition,
    /// Its graph.
    pub graph: &'a Graph,
    /// Its cluster.
    pub cluster: &'a Cluster,
}

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partition = self.partition;
        writeln!(f, "partition for {:?}, optimal {}, gap {}", partition.objective, partition.optimal, partition.gap)?;
        for id in self.graph.topological_order().unwrap_or_default() {
            let node = self.graph.node(id);
            match partition.strategies.get(&id) {
                Some(Strategy::Whole(device)) => {
                    let device = &self.cluster.devices[*device].name;
                    writeln!(f, "{:?} ({}): whole on {device}", node.name, op_name(&node.op))?;
                }
                None => writeln!(f, "{:?} ({}): nowhere", node.name, op_name(&node.op))?,
            }
        }
        Ok(())
    }
}
