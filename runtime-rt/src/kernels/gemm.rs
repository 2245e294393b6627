//! Matrix products.

use super::sum::{Fold, LANES, Sums, sum};
use super::{Activation, MAX_RANK, Walk, broadcast_strides};

/// Matrix product (ONNX Gemm): `activation(alpha * A' * B' + beta * C)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Gemm<'a> {
    /// Rows of the result.
    pub m: usize,
    /// Elements of a product.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// A is `[K, M]`, not `[M, K]`.
    pub transpose_a: bool,
    /// B is `[N, K]`, not `[K, N]`.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
    /// Shape of C, which broadcasts to `[M, N]`.
    pub c_shape: &'a [usize],
    /// Applied last.
    pub activation: Activation,
}

impl Gemm<'_> {
    /// `y` is `[M, N]`.
    pub fn run(&self, a: &[f32], b: &[f32], c: Option<&[f32]>, y: &mut [f32]) {
        let (a_row, a_column) = if self.transpose_a { (1, self.m) } else { (self.k, 1) };
        let (b_row, b_column) = if self.transpose_b { (1, self.k) } else { (self.n, 1) };
        for (i, row) in y.chunks_exact_mut(self.n.max(1)).enumerate().take(self.m) {
            for (j, out) in row.iter_mut().enumerate() {
                let left = a.get(i * a_row..).unwrap_or(&[]).iter().step_by(a_column.max(1));
                let right = b.get(j * b_column..).unwrap_or(&[]).iter().step_by(b_row.max(1));
                *out = self.alpha * sum(left.zip(right).take(self.k).map(|(x, w)| x * w));
            }
        }
        if let Some(c) = c {
            let shape = [self.m, self.n];
            let mut walk = Walk::new(&shape, [broadcast_strides(self.c_shape, &shape)]);
            for out in y.iter_mut().take(self.m * self.n) {
                *out += self.beta * c.get(walk.positions()[0]).copied().unwrap_or(0.0);
                walk.step();
            }
        }
        for out in y {
            *out = self.activation.apply(*out);
        }
    }
}

/// Batched matrix product (ONNX MatMul, numpy rules): `[.., M, K]` by `[.., K, N]`. Leading dimensions broadcast to those
/// of the result; a vector is a matrix of one row or column, which the result does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MatMul<'a> {
    /// Shape of the left operand.
    pub a_shape: &'a [usize],
    /// Shape of the right one.
    pub b_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
}

impl MatMul<'_> {
    /// The product.
    #[inline(always)]
    pub fn run(&self, a: &[f32], b: &[f32], y: &mut [f32]) {
        matmul(a, b, y, self.a_shape, self.b_shape, self.y_shape);
    }
}

fn matmul(a: &[f32], b: &[f32], y: &mut [f32], a_shape: &[usize], b_shape: &[usize], y_shape: &[usize]) {
    // A vector is a matrix of one row or column, which the product does not have.
    let (m, k) = match a_shape {
        [k] => (1, *k),
        [.., m, k] => (*m, *k),
        [] => return,
    };
    let n = match b_shape {
        [.., _, n] => *n,
        _ => 1,
    };
    let matrix = usize::from(a_shape.len() > 1) + usize::from(b_shape.len() > 1);
    let outer = y_shape.len().saturating_sub(matrix).min(MAX_RANK);
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
