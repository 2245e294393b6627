//! Inputs and outputs of the graph: what the model and the user say that they are.

use std::collections::HashSet;

use onnx_protobuf::{GraphProto, ValueInfoProto};

use super::importer::Importer;
use super::inputs::{self, ImportOptions};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Graph, Op, TensorId, TensorType, Value};

/// Most declared shapes that one warning names.
const MAX_CONTRADICTIONS: usize = 10;

impl Importer {
    /// Graph inputs; those that are initializers too (old files list them twice) stay constants.
    pub fn add_inputs(&mut self, inputs: &[ValueInfoProto], options: &ImportOptions) -> Result<(), Vec<Diagnostic>> {
        let inputs: Vec<&ValueInfoProto> =
            inputs.iter().filter(|input| !self.names.contains_key(&input.name)).collect();
        let inputs::InputTypes { types, symbols, remarks } = inputs::types(&inputs, options)?;
        self.check_fixed(&inputs, options)?;
        for (input, tensor_type) in inputs.iter().zip(types) {
            let fixed = options.fixed.iter().rev().find(|(name, _)| *name == input.name);
            if let Some((name, text)) = fixed {
                let value = self.fixed_value(name, text, &tensor_type).map_err(|error| vec![error])?;
                self.add_constant(name.clone(), value);
                continue;
            }
            let id = self.graph.add_input(input.name.clone(), tensor_type);
            let id = self.carried_input(id);
            self.names.insert(input.name.clone(), id);
        }
        self.symbols = symbols;
        self.graph.remarks.extend(remarks);
        Ok(())
    }

    /// The value of an input that the user fixes; its size is checked before it exists.
    fn fixed_value(&mut self, name: &str, text: &str, tensor_type: &TensorType) -> Result<Value, Diagnostic> {
        if !self.reserve_elements(tensor_type.element_count()) {
            let message = format!("--set {}: {tensor_type} has too many elements", printable(name));
            return Err(Diagnostic::new("E0122", message));
        }
        let data = inputs::fixed(name, text, tensor_type)?;
        Ok(Value { shape: tensor_type.shape.clone(), data })
    }

    /// What is fixed must be an input.
    fn check_fixed(&self, inputs: &[&ValueInfoProto], options: &ImportOptions) -> Result<(), Vec<Diagnostic>> {
        let is_input = |name: &str| inputs.iter().any(|input| input.name == name);
        let unknown = options.fixed.iter().filter(|(name, _)| !is_input(name));
        let names: Vec<String> = inputs.iter().take(MAX_CONTRADICTIONS).map(|input| printable(&input.name)).collect();
        let wrong: Vec<Diagnostic> = unknown
            .map(|(name, _)| {
                let message = format!("--set names `{}`, which is no input", printable(name));
                Diagnostic::new("E0121", message).note(format!("inputs: {}", names.join(", ")))
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Graph outputs, by the names that the model gives them.
    pub fn finish(mut self, model: &GraphProto) -> Result<Graph, Diagnostic> {
        self.compare_declared(model);
        let mut listed: HashSet<&str> = HashSet::new();
        let mut taken: HashSet<TensorId> = HashSet::new();
        for output in &model.output {
            let name = printable(&output.name);
            let Some(id) = self.tensor(&output.name) else {
                return Err(Diagnostic::new("E0110", format!("nothing makes graph output `{name}`")));
            };
            if !listed.insert(&output.name) {
                // Answers go by name: it is there already.
                self.graph.remarks.push(Diagnostic::new("N0110", format!("graph output `{name}` is listed twice")));
                continue;
            }
            let id = self.returned_output(id, output)?;
            // A graph output must be a produced tensor of its own.
            let tensor = self.graph.tensor(id);
            let is_own = tensor.producer.is_some() && tensor.name == output.name && taken.insert(id);
            let id = if is_own { id } else { self.copy_of(id, &output.name) };
            self.graph.outputs.push(id);
        }
        self.graph.remarks.extend(self.not_finite.into_warning());
        Ok(self.graph)
    }

    /// An output that is an input has the same name as that input.
    fn copy_of(&mut self, id: TensorId, name: &str) -> TensorId {
        if self.graph.tensor(id).name == name && self.graph.value(id).is_some() {
            let moved = self.tensor_name(format!("{name}.value"));
            self.graph.rename_tensor(id, moved);
        }
        let copy = self.graph.add_tensor(name, self.graph.tensor_type(id).clone());
        let node = self.node_name(format!("{name}.copy"));
        self.graph.add_node(node, Op::Identity, vec![id], vec![copy]);
        copy
    }

    /// Says where shapes that the model declares are not those that follow from its operators.
    fn compare_declared(&mut self, model: &GraphProto) {
        let mut notes = Vec::new();
        for value in model.output.iter().chain(&model.value_info) {
            let (Some(id), Some(declared)) = (self.tensor(&value.name), inputs::declared_extents(value, &self.symbols))
            else {
                continue;
            };
            let found = self.graph.shape(id);
            // Exporters write no dimensions for a shape that they do not know.
            if declared.is_empty() {
                continue;
            }
            let fits = |(stated, found): (&Option<usize>, &usize)| stated.is_none_or(|stated| stated == *found);
            if declared.len() != found.len() || !declared.iter().zip(found).all(fits) {
                let stated: Vec<String> =
                    declared.iter().map(|extent| extent.map_or("?".to_string(), |extent| extent.to_string())).collect();
                let name = printable(&value.name);
                notes.push(format!("`{name}` is declared [{}], its shape is {found:?}", stated.join(",")));
            }
        }
        if notes.is_empty() {
            return;
        }
        let more = notes.len().saturating_sub(MAX_CONTRADICTIONS);
        notes.truncate(MAX_CONTRADICTIONS);
        if more > 0 {
            notes.push(format!("and {more} more"));
        }
        let message = "the model declares shapes that do not follow from its operators; the latter count";
        self.graph.remarks.push(notes.into_iter().fold(Diagnostic::new("W0131", message), Diagnostic::note));
    }
}
