//! Reductions, softmax and argmax.

use super::{MAX_RANK, Walk, strides};

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the ONNX operator Reduce<variant>")]
pub enum Reduction {
    Mean,
    Sum,
    Max,
    Min,
}

/// Reduces over the axes whose `reduced` flag is set; `y` has one element per remaining index, in order.
pub fn reduce(x: &[f32], x_shape: &[usize], y: &mut [f32], reduced: &[bool], reduction: Reduction) {
    let mut kept = [1usize; MAX_RANK];
    let mut count = 1;
    for ((slot, extent), reduced) in kept.iter_mut().zip(x_shape).zip(reduced) {
        if *reduced {
            count *= extent;
        } else {
            *slot = *extent;
        }
    }
    let rank = x_shape.len().min(MAX_RANK);
    let mut view = strides(kept.get(..rank).unwrap_or(&[]));
    for (slot, reduced) in view.iter_mut().zip(reduced) {
        if *reduced {
            *slot = 0;
        }
    }
    y.fill(match reduction {
        Reduction::Mean | Reduction::Sum => 0.0,
        Reduction::Max => f32::NEG_INFINITY,
        Reduction::Min => f32::INFINITY,
    });
    let mut walk = Walk::new(x_shape, [view]);
    for element in x {
        if let Some(out) = y.get_mut(walk.positions()[0]) {
            *out = match reduction {
                Reduction::Mean | Reduction::Sum => *out + element,
                Reduction::Max if *out > *element => *out,
                Reduction::Min if *out < *element => *out,
                Reduction::Max | Reduction::Min => *element,
            };
        }
        walk.step();
    }
    if reduction == Reduction::Mean {
        for out in y {
            *out /= count as f32;
        }
    }
}

/// Index of the largest element along an axis with `extent` elements that lie `inner` apart; the first of equals, or
/// the last with `select_last`.
pub fn arg_max(x: &[f32], y: &mut [i64], extent: usize, inner: usize, select_last: bool) {
    let outs = y.chunks_exact_mut(inner.max(1));
    for (block, outs) in x.chunks_exact((extent * inner).max(1)).zip(outs) {
        for (offset, out) in outs.iter_mut().enumerate() {
            let (mut best, mut largest) = (0, f32::NEG_INFINITY);
            for (index, element) in block.iter().skip(offset).step_by(inner.max(1)).enumerate() {
                if *element > largest || select_last && *element == largest {
                    (best, largest) = (index, *element);
                }
            }
            *out = best as i64;
        }
    }
}

/// ONNX Softmax along an axis with `extent` elements that lie `inner` apart.
pub fn softmax(x: &[f32], y: &mut [f32], extent: usize, inner: usize) {
    lines(x, y, extent, inner, |largest, x| libm::expf(x - largest), |sum, _, e| e / sum);
}

/// ONNX LogSoftmax along an axis with `extent` elements that lie `inner` apart.
pub fn log_softmax(x: &[f32], y: &mut [f32], extent: usize, inner: usize) {
    lines(x, y, extent, inner, |largest, x| libm::expf(x - largest), |sum, shifted, _| shifted - libm::logf(sum));
}

/// For every line along the axis: `out = finish(sum of map, x - largest, map(x))`.
fn lines(
    x: &[f32],
    y: &mut [f32],
    extent: usize,
    inner: usize,
    map: impl Fn(f32, f32) -> f32,
    finish: impl Fn(f32, f32, f32) -> f32,
) {
    let block = (extent * inner).max(1);
    for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(block)) {
        for offset in 0..inner {
            let line = || x.iter().skip(offset).step_by(inner.max(1));
            let largest = line().fold(f32::NEG_INFINITY, |a, b| if a > *b { a } else { *b });
            let sum: f32 = line().map(|x| map(largest, *x)).sum();
            for (out, x) in y.iter_mut().skip(offset).step_by(inner.max(1)).zip(line()) {
                *out = finish(sum, x - largest, map(largest, *x));
            }
        }
    }
}
