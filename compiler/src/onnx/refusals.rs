//! What is wrong with a model, gathered so that one attempt shows everything.

use std::collections::HashSet;

use onnx_protobuf::NodeProto;

use crate::diagnostic::Diagnostic;

/// Most messages of one import; more would not be read.
const MAX_DIAGNOSTICS: usize = 20;

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
        if self.unknown.is_empty() || !node.input.iter().chain(&node.output).any(|name| self.unknown.contains(name)) {
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
            self.unsupported = Some(list.note(diagnostic.message));
        } else if self.others.len() < MAX_DIAGNOSTICS {
            self.others.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    fn taint(&mut self, node: &NodeProto) {
        self.unknown.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
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
