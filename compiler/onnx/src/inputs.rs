//! Types of the graph's inputs: what the model says, what the command line says, and what symbols say across inputs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Extent;
use onnx_protobuf::type_proto::Value as TypeValue;
use onnx_protobuf::{TensorShapeProto, ValueInfoProto};

use super::tensors;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::infer::{MAX_RANK, element_count};
use partita_ir::graph::{Data, ElementType, TensorType};

/// Most inputs that one message names.
const MAX_NAMED: usize = 50;

/// What an example gives an open axis: an image's edge, and anything else.
const EXAMPLE_EDGE: usize = 224;
const EXAMPLE_LENGTH: usize = 16;

/// What exporters write where a dimension has no name: two of these need not be equal.
const NO_NAMES: &[&str] = &["", "?", "*", "-1", "0", "None", "none", "unknown"];

/// What the user adds to a model.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Shapes of inputs whose dimensions the model leaves open, by name; or one extent, by the name of a dimension.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Inputs that are constants from now on, by name: one number for all elements, or as many as there are, with commas.
    pub fixed: Vec<(String, String)>,
}

/// Extents of symbols, with who said so.
pub type Symbols = BTreeMap<String, (usize, String)>;

/// Types of all inputs, and what was taken for granted.
pub struct InputTypes {
    /// In the order of the inputs.
    pub types: Vec<TensorType>,
    /// Symbols that have an extent.
    pub symbols: Symbols,
    /// What the user should know.
    pub remarks: Vec<Diagnostic>,
}

/// One axis of an input.
#[derive(Clone, Copy, PartialEq)]
enum Axis<'a> {
    Known(usize),
    Symbol(&'a str),
    /// Without a name; exporters also write 0 and -1 for it.
    Open,
}

impl<'a> Axis<'a> {
    fn of(dimension: &'a Dimension) -> Axis<'a> {
        match &dimension.value {
            Some(Extent::DimValue(extent)) => match usize::try_from(*extent) {
                Ok(extent) if extent > 0 => Axis::Known(extent),
                _ => Axis::Open,
            },
            Some(Extent::DimParam(name)) if !NO_NAMES.contains(&name.trim()) => Axis::Symbol(name),
            _ => Axis::Open,
        }
    }
}

/// An input as the model declares it.
struct Declared<'a> {
    name: &'a str,
    element: ElementType,
    /// `None` if not even the rank is known.
    axes: Option<Vec<Axis<'a>>>,
    given: Option<&'a [usize]>,
}

impl Declared<'_> {
    fn refuse(&self, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic::new("E0121", format!("input `{}`: {}", printable(self.name), message.as_ref()))
    }
}

/// The shape that a value is declared with.
pub fn tensor_shape(value: &ValueInfoProto) -> Option<&TensorShapeProto> {
    match value.type_.as_ref()?.value.as_ref()? {
        TypeValue::TensorType(tensor) => tensor.shape.as_ref(),
        _ => None,
    }
}

/// The extents that a value is declared with; `None` where one is open or a symbol without extent.
pub fn declared_extents(value: &ValueInfoProto, symbols: &Symbols) -> Option<Vec<Option<usize>>> {
    let shape = tensor_shape(value)?;
    let extent = |dimension| match Axis::of(dimension) {
        Axis::Known(extent) => Some(extent),
        Axis::Symbol(name) => symbols.get(name).map(|(extent, _)| *extent),
        Axis::Open => None,
    };
    Some(shape.dim.iter().map(extent).collect())
}

