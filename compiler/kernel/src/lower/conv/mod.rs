//! Direct convolution on channel blocks: one register tile of output pixels x output-channel vectors, weights packed in
//! reading order, padding skipped instead of stored.
//!
//! Loop order: output-channel tile, output row, column tile, then input channels and taps. A tile's accumulators start
//! from the bias and stay in registers until residual, activation and store.

mod loop_nest;
mod padded;
mod plan;
mod strips;

use loop_nest::{Buffers, ConvWriter};
use plan::Plan;
use strips::Strips;

use super::build::Builder;
use super::call::convolution_bindings;
use super::epilogue::epilogue_words;
use super::fused::{Fused, Joined};
use super::winograd;
use super::{Behind, Binding, LayoutChoice, LoweredNode, Machine, Operand, WeightOrder};
use crate::layout::Layout;
use crate::{Access, Role};
use partita_ir::graph::op::Conv;
use partita_ir::graph::{ElementType, TensorType};

pub(super) fn layouts(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    machine: &Machine,
) -> Vec<LayoutChoice> {
    let lanes = machine.instruction_set.lanes();
    let (x, weights) = (inputs[0].tensor_type, inputs[1].tensor_type);
    if inputs[1].value.is_none() || inputs[2].value.is_none() || output.element_count() == 0 {
        return Vec::new();
    }
    let blocked = Layout::Blocked(lanes);
    let (channels, filters) = (x.shape[1], weights.shape[0]);
    let whole_blocks = |groups: usize| {
        (channels / groups).is_multiple_of(lanes as usize) && (filters / groups).is_multiple_of(lanes as usize)
    };
    if conv.groups != 1 && !whole_blocks(conv.groups) {
        return Vec::new();
    }
    let choice = |input: Layout| {
        let mut inputs = vec![input, Layout::Plain, Layout::Plain];
        inputs.extend(conv.residual.then_some(blocked));
        LayoutChoice { inputs, output: blocked }
    };
    // Winograd's algorithm saves more than it costs to reorder what it reads.
    let mut reordered = inputs.to_vec();
    reordered[0].layout = blocked;
    // Few channels would leave most lanes of a block empty; broadcasting reads plain tensors as well.
    if channels >= lanes as usize && winograd::chosen(conv, &reordered, output, machine).is_some() {
        vec![choice(blocked)]
    } else if conv.groups == 1 && channels < lanes as usize {
        vec![choice(Layout::Plain), choice(blocked)]
    } else if conv.groups == 1 {
        vec![choice(blocked), choice(Layout::Plain)]
    } else {
        vec![choice(blocked)]
    }
}

/// Time that short rows may cost to be pooled at once, in parts of that of long ones.
const MOST_CUT: f64 = 1.05;

