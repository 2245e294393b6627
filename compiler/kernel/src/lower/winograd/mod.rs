//! Convolution of 3 or 5 taps across, and as many or one down, by Winograd's algorithm: fewer products than direct convolution, at the
//! price of additions, of weights that are larger, and of rounding errors ([`Forms::error_bound`]). Additions may overflow and
//! carry what is no number to the whole tile, so programs look at their inputs first ([`crate::Kernel::winograd`]).
//!
//! The output is cut into tiles, tiles are gathered in blocks that stay in the second-level cache. For each block the
//! input is transformed, one matrix product per point of the tiles sums over channels (and depth taps), and the results
//! are transformed back, with bias, residual and activation on the way. What lies between these three is in a scratch
//! buffer of the kernel.

mod estimate;
mod inputs;
mod outputs;
mod plan;
mod products;
mod transform;

pub use estimate::{Filterable, Part};
use outputs::halves;
use plan::Plan;
pub use plan::{chosen, estimated_cycles, forms};
use transform::Transform;
pub use transform::{Form, Forms};

use super::build::{Builder, plus, repeat};
use super::call::convolution_bindings;
use super::epilogue::epilogue_words;
use super::{Binding, LoweredNode, Operand, Pooling, WeightOrder};
use crate::split::Split;
use crate::{Access, Affine, Bound, Buffer, Expression, LoopVar, Role, Statement, Variable};
use partita_ir::graph::op::Conv;

/// The kernel as planned.
///
/// A maximum over squares of two is taken of each tile before it is stored; other poolings are not done here.
pub(super) fn lower(
    conv: &Conv,
    inputs: &[Operand<'_>],
    plan: &Plan,
    pooling: Option<Pooling<'_>>,
) -> Option<LoweredNode> {
    let is_pooled = match pooling {
        Some(pooling) => halves(conv, pooling, plan).then_some(true)?,
        None => false,
    };
    let (weights, bias) = (inputs[1].value?, inputs[2].value?);
    let mut builder = Builder::new(plan.lanes as u32);
    let x = builder.buffer("x", Access::Input, plan.batch * plan.channel_blocks() * plan.lanes * plan.input_plane());
    let vectors = plan.batch * plan.filter_vectors();
    let residual =
        conv.residual.then(|| builder.buffer("residual", Access::Input, vectors * plan.lanes * plan.output_plane()));
    let packed = builder.buffer("weights", Access::Weights, plan.packed_elements());
    let mut packed_bias = bias.to_vec();
    packed_bias.resize(plan.filter_vectors() * plan.lanes, 0.0);
    let bias = builder.buffer("bias", Access::Weights, packed_bias.len());
    let scratch = builder.buffer("scratch", Access::Scratch, plan.scratch_elements());
    let side = if is_pooled { 2 } else { 1 };
    let stored = [plan.output[0], plan.output[1] / side, plan.output[2] / side];
    let y = builder.buffer("y", Access::Output, vectors * plan.lanes * stored.iter().product::<usize>());
    let at = Counters {
        sample: builder.loop_over(Role::Batch, "sample"),
        depth: builder.loop_over(Role::Depth, "depth"),
        block_row: builder.loop_over(Role::BlockRow, "block_row"),
        block_column: builder.loop_over(Role::BlockColumn, "block_column"),
    };
    let buffers = Buffers { x, residual, weights: packed, bias, scratch, y };
    let part = (plan.threads > 1).then(|| builder.loop_var("part"));
    let mut writer = WinogradWriter { plan, conv, is_pooled, stored, builder, buffers, at, part, shared: Vec::new() };
    let body = writer.body();
    let shared = std::mem::take(&mut writer.shared);
    let ([high, wide], [rows, columns]) = (plan.forms.taps(), plan.forms.outputs());
    let name = format!(
        "{}_{rows}x{columns}_{}x{high}x{wide}_{}x{}x{}x{}_to_{}",
        if is_pooled { "winograd_pool" } else { "winograd" },
        plan.kernel_depth,
        plan.channels,
        plan.input[0],
        plan.input[1],
        plan.input[2],
        plan.filters
    );
    let summary = format!(
        "convolution [{}, {high}, {wide}] by F({rows} x {columns}, {high} x {wide}), {} to {} channels over {:?}, {} x {} tiles at a time, product of {} \
         tiles x {} vectors{}{}",
        plan.kernel_depth,
        plan.channels,
        plan.filters,
        plan.output,
        plan.rows,
        plan.columns,
        plan.tile.pixels,
        plan.tile.vectors,
        epilogue_words(conv),
        if is_pooled { ", then the largest of every square of four" } else { "" }
    );
    let macs = plan.batch * plan.filters * plan.output_plane() * plan.channels * plan.kernel_depth * high * wide;
    let mut kernel = writer.builder.finish(name, summary, body, macs as u64);
    kernel.split = part.map(|part| Split { parts: plan.threads, loops: shared, part: Some(part) });
    kernel.winograd = Some(plan.described(conv, is_pooled));
    // The residual is read right before the store.
    kernel.in_place = residual.into_iter().collect();
    let mut bindings = convolution_bindings(conv, inputs[1].packing, || plan.pack(weights), packed_bias);
    bindings.push(Binding::Scratch(plan.scratch_elements()));
    bindings.push(Binding::Output);
    let order = WeightOrder { vectors: plan.tile.vectors, forms: Some(plan.forms) };
    Some(LoweredNode { kernel, bindings, order: Some(order) })
}

struct Buffers {
    x: Buffer,
    residual: Option<Buffer>,
    weights: Buffer,
    bias: Buffer,
    scratch: Buffer,
    y: Buffer,
}

/// Loops around everything.
#[derive(Clone, Copy)]
struct Counters {
    sample: LoopVar,
    /// Output depth.
    depth: LoopVar,
    block_row: LoopVar,
    block_column: LoopVar,
}

/// Writes the loop nest.
struct WinogradWriter<'a> {
    plan: &'a Plan,
    conv: &'a Conv,
    /// Of every square of four outputs only the largest is stored.
    is_pooled: bool,
    /// Depth, height, width of what is stored.
    stored: [usize; 3],
    builder: Builder,
    buffers: Buffers,
    at: Counters,
    /// Which thread this is, where there are several.
    part: Option<LoopVar>,
    /// Loops that threads share.
    shared: Vec<LoopVar>,
}

