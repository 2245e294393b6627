//! Looking on while a model is compiled.

use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::graph::Graph;
use crate::placement::{Failure, Placed};
use crate::{partition, passes, schedule};

/// Looks on while a model is compiled.
pub trait Dump {
    /// Called after the stage `name`; text that is not wanted is not rendered.
    fn stage(&mut self, name: &str, text: &dyn std::fmt::Display);

    /// Called once the model is known, before anything that takes long: the last moment to find that data do not fit.
    fn simplified(&mut self, _graph: &Graph, _cluster: &Cluster) -> Result<(), Failure> {
        Ok(())
    }

    /// Something that is no error, but that the user should know.
    fn remark(&mut self, _remark: &Diagnostic) {}
}

impl Dump for () {
    fn stage(&mut self, _name: &str, _text: &dyn std::fmt::Display) {}
}

/// Names of the stages whose text can be seen, in order, each once.
pub fn stages() -> Vec<&'static str> {
    let passes = passes::SIMPLIFY.iter().map(|pass| pass.name);
    let behind = ["quantize", "exits", "batch", "links", "partition", "shard", "schedule", "program"];
    let mut names: Vec<&str> = Vec::new();
    for name in std::iter::once("import").chain(passes).chain(behind) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The stages of which placement consists, as they have come out.
pub(super) fn placed(placed: &Placed, graph: &Graph, cluster: &Cluster, dump: &mut dyn Dump) {
    let Placed { partition, sharded, schedules, programs, .. } = placed;
    dump.stage("partition", &partition::text::Display { partition, graph, cluster });
    dump.stage("shard", &sharded.graph);
    dump.stage("schedule", &schedule::text::Display { schedules, graph: &sharded.graph, cluster });
    for program in programs {
        dump.stage("program", program);
    }
}
