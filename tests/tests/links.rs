//! Links that send fewer bytes than devices compute in, on real processes: every device rounds the same, so the cluster answers
//! as the reference kernels do on the network that the plan has made, and sends what the plan says.

use std::path::PathBuf;

use partita_tests::bundle::{ClusterText, Run, run};
use partita_tests::place;

fn example() -> (PathBuf, PathBuf) {
    let folder = place::repository().join("examples/resnet");
    (folder.join("model.onnx"), folder.join("reference.npz"))
}

/// Devices of these targets on a slow switch.
fn cluster(targets: &[&str]) -> ClusterText {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let names = &NAMES[..targets.len()];
    let devices = names.iter().zip(targets).fold(ClusterText::new("a", "b"), |cluster, (name, target)| {
        // As if they were slow: what is shared has to be worth it.
        cluster.device(name, target, if *target == "host" { "cpu = 0.01" } else { "" })
    });
    devices.network(names, "topology = \"switch\"\nbandwidth = \"50 Mbit/s\"\nlatency = \"0.1 ms\"")
}

/// Runs with links that may change answers by this share, each program compared with the reference kernels.
fn check(targets: &[&str], strategy: &str, allowed: f64, more: &[&str]) -> Run {
    let (model, reference) = example();
    let error = format!("{allowed:e}");
    let words = ["--strategy", strategy, "--link-error", &error, "--verify"];
    let run = run(&model, &cluster(targets), &reference, &[&words[..], more].concat());
    let links = &run.report["links"];
    let label = format!("{strategy} over {}", targets.join(", "));
    assert!(!links["tensors"].as_array().expect("tensors travel encoded").is_empty(), "{label}");
    assert!(links["error"].as_f64().is_some_and(|error| error > 0.0 && error <= allowed), "{label}: {links}");
    // The reference was computed by other kernels in another order.
    assert!(run.difference > 0.0 && run.difference <= allowed + 1e-4, "{label}: {:.1e}", run.difference);
    let devices = run.report["devices"].as_array().expect("the report lists devices");
    let sum = |key: &str| devices.iter().map(|device| device[key].as_u64().expect(key)).sum::<u64>();
    let planned = run.report["plan"]["traffic_bytes"].as_u64().expect("the plan has its traffic");
    assert_eq!((sum("sent_bytes"), sum("received_bytes")), (planned, planned), "{label}");
    assert!(planned < links["exact_traffic_bytes"].as_u64().expect("bytes of f32"), "{label}");
    run
}

#[test]
fn processes_exchange_halves() {
    let two = check(&["host", "host"], "lop", 1e-2, &[]);
    assert_eq!(two.computing.len(), 2);
    let three = check(&["host", "host", "host"], "pipeline", 1e-2, &[]);
    assert_eq!(three.computing.len(), 3);
}

#[test]
fn processors_of_two_kinds_exchange_halves() {
    check(&["host", "raspberry-pi-4"], "lop", 1e-2, &[]);
}

#[test]
fn processors_of_two_kinds_exchange_bytes() {
    let samples = example().0.with_file_name("calibration.npz");
    let samples = ["--calibration", samples.to_str().expect("a plain path")];
    let run = check(&["host", "raspberry-pi-4", "host"], "pipeline", 0.1, &samples);
    let links = &run.report["links"];
    assert_eq!(links["measured_on"], "calibration");
    let tensors = links["tensors"].as_array().expect("tensors");
    assert!(tensors.iter().any(|tensor| tensor["encoding"] == "int8" && tensor["step"].is_number()), "{links}");
}
