//! Which exits stay, and their thresholds: what may be chosen, from the most cautious on, and what is proven of it.
//!
//! Whoever picks the best of many combinations by some samples is flattered by these samples. So a choice is judged on
//! samples that had no part in it: for every aim (loss on the proposing samples) each fold judges what the other folds
//! propose. The aims, and what is proposed for them, do not depend on the limit. They are tested in their order, until one
//! does not keep the limit with the stated confidence; testing in an order fixed beforehand and stopping at the first
//! failure needs no correction for the number of tests (fixed-sequence testing; Angelopoulos et al. 2021, Learn then Test,
//! section 3). A looser limit gets at least as far along the same way as a stricter one, so it never saves less.

use super::judge::{ExitSet, Judge, Possible};
use super::propose::propose;
use crate::accuracy::{Evidence, Limits};
use partita_ir::parallel::gather;

/// Losses on the proposing samples that are aimed at, most cautious first; whatever the limit.
pub const AIMS: [f64; 48] = [
    -0.1, -0.05, -0.02, -0.01, -0.005, -0.002, 0.0, 0.001, 0.002, 0.003, 0.0035, 0.004, 0.0045, 0.005, 0.0055, 0.006,
    0.0065, 0.007, 0.0075, 0.008, 0.0085, 0.009, 0.01, 0.011, 0.012, 0.0135, 0.015, 0.017, 0.019, 0.021, 0.024, 0.027,
    0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
];

/// Losses about which combinations are sought most carefully: such as users ask for.
const FOCUSES: [f64; 3] = [0.01, 0.03, 0.1];

/// The samples that judge.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Which of them the network answers rightly as it is.
    pub base_right: &'a [bool],
    /// Their classes.
    pub labels: &'a [u32],
    /// Number of classes.
    pub classes: usize,
    /// Fold of each sample: some propose, the others judge.
    pub folds: &'a [usize],
    /// Group of each sample; none if each is by itself.
    pub groups: Option<&'a [u32]>,
}

impl Sides<'_> {
    fn folds(&self) -> usize {
        self.folds.iter().max().map_or(0, |most| most + 1)
    }

    /// Samples inside or outside of a fold.
    fn part(&self, fold: usize, inside: bool) -> Vec<usize> {
        (0..self.folds.len()).filter(|sample| (self.folds[*sample] == fold) == inside).collect()
    }

    fn right_on(&self, samples: &[usize]) -> Vec<bool> {
        samples.iter().map(|sample| self.base_right[*sample]).collect()
    }
}

/// Possible exits by what they cost, and what the whole network costs then.
#[derive(Clone, Debug)]
pub struct Priced {
    /// The exits; between lists they differ in costs only.
    pub possible: Vec<Possible>,
    /// Cost of the network without exits.
    pub whole: f64,
}

/// What is proposed at some prices: combinations that none beats in cost and accuracy, cheapest first.
pub struct Proposals {
    /// By all samples.
    pub all: Vec<ExitSet>,
    /// By those outside of each fold.
    others: Vec<Vec<ExitSet>>,
}

impl Proposals {
    /// Proposals of all samples, and of those outside of each fold; on all cores.
    pub fn of(priced: &Priced, sides: Sides<'_>) -> anyhow::Result<Proposals> {
        let mut found = gather(sides.folds() + 1, |fold| {
            let samples: Vec<usize> =
                if fold == sides.folds() { (0..sides.folds.len()).collect() } else { sides.part(fold, false) };
            let possible: Vec<Possible> = priced.possible.iter().map(|exit| exit.on(&samples)).collect();
            anyhow::Ok(propose(&possible, priced.whole, &sides.right_on(&samples), &FOCUSES))
        })?;
        let all = found.pop().unwrap_or_default();
        Ok(Proposals { all, others: found })
    }
}

/// A step on the way from the most cautious choice to the boldest.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which list of prices it is from.
    pub list: usize,
    /// What all samples propose.
    pub choice: ExitSet,
    /// What samples say of such proposals that had no part in them.
    pub evidence: Evidence,
}

