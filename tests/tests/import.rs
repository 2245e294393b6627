//! Real models: each imports, or says precisely what is missing; small ones are evaluated against reference answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, tensor_shape_proto,
};
use partita::diagnostic::Diagnostic;
use partita::graph::{Graph, Value, eval};
use partita::onnx::{ImportOptions, import, import_bytes};
use partita_tests::clock::Clock;
use partita_tests::onnx::{int, ints, node, value_info, value_info_i64_of, value_info_of};
use partita_tests::{arrays, onnx, place};

mod functions;
mod words;

/// Models that use operators we do not have, and one of these operators; everything else must import.
const REFUSED: &[(&str, &str)] = &[];

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
        match (import(&path, &ImportOptions { shapes, ..ImportOptions::default() }), expected) {
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
    let option = |shape: &[usize]| ImportOptions {
        shapes: vec![("t0".to_string(), shape.to_vec())],
        ..ImportOptions::default()
    };
    let open_batch = chain(1, vec![DimParam("N".to_string()), DimValue(4)]);
    let shape = |bytes: &[u8], options: &ImportOptions| {
        import_bytes(bytes, None, options).map(|graph| graph.shape(graph.outputs[0]).to_vec())
    };
    assert_eq!(shape(&open_batch, &ImportOptions::default()), Ok(vec![1, 4]));
    assert_eq!(shape(&open_batch, &option(&[3, 4])), Ok(vec![3, 4]));
    assert_eq!(shape(&open_batch, &option(&[0, 4])), Ok(vec![0, 4]), "a tensor without elements is one");
    for wrong in [&[3, 5][..], &[3], &[usize::MAX, 4]] {
        assert_eq!(shape(&open_batch, &option(wrong)).expect_err("refused")[0].code, "E0121", "{wrong:?}");
    }
    let open_width = chain(1, vec![DimValue(1), DimParam("W".to_string())]);
    assert_eq!(shape(&open_width, &ImportOptions::default()).expect_err("refused")[0].code, "E0121");
    assert_eq!(shape(&open_width, &option(&[1, 7])), Ok(vec![1, 7]));
    let unknown = ImportOptions { shapes: vec![("nobody".to_string(), vec![1])], ..ImportOptions::default() };
    assert_eq!(shape(&open_batch, &unknown).expect_err("refused")[0].code, "E0121");
}

#[test]
fn long_chains_take_linear_time() {
    use tensor_shape_proto::dimension::Value::DimValue;
    let seconds = |length: usize| {
        let bytes = chain(length, vec![DimValue(1), DimValue(4)]);
        let started = Clock::start();
        let graph = import_bytes(&bytes, None, &ImportOptions::default()).expect("legal");
        assert_eq!(graph.node_count(), length);
        started.elapsed().as_secs_f64()
    };
    let long = seconds(50_000);
    println!("50,000 nodes in {long:.3} s");
    // Far above what it takes even unoptimised, far below anything quadratic.
    assert!(long < 5.0, "50,000 nodes took {long} s");
}

use tensor_shape_proto::dimension::Value as Extent;

fn symbol(name: &str) -> Extent {
    Extent::DimParam(name.to_string())
}

fn read(model: &ModelProto, shapes: &[(&str, &[usize])]) -> Result<Graph, Vec<Diagnostic>> {
    let shapes = shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
    import_bytes(
        &model.write_to_bytes().expect("serialisable"),
        None,
        &ImportOptions { shapes, ..ImportOptions::default() },
    )
}

/// One Relu per input.
fn open_inputs(inputs: &[(&str, Vec<Extent>)]) -> ModelProto {
    let outputs: Vec<String> = inputs.iter().map(|(name, _)| format!("{name}_out")).collect();
    let nodes = inputs.iter().zip(&outputs).map(|((name, _), output)| node("Relu", &[name], &[output], Vec::new()));
    let graph = GraphProto {
        node: nodes.collect(),
        input: inputs.iter().map(|(name, dimensions)| value_info_of(name, dimensions.clone())).collect(),
        output: outputs.iter().map(|output| value_info_of(output, Vec::new())).collect(),
        ..GraphProto::default()
    };
    onnx::model(17, graph)
}

