//! Computes what is the same once (common subexpressions): nodes of one operator that read the same tensors.

use std::collections::HashMap;

use super::PassError;
use super::pattern::in_order;
use partita_ir::graph::{Graph, NodeId, Op, TensorId};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    let mut known: HashMap<(Vec<TensorId>, String), NodeId> = HashMap::new();
    for id in in_order(graph) {
        let node = graph.node(id);
        // Every exit decides for itself.
        if matches!(node.op, Op::Decide(_)) {
            continue;
        }
        // An operator's text holds all of its attributes.
        let key = (node.inputs.clone(), format!("{:?}", node.op));
        let Some(first) = known.get(&key).copied() else {
            known.insert(key, id);
            continue;
        };
        let pairs: Vec<(TensorId, TensorId)> =
            node.outputs.iter().copied().zip(graph.node(first).outputs.iter().copied()).collect();
        // The caller's outputs keep a tensor of their own, each with its name.
        if pairs.iter().any(|(mine, _)| graph.is_output(*mine)) {
            continue;
        }
        for (mine, same) in pairs {
            graph.replace_uses(mine, same);
        }
        graph.remove_node(id);
    }
    Ok(())
}
