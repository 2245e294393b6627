//! Depthwise convolution on channel blocks: vectors over channels, no sum across them; of bytes in [`bytes`].

mod bytes;
mod words;

use std::collections::BTreeSet;

use crate::layout::Layout;
use crate::lower::build::{Builder, mul_add, plus, repeat};
use crate::lower::call::convolution_bindings;
use crate::lower::epilogue::Epilogue;
use crate::lower::fused::{Fused, Joined};
use crate::lower::window::{Columns, Window3};
use crate::lower::{Binding, LayoutChoice, LoweredNode, Machine, Operand, Packing};
use crate::{Access, Affine, Buffer, Expression, LoopVar, Role, Statement, Variable};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::Conv;

/// Pixels computed together, and least of them for which columns are kept.
const MOST_PIXELS: usize = 8;
const FEWEST_PIXELS: usize = 4;

/// Whether a convolution has one input and one output channel per group.
pub(super) fn applies(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType) -> bool {
    let channels = inputs[0].tensor_type.shape[1];
    conv.groups == channels && channels > 1 && output.shape[1] == channels
}

pub(super) fn layouts(conv: &Conv, inputs: &[Operand<'_>], machine: &Machine) -> Vec<LayoutChoice> {
    if inputs[1].value.is_none() || inputs[2].value.is_none() {
        return Vec::new();
    }
    let blocked = Layout::Blocked(machine.instruction_set.lanes());
    let mut layouts = vec![blocked, Layout::Plain, Layout::Plain];
    layouts.extend(conv.residual.then_some(blocked));
    vec![LayoutChoice { inputs: layouts, output: blocked }]
}

pub(super) fn lower(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    fused: Option<&Fused<'_>>,
    machine: &Machine,
) -> Option<LoweredNode> {
    if let Some(lowered) = bytes::lower(conv, inputs, output, fused, machine) {
        return Some(lowered);
    }
    let (weights, bias) = (inputs[1].value?, inputs[2].value?);
    let x = inputs[0].tensor_type;
    let lanes = machine.instruction_set.lanes() as usize;
    let window = Window3::new(&conv.window, &x.shape, &output.shape);
    let (batch, channels) = (x.shape[0], x.shape[1]);
    let blocks = channels.div_ceil(lanes);
    let (in_elements, out_elements) = (blocks * lanes * window.input_plane(), blocks * lanes * window.output_plane());
    let packed = pack(weights, channels, window.taps(), lanes);
    let packed_bias = pack(bias, channels, 1, lanes);
    let mut builder = Builder::new(lanes as u32);
    let x_buffer = builder.buffer("x", Access::Input, batch * in_elements);
    let residual = conv.residual.then(|| builder.buffer("residual", Access::Input, batch * out_elements));
    let w_buffer = builder.buffer("weights", Access::Weights, packed.len());
    let b_buffer = builder.buffer("bias", Access::Weights, packed_bias.len());
    let mut fused_bindings = Vec::new();
    let sizes = [batch * out_elements, packed_bias.len()];
    let kernel = (&mut builder, &mut fused_bindings);
    let joined = Joined::declare_behind(fused, kernel, inputs.len(), output, sizes, machine)?;
    let y_buffer = builder.buffer("y", Access::Output, batch * out_elements);
    let (sample, block) = (builder.loop_over(Role::Batch, "sample"), builder.loop_over(Role::Channels, "block"));
    let (depth, row) = (builder.loop_over(Role::Depth, "depth"), builder.loop_over(Role::Row, "row"));
    let epilogue = Epilogue { residual, activation: conv.activation, fused: None, whole: false, output: y_buffer };
    let buffers = Buffers { x: x_buffer, weights: w_buffer, bias: b_buffer };
    let (width, reused) = widest(&window, machine.registers as usize);
    let at = [sample, block, depth, row];
    let mut writer = Writer { window: &window, lanes, reused, builder, buffers, in_elements, out_elements, at };
    let mut columns = Vec::new();
    for part in window.column_tiles(width) {
        columns.push(writer.tile(part, epilogue, joined.as_ref()));
    }
    let rows = repeat(row, window.output[1], 1, columns);
    let depths = repeat(depth, window.output[0], 1, vec![rows]);
    let body = vec![repeat(sample, batch, 1, vec![repeat(block, blocks, 1, vec![depths])])];
    let summary = format!(
        "depthwise convolution {:?} of {channels} channels over {:?}{}",
        window.kernel,
        window.output,
        Fused::words(fused)
    );
    let macs = batch * channels * window.output_plane() * window.taps();
    let mut kernel = writer.builder.finish(name(&window, channels), summary, body, macs as u64);
    kernel.in_place = residual.into_iter().collect();
    if let (Some(joined), Some(fused)) = (&joined, fused) {
        kernel.in_place.extend(joined.in_place(fused.operands));
    }
    let mut bindings = convolution_bindings(conv, Packing::Free, || packed, packed_bias);
    bindings.extend(fused_bindings);
    bindings.push(Binding::Output);
    Some(LoweredNode { kernel, bindings, order: None })
}

struct Buffers {
    x: Buffer,
    weights: Buffer,
    bias: Buffer,
}

/// Writes the loop nest.
struct Writer<'a> {
    window: &'a Window3,
    lanes: usize,
    /// Every column of the input is loaded once for all pixels.
    reused: bool,
    builder: Builder,
    buffers: Buffers,
    /// Of a sample.
    in_elements: usize,
    out_elements: usize,
    /// Sample, block of channels, depth, row.
    at: [LoopVar; 4],
}

