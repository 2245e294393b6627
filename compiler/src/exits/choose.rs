//! Which exits stay, and their thresholds: all of them together, by exact search over quantised thresholds.
//!
//! A sample that leaves at one exit is not seen by the next, so thresholds cannot be chosen one by one (the assumption of
//! shortest-path formulations). Here every combination of up to three exits and their quantised thresholds is tried on
//! the samples themselves, kept as sets of bits; then one exit at a time is refined, added or removed while that helps.

/// Exits that the exact search combines at most.
const MAX_EXITS: usize = 3;

/// Possible exits that the exact search looks at.
const MAX_CANDIDATES: usize = 18;

/// Thresholds tried per exit in the exact search, and when it is refined.
const LEVELS: usize = 16;
const FINE_LEVELS: usize = 64;

/// One-sided quantile of the normal distribution for the stated confidence.
pub const CONFIDENCE: f64 = 0.9;
const QUANTILE: f64 = 1.2816;

/// A possible exit, seen on samples that its head has not learned from.
pub struct Possible {
    /// Cost of the backbone up to here.
    pub cost: f64,
    /// Cost of the head.
    pub head_cost: f64,
    /// Confidence on each sample.
    pub confidence: Vec<f32>,
    /// Whether its answer to each sample is right.
    pub right: Vec<bool>,
    /// Exits with the same number exclude each other.
    pub place: usize,
}

/// What must be kept.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// The accuracy may fall by this much.
    Drop(f64),
    /// The accuracy must be this much.
    Accuracy(f64),
}

/// A combination of exits and what it does to the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Index of the possible exit, and its threshold; in the order of the graph.
    pub exits: Vec<(usize, f32)>,
    /// Mean cost of an inference.
    pub cost: f64,
    /// Samples that were right without exits and are wrong with them.
    pub lost: usize,
    /// Samples that were wrong without exits and are right with them.
    pub gained: usize,
    /// Samples.
    pub samples: usize,
    /// Samples right without exits.
    pub base_right: usize,
}

impl Choice {
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        (self.base_right + self.gained - self.lost) as f64 / self.samples.max(1) as f64
    }

    /// Loss of accuracy that is not exceeded with probability [`CONFIDENCE`]: the mean of the paired differences and
    /// their standard error.
    pub fn drop_bound(&self) -> f64 {
        let samples = self.samples.max(1) as f64;
        let (lost, gained) = (self.lost as f64, self.gained as f64);
        let variance = (lost + gained - (lost - gained).powi(2) / samples).max(0.0);
        (lost - gained) / samples + QUANTILE * variance.sqrt() / samples
    }

    /// Accuracy that is reached with probability [`CONFIDENCE`].
    pub fn accuracy_bound(&self) -> f64 {
        let accuracy = self.accuracy();
        accuracy - QUANTILE * (accuracy * (1.0 - accuracy) / self.samples.max(1) as f64).sqrt()
    }

    fn keeps(&self, limit: Limit) -> bool {
        match limit {
            Limit::Drop(allowed) => self.drop_bound() <= allowed,
            Limit::Accuracy(wanted) => self.accuracy_bound() >= wanted,
        }
    }
}

/// The cheapest choice that keeps the limit, and the best accuracy at every cost that was seen, cheapest first.
pub struct Chosen {
    /// The choice; no exits if none pays.
    pub best: Choice,
    /// Choices that none beats in both cost and accuracy.
    pub curve: Vec<Choice>,
}

/// Decides. `whole_cost` is that of the network without exits; `base_right` says which samples it answers rightly.
pub fn choose(possible: &[Possible], whole_cost: f64, base_right: &[bool], limit: Limit) -> Chosen {
    let judge = Judge::new(possible, whole_cost, base_right);
    let nothing = judge.nothing();
    let mut search = Search { judge: &judge, limit, best: nothing.clone(), curve: vec![nothing.clone()] };
    let mut worth: Vec<(f64, usize)> = Vec::new();
    for candidate in 0..possible.len() {
        // Alone, at the threshold that serves it best.
        let least = judge.levels(candidate, FINE_LEVELS).into_iter().map(|threshold| {
            let choice = judge.judge(&[(candidate, threshold)]);
            let cost = if choice.keeps(limit) { choice.cost } else { whole_cost };
            search.see(choice);
            cost
        });
        worth.push((least.fold(whole_cost, f64::min), candidate));
    }
    worth.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut kept: Vec<usize> = worth.into_iter().map(|(_, candidate)| candidate).take(MAX_CANDIDATES).collect();
    kept.sort_by(|a, b| possible[*a].cost.total_cmp(&possible[*b].cost).then(a.cmp(b)));
    search.combine(&kept);
    search.refine(&kept);
    let Search { best, mut curve, .. } = search;
    curve.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    Chosen { best, curve }
}

