//! State of one import: the graph as far as it is built, and tensors by name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnx_protobuf::{GraphProto, Message, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};

use super::attributes::Attributes;
use super::functions::{Functions, Placed, captured};
use super::inputs::{self, Symbols};
use super::ops::Grids;
use super::{ImportOptions, MAX_NODES, ops, signatures, tensors};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::infer::{element_count, infer};
use partita_ir::graph::{ElementType, Graph, Op, TensorId, TensorType, Value, eval};

/// Largest result that is evaluated while importing; only shape arithmetic is, and it is small.
const MAX_FOLDED_ELEMENTS: usize = 4096;

/// Most elements of all constants together that nodes make while importing: 128 MiB of f32.
pub const MAX_MADE_ELEMENTS: usize = 1 << 25;

/// Most bytes of graphs in nodes that loops repeat.
const MAX_UNROLLED_BYTES: usize = 64 << 20;

/// Longest name that is kept for what one node becomes: a long name must not be multiplied by many parts.
pub const MAX_NAME_CHARS: usize = 256;

/// Longest list of axes, extents or pads that an operand may hold.
const MAX_LIST: usize = 4096;

/// Most declared shapes that one warning names.
const MAX_CONTRADICTIONS: usize = 10;

/// Largest tensor that a node may make; no device of a cluster holds more.
const MAX_RESULT_BYTES: usize = 256 << 20;

/// How messages name a node.
pub fn node_label(index: usize, node: &NodeProto) -> String {
    if node.name.is_empty() {
        format!("node #{index} ({})", printable(&node.op_type))
    } else {
        format!("node `{}` ({}, #{index})", printable(&node.name), printable(&node.op_type))
    }
}

/// One import.
pub struct Importer {
    /// What has been built.
    pub graph: Graph,
    /// Version of the operator set by which the present node is read.
    pub opset: i64,
    /// How many branches and bodies of loops the present node stands in.
    pub depth: usize,
    /// What the model defines.
    pub functions: Functions,
    /// Extents of named dimensions.
    symbols: Symbols,
    names: HashMap<String, TensorId>,
    /// Every name that a tensor or node has or will have.
    taken: HashSet<String>,
    /// Elements of constants that nodes have made so far.
    made_elements: usize,
    /// Nodes of the bodies of loops, counted once for each turn.
    unrolled_nodes: usize,
    /// Bytes of graphs that are read once more in each turn of a loop.
    unrolled_bytes: usize,
    /// Names that a node or the caller reads.
    read: HashSet<String>,
    /// What quantized tensors stand for.
    pub grids: Grids,
    /// Element types that the model gives tensors which are carried as another.
    pub promises: HashMap<TensorId, ElementType>,
    /// Tensors as `f32`.
    pub converted: HashMap<TensorId, TensorId>,
    /// Names of nodes.
    nodes: HashSet<String>,
    folder: Option<PathBuf>,
}

impl Importer {
    /// An empty graph.
    pub fn new(
        model: &GraphProto,
        nodes: &[Placed],
        opset: i64,
        functions: Functions,
        folder: Option<&Path>,
    ) -> Importer {
        let mut graph = Graph::new(model.name.clone());
        graph.opset = opset;
        let mut taken: HashSet<String> = model.initializer.iter().map(|tensor| tensor.name.clone()).collect();
        taken.extend(model.input.iter().map(|input| input.name.clone()));
        taken.extend(nodes.iter().flat_map(|placed| &placed.node.output).cloned());
        let read = model.output.iter().map(|output| output.name.clone()).collect();
        let folder = folder.map(Path::to_path_buf);
        let mut importer = Importer {
            graph,
            opset,
            depth: 0,
            functions,
            symbols: Symbols::new(),
            names: HashMap::new(),
            taken,
            made_elements: 0,
            unrolled_nodes: 0,
            unrolled_bytes: 0,
            read,
            grids: Grids::default(),
            promises: HashMap::new(),
            converted: HashMap::new(),
            nodes: HashSet::new(),
            folder,
        };
        importer.note_reads(nodes.iter().map(|placed| &placed.node));
        importer
    }

