//! Sums of products over labelled axes.

use super::sum::sum;
use super::{MAX_RANK, Walk};

/// Sum of products (ONNX Einsum-12): each axis has a label; axes of one label share their index, and what the result lacks is
/// summed. At most [`MAX_RANK`] labels are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Einsum<'a> {
    /// Labels of the first operand's axes.
    pub a_labels: &'a [usize],
    /// Its shape.
    pub a_shape: &'a [usize],
    /// Labels of the second operand's axes, if there is one.
    pub b_labels: &'a [usize],
    /// Its shape.
    pub b_shape: &'a [usize],
    /// Labels of the result's axes, all different.
    pub y_labels: &'a [usize],
    /// Its shape.
    pub y_shape: &'a [usize],
}

impl Einsum<'_> {
    /// Without `b` the first operand alone is summed.
    pub fn run(&self, a: &[f32], b: Option<&[f32]>, y: &mut [f32]) {
        let steps = |label: usize| [step(self.a_labels, self.a_shape, label), step(self.b_labels, self.b_shape, label)];
        let mut kept = [[0; MAX_RANK]; 2];
        for (axis, label) in self.y_labels.iter().enumerate().take(MAX_RANK) {
            [kept[0][axis], kept[1][axis]] = steps(*label);
        }
        let (mut summed, mut extents, mut count) = ([[0; MAX_RANK]; 2], [1; MAX_RANK], 0);
        let labels = || self.a_labels.iter().chain(self.b_labels);
        for (at, (label, extent)) in labels().zip(self.a_shape.iter().chain(self.b_shape)).enumerate() {
            let is_new = !self.y_labels.contains(label) && !labels().take(at).any(|other| other == label);
            if is_new && count < MAX_RANK {
                [summed[0][count], summed[1][count]] = steps(*label);
                extents[count] = *extent;
                count += 1;
            }
        }
        let terms = extents.iter().product();
        let mut outer = Walk::new(self.y_shape, kept);
        for out in y {
            let [a_first, b_first] = *outer.positions();
            let mut inner = Walk::new(&extents, summed);
            *out = sum((0..terms).map(|_| {
                let [a_at, b_at] = *inner.positions();
                inner.step();
                let element = a.get(a_first + a_at).copied().unwrap_or(0.0);
                b.map_or(element, |b| element * b.get(b_first + b_at).copied().unwrap_or(0.0))
            }));
            outer.step();
        }
    }
}

/// Elements between neighbours along a label: axes of one label are walked together.
fn step(labels: &[usize], shape: &[usize], label: usize) -> usize {
    let (mut stride, mut step) = (1, 0);
    for (own, extent) in labels.iter().zip(shape).rev() {
        if *own == label {
            step += stride;
        }
        stride *= extent;
    }
    step
}
