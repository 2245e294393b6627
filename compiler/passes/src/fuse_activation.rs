//! Applies activations in the epilogue of the node that makes their input.

use super::PassError;
use super::pattern::{bypass, in_order, only_use, rewrite};
use partita_ir::graph::op::{Activation, UnaryOp};
use partita_ir::graph::{ElementType, Graph, Op};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        let node = graph.node(id);
        let Op::Unary(UnaryOp::Activation(activation)) = node.op else { continue };
        let input = node.inputs[0];
        if graph.tensor_type(input).element != ElementType::F32 {
            continue;
        }
        let Some(producer) = only_use(graph, input) else { continue };
        let mut op = graph.node(producer).op.clone();
        let slot = match &mut op {
            Op::Conv(conv) => &mut conv.activation,
            Op::ConvTranspose(conv) => &mut conv.activation,
            Op::Gemm(gemm) => &mut gemm.activation,
            Op::Binary(_, last) => last,
            _ => continue,
        };
        if *slot != Activation::None || !graph.can_replace(node.outputs[0], input) {
            continue;
        }
        *slot = activation;
        let inputs = graph.node(producer).inputs.clone();
        bypass(graph, id, input);
        rewrite(graph, producer, op, inputs);
    }
    Ok(())
}
