//! Which element-wise operators of quantized layers are done where their operand is made, so that sums of whole numbers and
//! real numbers between two quantizations lie nowhere in memory.
//!
//! A group ends in one element-wise operator, its root. Of what the root reads, an element-wise operator joins the group if
//! nobody else reads it, or if it does little to what takes fewer bytes than its result (a dequantization): then everybody who
//! reads it does that again. At most one convolution or product joins, too.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId};
use partita_kernel::lower::fused::Tree;
use partita_kernel::lower::joins_trees;
use partita_plan::schedule::{Action, Schedule};

/// Nodes that become one kernel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// All of them, in the order of the schedule, the root last. A dequantization may be in several groups.
    pub nodes: Vec<NodeId>,
    /// The convolution or product, if one is among them.
    pub producer: Option<NodeId>,
    /// What the root stores.
    pub tree: Tree,
    /// Operands of the tree.
    pub operands: Vec<TensorId>,
}

/// Most operators and operands of a group: what is left in registers for them is little.
const MOST_OPERATORS: usize = 8;
const MOST_OPERANDS: usize = 6;

/// Groups of a schedule.
#[derive(Default)]
pub(super) struct Groups {
    /// By root.
    pub by_root: BTreeMap<NodeId, Group>,
    /// Nodes that are only done with later ones.
    pub inside: BTreeSet<NodeId>,
}

/// What is done together on a device.
pub(super) fn groups(graph: &Graph, schedule: &Schedule) -> Groups {
    let uses = Uses::of(graph, schedule);
    let mut groups: BTreeMap<NodeId, Group> = BTreeMap::new();
    for node in uses.places.keys().copied().filter(|node| joins(graph, *node) && !uses.is_inside(graph, *node)) {
        let mut grower = Grower { graph, uses: &uses, nodes: BTreeSet::new(), producer: None, operands: Vec::new() };
        let tree = grower.tree(node);
        let Grower { nodes, producer, operands, .. } = grower;
        let is_quantized = nodes.iter().any(|node| quantizes(graph, *node));
        let fits = nodes.len() <= MOST_OPERATORS && operands.len() <= MOST_OPERANDS;
        if nodes.len() > 1 && is_quantized && fits {
            let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
            nodes.sort_by_key(|node| uses.places[node]);
            groups.insert(node, Group { nodes, producer, tree, operands });
        }
    }
    // A dequantization may have readers outside of groups, too.
    let mut takers: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for group in groups.values() {
        for node in &group.nodes[..group.nodes.len() - 1] {
            takers.entry(*node).or_default().extend(&group.nodes);
        }
    }
    let is_inside = |(node, takers): &(NodeId, BTreeSet<NodeId>)| {
        let readers = uses.readers.get(&graph.node(*node).outputs[0]);
        readers
            .is_some_and(|readers| readers.iter().all(|reader| reader.is_some_and(|reader| takers.contains(&reader))))
    };
    let inside = takers.into_iter().filter(is_inside).map(|(node, _)| node).collect();
    Groups { by_root: groups, inside }
}

/// Who reads what, and where nodes stand.
struct Uses {
    /// Of each tensor the nodes that read it, once per operand; none stands for everything that is no node.
    readers: BTreeMap<TensorId, Vec<Option<NodeId>>>,
    /// Of each node its place in the schedule, and how often devices have spoken with each other before.
    places: BTreeMap<NodeId, (usize, usize)>,
}

impl Uses {
    fn of(graph: &Graph, schedule: &Schedule) -> Uses {
        let mut uses = Uses { readers: BTreeMap::new(), places: BTreeMap::new() };
        let mut exchanges = 0;
        for (place, action) in schedule.actions.iter().enumerate() {
            let mut count = |tensor: TensorId, reader| uses.readers.entry(tensor).or_default().push(reader);
            match action {
                Action::Compute(node) => {
                    graph.node(*node).inputs.iter().for_each(|input| count(*input, Some(*node)));
                    uses.places.entry(*node).or_insert((place, exchanges));
                }
                Action::Exchange { sends, .. } => {
                    sends.iter().for_each(|message| count(message.tensor, None));
                    exchanges += 1;
                }
                Action::Leave { verdict, answer, .. } => {
                    [*verdict].into_iter().chain(*answer).for_each(|tensor| count(tensor, None));
                    exchanges += 1;
                }
                Action::Output { tensor, .. } => count(*tensor, None),
                // What is started, an exchange has again; but it must have been made.
                Action::Start { .. } => exchanges += 1,
                Action::Input { .. } => {}
            }
        }
        uses
    }

    /// Readers of a node's only result, if all of them can take it in.
    fn takers(&self, graph: &Graph, node: NodeId) -> Option<&[Option<NodeId>]> {
        let output = graph.node(node).outputs[0];
        let readers = self.readers.get(&output)?;
        let takes = |reader: &Option<NodeId>| {
            reader.is_some_and(|reader| {
                joins(graph, reader) && graph.shape(graph.node(reader).outputs[0]) == graph.shape(output)
            })
        };
        readers.iter().all(takes).then_some(&readers[..])
    }

