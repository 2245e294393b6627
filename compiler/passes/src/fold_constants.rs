//! Evaluates nodes whose inputs are all constants, as long as what that makes stays in proportion to the model: a small file
//! may ask for constants without end. What is left is computed on devices, with the same result.

use std::sync::Arc;

use super::PassError;
use super::pattern::in_order;
use partita_ir::graph::eval::evaluate_node;
use partita_ir::graph::{Graph, TensorType, Value};

/// Largest constant that folding may make: 256 MiB of `f32`.
const MAX_ELEMENTS: usize = 1 << 26;

/// Elements that folding may make in all: so many, and twice as many as the model has itself.
const FREE_ELEMENTS: usize = 1 << 24;

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    let constants = graph.tensor_ids().filter(|tensor| graph.value(*tensor).is_some());
    let given: usize = constants.map(|tensor| graph.tensor_type(tensor).element_count()).sum();
    let mut left = FREE_ELEMENTS.saturating_add(given.saturating_mul(2));
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        let node = graph.node(id);
        let values: Option<Vec<Arc<Value>>> = node.inputs.iter().map(|input| graph.value(*input).cloned()).collect();
        let Some(values) = values else { continue };
        let types: Vec<TensorType> = node.outputs.iter().map(|output| graph.tensor_type(*output).clone()).collect();
        let must_stay = node.outputs.iter().any(|output| graph.is_output(*output));
        let made: usize = types.iter().map(TensorType::element_count).sum();
        if must_stay || made > left || types.iter().any(|output| output.element_count() > MAX_ELEMENTS) {
            continue;
        }
        left -= made;
        let operands: Vec<&Value> = values.iter().map(|value| &**value).collect();
        let results = evaluate_node(&node.op, &operands, &types)?;
        for (output, value) in node.outputs.clone().into_iter().zip(results) {
            let name = graph.tensor(output).name.clone();
            let constant = graph.add_constant(name, value);
            graph.replace_uses(output, constant);
        }
        let inputs = graph.node(id).inputs.clone();
        graph.remove_node(id);
        inputs.into_iter().for_each(|input| graph.forget_unread(input));
    }
    Ok(())
}
