//! Evaluates nodes whose inputs are all constants.

use std::sync::Arc;

use super::PassError;
use super::pattern::in_order;
use crate::graph::eval::evaluate_node;
use crate::graph::{Graph, TensorType, Value};

/// Largest constant that folding may make: 256 MiB of `f32`.
const MAX_ELEMENTS: usize = 1 << 26;

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        let node = graph.node(id);
        let values: Option<Vec<Arc<Value>>> = node.inputs.iter().map(|input| graph.value(*input).cloned()).collect();
        let Some(values) = values else { continue };
        let types: Vec<TensorType> = node.outputs.iter().map(|output| graph.tensor_type(*output).clone()).collect();
        let must_stay = node.outputs.iter().any(|output| graph.is_output(*output));
        if must_stay || types.iter().any(|output| output.element_count() > MAX_ELEMENTS) {
            continue;
        }
        let operands: Vec<&Value> = values.iter().map(|value| &**value).collect();
        let results = evaluate_node(&node.op, &operands, &types)?;
        for (output, value) in node.outputs.clone().into_iter().zip(results) {
            let name = graph.tensor(output).name.clone();
            let constant = graph.add_constant(name, value);
            graph.replace_uses(output, constant);
        }
        graph.remove_node(id);
    }
    Ok(())
}