    /// Whether the sum that a node reads is the last thing that the root it belongs to waits for: then both are one kernel.
    fn leads_to_root(&self, graph: &Graph, node: NodeId, most: usize) -> bool {
        let Some([Some(reader)]) = self.takers(graph, node) else { return !self.is_repeated(graph, node) };
        let output = graph.node(node).outputs[0];
        most > 0 && self.last_operand(graph, *reader) == Some(output) && self.leads_to_root(graph, *reader, most - 1)
    }

    /// Where a tensor's producer stands on this device.
    fn place_of(&self, graph: &Graph, tensor: TensorId) -> Option<(usize, usize)> {
        self.places.get(&graph.tensor(tensor).producer?).copied()
    }

    /// The operand of a node that is made last: when it is at hand, the others are, too.
    fn last_operand(&self, graph: &Graph, node: NodeId) -> Option<TensorId> {
        graph.node(node).inputs.iter().copied().max_by_key(|input| self.place_of(graph, *input))
    }

    /// Whether an element-wise node is done by whoever reads it.
    fn is_inside(&self, graph: &Graph, node: NodeId) -> bool {
        match self.takers(graph, node) {
            // Bytes are kept rather than the sums that they are made of.
            Some([Some(reader)]) if quantizes(graph, node) => {
                !self.is_repeated(graph, *reader) && self.leads_to_root(graph, node, MOST_OPERATORS)
            }
            Some([Some(reader)]) => !self.is_repeated(graph, *reader),
            _ => self.is_repeated(graph, node),
        }
    }

    /// Whether an element-wise node is done again by each of several that read it.
    fn is_repeated(&self, graph: &Graph, node: NodeId) -> bool {
        self.takers(graph, node).is_some_and(|readers| readers.len() > 1) && is_dequantization(graph, node)
    }
}

/// Whether a node is an element-wise operator of real numbers with one result.
fn joins(graph: &Graph, node: NodeId) -> bool {
    use partita_ir::graph::ElementType::F32;
    let info = graph.node(node);
    let all = info.inputs.iter().chain(&info.outputs);
    joins_trees(&info.op) && all.map(|tensor| graph.tensor_type(*tensor).element).all(|element| element == F32)
}

/// Whether a node makes whole numbers of few bytes.
fn quantizes(graph: &Graph, node: NodeId) -> bool {
    matches!(graph.node(node).op, Op::Binary(BinaryOp::RoundedQuotient, _))
}

/// Whether a node scales or moves what takes fewer bytes than its result.
fn is_dequantization(graph: &Graph, node: NodeId) -> bool {
    let info = graph.node(node);
    let bytes = |tensor: TensorId| graph.stored(tensor).element.size_bytes();
    let is_cheap = matches!(info.op, Op::Binary(BinaryOp::Mul | BinaryOp::Add | BinaryOp::Sub, _));
    let [a, b] = info.inputs[..] else { return false };
    is_cheap && graph.value(b).is_some() && bytes(a) < bytes(info.outputs[0])
}

/// A group while it grows from its root on.
struct Grower<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    nodes: BTreeSet<NodeId>,
    producer: Option<NodeId>,
    operands: Vec<TensorId>,
}

impl Grower<'_> {
    /// An element-wise node with what it takes in.
    fn tree(&mut self, node: NodeId) -> Tree {
        let graph = self.graph;
        self.nodes.insert(node);
        let info = graph.node(node);
        let last = self.uses.last_operand(graph, node);
        let inputs = info.inputs.iter().map(|input| self.leaf(*input, node, Some(*input) == last)).collect();
        Tree::Apply(info.op.clone(), inputs)
    }

    fn leaf(&mut self, tensor: TensorId, reader: NodeId, is_last: bool) -> Tree {
        let graph = self.graph;
        let shape = graph.shape(graph.node(reader).outputs[0]);
        let here = graph.tensor(tensor).producer.filter(|producer| self.uses.places.contains_key(producer));
        let Some(producer) = here.filter(|_| graph.shape(tensor) == shape) else { return self.operand(tensor) };
        // A group that is too large is none; nobody needs to know how large.
        if self.nodes.len() > MOST_OPERATORS || self.uses.is_repeated(graph, reader) {
            return self.operand(tensor);
        }
        if joins(graph, producer) && self.uses.is_inside(graph, producer) {
            return self.tree(producer);
        }
        let is_sum = matches!(graph.node(producer).op, Op::Conv(_) | Op::Gemm(_) | Op::MatMul);
        let is_alone = self.uses.readers.get(&tensor).is_some_and(|readers| readers.len() == 1);
        // Nothing is computed later than before, seen from other devices.
        let is_at_once =
            self.uses.places.get(&producer).map(|place| place.1) == self.uses.places.get(&reader).map(|place| place.1);
        if is_sum && is_alone && is_last && is_at_once && self.producer.is_none() {
            self.producer = Some(producer);
            self.nodes.insert(producer);
            return Tree::Sum;
        }
        self.operand(tensor)
    }

    fn operand(&mut self, tensor: TensorId) -> Tree {
        let known = self.operands.iter().position(|operand| *operand == tensor);
        let index = known.unwrap_or_else(|| {
            self.operands.push(tensor);
            self.operands.len() - 1
        });
        Tree::Operand(index)
    }
}

