//! Exits of a graph: where they are, what runs before them, and how often.

use std::collections::BTreeMap;

use super::op::Decide;
use super::{Graph, NodeId, Op, TensorId};

impl Graph {
    /// The nodes that decide, in the order of their exits.
    pub fn exits(&self) -> Vec<NodeId> {
        let mut found: Vec<(usize, NodeId)> =
            self.node_ids().filter_map(|id| self.decide(id).map(|decide| (decide.exit, id))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The decision that a node makes, if it makes one.
    pub fn decide(&self, id: NodeId) -> Option<&Decide> {
        if let Op::Decide(decide) = &self.node(id).op { Some(decide) } else { None }
    }

    /// What an inference answers that ends where a node decides: its last operand.
    pub fn answer(&self, id: NodeId) -> TensorId {
        let inputs = &self.node(id).inputs;
        inputs[inputs.len() - 1]
    }

    /// Share of inferences that each exit ends, in the order of the exits.
    pub fn exit_shares(&self) -> Vec<f64> {
        self.exits().iter().filter_map(|id| self.decide(*id)).map(|decide| decide.share).collect()
    }

    /// Sets the share of inferences that each exit ends, by the order of the exits.
    pub fn set_exit_shares(&mut self, shares: &[f64]) {
        for (id, share) in self.exits().into_iter().zip(shares) {
            if let Some(decide) = self.decide(id) {
                let op = Op::Decide(Decide { share: *share, ..decide.clone() });
                self.set_op(id, op);
            }
        }
    }

    /// Share of all inferences that reach a node: those that no exit before it ends. A node belongs to the first exit
    /// that needs it.
    pub fn reach(&self) -> BTreeMap<NodeId, f64> {
        let stages = self.stages();
        let shares = self.exit_shares();
        let left = |stage: usize| (1.0 - shares.iter().take(stage).sum::<f64>()).max(0.0);
        self.node_ids().map(|id| (id, left(stages.get(&id).copied().unwrap_or(shares.len())))).collect()
    }

    /// Number of the first exit that needs a node; nodes that no exit needs are left out.
    pub(super) fn stages(&self) -> BTreeMap<NodeId, usize> {
        let mut stages = BTreeMap::new();
        for (stage, exit) in self.exits().into_iter().enumerate() {
            let mut open = vec![exit];
            while let Some(id) = open.pop() {
                if stages.contains_key(&id) {
                    continue;
                }
                stages.insert(id, stage);
                open.extend(self.node(id).inputs.iter().filter_map(|input| self.tensor(*input).producer));
            }
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::ExitRule;
    use crate::graph::{Activation, TensorType, UnaryOp};

    #[test]
    fn heads_run_before_what_they_may_save() {
        let mut graph = Graph::new("t");
        let relu = || Op::Unary(UnaryOp::Activation(Activation::Relu));
        let x = graph.add_input("x", TensorType::f32([1, 4]));
        let [a, b, c, scores] = ["a", "b", "c", "scores"].map(|name| graph.add_tensor(name, TensorType::f32([1, 4])));
        let verdict = graph.add_tensor("verdict", TensorType::f32([2]));
        let first = graph.add_node("first", relu(), vec![x], vec![a]);
        let second = graph.add_node("second", relu(), vec![a], vec![b]);
        let third = graph.add_node("third", relu(), vec![b], vec![c]);
        let head = graph.add_node("head", relu(), vec![a], vec![scores]);
        let decide = Decide {
            exit: 0,
            rule: ExitRule::Margin,
            logits: true,
            temperature: 1.0,
            threshold: 0.5,
            share: 0.25,
            patience: None,
        };
        let decide = graph.add_node("decide", Op::Decide(decide), vec![scores], vec![verdict]);
        graph.outputs.push(c);
        assert_eq!(graph.topological_order(), Some(vec![first, head, decide, second, third]));
        let reach = graph.reach();
        assert_eq!([first, head, decide, second, third].map(|id| reach[&id]), [1.0, 1.0, 1.0, 0.75, 0.75]);
        graph.set_exit_shares(&[0.5]);
        assert_eq!(graph.reach()[&third], 0.5);
    }
}
