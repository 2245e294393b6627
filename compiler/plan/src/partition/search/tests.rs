//! The search agrees with trying everything, with and without room.

use super::super::network::Network;
use super::*;
use partita_config::cluster_file;
use partita_ir::graph::op::{Conv, Window};
use partita_ir::graph::{Activation, Op, TensorType, Value};

/// Two or three convolutions in a row, or with an addition around the second.
fn network_of(layers: usize, channels: usize, extent: usize, residual: bool) -> Graph {
    let mut graph = Graph::new("t");
    let shape = [1, channels, extent, extent];
    let mut x = graph.add_input("x", TensorType::f32(shape));
    let mut before = x;
    for layer in 0..layers {
        let weights = graph.add_constant(
            format!("w{layer}"),
            Value::f32([channels, channels, 3, 3], vec![0.0; channels * channels * 9]),
        );
        let bias = graph.add_constant(format!("b{layer}"), Value::f32([channels], vec![0.0; channels]));
        let y = graph.add_tensor(format!("y{layer}"), TensorType::f32(shape));
        let mut inputs = vec![x, weights, bias];
        let with = residual && layer == 1;
        inputs.extend(with.then_some(before));
        let window = Window::uniform(&[3, 3], 1, 1, 1);
        let conv = Conv { window, groups: 1, residual: with, activation: Activation::Relu };
        graph.add_node(format!("conv{layer}"), Op::Conv(conv), inputs, vec![y]);
        (before, x) = (x, y);
    }
    graph.outputs.push(x);
    graph
}

fn cluster(bandwidth: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"b\"\n[[device]]\nname = \"a\"\ntarget = \"raspberry-pi-3\"\n\
         [[device]]\nname = \"b\"\ntarget = \"raspberry-pi-4\"\n[[link]]\nbetween = [\"a\", \"b\"]\ntransport = \"tcp\"\n\
         bandwidth = \"{bandwidth}\"\n"
    );
    cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

/// Calls with every assignment.
fn everything(network: &Network<'_>, mut visit: impl FnMut(&[usize])) {
    let domains = network.domains();
    let mut assignment = vec![0; domains.len()];
    loop {
        visit(&assignment);
        let Some(next) = (0..domains.len()).rev().find(|at| assignment[*at] + 1 < domains[*at]) else { return };
        assignment[next] += 1;
        assignment[next + 1..].fill(0);
    }
}

#[test]
fn the_search_agrees_with_exhaustive_search() {
    let mut bound_by_memory = 0;
    for (layers, channels, extent, residual) in [(2, 8, 8, false), (2, 32, 4, true), (3, 16, 6, true)] {
        let graph = network_of(layers, channels, extent, residual);
        let weights = (layers * (channels * channels * 9 + channels) * 4) as u64;
        for bandwidth in ["1 Mbit/s", "1 Gbit/s"] {
            let cluster = cluster(bandwidth);
            for objective in [Objective::Latency, Objective::Traffic, Objective::Energy] {
                for share in [3.0, 1.2, 0.7, 0.55, 0.3] {
                    let choice = Scope {
                        graph: &graph,
                        cluster: &cluster,
                        family: StrategyFamily::Auto,
                        objective,
                        breadth: Breadth::Full,
                        activation_share: 1.0,
                        resident: None,
                        encodings: &crate::partition::encodings::EXACT,
                    };
                    let room = (weights as f64 * share) as u64 + (4 * channels * extent * extent * 4) as u64;
                    let network = Network::new(&choice, vec![room; 2], vec![u64::MAX; 2]);
                    let what = format!("{layers} layers, {bandwidth}, {objective:?}, room for {share} of the weights");
                    let mut best: Option<f64> = None;
                    everything(&network, |assignment| {
                        let value = network.value(objective, assignment);
                        if value.is_finite() && network.fits(assignment) && best.is_none_or(|best| value < best) {
                            best = Some(value);
                        }
                    });
                    let done = Cell::new(0);
                    let effort = Effort::new(&done, SEARCH_WORK);
                    let found = additive::limited(&network, objective, additive::Start::default(), effort);
                    bound_by_memory += usize::from(share < 1.0 && best.is_some());
                    match (best, found) {
                        (None, None) => {}
                        (Some(best), Some(additive::AdditivePlan { assignment: found, gap, .. })) => {
                            let value = network.value(objective, &found);
                            assert!(network.fits(&found), "{what}: does not fit");
                            assert!(value >= best * (1.0 - 1e-9), "{what}: {value} is better than everything, {best}");
                            // What is claimed holds, and the claim is worth something.
                            assert!(
                                value * (1.0 - gap) <= best * (1.0 + 1e-9),
                                "{what}: {value}, gap {gap}, best {best}"
                            );
                            assert!(value <= best * 1.01, "{what}: {value} instead of {best}");
                        }
                        (best, found) => {
                            panic!("{what}: {best:?} by trying, {:?} by search", found.map(|found| found.gap))
                        }
                    }
                }
            }
        }
    }
    assert!(bound_by_memory > 10, "only {bound_by_memory} problems were bound by memory");
}