    /// The tensor of this name, if it is there yet.
    pub fn tensor(&self, name: &str) -> Option<TensorId> {
        self.names.get(name).copied()
    }

    /// Results that these nodes read, also in their branches, are needed.
    pub fn note_reads<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeProto>) {
        for node in nodes {
            self.read.extend(node.input.iter().cloned());
            self.read.extend(captured(node).into_iter().map(str::to_string));
        }
    }

    /// Results of a branch are needed.
    pub fn note_reads_of_results(&mut self, results: &[ValueInfoProto]) {
        self.read.extend(results.iter().map(|result| result.name.clone()));
    }

    /// This name stands for a tensor from here on.
    pub fn know(&mut self, name: &str, id: TensorId) {
        self.names.insert(name.to_string(), id);
    }

    /// Takes `nodes` from what loops may unroll to; false if that is more than is left.
    pub fn reserve_turn(&mut self, nodes: usize) -> bool {
        self.unrolled_nodes = self.unrolled_nodes.saturating_add(nodes);
        self.unrolled_nodes <= MAX_NODES
    }

    /// Takes a graph that stands in a node from what loops may unroll to: it is read again in each turn.
    pub fn reserve_graph(&mut self, graph: &GraphProto) -> Result<(), Diagnostic> {
        let is_repeated = self.depth > 1;
        if is_repeated {
            let size = usize::try_from(graph.compute_size()).unwrap_or(usize::MAX);
            self.unrolled_bytes = self.unrolled_bytes.saturating_add(size);
        }
        if self.unrolled_bytes <= MAX_UNROLLED_BYTES && self.reserve_turn(graph.node.len()) {
            return Ok(());
        }
        let message =
            format!("branches and bodies of loops, as often as they are read, are more than {MAX_NODES} nodes");
        Err(Diagnostic::new("E0112", format!("{message} or {} MiB", MAX_UNROLLED_BYTES >> 20)))
    }

    /// These names mean nothing from here on.
    pub fn forget<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            self.names.remove(name);
        }
    }

    /// Takes `count` elements from what nodes may make at compile time; false if that is more than is left.
    pub fn reserve_elements(&mut self, count: usize) -> bool {
        let total = self.made_elements.saturating_add(count);
        if total > MAX_MADE_ELEMENTS {
            return false;
        }
        self.made_elements = total;
        true
    }

    /// A name for a tensor that has none in the file.
    pub fn tensor_name(&mut self, wanted: String) -> String {
        unused(wanted, &mut self.taken)
    }

    /// A name for a node that has none in the file.
    pub fn node_name(&mut self, wanted: String) -> String {
        unused(wanted, &mut self.nodes)
    }

    /// What a node of the file made.
    fn name(&mut self, name: &str, id: TensorId) {
        let own = if self.depth > 0 { self.tensor_name(name.to_string()) } else { name.to_string() };
        self.graph.rename_tensor(id, own);
        self.names.insert(name.to_string(), id);
    }

    /// Initializers become constants.
    pub fn add_initializers(&mut self, initializers: Vec<TensorProto>) -> Result<(), Diagnostic> {
        for mut initializer in initializers {
            let name = std::mem::take(&mut initializer.name);
            initializer.name.clone_from(&name);
            let value = tensors::read(initializer, self.folder.as_deref())?;
            self.add_constant(name, value);
        }
        Ok(())
    }

    /// Sparse initializers become constants, too; nobody computes with gaps here.
    pub fn add_sparse_initializers(&mut self, initializers: &[SparseTensorProto]) -> Result<(), Diagnostic> {
        for initializer in initializers {
            let name = initializer.values.name.clone();
            let value = self.read_sparse(initializer)?;
            self.add_constant(name, value);
        }
        Ok(())
    }

    /// Reads a sparse tensor; its zeros are limited like all that is made.
    pub fn read_sparse(&mut self, tensor: &SparseTensorProto) -> Result<Value, Diagnostic> {
        let folder = self.folder.clone();
        tensors::read_sparse(tensor, folder.as_deref(), |count| self.reserve_elements(count))
    }

    /// A constant tensor by that name.
    pub fn add_constant(&mut self, name: String, value: Value) -> TensorId {
        let own = if self.depth > 0 { self.tensor_name(name.clone()) } else { name.clone() };
        let id = self.graph.add_constant(own, value);
        self.names.insert(name, id);
        id
    }

    /// Reads a tensor that stands in an attribute.
    pub fn read_tensor(&self, tensor: &TensorProto) -> Result<Value, Diagnostic> {
        tensors::read(tensor.clone(), self.folder.as_deref())
    }

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

    /// One node, after all that it reads.
    pub fn add_node(&mut self, placed: &Placed) -> Result<(), Diagnostic> {
        let attributes = Attributes { index: placed.index, node: &placed.node };
        self.opset = placed.opset;
        signatures::check(&attributes, placed.opset)?;
        let inputs = placed
            .node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => self.tensor(name).map(Some).ok_or_else(|| {
                    let label = node_label(placed.index, &placed.node);
                    let message = format!("{label} reads tensor `{}`, which nothing makes", printable(name));
                    Diagnostic::new("E0110", message)
                }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut context = NodeContext { importer: self, attributes, inputs };
        ops::convert(&mut context)
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
            if self.graph.tensor_type(id).element_count() == 0 {
                let found = self.graph.tensor_type(id);
                return Err(Diagnostic::new("E0122", format!("graph output `{name}` is {found}, it has no elements")));
            }
            let id = self.returned_output(id, output)?;
            // A graph output must be a produced tensor of its own.
            let tensor = self.graph.tensor(id);
            let is_own = tensor.producer.is_some() && tensor.name == output.name && taken.insert(id);
            let id = if is_own { id } else { self.copy_of(id, &output.name) };
            self.graph.outputs.push(id);
        }
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

/// `wanted`, or `wanted` with the first number that makes it new.
fn unused(wanted: String, taken: &mut HashSet<String>) -> String {
    let mut name = wanted.clone();
    let mut number = taken.len();
    while !taken.insert(name.clone()) {
        name = format!("{wanted}.{number}");
        number += 1;
    }
    name
}

/// One node while it is converted.
pub struct NodeContext<'a> {
    /// The import.
    pub importer: &'a mut Importer,
    /// Its attributes.
    pub attributes: Attributes<'a>,
    /// Its operands; `None` where one was left out.
    pub inputs: Vec<Option<TensorId>>,
}

