//! Models by the reference kernels alone, whole and cut over devices: `compare_models FOLDER [DEVICES [TRIES]]`.
//!
//! Each NAME.onnx of the folder has its inputs and onnxruntime's outputs in NAME.npz. With several devices every node is
//! cut in a random one of its ways, as often as TRIES says. A line for each model: `NAME: agrees`, `NAME: refused: why`,
//! or `NAME: differs: how`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use partita::data::{self, Arrays};
use partita::graph::{ElementType, Graph, Value, eval};
use partita::onnx::{ImportOptions, import_bytes};
use partita::passes;
use partita_config::{Cluster, cluster_file};
use partita_ir::graph::verify::verify;
use partita_plan::partition::{self, Partition};
use partita_plan::shard;
use partita_tests::backend::onnx_inputs;
use partita_tests::mutate::Random;
use partita_tests::place;

/// Largest difference of floats, relative to the largest element or to 1.
const TOLERANCE: f64 = 1e-4;

/// The same of 16-bit floats: two of their steps.
const TOLERANCE_HALF: f64 = 2.0 / 1024.0;

fn cluster(devices: usize) -> Cluster {
    let link = "[[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n";
    let links = if devices > 1 { link } else { "" };
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-{}\"\n\
         [[device]]\nname = \"d\"\ntarget = \"raspberry-pi-4\"\ncount = {devices}\n{links}",
        devices - 1
    );
    cluster_file::parse(&text, "cluster.toml", Path::new(".")).expect("a sound cluster")
}

/// A graph whose nodes are cut over the devices, each in one of its ways.
fn cut(graph: &Graph, cluster: &Cluster, random: &mut Random) -> Result<Graph, String> {
    let choices = partition::strategies_of(graph, cluster);
    let strategies: BTreeMap<_, _> =
        choices.into_iter().map(|(id, choices)| (id, choices[random.below(choices.len())].clone())).collect();
    let partition = Partition::given(strategies);
    let sharded = shard::apply(graph, &partition, cluster).map_err(|error| format!("differs: cut: {error}"))?;
    verify(&sharded.graph).map_err(|error| format!("differs: cut: {error}"))?;
    Ok(sharded.graph)
}

fn imported(model: &Path, arrays: &Arrays) -> Result<Graph, String> {
    let bytes = std::fs::read(model).map_err(|error| format!("refused: {error}"))?;
    let inputs = onnx_inputs(&bytes);
    let shapes = arrays.iter().map(|(name, value)| (name.clone(), value.shape.clone()));
    let shapes = shapes.filter(|(name, _)| inputs.contains(name)).collect();
    let options = ImportOptions { shapes, ..ImportOptions::default() };
    let refused = |diagnostics: Vec<partita::diagnostic::Diagnostic>| {
        diagnostics.first().map_or(String::new(), |first| format!("refused: {}", first.message))
    };
    let mut graph = import_bytes(&bytes, None, &options).map_err(refused)?;
    passes::simplify(&mut graph, &mut |_, _, _| {}).map_err(|error| format!("differs: {error}"))?;
    Ok(graph)
}

fn array(arrays: &Arrays, name: &str) -> Result<Value, String> {
    let found = arrays.iter().find(|(other, _)| other == name);
    found.map(|(_, value)| value.clone()).ok_or(format!("refused: no array `{name}`"))
}

/// What differs of an output.
fn difference(found: &Value, expected: &Value) -> Option<String> {
    let element = expected.data.element();
    if found.tensor_type() != expected.tensor_type() {
        return Some(format!("is {}, expected {}", found.tensor_type(), expected.tensor_type()));
    }
    if !element.is_float() {
        return (found.data != expected.data).then(|| "is not equal".to_string());
    }
    let wide = |value: &Value| match value.data.cast(ElementType::F64) {
        partita::graph::Data::F64(elements) => elements,
        _ => Vec::new(),
    };
    let (found, expected) = (wide(found), wide(expected));
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1.0f64, |largest, x| largest.max(x.abs()));
    let tolerance = if element == ElementType::F16 { TOLERANCE_HALF } else { TOLERANCE };
    let differs = |(a, b): &(&f64, &f64)| {
        let difference = (*a - *b).abs();
        !(a == b || a.is_nan() && b.is_nan() || difference <= tolerance * largest)
    };
    let at = found.iter().zip(&expected).position(|pair| differs(&pair))?;
    Some(format!("element {at} is {}, expected {} (largest {largest})", found[at], expected[at]))
}

fn compare(model: &Path, cluster: &Cluster, tries: usize) -> Result<(), String> {
    let arrays = data::read_npz(&model.with_extension("npz")).map_err(|error| format!("refused: {error:#}"))?;
    let whole = imported(model, &arrays)?;
    let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut random = Random::new(seed);
    let values = |tensors: &[partita::graph::TensorId]| -> Result<Vec<Value>, String> {
        tensors.iter().map(|tensor| array(&arrays, &whole.tensor(*tensor).name)).collect()
    };
    let (given, expected) = (values(&whole.inputs)?, values(&whole.outputs)?);
    for _ in 0..tries {
        let graph = match cluster.devices.len() {
            1 => whole.clone(),
            _ => cut(&whole, cluster, &mut random)?,
        };
        let found = eval::evaluate(&graph, &given).map_err(|error| format!("differs: {error}"))?;
        for ((output, found), expected) in whole.outputs.iter().zip(&found).zip(&expected) {
            if let Some(difference) = difference(found, expected) {
                return Err(format!("differs: output `{}` {difference}", whole.tensor(*output).name));
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map_or(Some(1), |text| text.parse::<usize>().ok().filter(|n| *n > 0));
    let (Some(folder), Some(devices), Some(tries)) = (arguments.first(), number(1), number(2)) else {
        eprintln!("compare_models FOLDER [DEVICES [TRIES]]");
        return ExitCode::from(2);
    };
    let cluster = cluster(devices);
    let tries = if devices > 1 { tries } else { 1 };
    let models = place::files_below(Path::new(folder), &|path| path.extension().is_some_and(|end| end == "onnx"));
    let mut differ = false;
    for model in models {
        let result = compare(&model, &cluster, tries).err();
        differ |= result.as_ref().is_some_and(|result| result.starts_with("differs"));
        let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        println!("{name}: {}", result.as_deref().unwrap_or("agrees"));
    }
    if differ { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
