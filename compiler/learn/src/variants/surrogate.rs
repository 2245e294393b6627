//! Linear surrogates of what sets lose: every option is charged its drop of accuracy, and drops add up. The set that
//! saves most by a surrogate is the answer of an ILP.

use good_lp::{Expression, Solution, SolverModel, constraint, variable, variables};

use super::scores::{Score, Set};
use super::search::{Known, MOST_SIZE, Problem};

/// Sets that lose more say nothing of those that are wanted.
const MOST_DROP: f64 = 0.1;

/// What each option loses alone.
pub fn single_drops(problem: Problem<'_>) -> Vec<f64> {
    problem.options.iter().map(|option| option.drop.max(0.0)).collect()
}

/// What options lose in company: a factor of the negative log-likelihood that each adds alone, and something for each
/// that goes, both fitted by least squares to the sets that have been measured. Alone, most drops are within the noise,
/// and together parts lose more than the sum.
pub fn fitted_drops(problem: Problem<'_>, known: &Known) -> Vec<f64> {
    let nll = |at: usize| problem.options[at].loss.max(0.0);
    let base = known
        .iter()
        .find(|(set, _)| set.iter().all(|alternative| *alternative == 0))
        .map_or(1.0, |(_, score)| score.accuracy());
    let [mut ss, mut sn, mut nn, mut sd, mut nd] = [0.0f64; 5];
    for (set, score) in known {
        let drop = base - Score::accuracy(score);
        let (s, n) = problem.taken(set).fold((0.0, 0.0), |(s, n), at| (s + nll(at), n + 1.0));
        if n > 0.0 && drop <= MOST_DROP {
            (ss, sn, nn, sd, nd) = (ss + s * s, sn + s * n, nn + n * n, sd + s * drop, nd + n * drop);
        }
    }
    let determinant = ss * nn - sn * sn;
    let both = ((sd * nn - nd * sn) / determinant, (nd * ss - sd * sn) / determinant);
    let (factor, each) = match both {
        (factor, each) if determinant > 1e-12 && factor >= 0.0 && each >= 0.0 => both,
        // Only one of them explains something.
        (factor, _) if determinant > 1e-12 && factor < 0.0 => (0.0, (nd / nn).max(0.0)),
        _ => ((sd / ss.max(1e-12)).max(0.0), 0.0),
    };
    (0..problem.options.len()).map(|at| factor * nll(at) + each).collect()
}

/// Sets that were measured and lose too much, without those that hold another of them: they are cut off, with
/// everything beyond them.
pub fn too_dear<'a>(problem: Problem<'_>, least: f64, known: &'a Known) -> Vec<&'a Set> {
    let bad = known.iter().filter(|(_, score)| score.accuracy() < least).map(|(set, _)| set);
    let mut bad: Vec<&Set> = bad.collect();
    bad.sort_by_key(|set| problem.taken(set).count());
    let mut minimal: Vec<&Set> = Vec::new();
    for set in bad {
        let holds = |core: &&Set| core.iter().zip(set).all(|(core, alternative)| *core == 0 || core == alternative);
        if !minimal.iter().any(holds) {
            minimal.push(set);
        }
    }
    minimal
}

/// The most saving of options whose drops add up to at most `budget`, and that holds none of the sets `bad`.
pub fn propose(problem: Problem<'_>, drops: &[f64], budget: f64, bad: &[&Set]) -> Option<Set> {
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
        .with(constraint!(sum(&|at| drops[at]) <= budget))
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
            set[option.segment] = option.alternative;
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::search::Candidate;
    use crate::variants::search::tests::options;

    /// Every set of a problem of `segments` with one alternative each.
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
                set.iter().zip(of).filter(|(alternative, _)| **alternative == 1).map(|(_, value)| value).sum()
            };
            let options = options(&drops);
            let problem = Problem { segments: 10, options: &options, gains: &gains, floor: 0.0 };
            let found = propose(problem, &single_drops(problem), 0.03, &[]).expect("the empty set keeps every budget");
            let best = all(10).filter(|set| value(set, &drops) <= 0.03).map(|set| value(&set, &gains));
            let best = best.fold(0.0, f64::max);
            assert!(value(&found, &drops) <= 0.03 + 1e-9);
            assert!((value(&found, &gains) - best).abs() < 1e-6, "{} instead of {best}", value(&found, &gains));
            let second = propose(problem, &single_drops(problem), 0.03, &[&found]).expect("others are left");
            assert!(value(&second, &gains) <= best + 1e-9 && second != found);
        }
    }

    #[test]
    fn drops_in_company_are_fitted() {
        // Negative log-likelihoods of 0.01, 0.02, ..; a set loses half of their sum and 0.002 for each.
        let options: Vec<Candidate> = (0..6)
            .map(|segment| Candidate {
                segment,
                alternative: 1,
                loss: 0.01 * (segment + 1) as f64,
                drop: 0.0,
                size: 0.0,
            })
            .collect();
        let problem = Problem { segments: 6, options: &options, gains: &[1.0; 6], floor: 0.0 };
        let score = |set: &Set| {
            let drop: f64 = problem.taken(set).map(|at| options[at].loss / 2.0 + 0.002).sum();
            Score { right: ((0.9 - drop) * 1e6).round() as usize, nll: 0.0, samples: 1_000_000 }
        };
        let known: Known = all(6).map(|set| (set.clone(), score(&set))).collect();
        for (drop, option) in fitted_drops(problem, &known).iter().zip(&options) {
            assert!((drop - option.loss / 2.0 - 0.002).abs() < 1e-4, "{drop} for {option:?}");
        }
        assert_eq!(fitted_drops(problem, &Known::new()), [0.0; 6], "nothing is known");
    }
}