impl NodeContext<'_> {
    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.importer.opset
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

    /// Adds the operator and names its results as the file does. Shape arithmetic is evaluated at once.
    pub fn emit(&mut self, op: Op, inputs: Vec<TensorId>) -> Result<(), Diagnostic> {
        let outputs = self.emit_unnamed(op, inputs)?;
        self.bind(&outputs)
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

    /// Adds an operator on operands of their own types; [`NodeContext::emit_unnamed`] minds what they are promised to be.
    pub fn emit_own(&mut self, op: Op, inputs: Vec<TensorId>) -> Result<Vec<TensorId>, Diagnostic> {
        let base: String = match self.attributes.node.name.as_str() {
            "" => self.attributes.node.output.first().map_or("", String::as_str),
            name => name,
        }
        .chars()
        .take(MAX_NAME_CHARS)
        .collect();
        if self.importer.graph.node_count() >= MAX_NODES {
            let message = format!("the graph grows beyond {MAX_NODES} nodes");
            return Err(Diagnostic { code: "E0112", ..self.refuse(message) });
        }
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
        let small = small && read <= 4 * MAX_FOLDED_ELEMENTS;
        if let Some(values) = values.filter(|_| small && self.importer.reserve_elements(made)) {
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

    /// A constant that belongs to this node; what all nodes make together is limited.
    pub fn add_constant(&mut self, role: &str, value: Value) -> Result<TensorId, Diagnostic> {
        self.reserve(role, value.data.len())?;
        Ok(self.name_constant(role, value))
    }

    /// Zeros for an operand that was left out; the size is checked before they exist.
    pub fn make_zeros(&mut self, role: &str, shape: Vec<usize>) -> Result<TensorId, Diagnostic> {
        let count = element_count(&shape).map_err(|error| self.attributes.refused(&error))?;
        self.reserve(role, count)?;
        Ok(self.name_constant(role, Value::f32(shape, vec![0.0; count])))
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
