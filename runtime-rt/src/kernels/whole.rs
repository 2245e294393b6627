//! Reductions of numbers of any type, in the type's own arithmetic; those of `f32` have forms of their own.

use super::{BinaryFunction, MAX_RANK, Reduction, Walk, strides};
use crate::elements::Number;

/// Reduces over the axes whose `reduced` flag is set; `y` has one element per remaining index, in order.
pub fn reduce_numbers<T: Number>(x: &[T], x_shape: &[usize], y: &mut [T], reduced: &[bool], reduction: Reduction) {
    let own = strides(x_shape);
    let (mut kept, mut folded) = ([1usize; MAX_RANK], [1usize; MAX_RANK]);
    let mut count = 1;
    for (((kept, folded), extent), reduced) in kept.iter_mut().zip(&mut folded).zip(x_shape).zip(reduced) {
        if *reduced {
            *folded = *extent;
            count *= extent;
        } else {
            *kept = *extent;
        }
    }
    let rank = x_shape.len().min(MAX_RANK);
    let function = match reduction {
        Reduction::Mean | Reduction::Sum => BinaryFunction::Add,
        Reduction::Max => BinaryFunction::Max,
        Reduction::Min => BinaryFunction::Min,
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
        *out = if reduction == Reduction::Mean { T::mean(result, count) } else { result };
        outer.step();
    }
}

/// Index of the largest element along an axis with `extent` elements that lie `inner` apart; the first of equals, or
/// the last with `select_last`.
pub fn arg_max_numbers<T: Number>(x: &[T], y: &mut [i64], extent: usize, inner: usize, select_last: bool) {
    let outs = y.chunks_exact_mut(inner.max(1));
    for (block, outs) in x.chunks_exact((extent * inner).max(1)).zip(outs) {
        for (offset, out) in outs.iter_mut().enumerate() {
            let mut largest: Option<(i64, T)> = None;
            for (index, element) in (0..).zip(block.iter().skip(offset).step_by(inner.max(1))) {
                let more = |best: T| *element > best || select_last && *element == best;
                if largest.is_none_or(|(_, best)| more(best)) {
                    largest = Some((index, *element));
                }
            }
            *out = largest.map_or(0, |(index, _)| index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Reduction, arg_max_numbers, reduce_numbers};

    #[test]
    fn integers_are_reduced_over_any_axes() {
        let x: Vec<i64> = (0..24).map(|n| if n == 17 { -1 } else { n }).collect();
        let reduce = |flags: [bool; 3], reduction: Reduction| {
            let shape = [2usize, 3, 4];
            let kept = shape.iter().zip(flags).filter(|(_, reduced)| !reduced).map(|(extent, _)| extent).product();
            let mut y = vec![0i64; kept];
            reduce_numbers(&x, &shape, &mut y, &flags, reduction);
            y
        };
        assert_eq!(reduce([true, true, true], Reduction::Sum), [276 - 18]);
        assert_eq!(reduce([false, true, false], Reduction::Max), [8, 9, 10, 11, 20, 21, 22, 23]);
        assert_eq!(reduce([true, false, true], Reduction::Min), [0, -1, 8]);
        assert_eq!(reduce([false, true, true], Reduction::Mean), [5, 16]);
        assert_eq!(reduce([false, false, false], Reduction::Sum), x);
    }

    #[test]
    fn sums_wrap_around() {
        let mut y = [0u8];
        reduce_numbers(&[200u8, 100], &[2], &mut y, &[true], Reduction::Sum);
        assert_eq!(y, [44]);
    }

    #[test]
    fn the_largest_integer_is_found() {
        let x = [i64::MIN, i64::MAX, i64::MAX - 1, i64::MAX, -5, 7];
        let mut y = [9i64; 2];
        arg_max_numbers(&x, &mut y, 3, 1, false);
        assert_eq!(y, [1, 0]);
        let mut y = [9i64; 3];
        arg_max_numbers(&x, &mut y, 2, 3, false);
        assert_eq!(y, [1, 0, 0]);
        let mut y = [9i64];
        arg_max_numbers(&[3u8, 200, 200, 1], &mut y, 4, 1, true);
        assert_eq!(y, [2]);
    }
}