fn input_shapes(graph: &Graph) -> Vec<Vec<usize>> {
    graph.inputs.iter().map(|input| graph.shape(*input).to_vec()).collect()
}

fn codes(graph: &Graph) -> Vec<&'static str> {
    graph.remarks.iter().map(|remark| remark.code).collect()
}

#[test]
fn only_a_leading_batch_is_taken_as_one() {
    let fixed = Extent::DimValue;
    let batch = open_inputs(&[("x", vec![symbol("N"), fixed(3)]), ("state", vec![fixed(2), symbol("N"), fixed(4)])]);
    let graph = read(&batch, &[]).expect("a batch");
    assert_eq!(input_shapes(&graph), [vec![1, 3], vec![2, 1, 4]]);
    assert_eq!(codes(&graph), ["N0121"]);
    let unnamed = open_inputs(&[("x", vec![fixed(-1), fixed(3)]), ("y", vec![fixed(0), fixed(2)])]);
    assert_eq!(input_shapes(&read(&unnamed, &[]).expect("open batches")), [vec![1, 3], vec![1, 2]]);
    // A square, and two inputs whose axes are crossed, are no batches.
    for inputs in [
        vec![("x", vec![symbol("n"), symbol("n")])],
        vec![("x", vec![symbol("n"), symbol("m")]), ("y", vec![symbol("m"), symbol("n")])],
        vec![("x", vec![fixed(1), fixed(-1)])],
    ] {
        let diagnostics = read(&open_inputs(&inputs), &[]).expect_err("open");
        assert_eq!((diagnostics.len(), diagnostics[0].code), (1, "E0121"), "{}", diagnostics[0]);
    }
}

