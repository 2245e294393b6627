//! A [`Program`]: everything one device does for one inference, as data.
//!
//! `lower` makes it from a device's schedule (which nodes, which sends and receives, in which order), choosing for each
//! node an emitted kernel or a portable reference kernel and for each tensor a layout. `memory` then gives every buffer
//! its offset in the arena. `emit` writes it out; nothing is decided after this point.

pub mod family;
pub mod lower;
pub mod text;

use std::collections::BTreeSet;
use std::sync::Arc;

use partita_ir::graph::{ElementType, Op, Original, StepSize, Stored, TensorId};
use partita_kernel::Kernel;
use partita_kernel::lower::WeightOrder;

/// Index into [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Index into [`Program::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

pub use partita_kernel::layout::Layout;

/// A tensor in a device's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name for readers: the tensor's, or what a scratch buffer is for.
    pub name: String,
    /// The graph's tensor, none for scratch.
    pub tensor: Option<TensorId>,
    /// Type of the elements in memory.
    pub element: ElementType,
    /// What is to be added to an element in memory to get the tensor's ([`Stored`]).
    pub offset: i32,
    /// What the sum is to be multiplied by, likewise.
    pub step: StepSize,
    /// Logical shape.
    pub shape: Vec<usize>,
    /// Layout.
    pub layout: Layout,
    /// Elements occupied, padding of the layout included; at least one vector more than the last full one, so
    /// element-wise kernels may run to the end of the last vector.
    pub elements: usize,
    /// If set, this buffer is the part of another that begins at this element (reshape, concat and split without copy).
    pub part_of: Option<(BufferId, usize)>,
    /// With `part_of`: holds a new value over memory whose old value nothing needs any more (in-place), instead of
    /// sharing its parent's value.
    pub replaces: bool,
    /// Byte offset in the arena; set by `memory`, a multiple of the arena alignment unless a part of another.
    pub offset_bytes: usize,
}

impl Buffer {
    /// How elements are stored.
    pub fn stored(&self) -> Stored {
        Stored { element: self.element, offset: self.offset, step: self.step }
    }
}

/// A packed constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Name for readers: the initializer's.
    pub name: String,
    /// Element type.
    pub element: ElementType,
    /// Logical shape of a plain constant; `[elements]` of one packed for a kernel.
    pub shape: Vec<usize>,
    /// Little-endian elements in the order in which the kernel reads them; programs of several routes share them.
    pub bytes: Arc<Vec<u8>>,
    /// How a convolution's kernel has packed it, and the layout of the activations that it reads, if there were
    /// alternatives.
    pub order: Option<(Layout, WeightOrder)>,
    /// With `order`: what it is of the graph's constants.
    pub source: Source,
    /// Byte offset in the weights section; set by `memory`, a multiple of 64.
    pub offset_bytes: usize,
}

/// What a packed constant is of the graph's constants: how the same one is found again in the program of another route.
/// It makes no difference to what a program does, and is no part of its text form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source(pub Option<Original>);

impl PartialEq for Source {
    fn eq(&self, _other: &Source) -> bool {
        true
    }
}

/// An operand of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// An activation.
    Buffer(BufferId),
    /// A constant.
    Weight(WeightId),
}

/// Runs of contiguous elements at regular distances on both sides of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// How many runs.
    pub count: usize,
    /// Elements of each.
    pub elements: usize,
    /// Elements from one run's first to the next one's in the source.
    pub from_stride: usize,
    /// The same in the destination.
    pub to_stride: usize,
}

impl Runs {
    /// One run.
    pub fn one(elements: usize) -> Runs {
        Runs { count: 1, elements, from_stride: elements, to_stride: elements }
    }
}

/// One thing a device does. Steps run in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Calls an emitted kernel; arguments in the order of [`Kernel::buffers`].
    Kernel {
        /// Name of the graph node.
        node: String,
        /// Names of further nodes that the kernel computes, from the first one's result.
        fused: Vec<String>,
        /// Index into [`Program::kernels`].
        kernel: usize,
        /// One per kernel buffer.
        arguments: Vec<Argument>,
    },
    /// Calls a portable reference kernel of runtime-rt on plain tensors.
    Reference {
        /// Name of the graph node.
        node: String,
        /// What to compute.
        op: Op,
        /// Operands.
        inputs: Vec<Argument>,
        /// Results.
        outputs: Vec<BufferId>,
    },
    /// Copies a tensor into another layout, or stores it otherwise in the same.
    Reorder {
        /// Source.
        from: BufferId,
        /// Destination; same logical shape.
        to: BufferId,
    },
    /// Copies part of a tensor into part of another, run by run.
    Copy {
        /// Source and first element.
        from: (Argument, usize),
        /// Destination and first element.
        to: (BufferId, usize),
        /// What is copied.
        runs: Runs,
    },
    /// Ends the inference if a verdict says so.
    Leave {
        /// Number of the exit.
        exit: usize,
        /// `[2]`: 1 to leave, and the confidence.
        verdict: BufferId,
        /// The answer, on the device that wants it.
        answer: Option<BufferId>,
    },
    /// From now on these may travel while the device computes; an exchange behind has each of them again.
    Start {
        /// In the order of message numbers.
        sends: Vec<Message>,
        /// In the order of message numbers.
        receives: Vec<Message>,
    },
    /// Sends and receives plain tensors, all at the same time where the links can, and waits for them.
    Exchange {
        /// In the order of message numbers.
        sends: Vec<Message>,
        /// In the order of message numbers.
        receives: Vec<Message>,
    },
}

