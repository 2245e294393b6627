//! What no plan can beat: times and energies below which no plan for a cluster can go, whatever its strategies, by the
//! figures that the simulation uses.
//!
//! Work that an answer needs is done once at least, at the best rate that a device has for it; a device works from when a
//! message can have reached it to when its last can still reach the device that wants the answer. For weights `w` of the
//! devices, `sum_d w_d busy_d >= sum_n min_d w_d t_nd` (`t_nd`: what node `n` takes on device `d` at least), and
//! `busy_d <= T - delay_d`: the least `T` that satisfies both is the bound. What has to travel beside single messages is
//! not counted, so the bound is low where links are slow.

use std::collections::HashMap;

use super::Method;
use super::cost::{self, Work};
use crate::shard::Region;
use partita_config::{Cluster, Device};
use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_ir::restrict::{restrict, space};
use partita_ir::space::Arithmetic;

/// Sums in another order differ by less, relatively.
const ROUNDING: f64 = 1e-9;

/// What the nodes of a graph take at least on the devices of a cluster.
pub struct Bounds {
    /// Seconds of each node, per device.
    seconds: Vec<Vec<f64>>,
    /// Joules of each node, per device.
    joules: Vec<Vec<f64>>,
    /// Share of inferences that reach each node: exits before it end the others.
    reach: Vec<f64>,
    /// Seconds before a device can begin and after it must have ended.
    delays: Vec<f64>,
    /// Seconds from the input to where the answer is wanted.
    distance_seconds: f64,
}

impl Bounds {
    /// Prices everything.
    pub fn new(graph: &Graph, cluster: &Cluster) -> Bounds {
        let work = needed_work(graph);
        // Equal devices take equal times.
        let kinds = kinds(cluster);
        let of_kind = |figure: &dyn Fn(&Device) -> f64| -> Vec<f64> {
            let mut known: HashMap<usize, f64> = HashMap::new();
            let of_device = |kind: &usize| *known.entry(*kind).or_insert_with(|| figure(&cluster.devices[*kind]));
            kinds.iter().map(of_device).collect()
        };
        let seconds = |(id, work): &(NodeId, Least)| of_kind(&|device| work.seconds(&graph.node(*id).name, device));
        let joules = |(_, work): &(NodeId, Least)| of_kind(&|device| cost::joules(&work.work, device));
        let reached = graph.reach();
        let (there, back) = (delays(cluster, cluster.input), delays(cluster, cluster.output));
        Bounds {
            seconds: work.iter().map(seconds).collect(),
            joules: work.iter().map(joules).collect(),
            reach: work.iter().map(|(id, _)| reached.get(id).copied().unwrap_or(1.0)).collect(),
            delays: there.iter().zip(&back).map(|(there, back)| there + back).collect(),
            distance_seconds: there[cluster.output],
        }
    }

    /// No plan on these devices answers sooner, in seconds; on average where there are exits.
    pub fn latency_seconds(&self, devices: &[usize]) -> f64 {
        let weights = self.weights(devices);
        // Of who ends at the same exit, one after the other: what those need that come that far.
        let mut levels: Vec<f64> = self.reach.iter().copied().filter(|reach| *reach > 0.0).chain([1.0]).collect();
        levels.sort_unstable_by(|a, b| b.total_cmp(a));
        levels.dedup();
        let behind = levels.iter().skip(1).copied().chain([0.0]);
        let ended = |(level, behind): (&f64, f64)| {
            let needed = self.weighted(devices, &weights, &|reach| f64::from(reach >= *level));
            (level - behind) * self.seconds_for(devices, &weights, needed)
        };
        levels.iter().zip(behind).map(ended).sum()
    }

    /// No plan on these devices does so much weighted work sooner.
    fn seconds_for(&self, devices: &[usize], weights: &[f64], needed: f64) -> f64 {
        // Devices that can begin earliest first: each further one helps from its delay on.
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by(|a, b| self.delays[devices[*a]].total_cmp(&self.delays[devices[*b]]));
        let (mut rate, mut lost, mut least) = (0.0, 0.0, f64::INFINITY);
        for at in order {
            let delay = self.delays[devices[at]];
            if delay.is_infinite() || delay >= least {
                break;
            }
            rate += weights[at];
            lost += weights[at] * delay;
            least = (needed + lost) / rate;
        }
        let least = if least.is_finite() { least } else { 0.0 };
        least.max(if self.distance_seconds.is_finite() { self.distance_seconds } else { 0.0 }) * (1.0 - ROUNDING)
    }

