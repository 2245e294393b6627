//! ONNX's own backend tests through import, simplification and reference kernels.
//!
//! They come with the Python package `onnx`, which `tests/setup` installs; where it is not, there is nothing to do. Every test passes, or is
//! listed in `conformance/backend_exceptions.txt` with the reason; one that passes may not be listed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use partita::data;
use partita::graph::{ElementType, Value, eval};
use partita::onnx::{ImportOptions, import_bytes};
use partita::passes;
use partita_tests::place;

/// One test of the suite.
struct Case {
    name: String,
    operators: String,
    relative: f64,
    absolute: f64,
}

/// How a test ends.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    AsItIs,
    WithConstants,
    Known,
}

/// The Python that `tests/setup` has made in the target folder, or that of the machine.
fn python() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let own = here.ancestors().nth(3).map(|target| target.join("python/bin/python3"));
    own.filter(|python| python.exists()).unwrap_or_else(|| PathBuf::from("python3"))
}

/// The suite's files: of `PARTITA_BACKEND_CASES`, or made by Python in a folder that goes away again.
fn suite() -> Option<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(folder) = std::env::var_os("PARTITA_BACKEND_CASES") {
        return Some((PathBuf::from(folder), None));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = place::repository().join("tests/conformance/backend_cases.py");
    let made = Command::new(python()).arg(script).arg(folder.path()).output().ok()?;
    if !made.status.success() {
        println!(
            "skipped: no suite from Python (`tests/setup` installs it): {}",
            String::from_utf8_lossy(&made.stderr)
        );
        return None;
    }
    Some((folder.path().to_path_buf(), Some(folder)))
}

fn cases(folder: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(folder.join("cases.txt")).expect("the list of cases");
    let case = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_string();
        let (name, operators) = (word(), word());
        let mut number = || word().parse().expect("a tolerance");
        Case { name, operators, relative: number(), absolute: number() }
    };
    text.lines().map(case).collect()
}

/// As `numpy.allclose` with NaN equal to itself.
fn compare(found: &Value, expected: &Value, case: &Case) -> Result<(), String> {
    if found.tensor_type() != expected.tensor_type() {
        return Err(format!("wrong: {}, expected {}", found.tensor_type(), expected.tensor_type()));
    }
    let wide = |value: &Value| match value.data.cast(ElementType::F64) {
        partita::graph::Data::F64(elements) => elements,
        _ => Vec::new(),
    };
    for (index, (found, expected)) in wide(found).into_iter().zip(wide(expected)).enumerate() {
        let near = (found - expected).abs() <= case.absolute + case.relative * expected.abs();
        if !(found == expected || near || found.is_nan() && expected.is_nan()) {
            return Err(format!("wrong: element {index} is {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn check(model: &Path, arrays: &data::Arrays, case: &Case) -> Result<(), String> {
    let bytes = std::fs::read(model).map_err(|error| error.to_string())?;
    let shapes = arrays.iter().map(|(name, value)| (name.clone(), value.shape.clone()));
    let inputs = onnx_inputs(&bytes);
    let options = ImportOptions {
        shapes: shapes.filter(|(name, _)| inputs.contains(name)).collect(),
        ..ImportOptions::default()
    };
    let mut graph = import_bytes(&bytes, None, &options).map_err(|diagnostics| {
        let of = |d: &partita::diagnostic::Diagnostic| format!("{} {}", d.message, d.notes.join("; "));
        diagnostics.iter().map(of).collect::<Vec<_>>().join("; ")
    })?;
    passes::run(passes::SIMPLIFY, &mut graph, &mut |_, _, _| {}).map_err(|error| format!("wrong: {error}"))?;
    let array = |name: &str| {
        let found = arrays.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).ok_or(format!("wrong: no array `{name}`"))
    };
    let given = graph.inputs.iter().map(|input| array(&graph.tensor(*input).name));
    let given = given.collect::<Result<Vec<_>, _>>()?;
    let outputs = eval::evaluate(&graph, &given).map_err(|error| format!("wrong: {error}"))?;
    for (output, found) in graph.outputs.iter().zip(&outputs) {
        let name = &graph.tensor(*output).name;
        compare(found, &array(name)?, case).map_err(|difference| format!("{difference} (output `{name}`)"))?;
    }
    Ok(())
}

/// Names of a model's inputs.
fn onnx_inputs(bytes: &[u8]) -> Vec<String> {
    use onnx_protobuf::{Message, ModelProto};
    let model = ModelProto::parse_from_bytes(bytes).expect("a model");
    model.graph.input.iter().map(|input| input.name.clone()).collect()
}

/// Whether a test passes, as it is or with parameters made constants; if not, why.
fn taken(folder: &Path, case: &Case) -> Result<Taken, String> {
    let arrays = data::read_npz(&folder.join(format!("{}.npz", case.name))).map_err(|error| format!("{error:#}"))?;
    let refused = match check(&folder.join(format!("{}.onnx", case.name)), &arrays, case) {
        Ok(()) => return Ok(Taken::AsItIs),
        Err(refused) => refused,
    };
    if refused.starts_with("wrong") {
        return Err(refused);
    }
    let mut refused = refused;
    for (kind, taken) in [("constants", Taken::WithConstants), ("known", Taken::Known)] {
        let model = folder.join(format!("{}.{kind}.onnx", case.name));
        if !model.is_file() {
            continue;
        }
        match check(&model, &arrays, case) {
            Ok(()) => return Ok(taken),
            Err(other) => refused = other,
        }
    }
    Err(refused)
}

fn exceptions() -> BTreeMap<String, String> {
    let path = place::repository().join("tests/conformance/backend_exceptions.txt");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, reason)| (name.to_string(), reason.to_string()))
        .collect()
}

#[test]
fn onnx_backend_tests_pass_or_are_listed() {
    let Some((folder, _made)) = suite() else { return };
    let cases = cases(&folder);
    assert!(cases.len() > 1000, "only {} tests in the suite", cases.len());
    let exceptions = exceptions();
    let (mut as_it_is, mut with_constants, mut known) = (0, 0, 0);
    let mut complaints = Vec::new();
    for case in &cases {
        let result = taken(&folder, case);
        match (&result, exceptions.get(&case.name)) {
            (Ok(_), Some(_)) => complaints.push(format!("{}: passes, and must leave the list", case.name)),
            (Err(reason), None) => complaints.push(format!("{}: {} ({})", case.name, reason, case.operators)),
            _ => {}
        }
        as_it_is += usize::from(result == Ok(Taken::AsItIs));
        with_constants += usize::from(result == Ok(Taken::WithConstants));
        known += usize::from(result == Ok(Taken::Known));
    }
    let (passed, all) = (as_it_is + with_constants + known, cases.len());
    println!(
        "{passed} of {all} pass: {as_it_is} as they are, {with_constants} with parameters made constants, {known} of constants"
    );
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
