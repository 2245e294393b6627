//! Where a network hangs by one tensor.

use std::collections::HashSet;

use partita_ir::graph::{Graph, NodeId, TensorId};

/// Positions in the order after which a single tensor carries everything on, with that tensor.
///
/// One walk over the order, not the dominators of the outputs: what is alive at a place depends on the order. Heads of
/// exits reach no output and yet keep tensors alive until they have decided, and what has no operand but constants is
/// dominated by nothing, wherever it stands.
pub fn crossings(graph: &Graph, order: &[NodeId]) -> Vec<(usize, TensorId)> {
    let last_use = graph.last_uses(order);
    let mut alive: HashSet<TensorId> = graph.inputs.iter().copied().filter(|t| last_use.contains_key(t)).collect();
    let mut found = Vec::new();
    for (position, id) in order.iter().enumerate() {
        let node = graph.node(*id);
        alive.extend(node.outputs.iter().filter(|output| last_use.contains_key(output)));
        for input in &node.inputs {
            if last_use.get(input) == Some(&position) {
                alive.remove(input);
            }
        }
        if let (1, Some(tensor)) = (alive.len(), alive.iter().next())
            && node.outputs.contains(tensor)
        {
            found.push((position, *tensor));
        }
    }
    found
}
