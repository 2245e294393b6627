//! The decision of an early exit.

/// What counts as confidence of scores; between 0 and 1, larger is surer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub enum ExitRule {
    /// The largest probability.
    Probability,
    /// The largest probability less the second largest.
    Margin,
    /// 1 less the entropy of the probabilities, relative to that of equal ones.
    Entropy,
}

/// In a stream of samples, an exit that has said the same for some time is surer (temporal patience; Sponner et al.
/// 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct Patience {
    /// How many answers before this one must have been of the same class.
    pub runs: u32,
    /// Part of the doubt that is then left.
    pub doubt: f32,
}

/// What an exit has said lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    class: Option<u32>,
    runs: u32,
}

impl Default for Steady {
    fn default() -> Self {
        Steady::new()
    }
}

impl Steady {
    /// Nothing yet.
    pub const fn new() -> Steady {
        Steady { class: None, runs: 0 }
    }

    /// Takes note of scores; how many answers before them were of the same class.
    pub fn note(&mut self, scores: &[f32]) -> u32 {
        let mut best: Option<(u32, f32)> = None;
        for (class, score) in (0u32..).zip(scores) {
            if !score.is_nan() && best.is_none_or(|(_, most)| *score > most) {
                best = Some((class, *score));
            }
        }
        let class = best.map(|(class, _)| class);
        self.runs = if class.is_some() && class == self.class { self.runs.saturating_add(1) } else { 0 };
        self.class = class;
        self.runs
    }
}

impl Patience {
    /// The confidence after so many answers of the same class; none stays none.
    pub fn confidence(&self, confidence: f32, runs: u32) -> f32 {
        if runs >= self.runs && confidence > 0.0 { 1.0 - (1.0 - confidence) * self.doubt } else { confidence }
    }
}

/// The decision of an exit: 1 (leave) or 0 (go on), and the confidence of the scores. Scores that are not numbers never
/// leave.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Decide {
    /// What counts.
    pub rule: ExitRule,
    /// What scores are divided by before they become probabilities by softmax; without, they are probabilities already.
    pub temperature: Option<f32>,
    /// What the answers before count; nothing if there is none.
    pub patience: Option<Patience>,
}

impl Decide {
    /// Writes the two numbers to `verdict`; it leaves from a confidence of `threshold` on. `steady` is what the exit has said
    /// before; without it there is no patience.
    pub fn run(&self, scores: &[f32], verdict: &mut [f32], threshold: f32, steady: Option<&mut Steady>) {
        let mut confidence = confidence(scores, self.rule, self.temperature);
        if let (Some(patience), Some(steady)) = (self.patience, steady) {
            confidence = patience.confidence(confidence, steady.note(scores));
        }
        if let [leave, seen] = verdict {
            *leave = if confidence >= threshold { 1.0 } else { 0.0 };
            *seen = confidence;
        }
    }
}

/// Whether a verdict says that the inference ends.
pub fn leaves(verdict: &[f32]) -> bool {
    verdict.first().is_some_and(|leave| *leave > 0.5)
}

/// The confidence of scores; 0 if they are not numbers.
pub fn confidence(scores: &[f32], rule: ExitRule, temperature: Option<f32>) -> f32 {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    let weight = |score: f32| match temperature {
        Some(temperature) => libm::expf((score - largest) / temperature),
        None => score,
    };
    let sum = super::sum::sum(scores.iter().map(|score| weight(*score)));
    let probability = |score: f32| weight(score) / sum;
    let found = match rule {
        ExitRule::Probability => probability(largest),
        ExitRule::Margin => {
            // The second largest may equal the largest.
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for score in scores {
                if *score > first {
                    (first, second) = (*score, first);
                } else if *score > second {
                    second = *score;
                }
            }
            probability(first) - probability(second)
        }
        ExitRule::Entropy => {
            let entropy: f32 = scores
                .iter()
                .map(|score| probability(*score))
                .map(|p| if p > 0.0 { -p * libm::logf(p) } else { 0.0 })
                .sum();
            1.0 - entropy / libm::logf(scores.len().max(2) as f32)
        }
    };
    if found.is_nan() { 0.0 } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_by_every_rule() {
        let scores = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
        close(confidence(&scores, ExitRule::Probability, Some(1.0)), 0.625);
        close(confidence(&scores, ExitRule::Margin, Some(1.0)), 0.375);
        close(confidence(&[0.125, 0.25, 0.625], ExitRule::Margin, None), 0.375);
        close(confidence(&[1.0, 1.0, 1.0], ExitRule::Entropy, Some(1.0)), 0.0);
        close(confidence(&[1.0, 1.0], ExitRule::Margin, Some(1.0)), 0.0);
        close(confidence(&[100.0, 0.0, 0.0], ExitRule::Entropy, Some(1.0)), 1.0);
        // A high temperature makes unsure.
        assert!(confidence(&scores, ExitRule::Probability, Some(10.0)) < 0.4);
    }

    #[test]
    fn patience_makes_surer_until_the_class_changes() {
        let patience = Some(Patience { runs: 2, doubt: 0.25 });
        let decide = Decide { rule: ExitRule::Probability, temperature: None, patience };
        let mut steady = Steady::new();
        let mut leaves_with = |scores: [f32; 2]| {
            let mut verdict = [0.0; 2];
            decide.run(&scores, &mut verdict, 0.85, Some(&mut steady));
            (leaves(&verdict), verdict[1])
        };
        let (first, other) = ([0.6, 0.4], [0.4, 0.6]);
        assert_eq!([(); 2].map(|()| leaves_with(first)), [(false, 0.6); 2]);
        assert_eq!(leaves_with(first), (true, 0.9));
        assert_eq!([(); 2].map(|()| leaves_with(other)), [(false, 0.6); 2]);
        assert_eq!(leaves_with(other), (true, 0.9));
        assert_eq!(leaves_with([f32::NAN, f32::NAN]), (false, 0.0));
        assert_eq!(leaves_with(other), (false, 0.6), "what is no number is of no class");
    }

    #[test]
    fn what_is_no_number_goes_on() {
        let mut verdict = [9.0; 2];
        let decide = Decide { rule: ExitRule::Probability, temperature: Some(1.0), patience: None };
        decide.run(&[f32::NAN, 1.0], &mut verdict, 0.5, None);
        assert_eq!(verdict, [0.0, 0.0]);
        decide.run(&[f32::INFINITY, 1.0], &mut verdict, 0.5, None);
        assert!(!leaves(&verdict));
        decide.run(&[9.0, 1.0], &mut verdict, 0.5, None);
        assert!(leaves(&verdict));
        assert!(!leaves(&[]));
    }
}
