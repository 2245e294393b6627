//! Media are shared as they are, and traces name everything.

use super::*;
use partita_config::{Cluster, cluster_file};
use partita_ir::graph::{Activation, Op, TensorType, UnaryOp};

/// A wire whose payload is 12.5 MB/s over TCP.
const WIRE: &str = "106.215469613 Mbit/s";

/// Three devices on one medium, and a graph with one tensor of 1.25 MB.
fn cluster(link: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\ntarget = \"raspberry-pi-4\"\ncount = 3\n[[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"{WIRE}\"\n{link}\n"
    );
    cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

fn relu_graph(elements: usize) -> Graph {
    let mut graph = Graph::new("t");
    let x = graph.add_input("x", TensorType::f32([1, elements]));
    let y = graph.add_tensor("y", TensorType::f32([1, elements]));
    graph.add_node("relu", Op::Unary(UnaryOp::Activation(Activation::Relu)), vec![x], vec![y]);
    graph.outputs.push(y);
    graph
}

/// The graph as it is, for schedules that compute nothing.
fn unsharded(graph: &Graph) -> Sharded {
    Sharded {
        travelling: Default::default(),
        overlaps: false,
        graph: graph.clone(),
        events: Vec::new(),
        devices: BTreeMap::new(),
        origins: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

/// Device 0 sends its input to both others and they send it back: (from, to, message).
fn schedules(graph: &Graph, messages: &[&[(usize, usize)]]) -> Vec<Schedule> {
    let tensor = graph.inputs[0];
    let mut number = 0;
    let mut schedules: Vec<Schedule> = (0..3).map(|device| Schedule { device, actions: Vec::new() }).collect();
    for exchange in messages {
        let mut lists = vec![(Vec::new(), Vec::new()); 3];
        for (from, to) in *exchange {
            lists[*from].0.push(Message { tensor, peer: *to, number });
            lists[*to].1.push(Message { tensor, peer: *from, number });
            number += 1;
        }
        for (schedule, (sends, receives)) in schedules.iter_mut().zip(lists) {
            if !sends.is_empty() || !receives.is_empty() {
                schedule.actions.push(Action::Exchange { sends, receives });
            }
        }
    }
    schedules[0].actions.push(Action::Output { tensor, position: 0 });
    schedules
}

/// 1.25 MB at 12.5 MB/s are 100 ms.
fn latency_ms(link: &str, messages: &[&[(usize, usize)]]) -> f64 {
    let graph = relu_graph(312_500);
    simulate(&unsharded(&graph), &schedules(&graph, messages), &cluster(link)).latency_ms
}

#[test]
fn ports_buses_and_wires_are_shared_as_they_are() {
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1.0, "{found} ms, expected {expected}");
    let out_and_back: &[&[(usize, usize)]] = &[&[(0, 1), (0, 2)], &[(1, 0), (2, 0)]];
    close(latency_ms("", out_and_back), 400.0);
    close(latency_ms("topology = \"point-to-point\"", out_and_back), 200.0);
    close(latency_ms("topology = \"bus\"", out_and_back), 400.0);
    let at_once: &[&[(usize, usize)]] = &[&[(0, 1), (1, 0)]];
    close(latency_ms("", at_once), 100.0);
    close(latency_ms("duplex = \"half\"", at_once), 200.0);
    close(latency_ms("topology = \"bus\"", at_once), 200.0);
    close(latency_ms("latency = \"7 ms\"", at_once), 107.0);
    // The port of device 2 is the bottleneck of both messages to it; the third fills what they leave.
    close(latency_ms("", &[&[(0, 2), (1, 2), (1, 0)]]), 200.0);
}

#[test]
fn the_closed_formula_agrees_where_one_port_decides() {
    let cluster = cluster("");
    let flows = [(0, 1), (0, 2)].map(|(from, to)| cost::Flow { from, to, bytes: 1_250_000 });
    let seconds = cost::exchange_seconds(&cluster, &flows).expect("all are linked");
    let simulated = ends_ms(312_500, &[&[(0, 1), (0, 2)]]).into_iter().fold(0.0, f64::max);
    assert!((seconds * 1e3 - simulated).abs() < 1.0, "{seconds} s against {simulated} ms");
}

/// When each of three devices on one switch has ended its exchanges of a tensor of so many elements.
fn ends_ms(elements: usize, messages: &[&[(usize, usize)]]) -> [f64; 3] {
    let graph = relu_graph(elements);
    let prediction = simulate(&unsharded(&graph), &schedules(&graph, messages), &cluster(""));
    [0, 1, 2].map(|device| {
        let own = prediction.spans.iter().filter(|span| span.device == device);
        own.map(|span| span.end * 1e3).fold(0.0, f64::max)
    })
}

#[test]
fn an_operating_system_sends_while_its_device_goes_on() {
    // 64 KiB of 1.25 MB are 5.2 ms of 100 ms.
    let [sender, receiver, _] = ends_ms(312_500, &[&[(0, 1)]]);
    assert!((receiver - sender - 5.2).abs() < 0.3, "{sender} and {receiver} ms");
}

#[test]
fn short_messages_leave_one_after_the_other() {
    // 12.5 kB each: 1 ms; a long one shares the port with what comes behind it.
    let [_, first, second] = ends_ms(3125, &[&[(0, 1), (0, 2)]]);
    assert!((second - first - 1.0).abs() < 0.1, "{first} and {second} ms");
    let [_, first, second] = ends_ms(312_500, &[&[(0, 1), (0, 2)]]);
    assert!((second - first).abs() < 0.1, "{first} and {second} ms");
}

#[test]
fn a_message_costs_both_ends() {
    let cluster = cluster("");
    let cost = |device: usize| cluster.devices[device].message_microseconds() * 1e-3;
    let [_, one, _] = ends_ms(1, &[&[(0, 1)]]);
    let link_ms = cluster.link(0, 1).map_or(0.0, |link| link.latency_ms);
    assert!((one - link_ms - cost(0) - cost(1)).abs() < 0.01, "{one} ms");
    let flows = [cost::Flow { from: 0, to: 1, bytes: 4 }];
    let seconds = cost::exchange_seconds(&cluster, &flows).expect("both are linked");
    assert!((seconds * 1e3 - one).abs() < 0.01, "{seconds} s against {one} ms");
}

#[test]
fn a_trace_names_every_device() {
    let graph = relu_graph(10);
    let cluster = cluster("");
    let prediction = simulate(&unsharded(&graph), &schedules(&graph, &[&[(0, 1)]]), &cluster);
    let trace = trace_json(&prediction, &cluster).to_string();
    assert!(trace.contains("d-2") && trace.contains("exchange: 1 out, 0 in"), "{trace}");
}
