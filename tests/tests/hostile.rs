//! Malformed models: each is refused with a code and a name, quickly, and never with a panic.
//!
//! The cases here are built in code; `../shared/hostile` adds files where it is present.

mod bodies;

use std::path::Path;
use std::time::Duration;

use onnx_protobuf::{
    FunctionProto, GraphProto, Message, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use partita::diagnostic::Diagnostic;
use partita::graph::{Data, Graph};
use partita::onnx::{ImportOptions, import, import_bytes};
use partita_tests::clock::Clock;
use partita_tests::onnx::{self, int, integers, ints, node, value_info};
use partita_tests::place;

/// Longest processor time for any refusal, in an unoptimised build.
const LIMIT: Duration = Duration::from_secs(5);

/// Files that are legal, if nasty.
const LEGAL: &[&str] = &["00_good", "52_chain_50000", "80_name_nul_shell", "88_nan_inf_w"];

/// Files that may be refused or accepted.
const EITHER: &[&str] = &["26_conv_huge_stride", "47_nest_20", "83_no_opset", "86_input_dim_neg", "92_slice_extreme"];

#[test]
fn shared_files_are_refused() {
    let Some(folder) = place::shared().map(|folder| folder.join("hostile")) else {
        println!("skipped: ../shared is not at hand");
        return;
    };
    let files = place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "onnx"));
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let started = Clock::start();
        let answer = import(&file, &ImportOptions::default());
        let took = started.elapsed();
        if took > LIMIT {
            wrong.push(format!("{name} took {took:?}"));
        }
        match &answer {
            Ok(_) if !LEGAL.contains(&name.as_str()) && !EITHER.contains(&name.as_str()) => {
                wrong.push(format!("{name} is accepted"));
            }
            Err(diagnostics) if LEGAL.contains(&name.as_str()) => {
                wrong.push(format!("{name} is refused: {}", diagnostics[0]));
            }
            Err(diagnostics) => println!("{name} ({took:?}): {}", diagnostics[0]),
            Ok(_) => println!("{name} ({took:?}): accepted"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model with input `x` of f32 `[1, 3, 8, 8]` and output `y`.
fn model(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        name: "g".to_string(),
        node: nodes,
        initializer: initializers,
        input: vec![value_info("x", &[1, 3, 8, 8])],
        output: vec![value_info("y", &[])],
        ..GraphProto::default()
    };
    onnx::model(17, graph)
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = usize::try_from(dims.iter().product::<i64>()).expect("small test tensors");
    TensorProto {
        name: name.to_string(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: vec![0.5; count],
        ..TensorProto::default()
    }
}

fn read(model: &ModelProto) -> Result<Graph, Vec<Diagnostic>> {
    let bytes = model.write_to_bytes().expect("test models are serialisable");
    let started = Clock::start();
    let answer = import_bytes(&bytes, None, &ImportOptions::default());
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
    answer
}

/// The model is refused, first with this code, and the message has all these words.
fn refused(model: &ModelProto, code: &str, words: &[&str]) {
    let diagnostics = read(model).expect_err("the model should be refused");
    let text = diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(diagnostics[0].code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn attributes_out_of_range_are_refused_by_name() {
    let weights = || vec![floats("w", &[4, 3, 3, 3])];
    let conv = |attribute| model(vec![node("Conv", &["x", "w"], &["y"], vec![attribute])], weights());
    assert!(read(&conv(ints("strides", &[2, 2]))).is_ok());
    for (name, values) in [
        ("strides", &[0, 0][..]),
        ("strides", &[1][..]),
        ("strides", &[i64::MAX, i64::MAX][..]),
        ("dilations", &[0, 1][..]),
        ("dilations", &[1 << 19, 1 << 19][..]),
        ("pads", &[i64::MIN; 4][..]),
        ("pads", &[1 << 40; 4][..]),
        ("kernel_shape", &[5, 5][..]),
    ] {
        refused(&conv(ints(name, values)), "E0130", &["the_Conv"]);
    }
    for group in [0, -1, 2, i64::MAX, i64::MIN] {
        refused(&conv(int("group", group)), "E0130", &["the_Conv", "group"]);
    }
    refused(&conv(int("strides", 1)), "E0130", &["the_Conv", "strides", "INTS"]);
    let one = |op: &str, attributes| model(vec![node(op, &["x"], &["y"], attributes)], Vec::new());
    for axis in [4, -5, i64::MAX, i64::MIN] {
        for op in ["Softmax", "ArgMax", "Flatten"] {
            let axis = if op == "Flatten" && axis == 4 { 5 } else { axis };
            refused(&one(op, vec![int("axis", axis)]), "E0130", &[op, "axis"]);
        }
    }
    for permutation in [&[0, 1, 2][..], &[0, 0, 1, 2], &[0, 1, 2, 4], &[0, 1, 2, -1]] {
        refused(&one("Transpose", vec![ints("perm", permutation)]), "E0130", &["perm"]);
    }
    for kernel in [&[0, 0][..], &[-1, -1], &[100, 100], &[i64::MAX, i64::MAX]] {
        refused(&one("MaxPool", vec![ints("kernel_shape", kernel)]), "E0130", &["the_MaxPool"]);
    }
    for block in [0, -2, 3, i64::MAX] {
        refused(&one("SpaceToDepth", vec![int("blocksize", block)]), "E0130", &["blocksize"]);
    }
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let shaped = |op: &str, sizes: &[i64]| {
        let nodes = vec![node(op, &["s"], &["c"], Vec::new()), node("Add", &["x", "c"], &["y"], Vec::new())];
        model(nodes, vec![integers("s", sizes)])
    };
    refused(&shaped("ConstantOfShape", &[1 << 20, 1 << 20]), "E0122", &["the_ConstantOfShape"]);
    refused(&shaped("ConstantOfShape", &[i64::MAX, i64::MAX]), "E0122", &["the_ConstantOfShape"]);
    refused(&shaped("ConstantOfShape", &[0, i64::MAX, i64::MAX]), "E0122", &["the_ConstantOfShape"]);
    refused(&shaped("ConstantOfShape", &[1 << 27]), "E0122", &["the_ConstantOfShape"]);
    let expand = vec![node("Expand", &["x", "s"], &["y"], Vec::new())];
    refused(&model(expand, vec![integers("s", &[1 << 14, 3, 8, 8 << 8])]), "E0130", &["the_Expand"]);
    let expand = vec![node("Expand", &["x", "s"], &["y"], Vec::new())];
    refused(&model(expand, vec![integers("s", &[1 << 20, 3, 8, 8])]), "E0122", &["the_Expand", "256 MiB"]);
    // Many constants, each within the limit.
    let mut nodes: Vec<NodeProto> = (0..8)
        .map(|index| {
            let name = format!("c{index}");
            node("ConstantOfShape", &["s"], &[name.as_str()], Vec::new())
        })
        .collect();
    nodes.push(node("Relu", &["x"], &["y"], Vec::new()));
    refused(&model(nodes, vec![integers("s", &[1 << 24])]), "E0122", &["the_ConstantOfShape"]);
    let range = |ends: [i64; 3]| {
        let mut tensors: Vec<TensorProto> =
            ["a", "b", "c"].iter().zip(ends).map(|(name, end)| integers(name, &[end])).collect();
        for tensor in &mut tensors {
            tensor.dims.clear();
        }
        let mut range = model(vec![node("Range", &["a", "b", "c"], &["y"], Vec::new())], tensors);
        let output = ValueInfoProto { name: "y".to_string(), ..ValueInfoProto::default() };
        range.graph.as_mut().expect("a graph").output = vec![output];
        range
    };
    refused(&range([0, 1 << 40, 1]), "E0122", &["the_Range"]);
    refused(&range([i64::MIN, i64::MAX, 1]), "E0122", &["the_Range"]);
    refused(&range([0, 1, 0]), "E0130", &["the_Range"]);
    assert!(read(&range([i64::MIN, i64::MAX, 1 << 62])).is_ok());
}

#[test]
fn unsound_graphs_are_refused() {
    let relu = |input: &str, output: &str| node("Relu", &[input], &[output], Vec::new());
    refused(&model(vec![relu("b", "a"), relu("a", "b"), relu("a", "y")], Vec::new()), "E0110", &["cycle"]);
    refused(&model(vec![relu("y", "y")], Vec::new()), "E0110", &["cycle"]);
    refused(&model(vec![relu("nowhere", "y")], Vec::new()), "E0110", &["nowhere"]);
    refused(&model(vec![relu("x", "y"), relu("x", "y")], Vec::new()), "E0110", &["`y`", "twice"]);
    refused(&model(vec![relu("x", "x"), relu("x", "y")], Vec::new()), "E0110", &["`x`"]);
    refused(&model(vec![relu("x", "z")], Vec::new()), "E0110", &["`y`"]);
    refused(&model(vec![relu("x", "y")], vec![floats("w", &[1]), floats("w", &[1])]), "E0110", &["`w`"]);
    let mut twice = model(vec![relu("x", "y")], Vec::new());
    let graph = twice.graph.as_mut().expect("a graph");
    graph.input.push(value_info("x", &[1]));
    refused(&twice, "E0110", &["`x`", "twice"]);
}

#[test]
fn unsorted_nodes_and_repeated_names_are_accepted() {
    let nodes = vec![
        NodeProto { name: "same".to_string(), ..node("Relu", &["a"], &["y"], Vec::new()) },
        NodeProto { name: "same".to_string(), ..node("Sigmoid", &["x"], &["a"], Vec::new()) },
    ];
    let graph = read(&model(nodes, Vec::new())).expect("legal, if odd");
    let names: std::collections::BTreeSet<&str> = graph.node_ids().map(|id| graph.node(id).name.as_str()).collect();
    assert_eq!(names.len(), 2);
}

#[test]
fn everything_unsupported_is_listed_at_once() {
    let nodes = vec![
        node("Unheard", &["x"], &["a"], Vec::new()),
        node("Relu", &["a"], &["b"], Vec::new()),
        NodeProto { domain: "com.example".to_string(), ..node("Conv", &["b"], &["c"], Vec::new()) },
        node("Softmax", &["x"], &["d"], vec![int("axis", 77)]),
        node("BatchNormalization", &["x"; 5], &["e"], vec![int("training_mode", 1)]),
        node("Relu", &["x"], &["y"], Vec::new()),
    ];
    let bad = model(nodes, Vec::new());
    let words = ["the_Unheard", "com.example.Conv", "the_BatchNormalization", "training mode", "the_Softmax", "E0130"];
    refused(&bad, "E0140", &words);
    let diagnostics = read(&bad).expect_err("refused");
    assert_eq!(diagnostics.iter().filter(|diagnostic| diagnostic.code == "E0140").count(), 1);
}

#[test]
fn malformed_tensors_are_refused() {
    let with = |tensor: TensorProto| model(vec![node("Add", &["x", "w"], &["y"], Vec::new())], vec![tensor]);
    assert!(read(&with(floats("w", &[8]))).is_ok());
    let base = || floats("w", &[8]);
    for tensor in [
        TensorProto { dims: vec![-8], ..base() },
        TensorProto { dims: vec![1 << 32, 1 << 32], ..base() },
        TensorProto { dims: vec![0, i64::MAX, i64::MAX], float_data: Vec::new(), ..base() },
        TensorProto { dims: vec![1; 5000], ..base() },
        TensorProto { dims: vec![9], ..base() },
        TensorProto { raw_data: vec![0; 32], ..base() },
        TensorProto { float_data: Vec::new(), raw_data: vec![0; 31], ..base() },
        TensorProto { float_data: Vec::new(), raw_data: vec![0; 33], ..base() },
        TensorProto { data_type: 99, ..base() },
        TensorProto { data_type: 0, ..base() },
        TensorProto { data_type: 8, ..base() },
    ] {
        refused(&with(tensor), "E0120", &["`w`"]);
    }
    for dims in [&[4, -7][..], &[1 << 40, 1 << 40], &[4, 0], &[1; 100]] {
        let mut bad = model(vec![node("Relu", &["x"], &["y"], Vec::new())], Vec::new());
        bad.graph.as_mut().expect("a graph").input = vec![value_info("x", dims)];
        refused(&bad, "E0121", &["`x`"]);
    }
}

#[test]
fn bytes_that_are_no_model_are_refused() {
    let code = |bytes: &[u8]| {
        let started = Clock::start();
        let answer = import_bytes(bytes, None, &ImportOptions::default());
        assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
        answer.expect_err("no model")[0].code
    };
    assert_eq!(code(b""), "E0101");
    assert_eq!(code(b"GIF89a, certainly not a model"), "E0101");
    // Groups inside groups without end: a parser that recurses runs out of stack.
    assert_eq!(code(&[0x2b; 4 << 20]), "E0101");
    let good = model(vec![node("Relu", &["x"], &["y"], Vec::new())], Vec::new()).write_to_bytes().expect("bytes");
    assert!(import_bytes(&good, None, &ImportOptions::default()).is_ok());
    for length in 0..good.len() {
        code(&good[..length]);
    }
    // Empty nodes of two bytes each would take hundreds of bytes of memory.
    let mut swollen = vec![0x3a];
    let count = 5_000_000usize;
    let mut length = count * 2;
    while length >= 128 {
        swollen.push((length as u8 & 127) | 128);
        length >>= 7;
    }
    swollen.push(length as u8);
    swollen.extend(std::iter::repeat_n([0x0a, 0x00], count).flatten());
    assert_eq!(code(&swollen), "E0112");
    // Graphs in attributes of nodes of graphs.
    let mut inner = Vec::new();
    for _ in 0..2000 {
        for tag in [0x32, 0x2a, 0x0a] {
            let mut outer = vec![tag];
            let mut length = inner.len();
            while length >= 128 {
                outer.push((length as u8 & 127) | 128);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.append(&mut inner);
            inner = outer;
        }
    }
    let mut nested = vec![0x3a];
    let mut length = inner.len();
    while length >= 128 {
        nested.push((length as u8 & 127) | 128);
        length >>= 7;
    }
    nested.push(length as u8);
    nested.extend(inner);
    assert_eq!(code(&nested), "E0102");
}

#[test]
fn any_single_corrupted_byte_is_survived() {
    let nodes = vec![
        node("Conv", &["x", "w"], &["a"], vec![ints("strides", &[2, 2]), int("group", 1)]),
        node("Reshape", &["a", "s"], &["b"], Vec::new()),
        node("Slice", &["b", "s", "e"], &["y"], Vec::new()),
    ];
    let weights = vec![floats("w", &[2, 3, 2, 2]), integers("s", &[1, -1]), integers("e", &[9, 30])];
    let good = model(nodes, weights).write_to_bytes().expect("bytes");
    for position in 0..good.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[position] = value;
            // Whether it is refused depends on the byte; that it returns is the point.
            let _ = import_bytes(&bytes, None, &ImportOptions::default());
        }
    }
}

#[test]
fn functions_and_unknown_opsets_are_refused() {
    let mut functions = model(vec![node("Relu", &["x"], &["y"], Vec::new())], Vec::new());
    for _ in 0..2 {
        functions.functions.push(FunctionProto { name: "f".to_string(), ..FunctionProto::default() });
    }
    refused(&functions, "E0111", &["`f`", "twice"]);
    for version in [0, -1, 29, i64::MAX, i64::MIN] {
        let mut old = model(vec![node("Relu", &["x"], &["y"], Vec::new())], Vec::new());
        old.opset_import[0].version = version;
        refused(&old, "E0103", &["opset"]);
    }
}

#[test]
fn external_data_stays_in_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("model");
    std::fs::create_dir_all(inside.join("sub")).expect("a folder");
    let bytes: Vec<u8> = (0..8u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    std::fs::write(folder.path().join("secret.bin"), &bytes).expect("written");
    std::fs::write(inside.join("good.bin"), &bytes).expect("written");
    std::fs::write(inside.join("sub/good.bin"), &bytes).expect("written");
    std::fs::hard_link(folder.path().join("secret.bin"), inside.join("hard.bin")).expect("linked");
    std::os::unix::fs::symlink("../secret.bin", inside.join("soft.bin")).expect("linked");
    std::os::unix::fs::symlink("..", inside.join("up")).expect("linked");
    let answer = |entries: &[(&str, &str)], folder: Option<&Path>| {
        let tensor = TensorProto {
            name: "w".to_string(),
            dims: vec![8],
            data_type: 1,
            data_location: onnx_protobuf::tensor_proto::DataLocation::EXTERNAL.into(),
            external_data: entries
                .iter()
                .map(|(key, value)| StringStringEntryProto {
                    key: key.to_string(),
                    value: value.to_string(),
                    ..StringStringEntryProto::default()
                })
                .collect(),
            ..TensorProto::default()
        };
        let model = model(vec![node("Add", &["x", "w"], &["y"], Vec::new())], vec![tensor]);
        import_bytes(&model.write_to_bytes().expect("bytes"), folder, &ImportOptions::default())
    };
    for location in ["good.bin", "./good.bin", "sub/good.bin"] {
        let graph = answer(&[("location", location), ("offset", "0"), ("length", "32")], Some(&inside));
        let graph = graph.unwrap_or_else(|diagnostics| panic!("{location}: {}", diagnostics[0]));
        let constant = graph.tensor_ids().find_map(|id| graph.f32_value(id)).expect("the weights");
        assert_eq!(constant, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
    let absolute = inside.join("good.bin").to_string_lossy().into_owned();
    for location in [
        "../secret.bin",
        "sub/../../secret.bin",
        "junk/../../secret.bin",
        "hard.bin",
        "soft.bin",
        "up/secret.bin",
        "sub",
        "missing.bin",
        "",
        ".",
        "/dev/zero",
        "good.bin\0.txt",
        &absolute,
    ] {
        let diagnostics = answer(&[("location", location)], Some(&inside)).expect_err(location);
        assert_eq!(diagnostics[0].code, "E0150", "{location}");
        assert!(diagnostics[0].message.contains("`w`"), "{}", diagnostics[0]);
    }
    for entry in [
        ("offset", "1"),
        ("offset", "-4"),
        ("offset", "18446744073709551608"),
        ("length", "4"),
        ("length", "x"),
        ("length", "18446744073709551615"),
        ("mode", "0777"),
    ] {
        let diagnostics = answer(&[("location", "good.bin"), entry], Some(&inside)).expect_err(entry.1);
        assert_eq!(diagnostics[0].code, "E0150", "{entry:?}");
    }
    assert!(answer(&[("location", "good.bin")], None).is_err());
}

#[test]
fn small_files_do_not_multiply() {
    // One node with a long name and many operands becomes many nodes.
    let many = vec!["x"; 250_000];
    let sum = NodeProto { name: "n".repeat(1 << 20), ..node("Sum", &many, &["y"], Vec::new()) };
    refused(&model(vec![sum], Vec::new()), "E0112", &["Sum", "200000"]);
    // A bias of zeros for as many channels as `group` says.
    let conv = node("ConvTranspose", &["x", "w"], &["y"], vec![int("group", 1 << 29)]);
    refused(&model(vec![conv], vec![floats("w", &[3, 1, 1, 1])]), "E0122", &["the_ConvTranspose"]);
    // As many outputs as nodes.
    let names: Vec<String> = (0..100_000).map(|index| format!("o{index}")).collect();
    let nodes = names.iter().map(|name| node("Relu", &["x"], &[name.as_str()], Vec::new())).collect();
    let mut wide = model(nodes, Vec::new());
    wide.graph.as_mut().expect("a graph").output = names.iter().map(|name| value_info(name, &[])).collect();
    assert_eq!(read(&wide).expect("legal").outputs.len(), 100_000);
}

#[test]
fn negative_pads_cut() {
    let pad = |pads: &[i64]| model(vec![node("Pad", &["x", "p"], &["y"], Vec::new())], vec![integers("p", pads)]);
    let graph = read(&pad(&[0, 0, -1, 2, 0, 0, -3, -4])).expect("legal");
    assert_eq!(graph.shape(graph.outputs[0]), [1, 3, 4, 6]);
    for pads in [&[0, 0, -4, 0, 0, 0, -4, 0][..], &[i64::MIN; 8], &[i64::MAX; 8], &[0; 7]] {
        refused(&pad(pads), "E0130", &["the_Pad"]);
    }
}

#[test]
fn results_of_training_matter_only_if_they_are_read() {
    let normal = || node("BatchNormalization", &["x", "s", "s", "s", "s"], &["a", "mean", "var"], Vec::new());
    let statistics = || vec![floats("s", &[3])];
    let unread = model(vec![normal(), node("Relu", &["a"], &["y"], Vec::new())], statistics());
    assert!(read(&unread).is_ok());
    let nodes = vec![normal(), node("Neg", &["mean"], &["b"], Vec::new()), node("Relu", &["a"], &["y"], Vec::new())];
    refused(&model(nodes, statistics()), "E0140", &["the_BatchNormalization", "training"]);
    // What is dropped in training is known without it: nothing.
    let nodes =
        vec![node("Dropout", &["x"], &["a", "mask"], Vec::new()), node("Cast", &["mask"], &["y"], vec![int("to", 1)])];
    let graph = read(&model(nodes, Vec::new())).expect("it imports");
    let x = partita::data::noise(graph.tensor_type(graph.inputs[0]), 1);
    let dropped = partita::graph::eval::evaluate(&graph, &[x]).expect("it can be evaluated");
    assert_eq!((dropped[0].shape.as_slice(), &dropped[0].data), (&[1, 3, 8, 8][..], &Data::F32(vec![1.0; 192])));
}
