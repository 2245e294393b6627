//! Links that send fewer bytes than devices compute in, on real processes: every device rounds the same, so the cluster answers
//! as the reference kernels do on the network that the plan has made, and sends what the plan says.

use std::path::PathBuf;

use partita::config::cluster_file;
use partita::driver::{self, Options};
use partita::graph::op::{Conv, Window};
use partita::graph::values::noise;
use partita::graph::{Activation, Graph, Op, TensorType, Value};
use partita::links::{LinkError, LinkOptions};
use partita::partition::StrategyFamily;
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

/// Convolutions of 32 channels.
fn convolutions(layers: u64, extent: usize) -> Graph {
    let mut graph = Graph::new("convolutions");
    let all = |extent: usize| vec![extent; 2];
    let window = Window { kernel: all(3), stride: all(1), dilation: all(1), pad_begin: all(1), pad_end: all(1) };
    let shape = TensorType::f32([1, 32, extent, extent]);
    let mut x = graph.add_input("x", shape.clone());
    for layer in 0..layers {
        let weight = noise(&TensorType::f32([32, 32, 3, 3]), layer);
        let weight = graph.add_constant(format!("w{layer}"), weight);
        let bias = graph.add_constant(format!("b{layer}"), Value::f32([32], vec![0.0; 32]));
        let conv = Conv { window: window.clone(), groups: 1, residual: false, activation: Activation::Relu };
        let made = graph.add_tensor(format!("c{layer}"), shape.clone());
        graph.add_node(format!("n{layer}"), Op::Conv(conv), vec![x, weight, bias], vec![made]);
        x = made;
    }
    graph.outputs = vec![x].into();
    graph
}

/// On the first cluster sharing gains just less than what sharing with f16 does; on the second the answer is wanted
/// elsewhere, so that one device sends, too; on the third it may be worth it to send all to a faster device.
#[test]
fn no_family_is_faster_than_auto_and_one_device_takes_what_it_takes() {
    let slow = "raspberry-pi-3";
    for (output, other, bandwidth) in
        [("a", slow, "477 Mbit/s"), ("b", slow, "100 Mbit/s"), ("a", "raspberry-pi-4", "90 Mbit/s")]
    {
        let link = format!("bandwidth = \"{bandwidth}\"\nlatency = \"0.2 ms\"");
        let text = ClusterText::new("a", output).device("a", slow, "").device("b", other, "");
        let text = text.network(&["a", "b"], &format!("topology = \"switch\"\n{link}"));
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = cluster_file::read(&text.write(folder.path())).expect("a sound cluster");
        let planned = |family: StrategyFamily| {
            let options = Options { family, ..Options::default() };
            let compiled = driver::compile_graph("links".to_string(), convolutions(3, 40), cluster.clone(), &options);
            let compiled = compiled.unwrap_or_else(|failure| panic!("{family:?}: {failure}"));
            let single_ms = compiled.routed.placed.partition.single_device_ms.expect("one device can do it");
            (compiled.routed.prediction.latency_ms, single_ms)
        };
        let (auto_ms, single_ms) = planned(StrategyFamily::Auto);
        assert!(auto_ms <= single_ms, "{output}: {auto_ms} ms, {single_ms} ms by itself");
        let (whole_ms, _) = planned(StrategyFamily::Whole);
        assert_eq!(single_ms, whole_ms, "{output}");
        for family in [
            StrategyFamily::Lop,
            StrategyFamily::Lip,
            StrategyFamily::Fused,
            StrategyFamily::Ftp,
            StrategyFamily::Spatial,
            StrategyFamily::Pipeline,
        ] {
            let (latency_ms, alone_ms) = planned(family);
            assert!(auto_ms <= latency_ms, "{output}: {auto_ms} ms, but {family:?} {latency_ms}");
            assert_eq!(alone_ms, single_ms, "{output}: {family:?}");
        }
    }
}

/// Errors of six layers exceed the stricter limits, so plans have to send less in fewer bytes than they would.
#[test]
fn neither_a_further_device_nor_a_looser_limit_makes_a_plan_slower() {
    let folder = tempfile::tempdir().expect("a folder");
    let latency_ms = |devices: usize, limit: f32| {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let names = &NAMES[..devices];
        let add = |text: ClusterText, name: &&str| text.device(name, "raspberry-pi-3", "cpu = 0.2");
        let text = names.iter().fold(ClusterText::new("a", "a"), add);
        let text = text.network(names, "topology = \"switch\"\nbandwidth = \"100 Mbit/s\"\nlatency = \"0.2 ms\"");
        let cluster = cluster_file::read(&text.write(folder.path())).expect("a sound cluster");
        let links = LinkOptions { error: LinkError::AtMost(limit), ..LinkOptions::exact() };
        let options = Options { links, ..Options::default() };
        let compiled = driver::compile_graph("links".to_string(), convolutions(6, 24), cluster, &options);
        compiled.unwrap_or_else(|failure| panic!("{devices}, {limit}: {failure}")).routed.prediction.latency_ms
    };
    const LIMITS: [f32; 3] = [1e-4, 2e-4, 1e-3];
    let mut before = [f64::INFINITY; LIMITS.len()];
    let mut differ = false;
    for devices in 2..=4 {
        let found = LIMITS.map(|limit| latency_ms(devices, limit));
        println!("{devices} devices: {found:?} ms");
        for (at, limit) in LIMITS.iter().enumerate() {
            assert!(found[at] <= before[at] * (1.0 + 1e-9), "{devices} devices, {limit}: {found:?}, before {before:?}");
        }
        assert!(found.is_sorted_by(|a, b| *b <= *a * (1.0 + 1e-9)), "{devices} devices: {found:?}");
        differ |= found[0] > found[LIMITS.len() - 1];
        before = found;
    }
    assert!(differ, "no limit asks for anything");
}
