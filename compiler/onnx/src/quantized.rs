//! What quantized tensors of an import stand for: whole numbers times scales.

use std::collections::HashMap;

use partita_ir::graph::TensorId;

/// What quantized tensors of an import stand for.
#[derive(Default)]
pub struct Grids {
    /// Of quantized tensors: the steps, and the zero point that was added to them.
    pub quantized: HashMap<TensorId, (TensorId, f32)>,
    /// Of `i32` tensors: the same numbers in `f32`.
    pub whole: HashMap<TensorId, TensorId>,
    /// Of real tensors.
    pub real: HashMap<TensorId, Grid>,
}

/// A real tensor as steps times scales.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Whole numbers in `f32`, of the tensor's shape.
    pub steps: TensorId,
    /// One for all, or one for each index of the axis.
    pub scales: Vec<f32>,
    /// Meaningful if there are several scales.
    pub axis: usize,
}

impl Grid {
    /// The scale of all elements, if they have one.
    pub fn scale(&self) -> Option<f32> {
        match self.scales[..] {
            [scale] => Some(scale),
            _ => None,
        }
    }
}
