//! The first phase: inputs gathered and transformed.

use super::WinogradWriter;
use super::transform::Form;
use crate::lower::build::{plus, repeat};
use crate::{Affine, Bound, Expression, LoopVar, Statement, Variable};

impl WinogradWriter<'_> {
    /// Per block of channels: the input of the block of tiles with its padding, then every tile transformed.
    pub(super) fn inputs(&mut self) -> Statement {
        let plan = self.plan;
        let tap = self.builder.loop_var("tap_depth");
        let channels = self.builder.loop_var("channels");
        self.shared.push(channels);
        let mut body = self.gather(tap, channels);
        let [row, column] = [self.builder.loop_var("tile_row"), self.builder.loop_var("tile_column")];
        let ([high, wide], outputs, lanes) = (plan.forms.points(), plan.forms.outputs(), plan.lanes);
        let mut tile = Vec::new();
        let padded = plan.padded[1];
        let at = self.own(Affine::constant(0));
        let at = plus(&plus(&at, row, outputs[0] * padded * lanes), column, outputs[1] * lanes);
        let place = |down: usize, across: usize| at.clone().plus(((down * padded + across) * lanes) as i64);
        let halves = self.columns(["d", "half"], place, Form::data, &mut tile);
        for down in 0..high {
            let line: Vec<Variable> = halves.iter().map(|half| half[down]).collect();
            let line = plan.forms.across.data(&mut self.builder, &line, "v", &mut tile);
            for (across, value) in line.into_iter().enumerate() {
                let at = plan.data_at(down * wide + across, 0);
                let at = plus(&at, tap, plan.channel_blocks() * plan.tiles() * lanes);
                let at = plus(&at, channels, plan.tiles() * lanes);
                let at = plus(&plus(&at, row, plan.columns * lanes), column, lanes);
                tile.push(Statement::Store(self.buffers.scratch, at, Expression::Variable(value)));
            }
        }
        body.push(repeat(row, plan.rows, 1, vec![repeat(column, plan.columns, 1, tile)]));
        self.depth_taps(tap, vec![repeat(channels, plan.channel_blocks(), 1, body)])
    }

    /// Copies what the block's tiles read of one block of channels, with zeros where it is padding.
    fn gather(&mut self, tap: LoopVar, channels: LoopVar) -> Vec<Statement> {
        let plan = self.plan;
        let lanes = plan.lanes;
        let outputs = plan.forms.outputs();
        let ([high, wide], [_, in_h, in_w]) = (plan.padded, plan.input);
        // Rows of the gathered part that lie inside the input: from `pad - first` to `extent + pad - first`.
        let inside = |axis: usize, block: LoopVar, tiles: usize, padded: usize| {
            let step = (tiles * outputs[axis - 1]) as i64;
            let (pad, extent) = (plan.pad[axis] as i64, plan.input[axis] as i64);
            let first = Affine::constant(pad).plus_term(block, -step);
            let end = Affine::constant(pad + extent).plus_term(block, -step);
            (first, end, padded as i64)
        };
        let rows = inside(1, self.at.block_row, plan.rows, high);
        let columns = inside(2, self.at.block_column, plan.columns, wide);
        let scratch = self.buffers.scratch;
        let gathered = self.own(Affine::constant(0));
        let place = |row: LoopVar, column: LoopVar| plus(&plus(&gathered, row, wide * lanes), column, lanes);
        let zero = |row: LoopVar, column: LoopVar| {
            vec![Statement::Store(scratch, place(row, column), Expression::Constant(0.0))]
        };
        let over = |var: LoopVar, low: Bound, high: Bound, body: Vec<Statement>| Statement::For {
            var,
            low,
            high,
            step: 1,
            unroll: false,
            body,
        };
        let before =
            |(first, _, padded): &(Affine, Affine, i64)| (Bound::Constant(0), Bound::Min(*padded, first.clone(), 1));
        let within = |(first, end, padded): &(Affine, Affine, i64)| {
            (Bound::Max(0, first.clone(), 1), Bound::Min(*padded, end.clone(), 1))
        };
        let after =
            |(_, end, padded): &(Affine, Affine, i64)| (Bound::Max(0, end.clone(), 1), Bound::Constant(*padded));
        let mut statements = Vec::new();
        let [row, column] = [self.builder.loop_var("row"), self.builder.loop_var("column")];
        for (low, high) in [before(&rows), after(&rows)] {
            let line = over(column, Bound::Constant(0), Bound::Constant(wide as i64), zero(row, column));
            statements.push(over(row, low, high, vec![line]));
        }
        let mut line = Vec::new();
        for (low, high) in [before(&columns), after(&columns)] {
            line.push(over(column, low, high, zero(row, column)));
        }
        // Element (depth + tap - pad, block row + row - pad, block column + column - pad) of the block of channels.
        let plane = in_h * in_w * lanes;
        let origin = -((plan.pad[0] * plane + (plan.pad[1] * in_w + plan.pad[2]) * lanes) as i64);
        let mut from = Affine::constant(origin);
        from = plus(&from, self.at.sample, plan.channel_blocks() * plan.input[0] * plane);
        from = plus(&from, channels, plan.input[0] * plane);
        from = plus(&plus(&from, self.at.depth, plane), tap, plane);
        from = plus(&from, self.at.block_row, plan.rows * outputs[0] * in_w * lanes);
        from = plus(&from, self.at.block_column, plan.columns * outputs[1] * lanes);
        from = plus(&plus(&from, row, in_w * lanes), column, lanes);
        let copy = Statement::Store(scratch, place(row, column), Expression::Load(self.buffers.x, from));
        let (low, high) = within(&columns);
        line.push(over(column, low, high, vec![copy]));
        let (low, high) = within(&rows);
        statements.push(over(row, low, high, line));
        statements
    }
}
