//! How sure a head is: temperature, and the rule that ranks its answers best.

use crate::classifier::class;
use partita_rt::kernels::{Steady, confidence};

use partita_ir::graph::op::{ExitRule, Patience};

/// Weight of a temperature of 1, in samples.
const PRIOR_SAMPLES: f64 = 4.0;

/// Patience that is tried: answers of the same class before, and the part of the doubt that is then left.
const RUNS: [u32; 3] = [1, 2, 4];
const DOUBTS: [f32; 4] = [0.5, 0.25, 0.1, 0.03];

/// What patience must gain.
const CLEARLY: f64 = 1.001;

/// Scores of samples that the head has not learned from.
pub struct HeldOut<'a> {
    /// Row-major `[samples, classes]`.
    pub scores: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Class of each sample.
    pub labels: &'a [u32],
}

impl HeldOut<'_> {
    /// Temperature at which the labels are likeliest (Guo et al. 2017): golden section on its logarithm. Few samples
    /// move it little from 1.
    pub fn temperature(&self) -> f32 {
        let cost = |logarithm: f64| self.cost(logarithm.exp() as f32) + PRIOR_SAMPLES * logarithm * logarithm;
        let ratio = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (-2.0f64, 3.0f64);
        for _ in 0..40 {
            let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
            if cost(a) < cost(b) {
                high = b;
            } else {
                low = a;
            }
        }
        ((low + high) / 2.0).exp() as f32
    }

    /// Negative logarithm of the right class's probability, summed over samples.
    pub fn cost(&self, temperature: f32) -> f64 {
        let rows = self.scores.chunks_exact(self.classes).zip(self.labels);
        rows.map(|(row, label)| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|score| f64::from((score - largest) / temperature).exp()).sum();
            sum.ln() - f64::from((row[*label as usize] - largest) / temperature)
        })
        .sum()
    }

    /// Whether each answer is right.
    pub fn right(&self) -> Vec<bool> {
        let rows = self.scores.chunks_exact(self.classes).zip(self.labels);
        rows.map(|(row, label)| class(row) == *label as usize).collect()
    }

    /// Confidence of each answer.
    pub fn confidence(&self, rule: ExitRule, temperature: f32) -> Vec<f32> {
        let rows = self.scores.chunks_exact(self.classes);
        rows.map(|row| confidence(row, rule, Some(temperature))).collect()
    }

    /// Confidences of samples in the order of their stream, with patience.
    pub fn patient(&self, confidence: &[f32], patience: Patience) -> Vec<f32> {
        let mut steady = Steady::new();
        let rows = self.scores.chunks_exact(self.classes).zip(confidence);
        rows.map(|(row, confidence)| patience.confidence(*confidence, steady.note(row))).collect()
    }

    /// The patience under which the surest answers are right most often; none if it does not help.
    pub fn best_patience(&self, confidence: &[f32]) -> Option<Patience> {
        let right = self.right();
        let mut best = (worth(confidence, &right), None);
        for runs in RUNS {
            for doubt in DOUBTS {
                let patience = Patience { runs, doubt };
                let worth = worth(&self.patient(confidence, patience), &right);
                // A little better by chance is no better.
                if worth > best.0 * CLEARLY {
                    best = (worth, Some(patience));
                }
            }
        }
        best.1
    }

    /// The rule under which the surest answers are right most often: the largest mean accuracy over all coverages.
    pub fn best_rule(&self, temperature: f32) -> ExitRule {
        let right = self.right();
        let mut best = (f64::NEG_INFINITY, ExitRule::Probability);
        for rule in [ExitRule::Probability, ExitRule::Margin, ExitRule::Entropy] {
            let worth = worth(&self.confidence(rule, temperature), &right);
            if worth > best.0 {
                best = (worth, rule);
            }
        }
        best.1
    }
}

/// Mean accuracy over all coverages: of the surest answer, the two surest, and so on; times the number of answers.
fn worth(confidence: &[f32], right: &[bool]) -> f64 {
    let mut ranked: Vec<(f32, bool)> = confidence.iter().copied().zip(right.iter().copied()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut seen = 0usize;
    let accuracies = ranked.iter().enumerate().map(|(index, (_, right))| {
        seen += usize::from(*right);
        seen as f64 / (index + 1) as f64
    });
    accuracies.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_helps_where_the_same_comes_again() {
        // Runs of 10 samples of a class; one in three answers is wrong, and no surer than the others.
        let labels: Vec<u32> = (0..3000).map(|sample| sample / 10 % 2).collect();
        let wrong = |sample: usize| (sample * 7).is_multiple_of(3);
        let scores: Vec<f32> = (0..3000)
            .flat_map(|sample| if (labels[sample] == 0) != wrong(sample) { [0.6, 0.4] } else { [0.4, 0.6] })
            .collect();
        let seen = HeldOut { scores: &scores, classes: 2, labels: &labels };
        let confidence: Vec<f32> = scores.chunks(2).map(|row| row[0].max(row[1])).collect();
        let patience = seen.best_patience(&confidence).expect("what was said before helps");
        let sure = seen.patient(&confidence, patience).into_iter().zip(seen.right()).filter(|(c, _)| *c > 0.6);
        let (right, sure) = sure.fold((0, 0), |(right, all), (_, is_right)| (right + usize::from(is_right), all + 1));
        assert!(right * 10 > sure * 8, "{right} of {sure}");
        // Samples in no order: what was said before means nothing.
        let labels: Vec<u32> = (0..3000u32).map(|sample| sample.wrapping_mul(2_654_435_761) >> 31).collect();
        let certain = |sample: usize| 0.5 + 0.5 * (sample % 97) as f32 / 97.0;
        let scores: Vec<f32> = (0..3000)
            .flat_map(|sample| {
                let right = (sample * 31 % 100) as f32 / 100.0 < certain(sample);
                let (high, low) = (certain(sample), 1.0 - certain(sample));
                if (labels[sample] == 0) == right { [high, low] } else { [low, high] }
            })
            .collect();
        let seen = HeldOut { scores: &scores, classes: 2, labels: &labels };
        let confidence: Vec<f32> = scores.chunks(2).map(|row| row[0].max(row[1])).collect();
        assert_eq!(seen.best_patience(&confidence), None);
    }

    #[test]
    fn temperature_undoes_overconfidence() {
        // Right in 3 of 4, with scores that claim e^8 : 1.
        let scores: Vec<f32> = (0..8000).flat_map(|_| [8.0, 0.0]).collect();
        let labels: Vec<u32> = (0..8000).map(|sample| u32::from(sample % 4 == 0)).collect();
        let seen = HeldOut { scores: &scores, classes: 2, labels: &labels };
        let temperature = seen.temperature();
        let probability = seen.confidence(ExitRule::Probability, temperature)[0];
        assert!((probability - 0.75).abs() < 0.01, "temperature {temperature} gives {probability}");
        assert_eq!(seen.right().iter().filter(|right| **right).count(), 6000);
    }
}
