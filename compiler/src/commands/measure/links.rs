//! The links' rate and round trip, measured by programs of our own: a tensor that goes to and fro between two devices,
//! first small, then large. What is measured is what emitted programs get, transport, frames and checks included.

use std::path::Path;

use anyhow::Context;

use crate::bundle;
use crate::cli::Arguments;
use crate::commands::build::{build, note};
use crate::commands::summary;
use crate::config::measured::LinkMeasurement;
use crate::config::{Cluster, System};
use crate::data;
use crate::driver::{self, Compiled, Failure};
use crate::graph::{Activation, BinaryOp, Graph, Op, TensorId, TensorType, UnaryOp};
use crate::partition::{Method, Partition, Strategy};
use crate::program::Step;
use crate::run::local::{LocalOptions, pack, start};
use crate::shard::Sharding;

/// Round trips of the small tensor, and of the large one, in one inference.
const TRIPS: usize = 8;

/// Inferences; the first is not counted.
const RUNS: usize = 6;

/// Elements of the small tensor.
const SMALL: usize = 8;

/// The large tensor takes about this long to cross, if the link is what the cluster file says.
const CROSSING_SECONDS: f64 = 0.03;

/// Bounds of the large tensor's bytes.
const LARGE_BYTES: (f64, f64) = (512.0, 4.0 * 1024.0 * 1024.0);

/// Measures one pair of devices for each `[[link]]` table of the cluster file. Links of emulated boards say nothing
/// about real ones and are left out, with a word.
pub(super) fn measure(
    arguments: &Arguments,
    cluster: &Cluster,
    folder: &Path,
) -> Result<Vec<LinkMeasurement>, Failure> {
    let mut found = Vec::new();
    for medium in 0..cluster.media.len() {
        let hosted = |device: usize| cluster.devices[device].target.system == System::Linux;
        let pair =
            cluster.links.iter().find(|link| link.medium == medium && hosted(link.between.0) && hosted(link.between.1));
        let Some(link) = pair else {
            note(arguments, &format!("link {}: no two devices with an operating system; not measured", medium + 1));
            continue;
        };
        let (a, b) = link.between;
        let large_bytes = (link.bytes_per_second * CROSSING_SECONDS).clamp(LARGE_BYTES.0, LARGE_BYTES.1);
        let compiled = probe(cluster, a, b, large_bytes as usize / 4).map_err(|error| *error)?;
        let times = run(arguments, &compiled, &folder.join(format!("link-{medium}"))).map_err(Failure::Environment)?;
        let overhead = |device: usize| cluster.devices[device].message_microseconds() * 1e-6;
        // Half a round trip is what one end does for a message, the latency, and what the other end does.
        let one_way = times.small_seconds / 2.0;
        let latency_seconds = (one_way - overhead(a) - overhead(b)).max(0.0);
        let bytes = (large_bytes as usize / 4 - SMALL) as f64 * 4.0;
        let crossing = (times.large_seconds / 2.0 - one_way).max(1e-9);
        let measurement = LinkMeasurement {
            link: medium + 1,
            between: [cluster.devices[a].name.clone(), cluster.devices[b].name.clone()],
            round_trip_ms: times.small_seconds * 1e3,
            latency_ms: latency_seconds * 1e3,
            bytes_per_second: bytes / crossing,
        };
        note(
            arguments,
            &format!(
                "link {} ({} and {}): round trip {:.3} ms, {:.2} MB/s of payload; the cluster file says {:.3} ms one way, {:.2} MB/s",
                measurement.link,
                measurement.between[0],
                measurement.between[1],
                measurement.round_trip_ms,
                measurement.bytes_per_second * 1e-6,
                link.latency_ms,
                link.bytes_per_second * 1e-6
            ),
        );
        found.push(measurement);
    }
    Ok(found)
}

/// Mean time of a round trip of each tensor, without what the devices compute.
struct Times {
    small_seconds: f64,
    large_seconds: f64,
}

