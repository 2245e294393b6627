//! Data files that do not fit a model are refused before anything is built, with the cause and what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use partita::data::write_npz;
use partita::graph::{Data, Value};
use partita::{commands, usage};
use partita_tests::bundle::ClusterText;
use partita_tests::command::compile;
use partita_tests::place;

/// A folder with a cluster, in which nothing but what is put there may appear.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        ClusterText::single("host").write(folder.path());
        Place { folder }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("the folder is ours");
        path
    }

    fn arrays(&self, arrays: Vec<(&str, Value)>) -> PathBuf {
        let path = self.folder.path().join("data.npz");
        let arrays = arrays.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        write_npz(&path, &arrays).expect("the folder is ours");
        path
    }

    /// What is said; fails if it is nothing, or if anything was written before.
    fn refusal(&self, model: &Path, words: &[&str]) -> String {
        let (cluster, out) = (self.folder.path().join("cluster.toml"), self.folder.path().join("out"));
        let all = ["compile".as_ref(), model.as_os_str(), "--targets".as_ref(), cluster.as_os_str()];
        let all = all.into_iter().chain(["--out".as_ref(), out.as_os_str()]);
        let all = all.chain(words.iter().map(|word| (*word).as_ref()));
        let arguments = usage::parse(all.map(std::ffi::OsString::from)).expect("the words are sound");
        let failure = commands::execute(&arguments).expect_err("it is refused");
        assert_eq!(failure.exit_status(), 1, "{failure}");
        assert!(!out.exists(), "it was written before the data were looked at: {failure}");
        failure.to_string()
    }
}

fn resnet() -> PathBuf {
    place::repository().join("examples/resnet/model.onnx")
}

fn pictures(shape: &[usize]) -> Value {
    Value::f32(shape.to_vec(), (0..shape.iter().product::<usize>()).map(|at| (at % 7) as f32 * 0.1).collect())
}

fn labels(labels: impl Iterator<Item = i64>) -> Value {
    let labels: Vec<i64> = labels.collect();
    Value { shape: vec![labels.len()], data: Data::I64(labels) }
}

