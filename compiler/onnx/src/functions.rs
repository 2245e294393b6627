//! Functions that a model defines: calls are replaced by the function's nodes, within a budget, without recursion.

use std::collections::HashMap;

use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use protobuf::Message;

use super::nodes::{MAX_NAME_CHARS, MAX_NODES, Placed, node_label};
use partita_ir::diagnostic::{Diagnostic, printable};

/// Deepest calls of functions within functions.
const MAX_CALLS: usize = 32;

/// Most bytes that the nodes of all calls together may take: a small file must not become a large graph.
const MAX_MADE_BYTES: usize = 64 << 20;

/// The functions of a model, and what is left of the budget.
#[derive(Default)]
pub struct Functions {
    functions: HashMap<(String, String, String), FunctionProto>,
    calls: usize,
    made_bytes: usize,
    made_nodes: usize,
}

/// The default domain has two names.
fn domain(name: &str) -> String {
    if name == "ai.onnx" { String::new() } else { name.to_string() }
}

/// The version of the default domain among imports, if they name one.
pub fn default_opset(imports: &[OperatorSetIdProto]) -> impl Iterator<Item = i64> + '_ {
    imports.iter().filter(|import| domain(&import.domain).is_empty()).map(|import| import.version)
}

impl Functions {
    /// The functions of a model.
    pub fn new(functions: Vec<FunctionProto>) -> Result<Functions, Diagnostic> {
        let mut by_name = HashMap::new();
        for function in functions {
            let key = (domain(&function.domain), function.name.clone(), function.overload.clone());
            let name = printable(&function.name);
            if by_name.insert(key, function).is_some() {
                return Err(Diagnostic::new("E0111", format!("function `{name}` is defined twice")));
            }
        }
        Ok(Functions { functions: by_name, ..Functions::default() })
    }

    /// Replaces calls by the nodes of their functions, also in functions that are called.
    pub fn expand(&mut self, nodes: Vec<NodeProto>, opset: i64) -> Result<Vec<Placed>, Diagnostic> {
        let mut placed = Vec::with_capacity(nodes.len());
        if self.functions.is_empty() {
            placed.extend(nodes.into_iter().enumerate().map(|(index, node)| Placed { index, opset, node }));
            return Ok(placed);
        }
        let mut open: Vec<(Placed, usize)> =
            nodes.into_iter().enumerate().rev().map(|(index, node)| (Placed { index, opset, node }, 0)).collect();
        while let Some((next, depth)) = open.pop() {
            let key = (domain(&next.node.domain), next.node.op_type.clone(), next.node.overload.clone());
            let Some(function) = self.functions.get(&key) else {
                placed.push(next);
                continue;
            };
            let call = node_label(next.index, &next.node);
            if depth >= MAX_CALLS {
                let message = format!("{call}: functions call each other deeper than {MAX_CALLS} levels");
                return Err(Diagnostic::new("E0111", message).help("a function cannot call itself"));
            }
            self.calls += 1;
            let body = instance(function, &next, self.calls)?;
            self.made_nodes += body.len();
            self.made_bytes += body.iter().map(|node| node.compute_size() as usize).sum::<usize>();
            if self.made_nodes > MAX_NODES || self.made_bytes > MAX_MADE_BYTES {
                let message = format!(
                    "{call}: the model's functions expand to more than {MAX_NODES} nodes or {} MiB",
                    MAX_MADE_BYTES >> 20
                );
                return Err(Diagnostic::new("E0111", message));
            }
            let opset = default_opset(&function.opset_import).next().unwrap_or(next.opset);
            let body = body.into_iter().rev().map(|node| (Placed { index: next.index, opset, node }, depth + 1));
            open.extend(body);
        }
        Ok(placed)
    }
}

