//! What is decided about a direct convolution before its loops are written, and the order of its weights.

use super::padded::{FOUR, FURTHER_VECTORS, Padded};
use crate::layout::Layout;
use crate::lower::bytes::WholeSums;
use crate::lower::tile::{Reading, Row, Tile, choose_tile};
use crate::lower::window::Window3;
use crate::lower::{Machine, Operand};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::Conv;

/// Channels that are multiplied at once in whole numbers.
const BYTES: usize = 4;

/// The sums of a convolution in whole numbers, if it can be done in these.
fn whole_sums(inputs: &[Operand<'_>], window: &Window3, output: &TensorType, machine: &Machine) -> Option<WholeSums> {
    let weights = inputs[1].value?;
    let filters = output.shape[1];
    // Bytes of neighbouring channels lie beside each other.
    if inputs[0].layout == Layout::Plain {
        return None;
    }
    let per_filter = weights.len() / filters.max(1);
    let whole =
        WholeSums::of(&inputs[0], (weights, |index| index / per_filter.max(1)), inputs[2].value, filters, machine);
    // Taps on padding are products, too, where padding is stored as another number than 0.
    whole.filter(|whole| whole.suits(window))
}

/// Everything that is decided about one convolution.
pub(super) struct Plan {
    pub(super) window: Window3,
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) group_channels: usize,
    pub(super) lanes: usize,
    /// The input is row-major `[N, C, spatial]` instead of blocked.
    pub(super) plain_input: bool,
    /// How tiles get their activations.
    pub(super) reading: Reading,
    /// Loads stand between the multiplications.
    pub(super) in_order: bool,
    pub(super) tile: Tile,
    /// Of sums in whole numbers.
    pub(super) whole: Option<WholeSums>,
    /// The copy of a plain input that is read instead of it; `window` is that over the copy.
    pub(super) padded: Option<Padded>,
    /// Estimated time of one channel and tap of all rows.
    pub(super) cycles: f64,
}

