//! Possible exits, and what a combination of them does to samples, kept as sets of bits.

use crate::bits::Bits;
use crate::confidence::Difference;

/// A possible exit, seen on samples that its head has not learned from.
#[derive(Clone, Debug)]
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
    /// Whether what it says depends on all samples before, so that no other exit may end some of them.
    pub first: bool,
    /// Index of an earlier exit without which there is not this one, because it uses what that one has said.
    pub needs: Option<usize>,
}

impl Possible {
    /// The same on some of the samples.
    pub(super) fn on(&self, samples: &[usize]) -> Possible {
        Possible {
            confidence: samples.iter().map(|sample| self.confidence[*sample]).collect(),
            right: samples.iter().map(|sample| self.right[*sample]).collect(),
            ..*self
        }
    }
}
/// A combination of exits and what it does to the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitSet {
    /// Index of the possible exit, and its threshold; in the order of the graph.
    pub exits: Vec<(usize, f32)>,
    /// Mean cost of an inference.
    pub cost: f64,
    /// Samples right without exits.
    pub base_right: usize,
    /// What exits change of that.
    pub difference: Difference,
}

impl ExitSet {
    /// Right answers.
    pub(super) fn right(&self) -> usize {
        self.base_right + self.difference.gained - self.difference.lost
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right() as f64 / self.difference.samples.max(1) as f64
    }
}

/// The samples as sets.
pub(super) struct Judge<'a> {
    pub possible: &'a [Possible],
    pub whole_cost: f64,
    pub samples: usize,
    pub base_count: usize,
    pub base_right: Bits,
    pub base_wrong: Bits,
    pub right: Vec<Bits>,
    pub wrong: Vec<Bits>,
}

impl Judge<'_> {
    pub fn new<'a>(possible: &'a [Possible], whole_cost: f64, base_right: &[bool]) -> Judge<'a> {
        let set = |flags: &[bool], wanted: bool| Bits::of(flags.iter().map(|flag| *flag == wanted));
        Judge {
            possible,
            whole_cost,
            samples: base_right.len(),
            base_count: base_right.iter().filter(|right| **right).count(),
            base_right: set(base_right, true),
            base_wrong: set(base_right, false),
            right: possible.iter().map(|exit| set(&exit.right, true)).collect(),
            wrong: possible.iter().map(|exit| set(&exit.right, false)).collect(),
        }
    }

    pub fn nothing(&self) -> ExitSet {
        self.choice(Vec::new(), self.whole_cost, 0, 0)
    }

    pub fn choice(&self, exits: Vec<(usize, f32)>, cost: f64, lost: usize, gained: usize) -> ExitSet {
        ExitSet { exits, cost, base_right: self.base_count, difference: Difference::of(lost, gained, self.samples) }
    }

    /// What each sample loses (1) or gains (-1) by exits.
    pub fn changes(&self, exits: &[(usize, f32)]) -> Vec<i8> {
        let mut alive = Bits::all(self.samples);
        let mut found = vec![0; self.samples];
        for (candidate, threshold) in exits {
            let leaving = self.leaving(*candidate, *threshold);
            let left = alive.and(&leaving);
            for (sample, change) in found.iter_mut().enumerate().filter(|(sample, _)| left.contains(*sample)) {
                *change =
                    i8::from(self.base_right.contains(sample)) - i8::from(self.right[*candidate].contains(sample));
            }
            alive = alive.without(&leaving);
        }
        found
    }

    pub fn leaving(&self, candidate: usize, threshold: f32) -> Bits {
        Bits::of(self.possible[candidate].confidence.iter().map(|confidence| *confidence >= threshold))
    }

    /// Thresholds at equal steps of the share that leaves.
    pub fn levels(&self, candidate: usize, count: usize) -> Vec<f32> {
        let mut sorted = self.possible[candidate].confidence.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let at = |level: usize| sorted.get((level * sorted.len() / count).saturating_sub(1)).copied();
        let mut found: Vec<f32> = (1..=count).filter_map(at).filter(|threshold| *threshold > 0.0).collect();
        found.dedup();
        found
    }

    /// Whether every exit has those that it needs.
    pub fn complete(&self, exits: &[(usize, f32)]) -> bool {
        let has = |needed: usize| exits.iter().any(|(other, _)| *other == needed);
        exits.iter().all(|(exit, _)| self.possible[*exit].needs.is_none_or(has))
    }

    pub fn judge(&self, exits: &[(usize, f32)]) -> ExitSet {
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
#[cfg(test)]
pub(super) mod examples {
    use super::*;

    /// Exits with random confidences, which say something of whether answers are right, and a network that is right for
    /// nine of ten samples.
    pub fn random_possible(seed: u64, exits: usize, samples: usize) -> (Vec<Possible>, Vec<bool>) {
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
                Possible { cost, head_cost: 1.0, confidence, right, place, first: false, needs: None }
            })
            .collect();
        (possible, base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_sample_loses_adds_up() {
        for seed in 1..6 {
            let (possible, base) = examples::random_possible(seed, 3, 300);
            let judge = Judge::new(&possible, 40.0, &base);
            let exits = [(0, 0.7), (2, 0.4)];
            assert_eq!(Difference::of_samples(&judge.changes(&exits), None), judge.judge(&exits).difference);
        }
    }
}
