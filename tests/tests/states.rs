//! States (`--state`): outputs that are inputs of the next inference stay on their device, are begun anew when asked, and are
//! what they were where an inference was given up; on one device, on several, and in firmware.

use std::path::{Path, PathBuf};
use std::time::Duration;

use partita::graph::{Graph, Value, eval};
use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;
use partita_tests::bundle::{ClusterText, TOLERANCE, read_report};
use partita_tests::command::{compile, succeed};
use partita_tests::device::{self, Device, free_place};
use partita_tests::onnx;
use protobuf::Message;

/// Inputs in a row.
const STEPS: usize = 5;

/// A cell that remembers: `hn = tanh(x W + h U)`, `totalN = total + x`, `y = hn V`.
fn cell(folder: &Path) -> PathBuf {
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|at| (((at * 37 + seed * 101) % 211) as f32 / 211.0 - 0.5) * 0.8).collect()
    };
    let weights = |name: &str, rows: usize, columns: usize, seed: usize| {
        onnx::constant(name, &[rows as i64, columns as i64], numbers(rows * columns, seed))
    };
    let graph = onnx_protobuf::GraphProto {
        name: "cell".to_string(),
        node: vec![
            onnx::node("MatMul", &["x", "w"], &["xw"], vec![]),
            onnx::node("MatMul", &["h", "u"], &["hu"], vec![]),
            onnx::node("Add", &["xw", "hu"], &["sum"], vec![]),
            onnx::node("Tanh", &["sum"], &["hn"], vec![]),
            onnx::node("Add", &["total", "x"], &["totalN"], vec![]),
            onnx::node("MatMul", &["hn", "v"], &["y"], vec![]),
        ],
        initializer: vec![weights("w", 24, 32, 1), weights("u", 32, 32, 2), weights("v", 32, 6, 3)],
        input: vec![
            onnx::value_info("h", &[1, 32]),
            onnx::value_info("x", &[1, 24]),
            onnx::value_info("total", &[1, 24]),
        ],
        output: vec![
            onnx::value_info("hn", &[1, 32]),
            onnx::value_info("totalN", &[1, 24]),
            onnx::value_info("y", &[1, 6]),
        ],
        ..onnx_protobuf::GraphProto::default()
    };
    let path = folder.join("cell.onnx");
    std::fs::write(&path, onnx::model(17, graph).write_to_bytes().expect("it is plain data")).expect("it is ours");
    path
}

/// What the cell is given at a step.
fn input(step: usize) -> Value {
    Value::f32([1, 24], (0..24).map(|at| ((step * 29 + at * 7) % 31) as f32 / 31.0 - 0.4).collect())
}

/// What the reference kernels say, step by step, with the states handed on.
fn expected(model: &Path) -> Vec<Vec<f32>> {
    let graph = partita::onnx::import(model, &partita::onnx::ImportOptions::default()).expect("it imports");
    let zeros = |graph: &Graph, at: usize| Value::zeros(graph.tensor_type(graph.inputs[at]));
    let (mut h, mut total) = (zeros(&graph, 0), zeros(&graph, 2));
    let answer = |step: usize| {
        let mut outputs = eval::evaluate(&graph, &[h.clone(), input(step), total.clone()]).expect("it is computed");
        let y = outputs.remove(2);
        (h, total) = (outputs.remove(0), outputs.remove(0));
        y.as_f32().expect("scores are f32").to_vec()
    };
    (0..STEPS).map(answer).collect()
}

