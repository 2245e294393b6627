//! One node while it is converted: what converters read of it, and how they add to the graph.

use std::sync::Arc;

use super::attributes::Attributes;
use super::importer::{Importer, MAX_MADE_ELEMENTS, NodeContext, unused};
use super::nodes::{MAX_NAME_CHARS, MAX_NODES, Placed, node_label};
use super::signatures;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::infer::{element_count, infer};
use partita_ir::graph::types::Element;
use partita_ir::graph::{Op, TensorId, TensorType, Value, eval};

/// Largest result that is evaluated while importing; only shape arithmetic is, and it is small.
const MAX_FOLDED_ELEMENTS: usize = 4096;

/// Longest list of axes, extents or pads that an operand may hold.
const MAX_LIST: usize = 4096;

/// Largest tensor that a node may make; no device of a cluster holds more.
const MAX_RESULT_BYTES: usize = 256 << 20;

impl Importer {
    /// One node, after all that it reads.
    pub fn add_node(&mut self, placed: &Placed) -> Result<(), Diagnostic> {
        let node = &placed.node;
        let attributes = Attributes { index: placed.index, node };
        self.opset = placed.opset;
        signatures::check(&attributes, placed.opset)?;
        let inputs = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => self.tensor(name).map(Some).ok_or_else(|| {
                    let label = node_label(placed.index, node);
                    let message = format!("{label} reads tensor `{}`, which nothing makes", printable(name));
                    Diagnostic::new("E0110", message)
                }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let Some(convert) = (self.operators)(&node.domain, &node.op_type) else {
            let label = node_label(placed.index, node);
            return Err(Diagnostic::new("E0140", format!("{label} is not supported")));
        };
        convert(&mut NodeContext { importer: self, attributes, inputs })
    }
}

impl NodeContext<'_> {
    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.importer.opset
    }

    /// The first extent that the model declares for this node's result, if it is a number.
    pub fn declared_rows(&self) -> Option<usize> {
        let name = self.attributes.node.output.first().filter(|_| self.importer.depth == 0)?;
        self.importer.declared_rows.get(name).copied()
    }

    /// A refusal of this node.
    pub fn refuse(&self, message: impl AsRef<str>) -> Diagnostic {
        self.attributes.refuse(message)
    }

    /// Operand `position`, which must be there.
    pub fn input(&self, position: usize) -> Result<TensorId, Diagnostic> {
        self.inputs.get(position).copied().flatten().ok_or_else(|| self.refuse(format!("input {position} is missing")))
    }

    /// Operand `position`, if it is there.
    pub fn optional_input(&self, position: usize) -> Option<TensorId> {
        self.inputs.get(position).copied().flatten()
    }

    /// Every operand; none may be left out.
    pub fn all_inputs(&self) -> Result<Vec<TensorId>, Diagnostic> {
        (0..self.inputs.len()).map(|position| self.input(position)).collect()
    }

    /// Type of a tensor.
    pub fn tensor_type(&self, id: TensorId) -> &TensorType {
        self.importer.graph.tensor_type(id)
    }

    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> Vec<usize> {
        self.importer.graph.shape(id).to_vec()
    }

    /// Whether anything reads a result beyond the first; exporters list masks and indices that nothing uses.
    pub fn uses_more_than_first(&self) -> bool {
        self.attributes.node.output.iter().skip(1).any(|name| self.importer.read.contains(name) && !name.is_empty())
    }

    /// Value of an operand that must be known at compile time.
    pub fn constant(&self, position: usize) -> Result<Arc<Value>, Diagnostic> {
        let id = self.input(position)?;
        self.importer.graph.value(id).cloned().ok_or_else(|| {
            let name = printable(&self.importer.graph.tensor(id).name);
            self.refuse(format!("input {position} (`{name}`) is computed at run time, expected a constant"))
        })
    }

    /// Integers of an operand that must be known at compile time.
    pub fn constant_ints(&self, position: usize) -> Result<Vec<i64>, Diagnostic> {
        let value = self.constant(position)?;
        if value.data.len() > MAX_LIST {
            return Err(
                self.refuse(format!("input {position} has {} elements, expected a short list", value.data.len()))
            );
        }
        match &value.data {
            partita_ir::graph::Data::I64(elements) => Ok(elements.clone()),
            partita_ir::graph::Data::I32(elements) => Ok(elements.iter().map(|element| i64::from(*element)).collect()),
            other => {
                Err(self.refuse(format!("input {position} has {} elements, expected i64", other.element().name())))
            }
        }
    }

    /// Numbers of an operand that must be known at compile time.
    pub fn constant_floats(&self, position: usize) -> Result<Vec<f32>, Diagnostic> {
        let value = self.constant(position)?;
        if !value.data.element().is_float() {
            return Err(self.refuse(format!("input {position} should have f32 elements")));
        }
        Ok(partita_ir::graph::values::to_f32(&value.data))
    }

    /// An axis counted from the end if negative, for a tensor of `rank` dimensions.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Diagnostic> {
        let resolved = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        match resolved.map(usize::try_from) {
            Some(Ok(resolved)) if resolved < rank => Ok(resolved),
            _ => Err(self.refuse(format!("axis {axis} is not an axis of a tensor with {rank} dimensions"))),
        }
    }

    /// Gives results the names that the file has for them.
    pub fn bind(&mut self, outputs: &[TensorId]) -> Result<(), Diagnostic> {
        let names = &self.attributes.node.output;
        let named = names.iter().filter(|name| !name.is_empty()).count();
        if named == 0
            || names.iter().skip(outputs.len()).any(|name| !name.is_empty() && self.importer.read.contains(name))
        {
            return Err(self.refuse(format!("has {named} outputs, expected {}", outputs.len())));
        }
        for (name, id) in names.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            self.importer.name(name, *id);
        }
        Ok(())
    }

    /// Gives the results of a branch the names of this node's results; tensors from `first_own` on are the branch's.
    pub fn bind_branch(&mut self, results: &[TensorId], first_own: usize) -> Result<(), Diagnostic> {
        let names = &self.attributes.node.output;
        if names.len() > results.len() {
            return Err(self.refuse(format!("has {} outputs, its branch {}", names.len(), results.len())));
        }
        for (name, id) in names.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
            // What a branch hands through keeps the name that it has outside.
            if (id.0 as usize) < first_own {
                self.importer.names.insert(name.clone(), *id);
            } else {
                self.importer.name(name, *id);
            }
        }
        Ok(())
    }

    /// Refuses to make so many nodes if they are too many: before any of them.
    pub fn has_room_for(&self, nodes: usize) -> Result<(), Diagnostic> {
        if self.importer.graph.node_count().saturating_add(nodes) > MAX_NODES {
            let message = format!("the graph grows beyond {MAX_NODES} nodes");
            return Err(Diagnostic { code: "E0112", ..self.refuse(message) });
        }
        Ok(())
    }

    /// Adds an operator on operands of their own types; [`NodeContext::emit_unnamed`] minds what they are promised to be.
    pub fn emit_own(&mut self, op: Op, inputs: Vec<TensorId>) -> Result<Vec<TensorId>, Diagnostic> {
        let base: String = match self.attributes.node.name.as_str() {
            "" => self.attributes.node.output.first().map_or("", String::as_str),
            name => name,
        }
        .chars()
        .take(MAX_NAME_CHARS)
        .collect();
        self.has_room_for(1)?;
        let graph = &self.importer.graph;
        let types: Vec<&TensorType> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
        let outputs = infer(&op, &types).map_err(|error| self.attributes.refused(&error))?;
        if let Some(output) = outputs.iter().find(|output| output.size_bytes() > MAX_RESULT_BYTES) {
            let message = format!("makes {output}, which is larger than {} MiB", MAX_RESULT_BYTES >> 20);
            return Err(Diagnostic { code: "E0122", ..self.refuse(message) });
        }
        // A tensor without elements is known.
        if outputs.iter().all(|output| output.element_count() == 0) {
            let empty = outputs.into_iter().map(|output| {
                let name = self.importer.tensor_name(format!("{base}.empty"));
                self.importer.graph.add_constant(name, Value::empty(output))
            });
            return Ok(empty.collect());
        }
        let values: Option<Vec<Arc<Value>>> = inputs.iter().map(|input| graph.value(*input).cloned()).collect();
        let small = outputs.iter().all(|output| output.element_count() <= MAX_FOLDED_ELEMENTS);
        let read: usize = types.iter().map(|input| input.element_count()).sum();
        let made: usize = outputs.iter().map(TensorType::element_count).sum();
        let values = values.filter(|_| small && read <= 4 * MAX_FOLDED_ELEMENTS);
        let work = values.as_ref().map_or(0, |_| eval::operations(&op, &types, &outputs));
        let values = values.filter(|_| self.importer.reserve_operations(work));
        if let Some(values) = values.filter(|_| self.importer.reserve_elements(made)) {
            let values: Vec<&Value> = values.iter().map(|value| &**value).collect();
            let results = eval::evaluate_node(&op, &values, &outputs)
                .map_err(|error| self.attributes.refuse(error.to_string()))?;
            let named = results.into_iter().map(|value| {
                let name = self.importer.tensor_name(format!("{base}.value"));
                self.importer.graph.add_constant(name, value)
            });
            return Ok(named.collect());
        }
        let ids: Vec<TensorId> = outputs
            .into_iter()
            .map(|output| {
                let name = self.importer.tensor_name(format!("{base}.result"));
                self.importer.graph.add_tensor(name, output)
            })
            .collect();
        let node = unused(base, &mut self.importer.nodes);
        self.importer.graph.add_node(node, op, inputs, ids.clone());
        Ok(ids)
    }

    /// A constant that belongs to this node and that is there already: a number, or as many as the file gives. What all
    /// nodes make together is limited.
    pub fn add_constant(&mut self, role: &str, value: Value) -> Result<TensorId, Diagnostic> {
        self.reserve(role, value.data.len())?;
        Ok(self.name_constant(role, value))
    }

    /// A constant that belongs to this node and whose size follows from the file: its elements, as many as it has of
    /// these, are made once there is room for them.
    pub fn make_constant<T: Element>(
        &mut self,
        role: &str,
        shape: impl Into<Vec<usize>>,
        elements: impl IntoIterator<Item = T>,
    ) -> Result<TensorId, Diagnostic> {
        let shape = shape.into();
        let count = element_count(&shape).map_err(|error| self.attributes.refused(&error))?;
        self.reserve(role, count)?;
        Ok(self.name_constant(role, Value { shape, data: T::data(elements.into_iter().take(count).collect()) }))
    }

    /// Zeros for an operand that was left out; the size is checked before they exist.
    pub fn make_zeros(&mut self, role: &str, shape: Vec<usize>) -> Result<TensorId, Diagnostic> {
        self.make_constant(role, shape, std::iter::repeat(0f32))
    }

    /// Takes what a constant needs from what nodes may make, before it exists.
    pub fn reserve(&mut self, role: &str, count: usize) -> Result<(), Diagnostic> {
        if self.importer.reserve_elements(count) {
            return Ok(());
        }
        let message = format!("needs a {role} of {count} elements; all made constants may have {MAX_MADE_ELEMENTS}");
        Err(Diagnostic { code: "E0122", ..self.refuse(message) })
    }

    /// A constant that belongs to this node and whose elements are reserved.
    pub fn name_constant(&mut self, role: &str, value: Value) -> TensorId {
        let name = format!("{}.{role}", self.attributes.node.output.first().map_or("", String::as_str));
        let name = self.importer.tensor_name(name);
        self.importer.graph.add_constant(name, value)
    }
}