impl Writer<'_> {
    /// A tile of columns, or several equal ones.
    fn tile(&mut self, part: Columns, epilogue: Epilogue<'_>, joined: Option<&Joined<'_>>) -> Statement {
        let (window, lanes) = (self.window, self.lanes);
        let [sample, block, depth, row] = self.at;
        let column = self.builder.loop_over(Role::Column, "column");
        let taps = [self.builder.loop_var("tap_depth"), self.builder.loop_var("tap_row")];
        let body = self.products(part, column, taps);
        let channel = Affine::term(block, lanes as i64);
        let mut statements = Vec::new();
        for pixel in 0..part.count {
            let start = Expression::Load(self.buffers.bias, channel.clone());
            self.builder.assign(&format!("acc_{pixel}"), start, &mut statements);
        }
        let (low, high) = window.tap_range(1, &Affine::term(row, 1));
        let rows = Statement::For { var: taps[1], low, high, step: 1, unroll: false, body };
        let (low, high) = window.tap_range(0, &Affine::term(depth, 1));
        statements.push(Statement::For { var: taps[0], low, high, step: 1, unroll: false, body: vec![rows] });
        let [_, out_h, out_w] = window.output;
        let mut at = plus(&Affine::term(sample, self.out_elements as i64), block, window.output_plane() * lanes);
        at = plus(&plus(&plus(&at, depth, out_h * out_w * lanes), row, out_w * lanes), column, lanes);
        let sum = |builder: &mut Builder, pixel: usize| builder.variable(&format!("acc_{pixel}"));
        let sums: Vec<(Variable, Affine)> = (0..part.count)
            .map(|pixel| (sum(&mut self.builder, pixel), at.clone().plus(((part.first + pixel) * lanes) as i64)))
            .collect();
        let channels = vec![channel; sums.len()];
        let epilogue = Epilogue { fused: joined.map(|joined| (joined, &channels[..])), ..epilogue };
        statements.extend(epilogue.finish(&mut self.builder, &sums));
        repeat(column, part.count * part.repeat, part.count, statements)
    }

    /// The products of one row of taps.
    fn products(&mut self, part: Columns, column: LoopVar, taps: [LoopVar; 2]) -> Vec<Statement> {
        let (window, lanes) = (self.window, self.lanes);
        let [sample, block, depth, row] = self.at;
        let [_, in_h, in_w] = window.input;
        let [_, k_h, k_w] = window.kernel;
        let mut input = plus(&Affine::term(sample, self.in_elements as i64), block, window.input_plane() * lanes);
        for (axis, at, tap, inner) in [(0, depth, taps[0], in_h * in_w * lanes), (1, row, taps[1], in_w * lanes)] {
            input = plus(&input, at, window.stride[axis] * inner);
            input = plus(&input, tap, window.dilation[axis] * inner);
            input = input.plus(-((window.pad[axis] * inner) as i64));
        }
        let first = (part.first * window.stride[2]) as i64 - window.pad[2] as i64;
        let input = plus(&input, column, window.stride[2] * lanes).plus(first * lanes as i64);
        let weights = plus(&Affine::term(block, (window.taps() * lanes) as i64), taps[0], k_h * k_w * lanes);
        let weights = plus(&weights, taps[1], k_w * lanes);
        let x = self.buffers.x;
        let element_at = |column: usize| Expression::Load(x, input.clone().plus((column * lanes) as i64));
        // Taps and pixels, and the columns that they meet in, counted from the tile's first tap.
        let pairs = (0..k_w).flat_map(|tap| (0..part.count).map(move |pixel| (tap, pixel)));
        let met: Vec<(usize, usize, usize)> = pairs
            .filter(|(tap, pixel)| part.interior || window.column_is_inside(part.first + pixel, *tap))
            .map(|(tap, pixel)| (tap, pixel, pixel * window.stride[2] + tap * window.dilation[2]))
            .collect();
        let mut body = Vec::new();
        for tap in 0..k_w {
            let at = weights.clone().plus((tap * lanes) as i64);
            self.builder.assign(&format!("w_{tap}"), Expression::Load(self.buffers.weights, at), &mut body);
        }
        if self.reused {
            for column in met.iter().map(|(.., column)| *column).collect::<BTreeSet<usize>>() {
                self.builder.assign(&format!("x_{column}"), element_at(column), &mut body);
            }
        }
        for (tap, pixel, column) in met {
            let element = match self.reused {
                true => Expression::Variable(self.builder.variable(&format!("x_{column}"))),
                false => element_at(column),
            };
            let [weight, sum] = [format!("w_{tap}"), format!("acc_{pixel}")].map(|name| self.builder.variable(&name));
            let value = mul_add(element, Expression::Variable(weight), Expression::Variable(sum));
            body.push(Statement::Assign(sum, value));
        }
        body
    }
}

