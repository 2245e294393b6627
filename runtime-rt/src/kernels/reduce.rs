//! Reductions, softmax and argmax.

use super::sum::{Fold, LANES, Largest, Smallest, Sums, largest, sum};
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
///
/// Sums are added in blocks. A NaN makes the largest and the smallest NaN, as in numpy, wherever it stands.
pub fn reduce(x: &[f32], x_shape: &[usize], y: &mut [f32], reduced: &[bool], reduction: Reduction) {
    let axes = Axes::new(x_shape, reduced);
    match reduction {
        Reduction::Sum => axes.fold::<Sums<LANES>>(x, y),
        Reduction::Mean => {
            axes.fold::<Sums<LANES>>(x, y);
            let count: usize = x_shape.iter().zip(reduced).filter(|(_, reduced)| **reduced).map(|(n, _)| n).product();
            for out in y {
                *out /= count as f32;
            }
        }
        Reduction::Max => axes.fold::<Largest>(x, y),
        Reduction::Min => axes.fold::<Smallest>(x, y),
    }
}

/// The axes of a tensor: those that stay and those that go. The last ones of a kind are one axis, apart from the others,
/// since its elements are neighbours in memory.
struct Axes {
    rank: usize,
    strides: [usize; MAX_RANK],
    kept: [usize; MAX_RANK],
    going: [usize; MAX_RANK],
    last: usize,
    last_goes: bool,
}

impl Axes {
    fn new(shape: &[usize], reduced: &[bool]) -> Axes {
        let mut axes = Axes {
            rank: shape.len().min(MAX_RANK),
            strides: strides(shape),
            kept: [1; MAX_RANK],
            going: [1; MAX_RANK],
            last: 1,
            last_goes: false,
        };
        let mut is_last = true;
        let slots = axes.kept.iter_mut().zip(&mut axes.going).take(axes.rank);
        for ((extent, goes), (kept, going)) in shape.iter().zip(reduced).take(axes.rank).zip(slots).rev() {
            // An axis of one element is of either kind.
            is_last &= axes.last == 1 || *extent == 1 || *goes == axes.last_goes;
            if is_last {
                axes.last_goes = if axes.last == 1 { *goes } else { axes.last_goes };
                axes.last *= extent;
            } else {
                *if *goes { going } else { kept } = *extent;
            }
        }
        axes
    }

    fn fold<F: Fold>(&self, x: &[f32], y: &mut [f32]) {
        let (kept, going) = (self.kept.get(..self.rank).unwrap_or(&[]), self.going.get(..self.rank).unwrap_or(&[]));
        let rows = going.iter().product::<usize>();
        let mut outer = Walk::new(kept, [self.strides]);
        for outs in y.chunks_mut(if self.last_goes { 1 } else { self.last.max(1) }) {
            let first = outer.positions()[0];
            for (index, outs) in outs.chunks_mut(LANES).enumerate() {
                let width = if self.last_goes { self.last } else { outs.len() };
                let mut fold = F::new();
                let mut inner = Walk::new(going, [self.strides]);
                for _ in 0..rows {
                    let at = first + index * LANES + inner.positions()[0];
                    fold.add_row(x.get(at..at + width).unwrap_or(&[]), |x| x);
                    inner.step();
                }
                match outs {
                    [out] if self.last_goes => *out = fold.total(),
                    outs => outs.iter_mut().zip(fold.lanes()).for_each(|(out, lane)| *out = lane),
                }
            }
            outer.step();
        }
    }
}

