//! Order of nodes: each after the producers of what it reads.

use std::collections::{BTreeSet, HashMap};

use super::functions::{Placed, captured};
use super::importer::node_label;
use partita_ir::diagnostic::{Diagnostic, printable};

/// Positions of nodes in topological order, the file's order among free choices. Refuses cycles and operands that
/// nothing makes; `is_given` says which tensors are there from the beginning.
pub fn topological(nodes: &[Placed], is_given: impl Fn(&str) -> bool) -> Result<Vec<usize>, Diagnostic> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (position, placed) in nodes.iter().enumerate() {
        for output in placed.node.output.iter().filter(|name| !name.is_empty()) {
            producers.insert(output, position);
        }
    }
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0usize; nodes.len()];
    for (position, placed) in nodes.iter().enumerate() {
        let operands = placed.node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
        for input in operands.chain(captured(&placed.node)) {
            if let Some(producer) = producers.get(input) {
                consumers[*producer].push(position);
                missing[position] += 1;
            } else if !is_given(input) {
                let label = node_label(placed.index, &placed.node);
                let message = format!("{label} reads tensor `{}`, which nothing makes", printable(input));
                return Err(Diagnostic::new("E0110", message));
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|position| missing[*position] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(position) = ready.pop_first() {
        order.push(position);
        for consumer in &consumers[position] {
            missing[*consumer] -= 1;
            if missing[*consumer] == 0 {
                ready.insert(*consumer);
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    let stuck = (0..nodes.len()).filter(|position| missing[*position] > 0);
    let names: Vec<String> = stuck.take(5).map(|at| node_label(nodes[at].index, &nodes[at].node)).collect();
    Err(Diagnostic::new("E0110", format!("the graph has a cycle through {}", names.join(", "))))
}
