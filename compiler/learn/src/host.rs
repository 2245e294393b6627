//! Networks on this machine: what the crate with a compiler does for this one, and what is asked of it.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use partita_ir::graph::{Graph, Value};
use partita_placement::Failure;

/// Most graphs of one program: the number of a route is a byte.
pub const MOST_GRAPHS: usize = 250;

/// A machine that networks can be compiled for and run on.
pub trait Host: Sync {
    /// One program of several graphs, at most [`MOST_GRAPHS`], any of which can be asked. Weights that they share are stored
    /// once.
    fn build(&self, graphs: &[Graph]) -> Result<Box<dyn Executable>, Failure>;
}

/// A program that is built.
pub trait Executable: Send + Sync {
    /// Starts a process of it.
    fn start(&self) -> anyhow::Result<Box<dyn Session + '_>>;
}

/// A running process.
pub trait Session {
    /// Asks one of the graphs.
    fn infer(&mut self, graph: usize, input: &Value) -> anyhow::Result<Inference>;
}

/// What a network answers.
pub struct Inference {
    /// Elements of every output, row-major.
    pub outputs: Vec<Vec<f32>>,
    /// Exit at which the inference ended; none if it went to the end.
    pub exit: Option<usize>,
}

/// Where networks run, and the folder in which finished work is kept.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The folder.
    pub cache: &'a Path,
}

/// Graphs that can answer. The program is compiled when the first process is started: where everything that it would say is
/// kept from an earlier run, it is not made at all.
pub struct Backbone<'a> {
    host: &'a dyn Host,
    graphs: Vec<Graph>,
    executable: OnceLock<Box<dyn Executable>>,
    /// Held while the program is made.
    making: Mutex<()>,
}

/// A process of a backbone.
pub struct Process<'a>(Box<dyn Session + 'a>);

impl<'a> Backbone<'a> {
    /// Of one graph.
    pub fn of(host: &'a dyn Host, graph: Graph) -> Backbone<'a> {
        Backbone { host, graphs: vec![graph], executable: OnceLock::new(), making: Mutex::new(()) }
    }

    /// Of several graphs in one program, whose route says which of them answers. At most [`MOST_GRAPHS`].
    pub fn of_all(host: &'a dyn Host, graphs: Vec<Graph>) -> Result<Backbone<'a>, Failure> {
        if graphs.len() > MOST_GRAPHS {
            return Err(Failure::Internal(anyhow::anyhow!("{} graphs for one program", graphs.len())));
        }
        Ok(Backbone { host, graphs, executable: OnceLock::new(), making: Mutex::new(()) })
    }

    /// Starts a process. What goes wrong in compiling is a [`Failure`] that [`Failure::of`] finds again.
    pub fn start(&self) -> anyhow::Result<Process<'_>> {
        Ok(Process(self.executable()?.start()?))
    }

    fn executable(&self) -> Result<&dyn Executable, Failure> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(executable) = self.executable.get() {
            return Ok(executable.as_ref());
        }
        let executable = self.host.build(&self.graphs)?;
        Ok(self.executable.get_or_init(|| executable).as_ref())
    }
}

impl Process<'_> {
    /// Elements of every output.
    pub fn answer(&mut self, input: &Value) -> anyhow::Result<Vec<Vec<f32>>> {
        self.answer_by(0, input)
    }

    /// The same of one of several graphs.
    pub fn answer_by(&mut self, graph: usize, input: &Value) -> anyhow::Result<Vec<Vec<f32>>> {
        Ok(self.0.infer(graph, input)?.outputs)
    }

    /// The first output of one of several graphs, and the exit at which the inference ended.
    pub fn end_by(&mut self, graph: usize, input: &Value) -> anyhow::Result<(Vec<f32>, Option<usize>)> {
        let Inference { outputs, exit } = self.0.infer(graph, input)?;
        Ok((outputs.into_iter().next().context("the network has no output")?, exit))
    }
}

/// Networks by the reference kernels, in this process: for tests.
#[cfg(test)]
pub(crate) mod reference {
    use super::{Executable, Host, Inference, Session};
    use partita_files::data::to_f32;
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::{Graph, Value};
    use partita_placement::Failure;

    /// The reference kernels.
    pub struct Reference;

    struct Graphs(Vec<Graph>);

    struct Running<'a>(&'a [Graph]);

    impl Host for Reference {
        fn build(&self, graphs: &[Graph]) -> Result<Box<dyn Executable>, Failure> {
            Ok(Box::new(Graphs(graphs.to_vec())))
        }
    }

    impl Executable for Graphs {
        fn start(&self) -> anyhow::Result<Box<dyn Session + '_>> {
            Ok(Box::new(Running(&self.0)))
        }
    }

    impl Session for Running<'_> {
        fn infer(&mut self, graph: usize, input: &Value) -> anyhow::Result<Inference> {
            let outputs = evaluate(&self.0[graph], std::slice::from_ref(input))?;
            Ok(Inference { outputs: outputs.iter().map(|output| to_f32(&output.data)).collect(), exit: None })
        }
    }
}
