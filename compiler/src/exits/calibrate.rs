//! How sure a head is: temperature, and the rule that ranks its answers best.

use partita_rt::kernels::{Confidence, confidence};

use crate::graph::op::ExitRule;

/// Weight of a temperature of 1, in samples.
const PRIOR_SAMPLES: f64 = 4.0;

/// Scores of samples that the head has not learned from.
pub struct Seen<'a> {
    /// Row-major `[samples, classes]`.
    pub scores: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Class of each sample.
    pub labels: &'a [u32],
}

/// The runtime's name of a rule.
pub fn kernel_rule(rule: ExitRule) -> Confidence {
    match rule {
        ExitRule::Probability => Confidence::Probability,
        ExitRule::Margin => Confidence::Margin,
        ExitRule::Entropy => Confidence::Entropy,
    }
}

impl Seen<'_> {
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

    /// Mean negative logarithm of the right class's probability.
    fn cost(&self, temperature: f32) -> f64 {
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
        rows.map(|row| confidence(row, kernel_rule(rule), Some(temperature))).collect()
    }

    /// The rule under which the surest answers are right most often: the largest mean accuracy over all coverages.
    pub fn best_rule(&self, temperature: f32) -> ExitRule {
        let right = self.right();
        let worth = |rule: ExitRule| {
            let mut ranked: Vec<(f32, bool)> =
                self.confidence(rule, temperature).into_iter().zip(right.iter().copied()).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut seen = 0usize;
            let accuracies = ranked.iter().enumerate().map(|(index, (_, right))| {
                seen += usize::from(*right);
                seen as f64 / (index + 1) as f64
            });
            accuracies.sum::<f64>()
        };
        let mut best = (f64::NEG_INFINITY, ExitRule::Probability);
        for rule in [ExitRule::Probability, ExitRule::Margin, ExitRule::Entropy] {
            let worth = worth(rule);
            if worth > best.0 {
                best = (worth, rule);
            }
        }
        best.1
    }
}

/// Index of the largest score, the first of equals.
pub fn class(scores: &[f32]) -> usize {
    scores.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, s)| if *s > best.1 { (i, *s) } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_undoes_overconfidence() {
        // Right in 3 of 4, with scores that claim e^8 : 1.
        let scores: Vec<f32> = (0..8000).flat_map(|_| [8.0, 0.0]).collect();
        let labels: Vec<u32> = (0..8000).map(|sample| u32::from(sample % 4 == 0)).collect();
        let seen = Seen { scores: &scores, classes: 2, labels: &labels };
        let temperature = seen.temperature();
        let probability = seen.confidence(ExitRule::Probability, temperature)[0];
        assert!((probability - 0.75).abs() < 0.01, "temperature {temperature} gives {probability}");
        assert_eq!(seen.right().iter().filter(|right| **right).count(), 6000);
    }
}
