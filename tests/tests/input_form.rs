//! Pictures as a camera gives them: devices make the model's input of the bytes, and links carry the bytes.

use partita::data::{self, Normalization};
use partita::graph::{Data, Value, eval};
use partita::onnx::{ImportOptions, import};
use partita_tests::bundle::{ClusterText, read_report};
use partita_tests::command::{compile, succeed};
use partita_tests::place;

/// How the example's pictures come.
const CAMERA: &str = "
[input]
dtype = \"u8\"
layout = \"nhwc\"
mean = [123.7, 116.3, 103.5]
std = [58.4, 57.1, 57.4]
";

/// A picture of 32 x 32 pixels, row by row.
fn picture() -> Vec<u8> {
    (0..32 * 32 * 3u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_picture_travels_as_bytes_and_is_answered_as_if_it_were_prepared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let model = place::repository().join("examples/resnet/model.onnx");
    let cluster = ClusterText::new("a", "a").device("a", "host", "cpu = 0.1").device("b", "host", "");
    let path = cluster.network(&["a", "b"], "bandwidth = \"1 Gbit/s\"").write(folder.path());
    std::fs::write(&path, std::fs::read_to_string(&path).expect("it was written") + CAMERA).expect("it is ours");
    let bytes = picture();
    let given = Value { shape: vec![1, 32, 32, 3], data: Data::U8(bytes.clone()) };
    data::write_npz(&file("x.npz"), &vec![("x".to_string(), given)]).expect("the folder is ours");
    let command = &mut compile();
    let command = command.arg(&model).arg("--targets").arg(&path).arg("--out").arg(file("out"));
    // All of it on the other device, so the picture travels.
    let command = command.args(["--strategy", "whole", "--run", "--input"]).arg(file("x.npz"));
    succeed(command.arg("--output").arg(file("y.npz")));

    let mut prepared: Vec<f32> = (0..3 * 32 * 32).map(|at| f32::from(bytes[at % 1024 * 3 + at / 1024])).collect();
    let scale = Normalization { mean: vec![123.7, 116.3, 103.5], std: vec![58.4, 57.1, 57.4] };
    scale.apply(&mut prepared, 3, 1024).expect("three channels");
    let graph = import(&model, &ImportOptions::default()).expect("the example imports");
    let expected = eval::evaluate(&graph, &[Value::f32(vec![1, 3, 32, 32], prepared)]).expect("it is computed");
    let expected = expected[0].as_f32().expect("scores").to_vec();
    let answer = data::read_npz(&file("y.npz")).expect("the answer");
    let found = answer[0].1.as_f32().expect("scores").to_vec();
    let largest = expected.iter().fold(0.0f32, |largest, score| largest.max(score.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-5 * largest, "{found}, expected {expected}");
    }

    let report = read_report(&file("out"));
    assert_eq!(report["model"]["inputs"][0]["element"], "u8");
    let sent = report["devices"][0]["sent_bytes"].as_u64().expect("what `a` sends");
    assert!((3072..4096).contains(&sent), "{sent} bytes were sent for a picture of 3072");
}

#[test]
fn data_is_not_prepared_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = ClusterText::single("host").write(folder.path());
    std::fs::write(&path, std::fs::read_to_string(&path).expect("it was written") + CAMERA).expect("it is ours");
    let model = place::repository().join("examples/resnet/model.onnx");
    for words in [["--normalize", "mean=0,std=255"], ["--layout", "nhwc"]] {
        let test = place::repository().join("examples/resnet/test.npz");
        let mut command = compile();
        command.arg(&model).arg("--targets").arg(&path).arg("--evaluate").arg(test).args(words);
        let output = command.output().expect("the compiler starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("E0145") && said.contains(words[0]), "{said}");
    }
}