/// A program in which a tensor of [`SMALL`] elements goes from `a` to `b` and back [`TRIPS`] times, then one of `large`.
fn probe(cluster: &Cluster, a: usize, b: usize, large: usize) -> Result<Compiled, Box<Failure>> {
    let mut graph = Graph::new("link");
    let mut strategies = std::collections::BTreeMap::new();
    let devices = cluster.devices.len();
    let mut add = |graph: &mut Graph, op: Op, inputs: Vec<TensorId>, elements: usize, device: usize| {
        let shape = [1, elements];
        let count = graph.node_count();
        let output = graph.add_tensor(format!("t{count}"), TensorType::f32(shape));
        let node = graph.add_node(format!("n{count}"), op, inputs, vec![output]);
        let outputs = Sharding::whole(device, devices, &shape);
        strategies.insert(node, Strategy { method: Method::Whole, outputs, partial_sums: None });
        output
    };
    let mut x = graph.add_input("x", TensorType::f32([1, SMALL]));
    for _ in 0..TRIPS {
        x = add(&mut graph, Op::Unary(UnaryOp::Neg), vec![x], SMALL, b);
        x = add(&mut graph, Op::Unary(UnaryOp::Neg), vec![x], SMALL, a);
    }
    // One value of it makes the large one, so that the two follow each other.
    let slice = Op::Slice { starts: vec![0, 0], steps: vec![1, 1], sizes: vec![1, 1] };
    let one = add(&mut graph, slice.clone(), vec![x], 1, a);
    let zeros = graph.add_constant("zeros", crate::graph::Value::f32([1, large], vec![0.0; large]));
    let mut y = add(&mut graph, Op::Binary(BinaryOp::Add, Activation::None), vec![one, zeros], large, a);
    for _ in 0..TRIPS {
        y = add(&mut graph, Op::Unary(UnaryOp::Neg), vec![y], large, b);
        y = add(&mut graph, Op::Unary(UnaryOp::Neg), vec![y], large, a);
    }
    y = add(&mut graph, slice, vec![y], 1, a);
    graph.outputs.push(y);
    let cluster = Cluster { input: a, output: a, ..cluster.clone() };
    driver::compile_partition("link".to_string(), graph, cluster, Partition::given(strategies)).map_err(Box::new)
}

/// Builds and runs the program, and adds up what the first device saw of its exchanges.
fn run(arguments: &Arguments, compiled: &Compiled, out: &Path) -> anyhow::Result<Times> {
    bundle::write(out, compiled, &summary::report(compiled))?;
    let built = build(arguments, out, compiled)?;
    let wanted = LocalOptions { launcher: arguments.launcher.as_deref(), profile: true, silence: None };
    let mut cluster = start(compiled, &built, wanted)?;
    let input = data::noise(compiled.graph.tensor_type(compiled.graph.inputs[0]), 1);
    let input = pack(&compiled.graph, &compiled.graph.inputs, &[input])?;
    let near = compiled.routed.placed.programs.iter().position(|program| program.device == compiled.cluster.input);
    let near = near.context("the link's program has no device with the input")?;
    let (mut exchanges, mut computing) = ([0.0; 2], [0.0; 2]);
    for round in 0..RUNS {
        let result = cluster.infer(&input)?;
        if round == 0 {
            continue;
        }
        for (position, (program, times)) in compiled.routed.placed.programs.iter().zip(&result.profiles).enumerate() {
            for (step, time) in program.steps.iter().zip(times) {
                let seconds = *time as f64 * 1e-9 / (TRIPS * (RUNS - 1)) as f64;
                match step {
                    Step::Exchange { sends, receives } if position == near => {
                        let bytes = sends.iter().chain(receives).map(|message| message.bytes).max().unwrap_or(0);
                        exchanges[usize::from(bytes > SMALL * 4)] += seconds;
                    }
                    Step::Kernel { arguments, .. } if position != near => {
                        computing[usize::from(elements(program, arguments) > SMALL)] += seconds;
                    }
                    _ => {}
                }
            }
        }
    }
    let [small_seconds, large_seconds] = [0, 1].map(|size| (exchanges[size] - computing[size]).max(0.0));
    Ok(Times { small_seconds, large_seconds })
}

/// Elements of the largest buffer among a step's arguments.
fn elements(program: &crate::program::Program, arguments: &[crate::program::Argument]) -> usize {
    let size = |argument: &crate::program::Argument| match argument {
        crate::program::Argument::Buffer(id) => program.buffers[id.0 as usize].shape.iter().product(),
        crate::program::Argument::Weight(_) => 0,
    };
    arguments.iter().map(size).max().unwrap_or(0)
}