/// The nodes of one call.
fn instance(function: &FunctionProto, call: &Placed, number: usize) -> Result<Vec<NodeProto>, Diagnostic> {
    let node = &call.node;
    let refuse = |message: String| Diagnostic::new("E0111", format!("{}: {message}", node_label(call.index, node)));
    if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
        return Err(refuse(format!(
            "has {} inputs and {} outputs, the function takes {} and makes {}",
            node.input.len(),
            node.output.len(),
            function.input.len(),
            function.output.len()
        )));
    }
    if let Some(attribute) = node.attribute.iter().find(|attribute| {
        let name = &attribute.name;
        !function.attribute.contains(name) && !function.attribute_proto.iter().any(|known| known.name == *name)
    }) {
        return Err(refuse(format!("the function has no attribute `{}`", printable(&attribute.name))));
    }
    let label = if node.name.is_empty() { &node.op_type } else { &node.name };
    let prefix: String = format!("{}@{number}/", label.chars().take(MAX_NAME_CHARS).collect::<String>());
    let mut names: HashMap<&str, String> = HashMap::new();
    for (formal, actual) in function.input.iter().zip(node.input.iter().map(Some).chain(std::iter::repeat(None))) {
        names.insert(formal, actual.cloned().unwrap_or_default());
    }
    let mut passed = Vec::new();
    for (formal, actual) in function.output.iter().zip(&node.output).filter(|(_, actual)| !actual.is_empty()) {
        // What is handed through, or handed out twice, needs a node of its own.
        if let Some(source) = names.get(formal.as_str()) {
            passed.push((source.clone(), actual.clone()));
        } else {
            names.insert(formal, actual.clone());
        }
    }
    let scope = Scope { function, call: node, names, prefix };
    let mut body: Vec<NodeProto> = function.node.iter().map(|node| scope.rename(node)).collect();
    body.extend(passed.into_iter().map(|(from, to)| NodeProto {
        name: format!("{}{to}", scope.prefix),
        op_type: "Identity".to_string(),
        input: vec![from],
        output: vec![to],
        ..NodeProto::default()
    }));
    Ok(body)
}

/// How names and attributes of a function's body read in one call.
struct Scope<'a> {
    function: &'a FunctionProto,
    call: &'a NodeProto,
    names: HashMap<&'a str, String>,
    prefix: String,
}

impl Scope<'_> {
    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            _ if name.is_empty() => String::new(),
            Some(actual) => actual.clone(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn rename(&self, node: &NodeProto) -> NodeProto {
        let label = if node.name.is_empty() { &node.op_type } else { &node.name };
        NodeProto {
            name: format!("{}{label}", self.prefix),
            input: node.input.iter().map(|name| self.name(name)).collect(),
            output: node.output.iter().map(|name| self.name(name)).collect(),
            attribute: node.attribute.iter().filter_map(|attribute| self.attribute(attribute)).collect(),
            ..node.clone()
        }
    }

    /// An attribute of a node in the body; one that refers to an attribute of the call is that, its default, or absent.
    fn attribute(&self, attribute: &AttributeProto) -> Option<AttributeProto> {
        let mut attribute = if attribute.ref_attr_name.is_empty() {
            attribute.clone()
        } else {
            let wanted = &attribute.ref_attr_name;
            let given = self.call.attribute.iter().find(|given| given.name == *wanted);
            let given = given.or_else(|| self.function.attribute_proto.iter().find(|known| known.name == *wanted))?;
            // What the caller hands over was written in the caller's scope.
            return Some(AttributeProto { name: attribute.name.clone(), ..given.clone() });
        };
        // The reader bounds how deep graphs nest.
        if let Some(graph) = attribute.g.as_mut() {
            self.rename_graph(graph);
        }
        attribute.graphs.iter_mut().for_each(|graph| self.rename_graph(graph));
        Some(attribute)
    }

    fn rename_graph(&self, graph: &mut GraphProto) {
        graph.node = graph.node.iter().map(|node| self.rename(node)).collect();
        for initializer in &mut graph.initializer {
            initializer.name = self.name(&initializer.name);
        }
        for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            value.name = self.name(&value.name);
        }
    }
}
