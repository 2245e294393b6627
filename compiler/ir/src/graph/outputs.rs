//! The list of a graph's outputs, which knows its members: passes ask of every tensor whether the caller sees it.

use std::collections::HashSet;
use std::ops::Deref;

use super::TensorId;

/// Tensors returned to the caller, in order. Reads like a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    list: Vec<TensorId>,
    known: HashSet<TensorId>,
}

impl Outputs {
    /// Adds one at the end.
    pub fn push(&mut self, tensor: TensorId) {
        self.list.push(tensor);
        self.known.insert(tensor);
    }

    /// Whether a tensor is among them; unlike a slice's, this does not look at all.
    pub fn contains(&self, tensor: &TensorId) -> bool {
        self.known.contains(tensor)
    }

    /// Puts `new` wherever `old` stands.
    pub fn replace(&mut self, old: TensorId, new: TensorId) {
        if self.known.remove(&old) {
            self.list.iter_mut().filter(|output| **output == old).for_each(|output| *output = new);
            self.known.insert(new);
        }
    }
}

impl Deref for Outputs {
    type Target = [TensorId];

    fn deref(&self) -> &[TensorId] {
        &self.list
    }
}

impl From<Vec<TensorId>> for Outputs {
    fn from(list: Vec<TensorId>) -> Outputs {
        Outputs { known: list.iter().copied().collect(), list }
    }
}

impl<'a> Extend<&'a TensorId> for Outputs {
    fn extend<I: IntoIterator<Item = &'a TensorId>>(&mut self, tensors: I) {
        tensors.into_iter().for_each(|tensor| self.push(*tensor));
    }
}

impl<'a> IntoIterator for &'a Outputs {
    type Item = &'a TensorId;
    type IntoIter = std::slice::Iter<'a, TensorId>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_whatever_happens() {
        let mut outputs = Outputs::from(vec![TensorId(1), TensorId(2)]);
        outputs.push(TensorId(1));
        outputs.replace(TensorId(1), TensorId(5));
        outputs.replace(TensorId(9), TensorId(7));
        assert_eq!(*outputs, [TensorId(5), TensorId(2), TensorId(5)]);
        let known = |id| outputs.contains(&TensorId(id));
        assert!(known(5) && known(2) && !known(1) && !known(7) && !known(9));
    }
}
