//! Variants, from the calibration samples to running processes that lose a device.

mod clusters;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use clusters::{CLASSES, CLUSTER, EXTENT, HUB, SERIAL, TARGET, WIDE, compiled, model, random};
use onnx_protobuf::{GraphProto, Message};
use partita::accuracy::Demands;
use partita::bundle;
use partita::bundle::cargo::{BuildOptions, BuiltDevice};
use partita::commands::summary;
use partita::data::{noise, write_npz};
use partita::driver::{self, Compiled, Options};
use partita::graph::{Data, Value, eval};
use partita::partition::StrategyFamily;
use partita::program::Program;
use partita::run::local::LocalOptions;
use partita::run::{LocalCluster, local};
use partita::variants::VariantOptions;
use partita::variants::mapping::Gain;
use partita::variants::report::VariantsReport;
use partita_tests::bundle::forbidden_symbols;
use partita_tests::command::{compile, succeed};
use partita_tests::onnx::{self, ints, node, value_info};

/// Longer than a busy machine keeps a process waiting.
const BRIEF: Duration = Duration::from_secs(3);

/// Whether no thread of a process goes on.
fn is_stopped(process: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    let state = |folder: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(folder.expect("it is there").path().join("stat")).expect("it says how it is")
    };
    threads.map(state).all(|state| state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

/// Builds the programs of all devices, in their order, with symbols.
fn build(folder: &Path, compiled: &Compiled) -> Vec<BuiltDevice> {
    bundle::write_programs(folder, compiled).expect("the folder is writable");
    let devices: Vec<_> =
        compiled.routed.placed.programs.iter().map(|program| &compiled.cluster.devices[program.device]).collect();
    let options = BuildOptions { symbols: true, ..BuildOptions::default() };
    bundle::cargo::build_devices(folder, &devices, options).expect("the crates build")
}

/// Starts all devices; one that is silent for so long is lost.
fn start(compiled: &Compiled, built: &[BuiltDevice], silence: Duration) -> LocalCluster {
    let wanted = LocalOptions { silence: Some(silence), ..LocalOptions::default() };
    local::start(compiled, built, wanted).expect("the cluster starts")
}

/// The largest difference of a route's answer from the reference kernels', relative to the largest score.
fn difference(compiled: &Compiled, route: u8, input: &Value, output: &[u8]) -> f32 {
    let graph = match usize::from(route).checked_sub(1) {
        None => &compiled.graph,
        Some(further) => &compiled.routed.routes[further].graph,
    };
    let expected =
        eval::evaluate(graph, std::slice::from_ref(input)).expect("the reference computes it").swap_remove(0);
    let expected = partita::data::to_f32(&expected.data);
    let found = local::unpack(graph, output).expect("it has the size of an answer").swap_remove(0).1;
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let pairs = expected.iter().zip(partita::data::to_f32(&found.data));
    pairs.map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max)
}

/// Checks that the report shows every alternative of every variant in every condition.
fn check_report(folder: &Path, compiled: &Compiled) {
    let report = summary::report(compiled);
    let out = folder.join("out");
    bundle::write(&out, compiled, &report).expect("the folder is writable");
    let page = std::fs::read_to_string(out.join("report.html")).expect("it was written");
    let known = compiled.routed.variants.as_ref().expect("variants were asked for");
    assert_eq!(
        page.matches("aria-label=\"accuracy of each variant against").count(),
        3,
        "the front against three costs"
    );
    let table = page.split("Each variant in each condition").nth(1).and_then(|rest| rest.split("</table>").next());
    let rows: Vec<&str> = table.expect("there is a table").split("<tr>").skip(2).collect();
    assert_eq!(rows.len(), known.variants.len());
    for (row, variant) in rows.iter().zip(&known.variants) {
        assert!(row.starts_with(&format!("<td>{}<td>", variant.name)), "{row}");
        for (cell, condition) in row.split("<td>").skip(2).zip(&known.conditions) {
            let alternatives = condition.choices.iter().filter(|choice| choice.variant == variant.name);
            let traffic: Vec<String> = alternatives.map(|choice| format!("ms, {} B, ", choice.traffic_bytes)).collect();
            assert!(traffic.iter().all(|bytes| cell.contains(bytes)), "{cell} lacks some of {traffic:?}");
            assert_eq!(cell.matches(" mJ, ").count(), traffic.len(), "{cell}");
        }
    }
    let alternatives = known.conditions.iter().flat_map(|condition| &condition.choices);
    assert!(
        alternatives.clone().count() > 0 && alternatives.clone().all(|choice| choice.ram_bytes > 0),
        "every alternative takes RAM"
    );
    check_gains(known);
    // A device of four that share the work holds less than one that does it alone.
    let fullest = |devices: usize| {
        alternatives
            .clone()
            .filter(move |choice| choice.devices.len() == devices)
            .map(|alternative| alternative.ram_bytes)
    };
    let (shared, alone) = (fullest(4).min(), fullest(1).min());
    assert!(shared.zip(alone).is_none_or(|(shared, alone)| shared < alone), "{shared:?} and {alone:?}");
}

