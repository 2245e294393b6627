//! Least memory: where to change from fused tiles to weight splitting (DeeperThings' `find_breakpoint.py`).
//!
//! Before the break point activations are cut in N and weights are everywhere; behind it the hub has whole activations
//! and weights are cut in N. The model counts the largest input and output of a convolution, and all weights; elements.

use good_lp::solvers::microlp::microlp;
use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, variable};

use super::chain::{Layer, LayerKind};

/// Elements that a device holds with this break point.
pub fn elements(layers: &[Layer], break_point: usize, devices: u64) -> f64 {
    let n = devices as f64;
    let mut largest = 0.0f64;
    let mut weights = 0.0;
    for (index, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.kind == LayerKind::Convolution) {
        let activations = (layer.input + layer.output) as f64;
        let behind = index >= break_point;
        largest = largest.max(if behind { activations } else { activations / n });
        weights += layer.weights as f64 / if behind { n } else { 1.0 };
    }
    largest + weights
}

/// The break point of least memory by an integer program: `b[l]` is 1 behind it, never falling.
pub fn least_by_ilp(layers: &[Layer], devices: u64) -> Option<usize> {
    let n = devices as f64;
    let mut variables = ProblemVariables::new();
    let b: Vec<Variable> = layers.iter().map(|_| variables.add(variable().binary())).collect();
    let largest = variables.add(variable().min(0.0));
    let scale = 1e-6;
    let mut total = Expression::from(largest);
    for (layer, b) in layers.iter().zip(&b) {
        let weights = layer.weights as f64 * scale;
        total += weights + (weights / n - weights) * *b;
    }
    let mut model = variables.minimise(total).using(microlp);
    for pair in b.windows(2) {
        model = model.with((Expression::from(pair[0]) - pair[1]).leq(0.0));
    }
    for (layer, b) in layers.iter().zip(&b).filter(|(layer, _)| layer.kind == LayerKind::Convolution) {
        let activations = (layer.input + layer.output) as f64 * scale;
        let held = activations / n + (activations - activations / n) * *b;
        model = model.with((held - largest).leq(0.0));
    }
    let solution = model.solve().ok()?;
    Some(b.iter().position(|b| solution.value(*b) > 0.5).unwrap_or(layers.len()))
}
