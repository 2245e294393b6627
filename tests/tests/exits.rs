//! Early exits from a calibration set to running processes.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use onnx_protobuf::{TensorProto, type_proto};
use partita::data::{read_npz, write_npz};
use partita::graph::{Data, Value};
use partita_tests::bundle::{ClusterText, read_report};
use partita_tests::command::{compile, succeed};
use partita_tests::{onnx, place};
use protobuf::Message;

fn example() -> PathBuf {
    place::repository().join("examples/resnet")
}

/// The least effort: heads that learn little are enough for exits to be worth it here.
const EFFORT: &str = "0.004";

/// A `compile` with exits for the ResNet example.
fn with_exits(cluster: &Path, calibration: &Path, out: &Path) -> Command {
    with_effort(EFFORT, cluster, calibration, out)
}

fn with_effort(effort: &str, cluster: &Path, calibration: &Path, out: &Path) -> Command {
    let mut command = compile();
    command.arg(example().join("model.onnx")).arg("--targets").arg(cluster).arg("--out").arg(out);
    command.arg("--calibration").arg(calibration).args(["--exits", "auto", "--exit-effort", effort]);
    // On devices as slow as these, a message takes as long as a sixth of the network: exits save energy, not time.
    command.args(["--objective", "energy"]);
    command
}

fn cluster(folder: &Path) -> PathBuf {
    ClusterText::new("a", "c")
        .device("a", "host", "cpu = 0.01")
        .device("b", "host", "cpu = 0.02")
        .device("c", "host", "cpu = 0.01")
        .network(&["a", "b", "c"], "topology = \"star\"\nhub = \"b\"\nbandwidth = \"100 Mbit/s\"")
        .write(folder)
}

/// One test, because the second part lives from what the first has taught.
#[test]
fn exits_on_three_processes_and_for_looser_limits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    three_processes_leave_early(folder.path());
    a_looser_limit_never_saves_less_and_what_is_there_is_not_made_again(folder.path());
}

fn three_processes_leave_early(folder: &Path) {
    let (cluster, out) = (cluster(folder), folder.join("out"));
    let calibration = example().join("calibration.npz");
    let mut command = with_exits(&cluster, &calibration, &out);
    command.args(["--strategy", "pipeline", "--min-accuracy", "0.9", "--evaluate"]).arg(example().join("test.npz"));
    let output = succeed(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("differ"), "devices and reference kernels decide differently:\n{said}");
    let report = read_report(&out);
    partita_tests::schema::check_report(&report);
    let exits = report["exits"].as_array().expect("the report lists exits");
    assert!(!exits.is_empty(), "no exit was worth it: {}", report["calibration"]);
    assert!(exits.iter().all(|exit| exit["device"].as_str().is_some_and(|device| !device.is_empty())));
    // Every calibration sample is in the tables once.
    let tables = &report["calibration"]["tables"];
    let count = |value: &serde_json::Value| -> u64 {
        let rows = value.as_array().expect("a table").iter();
        rows.flat_map(|row| row.as_array().expect("a row")).filter_map(serde_json::Value::as_u64).sum()
    };
    let samples = report["calibration"]["samples"].as_u64().expect("a number");
    assert_eq!((count(&tables["confusion_before"]), count(&tables["confusion_after"])), (samples, samples));
    let evaluation = &report["evaluation"];
    let shares: Vec<f64> =
        evaluation["exit_shares"].as_array().expect("shares").iter().filter_map(serde_json::Value::as_f64).collect();
    assert_eq!(shares.len(), exits.len() + 1);
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    assert!(shares[..exits.len()].iter().sum::<f64>() > 0.05, "nothing leaves early: {shares:?}");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    assert!(number(&evaluation["mean_macs"]) < number(&report["calibration"]["base_macs"]));
    assert!(number(&evaluation["accuracy"]) >= 0.88, "{evaluation}");
    assert!(number(&report["plan"]["mean_latency_ms"]) <= number(&report["plan"]["latency_ms"]));
}

