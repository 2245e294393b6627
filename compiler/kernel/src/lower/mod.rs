//! Operators to kernels: one file per family, the same names as in runtime-rt's reference kernels.
//!
//! A family offers the layouts it can work in, best first ([`layout_choices`]), and builds the kernel for one of them
//! ([`lower_node`]). What no family takes runs on the portable reference kernel.

mod build;
mod bytes;
#[cfg(test)]
mod bytes_tests;
mod call;
mod conv;
mod depthwise;
mod elementwise;
mod epilogue;
mod functions;
pub mod fused;
mod gemm;
mod halves;
mod machine;
#[cfg(test)]
mod numbers_tests;
mod pool;
#[cfg(test)]
mod pooled_tests;
mod products;
mod reciprocal;
mod rows;
pub mod stored;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_memory;
#[cfg(test)]
mod tests_reference;
mod tile;
mod tuning;
mod window;
pub mod winograd;

use partita_ir::graph::op::{Conv, Pool, PoolKind, Window};
use partita_ir::graph::{Op, TensorType};

use crate::layout::Layout;
use crate::split::split;
use fused::{Fused, Tree};
use window::Window3;

pub use call::{Binding, LayoutChoice, LoweredNode, Operand, Packing, Pooling, WeightOrder};
pub use machine::Machine;

