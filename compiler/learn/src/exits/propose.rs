//! Which combinations of exits are worth having on some samples: exact search over quantised thresholds.
//!
//! A sample that leaves at one exit is not seen by the next, so thresholds cannot be chosen one by one (the assumption of
//! shortest-path formulations). Here every combination of up to three exits and their quantised thresholds is tried on
//! the samples themselves; then one exit at a time is refined, added or removed while that helps.

use super::judge::{ExitSet, Judge, Possible};
use crate::bits::Bits;

/// Exits that the exact search combines at most.
const MAX_EXITS: usize = 3;

/// Possible exits that the exact search looks at; and of those that need another, so many more.
const MAX_CANDIDATES: usize = 18;
const MAX_NEEDING: usize = 8;

/// Thresholds tried per exit in the exact search, and when it is refined.
const LEVELS: usize = 16;
const FINE_LEVELS: usize = 64;

/// Choices that none beats in both cost and accuracy on these samples, cheapest first; sought most carefully where the
/// loss is about one of those in `focuses`. (Not for smaller losses: what fits these samples better held less on others.)
pub fn propose(possible: &[Possible], whole_cost: f64, base_right: &[bool], focuses: &[f64]) -> Vec<ExitSet> {
    let judge = Judge::new(possible, whole_cost, base_right);
    let nothing = judge.nothing();
    let best = focuses.iter().map(|focus| (*focus, nothing.clone())).collect();
    let mut search = Search { judge: &judge, best, curve: vec![nothing] };
    // Least cost within each focus, by candidate.
    let mut least: Vec<Vec<f64>> = vec![vec![whole_cost; possible.len()]; focuses.len()];
    for (candidate, exit) in possible.iter().enumerate() {
        // Alone, or with what it needs, at the thresholds that serve it best.
        let paths: Vec<Vec<(usize, f32)>> = match exit.needs {
            None => judge.levels(candidate, FINE_LEVELS).into_iter().map(|level| vec![(candidate, level)]).collect(),
            Some(needed) => {
                let levels = judge.levels(candidate, LEVELS);
                let with = |first: f32| levels.iter().map(move |level| vec![(needed, first), (candidate, *level)]);
                judge.levels(needed, LEVELS).into_iter().flat_map(with).collect()
            }
        };
        for path in paths {
            let choice = judge.judge(&path);
            for (focus, least) in focuses.iter().zip(&mut least) {
                if choice.difference.loss() <= *focus {
                    least[candidate] = least[candidate].min(choice.cost);
                }
            }
            search.see(choice);
        }
    }
    let mut combined: Vec<Vec<usize>> = Vec::new();
    for (number, least) in least.iter().enumerate() {
        let kept = kept(possible, least);
        // All of them are seen by every focus.
        if !combined.contains(&kept) {
            search.combine(&kept);
            combined.push(kept.clone());
        }
        search.refine(number, &kept);
    }
    let mut curve = search.curve;
    curve.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    curve
}

/// Possible exits that are combined: those that cost least by themselves, in the order of the graph.
fn kept(possible: &[Possible], least: &[f64]) -> Vec<usize> {
    let mut worth: Vec<usize> = (0..possible.len()).collect();
    worth.sort_by(|a, b| least[*a].total_cmp(&least[*b]).then(a.cmp(b)));
    let (alone, needing): (Vec<usize>, Vec<usize>) =
        worth.into_iter().partition(|candidate| possible[*candidate].needs.is_none());
    let mut kept: Vec<usize> =
        alone.into_iter().take(MAX_CANDIDATES).chain(needing.into_iter().take(MAX_NEEDING)).collect();
    kept.sort_by(|a, b| possible[*a].cost.total_cmp(&possible[*b].cost).then(a.cmp(b)));
    kept
}

struct Search<'a> {
    judge: &'a Judge<'a>,
    /// The cheapest choice within each loss that is looked at closely.
    best: Vec<(f64, ExitSet)>,
    curve: Vec<ExitSet>,
}

