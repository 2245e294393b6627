//! What a user should know of a model's numbers: sums that are rounded though they should not be.

use crate::diagnostic::{Diagnostic, printable};
use crate::graph::Graph;
use crate::graph::ranges::{EXACT_UP_TO, inexact_sums};
use crate::graph::text::op_name;

/// Most nodes that a message names.
const MOST_NAMED: usize = 8;

/// A warning that names every node whose sums of whole numbers may exceed what `f32` holds exactly.
pub fn of_sums(graph: &Graph) -> Option<Diagnostic> {
    let named: Vec<String> = inexact_sums(graph)
        .into_iter()
        .map(|sum| {
            let node = graph.node(sum.node);
            let times = sum.largest / EXACT_UP_TO;
            let name = printable(&node.name);
            format!("node `{name}` ({}): up to {:.0}, {times:.1} times 2^24", op_name(&node.op), sum.largest)
        })
        .collect();
    let message = format!(
        "sums of whole numbers may exceed 2^24 in {}: they are rounded then, and may differ in the last place by how a layer is \
         computed and shared",
        match named.len() {
            1 => "1 node".to_string(),
            count => format!("{count} nodes"),
        }
    );
    (!named.is_empty()).then(|| noted(Diagnostic::new("W0133", message), named))
}

fn noted(warning: Diagnostic, named: Vec<String>) -> Diagnostic {
    let more = named.len().saturating_sub(MOST_NAMED);
    let warning = named.into_iter().take(MOST_NAMED).fold(warning, Diagnostic::note);
    if more > 0 { warning.note(format!("and {more} more")) } else { warning }
}
