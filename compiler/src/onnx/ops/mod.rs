//! ONNX operators to ours, one family per file, each for every opset from 7 to 25.

mod elementwise;
mod movement;
mod product;
mod quantized;
mod shape;
mod spatial;

use std::collections::{BTreeMap, HashSet};

use onnx_protobuf::GraphProto;

pub use quantized::Grids;

use super::importer::{NodeContext, node_label};
use super::refusals::Unsupported;
use crate::diagnostic::{Diagnostic, printable};

/// Most nodes that are named for one unsupported operator.
const MAX_NAMES: usize = 100;

/// Every operator that has a converter, ascending; a test keeps the list in step with the converters.
pub const OPERATORS: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Selu",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Where",
];

type Converter = fn(&mut NodeContext<'_>) -> Result<(), Diagnostic>;

/// The converter of an operator of the default domain; `None` if it is not supported.
fn converter(op_type: &str) -> Option<Converter> {
    spatial::converter(op_type)
        .or_else(|| product::converter(op_type))
        .or_else(|| elementwise::converter(op_type))
        .or_else(|| movement::converter(op_type))
        .or_else(|| shape::converter(op_type))
        .or_else(|| quantized::converter(op_type))
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

/// The nodes whose operators are not supported, all in one message.
pub fn unsupported(graph: &GraphProto) -> Unsupported {
    let mut outputs = HashSet::new();
    let mut unsupported: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Nodes inside branches and bodies are named too.
    let mut graphs = vec![graph];
    while let Some(graph) = graphs.pop() {
        for (index, node) in graph.node.iter().enumerate() {
            let inner = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
            graphs.extend(inner);
            let ours = matches!(node.domain.as_str(), "" | "ai.onnx");
            if ours && converter(&node.op_type).is_some() {
                continue;
            }
            let op = if ours { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
            outputs.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
            unsupported.entry(printable(&op)).or_default().push(node_label(index, node));
        }
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

#[cfg(test)]
mod tests {
    use super::{OPERATORS, converter};

    #[test]
    fn the_list_of_operators_is_true() {
        assert!(OPERATORS.is_sorted());
        assert!(OPERATORS.iter().all(|name| converter(name).is_some()));
        let sources = [
            include_str!("elementwise.rs"),
            include_str!("movement.rs"),
            include_str!("product.rs"),
            include_str!("quantized.rs"),
            include_str!("shape.rs"),
            include_str!("spatial.rs"),
        ];
        let arms = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
            let (name, rest) = line.strip_prefix("        \"")?.split_once('"')?;
            rest.starts_with(" => ").then_some(name)
        });
        for name in arms.filter(|name| converter(name).is_some()) {
            assert!(OPERATORS.contains(&name), "{name} is not listed");
        }
    }
}
