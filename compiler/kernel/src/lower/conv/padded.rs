//! Convolutions of bytes in plain rows, as first layers read them: four taps of a row are multiplied at once.
//!
//! Every sample is copied first, with bytes for its padding around it, so that four bytes may be read wherever taps begin.
//! Pixels whose taps begin whole words apart read lanes of one vector.

use std::collections::BTreeMap;

use crate::layout::Layout;
use crate::lower::build::{Builder, plus, repeat};
use crate::lower::bytes::WholeSums;
use crate::lower::products::{Factor, ProductKind, multiply};
use crate::lower::window::{Columns, Window3};
use crate::lower::{Machine, Operand};
use crate::{Affine, Buffer, Bytes, Expression, LoopVar, Statement, Variable};
use partita_ir::graph::op::Conv;

/// Taps that are multiplied at once: those of a word.
pub(super) const FOUR: usize = 4;

/// Vectors of activations that a tile may hold beyond those of pixels that follow each other.
pub(super) const FURTHER_VECTORS: u32 = 3;

/// Bytes of a vector: what is read past the last word that is needed.
const VECTOR: usize = 16;

/// A copy of a sample with its padding.
pub(super) struct Padded {
    /// The convolution's own window.
    pub original: Window3,
    /// That over the copy: no padding, and rows of taps in whole words.
    pub window: Window3,
    /// What is copied of a row, and of rows in depth and height.
    copied: [usize; 3],
    /// Of the copy.
    pub elements: usize,
}

