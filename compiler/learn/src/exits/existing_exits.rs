//! Exits that the model already has (BranchyNet; Teerapittayanon et al. 2016): outputs that are scores, each with its own
//! branch. Nothing is trained; they are calibrated, and the choice keeps those that pay.

use std::collections::HashSet;

use super::candidates::{ExitPlace, View};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_plan::partition::node_macs;

/// The outputs that `names` makes exits, in the order of the names, and the one that is left: the model's answer.
pub fn divided(graph: &Graph, names: &[String]) -> Result<(Vec<TensorId>, TensorId), Diagnostic> {
    let refuse = |message: String, help: &str| Diagnostic::new("E0190", message).help(help.to_string());
    let known = || {
        let names: Vec<String> =
            graph.outputs.iter().map(|output| format!("`{}`", printable(&graph.tensor(*output).name))).collect();
        format!("the model's outputs are {}", names.join(", "))
    };
    let mut exits: Vec<TensorId> = Vec::with_capacity(names.len());
    for name in names {
        let found = graph.outputs.iter().find(|output| graph.tensor(**output).name == *name).copied();
        let Some(output) = found else {
            return Err(refuse(format!("--exit-outputs: the model has no output `{}`", printable(name)), &known()));
        };
        if exits.contains(&output) {
            return Err(refuse(format!("--exit-outputs names `{}` twice", printable(name)), "name each output once"));
        }
        exits.push(output);
    }
    let left: Vec<TensorId> = graph.outputs.iter().copied().filter(|output| !exits.contains(output)).collect();
    let [last] = left[..] else {
        let message = format!("--exit-outputs must leave one output, the last answer; it leaves {}", left.len());
        return Err(refuse(message, &known()));
    };
    Ok((exits, last))
}

/// Takes the named outputs from the graph's and makes places of them, in the order in which their branches leave the way
/// to the one output that is left. Where an output is probabilities, the place is what they were made from.
pub fn places(graph: &mut Graph, names: &[String]) -> Result<Vec<ExitPlace>, Diagnostic> {
    let refuse = |message: String, help: &str| Diagnostic::new("E0190", message).help(help.to_string());
    let (exits, last) = divided(graph, names)?;
    for output in &exits {
        if graph.shape(*output) != graph.shape(last) {
            let (name, shape) = (printable(&graph.tensor(*output).name), graph.shape(*output));
            let message =
                format!("output `{name}` has shape {shape:?}; an exit answers like the model: {:?}", graph.shape(last));
            return Err(refuse(message, "name only outputs that are scores of the same classes"));
        }
    }
    let trunk = needed(graph, last);
    let macs = |nodes: &mut dyn Iterator<Item = &NodeId>| nodes.map(|id| node_macs(graph, *id)).sum::<u64>();
    let mut places: Vec<ExitPlace> = Vec::with_capacity(exits.len());
    for output in exits {
        let scores = match graph.tensor(output).producer.map(|producer| graph.node(producer)) {
            Some(node) if matches!(node.op, Op::Softmax { .. }) => node.inputs[0],
            _ => output,
        };
        let Some(node) = graph.tensor(scores).producer else {
            let name = printable(&graph.tensor(output).name);
            return Err(refuse(format!("output `{name}` is not computed"), "name outputs of branches"));
        };
        let all = needed(graph, scores);
        let views = vec![View { op: None, features: graph.tensor_type(scores).element_count(), global: true }];
        places.push(ExitPlace {
            tensor: scores,
            node,
            macs: macs(&mut all.intersection(&trunk)),
            head_macs: macs(&mut all.difference(&trunk)),
            views,
            map: None,
        });
    }
    places.sort_by_key(|place| (place.macs, place.tensor));
    graph.outputs = vec![last].into();
    Ok(places)
}

/// Removes what neither the last answer nor a chosen exit needs: branches that do not pay.
pub fn remove_others(graph: &mut Graph) {
    let deciding: Vec<TensorId> = graph.exits().into_iter().flat_map(|id| graph.node(id).outputs.clone()).collect();
    let wanted = graph.outputs.iter().chain(&deciding).flat_map(|tensor| needed(graph, *tensor));
    let wanted: HashSet<NodeId> = wanted.collect();
    for id in graph.topological_order().unwrap_or_default().into_iter().rev() {
        if !wanted.contains(&id) {
            graph.remove_node(id);
        }
    }
}

/// Nodes without which a tensor is not made.
fn needed(graph: &Graph, tensor: TensorId) -> HashSet<NodeId> {
    let mut found = HashSet::new();
    let mut left = vec![tensor];
    while let Some(tensor) = left.pop() {
        if let Some(producer) = graph.tensor(tensor).producer.filter(|producer| found.insert(*producer)) {
            left.extend(&graph.node(producer).inputs);
        }
    }
    found
}
