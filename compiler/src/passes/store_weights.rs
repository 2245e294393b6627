//! Rounds the weights of matrix products to what is stored of them in fewer bytes (`--weights`), so that everything that
//! follows, the reference included, computes with the numbers that the devices will have.
//!
//! A product's matrix is `[depth, columns]`. In 16 bits every weight is a binary16; in 8 bits each column has a step, a
//! 127th of its largest weight, and every weight is the nearest of its multiples.

use std::sync::Arc;

use serde::Serialize;

use partita_rt::F16;

use crate::config::WeightStorage;
use crate::graph::{Graph, Op, TensorId, Value};

/// What rounding did to one matrix product.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// Name of the node.
    pub node: String,
    /// How its weights are stored.
    pub storage: WeightStorage,
    /// No weight is further from the exact one than this times the largest weight of its column.
    pub largest_error: f64,
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

/// Rounds the constant matrices of all matrix products.
pub fn run(graph: &mut Graph, storage: WeightStorage) -> Vec<Stored> {
    let mut all = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let is_plain = match &node.op {
            Op::Gemm(gemm) => !gemm.transpose_a && !gemm.transpose_b,
            Op::MatMul => true,
            _ => false,
        };
        let name = node.name.clone();
        let Some(matrix) = node.inputs.get(1).copied().filter(|_| is_plain) else { continue };
        if let Some((value, largest_error)) = rounded(graph, matrix, storage) {
            graph.make_constant(matrix, Arc::new(value));
            all.push(Stored { node: name, storage, largest_error });
        }
    }
    all
}

/// A matrix with the numbers that will be stored, and the largest error.
fn rounded(graph: &Graph, matrix: TensorId, storage: WeightStorage) -> Option<(Value, f64)> {
    let [_, width] = *graph.shape(matrix) else { return None };
    let exact = graph.f32_value(matrix)?;
    let Columns { stored, steps } = columns(exact, width, storage)?;
    let mut largest = vec![(0.0f32, 0.0f32); width];
    let mut elements = Vec::with_capacity(stored.len());
    for (exact, stored) in exact.chunks_exact(width.max(1)).zip(stored.chunks_exact(width.max(1))) {
        for (column, (exact, stored)) in exact.iter().zip(stored).enumerate() {
            let value = stored * steps[column];
            let (weight, error) = &mut largest[column];
            (*weight, *error) = (weight.max(exact.abs()), error.max((value - exact).abs()));
            elements.push(value);
        }
    }
    let relative =
        |(weight, error): &(f32, f32)| if *weight > 0.0 { f64::from(*error) / f64::from(*weight) } else { 0.0 };
    let error = largest.iter().map(relative).fold(0.0, f64::max);
    Some((Value::f32(graph.shape(matrix), elements), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::noise;
    use crate::graph::TensorType;

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