    /// No plan on these devices has a busiest device that is busy for less per inference, in seconds.
    pub fn period_seconds(&self, devices: &[usize]) -> f64 {
        let weights = self.weights(devices);
        self.weighted(devices, &weights, &|reach| reach) / weights.iter().sum::<f64>() * (1.0 - ROUNDING)
    }

    /// No plan on these devices takes less energy.
    pub fn joules(&self, devices: &[usize]) -> f64 {
        let least = |joules: &Vec<f64>| devices.iter().map(|device| joules[*device]).fold(f64::INFINITY, f64::min);
        let all = self.joules.iter().zip(&self.reach).map(|(joules, reach)| least(joules) * reach);
        all.sum::<f64>() * (1.0 - ROUNDING)
    }

    /// The inverse of what each device takes for everything: where devices differ in speed alone, the best weights.
    fn weights(&self, devices: &[usize]) -> Vec<f64> {
        let whole = |device: &usize| self.seconds.iter().map(|seconds| seconds[*device]).sum::<f64>();
        devices.iter().map(|device| 1.0 / whole(device).max(1e-12)).collect()
    }

    fn weighted(&self, devices: &[usize], weights: &[f64], counts: &dyn Fn(f64) -> f64) -> f64 {
        let on = |seconds: &Vec<f64>| {
            devices.iter().zip(weights).map(|(device, weight)| seconds[*device] * weight).fold(f64::INFINITY, f64::min)
        };
        self.seconds.iter().zip(&self.reach).map(|(seconds, reach)| on(seconds) * counts(*reach)).sum()
    }
}

/// The first device that computes like each.
fn kinds(cluster: &Cluster) -> Vec<usize> {
    let mut first: Vec<usize> = Vec::new();
    let kind = |device: usize| {
        let known = first.iter().find(|known| cluster.devices[**known].computes_like(&cluster.devices[device]));
        let known = known.copied();
        first.extend(known.is_none().then_some(device));
        known.unwrap_or(device)
    };
    (0..cluster.devices.len()).map(kind).collect()
}

/// What a node asks at least, however it is cut.
struct Least {
    work: Work,
    /// Bytes of its results.
    result_bytes: u64,
    /// Whether it may be nothing but a way to look at memory.
    is_movement: bool,
    /// Whether its parts may multiply at either rate: a depthwise convolution cut to one channel is an ordinary one.
    any_rate: bool,
}

impl Least {
    fn seconds(&self, node: &str, device: &Device) -> f64 {
        if self.is_movement {
            return 0.0;
        }
        let (work, rate) = (&self.work, &device.target.rate);
        let depthwise = rate.depthwise_macs_per_second;
        let macs_per_second = match (self.any_rate, work.depthwise) {
            (true, _) => depthwise.max(rate.conv_macs_per_second),
            (false, true) => depthwise,
            (false, false) => rate.conv_macs_per_second,
        };
        let filterable = work.filterable.filter(|_| device.allows_winograd());
        let lanes = u64::from(device.target.instruction_set.lanes());
        let part = filterable.map_or(1.0, |filterable| filterable.least_part(lanes));
        let arithmetic = if work.macs > 0 {
            let results = work.elements as f64 / rate.result_per_second;
            work.macs as f64 * part / (macs_per_second * work.byte_speedup(device)) + results
        } else {
            work.elements as f64 / rate.element_per_second
        };
        let memory = (work.stored_weights_bytes(device) + self.result_bytes) as f64 / rate.memory_bytes_per_second;
        let methods = Method::ALL
            .iter()
            .map(|method| device.settings.corrections.factor(node, method.name(), cost::family(work)));
        let families = ["conv", "depthwise"].map(|family| device.settings.corrections.factor(node, "", family));
        let families = families.into_iter().filter(|_| self.any_rate);
        arithmetic.max(memory) * methods.chain(families).fold(f64::INFINITY, f64::min)
    }
}

