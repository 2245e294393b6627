//! Topological order and cycles, by petgraph's algorithms.

use std::collections::HashMap;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Reversed;

use super::{Graph, NodeId, TensorId};

/// Positions of things that need each other: each behind all that it needs, which stand as near before it as their own
/// needs allow; otherwise in the order of their numbers, so that an order that is sound already stays. `needs` says of
/// each what it needs, in the order in which that is wanted.
///
/// Errors: the things of one cycle, in an order in which each needs the next, the least number first.
pub fn dependencies_first(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut graph: DiGraph<(), (), usize> = DiGraph::with_capacity(needs.len(), needs.iter().map(Vec::len).sum());
    for _ in needs {
        graph.add_node(());
    }
    for (reader, needed) in needs.iter().enumerate() {
        for one in needed {
            graph.add_edge(NodeIndex::new(*one), NodeIndex::new(reader), ());
        }
    }
    // petgraph gives the reversed order in which depth-first searches from the first, the second, .. leave their nodes.
    match toposort(Reversed(&graph), None) {
        Ok(order) => Ok(order.into_iter().rev().map(NodeIndex::index).collect()),
        Err(_) => Err(first_cycle(&graph, needs)),
    }
}

/// A shortest cycle through the least of the things that are in one.
fn first_cycle(graph: &DiGraph<(), (), usize>, needs: &[Vec<usize>]) -> Vec<usize> {
    let is_cycle = |component: &Vec<NodeIndex<usize>>| {
        component.len() > 1 || component.iter().any(|one| needs[one.index()].contains(&one.index()))
    };
    let cyclic = tarjan_scc(graph).into_iter().filter(is_cycle);
    let Some(start) = cyclic.flatten().map(NodeIndex::index).min() else { return Vec::new() };
    // From each thing that was reached to the one that needs it.
    let mut reached: Vec<Option<usize>> = vec![None; needs.len()];
    let mut open = std::collections::VecDeque::from([start]);
    while let Some(reader) = open.pop_front() {
        for one in &needs[reader] {
            if *one == start {
                let back = std::iter::successors(Some(reader), |at| reached[*at]);
                let mut cycle: Vec<usize> = back.collect();
                cycle.reverse();
                return cycle;
            }
            if reached[*one].is_none() {
                reached[*one] = Some(reader);
                open.push_back(*one);
            }
        }
    }
    Vec::new()
}

impl Graph {
    /// Nodes so that each comes after the producers of its inputs: in order of creation, but for producers that were
    /// made later than their readers, which stand before the first of them. `None` if there is a cycle.
    pub fn topological_order(&self) -> Option<Vec<NodeId>> {
        let ids: Vec<NodeId> = self.node_ids().collect();
        let mut position = vec![usize::MAX; self.nodes.len()];
        ids.iter().enumerate().for_each(|(at, id)| position[id.0 as usize] = at);
        let needs = |id: &NodeId| -> Vec<usize> {
            let producers = self.node(*id).inputs.iter().filter_map(|input| self.tensor(*input).producer);
            producers.map(|producer| position[producer.0 as usize]).collect()
        };
        let needs: Vec<Vec<usize>> = ids.iter().map(needs).collect();
        let mut order: Vec<NodeId> = dependencies_first(&needs).ok()?.into_iter().map(|at| ids[at]).collect();
        // What an exit needs comes before what it may save; the sort keeps the order otherwise.
        let stages = self.stages();
        if !stages.is_empty() {
            order.sort_by_key(|id| stages.get(id).copied().unwrap_or(usize::MAX));
        }
        Some(order)
    }

    /// The last place in `order` at which each tensor is read; what the caller wants is read after everything.
    pub fn last_uses(&self, order: &[NodeId]) -> HashMap<TensorId, usize> {
        let mut last_uses = HashMap::new();
        for (position, id) in order.iter().enumerate() {
            last_uses.extend(self.node(*id).inputs.iter().map(|input| (*input, position)));
        }
        last_uses.extend(self.outputs.iter().map(|output| (*output, usize::MAX)));
        last_uses
    }
}

#[cfg(test)]
mod tests {
    use super::dependencies_first;

    #[test]
    fn a_sound_order_stays_and_what_comes_late_moves_before_its_first_reader() {
        let sound = [vec![], vec![0], vec![], vec![2, 1], vec![0]];
        assert_eq!(dependencies_first(&sound), Ok(vec![0, 1, 2, 3, 4]));
        // 4 needs 0, and 1 needs 4.
        let late = [vec![], vec![4, 3], vec![0], vec![], vec![0]];
        assert_eq!(dependencies_first(&late), Ok(vec![0, 4, 3, 1, 2]));
    }

    #[test]
    fn a_cycle_is_named_without_what_only_waits_for_it() {
        let needs = [vec![], vec![4, 0], vec![1], vec![2], vec![3], vec![4], vec![6]];
        assert_eq!(dependencies_first(&needs), Err(vec![1, 4, 3, 2]));
        assert_eq!(dependencies_first(&[vec![], vec![1]]), Err(vec![1]));
    }

    #[test]
    fn long_chains_and_wide_fans_take_no_time() {
        let most = 100_000;
        let chain: Vec<Vec<usize>> = (0..most).map(|at| if at + 1 < most { vec![at + 1] } else { vec![] }).collect();
        assert_eq!(dependencies_first(&chain), Ok((0..most).rev().collect()));
        let fan: Vec<Vec<usize>> = (0..most).map(|at| if at == 0 { (1..most).collect() } else { vec![] }).collect();
        let wanted: Vec<usize> = (1..most).chain([0]).collect();
        assert_eq!(dependencies_first(&fan), Ok(wanted));
    }
}
