//! What a message costs the processors, fitted to the families that were run: a message to and fro shows only what its
//! costs and the link's latency are together.

use super::Ran;
use crate::config::Cluster;
use crate::config::measured::Measured;
use crate::simulate::simulate;

/// Costs and latencies that are tried, each.
const STEPS: u32 = 20;

/// The highest cost that is tried, as a multiple of what the target files say.
const MOST: f64 = 2.0;

/// Gives every kind of device the cost per message, and every link the latency, with which the families that were run
/// are predicted best (least squared logarithms). Together they are at most what the round trip shows: links may pass
/// what is short at once, and do so while devices are busy. All kinds and all links are scaled alike: the families do
/// not tell them apart.
pub(super) fn fit(cluster: &Cluster, measured: Measured, ran: &[Ran]) -> Measured {
    if measured.link.is_empty() || ran.iter().all(|ran| ran.compiled.routed.prediction.traffic_bytes == 0) {
        return measured;
    }
    let part = |step: u32| f64::from(step) / f64::from(STEPS);
    let tried = (0..=STEPS).flat_map(|cost| (0..=STEPS).map(move |latency| (part(cost), part(latency))));
    let tried = tried.map(|(cost, latency)| {
        let measured = scaled(cluster, &measured, MOST * cost, latency);
        (error(&measured, ran), measured)
    });
    tried.min_by(|one, other| one.0.total_cmp(&other.0)).map_or(measured.clone(), |(_, best)| best)
}

/// With messages that cost so many times what the target files say, and so much of the latency that the round trip then
/// leaves.
fn scaled(cluster: &Cluster, measured: &Measured, factor: f64, part: f64) -> Measured {
    let mut measured = measured.clone();
    for kind in &mut measured.kind {
        let mut fitting = cluster.devices.iter().filter(|device| device.target.name == kind.target);
        let device = fitting.find(|device| (device.cpu - kind.cpu).abs() < 1e-9);
        kind.message_microseconds = device.map(|device| device.message_microseconds() * factor);
    }
    for seen in &mut measured.link {
        let ends = cluster.devices.iter().filter(|device| seen.between.contains(&device.name));
        let cost_ms = ends.map(|device| device.message_microseconds() * factor * 1e-3).sum::<f64>();
        seen.latency_ms = (seen.round_trip_ms / 2.0 - cost_ms).max(0.0) * part;
    }
    measured
}

/// Sum of squared logarithms of predicted over measured latency.
fn error(measured: &Measured, ran: &[Ran]) -> f64 {
    let of_family = |ran: &Ran| {
        let mut cluster = ran.compiled.cluster.clone();
        measured.correct(&mut cluster);
        let predicted_ms =
            simulate(&ran.compiled.routed.placed.sharded, &ran.compiled.routed.placed.schedules, &cluster).latency_ms;
        (predicted_ms / ran.latency_ms).ln().powi(2)
    };
    ran.iter().map(of_family).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster_file;
    use crate::config::measured::{Corrections, DeviceKind, LinkMeasurement};
    use crate::driver::{Options, compile_graph};
    use crate::graph::Graph;
    use crate::graph::text::parse;
    use crate::partition::StrategyFamily;

    const CLUSTER: &str = "[cluster]\nname = \"t\"\ninput = \"d-0\"\noutput = \"d-0\"\n[[device]]\nname = \"d\"\n\
        target = \"raspberry-pi-4\"\ncount = 3\n\
        [[link]]\nbetween = [\"d\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\nlatency = \"0.3 ms\"\n";

    /// Two convolutions.
    fn graph() -> Graph {
        let conv = |to: usize, from: usize, name: &str| {
            format!(
                "%{to} \"{name}\": f32[1,16,32,32] = \"{name}\"(%{from}, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],\
                 dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:Relu))\n"
            )
        };
        let head = "graph \"two\" opset 17\ninput %0 \"x\": f32[1,16,32,32]\nconst %1 \"w\": f32[16,16,3,3] = random(1)\n\
                    const %2 \"b\": f32[16] = random(2)\n";
        parse(&(head.to_string() + &conv(3, 0, "a") + &conv(4, 3, "b") + "output %4\n")).expect("it is a graph")
    }

    /// What was measured of a cluster whose messages cost so much and take so long.
    fn measured(cost_us: f64, latency_ms: f64) -> Measured {
        let one_way_ms = latency_ms + 2e-3 * cost_us;
        let between = ["d-0", "d-1"].map(str::to_string);
        let (link, bytes_per_second) = (1, 11.5e6);
        let seen = LinkMeasurement { link, between, round_trip_ms: 2.0 * one_way_ms, latency_ms, bytes_per_second };
        let (target, message_microseconds) = ("raspberry-pi-4".to_string(), Some(cost_us));
        let kind = DeviceKind { target, cpu: 1.0, message_microseconds, corrections: Corrections::default() };
        Measured { origin: None, kind: vec![kind], link: vec![seen] }
    }

    #[test]
    fn costs_and_latencies_are_found_again() {
        let cluster = cluster_file::parse(CLUSTER, "cluster.toml", std::path::Path::new(".")).expect("it is sound");
        let nominal_us = cluster.devices[0].message_microseconds();
        for (factor, latency_ms) in [(0.5, 0.2), (1.6, 0.1), (0.0, 0.4)] {
            let truth = measured(nominal_us * factor, latency_ms);
            let planned = |family: StrategyFamily| {
                let options = Options { family, ..Options::default() };
                let compiled = compile_graph("t".to_string(), graph(), cluster.clone(), &options);
                let compiled = compiled.expect("it fits");
                let mut real = cluster.clone();
                truth.correct(&mut real);
                let latency_ms =
                    simulate(&compiled.routed.placed.sharded, &compiled.routed.placed.schedules, &real).latency_ms;
                Ran { family, compiled, latency_ms }
            };
            let ran = [StrategyFamily::Whole, StrategyFamily::Lop, StrategyFamily::Spatial].map(planned);
            assert!(ran.iter().any(|ran| ran.compiled.routed.prediction.traffic_bytes > 0));
            let before = error(&measured(nominal_us, 0.0), &ran);
            let found = fit(&cluster, measured(nominal_us * factor, latency_ms), &ran);
            let after = error(&found, &ran);
            assert!(after < 1e-4 && after < before, "{factor} and {latency_ms} ms: {before} before, {after} after");
        }
    }
}
