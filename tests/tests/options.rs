//! Every option of the command line, and every key of cluster and target files, changes something that is seen here, or
//! is refused with the reason: one table each, which fails when an option or a key has no line in it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::CommandFactory;
use onnx_protobuf::Message;
use partita::cli::Arguments;
use partita::driver::{self, Compiled, Failure, Options};
use partita::usage;
use partita_tests::command::compile;
use partita_tests::place;
use serde_json::Value;

mod keys;
mod of_commands;
mod of_models;
mod of_records;
mod of_studies;
mod one_run;
mod rules;

use of_commands::{
    a_code_is_explained, a_simulation_writes_a_timeline_and_nothing_else, a_stage_is_printed,
    machines_are_looked_at_before_anything_is_built, quiet_says_nothing, what_is_built_is_kept_or_not,
};
use of_models::{
    a_fixed_input_is_a_constant, an_open_dimension_is_what_shape_says, an_output_becomes_an_input,
    numbers_are_as_wanted, weights_in_fewer_bytes_are_read_sooner,
};
use of_records::{
    a_tuning_record_is_used_and_named, an_earlier_plan_is_kept, emulators_are_not_measured,
    measurements_are_used_and_named,
};
use of_studies::studies_read_what_they_are_given;
use one_run::{Run, run};

/// How an option is shown to do something.
enum Shown {
    /// With these words the plan, or what is predicted of it, differs from that without them.
    Report(&'static [&'static str]),
    /// Planning with these words is refused with this text.
    Refused(&'static [&'static str], &'static str),
    /// By what the one run of [`run`] left.
    Run(fn(&Run)),
    /// By a test of its own.
    Test(fn()),
}

use Shown::{Refused, Report, Run as InRun, Test};

