//! Which samples heads learn from, and which judge them: never the same.

use std::ops::Range;

use partita_train::chance::Chance;

/// Parts of the calibration set, each judged by heads that have learned from the others, if it is small.
const FOLDS: usize = 4;

/// Calibration samples from which a part of them judges well enough to leave the rest to learning.
const MANY: usize = 3000;

/// Calibration samples that judge well enough, where others are there to learn from.
const ENOUGH: usize = 1000;

/// Share of many samples that judge.
const JUDGING: f64 = 0.4;

/// Who learns what. Each version of a head learns from some samples; the others are judged by it.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSplit {
    /// Samples of each version, ascending.
    pub versions: Vec<Vec<usize>>,
    /// Samples that judge, ascending.
    pub judged: Vec<usize>,
    /// Version by which each of those is judged.
    pub judge: Vec<usize>,
    /// Part to which each of those belongs where choices are judged in their turn.
    pub parts: Vec<usize>,
    /// Group of each of those, if they belong to groups.
    pub groups: Option<Vec<u32>>,
    /// The version that is compiled.
    pub compiled: usize,
    /// Whether there are samples only for learning.
    pub has_further: bool,
}

impl SampleSplit {
    /// Samples of a version that say when to stop and how sure a head may be; it does not learn from them. Of many
    /// samples a few are enough.
    pub fn held_out(&self, sample: usize) -> bool {
        let part = if self.versions[self.compiled].len() < MANY { 8 } else { 32 };
        sample % part == part - 1
    }

    /// How many calibration samples there must be for so many to judge, about.
    pub fn calibration_for(&self, judging: usize) -> usize {
        let all_judge = judging < MANY || self.has_further;
        if all_judge { judging } else { (judging as f64 / JUDGING).ceil() as usize }
    }

    /// Of calibration samples `0..calibration`, followed by `further` samples only for learning; where there are many of
    /// the former and some of the latter, the former only judge. Samples of one group (one patient, one speaker) stay
    /// together.
    pub fn of(calibration: usize, further: Range<usize>, groups: Option<&[u32]>) -> SampleSplit {
        let parts = parts(calibration, groups);
        let all = || (0..calibration).collect::<Vec<usize>>();
        let of =
            |samples: &[usize]| groups.map(|groups| samples.iter().map(|sample| groups[*sample]).collect::<Vec<u32>>());
        if !further.is_empty() && calibration >= ENOUGH {
            return SampleSplit {
                versions: vec![further.collect()],
                judged: all(),
                judge: vec![0; calibration],
                parts,
                groups: of(&all()),
                compiled: 0,
                has_further: true,
            };
        }
        if calibration < MANY {
            let without = |part: usize| -> Vec<usize> {
                let others = (0..calibration).filter(|sample| parts[*sample] != part);
                others.chain(further.clone()).collect()
            };
            let versions = (0..FOLDS).map(without).chain([(0..further.end).collect()]).collect();
            let judge = parts.clone();
            let has_further = !further.is_empty();
            return SampleSplit {
                versions,
                judged: all(),
                judge,
                parts,
                groups: of(&all()),
                compiled: FOLDS,
                has_further,
            };
        }
        // Parts as equal as those of folds, but finer: groups are not torn apart here either.
        let mut order: Vec<usize> = all();
        order.sort_by_key(|sample| (parts[*sample], groups.map_or(0, |groups| groups[*sample])));
        let wanted = (calibration as f64 * JUDGING) as usize;
        let same = |a: usize, b: usize| groups.is_some_and(|groups| groups[a] == groups[b]);
        let end = (wanted..calibration).find(|at| !same(order[at - 1], order[*at])).unwrap_or(wanted);
        let mut judged = order[..end].to_vec();
        judged.sort_unstable();
        let learning = all().into_iter().filter(|sample| judged.binary_search(sample).is_err()).collect();
        let own = of(&judged);
        let parts = self::parts(judged.len(), own.as_deref());
        let judge = vec![0; judged.len()];
        SampleSplit { versions: vec![learning], judge, groups: own, judged, parts, compiled: 0, has_further: false }
    }
}

/// Parts of about equal size; by chance, or by groups, the largest first to the smallest part.
fn parts(samples: usize, groups: Option<&[u32]>) -> Vec<usize> {
    let Some(groups) = groups else {
        let mut order: Vec<usize> = (0..samples).collect();
        Chance::new(0x5eed).shuffle(&mut order);
        let mut parts = vec![0; samples];
        order.iter().enumerate().for_each(|(position, sample)| parts[*sample] = position % FOLDS);
        return parts;
    };
    let mut sizes = std::collections::BTreeMap::<u32, usize>::new();
    groups.iter().for_each(|group| *sizes.entry(*group).or_default() += 1);
    let mut sizes: Vec<(u32, usize)> = sizes.into_iter().collect();
    sizes.sort_by_key(|(group, size)| (std::cmp::Reverse(*size), *group));
    let mut filled = [0; FOLDS];
    let mut part_of = std::collections::BTreeMap::new();
    for (group, size) in sizes {
        let part = (0..FOLDS).min_by_key(|part| filled[*part]).unwrap_or(0);
        filled[part] += size;
        part_of.insert(group, part);
    }
    groups.iter().map(|group| part_of[group]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the case: nobody is judged by what has learned from him, or from his group.
    fn check(split: &SampleSplit, groups: Option<&[u32]>) {
        assert_eq!(split.judged.len(), split.judge.len());
        assert_eq!(split.judged.len(), split.parts.len());
        for (sample, version) in split.judged.iter().zip(&split.judge) {
            assert!(split.versions[*version].binary_search(sample).is_err(), "{sample}");
            if let Some(groups) = groups {
                let own = |other: &&usize| groups.get(**other) == Some(&groups[*sample]);
                assert_eq!(split.versions[*version].iter().find(own), None, "{sample} knows one of its group");
            }
        }
        let mut sizes = [0; FOLDS];
        split.parts.iter().for_each(|part| sizes[*part] += 1);
        assert!(sizes.iter().all(|size| *size * 6 > split.judged.len()), "{sizes:?}");
    }

    #[test]
    fn nobody_is_judged_by_what_knows_him() {
        let groups = |samples: usize| (0..samples).map(|sample| (sample * 31 % 97 / 5) as u32).collect::<Vec<_>>();
        let helped = SampleSplit::of(400, 400..900, None);
        check(&helped, None);
        assert!(helped.versions.iter().all(|version| version.ends_with(&[898, 899])), "all learn from what is further");
        for samples in [100, 1000, 3000, 5001] {
            let groups = groups(samples);
            check(&SampleSplit::of(samples, samples..samples, None), None);
            check(&SampleSplit::of(samples, samples..samples, Some(&groups)), Some(&groups));
            let further = SampleSplit::of(samples, samples..samples + 700, None);
            check(&further, None);
            assert_eq!(further.judged.len(), samples);
        }
    }

    #[test]
    fn few_samples_all_judge_and_all_teach() {
        let split = SampleSplit::of(400, 400..400, None);
        assert_eq!((split.judged.len(), split.versions.len()), (400, FOLDS + 1));
        assert_eq!(split.versions[split.compiled].len(), 400);
        let many = SampleSplit::of(5000, 5000..5000, None);
        assert_eq!((many.judged.len(), many.versions[0].len()), (2000, 3000));
        assert_eq!((split.calibration_for(800), split.calibration_for(4000)), (800, 10_000));
        assert_eq!(SampleSplit::of(400, 400..900, None).calibration_for(4000), 4000, "then others teach");
    }
}
