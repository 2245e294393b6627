//! Pipelines: the graph as a chain of segments, each whole on one device, each device with one run of segments.

mod ilp;
pub(super) mod problem;
mod runs;
pub(super) mod segments;

use super::{Objective, PartitionOptions};
use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId};
use problem::Problem;

/// Largest number of possible moves between devices that is given to the ILP.
const MAX_ILP_MOVES: usize = 400;

/// A chain of segments on a cluster, ready to be solved.
pub struct Chain {
    /// The segments.
    pub segments: Vec<segments::Segment>,
    /// Their costs and limits.
    pub problem: Problem,
}

impl Chain {
    /// Cuts and prices.
    pub fn new(graph: &Graph, cluster: &Cluster, options: &PartitionOptions) -> Chain {
        let segments = segments::segments(graph, &options.encodings);
        let mut problem = Problem::new(graph, &segments, cluster);
        for (device, bytes) in options.reserve_bytes.iter().enumerate() {
            problem.ram[device] = problem.ram[device].saturating_sub(*bytes);
            problem.flash[device] = problem.flash[device].saturating_sub(*bytes);
        }
        Chain { segments, problem }
    }

    /// The best plan that uses one device, the first of equals.
    pub fn best_single(&self, objective: Objective) -> Option<Vec<usize>> {
        (0..self.problem.device_count())
            .map(|device| vec![device; self.problem.segment_count()])
            .filter(|assignment| self.problem.is_feasible(assignment))
            .min_by(|a, b| self.problem.objective(a, objective).total_cmp(&self.problem.objective(b, objective)))
    }

    /// The best pipeline, and whether that is proven; with `everyone` each device has something to multiply, if limits
    /// and links allow it.
    pub fn solve(&self, objective: Objective, everyone: bool) -> Option<(Vec<usize>, bool)> {
        let with_everyone = if everyone { self.solve_with(objective, true) } else { None };
        with_everyone.or_else(|| self.solve_with(objective, false))
    }

    fn solve_with(&self, objective: Objective, everyone: bool) -> Option<(Vec<usize>, bool)> {
        let feasible = |found: &Vec<usize>| self.problem.is_feasible(found);
        let (found, exact) = runs::solve(&self.problem, objective, everyone);
        let found = found.filter(feasible);
        if exact || self.problem.segment_count() * self.problem.device_count().pow(2) > MAX_ILP_MOVES {
            return found.map(|found| (found, exact));
        }
        ilp::solve(&self.problem, objective, everyone)
            .filter(feasible)
            .map(|found| (found, true))
            .or(found.map(|found| (found, false)))
    }

    /// Device of every node under an assignment of segments.
    pub fn devices(&self, assignment: &[usize]) -> Vec<(NodeId, usize)> {
        let mut found = Vec::new();
        for (segment, device) in self.segments.iter().zip(assignment) {
            found.extend(segment.nodes.iter().map(|node| (*node, *device)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Weights;

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
        let weights = Weights { latency: 0.01, traffic: 1.0, energy: 0.02 };
        let objectives = [
            Objective::Latency,
            Objective::Throughput,
            Objective::Traffic,
            Objective::Memory,
            Objective::Energy,
            Objective::Weighted(weights),
        ];
        let mut feasible = 0;
        for seed in 1..120 {
            let problem = random_problem(seed);
            for objective in objectives {
                let best = all_assignments(problem.segment_count(), problem.device_count())
                    .filter(|assignment| problem.is_feasible(assignment))
                    .map(|assignment| problem.objective(&assignment, objective))
                    .min_by(f64::total_cmp);
                let found = ilp::solve(&problem, objective, false);
                let (by_runs, exact) = runs::solve(&problem, objective, false);
                let by_runs = by_runs.filter(|found| problem.is_feasible(found));
                assert!(!exact || by_runs.is_some() == best.is_some(), "seed {seed}, {objective:?}: runs differ");
                if let (Some(best), Some(by_runs), true) = (best, &by_runs, exact) {
                    let value = problem.objective(by_runs, objective);
                    assert!(value <= best * (1.0 + 1e-9), "seed {seed}, {objective:?}: runs {value} > {best}");
                }
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