/// A convolution, or one with the pooling of its result; `output` is what the convolution itself makes. None for poolings
/// that do not suit the kernel.
pub(super) fn lower(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    Behind { pooling, fused }: Behind<'_>,
    machine: &Machine,
) -> Option<LoweredNode> {
    if let Some(plan) = winograd::chosen(conv, inputs, output, machine) {
        return if fused.is_none() { winograd::lower(conv, inputs, &plan, pooling) } else { None };
    }
    let (weights, bias) = (inputs[1].value?, inputs[2].value?);
    let x = inputs[0].tensor_type;
    let plan = Plan::new(conv, inputs, output, pooling.is_some(), machine);
    let strips = match pooling {
        // Sums of bytes are quantized before they are pooled.
        Some(_) if plan.whole.is_some() => return None,
        // Without the pool, all rows of a pointwise convolution are one: cut tiles at the end of each may cost more.
        Some(_) if plan.cycles > Plan::new(conv, inputs, output, false, machine).cycles * MOST_CUT => return None,
        Some(pooling) => Some(Strips::new(pooling, conv, output, &plan, machine)?),
        None => None,
    };
    let mut builder = Builder::new(plan.lanes as u32);
    let x_buffer = builder.buffer("x", Access::Input, plan.input_elements(x));
    let residual = conv.residual.then(|| builder.buffer("residual", Access::Input, plan.output_elements()));
    let packed_bias = plan.pack_bias(plan.whole.as_ref().map_or(bias, |whole| &whole.bias));
    let [x_storage, w_storage, b_storage] = match &plan.whole {
        Some(_) => [inputs[0].stored.element, ElementType::I8, ElementType::I32],
        None => [ElementType::F32; 3],
    };
    builder.store(x_buffer, x_storage);
    let w_buffer = builder.stored_buffer("weights", Access::Weights, plan.packed_elements(), w_storage);
    let b_buffer = builder.stored_buffer("bias", Access::Weights, packed_bias.len(), b_storage);
    let mut fused_bindings = Vec::new();
    let sizes = [plan.output_elements(), packed_bias.len()];
    let kernel = (&mut builder, &mut fused_bindings);
    let joined = Joined::declare_behind(fused, kernel, inputs.len(), output, sizes, machine)?;
    let scratch_elements = strips.as_ref().map(|strips| strips.scratch_elements(&plan));
    let rows = scratch_elements.map(|elements| builder.buffer("rows", Access::Scratch, elements));
    let copy = plan.padded.as_ref().map(|padded| {
        let buffer = builder.stored_buffer("padded", Access::Scratch, padded.elements, ElementType::I8);
        (padded, x_buffer, buffer)
    });
    let output_plane = strips.as_ref().map_or(plan.window.output_plane(), |strips| strips.window.output_plane());
    let y_elements = plan.output_elements() / plan.window.output_plane() * output_plane;
    let y_buffer = builder.buffer("y", Access::Output, y_elements);
    let read = copy.map_or(x_buffer, |(_, _, copy)| copy);
    let buffers = Buffers { x: read, residual, weights: w_buffer, bias: b_buffer, y: y_buffer };
    let sample = builder.loop_over(Role::Batch, "sample");
    let strips_and_rows = strips.as_ref().zip(rows);
    let mut writer =
        ConvWriter { plan: &plan, conv, strips: strips_and_rows, joined: joined.as_ref(), builder, buffers, sample };
    let before = match (copy, &plan.whole) {
        (Some((padded, from, to)), Some(whole)) => {
            padded.copy(&mut writer.builder, (from, to), (sample, plan.channels), plan.lanes, whole.zero)
        }
        _ => Vec::new(),
    };
    let body = writer.body(before);
    let window = plan.original();
    let words = strips.as_ref().map_or_else(|| Fused::words(fused), Strips::words);
    let summary = summary(&plan, conv, &words);
    let name = name(&plan, strips.is_some());
    let macs = plan.batch * plan.filters * window.output_plane() * plan.group_channels * window.taps();
    let mut kernel = writer.builder.finish(name, summary, body, macs as u64);
    // The residual is read in the same tile, right before the store.
    kernel.in_place = residual.into_iter().collect();
    if let (Some(joined), Some(fused)) = (&joined, fused) {
        kernel.in_place.extend(joined.in_place(fused.operands));
    }
    let mut bindings = convolution_bindings(conv, inputs[1].packing, || plan.pack(weights), packed_bias);
    bindings.extend(fused_bindings);
    bindings.extend(scratch_elements.map(Binding::Scratch));
    bindings.extend(plan.padded.as_ref().map(|padded| Binding::Scratch(padded.elements.div_ceil(4))));
    bindings.push(Binding::Output);
    let order = WeightOrder { vectors: plan.tile.vectors, forms: None };
    Some(LoweredNode { kernel, bindings, order: Some(order) })
}

fn name(plan: &Plan, is_pooled: bool) -> String {
    let window = plan.original();
    format!(
        "{}_{}x{}x{}_s{}_{}x{}x{}x{}_to_{}",
        if is_pooled { "conv_pool" } else { "conv" },
        window.kernel[0],
        window.kernel[1],
        window.kernel[2],
        window.stride[2],
        plan.channels,
        window.input[0],
        window.input[1],
        window.input[2],
        plan.filters
    )
}

/// In words; `behind` are those of what is done to the result.
fn summary(plan: &Plan, conv: &Conv, behind: &str) -> String {
    let window = plan.original();
    format!(
        "convolution {:?}, stride {:?}, {} to {} channels over {:?}, tile {} pixels x {} vectors{}{}{behind}",
        window.kernel,
        window.stride,
        plan.channels,
        plan.filters,
        window.output,
        plan.tile.pixels,
        plan.tile.vectors,
        if plan.whole.is_some() { ", sums of bytes in whole numbers" } else { "" },
        epilogue_words(conv)
    )
}

/// Whether sums are those of bytes.
pub(super) fn sums_bytes(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> bool {
    Plan::new(conv, inputs, output, false, machine).whole.is_some()
}
