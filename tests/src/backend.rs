//! ONNX's own backend tests: where they come from, how they are read, and by what answers are compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use partita::data::{self, Arrays};
use partita::graph::{Data, ElementType, Graph, Value, eval};
use partita::onnx::{ImportOptions, import_bytes};
use partita::passes;

use crate::place;

/// The suite, in files.
pub struct Suite {
    /// Where they are.
    pub folder: PathBuf,
    /// Its tests, in order of their names.
    pub cases: Vec<Case>,
    _made: Option<tempfile::TempDir>,
}

/// One test of the suite.
pub struct Case {
    /// Its name in the package.
    pub name: String,
    /// Which operators it is about.
    pub operators: String,
    /// Allowed difference, relative to what is expected.
    pub relative: f64,
    /// Allowed difference beside that.
    pub absolute: f64,
}

/// In which form a test passes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    /// As the package has it.
    AsItIs,
    /// Inputs that operators take for parameters are constants.
    WithConstants,
    /// All inputs are constants.
    Known,
}

/// A test that the reference kernels pass: as a graph, with what goes in and what must come out.
pub struct Passed {
    /// The form in which it passes.
    pub form: Form,
    /// The simplified graph.
    pub graph: Graph,
    /// Values of its inputs.
    pub given: Vec<Value>,
    /// Values of its outputs, as the package has them.
    pub expected: Vec<Value>,
}

/// The suite's files: of `PARTITA_BACKEND_CASES`, or made by Python, in which `tests/setup` installs the package, in a
/// folder that goes away again. None, with a word, where there is no such Python.
pub fn suite() -> Option<Suite> {
    if let Some(folder) = std::env::var_os("PARTITA_BACKEND_CASES") {
        let folder = PathBuf::from(folder);
        return Some(Suite { cases: cases(&folder), folder, _made: None });
    }
    let made = tempfile::tempdir().expect("a temporary folder");
    let script = place::repository().join("tests/conformance/backend_cases.py");
    let output = Command::new(python()).arg(script).arg(made.path()).output().ok()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("skipped: no suite from Python (`tests/setup` installs it): {said}");
        return None;
    }
    Some(Suite { cases: cases(made.path()), folder: made.path().to_path_buf(), _made: Some(made) })
}

/// The Python that `tests/setup` has made in the target folder, or that of the machine.
pub fn python() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let own = here.ancestors().nth(3).map(|target| target.join("python/bin/python3"));
    own.filter(|python| python.exists()).unwrap_or_else(|| PathBuf::from("python3"))
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

/// The tests that do not pass, from a list with `NAME: REASON` in each line.
pub fn exceptions() -> BTreeMap<String, String> {
    let path = place::repository().join("tests/conformance/backend_exceptions.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, reason)| (name.to_string(), reason.to_string()))
        .collect()
}

impl Suite {
    /// A test as it is or, where that is refused, with parameters made constants; if neither passes, why.
    pub fn pass(&self, case: &Case) -> Result<Passed, String> {
        let file = |ending: &str| self.folder.join(format!("{}{ending}", case.name));
        let arrays = data::read_npz(&file(".npz")).map_err(|error| format!("{error:#}"))?;
        let mut refused = match check(&file(".onnx"), &arrays, case, Form::AsItIs) {
            Err(refused) if !refused.starts_with("wrong") => refused,
            result => return result,
        };
        for (ending, form) in [(".constants.onnx", Form::WithConstants), (".known.onnx", Form::Known)] {
            if !file(ending).is_file() {
                continue;
            }
            match check(&file(ending), &arrays, case, form) {
                Err(other) => refused = other,
                passed => return passed,
            }
        }
        Err(refused)
    }
}

/// Imports, simplifies and evaluates; what is `wrong` begins with that word.
fn check(model: &Path, arrays: &Arrays, case: &Case, form: Form) -> Result<Passed, String> {
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
    passes::simplify(&mut graph, &mut |_, _, _| {}).map_err(|error| format!("wrong: {error}"))?;
    let array = |name: &str| {
        let found = arrays.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).ok_or(format!("wrong: no array `{name}`"))
    };
    let values = |tensors: &[partita::graph::TensorId]| -> Result<Vec<Value>, String> {
        tensors.iter().map(|tensor| array(&graph.tensor(*tensor).name)).collect()
    };
    let (given, expected) = (values(&graph.inputs)?, values(&graph.outputs)?);
    let outputs = eval::evaluate(&graph, &given).map_err(|error| format!("wrong: {error}"))?;
    for ((output, found), expected) in graph.outputs.iter().zip(&outputs).zip(&expected) {
        let name = &graph.tensor(*output).name;
        compare(found, expected, case).map_err(|difference| format!("{difference} (output `{name}`)"))?;
    }
    Ok(Passed { form, graph, given, expected })
}

/// Names of a model's inputs.
///
/// Panics if it is no model.
pub fn onnx_inputs(bytes: &[u8]) -> Vec<String> {
    use onnx_protobuf::ModelProto;
    use protobuf::Message;
    let model = ModelProto::parse_from_bytes(bytes).expect("a model");
    model.graph.input.iter().map(|input| input.name.clone()).collect()
}

/// As `numpy.allclose` with NaN equal to itself.
pub fn compare(found: &Value, expected: &Value, case: &Case) -> Result<(), String> {
    if found.tensor_type() != expected.tensor_type() {
        return Err(format!("wrong: {}, expected {}", found.tensor_type(), expected.tensor_type()));
    }
    let wide = |value: &Value| match value.data.cast(ElementType::F64) {
        Data::F64(elements) => elements,
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
