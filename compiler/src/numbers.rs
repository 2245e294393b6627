//! What a user should know of a model's numbers: constants that are none, and sums that are rounded though they should not be.

use crate::diagnostic::{Diagnostic, printable};
use crate::graph::ranges::{EXACT_UP_TO, inexact_sums};
use crate::graph::text::op_name;
use crate::graph::{Graph, Value};

/// Most constants or nodes that a message names.
const MOST_NAMED: usize = 8;

/// A warning that names every constant with NaN or infinity among its elements.
pub fn of_constants(graph: &Graph) -> Option<Diagnostic> {
    let odd = |value: &Value| {
        let (nan, infinite) = value.data.not_finite();
        let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let words: Vec<String> = [count(nan, "NaN"), count(infinite, "infinite")].into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("{} of {} elements", words.join(" and "), value.data.len()))
    };
    let named = graph.tensor_ids().filter_map(|id| {
        let tensor = graph.tensor(id);
        let words = odd(tensor.value.as_deref()?)?;
        Some(format!("`{}`: {words}", printable(&tensor.name)))
    });
    let named: Vec<String> = named.collect();
    let warning =
        Diagnostic::new("W0132", format!("{} with elements that are no finite numbers", constants(named.len())));
    (!named.is_empty()).then(|| noted(warning, named))
}

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

fn constants(count: usize) -> String {
    if count == 1 { "there is 1 constant".to_string() } else { format!("there are {count} constants") }
}

fn noted(warning: Diagnostic, named: Vec<String>) -> Diagnostic {
    let more = named.len().saturating_sub(MOST_NAMED);
    let warning = named.into_iter().take(MOST_NAMED).fold(warning, Diagnostic::note);
    if more > 0 { warning.note(format!("and {more} more")) } else { warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_that_are_no_numbers_are_named() {
        let mut graph = Graph::new("g");
        graph.add_constant("fine", Value::f32([2], vec![1.0, f32::MAX]));
        assert_eq!(of_constants(&graph), None);
        graph.add_constant("w\n", Value::f32([3], vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]));
        let warning = of_constants(&graph).expect("there is something to say").to_string();
        assert!(warning.starts_with("warning[W0132]: there is 1 constant"), "{warning}");
        assert!(warning.contains(r"`w\n`: 1 NaN and 2 infinite of 3 elements"), "{warning}");
        for index in 0..20 {
            graph.add_constant(format!("c{index}"), Value::f32([1], vec![f32::NAN]));
        }
        let warning = of_constants(&graph).expect("there is something to say");
        assert_eq!(warning.notes.len(), MOST_NAMED + 1);
        assert_eq!(warning.notes.last().map(String::as_str), Some("and 13 more"));
    }
}
