//! Whether a convolution is done by Winograd's algorithm, in which form, and how many tiles at a time: by estimated time.

use partita_rt::kernels::Winograd;

use super::transform::{Form, Forms};
use crate::Affine;
use crate::layout::Layout;
use crate::lower::tile::{FAR_BYTES_PER_CYCLE, Reading, Row, Tile, choose_tile};
use crate::lower::window::Window3;
use crate::lower::{Machine, Operand, Packing, WeightOrder};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::Conv;

/// Bytes per cycle that come from beyond the second-level cache, as long as it is not far beyond.
const NEAR_BYTES_PER_CYCLE: f64 = 40.0;

/// Bytes per cycle that come from another core's cache.
const CROSSING_BYTES_PER_CYCLE: f64 = 3.0;

/// Cycles per point to transform the input, and to transform the results back, in one and in two dimensions.
pub(super) const DATA_CYCLES: [f64; 2] = [2.7, 5.0];
pub(super) const RESULT_CYCLES: [f64; 2] = [1.5, 3.8];

/// What it takes until the last of several threads has arrived.
const BARRIER_CYCLES: f64 = 3000.0;

/// Winograd's algorithm must be that much faster by estimate, and a form whose weights take so many bytes that much more:
/// memory is scarce on small devices, and reading it is what wide vectors wait for. (Bytes per vector of one lane.)
const WORTH: f64 = 1.1;
const WORTH_LARGE: f64 = 1.5;
const LARGE_BYTES: f64 = 128e6;

/// Weights of more bytes that serve fewer tiles are not worth their memory: such a layer waits for them to be read, however
/// few its products are.
const HUGE_BYTES: f64 = 40e6;
const FEW_TILES: usize = 40;

/// Everything that is decided about one convolution.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) forms: Forms,
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) lanes: usize,
    /// Depth taps.
    pub(super) kernel_depth: usize,
    pub(super) pad: [usize; 3],
    /// Depth, height, width.
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
    /// Rows and columns of tiles of one block.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Blocks down and across.
    pub(super) blocks: [usize; 2],
    /// Height and width of the input of a block, padding included.
    pub(super) padded: [usize; 2],
    /// Of the products: pixels are tiles.
    pub(super) tile: Tile,
    /// Activations are loaded as vectors of input channels and multiplied by lane.
    pub(super) by_lane: bool,
    /// Loads stand between the multiplications.
    pub(super) in_order: bool,
    /// How far ahead weights are fetched from memory; 0 if they are not. (Only where a channel's weights are loaded at once.)
    pub(super) ahead_bytes: usize,
    /// Threads that share each phase of a block; 1 if they share the blocks, or if there is one.
    pub(super) threads: usize,
}

