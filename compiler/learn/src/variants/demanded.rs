//! What variants must keep of the accuracy.

use super::scores::Score;
use crate::accuracy::{Evidence, Limits};

/// Loss of accuracy beyond which no variant is wanted, unless the user says otherwise.
const DEFAULT_LOSS: f64 = 0.05;

/// What variants must keep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demanded {
    /// Losses hold with 90 % probability, for each variant by itself; an accuracy on the samples that judge.
    pub limits: Limits,
    /// By how much samples are harder outside.
    pub gap: f64,
}

impl Demanded {
    /// Least accuracy that is wanted, on the samples on which the whole network has this.
    pub fn floor(&self, whole: Score) -> f64 {
        let by_loss = self.limits.max_loss.map(|loss| whole.accuracy() - loss);
        let floors = [by_loss, self.limits.min_accuracy.map(|least| least + self.gap)];
        floors.into_iter().flatten().reduce(f64::max).unwrap_or(whole.accuracy() - DEFAULT_LOSS)
    }

    /// What may be lost of the accuracy that the whole network has.
    pub fn allowed_loss(&self, whole: Score) -> f64 {
        (whole.accuracy() - self.floor(whole)).max(0.0)
    }

    /// Whether a variant keeps everything, by samples that did not guide the search.
    pub fn is_kept(&self, whole: Score, own: Score, evidence: &Evidence) -> bool {
        let losses = Limits { min_accuracy: None, ..self.limits };
        own.accuracy() >= self.floor(whole) && losses.allow(&evidence.proven(self.gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(right: usize) -> Score {
        Score { right, nll: 0.0, samples: 1000 }
    }

    #[test]
    fn each_limit_is_a_floor_and_losses_are_proven() {
        // Of a thousand samples, 10 of the first of two classes are lost.
        let changes: Vec<i8> = (0..1000).map(|at| i8::from(at < 10)).collect();
        let labels: Vec<u32> = (0..1000).map(|at| u32::from(at >= 100)).collect();
        let evidence = Evidence::of(&changes, &[true; 1000], &labels, 2, None);
        let kept = |limits: Limits, gap: f64| Demanded { limits, gap }.is_kept(score(1000), score(990), &evidence);
        let loss = |loss: f64| Limits { max_loss: Some(loss), ..Limits::default() };
        assert!(kept(Limits::default(), 0.0), "5 points by default");
        assert!(kept(loss(0.015), 0.0) && !kept(loss(0.013), 0.0) && !kept(loss(0.015), 0.002));
        let accuracy = |least: f64| Limits { min_accuracy: Some(least), ..Limits::default() };
        assert!(kept(accuracy(0.99), 0.0) && !kept(accuracy(0.991), 0.0) && !kept(accuracy(0.99), 0.001));
        assert!(kept(Limits { max_class_loss: Some(0.15), ..Limits::default() }, 0.0));
        assert!(!kept(Limits { max_class_loss: Some(0.12), ..Limits::default() }, 0.0));
        let both = Demanded { limits: Limits { min_accuracy: Some(0.9), ..loss(0.02) }, gap: 0.0 };
        assert!((both.floor(score(950)) - 0.93).abs() < 1e-12 && (both.floor(score(910)) - 0.9).abs() < 1e-12);
        assert!((Demanded::default().floor(score(950)) - 0.9).abs() < 1e-12);
        assert!((Demanded::default().allowed_loss(score(950)) - 0.05).abs() < 1e-12);
        assert_eq!(Demanded { limits: accuracy(0.97), gap: 0.0 }.allowed_loss(score(950)), 0.0);
    }
}
