//! Reductions, softmax and argmax.

use super::sum::{Fold, LANES, Largest, Smallest, Sums, largest, sum};
use super::{BinaryOp, MAX_RANK, Walk, strides};
use crate::elements::Number;

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "each variant is the ONNX operator Reduce<variant>")]
pub enum ReduceKind {
    Mean,
    Sum,
    Max,
    Min,
    L2,
}

/// Reduction over axes.
///
/// Sums of `f32` are added in blocks, those of other numbers in the type's own arithmetic. A NaN makes the largest and the
/// smallest NaN, as in numpy, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Reduce<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Per axis, whether it goes.
    pub reduced: [bool; MAX_RANK],
    /// What is computed.
    pub kind: ReduceKind,
}

impl Reduce<'_> {
    /// `y` has one element per remaining index, in order.
    #[inline(always)]
    pub fn run<T: Number>(&self, x: &[T], y: &mut [T]) {
        T::reduce(x, y, self.x_shape, &self.reduced, self.kind);
    }
}

/// The reduction of real numbers.
pub(crate) fn reduce_in_blocks(x: &[f32], y: &mut [f32], x_shape: &[usize], reduced: &[bool], kind: ReduceKind) {
    let axes = Axes::new(x_shape, reduced);
    match kind {
        ReduceKind::Sum => axes.fold::<Sums<LANES>>(x, y, |x| x),
        ReduceKind::L2 => {
            axes.fold::<Sums<LANES>>(x, y, |x| x * x);
            for out in y {
                *out = libm::sqrtf(*out);
            }
        }
        ReduceKind::Mean => {
            axes.fold::<Sums<LANES>>(x, y, |x| x);
            let going = x_shape.iter().zip(reduced).filter(|(_, goes)| **goes);
            let count: usize = going.map(|(extent, _)| extent).product();
            for out in y {
                *out /= count as f32;
            }
        }
        ReduceKind::Max => axes.fold::<Largest>(x, y, |x| x),
        ReduceKind::Min => axes.fold::<Smallest>(x, y, |x| x),
    }
}

/// The reduction one element after the other.
pub(crate) fn reduce_in_order<T: Number>(x: &[T], y: &mut [T], x_shape: &[usize], reduced: &[bool], kind: ReduceKind) {
    let own = strides(x_shape);
    let (mut kept, mut folded) = ([1usize; MAX_RANK], [1usize; MAX_RANK]);
    let mut count = 1;
    for (((kept, folded), extent), goes) in kept.iter_mut().zip(&mut folded).zip(x_shape).zip(reduced) {
        if *goes {
            *folded = *extent;
            count *= extent;
        } else {
            *kept = *extent;
        }
    }
    let rank = x_shape.len().min(MAX_RANK);
    let function = match kind {
        ReduceKind::Mean | ReduceKind::Sum | ReduceKind::L2 => BinaryOp::Add,
        ReduceKind::Max => BinaryOp::Max,
        ReduceKind::Min => BinaryOp::Min,
    };
    let mut outer = Walk::new(kept.get(..rank).unwrap_or(&[]), [own]);
    for out in y {
        let mut inner = Walk::new(folded.get(..rank).unwrap_or(&[]), [own]);
        let mut result: Option<T> = None;
        for _ in 0..count {
            if let Some(element) = x.get(outer.positions()[0] + inner.positions()[0]) {
                result = Some(result.map_or(*element, |result| T::combine(function, result, *element)));
            }
            inner.step();
        }
        let result = result.unwrap_or_default();
        *out = if kind == ReduceKind::Mean { T::mean(result, count) } else { result };
        outer.step();
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

    fn fold<F: Fold>(&self, x: &[f32], y: &mut [f32], map: impl Fn(f32) -> f32) {
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
                    fold.add_row(x.get(at..at + width).unwrap_or(&[]), &map);
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

/// Index of the largest element along an axis (ONNX ArgMax). A NaN is larger than any number, as in numpy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ArgMax {
    /// Extent of the axis.
    pub extent: usize,
    /// How far its elements lie apart.
    pub inner: usize,
    /// Take the last of equal elements.
    pub select_last: bool,
}

impl ArgMax {
    /// `y` has one index per line along the axis.
    pub fn run<T: Copy + PartialOrd>(&self, x: &[T], y: &mut [i64]) {
        let inner = self.inner.max(1);
        // What does not even equal itself.
        let is_nan = |x: T| x.partial_cmp(&x).is_none();
        for (block, outs) in x.chunks_exact((self.extent * self.inner).max(1)).zip(y.chunks_exact_mut(inner)) {
            for (offset, out) in outs.iter_mut().enumerate() {
                let mut largest: Option<(i64, T)> = None;
                for (index, element) in (0..).zip(block.iter().skip(offset).step_by(inner)) {
                    let takes = largest.is_none_or(|(_, best)| {
                        let is_equal = *element == best || is_nan(*element) && is_nan(best);
                        let is_more = *element > best || is_nan(*element) && !is_nan(best);
                        is_more || self.select_last && is_equal
                    });
                    if takes {
                        largest = Some((index, *element));
                    }
                }
                *out = largest.map_or(0, |(index, _)| index);
            }
        }
    }
}

/// Softmax along an axis (ONNX Softmax-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Softmax {
    /// Extent of the axis.
    pub extent: usize,
    /// How far its elements lie apart.
    pub inner: usize,
}

impl Softmax {
    /// `y` from `x`.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        lines(x, y, (self.extent, self.inner), |largest, x| libm::expf(x - largest), |sum, _, e| e / sum);
    }
}