/// Every argument by its name; `learn`, `builds` and others: one line for each new one.
const OPTIONS: &[(&str, Shown)] = &[
    ("model", Test(another_model_is_another_plan)),
    ("targets", Test(another_cluster_is_another_plan)),
    ("out", InRun(|run| assert!(run.folder.path().join("out/report.json").is_file()))),
    ("objective", Report(&["--objective", "memory"])),
    ("strategy", Report(&["--strategy", "whole"])),
    ("shapes", Test(an_open_dimension_is_what_shape_says)),
    ("fixed", Test(a_fixed_input_is_a_constant)),
    ("states", Test(an_output_becomes_an_input)),
    ("batch", Report(&["--batch", "4"])),
    ("exact", Report(&["--exact"])),
    ("numbers", Test(numbers_are_as_wanted)),
    ("weights", Test(weights_in_fewer_bytes_are_read_sooner)),
    ("quantize", Refused(&["--quantize", "int8", "--calibration", "no-such.npz"], "no-such.npz")),
    ("quantize_ranges", Test(studies_read_what_they_are_given)),
    ("write_onnx", Test(studies_read_what_they_are_given)),
    ("max_latency", Refused(&["--max-latency", "1e-6"], "--max-latency")),
    ("advise", Test(what_would_help_is_computed)),
    ("plan", Test(an_earlier_plan_is_kept)),
    ("link_error", Test(links_send_fewer_bytes_as_far_as_they_may)),
    ("measured", Test(measurements_are_used_and_named)),
    ("tuned", Test(a_tuning_record_is_used_and_named)),
    ("measure", Test(emulators_are_not_measured)),
    ("measure_emulated", Test(emulators_are_not_measured)),
    ("tune", Test(emulators_are_not_measured)),
    ("build", InRun(|run| assert!(run.folder.path().join("out/bin/only").is_file()))),
    ("symbols", InRun(|run| assert!(run.folder.path().join("out/symbols/only").is_file()))),
    ("no_build_cache", Test(what_is_built_is_kept_or_not)),
    ("run", InRun(|run| assert!(run.report["run"]["outputs"][0]["elements"].is_array()))),
    ("input", InRun(|run| assert_eq!(run.report["run"]["outputs"][0]["largest"], run.class))),
    ("repeat", InRun(|run| assert_eq!(run.report["run"]["repeat"], 3))),
    ("output", InRun(|run| assert!(partita::data::read_npz(&run.folder.path().join("y.npz")).is_ok()))),
    ("evaluate", InRun(|run| assert!(run.report["evaluation"]["accuracy"].as_f64() > Some(0.5)))),
    ("samples", InRun(|run| assert_eq!(run.report["evaluation"]["samples"], 5))),
    ("log", InRun(|run| assert_eq!(run.text("log.csv").lines().count(), 6))),
    ("launcher", InRun(|run| assert!(run.text("launched").lines().all(|name| name == "only")))),
    ("verify", InRun(|run| assert!(run.stderr.contains("verified"), "{}", run.stderr))),
    ("normalize", InRun(|run| assert!(run.report["evaluation"]["accuracy"].as_f64() > Some(0.5)))),
    ("layout", InRun(|run| assert!(run.report["evaluation"]["accuracy"].as_f64() > Some(0.5)))),
    ("format", InRun(|run| assert!(run.report.is_object()))),
    ("verbose", InRun(|run| assert!(run.stderr.contains("partita: partition done"), "{}", run.stderr))),
    ("quiet", Test(quiet_says_nothing)),
    ("deploy", Test(machines_are_looked_at_before_anything_is_built)),
    ("status", Test(machines_are_looked_at_before_anything_is_built)),
    ("undeploy", Test(machines_are_looked_at_before_anything_is_built)),
    ("simulate", Test(a_simulation_writes_a_timeline_and_nothing_else)),
    ("timeline", Test(a_simulation_writes_a_timeline_and_nothing_else)),
    ("print_ir_after", Test(a_stage_is_printed)),
    ("explain", Test(a_code_is_explained)),
    ("calibration", Refused(&["--exits", "auto", "--calibration", "no-such.npz"], "no-such.npz")),
    ("exits", Test(studies_read_what_they_are_given)),
    ("variants", Test(studies_read_what_they_are_given)),
    ("exit_outputs", Test(studies_read_what_they_are_given)),
    ("training", Test(studies_read_what_they_are_given)),
    ("groups", Test(studies_read_what_they_are_given)),
    ("stream", Test(studies_read_what_they_are_given)),
    ("effort", Test(studies_read_what_they_are_given)),
    ("max_loss", Test(studies_read_what_they_are_given)),
    ("min_accuracy", Test(studies_read_what_they_are_given)),
    ("max_class_loss", Test(studies_read_what_they_are_given)),
    ("holdout", Test(studies_read_what_they_are_given)),
];

#[test]
fn every_option_does_something() {
    let mut command = Arguments::command();
    command.build();
    let names: Vec<String> = command.get_arguments().map(|argument| argument.get_id().to_string()).collect();
    let known = |name: &str| OPTIONS.iter().any(|(other, _)| *other == name);
    let without: Vec<&String> =
        names.iter().filter(|name| !["help", "version"].contains(&name.as_str()) && !known(name)).collect();
    assert!(
        without.is_empty(),
        "no line in OPTIONS for {without:?}: say there what shows that the option does something"
    );
    let gone: Vec<&str> =
        OPTIONS.iter().map(|(name, _)| *name).filter(|name| !names.iter().any(|other| other == name)).collect();
    assert!(gone.is_empty(), "OPTIONS has lines for options that are not there: {gone:?}");
    let plain = figures(&compiled(&[]).expect("the example compiles"));
    for (name, shown) in OPTIONS {
        println!("{name}");
        match shown {
            Report(words) => {
                let with = figures(&compiled(words).unwrap_or_else(|failure| panic!("{words:?}: {failure}")));
                assert_ne!(with, plain, "{name}: {words:?} changes nothing");
            }
            Refused(words, text) => {
                let failure = compiled(words).expect_err(name).to_string();
                assert!(failure.contains(text), "{name}: {failure}");
            }
            InRun(check) => check(run()),
            Test(test) => test(),
        }
    }
}

