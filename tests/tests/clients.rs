//! Programs that talk to a running cluster: the Python module, as its example uses it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use partita_tests::backend::python;
use partita_tests::bundle::ClusterText;
use partita_tests::command::{compile, succeed};
use partita_tests::place;

/// A device that ends with its owner.
struct Device {
    process: Child,
    socket: PathBuf,
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a device of a bundle as a service would be, and waits until it listens.
fn start(bundle: &Path, name: &str, arguments: &[String]) -> Device {
    let socket = bundle.with_file_name(format!("{name}.socket"));
    let mut command = Command::new(bundle.join("bin").join(name));
    let process = command.arg("--socket").arg(&socket).args(arguments).stdin(Stdio::null()).spawn().expect("it starts");
    let device = Device { process, socket };
    for _ in 0..2000 {
        if device.socket.exists() {
            return device;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("`{name}` does not listen");
}

fn free_place() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free").to_string()
}

#[test]
fn python_classifies_samples_through_three_devices() {
    let has_numpy = Command::new(python()).args(["-c", "import numpy"]).output();
    if !has_numpy.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Python with numpy (`tests/setup` installs it)");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let slow = "cpu = 0.01";
    let cluster = ["a", "b", "c"].iter().fold(ClusterText::new("a", "c"), |text, name| text.device(name, "host", slow));
    let cluster = cluster.link("a", "b", "tcp", "1 Gbit/s").link("b", "c", "tcp", "1 Gbit/s").write(folder.path());
    let digits = place::repository().join("examples/digits");
    let out = folder.path().join("out");
    let mut command = compile();
    command.arg(digits.join("model.onnx")).arg("--targets").arg(&cluster).arg("--out").arg(&out);
    succeed(command.args(["--build", "--strategy", "pipeline"]));
    let places = [free_place(), free_place()];
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let a = start(&out, "a", &words(&["--listen", &places[0]]));
    let _b = start(&out, "b", &words(&["--listen", &places[1], "--peer", &format!("a={}", places[0])]));
    let c = start(&out, "c", &words(&["--peer", &format!("b={}", places[1])]));
    let client = place::repository().join("examples/python");
    let classify = |report: &Path| {
        let mut command = Command::new(python());
        command.current_dir(&client).env("PYTHONDONTWRITEBYTECODE", "1").arg("classify.py");
        command.arg(report).args([&a.socket, &c.socket]).arg(digits.join("test.npz"));
        command
    };
    let said = succeed(&mut classify(&out.join("report.json")));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    println!("{said}");
    let expected = accuracy(&digits);
    assert!(said.starts_with(&format!("{expected} of 200 right (200 full)")), "{said}, expected {expected}");
    // A report of another plan is noticed before anything is handed in.
    let text = std::fs::read_to_string(out.join("report.json")).expect("it was written");
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let hash = report["plan"]["hash"].as_str().expect("it names the plan").to_string();
    let other = folder.path().join("other.json");
    std::fs::write(&other, text.replace(&hash, "0123456789abcdef")).expect("the folder is writable");
    let refused = classify(&other).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("the report is of 0123456789abcdef"), "{said}");
}

/// How many of the test samples the reference kernels answer rightly.
fn accuracy(example: &Path) -> usize {
    use partita::graph::{Value, eval};
    let graph = partita::onnx::import(&example.join("model.onnx"), &partita::onnx::ImportOptions::default());
    let graph = graph.expect("the example imports");
    let arrays = partita::data::read_npz(&example.join("test.npz")).expect("the example has samples");
    let array = |wanted: &str| &arrays.iter().find(|(name, _)| name == wanted).expect("an array").1;
    let (pixels, labels) = (partita::data::to_f32(&array("x").data), partita::data::to_f32(&array("y").data));
    let shape = graph.shape(graph.inputs[0]).to_vec();
    let samples = pixels.chunks_exact(shape.iter().product());
    let is_right = |(sample, label): (&[f32], &f32)| {
        let input = Value::f32(shape.clone(), sample.to_vec());
        let scores = eval::evaluate(&graph, &[input]).expect("it is computed").swap_remove(0);
        let scores = partita::data::to_f32(&scores.data);
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best == Some(*label as usize)
    };
    samples.zip(&labels).filter(|pair| is_right(*pair)).count()
}
