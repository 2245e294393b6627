//! Every option of the command line, and every key of cluster and target files, changes something that is seen here, or
//! is refused with the reason: one table each, which fails when an option or a key has no line in it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::CommandFactory;
use partita::cli::Arguments;
use partita::driver::{self, Compiled, Failure, Options};
use partita::usage;
use partita_tests::command::{compile, succeed};
use partita_tests::place;
use serde_json::Value;

mod keys;
mod rules;

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

/// The example, planned with these words.
fn compiled(words: &[&str]) -> Result<Compiled, Failure> {
    compiled_for(CLUSTER, words)
}

fn compiled_for(cluster: &str, words: &[&str]) -> Result<Compiled, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, cluster).expect("the folder is ours");
    driver::compile(&example("model.onnx"), &path, &Options::of(&parsed(words)), &mut ())
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

/// A matrix product `[n, depth] x [depth, columns]`, with the dimension `n` left open.
fn product(depth: i64, columns: i64) -> tempfile::NamedTempFile {
    use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    use partita_tests::onnx;
    use protobuf::Message;
    let weights = (0..depth * columns).map(|index| (index * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let graph = onnx_protobuf::GraphProto {
        name: "product".to_string(),
        node: vec![onnx::node("MatMul", &["x", "w"], &["y"], vec![])],
        input: vec![onnx::value_info_of("x", vec![DimValue(1), DimParam("n".to_string()), DimValue(depth)])],
        output: vec![onnx::value_info_of("y", vec![DimValue(1), DimParam("n".to_string()), DimValue(columns)])],
        initializer: vec![onnx::constant("w", &[depth, columns], weights)],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().expect("a temporary file");
    std::fs::write(file.path(), onnx::model(17, graph).write_to_bytes().expect("it is plain data"))
        .expect("it is ours");
    file
}

fn product_for(target: &str, model: &Path, words: &[&str]) -> Result<Compiled, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = partita_tests::bundle::ClusterText::single(target).write(folder.path());
    driver::compile(model, &cluster, &Options::of(&parsed(words)), &mut ())
}

fn an_open_dimension_is_what_shape_says() {
    let model = product(8, 8);
    let failure = product_for("host", model.path(), &[]).expect_err("a dimension is open").to_string();
    assert!(failure.contains("--shape x="), "{failure}");
    for rows in [3, 7] {
        let shape = format!("x=1x{rows}x8");
        let compiled = product_for("host", model.path(), &["--shape", &shape]).expect("now it is known");
        assert_eq!(compiled.graph.shape(compiled.graph.outputs[0]), [1, rows, 8]);
    }
}

fn a_fixed_input_is_a_constant() {
    let words = |value: &str| vec!["--shape".to_string(), "n=2".to_string(), "--set".to_string(), value.to_string()];
    let fixed = |value: &str| {
        let words = words(value);
        product_for("host", sum_of_two().path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let graph = fixed("b=0.5").expect("a number is a value").graph;
    assert_eq!(graph.inputs.len(), 1);
    let given = partita::graph::Value::f32([1, 2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let answers = partita::graph::eval::evaluate(&graph, &[given]).expect("it is computed");
    assert_eq!(answers[0].as_f32(), Some(&[1.5, 2.5, 3.5, 4.5, 5.5, 6.5][..]));
    for (wrong, text) in [("nobody=1", "no input"), ("b=1,2", "2 numbers")] {
        let failure = fixed(wrong).expect_err(wrong).to_string();
        assert!(failure.contains(text), "{failure}");
    }
}

fn an_output_becomes_an_input() {
    let kept = |value: &str| product_for("host", sum_of_two().path(), &["--shape", "n=2", "--state", value]);
    let graph = kept("y=b").map(|compiled| compiled.graph);
    // Then no output would be left.
    let refusal = graph.expect_err("every output would be a state").to_string();
    assert!(refusal.contains("every output of the model would be a state"), "{refusal}");
    let refusal = kept("auto").expect_err("nothing is called alike").to_string();
    assert!(refusal.contains("E0144") && refusal.contains("--state OUTPUT=INPUT"), "{refusal}");
    let refusal = kept("nobody=b").expect_err("there is no such output").to_string();
    assert!(refusal.contains("no output `nobody`"), "{refusal}");
}

/// A sum of two inputs `[1, n, 3]`.
fn sum_of_two() -> tempfile::NamedTempFile {
    use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    use partita_tests::onnx;
    use protobuf::Message;
    let open = || vec![DimValue(1), DimParam("n".to_string()), DimValue(3)];
    let graph = onnx_protobuf::GraphProto {
        name: "sum".to_string(),
        node: vec![onnx::node("Add", &["a", "b"], &["y"], vec![])],
        input: vec![onnx::value_info_of("a", open()), onnx::value_info_of("b", open())],
        output: vec![onnx::value_info_of("y", open())],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().expect("a temporary file");
    std::fs::write(file.path(), onnx::model(17, graph).write_to_bytes().expect("it is plain data"))
        .expect("it is ours");
    file
}

/// A product of one row waits for its weights: in a quarter of the bytes they come in a quarter of the time.
fn weights_in_fewer_bytes_are_read_sooner() {
    let model = product(1024, 1024);
    let predicted = |storage: &str| {
        let words = ["--shape", "x=1x1x1024", "--weights", storage];
        product_for("raspberry-pi-5", model.path(), &words).expect("it compiles").routed.prediction.latency_ms
    };
    let [exact, half, quarter] = ["f32", "f16", "int8"].map(predicted);
    assert!((exact / half - 2.0).abs() < 0.1 && (exact / quarter - 4.0).abs() < 0.4, "{exact}, {half}, {quarter} ms");
    let none = partita_tests::onnx::node("Relu", &["x"], &["y"], vec![]);
    let graph = onnx_protobuf::GraphProto {
        name: "none".to_string(),
        node: vec![none],
        input: vec![partita_tests::onnx::value_info("x", &[1, 4])],
        output: vec![partita_tests::onnx::value_info("y", &[1, 4])],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes = protobuf::Message::write_to_bytes(&partita_tests::onnx::model(17, graph)).expect("plain data");
    std::fs::write(file.path(), bytes).expect("it is ours");
    let failure =
        product_for("host", file.path(), &["--weights", "int8"]).expect_err("there are no weights").to_string();
    assert!(failure.contains("E0143") && failure.contains("would change nothing"), "{failure}");
}

fn numbers_are_as_wanted() {
    let quantized = place::repository().join("tests/conformance/vectors/quantized_network.onnx");
    let predicted = |numbers: &str| {
        let compiled = product_for("raspberry-pi-4", &quantized, &["--numbers", numbers]).expect("it compiles");
        compiled.routed.prediction.latency_ms
    };
    let [auto, real, whole] = ["auto", "f32", "int8"].map(predicted);
    assert!(auto < real && auto == whole, "{auto}, {real}, {whole} ms");
    // Links send every number in 32 bits, and samples make whole numbers of real ones.
    let options = |words: &[&str]| Options::of(&parsed(words));
    assert_ne!(options(&[]).links.error, options(&["--numbers", "f32"]).links.error);
    let whole = options(&["--numbers", "int8", "--calibration", "c.npz"]);
    assert!(whole.quantize.is_some() && options(&["--numbers", "int8"]).quantize.is_none());
    let failure = compiled(&["--numbers", "int8"]).expect_err("the model has real numbers").to_string();
    assert!(failure.contains("E0197") && failure.contains("--calibration"), "{failure}");
}

fn an_earlier_plan_is_kept() {
    let whole = compiled(&["--strategy", "whole"]).expect("it compiles");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &whole.plan_bytes).expect("it is ours");
    let again = compiled(&["--plan", &file.path().to_string_lossy()]).expect("the plan is of this model");
    assert_eq!(again.routed.placed.partition.strategies, whole.routed.placed.partition.strategies);
    assert_ne!(
        again.routed.placed.partition.strategies,
        compiled(&[]).expect("it compiles").routed.placed.partition.strategies
    );
}

fn measurements_are_used_and_named() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    let text = "[origin]\ndate = \"2026-01-02 03:04 UTC\"\nmodel = \"other.onnx\"\n\
                [[kind]]\ntarget = \"raspberry-pi-3\"\ncpu = 1.0\n[kind.family]\nconv = 3.0\n";
    std::fs::write(file.path(), text).expect("it is ours");
    let slower = compiled(&["--measured", &file.path().to_string_lossy()]).expect("it compiles");
    assert!(
        slower.routed.prediction.latency_ms > compiled(&[]).expect("it compiles").routed.prediction.latency_ms * 1.5
    );
    let said: Vec<String> = slower.learned.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("of 2026-01-02 03:04 UTC, made with other.onnx"), "{said:?}");
    assert_eq!(figures(&slower)["learned"][0]["origin"]["date"], "2026-01-02 03:04 UTC");
}

fn a_tuning_record_is_used_and_named() {
    use partita::config::tuned::{Choice, Tuned, TunedConvolution};
    let plain = compiled(&["--strategy", "whole"]).expect("it compiles");
    let ways = plain.routed.placed.programs[0].kernels.iter().filter_map(|kernel| kernel.alternative.clone());
    let other = |choice: &Choice| Choice { form: "direct".to_string(), vectors: choice.vectors % 4 + 1 };
    let convolution = ways.map(|(shape, choice)| TunedConvolution {
        target: "raspberry-pi-3".to_string(),
        threads: 1,
        shape,
        choice: other(&choice),
        microseconds: 1.0,
        estimated_best_microseconds: 2.0,
    });
    let record = Tuned { convolution: convolution.collect(), ..Tuned::default() };
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), toml::to_string(&record).expect("plain data")).expect("it is ours");
    let tuned = compiled(&["--strategy", "whole", "--tuned", &file.path().to_string_lossy()]).expect("it compiles");
    let summaries = |compiled: &Compiled| -> Vec<String> {
        compiled.routed.placed.programs[0].kernels.iter().map(|kernel| kernel.summary.clone()).collect()
    };
    assert_ne!(summaries(&tuned), summaries(&plain));
    assert!(tuned.learned[0].to_string().contains("tuning record"), "{:?}", tuned.learned);
}

fn emulators_are_not_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A board whose emulator nobody has: to insist on it goes no further than to look for it.
    let target = keys::LINUX_TARGET.replace("[\"qemu-aarch64\"]", "[\"qemu-of-nobody\"]");
    std::fs::write(folder.path().join("board.toml"), target).expect("the folder is ours");
    let cluster = partita_tests::bundle::ClusterText::single("./board.toml").write(folder.path());
    for mode in ["--measure", "--tune"] {
        let execute = |more: &[&str]| {
            let model = example("model.onnx");
            let words = ["compile".as_ref(), model.as_os_str(), "--targets".as_ref(), cluster.as_os_str()];
            let words =
                words.into_iter().chain(std::iter::once(mode.as_ref())).chain(more.iter().map(|word| (*word).as_ref()));
            let arguments = usage::parse(words.map(std::ffi::OsString::from)).expect("the words are sound");
            partita::commands::execute(&arguments).expect_err("nobody has it").to_string()
        };
        let refused = execute(&[]);
        assert!(refused.contains("E0174") && refused.contains("--launcher"), "{refused}");
        let insisted = execute(&["--measure-emulated"]);
        assert!(insisted.contains("needs `qemu-of-nobody`"), "{insisted}");
    }
}

/// They are seen at work in `deploy.rs`; here, that none is overheard where there is nobody to log in.
fn machines_are_looked_at_before_anything_is_built() {
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
fn what_is_built_is_kept_or_not() {
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

fn quiet_says_nothing() {
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

fn a_simulation_writes_a_timeline_and_nothing_else() {
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

fn a_stage_is_printed() {
    let mut command = compile();
    command.arg(example("model.onnx")).arg("--targets").arg(example("cluster.toml")).arg("--simulate");
    let output = succeed(command.args(["--print-ir-after", "partition"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("; after partition\n") && !text.contains("; after import\n"), "{text}");
    // Every stage that the option takes is one that comes by.
    let mut seen = Seen(Vec::new());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, CLUSTER).expect("the folder is ours");
    let options = Options { batch: 2, ..Options::default() };
    driver::compile(&example("model.onnx"), &path, &options, &mut seen).expect("it compiles");
    let missing: Vec<&str> =
        driver::stages().into_iter().filter(|stage| !seen.0.contains(&(*stage).to_string())).collect();
    assert_eq!(missing, ["quantize", "exits"], "the only stages that need samples");
}

struct Seen(Vec<String>);

impl driver::Dump for Seen {
    fn stage(&mut self, name: &str, _text: &dyn std::fmt::Display) {
        self.0.push(name.to_string());
    }
}

fn a_code_is_explained() {
    let output = succeed(compile().args(["--explain", "E0143"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("stores the constant matrices"));
    let output = compile().args(["--explain", "E0143", "--simulate"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "--explain says its page and stops");
}

/// Options of exits and variants are seen at work in `exits.rs`, `exit_outputs.rs` and `variants.rs`; here, that none of them
/// is overheard before any training begins.
fn studies_read_what_they_are_given() {
    let calibration = example("calibration.npz");
    let calibration = calibration.to_string_lossy();
    let refused = |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--calibration", &calibration]).collect();
        compiled(&words).expect_err("it is refused").to_string()
    };
    for (words, part) in [
        (vec!["--exits", "auto", "--training", "no-such.npz"], "no-such.npz"),
        (vec!["--exits", "auto", "--calibration-groups", "nobody"], "no array `nobody`"),
        (vec!["--exits", "auto", "--holdout", "no-such.npz"], "no-such.npz"),
        (vec!["--variants", "auto", "--holdout", "no-such.npz"], "no-such.npz"),
        (vec!["--exit-outputs", "nothing"], "no output `nothing`"),
    ] {
        let said = refused(&words);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let few = tempfile::Builder::new().suffix(".npz").tempfile().expect("a temporary file");
    let samples = |count: usize| partita::graph::Value::f32([count, 3, 32, 32], vec![0.5; count * 3 * 32 * 32]);
    partita::data::write_npz(few.path(), &vec![("x".to_string(), samples(2))]).expect("it is ours");
    for study in [["--exits", "auto"], ["--variants", "auto"]] {
        let words = [study[0], study[1], "--calibration", &few.path().to_string_lossy()].map(String::from);
        let said = compiled(&words.iter().map(String::as_str).collect::<Vec<_>>()).expect_err("too few").to_string();
        assert!(said.contains("E0192"), "{study:?}: {said}");
    }
    let wanted = |words: &[&str]| {
        let base = ["--exits", "auto", "--calibration", "c.npz"].iter().chain(words).copied().collect::<Vec<_>>();
        format!("{:?}", Options::of(&parsed(&base)).exits)
    };
    for words in [
        vec!["--calibration-stream"],
        vec!["--exit-effort", "0.5"],
        vec!["--max-loss", "0.02"],
        vec!["--min-accuracy", "0.5"],
        vec!["--max-class-loss", "0.1"],
        vec!["--holdout", "0.9"],
    ] {
        assert_ne!(wanted(&words), wanted(&[]), "{words:?}");
    }
    // What they do is seen in `quantization.rs`.
    let whole = |words: &[&str]| {
        let base = ["--quantize", "int8", "--calibration", "c.npz"].iter().chain(words).copied().collect::<Vec<_>>();
        let Options { quantize, write_onnx, .. } = Options::of(&parsed(&base));
        format!("{quantize:?} {write_onnx:?}")
    };
    for words in [["--quantize-ranges", "min-max"], ["--write-onnx", "q.onnx"]] {
        assert_ne!(whole(&words), whole(&[]), "{words:?}");
    }
}

#[test]
fn reports_are_what_their_schema_says() {
    let simulated = [vec![], vec!["--objective", "memory"], vec!["--weights", "int8", "--batch", "2"]];
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

/// What one run of everything left behind.
struct Run {
    folder: tempfile::TempDir,
    report: Value,
    stderr: String,
    /// Right answer of the first sample.
    class: i64,
}

impl Run {
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// The example on this machine, with everything that can be done together, fed channels last and in another scale.
fn run() -> &'static Run {
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
