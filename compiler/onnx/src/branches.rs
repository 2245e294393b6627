//! `If`: the nodes of the branch that is taken, in its place; those of both, and a choice between their results, where
//! the condition is known at run time only.

use std::collections::{BTreeSet, HashSet};

use onnx_protobuf::GraphProto;

use super::importer::{Importer, NodeContext};
use super::nodes::{graphs, node_label};
use super::order;
use super::refusals::unsupported;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Data, Op, TensorId};

/// Deepest nesting of branches and bodies of loops.
pub const MAX_BRANCHES: usize = 32;

/// Most elements of an input that a user may be asked to fix.
const MAX_FIXED: usize = 16;

/// Most tensors that are looked at for what a condition follows from.
const MAX_SOURCES: usize = 10_000;

/// Most conditions that are remarked on.
const MAX_REMARKS: usize = 20;

/// Most inputs that one message names.
const MAX_NAMED: usize = 10;

/// Puts the taken branch where the node stands, or both and a choice.
pub fn inline(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let condition = context.input(0)?;
    let known = match context.importer.graph.value(condition).map(|value| &value.data) {
        None => None,
        Some(Data::Bool(taken)) if taken.len() == 1 => Some(taken[0]),
        Some(other) => {
            let found = format!("{} elements of {}", other.len(), other.element().name());
            return Err(context.refuse(format!("its condition has {found}, expected one bool")));
        }
    };
    let first_own = context.importer.graph.tensor_ids().len();
    match known {
        Some(taken) => {
            let made = add_branch(context, if taken { "then_branch" } else { "else_branch" })?;
            context.bind_branch(&made, first_own)
        }
        None => choose(context, condition).map_err(|refusal| at_run_time(context, condition, refusal)),
    }
}

/// Both branches, and of each result the one that the condition says.
fn choose(context: &mut NodeContext<'_>, condition: TensorId) -> Result<(), Diagnostic> {
    let then_results = add_branch(context, "then_branch")?;
    let else_results = add_branch(context, "else_branch")?;
    if context.tensor_type(condition).element_count() != 1 || then_results.len() != else_results.len() {
        let (found, counts) = (context.tensor_type(condition), [then_results.len(), else_results.len()]);
        return Err(context.refuse(format!("a condition {found} between {counts:?} results")));
    }
    let condition = context.value(Op::Reshape { shape: Vec::new() }, &[condition])?;
    let mut chosen = Vec::with_capacity(then_results.len());
    for (a, b) in then_results.into_iter().zip(else_results) {
        let types = [a, b].map(|result| (context.shape(result), context.promised(result)));
        if types[0] != types[1] {
            let (a, b) = (context.tensor_type(a), context.tensor_type(b));
            let message = format!("its branches make {a} and {b}, and which is taken is known at run time only");
            return Err(context.attributes.unsupported(message));
        }
        chosen.push(context.value(Op::Where, &[condition, a, b])?);
    }
    remark(context, condition);
    context.bind(&chosen)
}

/// Says once for all of them that both branches are computed.
fn remark(context: &mut NodeContext<'_>, condition: TensorId) {
    let further = context.importer.graph.remarks.iter_mut().find(|remark| remark.code == "N0135");
    match further {
        Some(first) if first.notes.len() < MAX_REMARKS => {
            let label = node_label(context.attributes.index, context.attributes.node);
            first.notes.push(format!("so it is with {label}"));
        }
        Some(_) => {}
        None => {
            let help = fixable(context, condition);
            let what = "its condition is known at run time only, so both of its branches are computed";
            let node = context.refuse(what);
            let first = Diagnostic { code: "N0135", ..node };
            context.importer.graph.remarks.push(help.into_iter().fold(first, Diagnostic::help));
        }
    }
}

/// A refusal that a condition could have spared.
fn at_run_time(context: &mut NodeContext<'_>, condition: TensorId, refusal: Diagnostic) -> Diagnostic {
    let name = printable(&context.importer.graph.tensor(condition).name);
    let mut message = context
        .attributes
        .unsupported(format!("its condition `{name}` is computed at run time, and not both branches can be"))
        .note(refusal.message);
    message = refusal.notes.into_iter().fold(message, Diagnostic::note);
    // Whatever the condition, these would be in the way too.
    let opset = context.opset();
    for graph in graphs(context.attributes.node) {
        let Ok(nodes) = context.importer.functions.expand(graph.node.clone(), opset) else { continue };
        if let Some(others) = unsupported(&nodes, context.importer.operators).diagnostic {
            message = others
                .notes
                .into_iter()
                .filter(|note| !message.notes.contains(note))
                .fold(message.clone(), Diagnostic::note);
        }
    }
    // Messages of this kind become notes of one list, which has no room for help.
    fixable(context, condition).into_iter().fold(message, Diagnostic::note)
}

/// What a user can do about a tensor that must be known: fix the inputs that it follows from, if they are few numbers.
pub fn fixable(context: &NodeContext<'_>, tensor: TensorId) -> Option<String> {
    let graph = &context.importer.graph;
    let mut open = vec![tensor];
    let mut seen: BTreeSet<TensorId> = BTreeSet::new();
    let mut inputs = Vec::new();
    while let Some(next) = open.pop() {
        if !seen.insert(next) || graph.value(next).is_some() {
            continue;
        }
        if seen.len() > MAX_SOURCES {
            return None;
        }
        match graph.tensor(next).producer {
            Some(producer) => open.extend(&graph.node(producer).inputs),
            None if graph.tensor_type(next).element_count() <= MAX_FIXED => {
                inputs.push(format!("--set {}=VALUE", printable(&graph.tensor(next).name)));
            }
            None => return None,
        }
    }
    inputs.truncate(MAX_NAMED);
    (!inputs.is_empty()).then(|| format!("{} would fix it", inputs.join(" ")))
}

/// Adds the nodes of a branch to the graph that is imported; gives the branch's results.
fn add_branch(context: &mut NodeContext<'_>, branch: &str) -> Result<Vec<TensorId>, Diagnostic> {
    let Some(graph) = context.attributes.graph(branch)? else {
        return Err(context.refuse(format!("attribute `{branch}` is missing")));
    };
    if context.importer.depth >= MAX_BRANCHES {
        return Err(context.refuse(format!("branches are nested deeper than {MAX_BRANCHES} levels")));
    }
    let opset = context.opset();
    context.importer.depth += 1;
    let made = add_graph(context.importer, graph, opset);
    context.importer.depth -= 1;
    context.importer.opset = opset;
    let label = || format!("in `{branch}` of {}", node_label(context.attributes.index, context.attributes.node));
    made.map_err(|diagnostic| diagnostic.note(label()))
}

/// Adds the nodes of a graph without inputs.
fn add_graph(importer: &mut Importer, graph: &GraphProto, opset: i64) -> Result<Vec<TensorId>, Diagnostic> {
    importer.reserve_graph(graph)?;
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
    if let Some(diagnostic) = unsupported(&nodes, importer.operators).diagnostic {
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
    let results = results_of(importer, graph);
    // What a branch makes has no name outside.
    importer.forget(own.into_iter());
    results
}

/// The tensors that a graph gives.
pub fn results_of(importer: &Importer, graph: &GraphProto) -> Result<Vec<TensorId>, Diagnostic> {
    let result = |name: &str| {
        importer.tensor(name).ok_or_else(|| {
            Diagnostic::new("E0110", format!("nothing makes `{}`, a result of a branch", printable(name)))
        })
    };
    graph.output.iter().map(|output| result(&output.name)).collect()
}
