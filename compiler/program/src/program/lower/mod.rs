//! One device's schedule to its [`Program`]: kernels or reference calls, layouts, packed weights.
//!
//! Nodes are taken in schedule order. For each, `layouts` picks the layouts that cost least to bring about; missing
//! copies are made by `Reorder` steps and remembered. `views` handles the operators that need no work at all: reshapes,
//! and concatenations and splits whose parts lie one after the other.

mod layouts;
mod pooled;
mod ports;
mod runs;
mod views;

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use partita_rt::F16;
use partita_rt::kernels::reorder_to_blocked;

use super::{Argument, Buffer, BufferId, Layout, Message, Program, Runs, Source, Step, Weight, WeightId};

use partita_config::{Settings, Target, WeightStorage};
use partita_ir::graph::call::reference_call;
use partita_ir::graph::{ElementType, Graph, NodeId, Op, TensorId, TensorType, Value};
use partita_kernel::lower::{
    Binding, LayoutChoice, LoweredNode, Machine, Operand, Packing, Pooling, WeightOrder, lower_node, lower_pooled,
};
use partita_kernel::split::Split;
use partita_plan::schedule::{self, Action, Schedule};

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
        kernels: HashMap::new(),
    };
    for action in &schedule.actions {
        match *action {
            Action::Input { tensor, position } => {
                let buffer = lowering.new_buffer(tensor, Layout::Plain);
                lowering.program.inputs.push((position, buffer));
            }
            Action::Compute(node) => lowering.compute(node)?,
            Action::Exchange { ref sends, ref receives } => {
                let message = |message: &schedule::Message, buffer: BufferId| Message {
                    peer: message.peer,
                    number: message.number,
                    buffer,
                    bytes: graph.tensor_type(message.tensor).size_bytes(),
                };
                let mut step = (Vec::with_capacity(sends.len()), Vec::with_capacity(receives.len()));
                for send in sends {
                    let buffer = lowering.place(send.tensor, Layout::Plain)?;
                    step.0.push(message(send, buffer));
                }
                for receive in receives {
                    let buffer = lowering.new_buffer(receive.tensor, Layout::Plain);
                    step.1.push(message(receive, buffer));
                }
                lowering.program.steps.push(Step::Exchange { sends: step.0, receives: step.1 });
            }
            Action::Leave { exit, verdict, answer } => {
                let verdict = lowering.place(verdict, Layout::Plain)?;
                let answer = answer.map(|answer| lowering.place(answer, Layout::Plain)).transpose()?;
                lowering.program.steps.push(Step::Leave { exit, verdict, answer });
            }
            Action::Output { tensor, position } => {
                let buffer = lowering.place(tensor, Layout::Plain)?;
                lowering.program.outputs.push((position, buffer));
            }
        }
    }
    lowering.join_inputs();
    lowering.join_outputs();
    Ok(lowering.program)
}

/// State while one device's program grows.
struct Lowering<'a> {
    graph: &'a Graph,
    machine: Machine,
    program: Program,
    /// Where each tensor lies, at most once per layout; the first is where it was made.
    places: BTreeMap<TensorId, Vec<BufferId>>,
    /// Constants by shape and digest, so that equal ones are stored once.
    weights: HashMap<(Vec<usize>, [u8; 32]), WeightId>,
    /// How the weights of convolutions are packed.
    packings: HashMap<TensorId, Packed>,
    /// Weights of another program of the device.
    like: Like<'a>,
    /// Pools that may be done by the kernel of the convolution before them, by convolution.
    pools: BTreeMap<NodeId, NodeId>,
    /// Kernels by text without name, so that equal ones are emitted once.
    kernels: HashMap<String, usize>,
}

/// Weights as the first kernel that reads them wants them. Others, such as those of a node's stripes, take the same.
struct Packed {
    /// Layouts of that kernel.
    choice: LayoutChoice,
    /// How they are packed.
    order: WeightOrder,
    /// Where they are.
    weight: WeightId,
}

