//! Programs that talk to a running cluster: the Python module and the library for C, as their examples use them, and the
//! client in Rust.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use partita_rt::hosted::client::Client;
use partita_rt::node::Outcome;
use partita_tests::arrays;
use partita_tests::backend::python;
use partita_tests::bundle::{ClusterText, TOLERANCE};
use partita_tests::command::{compile, compile_binary, succeed};
use partita_tests::device::{self, Device, free_place};
use partita_tests::place;
use partita_tests::reference::right_answers;

/// Starts a device and waits until it listens.
fn start(bundle: &Path, name: &str, arguments: &[&str]) -> Device {
    let device = device::start(bundle, name, arguments);
    for _ in 0..2000 {
        // It exists a moment before anybody listens.
        if UnixStream::connect(&device.socket).is_ok() {
            return device;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("`{name}` does not listen");
}

/// Three running devices that share the digit reader: the input is on the first, the output on the last.
struct Cluster {
    folder: tempfile::TempDir,
    report: PathBuf,
    devices: [Device; 3],
}

fn cluster() -> Cluster {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let slow = "cpu = 0.01";
    let cluster = ["a", "b", "c"].iter().fold(ClusterText::new("a", "c"), |text, name| text.device(name, "host", slow));
    let cluster = cluster.link("a", "b", "tcp", "1 Gbit/s").link("b", "c", "tcp", "1 Gbit/s").write(folder.path());
    let out = folder.path().join("out");
    let mut command = compile();
    command
        .arg(place::repository().join("examples/digits/model.onnx"))
        .arg("--targets")
        .arg(&cluster)
        .args(["--link-error", "exact", "--out"])
        .arg(&out);
    succeed(command.args(["--build", "--strategy", "pipeline"]));
    let places = [free_place(), free_place()];
    let [to_a, to_b] = [format!("a={}", places[0]), format!("b={}", places[1])];
    let devices = [
        start(&out, "a", &["--listen", &places[0]]),
        start(&out, "b", &["--listen", &places[1], "--peer", &to_a]),
        start(&out, "c", &["--peer", &to_b]),
    ];
    Cluster { report: out.join("report.json"), folder, devices }
}

/// The plan that a report is of, as it writes it.
fn plan_hash(report: &Path) -> String {
    let text = std::fs::read_to_string(report).expect("it was written");
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    report["plan"]["hash"].as_str().expect("it names the plan").to_string()
}

#[test]
fn python_classifies_samples_through_three_devices() {
    let has_numpy = Command::new(python()).args(["-c", "import numpy"]).output();
    if !has_numpy.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Python with numpy (`tests/setup` installs it)");
        return;
    }
    let Cluster { folder, report, devices: [a, _b, c] } = cluster();
    let digits = place::repository().join("examples/digits");
    let client = place::repository().join("examples/python");
    let classify = |report: &Path| {
        let mut command = Command::new(python());
        command.current_dir(&client).env("PYTHONDONTWRITEBYTECODE", "1").arg("classify.py");
        command.arg(report).args([&a.socket, &c.socket]).arg(digits.join("test.npz"));
        command
    };
    let said = succeed(&mut classify(&report));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    println!("{said}");
    let expected = right_answers(&digits);
    assert!(said.starts_with(&format!("{expected} of 200 right (200 full)")), "{said}, expected {expected}");
    // A report of another plan is noticed before anything is handed in.
    let text = std::fs::read_to_string(&report).expect("it was written");
    let other = folder.path().join("other.json");
    std::fs::write(&other, text.replace(&plan_hash(&report), "0123456789abcdef")).expect("the folder is writable");
    let refused = classify(&other).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("the report is of 0123456789abcdef"), "{said}");
}

#[test]
fn a_program_in_rust_has_several_inputs_under_way() {
    let Cluster { folder: _folder, report, devices: [mut a, _b, mut c] } = cluster();
    let plan_hash = u64::from_str_radix(&plan_hash(&report), 16).expect("a number");
    assert!(Client::connect(plan_hash ^ 1, &a.socket, Some(&c.socket)).is_err(), "another plan");
    let mut client = Client::connect(plan_hash, &a.socket, Some(&c.socket)).expect("devices listen");
    let reference = arrays::read_f32(&place::repository().join("examples/digits/reference.npz"));
    let input: Vec<u8> = reference["image"].elements.iter().flat_map(|x| x.to_le_bytes()).collect();
    let expected: Vec<f64> = reference["probabilities"].elements.iter().map(|x| f64::from(*x)).collect();
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let mut output = vec![0; 4 * expected.len()];
    let check = |output: &[u8]| {
        let found = output.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        let worst = found.zip(&expected).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f64::max);
        assert!(worst <= TOLERANCE, "{worst} off");
    };
    assert_eq!(client.infer(&input, &mut output).expect("it answers").outcome, Outcome::Full);
    check(&output);
    (0..6).for_each(|_| client.submit(&input).expect("it is taken"));
    for _ in 0..6 {
        output.fill(0);
        assert_eq!(client.next(&mut output).expect("it answers").outcome, Outcome::Full);
        check(&output);
    }
    assert!(client.next(&mut output).is_err(), "nothing is under way");
    let status = client.status().expect("it tells");
    assert!(status.contains("partita_records_total{outcome=\"full\"} 7\n"), "{status}");
    client.stop().expect("they hear it");
    for device in [&mut a, &mut c] {
        assert_eq!(device.process.wait().expect("it ends").code(), Some(0));
    }
}

#[test]
fn a_program_in_c_has_several_inputs_under_way() {
    let folder = place::repository().join("examples/c");
    let target = compile_binary().ancestors().nth(2).expect("it lies in a target folder").join("client-c");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--quiet", "--locked"]).current_dir(&folder).arg("--target-dir").arg(&target);
    // What it does is the same as optimised, which takes three times as long.
    succeed(cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"));
    let Cluster { folder: made, report, devices: [a, _b, c] } = cluster();
    let program = made.path().join("classify");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-O1"]).arg(folder.join("classify.c"));
    cc.arg(target.join("release/libpartita_client.a")).args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
    succeed(&mut cc);
    let reference = arrays::read_f32(&place::repository().join("examples/digits/reference.npz"));
    let input = made.path().join("input");
    let bytes: Vec<u8> = reference["image"].elements.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&input, bytes).expect("the folder is ours");
    let scores = &reference["probabilities"].elements;
    let largest = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("there are some");
    let run = |hash: &str| {
        let mut command = Command::new(&program);
        command.arg(hash).args([&a.socket, &c.socket, &input]).arg(scores.len().to_string());
        command.output().expect("it starts")
    };
    let output = run(&plan_hash(&report));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().count(), 5, "{said}");
    for line in said.lines() {
        let (class, score) = line.split_once(", score ").expect("a class and its score");
        let score: f64 = score.parse().expect("a number");
        assert_eq!(class, format!("class {largest}"));
        assert!((score - f64::from(scores[largest])).abs() <= TOLERANCE, "{line}, expected {}", scores[largest]);
    }
    let output = run("0123456789abcdef");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("the device runs another plan"), "{said}");
}
