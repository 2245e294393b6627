//! One device's schedule to its [`Program`]: kernels or reference calls, layouts, packed weights.
//!
//! Nodes are taken in schedule order. For each, `layouts` picks the layouts that cost least to bring about; missing
//! copies are made by `Reorder` steps and remembered. `views` handles the operators that need no work at all: reshapes,
//! and concatenations and splits whose parts lie one after the other.

mod fused;
mod layouts;
mod places;
mod pooled;
mod ports;
mod runs;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use fused::{Group, Groups};
use places::packed;

use super::{Argument, BufferId, Layout, Program, Source, Step, Weight, WeightId};

use partita_config::{Settings, Target};
use partita_ir::graph::call::reference_call;
use partita_ir::graph::{ElementType, Graph, NodeId, Op, Stored, TensorId, TensorType};
use partita_ir::restrict::space;
use partita_ir::space::Arithmetic;
use partita_kernel::lower::fused::Fused;
use partita_kernel::lower::stored::{can_read, store, store_weights};
use partita_kernel::lower::{
    Binding, LayoutChoice, LoweredNode, Machine, Operand, Packing, Pooling, WeightOrder, lower_fused, lower_node,
    lower_pooled, lower_tree, sums_bytes, tree_layouts,
};
use partita_kernel::split::Split;
use partita_plan::schedule::{Action, Schedule};

/// A fault of an earlier stage that lowering cannot work around; always a bug of ours.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// A node reads a tensor that is neither constant nor present on the device.
    #[error("tensor `{tensor}` is read on device {device} before it is made or received")]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
        /// Index of the device.
        device: usize,
    },
    /// No kernel, emitted or portable, computes a node on these element types.
    #[error("node {node} works on {types}, for which there is no kernel on devices")]
    NoReference {
        /// Label of the node.
        node: String,
        /// Types of its operands.
        types: String,
    },
    /// A kernel would leave its buffers; emitted code relies on this proof.
    #[error(transparent)]
    Unsound(#[from] partita_kernel::verify::VerifyError),
    /// A kernel refused the layouts it had offered.
    #[error("node `{node}` has no kernel for the layouts it offered")]
    NoKernel {
        /// Name of the node.
        node: String,
    },
}

/// Weights of another program of a device; what is in both is packed alike, so that it is stored once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Like<'a> {
    /// Those of the other program.
    pub weights: &'a [Weight],
    /// Weights that are only in this one take as little room as they can, even if that takes longer.
    pub small: bool,
}

/// Lowers the schedule of one device.
pub fn lower(
    graph: &Graph,
    schedule: &Schedule,
    (target, settings): (&Target, &Settings),
    like: Like<'_>,
) -> Result<Program, LowerError> {
    let mut lowering = Lowering {
        graph,
        machine: Machine::of(target, settings),
        program: Program { device: schedule.device, ..Program::default() },
        places: BTreeMap::new(),
        weights: HashMap::new(),
        packings: HashMap::new(),
        like,
        pools: pooled::candidates(graph, schedule),
        groups: fused::groups(graph, schedule),
        kernels: HashMap::new(),
    };
    for action in &schedule.actions {
        match *action {
            Action::Input { tensor, position } => {
                let buffer = lowering.new_buffer(tensor, Layout::Plain, lowering.as_it_is(tensor));
                lowering.program.inputs.push((position, buffer));
            }
            Action::Compute(node) => lowering.compute_group(node)?,
            Action::Start { ref sends, ref receives } => {
                let (sends, receives) = lowering.messages(sends, receives)?;
                lowering.program.steps.push(Step::Start { sends, receives });
            }
            Action::Exchange { ref sends, ref receives } => {
                let (sends, receives) = lowering.messages(sends, receives)?;
                lowering.program.steps.push(Step::Exchange { sends, receives });
            }
            Action::Leave { exit, verdict, answer } => {
                let verdict = lowering.plain_place(verdict)?;
                let answer = answer.map(|answer| lowering.plain_place(answer)).transpose()?;
                lowering.program.steps.push(Step::Leave { exit, verdict, answer });
            }
            Action::Output { tensor, position } => {
                let buffer = lowering.plain_place(tensor)?;
                lowering.program.outputs.push((position, buffer));
            }
        }
    }
    lowering.join_inputs();
    lowering.join_outputs();
    let Program { inputs, outputs, .. } = &lowering.program;
    lowering.program.states = graph.states.min(inputs.len()).min(outputs.len());
    Ok(lowering.program)
}

