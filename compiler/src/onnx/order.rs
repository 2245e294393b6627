//! Order of nodes: each after the producers of its inputs.

use std::collections::{BTreeSet, HashMap};

use onnx_protobuf::GraphProto;

use super::importer::node_label;
use crate::diagnostic::{Diagnostic, printable};

/// Indices of nodes in topological order, the file's order among free choices. Refuses cycles and inputs that nothing
/// makes.
pub fn topological(graph: &GraphProto) -> Result<Vec<usize>, Diagnostic> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for output in &node.output {
            producers.insert(output, index);
        }
    }
    let given: BTreeSet<&str> = graph
        .initializer
        .iter()
        .map(|initializer| initializer.name.as_str())
        .chain(graph.input.iter().map(|input| input.name.as_str()))
        .collect();
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    let mut missing = vec![0usize; graph.node.len()];
    for (index, node) in graph.node.iter().enumerate() {
        for input in node.input.iter().filter(|name| !name.is_empty()) {
            if given.contains(input.as_str()) {
                continue;
            }
            let Some(producer) = producers.get(input.as_str()) else {
                return Err(Diagnostic::new(
                    "E0110",
                    format!("{} reads tensor `{}`, which nothing makes", node_label(index, node), printable(input)),
                ));
            };
            consumers[*producer].push(index);
            missing[index] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..graph.node.len()).filter(|index| missing[*index] == 0).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for consumer in &consumers[index] {
            missing[*consumer] -= 1;
            if missing[*consumer] == 0 {
                ready.insert(*consumer);
            }
        }
    }
    if order.len() == graph.node.len() {
        return Ok(order);
    }
    let stuck = (0..graph.node.len()).filter(|index| missing[*index] > 0);
    let names: Vec<String> = stuck.take(5).map(|index| node_label(index, &graph.node[index])).collect();
    Err(Diagnostic::new("E0110", format!("the graph has a cycle through {}", names.join(", "))))
}
