//! How sure a difference of accuracy is that was measured on some samples.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::bits::Bits;

/// One-sided quantile of the normal distribution for 90 %, the probability with which what is stated holds.
pub const QUANTILE: f64 = 1.2816;

/// Nobody has more samples than this.
const MOST_SAMPLES: usize = 1 << 40;

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

    /// Of what each sample has lost (1) or gained (-1). Samples of one group (one patient) go wrong together.
    pub fn of_samples(changes: &[i8], groups: Option<&[u32]>) -> Difference {
        let count = |wanted: i8| changes.iter().filter(|change| **change == wanted).count();
        let plain = Difference::of(count(1), count(-1), changes.len());
        let Some(groups) = groups else { return plain };
        let mut by_group: BTreeMap<u32, f64> = BTreeMap::new();
        for (change, group) in changes.iter().zip(groups) {
            *by_group.entry(*group).or_default() += f64::from(*change);
        }
        let few = by_group.len() as f64 / (by_group.len().max(2) - 1) as f64;
        Difference { squares: few * by_group.values().map(|change| change * change).sum::<f64>(), ..plain }
    }

    /// Loss of accuracy on these samples.
    pub fn loss(&self) -> f64 {
        (self.lost as f64 - self.gained as f64) / self.samples.max(1) as f64
    }

    /// Loss of accuracy that is not exceeded with 90 % probability: the mean of the paired differences and
    /// their standard error, with half a sample added to both kinds (Agresti and Min 2005) so that few samples without
    /// a difference do not prove that there is none.
    pub fn loss_bound(&self) -> f64 {
        bound(self.lost as f64, self.gained as f64, self.squares, self.samples as f64)
    }

    /// How many samples would prove a limit, about, if as large a share of them changed as of these; none if these lose
    /// as much as the limit.
    pub fn samples_for(&self, limit: f64) -> Option<usize> {
        if self.loss() >= limit {
            return None;
        }
        let scaled = |samples: usize| {
            let times = samples as f64 / self.samples.max(1) as f64;
            bound(self.lost as f64 * times, self.gained as f64 * times, self.squares * times, samples as f64)
        };
        least(|samples| scaled(samples) <= limit)
    }
}

/// Least loss that so many samples can prove: that of exits or variants which change no answer.
pub fn least_loss(samples: usize) -> f64 {
    Difference::of(0, 0, samples).loss_bound()
}

/// How many samples can prove a limit at best; none if no number can.
pub fn samples_for(limit: f64) -> Option<usize> {
    (limit > 0.0).then(|| least(|samples| least_loss(samples) <= limit)).flatten()
}

/// How many more of so many answers may be lost than gained, at most, within a limit; none if not even 0.
pub fn most_lost(samples: usize, limit: f64) -> Option<usize> {
    let keeps = |lost: usize| Difference::of(lost, 0, samples).loss_bound() <= limit;
    (0..=samples).take_while(|lost| keeps(*lost)).last()
}

/// Least number for which something holds that goes on to hold for all larger ones.
fn least(holds: impl Fn(usize) -> bool) -> Option<usize> {
    let mut most = 1;
    while !holds(most) {
        most *= 2;
        if most > MOST_SAMPLES {
            return None;
        }
    }
    let mut below = most / 2;
    while most - below > 1 {
        let middle = below + (most - below) / 2;
        if holds(middle) { most = middle } else { below = middle }
    }
    Some(most)
}

/// The bound of [`Difference::loss_bound`], of numbers that need not be whole.
fn bound(lost: f64, gained: f64, squares: f64, samples: f64) -> f64 {
    let (samples, lost, gained) = (samples + 1.0, lost + 0.5, gained + 0.5);
    let variance = (squares + 1.0 - (lost - gained).powi(2) / samples).max(0.0);
    (lost - gained) / samples + QUANTILE * variance.sqrt() / samples
}

