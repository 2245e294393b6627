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

#[cfg(test)]
mod tests {
    use super::{Reduction, reduce_numbers};

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
}
