//! What is wrong with a model, gathered so that one attempt shows everything.

use std::collections::{BTreeMap, HashSet};

use onnx_protobuf::NodeProto;

use super::importer::Operators;
use super::nodes::{Placed, captured, graphs, node_label};
use partita_ir::diagnostic::{Diagnostic, printable};

/// Most messages of one import; more would not be read.
const MAX_DIAGNOSTICS: usize = 20;

/// Most nodes that are named for one unsupported operator.
const MAX_NAMES: usize = 100;

/// Refused nodes and the tensors that are unknown because of them.
pub struct Refusals {
    unsupported: Option<Diagnostic>,
    others: Vec<Diagnostic>,
    left_out: usize,
    unknown: HashSet<String>,
}

/// Nodes whose operators are not supported: the message that lists them, and what they would make.
#[derive(Default)]
pub struct Unsupported {
    /// One list of all.
    pub diagnostic: Option<Diagnostic>,
    /// Results of these nodes.
    pub outputs: HashSet<String>,
}

impl Refusals {
    /// Begins with the nodes whose operators are unknown.
    pub fn new(unsupported: Unsupported) -> Refusals {
        Refusals { unsupported: unsupported.diagnostic, others: Vec::new(), left_out: 0, unknown: unsupported.outputs }
    }

    /// Whether a node was refused already or reads what a refused node would make; its results become unknown too.
    pub fn is_tainted(&mut self, node: &NodeProto) -> bool {
        let is_unknown = |name: &str| self.unknown.contains(name);
        let own = node.input.iter().chain(&node.output).map(String::as_str);
        if self.unknown.is_empty() || !own.chain(captured(node)).any(is_unknown) {
            return false;
        }
        self.taint(node);
        true
    }

    /// A node is refused. Features that are not supported (E0140) join the list of unsupported operators.
    pub fn add(&mut self, node: &NodeProto, diagnostic: Diagnostic) {
        self.taint(node);
        if diagnostic.code == "E0140" {
            let list =
                self.unsupported.take().unwrap_or_else(|| Diagnostic::new("E0140", "not everything is supported"));
            let notes = std::iter::once(diagnostic.message).chain(diagnostic.notes);
            self.unsupported = Some(notes.fold(list, Diagnostic::note));
        } else if self.others.len() < MAX_DIAGNOSTICS {
            self.others.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    fn taint(&mut self, node: &NodeProto) {
        self.unknown.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
    }

    /// What else is wrong, beside the list of unsupported nodes.
    pub fn with(self, diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
        self.unsupported.into_iter().chain(diagnostics).collect()
    }

    /// All messages, the list of unsupported nodes first.
    pub fn into_result(self) -> Result<(), Vec<Diagnostic>> {
        let mut all: Vec<Diagnostic> = self.unsupported.into_iter().chain(self.others).collect();
        if self.left_out > 0
            && let Some(last) = all.pop()
        {
            all.push(last.note(format!("{} more nodes are refused", self.left_out)));
        }
        if all.is_empty() { Ok(()) } else { Err(all) }
    }
}

/// The nodes whose operators are not supported, all in one message.
pub fn unsupported(nodes: &[Placed], operators: Operators) -> Unsupported {
    let mut outputs = HashSet::new();
    let mut unsupported: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Vec<(usize, &NodeProto)> = nodes.iter().rev().map(|placed| (placed.index, &placed.node)).collect();
    while let Some((index, node)) = open.pop() {
        if operators(&node.domain, &node.op_type).is_some() {
            continue;
        }
        let ours = matches!(node.domain.as_str(), "" | "ai.onnx");
        let op = if ours { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
        outputs.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
        unsupported.entry(printable(&op)).or_default().push(node_label(index, node));
        // Bodies of loops are named too; which branch of an If counts is not known yet.
        open.extend(graphs(node).flat_map(|graph| graph.node.iter().enumerate()));
    }
    if unsupported.is_empty() {
        return Unsupported::default();
    }
    let total: usize = unsupported.values().map(Vec::len).sum();
    let mut diagnostic = Diagnostic::new("E0140", format!("operators of {total} nodes are not supported"));
    for (op, nodes) in unsupported {
        let shown: Vec<&str> = nodes.iter().take(MAX_NAMES).map(String::as_str).collect();
        let more = match nodes.len() - shown.len() {
            0 => String::new(),
            left => format!(" and {left} more"),
        };
        diagnostic = diagnostic.note(format!("{op} ({}): {}{more}", nodes.len(), shown.join(", ")));
    }
    let diagnostic = diagnostic.help("`--explain E0140` lists what is supported");
    Unsupported { diagnostic: Some(diagnostic), outputs }
}