/// Share of right answers that is reached with 90 % probability (Wilson 1927), where `right` of `samples` were;
/// so few wrong ones that there are none do not prove that there never are. Where samples go wrong in groups of
/// `alike`, there are as many fewer of them.
pub fn share_bound(right: f64, samples: f64, alike: f64) -> f64 {
    let independent = (samples / alike.max(1.0)).max(1.0);
    let (share, z2) = (right / samples.max(1.0), QUANTILE * QUANTILE);
    let middle = share + z2 / (2.0 * independent);
    let reach = QUANTILE * (share * (1.0 - share) / independent + z2 / (4.0 * independent * independent)).sqrt();
    ((middle - reach) / (1.0 + z2 / independent)).max(0.0)
}

/// Range in which a share of so many samples lies with 95 % probability (Wilson's interval).
pub fn share_range(share: f64, samples: usize) -> (f64, f64) {
    let (n, p, z) = (samples.max(1) as f64, share, 1.96f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / (1.0 + z * z / n);
    (middle - half, middle + half)
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

    #[test]
    fn what_so_many_samples_can_prove_is_arithmetic() {
        // 1.2816 / (N + 1).
        assert!((least_loss(360) - 1.2816 / 361.0).abs() < 1e-12);
        assert_eq!(samples_for(0.01), Some(128));
        assert!(least_loss(128) <= 0.01 && least_loss(127) > 0.01);
        assert_eq!((samples_for(0.0), samples_for(-0.1)), (None, None));
        // 1 + 1.2816 sqrt(2) < 3.61 < 2 + 1.2816 sqrt(3).
        assert_eq!((most_lost(360, 0.01), most_lost(127, 0.01), most_lost(128, 0.01)), (Some(1), None, Some(0)));
        for (samples, limit) in [(100, 0.02), (492, 0.01), (5000, 0.003)] {
            let most = most_lost(samples, limit).expect("no change is enough");
            assert!(Difference::of(most, 0, samples).loss_bound() <= limit);
            assert!(Difference::of(most + 1, 0, samples).loss_bound() > limit);
        }
    }

    #[test]
    fn more_samples_with_the_same_shares_prove_the_limit() {
        let seen = Difference::of(6, 3, 400);
        assert!(seen.loss_bound() > 0.01);
        let needed = seen.samples_for(0.01).expect("it loses less");
        let times = needed as f64 / 400.0;
        let there = |times: f64| bound(6.0 * times, 3.0 * times, 9.0 * times, 400.0 * times);
        assert!(there(times) <= 0.01 + 1e-9 && there(times * 0.98) > 0.01, "{needed}");
        assert_eq!(Difference::of(8, 2, 400).samples_for(0.015), None, "it loses as much as the limit");
        assert_eq!(Difference::of(0, 0, 100).samples_for(0.01), Some(128));
    }

    #[test]
    fn a_share_of_all_is_no_certainty() {
        let bound = |right: f64, samples: f64| share_bound(right, samples, 1.0);
        assert!((bound(100.0, 100.0) - 1.0 / (1.0 + 1.2816 * 1.2816 / 100.0)).abs() < 1e-12);
        // As the normal approximation says where there are many.
        let plain = 0.9 - 1.2816 * (0.09f64 / 10_000.0).sqrt();
        assert!((bound(9000.0, 10_000.0) - plain).abs() < 1e-4);
        assert!(share_bound(90.0, 100.0, 5.0) < bound(90.0, 100.0), "samples that go wrong together prove less");
        assert!(bound(0.0, 10.0) < 1e-12);
    }

    #[test]
    fn groups_of_one_are_samples() {
        let changes = [1, 0, -1, 0, 0, 1, 0, 0];
        let alone: Vec<u32> = (0..8).collect();
        let (plain, grouped) = (Difference::of_samples(&changes, None), Difference::of_samples(&changes, Some(&alone)));
        assert_eq!(plain, Difference::of(2, 1, 8));
        assert!((grouped.squares - plain.squares * 8.0 / 7.0).abs() < 1e-12);
        let pairs = [0, 1, 1, 2, 2, 0, 3, 3];
        assert_eq!(Difference::of_samples(&changes, Some(&pairs)).squares, 4.0 / 3.0 * (4.0 + 1.0));
    }
}