struct Search<'a> {
    judge: &'a Judge<'a>,
    limit: Limit,
    best: Choice,
    curve: Vec<Choice>,
}

impl Search<'_> {
    fn see(&mut self, choice: Choice) {
        if choice.keeps(self.limit) && choice.cost < self.best.cost {
            self.best = choice.clone();
        }
        let right = |choice: &Choice| choice.base_right + choice.gained - choice.lost;
        let beaten = |known: &Choice| known.cost <= choice.cost && right(known) >= right(&choice);
        if !self.curve.iter().any(beaten) {
            self.curve.retain(|known| known.cost < choice.cost || right(known) > right(&choice));
            self.curve.push(choice);
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

    #[allow(clippy::too_many_arguments, reason = "the state of a recursion")]
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
            if path.iter().any(|(other, _)| judge.possible[*other].place == possible.place) {
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
                let choice = judge.choice(path.clone(), cost, lost, gained);
                self.see(choice);
                self.descend(kept, levels, at + 1, path, &stay, spent, (lost, gained));
                path.pop();
            }
        }
    }

    /// Moves one threshold, adds or removes one exit, while that helps.
    fn refine(&mut self, kept: &[usize]) {
        loop {
            let before = self.best.cost;
            let current = self.best.exits.clone();
            for candidate in kept {
                let mut others: Vec<(usize, f32)> = current
                    .iter()
                    .filter(|(other, _)| {
                        other != candidate && self.judge.possible[*other].place != self.judge.possible[*candidate].place
                    })
                    .copied()
                    .collect();
                self.see(self.judge.judge(&others));
                let cost = |other: &(usize, f32)| self.judge.possible[other.0].cost;
                let at = others.partition_point(|other| cost(other) < self.judge.possible[*candidate].cost);
                others.insert(at, (*candidate, 0.0));
                for threshold in self.judge.levels(*candidate, FINE_LEVELS) {
                    others[at].1 = threshold;
                    self.see(self.judge.judge(&others));
                }
            }
            if self.best.cost >= before * (1.0 - 1e-9) {
                return;
            }
        }
    }
}

/// The samples as sets.
struct Judge<'a> {
    possible: &'a [Possible],
    whole_cost: f64,
    samples: usize,
    base_right: Bits,
    base_wrong: Bits,
    right: Vec<Bits>,
    wrong: Vec<Bits>,
}

