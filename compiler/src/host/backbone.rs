//! The backbone on this machine: compiled by the whole compiler, run by as many processes as there are cores.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::bundle::{self, cargo::BuildOptions, cargo::BuiltDevice};
use crate::config::cluster_file;
use crate::data;
use crate::driver::{Clock, Compiled, Failure, Options, compile_graph};
use crate::graph::{Graph, Value};
use crate::partition::StrategyFamily;
use crate::run::LocalCluster;
use crate::run::local::{self, LocalOptions};

/// Most graphs of one program: the number of a route is a byte.
pub const MOST_GRAPHS: usize = 250;

/// Graphs that can answer. The program is compiled when the first process is started: where everything that it would say is
/// kept from an earlier run, it is not made at all.
pub struct Backbone {
    graphs: Vec<Graph>,
    program: OnceLock<Program>,
    /// Held while the program is made.
    making: Mutex<()>,
}

/// The program of a backbone.
struct Program {
    compiled: Compiled,
    built: BuiltDevice,
    /// Where the program is.
    _programs: TempDir,
}

/// A process of a backbone.
pub struct Process<'a> {
    graphs: &'a [Graph],
    process: LocalCluster,
}

impl Backbone {
    /// Of one graph.
    pub fn of(graph: Graph) -> Backbone {
        Backbone { graphs: vec![graph], program: OnceLock::new(), making: Mutex::new(()) }
    }

    /// Of several graphs in one program, whose route says which of them answers. Weights that they share are stored once.
    /// At most [`MOST_GRAPHS`].
    pub fn of_all(graphs: Vec<Graph>) -> Result<Backbone, Failure> {
        if graphs.len() > MOST_GRAPHS {
            return Err(Failure::Internal(anyhow::anyhow!("{} graphs for one program", graphs.len())));
        }
        Ok(Backbone { graphs, program: OnceLock::new(), making: Mutex::new(()) })
    }

    /// Starts a process. What goes wrong in compiling is a [`Failure`] that [`Failure::of`] finds again.
    pub fn start(&self) -> anyhow::Result<Process<'_>> {
        let Program { compiled, built, .. } = self.program()?;
        let process = local::start(compiled, std::slice::from_ref(built), LocalOptions::default())?;
        Ok(Process { graphs: &self.graphs, process })
    }

    fn program(&self) -> Result<&Program, Failure> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let program = make(&self.graphs)?;
        Ok(self.program.get_or_init(|| program))
    }
}

fn make(graphs: &[Graph]) -> Result<Program, Failure> {
    let text = "[cluster]\nname = \"features\"\ninput = \"host\"\noutput = \"host\"\n[[device]]\nname = \"host\"\ntarget = \"host\"\n";
    let cluster = cluster_file::parse(text, "features", Path::new("."))?;
    let options = Options { family: StrategyFamily::Whole, ..Options::default() };
    let compile = |graph: &Graph| {
        let (name, graph) = ("features".to_string(), graph.clone());
        compile_graph(name, graph, cluster.clone(), &options, Clock::default(), &mut ())
    };
    let mut all = graphs.iter().map(compile).collect::<Result<Vec<Compiled>, Failure>>()?.into_iter();
    let mut compiled = all.next().context("no graph").map_err(Failure::Internal)?;
    compiled.add_routes(all.enumerate().map(|(index, one)| one.into_route(format!("graph {}", index + 1))).collect());
    let programs = tempfile::tempdir().context("creating a temporary folder").map_err(Failure::Environment)?;
    bundle::write_programs(programs.path(), &compiled).map_err(Failure::Environment)?;
    let device = &compiled.cluster.devices[0];
    let built = bundle::cargo::build_device(programs.path(), device, BuildOptions::default());
    let built = built.map_err(Failure::Environment)?;
    Ok(Program { compiled, built, _programs: programs })
}

impl Process<'_> {
    /// Elements of every output.
    pub fn answer(&mut self, input: &Value) -> anyhow::Result<Vec<Vec<f32>>> {
        self.answer_by(0, input)
    }

    /// The same of one of several graphs.
    pub fn answer_by(&mut self, number: usize, input: &Value) -> anyhow::Result<Vec<Vec<f32>>> {
        Ok(self.ask(number, input)?.0)
    }

    /// The first output of one of several graphs, and the exit at which the inference ended.
    pub fn end_by(&mut self, number: usize, input: &Value) -> anyhow::Result<(Vec<f32>, Option<usize>)> {
        let (outputs, exit) = self.ask(number, input)?;
        Ok((outputs.into_iter().next().unwrap_or_default(), exit))
    }

    fn ask(&mut self, number: usize, input: &Value) -> anyhow::Result<(Vec<Vec<f32>>, Option<usize>)> {
        let graph = self.graphs.get(number).context("no such graph")?;
        let bytes = local::pack(graph, &graph.inputs, std::slice::from_ref(input))?;
        let result = self.process.infer_on(&bytes, Some(number as u8))?;
        let outputs = local::unpack(graph, &result.output)?;
        let outputs = outputs.into_iter().map(|(_, value)| data::to_f32(&value.data)).collect();
        Ok((outputs, result.exit.map(|(exit, _)| exit as usize)))
    }
}
