//! Every invariant of a graph:
//!
//! - operands and results exist; a tensor has exactly one of: a producer, a value, a place among the inputs;
//! - the producer of a tensor lists it among its results;
//! - the type of each result is what [`super::infer`] says;
//! - a constant's value has the tensor's type; two constants that are read never bear one name;
//! - as many inputs and outputs as there are states are there, and have the same types in pairs;
//! - graph outputs are produced, constant or inputs; names of inputs and outputs are unique;
//! - every tensor knows exactly its readers, each once; there is no cycle.

use std::collections::HashSet;

use super::infer::infer;
use super::{Graph, NodeId, TensorId};

/// A broken invariant; always a bug of ours, never of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph invariant broken at {at}: {rule}")]
pub struct VerifyError {
    /// Node or tensor.
    pub at: String,
    /// What should hold, and what was found.
    pub rule: String,
}

/// Checks every invariant.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    if graph.states > graph.inputs.len().min(graph.outputs.len()) {
        let rule =
            format!("{} states, but {} inputs and {} outputs", graph.states, graph.inputs.len(), graph.outputs.len());
        return Err(broken("the graph".to_string(), rule));
    }
    for (made, kept) in graph.state_pairs() {
        if graph.tensor_type(made) != graph.tensor_type(kept) {
            let rule = format!("a state of {} becomes {}", graph.tensor_type(kept), graph.tensor_type(made));
            return Err(broken(label(graph, kept), rule));
        }
    }
    let inputs: HashSet<TensorId> = graph.inputs.iter().copied().collect();
    let mut readers: Vec<Vec<NodeId>> = vec![Vec::new(); graph.tensor_ids().len()];
    for id in graph.node_ids() {
        verify_node(graph, id, &inputs)?;
        for input in &graph.node(id).inputs {
            let readers = &mut readers[input.0 as usize];
            if readers.last() != Some(&id) {
                readers.push(id);
            }
        }
    }
    for (id, readers) in graph.tensor_ids().zip(readers) {
        let known = graph.readers(id);
        if known != readers {
            return Err(broken(label(graph, id), format!("nodes {readers:?} read it, not {known:?}")));
        }
    }
    if graph.topological_order().is_none() {
        return Err(broken("the graph".to_string(), "there is a cycle".to_string()));
    }
    for list in [&graph.inputs[..], &graph.outputs[..]] {
        let mut names = HashSet::new();
        for tensor in list {
            if !names.insert(graph.tensor(*tensor).name.as_str()) {
                return Err(broken(label(graph, *tensor), "two inputs or two outputs share this name".to_string()));
            }
        }
    }
    let mut names = HashSet::new();
    for id in graph.tensor_ids().filter(|id| graph.value(*id).is_some() && graph.is_read(*id)) {
        if !names.insert(graph.tensor(id).name.as_str()) {
            return Err(broken(label(graph, id), "two constants share this name".to_string()));
        }
    }
    for input in &graph.inputs {
        let tensor = graph.tensor(*input);
        if tensor.producer.is_some() || tensor.value.is_some() {
            return Err(broken(label(graph, *input), "a graph input has another source".to_string()));
        }
    }
    for output in &graph.outputs {
        let tensor = graph.tensor(*output);
        if tensor.producer.is_none() && tensor.value.is_none() && !inputs.contains(output) {
            return Err(broken(label(graph, *output), "a graph output is never made".to_string()));
        }
    }
    Ok(())
}

fn verify_node(graph: &Graph, id: NodeId, inputs: &HashSet<TensorId>) -> Result<(), VerifyError> {
    let node = graph.node(id);
    let mut types = Vec::with_capacity(node.inputs.len());
    for input in &node.inputs {
        let tensor = graph.tensor(*input);
        let sources = usize::from(tensor.producer.is_some())
            + usize::from(tensor.value.is_some())
            + usize::from(inputs.contains(input));
        if sources != 1 {
            return Err(broken(label(graph, *input), format!("it has {sources} sources, expected 1")));
        }
        if let Some(value) = &tensor.value
            && value.tensor_type() != tensor.tensor_type
        {
            return Err(broken(
                label(graph, *input),
                format!("its value is {}, its type {}", value.tensor_type(), tensor.tensor_type),
            ));
        }
        types.push(&tensor.tensor_type);
    }
    for output in &node.outputs {
        if graph.tensor(*output).producer != Some(id) {
            return Err(broken(label(graph, *output), "its producer is not the node that lists it".to_string()));
        }
    }
    let expected = infer(&node.op, &types).map_err(|error| broken(graph.node_label(id), error.to_string()))?;
    let found: Vec<_> = node.outputs.iter().map(|output| graph.tensor_type(*output).clone()).collect();
    if expected != found {
        let text = |types: &[super::TensorType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(broken(graph.node_label(id), format!("makes {}, expected {}", text(&found), text(&expected))));
    }
    Ok(())
}

fn label(graph: &Graph, tensor: TensorId) -> String {
    format!("tensor `{}`", graph.tensor(tensor).name)
}

fn broken(at: String, rule: String) -> VerifyError {
    VerifyError { at, rule }
}
