//! What a mapping would come to, before programs are made of it: for one of many networks, or many situations.

use partita_config::Cluster;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::Graph;
use partita_plan::partition::{Objective, Partition, PartitionOptions};
use partita_plan::schedule::{self, Schedule};
use partita_plan::shard::{self, Sharded};
use partita_plan::simulate;

use crate::contest::{Breadth, Contest};
use crate::failure::Failure;
use crate::fit::{least_memory, partition_failure};

/// The best of few, by the sizes of tensors.
fn best(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Result<Partition, Failure> {
    if wanted.objective == Objective::Memory {
        return least_memory(graph, cluster, wanted);
    }
    let mut contest = Contest::new(graph, cluster, wanted, Breadth::Few).map_err(partition_failure)?;
    let none = || Failure::Infeasible(Diagnostic::new("E0170", "no plan can be carried out"));
    let best = contest.pop().ok_or_else(none)?;
    Ok(contest.certified(best))
}

/// A mapping before programs are made of it.
pub struct Outlook {
    /// Strategies.
    pub partition: Partition,
    /// Each device's part.
    pub sharded: Sharded,
    /// What each device does.
    pub schedules: Vec<Schedule>,
    /// What that comes to.
    pub prediction: simulate::Prediction,
}

/// A good mapping by the sizes of tensors, quick to find; none if there is none.
pub fn outlook(graph: &Graph, cluster: &Cluster, wanted: &PartitionOptions) -> Option<Outlook> {
    let partition = best(graph, cluster, wanted).ok()?;
    let sharded = shard::apply(graph, &partition, cluster).ok()?;
    let schedules = schedule::build(&sharded, cluster).ok()?;
    let prediction = simulate::simulate(&sharded, &schedules, cluster);
    Some(Outlook { partition, sharded, schedules, prediction })
}