/// State while one device's program grows.
struct Lowering<'a> {
    graph: &'a Graph,
    machine: Machine,
    program: Program,
    /// Where each tensor lies, at most once per layout and storage; the first is where it was made.
    places: BTreeMap<TensorId, Vec<BufferId>>,
    /// Constants by shape and digest, so that equal ones are stored once.
    weights: HashMap<(Vec<usize>, [u8; 32]), WeightId>,
    /// How the weights of convolutions are packed.
    packings: HashMap<TensorId, Packed>,
    /// Weights of another program of the device.
    like: Like<'a>,
    /// Pools that may be done by the kernel of the convolution before them, by convolution.
    pools: BTreeMap<NodeId, NodeId>,
    /// Nodes that are done together.
    groups: Groups,
    /// Kernels by text without name, so that equal ones are emitted once.
    kernels: HashMap<String, usize>,
}

/// Weights as the first kernel that reads them wants them. Others, such as those of a node's bands, take the same.
struct Packed {
    /// Layouts of that kernel.
    choice: LayoutChoice,
    /// How they are packed.
    order: WeightOrder,
    /// Where they are.
    weight: WeightId,
}

impl Lowering<'_> {
    /// A node, with those that are done with it; nothing if it is done with a later one.
    fn compute_group(&mut self, node: NodeId) -> Result<(), LowerError> {
        let Some(group) = self.groups.by_root.get(&node).cloned() else {
            return if self.groups.inside.contains(&node) { Ok(()) } else { self.compute(node) };
        };
        let is_done = self.places.contains_key(&self.graph.node(node).outputs[0]);
        if is_done || self.emit_group(&group)? {
            return Ok(());
        }
        group.nodes.into_iter().try_for_each(|node| self.compute(node))
    }

    fn compute(&mut self, node: NodeId) -> Result<(), LowerError> {
        let is_done = self.graph.node(node).outputs.iter().all(|output| self.places.contains_key(output));
        if is_done || self.try_view(node)? {
            return Ok(());
        }
        let Some(choice) = self.choose_layouts(node) else { return self.emit_reference(node) };
        if let Some(pool) = self.pools.get(&node).copied()
            && let Some(lowered) = self.lower_pooled(node, pool, &choice)
        {
            return self.emit_kernel(&[node, pool], &self.graph.node(node).inputs, &choice, lowered);
        }
        let label = || LowerError::NoKernel { node: self.graph.node(node).name.clone() };
        let lowered = self.lower_kernel(node, &choice).ok_or_else(label)?;
        self.emit_kernel(&[node], &self.graph.node(node).inputs, &choice, lowered)
    }

    /// The kernel of a node.
    fn lower_kernel(&self, node: NodeId, choice: &LayoutChoice) -> Option<LoweredNode> {
        let info = self.graph.node(node);
        let output = self.graph.tensor_type(info.outputs[0]);
        lower_node(&info.op, &self.packed_operands(node, choice), output, choice.output, &self.machine)
    }

    /// The kernel of a convolution and the pool after it.
    fn lower_pooled(&self, node: NodeId, pool: NodeId, choice: &LayoutChoice) -> Option<LoweredNode> {
        let (graph, info) = (self.graph, self.graph.node(node));
        let (Op::Conv(conv), Op::Pool(pool_op)) = (&info.op, &graph.node(pool).op) else { return None };
        let pooling = Pooling { pool: pool_op, output: graph.tensor_type(graph.node(pool).outputs[0]) };
        let between = graph.tensor_type(info.outputs[0]);
        lower_pooled(conv, pooling, &self.packed_operands(node, choice), between, &self.machine)
    }

    /// Operands in these layouts, with the order in which their weights are packed already.
    fn packed_operands(&self, node: NodeId, choice: &LayoutChoice) -> Vec<Operand<'_>> {
        let mut operands = self.operands(node, &choice.inputs);
        let info = self.graph.node(node);
        let output = self.graph.tensor_type(info.outputs[0]);
        // Kernels of bytes read others than kernels of numbers.
        let suits = |packing: &&Packed| {
            let is_bytes = self.program.weights[packing.weight.0 as usize].element == ElementType::I8;
            let reads_bytes = || sums_bytes(&info.op, &self.operands(node, &choice.inputs), output, &self.machine);
            packing.choice == *choice && (self.machine.byte_products().is_none() || is_bytes == reads_bytes())
        };
        for (operand, input) in operands.iter_mut().zip(&info.inputs) {
            let here = self.packings.get(input).filter(suits);
            operand.packing =
                here.map_or_else(|| self.wanted_packing(*input), |packing| Packing::Shared(packing.order));
        }
        operands
    }

    /// One kernel for a group; false if there is none.
    fn emit_group(&mut self, group: &Group) -> Result<bool, LowerError> {
        let graph = self.graph;
        let Some(root) = group.nodes.last() else { return Ok(false) };
        let output = graph.tensor_type(graph.node(*root).outputs[0]);
        let Some(producer) = group.producer else {
            let plain = vec![Layout::Plain; group.operands.len()];
            let choices = tree_layouts(&self.operands_in(&group.operands, &plain), output, &self.machine);
            let Some(choice) = self.least_reordered(&group.operands, &choices) else { return Ok(false) };
            let operands = self.operands_in(&group.operands, &choice.inputs);
            let fused = Fused { tree: &group.tree, operands: &operands };
            let Some(lowered) = lower_tree(&fused, output, choice.output, &self.machine) else { return Ok(false) };
            self.emit_kernel(&group.nodes, &group.operands, &choice, lowered)?;
            return Ok(true);
        };
        let Some(mut choice) = self.choose_layouts(producer) else { return Ok(false) };
        let info = graph.node(producer);
        let behind: Vec<Layout> = group
            .operands
            .iter()
            .map(|operand| if graph.value(*operand).is_none() { choice.output } else { Layout::Plain })
            .collect();
        let operands = self.operands_in(&group.operands, &behind);
        let fused = Fused { tree: &group.tree, operands: &operands };
        let inputs = self.packed_operands(producer, &choice);
        let between = graph.tensor_type(info.outputs[0]);
        let Some(lowered) = lower_fused(&info.op, &inputs, between, &fused, &self.machine) else { return Ok(false) };
        // As the weights of a convolution are remembered: by the layouts of its own operands.
        let own = choice.clone();
        choice.inputs.extend(behind);
        let tensors: Vec<TensorId> = info.inputs.iter().chain(&group.operands).copied().collect();
        let nodes = group.nodes.iter().filter(|node| **node != producer);
        let nodes: Vec<NodeId> = std::iter::once(&producer).chain(nodes).copied().collect();
        self.emit_kernel(&nodes, &tensors, &choice, lowered)?;
        if let Some(packing) = info.inputs.get(1).and_then(|weights| self.packings.get_mut(weights))
            && packing.choice == choice
        {
            packing.choice = own;
        }
        Ok(true)
    }

    /// How a constant is to be packed for the sake of the device's other program.
    fn wanted_packing(&self, constant: TensorId) -> Packing {
        match self.packed_elsewhere(constant) {
            Some((_, order)) => Packing::Like(order),
            None if self.like.small => Packing::Untransformed,
            None => Packing::Free,
        }
    }

    /// How the device's other program has packed a constant.
    fn packed_elsewhere(&self, constant: TensorId) -> Option<(Layout, WeightOrder)> {
        let original = Some(self.graph.original(constant));
        self.like.weights.iter().find(|weight| weight.source.0 == original)?.order
    }

    /// A step that calls a kernel: of a node, or of several that follow each other, over these operands.
    fn emit_kernel(
        &mut self,
        nodes: &[NodeId],
        operands: &[TensorId],
        choice: &LayoutChoice,
        mut lowered: LoweredNode,
    ) -> Result<(), LowerError> {
        let graph = self.graph;
        if self.machine.stores_narrow {
            store_weights(&mut lowered, &self.operands_in(operands, &choice.inputs));
        }
        let LoweredNode { mut kernel, bindings, order } = lowered;
        let (info, last) = (graph.node(nodes[0]), graph.node(nodes[nodes.len() - 1]));
        // Inputs first: what has to be reordered for them comes before the output in the listing.
        let mut inputs = Vec::with_capacity(bindings.len());
        for (position, binding) in bindings.iter().enumerate() {
            inputs.push(match binding {
                Binding::Input(index) => {
                    Some(self.operand(operands[*index], choice.inputs[*index], &mut kernel, position)?)
                }
                Binding::Weights { .. } | Binding::SameWeights { .. } | Binding::Scratch(_) | Binding::Output => None,
            });
        }
        let mut stored = self.stored(last.outputs[0]);
        if let Some(position) = bindings.iter().position(|binding| *binding == Binding::Output) {
            if !can_read(&kernel, position, stored) {
                stored = self.as_it_is(last.outputs[0]);
            }
            store(&mut kernel, position, stored);
        }
        let output = Argument::Buffer(self.new_buffer(last.outputs[0], choice.output, stored));
        let mut arguments = Vec::with_capacity(bindings.len());
        for ((binding, input), declared) in bindings.into_iter().zip(inputs).zip(&kernel.buffers) {
            arguments.push(match (binding, input) {
                (Binding::Weights { from, elements }, _) => {
                    let name = graph.tensor(operands[from]).name.clone();
                    let shape = vec![elements.len()];
                    let weight = self.weight(name, declared.storage, shape, packed(elements, declared.storage));
                    if let Some(order) = order {
                        let packed = &mut self.program.weights[weight.0 as usize];
                        packed.order = Some((choice.inputs[0], order));
                        packed.source.0.get_or_insert(graph.original(operands[from]));
                        let packing = Packed { choice: choice.clone(), order, weight };
                        self.packings.entry(operands[from]).or_insert(packing);
                    }
                    Argument::Weight(weight)
                }
                (Binding::SameWeights { from }, _) => match self.packings.get(&operands[from]) {
                    Some(packing) => Argument::Weight(packing.weight),
                    None => return Err(LowerError::NoKernel { node: info.name.clone() }),
                },
                (Binding::Scratch(elements), _) => {
                    let threads = kernel.split.as_ref().map_or(1, Split::scratches);
                    Argument::Buffer(self.scratch(elements * threads))
                }
                (_, Some(input)) => input,
                (_, None) => output,
            });
        }
        let kernel = self.kernel(kernel)?;
        let fused = nodes[1..].iter().map(|node| graph.node(*node).name.clone()).collect();
        self.program.steps.push(Step::Kernel { node: info.name.clone(), fused, kernel, arguments });
        Ok(())
    }

    fn emit_reference(&mut self, node: NodeId) -> Result<(), LowerError> {
        let graph = self.graph;
        let info = graph.node(node);
        let types = |tensors: &[TensorId]| tensors.iter().map(|tensor| graph.tensor_type(*tensor)).collect::<Vec<_>>();
        let (read, written) = (types(&info.inputs), types(&info.outputs));
        if let Some(stored) = self.moved_as(node) {
            let place = |this: &mut Self, input: &TensorId| match graph.tensor_type(*input).element {
                ElementType::F32 => this.place(*input, Layout::Plain, stored).map(Argument::Buffer),
                _ => this.argument(*input),
            };
            let inputs = info.inputs.iter().map(|input| place(self, input)).collect::<Result<Vec<_>, _>>()?;
            let outputs = info.outputs.iter().map(|output| self.new_buffer(*output, Layout::Plain, stored)).collect();
            self.program.steps.push(Step::Reference { node: info.name.clone(), op: info.op.clone(), inputs, outputs });
            return Ok(());
        }
        let inputs = info.inputs.iter().map(|input| self.argument(*input)).collect::<Result<Vec<_>, _>>()?;
        if reference_call(&info.op, &read, &written).is_none() {
            let types: Vec<String> = read.iter().map(|operand| operand.to_string()).collect();
            return Err(LowerError::NoReference { node: graph.node_label(node), types: types.join(", ") });
        }
        let as_it_is = |output: &TensorId| (*output, self.as_it_is(*output));
        let outputs: Vec<(TensorId, Stored)> = info.outputs.iter().map(as_it_is).collect();
        let outputs =
            outputs.into_iter().map(|(output, stored)| self.new_buffer(output, Layout::Plain, stored)).collect();
        self.program.steps.push(Step::Reference { node: info.name.clone(), op: info.op.clone(), inputs, outputs });
        Ok(())
    }

    /// The one way in which all real operands and results of a node are stored, if it only moves them and its portable
    /// kernel can move them so.
    fn moved_as(&self, node: NodeId) -> Option<Stored> {
        let info = self.graph.node(node);
        let element = |tensor: &TensorId| self.graph.tensor_type(*tensor).element;
        let real = info.inputs.iter().chain(&info.outputs).filter(|tensor| element(tensor) == ElementType::F32);
        let stored = self.stored(*info.outputs.first()?);
        if stored.element == element(&info.outputs[0]) || stored.offset != 0 {
            return None;
        }
        let moves = space(self.graph, node).arithmetic == Arithmetic::Copies;
        if !moves || real.clone().any(|tensor| self.stored(*tensor) != stored) {
            return None;
        }
        let as_stored = |tensor: &TensorId| {
            let tensor_type = self.graph.tensor_type(*tensor);
            let element = if tensor_type.element == ElementType::F32 { stored.element } else { tensor_type.element };
            TensorType::new(element, tensor_type.shape.clone())
        };
        let read: Vec<TensorType> = info.inputs.iter().map(as_stored).collect();
        let written: Vec<TensorType> = info.outputs.iter().map(as_stored).collect();
        let (read, written): (Vec<&TensorType>, Vec<&TensorType>) = (read.iter().collect(), written.iter().collect());
        reference_call(&info.op, &read, &written).map(|_| stored)
    }

    fn weight(&mut self, name: String, element: ElementType, shape: Vec<usize>, bytes: Vec<u8>) -> WeightId {
        let digest = Sha256::new_with_prefix(element.name()).chain_update(&bytes).finalize().into();
        let next = WeightId(self.program.weights.len() as u32);
        let id = *self.weights.entry((shape.clone(), digest)).or_insert(next);
        if id == next {
            self.program.weights.push(Weight {
                name,
                element,
                shape,
                bytes: Arc::new(bytes),
                order: None,
                source: Source::default(),
                offset_bytes: 0,
            });
        }
        id
    }

    /// Adds a kernel unless an equal one exists; gives it a unique name and proves it.
    fn kernel(&mut self, mut kernel: partita_kernel::Kernel) -> Result<usize, LowerError> {
        let text = partita_kernel::text::code(&kernel);
        if let Some(found) = self.kernels.get(&text) {
            return Ok(*found);
        }
        let index = self.program.kernels.len();
        let taken = self.program.kernels.iter().any(|other| other.name == kernel.name);
        if taken {
            kernel.name = format!("{}_v{index}", kernel.name);
        }
        partita_kernel::verify::verify(&kernel)?;
        self.program.kernels.push(kernel);
        self.kernels.insert(text, index);
        Ok(index)
    }

    fn operands(&self, node: NodeId, layouts: &[Layout]) -> Vec<Operand<'_>> {
        self.operands_in(&self.graph.node(node).inputs, layouts)
    }

    fn operands_in(&self, tensors: &[TensorId], layouts: &[Layout]) -> Vec<Operand<'_>> {
        tensors
            .iter()
            .zip(layouts)
            .map(|(input, layout)| Operand {
                tensor_type: self.graph.tensor_type(*input),
                layout: *layout,
                value: self.graph.f32_value(*input),
                whole: self.graph.is_whole(*input),
                stored: self.stored(*input),
                packing: Packing::Free,
            })
            .collect()
    }

    /// Whether every operand and result of a node is `f32`; only such nodes have emitted kernels.
    fn is_f32(&self, node: NodeId) -> bool {
        let info = self.graph.node(node);
        info.inputs
            .iter()
            .chain(&info.outputs)
            .all(|tensor| self.graph.tensor_type(*tensor).element == ElementType::F32)
    }
}