/// A folder with a small network.
pub fn small() -> &'static str {
    static FOLDER: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = partita_tests::onnx::three_convolutions().write_to_bytes().expect("it is plain data");
        std::fs::write(folder.path().join("model.onnx"), bytes).expect("the folder is ours");
        let path = folder.path().to_string_lossy().into_owned();
        (folder, path)
    });
    &made.1
}

fn example(name: &str) -> PathBuf {
    place::repository().join("examples/resnet").join(name)
}

/// Two boards on a fast switch: worth splitting.
const CLUSTER: &str = "[cluster]\nname = \"t\"\ninput = \"pi-0\"\noutput = \"pi-0\"\n[[device]]\nname = \"pi\"\n\
    target = \"raspberry-pi-3\"\ncount = 2\n[[link]]\nbetween = [\"pi\"]\ntransport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n";

fn parsed(words: &[&str]) -> Arguments {
    let all = ["compile", "m.onnx", "--targets", "c.toml"].iter().chain(words);
    usage::parse(all.map(std::ffi::OsString::from)).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The small network, planned with these words.
fn compiled(words: &[&str]) -> Result<Compiled, Failure> {
    compiled_for(CLUSTER, words)
}

fn compiled_for(cluster: &str, words: &[&str]) -> Result<Compiled, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, cluster).expect("the folder is ours");
    let model = Path::new(small()).join("model.onnx");
    driver::compile(&model, &path, &Options::of(&parsed(words)), &mut ())
}

/// What is decided and predicted, without the names of what was asked for and the compiler's own times.
fn figures(compiled: &Compiled) -> Value {
    let report = partita::commands::summary::report(compiled);
    let mut report = serde_json::to_value(report).expect("a report is plain data");
    report["compile"] = Value::Null;
    for key in ["solve_ms", "objective", "hash", "batch"] {
        report["plan"][key] = Value::Null;
    }
    report
}

fn links_send_fewer_bytes_as_far_as_they_may() {
    let slow = CLUSTER.replace("1 Gbit/s", "20 Mbit/s");
    let planned = |error: &str| {
        let compiled = compiled_for(&slow, &["--strategy", "spatial", "--link-error", error]).expect("it compiles");
        let latency_ms = compiled.routed.prediction.latency_ms;
        (compiled.routed.prediction.traffic_bytes, latency_ms, compiled.links)
    };
    let (exact_bytes, exact_ms, none) = planned("exact");
    assert!(none.is_none());
    let (bytes, latency_ms, links) = planned("1e-2");
    let links = links.expect("halves are exact enough");
    assert!(bytes < exact_bytes && latency_ms < exact_ms, "{bytes} of {exact_bytes} B, {latency_ms} ms of {exact_ms}");
    assert!(links.error > 0.0 && links.error <= 1e-2 && !links.tensors.is_empty(), "{links:?}");
    assert_eq!((links.exact_latency_ms, links.exact_traffic_bytes), (Some(exact_ms), Some(exact_bytes)));
    // No rounding changes an answer by so little.
    assert_eq!(planned("1e-9").0, exact_bytes);
    for refused in ["0", "1", "nothing"] {
        let words = ["compile", "m.onnx", "--targets", "c.toml", "--link-error", refused];
        let refusal = usage::parse(words.map(std::ffi::OsString::from)).expect_err(refused).to_string();
        assert!(refusal.contains("share of the answer's largest element"), "{refusal}");
    }
}

fn another_model_is_another_plan() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, CLUSTER).expect("the folder is ours");
    let missing = driver::compile(Path::new("no-such.onnx"), &path, &Options::default(), &mut ());
    assert!(missing.expect_err("there is no model").to_string().contains("no-such.onnx"));
    let deeper = driver::compile(&example("resnet20.onnx"), &path, &Options::default(), &mut ()).expect("it compiles");
    assert_ne!(figures(&deeper), figures(&compiled(&[]).expect("it compiles")));
}

fn another_cluster_is_another_plan() {
    let faster = CLUSTER.replace("raspberry-pi-3", "raspberry-pi-4");
    assert_ne!(
        figures(&compiled_for(&faster, &[]).expect("it compiles")),
        figures(&compiled(&[]).expect("it compiles"))
    );
}

