//! Which sets of parts can go together at what loss.
//!
//! A greedy search takes, of the next few candidates that look cheapest alone, the one that is cheapest together with
//! what has gone already. A linear surrogate (losses of single parts add up) is solved as an ILP for several budgets; what
//! it proposes is measured, and sets that turn out dearer than they looked are cut off until one keeps the budget or
//! nothing is left that would save more than is known.

use std::collections::BTreeMap;

use good_lp::{Expression, Solution, SolverModel, constraint, variable, variables};

use super::scores::{Score, Set};

/// Candidates that the greedy search measures at each step.
const LOOKAHEAD: usize = 3;

/// Proposals of the surrogate that are measured for each budget.
const PROPOSALS: usize = 25;

/// Weights that a set may add, as a share of the model's: several sets are to fit beside each other.
const MOST_SIZE: f64 = 0.06;

/// Losses of accuracy for which the best set is looked for.
const BUDGETS: [f64; 6] = [0.0025, 0.005, 0.01, 0.02, 0.03, 0.05];

/// One way to compute one segment, beside computing it as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which segment.
    pub segment: usize,
    /// Which way.
    pub way: u8,
    /// Mean surprise that it adds alone.
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
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Bound {
    /// Loss of accuracy that is allowed.
    pub budget: f64,
    /// Most that a measured set saves within it, as a share of all that could go.
    pub best: f64,
    /// What no set saves more than, whose single losses add up to the budget at most.
    pub bound: f64,
    /// Whether the two meet.
    pub proven: bool,
}

/// What can go, and what is wanted of it.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Segments of the network.
    pub segments: usize,
    /// Ways to compute them.
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
    let mut bounds = Vec::new();
    for budget in BUDGETS {
        if base - budget >= problem.floor - 1e-9 {
            bounds.push(surrogate(problem, base - budget, known, measure)?);
        }
    }
    Ok(bounds)
}

impl Problem<'_> {
    /// The set of which nothing goes.
    fn none(&self) -> Set {
        vec![0; self.segments]
    }

    /// Which of the options a set takes.
    fn taken(&self, set: &Set) -> impl Iterator<Item = usize> {
        (0..self.options.len()).filter(|at| set[self.options[*at].segment] == self.options[*at].way)
    }

    /// What a set saves.
    fn gain(&self, set: &Set) -> f64 {
        self.taken(set).map(|at| self.gains[at]).sum()
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
            set[options[at].segment] = options[at].way;
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

/// The set that saves most at `least` accuracy by the surrogate; proposals are measured until one keeps it.
fn surrogate(problem: Problem<'_>, least: f64, known: &mut Known, measure: &mut Measure<'_>) -> anyhow::Result<Bound> {
    let base = known.get(&problem.none()).map_or(1.0, Score::accuracy);
    let most = |segment: usize| {
        let own = problem.options.iter().zip(problem.gains).filter(|(option, _)| option.segment == segment);
        own.map(|(_, gain)| *gain).fold(0.0, f64::max)
    };
    let all: f64 = (0..problem.segments).map(most).sum();
    let bound = |best: f64, bound: f64| Bound {
        budget: base - least,
        best: best / all.max(1e-12),
        bound: bound.max(best) / all.max(1e-12),
        proven: bound <= best * (1.0 + 1e-9),
    };
    let mut last = all;
    let keeps = |known: &Known| {
        let fine = known.iter().filter(|(_, score)| score.accuracy() >= least);
        fine.map(|(set, _)| problem.gain(set)).fold(0.0, f64::max)
    };
    for _ in 0..PROPOSALS {
        // Sets that were measured and lose too much are cut off, with everything beyond them.
        let bad: Vec<&Set> = known.iter().filter(|(_, score)| score.accuracy() < least).map(|(set, _)| set).collect();
        let Some(set) = propose(problem, base - least, &bad) else { break };
        last = problem.gain(&set);
        if last <= keeps(known) {
            return Ok(bound(keeps(known), last));
        }
        measured(known, &[set], measure)?;
    }
    Ok(bound(keeps(known), last))
}

/// The most saving whose single losses add up to at most `budget`, and that holds none of the sets `bad`.
pub fn propose(problem: Problem<'_>, budget: f64, bad: &[&Set]) -> Option<Set> {
    let Problem { segments, options, gains, .. } = problem;
    let mut variables = variables!();
    let chosen: Vec<_> = options.iter().map(|_| variables.add(variable().binary())).collect();
    let sum = |factor: &dyn Fn(usize) -> f64| -> Expression {
        chosen.iter().enumerate().map(|(at, x)| factor(at) * *x).sum()
    };
    let most = gains.iter().copied().fold(1e-12, f64::max);
    let mut model = variables
        .maximise(sum(&|at| gains[at] / most))
        .using(good_lp::microlp)
        .with(constraint!(sum(&|at| options[at].drop.max(0.0)) <= budget))
        .with(constraint!(sum(&|at| options[at].size) <= MOST_SIZE));
    for segment in 0..segments {
        if options.iter().filter(|option| option.segment == segment).count() > 1 {
            let of = sum(&|at| f64::from(u8::from(options[at].segment == segment)));
            model = model.with(constraint!(of <= 1.0));
        }
    }
    for set in bad {
        let inside: Vec<usize> = problem.taken(set).collect();
        let size = inside.len();
        let of = sum(&|at| f64::from(u8::from(inside.contains(&at))));
        model = model.with(constraint!(of <= size as f64 - 1.0));
    }
    let solution = model.solve().ok()?;
    let mut set = vec![0; segments];
    for (option, x) in options.iter().zip(&chosen) {
        if solution.value(*x) > 0.5 {
            set[option.segment] = option.way;
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(drops: &[f64]) -> Vec<Candidate> {
        let option =
            |(segment, drop): (usize, &f64)| Candidate { segment, way: 1, loss: *drop, drop: *drop, size: 0.0 };
        drops.iter().enumerate().map(option).collect()
    }

    /// Every set of a problem of `segments` with one way each.
    fn all(segments: usize) -> impl Iterator<Item = Set> {
        (0..1u32 << segments).map(move |bits| (0..segments).map(|at| (bits >> at & 1) as u8).collect())
    }

    #[test]
    fn no_set_of_all_is_better_by_the_surrogate() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        for _ in 0..20 {
            let drops: Vec<f64> = (0..10).map(|_| noise() * 0.02).collect();
            let gains: Vec<f64> = (0..10).map(|_| noise()).collect();
            let value = |set: &Set, of: &[f64]| -> f64 {
                set.iter().zip(of).filter(|(way, _)| **way == 1).map(|(_, value)| value).sum()
            };
            let options = options(&drops);
            let problem = Problem { segments: 10, options: &options, gains: &gains, floor: 0.0 };
            let found = propose(problem, 0.03, &[]).expect("the empty set keeps every budget");
            let best = all(10).filter(|set| value(set, &drops) <= 0.03).map(|set| value(&set, &gains));
            let best = best.fold(0.0, f64::max);
            assert!(value(&found, &drops) <= 0.03 + 1e-9);
            assert!((value(&found, &gains) - best).abs() < 1e-6, "{} instead of {best}", value(&found, &gains));
            let second = propose(problem, 0.03, &[&found]).expect("others are left");
            assert!(value(&second, &gains) <= best + 1e-9 && second != found);
        }
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
                Score { right: (900.0 - lost) as usize, surprise: 100.0 + lost, samples: 1000 }
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
}
