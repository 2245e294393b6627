//! Convolution of 3 or 5 taps across, and as many or one down, by Winograd's minimal filtering: fewer products than direct convolution, at the
//! price of additions, of weights that are larger, and of rounding errors ([`Forms::error_bound`]).
//!
//! The output is cut into tiles, tiles are gathered in blocks that stay in the second-level cache. For each block the
//! input is transformed, one matrix product per point of the tiles sums over channels (and depth taps), and the results
//! are transformed back, with bias, residual and activation on the way. What lies between these three is in a scratch
//! buffer of the kernel.

mod estimate;
mod plan;
mod transform;

pub use estimate::Filterable;
use plan::Plan;
pub use plan::{chosen, estimated_cycles, forms};
pub use transform::{Form, Forms};

use super::build::{Builder, Epilogue, binary, epilogue_words, mul_add, plus, repeat, runs};
use super::products::by_lane;
use super::tile::Tile;
use super::{Binding, LoweredNode, Operand, Pooling, WeightOrder, convolution_bindings};
use crate::graph::op::{Activation, Conv, PoolKind};
use crate::kernel::split::Split;
use crate::kernel::{Access, Affine, Arithmetic, Bound, Buffer, Expression, LoopVar, Statement, Variable};

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
        sample: builder.loop_var("sample"),
        depth: builder.loop_var("depth"),
        block_row: builder.loop_var("block_row"),
        block_column: builder.loop_var("block_column"),
    };
    let buffers = Buffers { x, residual, weights: packed, bias, scratch, y };
    let part = (plan.threads > 1).then(|| builder.loop_var("part"));
    let mut writer = Writer { plan, conv, is_pooled, stored, builder, buffers, at, part, shared: Vec::new() };
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
    // The residual is read right before the store.
    kernel.in_place = residual.into_iter().collect();
    let mut bindings = convolution_bindings(conv, inputs[1].packing, || plan.pack(weights), packed_bias);
    bindings.push(Binding::Scratch(plan.scratch_elements()));
    bindings.push(Binding::Output);
    let order = WeightOrder { vectors: plan.tile.vectors, forms: Some(plan.forms) };
    Some(LoweredNode { kernel, bindings, order: Some(order) })
}

