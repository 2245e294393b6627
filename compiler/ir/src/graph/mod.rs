//! The operator graph: nodes, joined by the tensors that flow between them.
//!
//! A [`Node`] lists its operands in order, and a tensor knows who reads it; both are kept in step by the editing methods
//! here, which are the only way to change a graph. A [`Tensor`] is produced by exactly one node, or is a graph input, or
//! is a constant (it then has a value). Graph inputs and outputs keep the model's names and order. What petgraph computes
//! (`order`), it computes on a graph that is made of the operand lists when it is asked. `verify` holds the full list of
//! invariants; no code here does I/O.

pub mod call;
pub mod elements;
pub mod eval;
mod exits;
mod ids;
pub mod infer;
pub mod input_form;
pub mod op;
pub mod order;
mod outputs;
pub mod quantization;
pub mod ranges;
pub mod storage;
pub mod stored;
pub mod text;
pub mod types;
pub mod values;
pub mod verify;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use crate::diagnostic::Diagnostic;
use crate::region::Region;
use ranges::Range;

pub use ids::{NodeId, TensorId};
pub use input_form::InputForm;
pub use op::{Activation, BinaryOp, Op, UnaryOp};
pub use outputs::Outputs;
pub use stored::{StepSize, Stored};
pub use types::{Data, ElementType, TensorType, Value};

/// One operator application.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The model's name, or one made from the output's name; unique, but may hold any character.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// Operands, in the order that [`Op`] documents.
    pub inputs: Vec<TensorId>,
    /// Results.
    pub outputs: Vec<TensorId>,
}

/// A value that flows along edges: activation, constant, input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The model's name; unique, but may hold any character.
    pub name: String,
    /// Element type and shape.
    pub tensor_type: TensorType,
    /// The value, if it is known at compile time.
    pub value: Option<Arc<Value>>,
    /// The node that makes it; none for inputs and constants.
    pub producer: Option<NodeId>,
    /// What is known of the elements of a constant; none of anything else.
    facts: Option<Facts>,
    /// Of a constant in a graph of shards, what it is of the graph that was sharded; none if it is no part of that.
    original: Option<Original>,
}

/// A constant of a graph, or a part of it: what is the same in the programs of all devices and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Original {
    /// The constant, in the graph before sharding.
    pub tensor: TensorId,
    /// Which part of it.
    pub region: Region,
}

/// What is known of a constant's elements: found out once, when first asked for, and kept with the constant and with
/// what is cut from it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    whole: Arc<OnceLock<bool>>,
    range: Arc<OnceLock<Option<Range>>>,
}

impl Facts {
    /// Whether anything has been found out yet.
    pub fn are_known(&self) -> bool {
        self.whole.get().is_some()
    }
}

impl PartialEq for Facts {
    /// Facts follow from elements: whether they have been found out yet makes no difference.
    fn eq(&self, _other: &Facts) -> bool {
        true
    }
}

