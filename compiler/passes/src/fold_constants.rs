//! Evaluates nodes whose inputs are all constants, as long as what that makes and what it takes stay in proportion to the
//! model: a small file may ask for constants, or for arithmetic, without end. What is left is computed on devices, with the
//! same result.

use std::sync::Arc;

use super::PassError;
use super::pattern::in_order;
use partita_ir::graph::eval::{evaluate_node, operations};
use partita_ir::graph::{Graph, TensorType, Value};

/// Largest constant that folding may make: 256 MiB of `f32`.
const MAX_ELEMENTS: usize = 1 << 26;

/// Elements that folding may make in all: so many, and twice as many as the model has itself.
const FREE_ELEMENTS: usize = 1 << 24;

/// Multiply-adds that folding may do in all: so many, and more for each element that the model has itself.
const FREE_OPERATIONS: u64 = 1 << 30;
const OPERATIONS_OF_ELEMENT: u64 = 32;

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    let constants = graph.tensor_ids().filter(|tensor| graph.value(*tensor).is_some());
    let given: usize = constants.map(|tensor| graph.tensor_type(tensor).element_count()).sum();
    let mut left = FREE_ELEMENTS.saturating_add(given.saturating_mul(2));
    let mut left_operations = FREE_OPERATIONS.saturating_add(OPERATIONS_OF_ELEMENT.saturating_mul(given as u64));
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
        let read: Vec<&TensorType> = node.inputs.iter().map(|input| graph.tensor_type(*input)).collect();
        let work = operations(&node.op, &read, &types);
        if work > left_operations {
            continue;
        }
        left -= made;
        left_operations -= work;
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

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::Op;
    use partita_ir::graph::op::UnaryOp;

    /// The product of two constants, and what becomes of it.
    fn left(extent: usize) -> usize {
        let mut graph = Graph::new("g".to_string());
        let constant = graph.add_constant("c", Value::f32([extent, extent], vec![1.0; extent * extent]));
        let shape = graph.tensor_type(constant).clone();
        let product = graph.add_tensor("p".to_string(), shape.clone());
        graph.add_node("product".to_string(), Op::MatMul, vec![constant, constant], vec![product]);
        let result = graph.add_tensor("y".to_string(), shape);
        graph.add_node("result".to_string(), Op::Unary(UnaryOp::Exp), vec![product], vec![result]);
        graph.outputs.push(result);
        run(&mut graph).expect("it folds");
        graph.node_count()
    }

    #[test]
    fn what_takes_long_is_left_to_devices() {
        assert_eq!(left(64), 1);
        assert_eq!(left(2048), 2);
    }
}
