//! The optimisation problem as plain numbers: what each segment costs on each device, what may hold it, what each
//! transfer costs. The solver and the oracle of the tests read the same numbers.

use super::segments::Segment;
use crate::partition::{Objective, cost, limits};
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, NodeId};

/// Costs and limits.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Seconds of segment `s` on device `d`.
    pub seconds: Vec<Vec<f64>>,
    /// Joules of segment `s` on device `d`.
    pub joules: Vec<Vec<f64>>,
    /// Seconds to hand boundary `s` (input of segment `s`; the last one is the output) from device `a` to device `b`;
    /// `None` without a link, 0 if they are the same.
    pub transfer: Vec<Vec<Vec<Option<f64>>>>,
    /// Joules of the same.
    pub transfer_joules: Vec<Vec<Vec<f64>>>,
    /// Bytes of boundary `s`.
    pub boundary_bytes: Vec<u64>,
    /// Whether segment `s` multiplies anything.
    pub multiplies: Vec<bool>,
    /// Bytes of constants of segment `s`.
    pub weights: Vec<u64>,
    /// Bytes of activations of segment `s`.
    pub arena: Vec<u64>,
    /// RAM of device `d` after what every program needs.
    pub ram: Vec<u64>,
    /// Flash of device `d` after its code.
    pub flash: Vec<u64>,
    /// Whether weights of device `d` occupy RAM too.
    pub weights_in_ram: Vec<bool>,
    /// Device that holds the input.
    pub input: usize,
    /// Device that wants the output.
    pub output: usize,
}

