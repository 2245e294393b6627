//! Importer and reference kernels against onnxruntime: every vector under `conformance/vectors`.

use std::path::Path;

use partita::data;
use partita::graph::{ElementType, Value, eval};
use partita::onnx::{ImportOptions, import};
use partita::passes;
use partita_tests::place;

/// Largest difference between float results, relative to the largest expected element.
const TOLERANCE: f32 = 2e-5;

/// The same of 16-bit floats: two steps of the largest element.
const TOLERANCE_HALF: f32 = 2.0 / 1024.0;

/// Difference of two values; the message says what differs.
fn compare(found: &Value, expected: &Value) -> Result<(), String> {
    if found.shape != expected.shape {
        return Err(format!("shape {:?}, expected {:?}", found.shape, expected.shape));
    }
    let element = expected.data.element();
    if found.data.element() != element || !element.is_float() {
        return if found.data == expected.data {
            Ok(())
        } else {
            Err(format!("{:?}, expected {:?}", found.data, expected.data))
        };
    }
    // Halves are the nearest to what f32 gives; onnxruntime rounds after every operator.
    let tolerance = if element == ElementType::F16 { TOLERANCE_HALF } else { TOLERANCE };
    let (found, expected) = (data::to_f32(&found.data), data::to_f32(&expected.data));
    let largest = expected.iter().filter(|x| x.is_finite()).fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let equal = found == expected || found.is_nan() && expected.is_nan();
        let difference = (found - expected).abs();
        // A NaN on one side only is a difference too.
        if !equal && (difference.is_nan() || difference > tolerance * largest) {
            return Err(format!("element {index} is {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn check(model: &Path, simplify: bool) -> Result<(), String> {
    let arrays = model.with_extension("npz");
    check_arrays(model, &arrays, &arrays, simplify)
}

fn check_arrays(model: &Path, given: &Path, expected: &Path, simplify: bool) -> Result<(), String> {
    let mut graph = import(model, &ImportOptions::default())
        .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if simplify {
        passes::simplify(&mut graph, &mut |_, _, _| {}).map_err(|error| error.to_string())?;
    }
    let read = |path: &Path| data::read_npz(path).map_err(|error| format!("{error:#}"));
    let (given, expected) = (read(given)?, read(expected)?);
    let array = |arrays: &data::Arrays, name: &str| {
        let found = arrays.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).ok_or(format!("no array `{name}`"))
    };
    let inputs = graph.inputs.iter().map(|input| array(&given, &graph.tensor(*input).name));
    let outputs = eval::evaluate(&graph, &inputs.collect::<Result<Vec<_>, _>>()?).map_err(|error| error.to_string())?;
    for (output, found) in graph.outputs.iter().zip(&outputs) {
        let name = &graph.tensor(*output).name;
        compare(found, &array(&expected, name)?).map_err(|difference| format!("output `{name}`: {difference}"))?;
    }
    Ok(())
}

fn check_all(simplify: bool) {
    let folder = place::repository().join("tests/conformance/vectors");
    let models = place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "onnx"));
    assert!(models.len() > 400, "only {} vectors found in {}", models.len(), folder.display());
    let failures: Vec<String> = models
        .iter()
        .filter_map(|model| {
            let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            check(model, simplify).err().map(|failure| format!("{name}: {failure}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} vectors fail:\n{}", failures.len(), models.len(), failures.join("\n"));
}

#[test]
fn operators_compute_what_onnxruntime_computes() {
    check_all(false);
}

#[test]
fn simplified_operators_compute_the_same() {
    check_all(true);
}

/// Where onnxruntime itself forgets a NaN; ours is what numpy says.
const BETTER: &[&str] = &["nanrow", "argmax_nan"];

#[test]
fn cases_that_were_wrong_once_are_right() {
    let Some(folder) = place::shared().map(|folder| folder.join("cases/onnx")).filter(|folder| folder.is_dir()) else {
        println!("skipped: ../shared/cases is not at hand");
        return;
    };
    let models = place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "onnx"));
    let mut wrong = Vec::new();
    for model in models {
        let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let [given, expected] = ["X.npz", "Y.npz"].map(|end| model.with_extension(end));
        if !expected.is_file() || BETTER.contains(&name.as_str()) {
            continue;
        }
        for simplify in [false, true] {
            if let Err(failure) = check_arrays(&model, &given, &expected, simplify) {
                wrong.push(format!("{name} (simplified: {simplify}): {failure}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
