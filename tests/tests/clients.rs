//! Programs that talk to a running cluster: the Python module and the library for C, as their examples use them, and the
//! client in Rust.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use partita_rt::Error;
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
    /// What each says on its command line.
    words: [Vec<String>; 3],
}

impl Cluster {
    /// Ends a device without notice, and starts it again.
    fn restart(&mut self, device: usize) {
        let _ = self.devices[device].process.kill();
        let _ = self.devices[device].process.wait();
        let words: Vec<&str> = self.words[device].iter().map(String::as_str).collect();
        self.devices[device] = start(&self.folder.path().join("out"), ["a", "b", "c"][device], &words);
    }
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
    let words = [&["--listen", &places[0]][..], &["--listen", &places[1], "--peer", &to_a], &["--peer", &to_b]];
    let devices = [0, 1, 2].map(|device| start(&out, ["a", "b", "c"][device], words[device]));
    let words = words.map(|words| words.iter().map(|word| (*word).to_string()).collect());
    Cluster { report: out.join("report.json"), folder, devices, words }
}

/// The plan that a report is of, as it writes it.
fn plan_hash(report: &Path) -> String {
    let text = std::fs::read_to_string(report).expect("it was written");
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    report["plan"]["hash"].as_str().expect("it names the plan").to_string()
}

/// Whether there is a Python with numpy; says so where there is none.
fn has_numpy() -> bool {
    let imported = Command::new(python()).args(["-c", "import numpy"]).output();
    let is_there = imported.is_ok_and(|output| output.status.success());
    if !is_there {
        println!("skipped: no Python with numpy (`tests/setup` installs it)");
    }
    is_there
}

#[test]
fn python_classifies_samples_through_three_devices() {
    if !has_numpy() {
        return;
    }
    let Cluster { folder, report, devices: [a, _b, c], .. } = cluster();
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

/// Asks for one sample after the other until a file is there; each answer is compared with the first to the same sample.
const ASKS: &str = "
import os, sys
import numpy, partita
report, a, c, samples, told, stop = sys.argv[1:]
x = numpy.load(samples)['x']
first, counts = {}, {'right': 0, 'wrong': 0, 'lost': 0, 'none': 0}
with partita.Cluster(report, input=a, output=c, budget=5.0) as cluster:
    at = 0
    while not os.path.exists(stop):
        at = (at + 1) % len(x)
        try:
            scores = cluster.infer(x[at])
            same = numpy.array_equal(first.setdefault(at, scores), scores)
            counts['right' if same else 'wrong'] += 1
        except partita.Lost:
            counts['lost'] += 1
        except partita.NoAnswer:
            counts['none'] += 1
        if counts['right'] % 50 == 0:
            with open(told + '.new', 'w') as file:
                file.write(str(counts['right']))
            # In one step: who reads it meanwhile must not find it empty.
            os.replace(told + '.new', told)
print(counts['right'], counts['wrong'], counts['lost'], counts['none'])
";

#[test]
fn python_goes_on_when_the_devices_that_it_talks_to_come_back() {
    if !has_numpy() {
        return;
    }
    let mut cluster = cluster();
    let (told, stop) = (cluster.folder.path().join("told"), cluster.folder.path().join("stop"));
    let mut command = Command::new(python());
    command.current_dir(place::repository().join("examples/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(["-c", ASKS]).arg(&cluster.report).args([&cluster.devices[0].socket, &cluster.devices[2].socket]);
    command.arg(place::repository().join("examples/digits/test.npz")).args([&told, &stop]);
    let asks = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let answers = || match std::fs::read_to_string(&told) {
        Ok(text) => text.parse::<u32>().expect("a number"),
        Err(_) => 0,
    };
    let wait_for_more = || {
        let (before, begun) = (answers(), Instant::now());
        while answers() < before + 200 {
            assert!(begun.elapsed() < Duration::from_secs(30), "no answers any more, after {before}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for_more();
    for device in [2, 0, 1, 0, 2] {
        cluster.restart(device);
        wait_for_more();
    }
    std::fs::write(&stop, "").expect("the folder is ours");
    let said = asks.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let counts: Vec<u32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [right, wrong, lost, none] = counts[..] else { panic!("four numbers, not {said}") };
    println!("{right} right, {wrong} wrong, {lost} lost, {none} without an answer");
    // One is under way at a time: each loss of a device that Python talks to costs one at most.
    assert!(right >= 1200 && wrong == 0 && none == 0 && lost <= 4, "{said}");
}

#[test]
fn a_program_in_rust_has_several_inputs_under_way() {
    let Cluster { folder: _folder, report, devices: [mut a, _b, mut c], .. } = cluster();
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
fn a_program_in_rust_goes_on_when_the_devices_that_it_talks_to_come_back() {
    let mut cluster = cluster();
    let plan_hash = u64::from_str_radix(&plan_hash(&cluster.report), 16).expect("a number");
    let sockets = [0, 2].map(|device: usize| cluster.devices[device].socket.clone());
    let mut client = Client::connect(plan_hash, &sockets[0], Some(&sockets[1])).expect("devices listen");
    client.set_budget(Duration::from_secs(5)).expect("it hears it");
    let reference = arrays::read_f32(&place::repository().join("examples/digits/reference.npz"));
    let input: Vec<u8> = reference["image"].elements.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut first = vec![0; 4 * reference["probabilities"].elements.len()];
    client.infer(&input, &mut first).expect("it answers");
    let mut output = vec![0; first.len()];
    for device in [2, 0, 1, 0, 2] {
        // With some under way, each of which has an answer or is known to have none.
        (0..4).for_each(|_| client.submit(&input).expect("it is there"));
        cluster.restart(device);
        let mut answered = 0;
        for _ in 0..4 {
            output.fill(0);
            match client.next(&mut output) {
                Ok(record) => {
                    assert_eq!((record.outcome, &output), (Outcome::Full, &first));
                    answered += 1;
                }
                Err(error) => assert_eq!((error, device != 1), (Error::Lost, true)),
            }
        }
        println!("{answered} of 4 answered when device {device} ended");
        for _ in 0..20 {
            output.fill(0);
            assert_eq!(client.infer(&input, &mut output).expect("it is there again").outcome, Outcome::Full);
            assert_eq!(output, first);
        }
    }
    // While nothing is under way a device comes and goes unnoticed.
    cluster.restart(2);
    assert_eq!(client.infer(&input, &mut output).expect("nothing is lost").outcome, Outcome::Full);
}

#[test]
fn a_program_in_c_has_several_inputs_under_way() {
    let folder = place::repository().join("examples/c");
    let target = compile_binary().ancestors().nth(2).expect("it lies in a target folder").join("client-c");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--quiet", "--locked"]).current_dir(&folder).arg("--target-dir").arg(&target);
    // What it does is the same as optimised, which takes three times as long.
    succeed(cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"));
    let Cluster { folder: made, report, devices: [a, _b, c], .. } = cluster();
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
