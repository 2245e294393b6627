//! Operators to kernels: one file per family, the same names as in runtime-rt's reference kernels.
//!
//! A family offers the layouts it can work in, best first ([`layout_choices`]), and builds the kernel for one of them
//! ([`lower_node`]). What no family takes runs on the portable reference kernel.

mod build;
mod conv;
mod depthwise;
mod elementwise;
mod functions;
mod gemm;
#[cfg(test)]
mod numbers_tests;
mod pool;
#[cfg(test)]
mod pooled_tests;
mod products;
mod rows;
#[cfg(test)]
mod tests;
mod tile;
mod tuning;
mod window;
pub mod winograd;

use std::sync::Arc;

use crate::Kernel;
use crate::layout::Layout;
use crate::split::split;
use partita_config::tuned::Tuning;
use partita_config::{InstructionSet, System, Target, WeightStorage};
use partita_ir::graph::op::{Conv, Pool, Window};
use partita_ir::graph::{Op, TensorType};
use window::Window3;

/// What a kernel may assume of the machine it is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// How it will be spelled; gives the number of lanes.
    pub instruction_set: InstructionSet,
    /// Vector registers.
    pub registers: u32,
    /// First-level data cache, 0 if none.
    pub l1_bytes: u64,
    /// Second-level cache, 0 if none.
    pub l2_bytes: u64,
    /// Convolutions may be done by minimal filtering, which needs more memory and rounds more.
    pub minimal_filtering: bool,
    /// Threads that share each kernel.
    pub threads: usize,
    /// Instructions are executed in the order in which they stand.
    pub in_order: bool,
    /// It multiplies bytes by fours ([`Expression::DotBytes`](crate::Expression::DotBytes)).
    pub dot_product: bool,
    /// How far ahead kernels fetch weights that come from memory; 0 if they do not.
    pub prefetch_bytes: u64,
    /// How weights of matrix products are stored where they are exact in it.
    pub weight_storage: WeightStorage,
    /// What measurements say of its kernels.
    pub tuning: Arc<Tuning>,
}

impl Machine {
    /// A machine of which no more is known than how its kernels are spelled.
    pub fn spelled(instruction_set: InstructionSet, registers: u32) -> Machine {
        Machine {
            instruction_set,
            registers,
            l1_bytes: 0,
            l2_bytes: 0,
            minimal_filtering: false,
            threads: 1,
            in_order: false,
            dot_product: false,
            prefetch_bytes: 0,
            weight_storage: WeightStorage::F32,
            tuning: Arc::default(),
        }
    }

    /// The machine of a target.
    pub fn of(target: &Target) -> Machine {
        Machine {
            instruction_set: target.instruction_set,
            registers: target.vector_registers,
            l1_bytes: target.l1_bytes,
            l2_bytes: target.l2_bytes,
            threads: target.threads,
            in_order: target.in_order,
            dot_product: target.dot_product,
            prefetch_bytes: target.prefetch_bytes,
            weight_storage: target.weight_storage,
            tuning: target.tuning.clone(),
            minimal_filtering: target.minimal_filtering && target.system == System::Linux,
        }
    }

    /// Registers for weights where a tile is multiplied by lane: one pair in use, and one on its way if instructions
    /// are executed in order.
    fn pair_registers(&self) -> usize {
        if self.in_order { 4 } else { 2 }
    }
}

/// An input of a node, as the lowering sees it.
#[derive(Clone, Debug)]
pub struct Operand<'a> {
    /// Element type and logical shape.
    pub tensor_type: &'a TensorType,
    /// Layout; constants are plain.
    pub layout: Layout,
    /// The elements, if constant and f32.
    pub value: Option<&'a [f32]>,
    /// Whether they are whole numbers, or cut from such.
    pub whole: bool,
    /// How it is packed, of weights.
    pub packing: Packing,
}

/// In which order a convolution's kernel reads its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOrder {
    /// Vectors of output channels per tile.
    pub vectors: usize,
    /// Transformed for minimal filtering in these forms.
    pub forms: Option<winograd::Forms>,
}

/// How a kernel's weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As suits the kernel.
    Free,
    /// Another kernel has packed them so, and this one reads the same.
    Shared(WeightOrder),
    /// This kernel packs them so, for the sake of another program of the device.
    Like(WeightOrder),
    /// As suits the kernel, but not transformed for minimal filtering: that takes up to four times the bytes.
    Untransformed,
}

impl Packing {
    /// The order, if it is given.
    pub fn order(self) -> Option<WeightOrder> {
        match self {
            Packing::Free | Packing::Untransformed => None,
            Packing::Shared(order) | Packing::Like(order) => Some(order),
        }
    }
}

/// A choice of layouts for the activations of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutChoice {
    /// One per input; ignored for constants that the kernel packs.
    pub inputs: Vec<Layout>,
    /// Layout of the only output.
    pub output: Layout,
}

/// What a kernel parameter is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// Input number `i` of the node.
    Input(usize),
    /// Constants packed for this kernel.
    Weights {
        /// Input number of the node they were made from, for naming; elements in reading order.
        from: usize,
        /// Packed elements.
        elements: Vec<f32>,
    },
    /// Constants that are packed in the same way as for another kernel ([`Packing::Shared`]).
    SameWeights {
        /// Input number of the node they were made from.
        from: usize,
    },
    /// So many elements that nobody else needs, before or after.
    Scratch(usize),
    /// The node's output.
    Output,
}