impl Padded {
    /// The copy, and the sums of the convolution over it; none where that is not possible, or not wanted.
    pub(super) fn of(
        conv: &Conv,
        inputs: &[Operand<'_>],
        window: &Window3,
        filters: usize,
        machine: &Machine,
    ) -> Option<(Padded, WholeSums)> {
        let is_wanted = machine.byte_products() == Some(Bytes::Signed) && inputs[0].layout == Layout::Plain;
        if !is_wanted || conv.groups != 1 || window.dilation[2] != 1 {
            return None;
        }
        let (weights, channels) = (inputs[1].value?, inputs[0].tensor_type.shape[1]);
        let per_filter = (channels * window.taps()).max(1);
        let sum_of = |index: usize| index / per_filter;
        let whole = WholeSums::of(&inputs[0], (weights, sum_of), inputs[2].value, filters, machine)?;
        if !whole.suits(window) {
            return None;
        }
        let mut wide = window.clone();
        wide.kernel[2] = window.kernel[2].next_multiple_of(FOUR);
        wide.pad = [0; 3];
        wide.input = [0, 1, 2].map(|axis| {
            (window.output[axis] - 1) * window.stride[axis] + (wide.kernel[axis] - 1) * window.dilation[axis] + 1
        });
        let copied = [0, 1, 2].map(|axis| window.input[axis].min(wide.input[axis].saturating_sub(window.pad[axis])));
        let elements = channels * wide.input_plane() + VECTOR;
        let padded =
            Padded { original: window.clone(), window: wide, copied, elements: elements.next_multiple_of(VECTOR) };
        Some((padded, whole))
    }

    /// Weights in the order `[tile][channel][depth][height][word of taps][vector in tile][lane][tap of the word]`; `tiles` are
    /// runs of tiles over vectors of filters.
    pub(super) fn pack(
        &self,
        weights: &[f32],
        [channels, filters, lanes]: [usize; 3],
        tiles: &[(usize, usize, usize)],
    ) -> Vec<f32> {
        let [k_d, k_h, k_w] = self.original.kernel;
        let words = self.window.kernel[2] / FOUR;
        let mut packed = Vec::new();
        for (first, wide, count) in tiles.iter().copied() {
            for tile in 0..count {
                for index in 0..channels * k_d * k_h * words * wide * lanes * FOUR {
                    let (one, rest) = (index % FOUR, index / FOUR);
                    let (lane, rest) = (rest % lanes, rest / lanes);
                    let (vector, rest) = (rest % wide, rest / wide);
                    let (word, row) = (rest % words, rest / words);
                    let filter = (first + tile * wide + vector) * lanes + lane;
                    let tap = word * FOUR + one;
                    let is_there = filter < filters && tap < k_w;
                    let at = (filter * channels * k_d * k_h + row) * k_w + tap;
                    packed.push(if is_there { weights[at] } else { 0.0 });
                }
            }
        }
        packed
    }

    /// Copies a sample of so many channels from one buffer to the other, and puts a byte of padding around it.
    pub(super) fn copy(
        &self,
        builder: &mut Builder,
        (from, to): (Buffer, Buffer),
        (sample, channels): (LoopVar, usize),
        lanes: usize,
        zero: i32,
    ) -> Vec<Statement> {
        let Padded { original, window, copied: [depths, heights, width], elements } = self;
        let at = builder.loop_var("padding");
        let zero = Expression::Constant(zero as f32);
        let fill = (0..VECTOR / lanes)
            .map(|part| Statement::Store(to, Affine::term(at, 1).plus((part * lanes) as i64), zero.clone()));
        let fill = repeat(at, *elements, VECTOR, fill.collect());
        let [channel, depth, height] = ["channel", "depth", "height"].map(|name| builder.loop_var(name));
        let rows = |window: &Window3| {
            let [_, high, wide] = window.input;
            let of_sample = Affine::term(channel, window.input_plane() as i64);
            plus(&plus(&of_sample, depth, high * wide), height, wide)
        };
        let source = plus(&rows(original), sample, channels * original.input_plane());
        let [_, high, wide] = window.input;
        let first = (original.pad[0] * high + original.pad[1]) * wide + original.pad[2];
        let target = rows(window).plus(first as i64);
        let mut row = Vec::new();
        let mut done = 0;
        for step in [VECTOR, lanes] {
            let (column, count) = (builder.loop_var("column"), (width - done) / step);
            let parts = (0..step / lanes).map(|part| {
                let along = |affine: &Affine| plus(affine, column, 1).plus((done + part * lanes) as i64);
                Statement::Store(to, along(&target), Expression::Load(from, along(&source)))
            });
            row.push(repeat(column, count * step, step, parts.collect()));
            done += count * step;
        }
        if done < *width {
            let (rest, along) = ((width - done) as u32, |affine: &Affine| affine.clone().plus(done as i64));
            let value = Expression::LoadPartial(from, along(&source), rest);
            row.push(Statement::StorePartial(to, along(&target), rest, value));
        }
        let rows = repeat(depth, *depths, 1, vec![repeat(height, *heights, 1, row)]);
        vec![fill, repeat(channel, channels, 1, vec![rows])]
    }

    /// One row of one channel's taps, a word of them at a time, for a tile of columns and so many vectors of filters; `input`
    /// and `packed` are where its first column and its weights lie.
    pub(super) fn by_words(
        &self,
        builder: &mut Builder,
        [x, weights]: [Buffer; 2],
        [input, packed]: [&Affine; 2],
        (part, vectors): (Columns, usize),
        (lanes, in_order): (usize, bool),
    ) -> Vec<Statement> {
        let stride = self.window.stride[2];
        let mut body = Vec::new();
        for word in 0..self.window.kernel[2] / FOUR {
            let at = input.clone().plus((part.first * stride + word * FOUR) as i64);
            let mut loaded: BTreeMap<usize, Variable> = BTreeMap::new();
            let mut elements = Vec::with_capacity(part.count);
            for pixel in 0..part.count {
                let (rest, words) = (pixel * stride % FOUR, pixel * stride / FOUR);
                let first = rest + words / lanes * lanes * FOUR;
                let element = *loaded.entry(first).or_insert_with(|| {
                    let bytes = Expression::LoadBytes(x, at.clone().plus(first as i64));
                    builder.assign(&format!("x_{first}"), bytes, &mut body)
                });
                elements.push((pixel, element, (words % lanes) as u32));
            }
            let factors = (0..vectors).map(|vector| Factor {
                vector,
                at: packed.clone().plus((FOUR * lanes * (word * vectors + vector)) as i64),
                elements: elements.clone(),
            });
            let factors: Vec<Factor> = factors.collect();
            body.extend(multiply(builder, (ProductKind::Bytes, weights), &factors, in_order));
        }
        body
    }
}
