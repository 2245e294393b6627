//! The second phase: one matrix product per point.

use super::WinogradWriter;
use crate::lower::build::{fetch_ahead, mul_add, plus, repeat, runs};
use crate::lower::products::by_lane;
use crate::lower::tile::Tile;
use crate::{Affine, Expression, LoopVar, Role, Statement, Variable};
use partita_ir::graph::ElementType;

impl WinogradWriter<'_> {
    /// `M[point][filters][tile] = sum over channels of V[point][channels][tile] * U[point][channels][filters]`
    pub(super) fn products(&mut self) -> Vec<Statement> {
        let plan = self.plan;
        let point = self.builder.loop_var("point");
        self.shared.push(point);
        let mut body = Vec::new();
        for (first_vector, wide, times) in runs(plan.filter_vectors(), plan.tile.vectors) {
            let filters = self.builder.loop_over(Role::Channels, "filters");
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
        let stored = (self.buffers.weights, ElementType::F32);
        let mut body: Vec<Statement> =
            fetch_ahead(stored, self.plan.ahead_bytes, &weights, tile.vectors * self.plan.lanes).collect();
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
}

/// Loop variables and beginnings of one register tile of the products.
struct Product {
    point: LoopVar,
    filters: LoopVar,
    tile: LoopVar,
    first_vector: usize,
    first_tile: usize,
}
