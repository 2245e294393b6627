//! Element types on devices: answers have the types and values that onnxruntime gives them, on every kind of device and
//! however the layers are split.

use std::path::{Path, PathBuf};

use partita::data;
use partita::graph::Data;
use partita_tests::bundle::{ClusterText, forbidden_symbols, read_report};
use partita_tests::command::{compile, require, succeed};
use partita_tests::place;

/// Operators on all element types.
fn everything() -> PathBuf {
    place::repository().join("tests/conformance/vectors/types_everything.onnx")
}

/// Largest difference of real results, relative to the largest element; of halves, a step more.
const TOLERANCE: f32 = 1e-5;
const TOLERANCE_HALF: f32 = 1.0 / 1024.0;

/// Compiles, runs on onnxruntime's inputs, and compares types and elements of every output with its answers. Gives the
/// bundle's folder to `look`.
fn check(label: &str, model: &Path, cluster: &ClusterText, more: &[&str], look: impl Fn(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (out, answer) = (folder.path().join("out"), folder.path().join("answer.npz"));
    let reference = model.with_extension("npz");
    let mut command = compile();
    command.arg(model).arg("--targets").arg(cluster.write(folder.path())).arg("--out").arg(&out);
    succeed(command.args(["--run", "--input"]).arg(&reference).arg("--output").arg(&answer).args(more));
    let expected = data::read_npz(&reference).expect("the reference");
    let found = data::read_npz(&answer).expect("the answer");
    assert!(found.len() > 20, "{label}: there are only {} answers", found.len());
    for (name, found) in found {
        let (_, expected) = expected.iter().find(|(other, _)| *other == name).expect("an answer of onnxruntime");
        assert_eq!(found.tensor_type(), expected.tensor_type(), "{label}: output `{name}`");
        if !found.data.element().is_float() {
            assert_eq!(found.data, expected.data, "{label}: output `{name}`");
            continue;
        }
        let tolerance = if matches!(found.data, Data::F16(_)) { TOLERANCE_HALF } else { TOLERANCE };
        let (found, expected) = (data::to_f32(&found.data), data::to_f32(&expected.data));
        let largest = expected.iter().fold(0.0f32, |largest, element| largest.max(element.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (found - expected).abs();
            assert!(difference <= tolerance * largest, "{label}: output `{name}` has {found}, expected {expected}");
        }
    }
    look(&out);
}

#[test]
fn every_type_is_answered_on_this_machine() {
    check("on the host", &everything(), &ClusterText::single("host"), &[], |out| {
        let report = read_report(out);
        assert_eq!(report["model"]["computed_in_f32"], serde_json::json!(["f64", "f16"]));
    });
}

#[test]
fn every_type_is_answered_by_a_microcontroller_without_panics() {
    require("qemu-system-arm");
    check("on cortex-m7", &everything(), &ClusterText::single("cortex-m7"), &[], |out| {
        assert_eq!(forbidden_symbols(&out.join("bin/one")), Vec::<String>::new());
    });
}

#[test]
fn every_type_travels_between_devices() {
    require("qemu-aarch64");
    let three = ClusterText::new("a", "c")
        .device("a", "host", "cpu = 0.01")
        .device("b", "raspberry-pi-4", "")
        .device("c", "host", "cpu = 0.01")
        .network(&["a", "b", "c"], "bandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"");
    check("split in three", &everything(), &three, &["--strategy", "lop"], |out| {
        let report = read_report(out);
        let devices = |name: &str| -> usize {
            let layers = report["layers"].as_array().expect("layers");
            let layer = layers.iter().find(|layer| layer["op"] == name);
            layer.map_or(0, |layer| layer["devices"].as_array().expect("devices").len())
        };
        assert_eq!(devices("Conv"), 3, "the convolution is split");
    });
}
