//! Two constants never bear one name, whichever passes have made them: a pass that alters a constant for one of its readers
//! leaves the old one, under its name, to the others. Who finds weights by name (what devices hold already, reports) finds
//! the right ones.

use std::collections::HashSet;

use partita_ir::graph::{Graph, TensorId};

/// Gives constants whose name an earlier one bears another. Inputs and outputs of the graph keep theirs.
pub(super) fn run(graph: &mut Graph) {
    let ends: HashSet<TensorId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    let used = |graph: &Graph, id: &TensorId| graph.value(*id).is_some() && graph.is_read(*id);
    let named: Vec<TensorId> = graph.tensor_ids().filter(|id| used(graph, id) && !ends.contains(id)).collect();
    let mut taken: HashSet<String> = ends.iter().map(|id| graph.tensor(*id).name.clone()).collect();
    let twice: Vec<TensorId> =
        named.iter().filter(|id| !taken.insert(graph.tensor(**id).name.clone())).copied().collect();
    for id in twice {
        let wanted = graph.tensor(id).name.clone();
        let mut count = 1;
        let mut name = format!("{wanted}.{count}");
        while !taken.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}.{count}");
        }
        graph.rename_tensor(id, name);
    }
}