/// One tensor on its way between two devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// Index of the device at the other end.
    pub peer: usize,
    /// Number of the message within an inference, the same on both sides.
    pub number: u32,
    /// The first `bytes` of it are what travels.
    pub buffer: BufferId,
    /// Payload size.
    pub bytes: usize,
}

/// One device's part of a plan.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Program {
    /// Index of the device in the cluster.
    pub device: usize,
    /// Activations and scratch.
    pub buffers: Vec<Buffer>,
    /// Constants.
    pub weights: Vec<Weight>,
    /// Emitted kernels, each used by at least one step.
    pub kernels: Vec<Kernel>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Graph inputs fed on this device: (position among the graph's inputs, buffer, plain).
    pub inputs: Vec<(usize, BufferId)>,
    /// Graph outputs returned on this device: (position among the graph's outputs, buffer, plain).
    pub outputs: Vec<(usize, BufferId)>,
    /// So many of the last inputs and outputs are states ([`partita_ir::graph::Graph::states`]): they are kept at the
    /// end of the arena, where nothing else lies, from one inference to the next.
    pub states: usize,
    /// Size of the arena; set by `memory`.
    pub arena_bytes: usize,
    /// Size of the weights section; set by `memory`.
    pub weights_bytes: usize,
}

impl Program {
    /// Devices that it exchanges tensors with, ascending.
    pub fn peers(&self) -> Vec<usize> {
        let exchanged = self.steps.iter().flat_map(|step| match step {
            Step::Exchange { sends, receives } => sends.iter().chain(receives).map(|message| message.peer).collect(),
            Step::Kernel { .. }
            | Step::Reference { .. }
            | Step::Reorder { .. }
            | Step::Copy { .. }
            | Step::Start { .. }
            | Step::Leave { .. } => Vec::new(),
        });
        let mut found: Vec<usize> = exchanged.collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Numbers of the messages that leave before the exchange that waits for them.
    pub fn started_sends(&self) -> BTreeSet<u32> {
        let started = self.steps.iter().flat_map(|step| match step {
            Step::Start { sends, .. } => sends.as_slice(),
            _ => &[],
        });
        started.map(|message| message.number).collect()
    }

    /// Where the caller puts the inputs: first byte in the arena and size. Several inputs lie one after the other,
    /// each from a multiple of [`PORT_ALIGNMENT_BYTES`].
    pub fn input_region(&self) -> (usize, usize) {
        self.region(&self.inputs[..self.inputs.len().saturating_sub(self.states)])
    }

    /// Where the caller finds the outputs: first byte in the arena and size, laid out like the inputs.
    pub fn output_region(&self) -> (usize, usize) {
        self.region(&self.outputs[..self.outputs.len().saturating_sub(self.states)])
    }

    /// Where an inference reads its states, where it leaves them, and where they are kept meanwhile: first bytes, and
    /// their common size. None on devices that hold none.
    pub fn state_regions(&self) -> Option<StateRegions> {
        let (inputs, outputs) = (self.inputs.len(), self.outputs.len());
        if self.states == 0 || inputs < self.states || outputs < self.states {
            return None;
        }
        let (read, bytes) = self.region(&self.inputs[inputs - self.states..]);
        let (made, _) = self.region(&self.outputs[outputs - self.states..]);
        let kept = self.arena_bytes.saturating_sub(bytes.next_multiple_of(PORT_ALIGNMENT_BYTES));
        Some(StateRegions { read, made, kept, bytes })
    }

    /// Bytes at the end of the arena in which states are kept.
    pub fn kept_bytes(&self) -> usize {
        self.state_regions().map_or(0, |states| states.bytes.next_multiple_of(PORT_ALIGNMENT_BYTES))
    }

    fn region(&self, ports: &[(usize, BufferId)]) -> (usize, usize) {
        let ends = ports.iter().map(|(_, id)| {
            let buffer = &self.buffers[id.0 as usize];
            let bytes = buffer.shape.iter().product::<usize>() * buffer.element.size_bytes();
            (buffer.offset_bytes, buffer.offset_bytes + bytes)
        });
        let begin = ends.clone().map(|(begin, _)| begin).min().unwrap_or(0);
        let end = ends.map(|(_, end)| end).max().unwrap_or(0);
        (begin, end - begin)
    }
}

/// Where the states of a program are, in bytes of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateRegions {
    /// Where steps read them.
    pub read: usize,
    /// Where steps leave them.
    pub made: usize,
    /// Where they are from one inference to the next.
    pub kept: usize,
    /// How many bytes they are, each state from a multiple of [`PORT_ALIGNMENT_BYTES`].
    pub bytes: usize,
}

/// Alignment of each of several inputs or outputs of a program.
pub const PORT_ALIGNMENT_BYTES: usize = 8;
