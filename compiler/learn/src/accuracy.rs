//! What a user demands of accuracy, what samples prove of it, and what a second set of samples says of the first.

use std::path::PathBuf;

use serde::Serialize;

use crate::confidence::{Difference, least_loss, share_bound};

/// Loss of accuracy that exits may cause unless the user says otherwise.
pub const DEFAULT_LOSS: f64 = 0.01;

/// A class that loses this many times what all together may lose deserves a warning.
const TOO_MUCH: f64 = 3.0;

/// What the user demands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    /// Limits on accuracy; the default if there is none.
    pub limits: Limits,
    /// What the base does on samples that are not for calibration.
    pub holdout: Option<Holdout>,
}

/// What is known beside the calibration data.
#[derive(Clone, Debug, PartialEq)]
pub enum Holdout {
    /// The base's accuracy, as somebody has measured it.
    Accuracy(f64),
    /// Labelled samples.
    Data(PathBuf),
}

impl Holdout {
    /// Reads an accuracy from 0 to 1, or the path of a file.
    pub fn parse(text: &str) -> Result<Holdout, String> {
        match text.parse::<f64>() {
            Ok(_) => parse_share(text).map(Holdout::Accuracy),
            Err(_) => Ok(Holdout::Data(PathBuf::from(text))),
        }
    }
}

/// Reads a share from 0 to 1.
pub fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(percent) if percent > 1.0 && percent <= 100.0 => {
            Err(format!("expected a share from 0 to 1, not percent; did you mean {}?", shifted(percent)))
        }
        _ => Err("expected a share from 0 to 1, such as 0.97".to_string()),
    }
}

/// Reads a loss: a share from 0 to below 1. All of it would be no limit.
pub fn parse_loss(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(loss) if (0.0..1.0).contains(&loss) => Ok(loss),
        Ok(points) if (1.0..=100.0).contains(&points) => {
            Err(format!("expected a share from 0 to below 1, not points; did you mean {}?", shifted(points)))
        }
        _ => Err("expected a share from 0 to below 1, such as 0.01 for one point".to_string()),
    }
}

/// Percent as a share, without digits that come from binary fractions.
fn shifted(percent: f64) -> f64 {
    (percent * 1e4).round() / 1e6
}

/// Limits on accuracy, each if it is wanted; or, of the same kinds, the strictest ones that something proves. Each
/// holds with 90 % probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// The network may lose this share of right answers, compared sample by sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<f64>,
    /// The share of right answers must be this much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
    /// No class may lose this share of its right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_class_loss: Option<f64>,
}

impl Limits {
    /// With a loss of so much at most, unless accuracy as such is limited already.
    pub fn or_loss(self, loss: f64) -> Limits {
        match (self.max_loss, self.min_accuracy) {
            (None, None) => Limits { max_loss: Some(loss), ..self },
            _ => self,
        }
    }

    /// Whether something that proves other limits of the same kinds keeps these.
    pub fn allow(&self, proven: &Limits) -> bool {
        let at_most =
            |limit: Option<f64>, proven: Option<f64>| limit.is_none_or(|limit| proven.is_some_and(|p| p <= limit));
        at_most(self.max_loss, proven.max_loss)
            && at_most(self.max_class_loss, proven.max_class_loss)
            && self.min_accuracy.is_none_or(|limit| proven.min_accuracy.is_some_and(|proven| proven >= limit))
    }

