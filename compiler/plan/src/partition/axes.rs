//! What an axis of a result counts, and so what a split along it is called.

use super::Method;
use partita_ir::graph::{Graph, NodeId, Op, TensorId};

/// Most nodes that are looked at to find out where a tensor has its channels.
const MOST_STEPS: usize = 64;

/// The method that a split of a node's first result along an axis is.
///
/// Axis 0 counts samples only where the inputs count as many; else it is rows of a product, as the tokens of a sequence are.
pub fn method(graph: &Graph, id: NodeId, axis: usize) -> Method {
    let Some(output) = graph.node(id).outputs.first() else { return Method::Spatial };
    let shape = graph.shape(*output);
    let samples = graph.inputs.iter().filter_map(|input| graph.shape(*input).first()).copied().max().unwrap_or(1);
    if axis == 0 {
        return if samples > 1 && shape[0] == samples { Method::Batch } else { Method::Tokens };
    }
    if !has_channels_last(graph, *output) {
        return if axis == 1 { Method::Output } else { Method::Spatial };
    }
    // What lies before the last two axes are products of their own, as the heads of attention are: groups of channels.
    if axis + 2 == shape.len() { Method::Tokens } else { Method::Output }
}

/// Whether the last axis of a tensor is its channels, as products make it; convolutions and pools have them second.
fn has_channels_last(graph: &Graph, mut tensor: TensorId) -> bool {
    for _ in 0..MOST_STEPS {
        let Some(producer) = graph.tensor(tensor).producer else { return false };
        let node = graph.node(producer);
        match &node.op {
            Op::Gemm(_) | Op::MatMul | Op::LayerNormalization { .. } => return true,
            Op::Unary(_) | Op::Binary(..) | Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::Identity => {}
            _ => return false,
        }
        let rank = graph.shape(tensor).len();
        let computed = |input: &&TensorId| graph.value(**input).is_none() && graph.shape(**input).len() == rank;
        let Some(input) = node.inputs.iter().find(computed) else { return false };
        tensor = *input;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::op::UnaryOp;
    use partita_ir::graph::{TensorType, Value};

    #[test]
    fn axes_are_named_by_what_they_count() {
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", TensorType::f32([1, 197, 64]));
        let w = graph.add_constant("w", Value::f32([64, 32], vec![1.0; 64 * 32]));
        let y = graph.add_tensor("y", TensorType::f32([1, 197, 32]));
        let product = graph.add_node("product", Op::MatMul, vec![x, w], vec![y]);
        let z = graph.add_tensor("z", TensorType::f32([1, 197, 32]));
        let after = graph.add_node("after", Op::Unary(UnaryOp::Neg), vec![y], vec![z]);
        let t = graph.add_tensor("t", TensorType::f32([197, 1, 32]));
        let odd = graph.add_node("odd", Op::Unary(UnaryOp::Neg), vec![x], vec![t]);
        for id in [product, after] {
            assert_eq!(method(&graph, id, 1), Method::Tokens);
            assert_eq!(method(&graph, id, 2), Method::Output);
        }
        // 197 rows of one sample are no batch.
        assert_eq!(method(&graph, odd, 0), Method::Tokens);
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", TensorType::f32([4, 3, 8, 8]));
        let y = graph.add_tensor("y", TensorType::f32([4, 3, 8, 8]));
        let id = graph.add_node("n", Op::Unary(UnaryOp::Neg), vec![x], vec![y]);
        let names = [0, 1, 2, 3].map(|axis| method(&graph, id, axis));
        assert_eq!(names, [Method::Batch, Method::Output, Method::Spatial, Method::Spatial]);
    }
}
