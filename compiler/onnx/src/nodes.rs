//! Nodes of the file: where they stand, what they read, and how messages name them.

use std::collections::HashSet;

use onnx_protobuf::{GraphProto, NodeProto};

use partita_ir::diagnostic::printable;

/// Most nodes, initializers and values of a model.
pub const MAX_NODES: usize = 200_000;

/// Most nodes that loops may unroll to: a few bytes of a file ask for them, and each has to be planned.
pub const MAX_UNROLLED_NODES: usize = 30_000;

/// Longest name that is kept for what one node becomes: a long name must not be multiplied by many parts.
pub const MAX_NAME_CHARS: usize = 256;

/// A node, where the file has it (or the call that it came from), and how its operator is to be read.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Position among the graph's nodes.
    pub index: usize,
    /// Version of the default operator set.
    pub opset: i64,
    /// The node.
    pub node: NodeProto,
}

/// How messages name a node.
pub fn node_label(index: usize, node: &NodeProto) -> String {
    if node.name.is_empty() {
        format!("node #{index} ({})", printable(&node.op_type))
    } else {
        format!("node `{}` ({}, #{index})", printable(&node.name), printable(&node.op_type))
    }
}

/// Names that the graphs in a node's attributes read and do not make.
pub fn captured(node: &NodeProto) -> Vec<&str> {
    let mut read = Vec::new();
    let mut made: HashSet<&str> = HashSet::new();
    let mut open: Vec<&GraphProto> = graphs(node).collect();
    while let Some(graph) = open.pop() {
        made.extend(graph.initializer.iter().map(|initializer| initializer.name.as_str()));
        made.extend(graph.input.iter().map(|input| input.name.as_str()));
        for inner in &graph.node {
            made.extend(inner.output.iter().map(String::as_str));
            read.extend(inner.input.iter().map(String::as_str));
            open.extend(graphs(inner));
        }
        read.extend(graph.output.iter().map(|output| output.name.as_str()));
    }
    read.retain(|name| !name.is_empty() && !made.contains(name));
    read.sort_unstable();
    read.dedup();
    read
}

/// The graphs in a node's attributes.
pub fn graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}