fn what_would_help_is_computed() {
    let slow = CLUSTER.replace("1 Gbit/s", "20 Mbit/s");
    let plain = figures(&compiled_for(&slow, &[]).expect("it compiles"))["advice"].clone();
    assert!(plain["changes"].is_null() && plain["held_back_by"].is_string(), "{plain}");
    let advised = figures(&compiled_for(&slow, &["--advise"]).expect("it compiles"))["advice"].clone();
    let changes = advised["changes"].as_array().expect("they were asked for");
    assert!(!changes.is_empty() && changes.len() <= 3, "{advised}");
    let latency_ms = |change: &Value| change["latency_ms"].as_f64().expect("a time");
    assert!(changes.windows(2).all(|pair| latency_ms(&pair[0]) <= latency_ms(&pair[1])), "{advised}");
    // Each is what a cluster file that says so would be predicted to take.
    for (change, from, to) in [
        ("all cores of every device (threads = \"all\")", "count = 2", "count = 2\nthreads = \"all\""),
        ("links that are 10 times as fast", "20 Mbit/s", "200 Mbit/s"),
        ("one more device like pi-1", "count = 2", "count = 3"),
    ] {
        let asked = compiled_for(&slow.replace(from, to), &[]).expect("it compiles").routed.prediction.latency_ms;
        if let Some(known) = changes.iter().find(|known| known["what"] == change) {
            assert!((latency_ms(known) - asked).abs() < 1e-9 * asked, "{change}: {known}, asked for {asked}");
        }
    }
    assert!(changes.iter().any(|change| change["what"] == "links that are 10 times as fast"), "{advised}");
}

#[test]
fn reports_are_what_their_schema_says() {
    let simulated = [vec!["--advise"], vec!["--objective", "memory"], vec!["--weights", "int8", "--batch", "2"]];
    let simulated = simulated.iter().map(|words| {
        let report = partita::commands::summary::report(&compiled(words).expect("it compiles"));
        serde_json::to_value(report).expect("a report is plain data")
    });
    simulated.chain([run().report.clone()]).for_each(|report| partita_tests::schema::check_report(&report));
    // What was measured stands beside what was predicted, not in its place.
    let report = &run().report;
    let cluster = run().folder.path().join("cluster.toml");
    let predicted =
        driver::compile(&example("model.onnx"), &cluster, &Options::default(), &mut ()).expect("it compiles");
    let device = &report["devices"][0];
    let compute_ms = device["compute_ms"].as_f64().expect("a prediction");
    assert!((compute_ms - predicted.routed.prediction.devices[0].compute_ms).abs() < 1e-9);
    assert!(device["measured"]["compute_ms"].as_f64().is_some_and(|measured| measured > 0.0 && measured != compute_ms));
}

#[test]
fn errors_are_json_where_it_is_asked_for() {
    let errors = |words: &[&str], status: i32| {
        let output = compile().args(words).output().expect("it starts");
        assert_eq!(output.status.code(), Some(status));
        assert!(output.stdout.is_empty());
        let errors: Value = serde_json::from_slice(&output.stderr).expect("nothing but JSON is printed");
        assert_eq!((&errors["schema"], &errors["status"]), (&Value::from(1), &Value::from(status)));
        errors["errors"].clone()
    };
    let missing = errors(&["no-such.onnx", "--targets", "examples/resnet/cluster.toml", "--format", "json"], 1);
    assert_eq!(missing[0]["code"], "E0100");
    let usage = errors(&["m.onnx", "--targets", "c.toml", "--simulate", "--run", "--format=json"], 2);
    assert_eq!(usage[0]["code"], "usage");
    assert!(usage[0]["message"].as_str().is_some_and(|text| text.contains("exclude each other")), "{usage}");
    let model = place::repository().join("examples/resnet/model.onnx");
    let model = model.to_string_lossy();
    let infeasible =
        ["--targets", "examples/resnet/cluster.toml", "--format", "json", "--simulate", "--max-latency", "1e-6"];
    let words: Vec<&str> = std::iter::once(&*model).chain(infeasible).collect();
    assert_eq!(errors(&words, 3)[0]["code"], "E0172");
}