/// Types of the inputs. Everything that is wrong with any of them is said at once.
pub fn types(inputs: &[&ValueInfoProto], options: &ImportOptions) -> Result<InputTypes, Vec<Diagnostic>> {
    let mut wrong = Vec::new();
    let mut declared = Vec::with_capacity(inputs.len());
    for input in inputs {
        match declaration(input, options) {
            Ok(input) => declared.push(input),
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    // What is wrong with sizes may only follow from what is wrong with an input.
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let symbols = settle(&declared, options)?;
    resolve(&declared, symbols)
}

fn declaration<'a>(input: &'a ValueInfoProto, options: &'a ImportOptions) -> Result<Declared<'a>, Diagnostic> {
    let given = options.shapes.iter().rev().find(|(name, _)| *name == input.name).map(|(_, shape)| shape.as_slice());
    let mut declared = Declared { name: &input.name, element: ElementType::F32, axes: None, given };
    if input.name.is_empty() {
        return Err(Diagnostic::new("E0110", "a graph input has no name"));
    }
    let Some(TypeValue::TensorType(tensor)) = input.type_.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return Err(declared.refuse("it is not a tensor"));
    };
    declared.element = element(tensor.elem_type).map_err(|message| declared.refuse(message))?;
    declared.axes = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(Axis::of).collect());
    let Some(axes) = &declared.axes else { return Ok(declared) };
    if axes.len() > MAX_RANK {
        return Err(declared.refuse(format!("it has {} dimensions, at most {MAX_RANK} are supported", axes.len())));
    }
    let Some(given) = given else { return Ok(declared) };
    if given.len() != axes.len() {
        let model: Vec<String> = axes.iter().map(shown).collect();
        return Err(declared
            .refuse(format!("--shape gives {} dimensions, the model has {}", given.len(), axes.len()))
            .note(format!("the model says [{}]", model.join(","))));
    }
    for (axis, (stated, given)) in axes.iter().zip(given).enumerate() {
        if let Axis::Known(extent) = stated
            && extent != given
        {
            return Err(declared.refuse(format!("--shape says {given} for axis {axis}, the model says {extent}")));
        }
    }
    Ok(declared)
}

fn shown(axis: &Axis<'_>) -> String {
    match axis {
        Axis::Known(extent) => extent.to_string(),
        Axis::Symbol(name) => printable(name),
        Axis::Open => "?".to_string(),
    }
}

fn element(kind: i32) -> Result<ElementType, String> {
    let known: Option<DataType> = protobuf::Enum::from_i32(kind);
    let Some(known) = known else { return Err(format!("unknown element type {kind}")) };
    let supported = tensors::SUPPORTED;
    tensors::element_type(known)
        .ok_or_else(|| format!("element type {known:?} is not supported; supported are {supported}"))
}

