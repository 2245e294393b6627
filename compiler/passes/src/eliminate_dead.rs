//! Removes nodes that no graph output needs, and that decide nothing.

use super::PassError;
use super::pattern::in_order;
use partita_ir::graph::{Graph, Op};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph).into_iter().rev() {
        let outputs = &graph.node(id).outputs;
        let decides = matches!(graph.node(id).op, Op::Decide(_));
        if !decides && outputs.iter().all(|output| !graph.is_output(*output) && graph.is_unread(*output)) {
            let inputs = graph.node(id).inputs.clone();
            graph.remove_node(id);
            inputs.into_iter().for_each(|input| graph.forget_unread(input));
        }
    }
    Ok(())
}