#[cfg(test)]
mod tests {
    use crate::program::lower::{Like, lowered};
    use crate::program::{Program, Step};
    use partita_ir::graph::ElementType;

    const CONV: &str = "Conv((window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:None))";

    /// Two quantized convolutions and the sum of their results, each of a scale of its own.
    fn residual_block() -> String {
        let head = "graph \"case\" opset 17\ninput %0 \"x\": i8[1,4,6,6]\nconst %1 \"w\": f32[4,4,1,1] = [1.0, -2.0, 3.0, 4.0, 5.0, 6.0, -7.0, 8.0, 9.0, 10.0, 11.0, -12.0, 13.0, 14.0, 15.0, 16.0]\nconst %2 \"b\": f32[4] = [100.0, 20.0, -30.0, 4.0]\nconst %3 \"step\": f32[4,1,1] = [7.5, 8.5, 9.5, 10.5]\nconst %4 \"scale\": f32[] = [0.25]\nconst %5 \"other\": f32[] = [0.5]\n";
        let clip = "Binary(RoundedQuotient,Clip(-128.0,127.0))";
        format!(
            "{head}%6 \"x32\": f32[1,4,6,6] = \"cast\"(%0) Cast(to:F32)
%7 \"s1\": f32[1,4,6,6] = \"conv1\"(%6, %1, %2) {CONV}
%8 \"q1\": f32[1,4,6,6] = \"round1\"(%7, %3) {clip}
%9 \"r1\": f32[1,4,6,6] = \"real1\"(%8, %4) Binary(Mul,None)
%10 \"s2\": f32[1,4,6,6] = \"conv2\"(%8, %1, %2) {CONV}
%11 \"q2\": f32[1,4,6,6] = \"round2\"(%10, %3) {clip}
%12 \"r2\": f32[1,4,6,6] = \"real2\"(%11, %5) Binary(Mul,None)
%13 \"sum\": f32[1,4,6,6] = \"add\"(%9, %12) Binary(Add,Relu)
%14 \"q3\": f32[1,4,6,6] = \"round3\"(%13, %4) Binary(RoundedQuotient,Clip(0.0,255.0))
%15 \"y\": u8[1,4,6,6] = \"bytes\"(%14) Cast(to:U8)
output %15
"
        )
    }

    fn kernels(program: &Program) -> Vec<String> {
        let names = program.steps.iter().filter_map(|step| match step {
            Step::Kernel { node, fused, .. } => {
                Some([node].into_iter().chain(fused).cloned().collect::<Vec<_>>().join(" + "))
            }
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn what_lies_between_two_quantizations_is_nowhere() {
        let program = lowered(&residual_block(), "cortex-m4f", Like::default());
        let all = ["conv1 + round1", "conv2 + round2 + real2 + real1 + add + round3"].map(String::from);
        let mut found = kernels(&program);
        // The second group begins with what is done first.
        assert_eq!(found.remove(0), all[0]);
        let parts = |names: &str| names.split(" + ").map(String::from).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(found.iter().map(|names| parts(names)).collect::<Vec<_>>(), [parts(&all[1])]);
        let is_narrow = |element| matches!(element, ElementType::I8 | ElementType::U8);
        assert!(program.buffers.iter().all(|buffer| is_narrow(buffer.element)), "{program}");
        // Where memory is no concern, elements are as they are computed with.
        let program = lowered(&residual_block(), "x86-64-v3", Like::default());
        assert_eq!(kernels(&program).len(), 2);
    }

    #[test]
    fn what_others_read_is_kept() {
        let text = residual_block().replace("output %15\n", "output %15\noutput %10\n");
        let program = lowered(&text, "cortex-m4f", Like::default());
        assert!(kernels(&program).contains(&"conv2".to_string()), "{:?}", kernels(&program));
        // Real numbers are in no group without a quantization.
        let text = "graph \"case\" opset 17\ninput %0 \"x\": f32[1,4]\n%1 \"a\": f32[1,4] = \"neg\"(%0) Unary(Neg)\n%2 \"b\": f32[1,4] = \"abs\"(%1) Unary(Abs)\noutput %2\n";
        assert_eq!(kernels(&lowered(text, "cortex-m4f", Like::default())), ["neg", "abs"]);
    }
}
