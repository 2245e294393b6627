//! The loops of a direct convolution: tiles of channels, rows, tiles of columns, then channels and taps.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use super::strips::Strips;
use crate::lower::build::{Builder, mul_add, plus, repeat};
use crate::lower::epilogue::Epilogue;
use crate::lower::fused::Joined;
use crate::lower::products::{Factor, ProductKind, by_lane, multiply};
use crate::lower::tile::Reading;
use crate::lower::window::Columns;
use crate::{Affine, Bound, Buffer, Bytes, Expression, LoopVar, Role, Statement, Variable};
use partita_ir::graph::op::Conv;

pub(super) struct Buffers {
    pub(super) x: Buffer,
    pub(super) residual: Option<Buffer>,
    pub(super) weights: Buffer,
    pub(super) bias: Buffer,
    pub(super) y: Buffer,
}

/// Writes the loop nest.
pub(super) struct ConvWriter<'a> {
    pub(super) plan: &'a Plan,
    pub(super) conv: &'a Conv,
    /// How rows are pooled, and where they lie before.
    pub(super) strips: Option<(&'a Strips, Buffer)>,
    /// What is done to sums before they are stored.
    pub(super) joined: Option<&'a Joined<'a>>,
    pub(super) builder: Builder,
    pub(super) buffers: Buffers,
    pub(super) sample: LoopVar,
}

/// A tile of vectors of output channels, with the first elements of what belongs to it.
pub(super) struct TilePlace {
    pub(super) weights: Affine,
    pub(super) bias: Affine,
    /// Of the group.
    pub(super) input: Affine,
    pub(super) output: Affine,
    /// Vectors of output channels.
    pub(super) vectors: usize,
}

/// A row of a tile's output.
pub(super) struct RowPlace<'a> {
    pub(super) tile: &'a TilePlace,
    /// Output depth and height.
    pub(super) at: [Affine; 2],
    /// Where the row goes: its first element, and how far the next vector of channels is.
    pub(super) to: (Buffer, Affine),
    pub(super) vector_step: usize,
}

