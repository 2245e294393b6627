//! Portable reference kernels, one family per file: slow and obvious, no allocation, plain row-major tensors.
//!
//! They are what rare operators link against on every device, what the compiler folds constants with, and what every
//! emitted kernel is tested against. A kernel is a struct of its parameters, which stands as a literal in an emitted program,
//! and its function `run`, which takes the operands and then the results; [`Call`] is any of them. Where parameters are
//! shapes, `run` passes them on one by one, so that what all calls in a program have in common is a constant there, too.
//! Shapes are slices of dimensions, outermost first; a tensor that is too short for its shape makes a kernel do less, never
//! read or write outside.
//!
//! Long sums are added in blocks. A largest or smallest element is NaN where one of the elements is, in whatever order they
//! come, as in numpy.

mod activation;
mod call;
mod conv;
mod einsum;
mod elementwise;
mod exit;
mod gemm;
mod movement;
mod normalization;
mod pool;
mod reduce;
mod regions;
mod reorder;
mod resize;
mod scatter;
mod sum;
mod trees;
mod winograd;

pub use activation::Activation;
pub use call::Call;
pub use conv::{Conv, ConvTranspose, Window3};
pub use einsum::Einsum;
pub use elementwise::{Binary, BinaryOp, BitCast, Cast, Compare, PRelu, Unary, UnaryOp, Where};
pub use exit::{Decide, ExitRule, Patience, Steady, confidence, leaves};
pub use gemm::{Gemm, MatMul};
pub use movement::{
    Concat, DepthToSpace, Expand, Gather, Identity, Pad, PadMode, Slice, SpaceToDepth, Split, Transpose,
};
pub use normalization::{BatchNormalization, GroupNormalization, InstanceNormalization, LayerNormalization, Lrn};
pub use pool::{GlobalPool, Pool, PoolKind};
pub use reduce::{ArgMax, LogSoftmax, Reduce, ReduceKind, Softmax};
pub(crate) use reduce::{reduce_in_blocks, reduce_in_order};
pub use regions::{NonMaxSuppression, RoiAlign};
pub use reorder::{from_steps, reorder_from_blocked, reorder_to_blocked, restore, to_steps};
pub use resize::{NearestRounding, ResizeCoordinates, ResizeLinear, ResizeMode, ResizeNearest};
pub use scatter::Scatter;
pub use trees::TreeEnsemble;
pub use winograd::{Residual, WINOGRAD_BELOW, Winograd};

/// Largest rank of a tensor in a kernel.
pub const MAX_RANK: usize = 8;

/// Row-major strides of a shape, 0 beyond its rank.
fn strides(shape: &[usize]) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut stride = 1;
    for (slot, extent) in strides.iter_mut().zip(shape).take(shape.len()).rev() {
        *slot = stride;
        stride *= extent;
    }
    strides
}

/// Strides with which a tensor of `shape` is read when it broadcasts to `output` (numpy rules): 0 where it repeats.
fn broadcast_strides(shape: &[usize], output: &[usize]) -> [usize; MAX_RANK] {
    let own = strides(shape);
    let mut result = [0; MAX_RANK];
    let missing = output.len().saturating_sub(shape.len());
    for (axis, extent) in shape.iter().enumerate() {
        if *extent == 1 {
            continue;
        }
        if let (Some(slot), Some(stride)) = (result.get_mut(axis + missing), own.get(axis)) {
            *slot = *stride;
        }
    }
    result
}

/// Counts through all indices of a shape, last axis fastest, keeping linear positions of `N` strided views in step.
struct Walk<'a, const N: usize> {
    shape: &'a [usize],
    strides: [[usize; MAX_RANK]; N],
    index: [usize; MAX_RANK],
    positions: [usize; N],
}

impl<'a, const N: usize> Walk<'a, N> {
    fn new(shape: &'a [usize], strides: [[usize; MAX_RANK]; N]) -> Walk<'a, N> {
        Walk { shape, strides, index: [0; MAX_RANK], positions: [0; N] }
    }

    /// Linear positions of the current index.
    fn positions(&self) -> &[usize; N] {
        &self.positions
    }

    fn step(&mut self) {
        for ((axis, extent), index) in self.shape.iter().enumerate().zip(&mut self.index).rev() {
            let axis = axis.min(MAX_RANK - 1);
            *index += 1;
            for (position, strides) in self.positions.iter_mut().zip(&self.strides) {
                *position += strides[axis];
            }
            if *index < *extent {
                return;
            }
            for (position, strides) in self.positions.iter_mut().zip(&self.strides) {
                *position = position.wrapping_sub(strides[axis].wrapping_mul(*index));
            }
            *index = 0;
        }
    }
}
