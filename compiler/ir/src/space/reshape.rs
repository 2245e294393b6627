//! A reshape as a map of axis factors: `[T, H * D]` to `[T, H, D]` is loops over T, H and D, in which the operand's second
//! index is `D * h + d`.

use super::AxisKind;
use super::operators::Loops;
use super::{Index, Role};

/// An axis of more than one index, with how many elements lie inside of one of its indices.
#[derive(Clone, Copy)]
struct Digit {
    axis: usize,
    extent: usize,
    inner: usize,
}

/// Indices of the operand and of the result for a reshape of `from` to `to`, which have as many elements.
pub(super) fn indices(loops: &mut Loops, from: &[usize], to: &[usize]) -> (Vec<Index>, Vec<Index>) {
    let mut sides = (vec![Index::default(); from.len()], vec![Index::default(); to.len()]);
    if from.contains(&0) {
        couple(loops, &mut sides.0, &digits(from, 0), from);
        couple(loops, &mut sides.1, &digits(to, 0), to);
        return sides;
    }
    let (operand, result) = (digits(from, from.iter().product()), digits(to, to.iter().product()));
    let (mut first, mut second) = (operand.as_slice(), result.as_slice());
    // Blocks: as few axes as possible of both sides that have as many elements.
    while !first.is_empty() && !second.is_empty() {
        let ends = (0..first.len()).flat_map(|a| (0..second.len()).map(move |b| (a, b)));
        let meet = ends.into_iter().find(|(a, b)| first[*a].inner == second[*b].inner);
        let (a, b) = meet.unwrap_or((first.len() - 1, second.len() - 1));
        block(loops, (&mut sides.0, &first[..=a]), (&mut sides.1, &second[..=b]));
        (first, second) = (&first[a + 1..], &second[b + 1..]);
    }
    sides
}

fn digits(shape: &[usize], elements: usize) -> Vec<Digit> {
    let mut inner = elements;
    let digit = |(axis, extent): (usize, &usize)| {
        inner /= (*extent).max(1);
        Digit { axis, extent: *extent, inner }
    };
    shape.iter().enumerate().map(digit).filter(|digit| digit.extent != 1).collect()
}

/// One block: loops over the common factors of both sides; if there are none, over the outermost common multiple, with
/// coupled loops inside.
fn block(loops: &mut Loops, (operand, from): (&mut [Index], &[Digit]), (result, to): (&mut [Index], &[Digit])) {
    let Some((last, outer)) = from.last().zip(from.first()) else { return };
    let (end, elements) = (last.inner, outer.extent * outer.inner);
    let mut borders: Vec<usize> = from.iter().chain(to).map(|digit| digit.inner).collect();
    borders.sort_unstable_by(|a, b| b.cmp(a));
    borders.dedup();
    let mut outside = elements;
    let factored = borders.iter().all(|border| std::mem::replace(&mut outside, *border).is_multiple_of(*border));
    if !factored {
        let common = to.first().map_or(elements, |to| least_common_multiple(outer.inner / end, to.inner / end) * end);
        borders = vec![common];
    }
    let mut outside = elements;
    for border in borders {
        let extent = std::mem::replace(&mut outside, border) / border;
        if extent == 1 {
            continue;
        }
        let axis = loops.axis(extent, AxisKind::Parallel, None);
        for (side, digits) in [(&mut *operand, from), (&mut *result, to)] {
            let around = digits.iter().find(|digit| digit.inner <= border && border < digit.inner * digit.extent);
            if let Some(digit) = around {
                side[digit.axis].terms.push((axis, (border / digit.inner) as isize));
            }
        }
    }
    if !factored {
        for (side, digits) in [(operand, from), (result, to)] {
            let within = |digit: &Digit| Digit { extent: digit.extent.min(outside / digit.inner), ..*digit };
            let rest: Vec<Digit> = digits.iter().map(within).filter(|digit| digit.extent > 1).collect();
            for digit in rest {
                let axis = loops.axis(digit.extent, AxisKind::Coupled, None);
                side[digit.axis].terms.push((axis, 1));
            }
        }
    }
}

/// One coupled loop for each axis.
fn couple(loops: &mut Loops, side: &mut [Index], digits: &[Digit], shape: &[usize]) {
    for digit in digits {
        let role: Option<Role> = None;
        let axis = loops.axis(shape[digit.axis], AxisKind::Coupled, role);
        side[digit.axis].terms.push((axis, 1));
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}
