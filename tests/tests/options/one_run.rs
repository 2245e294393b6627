//! One run of the example with everything that can be done together, which many options are seen in.

use std::path::Path;
use std::sync::OnceLock;

use partita_tests::command::{compile, succeed};
use serde_json::Value;

use super::example;

/// What one run of everything left behind.
pub struct Run {
    pub folder: tempfile::TempDir,
    pub report: Value,
    pub stderr: String,
    /// Right answer of the first sample.
    pub class: i64,
}

impl Run {
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// The example on this machine, with everything that can be done together, fed channels last and in another scale.
pub fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = partita_tests::bundle::ClusterText::new("only", "only").device(
            "only",
            "host",
            "address = \"127.0.0.1:7191\"",
        );
        let cluster = cluster.write(folder.path());
        let (data, class) = turned(&example("test.npz"), &folder.path().join("turned.npz"));
        let first = folder.path().join("first.npz");
        partita::data::write_npz(&first, &vec![("x".to_string(), data)]).expect("it is ours");
        let launcher = folder.path().join("launcher");
        let log = folder.path().join("launched");
        std::fs::write(&launcher, format!("#!/bin/sh\necho $1 >> '{}'\nshift\nexec \"$@\"\n", log.display()))
            .expect("it is ours");
        std::fs::set_permissions(&launcher, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let mut command = compile();
        command.arg(example("model.onnx")).arg("--targets").arg(&cluster).arg("--out").arg(folder.path().join("out"));
        command
            .args([
                "--build",
                "--symbols",
                "--verify",
                "--verbose",
                "--format",
                "json",
                "--run",
                "--repeat",
                "3",
                "--input",
            ])
            .arg(&first);
        command
            .arg("--output")
            .arg(folder.path().join("y.npz"))
            .arg("--evaluate")
            .arg(folder.path().join("turned.npz"));
        command.args(["--samples", "5", "--layout", "nhwc", "--normalize", "mean=3,std=2", "--log"]);
        command.arg(folder.path().join("log.csv")).arg("--launcher").arg(&launcher);
        let output = succeed(&mut command);
        let report = serde_json::from_slice(&output.stdout).expect("nothing but JSON is printed");
        Run { report, stderr: String::from_utf8_lossy(&output.stderr).into_owned(), folder, class }
    })
}

/// Writes samples channels last and as `2 x + 3`; gives the first of them and its class.
fn turned(from: &Path, to: &Path) -> (partita::graph::Value, i64) {
    let arrays = partita::data::read_npz(from).expect("the example has samples");
    let array = |name: &str| &arrays.iter().find(|(other, _)| other == name).expect("it has both arrays").1;
    let (x, y) = (array("x"), array("y"));
    let [count, channels, rows, columns] = x.shape[..] else { panic!("samples are pictures") };
    let elements = partita::data::to_f32(&x.data);
    let plane = rows * columns;
    let mut last = Vec::with_capacity(elements.len());
    for sample in elements.chunks_exact(channels * plane) {
        last.extend((0..plane * channels).map(|at| 2.0 * sample[at % channels * plane + at / channels] + 3.0));
    }
    let first = partita::graph::Value::f32([1, rows, columns, channels], last[..channels * plane].to_vec());
    let x = partita::graph::Value::f32([count, rows, columns, channels], last);
    let class = partita::data::to_f32(&y.data)[0] as i64;
    partita::data::write_npz(to, &vec![("x".to_string(), x), ("y".to_string(), y.clone())]).expect("it is ours");
    (first, class)
}