#[test]
fn samples_of_another_shape_are_refused_with_a_hint() {
    let place = Place::new();
    let y = || labels((0..20).map(|at| at % 10));
    for (x, y, more, parts) in [
        (pictures(&[20, 32, 32, 3]), y(), vec![], ["[32, 32, 3]", "say --layout nhwc"]),
        (pictures(&[20, 3, 32, 32]), y(), vec!["--layout", "nhwc"], ["[3, 32, 32]", "leave --layout nhwc out"]),
        (pictures(&[20, 3, 1024]), y(), vec![], ["[3, 1024]", "along other axes"]),
        (pictures(&[20, 3, 28, 28]), y(), vec![], ["[3, 28, 28]", "f32[1,3,32,32]"]),
        (
            pictures(&[20, 3, 32, 32]),
            labels((0..20).map(|at| at % 10 + 1)),
            vec![],
            ["label 10 of sample 9", "start at 1?"],
        ),
        (pictures(&[20, 3, 32, 32]), labels(0..20), vec![], ["label 10 of sample 10", "classes 0 to 9"]),
        (pictures(&[20, 3, 32, 32]), pictures(&[20, 10]), vec![], ["one-hot", "y.argmax(1)"]),
        (pictures(&[20, 3, 32, 32]), pictures(&[20]), vec![], ["floats", "astype"]),
        (pictures(&[20, 3, 32, 32]), labels(0..10), vec![], ["20 samples", "10 labels"]),
    ] {
        let path = place.arrays(vec![("x", x), ("y", y)]);
        let path = path.to_string_lossy();
        let words: Vec<&str> = ["--evaluate", &path].into_iter().chain(more).collect();
        let said = place.refusal(&resnet(), &words);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
}

#[test]
fn inputs_of_a_run_are_compared_axis_by_axis() {
    let place = Place::new();
    for (x, more, part) in [
        (pictures(&[1, 32, 32, 3]), vec![], "say --layout nhwc"),
        (pictures(&[3, 32, 32]), vec![], "x[None]"),
        (pictures(&[32, 3, 1, 32]), vec![], "along other axes"),
        (pictures(&[2, 3, 32, 32]), vec![], "f32[1,3,32,32]"),
        (pictures(&[1, 3, 32, 32]), vec!["--batch", "2"], "f32[2,3,32,32]"),
    ] {
        let path = place.arrays(vec![("x", x)]);
        let path = path.to_string_lossy();
        let words: Vec<&str> = ["--run", "--input", &path].into_iter().chain(more).collect();
        let said = place.refusal(&resnet(), &words);
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Whole numbers are no truth values, and that is said before anything is built.
#[test]
fn elements_of_another_type_are_refused() {
    let place = Place::new();
    let path = place.arrays(vec![("x", Value { shape: vec![3], data: Data::U8(vec![0, 1, 2]) })]);
    let model = place::repository().join("tests/conformance/vectors/not.onnx");
    let said = place.refusal(&model, &["--run", "--input", &path.to_string_lossy()]);
    assert!(said.contains("has elements of u8, but the model wants bool[3]"), "{said}");
}

#[test]
fn files_of_other_formats_are_told() {
    let place = Place::new();
    let array =
        place.file("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n");
    let torch = place.file("model.pt", b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl\x80\x02");
    let lite = place.file("model.tflite", b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00");
    let text = place.file("data.csv", b"0.5,1.5\n");
    for (option, path, parts) in [
        ("--evaluate", &array, ["NumPy array (.npy)", "numpy.savez"]),
        ("--input", &array, ["NumPy array (.npy)", "numpy.savez"]),
        ("--evaluate", &torch, ["PyTorch", "numpy.savez"]),
        ("--evaluate", &text, ["text", "numpy.savez"]),
        ("--evaluate", &resnet(), ["ONNX", "first on the command line"]),
    ] {
        let path = path.to_string_lossy();
        let words = if option == "--input" { vec!["--run", option, &path] } else { vec![option, &path] };
        let said = place.refusal(&resnet(), &words);
        assert!(parts.iter().all(|part| said.contains(part)) && said.contains(option), "{option} {path}: {said}");
    }
    for (path, parts) in [
        (&array, ["NumPy array (.npy)", "ONNX"]),
        (&torch, ["PyTorch", "torch.onnx.export"]),
        (&lite, ["TensorFlow Lite", "tf2onnx"]),
        (&text, ["text", "ONNX"]),
    ] {
        let said = place.refusal(path, &[]);
        assert!(said.contains("E0101") && parts.iter().all(|part| said.contains(part)), "{}: {said}", path.display());
    }
}

#[test]
fn what_is_not_there_is_said_at_once() {
    let place = Place::new();
    let folder = place.folder.path().join("no/such/folder.npz");
    let folder = folder.to_string_lossy();
    let path = place.arrays(vec![("images", pictures(&[2, 3, 32, 32])), ("labels", labels(0..2))]);
    let path = path.to_string_lossy();
    for (words, part) in [
        (vec!["--evaluate", "no-such.npz"], "--evaluate: opening `no-such.npz`"),
        (vec!["--run", "--input", "no-such.npz"], "--input: opening `no-such.npz`"),
        (vec!["--run", "--output", &folder], "--output: there is no folder"),
        (vec!["--run", "--launcher", "no-such-program"], "--launcher: there is no program"),
        (vec!["--evaluate", &path], "there is no array `x`, only images, labels"),
    ] {
        let said = place.refusal(&resnet(), &words);
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[test]
fn a_launcher_needs_addresses() {
    let place = Place::new();
    let launcher = place.file("launcher", b"#!/bin/sh\n");
    let said = place.refusal(&resnet(), &["--run", "--launcher", &launcher.to_string_lossy()]);
    assert!(said.contains("device `one` has no address"), "{said}");
}

/// The example with weights of its first convolution as if it had been trained on numbers from 0 to 1.
fn trained_on_fractions() -> Vec<u8> {
    use onnx_protobuf::ModelProto;
    use protobuf::Message;
    let bytes = std::fs::read(resnet()).expect("the example is there");
    let mut model = ModelProto::parse_from_bytes(&bytes).expect("it is a model");
    let graph = model.graph.as_mut().expect("it has a graph");
    let first = graph.node.iter().find(|node| node.op_type == "Conv").expect("it convolves").input[1].clone();
    let weights = graph.initializer.iter_mut().find(|tensor| tensor.name == first).expect("its weights are constant");
    let scaled = weights.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes) * 255.0);
    let bytes: Vec<u8> = scaled.flat_map(f32::to_le_bytes).collect();
    assert!(!bytes.is_empty(), "the weights are raw");
    weights.raw_data = bytes;
    model.write_to_bytes().expect("it is plain data")
}

#[test]
fn pictures_in_bytes_get_a_hint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bytes.npz");
    let bytes: Vec<u8> = (0..2 * 3 * 32 * 32).map(|at| (at % 256) as u8).collect();
    let x = Value { shape: vec![2, 3, 32, 32], data: Data::U8(bytes) };
    write_npz(&path, &vec![("x".to_string(), x), ("y".to_string(), labels(0..2))]).expect("the folder is ours");
    let model = folder.path().join("fractions.onnx");
    std::fs::write(&model, trained_on_fractions()).expect("the folder is ours");
    let said = |model: &Path, more: &[&str]| {
        let mut command = partita_tests::command::compile();
        command.arg(model).arg("--targets").arg(ClusterText::single("host").write(folder.path()));
        // Too few to learn from: it ends when the samples have been read.
        command.args(["--simulate", "--exits", "auto", "--calibration"]).arg(&path).args(more);
        String::from_utf8_lossy(&command.output().expect("it starts").stderr).into_owned()
    };
    let hinted = said(&model, &[]);
    assert!(hinted.contains("warning: ") && hinted.contains("--normalize mean=0,std=255"), "{hinted}");
    for (model, more) in [(&model, &["--normalize", "mean=0,std=255"][..]), (&resnet(), &[])] {
        let said = said(model, more);
        assert!(said.contains("E0192") && !said.contains("warning: "), "{}: {said}", model.display());
    }
}

/// Neither is anything else than a file.
#[test]
fn what_is_read_is_not_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = place::repository().join("examples/resnet");
    let model = folder.path().join("model.onnx");
    std::fs::copy(example.join("model.onnx"), &model).expect("the folder is ours");
    let cluster = ClusterText::single("host").write(folder.path());
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it starts").success());
    let said = |options: &[&Path]| {
        let mut command = compile();
        command.arg(&model).arg("--targets").arg(&cluster).arg("--out").arg(folder.path().join("out"));
        let output = command.args(options).output().expect("it starts");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let before = std::fs::read(&model).expect("it is there");
    let (simulate, timeline) = (Path::new("--simulate"), Path::new("--timeline"));
    let text = said(&[simulate, timeline, &folder.path().join("./model.onnx")]);
    assert!(text.contains("--timeline would replace the model"), "{text}");
    assert!(said(&[simulate, timeline, &cluster]).contains("would replace the cluster file"));
    assert!(said(&[simulate, timeline, &pipe]).contains("is no regular file"));
    // Another name of the same file, and what is read without being named.
    let (other, learned) = (folder.path().join("other"), partita::config::measured::default_path(&cluster));
    std::fs::hard_link(&model, &other).expect("the folder is ours");
    std::fs::write(&learned, "").expect("the folder is ours");
    assert!(said(&[simulate, timeline, &other]).contains("would replace the model"));
    assert!(said(&[simulate, timeline, &learned]).contains("would replace what --measure has measured"));
    assert_eq!(std::fs::read(&model).expect("it is there"), before);
    let error = write_npz(Path::new("/dev/full"), &vec![]).expect_err("no regular file").to_string();
    assert!(error.contains("/dev/full"), "{error}");
}