fn infer(client: &mut Client, step: usize) -> (Outcome, Vec<f32>) {
    let bytes: Vec<u8> = input(step).as_f32().into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let mut output = [0; 24];
    let record = client.infer(&bytes, &mut output).expect("it answers");
    (record.outcome, output.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn check_steps(client: &mut Client, expected: &[Vec<f32>], steps: std::ops::Range<usize>) {
    for step in steps {
        let (outcome, found) = infer(client, step);
        assert_eq!(outcome, Outcome::Full);
        let worst = found.iter().zip(&expected[step]).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert!(worst <= TOLERANCE, "step {step} is {worst} off: {found:?}, expected {:?}", expected[step]);
    }
}

/// What a stream promises, over a running cluster.
fn check_stream(out: &Path, model: &Path, input: &Device) {
    let report = read_report(out);
    let hash = report["plan"]["hash"].as_str().expect("it names the plan");
    let hash = u64::from_str_radix(hash, 16).expect("a number");
    let mut client = (0..2000).find_map(|_| {
        let client = Client::connect(hash, &input.socket, None).ok();
        client.is_none().then(|| std::thread::sleep(Duration::from_millis(10)));
        client
    });
    let client = client.as_mut().expect("the device listens");
    let expected = expected(model);
    assert_ne!(expected[0], expected[1], "steps differ, or this would prove nothing");
    check_steps(client, &expected, 0..3);
    // One that is late before it is begun leaves no trace.
    client.set_budget(Duration::ZERO).expect("it hears");
    assert_eq!(infer(client, 0).0, Outcome::Late);
    client.set_budget(Duration::from_secs(60)).expect("it hears");
    check_steps(client, &expected, 3..STEPS);
    client.reset_states().expect("it hears");
    check_steps(client, &expected, 0..STEPS);
}

fn build(model: &Path, cluster: &Path, out: &Path, more: &[&str]) {
    let mut command = compile();
    command.arg(model).arg("--targets").arg(cluster).arg("--out").arg(out).arg("--build");
    succeed(command.args(["--state", "hn=h", "totalN=total", "--link-error", "exact"]).args(more));
}

#[test]
fn one_device_keeps_its_states() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (cell(folder.path()), folder.path().join("out"));
    let cluster = ClusterText::new("a", "a").device("a", "host", "").write(folder.path());
    build(&model, &cluster, &out, &[]);
    let report = read_report(&out);
    let names = |list: &str, key: &str| -> Vec<String> {
        let all = report["model"][list].as_array().expect("a list");
        all.iter().map(|one| one[key].as_str().expect("a name").to_string()).collect()
    };
    assert_eq!((names("inputs", "name"), names("outputs", "name")), (vec!["x".to_string()], vec!["y".to_string()]));
    assert_eq!(names("states", "input"), ["h", "total"]);
    assert_eq!(names("states", "output"), ["hn", "totalN"]);
    let device = device::start(&out, "a", &[]);
    check_stream(&out, &model, &device);
}

#[test]
fn a_cluster_keeps_states_where_its_input_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (cell(folder.path()), folder.path().join("out"));
    let slow = "cpu = 0.01";
    let cluster = ClusterText::new("a", "a").device("a", "host", slow).device("b", "host", slow);
    let cluster = cluster.link("a", "b", "tcp", "1 Gbit/s").write(folder.path());
    build(&model, &cluster, &out, &["--strategy", "lop"]);
    let place = free_place();
    let to_a = format!("a={place}");
    let a = device::start(&out, "a", &["--listen", &place]);
    let _b = device::start(&out, "b", &["--peer", &to_a]);
    check_stream(&out, &model, &a);
}

#[test]
fn firmware_keeps_its_states() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (cell(folder.path()), folder.path().join("out"));
    let cluster = ClusterText::new("a", "a").device("a", "cortex-m4f", "").write(folder.path());
    // Inputs follow each other, here and there.
    build(&model, &cluster, &out, &["--verify"]);
}

#[test]
fn states_and_another_device_for_the_answer_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = cell(folder.path());
    let cluster = ClusterText::new("a", "b").device("a", "host", "").device("b", "host", "");
    let cluster = cluster.link("a", "b", "tcp", "1 Gbit/s").write(folder.path());
    let mut command = compile();
    let output = command.arg(&model).arg("--targets").arg(&cluster).args(["--state", "auto", "--simulate"]).output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("E0144") && said.contains("`a` holds the input and `b` the output"), "{said}");
}
