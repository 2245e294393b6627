//! Nodes split over devices, on real processes: every family of strategies answers as one device does, and sends what
//! its plan says.

use std::path::{Path, PathBuf};

use partita_tests::bundle::{ClusterText, check, read_report};
use partita_tests::command::{compile, succeed};
use partita_tests::place::{self, further};

fn example(name: &str) -> (PathBuf, PathBuf) {
    let folder = place::repository().join("examples").join(name);
    (folder.join("model.onnx"), folder.join("reference.npz"))
}

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Five devices on one switch; one of them twice as fast as the others, one slow.
fn five() -> ClusterText {
    let cluster = FIVE.iter().fold(ClusterText::new("a", "c"), |cluster, name| {
        let share = match *name {
            "b" => "cpu = 0.02",
            "d" => "cpu = 0.005",
            _ => "cpu = 0.01",
        };
        cluster.device(name, "host", share)
    });
    cluster.network(&FIVE, "topology = \"switch\"\nbandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"")
}

#[test]
fn every_family_on_five_unequal_processes_sends_what_was_planned() {
    let (model, reference) = example("resnet");
    for family in further(&["lip", "ftp", "pipeline", "auto"], &["lop", "fused", "spatial"]) {
        let run = check(&format!("resnet, {family}"), &model, &five(), &reference, &["--strategy", family]);
        let busy = run.computing.len();
        // Only a pipeline has something for everybody to do; others leave out who makes them slower.
        let least = match family {
            "auto" => 1,
            "pipeline" => 5,
            _ => 2,
        };
        assert!(busy >= least, "{family} uses {busy} of 5 devices: {:?}", run.computing);
        let devices = run.report["devices"].as_array().expect("the report lists devices");
        let sum = |key: &str| devices.iter().map(|device| device[key].as_u64().expect(key)).sum::<u64>();
        let planned = run.report["plan"]["traffic_bytes"].as_u64().expect("the plan has its traffic");
        assert!(planned > 0 || busy == 1, "{family}");
        assert_eq!((sum("sent_bytes"), sum("received_bytes")), (planned, planned), "{family}");
    }
}

#[test]
fn a_star_sends_over_its_hub() {
    let (model, reference) = example("resnet");
    let devices =
        FIVE.iter().fold(ClusterText::new("a", "b"), |cluster, name| cluster.device(name, "host", "cpu = 0.01"));
    let star =
        devices.network(&FIVE, "topology = \"star\"\nhub = \"c\"\nbandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"");
    for family in further(&["lop"], &["spatial", "auto"]) {
        check(&format!("resnet over a star, {family}"), &model, &star, &reference, &["--strategy", family]);
    }
}

/// Emits programs twice, the second time from the plan of the first, which is kept as `plan`; returns the first report.
fn read_back(model: &str, cluster: &ClusterText, arguments: &[&str], plan: &Path) -> serde_json::Value {
    let (model, _) = example(model);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = cluster.write(folder.path());
    let emit = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        succeed(compile().arg(&model).arg("--targets").arg(&cluster).arg("--out").arg(&out).args(more));
        out
    };
    let first = emit("first", arguments);
    std::fs::copy(first.join("plan.pb"), plan).expect("the plan was written");
    let second = emit("second", &["--plan", plan.to_str().expect("a plain path")]);
    let devices = |out: &PathBuf| read_report(out)["devices"].clone();
    assert_eq!(devices(&first), devices(&second));
    let mut written = 0;
    for device in FIVE {
        // A device that takes no part has no program.
        let program = |out: &PathBuf| {
            let text = std::fs::read_to_string(out.join("devices").join(device).join("src/model.rs")).ok()?;
            let hashed = |line: &&str| line.contains("PLAN_HASH") || line.contains("link_name");
            Some(text.lines().filter(|line| !hashed(line)).collect::<Vec<_>>().join("\n"))
        };
        // What the solver proved is part of the plan, and so of its hash, but not of the program.
        assert!(program(&first) == program(&second), "programs of `{device}` differ");
        written += usize::from(program(&first).is_some());
    }
    assert!(written >= 2, "{written} devices have a program");
    read_report(&first)
}

#[test]
fn a_plan_reads_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    read_back("digits", &five(), &["--strategy", "lop"], &folder.path().join("plan.pb"));
}

