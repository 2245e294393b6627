//! Importer and reference kernels against onnxruntime: every vector under `conformance/vectors`.

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

fn check(model: &std::path::Path, simplify: bool) -> Result<(), String> {
    let mut graph = import(model, &ImportOptions::default())
        .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if simplify {
        passes::run(passes::SIMPLIFY, &mut graph, &mut |_, _, _| {}).map_err(|error| error.to_string())?;
    }
    let arrays = data::read_npz(&model.with_extension("npz")).map_err(|error| format!("{error:#}"))?;
    let array = |name: &str| {
        arrays
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
            .ok_or(format!("no array `{name}`"))
    };
    let inputs = graph.inputs.iter().map(|input| array(&graph.tensor(*input).name)).collect::<Result<Vec<_>, _>>()?;
    let outputs = eval::evaluate(&graph, &inputs).map_err(|error| error.to_string())?;
    for (output, found) in graph.outputs.iter().zip(&outputs) {
        let name = &graph.tensor(*output).name;
        compare(found, &array(name)?).map_err(|difference| format!("output `{name}`: {difference}"))?;
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
