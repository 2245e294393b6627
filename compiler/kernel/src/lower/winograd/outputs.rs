//! The third phase: results transformed back, with bias, residual, activation and pooling on their way to the output.

use super::plan::Plan;
use super::transform::Form;
use super::{Buffers, Pooling, WinogradWriter};
use crate::lower::build::{binary, plus, repeat};
use crate::lower::epilogue::Epilogue;
use crate::{Affine, Arithmetic, Bound, Expression, LoopVar, Role, Statement, Variable};
use partita_ir::graph::op::{Activation, Conv, PoolKind};

/// Whether the pool takes the largest of every square of four outputs, none of which reaches over two tiles, and may do so
/// before bias and activation.
pub(super) fn halves(conv: &Conv, pooling: Pooling<'_>, plan: &Plan) -> bool {
    let Pooling { pool, output } = pooling;
    let window = &pool.window;
    let squares = |extents: &[usize]| matches!(extents, [2, 2] | [1, 2, 2]);
    let rises = match conv.activation {
        Activation::None | Activation::Relu | Activation::Clip(..) => true,
        Activation::LeakyRelu(alpha) | Activation::HardSigmoid(alpha, _) => alpha >= 0.0,
        Activation::HardSwish => false,
    };
    let even_tiles = plan.forms.outputs().iter().all(|extent| extent.is_multiple_of(2));
    pool.kind == PoolKind::Max
        && squares(&window.kernel)
        && squares(&window.stride)
        && window.dilation.iter().all(|dilation| *dilation == 1)
        && window.pad_begin.iter().chain(&window.pad_end).all(|pad| *pad == 0)
        && even_tiles
        && rises
        && !conv.residual
        && output.element_count() > 0
}