/// Logarithm of softmax along an axis (ONNX LogSoftmax-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LogSoftmax {
    /// Extent of the axis.
    pub extent: usize,
    /// How far its elements lie apart.
    pub inner: usize,
}

impl LogSoftmax {
    /// `y` from `x`.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let finish = |sum: f32, shifted: f32, _: f32| shifted - libm::logf(sum);
        lines(x, y, (self.extent, self.inner), |largest, x| libm::expf(x - largest), finish);
    }
}

/// For every line along the axis: `out = finish(sum of map, x - largest, map(x))`.
fn lines(
    x: &[f32],
    y: &mut [f32],
    (extent, inner): (usize, usize),
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

    fn axes(going: &[usize]) -> [bool; MAX_RANK] {
        std::array::from_fn(|axis| going.contains(&axis))
    }

    /// Every reduction of every set of axes, against the definition in `f64`.
    #[test]
    fn every_set_of_axes() {
        let shape = [2, 3, 1, 5, 18];
        let x: Vec<f32> = (0..540u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 20) as f32 / 64.0).collect();
        for set in 0..32 {
            let reduced: [bool; MAX_RANK] = std::array::from_fn(|axis| set >> axis & 1 == 1);
            let kept = shape.iter().zip(&reduced).filter(|(_, goes)| !**goes);
            let outs: usize = kept.map(|(extent, _)| extent).product();
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
            let cases: [(ReduceKind, Exact); 4] = [
                (ReduceKind::Sum, |all| all.iter().sum()),
                (ReduceKind::Mean, |all| all.iter().sum::<f64>() / all.len() as f64),
                (ReduceKind::Max, |all| all.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
                (ReduceKind::Min, |all| all.iter().copied().fold(f64::INFINITY, f64::min)),
            ];
            for (kind, exact) in cases {
                let mut y = vec![f32::NAN; outs];
                Reduce { x_shape: &shape, reduced, kind }.run(&x, &mut y);
                for (found, group) in y.iter().zip(&groups) {
                    let expected = exact(group);
                    let close = (f64::from(*found) - expected).abs() <= 1e-6 * expected.abs();
                    assert!(close, "{kind:?} of {reduced:?}: {found}, expected {expected}");
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
            Reduce { x_shape: &shape, reduced: axes(&[0, 1]), kind: ReduceKind::Mean }.run(&x, &mut y);
            assert!((f64::from(y[0]) - exact).abs() < 1e-3, "{shape:?}: {}, expected {exact}", y[0]);
        }
        // Along the first axis, whose elements do not lie beside each other.
        let mut y = [0.0; 2];
        Reduce { x_shape: &[count / 2, 2], reduced: axes(&[0]), kind: ReduceKind::Mean }.run(&x, &mut y);
        assert!(y.iter().all(|mean| (f64::from(*mean) - exact).abs() < 0.01), "{y:?}, expected {exact}");
        // A mean of exponentials, by way of a softmax of equal numbers.
        let same = vec![3.0f32; count];
        let mut y = vec![0.0; count];
        Softmax { extent: count, inner: 1 }.run(&same, &mut y);
        assert!((f64::from(y[0]) * count as f64 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nan_is_largest_and_smallest_in_every_order() {
        for at in 0..4 {
            let mut x = [-5.0, 1.0, f32::INFINITY, 7.0];
            x[at] = f32::NAN;
            for kind in [ReduceKind::Max, ReduceKind::Min, ReduceKind::Sum, ReduceKind::Mean] {
                for shape in [[1, 4], [4, 1]] {
                    let mut y = [0.0];
                    Reduce { x_shape: &shape, reduced: axes(&[0, 1]), kind }.run(&x, &mut y);
                    assert!(y[0].is_nan(), "{kind:?} with NaN at {at}");
                }
            }
            for select_last in [false, true] {
                let mut y = [9];
                ArgMax { extent: 4, inner: 1, select_last }.run(&x, &mut y);
                assert_eq!(y, [at as i64]);
            }
        }
        let twice = [1.0, f32::NAN, f32::NAN, 2.0];
        let index = |select_last: bool| {
            let mut y = [9];
            ArgMax { extent: 4, inner: 1, select_last }.run(&twice, &mut y);
            y[0]
        };
        assert_eq!((index(false), index(true)), (1, 2));
        let lowest = [f32::NEG_INFINITY; 3];
        let mut y = [9];
        ArgMax { extent: 3, inner: 1, select_last: false }.run(&lowest, &mut y);
        assert_eq!(y, [0]);
    }

    #[test]
    fn integers_are_reduced_over_any_axes() {
        let x: Vec<i64> = (0..24).map(|n| if n == 17 { -1 } else { n }).collect();
        let reduce = |going: &[usize], kind: ReduceKind| {
            let shape = [2usize, 3, 4];
            let kept = (0..3).filter(|axis| !going.contains(axis)).map(|axis| shape[axis]).product();
            let mut y = vec![0i64; kept];
            Reduce { x_shape: &shape, reduced: axes(going), kind }.run(&x, &mut y);
            y
        };
        assert_eq!(reduce(&[0, 1, 2], ReduceKind::Sum), [276 - 18]);
        assert_eq!(reduce(&[1], ReduceKind::Max), [8, 9, 10, 11, 20, 21, 22, 23]);
        assert_eq!(reduce(&[0, 2], ReduceKind::Min), [0, -1, 8]);
        assert_eq!(reduce(&[1, 2], ReduceKind::Mean), [5, 16]);
        assert_eq!(reduce(&[], ReduceKind::Sum), x);
    }

    #[test]
    fn sums_wrap_around() {
        let mut y = [0u8];
        Reduce { x_shape: &[2], reduced: axes(&[0]), kind: ReduceKind::Sum }.run(&[200u8, 100], &mut y);
        assert_eq!(y, [44]);
    }

    #[test]
    fn the_largest_integer_is_found() {
        let x = [i64::MIN, i64::MAX, i64::MAX - 1, i64::MAX, -5, 7];
        let mut y = [9i64; 2];
        ArgMax { extent: 3, inner: 1, select_last: false }.run(&x, &mut y);
        assert_eq!(y, [1, 0]);
        let mut y = [9i64; 3];
        ArgMax { extent: 2, inner: 3, select_last: false }.run(&x, &mut y);
        assert_eq!(y, [1, 0, 0]);
        let mut y = [9i64];
        ArgMax { extent: 4, inner: 1, select_last: true }.run(&[3u8, 200, 200, 1], &mut y);
        assert_eq!(y, [2]);
    }
}