/// Variants are compared with everything that the whole network can do in the same condition.
fn check_gains(known: &VariantsReport) {
    for condition in &known.conditions {
        let whole: Vec<_> = condition.choices.iter().filter(|choice| choice.variant == "base").collect();
        assert!(whole.iter().all(|choice| choice.gain == Gain::default()), "nothing is saved beside oneself");
        let fastest = whole.iter().map(|choice| choice.latency_ms).fold(f64::INFINITY, f64::min);
        for choice in condition.choices.iter().filter(|choice| choice.variant != "base" && !whole.is_empty()) {
            // Ways of the whole network that the report does not list may be better still.
            let as_fast =
                whole.iter().filter(|alternative| alternative.latency_ms <= 1.05 * choice.latency_ms.max(fastest));
            let bytes = as_fast.map(|alternative| alternative.traffic_bytes).min().expect("the fastest is among them");
            let most = 1.0 - choice.traffic_bytes as f64 / bytes.max(1) as f64;
            let gain = choice.gain.less_traffic_at_equal_latency;
            assert!(gain.is_none_or(|gain| gain <= most + 1e-9), "{gain:?} of {most} in {}", condition.name);
            let leanest = whole.iter().map(|alternative| alternative.traffic_bytes).min().unwrap_or(0);
            let as_lean =
                whole.iter().filter(|alternative| alternative.traffic_bytes <= choice.traffic_bytes.max(leanest));
            let time = as_lean.map(|alternative| alternative.latency_ms).fold(f64::INFINITY, f64::min);
            let gain = choice.gain.less_latency_at_equal_traffic.expect("the whole network takes time");
            assert!(gain <= 1.0 - choice.latency_ms / time + 1e-9, "{gain} in {}", condition.name);
        }
    }
}