impl Search<'_> {
    fn see(&mut self, choice: ExitSet) {
        self.consider(&choice.exits, choice.cost, (choice.difference.lost, choice.difference.gained));
    }

    /// Most combinations are no good, so a choice is made only of those that are.
    fn consider(&mut self, exits: &[(usize, f32)], cost: f64, (lost, gained): (usize, usize)) {
        let judge = self.judge;
        let choice = || judge.choice(exits.to_vec(), cost, lost, gained);
        let loss = (lost as f64 - gained as f64) / judge.samples.max(1) as f64;
        for (focus, best) in &mut self.best {
            if loss <= *focus && cost < best.cost {
                *best = choice();
            }
        }
        let right = judge.base_count + gained - lost;
        if !self.curve.iter().any(|known| known.cost <= cost && known.right() >= right) {
            self.curve.retain(|known| known.cost < cost || known.right() > right);
            self.curve.push(choice());
        }
    }

    /// Every combination of up to [`MAX_EXITS`] exits and their quantised thresholds.
    fn combine(&mut self, kept: &[usize]) {
        let judge = self.judge;
        let levels: Vec<Vec<(f32, Bits)>> = kept
            .iter()
            .map(|candidate| {
                let quantised = judge.levels(*candidate, LEVELS).into_iter();
                quantised.map(|threshold| (threshold, judge.leaving(*candidate, threshold))).collect()
            })
            .collect();
        let mut path: Vec<(usize, f32)> = Vec::new();
        let all = Bits::all(judge.samples);
        self.descend(kept, &levels, 0, &mut path, &all, 0.0, (0, 0));
    }

    #[expect(clippy::too_many_arguments, reason = "the state of a recursion")]
    fn descend(
        &mut self,
        kept: &[usize],
        levels: &[Vec<(f32, Bits)>],
        from: usize,
        path: &mut Vec<(usize, f32)>,
        alive: &Bits,
        spent: f64,
        (lost, gained): (usize, usize),
    ) {
        let judge = self.judge;
        if path.len() == MAX_EXITS {
            return;
        }
        let before = path.last().map_or(0.0, |(candidate, _)| judge.possible[*candidate].cost);
        let count = alive.count() as f64;
        for at in from..kept.len() {
            let candidate = kept[at];
            let possible = &judge.possible[candidate];
            let taken = path.iter().any(|(other, _)| judge.possible[*other].place == possible.place);
            let lacks = |needed: usize| path.iter().all(|(other, _)| *other != needed);
            if taken || possible.first && !path.is_empty() || possible.needs.is_some_and(lacks) {
                continue;
            }
            let spent = spent + count * (possible.cost - before + possible.head_cost);
            for (threshold, leaving) in &levels[at] {
                let left = alive.and(leaving);
                let stay = alive.without(leaving);
                let lost = lost + left.count_and(&judge.base_right, &judge.wrong[candidate]);
                let gained = gained + left.count_and(&judge.base_wrong, &judge.right[candidate]);
                path.push((candidate, *threshold));
                let rest = stay.count() as f64 * (judge.whole_cost - possible.cost);
                let cost = (spent + rest) / judge.samples as f64;
                self.consider(path, cost, (lost, gained));
                self.descend(kept, levels, at + 1, path, &stay, spent, (lost, gained));
                path.pop();
            }
        }
    }

    /// Moves one threshold, adds or removes one exit, while that helps within one of the losses.
    fn refine(&mut self, focus: usize, kept: &[usize]) {
        loop {
            let before = self.best[focus].1.cost;
            let current = self.best[focus].1.exits.clone();
            for candidate in kept {
                let mut others: Vec<(usize, f32)> = current
                    .iter()
                    .filter(|(other, _)| {
                        other != candidate && self.judge.possible[*other].place != self.judge.possible[*candidate].place
                    })
                    .copied()
                    .collect();
                if self.judge.complete(&others) {
                    self.see(self.judge.judge(&others));
                }
                let cost = |other: &(usize, f32)| self.judge.possible[other.0].cost;
                let at = others.partition_point(|other| cost(other) < self.judge.possible[*candidate].cost);
                let follows = others.get(at).is_some_and(|(next, _)| self.judge.possible[*next].first);
                if follows || self.judge.possible[*candidate].first && at > 0 {
                    continue;
                }
                others.insert(at, (*candidate, 0.0));
                if !self.judge.complete(&others) {
                    continue;
                }
                for threshold in self.judge.levels(*candidate, FINE_LEVELS) {
                    others[at].1 = threshold;
                    self.see(self.judge.judge(&others));
                }
            }
            if self.best[focus].1.cost >= before * (1.0 - 1e-9) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose::cheapest;
    use super::super::judge::examples::random_possible;
    use super::*;

    #[test]
    fn no_combination_of_quantised_thresholds_is_better() {
        for seed in 1..6 {
            let (possible, base) = random_possible(seed, 3, 300);
            let judge = Judge::new(&possible, 40.0, &base);
            let focuses = [0.02, 0.1, 0.3];
            let curve = propose(&possible, 40.0, &base, &focuses);
            let mut options: Vec<Vec<(usize, f32)>> = vec![Vec::new()];
            for candidate in 0..possible.len() {
                let longer = options.clone().into_iter().flat_map(|path| {
                    judge.levels(candidate, LEVELS).into_iter().map(move |threshold| {
                        let mut path = path.clone();
                        path.push((candidate, threshold));
                        path
                    })
                });
                options = options.iter().cloned().chain(longer).collect();
            }
            for allowed in focuses {
                let kept =
                    options.iter().map(|path| judge.judge(path)).filter(|choice| choice.difference.loss() <= allowed);
                let least = kept.map(|choice| choice.cost).fold(f64::INFINITY, f64::min).min(40.0);
                let best = cheapest(&curve, allowed).expect("no exits lose nothing");
                assert!(best.cost <= least + 1e-9, "seed {seed}, {allowed}: {} > {least}", best.cost);
                assert_eq!(judge.judge(&best.exits), *best, "the search and the judge agree");
            }
        }
    }

    #[test]
    fn what_needs_another_is_never_chosen_without_it() {
        let mut together = 0;
        for seed in 1..8 {
            let (mut possible, base) = random_possible(seed, 3, 300);
            // The last one is always right, if there is the first: an exit that nobody would have by itself.
            possible[2] =
                Possible { right: vec![true; 300], confidence: vec![1.0; 300], needs: Some(0), ..possible[2].clone() };
            for choice in propose(&possible, 40.0, &base, &[0.02]) {
                let has = |wanted: usize| choice.exits.iter().any(|(exit, _)| *exit == wanted);
                assert!(has(0) || !has(2), "{choice:?}");
                together += usize::from(has(2));
            }
        }
        assert!(together > 0, "it is chosen");
    }

    #[test]
    fn the_curve_never_falls() {
        let (possible, base) = random_possible(9, 3, 200);
        let curve = propose(&possible, 40.0, &base, &[0.01, 0.05]);
        assert!(curve.windows(2).all(|pair| pair[0].cost < pair[1].cost && pair[0].accuracy() < pair[1].accuracy()));
    }
}
