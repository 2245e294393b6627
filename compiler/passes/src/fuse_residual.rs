//! `Conv(x) + r` becomes one convolution with a residual input, added before the activation.
//!
//! Legal when the convolution's result has no other use and no activation yet, and both terms have the same shape.
//! Of two convolutions the later one in topological order takes the sum, so the other term exists by then and no
//! cycle can arise.

use std::collections::HashMap;

use super::PassError;
use super::pattern::{bypass, in_order, only_use, rewrite};
use partita_ir::graph::op::Activation;
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    let order = in_order(graph);
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    for id in order {
        if !graph.contains(id) {
            continue;
        }
        let node = graph.node(id);
        let (Op::Binary(BinaryOp::Add, last), [a, b]) = (&node.op, &node.inputs[..]) else { continue };
        let (last, a, b) = (*last, *a, *b);
        if a == b || graph.tensor_type(a) != graph.tensor_type(b) {
            continue;
        }
        let at = |tensor: TensorId| graph.tensor(tensor).producer.and_then(|id| position.get(&id).copied());
        let choices = if at(a) > at(b) { [(a, b), (b, a)] } else { [(b, a), (a, b)] };
        let chosen = choices.into_iter().find(|(sum, other)| {
            // The other term must not depend on the convolution: it comes earlier.
            can_take(graph, *sum) && at(*other) < at(*sum)
        });
        let Some((sum, other)) = chosen else { continue };
        let Some(producer) = graph.tensor(sum).producer else { continue };
        if !graph.can_replace(graph.node(id).outputs[0], sum) {
            continue;
        }
        let mut op = graph.node(producer).op.clone();
        let Op::Conv(conv) = &mut op else { continue };
        conv.residual = true;
        conv.activation = last;
        let mut inputs = graph.node(producer).inputs.clone();
        inputs.push(other);
        bypass(graph, id, sum);
        rewrite(graph, producer, op, inputs);
    }
    Ok(())
}

fn can_take(graph: &Graph, tensor: TensorId) -> bool {
    let Some(producer) = only_use(graph, tensor) else { return false };
    matches!(&graph.node(producer).op, Op::Conv(conv) if !conv.residual && conv.activation == Activation::None)
}
