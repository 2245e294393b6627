//! Who is mistaken for whom, and which classes leave where: the calibration set with and without exits.

use serde::Serialize;

use crate::confidence::Difference;

/// Tables over the calibration samples.
#[derive(Clone, Debug, Serialize)]
pub struct ClassTables {
    /// Samples by right class (row) and answer (column), without exits.
    pub confusion_before: Vec<Vec<usize>>,
    /// The same with exits.
    pub confusion_after: Vec<Vec<usize>>,
    /// Each class.
    pub classes: Vec<ClassReport>,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// Samples of it.
    pub samples: usize,
    /// Share of right answers without exits.
    pub base_accuracy: f64,
    /// The same with exits.
    pub accuracy: f64,
    /// Loss of accuracy that is expected, by samples that had no part in the choice of exits.
    pub loss: f64,
    /// What that does not exceed with 90 % probability.
    pub loss_bound: f64,
    /// Share of its samples that end at each exit, and last of those that go to the end.
    pub shares: Vec<f64>,
}

/// What is known of each sample.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Right class.
    pub label: usize,
    /// Answer without exits.
    pub base: usize,
    /// Answer with exits.
    pub answer: usize,
    /// Exit at which it ends; none at the end.
    pub exit: Option<usize>,
}

/// Counts samples. `judged` is what each class loses.
pub fn tables(samples: &[Answered], judged: &[Difference], exits: usize) -> ClassTables {
    let classes = judged.len();
    let confusion = |answer: &dyn Fn(&Answered) -> usize| {
        let mut counts = vec![vec![0; classes]; classes];
        for sample in samples {
            counts[sample.label][answer(sample)] += 1;
        }
        counts
    };
    let (confusion_before, confusion_after) =
        (confusion(&|sample: &Answered| sample.base), confusion(&|sample: &Answered| sample.answer));
    let class = |class: usize| {
        let mine: Vec<&Answered> = samples.iter().filter(|sample| sample.label == class).collect();
        let share = |count: usize| count as f64 / mine.len().max(1) as f64;
        let mut ended = vec![0; exits + 1];
        mine.iter().for_each(|sample| ended[sample.exit.unwrap_or(exits)] += 1);
        ClassReport {
            samples: mine.len(),
            base_accuracy: share(confusion_before[class][class]),
            accuracy: share(confusion_after[class][class]),
            loss: judged[class].loss(),
            loss_bound: judged[class].loss_bound(),
            shares: ended.into_iter().map(share).collect(),
        }
    };
    let classes = (0..classes).map(class).collect();
    ClassTables { confusion_before, confusion_after, classes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_class_answer_and_end() {
        let sample = |label, base, answer, exit| Answered { label, base, answer, exit };
        let samples = [
            sample(0, 0, 0, Some(0)),
            sample(0, 0, 1, Some(0)),
            sample(0, 1, 1, None),
            sample(1, 1, 1, Some(1)),
            sample(1, 0, 1, Some(1)),
        ];
        let judged = [Difference::of(1, 0, 3), Difference::of(0, 1, 2), Difference::default()];
        let found = tables(&samples, &judged, 2);
        assert_eq!(found.confusion_before, [[2, 1, 0], [1, 1, 0], [0, 0, 0]]);
        assert_eq!(found.confusion_after, [[1, 2, 0], [0, 2, 0], [0, 0, 0]]);
        let second = ClassReport {
            samples: 2,
            base_accuracy: 0.5,
            accuracy: 1.0,
            loss: -0.5,
            loss_bound: judged[1].loss_bound(),
            shares: vec![0.0, 1.0, 0.0],
        };
        assert_eq!(found.classes[1], second);
        assert_eq!(found.classes[0].shares, [2.0 / 3.0, 0.0, 1.0 / 3.0]);
        // A class that the calibration set lacks divides nothing by zero.
        assert_eq!(found.classes[2].accuracy, 0.0);
    }
}
