//! Which sums of products are done in whole numbers of 8 bits, and what they begin with.
//!
//! A machine that multiplies bytes by fours reads activations as they are stored, [`Stored::offset`] less than they are. What
//! that leaves out is the same for all places of a result, the offset times the sum of its weights, and part of the
//! bias. So sums are those of the numbers themselves, whatever is stored; in whole numbers no order of addition changes them.

use super::window::Window3;
use super::{Machine, Operand};
use crate::Bytes;
use partita_ir::graph::ranges::EXACT_UP_TO;
use partita_ir::graph::{ElementType, Stored};

/// Sums of products of bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WholeSums {
    /// How bytes of activations are read.
    pub first: Bytes,
    /// The byte that stands for an activation of 0.
    pub zero: i32,
    /// What sums begin with, whole numbers all.
    pub bias: Vec<f32>,
}

impl WholeSums {
    /// Sums of products of activations with constant weights, where bytes do: `sum_of` says which sum the product with a weight
    /// belongs to.
    pub(super) fn of(
        x: &Operand<'_>,
        (weights, sum_of): (&[f32], impl Fn(usize) -> usize),
        bias: Option<&[f32]>,
        sums: usize,
        machine: &Machine,
    ) -> Option<WholeSums> {
        let first = machine.byte_products()?;
        let Stored { element, offset, .. } = x.stored;
        let least = match (first, element) {
            (Bytes::Unsigned, ElementType::U8) => i64::from(offset),
            (Bytes::Signed, ElementType::I8) => i64::from(offset) - 128,
            _ => return None,
        };
        let is_byte = |weight: &f32| weight.fract() == 0.0 && (-128.0..=127.0).contains(weight);
        if !weights.iter().all(is_byte) || bias.is_some_and(|bias| bias.len() != sums) {
            return None;
        }
        let largest = least.abs().max((least + 255).abs());
        // Of weights: their sum, and that of their sizes.
        let mut totals = vec![(0i64, 0i64); sums];
        for (index, weight) in weights.iter().enumerate() {
            let (total, sizes) = totals.get_mut(sum_of(index))?;
            *total += *weight as i64;
            *sizes += (*weight as i64).abs();
        }
        let start = |(index, (total, sizes)): (usize, &(i64, i64))| {
            let bias = bias.map_or(0.0, |bias| bias[index]);
            let start = f64::from(bias) + (i64::from(offset) * total) as f64;
            let is_exact = bias.fract() == 0.0 && start.abs() < EXACT_UP_TO;
            let is_small = (sizes * largest) as f64 + f64::from(bias).abs() < f64::from(i32::MAX);
            (is_exact && is_small).then_some(start as f32)
        };
        let bias = totals.iter().enumerate().map(start).collect::<Option<Vec<f32>>>()?;
        Some(WholeSums { first, zero: -offset, bias })
    }

    /// Whether taps on padding are as nothing, or can be products as others are.
    pub(super) fn suits(&self, window: &Window3) -> bool {
        let is_padded = |axis: usize| {
            (0..window.output[axis]).any(|at| {
                window.taps_within(axis, at, &(window.pad[axis]..window.pad[axis] + window.input[axis])).len()
                    < window.kernel[axis]
            })
        };
        // The loops over rows of padding must not leave the window.
        let has_rows = window.pad[1] <= window.kernel[1] * window.dilation[1]
            && window.input[1] + window.pad[1] >= window.stride[1] * (window.output[1] - 1);
        self.zero == 0 || self.has_zero() && has_rows && !is_padded(0) || ![0, 1, 2].into_iter().any(is_padded)
    }

    /// Whether padding has a byte that stands for it.
    fn has_zero(&self) -> bool {
        match self.first {
            Bytes::Signed => i8::try_from(self.zero).is_ok(),
            Bytes::Unsigned => u8::try_from(self.zero).is_ok(),
        }
    }

    /// The byte of padding, four times.
    pub(super) fn zeros(&self) -> i32 {
        i32::from_le_bytes([self.zero as u8; 4])
    }
}