/// All steps, in the order in which they are tested. `lists` are proposals for the same exits at different prices.
pub fn steps(possible: &[Possible], lists: &[Proposals], sides: Sides<'_>) -> Vec<Step> {
    let parts: Vec<Vec<usize>> = (0..sides.folds()).map(|fold| sides.part(fold, true)).collect();
    let own: Vec<(Vec<Possible>, Vec<bool>)> = (parts.iter())
        .map(|part| (possible.iter().map(|exit| exit.on(part)).collect(), sides.right_on(part)))
        .collect();
    let judges: Vec<Judge<'_>> = own.iter().map(|(possible, right)| Judge::new(possible, 0.0, right)).collect();
    let mut found = Vec::new();
    for aim in AIMS {
        for (list, proposals) in lists.iter().enumerate() {
            let exits = |curve: &[ExitSet]| cheapest(curve, aim).map_or(Vec::new(), |choice| choice.exits.clone());
            let others: Vec<_> = proposals.others.iter().map(|curve| exits(curve)).collect();
            let Some(choice) = cheapest(&proposals.all, aim) else { continue };
            // Where nobody proposes an exit, there is nothing to test.
            if choice.exits.is_empty() && others.iter().all(Vec::is_empty) {
                continue;
            }
            let mut changes = vec![0; sides.folds.len()];
            for ((part, judge), exits) in parts.iter().zip(&judges).zip(&others) {
                for (sample, change) in part.iter().zip(judge.changes(exits)) {
                    changes[*sample] = change;
                }
            }
            let evidence = Evidence::of(&changes, sides.base_right, sides.labels, sides.classes, sides.groups);
            found.push(Step { list, choice: choice.clone(), evidence });
        }
    }
    found
}

/// How many of the steps, from the first on, are proven to keep limits.
pub fn proven(steps: &[Step], limits: &Limits, gap: f64) -> usize {
    steps.iter().take_while(|step| limits.allow(&step.evidence.proven(gap))).count()
}

/// What limits each step needs, of the kinds that are wanted: those under which it and all before it are proven.
pub fn needed(steps: &[Step], wanted: &Limits, gap: f64) -> Vec<Limits> {
    let mut so_far = Limits::default();
    let mut next = |step: &Step| {
        so_far = so_far.loosened(step.evidence.proven(gap).like(wanted));
        so_far
    };
    steps.iter().map(&mut next).collect()
}

/// The cheapest choice that loses no more than `aim`.
pub fn cheapest(curve: &[ExitSet], aim: f64) -> Option<&ExitSet> {
    curve.iter().find(|choice| choice.difference.loss() <= aim + 1e-12)
}

#[cfg(test)]
mod tests {
    use super::super::judge::examples::random_possible;
    use super::*;
    use crate::confidence::Difference;

    /// Everything that `steps` needs of random exits, at several prices.
    struct Case {
        possible: Vec<Possible>,
        base: Vec<bool>,
        labels: Vec<u32>,
        folds: Vec<usize>,
        groups: Option<Vec<u32>>,
    }

    impl Case {
        fn new(seed: u64, exits: usize, samples: usize) -> Case {
            let (possible, base) = random_possible(seed, exits, samples);
            let labels = (0..samples).map(|sample| (sample * 7 % 11 % 3) as u32).collect();
            Case { possible, base, labels, folds: (0..samples).map(|sample| sample / 25 % 4).collect(), groups: None }
        }

        fn sides(&self) -> Sides<'_> {
            let Case { base, labels, folds, groups, .. } = self;
            Sides { base_right: base, labels, classes: 3, folds, groups: groups.as_deref() }
        }

        /// Steps at the prices of the exits, and at others.
        fn steps(&self, others: &[f64]) -> Vec<Step> {
            let priced = [1.0].iter().chain(others).map(|factor| Priced {
                possible: self
                    .possible
                    .iter()
                    .map(|exit| Possible { cost: exit.cost.powf(*factor), ..exit.clone() })
                    .collect(),
                whole: 40f64.powf(*factor),
            });
            let lists: Vec<Proposals> =
                priced.map(|priced| Proposals::of(&priced, self.sides()).expect("nothing fails")).collect();
            steps(&self.possible, &lists, self.sides())
        }