impl WinogradWriter<'_> {
    /// Per vector of filters and tile: the results transformed back, then to the output where they lie inside it.
    pub(super) fn outputs(&mut self) -> Statement {
        let plan = self.plan;
        let ([_, wide], outputs, lanes) = (plan.forms.points(), plan.forms.outputs(), plan.lanes);
        let filters = self.builder.loop_over(Role::Channels, "filters");
        self.shared.push(filters);
        let [row, column] = [(Role::TileRow, "tile_row"), (Role::TileColumn, "tile_column")]
            .map(|(role, name)| self.builder.loop_over(role, name));
        let bias = self.builder.variable("bias_all");
        let bias_at = Affine::term(filters, lanes as i64);
        let mut body = vec![Statement::Assign(bias, Expression::Load(self.buffers.bias, bias_at))];
        let mut tile = Vec::new();
        let place = |down: usize, across: usize| {
            let at = plus(&plan.result_at(down * wide + across, 0), filters, plan.tiles() * lanes);
            plus(&plus(&at, row, plan.columns * lanes), column, lanes)
        };
        let halves = self.columns(["m", "part"], place, Form::output, &mut tile);
        let mut best: Vec<Variable> = Vec::new();
        for down in 0..outputs[0] {
            let line: Vec<Variable> = halves.iter().map(|half| half[down]).collect();
            let line = plan.forms.across.output(&mut self.builder, &line, "y", &mut tile);
            match (self.is_pooled, down % 2) {
                (false, _) => self.finish_line(filters, (row, column), down, (&line, bias), &mut tile),
                (true, 0) => best = self.largest(&line, "best", &mut tile),
                (true, _) => {
                    let other = self.largest(&line, "other", &mut tile);
                    for (best, other) in best.iter().zip(other) {
                        let (best_value, other) = (Expression::Variable(*best), Expression::Variable(other));
                        tile.push(Statement::Assign(*best, binary(Arithmetic::Max, best_value, other)));
                    }
                    self.finish_line(filters, (row, column), down / 2, (&best, bias), &mut tile);
                }
            }
        }
        body.push(repeat(row, plan.rows, 1, vec![repeat(column, plan.columns, 1, tile)]));
        if !plan.is_even() {
            body.push(self.scatter(filters));
        }
        repeat(filters, plan.filter_vectors(), 1, body)
    }

    /// The larger of every two neighbours.
    fn largest(&mut self, line: &[Variable], name: &str, statements: &mut Vec<Statement>) -> Vec<Variable> {
        let pairs = line.chunks_exact(2).enumerate();
        pairs
            .map(|(index, pair)| {
                let value = binary(Arithmetic::Max, Expression::Variable(pair[0]), Expression::Variable(pair[1]));
                self.builder.assign(&format!("{name}_{index}"), value, statements)
            })
            .collect()
    }

    /// Height and width of what is stored of a tile.
    fn stored_of_tile(&self) -> [usize; 2] {
        self.plan.forms.outputs().map(|extent| if self.is_pooled { extent / 2 } else { extent })
    }

    /// Bias, residual, activation of one line of a tile; to the output, or to where the block is gathered.
    fn finish_line(
        &mut self,
        filters: LoopVar,
        (row, column): (LoopVar, LoopVar),
        down: usize,
        (line, bias): (&[Variable], Variable),
        tile: &mut Vec<Statement>,
    ) {
        let (plan, lanes, extents) = (self.plan, self.plan.lanes, self.stored_of_tile());
        let (first, width) = match plan.is_even() {
            true => (self.output_at(filters), self.stored[2]),
            false => (self.own(Affine::constant(0)), plan.columns * extents[1]),
        };
        let first = plus(&plus(&first, row, extents[0] * width * lanes), column, extents[1] * lanes);
        let mut sums = Vec::with_capacity(line.len());
        for (across, value) in line.iter().enumerate() {
            let biased = binary(Arithmetic::Add, Expression::Variable(*value), Expression::Variable(bias));
            let sum = self.builder.assign(&format!("sum_{across}"), biased, tile);
            sums.push((sum, first.clone().plus(((down * width + across) * lanes) as i64)));
        }
        let epilogue = match plan.is_even() {
            true => self.epilogue(),
            false => Epilogue {
                residual: None,
                activation: Activation::None,
                fused: None,
                whole: false,
                output: self.buffers.scratch,
            },
        };
        tile.extend(epilogue.finish(&mut self.builder, &sums));
    }

    /// Copies a block of results to the output as far as it reaches.
    fn scatter(&mut self, filters: LoopVar) -> Statement {
        let plan = self.plan;
        let lanes = plan.lanes;
        let (outputs, stored) = (self.stored_of_tile(), self.stored);
        let [row, column] =
            [(Role::Row, "row"), (Role::Column, "column")].map(|(role, name)| self.builder.loop_over(role, name));
        let until = |axis: usize, block: LoopVar, tiles: usize| {
            let step = (tiles * outputs[axis - 1]) as i64;
            Bound::Min(step, Affine::constant(stored[axis] as i64).plus_term(block, -step), 1)
        };
        let from = plus(&self.own(Affine::constant(0)), row, plan.columns * outputs[1] * lanes);
        let from = plus(&from, column, lanes);
        let to = plus(&plus(&self.output_at(filters), row, stored[2] * lanes), column, lanes);
        let sum = self.builder.variable("sum_0");
        let mut body = vec![Statement::Assign(sum, Expression::Load(self.buffers.scratch, from))];
        body.extend(self.epilogue().finish(&mut self.builder, &[(sum, to)]));
        let line = Statement::For {
            var: column,
            low: Bound::Constant(0),
            high: until(2, self.at.block_column, plan.columns),
            step: 1,
            unroll: false,
            body,
        };
        let high = until(1, self.at.block_row, plan.rows);
        Statement::For { var: row, low: Bound::Constant(0), high, step: 1, unroll: false, body: vec![line] }
    }

    /// First output element of the block.
    fn output_at(&self, filters: LoopVar) -> Affine {
        let plan = self.plan;
        let [out_d, out_h, out_w] = self.stored;
        let (lanes, outputs) = (plan.lanes, self.stored_of_tile());
        let plane = out_d * out_h * out_w * lanes;
        let at = Affine::term(self.at.sample, (plan.filter_vectors() * plane) as i64);
        let at = plus(&at, filters, plane);
        let at = plus(&at, self.at.depth, out_h * out_w * lanes);
        let at = plus(&at, self.at.block_row, plan.rows * outputs[0] * out_w * lanes);
        plus(&at, self.at.block_column, plan.columns * outputs[1] * lanes)
    }

    fn epilogue(&self) -> Epilogue<'static> {
        let Buffers { residual, y, .. } = self.buffers;
        Epilogue { residual, activation: self.conv.activation, fused: None, whole: false, output: y }
    }
}
