//! Text form of a partition, for people.

use std::fmt;

use super::{Method, Partition};
use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_ir::graph::text::op_name;

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
            write!(f, "{:?} ({}): ", node.name, op_name(&node.op))?;
            match partition.strategies.get(&id) {
                Some(strategy) => match strategy.outputs.only_device().filter(|_| strategy.method == Method::Whole) {
                    Some(device) => writeln!(f, "whole on {}", self.cluster.devices[device].name)?,
                    None => writeln!(f, "{strategy}")?,
                },
                None => writeln!(f, "nowhere")?,
            }
            let ways = partition.ways.range((id, 0)..=(id, usize::MAX));
            for (operand, way) in ways.flat_map(|((_, operand), ways)| ways.iter().map(move |way| (operand, way))) {
                let parts: Vec<String> = way.parts().map(|(device, region)| format!("{device}:{region}")).collect();
                writeln!(f, "  operand {operand} by way of {}", parts.join(" "))?;
            }
        }
        for stripes in &partition.stripes {
            let names: Vec<&str> = stripes.nodes.iter().map(|id| self.graph.node(*id).name.as_str()).collect();
            writeln!(f, "in {} stripes: {}", stripes.count, names.join(", "))?;
        }
        Ok(())
    }
}
