//! What several passes ask of a graph.

use partita_ir::graph::{Graph, Node, NodeId, Op, TensorId};

/// Nodes in topological order; none if the graph is cyclic, which `verify` has excluded.
pub(super) fn in_order(graph: &Graph) -> Vec<NodeId> {
    graph.topological_order().unwrap_or_default()
}

/// The node that makes a tensor which nothing else reads and the caller does not see.
pub(super) fn only_use(graph: &Graph, tensor: TensorId) -> Option<NodeId> {
    let producer = graph.tensor(tensor).producer?;
    (!graph.is_output(tensor) && graph.has_one_consumer(tensor)).then_some(producer)
}

/// The producer of a tensor if it is of the wanted kind.
pub(super) fn producer(graph: &Graph, tensor: TensorId) -> Option<(NodeId, &Node)> {
    let id = graph.tensor(tensor).producer?;
    Some((id, graph.node(id)))
}

/// The only element of a constant `f32` scalar (any rank).
pub(super) fn scalar(graph: &Graph, tensor: TensorId) -> Option<f32> {
    match graph.f32_value(tensor)? {
        [element] => Some(*element),
        _ => None,
    }
}

/// Splits the operands of a commutative node into (tensor, constant scalar).
pub(super) fn with_scalar(graph: &Graph, node: &Node) -> Option<(TensorId, f32)> {
    let [a, b] = node.inputs[..] else { return None };
    scalar(graph, b).map(|value| (a, value)).or_else(|| scalar(graph, a).map(|value| (b, value)))
}

/// Elements of a constant that broadcasts per channel over tensors of `rank` dimensions with channels on axis 1:
/// shape `[C, 1, ..]`, `[1, C, 1, ..]`, or one element. Gives one element per channel.
pub(super) fn per_channel(graph: &Graph, tensor: TensorId, rank: usize, channels: usize) -> Option<Vec<f32>> {
    let elements = graph.f32_value(tensor)?;
    let shape = graph.shape(tensor);
    if let [element] = elements {
        // A scalar must not raise the rank of what it is combined with.
        return (shape.len() <= rank).then(|| vec![*element; channels]);
    }
    let missing = rank.checked_sub(shape.len())?;
    let fits = elements.len() == channels
        && shape.iter().enumerate().all(|(axis, extent)| *extent == 1 || axis + missing == 1 && *extent == channels);
    fits.then(|| elements.to_vec())
}

/// Gives a node another operator and operands, keeping its results.
pub(super) fn rewrite(graph: &mut Graph, node: NodeId, op: Op, inputs: Vec<TensorId>) {
    graph.replace_node(node, op, inputs);
}

/// Removes a node whose single result is replaced by `by`; false if the result must stay (a graph output).
pub(super) fn bypass(graph: &mut Graph, node: NodeId, by: TensorId) -> bool {
    let [output] = graph.node(node).outputs[..] else { return false };
    if !graph.can_replace(output, by) {
        return false;
    }
    graph.replace_uses(output, by);
    graph.remove_node(node);
    true
}
