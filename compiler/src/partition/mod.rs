//! Decides which device computes which node: the sharding ILP.
//!
//! First form: whole nodes on one device each, consecutive runs of layers (`whole`, `pipeline`). Split strategies enter
//! as further [`Strategy`] variants, with their own reshards and costs.

pub mod cost;
mod ilp;
mod problem;
mod segments;
pub mod text;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::config::Cluster;
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, NodeId};

use problem::Problem;

/// One way to compute a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The device with this index computes all of it and holds all of its weights.
    Whole(usize),
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Time of one inference.
    Latency,
    /// Time of the slowest stage of a pipeline.
    Throughput,
    /// Bytes sent over all links.
    Traffic,
    /// Largest arena of any device.
    Memory,
    /// Energy of one inference.
    Energy,
}

/// The decision, with what was predicted for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Strategy of every node.
    pub strategies: BTreeMap<NodeId, Strategy>,
    /// What was minimised.
    pub objective: Objective,
    /// Whether the solver proved that nothing is better.
    pub optimal: bool,
    /// Relative distance between the answer and the best bound; 0 if optimal.
    pub gap: f64,
    /// Predicted time of one inference.
    pub latency_ms: f64,
    /// Predicted inferences per second when inputs come back to back.
    pub throughput_hz: f64,
    /// Bytes sent over all links per inference.
    pub traffic_bytes: u64,
    /// Predicted energy of one inference.
    pub energy_mj: f64,
    /// Time the solver took.
    pub solve_ms: f64,
    /// Predicted time of one inference on the best device that could hold everything alone, if there is one.
    pub single_device_ms: Option<f64>,
}

/// Strategies that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyFamily {
    /// The best of all.
    Auto,
    /// Everything on one device.
    Whole,
    /// Consecutive runs of layers, on as many devices as can take part.
    Pipeline,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Allowed strategies.
    pub family: StrategyFamily,
}

/// Why there is no partition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartitionError {
    /// Some limit cannot be kept.
    #[error("{0}")]
    Infeasible(Diagnostic),
}

