//! State of one import: the graph as far as it is built, and tensors by name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use onnx_protobuf::{GraphProto, Message, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};

use super::attributes::Attributes;
use super::finite::NotFinite;
use super::functions::Functions;
use super::inputs::{Symbols, declared_extents};
use super::nodes::{MAX_UNROLLED_NODES, Placed, captured};
use super::quantized::Grids;
use super::tensors;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{ElementType, Graph, TensorId, Value};

/// Most elements of all constants together that nodes make while importing: 128 MiB of f32.
pub const MAX_MADE_ELEMENTS: usize = 1 << 25;

/// Most multiply-adds that are evaluated while importing.
const MAX_OPERATIONS: u64 = 1 << 30;

/// Most bytes of graphs in nodes that loops repeat.
const MAX_UNROLLED_BYTES: usize = 64 << 20;

/// One import.
pub struct Importer {
    /// What has been built.
    pub graph: Graph,
    /// Version of the operator set by which the present node is read.
    pub opset: i64,
    /// How many branches and bodies of loops the present node stands in.
    pub depth: usize,
    /// Converts nodes. The table lies above: some operators hold graphs, which are imported by what is here.
    pub operators: Operators,
    /// What the model defines.
    pub functions: Functions,
    /// Extents of named dimensions.
    pub symbols: Symbols,
    /// Tensors by the names that nodes read them by.
    pub names: HashMap<String, TensorId>,
    /// Every name that a tensor or node has or will have.
    taken: HashSet<String>,
    /// Elements of constants that nodes have made so far.
    made_elements: usize,
    /// Multiply-adds that may still be evaluated.
    left_operations: u64,
    /// Nodes of the bodies of loops, counted once for each turn.
    unrolled_nodes: usize,
    /// Bytes of graphs that are read once more in each turn of a loop.
    unrolled_bytes: usize,
    /// Names that a node or the caller reads.
    pub read: HashSet<String>,
    /// What quantized tensors stand for.
    pub grids: Grids,
    /// Element types that the model gives tensors which are carried as another.
    pub promises: HashMap<TensorId, ElementType>,
    /// Tensors as `f32`.
    pub converted: HashMap<TensorId, TensorId>,
    /// First extents that the model declares for results whose size depends on values.
    pub declared_rows: HashMap<String, usize>,
    /// Constants of the file whose elements have four bits each, which are held in eight.
    pub four_bits: HashSet<TensorId>,
    /// Names of nodes.
    pub nodes: HashSet<String>,
    /// Constants with elements that are no finite numbers.
    pub not_finite: NotFinite,
    folder: Option<PathBuf>,
}

impl Importer {
    /// An empty graph.
    pub fn new(
        model: &GraphProto,
        nodes: &[Placed],
        opset: i64,
        operators: Operators,
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
            operators,
            functions,
            symbols: Symbols::new(),
            names: HashMap::new(),
            taken,
            made_elements: 0,
            left_operations: MAX_OPERATIONS,
            unrolled_nodes: 0,
            unrolled_bytes: 0,
            read,
            grids: Grids::default(),
            promises: HashMap::new(),
            converted: HashMap::new(),
            declared_rows: declared_rows(model, nodes),
            four_bits: HashSet::new(),
            nodes: HashSet::new(),
            not_finite: NotFinite::default(),
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
        self.unrolled_nodes <= MAX_UNROLLED_NODES
    }

    /// Whether so many nodes are left of what loops may unroll to.
    pub fn has_room(&self, nodes: usize) -> bool {
        self.unrolled_nodes.saturating_add(nodes) <= MAX_UNROLLED_NODES
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
        let message = format!(
            "branches and bodies of loops, as often as they are read, are more than {MAX_UNROLLED_NODES} nodes"
        );
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

    /// Takes so much arithmetic from what may be evaluated while importing; false if that is more than is left.
    pub fn reserve_operations(&mut self, count: u64) -> bool {
        let left = self.left_operations.checked_sub(count);
        self.left_operations = left.unwrap_or(self.left_operations);
        left.is_some()
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
    pub fn name(&mut self, name: &str, id: TensorId) {
        let own = if self.depth > 0 { self.tensor_name(name.to_string()) } else { name.to_string() };
        self.graph.rename_tensor(id, own);
        self.names.insert(name.to_string(), id);
    }

    /// Initializers become constants.
    pub fn add_initializers(&mut self, initializers: Vec<TensorProto>) -> Result<(), Diagnostic> {
        for mut initializer in initializers {
            let name = std::mem::take(&mut initializer.name);
            initializer.name.clone_from(&name);
            let has_four_bits = tensors::has_four_bits(&initializer);
            let value = tensors::read(initializer, self.folder.as_deref())?;
            let id = self.add_constant(name, value);
            self.four_bits.extend(has_four_bits.then_some(id));
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
        self.not_finite.look_at(&own, &value.data);
        let id = self.graph.add_constant(own, value);
        self.names.insert(name, id);
        id
    }

    /// Reads a tensor that stands in an attribute.
    pub fn read_tensor(&self, tensor: &TensorProto) -> Result<Value, Diagnostic> {
        tensors::read(tensor.clone(), self.folder.as_deref())
    }
}

/// Of NonMaxSuppression, whose result has as many rows as boxes are kept.
fn declared_rows(model: &GraphProto, nodes: &[Placed]) -> HashMap<String, usize> {
    let kept = nodes.iter().filter(|placed| placed.node.op_type == "NonMaxSuppression");
    let names: HashSet<&String> = kept.flat_map(|placed| &placed.node.output).collect();
    let declared = model.output.iter().chain(&model.value_info).filter(|value| names.contains(&value.name));
    let rows = |value: &ValueInfoProto| {
        let extents = declared_extents(value, &Symbols::new())?;
        Some((value.name.clone(), extents.first().copied().flatten()?))
    };
    declared.filter_map(rows).collect()
}

/// `wanted`, or `wanted` with the first number that makes it new.
pub fn unused(wanted: String, taken: &mut HashSet<String>) -> String {
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

/// Adds what a node computes to the graph.
pub type Converter = fn(&mut NodeContext<'_>) -> Result<(), Diagnostic>;

/// The converter of a domain's operator; `None` if it is not supported.
pub type Operators = fn(domain: &str, op_type: &str) -> Option<Converter>;