/// The example's network with an answer in 8 bits.
fn quantized(folder: &Path) -> PathBuf {
    let bytes = std::fs::read(example().join("model.onnx")).expect("the example");
    let mut model = onnx_protobuf::ModelProto::parse_from_bytes(&bytes).expect("it is a model");
    let graph = model.graph.as_mut().expect("it has a graph");
    let output = graph.output[0].clone();
    let scores = output.name.clone();
    graph.initializer.push(onnx::constant("probability.step", &[], vec![1.0 / 256.0]));
    let zero = TensorProto {
        name: "probability.zero".to_string(),
        data_type: 3, // INT8
        int32_data: vec![-128],
        ..TensorProto::default()
    };
    graph.initializer.push(zero);
    graph.node.push(onnx::node("Softmax", &[&scores], &["probabilities"], vec![]));
    let operands = ["probabilities", "probability.step", "probability.zero"];
    graph.node.push(onnx::node("QuantizeLinear", &operands, &["answer"], vec![]));
    let mut answer = onnx::value_info("answer", &[1, 10]);
    if let Some(type_proto::Value::TensorType(tensor)) = &mut answer.type_.as_mut().expect("it has a type").value {
        tensor.elem_type = 3;
    }
    graph.output = vec![answer];
    let path = folder.join("quantized.onnx");
    std::fs::write(&path, model.write_to_bytes().expect("it can be written")).expect("the folder is ours");
    path
}

#[test]
fn answers_in_8_bits_come_from_exits_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    let mut command = compile();
    command.arg(quantized(folder.path())).arg("--targets").arg(cluster).arg("--out").arg(&out);
    command.arg("--calibration").arg(example().join("calibration.npz")).args([
        "--exits",
        "auto",
        "--exit-effort",
        EFFORT,
    ]);
    command.args([
        "--objective",
        "energy",
        "--strategy",
        "pipeline",
        "--min-accuracy",
        "0.9",
        "--verify",
        "--evaluate",
    ]);
    let output = succeed(command.arg(example().join("test.npz")));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("answers differ"));
    let evaluation = &read_report(&out)["evaluation"];
    let shares = evaluation["exit_shares"].as_array().expect("shares");
    assert!(shares.len() > 1 && shares[0].as_f64().is_some_and(|share| share > 0.05), "{evaluation}");
    assert!(evaluation["accuracy"].as_f64().is_some_and(|accuracy| accuracy >= 0.88), "{evaluation}");
}

/// The example's samples of one split, those of a class behind each other.
fn by_class(split: &str, folder: &Path) -> PathBuf {
    let arrays = read_npz(&example().join(split)).expect("the example has samples");
    let array = |name: &str| arrays.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    let (x, y) = (array("x").expect("samples"), array("y").expect("labels"));
    let (elements, labels) = (partita::data::to_f32(&x.data), partita::data::to_f32(&y.data));
    let per_sample = elements.len() / labels.len();
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|sample| labels[*sample] as i64);
    let sorted = order.iter().flat_map(|sample| &elements[sample * per_sample..(sample + 1) * per_sample]);
    let x = Value::f32(x.shape.clone(), sorted.copied().collect());
    let labels = order.iter().map(|sample| labels[*sample] as i64).collect();
    let path = folder.join(split);
    let y = Value { shape: vec![order.len()], data: Data::I64(labels) };
    write_npz(&path, &vec![("x".to_string(), x), ("y".to_string(), y)]).expect("the folder is writable");
    path
}

#[test]
fn exits_of_a_stream_are_patient_on_devices_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    let mut command = with_exits(&cluster, &by_class("calibration.npz", folder.path()), &out);
    command.args(["--calibration-stream", "--strategy", "pipeline", "--min-accuracy", "0.9", "--evaluate"]);
    let output = succeed(command.arg(by_class("test.npz", folder.path())));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("differ"), "devices and reference kernels decide differently:\n{said}");
    let report = read_report(&out);
    let first = &report["exits"][0];
    assert!(first["patience"]["doubt"].as_f64().is_some_and(|doubt| doubt < 1.0), "{first}");
    let shares = report["evaluation"]["exit_shares"].as_array().expect("shares");
    assert!(shares[0].as_f64().is_some_and(|share| share > 0.05), "nothing leaves early: {shares:?}");
}

