//! Weights of matrix products in fewer bytes.

use partita_rt::F16;
use serde::Serialize;

use super::types::ElementType;

/// How the weights of matrix products lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightStorage {
    /// As they are computed with.
    #[default]
    F32,
    /// In 16 bits: IEEE 754 binary16.
    F16,
    /// In 8 bits: whole numbers and a factor per column.
    Int8,
}

impl WeightStorage {
    /// Every one of them.
    pub const ALL: [WeightStorage; 3] = [WeightStorage::F32, WeightStorage::F16, WeightStorage::Int8];

    /// As help describes it.
    pub fn description(self) -> &'static str {
        match self {
            WeightStorage::F32 => "As they are computed with",
            WeightStorage::F16 => "In 16 bits: IEEE 754 binary16",
            WeightStorage::Int8 => "In 8 bits: whole numbers and a factor per column",
        }
    }

    /// As options and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            WeightStorage::F32 => "f32",
            WeightStorage::F16 => "f16",
            WeightStorage::Int8 => "int8",
        }
    }

    /// The type of a stored element.
    pub fn element(self) -> ElementType {
        match self {
            WeightStorage::F32 => ElementType::F32,
            WeightStorage::F16 => ElementType::F16,
            WeightStorage::Int8 => ElementType::I8,
        }
    }

    /// Bytes of an element.
    pub fn size_bytes(self) -> usize {
        self.element().size_bytes()
    }
}

/// Weights of one matrix in fewer bytes: numbers as they are stored, and by what each column is multiplied.
pub struct Columns {
    /// Row-major, as the matrix: what the kernel reads before it multiplies by `steps`.
    pub stored: Vec<f32>,
    /// One per column; ones for 16 bits.
    pub steps: Vec<f32>,
}

/// Largest whole number that is stored in 8 bits.
const MOST: f32 = 127.0;

/// A matrix in this storage; nothing if a weight is not finite there.
pub fn columns(matrix: &[f32], width: usize, storage: WeightStorage) -> Option<Columns> {
    match storage {
        WeightStorage::F32 => None,
        WeightStorage::F16 => {
            let stored: Vec<f32> = matrix.iter().map(|weight| F16::from_f32(*weight).to_f32()).collect();
            stored.iter().all(|weight| weight.is_finite()).then(|| Columns { stored, steps: vec![1.0; width] })
        }
        WeightStorage::Int8 => {
            let mut largest = vec![0.0f32; width];
            for row in matrix.chunks_exact(width.max(1)) {
                largest.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
            }
            let steps: Vec<f32> = largest.iter().map(|largest| largest / MOST).collect();
            // A column that is next to nothing has no step; one that overflows has no whole numbers.
            if !steps.iter().zip(&largest).all(|(step, largest)| step.is_normal() || *largest == 0.0)
                || matrix.iter().any(|weight| !weight.is_finite())
            {
                return None;
            }
            let whole =
                |(weight, step): (&f32, &f32)| if *step > 0.0 { (weight / step).round_ties_even() } else { 0.0 };
            let rows = matrix.chunks_exact(width.max(1));
            let stored = rows.flat_map(|row| row.iter().zip(&steps).map(whole)).collect();
            Some(Columns { stored, steps })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;
    use crate::graph::values::noise;

    #[test]
    fn weights_are_as_near_as_their_storage_allows() {
        let matrix = noise(&TensorType::f32([37, 10]), 5);
        let exact = matrix.as_f32().expect("noise is f32");
        for (storage, bound) in [(WeightStorage::F16, 1.0 / 2048.0), (WeightStorage::Int8, 0.5 / 127.0)] {
            let Columns { stored, steps } = columns(exact, 10, storage).expect("finite weights");
            for (column, step) in steps.iter().enumerate() {
                let of_column = || exact.iter().zip(&stored).skip(column).step_by(10);
                let largest = of_column().fold(0.0f32, |largest, (weight, _)| largest.max(weight.abs()));
                for (exact, stored) in of_column() {
                    let error = (stored * step - exact).abs();
                    assert!(error <= bound * 1.001 * largest, "{exact} is stored as {stored} * {step}");
                }
            }
            // Numbers that are stored are stored as themselves.
            let again: Vec<f32> = stored.iter().enumerate().map(|(index, stored)| stored * steps[index % 10]).collect();
            assert_eq!(columns(&again, 10, storage).expect("finite").stored, stored);
        }
    }

    #[test]
    fn what_does_not_fit_stays() {
        assert!(columns(&[1e6, 1.0], 2, WeightStorage::F16).is_none());
        assert!(columns(&[f32::INFINITY, 1.0], 2, WeightStorage::Int8).is_none());
        assert!(columns(&[1e-44, 1.0], 2, WeightStorage::Int8).is_none());
        let zeros = columns(&[0.0, 0.0], 1, WeightStorage::Int8).expect("zeros have no step and need none");
        assert_eq!((zeros.stored, zeros.steps), (vec![0.0, 0.0], vec![0.0]));
    }
}
