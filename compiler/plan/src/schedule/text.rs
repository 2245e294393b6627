//! Text form of schedules, for people.

use std::fmt;

use super::{Action, Message, Schedule};
use partita_config::Cluster;
use partita_ir::graph::Graph;

/// Shows schedules with the names of their graph and cluster.
pub struct Display<'a> {
    /// What is shown.
    pub schedules: &'a [Schedule],
    /// Their graph.
    pub graph: &'a Graph,
    /// Their cluster.
    pub cluster: &'a Cluster,
}

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |device: usize| self.cluster.devices[device].name.as_str();
        for schedule in self.schedules {
            writeln!(f, "device {}", name(schedule.device))?;
            for action in &schedule.actions {
                match action {
                    Action::Input { tensor, position } => {
                        writeln!(f, "  input {position} {:?}", self.graph.tensor(*tensor).name)?;
                    }
                    Action::Compute(node) => writeln!(f, "  compute {:?}", self.graph.node(*node).name)?,
                    Action::Exchange { sends, receives } => {
                        writeln!(f, "  exchange")?;
                        for Message { tensor, peer, number } in sends {
                            let tensor = &self.graph.tensor(*tensor).name;
                            writeln!(f, "    send {tensor:?} to {} as message {number}", name(*peer))?;
                        }
                        for Message { tensor, peer, number } in receives {
                            let tensor = &self.graph.tensor(*tensor).name;
                            writeln!(f, "    receive {tensor:?} from {} as message {number}", name(*peer))?;
                        }
                    }
                    Action::Leave { exit, verdict, .. } => {
                        writeln!(f, "  leave at exit {exit} if {:?}", self.graph.tensor(*verdict).name)?;
                    }
                    Action::Output { tensor, position } => {
                        writeln!(f, "  output {position} {:?}", self.graph.tensor(*tensor).name)?;
                    }
                }
            }
        }
        Ok(())
    }
}