#[test]
fn a_second_run_makes_nothing_again_and_limits_are_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    std::fs::write(folder.join("residual.onnx"), model().write_to_bytes().expect("it can be written"))
        .expect("writable");
    std::fs::write(folder.join("cluster.toml"), CLUSTER).expect("writable");
    std::fs::write(folder.join("slow.toml"), TARGET).expect("writable");
    let (extent, count) = (EXTENT as usize, 200);
    let tensor_type = partita::graph::TensorType::new(partita::graph::ElementType::F32, vec![count, 3, extent, extent]);
    let y = Value { shape: vec![count], data: Data::I64((0..count as i64).map(|at| at * 7 % 11 % CLASSES).collect()) };
    let arrays = vec![("x".to_string(), noise(&tensor_type, 5)), ("y".to_string(), y)];
    write_npz(&folder.join("calibration.npz"), &arrays).expect("writable");
    let run = |arguments: &[&str], may_build: bool| -> serde_json::Value {
        let mut command = compile();
        command.arg(folder.join("residual.onnx")).arg("--targets").arg(folder.join("cluster.toml"));
        command.arg("--calibration").arg(folder.join("calibration.npz")).arg("--out").arg(folder.join("out"));
        command.args(["--variants", "auto", "--strategy", "spatial", "--simulate", "--format", "json"]).args(arguments);
        if !may_build {
            command.env("CARGO", folder.join("no-cargo"));
        }
        let report = serde_json::from_slice(&succeed(&mut command).stdout).expect("the report is JSON");
        partita_tests::schema::check_report(&report);
        report
    };
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let first = run(&[], true);
    let second = run(&[], false);
    assert_eq!(first["variants"], second["variants"]);
    assert_eq!(first["family"]["conditions"], second["family"]["conditions"]);
    // What 100 samples cannot prove is not sought.
    let none = run(&["--max-loss", "0.012"], false);
    let reason = none["family"]["only_whole"].as_str().expect("it says why");
    assert!(reason.contains("100 samples judge variants") && reason.contains("--max-loss 0.0127 at best"), "{reason}");
    // What is left keeps every limit that is wanted, also where the samples are known to be easy.
    let limits = ["--max-loss", "0.2", "--max-class-loss", "0.4"];
    let kept = run(&limits, true);
    let base = number(&kept["variants"][0]["accuracy"]);
    let holdout = format!("{:.6}", (base - 0.05).max(0.0));
    let widened = run(&[&limits[..], &["--holdout", &holdout]].concat(), false);
    let by = number(&widened["family"]["holdout"]["widened_by"]);
    assert!((by - 0.05).abs() < 1e-5 && (number(&kept["family"]["limits"]["max_class_loss"]) - 0.4).abs() < 1e-12);
    for report in [&kept, &widened] {
        let variants = report["variants"].as_array().expect("variants");
        let smaller = || variants[1..].iter();
        assert!(smaller().all(|variant| number(&variant["loss_bound"]) <= 0.2), "{variants:?}");
        let classes = smaller().flat_map(|variant| variant["worst_classes"].as_array().expect("classes"));
        assert!(classes.clone().all(|class| number(&class["loss_bound"]) <= 0.4), "{variants:?}");
    }
    assert!(widened["variants"].as_array().map(Vec::len) <= kept["variants"].as_array().map(Vec::len));
}

#[test]
fn a_cluster_that_loses_a_device_goes_on_with_what_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let compiled = compiled(folder.path(), CLUSTER, StrategyFamily::Spatial);
    let known = compiled.routed.variants.as_ref().expect("variants were asked for");
    assert!(known.variants.len() > 1, "blocks that add little can go: {:?}", known.sensitivity);
    assert!(known.more_flash < 0.1, "variants add {} to a device's weights", known.more_flash);
    let whole = &known.variants[0];
    assert_eq!((whole.loss, whole.loss_bound), (0.0, 0.0));
    for variant in &known.variants[1..] {
        let lost = whole.accuracy - variant.accuracy;
        assert!((variant.loss - lost).abs() < 1e-9, "{} loses {}, not {lost}", variant.name, variant.loss);
        assert!(variant.loss_bound > variant.loss + 0.005, "120 samples prove no {}", variant.loss_bound);
    }
    check_report(folder.path(), &compiled);
    let without = known.conditions.iter().find(|condition| condition.name == "without d-3").expect("it was named");
    let route_without = without.route.expect("three devices can do it") as u8;
    assert!(route_without > 0, "the whole plan needs all devices");

    assert_eq!(compiled.routed.placed.programs.len(), 4, "everybody takes part");
    let built = build(folder.path(), &compiled);
    let mut cluster = start(&compiled, &built, BRIEF);
    let extent = EXTENT as usize;
    let input = Value::f32([1, 3, extent, extent], (0..3 * extent * extent).map(|i| (i % 17) as f32 / 17.0).collect());
    let bytes = local::pack(&compiled.graph, &compiled.graph.inputs, std::slice::from_ref(&input)).expect("it fits");
    // Whoever feeds inputs may say which route is taken; all of them compute what they should.
    for route in 0..=compiled.routed.routes.len() as u8 {
        let result = cluster.infer_on(&bytes, Some(route)).expect("everybody is there");
        assert_eq!(result.route, route);
        let difference = difference(&compiled, route, &input, &result.output);
        assert!(difference < 1e-4, "route {route} is {difference} off");
    }
    // In the middle of it all a device loses its power.
    let before = cluster.infer(&bytes).expect("everybody is there");
    assert_eq!(before.given_up, 0);
    cluster.kill(3);
    let does_without = |route: u8| {
        let further = usize::from(route).checked_sub(1).expect("the whole plan needs all devices");
        let program = compiled.routed.routes[further].programs.iter().find(|program| program.device == 3);
        assert!(program.is_none_or(|program| program.steps.is_empty()), "route {route} needs d-3");
    };
    let (mut given_up, mut taken) = (0, Vec::new());
    let begin = Instant::now();
    // On a busy machine answers are late, and links look slow for a while.
    while taken.len() < 10 || taken.last() != Some(&route_without) && begin.elapsed() < Duration::from_secs(60) {
        let result = cluster.infer(&bytes).expect("three devices can do it");
        given_up += if taken.len() < 10 { result.given_up } else { 0 };
        does_without(result.route);
        let difference = difference(&compiled, result.route, &input, &result.output);
        assert!(difference < 1e-4, "{difference} off without d-3");
        taken.push(result.route);
    }
    assert_eq!(taken.last(), Some(&route_without), "what is best without d-3 is never taken: {taken:?}");
    assert!(given_up <= 2, "one loss cost {given_up} repetitions");
    drop(cluster);
    // A device that falls silent without a word is as good as lost, and keeps nobody waiting for its report.
    let mut cluster = start(&compiled, &built, BRIEF);
    cluster.infer(&bytes).expect("everybody is there");
    let silent = cluster.process_id(3).expect("it runs").to_string();
    assert!(Command::new("kill").args(["-STOP", &silent]).status().expect("there is a kill").success());
    // Until all of its threads have been told, it may answer.
    while !is_stopped(&silent) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin = Instant::now();
    for _ in 0..3 {
        let result = cluster.infer(&bytes).expect("three devices can do it");
        // A device that says nothing may look like a slow link first; what is taken then does without it, too.
        does_without(result.route);
        let difference = difference(&compiled, result.route, &input, &result.output);
        assert!(difference < 1e-4, "{difference} off while d-3 is silent");
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // Alone, d-0 cannot go on: an error, not a wrong answer.
    cluster.kill(1);
    cluster.kill(2);
    assert!(cluster.infer(&bytes).is_err());
}