impl Plan {
    /// The plan; rows that will be pooled stay rows.
    pub(super) fn new(
        conv: &Conv,
        inputs: &[Operand<'_>],
        output: &TensorType,
        is_pooled: bool,
        machine: &Machine,
    ) -> Plan {
        let x = inputs[0].tensor_type;
        let window = Window3::new(&conv.window, &x.shape, &output.shape);
        let window = if is_pooled { window } else { window.flattened() };
        let lanes = machine.instruction_set.lanes() as usize;
        let plain_input = inputs[0].layout == Layout::Plain;
        let (padded, whole) = match Padded::of(conv, inputs, &window, output.shape[1], machine) {
            Some((padded, whole)) => (Some(padded), Some(whole)),
            None => (None, whole_sums(inputs, &window, output, machine)),
        };
        let window = padded.as_ref().map_or(window, |padded| padded.window.clone());
        let further = if padded.is_some() { FURTHER_VECTORS } else { 0 };
        let narrower = Machine { registers: machine.registers.saturating_sub(further), ..machine.clone() };
        let reading = match machine.instruction_set.multiplies_by_lane() {
            true if padded.is_some() => Reading::Row { stride: 1, dilation: 0 },
            // A row of four channels is like one of a plain tensor.
            true if plain_input || whole.is_some() => {
                Reading::Row { stride: window.stride[2], dilation: window.dilation[2] }
            }
            true => Reading::Lane,
            false => Reading::Broadcast,
        };
        let filters = output.shape[1];
        let vectors = (filters / conv.groups).div_ceil(lanes);
        let taps = if padded.is_some() { window.kernel[2] / FOUR } else { window.kernel[2] };
        let halves = whole.is_some() && machine.multiplies_halves();
        let row = Row { width: window.output[2], vectors, taps, halves };
        let (row_cycles, tile) =
            choose_tile(row, inputs[1].packing.order().map(|order| order.vectors), &narrower, reading);
        let at_once = if whole.is_some() { BYTES } else { 1 };
        let cycles = row_cycles * (window.output[0] * window.output[1]) as f64 / at_once as f64;
        Plan {
            batch: x.shape[0],
            channels: x.shape[1],
            group_channels: x.shape[1] / conv.groups,
            groups: conv.groups,
            window,
            filters,
            lanes,
            plain_input,
            reading,
            in_order: machine.in_order,
            tile,
            whole,
            padded,
            cycles,
        }
    }

    /// Four bytes of padding, if these are not 0.
    pub(super) fn zeros(&self) -> Option<i32> {
        self.whole.as_ref().map(WholeSums::zeros).filter(|zeros| *zeros != 0)
    }

    /// Input channels that are multiplied at once.
    pub(super) fn channels_at_once(&self) -> usize {
        if self.whole.is_some() { BYTES } else { 1 }
    }

    pub(super) fn input_elements(&self, x: &TensorType) -> usize {
        if self.plain_input {
            x.element_count()
        } else {
            self.batch * self.channels.next_multiple_of(self.lanes) * self.window.input_plane()
        }
    }

    pub(super) fn output_elements(&self) -> usize {
        self.batch * self.filters.next_multiple_of(self.lanes) * self.window.output_plane()
    }

    /// The convolution's own window.
    pub(super) fn original(&self) -> &Window3 {
        self.padded.as_ref().map_or(&self.window, |padded| &padded.original)
    }

    /// Vectors of output channels of one group.
    pub(super) fn group_vectors(&self) -> usize {
        (self.filters / self.groups).div_ceil(self.lanes)
    }

    /// Input channels per block of the weights: one for plain inputs.
    pub(super) fn input_block(&self) -> usize {
        if self.plain_input { 1 } else { self.lanes }
    }

    pub(super) fn input_blocks(&self) -> usize {
        self.group_channels.div_ceil(self.input_block())
    }

    /// Weights that one vector of output channels reads.
    pub(super) fn weights_per_vector(&self) -> usize {
        self.input_blocks() * self.window.taps() * self.input_block() * self.lanes
    }

    /// Runs of tiles over one group's output vectors: (first vector, vectors per tile, tiles).
    pub(super) fn vector_tiles(&self) -> Vec<(usize, usize, usize)> {
        let (all, wide) = (self.group_vectors(), self.tile.vectors);
        let mut tiles = vec![(0, wide, all / wide)];
        if !all.is_multiple_of(wide) {
            tiles.push((all / wide * wide, all % wide, 1));
        }
        tiles.retain(|(_, _, count)| *count > 0);
        tiles
    }

    /// Weights in the order `[group][tile][input block][depth][height][channel in block][width][vector in tile][lane]`,
    /// with width before channel for multiplication by lane; zero where channels end inside a block. In whole numbers the
    /// channel is `[four in block]` there, and `[one of four]` stands last.
    pub(super) fn pack(&self, weights: &[f32]) -> Vec<f32> {
        if let Some(padded) = &self.padded {
            return padded.pack(weights, [self.channels, self.filters, self.lanes], &self.vector_tiles());
        }
        let [k_d, k_h, k_w] = self.window.kernel;
        let group_filters = self.filters / self.groups;
        let at_once = self.channels_at_once();
        let block = self.input_block() / at_once;
        let mut packed = Vec::with_capacity(self.packed_elements());
        // Where a channel and a column of taps lie among those of a block.
        let by_lane = self.reading == Reading::Lane;
        let columns: Vec<(usize, usize)> = (0..block * k_w)
            .map(|index| if by_lane { (index % block, index / block) } else { (index / k_w, index % k_w) })
            .collect();
        for group in 0..self.groups {
            for (first, wide, count) in self.vector_tiles() {
                for tile in 0..count {
                    let filters = (first + tile * wide) * self.lanes..(first + (tile + 1) * wide) * self.lanes;
                    for index in 0..self.input_blocks() * k_d * k_h {
                        let (outer, d, h) = (index / (k_d * k_h), index / k_h % k_d, index % k_h);
                        for (inner, w) in &columns {
                            let channel = (outer * block + inner) * at_once;
                            for filter in filters.clone() {
                                let row = (group * group_filters + filter) * self.group_channels;
                                packed.extend((channel..channel + at_once).map(|channel| {
                                    if filter < group_filters && channel < self.group_channels {
                                        weights[(((row + channel) * k_d + d) * k_h + h) * k_w + w]
                                    } else {
                                        0.0
                                    }
                                }));
                            }
                        }
                    }
                }
            }
        }
        packed
    }

    pub(super) fn packed_elements(&self) -> usize {
        self.groups * self.group_vectors() * self.weights_per_vector()
    }

    /// The bias as whole vectors per group.
    pub(super) fn pack_bias(&self, bias: &[f32]) -> Vec<f32> {
        let group_filters = self.filters / self.groups;
        (0..self.groups * self.group_vectors() * self.lanes)
            .map(|index| {
                let (group, filter) =
                    (index / (self.group_vectors() * self.lanes), index % (self.group_vectors() * self.lanes));
                if filter < group_filters { bias[group * group_filters + filter] } else { 0.0 }
            })
            .collect()
    }
}