/// The file that has an operator's kernels, with what is common to all of its operators.
enum Family<'a> {
    Convolution(&'a Conv),
    Pool(&'a Pool),
    GlobalPool(PoolKind),
    Product,
    Elementwise,
    Rows,
}

impl Family<'_> {
    /// `None` of operators that only the portable kernels know.
    fn of(op: &Op) -> Option<Family<'_>> {
        Some(match op {
            Op::Conv(conv) => Family::Convolution(conv),
            Op::Pool(pool) => Family::Pool(pool),
            Op::GlobalPool(kind) => Family::GlobalPool(*kind),
            Op::Gemm(_) | Op::MatMul => Family::Product,
            Op::Unary(_) | Op::Binary(..) => Family::Elementwise,
            Op::Softmax { .. } | Op::LayerNormalization { .. } => Family::Rows,
            Op::ConvTranspose(_)
            | Op::Einsum(_)
            | Op::BatchNormalization { .. }
            | Op::InstanceNormalization { .. }
            | Op::GroupNormalization { .. }
            | Op::Lrn { .. }
            | Op::PRelu
            | Op::Where
            | Op::LogSoftmax { .. }
            | Op::Reduce { .. }
            | Op::ArgMax { .. }
            | Op::Concat { .. }
            | Op::Split { .. }
            | Op::Slice { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Pad { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Expand { .. }
            | Op::Identity
            | Op::Cast { .. }
            | Op::BitCast { .. }
            | Op::Resize { .. }
            | Op::SpaceToDepth { .. }
            | Op::DepthToSpace { .. }
            | Op::NonMaxSuppression(_)
            | Op::RoiAlign(_)
            | Op::TreeEnsemble(_)
            | Op::Decide(_) => return None,
        })
    }
}

/// Layouts in which an emitted kernel exists for this node, best first; empty if none does.
pub fn layout_choices(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<LayoutChoice> {
    let Some(family) = Family::of(op) else { return Vec::new() };
    match family {
        Family::Convolution(Conv { window, .. }) | Family::Pool(Pool { window, .. })
            if !has_short_rows(window, inputs, output) =>
        {
            Vec::new()
        }
        Family::Convolution(conv) if depthwise::applies(conv, inputs, output) => {
            depthwise::layouts(conv, inputs, machine)
        }
        Family::Convolution(conv) => conv::layouts(conv, inputs, output, machine),
        Family::Pool(pool) if !pool::has_small_table(pool, inputs, output) => Vec::new(),
        Family::Pool(pool) => pool::layouts(Some(pool), machine),
        Family::GlobalPool(_) => pool::layouts(None, machine),
        Family::Product => gemm::layouts(op, inputs, output),
        Family::Elementwise if !elementwise::has(op) => Vec::new(),
        Family::Elementwise => elementwise::layouts(inputs, output, machine),
        Family::Rows => rows::layouts(op, inputs),
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
    let mut lowered = spelled(lower_whole(op, inputs, output, output_layout, machine)?, inputs, machine)?;
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
    let behind = Behind { pooling: Some(pooling), fused: None };
    let mut lowered = lower_conv(conv, inputs, between, behind, machine)?;
    split(&mut lowered.kernel, machine.threads);
    Some(lowered)
}

/// One kernel for a convolution or product and the element-wise operators on its result, which is `between` them and nowhere
/// in memory. `None` if there is none.
pub fn lower_fused(
    op: &Op,
    inputs: &[Operand<'_>],
    between: &TensorType,
    fused: &Fused<'_>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let mut lowered = match Family::of(op)? {
        Family::Convolution(conv) if depthwise::applies(conv, inputs, between) => {
            depthwise::lower(conv, inputs, between, Some(fused), machine)
        }
        Family::Convolution(conv) => {
            lower_conv(conv, inputs, between, Behind { pooling: None, fused: Some(fused) }, machine)
        }
        Family::Product => gemm::lower(op, inputs, between, Some(fused), machine),
        Family::Pool(_) | Family::GlobalPool(_) | Family::Elementwise | Family::Rows => None,
    }
    .and_then(|lowered| spelled(lowered, inputs, machine))?;
    split(&mut lowered.kernel, machine.threads);
    Some(lowered)
}

/// A kernel in the instructions that a machine has.
fn spelled(lowered: LoweredNode, inputs: &[Operand<'_>], machine: &Machine) -> Option<LoweredNode> {
    if machine.multiplies_halves() { halves::lower(lowered, inputs, machine.in_order) } else { Some(lowered) }
}

/// One kernel for several element-wise operators, in one of their [`tree_layouts`].
pub fn lower_tree(
    fused: &Fused<'_>,
    output: &TensorType,
    output_layout: Layout,
    machine: &Machine,
) -> Option<LoweredNode> {
    let mut lowered = elementwise::lower(fused, output, output_layout, machine)?;
    split(&mut lowered.kernel, machine.threads);
    Some(lowered)
}

/// Layouts in which [`lower_tree`] has a kernel, best first.
pub fn tree_layouts(operands: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<LayoutChoice> {
    elementwise::layouts(operands, output, machine)
}

/// Whether the sums of a convolution are those of bytes, in these layouts.
pub fn sums_bytes(op: &Op, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> bool {
    match Family::of(op) {
        Some(Family::Convolution(conv)) if depthwise::applies(conv, inputs, output) => false,
        Some(Family::Convolution(conv)) => conv::sums_bytes(conv, inputs, output, machine),
        _ => false,
    }
}

/// Whether an operator can be part of a [`Tree`].
pub fn joins_trees(op: &Op) -> bool {
    elementwise::has(op)
}

/// What one kernel does to the result of a convolution.
#[derive(Clone, Copy, Default)]
struct Behind<'a> {
    pooling: Option<Pooling<'a>>,
    fused: Option<&'a Fused<'a>>,
}

fn lower_conv(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    behind: Behind<'_>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let mut inputs = inputs.to_vec();
    if let (Packing::Free, Some(order)) = (inputs[1].packing, tuning::order(conv, &inputs, output, machine)) {
        inputs[1].packing = Packing::Like(order);
    }
    let mut lowered = conv::lower(conv, &inputs, output, behind, machine)?;
    lowered.kernel.alternative = lowered.order.map(|order| tuning::entry(conv, &inputs, output, order));
    Some(lowered)
}

fn lower_whole(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    output_layout: Layout,
    machine: &Machine,
) -> Option<LoweredNode> {
    match Family::of(op)? {
        Family::Convolution(conv) if depthwise::applies(conv, inputs, output) => {
            depthwise::lower(conv, inputs, output, None, machine)
        }
        Family::Convolution(conv) => lower_conv(conv, inputs, output, Behind::default(), machine),
        Family::Pool(pool) => pool::lower(pool, inputs, output, machine),
        Family::GlobalPool(kind) => pool::lower_global(kind, inputs, machine),
        Family::Product => gemm::lower(op, inputs, output, None, machine),
        Family::Rows => rows::lower(op, inputs, output, machine),
        Family::Elementwise => {
            let tree = Tree::Apply(op.clone(), (0..inputs.len()).map(Tree::Operand).collect());
            elementwise::lower(&Fused { tree: &tree, operands: inputs }, output, output_layout, machine)
        }
    }
}