/// Extents of symbols as `--shape` gives them: by their own name, or through the shape of an input.
fn settle(declared: &[Declared<'_>], options: &ImportOptions) -> Result<Symbols, Vec<Diagnostic>> {
    let mut symbols = Symbols::new();
    let mut wrong = Vec::new();
    let names: HashSet<&str> = declared.iter().map(|input| input.name).collect();
    let axes = || declared.iter().flat_map(|input| input.axes.iter().flatten());
    let known: BTreeSet<&str> = axes()
        .filter_map(|axis| match axis {
            Axis::Symbol(name) => Some(*name),
            _ => None,
        })
        .collect();
    let mut say = |symbol: &str, extent: usize, who: String| match symbols.get(symbol) {
        Some((other, first)) if *other != extent => wrong.push(Diagnostic::new(
            "E0121",
            format!("dimension `{}` is {other} by {first}, but {extent} by {who}", printable(symbol)),
        )),
        Some(_) => {}
        None => {
            symbols.insert(symbol.to_string(), (extent, who));
        }
    };
    let mut unknown = Vec::new();
    for (name, shape) in &options.shapes {
        if names.contains(name.as_str()) {
            let input = declared.iter().find(|input| input.name == name);
            let axes = input.and_then(|input| input.axes.as_deref()).unwrap_or_default();
            for (axis, (stated, extent)) in axes.iter().zip(shape).enumerate() {
                if let Axis::Symbol(symbol) = stated {
                    say(symbol, *extent, format!("axis {axis} of --shape {}", printable(name)));
                }
            }
        } else if let (true, [extent]) = (known.contains(name.as_str()), &shape[..]) {
            say(name, *extent, format!("--shape {}", printable(name)));
        } else {
            unknown.push(name);
        }
    }
    for name in unknown {
        let inputs: Vec<String> = declared.iter().take(MAX_NAMED).map(|input| printable(input.name)).collect();
        let message = if known.contains(name.as_str()) {
            format!("--shape gives several extents for dimension `{}`", printable(name))
        } else {
            format!("--shape names `{}`, which is no input", printable(name))
        };
        let mut diagnostic = Diagnostic::new("E0121", message).note(format!("inputs: {}", inputs.join(", ")));
        if !known.is_empty() {
            let symbols: Vec<String> = known.iter().take(MAX_NAMED).map(|symbol| printable(symbol)).collect();
            diagnostic = diagnostic.note(format!("open dimensions: {}", symbols.join(", ")));
        }
        wrong.push(diagnostic);
    }
    if wrong.is_empty() { Ok(symbols) } else { Err(wrong) }
}

/// Whether a symbol can be a batch: it leads an input, stands once in each, and never behind another open axis.
fn is_batch(declared: &[Declared<'_>], symbol: &str) -> bool {
    let wanted = Axis::Symbol(symbol);
    let shapes = || declared.iter().filter_map(|input| input.axes.as_deref());
    shapes().any(|axes| axes.first() == Some(&wanted))
        && shapes().all(|axes| match axes.iter().filter(|axis| **axis == wanted).count() {
            0 => true,
            1 => axes[0] == wanted || matches!(axes[0], Axis::Known(_)),
            _ => false,
        })
}

/// Extents of all axes; what is still open is listed in one message.
fn resolve(declared: &[Declared<'_>], mut symbols: Symbols) -> Result<InputTypes, Vec<Diagnostic>> {
    let mut batches: Vec<String> = Vec::new();
    let leading: BTreeSet<&str> = declared
        .iter()
        .filter_map(|input| match input.axes.as_deref()?.first()? {
            Axis::Symbol(name) => Some(*name),
            _ => None,
        })
        .collect();
    for symbol in leading {
        if !symbols.contains_key(symbol) && is_batch(declared, symbol) {
            symbols.insert(symbol.to_string(), (1, "default".to_string()));
            batches.push(format!("`{}`", printable(symbol)));
        }
    }
    let mut types = Vec::with_capacity(declared.len());
    let mut open: Vec<&Declared<'_>> = Vec::new();
    for input in declared {
        let Some(axes) = &input.axes else {
            match input.given {
                Some(given) => types.push(TensorType::new(input.element, given)),
                None => open.push(input),
            }
            continue;
        };
        let extents: Option<Vec<usize>> = axes
            .iter()
            .enumerate()
            .map(|(position, axis)| match (axis, input.given) {
                (_, Some(given)) => Some(given[position]),
                (Axis::Known(extent), _) => Some(*extent),
                (Axis::Symbol(name), _) => symbols.get(*name).map(|(extent, _)| *extent),
                (Axis::Open, _) if position == 0 => {
                    batches.push(format!("axis 0 of `{}`", printable(input.name)));
                    Some(1)
                }
                (Axis::Open, _) => None,
            })
            .collect();
        match extents {
            Some(extents) => types.push(TensorType::new(input.element, extents)),
            None => open.push(input),
        }
    }
    if !open.is_empty() {
        return Err(vec![open_dimensions(&open, &symbols)]);
    }
    let mut wrong = Vec::new();
    for (input, found) in declared.iter().zip(&types) {
        if let Err(error) = element_count(&found.shape) {
            wrong.push(input.refuse(error.to_string()));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut remarks = Vec::new();
    if !batches.is_empty() {
        let more = batches.len().saturating_sub(MAX_NAMED);
        batches.truncate(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        remarks.push(
            Diagnostic::new("N0121", format!("open batch taken as 1: {}{more}", batches.join(", ")))
                .help("--shape says otherwise, by input or by symbol; --batch answers several samples together"),
        );
    }
    Ok(InputTypes { types, symbols, remarks })
}

/// Everything that is open, and a line that would settle it.
fn open_dimensions(open: &[&Declared<'_>], symbols: &Symbols) -> Diagnostic {
    let count = if open.len() == 1 { "an input has".to_string() } else { format!("{} inputs have", open.len()) };
    let mut diagnostic =
        Diagnostic::new("E0121", format!("{count} open dimensions; every shape is fixed at compile time"));
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    let mut options = Vec::new();
    for input in open.iter().take(MAX_NAMED) {
        let Some(axes) = &input.axes else {
            diagnostic = diagnostic.note(format!("input `{}`: its shape is not given", printable(input.name)));
            options.push(format!("--shape {}=1x3x{EXAMPLE_EDGE}x{EXAMPLE_EDGE}", printable(input.name)));
            continue;
        };
        let is_open = |axis: &Axis<'_>| match axis {
            Axis::Known(_) => false,
            Axis::Symbol(name) => !symbols.contains_key(*name),
            Axis::Open => true,
        };
        let model: Vec<String> = axes.iter().map(shown).collect();
        let which: Vec<String> = axes
            .iter()
            .enumerate()
            .filter(|(position, axis)| is_open(axis) && (*position > 0 || **axis != Axis::Open))
            .map(|(position, axis)| match axis {
                Axis::Symbol(name) => format!("axis {position} (`{}`)", printable(name)),
                _ => format!("axis {position}"),
            })
            .collect();
        let verb = if which.len() == 1 { "is" } else { "are" };
        diagnostic = diagnostic.note(format!(
            "input `{}` [{}]: {} {verb} open",
            printable(input.name),
            model.join(","),
            which.join(", ")
        ));
        // Symbols that an earlier input settles need not be said again.
        let fresh = axes.iter().enumerate().any(|(position, axis)| match axis {
            Axis::Symbol(name) => is_open(axis) && !settled.contains(name),
            Axis::Open => position > 0,
            Axis::Known(_) => false,
        });
        settled.extend(axes.iter().filter_map(|axis| match axis {
            Axis::Symbol(name) => Some(*name),
            _ => None,
        }));
        if fresh {
            let example = |(position, axis): (usize, &Axis<'_>)| match axis {
                Axis::Known(extent) => *extent,
                Axis::Symbol(name) => {
                    symbols.get(*name).map_or(example_extent(position, axes.len()), |(extent, _)| *extent)
                }
                Axis::Open if position == 0 => 1,
                Axis::Open => example_extent(position, axes.len()),
            };
            let extents: Vec<String> = axes.iter().enumerate().map(example).map(|extent| extent.to_string()).collect();
            options.push(format!("--shape {}={}", printable(input.name), extents.join("x")));
        }
    }
    if open.len() > MAX_NAMED {
        diagnostic = diagnostic.note(format!("{} more inputs have open dimensions", open.len() - MAX_NAMED));
    }
    diagnostic.help(format!("say them, for example {}", options.join(" ")))
}

/// Images have their edges last.
fn example_extent(position: usize, rank: usize) -> usize {
    if rank >= 4 && position + 2 >= rank { EXAMPLE_EDGE } else { EXAMPLE_LENGTH }
}

/// The value of an input that the user fixes: one number for all elements, or as many as there are, with commas between.
pub fn fixed(name: &str, text: &str, tensor_type: &TensorType) -> Result<Data, Diagnostic> {
    let refuse = |message: String| Diagnostic::new("E0121", format!("--set {}: {message}", printable(name)));
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    let count = tensor_type.element_count();
    if words.len() != 1 && words.len() != count {
        return Err(refuse(format!("{} numbers for {tensor_type}", words.len())));
    }
    let unreadable =
        |word: &str| refuse(format!("`{}` is no number of {}", printable(word), tensor_type.element.name()));
    let truth = |word: &str| match word {
        "true" => Some(1),
        "false" => Some(0),
        word => word.parse::<i64>().ok(),
    };
    let data = if tensor_type.element.is_float() {
        let numbers = words.iter().map(|word| word.parse::<f64>().map_err(|_| unreadable(word)));
        Data::F64(numbers.collect::<Result<_, _>>()?)
    } else {
        let numbers = words.iter().map(|word| truth(word).ok_or_else(|| unreadable(word)));
        Data::I64(numbers.collect::<Result<_, _>>()?)
    };
    let cast = data.cast(tensor_type.element);
    if !tensor_type.element.is_float() && cast.cast(ElementType::I64) != data {
        return Err(refuse(format!("`{}` does not fit {}", printable(text), tensor_type.element.name())));
    }
    Ok(if words.len() == 1 { cast.repeated(count) } else { cast })
}
