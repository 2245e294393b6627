//! Which sets of parts can go together at what loss.
//!
//! A greedy search takes, of the next few candidates that look cheapest alone, the one that is cheapest together with
//! what has gone already. Two linear surrogates (`super::surrogate`) are solved as ILPs for several budgets: one
//! fitted to the sets that have been measured, then the losses of single parts. What they propose is measured. Of a set
//! that turns out dearer than it looked the least part is sought that is too dear by itself, and everything that holds
//! it is cut off, until a proposal keeps the budget or nothing is left that would save more than is known.

use std::collections::BTreeMap;

use super::scores::{Score, Set};
use super::surrogate::{fitted_drops, propose, single_drops, too_dear};

/// Candidates that the greedy search measures at each step.
const LOOKAHEAD: usize = 3;

/// Sets that are measured for proposals of each surrogate.
const MOST_MEASURED: usize = 200;

/// Weights that a set may add, as a share of the model's: several sets are to fit beside each other.
pub const MOST_SIZE: f64 = 0.06;

/// Losses of accuracy for which the best set is looked for.
const BUDGETS: [f64; 6] = [0.0025, 0.005, 0.01, 0.02, 0.03, 0.05];

/// One alternative to compute one segment, beside computing it as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which segment.
    pub segment: usize,
    /// Which alternative.
    pub alternative: u8,
    /// Mean negative log-likelihood that it adds alone.
    pub loss: f64,
    /// Accuracy that it costs alone.
    pub drop: f64,
    /// Weights that it adds, as a share of the model's.
    pub size: f64,
}

/// Measures sets; answers in their order.
pub type Measure<'a> = dyn FnMut(&[Set]) -> anyhow::Result<Vec<Score>> + 'a;

/// What was found, by set.
pub type Known = BTreeMap<Set, Score>;

/// What is proven for one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Bound {
    /// Loss of accuracy that is allowed.
    pub budget: f64,
    /// Most that a measured set saves within it, as a share of all that could go.
    pub best: f64,
    /// What no set saves more than, whose losses add up to the budget at most, where each part is charged as in the
    /// sets that were measured.
    pub fitted_bound: f64,
    /// Whether a measured set saves as much.
    pub fitted_proven: bool,
    /// The same where each part is charged what it loses alone; together they lose more.
    pub bound: f64,
    /// Whether a measured set saves as much.
    pub proven: bool,
}

/// What can go, and what is wanted of it.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Segments of the network.
    pub segments: usize,
    /// Alternatives to compute them.
    pub options: &'a [Candidate],
    /// What each of those saves, 0 or more.
    pub gains: &'a [f64],
    /// Least accuracy of a set that is pursued.
    pub floor: f64,
}

/// Sets worth knowing for one kind of saving, and what is proven for each budget.
pub fn search(problem: Problem<'_>, known: &mut Known, measure: &mut Measure<'_>) -> anyhow::Result<Vec<Bound>> {
    greedy(problem, known, measure)?;
    let base = known.get(&problem.none()).map_or(1.0, Score::accuracy);
    let budgets: Vec<f64> = BUDGETS.into_iter().filter(|budget| base - budget >= problem.floor - 1e-9).collect();
    let all = problem.all();
    let mut bounds: Vec<Bound> = budgets
        .iter()
        .map(|budget| Bound { budget: *budget, fitted_bound: all, bound: all, ..Bound::default() })
        .collect();
    for is_fitted in [true, false] {
        let most = known.len() + MOST_MEASURED;
        // What is too dear for a large budget is too dear for a small one.
        for bound in bounds.iter_mut().rev() {
            let drops = if is_fitted { fitted_drops(problem, known) } else { single_drops(problem) };
            let at_most = co_optimize(problem, &drops, base - bound.budget, most, known, measure)?;
            *(if is_fitted { &mut bound.fitted_bound } else { &mut bound.bound }) = at_most;
        }
    }
    for bound in &mut bounds {
        // What one search has measured counts in the others too.
        let best = problem.best(known, base - bound.budget);
        let proven = |at_most: f64| at_most <= best * (1.0 + 1e-9);
        (bound.fitted_proven, bound.proven) = (proven(bound.fitted_bound), proven(bound.bound));
        let share = |gain: f64| gain / all.max(1e-12);
        bound.best = share(best);
        (bound.fitted_bound, bound.bound) = (share(bound.fitted_bound.max(best)), share(bound.bound.max(best)));
    }
    Ok(bounds)
}

