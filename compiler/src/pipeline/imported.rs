//! The model as its file says it.

use std::path::Path;

use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::graph::Graph;
use crate::options::Options;
use crate::placement::Failure;
use crate::{onnx, passes};

/// A model, every tensor typed and shaped.
pub struct Imported {
    /// File name of the model without extension.
    pub name: String,
    /// The network.
    pub graph: Graph,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

impl Imported {
    /// Reads an ONNX file.
    pub fn read(model: &Path, options: &Options) -> Result<Imported, Failure> {
        let wanted = onnx::ImportOptions { shapes: options.shapes.clone(), fixed: options.fixed.clone() };
        let mut graph = onnx::import(model, &wanted)?;
        let warnings = graph.remarks.extract_if(.., |remark| remark.code.starts_with('W')).collect();
        let name = model.file_stem().map_or_else(|| "model".to_string(), |stem| stem.to_string_lossy().into_owned());
        Ok(Imported { name, graph, warnings })
    }

    /// The same with an input as cameras and microphones give it, where the cluster file says so.
    ///
    /// Errors: E0145 where that does not fit the model.
    pub fn with_input_form(mut self, cluster: &Cluster) -> Result<Imported, Failure> {
        if let Some(form) = &cluster.input_form {
            passes::input_form::convert(&mut self.graph, form).map_err(|refusal| Failure::Input(vec![refusal]))?;
        }
        Ok(self)
    }
}
