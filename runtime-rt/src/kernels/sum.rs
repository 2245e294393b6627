//! Sums of many numbers, and the largest and smallest of many.
//!
//! Adding a million numbers one after the other loses as many roundings; here a sum of some numbers moves on to a sum of
//! such sums, so that no number takes part in more than a few hundred additions, however many there are.

/// Numbers that are added one after the other before their sum moves up a level.
const BLOCK: u32 = 64;

/// Levels: `BLOCK` to this power is more than any tensor holds.
const LEVELS: usize = 6;

/// Elements that are folded beside each other.
pub(super) const LANES: usize = 16;

/// A way to make one number of many, for `LANES` of them at once.
pub(super) trait Fold {
    /// Of nothing; changes nothing where it is joined.
    const NEUTRAL: f32;

    /// Nothing yet.
    fn new() -> Self;

    /// Takes the next element of every lane.
    fn add(&mut self, elements: &[f32; LANES]);

    /// What each lane has come to.
    fn lanes(&self) -> [f32; LANES];

    /// Two into one.
    fn join(a: f32, b: f32) -> f32;

    /// Takes the elements of a row, whatever their number.
    fn add_row(&mut self, row: &[f32], map: impl Fn(f32) -> f32) {
        let whole = row.chunks_exact(LANES);
        let rest = whole.remainder();
        for elements in whole {
            let mut mapped = [Self::NEUTRAL; LANES];
            for (slot, element) in mapped.iter_mut().zip(elements) {
                *slot = map(*element);
            }
            self.add(&mapped);
        }
        if !rest.is_empty() {
            let mut elements = [Self::NEUTRAL; LANES];
            for (slot, element) in elements.iter_mut().zip(rest) {
                *slot = map(*element);
            }
            self.add(&elements);
        }
    }

    /// All lanes in one.
    fn total(&self) -> f32 {
        self.lanes().into_iter().fold(Self::NEUTRAL, Self::join)
    }
}

/// Sums in blocks.
pub(super) struct Sums<const N: usize> {
    levels: [[f32; N]; LEVELS],
    counts: [u32; LEVELS],
}

impl<const N: usize> Sums<N> {
    fn empty() -> Sums<N> {
        Sums { levels: [[0.0; N]; LEVELS], counts: [0; LEVELS] }
    }

    #[inline(always)]
    fn push(&mut self, elements: &[f32; N]) {
        for (sum, element) in self.levels[0].iter_mut().zip(elements) {
            *sum += element;
        }
        self.counts[0] += 1;
        if self.counts[0] == BLOCK {
            self.carry();
        }
    }

    /// Moves full blocks up.
    fn carry(&mut self) {
        let mut carried: Option<[f32; N]> = None;
        let mut left = LEVELS;
        for (level, count) in self.levels.iter_mut().zip(&mut self.counts) {
            left -= 1;
            if let Some(carried) = carried {
                for (sum, element) in level.iter_mut().zip(carried) {
                    *sum += element;
                }
                *count += 1;
            }
            // The last one has nowhere to go.
            if *count < BLOCK || left == 0 {
                return;
            }
            carried = Some(core::mem::replace(level, [0.0; N]));
            *count = 0;
        }
    }

    fn sums(&self) -> [f32; N] {
        let mut sums = [0.0; N];
        for level in &self.levels {
            for (sum, element) in sums.iter_mut().zip(level) {
                *sum += element;
            }
        }
        sums
    }
}

impl Fold for Sums<LANES> {
    const NEUTRAL: f32 = 0.0;

    fn new() -> Self {
        Sums::empty()
    }

    #[inline(always)]
    fn add(&mut self, elements: &[f32; LANES]) {
        self.push(elements);
    }

    fn lanes(&self) -> [f32; LANES] {
        self.sums()
    }

    fn join(a: f32, b: f32) -> f32 {
        a + b
    }
}

/// The sum of what an iterator gives, in blocks.
#[inline]
pub(super) fn sum(mut elements: impl Iterator<Item = f32>) -> f32 {
    // Most windows are a single block.
    let mut first = 0.0;
    for _ in 0..BLOCK {
        match elements.next() {
            Some(element) => first += element,
            None => return first,
        }
    }
    let mut sums = Sums::<1>::empty();
    for element in elements {
        sums.push(&[element]);
    }
    let [rest] = sums.sums();
    first + rest
}

/// The larger of two; NaN if either is, in whatever order they come.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller of two; NaN if either is, in whatever order they come.
#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

