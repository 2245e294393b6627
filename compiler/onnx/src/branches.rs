//! `If` whose condition is known while importing: the nodes of the branch that is taken, in its place.

use std::collections::HashSet;

use onnx_protobuf::GraphProto;

use super::functions::graphs;
use super::importer::{Importer, NodeContext, node_label};
use super::{ops, order};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Data, TensorId};

/// Deepest nesting of branches.
const MAX_BRANCHES: usize = 32;

/// Puts the taken branch where the node stands.
pub fn inline(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let condition = context.input(0)?;
    let Some(value) = context.importer.graph.value(condition) else {
        let name = printable(&context.importer.graph.tensor(condition).name);
        let opset = context.opset();
        let mut refusal = context
            .attributes
            .unsupported(format!("its condition `{name}` is computed at run time; only one known before is supported"));
        // Whatever the condition, these would be in the way too.
        for graph in graphs(context.attributes.node) {
            let nodes = context.importer.functions.expand(graph.node.clone(), opset)?;
            if let Some(others) = ops::unsupported(&nodes).diagnostic {
                refusal = others.notes.into_iter().fold(refusal, Diagnostic::note);
            }
        }
        return Err(refusal);
    };
    let taken = match &value.data {
        Data::Bool(taken) if taken.len() == 1 => taken[0],
        other => {
            let found = format!("{} elements of {}", other.len(), other.element().name());
            return Err(context.refuse(format!("its condition has {found}, expected one bool")));
        }
    };
    let branch = if taken { "then_branch" } else { "else_branch" };
    let Some(graph) = context.attributes.graph(branch)? else {
        return Err(context.refuse(format!("attribute `{branch}` is missing")));
    };
    if context.importer.depth >= MAX_BRANCHES {
        return Err(context.refuse(format!("branches are nested deeper than {MAX_BRANCHES} levels")));
    }
    let opset = context.opset();
    let first_own = context.importer.graph.tensor_ids().len();
    context.importer.depth += 1;
    let made = add_branch(context.importer, graph, opset);
    context.importer.depth -= 1;
    context.importer.opset = opset;
    let label = || format!("in `{branch}` of {}", node_label(context.attributes.index, context.attributes.node));
    let made = made.map_err(|diagnostic| diagnostic.note(label()))?;
    context.bind_branch(&made, first_own)
}

/// Adds the nodes of a graph to the one that is imported; gives the graph's results.
fn add_branch(importer: &mut Importer, graph: &GraphProto, opset: i64) -> Result<Vec<TensorId>, Diagnostic> {
    let nodes = importer.functions.expand(graph.node.clone(), opset)?;
    let mut own: HashSet<&str> = HashSet::new();
    let constants = graph.initializer.iter().map(|initializer| initializer.name.as_str());
    let results = nodes.iter().flat_map(|placed| &placed.node.output).map(String::as_str);
    for name in constants.chain(results).filter(|name| !name.is_empty()) {
        if !own.insert(name) || importer.tensor(name).is_some() {
            let message = format!("tensor `{}` of a branch is made twice", printable(name));
            return Err(Diagnostic::new("E0110", message));
        }
    }
    if let Some(diagnostic) = ops::unsupported(&nodes).diagnostic {
        return Err(diagnostic);
    }
    importer.note_reads(nodes.iter().map(|placed| &placed.node));
    importer.note_reads_of_results(&graph.output);
    importer.add_initializers(graph.initializer.clone())?;
    importer.add_sparse_initializers(&graph.sparse_initializer)?;
    let order = order::topological(&nodes, |name| importer.tensor(name).is_some())?;
    for position in order {
        importer.add_node(&nodes[position])?;
    }
    let results = graph.output.iter().map(|output| {
        importer.tensor(&output.name).ok_or_else(|| {
            Diagnostic::new("E0110", format!("nothing makes `{}`, a result of a branch", printable(&output.name)))
        })
    });
    let results = results.collect::<Result<Vec<_>, _>>();
    // What a branch makes has no name outside.
    importer.forget(own.into_iter());
    results
}
