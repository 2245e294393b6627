//! Rounds the weights of matrix products to what is stored of them in fewer bytes (`--weights`), so that everything that
//! follows, the reference included, computes with the numbers that the devices will have.
//!
//! A product's matrix is `[depth, columns]`. In 16 bits every weight is a binary16; in 8 bits each column has a step, a
//! 127th of its largest weight, and every weight is the nearest of its multiples.

use std::sync::Arc;

use serde::Serialize;

use partita_ir::graph::storage::{Columns, WeightStorage, columns};
use partita_ir::graph::{Graph, NodeId, TensorId, Value};
use partita_ir::restrict::space;

/// What rounding did to one matrix product.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// The node.
    #[serde(skip)]
    pub id: NodeId,
    /// Its name.
    pub node: String,
    /// How its weights are stored.
    pub storage: WeightStorage,
    /// No weight is further from the exact one than this times the largest weight of its column.
    pub largest_error: f64,
}

/// Rounds the constant matrices of all matrix products.
pub fn run(graph: &mut Graph, storage: WeightStorage) -> Vec<Stored> {
    let mut all = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let is_plain = space(graph, id).is_matrix_product();
        let name = node.name.clone();
        let Some(matrix) = node.inputs.get(1).copied().filter(|_| is_plain) else { continue };
        if let Some((value, largest_error)) = rounded(graph, matrix, storage) {
            graph.make_constant(matrix, Arc::new(value));
            all.push(Stored { id, node: name, storage, largest_error });
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