/// The largest of what an iterator gives, or NaN if one of them is; minus infinity of nothing.
#[inline]
pub(super) fn largest(elements: impl Iterator<Item = f32>) -> f32 {
    elements.fold(f32::NEG_INFINITY, larger)
}

/// The largest elements.
pub(super) struct Largest([f32; LANES]);

impl Fold for Largest {
    const NEUTRAL: f32 = f32::NEG_INFINITY;

    fn new() -> Self {
        Largest([Self::NEUTRAL; LANES])
    }

    #[inline(always)]
    fn add(&mut self, elements: &[f32; LANES]) {
        for (best, element) in self.0.iter_mut().zip(elements) {
            *best = larger(*best, *element);
        }
    }

    fn lanes(&self) -> [f32; LANES] {
        self.0
    }

    fn join(a: f32, b: f32) -> f32 {
        larger(a, b)
    }
}

/// The smallest elements.
pub(super) struct Smallest([f32; LANES]);

impl Fold for Smallest {
    const NEUTRAL: f32 = f32::INFINITY;

    fn new() -> Self {
        Smallest([Self::NEUTRAL; LANES])
    }

    #[inline(always)]
    fn add(&mut self, elements: &[f32; LANES]) {
        for (best, element) in self.0.iter_mut().zip(elements) {
            *best = smaller(*best, *element);
        }
    }

    fn lanes(&self) -> [f32; LANES] {
        self.0
    }

    fn join(a: f32, b: f32) -> f32 {
        smaller(a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers around 1000, the same on every machine.
    fn numbers(count: usize) -> impl Iterator<Item = f32> + Clone {
        (0..count as u32).map(|index| 1000.0 + (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32)
    }

    #[test]
    fn long_sums_are_those_of_f64() {
        // Miri takes its time.
        let count = if cfg!(miri) { 10_000 } else { 10_000_000 };
        let exact: f64 = numbers(count).map(f64::from).sum();
        let error = |sum: f32| (f64::from(sum) - exact).abs() / exact;
        assert!(error(sum(numbers(count))) < 1e-6, "one at a time: {}", error(sum(numbers(count))));
        let mut sums = Sums::<LANES>::new();
        let mut row = [0.0f32; 1000];
        let mut elements = numbers(count);
        for _ in 0..count / row.len() {
            row.fill_with(|| elements.next().unwrap_or_default());
            sums.add_row(&row, |x| x);
        }
        assert!(error(sums.total()) < 1e-6, "by lanes: {}", error(sums.total()));
        // The same number again and again: every rounding has the same sign.
        let same = sum(core::iter::repeat_n(1000.3, count)) as f64 / count as f64;
        assert!((same - 1000.3f32 as f64).abs() < 1e-3, "{same}");
    }

    #[test]
    fn short_sums_are_what_they_were() {
        assert_eq!(sum([].into_iter()), 0.0);
        assert_eq!(sum([1.0, 2.0, 3.5].into_iter()), 6.5);
        for count in [1, 15, 16, 17, 63, 64, 65, 4096, 4097] {
            let mut sums = Sums::<LANES>::new();
            for _ in 0..3 {
                // Whole numbers are exact in any order.
                let row: [f32; 5000] = core::array::from_fn(|index| (index % 7) as f32);
                sums.add_row(&row[..count], |x| x * 2.0);
            }
            let exact: usize = (0..count).map(|index| index % 7).sum();
            assert_eq!(sums.total(), 6.0 * exact as f32, "{count} elements");
            assert_eq!(sum((0..count).map(|index| (index % 7) as f32)), exact as f32, "{count} elements");
        }
    }

    #[test]
    fn nan_is_the_answer_wherever_it_stands() {
        for at in 0..40 {
            let mut row = [1.0f32; 40];
            row[7] = f32::INFINITY;
            row[11] = f32::NEG_INFINITY;
            row[at] = f32::NAN;
            let (mut largest_of_row, mut smallest_of_row) = (Largest::new(), Smallest::new());
            largest_of_row.add_row(&row, |x| x);
            smallest_of_row.add_row(&row, |x| x);
            assert!(largest_of_row.total().is_nan() && smallest_of_row.total().is_nan(), "NaN at {at}");
            assert!(largest(row.into_iter()).is_nan(), "NaN at {at}");
        }
        assert!(larger(f32::NAN, 1.0).is_nan() && larger(1.0, f32::NAN).is_nan());
        assert!(smaller(f32::NAN, 1.0).is_nan() && smaller(1.0, f32::NAN).is_nan());
        assert_eq!((larger(1.0, 2.0), smaller(1.0, 2.0)), (2.0, 1.0));
    }
}