#[test]
fn standalone_devices_answer_when_others_are_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let routes_of = |compiled: &Compiled| -> Vec<Option<usize>> {
        let known = compiled.routed.variants.as_ref().expect("variants were asked for");
        ["nominal", "without worker", "without worker, without spare"]
            .iter()
            .map(|name| known.conditions.iter().find(|condition| condition.name == *name).expect("it was named").route)
            .collect()
    };
    let without = compiled(folder.path(), HUB, StrategyFamily::Whole);
    assert_eq!(routes_of(&without)[1..], [None, None], "nobody has weights to go on with");
    assert_eq!(without.routed.placed.programs.len(), 2, "the spare has nothing to do");

    let cluster =
        HUB.replace("cpu = 0.05", "cpu = 0.05\nstandalone = true").replace("cpu = 0.1", "cpu = 0.1\nstandalone = true");
    let compiled = compiled(folder.path(), &cluster, StrategyFamily::Whole);
    let [Some(nominal), Some(by_spare), Some(alone)] = routes_of(&compiled)[..] else { panic!("all can be computed") };
    assert!(nominal != by_spare && by_spare != alone && alone != nominal, "routes {nominal}, {by_spare}, {alone}");
    assert_eq!(compiled.routed.placed.programs.len(), 3, "the spare takes part");
    let known = compiled.routed.variants.as_ref().expect("variants were asked for");
    assert!(known.more_flash < 0.1, "the worker needs nothing new");
    let stem_bytes = (WIDE * 3 * 9 * 4) as u64;
    assert!(known.standalone_bytes > stem_bytes, "the spare has got weights of its own: {} B", known.standalone_bytes);
    let built = build(folder.path(), &compiled);
    let mut cluster = start(&compiled, &built, BRIEF);
    let extent = EXTENT as usize;
    let input = Value::f32([1, 3, extent, extent], (0..3 * extent * extent).map(|i| (i % 11) as f32 / 11.0).collect());
    let bytes = local::pack(&compiled.graph, &compiled.graph.inputs, std::slice::from_ref(&input)).expect("it fits");
    let devices = ["worker", "spare"].map(|name| {
        compiled.cluster.devices.iter().position(|device| device.name == name).expect("the cluster has it")
    });
    for (killed, expected) in [(None, nominal), (Some(devices[0]), by_spare), (Some(devices[1]), alone)] {
        if let Some(killed) = killed {
            cluster.kill(killed);
        }
        for _ in 0..3 {
            let result = cluster.infer(&bytes).expect("the hub is there");
            assert_eq!(usize::from(result.route), expected, "after the loss of {killed:?}");
            let difference = difference(&compiled, result.route, &input, &result.output);
            assert!(difference < 1e-4, "{difference} off");
        }
    }
}