impl Problem {
    /// The numbers of a chain on a cluster.
    pub fn new(graph: &Graph, segments: &[Segment], cluster: &Cluster) -> Problem {
        let devices = &cluster.devices;
        let per_device = |f: &dyn Fn(&Segment, usize) -> f64| -> Vec<Vec<f64>> {
            segments.iter().map(|segment| (0..devices.len()).map(|device| f(segment, device)).collect()).collect()
        };
        let input_bytes: u64 = graph.inputs.iter().map(|tensor| graph.tensor_type(*tensor).size_bytes() as u64).sum();
        let mut boundary_bytes = vec![input_bytes];
        boundary_bytes.extend(segments.iter().map(|segment| segment.output_bytes));
        let pairs = |bytes: u64, f: &dyn Fn(usize, usize, u64) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
            let row = |a: usize| (0..devices.len()).map(|b| if a == b { Some(0.0) } else { f(a, b, bytes) }).collect();
            (0..devices.len()).map(row).collect()
        };
        let seconds_between = |a: usize, b: usize, bytes: u64| cost::transfer_seconds(cluster, a, b, bytes);
        let joules_between =
            |a: usize, b: usize, bytes: u64| Some(cost::transfer_joules(&devices[a].target, &devices[b].target, bytes));
        Problem {
            seconds: per_device(&|segment, device| {
                segment.nodes.iter().map(|node| cost::node_seconds(graph, *node, &devices[device])).sum()
            }),
            joules: per_device(&|segment, device| {
                let joules = |node: &NodeId| cost::joules(&cost::node_work(graph, *node), &devices[device]);
                segment.nodes.iter().map(joules).sum()
            }),
            transfer: boundary_bytes.iter().map(|bytes| pairs(*bytes, &seconds_between)).collect(),
            transfer_joules: boundary_bytes
                .iter()
                .map(|bytes| {
                    let rows = pairs(*bytes, &joules_between).into_iter();
                    rows.map(|row| row.into_iter().map(|joules| joules.unwrap_or(0.0)).collect()).collect()
                })
                .collect(),
            boundary_bytes,
            multiplies: segments
                .iter()
                .map(|segment| segment.nodes.iter().any(|node| cost::node_macs(graph, *node) > 0))
                .collect(),
            weights: segments.iter().map(|segment| segment.weights_bytes).collect(),
            arena: segments.iter().map(|segment| segment.arena_bytes).collect(),
            ram: devices.iter().map(limits::ram_bytes).collect(),
            flash: devices.iter().map(limits::flash_bytes).collect(),
            weights_in_ram: devices.iter().map(|device| device.target.system == System::Linux).collect(),
            input: cluster.input,
            output: cluster.output,
        }
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.weights.len()
    }

    /// Number of devices.
    pub fn device_count(&self) -> usize {
        self.ram.len()
    }

    /// Whether an assignment of segments to devices is possible: links exist, runs are consecutive, memory suffices.
    pub fn is_feasible(&self, assignment: &[usize]) -> bool {
        let mut left: Vec<usize> = Vec::new();
        for (segment, device) in assignment.iter().enumerate() {
            if segment > 0 && assignment[segment - 1] != *device {
                left.push(assignment[segment - 1]);
            }
            if left.contains(device) {
                return false;
            }
        }
        if self.moves(assignment).iter().any(|(boundary, from, to)| self.transfer[*boundary][*from][*to].is_none()) {
            return false;
        }
        (0..self.device_count()).all(|device| {
            let mine =
                || assignment.iter().enumerate().filter(|(_, owner)| **owner == device).map(|(segment, _)| segment);
            let weights: u64 = mine().map(|segment| self.weights[segment]).sum();
            let arena = mine().map(|segment| self.arena[segment]).max().unwrap_or(0);
            let ram = if self.weights_in_ram[device] { weights + arena } else { arena };
            ram <= self.ram[device] && weights <= self.flash[device]
        })
    }

    /// Transfers of an assignment: (boundary, from, to), also those that stay on one device.
    pub fn moves(&self, assignment: &[usize]) -> Vec<(usize, usize, usize)> {
        let mut from = self.input;
        let mut moves = Vec::with_capacity(assignment.len() + 1);
        for (boundary, to) in assignment.iter().chain([&self.output]).enumerate() {
            moves.push((boundary, from, *to));
            from = *to;
        }
        moves
    }

    /// Time of one inference.
    pub fn latency_seconds(&self, assignment: &[usize]) -> f64 {
        let compute: f64 = assignment.iter().enumerate().map(|(segment, device)| self.seconds[segment][*device]).sum();
        compute + self.moves(assignment).iter().filter_map(|(s, a, b)| self.transfer[*s][*a][*b]).sum::<f64>()
    }

    /// Time of the busiest device when inferences follow each other: its computation and its sends and receives.
    pub fn stage_seconds(&self, assignment: &[usize]) -> f64 {
        let mut busy = vec![0.0; self.device_count()];
        for (segment, device) in assignment.iter().enumerate() {
            busy[*device] += self.seconds[segment][*device];
        }
        for (boundary, from, to) in self.moves(assignment) {
            let seconds = self.transfer[boundary][from][to].unwrap_or(0.0);
            if from != to {
                busy[from] += seconds;
                busy[to] += seconds;
            }
        }
        busy.into_iter().fold(0.0, f64::max)
    }

    /// Bytes over all links.
    pub fn traffic_bytes(&self, assignment: &[usize]) -> u64 {
        self.moves(assignment).iter().filter(|(_, a, b)| a != b).map(|(s, _, _)| self.boundary_bytes[*s]).sum()
    }

    /// Energy of one inference.
    pub fn energy_joules(&self, assignment: &[usize]) -> f64 {
        let compute: f64 = assignment.iter().enumerate().map(|(segment, device)| self.joules[segment][*device]).sum();
        let moves = self.moves(assignment);
        compute + moves.iter().filter(|(_, a, b)| a != b).map(|(s, a, b)| self.transfer_joules[*s][*a][*b]).sum::<f64>()
    }

    /// Largest RAM need of any device.
    pub fn peak_ram_bytes(&self, assignment: &[usize]) -> u64 {
        (0..self.device_count())
            .map(|device| {
                let mine = || assignment.iter().enumerate().filter(|(_, owner)| **owner == device).map(|(s, _)| s);
                let weights: u64 = mine().map(|segment| self.weights[segment]).sum();
                let arena = mine().map(|segment| self.arena[segment]).max().unwrap_or(0);
                if self.weights_in_ram[device] { weights + arena } else { arena }
            })
            .max()
            .unwrap_or(0)
    }

    /// What is minimised, in the objective's unit.
    pub fn objective(&self, assignment: &[usize], objective: Objective) -> f64 {
        match objective {
            Objective::Latency => self.latency_seconds(assignment),
            Objective::Throughput => self.stage_seconds(assignment),
            Objective::Traffic => self.traffic_bytes(assignment) as f64,
            Objective::Memory => self.peak_ram_bytes(assignment) as f64,
            Objective::Energy => self.energy_joules(assignment),
            Objective::Weighted(weights) => weights.cost(
                self.latency_seconds(assignment),
                self.traffic_bytes(assignment) as f64,
                self.energy_joules(assignment),
            ),
        }
    }
}
