//! How sure a difference of accuracy is that was measured on some samples.

use std::ops::AddAssign;

use crate::bits::Bits;

/// Probability with which what is stated holds.
pub const CONFIDENCE: f64 = 0.9;

/// One-sided quantile of the normal distribution for that.
pub const QUANTILE: f64 = 1.2816;

/// What samples say of two classifiers, both of which have seen all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Samples for which only the first is right.
    pub lost: usize,
    /// Samples for which only the second is right.
    pub gained: usize,
    /// Samples.
    pub samples: usize,
    /// Squares of what each group of samples has lost, less what it has gained; a sample by itself is a group. Samples
    /// of one group (one patient) go wrong together, and that makes the sum less sure.
    pub squares: f64,
}

impl Difference {
    /// Of samples that do not go wrong together.
    pub fn of(lost: usize, gained: usize, samples: usize) -> Difference {
        Difference { lost, gained, samples, squares: (lost + gained) as f64 }
    }

    /// The same by the samples for which each classifier is right.
    pub fn between(first: &Bits, second: &Bits, samples: usize) -> Difference {
        Difference::of(first.without(second).count(), second.without(first).count(), samples)
    }

    /// Loss of accuracy on these samples.
    pub fn loss(&self) -> f64 {
        (self.lost as f64 - self.gained as f64) / self.samples.max(1) as f64
    }

    /// Loss of accuracy that is not exceeded with probability [`CONFIDENCE`]: the mean of the paired differences and
    /// their standard error, with half a sample added to both kinds (Agresti and Min 2005) so that few samples without
    /// a difference do not prove that there is none.
    pub fn loss_bound(&self) -> f64 {
        let samples = self.samples as f64 + 1.0;
        let (lost, gained) = (self.lost as f64 + 0.5, self.gained as f64 + 0.5);
        let variance = (self.squares + 1.0 - (lost - gained).powi(2) / samples).max(0.0);
        (lost - gained) / samples + QUANTILE * variance.sqrt() / samples
    }
}

impl AddAssign for Difference {
    fn add_assign(&mut self, other: Difference) {
        self.lost += other.lost;
        self.gained += other.gained;
        self.samples += other.samples;
        self.squares += other.squares;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_compared_sample_by_sample() {
        // Of 70 samples the first is right in 0 to 66, the second in all but 1, 2 and 69.
        let first = Bits::all(67);
        let second = Bits::of((0..70).map(|sample| ![1, 2, 69].contains(&sample)));
        assert_eq!(Difference::between(&first, &second, 70), Difference::of(2, 2, 70));
        assert_eq!(Difference::between(&first, &Bits::default(), 70), Difference::of(67, 0, 70));
    }

    #[test]
    fn a_loss_is_surer_the_more_samples_and_the_fewer_changes_there_are() {
        let (steady, restless) = (Difference::of(12, 2, 1000), Difference::of(110, 100, 1000));
        assert_eq!((steady.loss(), restless.loss()), (0.01, 0.01));
        assert!(steady.loss_bound() > 0.01 && steady.loss_bound() < 0.016, "{}", steady.loss_bound());
        assert!(restless.loss_bound() > 0.028, "{}", restless.loss_bound());
        assert!(Difference::of(0, 0, 50).loss_bound() > 0.02, "50 samples without a difference prove little");
    }
}