impl ConvWriter<'_> {
    /// All of it; `before` is done first for each sample.
    pub(super) fn body(&mut self, mut before: Vec<Statement>) -> Vec<Statement> {
        let plan = self.plan;
        let group = self.builder.loop_over(Role::Group, "group");
        let per_group = plan.group_vectors() * plan.weights_per_vector();
        let mut tiles = Vec::new();
        for (first, wide, count) in plan.vector_tiles() {
            let tile = self.builder.loop_over(Role::Channels, "tile");
            let output_plane = self.output_plane() * plan.lanes;
            let weights = Affine::constant((first * plan.weights_per_vector()) as i64);
            let weights = plus(&plus(&weights, tile, wide * plan.weights_per_vector()), group, per_group);
            let bias = Affine::constant((first * plan.lanes) as i64);
            let bias = plus(&plus(&bias, tile, wide * plan.lanes), group, plan.group_vectors() * plan.lanes);
            let output = Affine::constant((first * output_plane) as i64);
            let output = plus(&plus(&output, tile, wide * output_plane), group, plan.group_vectors() * output_plane);
            let output = plus(&output, self.sample, plan.groups * plan.group_vectors() * output_plane);
            let input = if plan.padded.is_some() {
                // Of the copy of one sample.
                Affine::constant(0)
            } else if plan.plain_input {
                Affine::term(self.sample, (plan.channels * plan.window.input_plane()) as i64)
            } else {
                let blocks = plan.group_channels.next_multiple_of(plan.lanes);
                let sample = plan.channels.next_multiple_of(plan.lanes) * plan.window.input_plane();
                plus(&Affine::term(group, (blocks * plan.window.input_plane()) as i64), self.sample, sample)
            };
            let place = TilePlace { weights, bias, input, output, vectors: wide };
            let rows = match self.strips {
                Some((strips, rows)) => self.strips(strips, rows, &place),
                None => self.rows(&place),
            };
            tiles.push(repeat(tile, count, 1, vec![rows]));
        }
        before.push(repeat(group, plan.groups, 1, tiles));
        vec![repeat(self.sample, plan.batch, 1, before)]
    }

    /// Of one vector of output channels, in vectors.
    fn output_plane(&self) -> usize {
        self.strips.map_or(self.plan.window.output_plane(), |(strips, _)| strips.window.output_plane())
    }

    /// All rows of a tile, to the output.
    fn rows(&mut self, tile: &TilePlace) -> Statement {
        let plan = self.plan;
        let [out_d, out_h, out_w] = plan.window.output;
        let [depth, row] =
            [(Role::Depth, "depth"), (Role::Row, "row")].map(|(role, name)| self.builder.loop_over(role, name));
        let to = plus(&plus(&tile.output, depth, out_h * out_w * plan.lanes), row, out_w * plan.lanes);
        let at = [Affine::term(depth, 1), Affine::term(row, 1)];
        let vector_step = plan.window.output_plane() * plan.lanes;
        let columns = self.row(&RowPlace { tile, at, to: (self.buffers.y, to), vector_step });
        repeat(depth, out_d, 1, vec![repeat(row, out_h, 1, columns)])
    }

    /// One row of a tile.
    pub(super) fn row(&mut self, place: &RowPlace<'_>) -> Vec<Statement> {
        let parts = self.plan.window.column_tiles(self.plan.tile.pixels);
        parts.into_iter().flat_map(|part| self.columns(place, part)).collect()
    }

    /// One column tile, or a loop over equal ones.
    fn columns(&mut self, place: &RowPlace<'_>, part: Columns) -> Vec<Statement> {
        let column = self.builder.loop_over(Role::Column, "column");
        let mut body = self.start(place, part);
        body.extend(self.accumulate(place, part, column));
        body.extend(self.finish(place, part, column));
        let text = format!(
            "columns {} to {}{}",
            part.first,
            part.first + part.count * part.repeat - 1,
            if part.interior { "" } else { ", some taps on padding" }
        );
        vec![Statement::Comment(text), repeat(column, part.count * part.repeat, part.count, body)]
    }

    fn accumulator(&mut self, pixel: usize, vector: usize) -> Variable {
        self.builder.variable(&format!("acc_{pixel}_{vector}"))
    }

    /// Accumulators start from the bias.
    fn start(&mut self, place: &RowPlace<'_>, part: Columns) -> Vec<Statement> {
        let mut statements = Vec::new();
        let (plan, bias) = (self.plan, self.buffers.bias);
        let load = |vector: usize| Expression::Load(bias, place.tile.bias.clone().plus((vector * plan.lanes) as i64));
        if plan.reading != Reading::Broadcast {
            // Loads of a pair: fewer instructions than copies.
            for pixel in 0..part.count {
                for vector in 0..place.tile.vectors {
                    let sum = self.accumulator(pixel, vector);
                    statements.push(Statement::Assign(sum, load(vector)));
                }
            }
            return statements;
        }
        for vector in 0..place.tile.vectors {
            let first = self.accumulator(0, vector);
            statements.push(Statement::Assign(first, load(vector)));
            for pixel in 1..part.count {
                let other = self.accumulator(pixel, vector);
                statements.push(Statement::Assign(other, Expression::Variable(first)));
            }
        }
        statements
    }

    /// The loops over input channels and taps.
    fn accumulate(&mut self, place: &RowPlace<'_>, part: Columns, column: LoopVar) -> Vec<Statement> {
        let plan = self.plan;
        let block = plan.input_block();
        let full = plan.group_channels / block;
        let rest = plan.group_channels % block;
        let mut statements = Vec::new();
        for (first, blocks, channels) in [(0, full, block), (full, 1, rest)] {
            if blocks == 0 || channels == 0 {
                continue;
            }
            let block = Block { outer: self.builder.loop_var("block"), first, channels };
            let taps = [self.builder.loop_var("tap_depth"), self.builder.loop_var("tap_row")];
            let [(low, high), depths] = [1, 0].map(|axis| plan.window.tap_range(axis, &place.at[axis]));
            let mut rows = Vec::new();
            // Rows of taps on padding, where that is stored as another number than 0.
            if let Some(zeros) = plan.zeros() {
                for (from, to) in
                    [(Bound::Constant(0), low.clone()), (high.clone(), Bound::Constant(plan.window.kernel[1] as i64))]
                {
                    if from != to {
                        let body = self.taps(place, part, (column, Some(zeros)), block, taps);
                        rows.push(Statement::For { var: taps[1], low: from, high: to, step: 1, unroll: false, body });
                    }
                }
            }
            let body = self.taps(place, part, (column, None), block, taps);
            rows.push(Statement::For { var: taps[1], low, high, step: 1, unroll: false, body });
            let (low, high) = depths;
            let depths = Statement::For { var: taps[0], low, high, step: 1, unroll: false, body: rows };
            statements.push(repeat(block.outer, blocks, 1, vec![depths]));
        }
        statements
    }

    /// All columns of the window and all channels of one block, of a row of the input or of padding (four bytes of it).
    fn taps(
        &mut self,
        place: &RowPlace<'_>,
        part: Columns,
        (column, padding): (LoopVar, Option<i32>),
        Block { outer, first, channels }: Block,
        taps: [LoopVar; 2],
    ) -> Vec<Statement> {
        let plan = self.plan;
        let window = &plan.window;
        let [_, in_h, in_w] = window.input;
        let [k_d, k_h, k_w] = window.kernel;
        let pixel_step = if plan.plain_input { 1 } else { plan.lanes };
        // The input element of output column 0, tap column 0: ((block * D + d) * H + h) * W + w.
        let mut input = place.tile.input.clone();
        input = plus(&input, outer, window.input_plane() * pixel_step);
        input = input.plus((first * window.input_plane() * pixel_step) as i64);
        for (axis, at, tap, inner) in [(0, &place.at[0], taps[0], in_h * in_w), (1, &place.at[1], taps[1], in_w)] {
            let inner = inner * pixel_step;
            input = input.plus_affine(at, (window.stride[axis] * inner) as i64);
            input = plus(&input, tap, window.dilation[axis] * inner);
            input = input.plus(-((window.pad[axis] * inner) as i64));
        }
        input = plus(&input, column, window.stride[2] * pixel_step);
        let vector_row = place.tile.vectors * plan.lanes;
        let block = plan.input_block();
        let mut weights = place.tile.weights.clone();
        weights = plus(&weights, outer, k_d * k_h * block * k_w * vector_row);
        weights = weights.plus((first * k_d * k_h * block * k_w * vector_row) as i64);
        weights = plus(&weights, taps[0], k_h * block * k_w * vector_row);
        weights = plus(&weights, taps[1], block * k_w * vector_row);
        let step = Step { input, weights, pixel_step, vector_row };
        match plan.reading {
            Reading::Lane => return self.by_lane(&step, place, part, channels),
            Reading::Row { .. } if let Some(padded) = &plan.padded => {
                let buffers = [self.buffers.x, self.buffers.weights];
                let tile = (part, place.tile.vectors);
                let lanes = (plan.lanes, plan.in_order);
                return padded.by_words(&mut self.builder, buffers, [&step.input, &step.weights], tile, lanes);
            }
            Reading::Row { .. } => return self.by_row(&step, place, (part, padding)),
            Reading::Broadcast => {}
        }
        let channel = self.builder.loop_var("channel");
        let mut body = Vec::new();
        for tap in 0..k_w {
            match &plan.whole {
                None => body.extend(self.one_tap_broadcast(&step, place, part, (channel, tap))),
                Some(whole) => {
                    body.extend(self.one_tap_of_bytes(whole.first, &step, place, (part, padding), (channel, tap)));
                }
            }
        }
        let at_once = plan.channels_at_once();
        vec![repeat(channel, channels.next_multiple_of(at_once), at_once, body)]
    }

    /// Whether a pixel's tap is inside the input; interior tiles stand for all their repetitions.
    fn is_inside(&self, part: Columns, pixel: usize, tap: usize) -> bool {
        part.interior || self.plan.window.column_is_inside(part.first + pixel, tap)
    }

    fn input_offset(&self, part: Columns, pixel: usize, tap: usize, pixel_step: usize) -> i64 {
        let window = &self.plan.window;
        let column = (part.first + pixel) * window.stride[2] + tap * window.dilation[2];
        (column as i64 - window.pad[2] as i64) * pixel_step as i64
    }

    /// One channel of one tap: weights as vectors, each pixel's element in all lanes.
    fn one_tap_broadcast(
        &mut self,
        step: &Step,
        place: &RowPlace<'_>,
        part: Columns,
        (channel, tap): (LoopVar, usize),
    ) -> Vec<Statement> {
        let mut body = Vec::new();
        let pixels: Vec<usize> = (0..part.count).filter(|pixel| self.is_inside(part, *pixel, tap)).collect();
        if pixels.is_empty() {
            return body;
        }
        let k_w = self.plan.window.kernel[2];
        for vector in 0..place.tile.vectors {
            let at = plus(&step.weights, channel, k_w * step.vector_row);
            let at = at.plus((tap * step.vector_row + vector * self.plan.lanes) as i64);
            let weight = self.builder.variable(&format!("w_{vector}"));
            body.push(Statement::Assign(weight, Expression::Load(self.buffers.weights, at)));
        }
        for pixel in pixels {
            let at = plus(&step.input, channel, if self.plan.plain_input { 0 } else { 1 });
            let at = at.plus(self.input_offset(part, pixel, tap, step.pixel_step));
            let element = self.builder.variable("x_all");
            body.push(Statement::Assign(element, Expression::Broadcast(self.buffers.x, at)));
            for vector in 0..place.tile.vectors {
                let sum = self.accumulator(pixel, vector);
                let weight = self.builder.variable(&format!("w_{vector}"));
                let value =
                    mul_add(Expression::Variable(element), Expression::Variable(weight), Expression::Variable(sum));
                body.push(Statement::Assign(sum, value));
            }
        }
        body
    }

    /// Four channels of one tap, in whole numbers: four bytes of each pixel in all lanes, or of padding.
    fn one_tap_of_bytes(
        &mut self,
        first: Bytes,
        step: &Step,
        place: &RowPlace<'_>,
        (part, padding): (Columns, Option<i32>),
        (channel, tap): (LoopVar, usize),
    ) -> Vec<Statement> {
        let mut body = Vec::new();
        let zeros = self.plan.zeros();
        let inside: Vec<bool> = (0..part.count).map(|pixel| self.is_inside(part, pixel, tap)).collect();
        if zeros.is_none() && !inside.contains(&true) {
            return body;
        }
        let k_w = self.plan.window.kernel[2];
        for vector in 0..place.tile.vectors {
            let at = plus(&step.weights, channel, k_w * step.vector_row);
            let of_tap = tap * step.vector_row + vector * self.plan.lanes;
            let at = at.plus((of_tap * self.plan.channels_at_once()) as i64);
            let weight = self.builder.variable(&format!("w_{vector}"));
            body.push(Statement::Assign(weight, Expression::LoadBytes(self.buffers.weights, at)));
        }
        for (pixel, inside) in inside.into_iter().enumerate() {
            let value = match padding.or(zeros.filter(|_| !inside)) {
                Some(zeros) => Expression::Whole(zeros),
                None if !inside => continue,
                None => {
                    let at = plus(&step.input, channel, 1);
                    let at = at.plus(self.input_offset(part, pixel, tap, step.pixel_step));
                    Expression::BroadcastBytes(self.buffers.x, at)
                }
            };
            let element = self.builder.assign("x_all", value, &mut body);
            for vector in 0..place.tile.vectors {
                let sum = self.accumulator(pixel, vector);
                let weight = self.builder.variable(&format!("w_{vector}"));
                let [element, weight, before] = [element, weight, sum].map(|part| Box::new(Expression::Variable(part)));
                body.push(Statement::Assign(sum, Expression::DotBytes(first, element, weight, before)));
            }
        }
        body
    }

    /// Every tap column: a vector of input channels per pixel, multiplied lane by lane.
    fn by_lane(&mut self, step: &Step, place: &RowPlace<'_>, part: Columns, channels: usize) -> Vec<Statement> {
        let mut body = Vec::new();
        for tap in 0..self.plan.window.kernel[2] {
            let inside = (0..part.count).filter(|pixel| self.is_inside(part, *pixel, tap));
            let at = |pixel: usize| step.input.clone().plus(self.input_offset(part, pixel, tap, step.pixel_step));
            let pixels: Vec<(usize, Affine)> = inside.map(|pixel| (pixel, at(pixel))).collect();
            if pixels.is_empty() {
                continue;
            }
            let row = |lane: usize| (tap * self.plan.lanes + lane) * step.vector_row;
            let rows: Vec<Affine> = (0..channels).map(|lane| step.weights.clone().plus(row(lane) as i64)).collect();
            let (x, weights) = ((self.buffers.x, &pixels[..]), (self.buffers.weights, &rows[..], place.tile.vectors));
            body.extend(by_lane(&mut self.builder, x, weights, self.plan.lanes, self.plan.in_order));
        }
        body
    }

    /// One channel of a row of a plain tensor, or four of bytes: its columns in vectors, each lane multiplied by all
    /// taps that reach it. Columns of padding are bytes, too, where these are not 0.
    fn by_row(&mut self, step: &Step, place: &RowPlace<'_>, (part, padding): (Columns, Option<i32>)) -> Vec<Statement> {
        let plan = self.plan;
        let kind = if plan.whole.is_some() { ProductKind::Bytes } else { ProductKind::Numbers };
        let pairs = (0..plan.window.kernel[2]).flat_map(|tap| (0..part.count).map(move |pixel| (tap, pixel)));
        // Tap, pixel, and the column that they meet in, none if that is padding.
        let meet = |(tap, pixel): (usize, usize)| {
            let is_inside = padding.is_none() && self.is_inside(part, pixel, tap);
            (tap, pixel, is_inside.then(|| self.input_offset(part, pixel, tap, 1)))
        };
        let zeros = padding.or(plan.zeros());
        let met: Vec<(usize, usize, Option<i64>)> =
            pairs.map(meet).filter(|(.., column)| column.is_some() || zeros.is_some()).collect();
        let columns: BTreeSet<i64> = met.iter().filter_map(|(.., column)| *column).collect();
        let first = columns.first().copied().unwrap_or(0);
        let last = columns.last().copied().unwrap_or(first);
        let lanes = plan.lanes as i64;
        // The last vector ends at the last column, so that nothing past a row is read; few columns are read one by one.
        let in_vectors = last - first >= lanes - 1;
        let begin = |column: i64| match in_vectors {
            true => (first + (column - first) / lanes * lanes).min(last + 1 - lanes),
            false => column,
        };
        let mut body = Vec::new();
        let mut loaded = BTreeMap::new();
        for from in columns.iter().map(|column| begin(*column)).collect::<BTreeSet<i64>>() {
            let at = step.input.clone().plus(from * step.pixel_step as i64);
            let value = kind.activations(self.buffers.x, at, in_vectors);
            loaded.insert(from, self.builder.assign(&format!("x_{}", from - first), value, &mut body));
        }
        let zeros = zeros.filter(|_| met.iter().any(|(.., column)| column.is_none()));
        let zeros = zeros.map(|zeros| self.builder.assign("x_padding", Expression::Whole(zeros), &mut body));
        let element = |(_, pixel, column): &(usize, usize, Option<i64>)| match column {
            Some(column) => Some((*pixel, *loaded.get(&begin(*column))?, (column - begin(*column)) as u32)),
            None => Some((*pixel, zeros?, 0)),
        };
        let mut factors = Vec::new();
        for tap in 0..plan.window.kernel[2] {
            let elements: Vec<(usize, Variable, u32)> =
                met.iter().filter(|(other, ..)| *other == tap).filter_map(element).collect();
            let of_tap = |vector: usize| (tap * step.vector_row + vector * plan.lanes) * plan.channels_at_once();
            factors.extend((0..place.tile.vectors).map(|vector| Factor {
                vector,
                at: step.weights.clone().plus(of_tap(vector) as i64),
                elements: elements.clone(),
            }));
        }
        factors.retain(|factor| !factor.elements.is_empty());
        body.extend(multiply(&mut self.builder, (kind, self.buffers.weights), &factors, plan.in_order));
        body
    }

    /// Residual, activation, store.
    fn finish(&mut self, place: &RowPlace<'_>, part: Columns, column: LoopVar) -> Vec<Statement> {
        let plan = self.plan;
        let (to, row) = &place.to;
        let output = plus(row, column, plan.lanes);
        let mut sums = Vec::with_capacity(part.count * place.tile.vectors);
        let mut channels = Vec::with_capacity(part.count * place.tile.vectors);
        for vector in 0..place.tile.vectors {
            for pixel in 0..part.count {
                let offset = vector * place.vector_step + (part.first + pixel) * plan.lanes;
                sums.push((self.accumulator(pixel, vector), output.clone().plus(offset as i64)));
                channels.push(place.tile.bias.clone().plus((vector * plan.lanes) as i64));
            }
        }
        let residual = self.buffers.residual;
        let fused = self.joined.map(|joined| (joined, &channels[..]));
        let whole = plan.whole.is_some();
        let epilogue = Epilogue { residual, activation: self.conv.activation, fused, whole, output: *to };
        epilogue.finish(&mut self.builder, &sums)
    }
}

/// Blocks of channels of the input, from one on, and how many channels each of them has.
#[derive(Clone, Copy)]
struct Block {
    outer: LoopVar,
    first: usize,
    channels: usize,
}

/// Offsets of one step over channels and taps.
struct Step {
    input: Affine,
    weights: Affine,
    /// Elements between neighbouring input columns.
    pixel_step: usize,
    /// Weights of one tap and channel.
    vector_row: usize,
}