#[test]
fn a_plan_for_least_memory_reads_back_and_its_row_streaming_answers_as_one_device() {
    let (model, reference) = example("resnet");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = folder.path().join("plan.pb");
    let three = ["a", "b", "c"];
    let three = three
        .iter()
        .fold(ClusterText::new("a", "c"), |cluster, name| cluster.device(name, "host", "cpu = 0.01"))
        .network(&three, "topology = \"switch\"\nbandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"");
    let streamed = read_back("resnet", &three, &["--objective", "memory"], &plan);
    assert!(!streamed["stripes"].as_array().expect("runs").is_empty(), "nothing is computed by row streaming");
    let plan = plan.to_str().expect("a plain path");
    check("resnet for least memory", &model, &three, &reference, &["--plan", plan]);
}

#[test]
fn samples_answered_together_are_answered_as_alone() {
    let (model, _) = example("resnet");
    let data = model.with_file_name("test.npz");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = five().write(folder.path());
    let evaluation = |more: &[&str]| {
        let out = folder.path().join(format!("out{}", more.join("")));
        let arguments = ["--samples", "10", "--out", out.to_str().expect("a plain path"), "--evaluate"];
        let output =
            succeed(compile().arg(&model).arg("--targets").arg(&cluster).args(arguments).arg(&data).args(more));
        // The first answers are compared with the reference kernels'; any difference is a warning.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("warning"), "{said}");
        read_report(&out)
    };
    let alone = evaluation(&[]);
    // Four do not divide ten samples, nor go round five devices.
    let together = evaluation(&["--batch", "4", "--strategy", "batch"]);
    assert_eq!(together["evaluation"]["accuracy"], alone["evaluation"]["accuracy"]);
    assert_eq!(together["plan"]["batch"], 4);
    let devices = together["devices"].as_array().expect("devices").iter();
    let macs: Vec<u64> = devices.filter_map(|device| device["macs"].as_u64()).filter(|macs| *macs > 0).collect();
    // The fast device takes two samples, the slow one none.
    let one = together["model"]["macs"].as_u64().expect("the model has its multiply-adds") / 4;
    assert_eq!(macs, [one, 2 * one, one]);
}

#[test]
fn a_board_that_is_too_small_computes_patch_by_patch() {
    let (model, reference) = example("resnet");
    let cluster = ClusterText::new("cam", "cam").device("cam", "cortex-m7", "ram = \"128 KiB\"");
    let run = check("resnet in 128 KiB", &model, &cluster, &reference, &[]);
    let patches = run.report["patches"].as_array().expect("the report lists patches");
    assert_eq!(patches.len(), 1, "whole activations need 128 KiB by themselves");
    let linked = run.report["devices"][0]["ram_bytes"].as_u64().expect("it was linked");
    assert!(linked < 112 << 10, "{linked} bytes of RAM");
}

#[test]
fn a_ring_hands_on_from_neighbour_to_neighbour() {
    let (model, reference) = example("resnet");
    let devices =
        FIVE.iter().fold(ClusterText::new("a", "c"), |cluster, name| cluster.device(name, "host", "cpu = 0.01"));
    let ring = (0..FIVE.len()).fold(devices, |cluster, index| {
        let pair = [FIVE[index], FIVE[(index + 1) % FIVE.len()]];
        cluster.network(&pair, "topology = \"point-to-point\"\nbandwidth = \"1 Gbit/s\"\nlatency = \"0.02 ms\"")
    });
    for family in further(&["spatial"], &["lop", "auto"]) {
        check(&format!("resnet around a ring, {family}"), &model, &ring, &reference, &["--strategy", family]);
    }
}

#[test]
fn threads_of_a_device_share_its_kernels() {
    let (model, reference) = example("resnet");
    for (target, threads) in further(&[("host", 3), ("raspberry-pi-4", 2)], &[("host", 2), ("aarch64", 3)]) {
        let cluster = ClusterText::new("d", "d").device("d", target, &format!("threads = {threads}"));
        let run = check(&format!("resnet on {threads} threads of {target}"), &model, &cluster, &reference, &[]);
        let shared = run.report["devices"][0]["shared_kernels"].as_u64().expect("a number");
        assert!(shared > 3, "{target}: only {shared} kernels are shared");
    }
    let firmware = ClusterText::new("d", "d").device("d", "cortex-m7", "threads = 2");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = firmware.write(folder.path());
    let output = compile().arg(&model).arg("--targets").arg(&cluster).output().expect("the compiler starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("E0163") && said.contains("cluster.toml:"), "{said}");
}

#[test]
fn exact_kernels_convolve_directly() {
    let (model, reference) = example("resnet");
    let cluster = ClusterText::new("d", "d").device("d", "host", "");
    let forms = |options: &[&str]| {
        let run = check("resnet by Winograd's algorithm or not", &model, &cluster, &reference, options);
        let layers = run.report["layers"].as_array().expect("layers").clone();
        let winograd = layers.iter().filter(|layer| !layer["minimal_filtering"].is_null());
        winograd.map(|layer| layer["minimal_filtering"]["error_bound"].as_f64().expect("a bound")).collect::<Vec<f64>>()
    };
    let bounds = forms(&[]);
    assert!(!bounds.is_empty() && bounds.iter().all(|bound| (1e-7..1.0).contains(bound)), "{bounds:?}");
    assert_eq!(forms(&["--exact"]), Vec::<f64>::new());
}
