//! Arrays in `.npz` files, and how near two of them are.

use std::collections::BTreeMap;
use std::path::Path;

/// A float array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extent per axis.
    pub shape: Vec<u64>,
    /// Elements in C order.
    pub elements: Vec<f32>,
}

/// Every f32 array of a file, by name; arrays of other types are left out.
pub fn read_f32(path: &Path) -> BTreeMap<String, Array> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let arrays = partita::npz::read(file).unwrap_or_else(|error| panic!("reading {}: {error:#}", path.display()));
    let floats = arrays.into_iter().filter(|(_, array)| array.descr == "<f4");
    let array = |array: partita::npz::Array| Array {
        shape: array.shape.iter().map(|extent| *extent as u64).collect(),
        elements: array.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    };
    floats.map(|(name, stored)| (name, array(stored))).collect()
}

/// Largest absolute difference, relative to the largest absolute expected element; infinite if any element is no
/// number or the lengths differ.
pub fn relative_difference(answer: &[f32], expected: &[f32]) -> f64 {
    if answer.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0f64, |largest, element| largest.max(f64::from(element.abs())));
    let difference = answer.iter().zip(expected).fold(0.0f64, |worst, (a, b)| {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    });
    if difference == 0.0 { 0.0 } else { difference / largest }
}

#[cfg(test)]
mod tests {
    use super::relative_difference;

    #[test]
    fn difference_is_relative_to_the_largest_element() {
        assert_eq!(relative_difference(&[1.0, -4.0], &[1.0, -4.0]), 0.0);
        assert_eq!(relative_difference(&[1.5, -4.0], &[1.0, -4.0]), 0.125);
        assert_eq!(relative_difference(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn what_cannot_be_compared_is_infinitely_different() {
        assert_eq!(relative_difference(&[f32::NAN, 0.0], &[1.0, 0.0]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[0.0]), f64::INFINITY);
    }
}
