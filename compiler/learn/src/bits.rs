//! Sets of samples, a bit for each.

use serde::{Deserialize, Serialize};

/// A set of samples, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Those samples whose flag is set.
    pub fn of(flags: impl Iterator<Item = bool>) -> Bits {
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

    /// The first samples.
    pub fn all(count: usize) -> Bits {
        Bits::of((0..count).map(|_| true))
    }

    /// Whether a sample is in the set.
    pub fn contains(&self, sample: usize) -> bool {
        self.0.get(sample / 64).is_some_and(|word| word >> (sample % 64) & 1 == 1)
    }

    /// Adds a sample.
    pub fn insert(&mut self, sample: usize) {
        let at = sample / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (sample % 64);
    }

    /// Adds the members of another set.
    pub fn join(&mut self, other: &Bits) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }

    /// Members of both sets.
    pub fn and(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// Members of this set that are not in another.
    pub fn without(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(other.0.iter().chain(std::iter::repeat(&0))).map(|(a, b)| a & !b).collect())
    }

    /// Members.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Members of this set and of both others.
    pub fn count_and(&self, a: &Bits, b: &Bits) -> usize {
        let words = self.0.iter().zip(&a.0).zip(&b.0);
        words.map(|((word, a), b)| (word & a & b).count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_unequal_length_are_joined_and_compared() {
        let even = Bits::of((0..130).map(|sample| sample % 2 == 0));
        let mut few = Bits::default();
        few.insert(2);
        few.insert(67);
        assert_eq!((even.count(), few.count(), even.and(&few).count()), (65, 2, 1));
        assert_eq!((even.without(&few).count(), few.without(&even).count()), (64, 1));
        assert_eq!(Bits::all(70).count_and(&even, &few), 1);
        assert!(few.contains(67) && !few.contains(3) && !few.contains(1000));
        few.join(&even);
        assert_eq!((few.count(), few.contains(128)), (66, true));
    }
}
