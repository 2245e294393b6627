//! Matrix products.

use super::sum::{Fold, LANES, Sums, sum};
use super::{Activation, MAX_RANK, Walk, broadcast_strides};

/// Attributes of [`gemm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmParameters {
    /// A is `[K, M]`.
    pub transpose_a: bool,
    /// B is `[N, K]`.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
    /// Applied last.
    pub activation: Activation,
}

/// ONNX Gemm: `activation(alpha * A' * B' + beta * C)`, `y` is `[m, n]`; `c` broadcasts to it.
#[allow(clippy::too_many_arguments, reason = "tensors and their shapes")]
pub fn gemm(
    a: &[f32],
    b: &[f32],
    c: Option<(&[f32], &[usize])>,
    y: &mut [f32],
    m: usize,
    k: usize,
    n: usize,
    parameters: &GemmParameters,
) {
    let (a_row, a_column) = if parameters.transpose_a { (1, m) } else { (k, 1) };
    let (b_row, b_column) = if parameters.transpose_b { (1, k) } else { (n, 1) };
    for (i, row) in y.chunks_exact_mut(n.max(1)).enumerate().take(m) {
        for (j, out) in row.iter_mut().enumerate() {
            let left = a.get(i * a_row..).unwrap_or(&[]).iter().step_by(a_column.max(1));
            let right = b.get(j * b_column..).unwrap_or(&[]).iter().step_by(b_row.max(1));
            *out = parameters.alpha * sum(left.zip(right).take(k).map(|(x, w)| x * w));
        }
    }
    if let Some((c, c_shape)) = c {
        let shape = [m, n];
        let mut walk = Walk::new(&shape, [broadcast_strides(c_shape, &shape)]);
        for out in y.iter_mut().take(m * n) {
            *out += parameters.beta * c.get(walk.positions()[0]).copied().unwrap_or(0.0);
            walk.step();
        }
    }
    for out in y {
        *out = parameters.activation.apply(*out);
    }
}

/// ONNX MatMul (numpy rules): `a` `[.., m, k]`, `b` `[.., k, n]`; leading dimensions broadcast to those of `y`.
/// Vectors are passed as matrices with one row or column; `y_shape` is then the shape with that row or column.
pub fn matmul(a: &[f32], a_shape: &[usize], b: &[f32], b_shape: &[usize], y: &mut [f32], y_shape: &[usize]) {
    let (Some((m, k)), Some((_, n))) = (last_two(a_shape), last_two(b_shape)) else { return };
    let outer = y_shape.len().saturating_sub(2).min(MAX_RANK);
    let batch = y_shape.get(..outer).unwrap_or(&[]);
    let outer_strides = |shape: &[usize], matrix: usize| {
        let own = shape.get(..shape.len().saturating_sub(2)).unwrap_or(&[]);
        let mut strides = broadcast_strides(own, batch);
        for stride in &mut strides {
            *stride *= matrix;
        }
        strides
    };
    let mut walk = Walk::new(batch, [outer_strides(a_shape, m * k), outer_strides(b_shape, k * n)]);
    for matrix in y.chunks_exact_mut((m * n).max(1)) {
        let [a_first, b_first] = *walk.positions();
        let left = a.get(a_first..).unwrap_or(&[]);
        let right = b.get(b_first..).unwrap_or(&[]);
        matrix.fill(0.0);
        for (row, left) in matrix.chunks_exact_mut(n.max(1)).zip(left.chunks_exact(k.max(1))) {
            for (tile, outs) in row.chunks_mut(LANES).enumerate() {
                let mut sums = Sums::<LANES>::new();
                for (x, right) in left.iter().zip(right.chunks_exact(n.max(1))) {
                    let first = tile * LANES;
                    sums.add_row(right.get(first..first + outs.len()).unwrap_or(&[]), |w| x * w);
                }
                for (out, sum) in outs.iter_mut().zip(sums.lanes()) {
                    *out = sum;
                }
            }
        }
        walk.step();
    }
}

fn last_two(shape: &[usize]) -> Option<(usize, usize)> {
    let [.., m, n] = shape else { return None };
    Some((*m, *n))
}
