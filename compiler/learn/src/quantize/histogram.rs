//! What a tensor holds, counted, and the range that a grid should reach over.

use serde::Serialize;

/// Bits of an `f32` that do not count: those that do are the sign, the exponent and six bits of the fraction, so a class of
/// numbers is at most 1/64 wide, relatively, and is the same whatever else was counted.
const IGNORED_BITS: u32 = 17;

/// Classes of numbers.
const CLASSES: usize = 1 << (32 - IGNORED_BITS);

/// Share of the elements that may lie outside on each side where a percentile is the range.
const OUTSIDE: f64 = 1e-4;

/// Ranges that are tried for the least error: this many, each the same factor smaller.
const TRIED: i32 = 60;

/// The factor.
const SHRINK: f64 = 0.96;

/// How a range is chosen from what was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeMethod {
    /// All that was seen.
    MinMax,
    /// All but one element in 10,000 on each side.
    Percentile,
    /// The range with the least mean square of what rounding and clipping change.
    #[default]
    LeastError,
}

impl RangeMethod {
    /// Every one of them.
    pub const ALL: [RangeMethod; 3] = [RangeMethod::MinMax, RangeMethod::Percentile, RangeMethod::LeastError];

    /// As options and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            RangeMethod::MinMax => "min-max",
            RangeMethod::Percentile => "percentile",
            RangeMethod::LeastError => "least-error",
        }
    }

    /// As help describes it.
    pub fn description(self) -> &'static str {
        match self {
            RangeMethod::MinMax => "All that was seen",
            RangeMethod::Percentile => "All but one element in 10,000 on each side",
            RangeMethod::LeastError => "The range with the least mean square error of rounding and clipping",
        }
    }
}

/// How often numbers were seen, by class.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u32>,
    low: f32,
    high: f32,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; CLASSES], low: 0.0, high: 0.0 }
    }
}

impl Histogram {
    /// Counts finite numbers.
    pub fn add(&mut self, elements: &[f32]) {
        for element in elements.iter().filter(|element| element.is_finite()) {
            let count = &mut self.counts[(element.to_bits() >> IGNORED_BITS) as usize];
            *count = count.saturating_add(1);
            (self.low, self.high) = (self.low.min(*element), self.high.max(*element));
        }
    }

    /// Counts what another one has counted.
    pub fn join(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own = own.saturating_add(*other));
        (self.low, self.high) = (self.low.min(other.low), self.high.max(other.high));
    }

    /// The range that a grid should reach over: ends at or beyond zero on both sides.
    pub fn range(&self, method: RangeMethod) -> (f32, f32) {
        match method {
            RangeMethod::MinMax => (self.low, self.high),
            RangeMethod::Percentile => self.percentile(),
            RangeMethod::LeastError => self.least_error(),
        }
    }

    /// Middle and count of each class that was seen, ascending.
    fn classes(&self) -> Vec<(f64, f64)> {
        let middle = |class: usize| {
            let bits = (class as u32) << IGNORED_BITS;
            // Zeros and what is next to nothing are exact on every grid.
            if bits << 1 == 0 { 0.0 } else { f64::from(f32::from_bits(bits | 1 << (IGNORED_BITS - 1))) }
        };
        let seen = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let mut seen: Vec<(f64, f64)> = seen.map(|(class, count)| (middle(class), f64::from(*count))).collect();
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        seen
    }

    fn percentile(&self) -> (f32, f32) {
        let classes = self.classes();
        let total: f64 = classes.iter().map(|(_, count)| count).sum();
        let end = |classes: &mut dyn Iterator<Item = &(f64, f64)>| {
            let mut outside = 0.0;
            for (middle, count) in classes {
                outside += count;
                if outside > total * OUTSIDE {
                    return *middle as f32;
                }
            }
            0.0
        };
        (end(&mut classes.iter()).max(self.low).min(0.0), end(&mut classes.iter().rev()).min(self.high).max(0.0))
    }

    fn least_error(&self) -> (f32, f32) {
        let classes = self.classes();
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let tried = (0..TRIED).map(|times| {
            let factor = SHRINK.powi(times);
            let (low, high) = (low * factor, high * factor);
            (error(&classes, low, high), low, high)
        });
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or((0.0, 0.0), |(_, low, high)| (low as f32, high as f32))
    }
}

/// Sum of squares of what a grid of 256 numbers from `low` to `high` changes.
fn error(classes: &[(f64, f64)], low: f64, high: f64) -> f64 {
    let scale = (high - low) / 255.0;
    if scale <= 0.0 {
        return 0.0;
    }
    let of_class = |(middle, count): &(f64, f64)| {
        let change = if *middle < low {
            (low - middle).powi(2)
        } else if *middle > high {
            (middle - high).powi(2)
        } else if middle.abs() < 8.0 * scale {
            ((middle / scale).round() * scale - middle).powi(2)
        } else {
            // Here a class is wider than steps are apart: its numbers lie anywhere between two of them.
            scale * scale / 12.0
        };
        change * count
    };
    classes.iter().map(of_class).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many small numbers, and one large.
    fn outlier() -> Histogram {
        let mut seen = Histogram::default();
        let small: Vec<f32> = (0..1_000_000).map(|index| (index % 1000) as f32 / 1000.0).collect();
        seen.add(&small);
        seen.add(&[10.0, f32::NAN, f32::INFINITY]);
        seen
    }

    #[test]
    fn methods_differ_by_what_they_make_of_outliers() {
        let seen = outlier();
        assert_eq!(seen.range(RangeMethod::MinMax), (0.0, 10.0));
        let (low, high) = seen.range(RangeMethod::Percentile);
        assert!(low == 0.0 && (0.98..1.02).contains(&high), "{high}");
        let (low, high) = seen.range(RangeMethod::LeastError);
        assert!(low == 0.0 && (0.9..6.0).contains(&high), "{high}");
        // Steps of 10 / 255 change a million numbers by more than clipping changes one.
        let classes = seen.classes();
        assert!(error(&classes, 0.0, f64::from(high)) < error(&classes, 0.0, 10.0) * 0.8);
    }

    #[test]
    fn what_two_have_counted_is_what_one_counts() {
        let mut halves = Histogram::default();
        let numbers: Vec<f32> = (-500..500).map(|index| index as f32 * 0.37).collect();
        for half in numbers.chunks(500) {
            let mut other = Histogram::default();
            other.add(half);
            halves.join(&other);
        }
        let mut whole = Histogram::default();
        whole.add(&numbers);
        assert_eq!(halves, whole);
        let (low, high) = whole.range(RangeMethod::LeastError);
        assert!(low <= -150.0 && high >= 150.0, "evenly spread numbers are not clipped: {low} {high}");
        assert_eq!(Histogram::default().range(RangeMethod::LeastError), (0.0, 0.0));
    }
}