fn name(window: &Window3, channels: usize) -> String {
    format!(
        "depthwise_{}x{}_s{}_{}x{}x{}",
        window.kernel[1], window.kernel[2], window.stride[2], channels, window.input[1], window.input[2]
    )
}

/// Pixels of a row that are computed together, and whether every column of the input is loaded once for all of them.
///
/// That is so if sums, columns and weights of enough pixels stay in registers; otherwise each product loads its own.
fn widest(window: &Window3, registers: usize) -> (usize, bool) {
    let taps = window.kernel[2];
    let needed = |pixels: usize| {
        let reach = (pixels - 1) * window.stride[2] + (taps - 1) * window.dilation[2] + 1;
        pixels + taps + reach.min(pixels * taps)
    };
    match (FEWEST_PIXELS..=MOST_PIXELS).rev().find(|pixels| needed(*pixels) <= registers) {
        Some(pixels) => (pixels, true),
        None => (registers.saturating_sub(taps + 1).clamp(1, MOST_PIXELS), false),
    }
}

/// `[C, taps]` to `[block][tap][lane]`, zero past the last channel.
fn pack(elements: &[f32], channels: usize, taps: usize, lanes: usize) -> Vec<f32> {
    (0..channels.div_ceil(lanes) * taps * lanes)
        .map(|index| {
            let (lane, tap, block) = (index % lanes, index / lanes % taps, index / lanes / taps);
            let channel = block * lanes + lane;
            if channel < channels { elements[channel * taps + tap] } else { 0.0 }
        })
        .collect()
}