#[test]
fn microcontrollers_know_routes_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let compiled = compiled(folder.path(), SERIAL, StrategyFamily::Auto);
    assert_eq!(compiled.routed.placed.programs.len(), 2, "both take part");
    assert!(!compiled.routed.routes.is_empty(), "there are routes");
    // Emulated devices may be slow.
    let built = build(folder.path(), &compiled);
    let mut cluster = start(&compiled, &built, Duration::from_secs(30));
    let name = |program: &Program| compiled.cluster.devices[program.device].name.as_str();
    let firmware =
        compiled.routed.placed.programs.iter().position(|program| name(program) == "camera").expect("it takes part");
    let symbols = built[firmware].symbols.as_ref().expect("they were asked for");
    assert_eq!(forbidden_symbols(symbols), Vec::<String>::new());
    let extent = EXTENT as usize;
    let input = Value::f32([1, 3, extent, extent], (0..3 * extent * extent).map(|i| (i % 13) as f32 / 13.0).collect());
    let bytes = local::pack(&compiled.graph, &compiled.graph.inputs, std::slice::from_ref(&input)).expect("it fits");
    for route in (0..=compiled.routed.routes.len() as u8).rev() {
        let result = cluster.infer_on(&bytes, Some(route)).expect("everybody is there");
        assert_eq!(result.route, route);
        let difference = difference(&compiled, route, &input, &result.output);
        assert!(difference < 1e-4, "route {route} is {difference} off");
    }
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("plain.onnx");
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let graph = GraphProto {
        name: "plain".to_string(),
        node: vec![
            node("Conv", &["x", "w"], &["a"], pads()),
            node("GlobalAveragePool", &["a"], &["mean"], vec![]),
            node("Flatten", &["mean"], &["scores"], vec![]),
        ],
        initializer: vec![random("w", &[4, 3, 3, 3], 1, 0.3)],
        input: vec![value_info("x", &[1, 3, 8, 8])],
        output: vec![value_info("scores", &[1, 4])],
        ..GraphProto::default()
    };
    std::fs::write(&path, onnx::model(17, graph).write_to_bytes().expect("it can be written")).expect("writable");
    let cluster = folder.path().join("cluster.toml");
    std::fs::write(
        &cluster,
        "[cluster]\nname = \"c\"\ninput = \"d\"\noutput = \"d\"\n[[device]]\nname = \"d\"\ntarget = \"host\"\n",
    )
    .expect("writable");
    let ask = |count: usize, labels: Option<Vec<i64>>| {
        let data = folder.path().join("data.npz");
        let x = Value { shape: vec![count, 3, 8, 8], data: Data::F32(vec![0.5; count * 192]) };
        let mut arrays = vec![("x".to_string(), x)];
        arrays.extend(labels.map(|y| ("y".to_string(), Value { shape: vec![count], data: Data::I64(y) })));
        write_npz(&data, &arrays).expect("writable");
        let variants = VariantOptions {
            calibration: data,
            preparation: partita::samples::Preparation::default(),
            demands: Demands::default(),
            cache: folder.path().join("cache"),
        };
        let options = Options { variants: Some(variants), ..Options::default() };
        driver::compile(&path, &cluster, &options, &mut ()).expect_err("there is nothing to find").to_string()
    };
    assert!(ask(50, None).contains("E0192"), "{}", ask(50, None));
    assert!(ask(200, None).contains("E0196"), "{}", ask(200, None));
    assert!(ask(200, Some(vec![9; 200])).contains("label 9"), "{}", ask(200, Some(vec![9; 200])));
    assert!(ask(200, Some(vec![1; 200])).contains("of class 1"), "{}", ask(200, Some(vec![1; 200])));
}