impl WinogradWriter<'_> {
    fn body(&mut self) -> Vec<Statement> {
        let plan = self.plan;
        let barrier = self.part.map(|_| Statement::Barrier);
        let mut body = vec![Statement::Comment("input, transformed".to_string())];
        body.push(self.inputs());
        body.extend(barrier.clone());
        body.push(Statement::Comment("one matrix product per point".to_string()));
        body.extend(self.products());
        body.extend(barrier.clone());
        body.push(Statement::Comment("output, transformed back".to_string()));
        body.push(self.outputs());
        body.extend(barrier);
        let [depths, ..] = plan.output;
        let columns = repeat(self.at.block_column, plan.blocks[1], 1, body);
        let rows = repeat(self.at.block_row, plan.blocks[0], 1, vec![columns]);
        let depths = repeat(self.at.depth, depths, 1, vec![rows]);
        vec![repeat(self.at.sample, plan.batch, 1, vec![depths])]
    }

    /// The depth taps that lie inside the input, around `body`.
    fn depth_taps(&self, var: LoopVar, body: Vec<Statement>) -> Statement {
        let plan = self.plan;
        let (pad, extent, taps) = (plan.pad[0] as i64, plan.input[0] as i64, plan.kernel_depth as i64);
        let (low, high) = match plan.kernel_depth {
            1 => (Bound::Constant(0), Bound::Constant(1)),
            _ => {
                let first = Affine::constant(pad).plus_term(self.at.depth, -1);
                let end = Affine::constant(extent + pad).plus_term(self.at.depth, -1);
                (Bound::Max(0, first, 1), Bound::Min(taps, end, 1))
            }
        };
        Statement::For { var, low, high, step: 1, unroll: false, body }
    }

    /// Loads the points of a tile, as variables of the first name, and transforms its columns to variables of the second:
    /// `[column][row]`, for the lines to be transformed. In one dimension there is nothing but a line.
    fn columns(
        &mut self,
        [loaded_as, name]: [&str; 2],
        place: impl Fn(usize, usize) -> Affine,
        transform: Transform,
        tile: &mut Vec<Statement>,
    ) -> Vec<Vec<Variable>> {
        let ([high, wide], form) = (self.plan.forms.points(), self.plan.forms.down);
        let mut columns = Vec::with_capacity(wide);
        for across in 0..wide {
            let mut loaded = Vec::with_capacity(high);
            for down in 0..high {
                let number = if form.is_some() { down } else { across };
                let variable = self.builder.variable(&format!("{loaded_as}_{number}"));
                tile.push(Statement::Assign(variable, Expression::Load(self.buffers.scratch, place(down, across))));
                loaded.push(variable);
            }
            columns.push(match form {
                Some(form) => transform(form, &mut self.builder, &loaded, &format!("{name}_{across}"), tile),
                None => loaded,
            });
        }
        columns
    }

    /// A place in the part of the scratch buffer where this thread gathers inputs and outputs.
    fn own(&self, at: Affine) -> Affine {
        match self.part {
            Some(part) => plus(&at, part, self.plan.gathered_elements()),
            None => at,
        }
    }
}
