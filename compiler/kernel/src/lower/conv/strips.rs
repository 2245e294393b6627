//! A convolution whose rows are pooled before anything else is done with them: some rows of one tile of channels at a
//! time lie in scratch memory, so that the result of the convolution itself exists nowhere.

use super::loop_nest::{ConvWriter, RowPlace, TilePlace};
use super::plan::Plan;
use crate::lower::build::{plus, repeat};
use crate::lower::pool::{PooledRow, Scale, columns_together, fits, reciprocals};
use crate::lower::window::Window3;
use crate::lower::{Machine, Pooling};
use crate::{Affine, Bound, Buffer, Role, Statement};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::{Conv, PoolKind};

/// Part of the second-level cache that a strip's rows may take.
const CACHE_SHARE: f64 = 0.5;

/// Rows that two strips need are computed twice; no more than this many times all rows.
const MOST_REPEATED: f64 = 1.08;

/// How the rows of a convolution are pooled.
pub(super) struct Strips {
    /// Of the pool, over the result of the convolution.
    pub(super) window: Window3,
    kind: PoolKind,
    /// What sums of an average are multiplied with.
    reciprocal: Option<f32>,
    /// Rows of the pool's output in a strip, and how many strips there are.
    rows: usize,
    count: usize,
    /// Columns of the pool that are computed together.
    together: usize,
}

impl Strips {
    /// None if the pool reaches over depths or scales each output otherwise, or if too many rows would be computed twice.
    pub(super) fn new(
        pooling: Pooling<'_>,
        conv: &Conv,
        between: &TensorType,
        plan: &Plan,
        machine: &Machine,
    ) -> Option<Strips> {
        let Pooling { pool, output } = pooling;
        let window = Window3::new(&pool.window, &between.shape, &output.shape);
        let is_flat = window.kernel[0] == 1 && window.stride[0] == 1 && window.pad[0] == 0;
        if conv.residual || !is_flat || !fits(pool) || output.element_count() == 0 {
            return None;
        }
        let reciprocal = match pool.kind {
            PoolKind::Max => None,
            PoolKind::Average => match reciprocals(pool, &window)[..] {
                [reciprocal] => Some(reciprocal),
                _ => return None,
            },
        };
        let (kind, together, height) = (pool.kind, columns_together(machine), window.output[1]);
        let strips = |rows: usize| Strips {
            window: window.clone(),
            kind,
            reciprocal,
            rows,
            count: height.div_ceil(rows),
            together,
        };
        let budget = machine.l2_bytes.max(machine.l1_bytes) as f64 * CACHE_SHARE;
        let is_cached = |strips: &Strips| strips.scratch_elements(plan) as f64 * 4.0 <= budget;
        // As few strips as fit, or one for every thread. Where nothing fits, as on a microcontroller without cache, the rows
        // of one window: that is what saves most memory.
        let counts = machine.threads.clamp(1, height)..=height;
        let strips = counts.map(|count| strips(height.div_ceil(count))).find(is_cached).unwrap_or_else(|| strips(1));
        (strips.computed_rows() as f64 <= window.input[1] as f64 * MOST_REPEATED).then_some(strips)
    }

    /// Rows of the convolution that a strip needs.
    fn needed_rows(&self) -> usize {
        (self.rows - 1) * self.window.stride[1] + (self.window.kernel[1] - 1) * self.window.dilation[1] + 1
    }

    /// Rows of the convolution that are computed in all.
    fn computed_rows(&self) -> usize {
        let [_, extent, _] = self.window.input;
        let pad = self.window.pad[1];
        let rows = |strip: usize| {
            let first = strip * self.rows * self.window.stride[1];
            (first + self.needed_rows()).min(extent + pad).saturating_sub(first.max(pad))
        };
        (0..self.count).map(rows).sum()
    }

    pub(super) fn scratch_elements(&self, plan: &Plan) -> usize {
        plan.tile.vectors * self.needed_rows() * self.window.input[2] * plan.lanes
    }

