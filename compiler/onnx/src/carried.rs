//! Element types that the model gives tensors which are carried as another.

use onnx_protobuf::ValueInfoProto;

use super::importer::Importer;
use super::tensors::declared_element;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{ElementType, Op, TensorId};

/// Integers up to this size are whole numbers of `f32`, too.
pub const MAX_CARRIED_BYTES: usize = 2;

/// Whether a tensor of the one type may be carried as the other.
pub fn is_carried_as(promised: ElementType, own: ElementType) -> bool {
    promised == own
        || own == ElementType::F32
            && (promised.is_float() || promised.is_integer() && promised.size_bytes() <= MAX_CARRIED_BYTES)
}

impl Importer {
    /// Element type that the model says a tensor has.
    pub fn promised(&self, tensor: TensorId) -> ElementType {
        self.promises.get(&tensor).copied().unwrap_or(self.graph.tensor_type(tensor).element)
    }

    /// Says which element type the model gives a tensor, if it is another than the tensor's own.
    pub fn promise(&mut self, tensor: TensorId, element: ElementType) {
        if self.graph.tensor_type(tensor).element == element {
            self.promises.remove(&tensor);
            return;
        }
        self.promises.insert(tensor, element);
        if element.is_float() && self.graph.value(tensor).is_none() {
            self.graph.computed_in_f32.insert(element);
        }
    }

    /// What nodes read for a graph input: itself, or the `f32` that it is carried as.
    pub fn carried_input(&mut self, input: TensorId) -> TensorId {
        let own = self.graph.tensor_type(input).element;
        if !own.is_float() || own == ElementType::F32 {
            return input;
        }
        let carried = self.add_cast(input, ElementType::F32);
        self.promise(carried, own);
        carried
    }

    /// The tensor that is returned for a graph output: of the type that the model promises.
    pub fn returned_output(&mut self, id: TensorId, output: &ValueInfoProto) -> Result<TensorId, Diagnostic> {
        let own = self.graph.tensor_type(id).element;
        let promised = self.promised(id);
        let wanted = declared_element(output).unwrap_or(promised);
        if wanted != promised {
            let name = printable(&output.name);
            let (wanted, found) = (wanted.name(), promised.name());
            return Err(Diagnostic::new(
                "E0110",
                format!("graph output `{name}` is declared as {wanted}, but is {found}"),
            )
            .help("onnx.checker.check_model(model, full_check=True) tells which declaration is wrong"));
        }
        if wanted == own {
            return Ok(id);
        }
        // What was of that type before it was carried need not be converted back.
        let source = self.graph.tensor(id).producer.map(|producer| self.graph.node(producer));
        if let Some(source) = source
            && let (Op::Cast { .. }, [before]) = (&source.op, &source.inputs[..])
            && self.graph.tensor_type(*before).element == wanted
            && !self.graph.outputs.contains(before)
        {
            let before = *before;
            if self.graph.tensor(before).producer.is_some() {
                self.name_output(id, before, output);
            }
            return Ok(before);
        }
        let result = self.add_cast(id, wanted);
        self.name_output(id, result, output);
        Ok(result)
    }

    /// Gives an output's name to the tensor that is returned for it, and another to the one that has it.
    fn name_output(&mut self, carried: TensorId, returned: TensorId, output: &ValueInfoProto) {
        if self.graph.tensor(carried).name == output.name {
            let moved = self.tensor_name(format!("{}.f32", output.name));
            self.graph.rename_tensor(carried, moved);
        }
        self.graph.rename_tensor(returned, output.name.clone());
    }

    /// A node that converts a tensor.
    fn add_cast(&mut self, tensor: TensorId, to: ElementType) -> TensorId {
        let name = format!("{}.{}", self.graph.tensor(tensor).name, to.name());
        let mut tensor_type = self.graph.tensor_type(tensor).clone();
        tensor_type.element = to;
        let name = self.tensor_name(name);
        let node = self.node_name(format!("{name}.cast"));
        let result = self.graph.add_tensor(name, tensor_type);
        self.graph.add_node(node, Op::Cast { to }, vec![tensor], vec![result]);
        result
    }
}