/// The message of a refusal.
fn refusal(x: Value, y: Value) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data.npz");
    write_npz(&data, &vec![("x".to_string(), x), ("y".to_string(), y)]).expect("the folder is writable");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    let output = with_exits(&cluster, &data, &out).output().expect("compile starts");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!out.exists(), "nothing is written");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn training_data_and_groups_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    let calibration = example().join("calibration.npz");
    let arrays = read_npz(&calibration).expect("the example has samples");
    let (_, x) = arrays.iter().find(|(name, _)| name == "x").expect("samples").clone();
    let unlabelled = folder.path().join("unlabelled.npz");
    write_npz(&unlabelled, &vec![("x".to_string(), x.clone())]).expect("the folder is writable");
    let few_groups = folder.path().join("groups.npz");
    let groups = Value { shape: vec![x.shape[0]], data: Data::I64((0..x.shape[0] as i64).map(|at| at % 3).collect()) };
    write_npz(&few_groups, &[arrays, vec![("speaker".to_string(), groups)]].concat()).expect("the folder is writable");
    let refused = |calibration: &Path, arguments: &[&str], words: &str| {
        let output = with_exits(&cluster, calibration, &out).args(arguments).output().expect("compile starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !out.exists(), "{said}");
    };
    let labelled = calibration.to_str().expect("a name");
    refused(&unlabelled, &["--training", labelled], "the training data has labels, but the calibration data");
    refused(&calibration, &["--training", "nowhere.npz"], "nowhere.npz");
    refused(&calibration, &["--calibration-groups", "patient"], "there is no array `patient`, only x, y");
    refused(&few_groups, &["--calibration-groups", "speaker"], "array `speaker` has 3 groups; expected at least 8");
}

#[test]
fn data_that_teaches_nothing_is_refused() {
    let arrays = read_npz(&example().join("calibration.npz")).expect("the example has samples");
    let array = |name: &str| arrays.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    let (x, y) = (array("x").expect("samples"), array("y").expect("labels"));
    let (count, per_sample) = (x.shape[0], x.data.len() / x.shape[0]);
    let elements = partita::data::to_f32(&x.data);
    let labels: Vec<i64> = partita::data::to_f32(&y.data).into_iter().map(|label| label as i64).collect();
    let some = |count: usize| {
        let shape = [vec![count], x.shape[1..].to_vec()].concat();
        Value::f32(shape, elements[..count * per_sample].to_vec())
    };
    let classes = |labels: &[i64]| Value { shape: vec![labels.len()], data: Data::I64(labels.to_vec()) };
    let few = refusal(some(20), classes(&labels[..20]));
    assert!(few.contains("E0192") && few.contains("20 calibration samples are too few"), "{few}");
    let one = refusal(some(count), classes(&vec![3; count]));
    assert!(one.contains("E0192") && one.contains("are of class 3"), "{one}");
    let mut beyond = labels.clone();
    beyond[7] = 99;
    let beyond = refusal(some(count), classes(&beyond));
    assert!(beyond.contains("label 99 of sample 7"), "{beyond}");
    let mut broken = elements.clone();
    broken[3 * per_sample] = f32::NAN;
    let broken = refusal(Value::f32(x.shape.clone(), broken), classes(&labels));
    assert!(broken.contains("sample 3 of `x` holds NaN"), "{broken}");
    let narrow = refusal(Value::f32([count, 5], vec![0.0; count * 5]), classes(&labels));
    assert!(narrow.contains("a sample of `x` has shape [5]"), "{narrow}");
    let uneven = refusal(some(count), classes(&labels[1..]));
    assert!(uneven.contains("labels"), "{uneven}");
}

