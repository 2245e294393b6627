//! Element types that the model says and those that are computed with.
//!
//! Devices compute real numbers in `f32`: a tensor of another real type is carried as `f32`, from the graph's inputs to
//! its outputs, where it becomes what the model promises. Quantized tensors are carried so, too, as whole numbers (see
//! `ops/quantized.rs`): operators that only move or choose elements keep them so, all others get them back as integers.
//! Constants are computed with in their own types, for as long as all operands are constants.

use onnx_protobuf::ValueInfoProto;

use super::importer::{Importer, NodeContext};
use super::tensors::declared_element;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{ElementType, Op, TensorId, Value, elements};

/// Integers up to this size are whole numbers of `f32`, too.
const MAX_CARRIED_BYTES: usize = 2;

/// Whether a tensor of the one type may be carried as the other.
fn is_carried_as(promised: ElementType, own: ElementType) -> bool {
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
        if wanted != promised && !(is_carried_as(wanted, own) && is_carried_as(promised, own)) {
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

impl NodeContext<'_> {
    /// Element type that the model says a tensor has.
    pub fn promised(&self, tensor: TensorId) -> ElementType {
        self.importer.promised(tensor)
    }

    /// A tensor as `f32`: a constant is converted now, and once.
    pub fn as_f32(&mut self, tensor: TensorId) -> Result<TensorId, Diagnostic> {
        if self.tensor_type(tensor).element == ElementType::F32 {
            return Ok(tensor);
        }
        if let Some(known) = self.importer.converted.get(&tensor) {
            return Ok(*known);
        }
        let promised = self.promised(tensor);
        let converted = match self.importer.graph.value(tensor).cloned() {
            Some(value) => {
                let name = format!("{}.f32", self.importer.graph.tensor(tensor).name);
                let name = self.importer.tensor_name(name);
                let value = Value { shape: value.shape.clone(), data: value.data.cast(ElementType::F32) };
                self.importer.graph.add_constant(name, value)
            }
            None => self.emit_own(Op::Cast { to: ElementType::F32 }, vec![tensor])?[0],
        };
        self.importer.promise(converted, promised);
        self.importer.converted.insert(tensor, converted);
        Ok(converted)
    }

    /// Adds an operator whose results have no name in the file (yet), on operands as they are to be computed with.
    pub fn emit_unnamed(&mut self, op: Op, mut inputs: Vec<TensorId>) -> Result<Vec<TensorId>, Diagnostic> {
        let promises: Vec<ElementType> = inputs.iter().map(|input| self.promised(*input)).collect();
        let values = elements::values(&op, inputs.len());
        let known = inputs.iter().all(|input| self.importer.graph.value(*input).is_some());
        let taken = |element: ElementType| elements::takes(&op, element);
        if !(known && promises[values.clone()].iter().all(|element| taken(*element))) {
            let chooses = elements::only_chooses(&op);
            for position in values.clone() {
                let (own, promised) = (self.tensor_type(inputs[position]).element, promises[position]);
                if own.is_float() {
                    inputs[position] = self.as_f32(inputs[position])?;
                    if promised.is_integer() && !chooses {
                        inputs[position] = self.emit_own(Op::Cast { to: promised }, vec![inputs[position]])?[0];
                    }
                }
            }
            // Integers beside those that are carried, or where only real numbers are taken.
            let own = |context: &Self, input: TensorId| context.tensor_type(input).element;
            let beside = inputs[values.clone()].iter().any(|input| own(self, *input) == ElementType::F32);
            for input in &mut inputs[values.clone()] {
                let element = own(self, *input);
                let few = element.is_integer() && element.size_bytes() <= MAX_CARRIED_BYTES;
                if chooses && few && (beside || !elements::takes(&op, element)) {
                    *input = self.as_f32(*input)?;
                }
            }
        }
        let outputs = self.emit_own(op.clone(), inputs)?;
        // Constants that converters add are f32, whatever they stand beside.
        let mut own = promises;
        if let Some(other) = own[values.clone()].iter().copied().find(|element| *element != ElementType::F32) {
            own[values].fill(other);
        }
        let promised = elements::result(&op, &own);
        for output in &outputs {
            if is_carried_as(promised, self.tensor_type(*output).element) {
                self.importer.promise(*output, promised);
            }
        }
        Ok(outputs)
    }

    /// ONNX Cast. What is carried as `f32` stays so; float16 and bfloat16 round on the way.
    pub fn emit_cast(&mut self, x: TensorId, to: ElementType) -> Result<(), Diagnostic> {
        let is_known = self.importer.graph.value(x).is_some();
        if is_known || !to.is_float() {
            return self.emit(Op::Cast { to }, vec![x]);
        }
        let x = self.importer.grids.whole.get(&x).copied().unwrap_or(x);
        let from = self.promised(x);
        let is_real = self.tensor_type(x).element.is_float();
        let mut result = match is_real {
            true => self.as_f32(x)?,
            false => self.emit_own(Op::Cast { to: ElementType::F32 }, vec![x])?[0],
        };
        if from != to && matches!(to, ElementType::F16 | ElementType::BF16) {
            let rounded = self.emit_own(Op::Cast { to }, vec![result])?[0];
            result = self.emit_own(Op::Cast { to: ElementType::F32 }, vec![rounded])?[0];
        } else if is_real {
            // A tensor of its own, since it stands for another type.
            result = self.emit_own(Op::Identity, vec![result])?[0];
        }
        self.importer.promise(result, to);
        self.bind(&[result])
    }
}