/// A model: typed, shaped, acyclic.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// ONNX opset of the default domain the model was written for; 0 for graphs from text.
    pub opset: i64,
    /// Tensors fed by the caller.
    pub inputs: Vec<TensorId>,
    /// Tensors returned to the caller.
    pub outputs: Outputs,
    /// So many of the last inputs are states: at first zero, then what the output that is as far from the end was at the
    /// last inference. The caller sees neither.
    pub states: usize,
    /// Number types that the model asks for and that are computed in `f32` instead; no part of the text form.
    pub computed_in_f32: BTreeSet<ElementType>,
    /// What the importer noticed and the user should know.
    pub remarks: Vec<Diagnostic>,
    /// By number; none where a node was removed.
    nodes: Vec<Option<Node>>,
    /// How many were removed.
    removed: usize,
    tensors: Vec<Tensor>,
    /// Per tensor the nodes that read it, ascending, each once however often it does.
    readers: Vec<Vec<NodeId>>,
    /// Per tensor how it is stored: found out when first asked for, and forgotten with every change.
    stored: OnceLock<Vec<Stored>>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Inputs that the caller gives: all but states.
    pub fn given_inputs(&self) -> &[TensorId] {
        &self.inputs[..self.inputs.len() - self.states]
    }

    /// Outputs that the caller is given: all but states.
    pub fn returned_outputs(&self) -> &[TensorId] {
        &self.outputs[..self.outputs.len() - self.states]
    }

    /// The output that each state becomes, and the input that it is then.
    pub fn state_pairs(&self) -> impl Iterator<Item = (TensorId, TensorId)> + '_ {
        let (inputs, outputs) = (self.given_inputs().len(), self.returned_outputs().len());
        self.outputs[outputs..].iter().copied().zip(self.inputs[inputs..].iter().copied())
    }

    /// The node `id`. Panics if it was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("the node was not removed")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.stored.take();
        self.nodes[id.0 as usize].as_mut().expect("the node was not removed")
    }

    /// Whether the node still exists.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.get(id.0 as usize).is_some_and(Option::is_some)
    }

    /// The tensor `id`.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// Type of a tensor.
    pub fn tensor_type(&self, id: TensorId) -> &TensorType {
        &self.tensor(id).tensor_type
    }

    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> &[usize] {
        &self.tensor(id).tensor_type.shape
    }

    /// In how few bytes a tensor's elements can be kept, in memory and on links: whole numbers of a small range take fewer
    /// than the `f32` that they are.
    pub fn stored(&self, id: TensorId) -> Stored {
        self.stored.get_or_init(|| stored::stored(self))[id.0 as usize]
    }

    /// Bytes of a tensor on links, and where it is stored in as few as it can be.
    pub fn stored_bytes(&self, id: TensorId) -> usize {
        self.tensor_type(id).element_count() * self.stored(id).element.size_bytes()
    }

    /// Value of a tensor, if known.
    pub fn value(&self, id: TensorId) -> Option<&Arc<Value>> {
        self.tensor(id).value.as_ref()
    }

    /// Elements of a constant `f32` tensor.
    pub fn f32_value(&self, id: TensorId) -> Option<&[f32]> {
        self.value(id).and_then(|value| value.as_f32())
    }

    /// Whether a tensor is a constant, whether its elements are at hand or only its size is (`shard::sketch`).
    pub fn is_constant(&self, id: TensorId) -> bool {
        self.tensor(id).facts.is_some()
    }

    /// What is known of a constant's elements.
    pub fn facts(&self, id: TensorId) -> Option<&Facts> {
        self.tensor(id).facts.as_ref()
    }

    /// Whether a tensor is a constant of whole numbers, or cut from one, as those of quantized models are: their sums are
    /// exact in any order.
    pub fn is_whole(&self, id: TensorId) -> bool {
        let tensor = self.tensor(id);
        let Some(facts) = &tensor.facts else { return false };
        // Only where elements are at hand can anything be found out; what is cut asks what it was cut from.
        let find = || tensor.value.as_ref().and_then(|value| value.as_f32()).is_some_and(types::are_whole);
        *facts.whole.get_or_init(find)
    }

    /// Where the elements of a constant of whole numbers lie; what is only known by size asks what it was cut from.
    pub fn whole_range(&self, id: TensorId) -> Option<Range> {
        let tensor = self.tensor(id);
        let facts = tensor.facts.as_ref()?;
        match &tensor.value {
            Some(value) => *facts.range.get_or_init(|| ranges::of_value(value)),
            None => facts.range.get().copied().flatten(),
        }
    }

    /// All nodes, in order of creation.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.nodes.len() as u32).map(NodeId).filter(|id| self.contains(*id))
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len() - self.removed
    }

    /// All tensors ever added, also those nothing uses any more.
    pub fn tensor_ids(&self) -> impl ExactSizeIterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// Nodes that read `tensor`, ascending; a node that reads it twice appears once.
    pub fn consumers(&self, tensor: TensorId) -> Vec<NodeId> {
        self.readers[tensor.0 as usize].clone()
    }

    /// The same, without a copy.
    pub(crate) fn readers(&self, tensor: TensorId) -> &[NodeId] {
        &self.readers[tensor.0 as usize]
    }

    /// Gives the memory of a constant back that nobody reads any more.
    pub fn forget_unread(&mut self, tensor: TensorId) {
        if self.is_unread(tensor) && !self.is_output(tensor) {
            self.tensors[tensor.0 as usize].value = None;
        }
    }

    /// Whether no node reads `tensor`.
    pub fn is_unread(&self, tensor: TensorId) -> bool {
        self.readers[tensor.0 as usize].is_empty()
    }

    /// Whether exactly one node reads `tensor`, however often.
    pub fn has_one_consumer(&self, tensor: TensorId) -> bool {
        self.readers[tensor.0 as usize].len() == 1
    }

    /// Whether some node reads `tensor`.
    pub fn is_read(&self, tensor: TensorId) -> bool {
        !self.readers[tensor.0 as usize].is_empty()
    }

    /// Whether the caller sees `tensor` as a graph output.
    pub fn is_output(&self, tensor: TensorId) -> bool {
        self.outputs.contains(&tensor)
    }

    /// Adds a tensor without producer: the caller makes it an input, or a later `add_node` produces it.
    pub fn add_tensor(&mut self, name: impl Into<String>, tensor_type: TensorType) -> TensorId {
        let id = TensorId(self.tensors.len() as u32);
        self.stored.take();
        self.readers.push(Vec::new());
        self.tensors.push(Tensor {
            name: name.into(),
            tensor_type,
            value: None,
            producer: None,
            facts: None,
            original: None,
        });
        id
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<String>, tensor_type: TensorType) -> TensorId {
        let id = self.add_tensor(name, tensor_type);
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, value: impl Into<Arc<Value>>) -> TensorId {
        let value = value.into();
        let id = self.add_tensor(name, value.tensor_type());
        self.set_value(id, value);
        id
    }

    fn set_value(&mut self, id: TensorId, value: Arc<Value>) {
        self.stored.take();
        let tensor = &mut self.tensors[id.0 as usize];
        (tensor.value, tensor.facts) = (Some(value), Some(Facts::default()));
    }

    /// Says that a tensor is a constant of which this is known; its elements need not be at hand.
    pub fn set_facts(&mut self, id: TensorId, facts: Facts) {
        self.tensors[id.0 as usize].facts = Some(facts);
    }

    /// What a constant is of the graph that was sharded; of any other graph, all of itself.
    pub fn original(&self, id: TensorId) -> Original {
        let itself = || Original { tensor: id, region: Region::whole(self.shape(id)) };
        self.tensor(id).original.unwrap_or_else(itself)
    }

    /// Says what a constant is of the graph that was sharded.
    pub fn set_original(&mut self, id: TensorId, original: Original) {
        self.tensors[id.0 as usize].original = Some(original);
    }

    /// Adds a node that produces existing tensors `outputs` (which have no producer yet).
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: Vec<TensorId>,
        outputs: Vec<TensorId>,
    ) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        for output in &outputs {
            let tensor = &mut self.tensors[output.0 as usize];
            assert!(tensor.producer.is_none() && tensor.value.is_none(), "tensor `{}` has a producer", tensor.name);
            tensor.producer = Some(id);
        }
        self.nodes.push(Some(Node { name: name.into(), op, inputs: Vec::new(), outputs }));
        self.set_inputs(id, inputs);
        id
    }

    /// Replaces the operands of a node.
    pub fn set_inputs(&mut self, id: NodeId, inputs: Vec<TensorId>) {
        self.forget_reader(id);
        for input in &inputs {
            insert(&mut self.readers[input.0 as usize], id);
        }
        self.node_mut(id).inputs = inputs;
    }

    fn forget_reader(&mut self, id: NodeId) {
        for input in std::mem::take(&mut self.node_mut(id).inputs) {
            let readers = &mut self.readers[input.0 as usize];
            if let Ok(at) = readers.binary_search(&id) {
                readers.remove(at);
            }
        }
    }

    /// Replaces the operator of a node; operands stay.
    pub fn set_op(&mut self, id: NodeId, op: Op) {
        self.node_mut(id).op = op;
    }

    /// Gives a tensor another name.
    pub fn rename_tensor(&mut self, id: TensorId, name: impl Into<String>) {
        self.tensors[id.0 as usize].name = name.into();
    }

    /// Gives a tensor another type, for example after its producer's operator was replaced.
    pub fn set_tensor_type(&mut self, id: TensorId, tensor_type: TensorType) {
        self.stored.take();
        self.tensors[id.0 as usize].tensor_type = tensor_type;
    }

    /// Removes a node; its outputs keep existing, without producer.
    pub fn remove_node(&mut self, id: NodeId) {
        self.forget_reader(id);
        if let Some(node) = self.nodes[id.0 as usize].take() {
            self.removed += 1;
            for output in node.outputs {
                self.tensors[output.0 as usize].producer = None;
            }
        }
    }

    /// Whether `replace_uses(old, new)` is legal: a graph output must stay a produced tensor of its own.
    pub fn can_replace(&self, old: TensorId, new: TensorId) -> bool {
        !self.is_output(old) || (self.tensor(new).producer.is_some() && !self.is_output(new))
    }

    /// Makes every consumer of `old`, and the graph outputs, use `new` instead; see [`Graph::can_replace`].
    /// If `old` was a graph output, `new` takes over its name, which the caller knows.
    pub fn replace_uses(&mut self, old: TensorId, new: TensorId) {
        for consumer in self.consumers(old) {
            let inputs = &mut self.node_mut(consumer).inputs;
            inputs.iter_mut().filter(|input| **input == old).for_each(|input| *input = new);
        }
        let moved = std::mem::take(&mut self.readers[old.0 as usize]);
        moved.into_iter().for_each(|reader| insert(&mut self.readers[new.0 as usize], reader));
        if self.is_output(old) {
            self.outputs.replace(old, new);
            let name = std::mem::take(&mut self.tensors[old.0 as usize].name);
            let previous = std::mem::replace(&mut self.tensors[new.0 as usize].name, name);
            self.tensors[old.0 as usize].name = previous;
        }
    }

    /// Replaces a node by another operator with other operands that makes the same outputs.
    pub fn replace_node(&mut self, id: NodeId, op: Op, inputs: Vec<TensorId>) {
        self.set_op(id, op);
        self.set_inputs(id, inputs);
    }

    /// Turns a produced tensor into a constant and removes its producer if that has no other output.
    pub fn make_constant(&mut self, id: TensorId, value: Arc<Value>) {
        if let Some(producer) = self.tensor(id).producer {
            if self.node(producer).outputs.len() == 1 {
                self.remove_node(producer);
            } else {
                // A node must keep its outputs: uses move to a fresh constant instead.
                let fresh = self.add_constant(format!("{}.value", self.tensor(id).name), value);
                self.replace_uses(id, fresh);
                return;
            }
        }
        self.set_value(id, value);
    }

    /// Name of a node for messages: its own, or the operator if the model gave none.
    pub fn node_label(&self, id: NodeId) -> String {
        format!("{} ({})", self.node(id).name, text::op_name(&self.node(id).op))
    }
}

/// Puts a node where it belongs among ascending ones, if it is not there yet.
fn insert(nodes: &mut Vec<NodeId>, id: NodeId) {
    // Mostly a new node, which comes last.
    match nodes.last() {
        Some(last) if *last >= id => {
            if let Err(at) = nodes.binary_search(&id) {
                nodes.insert(at, id);
            }
        }
        _ => nodes.push(id),
    }
}