    /// The strictest limits that allow both.
    pub fn loosened(self, other: Limits) -> Limits {
        let join = |a: Option<f64>, b: Option<f64>, of: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(of(a, b)),
            (a, b) => a.or(b),
        };
        Limits {
            max_loss: join(self.max_loss, other.max_loss, f64::max),
            min_accuracy: join(self.min_accuracy, other.min_accuracy, f64::min),
            max_class_loss: join(self.max_class_loss, other.max_class_loss, f64::max),
        }
    }

    /// A little looser, to numbers that one can type.
    pub fn rounded(self) -> Limits {
        let up = |limit: f64| (limit * 1e4).ceil() / 1e4;
        Limits {
            max_loss: self.max_loss.map(up),
            min_accuracy: self.min_accuracy.map(|limit| (limit * 1e4).floor() / 1e4),
            max_class_loss: self.max_class_loss.map(up),
        }
    }

    /// Only those whose kind the user limits.
    pub fn like(self, wanted: &Limits) -> Limits {
        Limits {
            max_loss: self.max_loss.filter(|_| wanted.max_loss.is_some()),
            min_accuracy: self.min_accuracy.filter(|_| wanted.min_accuracy.is_some()),
            max_class_loss: self.max_class_loss.filter(|_| wanted.max_class_loss.is_some()),
        }
    }

    /// As options of the command line.
    pub fn options(&self) -> String {
        let option =
            |name: &str, limit: Option<f64>| limit.map(|limit| format!("{name} {}", (limit * 1e6).round() / 1e6));
        let all = [
            option("--max-loss", self.max_loss),
            option("--min-accuracy", self.min_accuracy),
            option("--max-class-loss", self.max_class_loss),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// What all classes together may lose, where the base answers so large a share rightly.
    pub fn allowed_loss(&self, base_accuracy: f64) -> f64 {
        let by_accuracy = self.min_accuracy.map(|limit| (base_accuracy - limit).max(0.0));
        [self.max_loss, by_accuracy].into_iter().flatten().fold(f64::INFINITY, f64::min)
    }
}

/// What samples that had no part in a choice say of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Samples that the network answers rightly as it is.
    pub base_right: usize,
    /// What changes of that.
    pub difference: Difference,
    /// The same of each class.
    pub classes: Vec<Difference>,
}

impl Evidence {
    /// From what each sample has lost (1) or gained (-1).
    pub fn of(changes: &[i8], base_right: &[bool], labels: &[u32], classes: usize, groups: Option<&[u32]>) -> Evidence {
        let mut own: Vec<Vec<usize>> = vec![Vec::new(); classes];
        for (sample, label) in labels.iter().enumerate() {
            if let Some(own) = own.get_mut(*label as usize) {
                own.push(sample);
            }
        }
        let class = |own: &Vec<usize>| {
            let groups: Option<Vec<u32>> = groups.map(|groups| own.iter().map(|at| groups[*at]).collect());
            Difference::of_samples(&own.iter().map(|at| changes[*at]).collect::<Vec<_>>(), groups.as_deref())
        };
        Evidence {
            base_right: base_right.iter().filter(|right| **right).count(),
            difference: Difference::of_samples(changes, groups),
            classes: own.iter().map(class).collect(),
        }
    }

    /// Of a choice that changes no answer.
    pub fn unchanged(base_right: &[bool], labels: &[u32], classes: usize) -> Evidence {
        Evidence::of(&vec![0; base_right.len()], base_right, labels, classes, None)
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        let right = self.base_right + self.difference.gained - self.difference.lost.min(self.base_right);
        right as f64 / self.difference.samples.max(1) as f64
    }

    /// The strictest limits that this proves. Where samples outside are known to be harder by `gap`, all of that may go
    /// beside.
    pub fn proven(&self, gap: f64) -> Limits {
        Limits {
            max_loss: Some(self.difference.loss_bound() + gap),
            min_accuracy: Some(self.accuracy_bound(1.0) - gap),
            max_class_loss: Some(self.classes.iter().map(Difference::loss_bound).fold(0.0, f64::max) + gap),
        }
    }

    /// Accuracy that is reached, were there `times` as many samples of the same kind.
    fn accuracy_bound(&self, times: f64) -> f64 {
        let Difference { lost, gained, samples, squares } = self.difference;
        let samples = samples as f64 * times;
        share_bound(self.accuracy() * samples, samples, squares / (lost + gained).max(1) as f64)
    }

