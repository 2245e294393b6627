//! Graph to text.

use std::collections::HashSet;
use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use super::{Numbering, op_name};
use crate::graph::types::{Element, on_elements};
use crate::graph::{Data, ElementType, Graph, Op, TensorId};

/// How constants are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constants {
    /// Every element, so that the text reads back exactly.
    Full,
    /// Up to 16 elements; larger ones as a digest.
    Summary,
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Constants::Summary))
    }
}

/// The text form of a graph, nodes in topological order, tensors numbered in order of appearance.
pub fn print(graph: &Graph, constants: Constants) -> String {
    let numbering = Numbering::of(graph);
    let mut printer = Printer { graph, constants, numbering, declared: HashSet::new(), text: String::new() };
    printer.print();
    printer.text
}

struct Printer<'a> {
    graph: &'a Graph,
    constants: Constants,
    numbering: Numbering<'a>,
    /// Constants that have been written.
    declared: HashSet<TensorId>,
    text: String,
}

impl Printer<'_> {
    fn print(&mut self) {
        let graph = self.graph;
        self.line(format_args!("graph {:?} opset {}", graph.name, graph.opset));
        for input in &graph.inputs {
            let declared = self.declare(*input);
            self.line(format_args!("input {declared}"));
        }
        let order = graph.topological_order().unwrap_or_else(|| graph.node_ids().collect());
        let read = order.iter().flat_map(|node| &graph.node(*node).inputs);
        for tensor in read.chain(&graph.outputs) {
            self.constant(*tensor);
        }
        for id in order {
            let node = graph.node(id);
            let inputs: Vec<String> = node.inputs.iter().map(|input| self.numbering.number(*input)).collect();
            let outputs: Vec<String> = node.outputs.iter().map(|output| self.declare(*output)).collect();
            let op = operator(&node.op);
            self.line(format_args!("{} = {:?}({}) {op}", outputs.join(", "), node.name, inputs.join(", ")));
        }
        for output in &graph.outputs {
            let number = self.numbering.number(*output);
            self.line(format_args!("output {number}"));
        }
        if graph.states > 0 {
            self.line(format_args!("states {}", graph.states));
        }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    fn declare(&self, tensor: TensorId) -> String {
        format!("{}: {}", self.numbering.tensor(tensor), self.graph.tensor_type(tensor))
    }

    fn constant(&mut self, tensor: TensorId) {
        if let Some(value) = self.graph.value(tensor)
            && self.declared.insert(tensor)
        {
            let elements = elements(&value.data, self.constants);
            let declared = self.declare(tensor);
            self.line(format_args!("const {declared} = {elements}"));
        }
    }
}

/// An operator with its attributes, on one line; `read_operator` reads it.
pub fn operator(op: &Op) -> String {
    // RON can always write it. It escapes a variant named like an option's.
    ron::to_string(op).unwrap_or_else(|error| format!("({error})")).replace("r#None", "None")
}

/// Elements as a constant's text has them.
pub fn elements(data: &Data, constants: Constants) -> String {
    if constants == Constants::Summary && data.len() > 16 {
        let digest = digest(data);
        return format!("digest({:02x}{:02x}{:02x}{:02x})", digest[0], digest[1], digest[2], digest[3]);
    }
    list(data)
}

/// SHA-256 over the little-endian elements.
fn digest(data: &Data) -> [u8; 32] {
    fn feed<T: Element>(hasher: &mut Sha256, elements: &[T]) {
        let mut bytes = Vec::new();
        for chunk in elements.chunks(4096) {
            bytes.clear();
            chunk.iter().for_each(|element| element.put(&mut bytes));
            hasher.update(&bytes);
        }
    }
    let mut hasher = Sha256::new();
    on_elements!(data, elements => feed(&mut hasher, elements));
    hasher.finalize().into()
}

fn list(data: &Data) -> String {
    fn join<T: fmt::Debug>(elements: &[T]) -> String {
        let texts: Vec<String> = elements.iter().map(|element| format!("{element:?}")).collect();
        format!("[{}]", texts.join(", "))
    }
    match data {
        // As numbers, which they are exactly.
        Data::F16(_) | Data::BF16(_) => list(&data.cast(ElementType::F32)),
        _ => on_elements!(data, elements => join(elements)),
    }
}

/// The graph for Graphviz: nodes as boxes, edges labelled with the tensors' types.
pub fn print_dot(graph: &Graph) -> String {
    let mut text = String::from("digraph model {\n  node [shape=box, fontname=\"monospace\"];\n");
    for id in graph.node_ids() {
        let node = graph.node(id);
        let label = format!("{}\n{}", op_name(&node.op), crate::diagnostic::printable(&node.name));
        let _ = writeln!(text, "  n{} [label={label:?}];", id.0);
        for input in &node.inputs {
            if let Some(producer) = graph.tensor(*input).producer {
                let _ = writeln!(text, "  n{} -> n{} [label=\"{}\"];", producer.0, id.0, graph.tensor_type(*input));
            }
        }
    }
    text.push_str("}\n");
    text
}
