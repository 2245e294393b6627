//! Text form of schedules: printed for people, read back by tests.
//!
//! ```text
//! device cam
//!   input 0 %0 "x"
//!   compute %3 "conv1"
//!   start
//!     send %2 "c" to hub message 0
//!   exchange
//!     send %3 "a" to hub message 0
//!     receive %5 "b" from hub message 1
//!   leave exit 0 if %6 "verdict" with %4 "scores"
//!   output 0 %7 "y"
//! ```
//!
//! What `start` names travels from then on, and an exchange behind it, which has it again, waits for it. Tensors and nodes bear their numbers of the graph's text form; `with` stands where the answer is wanted.

use std::fmt;

use super::{Action, Message, Schedule};
use crate::read_device;
use partita_config::Cluster;
use partita_ir::graph::Graph;
use partita_ir::graph::text::Numbering;
use partita_ir::text::{ParseError, Reader};

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
        let numbering = Numbering::of(self.graph);
        for schedule in self.schedules {
            writeln!(f, "device {}", name(schedule.device))?;
            for action in &schedule.actions {
                match action {
                    Action::Input { tensor, position } => {
                        writeln!(f, "  input {position} {}", numbering.tensor(*tensor))?;
                    }
                    Action::Compute(node) => writeln!(f, "  compute {}", numbering.node(*node))?,
                    Action::Start { sends, receives } | Action::Exchange { sends, receives } => {
                        let starts = matches!(action, Action::Start { .. });
                        writeln!(f, "  {}", if starts { "start" } else { "exchange" })?;
                        for Message { tensor, peer, number } in sends {
                            let (tensor, peer) = (numbering.tensor(*tensor), name(*peer));
                            writeln!(f, "    send {tensor} to {peer} message {number}")?;
                        }
                        for Message { tensor, peer, number } in receives {
                            let (tensor, peer) = (numbering.tensor(*tensor), name(*peer));
                            writeln!(f, "    receive {tensor} from {peer} message {number}")?;
                        }
                    }
                    Action::Leave { exit, verdict, answer } => {
                        write!(f, "  leave exit {exit} if {}", numbering.tensor(*verdict))?;
                        match answer {
                            Some(answer) => writeln!(f, " with {}", numbering.tensor(*answer))?,
                            None => writeln!(f)?,
                        }
                    }
                    Action::Output { tensor, position } => {
                        writeln!(f, "  output {position} {}", numbering.tensor(*tensor))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads schedules; the inverse of [`Display`]. Whether they match and do not block, [`super::check`] says.
pub fn parse(text: &str, graph: &Graph, cluster: &Cluster) -> Result<Vec<Schedule>, ParseError> {
    let mut reader = Reader::new(text);
    let numbering = Numbering::of(graph);
    let mut schedules: Vec<Schedule> = Vec::new();
    while reader.next_line() {
        if reader.take_word("device") {
            let place = reader.place();
            let device = read_device(&mut reader, cluster)?;
            if schedules.iter().any(|schedule| schedule.device == device) {
                return Err(reader.error_at(place, "this device has a schedule already"));
            }
            schedules.push(Schedule { device, actions: Vec::new() });
        } else if let Some(schedule) = schedules.last_mut() {
            read_action(&mut reader, &numbering, cluster, &mut schedule.actions)?;
        } else {
            return Err(reader.expected("`device`"));
        }
        reader.end_of_line()?;
    }
    Ok(schedules)
}

/// Reads a line: an action, or a message of the one before it.
fn read_action(
    reader: &mut Reader<'_>,
    numbering: &Numbering<'_>,
    cluster: &Cluster,
    actions: &mut Vec<Action>,
) -> Result<(), ParseError> {
    let place = reader.place();
    let word = reader.word("an action")?;
    let action = match (word, actions.last_mut()) {
        ("input", _) => {
            let position = reader.count()?;
            Action::Input { tensor: numbering.read_tensor(reader)?, position }
        }
        ("compute", _) => Action::Compute(numbering.read_node(reader)?),
        ("start", _) => Action::Start { sends: Vec::new(), receives: Vec::new() },
        ("exchange", _) => Action::Exchange { sends: Vec::new(), receives: Vec::new() },
        ("send", Some(Action::Start { sends, .. } | Action::Exchange { sends, .. })) => {
            sends.push(read_message(reader, numbering, cluster, "to")?);
            return Ok(());
        }
        ("receive", Some(Action::Start { receives, .. } | Action::Exchange { receives, .. })) => {
            receives.push(read_message(reader, numbering, cluster, "from")?);
            return Ok(());
        }
        ("leave", _) => {
            reader.expect_word("exit")?;
            let exit = reader.count()?;
            reader.expect_word("if")?;
            let verdict = numbering.read_tensor(reader)?;
            let answer = if reader.take_word("with") { Some(numbering.read_tensor(reader)?) } else { None };
            Action::Leave { exit, verdict, answer }
        }
        ("output", _) => {
            let position = reader.count()?;
            Action::Output { tensor: numbering.read_tensor(reader)?, position }
        }
        _ => {
            let words =
                "`input`, `compute`, `start`, `exchange`, `leave`, `output`, or `send` or `receive` in one of these";
            return Err(reader.error_at(place, format!("expected {words}, found `{word}`")));
        }
    };
    actions.push(action);
    Ok(())
}

fn read_message(
    reader: &mut Reader<'_>,
    numbering: &Numbering<'_>,
    cluster: &Cluster,
    direction: &str,
) -> Result<Message, ParseError> {
    let tensor = numbering.read_tensor(reader)?;
    reader.expect_word(direction)?;
    let peer = read_device(reader, cluster)?;
    reader.expect_word("message")?;
    Ok(Message { tensor, peer, number: reader.count()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_with_their_place() {
        let graph = partita_ir::graph::text::parse(
            "input %0 \"x\": f32[2]\n%1 \"y\": f32[2] = \"n\"(%0) Unary(Neg)\noutput %1\n",
        );
        let graph = graph.expect("the text is a graph");
        let cluster =
            "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\ntarget = \"host\"\n";
        let cluster = partita_config::cluster_file::parse(cluster, "cluster.toml", std::path::Path::new("."));
        let cluster = cluster.expect("the cluster is sound");
        let text = "device a\n  input 0 %0 \"x\"\n  compute %1 \"n\"\n  exchange\n    send %1 \"y\" to a message 7\n  leave exit 1 if %0 \"x\" with %1 \"y\"\n  output 0 %1 \"y\"\n";
        let schedules = parse(text, &graph, &cluster).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Display { schedules: &schedules, graph: &graph, cluster: &cluster }.to_string(), text);
        for (old, new, message) in [
            ("device a", "device b", "line 1, column 8: cluster `t` has no device `b`"),
            ("device a\n", "", "line 1, column 3: expected `device`, found `input"),
            ("%0 \"x\"", "%0 \"z\"", "line 2, column 14: expected \"x\", the name that belongs to the number"),
            ("%1 \"n\"", "%0", "line 3, column 11: expected the first result of a node, found %0 \"x\""),
            ("  exchange\n", "", "line 4, column 5: expected `input`, `compute`"),
            ("message 7", "message 4294967296", "line 5, column 30: expected a whole number that fits"),
            ("%1 \"y\" to", "%2 \"y\" to", "line 5, column 10: expected a tensor of the graph, %0 to %1, found %2"),
            ("to a", "at a", "line 5, column 17: expected `to`, found `at a"),
            ("  output", "device a\n  output", "line 7, column 8: this device has a schedule already"),
        ] {
            let error = parse(&text.replacen(old, new, 1), &graph, &cluster).expect_err(new).to_string();
            assert!(error.starts_with(message), "{error} is not {message}");
        }
    }
}
