//! This machine as a calculator of networks: compiled by the whole compiler, run by as many processes as are asked for.

use std::path::Path;

use anyhow::Context;
use partita_learn::host::{Executable, Host, Inference, Session};

use crate::bundle::{self, cargo::BuildOptions, cargo::BuiltDevice};
use crate::config::cluster_file;
use crate::data;
use crate::graph::{Graph, Value};
use crate::interrupt::TemporaryFolder;
use crate::options::Options;
use crate::partition::StrategyFamily;
use crate::pipeline::{Compiled, compile_graph};
use crate::placement::Failure;
use crate::run::LocalCluster;
use crate::run::local::{self, LocalOptions};

/// The machine that the compiler runs on.
pub struct ThisMachine;

/// A cluster of this machine alone.
const ALONE: &str = "[cluster]\nname = \"features\"\ninput = \"host\"\noutput = \"host\"\n[[device]]\nname = \"host\"\ntarget = \"host\"\n";

/// A program for this machine.
struct Built {
    compiled: Compiled,
    device: BuiltDevice,
    /// Where the program is.
    _folder: TemporaryFolder,
}

/// A process of it.
struct Running<'a> {
    compiled: &'a Compiled,
    process: LocalCluster,
}

impl Host for ThisMachine {
    fn build(&self, graphs: &[Graph]) -> Result<Box<dyn Executable>, Failure> {
        let cluster = cluster_file::parse(ALONE, "features", Path::new("."))?;
        let options = Options { family: StrategyFamily::Whole, ..Options::default() };
        let compile = |graph: &Graph| compile_graph("features".to_string(), graph.clone(), cluster.clone(), &options);
        let mut all = graphs.iter().map(compile).collect::<Result<Vec<Compiled>, Failure>>()?.into_iter();
        let whole = all.next().context("no graph").map_err(Failure::Internal)?;
        let routes = all.enumerate().map(|(index, one)| one.into_route(format!("graph {}", index + 1))).collect();
        let compiled = whole.with_routes(routes);
        let folder = TemporaryFolder::new("partita-host-")
            .context("creating a temporary folder")
            .map_err(Failure::Environment)?;
        bundle::write_programs(&folder, &compiled).map_err(Failure::Environment)?;
        let device = &compiled.cluster.devices[0];
        let built = bundle::cargo::build_device(&folder, device, BuildOptions::default());
        let device = built.map_err(Failure::Environment)?;
        Ok(Box::new(Built { compiled, device, _folder: folder }))
    }
}

impl Executable for Built {
    fn start(&self) -> anyhow::Result<Box<dyn Session + '_>> {
        let process = local::start(&self.compiled, std::slice::from_ref(&self.device), LocalOptions::default())?;
        Ok(Box::new(Running { compiled: &self.compiled, process }))
    }
}

impl Session for Running<'_> {
    fn infer(&mut self, graph: usize, input: &Value) -> anyhow::Result<Inference> {
        let network = match graph.checked_sub(1) {
            None => &self.compiled.graph,
            Some(further) => &self.compiled.routed.routes.get(further).context("no such graph")?.graph,
        };
        let bytes = local::pack(network, &network.inputs, std::slice::from_ref(input))?;
        let result = self.process.infer_on(&bytes, Some(graph as u8))?;
        let outputs = local::unpack(network, &result.output)?;
        let outputs = outputs.into_iter().map(|(_, value)| data::to_f32(&value.data)).collect();
        Ok(Inference { outputs, exit: result.exit.map(|(exit, _)| exit as usize) })
    }
}