/// Forms in which a convolution can be done; none if it can only be done directly.
pub fn forms(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<Forms> {
    let lanes = machine.instruction_set.lanes();
    let window = Window3::new(&conv.window, &inputs[0].tensor_type.shape, &output.shape);
    let [_, k_h, k_w] = window.kernel;
    let fits = (k_h == k_w || k_h == 1)
        && window.stride == [1; 3]
        && window.dilation == [1; 3]
        && conv.groups == 1
        && inputs[0].layout == Layout::Blocked(lanes)
        && output.element_count() > 0
        && lanes > 1
        // Sums of whole numbers are exact when they are not transformed.
        && !inputs[1].whole;
    let across = if fits { Form::of_taps(k_w) } else { &[] };
    let forms = across.iter().map(|across| Forms { down: (k_h > 1).then_some(*across), across: *across });
    let terms = window.kernel[0] * inputs[0].tensor_type.shape[1];
    forms.filter(|forms| inputs[1].value.is_none_or(|weights| stays_finite(*forms, weights, terms))).collect()
}

/// Filters that are transformed at once. Lanes are a multiple of them, so they lie side by side.
const TOGETHER: usize = 4;

/// No sum of any input below [`partita_rt::kernels::WINOGRAD_BELOW`] (2^64) grows by more than this on its way, so that none
/// overflows.
const MOST_GROWTH: f64 = (1u64 << 60) as f64;

/// Whether weights are numbers, and small enough, for what lies between the transforms to stay finite.
fn stays_finite(forms: Forms, weights: &[f32], terms: usize) -> bool {
    // A NaN stays.
    let larger = |largest: f32, weight: &f32| {
        if weight.abs() > largest || weight.is_nan() { weight.abs() } else { largest }
    };
    let largest = weights.iter().fold(0.0, larger);
    // A comparison with NaN does not hold.
    f64::from(largest) * terms as f64 * forms.growth() <= MOST_GROWTH
}

/// Estimated cycles of a convolution of one group that is done in this way.
pub fn estimated_cycles(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    machine: &Machine,
    order: WeightOrder,
) -> f64 {
    let x = inputs[0].tensor_type;
    let window = Window3::new(&conv.window, &x.shape, &output.shape);
    let shape = Shape { window: &window, batch: x.shape[0], channels: x.shape[1], filters: output.shape[1], machine };
    match order.forms {
        Some(forms) => shape.best(forms, Some(order.vectors)).map_or(f64::INFINITY, |(cycles, _)| cycles),
        None => shape.direct_cycles(Some(order.vectors)),
    }
}

/// The best plan for a convolution, if one is faster than direct convolution. Weights that are packed already decide.
pub fn chosen(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Option<Plan> {
    let x = inputs[0].tensor_type;
    let window = Window3::new(&conv.window, &x.shape, &output.shape);
    let shape = Shape { window: &window, batch: x.shape[0], channels: x.shape[1], filters: output.shape[1], machine };
    let possible = forms(conv, inputs, output, machine);
    if inputs[1].packing == Packing::Untransformed {
        return None;
    }
    if let Some(order) = inputs[1].packing.order() {
        let forms = order.forms.filter(|forms| possible.contains(forms))?;
        return shape.best(forms, Some(order.vectors)).map(|(_, plan)| plan);
    }
    let mut known = (shape.direct_cycles(None), None);
    for forms in possible.into_iter().filter(|_| machine.winograd) {
        let Some((cycles, plan)) = shape.best(forms, None) else { continue };
        let weights_bytes = plan.packed_elements() as f64 * 4.0;
        if weights_bytes > HUGE_BYTES && plan.all_tiles() < FEW_TILES {
            continue;
        }
        let size = (weights_bytes * shape.lanes() as f64 / LARGE_BYTES).min(1.0);
        if cycles * (WORTH + (WORTH_LARGE - WORTH) * size) < known.0 {
            known = (cycles, Some(plan));
        }
    }
    known.1
}

/// A convolution that may be done so.
struct Shape<'a> {
    window: &'a Window3,
    batch: usize,
    channels: usize,
    filters: usize,
    machine: &'a Machine,
}

impl Shape<'_> {
    fn lanes(&self) -> usize {
        self.machine.instruction_set.lanes() as usize
    }

    fn by_lane(&self) -> bool {
        self.machine.instruction_set.multiplies_by_lane()
    }

    fn reading(&self) -> Reading {
        if self.by_lane() { Reading::Lane } else { Reading::Broadcast }
    }

    /// The best way to cut the output, and its cycles.
    fn best(&self, forms: Forms, vectors: Option<usize>) -> Option<(f64, Plan)> {
        self.plans(forms, vectors).into_iter().min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Cycles of direct convolution, with so many vectors of output channels to a tile.
    fn direct_cycles(&self, packed_vectors: Option<usize>) -> f64 {
        let [depths, rows, width] = self.window.output;
        let vectors = self.filters.div_ceil(self.lanes());
        let (row, _) = choose_tile(
            Row { width, vectors, taps: self.window.kernel[2], halves: false },
            packed_vectors,
            self.machine,
            self.reading(),
        );
        let compute = row * (depths * rows * self.channels * self.window.taps() * self.batch) as f64;
        let weights_bytes = (self.window.taps() * self.channels * vectors * self.lanes() * 4) as f64;
        compute.max(weights_bytes / FAR_BYTES_PER_CYCLE) / self.machine.threads.max(1) as f64
    }

    /// All ways to cut the output into blocks of tiles, and their cycles.
    fn plans(&self, forms: Forms, vectors: Option<usize>) -> Vec<(f64, Plan)> {
        let [_, out_h, out_w] = self.window.output;
        let (down, across) = (out_h.div_ceil(forms.outputs()[0]), out_w.div_ceil(forms.outputs()[1]));
        let even = |total: usize| {
            let mut sizes: Vec<usize> = (1..=total).map(|parts| total.div_ceil(parts)).collect();
            sizes.dedup();
            sizes
        };
        let pairs =
            even(down).into_iter().flat_map(|rows| even(across).into_iter().map(move |columns| (rows, columns)));
        // Blocks are rows of the image, unless a row is too long.
        let pairs = pairs.filter(|(rows, columns)| *columns == across || *rows == 1);
        pairs.map(|(rows, columns)| self.plan(forms, (rows, columns), (down, across), vectors)).collect()
    }

    fn plan(
        &self,
        forms: Forms,
        (rows, columns): (usize, usize),
        (down, across): (usize, usize),
        packed_vectors: Option<usize>,
    ) -> (f64, Plan) {
        let (lanes, window) = (self.lanes(), self.window);
        let (tiles, points) = (rows * columns, forms.points());
        let vectors = self.filters.div_ceil(lanes);
        let row = Row { width: tiles, vectors, taps: 1, halves: false };
        let (product, tile) = choose_tile(row, packed_vectors, self.machine, self.reading());
        let plan = Plan {
            forms,
            batch: self.batch,
            channels: self.channels,
            filters: self.filters,
            lanes,
            kernel_depth: window.kernel[0],
            pad: window.pad,
            input: window.input,
            output: window.output,
            rows,
            columns,
            blocks: [down.div_ceil(rows), across.div_ceil(columns)],
            padded: [
                rows * forms.outputs()[0] + forms.taps()[0] - 1,
                columns * forms.outputs()[1] + forms.taps()[1] - 1,
            ],
            tile,
            by_lane: self.by_lane(),
            in_order: self.machine.in_order,
            ahead_bytes: 0,
            threads: 1,
        };
        let is_far = plan.packed_elements() as u64 * 4 > self.machine.l2_bytes;
        let plan = Plan { ahead_bytes: if is_far { self.machine.prefetch_bytes as usize } else { 0 }, ..plan };
        let blocks = (plan.batch * window.output[0] * plan.blocks[0] * plan.blocks[1]) as f64;
        let depth = (plan.kernel_depth * plan.channels) as f64;
        let products = product * (points[0] * points[1]) as f64 * depth;
        let (each, twice) = ((points[0] * points[1]) as f64, usize::from(forms.down.is_some()));
        let (data, result) = (each * DATA_CYCLES[twice], each * RESULT_CYCLES[twice]);
        let transforms =
            (tiles * plan.kernel_depth * plan.channel_blocks()) as f64 * data + (tiles * vectors) as f64 * result;
        // What does not stay in the second-level cache comes and goes through the next.
        let between_bytes = plan.scratch_elements() as f64 * 4.0;
        let weights_bytes = plan.packed_elements() as f64 * 4.0;
        let l2_bytes = self.machine.l2_bytes as f64 * 0.8;
        let spilled = if between_bytes > l2_bytes * 0.7 { 2.0 * between_bytes / NEAR_BYTES_PER_CYCLE } else { 0.0 };
        let again = if weights_bytes + between_bytes > l2_bytes { weights_bytes / NEAR_BYTES_PER_CYCLE } else { 0.0 };
        let block = products.max(again) + 0.5 * again.min(products) + transforms + spilled;
        let cycles = (blocks * block).max(weights_bytes / FAR_BYTES_PER_CYCLE + blocks * transforms);
        // Threads share the blocks, or all of them each phase of a block: then half of what they read is in another's
        // cache, and they wait for each other.
        let threads = self.machine.threads.max(1);
        let counts = [window.output[0], plan.blocks[0], plan.blocks[1]];
        let gain = counts.iter().map(|count| *count as f64 / count.div_ceil(threads) as f64).fold(1.0, f64::max);
        let by_blocks = cycles / gain;
        let by_phases =
            cycles / threads as f64 + blocks * (3.0 * BARRIER_CYCLES + between_bytes / CROSSING_BYTES_PER_CYCLE);
        if by_phases < by_blocks {
            return (by_phases, Plan { threads, ..plan });
        }
        (by_blocks, plan)
    }
}

impl Plan {
    /// What the run time needs to know to do it directly.
    pub(super) fn described(&self, conv: &Conv, pooled: bool) -> Winograd {
        Winograd {
            batch: self.batch,
            channels: self.channels,
            filters: self.filters,
            lanes: self.lanes,
            kernel_depth: self.kernel_depth,
            pad: self.pad,
            input: self.input,
            output: self.output,
            tile: self.forms.outputs(),
            taps: self.forms.taps(),
            vectors: self.tile.vectors,
            pooled,
            activation: conv.activation,
        }
    }

    /// Points of a tile.
    pub(super) fn points(&self) -> usize {
        self.forms.points().iter().product()
    }

    /// Tiles of a block.
    pub(super) fn tiles(&self) -> usize {
        self.rows * self.columns
    }

    /// Tiles of the whole output.
    fn all_tiles(&self) -> usize {
        self.batch * self.output[0] * self.blocks[0] * self.blocks[1] * self.tiles()
    }

    pub(super) fn channel_blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    pub(super) fn filter_vectors(&self) -> usize {
        self.filters.div_ceil(self.lanes)
    }

    pub(super) fn input_plane(&self) -> usize {
        self.input.iter().product()
    }

    pub(super) fn output_plane(&self) -> usize {
        self.output.iter().product()
    }

    /// Whether blocks of tiles cover the output without anything left over.
    pub(super) fn is_even(&self) -> bool {
        let covers = |axis: usize, tiles: usize, blocks: usize| {
            tiles * blocks * self.forms.outputs()[axis - 1] == self.output[axis]
        };
        covers(1, self.rows, self.blocks[0]) && covers(2, self.columns, self.blocks[1])
    }

    /// Elements of the transformed input of one point.
    pub(super) fn point_data(&self) -> usize {
        self.kernel_depth * self.channel_blocks() * self.tiles() * self.lanes
    }

    /// Elements in which a thread gathers a block's input, and later its output.
    pub(super) fn gathered_elements(&self) -> usize {
        self.padded[0] * self.padded[1] * self.lanes
    }

    /// First element of the transformed input: `[point][depth tap][channels][tile][lane]`, after what is gathered.
    pub(super) fn data_at(&self, point: usize, channels: usize) -> Affine {
        let within = point * self.point_data() + channels * self.tiles() * self.lanes;
        Affine::constant((self.threads * self.gathered_elements() + within) as i64)
    }

    /// First element of the products: `[point][filters][tile][lane]`, after the transformed input.
    pub(super) fn result_at(&self, point: usize, filters: usize) -> Affine {
        let within = (point * self.filter_vectors() + filters) * self.tiles() * self.lanes;
        Affine::constant((self.threads * self.gathered_elements() + self.points() * self.point_data() + within) as i64)
    }

    pub(super) fn scratch_elements(&self) -> usize {
        let results = self.points() * self.filter_vectors() * self.tiles() * self.lanes;
        self.threads * self.gathered_elements() + self.points() * self.point_data() + results
    }

    pub(super) fn packed_elements(&self) -> usize {
        self.points() * self.kernel_depth * self.channels * self.filter_vectors() * self.lanes
    }

    /// Transformed weights: `[point][tile of vectors][depth tap][channel][vector in tile][lane]`, zero past the last
    /// filter.
    pub(super) fn pack(&self, weights: &[f32]) -> Vec<f32> {
        let depth = self.kernel_depth * self.channels;
        let taps: usize = self.forms.taps().iter().product();
        let per_point = self.packed_elements() / self.points();
        let mut packed = vec![0.0; self.packed_elements()];
        let mut together = vec![[0.0; TOGETHER]; taps];
        for filter in (0..self.filters).step_by(TOGETHER) {
            let (vector, lane) = (filter / self.lanes, filter % self.lanes);
            let count = TOGETHER.min(self.filters - filter);
            let first = vector / self.tile.vectors * self.tile.vectors;
            let wide = self.tile.vectors.min(self.filter_vectors() - first);
            for channel in 0..self.channels {
                for tap in 0..self.kernel_depth {
                    for (at, filter) in (filter..filter + count).enumerate() {
                        let from = ((filter * self.channels + channel) * self.kernel_depth + tap) * taps;
                        let filter = &weights[from..from + taps];
                        together.iter_mut().zip(filter).for_each(|(tap, weight)| tap[at] = f64::from(*weight));
                    }
                    let row = tap * self.channels + channel;
                    let within = first * depth * self.lanes + row * wide * self.lanes;
                    let to = within + (vector - first) * self.lanes + lane;
                    self.forms.filters(&together, |point, values| {
                        let packed = &mut packed[point * per_point + to..][..count];
                        packed.iter_mut().zip(values).for_each(|(packed, value)| *packed = value as f32);
                    });
                }
            }
        }
        packed
    }
}
