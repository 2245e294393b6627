//! Depthwise convolution of bytes: four columns of a row are multiplied at once with as many taps.
//!
//! A load has four columns of four channels. Transposed, every lane has four columns of its channel, and the taps that meet
//! them are four bytes, with zeros for those that do not: [`Taps`]. Pixels whose taps lie in the same four columns read one
//! load with different [`Taps`].

use std::collections::BTreeSet;
use std::ops::Range;

use super::{name, words};
use crate::lower::build::{Builder, plus, repeat};
use crate::lower::bytes::WholeSums;
use crate::lower::call::convolution_bindings;
use crate::lower::epilogue::Epilogue;
use crate::lower::fused::{Fused, Joined};
use crate::lower::window::{Columns, Window3};
use crate::lower::{Binding, LoweredNode, Machine, Operand, Packing};
use crate::{Access, Affine, Bound, Buffer, Bytes, Expression, Function, LoopVar, Role, Statement, Variable};
use partita_ir::graph::op::Conv;
use partita_ir::graph::{ElementType, TensorType};

/// Columns, or taps, that are multiplied at once; also the channels of a block.
pub(super) const FOUR: usize = 4;

/// Pixels computed together.
const MOST_PIXELS: usize = 8;

/// Most runs of rows that have loops of their own.
const MOST_RUNS: usize = 6;

/// Most statements of rows of taps that are written out.
const LONGEST: usize = 150;

/// Taps of a row, from one on up to another, the first tap of all at a byte, which may lie outside: four bytes per channel,
/// zeros where no tap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taps {
    first_byte: i64,
    from: usize,
    to: usize,
}

impl Taps {
    /// The tap that lies at a byte.
    fn at(&self, byte: usize) -> Option<usize> {
        let tap = usize::try_from(byte as i64 - self.first_byte).ok()?;
        (self.from..self.to).contains(&tap).then_some(tap)
    }
}

/// What is multiplied with some taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factor {
    /// Four columns from one on, or one of them, counted from the tile's first tap.
    Columns(i64),
    Padding,
}

/// Taps of a pixel, and where the four columns begin that they are multiplied with, counted from the tile's first tap.
#[derive(Clone, Debug, PartialEq)]
struct Met {
    pixel: usize,
    begin: i64,
    taps: Taps,
}

/// Which products make the sums of a tile of pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Products {
    /// Pixel, factor, and number of the taps in [`Plan::taps`], or of the tap; by factor.
    pub(super) terms: Vec<(usize, Factor, usize)>,
}

/// What is decided before loops are written.
struct Plan {
    window: Window3,
    whole: WholeSums,
    /// One column is multiplied at a time: [`words`].
    in_words: bool,
    /// All that are multiplied by.
    taps: Vec<Taps>,
    /// Tiles of columns, what they sum in a row of the input, and in one of padding.
    tiles: Vec<(Columns, Products, Products)>,
}