/// Decides which device computes what.
pub fn solve(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Result<Partition, PartitionError> {
    let begin = Instant::now();
    let segments = segments::segments(graph);
    let problem = Problem::new(graph, &segments, cluster);
    let single = best_single(&problem, options.objective);
    let answer = match options.family {
        StrategyFamily::Whole => single.clone(),
        StrategyFamily::Auto => ilp::solve(&problem, options.objective, false),
        // Every device takes part if limits and links allow it.
        StrategyFamily::Pipeline => {
            let everyone = ilp::solve(&problem, options.objective, true).filter(|found| problem.is_feasible(found));
            everyone.or_else(|| ilp::solve(&problem, options.objective, false))
        }
    };
    let Some(assignment) = answer.filter(|assignment| problem.is_feasible(assignment)) else {
        return Err(PartitionError::Infeasible(explain(graph, cluster, &problem, &segments)));
    };
    let mut strategies = BTreeMap::new();
    for (segment, device) in segments.iter().zip(&assignment) {
        strategies.extend(segment.nodes.iter().map(|node| (*node, Strategy::Whole(*device))));
    }
    Ok(Partition {
        strategies,
        objective: options.objective,
        optimal: true,
        gap: 0.0,
        latency_ms: problem.latency_seconds(&assignment) * 1e3,
        throughput_hz: 1.0 / problem.stage_seconds(&assignment).max(f64::MIN_POSITIVE),
        traffic_bytes: problem.traffic_bytes(&assignment),
        energy_mj: problem.energy_joules(&assignment) * 1e3,
        solve_ms: begin.elapsed().as_secs_f64() * 1e3,
        single_device_ms: best_single(&problem, Objective::Latency)
            .map(|assignment| problem.latency_seconds(&assignment) * 1e3),
    })
}

/// A partition that was decided elsewhere, with the figures that are predicted for it.
pub fn from_strategies(
    graph: &Graph,
    cluster: &Cluster,
    objective: Objective,
    strategies: BTreeMap<NodeId, Strategy>,
) -> Option<Partition> {
    let segments = segments::segments(graph);
    let problem = Problem::new(graph, &segments, cluster);
    let assignment = segments
        .iter()
        .map(|segment| match strategies.get(segment.nodes.first()?) {
            Some(Strategy::Whole(device)) if *device < cluster.devices.len() => Some(*device),
            _ => None,
        })
        .collect::<Option<Vec<usize>>>()?;
    problem.is_feasible(&assignment).then(|| Partition {
        strategies,
        objective,
        optimal: false,
        gap: 0.0,
        latency_ms: problem.latency_seconds(&assignment) * 1e3,
        throughput_hz: 1.0 / problem.stage_seconds(&assignment).max(f64::MIN_POSITIVE),
        traffic_bytes: problem.traffic_bytes(&assignment),
        energy_mj: problem.energy_joules(&assignment) * 1e3,
        solve_ms: 0.0,
        single_device_ms: best_single(&problem, Objective::Latency)
            .map(|assignment| problem.latency_seconds(&assignment) * 1e3),
    })
}

/// The best plan that uses one device, the first of equals.
fn best_single(problem: &Problem, objective: Objective) -> Option<Vec<usize>> {
    (0..problem.device_count())
        .map(|device| vec![device; problem.segment_count()])
        .filter(|assignment| problem.is_feasible(assignment))
        .min_by(|a, b| problem.objective(a, objective).total_cmp(&problem.objective(b, objective)))
}

/// Names the limit that nothing satisfies, and what it would take.
fn explain(graph: &Graph, cluster: &Cluster, problem: &Problem, segments: &[segments::Segment]) -> Diagnostic {
    let devices = 0..problem.device_count();
    for (segment, info) in segments.iter().enumerate() {
        let needed = |device: usize| {
            problem.arena[segment] + if problem.weights_in_ram[device] { problem.weights[segment] } else { 0 }
        };
        if devices.clone().any(|d| needed(d) <= problem.ram[d] && problem.weights[segment] <= problem.flash[d]) {
            continue;
        }
        let largest = info.nodes.iter().max_by_key(|node| cost::node_weights_bytes(graph, **node));
        let label = largest.map_or(String::new(), |node| graph.node_label(*node));
        let mut diagnostic = Diagnostic::new(
            "E0170",
            format!("no device can hold the layers around node {}", crate::diagnostic::printable(&label)),
        );
        for device in devices.clone() {
            diagnostic = diagnostic.note(format!(
                "device `{}` has {} bytes of RAM and {} of flash for them; they need {} and {}",
                cluster.devices[device].name,
                problem.ram[device],
                problem.flash[device],
                needed(device),
                problem.weights[segment]
            ));
        }
        return diagnostic
            .help("add a device with that much memory, or split the layers once int8 or splits are at hand");
    }
    let weights: u64 = problem.weights.iter().sum();
    let flash: u64 = problem.flash.iter().sum();
    let mut diagnostic = Diagnostic::new("E0170", "no assignment of layers to devices keeps every limit")
        .note(format!("the model has {weights} bytes of weights; the devices have {flash} bytes of flash together"));
    for device in devices {
        diagnostic = diagnostic.note(format!(
            "device `{}`: {} bytes of RAM, {} of flash",
            cluster.devices[device].name, problem.ram[device], problem.flash[device]
        ));
    }
    diagnostic.help("more RAM or flash, a further device, or a link between devices that have none would help")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every assignment of `segments` to `devices`.
    fn all_assignments(segments: usize, devices: usize) -> impl Iterator<Item = Vec<usize>> {
        (0..devices.pow(segments as u32)).map(move |mut code| {
            (0..segments)
                .map(|_| {
                    let device = code % devices;
                    code /= devices;
                    device
                })
                .collect()
        })
    }

    fn random_problem(seed: u64) -> Problem {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let (segments, devices) = (2 + next(4) as usize, 1 + next(3) as usize);
        let mut table = |rows: usize, bound: u64| -> Vec<Vec<f64>> {
            (0..rows).map(|_| (0..devices).map(|_| 1.0 + next(bound) as f64).collect()).collect()
        };
        let seconds = table(segments, 50);
        let joules = table(segments, 50);
        let bytes: Vec<u64> = (0..=segments).map(|_| 1_000_000 * (1 + next(9))).collect();
        let mut linked = vec![vec![true; devices]; devices];
        let pairs = (0..devices).flat_map(|a| (0..a).map(move |b| (a, b)));
        for (a, b) in pairs {
            let joined = next(4) > 0;
            (linked[a][b], linked[b][a]) = (joined, joined);
        }
        let matrix = |bytes: u64| -> Vec<Vec<Option<f64>>> {
            (0..devices)
                .map(|a| {
                    let cost = |b: usize| if a == b { 0.0 } else { bytes as f64 * 2e-6 };
                    (0..devices).map(|b| (a == b || linked[a][b]).then(|| cost(b))).collect()
                })
                .collect()
        };
        let transfer: Vec<_> = bytes.iter().map(|bytes| matrix(*bytes)).collect();
        let transfer_joules = transfer
            .iter()
            .map(|rows| rows.iter().map(|row| row.iter().map(|cost| cost.unwrap_or(0.0)).collect()).collect())
            .collect();
        Problem {
            seconds,
            joules,
            transfer,
            transfer_joules,
            boundary_bytes: bytes,
            multiplies: vec![true; segments],
            weights: (0..segments).map(|_| 1_000_000 * next(10)).collect(),
            arena: (0..segments).map(|_| 1_000_000 * (1 + next(5))).collect(),
            ram: (0..devices).map(|_| 1_000_000 * (4 + next(40))).collect(),
            flash: (0..devices).map(|_| 1_000_000 * (4 + next(40))).collect(),
            weights_in_ram: (0..devices).map(|_| next(2) == 0).collect(),
            input: next(devices as u64) as usize,
            output: next(devices as u64) as usize,
        }
    }

    #[test]
    fn the_solver_agrees_with_exhaustive_search() {
        let objectives =
            [Objective::Latency, Objective::Throughput, Objective::Traffic, Objective::Memory, Objective::Energy];
        let mut feasible = 0;
        for seed in 1..120 {
            let problem = random_problem(seed);
            for objective in objectives {
                let best = all_assignments(problem.segment_count(), problem.device_count())
                    .filter(|assignment| problem.is_feasible(assignment))
                    .map(|assignment| problem.objective(&assignment, objective))
                    .min_by(f64::total_cmp);
                let found = ilp::solve(&problem, objective, false);
                match (best, &found) {
                    (None, None) => {}
                    (Some(best), Some(found)) => {
                        feasible += 1;
                        assert!(problem.is_feasible(found), "seed {seed}, {objective:?}: {found:?} is not feasible");
                        let value = problem.objective(found, objective);
                        assert!(value <= best * (1.0 + 1e-6) + 1e-9, "seed {seed}, {objective:?}: {value} > {best}");
                    }
                    other => panic!("seed {seed}, {objective:?}: search and solver disagree: {other:?}"),
                }
            }
        }
        assert!(feasible > 100, "only {feasible} problems were feasible");
    }
}
