//! Options by which the command does something else than to compile, or says more or less of it.

use partita::driver::{self, Options};
use partita_tests::command::{compile, succeed};
use serde_json::Value;

use super::{CLUSTER, example};

/// They are seen at work in `deploy.rs`; here, that none is overheard where there is nobody to log in.
pub fn machines_are_looked_at_before_anything_is_built() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = partita_tests::bundle::ClusterText::single("host").write(folder.path());
    let run = |words: &[&str]| {
        let mut command = compile();
        command.arg(example("model.onnx")).arg("--targets").arg(&cluster).args(words);
        let output = command.output().expect("it starts");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), said.concat())
    };
    let out = folder.path().join("out");
    let (code, said) = run(&["--deploy", "--out", &out.to_string_lossy()]);
    assert!(code == Some(1) && said.contains("has no address") && !out.exists(), "{said}");
    let (code, said) = run(&["--status"]);
    assert!(code == Some(1) && said.contains("without address") && said.contains("E0702"), "{said}");
    assert_eq!(run(&["--undeploy"]), (Some(0), "nothing was installed\n".to_string()));
}

/// Where earlier builds are kept is opened before cargo is started, which here is a program that fails.
pub fn what_is_built_is_kept_or_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("cache");
    let build = |more: &[&str]| {
        let cluster = partita_tests::bundle::ClusterText::single("host").write(folder.path());
        let mut command = compile();
        command.arg(example("model.onnx")).arg("--targets").arg(cluster).arg("--out").arg(folder.path().join("out"));
        command.env("XDG_CACHE_HOME", &cache).env("CARGO", "/bin/false").arg("--build").args(more);
        assert_eq!(command.output().expect("it starts").status.code(), Some(1));
        std::fs::read_dir(&cache).is_ok_and(|entries| entries.count() > 0)
    };
    assert!(!build(&["--no-build-cache"]), "something is kept");
    assert!(build(&[]), "nothing is kept");
}

pub fn quiet_says_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |more: &[&str]| {
        let mut command = compile();
        command.arg(example("model.onnx")).arg("--targets").arg(example("cluster.toml"));
        command.arg("--out").arg(folder.path().join("out")).args(more);
        String::from_utf8_lossy(&succeed(&mut command).stderr).into_owned()
    };
    assert!(said(&[]).contains("partita: wrote"));
    assert_eq!(said(&["--quiet"]), "");
}

pub fn a_simulation_writes_a_timeline_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = folder.path().join("trace.json");
    let mut command = compile();
    command.current_dir(folder.path()).arg(example("model.onnx")).arg("--targets").arg(example("cluster.toml"));
    let output = succeed(command.args(["--simulate", "--format", "json", "--timeline"]).arg(&trace));
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("it is ours").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, std::slice::from_ref(&trace));
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let mut command = compile();
    command.current_dir(folder.path()).arg(example("model.onnx")).arg("--targets").arg(example("cluster.toml"));
    succeed(command.args(["--simulate", "--out", "predicted"]));
    let mut written: Vec<_> = std::fs::read_dir(folder.path().join("predicted"))
        .expect("the report's folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    written.sort();
    assert_eq!(written, ["report.html", "report.json"]);
    let trace: Value =
        serde_json::from_slice(&std::fs::read(trace).expect("it was written")).expect("the trace is JSON");
    // What Perfetto reads: complete events with times in microseconds, and a name for every process.
    let events = trace["traceEvents"].as_array().expect("there are events");
    let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let last = spans.iter().map(|span| span["ts"].as_f64().unwrap_or(0.0) + span["dur"].as_f64().unwrap_or(0.0));
    let latency_us = report["plan"]["latency_ms"].as_f64().expect("a latency") * 1e3;
    assert!((last.fold(0.0, f64::max) - latency_us).abs() < 1.0, "the course ends with the answer");
    for device in report["devices"].as_array().expect("the report lists devices") {
        let named = |event: &&Value| event["ph"] == "M" && event["args"]["name"] == device["name"];
        let process = events.iter().find(named).expect("every device is a process");
        let own = spans.iter().filter(|span| span["pid"] == process["pid"] && span["cat"] == "compute");
        let computing_ms: f64 = own.map(|span| span["dur"].as_f64().unwrap_or(0.0) * 1e-3).sum();
        assert!((computing_ms - device["compute_ms"].as_f64().expect("a time")).abs() < 1e-3, "{}", device["name"]);
    }
}

pub fn a_stage_is_printed() {
    let mut command = compile();
    command.arg(example("model.onnx")).arg("--targets").arg(example("cluster.toml")).arg("--simulate");
    let output = succeed(command.args(["--print-ir-after", "partition"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("; after partition\n") && !text.contains("; after import\n"), "{text}");
    // Every stage that the option takes is one that comes by.
    let mut seen = Stages(Vec::new());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, CLUSTER).expect("the folder is ours");
    let options = Options { batch: 2, ..Options::default() };
    driver::compile(&example("model.onnx"), &path, &options, &mut seen).expect("it compiles");
    let missing: Vec<&str> =
        driver::stages().into_iter().filter(|stage| !seen.0.contains(&(*stage).to_string())).collect();
    assert_eq!(missing, ["quantize", "exits"], "the only stages that need samples");
}

struct Stages(Vec<String>);

impl driver::Dump for Stages {
    fn stage(&mut self, name: &str, _text: &dyn std::fmt::Display) {
        self.0.push(name.to_string());
    }
}

pub fn a_code_is_explained() {
    let output = succeed(compile().args(["--explain", "E0143"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("stores the constant matrices"));
    let output = compile().args(["--explain", "E0143", "--simulate"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "--explain says its page and stops");
}
