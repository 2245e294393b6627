//! The model as its file says it.

use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::graph::Graph;
use crate::options::Options;
use crate::placement::Failure;
use crate::{numbers, onnx};

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
        let graph = onnx::import(model, &wanted)?;
        let warnings = numbers::of_constants(&graph).into_iter().collect();
        let name = model.file_stem().map_or_else(|| "model".to_string(), |stem| stem.to_string_lossy().into_owned());
        Ok(Imported { name, graph, warnings })
    }
}
