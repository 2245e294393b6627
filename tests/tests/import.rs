//! Real models: each imports, or says precisely what is missing; small ones are evaluated against reference answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnx_protobuf::{GraphProto, Message, NodeProto, tensor_shape_proto};
use partita::graph::{Graph, Value, eval};
use partita::onnx::{ImportOptions, import, import_bytes};
use partita_tests::{arrays, onnx, place};

/// Models that use operators we do not have, and one of these operators; everything else must import.
const REFUSED: &[(&str, &str)] = &[("silero_vad_16k_op15", "If")];

fn models() -> BTreeMap<String, PathBuf> {
    let shared = place::shared();
    let folders = [
        std::env::var_os("PARTITA_ZOO").map(PathBuf::from),
        shared.as_ref().map(|folder| folder.join("zoo")),
        shared.as_ref().map(|folder| folder.join("data/models")),
    ];
    let mut found = BTreeMap::new();
    for folder in folders.into_iter().flatten() {
        for model in place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "onnx"))
        {
            let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.entry(name).or_insert(model);
        }
    }
    if found.is_empty() {
        println!("skipped: neither ../shared nor PARTITA_ZOO is at hand");
    }
    found
}

#[test]
fn real_models_import_or_name_what_is_missing() {
    let mut wrong = Vec::new();
    for (name, path) in models() {
        // The only symbolic dimension beyond the batch in these models: samples of one audio frame.
        let shapes = if name.starts_with("silero") {
            vec![("input".to_string(), vec![1, 512]), ("state".to_string(), vec![2, 1, 128])]
        } else {
            Vec::new()
        };
        let expected = REFUSED.iter().find(|(refused, _)| *refused == name);
        match (import(&path, &ImportOptions { shapes }), expected) {
            (Ok(graph), None) => {
                println!("{name}: {} nodes, opset {}", graph.node_count(), graph.opset);
                if let Err(error) = partita::graph::verify::verify(&graph) {
                    wrong.push(format!("{name}: {error}"));
                }
            }
            (Ok(_), Some((_, operator))) => wrong.push(format!("{name} imports, {operator} must be supported by now")),
            (Err(diagnostics), Some((_, operator))) => {
                let list = &diagnostics[0];
                println!("{name}: {list}");
                if list.code != "E0140" || !list.notes.iter().any(|note| note.contains(operator)) {
                    wrong.push(format!("{name}: {list}"));
                }
            }
            (Err(diagnostics), None) => wrong.push(format!("{name}: {}", diagnostics[0])),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Largest difference of an evaluated graph from the reference, relative to the largest element.
fn difference(graph: &Graph, reference: &Path) -> f64 {
    let arrays = arrays::read_f32(reference);
    let array = |name: &str| {
        let found = arrays.get(name);
        found.unwrap_or_else(|| panic!("{} has {:?}, not `{name}`", reference.display(), arrays.keys()))
    };
    let inputs: Vec<Value> = graph
        .inputs
        .iter()
        .map(|input| Value::f32(graph.shape(*input), array(&graph.tensor(*input).name).elements.clone()))
        .collect();
    let outputs = eval::evaluate(graph, &inputs).expect("the graph evaluates");
    graph
        .outputs
        .iter()
        .zip(&outputs)
        .map(|(output, found)| {
            let expected = &array(&graph.tensor(*output).name).elements;
            arrays::relative_difference(found.as_f32().expect("f32 outputs"), expected)
        })
        .fold(0.0, f64::max)
}

#[test]
fn small_models_evaluate_to_the_reference() {
    let models = models();
    for name in ["resnet8", "dscnn", "ecg1d"] {
        let Some(path) = models.get(name) else {
            println!("skipped: {name} is not at hand");
            continue;
        };
        let graph = import(path, &ImportOptions::default()).expect("imports");
        let difference = difference(&graph, &path.with_extension("npz"));
        println!("{name}: {difference:.2e}");
        assert!(difference < 1e-5, "{name} differs by {difference}");
    }
}

/// `length` Relu nodes in a row over an input with the given dimensions.
fn chain(length: usize, dims: Vec<tensor_shape_proto::dimension::Value>) -> Vec<u8> {
    let nodes = (0..length).map(|index| NodeProto {
        op_type: "Relu".to_string(),
        input: vec![format!("t{index}")],
        output: vec![format!("t{}", index + 1)],
        ..NodeProto::default()
    });
    let graph = GraphProto {
        node: nodes.collect(),
        input: vec![onnx::value_info_of("t0", dims)],
        output: vec![onnx::value_info_of(&format!("t{length}"), Vec::new())],
        ..GraphProto::default()
    };
    onnx::model(25, graph).write_to_bytes().expect("serialisable")
}

#[test]
fn shapes_are_pinned_by_option_or_batch_one() {
    use tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let option = |shape: &[usize]| ImportOptions { shapes: vec![("t0".to_string(), shape.to_vec())] };
    let open_batch = chain(1, vec![DimParam("N".to_string()), DimValue(4)]);
    let shape = |bytes: &[u8], options: &ImportOptions| {
        import_bytes(bytes, None, options).map(|graph| graph.shape(graph.outputs[0]).to_vec())
    };
    assert_eq!(shape(&open_batch, &ImportOptions::default()), Ok(vec![1, 4]));
    assert_eq!(shape(&open_batch, &option(&[3, 4])), Ok(vec![3, 4]));
    for wrong in [&[3, 5][..], &[3], &[0, 4], &[usize::MAX, 4]] {
        assert_eq!(shape(&open_batch, &option(wrong)).expect_err("refused")[0].code, "E0121", "{wrong:?}");
    }
    let open_width = chain(1, vec![DimValue(1), DimParam("W".to_string())]);
    assert_eq!(shape(&open_width, &ImportOptions::default()).expect_err("refused")[0].code, "E0121");
    assert_eq!(shape(&open_width, &option(&[1, 7])), Ok(vec![1, 7]));
    let unknown = ImportOptions { shapes: vec![("nobody".to_string(), vec![1])] };
    assert_eq!(shape(&open_batch, &unknown).expect_err("refused")[0].code, "E0121");
}

#[test]
fn long_chains_take_linear_time() {
    use tensor_shape_proto::dimension::Value::DimValue;
    let seconds = |length: usize| {
        let bytes = chain(length, vec![DimValue(1), DimValue(4)]);
        let started = std::time::Instant::now();
        let graph = import_bytes(&bytes, None, &ImportOptions::default()).expect("legal");
        assert_eq!(graph.node_count(), length);
        started.elapsed().as_secs_f64()
    };
    let long = seconds(50_000);
    println!("50,000 nodes in {long:.3} s");
    // Far above what it takes even unoptimised on a busy machine, far below anything quadratic.
    assert!(long < 5.0, "50,000 nodes took {long} s");
}