        /// What is chosen by costs alone.
        fn chosen(&self, limits: &Limits) -> Option<Step> {
            let steps = self.steps(&[]);
            steps[..proven(&steps, limits, 0.0)].last().cloned()
        }
    }

    fn loss(limit: f64) -> Limits {
        Limits::default().or_loss(limit)
    }

    #[test]
    fn a_looser_limit_never_saves_less() {
        for seed in 1..=5 {
            let case = Case::new(seed, 3, 400 + 150 * seed as usize);
            let steps = case.steps(&[0.8, 1.3]);
            // What is chosen is any of the proven steps, so all of them must stay proven; each kind of limit by itself,
            // and together.
            let mut before = 0;
            for limit in (1..400).map(|limit| f64::from(limit) * 0.0005) {
                let now = proven(&steps, &loss(limit), 0.0);
                assert!(now >= before, "seed {seed}: {now} steps at {limit}, {before} before");
                let accuracy = Limits { min_accuracy: Some(1.0 - limit), ..Limits::default() };
                let both = Limits { max_class_loss: Some(3.0 * limit), ..loss(limit) };
                assert!(proven(&steps, &both, 0.0) <= now && proven(&steps, &both, 0.01) <= proven(&steps, &both, 0.0));
                let looser = Limits { min_accuracy: Some(1.0 - limit - 0.01), ..Limits::default() };
                assert!(proven(&steps, &looser, 0.0) >= proven(&steps, &accuracy, 0.0));
                before = now;
            }
            assert!(before > 0, "seed {seed}: a fifth may be lost, and nothing is proven");
            // Along a list costs fall, so the last proven step saves most.
            for list in 0..3 {
                let own: Vec<&Step> = steps.iter().filter(|step| step.list == list).collect();
                assert!(own.windows(2).all(|pair| pair[1].choice.cost <= pair[0].choice.cost));
            }
        }
    }

    #[test]
    fn what_a_step_is_said_to_need_is_what_proves_it() {
        let case = Case::new(3, 4, 700);
        let steps = case.steps(&[]);
        let wanted = Limits { max_class_loss: Some(0.1), min_accuracy: Some(0.9), ..loss(0.01) };
        for wanted in [loss(0.01), wanted] {
            for (at, limits) in needed(&steps, &wanted, 0.002).iter().enumerate() {
                assert!(proven(&steps, &limits.rounded(), 0.002) > at, "step {at} with {limits:?}");
            }
        }
        let first = needed(&steps, &loss(0.01), 0.0)[0].max_loss.expect("a loss is wanted");
        assert_eq!(proven(&steps, &loss(first - 1e-6), 0.0), 0);
    }

    #[test]
    fn groups_that_go_wrong_together_prove_less() {
        let mut case = Case::new(4, 3, 2000);
        let bound = |case: &Case| case.chosen(&loss(0.1)).map(|step| step.evidence.difference.loss_bound());
        let alone = bound(&case).expect("a tenth may be lost");
        case.groups = Some((0..2000).collect());
        let grouped = bound(&case).expect("a tenth may be lost");
        assert!((grouped - alone).abs() < 1e-3, "samples by themselves are groups of one");
        // Groups of samples that are right and wrong like their first.
        let first = |flags: &[bool]| (0..2000).map(|sample| flags[sample / 25 * 25]).collect::<Vec<bool>>();
        case.possible.iter_mut().for_each(|exit| exit.right = first(&exit.right));
        case.base = first(&case.base);
        case.groups = None;
        let cost = |case: &Case| case.chosen(&loss(0.05)).map_or(40.0, |step| step.choice.cost);
        let unaware = cost(&case);
        case.groups = Some((0..2000).map(|sample| sample / 25).collect());
        assert!(cost(&case) > unaware, "what cannot be proven is not done");
    }

    #[test]
    fn the_limit_holds_on_samples_that_nobody_has_seen() {
        // Heads whose confidence says little: what looks good on few samples is not.
        let mut broken = 0;
        for seed in 1..=40 {
            let (possible, base) = random_possible(seed, 4, 4000);
            let (seen, fresh): (Vec<usize>, Vec<usize>) = ((0..1000).collect(), (1000..4000).collect());
            let part = |samples: &[usize]| -> (Vec<Possible>, Vec<bool>) {
                let base = samples.iter().map(|sample| base[*sample]).collect();
                (possible.iter().map(|exit| exit.on(samples)).collect(), base)
            };
            let (seen, fresh) = (part(&seen), part(&fresh));
            let folds: Vec<usize> = (0..1000).map(|sample| sample % 4).collect();
            let case = Case { possible: seen.0, base: seen.1, labels: vec![0; 1000], folds, groups: None };
            let chosen = case.chosen(&loss(0.03)).map_or(Vec::new(), |step| step.choice.exits);
            let later = Judge::new(&fresh.0, 40.0, &fresh.1).judge(&chosen).difference;
            broken += usize::from(later.lost > later.gained + 90);
        }
        // Stated: at most 1 in 10, and chance on top.
        assert!(broken <= 8, "{broken} of 40 choices lose more than was allowed");
    }

    #[test]
    fn a_class_that_would_pay_for_the_others_is_spared() {
        // Only class 2 is answered wrongly by exits; it is one sample of eleven.
        let mut case = Case::new(5, 1, 3000);
        case.base = vec![true; 3000];
        case.labels = (0..3000).map(|sample| if sample % 11 == 0 { 2 } else { (sample % 2) as u32 }).collect();
        let right = case.labels.iter().enumerate().map(|(at, label)| *label != 2 || at % 3 != 0).collect();
        case.possible[0] = Possible { right, ..case.possible[0].clone() };
        let all = case.chosen(&loss(0.05)).expect("three of a hundred are lost");
        let spared = case.chosen(&Limits { max_class_loss: Some(0.1), ..loss(0.05) });
        let of_class = |step: &Step| step.evidence.classes[2].loss();
        assert!(of_class(&all) > 0.2, "{}", of_class(&all));
        assert!(
            spared
                .is_some_and(|step| step.evidence.classes[2].loss_bound() <= 0.1 && step.choice.cost > all.choice.cost)
        );
        assert_eq!(
            all.evidence.classes[0],
            Difference::of(0, 0, case.labels.iter().filter(|label| **label == 0).count())
        );
    }
}