impl Problem<'_> {
    /// The set of which nothing goes.
    fn none(&self) -> Set {
        vec![0; self.segments]
    }

    /// What would be saved if everything could go.
    fn all(&self) -> f64 {
        let most = |segment: usize| {
            let own = self.options.iter().zip(self.gains).filter(|(option, _)| option.segment == segment);
            own.map(|(_, gain)| *gain).fold(0.0, f64::max)
        };
        (0..self.segments).map(most).sum()
    }

    /// Most that a measured set saves at `least` accuracy.
    fn best(&self, known: &Known, least: f64) -> f64 {
        let fine = known.iter().filter(|(_, score)| score.accuracy() >= least);
        fine.map(|(set, _)| self.gain(set)).fold(0.0, f64::max)
    }

    /// Which of the options a set takes.
    pub fn taken(&self, set: &Set) -> impl Iterator<Item = usize> {
        (0..self.options.len()).filter(|at| set[self.options[*at].segment] == self.options[*at].alternative)
    }

    /// What a set saves.
    fn gain(&self, set: &Set) -> f64 {
        self.taken(set).fold(0.0, |sum, at| sum + self.gains[at])
    }

    /// Weights that a set adds.
    fn size(&self, set: &Set) -> f64 {
        self.taken(set).map(|at| self.options[at].size).sum()
    }
}

fn measured(known: &mut Known, sets: &[Set], measure: &mut Measure<'_>) -> anyhow::Result<()> {
    let mut new: Vec<Set> = sets.iter().filter(|set| !known.contains_key(*set)).cloned().collect();
    new.sort();
    new.dedup();
    if !new.is_empty() {
        let scores = measure(&new)?;
        known.extend(new.into_iter().zip(scores));
    }
    Ok(())
}

fn greedy(problem: Problem<'_>, known: &mut Known, measure: &mut Measure<'_>) -> anyhow::Result<()> {
    let Problem { options, gains, .. } = problem;
    let mut now = problem.none();
    loop {
        let mut next: Vec<(f64, usize)> = (0..options.len())
            .filter(|at| now[options[*at].segment] == 0 && gains[*at] > 0.0)
            .filter(|at| problem.size(&now) + options[*at].size <= MOST_SIZE)
            .map(|at| (options[at].loss.max(1e-6) / gains[at], at))
            .collect();
        next.sort_by(|a, b| a.0.total_cmp(&b.0));
        let with = |at: usize| {
            let mut set = now.clone();
            set[options[at].segment] = options[at].alternative;
            set
        };
        let tried: Vec<(usize, Set)> = next.iter().take(LOOKAHEAD).map(|(_, at)| (*at, with(*at))).collect();
        measured(known, &tried.iter().map(|(_, set)| set.clone()).collect::<Vec<_>>(), measure)?;
        let before = known.get(&now).map_or(0.0, Score::loss);
        let price = |at: usize, set: &Set| {
            known.get(set).map_or(f64::INFINITY, |score| (score.loss() - before).max(1e-6) / gains[at])
        };
        let best = tried.into_iter().min_by(|a, b| price(a.0, &a.1).total_cmp(&price(b.0, &b.1)));
        let Some((_, set)) = best else { return Ok(()) };
        if known.get(&set).is_none_or(|score| score.accuracy() < problem.floor) {
            return Ok(());
        }
        now = set;
    }
}

/// What no set saves more than at `least` accuracy by a surrogate that charges each option its drop, but for sets that
/// hold one that was measured and is too dear. Proposals are measured until one keeps `least`, or so many sets are
/// known.
fn co_optimize(
    problem: Problem<'_>,
    drops: &[f64],
    least: f64,
    most: usize,
    known: &mut Known,
    measure: &mut Measure<'_>,
) -> anyhow::Result<f64> {
    let base = known.get(&problem.none()).map_or(1.0, Score::accuracy);
    loop {
        let bad = too_dear(problem, least, known);
        let Some(set) = propose(problem, drops, base - least, &bad) else { return Ok(problem.all()) };
        let gain = problem.gain(&set);
        if gain <= problem.best(known, least) || known.len() >= most {
            return Ok(gain);
        }
        measured(known, std::slice::from_ref(&set), measure)?;
        shrink(problem, least, set, known, measure)?;
    }
}