impl Plan {
    fn new(inputs: &[Operand<'_>], window: Window3, channels: usize, machine: &Machine) -> Option<Plan> {
        let (weights, taps) = (inputs[1].value?, window.taps());
        if machine.byte_products() != Some(Bytes::Signed) || window.dilation[2] != 1 || window.input[2] < FOUR {
            return None;
        }
        let whole = WholeSums::of(&inputs[0], (weights, |index| index / taps), inputs[2].value, channels, machine)?;
        if !whole.suits(&window) {
            return None;
        }
        let in_words = machine.multiplies_halves();
        let mut plan = Plan { window, whole, in_words, taps: Vec::new(), tiles: Vec::new() };
        for part in plan.window.column_tiles(MOST_PIXELS) {
            let inside = plan.products(part)?;
            let padding = plan.padding(part);
            plan.tiles.push((part, inside, padding));
        }
        Some(plan)
    }

    /// Runs of rows whose taps are known, or all of them.
    fn rows(&self, var: LoopVar) -> Vec<Run> {
        let Window3 { pad, input, output, .. } = &self.window;
        let mut runs: Vec<Run> = Vec::new();
        for row in 0..output[1] {
            let inside = self.window.taps_within(1, row, &(pad[1]..pad[1] + input[1]));
            let taps = [inside.start, inside.end].map(|end| Bound::Constant(end as i64));
            match runs.last_mut() {
                Some(run) if run.taps == taps => run.rows.end = row + 1,
                _ => runs.push(Run { rows: row..row + 1, taps }),
            }
        }
        if runs.len() > MOST_RUNS {
            let (low, high) = self.window.tap_range(1, &Affine::term(var, 1));
            return vec![Run { rows: 0..output[1], taps: [low, high] }];
        }
        runs
    }

    fn number(&mut self, taps: Taps) -> usize {
        self.taps.iter().position(|other| *other == taps).unwrap_or_else(|| {
            self.taps.push(taps);
            self.taps.len() - 1
        })
    }

    /// Products with padding: all taps of a range.
    fn of_padding(&mut self, pixel: usize, range: Range<usize>, terms: &mut Vec<(usize, Factor, usize)>) {
        if self.whole.zeros() == 0 {
            return;
        }
        for from in range.clone().step_by(FOUR) {
            let taps = Taps { first_byte: -(from as i64), from, to: (from + FOUR).min(range.end) };
            terms.push((pixel, Factor::Padding, self.number(taps)));
        }
    }

    fn padding(&mut self, part: Columns) -> Products {
        let mut terms = Vec::new();
        let taps = self.window.kernel[2];
        if self.in_words {
            return words::products(&vec![0..0; part.count], &self.window, self.whole.zeros());
        }
        (0..part.count).for_each(|pixel| self.of_padding(pixel, 0..taps, &mut terms));
        Products { terms }
    }

    /// The products of a tile in a row of the input. None if four columns at once would leave the row.
    fn products(&mut self, part: Columns) -> Option<Products> {
        let taps = self.window.kernel[2];
        let inside: Vec<Range<usize>> = (0..part.count).map(|pixel| self.inside(part, pixel)).collect();
        if self.in_words {
            let products = words::products(&inside, &self.window, self.whole.zeros());
            return words::reaches(&products, self.begins(part, &inside)?).then_some(products);
        }
        let mut met = self.fewest(part, &inside)?;
        met.sort_by_key(|met| met.begin);
        let mut terms: Vec<(usize, Factor, usize)> = Vec::with_capacity(met.len());
        for Met { pixel, begin, taps } in met {
            terms.push((pixel, Factor::Columns(begin), self.number(taps)));
        }
        for (pixel, Range { start, end }) in inside.into_iter().enumerate() {
            self.of_padding(pixel, 0..start, &mut terms);
            self.of_padding(pixel, end..taps, &mut terms);
        }
        Some(Products { terms })
    }

    /// Taps of a pixel that lie inside the input: they follow each other.
    fn inside(&self, part: Columns, pixel: usize) -> Range<usize> {
        let taps = self.window.kernel[2];
        let is_inside = |tap: &usize| part.interior || self.window.column_is_inside(part.first + pixel, *tap);
        let from = (0..taps).find(is_inside).unwrap_or(taps);
        from..(from..taps).find(|tap| !is_inside(tap)).unwrap_or(taps)
    }

    /// Column of a pixel's tap, counted from the tile's first one.
    fn column(&self, pixel: usize, tap: usize) -> i64 {
        (pixel * self.window.stride[2] + tap) as i64
    }

    /// The first and the last column that pixels meet.
    fn ends(&self, inside: &[Range<usize>]) -> Option<[i64; 2]> {
        let ends = || inside.iter().enumerate().filter(|(_, inside)| !inside.is_empty());
        let first = ends().map(|(pixel, inside)| self.column(pixel, inside.start)).min()?;
        let last = ends().map(|(pixel, inside)| self.column(pixel, inside.end - 1)).max()?;
        Some([first, last])
    }

    /// From which column on, and up to which, loads of four may begin: of a tile that is repeated, only within what it needs.
    fn begins(&self, part: Columns, inside: &[Range<usize>]) -> Option<[i64; 2]> {
        let Some([first, last]) = self.ends(inside) else { return Some([0, 0]) };
        let input = (part.first * self.window.stride[2]) as i64 - self.window.pad[2] as i64;
        let begins = match part.repeat {
            1 => [-input, self.window.input[2] as i64 - FOUR as i64 - input],
            _ => [first, last + 1 - FOUR as i64],
        };
        Some(begins).filter(|[least, most]| least <= most)
    }

    /// The same of a tile's pixels.
    fn begins_of(&self, part: Columns) -> [i64; 2] {
        let inside: Vec<Range<usize>> = (0..part.count).map(|pixel| self.inside(part, pixel)).collect();
        self.begins(part, &inside).unwrap_or([0, 0])
    }

    /// As few loads and products as any distance between loads gives.
    fn fewest(&self, part: Columns, inside: &[Range<usize>]) -> Option<Vec<Met>> {
        let Some([first, last]) = self.ends(inside) else { return Some(Vec::new()) };
        let [least, most] = self.begins(part, inside)?;
        let at_distance = |step: i64| {
            let begins = (0..).map(|index| first + index * step).take_while(|at| *at <= last);
            self.met(inside, &begins.map(|at| at.clamp(least, most)).collect::<Vec<i64>>())
        };
        let loads = |met: &[Met]| met.iter().map(|met| met.begin).collect::<BTreeSet<i64>>().len();
        let found = (1..=FOUR as i64).map(at_distance).collect::<Option<Vec<Vec<Met>>>>()?;
        found.into_iter().min_by_key(|met| 2 * loads(met) + met.len())
    }

    /// What pixels meet in loads that begin at these columns.
    fn met(&self, inside: &[Range<usize>], begins: &[i64]) -> Option<Vec<Met>> {
        let mut met = Vec::new();
        for (pixel, Range { start, end }) in inside.iter().cloned().enumerate() {
            let mut from = start;
            while from < end {
                let at = self.column(pixel, from);
                let begin =
                    begins.iter().copied().filter(|begin| (*begin..*begin + FOUR as i64).contains(&at)).max()?;
                let to = end.min(from + (begin + FOUR as i64 - at) as usize);
                met.push(Met { pixel, begin, taps: Taps { first_byte: self.column(pixel, 0) - begin, from, to } });
                from = to;
            }
        }
        Some(met)
    }

    /// `[block][depth][height][taps][channel][byte]`
    fn pack(&self, weights: &[f32], channels: usize) -> Vec<f32> {
        if self.in_words {
            return words::pack(weights, &self.window, channels);
        }
        let [k_d, k_h, k_w] = self.window.kernel;
        let mut packed = Vec::new();
        for block in 0..channels.div_ceil(FOUR) {
            for row in 0..k_d * k_h {
                for taps in &self.taps {
                    for (lane, byte) in (0..FOUR).flat_map(|lane| (0..FOUR).map(move |byte| (lane, byte))) {
                        let channel = block * FOUR + lane;
                        let tap = taps.at(byte).filter(|_| channel < channels);
                        packed.push(tap.map_or(0.0, |tap| weights[(channel * k_d * k_h + row) * k_w + tap]));
                    }
                }
            }
        }
        packed
    }
}

/// The kernel, where bytes do.
pub(super) fn lower(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    fused: Option<&Fused<'_>>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let x = inputs[0].tensor_type;
    let (batch, channels) = (x.shape[0], x.shape[1]);
    let window = Window3::new(&conv.window, &x.shape, &output.shape);
    let plan = Plan::new(inputs, window, channels, machine)?;
    let window = &plan.window;
    let blocks = channels.div_ceil(FOUR);
    let [in_elements, out_elements] = [window.input_plane(), window.output_plane()].map(|plane| blocks * FOUR * plane);
    let packed = plan.pack(inputs[1].value?, channels);
    let mut packed_bias = plan.whole.bias.clone();
    packed_bias.resize(blocks * FOUR, 0.0);
    let mut builder = Builder::new(FOUR as u32);
    let x_buffer = builder.stored_buffer("x", Access::Input, batch * in_elements, inputs[0].stored.element);
    let residual = conv.residual.then(|| builder.buffer("residual", Access::Input, batch * out_elements));
    let weights = builder.stored_buffer("weights", Access::Weights, packed.len(), ElementType::I8);
    let bias = builder.stored_buffer("bias", Access::Weights, packed_bias.len(), ElementType::I32);
    let mut fused_bindings = Vec::new();
    let sizes = [batch * out_elements, packed_bias.len()];
    let kernel = (&mut builder, &mut fused_bindings);
    let joined = Joined::declare_behind(fused, kernel, inputs.len(), output, sizes, machine)?;
    let y = builder.buffer("y", Access::Output, batch * out_elements);
    let (sample, block) = (builder.loop_over(Role::Batch, "sample"), builder.loop_over(Role::Channels, "block"));
    let (depth, row) = (builder.loop_over(Role::Depth, "depth"), builder.loop_over(Role::Row, "row"));
    let epilogue = Epilogue { residual, activation: conv.activation, fused: None, whole: true, output: y };
    let buffers = Buffers { x: x_buffer, weights, bias };
    let mut writer =
        Writer { plan: &plan, builder, buffers, in_elements, out_elements, at: [sample, block, depth, row] };
    let mut rows = Vec::new();
    for run in plan.rows(row) {
        let mut columns = Vec::new();
        for index in 0..plan.tiles.len() {
            columns.push(writer.tile(index, &run, epilogue, joined.as_ref()));
        }
        let [low, high] = [run.rows.start, run.rows.end].map(|end| Bound::Constant(end as i64));
        rows.push(Statement::For { var: row, low, high, step: 1, unroll: false, body: columns });
    }
    let depths = repeat(depth, window.output[0], 1, rows);
    let body = vec![repeat(sample, batch, 1, vec![repeat(block, blocks, 1, vec![depths])])];
    let summary = format!(
        "depthwise convolution {:?} of {channels} channels over {:?}, sums of bytes in whole numbers{}",
        window.kernel,
        window.output,
        Fused::words(fused)
    );
    let macs = batch * channels * window.output_plane() * window.taps();
    let mut kernel = writer.builder.finish(name(window, channels), summary, body, macs as u64);
    kernel.in_place = residual.into_iter().collect();
    if let (Some(joined), Some(fused)) = (&joined, fused) {
        kernel.in_place.extend(joined.in_place(fused.operands));
    }
    let mut bindings = convolution_bindings(conv, Packing::Free, || packed, packed_bias);
    bindings.extend(fused_bindings);
    bindings.push(Binding::Output);
    Some(LoweredNode { kernel, bindings, order: None })
}

/// Rows of the result that the same taps reach.
struct Run {
    rows: Range<usize>,
    /// The first row of taps that lies inside the input, and the end of these.
    taps: [Bound; 2],
}

impl Run {
    /// Whether it is known which taps these are.
    fn is_constant(&self) -> bool {
        self.taps.iter().all(|end| matches!(end, Bound::Constant(_)))
    }
}

struct Buffers {
    x: Buffer,
    weights: Buffer,
    bias: Buffer,
}

/// Writes the loop nest.
struct Writer<'a> {
    plan: &'a Plan,
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
    fn tile(&mut self, index: usize, run: &Run, epilogue: Epilogue<'_>, joined: Option<&Joined<'_>>) -> Statement {
        let plan = self.plan;
        let window = &plan.window;
        let [sample, block, depth, row] = self.at;
        let (part, inside, padding) = &plan.tiles[index];
        let column = self.builder.loop_over(Role::Column, "column");
        let taps = [self.builder.loop_var("tap_depth"), self.builder.loop_var("tap_row")];
        let mut statements = Vec::new();
        let channel = Affine::term(block, FOUR as i64);
        for pixel in 0..part.count {
            let start = Expression::Load(self.buffers.bias, channel.clone());
            self.builder.assign(&format!("acc_{pixel}"), start, &mut statements);
        }
        let [low, high] = run.taps.clone();
        let ends = [(Bound::Constant(0), low.clone()), (high.clone(), Bound::Constant(window.kernel[1] as i64))];
        let mut rows = Vec::new();
        for (low, high) in ends.into_iter().filter(|(low, high)| low != high && !padding.terms.is_empty()) {
            let body = self.products(padding, *part, column, taps);
            rows.push(Statement::For { var: taps[1], low, high, step: 1, unroll: false, body });
        }
        let body = self.products(inside, *part, column, taps);
        let unroll = run.is_constant() && window.kernel[1] * body.len() <= LONGEST;
        rows.push(Statement::For { var: taps[1], low, high, step: 1, unroll, body });
        let (low, high) = window.tap_range(0, &Affine::term(depth, 1));
        statements.push(Statement::For { var: taps[0], low, high, step: 1, unroll: false, body: rows });
        let [_, out_h, out_w] = window.output;
        let mut at = plus(&Affine::term(sample, self.out_elements as i64), block, window.output_plane() * FOUR);
        at = plus(&plus(&plus(&at, depth, out_h * out_w * FOUR), row, out_w * FOUR), column, FOUR);
        let sum = |builder: &mut Builder, pixel: usize| builder.variable(&format!("acc_{pixel}"));
        let sums: Vec<(Variable, Affine)> = (0..part.count)
            .map(|pixel| (sum(&mut self.builder, pixel), at.clone().plus(((part.first + pixel) * FOUR) as i64)))
            .collect();
        let channels = vec![channel; sums.len()];
        let epilogue = Epilogue { fused: joined.map(|joined| (joined, &channels[..])), ..epilogue };
        statements.extend(epilogue.finish(&mut self.builder, &sums));
        repeat(column, part.count * part.repeat, part.count, statements)
    }

