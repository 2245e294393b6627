//! Removes nodes that change nothing, and joins movements that undo or continue each other.

use super::PassError;
use super::pattern::{bypass, in_order, producer, rewrite};
use partita_ir::graph::op::{Activation, UnaryOp};
use partita_ir::graph::{Graph, NodeId, Op};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        join(graph, id);
        if changes_nothing(graph, id) {
            let input = graph.node(id).inputs[0];
            bypass(graph, id, input);
        }
    }
    Ok(())
}

/// Whether the only result equals the first operand.
fn changes_nothing(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let (Some(input), [output]) = (node.inputs.first(), &node.outputs[..]) else { return false };
    let same_type = graph.tensor_type(*input) == graph.tensor_type(*output);
    match &node.op {
        Op::Identity | Op::Unary(UnaryOp::Activation(Activation::None)) => true,
        Op::Reshape { .. } | Op::Expand { .. } | Op::Cast { .. } | Op::Split { .. } => same_type,
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Transpose { permutation } => permutation.iter().enumerate().all(|(axis, from)| axis == *from),
        Op::Slice { steps, .. } => same_type && steps.iter().all(|step| *step == 1),
        Op::Pad { begin, end, .. } => begin.iter().chain(end).all(|pad| *pad == 0),
        // A scale just above 1 keeps the size but moves the samples.
        Op::Resize { scales, .. } => same_type && scales.iter().all(|scale| *scale == 1.0),
        _ => false,
    }
}

/// Rewrites a movement so that it reads what its producer reads.
fn join(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Some(&input) = node.inputs.first() else { return };
    // A transpose that moves no axis longer than 1 past another is a reshape.
    if let Op::Transpose { permutation } = &node.op {
        let shape = graph.shape(input);
        let moved: Vec<usize> = permutation.iter().copied().filter(|axis| shape[*axis] != 1).collect();
        if moved.is_sorted() {
            let shape = graph.shape(node.outputs[0]).to_vec();
            return rewrite(graph, id, Op::Reshape { shape }, vec![input]);
        }
    }
    let Some((_, before)) = producer(graph, input) else { return };
    let joined = match (&before.op, &node.op) {
        (Op::Reshape { .. }, Op::Reshape { shape }) => Op::Reshape { shape: shape.clone() },
        (Op::Transpose { permutation: first }, Op::Transpose { permutation: second }) => {
            Op::Transpose { permutation: second.iter().map(|axis| first[*axis]).collect() }
        }
        _ => return,
    };
    let source = before.inputs[0];
    rewrite(graph, id, joined, vec![source]);
    join(graph, id);
}
