//! ONNX operators to ours, one family per file, each for every opset from 7 to 25.

mod elementwise;
mod movement;
mod product;
mod shape;
mod spatial;

use std::collections::BTreeMap;

use onnx_protobuf::GraphProto;

use super::importer::{NodeContext, node_label};
use crate::diagnostic::{Diagnostic, printable};

type Converter = fn(&mut NodeContext<'_>) -> Result<(), Diagnostic>;

/// The converter of an operator of the default domain; `None` if it is not supported.
fn converter(op_type: &str) -> Option<Converter> {
    spatial::converter(op_type)
        .or_else(|| product::converter(op_type))
        .or_else(|| elementwise::converter(op_type))
        .or_else(|| movement::converter(op_type))
        .or_else(|| shape::converter(op_type))
}

/// Converts one node.
pub fn convert(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    match converter(&context.attributes.node.op_type) {
        Some(convert) => convert(context),
        None => Err(Diagnostic::new(
            "E0140",
            format!("{} is not supported", node_label(context.attributes.index, context.attributes.node)),
        )),
    }
}

/// Refuses a graph with unsupported nodes, naming all of them at once.
pub fn check_supported(graph: &GraphProto) -> Result<(), Vec<Diagnostic>> {
    let mut unsupported: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        let ours = matches!(node.domain.as_str(), "" | "ai.onnx");
        if ours && converter(&node.op_type).is_some() {
            continue;
        }
        let op = if ours { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
        unsupported.entry(printable(&op)).or_default().push(node_label(index, node));
    }
    if unsupported.is_empty() {
        return Ok(());
    }
    let total: usize = unsupported.values().map(Vec::len).sum();
    let mut diagnostic = Diagnostic::new("E0140", format!("{total} nodes use operators that are not supported"));
    for (op, nodes) in unsupported {
        let shown: Vec<&str> = nodes.iter().take(5).map(String::as_str).collect();
        let more = if nodes.len() > shown.len() { ", .." } else { "" };
        diagnostic = diagnostic.note(format!("{op}, {} times: {}{more}", nodes.len(), shown.join(", ")));
    }
    Err(vec![diagnostic.help("`--explain E0140` lists what is supported")])
}