#[test]
fn symbols_are_settled_once_and_for_all() {
    let fixed = Extent::DimValue;
    let model = open_inputs(&[
        ("a", vec![fixed(1), symbol("n")]),
        ("b", vec![symbol("n"), symbol("n"), fixed(3)]),
        ("c", vec![fixed(1), symbol("m")]),
    ]);
    let all = [vec![1, 7], vec![7, 7, 3], vec![1, 2]];
    for shapes in
        [&[("a", &[1, 7][..]), ("c", &[1, 2])][..], &[("b", &[7, 7, 3]), ("m", &[2])], &[("n", &[7]), ("m", &[2])]]
    {
        assert_eq!(input_shapes(&read(&model, shapes).expect("settled")), all, "{shapes:?}");
    }
    for wrong in [
        &[("a", &[1, 7][..]), ("b", &[8, 8, 3]), ("m", &[2])][..],
        &[("b", &[7, 8, 3]), ("m", &[2])],
        &[("n", &[7, 7]), ("m", &[2])],
        &[("k", &[7])],
    ] {
        let diagnostics = read(&model, wrong).expect_err("contradicts itself");
        assert!(diagnostics.iter().all(|diagnostic| diagnostic.code == "E0121"), "{wrong:?}");
    }
    // What is open is said at once, with what would settle it.
    let diagnostics = read(&model, &[]).expect_err("open");
    let text = diagnostics[0].to_string();
    for words in ["3 inputs", "`a` [1,n]", "`b` [n,n,3]", "`c` [1,m]", "--shape a=1x16 --shape c=1x16"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn open_dimensions_and_unsupported_operators_are_said_together() {
    let mut model = open_inputs(&[("a", vec![Extent::DimValue(1), symbol("n")])]);
    model.graph.as_mut().expect("a graph").node.push(node("Unheard", &["a"], &["b"], Vec::new()));
    let diagnostics = read(&model, &[]).expect_err("both");
    assert_eq!(diagnostics.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), ["E0140", "E0121"]);
}

#[test]
fn inputs_and_outputs_keep_their_names() {
    let graph = GraphProto {
        node: vec![node("Add", &["x", "k"], &["y"], Vec::new())],
        input: vec![value_info("x", &[2]), value_info("b", &[3])],
        initializer: vec![onnx::constant("k", &[2], vec![1.0, 2.0])],
        output: vec![value_info("y", &[2]), value_info("x", &[2]), value_info("k", &[2]), value_info("y", &[2])],
        ..GraphProto::default()
    };
    let graph = read(&onnx::model(17, graph), &[]).expect("legal");
    let name = |tensor: &partita::graph::TensorId| graph.tensor(*tensor).name.clone();
    assert_eq!(graph.inputs.iter().map(name).collect::<Vec<_>>(), ["x", "b"]);
    assert_eq!(graph.outputs.iter().map(name).collect::<Vec<_>>(), ["y", "x", "k"]);
    assert_eq!(codes(&graph), ["N0110"]);
    let inputs = [Value::f32([2], vec![5.0, 6.0]), Value::f32([3], vec![0.0; 3])];
    let outputs = eval::evaluate(&graph, &inputs).expect("it can be evaluated");
    let expected = [[6.0, 8.0], [5.0, 6.0], [1.0, 2.0]];
    for (found, expected) in outputs.iter().zip(expected) {
        assert_eq!(found.as_f32(), Some(&expected[..]));
    }
}

/// Boxes that are kept are as many as the model declares, or as there can be.
#[test]
fn rows_of_boxes_are_declared_or_all_that_there_can_be() {
    for (declared, rows) in [(Extent::DimValue(3), 3), (symbol("kept"), 2 * 4), (Extent::DimValue(-1), 2 * 4)] {
        let graph = GraphProto {
            node: vec![node("NonMaxSuppression", &["boxes", "scores", "most", "overlap"], &["y"], Vec::new())],
            input: vec![value_info("boxes", &[1, 5, 4]), value_info("scores", &[1, 2, 5])],
            initializer: vec![onnx::integers("most", &[4]), onnx::constant("overlap", &[1], vec![0.5])],
            output: vec![value_info_i64_of("y", vec![declared, Extent::DimValue(3)])],
            ..GraphProto::default()
        };
        let graph = read(&onnx::model(11, graph), &[]).expect("it is supported");
        assert_eq!(graph.shape(graph.outputs[0]), [rows, 3]);
        assert_eq!(codes(&graph), ["W0135"]);
        // Two places, of each the box with the best score.
        let boxes =
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 5.0, 5.0, 6.0, 6.0, 0.0, 0.0, 1.0, 1.0];
        let inputs =
            [Value::f32([1, 5, 4], boxes.to_vec()), Value::f32([1, 2, 5], (0..10).map(|n| n as f32).collect())];
        let outputs = eval::evaluate(&graph, &inputs).expect("it can be evaluated");
        let expected = [[0, 0, 4], [0, 0, 3], [0, 1, 4], [0, 1, 3]].concat();
        let found = outputs[0].as_i64().expect("whole numbers");
        let kept = found.len().min(expected.len());
        assert_eq!(found[..kept], expected[..kept]);
        assert!(found[kept..].iter().all(|number| *number == -1), "{found:?}");
    }
}

#[test]
fn shapes_that_contradict_are_named() {
    let mut model = open_inputs(&[("x", vec![Extent::DimValue(2), Extent::DimValue(3)])]);
    let graph = model.graph.as_mut().expect("a graph");
    graph.output = vec![value_info("x_out", &[2, 4])];
    let graph = read(&model, &[]).expect("the operators count");
    assert_eq!(codes(&graph), ["W0131"]);
    let text = graph.remarks[0].to_string();
    assert!(
        text.starts_with("warning[W0131]") && text.contains("`x_out` is declared [2,4], its shape is [2, 3]"),
        "{text}"
    );
}