/// The report of a `compile` that only simulates.
fn simulated(command: &mut Command) -> (serde_json::Value, String) {
    let output = succeed(command.args(["--simulate", "--format", "json"]));
    let report = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    partita_tests::schema::check_report(&report);
    (report, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// `folder` has what [`three_processes_leave_early`] has made.
fn a_looser_limit_never_saves_less_and_what_is_there_is_not_made_again(folder: &Path) {
    let (cluster, out) = (cluster(folder), folder.join("out"));
    let calibration = example().join("calibration.npz");
    // Whoever builds a program fails.
    let again = |arguments: &[&str]| {
        let mut command = with_exits(&cluster, &calibration, &out);
        simulated(command.args(arguments).env("CARGO", folder.join("no-cargo")))
    };
    let long = std::env::var_os("PARTITA_LONG").is_some();
    let limits: &[&str] = if long { &["0.006", "0.01", "0.02", "0.05", "0.1"] } else { &["0.006", "0.02", "0.1"] };
    let mut before: Option<(f64, f64)> = None;
    let mut plain = serde_json::Value::Null;
    for limit in limits {
        let (report, _) = again(&["--max-loss", limit]);
        let known = &report["calibration"];
        let (macs, predicted) = (number(&known["mean_macs"]), number(&known["predicted"]["with_exits"]));
        if let Some((macs_before, predicted_before)) = before {
            assert!(macs <= macs_before && predicted <= predicted_before * (1.0 + 1e-9), "with {limit}: {known}");
        }
        assert!(number(&known["drop_bound"]) <= limit.parse().expect("a number"), "{known}");
        assert_eq!(number(&known["limits"]["max_loss"]), limit.parse::<f64>().expect("a number"));
        if known["outcome"] != "exits" {
            assert_eq!((number(&known["drop_bound"]), report["exits"].as_array().map(Vec::len)), (0.0, Some(0)));
            let nearest = number(&known["nearest"]["limits"]["max_loss"]);
            assert!(nearest > limit.parse().expect("a number"), "{known}");
        }
        before = Some((macs, predicted));
        plain = report;
    }
    let (macs, _) = before.expect("there were runs");
    // An accuracy that is stated to be lower than that on the calibration samples makes the bound as much wider.
    let base = number(&plain["calibration"]["base_accuracy"]);
    let (widened, said) = again(&["--max-loss", "0.1", "--holdout", &format!("{:.6}", base - 0.05)]);
    let known = &widened["calibration"];
    assert!(
        (number(&known["holdout"]["widened_by"]) - 0.05).abs() < 1e-5 && said.contains("5.00 points wider"),
        "{said}"
    );
    assert!(number(&known["mean_macs"]) >= macs && number(&known["drop_bound"]) <= 0.1);
    assert!(known["outcome"] != "exits" || number(&known["drop_bound"]) > 0.05, "{known}");
    // A second set says it by itself.
    let mut command = with_exits(&cluster, &calibration, &out);
    command.args(["--max-loss", "0.1", "--holdout"]).arg(example().join("test.npz"));
    let (held_out, _) = simulated(&mut command);
    let holdout = &held_out["calibration"]["holdout"];
    let difference = number(&holdout["calibration_accuracy"]) - number(&holdout["accuracy"]);
    assert!((number(&holdout["widened_by"]) - difference.max(0.0)).abs() < 1e-9 && number(&holdout["samples"]) > 0.0);
    // A limit per class is kept for every class.
    let (fair, _) = again(&["--max-loss", "0.1", "--max-class-loss", "0.15"]);
    let known = &fair["calibration"];
    let classes = known["tables"]["classes"].as_array().expect("classes");
    assert!(known["outcome"] != "exits" || classes.iter().all(|class| number(&class["loss_bound"]) <= 0.15), "{known}");
    assert!(number(&known["mean_macs"]) >= macs);
}

#[test]
fn nothing_is_trained_where_nothing_can_be_proven() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    let arrays = read_npz(&example().join("calibration.npz")).expect("the example has samples");
    let few: Vec<(String, Value)> = arrays
        .iter()
        .map(|(name, value)| {
            let per_sample = value.data.len() / value.shape[0];
            let elements = partita::data::to_f32(&value.data)[..100 * per_sample].to_vec();
            let shape = [vec![100], value.shape[1..].to_vec()].concat();
            (name.clone(), Value { shape, data: partita::data::from_f32(elements, value.data.element()) })
        })
        .collect();
    let path = folder.path().join("few.npz");
    write_npz(&path, &few).expect("the folder is writable");
    let (report, said) = simulated(&mut with_exits(&cluster, &path, &out));
    let known = &report["calibration"];
    assert_eq!((known["outcome"].as_str(), known["limits_by_hand"].as_bool()), (Some("too_few_samples"), Some(false)));
    assert!((number(&known["provable"]["max_loss"]) - 1.2816 / 101.0).abs() < 1e-9, "{known}");
    assert_eq!((number(&known["drop_bound"]), number(&known["mean_macs"])), (0.0, number(&known["base_macs"])));
    assert!(
        said.contains("the limit of 1.00 points cannot be proven") && said.contains("nothing is trained"),
        "{said}"
    );
    let heads = std::fs::read_dir(folder.path().join(".partita-features")).expect("answers are kept");
    let names: Vec<String> = heads.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let of_training = |name: &String| name.starts_with("heads-") || name.starts_with("averages-");
    assert!(!names.is_empty() && !names.iter().any(of_training), "{names:?}");
    // What is printed says how many would do.
    let mut command = with_exits(&cluster, &path, &out);
    let output = succeed(command.arg("--simulate").env("CARGO", folder.path().join("no-cargo")));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("no exits: 100 samples prove --max-loss 0.0127 at best") && printed.contains("it takes 128")
    );
    assert!(!printed.contains("points lost"), "nothing is lost without exits:\n{printed}");
    let mut command = with_exits(&cluster, &path, &out);
    let output = succeed(command.args(["--simulate", "--quiet"]).env("CARGO", folder.path().join("no-cargo")));
    let [results, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!((results.as_str(), said.as_str()), (printed.as_str(), ""));
}

#[test]
fn shares_that_are_percent_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (cluster(folder.path()), folder.path().join("out"));
    for (option, value, hint) in [
        ("--min-accuracy", "97", "did you mean 0.97?"),
        ("--min-accuracy", "1.01", "0 to 1"),
        ("--min-accuracy", "nan", "0 to 1"),
        ("--max-loss", "1", "did you mean 0.01?"),
        ("--max-class-loss", "5", "did you mean 0.05?"),
        ("--holdout", "91.5", "did you mean 0.915?"),
    ] {
        let mut command = with_exits(&cluster, &example().join("calibration.npz"), &out);
        let output = command.args([option, value]).output().expect("compile starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {said}");
        assert!(said.contains(hint) && said.contains(option), "{said}");
    }
    let calibration = example().join("calibration.npz");
    let mut command = with_exits(&cluster, &calibration, &out);
    let output = command.arg("--holdout").arg(&calibration).output().expect("compile starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("is the calibration data"), "{said}");
}

/// Processes whose program lies below a folder.
fn running_below(folder: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("there are processes").flatten();
    let programs = processes.filter_map(|process| std::fs::read_link(process.path().join("exe")).ok());
    programs.filter(|program| program.starts_with(folder)).collect()
}

#[test]
fn a_compiler_that_is_told_to_end_leaves_no_process_and_no_temporary_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).expect("the folder is ours");
    let calibration = example().join("calibration.npz");
    let mut command = with_effort("100", &cluster(folder.path()), &calibration, &folder.path().join("out"));
    command.env("TMPDIR", &temporary);
    let mut compiler = command.stderr(Stdio::null()).spawn().expect("the compiler starts");
    let give_up = Instant::now() + Duration::from_secs(120);
    while running_below(&temporary).is_empty() {
        assert_eq!(compiler.try_wait().expect("it is our child"), None, "it ended before it computed features");
        assert!(Instant::now() < give_up, "it computes no features");
        std::thread::sleep(Duration::from_millis(20));
    }
    let compiler_id = rustix::process::Pid::from_child(&compiler);
    rustix::process::kill_process(compiler_id, rustix::process::Signal::TERM).expect("it is our child");
    let status = compiler.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(rustix::process::Signal::TERM.as_raw()), "{status}");
    assert_eq!(running_below(&temporary), Vec::<PathBuf>::new());
    let left: Vec<_> = std::fs::read_dir(&temporary).expect("the folder is ours").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
