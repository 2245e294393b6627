//! ONNX bytes to a typed, shaped graph; the only folder that knows protobuf's ONNX types.
//!
//! Everything from the file is hostile until checked: names may hold any character, numbers any value, graphs any
//! shape. Checks come before allocations, nothing recurses over the graph, and every refusal names the node or tensor.
//! Nodes are taken in topological order; what only computes shapes is evaluated on the way, so that every tensor has a
//! known type and `Reshape`, `Slice` and their kin get constant attributes. May import the graph, files
//! and the runtime's kernels; deliberately absent: devices.

mod attributes;
mod boundary;
mod branches;
mod carried;
mod context;
mod expressions;
mod external;
mod finite;
mod functions;
mod importer;
mod inputs;
mod loops;
mod nodes;
mod numbers;
mod ops;
mod order;
mod quantized;
mod refusals;
mod signatures;
mod tensors;
mod wire;
mod words;
pub mod write;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use onnx_protobuf::{GraphProto, Message, ModelProto};

use partita_files::{file, file_kind};
use partita_ir::diagnostic::{Diagnostic, printable, size};
use partita_ir::graph::Graph;
use partita_ir::graph::verify::verify;

pub use inputs::ImportOptions;

use functions::{Functions, default_opset};
use importer::Importer;
use nodes::{MAX_NODES, Placed};
use refusals::{Refusals, unsupported};

/// Largest model file: what protobuf itself can express.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

/// Oldest and newest operator sets of the default domain that are understood.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// Version of the file format that began to say operator sets.
const FIRST_WITH_OPSETS: i64 = 3;

/// Names of the ONNX operators that are understood, ascending.
pub fn supported_operators() -> &'static [&'static str] {
    ops::OPERATORS
}

/// Those of them that are only evaluated while importing: the shape of their results follows from elements.
pub fn folded_operators() -> &'static [&'static str] {
    ops::FOLDED
}