#[test]
fn unknown_attributes_are_refused_by_name() {
    let one = |opset: i64, op: &str, attributes: Vec<AttributeProto>| {
        let graph = GraphProto {
            node: vec![node(op, &["x"], &["y"], attributes)],
            input: vec![value_info("x", &[1, 4, 4, 4])],
            output: vec![value_info_of("y", Vec::new())],
            ..GraphProto::default()
        };
        read(&onnx::model(opset, graph), &[])
    };
    let word = |name: &str, value: &str| AttributeProto {
        name: name.to_string(),
        type_: AttributeType::STRING.into(),
        s: value.as_bytes().to_vec(),
        ..AttributeProto::default()
    };
    for (opset, op, attributes, name) in [
        (17, "SpaceToDepth", vec![int("blocksize", 2), word("mode", "CRD")], "mode"),
        (17, "Relu", vec![int("alpha", 2)], "alpha"),
        (12, "ReduceMean", vec![int("noop_with_empty_axes", 1)], "noop_with_empty_axes"),
        (18, "ReduceMean", vec![ints("axes", &[1])], "axes"),
        (10, "DepthToSpace", vec![int("blocksize", 2), word("mode", "CRD")], "mode"),
    ] {
        let diagnostics = one(opset, op, attributes).expect_err("refused");
        let text = diagnostics[0].to_string();
        assert!(diagnostics[0].code == "E0130" && text.contains(&format!("`{name}`")), "{text}");
    }
    assert!(one(28, "SpaceToDepth", vec![int("blocksize", 2), word("mode", "CRD")]).is_ok());
    let graph = GraphProto {
        node: vec![node("Relu", &["x", "x"], &["y"], Vec::new())],
        input: vec![value_info("x", &[1])],
        output: vec![value_info("y", &[1])],
        ..GraphProto::default()
    };
    let diagnostics = read(&onnx::model(17, graph), &[]).expect_err("one operand too many");
    assert!(diagnostics[0].message.contains("2 inputs"), "{}", diagnostics[0]);
}

#[test]
fn one_opset_may_be_listed_twice() {
    let import = |domain: &str, version: i64| OperatorSetIdProto {
        domain: domain.to_string(),
        version,
        ..OperatorSetIdProto::default()
    };
    let with = |imports: Vec<OperatorSetIdProto>| {
        let model = open_inputs(&[("x", vec![Extent::DimValue(2)])]);
        read(&ModelProto { opset_import: imports, ..model }, &[])
    };
    assert_eq!(
        with(vec![import("", 17), import("ai.onnx", 17), import("com.example", 1)]).map(|graph| graph.opset),
        Ok(17)
    );
    assert_eq!(with(vec![import("", 28)]).map(|graph| graph.opset), Ok(28));
    assert_eq!(with(vec![import("", 17), import("ai.onnx", 18)]).expect_err("two")[0].code, "E0103");
    assert_eq!(with(vec![import("com.example", 1)]).expect_err("none")[0].code, "E0103");
}

/// ONNX `TensorProto`: INT4 and UINT4 lie two to a byte, the first in the lower bits, padded to a whole byte.
#[test]
fn numbers_of_four_bits_are_unpacked() {
    const INT4: i32 = 22;
    const UINT4: i32 = 21;
    let packed = |data_type: i32, raw: bool| {
        let bytes = [0x8f_u8, 0x07];
        let mut tensor = TensorProto { name: "w".to_string(), dims: vec![3], data_type, ..TensorProto::default() };
        if raw {
            tensor.raw_data = bytes.to_vec();
        } else {
            tensor.int32_data = bytes.iter().map(|byte| i32::from(*byte)).collect();
        }
        tensor
    };
    let read = |weights: TensorProto| {
        let graph = GraphProto {
            name: "four_bits".to_string(),
            node: vec![
                node("DequantizeLinear", &["w", "scale"], &["real"], vec![]),
                node("Add", &["x", "real"], &["y"], vec![]),
            ],
            initializer: vec![weights, onnx::constant("scale", &[], vec![0.5])],
            input: vec![value_info("x", &[3])],
            output: vec![value_info("y", &[3])],
            ..GraphProto::default()
        };
        let bytes = onnx::model(21, graph).write_to_bytes().expect("bytes");
        let graph = import_bytes(&bytes, None, &ImportOptions::default()).map_err(|all| all[0].to_string())?;
        let answer = eval::evaluate(&graph, &[Value::f32([3], vec![0.0; 3])]).expect("it is computed");
        Ok::<_, String>(answer[0].as_f32().expect("real numbers").to_vec())
    };
    for raw in [false, true] {
        assert_eq!(read(packed(INT4, raw)), Ok(vec![-0.5, -4.0, 3.5]));
        assert_eq!(read(packed(UINT4, raw)), Ok(vec![7.5, 4.0, 3.5]));
    }
    let short = TensorProto { dims: vec![5], ..packed(INT4, true) };
    let refused = read(short).expect_err("a byte is missing");
    assert!(refused.contains("`w`") && refused.contains("2 bytes of data for 5 elements, which take 3"), "{refused}");
}