/// Measures parts of a set that loses too much, until nothing more can be left out of it without keeping `least`.
fn shrink(
    problem: Problem<'_>,
    least: f64,
    mut set: Set,
    known: &mut Known,
    measure: &mut Measure<'_>,
) -> anyhow::Result<()> {
    let keeps = |known: &Known, set: &Set| known.get(set).is_none_or(|score| score.accuracy() >= least);
    if keeps(known, &set) {
        return Ok(());
    }
    // What loses least alone is least to blame.
    let mut inside: Vec<usize> = problem.taken(&set).collect();
    inside.sort_by(|a, b| problem.options[*a].loss.total_cmp(&problem.options[*b].loss));
    for at in inside {
        let mut without = set.clone();
        without[problem.options[at].segment] = 0;
        measured(known, std::slice::from_ref(&without), measure)?;
        if !keeps(known, &without) {
            set = without;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One alternative for each segment, that loses so much.
    pub(in crate::variants) fn options(drops: &[f64]) -> Vec<Candidate> {
        let option =
            |(segment, drop): (usize, &f64)| Candidate { segment, alternative: 1, loss: *drop, drop: *drop, size: 0.0 };
        drops.iter().enumerate().map(option).collect()
    }

    #[test]
    fn the_search_finds_what_does_not_add_up() {
        // Parts 0 and 1 are harmless alone and ruinous together; 2 costs a little; 3 a lot.
        let mut asked = 0;
        let mut measure = |sets: &[Set]| -> anyhow::Result<Vec<Score>> {
            asked += sets.len();
            let score = |set: &Set| {
                let ruin = if set[0] == 1 && set[1] == 1 { 300.0 } else { 0.0 };
                let lost = ruin + 1.0 * f64::from(set[2]) + 200.0 * f64::from(set[3]);
                Score { right: (900.0 - lost) as usize, nll: 100.0 + lost, samples: 1000 }
            };
            Ok(sets.iter().map(score).collect())
        };
        let mut known = Known::new();
        let base = measure(&[vec![0; 4]]).expect("it can be measured")[0];
        known.insert(vec![0; 4], base);
        let options = options(&[0.0, 0.0, 0.001, 0.2]);
        let problem = Problem { segments: 4, options: &options, gains: &[1.0; 4], floor: 0.85 };
        let bounds = search(problem, &mut known, &mut measure).expect("it can be measured");
        let one_point = bounds.iter().find(|bound| bound.budget > 0.009 && bound.budget < 0.011).expect("it was asked");
        assert!(one_point.proven && one_point.best == 0.5, "{one_point:?}");
        let best =
            known.iter().filter(|(_, score)| score.accuracy() >= 0.89).map(|(set, _)| set.iter().sum::<u8>()).max();
        assert_eq!(best, Some(2), "one of 0 and 1, and 2");
        assert!(asked < 40, "{asked} sets were measured");
    }

    #[test]
    fn what_is_too_dear_is_cut_off_by_its_least_part() {
        // Sixteen parts that cost nothing alone; any two of the first eight are ruinous together.
        let mut asked = 0;
        let mut measure = |sets: &[Set]| -> anyhow::Result<Vec<Score>> {
            asked += sets.len();
            let score = |set: &Set| {
                let together: usize = set[..8].iter().map(|alternative| usize::from(*alternative)).sum();
                let lost = if together > 1 { 300 } else { 0 };
                Score { right: 900 - lost, nll: 100.0 + lost as f64, samples: 1000 }
            };
            Ok(sets.iter().map(score).collect())
        };
        let mut known = Known::new();
        let base = measure(&[vec![0; 16]]).expect("it can be measured")[0];
        known.insert(vec![0; 16], base);
        let options = options(&[0.0; 16]);
        let problem = Problem { segments: 16, options: &options, gains: &[1.0; 16], floor: 0.85 };
        let bounds = search(problem, &mut known, &mut measure).expect("it can be measured");
        assert!(bounds.iter().all(|bound| bound.proven && bound.best == 9.0 / 16.0), "{bounds:?}");
        // 28 pairs, each found by leaving out what else was proposed, in at most 16 steps.
        assert!(asked < 28 * 17 + 60, "{asked} sets were measured");
    }
}
