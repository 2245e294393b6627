//! Element types that the model says and those that are computed with.
//!
//! Devices compute real numbers in `f32`: a tensor of another real type is carried as `f32`, from the graph's inputs to
//! its outputs, where it becomes what the model promises. Quantized tensors are carried so, too, as whole numbers (see
//! `ops/quantized.rs`): operators that only move or choose elements keep them so, all others get them back as integers.
//! Constants are computed with in their own types, for as long as all operands are constants.

use super::carried::{MAX_CARRIED_BYTES, is_carried_as};
use super::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{ElementType, Op, TensorId, Value, elements};

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
                let own = self.importer.graph.tensor(tensor).name.clone();
                let data = value.data.cast(ElementType::F32);
                self.importer.not_finite.look_at_converted(&own, &value.data, &data);
                let name = self.importer.tensor_name(format!("{own}.f32"));
                self.importer.graph.add_constant(name, Value { shape: value.shape.clone(), data })
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
        // Zeros that converters add, and what follows from them, are f32 beside constants of other real types.
        let own = inputs[values.clone()].iter().map(|input| self.tensor_type(*input).element);
        let mut real = own.filter(|element| element.is_float());
        let is_mixed = real.next().is_some_and(|first| real.any(|other| other != first));
        if is_mixed || !(known && promises[values.clone()].iter().all(|element| taken(*element))) {
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

    /// Adds the operator and names its results as the file does. Shape arithmetic is evaluated at once.
    pub fn emit(&mut self, op: Op, inputs: Vec<TensorId>) -> Result<(), Diagnostic> {
        let outputs = self.emit_unnamed(op, inputs)?;
        self.bind(&outputs)
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