/// What the parameters of a convolution's kernel are bound to, without scratch memory: the input, a residual, weights and
/// bias in the kernel's order. Weights that another kernel has packed are not packed again.
fn convolution_bindings(
    conv: &Conv,
    packing: Packing,
    weights: impl FnOnce() -> Vec<f32>,
    bias: Vec<f32>,
) -> Vec<Binding> {
    let mut bindings = vec![Binding::Input(0)];
    bindings.extend(conv.residual.then_some(Binding::Input(3)));
    bindings.push(match packing {
        Packing::Shared(_) => Binding::SameWeights { from: 1 },
        Packing::Free | Packing::Like(_) | Packing::Untransformed => Binding::Weights { from: 1, elements: weights() },
    });
    bindings.push(Binding::Weights { from: 2, elements: bias });
    bindings
}

/// A node as a kernel call.
#[derive(Clone, Debug, PartialEq)]
pub struct LoweredNode {
    /// The kernel.
    pub kernel: Kernel,
    /// One per kernel buffer.
    pub bindings: Vec<Binding>,
    /// The order of the packed weights, if there are several for one node.
    pub order: Option<WeightOrder>,
}

/// The pooling of a convolution's result.
#[derive(Clone, Copy, Debug)]
pub struct Pooling<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// Type of its result.
    pub output: &'a TensorType,
}

/// Layouts in which an emitted kernel exists for this node, best first; empty if none does.
pub fn layout_choices(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<LayoutChoice> {
    match op {
        Op::Conv(Conv { window, .. }) | Op::Pool(Pool { window, .. }) if !has_short_rows(window, inputs, output) => {
            Vec::new()
        }
        Op::Conv(conv) if depthwise::applies(conv, inputs, output) => depthwise::layouts(conv, inputs, machine),
        Op::Conv(conv) => conv::layouts(conv, inputs, output, machine),
        Op::Pool(pool) if !pool::has_small_table(pool, inputs, output) => Vec::new(),
        Op::Pool(pool) => pool::layouts(Some(pool), machine),
        Op::GlobalPool(_) => pool::layouts(None, machine),
        Op::Gemm(_) | Op::MatMul => gemm::layouts(op, inputs, output),
        Op::Unary(_) | Op::Binary(..) => elementwise::layouts(op, inputs, output, machine),
        Op::Softmax { .. } | Op::LayerNormalization { .. } => rows::layouts(op, inputs),
        _ => Vec::new(),
    }
}

/// Whether the code of a window's kernel is of a reasonable length.
fn has_short_rows(window: &Window, inputs: &[Operand<'_>], output: &TensorType) -> bool {
    Window3::new(window, &inputs[0].tensor_type.shape, &output.shape).is_short()
}

/// The kernel for a node in the layouts of its operands, or `None` if only the reference kernel can do it.
pub fn lower_node(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    output_layout: Layout,
    machine: &Machine,
) -> Option<LoweredNode> {
    let mut lowered = lower_whole(op, inputs, output, output_layout, machine)?;
    split(&mut lowered.kernel, machine.threads);
    Some(lowered)
}

/// One kernel for a convolution and the pooling of its result, which is `between` the two and nowhere in memory as a whole.
/// `None` if that is not better than two kernels, or cannot be done.
pub fn lower_pooled(
    conv: &Conv,
    pooling: Pooling<'_>,
    inputs: &[Operand<'_>],
    between: &TensorType,
    machine: &Machine,
) -> Option<LoweredNode> {
    if depthwise::applies(conv, inputs, between) {
        return None;
    }
    let mut lowered = lower_conv(conv, inputs, between, Some(pooling), machine)?;
    split(&mut lowered.kernel, machine.threads);
    Some(lowered)
}

fn lower_conv(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    pooling: Option<Pooling<'_>>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let mut inputs = inputs.to_vec();
    if let (Packing::Free, Some(order)) = (inputs[1].packing, tuning::order(conv, &inputs, output, machine)) {
        inputs[1].packing = Packing::Like(order);
    }
    let mut lowered = conv::lower(conv, &inputs, output, pooling, machine)?;
    lowered.kernel.way = lowered.order.map(|order| tuning::entry(conv, &inputs, output, order));
    Some(lowered)
}

fn lower_whole(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    output_layout: Layout,
    machine: &Machine,
) -> Option<LoweredNode> {
    match op {
        Op::Conv(conv) if depthwise::applies(conv, inputs, output) => depthwise::lower(conv, inputs, output, machine),
        Op::Conv(conv) => lower_conv(conv, inputs, output, None, machine),
        Op::Pool(pool) => pool::lower(pool, inputs, output, machine),
        Op::GlobalPool(kind) => pool::lower_global(*kind, inputs, machine),
        Op::Gemm(_) | Op::MatMul => gemm::lower(op, inputs, output, machine),
        Op::Softmax { .. } | Op::LayerNormalization { .. } => rows::lower(op, inputs, output, machine),
        Op::Unary(_) | Op::Binary(..) => elementwise::lower(op, inputs, output, output_layout, machine),
        _ => None,
    }
}
