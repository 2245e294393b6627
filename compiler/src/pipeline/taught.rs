//! The model with what calibration samples have taught: exits, and what can go.

use partita_learn::host::Host;

use super::simplified::Simplified;
use crate::config::Cluster;
use crate::diagnostic::{Diagnostic, printable};
use crate::exits::{self, ExitsReport};
use crate::graph::Graph;
use crate::links::LinksReport;
use crate::options::Options;
use crate::passes::batch::{BatchError, batch};
use crate::passes::store_weights::Stored;
use crate::placement::{Clock, Failure};
use crate::quantize::report::QuantizationReport;
use crate::variants::{self, Study};

/// A model as it is placed.
pub struct Taught {
    /// File name of the model without extension.
    pub name: String,
    /// The network, with its exits.
    pub graph: Graph,
    /// What is known of its quantization, if calibration samples have made whole numbers of it.
    pub quantization: Option<QuantizationReport>,
    /// Matrix products whose weights are stored in fewer bytes.
    pub stored: Vec<Stored>,
    /// What is known of its exits, if it has been given any.
    pub exits: Option<ExitsReport>,
    /// What is known of its links, if they send fewer bytes.
    pub links: Option<LinksReport>,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

impl Taught {
    /// Studies variants, and adds exits, as far as they are wanted: what can go is a value of its own.
    pub fn of(
        simplified: Simplified,
        cluster: &Cluster,
        options: &Options,
        host: &dyn Host,
        clock: &mut Clock,
    ) -> Result<(Taught, Option<Study>), Failure> {
        let Simplified { name, graph, quantization, stored, warnings } = simplified;
        let mapping = options.placement();
        let mut study = None;
        if let Some(wanted) = &options.variants {
            clock.restart();
            study = Some(variants::study(&graph, wanted, cluster, &mapping, host)?);
            clock.lap("variants");
        }
        let Some(wanted) = &options.exits else {
            return Ok((Taught { name, graph, quantization, stored, exits: None, links: None, warnings }, study));
        };
        clock.restart();
        let (graph, report) = exits::add(graph, wanted, cluster, &mapping, host)?;
        clock.lap("exits");
        Ok((Taught { name, graph, quantization, stored, exits: Some(report), links: None, warnings }, study))
    }

    /// A graph as it is.
    pub fn nothing(name: String, graph: Graph) -> Taught {
        let (quantization, stored, warnings) = (None, Vec::new(), Vec::new());
        Taught { name, graph, quantization, stored, exits: None, links: None, warnings }
    }

    /// The same for so many samples at once.
    ///
    /// Errors: E0142.
    pub fn batched(self, samples: usize, clock: &mut Clock) -> Result<Taught, Failure> {
        if samples <= 1 {
            return Ok(self);
        }
        clock.restart();
        let graph = batch(&self.graph, samples).map_err(|error| no_batch(&error, samples))?;
        clock.lap("batch");
        Ok(Taught { graph, ..self })
    }
}

fn no_batch(error: &BatchError, samples: usize) -> Failure {
    let message = format!("--batch {samples}: {}", printable(&error.to_string()));
    let help = "leave --batch out; samples are then answered one by one";
    Failure::Input(vec![Diagnostic::new("E0142", message).help(help)])
}