    /// How many samples would prove limits, about, if they said the same; none if no number would.
    pub fn samples_for(&self, limits: &Limits, gap: f64) -> Option<usize> {
        let samples = self.difference.samples.max(1);
        let mut needed = 1;
        if let Some(limit) = limits.max_loss {
            needed = needed.max(self.difference.samples_for(limit - gap)?);
        }
        if let Some(limit) = limits.max_class_loss {
            for class in &self.classes {
                // As many times as many samples, of every class.
                let own = class.samples_for(limit - gap)?;
                needed = needed.max(own.checked_mul(samples)?.checked_div(class.samples)?);
            }
        }
        if let Some(limit) = limits.min_accuracy {
            (self.accuracy() - gap > limit).then_some(())?;
            let mut times = 1.0f64;
            while self.accuracy_bound(times) - gap < limit {
                times *= 1.05;
                (times < 1e9).then_some(())?;
            }
            needed = needed.max((samples as f64 * times).ceil() as usize);
        }
        Some(needed)
    }
}

/// A class that loses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassLoss {
    /// The class.
    pub class: usize,
    /// Samples of it that judge.
    pub samples: usize,
    /// Share of its right answers that is lost on them.
    pub loss: f64,
    /// What that does not exceed with 90 % probability.
    pub loss_bound: f64,
}

/// The classes that lose most, at most so many of them.
pub fn worst_classes(classes: &[Difference], most: usize) -> Vec<ClassLoss> {
    let loss = |(class, own): (usize, &Difference)| ClassLoss {
        class,
        samples: own.samples,
        loss: own.loss(),
        loss_bound: own.loss_bound(),
    };
    let mut losing: Vec<ClassLoss> = classes.iter().enumerate().map(loss).filter(|class| class.loss > 0.0).collect();
    losing.sort_by(|a, b| b.loss.total_cmp(&a.loss).then(a.class.cmp(&b.class)));
    losing.truncate(most);
    losing
}

/// Those of the classes that lose more than three times what all together may lose.
pub fn overcharged(classes: &[Difference], allowed: f64) -> Vec<ClassLoss> {
    let mut all = worst_classes(classes, classes.len());
    all.retain(|class| class.loss > TOO_MUCH * allowed);
    all
}

/// The base on samples that are not for calibration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HoldoutReport {
    /// Its accuracy there.
    pub accuracy: f64,
    /// How many samples; none if the accuracy was stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Its accuracy on the calibration samples that judge.
    pub calibration_accuracy: f64,
    /// By how much bounds on a loss are wider: as much as calibration samples are easier.
    pub widened_by: f64,
}

impl HoldoutReport {
    /// Sets one accuracy against the other.
    pub fn of(accuracy: f64, samples: Option<usize>, calibration_accuracy: f64) -> HoldoutReport {
        HoldoutReport {
            accuracy,
            samples,
            calibration_accuracy,
            widened_by: (calibration_accuracy - accuracy).max(0.0),
        }
    }

    /// What it says, in a sentence.
    pub fn sentence(&self) -> String {
        let (there, here) = (self.accuracy * 100.0, self.calibration_accuracy * 100.0);
        let of = self.samples.map_or("as stated".to_string(), |samples| format!("of {samples} samples"));
        let says = if self.widened_by > 0.0 {
            format!("calibration samples are easier, so all bounds are {:.2} points wider", self.widened_by * 100.0)
        } else {
            "calibration samples are no easier, so bounds stay as they are".to_string()
        };
        format!(
            "holdout: the network answers {there:.2} % rightly ({of}), {here:.2} % of the calibration samples: {says}"
        )
    }
}

/// Limits of the wanted kinds that samples can prove at best: losses, by what changes no answer; an accuracy, by what
/// gives right answers only.
pub fn provable(labels: &[u32], classes: usize, wanted: &Limits, gap: f64) -> Limits {
    let all = vec![true; labels.len()];
    Evidence::unchanged(&all, labels, classes).proven(gap).like(wanted)
}