/// The work of every node, of what the answer needs of its result only: fused tiles leave out what no window reads.
fn needed_work(graph: &Graph) -> Vec<(NodeId, Least)> {
    let mut needed: HashMap<TensorId, Region> = HashMap::new();
    for output in &graph.outputs {
        needed.insert(*output, Region::whole(graph.shape(*output)));
    }
    let mut found = Vec::new();
    for id in graph.topological_order().unwrap_or_default().into_iter().rev() {
        let node = graph.node(id);
        let Some(output) = node.outputs.first().copied() else { continue };
        let whole = Region::whole(graph.shape(output));
        if !node.outputs.iter().any(|output| needed.contains_key(output)) {
            // Exits decide, and answers need their verdicts; what nobody needs costs nothing.
            if !matches!(node.op, Op::Decide(_)) {
                continue;
            }
        }
        let region = needed.get(&output).copied().filter(|_| node.outputs.len() == 1).unwrap_or(whole);
        let Some((region, restriction)) = (restrict(graph, id, &region).map(|restriction| (region, restriction)))
            .or_else(|| restrict(graph, id, &whole).map(|restriction| (whole, restriction)))
        else {
            continue;
        };
        for (input, part) in node.inputs.iter().zip(&restriction.operands) {
            let Some(part) = part else { continue };
            needed.entry(*input).and_modify(|known| *known = known.hull(part)).or_insert(*part);
        }
        let work = cost::shard_work(graph, id, &restriction);
        let element_bytes = graph.stored(output).element.size_bytes() as u64;
        let is_movement = matches!(space(graph, id).arithmetic, Arithmetic::Copies | Arithmetic::View);
        let result_bytes = region.element_count() * element_bytes;
        let any_rate = matches!(&node.op, Op::Conv(conv) if conv.groups > 1);
        found.push((id, Least { work, result_bytes, is_movement, any_rate }));
    }
    found
}

/// Seconds that a message takes at least between a device and each other, over as many links as it needs; infinite where
/// no links lead.
fn delays(cluster: &Cluster, from: usize) -> Vec<f64> {
    let count = cluster.devices.len();
    let message = |device: usize| cluster.devices[device].message_microseconds() * 1e-6;
    let mut least = vec![f64::INFINITY; count];
    least[from] = 0.0;
    let mut open: Vec<usize> = (0..count).collect();
    while let Some(at) = (0..open.len()).min_by(|a, b| least[open[*a]].total_cmp(&least[open[*b]])) {
        let device = open.swap_remove(at);
        for other in 0..count {
            if let Some(link) = cluster.link(device, other) {
                let there = least[device] + message(device) + link.latency_ms * 1e-3 + message(other);
                least[other] = least[other].min(there);
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_config::cluster_file;

    /// What is behind an exit counts as often as an inference comes that far: the bound is one of means.
    #[test]
    fn what_exits_leave_out_is_not_counted() {
        let text = "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\n\
             target = \"raspberry-pi-3\"\n";
        let cluster = cluster_file::parse(text, "cluster.toml", std::path::Path::new(".")).expect("it is sound");
        let bounds = |share: &str| {
            let text = format!(
                r#"graph "t" opset 17
input %0 "x": f32[1,6400]
%1 "head": f32[1,6400] = "head"(%0) Unary(Sigmoid)
%2 "verdict": f32[2] = "decide"(%1) Decide((exit:0,rule:Margin,logits:true,temperature:1.0,threshold:0.5,share:{share},patience:None))
%3 "p": f32[1,6400] = "p"(%0) Unary(Exp)
%4 "y": f32[1,6400] = "y"(%3) Unary(Erf)
output %4
"#
            );
            let graph = partita_ir::graph::text::parse(&text).expect("the text is a graph");
            let bounds = Bounds::new(&graph, &cluster);
            [bounds.latency_seconds(&[0]), bounds.period_seconds(&[0])]
        };
        for (all, (quarter, never)) in bounds("0.0").iter().zip(bounds("0.75").iter().zip(&bounds("1.0"))) {
            assert!(*never > 0.0 && never < all, "{never} {all}");
            let expected = 0.25 * all + 0.75 * never;
            assert!((quarter - expected).abs() < 1e-9 * expected, "{quarter}, expected {expected}");
        }
    }
}