impl Judge<'_> {
    fn new<'a>(possible: &'a [Possible], whole_cost: f64, base_right: &[bool]) -> Judge<'a> {
        let set = |flags: &[bool], wanted: bool| Bits::of(flags.iter().map(|flag| *flag == wanted));
        Judge {
            possible,
            whole_cost,
            samples: base_right.len(),
            base_right: set(base_right, true),
            base_wrong: set(base_right, false),
            right: possible.iter().map(|exit| set(&exit.right, true)).collect(),
            wrong: possible.iter().map(|exit| set(&exit.right, false)).collect(),
        }
    }

    fn nothing(&self) -> Choice {
        self.choice(Vec::new(), self.whole_cost, 0, 0)
    }

    fn choice(&self, exits: Vec<(usize, f32)>, cost: f64, lost: usize, gained: usize) -> Choice {
        Choice { exits, cost, lost, gained, samples: self.samples, base_right: self.base_right.count() }
    }

    fn leaving(&self, candidate: usize, threshold: f32) -> Bits {
        Bits::of(self.possible[candidate].confidence.iter().map(|confidence| *confidence >= threshold))
    }

    /// Thresholds at equal steps of the share that leaves.
    fn levels(&self, candidate: usize, count: usize) -> Vec<f32> {
        let mut sorted = self.possible[candidate].confidence.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let at = |level: usize| sorted.get((level * sorted.len() / count).saturating_sub(1)).copied();
        let mut found: Vec<f32> = (1..=count).filter_map(at).filter(|threshold| *threshold > 0.0).collect();
        found.dedup();
        found
    }

    fn judge(&self, exits: &[(usize, f32)]) -> Choice {
        let mut alive = Bits::all(self.samples);
        let (mut spent, mut before, mut lost, mut gained) = (0.0, 0.0, 0, 0);
        for (candidate, threshold) in exits {
            let possible = &self.possible[*candidate];
            spent += alive.count() as f64 * (possible.cost - before + possible.head_cost);
            before = possible.cost;
            let leaving = self.leaving(*candidate, *threshold);
            let left = alive.and(&leaving);
            lost += left.count_and(&self.base_right, &self.wrong[*candidate]);
            gained += left.count_and(&self.base_wrong, &self.right[*candidate]);
            alive = alive.without(&leaving);
        }
        spent += alive.count() as f64 * (self.whole_cost - before);
        self.choice(exits.to_vec(), spent / self.samples.max(1) as f64, lost, gained)
    }
}

/// A set of samples.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn of(flags: impl Iterator<Item = bool>) -> Bits {
        let mut words = Vec::new();
        for (index, flag) in flags.enumerate() {
            if index % 64 == 0 {
                words.push(0u64);
            }
            if let Some(word) = words.last_mut() {
                *word |= u64::from(flag) << (index % 64);
            }
        }
        Bits(words)
    }

    fn all(count: usize) -> Bits {
        Bits::of((0..count).map(|_| true))
    }

    fn and(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    fn without(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(a, b)| a & !b).collect())
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Members of this set and of both others.
    fn count_and(&self, a: &Bits, b: &Bits) -> usize {
        let words = self.0.iter().zip(&a.0).zip(&b.0);
        words.map(|((word, a), b)| (word & a & b).count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_possible(seed: u64, exits: usize, samples: usize) -> (Vec<Possible>, Vec<bool>) {
        let mut state = seed;
        let mut unit = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let base: Vec<bool> = (0..samples).map(|_| unit() < 0.9).collect();
        let possible = (0..exits)
            .map(|place| {
                let skill = 0.3 + 0.6 * (place as f32 + 1.0) / exits as f32;
                let confidence: Vec<f32> = (0..samples).map(|_| unit()).collect();
                let right = confidence.iter().map(|c| unit() < skill + (1.0 - skill) * c).collect();
                let cost = 10.0 * (place + 1) as f64;
                Possible { cost, head_cost: 1.0, confidence, right, place }
            })
            .collect();
        (possible, base)
    }

    #[test]
    fn no_combination_of_quantised_thresholds_is_better() {
        for seed in 1..6 {
            let (possible, base) = random_possible(seed, 3, 300);
            for limit in [Limit::Drop(0.02), Limit::Drop(0.1), Limit::Accuracy(0.8)] {
                let judge = Judge::new(&possible, 40.0, &base);
                let chosen = choose(&possible, 40.0, &base, limit);
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
                let kept = options.iter().map(|path| judge.judge(path)).filter(|choice| choice.keeps(limit));
                let least = kept.map(|choice| choice.cost).fold(f64::INFINITY, f64::min).min(40.0);
                assert!(chosen.best.cost <= least + 1e-9, "seed {seed}, {limit:?}: {} > {least}", chosen.best.cost);
                assert!(chosen.best.exits.is_empty() || chosen.best.keeps(limit));
                assert_eq!(judge.judge(&chosen.best.exits), chosen.best, "the search and the judge agree");
            }
        }
    }

    #[test]
    fn the_curve_never_falls() {
        let (possible, base) = random_possible(9, 3, 200);
        let curve = choose(&possible, 40.0, &base, Limit::Drop(0.01)).curve;
        assert!(curve.windows(2).all(|pair| pair[0].cost < pair[1].cost && pair[0].accuracy() < pair[1].accuracy()));
    }
}
