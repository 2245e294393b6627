//! Graph to text.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use super::op_name;
use crate::graph::{Data, Graph, TensorId};

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

/// The text form of a graph, nodes in topological order.
pub fn print(graph: &Graph, constants: Constants) -> String {
    let mut text = format!("graph {:?} opset {}\n", graph.name, graph.opset);
    let order = graph.topological_order().unwrap_or_else(|| graph.node_ids().collect());
    // Writing to a string cannot fail.
    let mut write = |line: fmt::Arguments<'_>| {
        let _ = text.write_fmt(line);
    };
    for input in &graph.inputs {
        write(format_args!("input {}\n", declaration(graph, *input)));
    }
    let mut written = std::collections::HashSet::new();
    for node in &order {
        for tensor in &graph.node(*node).inputs {
            if let Some(value) = graph.value(*tensor)
                && written.insert(*tensor)
            {
                write(format_args!("const {} = {}\n", declaration(graph, *tensor), elements(&value.data, constants)));
            }
        }
    }
    for tensor in &graph.outputs {
        if let Some(value) = graph.value(*tensor)
            && written.insert(*tensor)
        {
            write(format_args!("const {} = {}\n", declaration(graph, *tensor), elements(&value.data, constants)));
        }
    }
    for id in order {
        let node = graph.node(id);
        let outputs: Vec<String> = node.outputs.iter().map(|output| declaration(graph, *output)).collect();
        let inputs: Vec<String> = node.inputs.iter().map(|input| format!("%{}", input.0)).collect();
        // Operators hold numbers, lists and names of variants only: RON can always write them.
        let op = ron::to_string(&node.op).unwrap_or_else(|error| format!("({error})"));
        write(format_args!("{} = {:?}({}) {op}\n", outputs.join(", "), node.name, inputs.join(", ")));
    }
    for output in &graph.outputs {
        write(format_args!("output %{}\n", output.0));
    }
    text
}

fn declaration(graph: &Graph, tensor: TensorId) -> String {
    let info = graph.tensor(tensor);
    format!("%{} {:?}: {}", tensor.0, info.name, info.tensor_type)
}

fn elements(data: &Data, constants: Constants) -> String {
    if constants == Constants::Summary && data.len() > 16 {
        let digest = digest(data);
        return format!("digest({:02x}{:02x}{:02x}{:02x})", digest[0], digest[1], digest[2], digest[3]);
    }
    list(data)
}

/// SHA-256 over the little-endian elements.
fn digest(data: &Data) -> [u8; 32] {
    fn feed<T: Copy, const N: usize>(hasher: &mut Sha256, elements: &[T], bytes: impl Fn(T) -> [u8; N]) {
        for chunk in elements.chunks(4096) {
            hasher.update(chunk.iter().flat_map(|element| bytes(*element)).collect::<Vec<u8>>());
        }
    }
    let mut hasher = Sha256::new();
    match data {
        Data::F32(elements) => feed(&mut hasher, elements, f32::to_le_bytes),
        Data::I64(elements) => feed(&mut hasher, elements, i64::to_le_bytes),
        Data::I32(elements) => feed(&mut hasher, elements, i32::to_le_bytes),
        Data::I8(elements) => feed(&mut hasher, elements, i8::to_le_bytes),
        Data::U8(elements) => hasher.update(elements),
        Data::Bool(elements) => feed(&mut hasher, elements, |element| [u8::from(element)]),
    }
    hasher.finalize().into()
}

fn list(data: &Data) -> String {
    fn join<T: fmt::Debug>(elements: &[T]) -> String {
        let texts: Vec<String> = elements.iter().map(|element| format!("{element:?}")).collect();
        format!("[{}]", texts.join(", "))
    }
    match data {
        Data::F32(elements) => join(elements),
        Data::I64(elements) => join(elements),
        Data::I32(elements) => join(elements),
        Data::I8(elements) => join(elements),
        Data::U8(elements) => join(elements),
        Data::Bool(elements) => join(elements),
    }
}

/// The graph for Graphviz: nodes as boxes, edges labelled with the tensors' types.
pub fn print_dot(graph: &Graph) -> String {
    let mut text = String::from("digraph model {\n  node [shape=box, fontname=\"monospace\"];\n");
    for id in graph.node_ids() {
        let node = graph.node(id);
        let label = format!("{}\n{}", op_name(&node.op), crate::diagnostic::printable(&node.name));
        let _ = writeln!(text, "  n{} [label={label:?}];", id.index());
        for input in &node.inputs {
            if let Some(producer) = graph.tensor(*input).producer {
                let _ = writeln!(
                    text,
                    "  n{} -> n{} [label=\"{}\"];",
                    producer.index(),
                    id.index(),
                    graph.tensor_type(*input)
                );
            }
        }
    }
    text.push_str("}\n");
    text
}
