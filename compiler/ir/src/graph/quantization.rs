//! Which tensors of a graph of real numbers stand for whole numbers, and which numbers.
//!
//! A quantization is data beside a graph, which stays as it is: `passes::quantize` makes the graph of whole numbers of both,
//! `onnx::write` a model in QDQ form. Both therefore say the same.

use std::collections::BTreeMap;

use super::op::{Op, PoolKind};
use super::{ElementType, Graph, Node, NodeId, TensorId, elements};

/// Least and largest element of int8.
pub const INT8: [i32; 2] = [-128, 127];

/// What int8 elements of a tensor stand for: `scale * (element - zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance of neighbours; positive and normal.
    pub scale: f32,
    /// The element that stands for 0, within [`INT8`].
    pub zero: i32,
}

impl Grid {
    /// The finest grid whose 256 numbers reach from `low` to `high`; zero is always among them.
    pub fn over(low: f32, high: f32) -> Grid {
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        let scale = ((high - low) / 255.0) as f32;
        if !scale.is_normal() {
            return Grid { scale: 1.0, zero: 0 };
        }
        let zero = f64::from(INT8[0]) - low / f64::from(scale);
        Grid { scale, zero: (zero.round_ties_even() as i32).clamp(INT8[0], INT8[1]) }
    }

    /// Least and largest number of steps from zero.
    pub fn steps(&self) -> [f32; 2] {
        INT8.map(|bound| (bound - self.zero) as f32)
    }
}

/// The whole numbers of a convolution or matrix product.
#[derive(Clone, Debug, PartialEq)]
pub struct Products {
    /// Of the node's weights, in their order.
    pub weights: Vec<i8>,
    /// What a step of the weights is, by output channel.
    pub scales: Vec<f32>,
    /// In steps of the input's scale times that of the weights, by output channel.
    pub bias: Vec<i32>,
}

/// What of a graph is computed in whole numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantization {
    /// By tensor that is rounded: results of products, and what else products read. What only moves elements has the grid of
    /// what it reads, and none here.
    pub grids: BTreeMap<TensorId, Grid>,
    /// By node.
    pub products: BTreeMap<NodeId, Products>,
}

/// The axis of a node's constant weights that counts output channels, for nodes that can be computed in whole numbers: a
/// convolution, or a plain matrix product with a constant row, if any, added.
pub fn output_axis(graph: &Graph, node: &Node) -> Option<usize> {
    let x_is_real = graph.tensor_type(*node.inputs.first()?).element == ElementType::F32;
    graph.f32_value(*node.inputs.get(1)?).filter(|weights| x_is_real && !weights.is_empty())?;
    let bias = |count: usize| match node.inputs.get(2) {
        None => true,
        Some(bias) => graph.f32_value(*bias).is_some_and(|bias| bias.len() == count),
    };
    if let Op::Conv(conv) = &node.op {
        return (!conv.residual && bias(graph.shape(node.inputs[1])[0])).then_some(0);
    }
    let Op::Gemm(gemm) = &node.op else { return None };
    let is_plain = !gemm.transpose_a && !gemm.transpose_b && gemm.alpha == 1.0 && gemm.beta == 1.0;
    (is_plain && bias(graph.shape(node.inputs[1])[1])).then_some(1)
}

/// Whether a node only moves elements of its first input, or takes some of them: whole numbers then stay what they are.
pub fn moves(graph: &Graph, node: &Node) -> bool {
    if !node.inputs.first().is_some_and(|x| graph.tensor_type(*x).element == ElementType::F32 && !graph.is_constant(*x))
    {
        return false;
    }
    // Operands of a concatenation have grids of their own.
    elements::only_moves(&node.op) && node.inputs.len() == 1
        || elements::only_picks(&node.op) && node.inputs[1..].iter().all(|indices| graph.is_constant(*indices))
}

/// Whether a node's result is a mean of elements of its only input: of steps, it is the mean of what they stand for.
pub fn averages(node: &Node) -> bool {
    let is_global = matches!(node.op, Op::GlobalPool(PoolKind::Average));
    is_global || matches!(&node.op, Op::Pool(pool) if pool.kind == PoolKind::Average)
}

/// The tensor whose elements a tensor holds: nodes that only move elements are passed by.
pub fn origin(graph: &Graph, mut tensor: TensorId) -> TensorId {
    while let Some(producer) = graph.tensor(tensor).producer {
        let node = graph.node(producer);
        if !moves(graph, node) {
            break;
        }
        tensor = node.inputs[0];
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_reaches_over_its_range_and_has_zero() {
        let relu = Grid::over(0.0, 6.0);
        assert_eq!((relu.zero, relu.steps()), (-128, [0.0, 255.0]));
        assert!((relu.scale - 6.0 / 255.0).abs() < 1e-7);
        let both = Grid::over(-1.0, 1.0);
        assert!((both.zero == 0 || both.zero == -1) && both.scale * 128.0 > 1.0, "{both:?}");
        assert_eq!(Grid::over(2.0, 4.0), Grid::over(0.0, 4.0), "zero is among them");
        assert_eq!(Grid::over(-4.0, -2.0).steps(), [-255.0, 0.0]);
        assert_eq!(Grid::over(0.0, 0.0), Grid { scale: 1.0, zero: 0 });
    }
}