/// What so many samples can prove at best of a loss, in a sentence; `gap` widens it.
pub fn foresight(samples: usize, limits: &Limits, gap: f64) -> String {
    let best = (least_loss(samples) + gap) * 100.0;
    let mut text = format!(
        "{samples} samples judge; at best, where no answer changes, they prove with 90 % probability that less than {best:.2} \
         points are lost"
    );
    if let Some(limit) = limits.max_loss {
        match crate::confidence::most_lost(samples, limit - gap) {
            Some(0) => text += &format!("; the limit of {:.2} points holds if none is lost on them", limit * 100.0),
            Some(most) => {
                text += &format!(
                    "; the limit of {:.2} points holds while {most} or fewer are lost and none gained",
                    limit * 100.0
                );
            }
            None => text += &format!("; the limit of {:.2} points cannot be proven", limit * 100.0),
        }
    }
    if limits.min_accuracy.is_some() {
        let best = share_bound(samples as f64, samples as f64, 1.0) - gap;
        text += &format!("; an accuracy of {:.2} %, where all answers are right", best * 100.0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_refused_with_what_was_meant() {
        assert_eq!((parse_share("0.97"), parse_share("0"), parse_share("1")), (Ok(0.97), Ok(0.0), Ok(1.0)));
        for (text, meant) in [("97", "0.97?"), ("1.5", "0.015?"), ("97.3", "0.973?"), ("100", "1?")] {
            let refusal = parse_share(text).expect_err(text);
            assert!(refusal.ends_with(&format!("did you mean {meant}")), "{refusal}");
        }
        for text in ["-0.1", "101", "nan", "inf", "x", ""] {
            assert!(parse_share(text).is_err_and(|refusal| !refusal.contains("did you mean")), "{text}");
        }
        assert_eq!((parse_loss("0.01"), parse_loss("0")), (Ok(0.01), Ok(0.0)));
        assert!(parse_loss("1").is_err_and(|refusal| refusal.contains("did you mean 0.01?")));
        assert!(parse_loss("5").is_err_and(|refusal| refusal.contains("did you mean 0.05?")));
        assert_eq!(Holdout::parse("0.91"), Ok(Holdout::Accuracy(0.91)));
        assert!(Holdout::parse("91").is_err_and(|refusal| refusal.contains("0.91?")));
        assert_eq!(Holdout::parse("test.npz"), Ok(Holdout::Data(PathBuf::from("test.npz"))));
    }

    /// Ten samples of class 0, of which two are lost; ninety of class 1, of which one is lost and one gained.
    fn evidence() -> Evidence {
        let labels: Vec<u32> = (0..100).map(|at| u32::from(at >= 10)).collect();
        let mut changes = [0i8; 100];
        (changes[0], changes[1], changes[20], changes[99]) = (1, 1, 1, -1);
        let base_right: Vec<bool> = (0..100).map(|at| at != 99).collect();
        Evidence::of(&changes, &base_right, &labels, 2, None)
    }

    #[test]
    fn classes_are_judged_by_their_own_samples() {
        let evidence = evidence();
        assert_eq!(evidence.difference, Difference::of(3, 1, 100));
        assert_eq!(evidence.classes, [Difference::of(2, 0, 10), Difference::of(1, 1, 90)]);
        assert!((evidence.accuracy() - 0.97).abs() < 1e-12);
        let worst = worst_classes(&evidence.classes, 3);
        assert_eq!(
            worst.iter().map(|class| (class.class, class.samples, class.loss)).collect::<Vec<_>>(),
            [(0, 10, 0.2)]
        );
        assert_eq!(evidence.proven(0.0).max_class_loss, Some(worst[0].loss_bound));
        assert_eq!((overcharged(&evidence.classes, 0.06).len(), overcharged(&evidence.classes, 0.07).len()), (1, 0));
    }

    #[test]
    fn all_wanted_limits_must_be_kept_and_a_gap_widens_each() {
        let evidence = evidence();
        let proven = evidence.proven(0.0);
        let Limits { max_loss: Some(loss), min_accuracy: Some(accuracy), max_class_loss: Some(class) } = proven else {
            panic!("all kinds are proven: {proven:?}");
        };
        assert!(Limits::default().or_loss(0.5).allow(&proven) && proven.allow(&proven));
        for stricter in [
            Limits { max_loss: Some(loss * 0.99), ..proven },
            Limits { min_accuracy: Some(accuracy * 1.01), ..proven },
            Limits { max_class_loss: Some(class * 0.99), ..proven },
        ] {
            assert!(!stricter.allow(&proven));
            assert!(stricter.loosened(proven).allow(&proven));
        }
        let widened = evidence.proven(0.03);
        assert!((widened.max_loss.unwrap_or(0.0) - loss - 0.03).abs() < 1e-12 && !proven.allow(&widened));
        assert!((accuracy - widened.min_accuracy.unwrap_or(1.0) - 0.03).abs() < 1e-12);
        assert!(proven.rounded().allow(&proven));
        let words = Limits { max_loss: Some(0.0143), ..Limits::default() }.options();
        assert_eq!(words, "--max-loss 0.0143");
    }

    #[test]
    fn as_many_samples_as_are_said_to_do_would_do() {
        let evidence = evidence();
        let of = |limits: Limits| evidence.samples_for(&limits, 0.0);
        let by_loss = of(Limits { max_loss: Some(0.03), ..Limits::default() }).expect("2 points are lost");
        assert_eq!(evidence.difference.samples_for(0.03), Some(by_loss));
        assert_eq!(of(Limits { max_loss: Some(0.02), ..Limits::default() }), None, "as much is lost");
        let by_class =
            of(Limits { max_class_loss: Some(0.3), ..Limits::default() }).expect("20 points of class 0 are lost");
        assert_eq!(Some(by_class / 10), evidence.classes[0].samples_for(0.3));
        let by_accuracy = of(Limits { min_accuracy: Some(0.96), ..Limits::default() }).expect("it is 0.97");
        assert!(evidence.accuracy_bound(by_accuracy as f64 / 100.0) >= 0.96 && by_accuracy > 100);
        assert_eq!(of(Limits { min_accuracy: Some(0.98), ..Limits::default() }), None);
        let all = Limits { max_loss: Some(0.03), min_accuracy: Some(0.96), max_class_loss: Some(0.3) };
        assert_eq!(of(all), Some(by_loss.max(by_class).max(by_accuracy)));
        // A class without samples proves nothing, however many others there are.
        let lacking = Evidence { classes: vec![Difference::default()], ..evidence.clone() };
        assert_eq!(lacking.samples_for(&Limits { max_class_loss: Some(0.3), ..Limits::default() }, 0.0), None);
    }

    #[test]
    fn what_can_be_proven_is_said_beforehand() {
        let limits = Limits::default().or_loss(0.01);
        assert!(foresight(360, &limits, 0.0).contains("less than 0.36 points"), "{}", foresight(360, &limits, 0.0));
        assert!(foresight(360, &limits, 0.0).ends_with("while 1 or fewer are lost and none gained"));
        assert!(foresight(100, &limits, 0.0).ends_with("the limit of 1.00 points cannot be proven"));
        assert!(foresight(5000, &limits, 0.0098).contains("cannot be proven"), "easier samples prove less");
        let best = provable(&[0; 100], 1, &limits, 0.0);
        assert!(best.max_loss.is_some_and(|loss| loss > 0.0126) && best.min_accuracy.is_none());
        assert!(!limits.allow(&best));
    }

    #[test]
    fn harder_samples_widen_what_is_proven() {
        let harder = HoldoutReport::of(0.8496, Some(5000), 0.8586);
        assert!((harder.widened_by - 0.009).abs() < 1e-12 && harder.sentence().contains("0.90 points wider"));
        let easier = HoldoutReport::of(0.9, None, 0.8586);
        assert!(easier.widened_by == 0.0 && easier.sentence().contains("(as stated)"));
    }
}