/// Reads a model file. All unsupported nodes are named in one list.
pub fn import(model: &Path, options: &ImportOptions) -> Result<Graph, Vec<Diagnostic>> {
    let shown = printable(&model.display().to_string());
    let unreadable = |problem: String| vec![Diagnostic::new("E0100", format!("model `{shown}` {problem}"))];
    let (mut file, length) = file::open(model).map_err(unreadable)?;
    if length > MAX_FILE_BYTES {
        let message = format!("model `{shown}` is larger than {}", size(MAX_FILE_BYTES));
        return Err(vec![Diagnostic::new("E0101", message).help("store its weights as external data")]);
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.read_to_end(&mut bytes).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    let folder = model.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let ending = model.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let model = parse(&bytes, &ending)?;
    // The parsed model holds every byte that matters: large models would be in memory three times.
    drop(bytes);
    import_model(model, Some(folder), options)
}

/// Reads a model from memory. `folder` is where external data may lie; without it such models are refused.
pub fn import_bytes(bytes: &[u8], folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, Vec<Diagnostic>> {
    import_model(parse(bytes, "")?, folder, options)
}

/// `ending` is that of the file's name.
fn parse(bytes: &[u8], ending: &str) -> Result<ModelProto, Vec<Diagnostic>> {
    if bytes.is_empty() {
        return Err(vec![Diagnostic::new("E0101", "the model file is empty")]);
    }
    if let Err(diagnostic) = wire::scan(bytes) {
        return Err(one(instead_of_model(bytes, ending).unwrap_or(diagnostic)));
    }
    ModelProto::parse_from_bytes(bytes).map_err(|error| {
        let invalid = || Diagnostic::new("E0101", format!("the model is not valid protobuf: {error}"));
        one(instead_of_model(bytes, ending).unwrap_or_else(invalid))
    })
}

/// What was given in the place of a model, and what to do about it, if it is recognised.
fn instead_of_model(bytes: &[u8], ending: &str) -> Option<Diagnostic> {
    let kind = file_kind::recognise_named(bytes, ending).filter(|kind| *kind != file_kind::ONNX)?;
    let diagnostic = Diagnostic::new("E0101", format!("the model is {}, expected an ONNX model", kind.what));
    Some(if kind.instead_of_model.is_empty() { diagnostic } else { diagnostic.help(kind.instead_of_model) })
}

fn import_model(
    mut model: ModelProto,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, Vec<Diagnostic>> {
    let opset = opset(&model).map_err(one)?;
    let Some(mut graph) = model.graph.take() else {
        return Err(one(Diagnostic::new("E0101", "the model holds no graph")));
    };
    check_counts(&graph).map_err(one)?;
    let mut functions = Functions::new(std::mem::take(&mut model.functions)).map_err(one)?;
    let nodes = functions.expand(std::mem::take(&mut graph.node), opset).map_err(one)?;
    check_names(&graph, &nodes).map_err(one)?;
    let given: HashSet<&str> = graph
        .initializer
        .iter()
        .map(|initializer| initializer.name.as_str())
        .chain(graph.sparse_initializer.iter().map(|initializer| initializer.values.name.as_str()))
        .chain(graph.input.iter().map(|input| input.name.as_str()))
        .collect();
    let order = order::topological(&nodes, |name| given.contains(name)).map_err(one)?;
    let mut refusals = Refusals::new(unsupported(&nodes, ops::converter));
    let mut importer = Importer::new(&graph, &nodes, opset, ops::converter, functions, folder);
    importer.graph.remarks.extend(words::number(&mut graph.initializer, &nodes));
    importer.add_initializers(std::mem::take(&mut graph.initializer)).map_err(one)?;
    importer.add_sparse_initializers(&graph.sparse_initializer).map_err(one)?;
    if let Err(diagnostics) = importer.add_inputs(&graph.input, options) {
        return Err(refusals.with(diagnostics));
    }
    for position in order {
        let placed = &nodes[position];
        if refusals.is_tainted(&placed.node) {
            continue;
        }
        if let Err(diagnostic) = importer.add_node(placed) {
            refusals.add(&placed.node, diagnostic);
        }
    }
    refusals.into_result()?;
    let graph = importer.finish(&graph).map_err(one)?;
    // Whatever passed must be a sound graph; if it is not, that is our bug, and later stages must not see it.
    verify(&graph).map_err(|error| one(Diagnostic::new("E0900", error.to_string())))?;
    Ok(graph)
}

fn one(diagnostic: Diagnostic) -> Vec<Diagnostic> {
    vec![diagnostic]
}

/// Version of the default operator set; it may be listed several times, under both of its names.
fn opset(model: &ModelProto) -> Result<i64, Diagnostic> {
    let mut versions: Vec<i64> = default_opset(&model.opset_import).collect();
    versions.dedup();
    let wanted = format!("expected {} to {}", OPSETS.start(), OPSETS.end());
    match versions[..] {
        // Files older than operator sets were written for the first.
        [] if model.opset_import.is_empty() && (1..FIRST_WITH_OPSETS).contains(&model.ir_version) => Ok(1),
        [version] if OPSETS.contains(&version) => Ok(version),
        // Who uses nothing of the default domain, such as a forest alone, need not say which version of it.
        [] if uses_only_other_domains(&model.graph) => Ok(*OPSETS.end()),
        [version] => Err(Diagnostic::new("E0103", format!("the model uses opset {version}, {wanted}"))
            .help("convert it with onnx.version_converter, or export it again")),
        [] => Err(Diagnostic::new("E0103", format!("the model does not say its opset, {wanted}"))),
        _ => Err(Diagnostic::new("E0103", format!("the model names several opsets ({versions:?}), {wanted}"))),
    }
}

/// Whether there are nodes, and none of the default domain; what functions are made of says its versions itself.
fn uses_only_other_domains(graph: &GraphProto) -> bool {
    !graph.node.is_empty() && graph.node.iter().all(|node| !matches!(node.domain.as_str(), "" | "ai.onnx"))
}

fn check_counts(graph: &GraphProto) -> Result<(), Diagnostic> {
    for (what, count) in [
        ("nodes", graph.node.len()),
        ("initializers", graph.initializer.len()),
        ("sparse initializers", graph.sparse_initializer.len()),
        ("inputs", graph.input.len()),
        ("outputs", graph.output.len()),
    ] {
        if count > MAX_NODES {
            return Err(Diagnostic::new("E0112", format!("the graph has {count} {what}, more than {MAX_NODES}")));
        }
    }
    if graph.output.is_empty() {
        return Err(Diagnostic::new("E0110", "the graph has no output"));
    }
    Ok(())
}

/// Every tensor has one source.
fn check_names(graph: &GraphProto, nodes: &[Placed]) -> Result<(), Diagnostic> {
    let mut names = HashSet::new();
    for input in &graph.input {
        if !names.insert(input.name.as_str()) {
            let name = printable(&input.name);
            return Err(Diagnostic::new("E0110", format!("graph input `{name}` is listed twice")));
        }
    }
    for placed in nodes {
        for output in placed.node.output.iter().filter(|name| !name.is_empty()) {
            if !names.insert(output.as_str()) {
                return Err(Diagnostic::new("E0110", format!("tensor `{}` is made twice", printable(output)))
                    .help("every tensor must have one producer (ONNX graphs are in SSA form)"));
            }
        }
    }
    // Old files list initializers among the inputs too.
    let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    let mut constants = HashSet::new();
    let sparse = graph.sparse_initializer.iter().map(|initializer| initializer.values.name.as_str());
    for name in graph.initializer.iter().map(|initializer| initializer.name.as_str()).chain(sparse) {
        if !constants.insert(name) || (!inputs.contains(name) && !names.insert(name)) {
            let name = printable(name);
            return Err(Diagnostic::new("E0110", format!("tensor `{name}` is made by a node or initializer twice")));
        }
    }
    Ok(())
}