impl Lowering<'_> {
    /// Adds a buffer for a tensor and remembers it as one of the tensor's places.
    fn new_buffer(&mut self, tensor: TensorId, layout: Layout) -> BufferId {
        let lanes = self.machine.instruction_set.lanes() as usize;
        let tensor_info = self.graph.tensor(tensor);
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer {
            name: tensor_info.name.clone(),
            tensor: Some(tensor),
            element: tensor_info.tensor_type.element,
            shape: tensor_info.tensor_type.shape.clone(),
            layout,
            elements: physical_elements(&tensor_info.tensor_type, layout, lanes),
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        });
        self.places.entry(tensor).or_default().push(id);
        id
    }

    /// Adds a buffer that only the step to come needs.
    fn scratch(&mut self, elements: usize) -> BufferId {
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer {
            name: "scratch".to_string(),
            tensor: None,
            element: ElementType::F32,
            shape: vec![elements],
            layout: Layout::Plain,
            elements,
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        });
        id
    }

    /// Adds a buffer for a tensor that is a part of another buffer.
    fn new_view(&mut self, tensor: TensorId, layout: Layout, parent: BufferId, first_element: usize) -> BufferId {
        let id = self.new_buffer(tensor, layout);
        self.program.buffers[id.0 as usize].part_of = Some((parent, first_element));
        id
    }

    fn buffer(&self, id: BufferId) -> &Buffer {
        &self.program.buffers[id.0 as usize]
    }

    /// The layout a tensor was made in; `None` if it is not on the device.
    fn home_layout(&self, tensor: TensorId) -> Option<Layout> {
        self.places.get(&tensor).and_then(|places| places.first()).map(|id| self.buffer(*id).layout)
    }

    /// The tensor in a layout: where it already lies so, or reordered now. A constant is copied out of the weights.
    fn place(&mut self, tensor: TensorId, layout: Layout) -> Result<BufferId, LowerError> {
        if let Some(found) = self.existing_place(tensor, layout) {
            return Ok(found);
        }
        if let Some(value) = self.graph.value(tensor).cloned() {
            let weight = self.plain_weight(tensor, &value);
            let plain = self.new_buffer(tensor, Layout::Plain);
            let runs = Runs::one(value.data.len());
            self.program.steps.push(Step::Copy { from: (Argument::Weight(weight), 0), to: (plain, 0), runs });
            if layout == Layout::Plain {
                return Ok(plain);
            }
        }
        let Some(&home) = self.places.get(&tensor).and_then(|places| places.first()) else {
            return Err(LowerError::MissingTensor {
                tensor: self.graph.tensor(tensor).name.clone(),
                device: self.program.device,
            });
        };
        if lies_the_same(self.buffer(home)) {
            return Ok(self.new_view(tensor, layout, home, 0));
        }
        // Between two blocked layouts the way leads through plain.
        let from = match (self.buffer(home).layout, layout) {
            (Layout::Blocked(_), Layout::Blocked(_)) => self.place(tensor, Layout::Plain)?,
            _ => home,
        };
        let to = self.new_buffer(tensor, layout);
        self.program.steps.push(Step::Reorder { from, to });
        Ok(to)
    }

    fn existing_place(&self, tensor: TensorId, layout: Layout) -> Option<BufferId> {
        self.places.get(&tensor)?.iter().copied().find(|id| self.buffer(*id).layout == layout)
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
            return self.emit_kernel(&[node, pool], &choice, lowered);
        }
        let label = || LowerError::NoKernel { node: self.graph.node(node).name.clone() };
        let lowered = self.lower_kernel(node, &choice).ok_or_else(label)?;
        self.emit_kernel(&[node], &choice, lowered)
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
        for (operand, input) in operands.iter_mut().zip(&self.graph.node(node).inputs) {
            let here = self.packings.get(input).filter(|packing| packing.choice == *choice);
            operand.packing =
                here.map_or_else(|| self.wanted_packing(*input), |packing| Packing::Shared(packing.order));
        }
        operands
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

    /// A step that calls a kernel: of a node, or of several that follow each other.
    fn emit_kernel(
        &mut self,
        nodes: &[NodeId],
        choice: &LayoutChoice,
        LoweredNode { kernel, bindings, order }: LoweredNode,
    ) -> Result<(), LowerError> {
        let graph = self.graph;
        let (info, last) = (graph.node(nodes[0]), graph.node(nodes[nodes.len() - 1]));
        // Inputs first: what has to be reordered for them comes before the output in the listing.
        let mut inputs = Vec::with_capacity(bindings.len());
        for (binding, declared) in bindings.iter().zip(&kernel.buffers) {
            inputs.push(match binding {
                Binding::Input(index) => {
                    Some(self.operand(info.inputs[*index], choice.inputs[*index], declared.elements)?)
                }
                Binding::Weights { .. } | Binding::SameWeights { .. } | Binding::Scratch(_) | Binding::Output => None,
            });
        }
        let output = Argument::Buffer(self.new_buffer(last.outputs[0], choice.output));
        let mut arguments = Vec::with_capacity(bindings.len());
        for ((binding, input), declared) in bindings.into_iter().zip(inputs).zip(&kernel.buffers) {
            arguments.push(match (binding, input) {
                (Binding::Weights { from, elements }, _) => {
                    let name = graph.tensor(info.inputs[from]).name.clone();
                    let weight = match declared.storage {
                        WeightStorage::F32 => {
                            let bytes = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
                            self.weight(name, ElementType::F32, vec![elements.len()], bytes)
                        }
                        // No element type of the graph: bytes.
                        WeightStorage::F16 => {
                            let bytes = elements.iter().flat_map(|element| F16::from_f32(*element).0.to_le_bytes());
                            self.weight(name, ElementType::U8, vec![2 * elements.len()], bytes.collect())
                        }
                        WeightStorage::Int8 => {
                            let bytes = elements.iter().map(|element| *element as i8 as u8).collect();
                            self.weight(name, ElementType::I8, vec![elements.len()], bytes)
                        }
                    };
                    if let Some(order) = order {
                        let packed = &mut self.program.weights[weight.0 as usize];
                        packed.order = Some((choice.inputs[0], order));
                        packed.source.0.get_or_insert(graph.original(info.inputs[from]));
                        let packing = Packed { choice: choice.clone(), order, weight };
                        self.packings.entry(info.inputs[from]).or_insert(packing);
                    }
                    Argument::Weight(weight)
                }
                (Binding::SameWeights { from }, _) => match self.packings.get(&info.inputs[from]) {
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
        let inputs =
            info.inputs.iter().map(|input| self.argument(*input, Layout::Plain)).collect::<Result<Vec<_>, _>>()?;
        let types = |tensors: &[TensorId]| tensors.iter().map(|tensor| graph.tensor_type(*tensor)).collect::<Vec<_>>();
        let (read, written) = (types(&info.inputs), types(&info.outputs));
        if reference_call(&info.op, &read, &written).is_none() {
            let types: Vec<String> = read.iter().map(|operand| operand.to_string()).collect();
            return Err(LowerError::NoReference { node: graph.node_label(node), types: types.join(", ") });
        }
        let outputs = info.outputs.iter().map(|output| self.new_buffer(*output, Layout::Plain)).collect();
        self.program.steps.push(Step::Reference { node: info.name.clone(), op: info.op.clone(), inputs, outputs });
        Ok(())
    }

    /// What a kernel reads `elements` of in a layout: an activation, or a constant that is packed like one.
    fn operand(&mut self, tensor: TensorId, layout: Layout, elements: usize) -> Result<Argument, LowerError> {
        let Some(constant) = self.graph.f32_value(tensor) else { return self.argument(tensor, layout) };
        let shape = self.graph.shape(tensor);
        if layout == Layout::Plain && elements <= constant.len() {
            return self.argument(tensor, layout);
        }
        let mut packed = vec![0.0f32; elements.max(constant.len())];
        match layout {
            Layout::Plain => packed[..constant.len()].copy_from_slice(constant),
            Layout::Blocked(block) => {
                let (block, spatial) = (block as usize, shape[2..].iter().product::<usize>());
                let occupied = shape[0] * shape[1].next_multiple_of(block) * spatial;
                packed.resize(packed.len().max(occupied), 0.0);
                reorder_to_blocked(constant, &mut packed[..occupied], shape[0], shape[1], spatial, block);
            }
        }
        let bytes = packed.iter().flat_map(|element| element.to_le_bytes()).collect();
        let name = self.graph.tensor(tensor).name.clone();
        Ok(Argument::Weight(self.weight(name, ElementType::F32, vec![packed.len()], bytes)))
    }

    /// An activation in a layout, or a constant as plain weights.
    fn argument(&mut self, tensor: TensorId, layout: Layout) -> Result<Argument, LowerError> {
        match self.graph.value(tensor).cloned() {
            Some(value) => Ok(Argument::Weight(self.plain_weight(tensor, &value))),
            None => Ok(Argument::Buffer(self.place(tensor, layout)?)),
        }
    }

    fn plain_weight(&mut self, tensor: TensorId, value: &Value) -> WeightId {
        let name = self.graph.tensor(tensor).name.clone();
        self.weight(name, value.data.element(), value.shape.clone(), value.data.to_bytes())
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
                bytes,
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
        let inputs = &self.graph.node(node).inputs;
        inputs
            .iter()
            .zip(layouts)
            .map(|(input, layout)| Operand {
                tensor_type: self.graph.tensor_type(*input),
                layout: *layout,
                value: self.graph.f32_value(*input),
                whole: self.graph.is_whole(*input),
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

/// Elements that a tensor occupies in a layout, rounded up to whole vectors.
fn physical_elements(tensor_type: &TensorType, layout: Layout, lanes: usize) -> usize {
    let shape = &tensor_type.shape;
    match layout {
        Layout::Plain => tensor_type.element_count().next_multiple_of(lanes),
        Layout::Blocked(block) => {
            let block = block as usize;
            shape[0] * shape[1].next_multiple_of(block) * shape[2..].iter().product::<usize>()
        }
    }
}

/// Whether a tensor lies the same way in plain and blocked layout: one sample, spatial size 1.
fn lies_the_same(buffer: &Buffer) -> bool {
    buffer.shape.len() >= 2 && buffer.shape[0] == 1 && buffer.shape[2..].iter().all(|extent| *extent == 1)
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
