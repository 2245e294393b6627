//! Order of nodes: each after the producers of what it reads.

use std::collections::HashMap;

use super::nodes::{Placed, captured, node_label};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::order::dependencies_first;

/// Nodes of a cycle that its message names.
const MOST_NAMED: usize = 5;

/// Positions of nodes in topological order: the file's, but for nodes that stand behind what reads them. Refuses cycles
/// and operands that nothing makes; `is_given` says which tensors are there from the beginning.
pub fn topological(nodes: &[Placed], is_given: impl Fn(&str) -> bool) -> Result<Vec<usize>, Diagnostic> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (position, placed) in nodes.iter().enumerate() {
        for output in placed.node.output.iter().filter(|name| !name.is_empty()) {
            producers.insert(output, position);
        }
    }
    let mut needs: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (needs, placed) in needs.iter_mut().zip(nodes) {
        let operands = placed.node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
        for input in operands.chain(captured(&placed.node)) {
            if let Some(producer) = producers.get(input) {
                needs.push(*producer);
            } else if !is_given(input) {
                let label = node_label(placed.index, &placed.node);
                let message = format!("{label} reads tensor `{}`, which nothing makes", printable(input));
                return Err(Diagnostic::new("E0110", message));
            }
        }
    }
    dependencies_first(&needs).map_err(|cycle| {
        let mut names: Vec<String> =
            cycle.iter().take(MOST_NAMED).map(|at| node_label(nodes[*at].index, &nodes[*at].node)).collect();
        if cycle.len() > MOST_NAMED {
            names.push(format!("{} more", cycle.len() - MOST_NAMED));
        }
        let message = format!(
            "the graph has a cycle: each of these reads the next, the last one the first: {}",
            names.join(", ")
        );
        Diagnostic::new("E0110", message)
    })
}