/// For tests: the program of a device of a known kind that computes all of a graph and returns all outputs.
#[cfg(test)]
fn lowered(text: &str, target: &str, like: Like<'_>) -> Program {
    let graph = partita_ir::graph::text::parse(text).expect("the text is a graph");
    let inputs = graph.inputs.iter().enumerate().map(|(position, tensor)| Action::Input { tensor: *tensor, position });
    let nodes = graph.topological_order().expect("the graph has no cycle").into_iter().map(Action::Compute);
    let outputs = graph.outputs.iter().enumerate();
    let outputs = outputs.map(|(position, tensor)| Action::Output { tensor: *tensor, position });
    let schedule = Schedule { device: 0, actions: inputs.chain(nodes).chain(outputs).collect() };
    let target = partita_config::target::load(target, std::path::Path::new(".")).expect("a target of ours");
    lower(&graph, &schedule, (&target, &Settings::default()), like).expect("it lowers")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A constant that a kernel reads lies in the layout that the kernel reads, and is as long as the kernel says.
    #[test]
    fn constants_lie_as_kernels_read_them() {
        const CONV: &str = "Conv((window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:true,activation:None))";
        let constants = "const %1 \"w\": f32[5,3,1,1] = random(1)\nconst %2 \"bias\": f32[5] = random(2)\nconst %3 \"added\": f32[1,5,2,3] = random(3)\n";
        let head = "graph \"case\" opset 17\ninput %0 \"x\": f32[1,3,2,3]\n";
        let text = format!("{head}{constants}%4 \"y\": f32[1,5,2,3] = \"conv\"(%0, %1, %2, %3) {CONV}\noutput %4\n");
        let added = partita_ir::graph::values::noise(&TensorType::f32([1, 5, 2, 3]), 3);
        for target in ["raspberry-pi-3", "cortex-m7", "x86-64-v3"] {
            let program = lowered(&text, target, Like::default());
            let mut seen = false;
            for step in &program.steps {
                let Step::Kernel { kernel, arguments, .. } = step else { continue };
                for (declared, argument) in program.kernels[*kernel].buffers.iter().zip(arguments) {
                    let Argument::Weight(id) = argument else { continue };
                    let weight = &program.weights[id.0 as usize];
                    let bytes = declared.elements * 4;
                    assert!(weight.bytes.len() >= bytes, "{target}: {} has {} bytes", weight.name, weight.bytes.len());
                    if weight.name != "added" {
                        continue;
                    }
                    seen = true;
                    // As the sum that it is added to.
                    let result = arguments.iter().rev().find_map(|argument| match argument {
                        Argument::Buffer(id) => Some(program.buffers[id.0 as usize].layout),
                        Argument::Weight(_) => None,
                    });
                    let lanes = match result.expect("a kernel has a result") {
                        Layout::Plain => 1,
                        Layout::Blocked(block) => block as usize,
                    };
                    let element = |at: usize| f32::from_le_bytes(weight.bytes.as_chunks().0[at]);
                    for (at, wanted) in added.as_f32().expect("noise is f32").iter().enumerate() {
                        let (channel, pixel) = (at / 6, at % 6);
                        let lies = (channel / lanes) * 6 * lanes + pixel * lanes + channel % lanes;
                        assert_eq!(element(lies), *wanted, "{target}: channel {channel}, pixel {pixel}");
                    }
                }
            }
            assert!(seen, "{target}: the constant is nobody's operand");
        }
    }
}
