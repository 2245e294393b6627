//! Later heads that use what an earlier one has said: its scores, weighted, are added to theirs.
//!
//! What comes to a later exit has been looked at by the earlier ones, which were not sure; but they have often ruled most
//! classes out. Two heads that have learned from different features err on different samples, so their mean is better
//! than each. The weight is fitted on samples from which neither has learned.

use super::calibrate::HeldOut;

/// Weights that are tried, in units of the ratio of both temperatures.
const WEIGHTS: [f32; 7] = [0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0];

/// What must be gained in the mean logarithm of the right class's probability; less is chance.
const CLEARLY: f64 = 0.005;

/// How scores of two heads are put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// Weight of the earlier head's scores; 0 if they do not help.
    pub weight: f32,
    /// What the sum is divided by.
    pub temperature: f32,
}

/// Weight and temperature at which the labels are likeliest. Scores are row-major `[samples, classes]`.
pub fn fit(earlier: &[f32], later: &[f32], labels: &[u32], classes: usize) -> Fitted {
    let calm = |scores: &[f32]| HeldOut { scores, classes, labels }.temperature();
    let alike = calm(later) / calm(earlier);
    let enough = CLEARLY * labels.len() as f64;
    let mut best = (f64::INFINITY, Fitted { weight: 0.0, temperature: 1.0 });
    for weight in WEIGHTS.map(|weight| weight * alike) {
        let scores = together(earlier, later, weight);
        let seen = HeldOut { scores: &scores, classes, labels };
        let temperature = seen.temperature();
        let cost = seen.cost(temperature);
        if cost < best.0 - enough {
            best = (cost, Fitted { weight, temperature });
        }
    }
    best.1
}

/// Scores of both heads in one.
pub fn together(earlier: &[f32], later: &[f32], weight: f32) -> Vec<f32> {
    earlier.iter().zip(later).map(|(earlier, later)| later + weight * earlier).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::class;
    use partita_train::chance::Chance;

    /// Scores of a head that raises the right one of three classes by `skill`, in noise.
    fn scores(seed: u64, skill: f32, labels: &[u32]) -> Vec<f32> {
        let mut chance = Chance::new(seed);
        let right = labels.iter().flat_map(|label| (0..3).map(move |class| class == *label));
        right.map(|right| chance.normal() + if right { skill } else { 0.0 }).collect()
    }

    fn accuracy(scores: &[f32], labels: &[u32]) -> f64 {
        let right = scores.chunks_exact(3).zip(labels).filter(|(row, label)| class(row) == **label as usize);
        right.count() as f64 / labels.len() as f64
    }

    #[test]
    fn heads_that_err_on_different_samples_are_better_together() {
        let labels: Vec<u32> = (0..4000).map(|sample| sample % 3).collect();
        // The earlier head's scores are three times as large as they should be.
        let earlier: Vec<f32> = scores(1, 1.5, &labels).into_iter().map(|score| 3.0 * score).collect();
        let later = scores(2, 1.5, &labels);
        let (fitting, judging) = (0..3000, 3000..12000);
        let fitted = fit(&earlier[fitting.clone()], &later[fitting], &labels[..1000], 3);
        assert!((0.25..0.45).contains(&fitted.weight), "{fitted:?}");
        let both = together(&earlier[judging.clone()], &later[judging.clone()], fitted.weight);
        let alone = accuracy(&later[judging], &labels[1000..]);
        let better = accuracy(&both, &labels[1000..]);
        assert!(better > alone + 0.05, "{better} against {alone}");
    }

    #[test]
    fn a_head_that_knows_nothing_has_no_weight() {
        let labels: Vec<u32> = (0..1000).map(|sample| sample % 3).collect();
        let fitted = fit(&scores(3, 0.0, &labels), &scores(4, 2.0, &labels), &labels, 3);
        assert_eq!(fitted.weight, 0.0);
    }
}