    /// The products of one row of taps.
    fn products(&mut self, products: &Products, part: Columns, column: LoopVar, taps: [LoopVar; 2]) -> Vec<Statement> {
        let plan = self.plan;
        let window = &plan.window;
        let [sample, block, depth, row] = self.at;
        let [_, in_h, in_w] = window.input;
        let mut input = plus(&Affine::term(sample, self.in_elements as i64), block, window.input_plane() * FOUR);
        for (axis, at, tap, inner) in [(0, depth, taps[0], in_h * in_w * FOUR), (1, row, taps[1], in_w * FOUR)] {
            input = plus(&input, at, window.stride[axis] * inner);
            input = plus(&input, tap, window.dilation[axis] * inner);
            input = input.plus(-((window.pad[axis] * inner) as i64));
        }
        let first = (part.first * window.stride[2]) as i64 - window.pad[2] as i64;
        let input = plus(&input, column, window.stride[2] * FOUR).plus(first * FOUR as i64);
        let of_row = match plan.in_words {
            true => window.kernel[2] * words::TAP_BYTES,
            false => plan.taps.len() * FOUR * FOUR,
        };
        let [k_d, k_h, _] = window.kernel;
        let weights = Affine::term(block, (k_d * k_h * of_row) as i64);
        let weights = plus(&plus(&weights, taps[0], k_h * of_row), taps[1], of_row);
        if plan.in_words {
            let from = [(self.buffers.x, &input), (self.buffers.weights, &weights)];
            return words::row(&mut self.builder, products, from, plan.begins_of(part), plan.whole.zeros());
        }
        let mut body = Vec::new();
        // Neighbours are loaded together.
        let mut used: Vec<usize> = products.terms.iter().map(|(.., taps)| *taps).collect();
        used.sort_unstable();
        used.dedup();
        for taps in used {
            let at = weights.clone().plus((taps * FOUR * FOUR) as i64);
            self.builder.assign(&format!("w_{taps}"), Expression::LoadBytes(self.buffers.weights, at), &mut body);
        }
        let mut loaded = None;
        for (pixel, factor, taps) in &products.terms {
            if loaded != Some(*factor) {
                let value = match factor {
                    Factor::Columns(begin) => {
                        let at = input.clone().plus(begin * FOUR as i64);
                        let lies = Expression::LoadBytes(self.buffers.x, at);
                        Expression::Unary(Function::TransposeBytes, Box::new(lies))
                    }
                    Factor::Padding => Expression::Whole(plan.whole.zeros()),
                };
                self.builder.assign("x_columns", value, &mut body);
                loaded = Some(*factor);
            }
            let [x, weight, sum] = ["x_columns".to_string(), format!("w_{taps}"), format!("acc_{pixel}")]
                .map(|name| self.builder.variable(&name));
            let [a, b, c] = [x, weight, sum].map(|part| Box::new(Expression::Variable(part)));
            body.push(Statement::Assign(sum, Expression::DotBytes(Bytes::Signed, a, b, c)));
        }
        body
    }
}