    /// In words, to go behind a summary.
    pub(super) fn words(&self) -> String {
        let kind = if self.kind == PoolKind::Max { "max" } else { "average" };
        let Window3 { kernel, stride, .. } = &self.window;
        format!(", then {kind} pooling {kernel:?}, stride {stride:?}, {} rows at a time", self.rows)
    }
}

impl ConvWriter<'_> {
    /// All rows of a tile, a strip at a time in scratch memory, pooled to the output.
    pub(super) fn strips(&mut self, strips: &Strips, scratch: Buffer, tile: &TilePlace) -> Statement {
        let (plan, window) = (self.plan, &strips.window);
        let [depth, strip, row] = [(Role::Depth, "depth"), (Role::Strip, "strip"), (Role::Row, "row")]
            .map(|(role, name)| self.builder.loop_over(role, name));
        let row_elements = window.input[2] * plan.lanes;
        let vector_step = strips.needed_rows() * row_elements;
        // Row of the convolution: what the strip's first window begins with, padding included.
        let (step, pad) = ((strips.rows * window.stride[1]) as i64, window.pad[1] as i64);
        let first = Affine::term(strip, step).plus(-pad);
        let at = [Affine::term(depth, 1), first.plus_term(row, 1)];
        let to = (scratch, Affine::term(row, row_elements as i64));
        let columns = self.row(&RowPlace { tile, at, to, vector_step });
        let inside = Affine::constant(window.input[1] as i64 + pad);
        let low = self.clipped(strips, Bound::Max(0, Affine::constant(pad).plus_term(strip, -step), 1));
        let high = Bound::Min(strips.needed_rows() as i64, inside.plus_term(strip, -step), 1);
        let high = self.clipped(strips, high);
        let rows = Statement::For { var: row, low, high, step: 1, unroll: false, body: columns };

        let [vector, pooled_row] = [(Role::Vector, "vector"), (Role::PooledRow, "pooled_row")]
            .map(|(role, name)| self.builder.loop_over(role, name));
        let at = Affine::term(strip, strips.rows as i64).plus_term(pooled_row, 1);
        let [_, out_h, out_w] = window.output;
        let output = plus(&tile.output, vector, window.output_plane() * plan.lanes);
        let output = plus(&output, depth, out_h * out_w * plan.lanes);
        let input = Affine::term(vector, vector_step as i64);
        let pooled = PooledRow {
            window,
            kind: strips.kind,
            lanes: plan.lanes,
            width: strips.together,
            from: scratch,
            input: plus(&input, pooled_row, window.stride[1] * row_elements),
            tap_steps: [0, row_elements],
            taps: [(Bound::Constant(0), Bound::Constant(1)), window.tap_range(1, &at)],
            to: self.buffers.y,
            output: output.plus_affine(&at, (out_w * plan.lanes) as i64),
            scale: strips.reciprocal.map_or(Scale::One, Scale::All),
        };
        let statements = pooled.statements(&mut self.builder);
        let end = Affine::constant(out_h as i64).plus_term(strip, -(strips.rows as i64));
        let high = match out_h.is_multiple_of(strips.rows) {
            true => Bound::Constant(strips.rows as i64),
            false => Bound::Min(strips.rows as i64, end, 1),
        };
        let low = Bound::Constant(0);
        let pooled = Statement::For { var: pooled_row, low, high, step: 1, unroll: false, body: statements };
        let pooled = repeat(vector, tile.vectors, 1, vec![pooled]);
        let strip = repeat(strip, strips.count, 1, vec![rows, pooled]);
        repeat(depth, window.output[0], 1, vec![strip])
    }

    /// A bound that depends on the strip, or the number that it is for the only one.
    fn clipped(&self, strips: &Strips, bound: Bound) -> Bound {
        match strips.count {
            1 => Bound::Constant(bound.value(&vec![0; self.builder.loop_count()])),
            _ => bound,
        }
    }
}