/// Index of the largest element along an axis with `extent` elements that lie `inner` apart; the first of equals, or
/// the last with `select_last`. A NaN is larger than any number, as in numpy.
pub fn arg_max(x: &[f32], y: &mut [i64], extent: usize, inner: usize, select_last: bool) {
    let outs = y.chunks_exact_mut(inner.max(1));
    for (block, outs) in x.chunks_exact((extent * inner).max(1)).zip(outs) {
        for (offset, out) in outs.iter_mut().enumerate() {
            let (mut best, mut largest) = (0, f32::NEG_INFINITY);
            for (index, element) in block.iter().skip(offset).step_by(inner.max(1)).enumerate() {
                let equal = *element == largest || element.is_nan() && largest.is_nan();
                let more = *element > largest || element.is_nan() && !largest.is_nan();
                if more || select_last && equal {
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
            let largest = largest(line().copied());
            let sum = sum(line().map(|x| map(largest, *x)));
            for (out, x) in y.iter_mut().skip(offset).step_by(inner.max(1)).zip(line()) {
                *out = finish(sum, x - largest, map(largest, *x));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// Every reduction of every set of axes, against the definition in `f64`.
    #[test]
    fn every_set_of_axes() {
        let shape = [2, 3, 1, 5, 18];
        let x: Vec<f32> = (0..540u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 20) as f32 / 64.0).collect();
        for set in 0..32 {
            let reduced: Vec<bool> = (0..5).map(|axis| set >> axis & 1 == 1).collect();
            let outs: usize =
                shape.iter().zip(&reduced).filter(|(_, goes)| !**goes).map(|(extent, _)| extent).product();
            let mut groups: Vec<Vec<f64>> = vec![Vec::new(); outs];
            for (position, element) in x.iter().enumerate() {
                let (mut rest, mut to, mut stride) = (position, 0, 1);
                for (extent, goes) in shape.iter().zip(&reduced).rev() {
                    to += if *goes { 0 } else { rest % extent * stride };
                    stride *= if *goes { 1 } else { *extent };
                    rest /= extent;
                }
                groups[to].push(f64::from(*element));
            }
            type Exact = fn(&[f64]) -> f64;
            let cases: [(Reduction, Exact); 4] = [
                (Reduction::Sum, |all| all.iter().sum()),
                (Reduction::Mean, |all| all.iter().sum::<f64>() / all.len() as f64),
                (Reduction::Max, |all| all.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
                (Reduction::Min, |all| all.iter().copied().fold(f64::INFINITY, f64::min)),
            ];
            for (reduction, exact) in cases {
                let mut y = vec![f32::NAN; outs];
                reduce(&x, &shape, &mut y, &reduced, reduction);
                for (found, group) in y.iter().zip(&groups) {
                    let expected = exact(group);
                    let close = (f64::from(*found) - expected).abs() <= 1e-6 * expected.abs();
                    assert!(close, "{reduction:?} of {reduced:?}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn long_axes_are_added_in_blocks() {
        let count = if cfg!(miri) { 20_000 } else { 1 << 21 };
        let x: Vec<f32> = (0..count as u32).map(|index| 1000.0 + (index % 1009) as f32 / 500.0).collect();
        let exact = x.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
        for shape in [[1, count], [count, 1], [2, count / 2], [count / 2, 2]] {
            let mut y = [0.0];
            reduce(&x, &shape, &mut y, &[true, true], Reduction::Mean);
            assert!((f64::from(y[0]) - exact).abs() < 1e-3, "{shape:?}: {}, expected {exact}", y[0]);
        }
        // Along the first axis, whose elements do not lie beside each other.
        let mut y = [0.0; 2];
        reduce(&x, &[count / 2, 2], &mut y, &[true, false], Reduction::Mean);
        assert!(y.iter().all(|mean| (f64::from(*mean) - exact).abs() < 0.01), "{y:?}, expected {exact}");
        // A mean of exponentials, by way of a softmax of equal numbers.
        let same = vec![3.0f32; count];
        let mut y = vec![0.0; count];
        softmax(&same, &mut y, count, 1);
        assert!((f64::from(y[0]) * count as f64 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nan_is_largest_and_smallest_in_every_order() {
        for at in 0..4 {
            let mut x = [-5.0, 1.0, f32::INFINITY, 7.0];
            x[at] = f32::NAN;
            for reduction in [Reduction::Max, Reduction::Min, Reduction::Sum, Reduction::Mean] {
                for shape in [[1, 4], [4, 1]] {
                    let mut y = [0.0];
                    reduce(&x, &shape, &mut y, &[true, true], reduction);
                    assert!(y[0].is_nan(), "{reduction:?} with NaN at {at}");
                }
            }
            for select_last in [false, true] {
                let mut y = [9];
                arg_max(&x, &mut y, 4, 1, select_last);
                assert_eq!(y, [at as i64]);
            }
        }
        let twice = [1.0, f32::NAN, f32::NAN, 2.0];
        let index = |select_last: bool| {
            let mut y = [9];
            arg_max(&twice, &mut y, 4, 1, select_last);
            y[0]
        };
        assert_eq!((index(false), index(true)), (1, 2));
        let lowest = [f32::NEG_INFINITY; 3];
        let mut y = [9];
        arg_max(&lowest, &mut y, 3, 1, false);
        assert_eq!(y, [0]);
    }
}