/// Whether the pool takes the largest of every square of four outputs, none of which reaches over two tiles, and may do so
/// before bias and activation.
fn halves(conv: &Conv, pooling: Pooling<'_>, plan: &Plan) -> bool {
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
struct Writer<'a> {
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

impl Writer<'_> {
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

    /// A place in the part of the scratch buffer where this thread gathers inputs and outputs.
    fn own(&self, at: Affine) -> Affine {
        match self.part {
            Some(part) => plus(&at, part, self.plan.gathered_elements()),
            None => at,
        }
    }

    /// Per block of channels: the input of the block of tiles with its padding, then every tile transformed.
    fn inputs(&mut self) -> Statement {
        let plan = self.plan;
        let tap = self.builder.loop_var("tap_depth");
        let channels = self.builder.loop_var("channels");
        self.shared.push(channels);
        let mut body = self.gather(tap, channels);
        let [row, column] = [self.builder.loop_var("tile_row"), self.builder.loop_var("tile_column")];
        let ([high, wide], outputs, lanes) = (plan.forms.points(), plan.forms.outputs(), plan.lanes);
        let mut tile = Vec::new();
        let mut halves = Vec::with_capacity(wide);
        for across in 0..wide {
            let mut loaded = Vec::with_capacity(high);
            for down in 0..high {
                let at = self.own(Affine::constant(((down * plan.padded[1] + across) * lanes) as i64));
                let at = plus(&at, row, outputs[0] * plan.padded[1] * lanes);
                let at = plus(&at, column, outputs[1] * lanes);
                let variable = self.builder.variable(&match plan.forms.down {
                    Some(_) => format!("d_{down}"),
                    None => format!("d_{across}"),
                });
                tile.push(Statement::Assign(variable, Expression::Load(self.buffers.scratch, at)));
                loaded.push(variable);
            }
            halves.push(match plan.forms.down {
                Some(form) => form.data(&mut self.builder, &loaded, &format!("half_{across}"), &mut tile),
                None => loaded,
            });
        }
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

    /// `M[point][filters][tile] = sum over channels of V[point][channels][tile] * U[point][channels][filters]`
    fn products(&mut self) -> Vec<Statement> {
        let plan = self.plan;
        let point = self.builder.loop_var("point");
        self.shared.push(point);
        let mut body = Vec::new();
        for (first_vector, wide, times) in runs(plan.filter_vectors(), plan.tile.vectors) {
            let filters = self.builder.loop_var("filters");
            let mut tiles = Vec::new();
            for (first_tile, pixels, many) in runs(plan.tiles(), plan.tile.pixels) {
                let tile = self.builder.loop_var("tile");
                let place = Product { point, filters, tile, first_vector, first_tile };
                let statements = self.product(&place, Tile { pixels, vectors: wide });
                tiles.push(repeat(tile, pixels * many, pixels, statements));
            }
            body.push(repeat(filters, times, 1, tiles));
        }
        vec![repeat(point, plan.points(), 1, body)]
    }

    fn product(&mut self, place: &Product, tile: Tile) -> Vec<Statement> {
        let plan = self.plan;
        let lanes = plan.lanes;
        let mut statements = Vec::new();
        for pixel in 0..tile.pixels {
            for vector in 0..tile.vectors {
                let sum = self.accumulator(pixel, vector);
                statements.push(Statement::Assign(sum, Expression::Constant(0.0)));
            }
        }
        let tap = self.builder.loop_var("tap");
        let mut sums = Vec::new();
        let (full, rest) = (plan.channels / lanes, plan.channels % lanes);
        for (first, blocks, channels) in [(0, full, lanes), (full, 1, rest)] {
            if blocks == 0 || channels == 0 {
                continue;
            }
            let block = self.builder.loop_var("block");
            let data = plan.data_at(0, first).plus((place.first_tile * lanes) as i64);
            let data = plus(&data, place.point, plan.point_data());
            let data = plus(&data, tap, plan.channel_blocks() * plan.tiles() * lanes);
            let data = plus(&plus(&data, block, plan.tiles() * lanes), place.tile, lanes);
            let row = tile.vectors * lanes;
            let depth = plan.kernel_depth * plan.channels;
            let weights = Affine::constant(((place.first_vector * depth) * lanes + first * lanes * row) as i64);
            let weights = plus(&weights, place.point, depth * plan.filter_vectors() * lanes);
            let weights = plus(&weights, place.filters, depth * row);
            let weights = plus(&plus(&weights, tap, plan.channels * row), block, lanes * row);
            let body = match plan.by_lane {
                true => self.by_lane(&data, &weights, tile, channels),
                false => self.by_broadcast(&data, &weights, tile, channels),
            };
            sums.push(repeat(block, blocks, 1, body));
        }
        statements.push(self.depth_taps(tap, sums));
        for vector in 0..tile.vectors {
            for pixel in 0..tile.pixels {
                let at =
                    plan.result_at(0, place.first_vector + vector).plus(((place.first_tile + pixel) * lanes) as i64);
                let at = plus(&at, place.point, plan.filter_vectors() * plan.tiles() * lanes);
                let at = plus(&at, place.filters, tile.vectors * plan.tiles() * lanes);
                let at = plus(&at, place.tile, lanes);
                let sum = Expression::Variable(self.accumulator(pixel, vector));
                statements.push(Statement::Store(self.buffers.scratch, at, sum));
            }
        }
        statements
    }

    fn accumulator(&mut self, pixel: usize, vector: usize) -> Variable {
        self.builder.variable(&format!("acc_{pixel}_{vector}"))
    }

    fn weights(&mut self, at: &Affine, vector: usize) -> (Variable, Statement) {
        let weight = self.builder.variable(&format!("w_{vector}"));
        let at = at.clone().plus((vector * self.plan.lanes) as i64);
        (weight, Statement::Assign(weight, Expression::Load(self.buffers.weights, at)))
    }

    fn by_broadcast(&mut self, data: &Affine, weights: &Affine, tile: Tile, channels: usize) -> Vec<Statement> {
        let channel = self.builder.loop_var("channel");
        let weights = plus(weights, channel, tile.vectors * self.plan.lanes);
        let mut body = self.fetch(&weights, tile.vectors);
        let mut loaded = Vec::with_capacity(tile.vectors);
        for vector in 0..tile.vectors {
            let (weight, load) = self.weights(&weights, vector);
            body.push(load);
            loaded.push(weight);
        }
        for pixel in 0..tile.pixels {
            let at = plus(data, channel, 1).plus((pixel * self.plan.lanes) as i64);
            let element = self.builder.variable("x_all");
            body.push(Statement::Assign(element, Expression::Broadcast(self.buffers.scratch, at)));
            for (vector, weight) in loaded.iter().enumerate() {
                let sum = self.accumulator(pixel, vector);
                let (element, weight) = (Expression::Variable(element), Expression::Variable(*weight));
                body.push(Statement::Assign(sum, mul_add(element, weight, Expression::Variable(sum))));
            }
        }
        vec![repeat(channel, channels, 1, body)]
    }

    fn by_lane(&mut self, data: &Affine, weights: &Affine, tile: Tile, channels: usize) -> Vec<Statement> {
        let lanes = self.plan.lanes;
        let at = |pixel: usize| data.clone().plus((pixel * lanes) as i64);
        let pixels: Vec<(usize, Affine)> = (0..tile.pixels).map(|pixel| (pixel, at(pixel))).collect();
        let row = |channel: usize| weights.clone().plus((channel * tile.vectors * lanes) as i64);
        let rows: Vec<Affine> = (0..channels).map(row).collect();
        let (data, weights) = ((self.buffers.scratch, &pixels[..]), (self.buffers.weights, &rows[..], tile.vectors));
        by_lane(&mut self.builder, data, weights, lanes, self.plan.in_order)
    }

    /// Asks for so many vectors of weights, further on than `at`. (By lane an instruction for every line is more than is won.)
    fn fetch(&self, at: &Affine, vectors: usize) -> Vec<Statement> {
        let (ahead, lanes) = (self.plan.ahead, self.plan.lanes);
        if ahead == 0 {
            return Vec::new();
        }
        let lines = (0..vectors * lanes).step_by(16);
        lines.map(|first| Statement::Prefetch(self.buffers.weights, at.clone().plus((ahead + first) as i64))).collect()
    }

    /// Per vector of filters and tile: the results transformed back, then to the output where they lie inside it.
    fn outputs(&mut self) -> Statement {
        let plan = self.plan;
        let ([high, wide], outputs, lanes) = (plan.forms.points(), plan.forms.outputs(), plan.lanes);
        let filters = self.builder.loop_var("filters");
        self.shared.push(filters);
        let [row, column] = [self.builder.loop_var("tile_row"), self.builder.loop_var("tile_column")];
        let bias = self.builder.variable("bias_all");
        let bias_at = Affine::term(filters, lanes as i64);
        let mut body = vec![Statement::Assign(bias, Expression::Load(self.buffers.bias, bias_at))];
        let mut tile = Vec::new();
        let mut halves = Vec::with_capacity(wide);
        for across in 0..wide {
            let mut loaded = Vec::with_capacity(high);
            for down in 0..high {
                let at = plan.result_at(down * wide + across, 0);
                let at = plus(&at, filters, plan.tiles() * lanes);
                let at = plus(&plus(&at, row, plan.columns * lanes), column, lanes);
                let variable = self.builder.variable(&match plan.forms.down {
                    Some(_) => format!("m_{down}"),
                    None => format!("m_{across}"),
                });
                tile.push(Statement::Assign(variable, Expression::Load(self.buffers.scratch, at)));
                loaded.push(variable);
            }
            halves.push(match plan.forms.down {
                Some(form) => form.output(&mut self.builder, &loaded, &format!("part_{across}"), &mut tile),
                None => loaded,
            });
        }
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
                let larger = self.builder.variable(&format!("{name}_{index}"));
                let value = binary(Arithmetic::Max, Expression::Variable(pair[0]), Expression::Variable(pair[1]));
                statements.push(Statement::Assign(larger, value));
                larger
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
            let sum = self.builder.variable(&format!("sum_{across}"));
            let biased = binary(Arithmetic::Add, Expression::Variable(*value), Expression::Variable(bias));
            tile.push(Statement::Assign(sum, biased));
            sums.push((sum, first.clone().plus(((down * width + across) * lanes) as i64)));
        }
        let epilogue = match plan.is_even() {
            true => self.epilogue(),
            false => Epilogue { residual: None, activation: Activation::None, output: self.buffers.scratch },
        };
        tile.extend(epilogue.finish(&mut self.builder, &sums));
    }

    /// Copies a block of results to the output as far as it reaches.
    fn scatter(&mut self, filters: LoopVar) -> Statement {
        let plan = self.plan;
        let lanes = plan.lanes;
        let (outputs, stored) = (self.stored_of_tile(), self.stored);
        let [row, column] = [self.builder.loop_var("row"), self.builder.loop_var("column")];
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

    fn epilogue(&self) -> Epilogue {
        let Buffers { residual, y, .. } = self.buffers;
        Epilogue { residual, activation: self.conv.activation, output: y }
    }
}

/// Loop variables and beginnings of one register tile of the products.
struct Product {
    point: LoopVar,
    filters: LoopVar,
    tile: LoopVar,
    first_vector: usize,
    first_tile: usize,
}
