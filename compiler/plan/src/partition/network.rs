//! The optimisation problem: a choice of one candidate per node, and what the choice of two neighbours makes travel.

use std::collections::{BTreeMap, HashMap};

use super::candidates::candidates;
use super::cost::{self, Flow, exchange_seconds};
use super::elimination::Factor;
use super::price::{Candidate, Scope};
use super::reshard::{Reshard, reshard};
use super::{Objective, Strategy};
use crate::shard::{Region, Sharding};
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::restrict::result_parts;

/// A tensor between two choices.
#[derive(Debug)]
pub struct Edge {
    /// Position of the node that makes it; none for an input of the graph.
    pub producer: Option<usize>,
    /// Position of the node that reads it, and as which operand; none for an output of the graph.
    pub consumer: Option<(usize, usize)>,
    /// Per candidate of the producer and of the consumer the index into [`Network::reshards`]; [`FORBIDDEN`] if the two
    /// do not go together.
    pub table: Vec<u32>,
    /// Candidates of the consumer, 1 if there is none.
    pub columns: usize,
    /// Share of inferences in which it is travelled.
    pub reach: f64,
}

/// Two choices that do not go together.
pub const FORBIDDEN: u32 = u32::MAX;

/// Nodes, candidates and edges.
pub struct Network<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Nodes in topological order.
    pub order: Vec<NodeId>,
    /// Candidates of each.
    pub candidates: Vec<Vec<Candidate>>,
    /// Share of inferences that reach each: exits before it end the others.
    pub reach: Vec<f64>,
    /// What flows between them.
    pub edges: Vec<Edge>,
    /// What may have to travel.
    pub reshards: Vec<Reshard>,
    /// RAM of each device after what every program needs.
    pub ram: Vec<u64>,
    /// Flash of each device after its code.
    pub flash: Vec<u64>,
}

impl<'a> Network<'a> {
    /// Lists and prices everything.
    pub fn new(choice: &Scope<'a>, ram: Vec<u64>, flash: Vec<u64>) -> Network<'a> {
        let order = choice.graph.topological_order().unwrap_or_default();
        let candidates = candidates(choice, &order);
        Network::of(choice, order, candidates, (ram, flash))
    }

    /// Prices these candidates, one list per node of `order`, and what travels between them.
    pub fn of(
        choice: &Scope<'a>,
        order: Vec<NodeId>,
        candidates: Vec<Vec<Candidate>>,
        (ram, flash): (Vec<u64>, Vec<u64>),
    ) -> Network<'a> {
        let (graph, cluster) = (choice.graph, choice.cluster);
        let by_node = graph.reach();
        let reach = order.iter().map(|id| by_node.get(id).copied().unwrap_or(1.0)).collect();
        let mut network =
            Network { cluster, order, candidates, reach, edges: Vec::new(), reshards: Vec::new(), ram, flash };
        network.connect(graph);
        network
    }

    fn connect(&mut self, graph: &Graph) {
        let position: HashMap<NodeId, usize> = self.order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let mut prices = Prices::default();
        for consumer in 0..self.order.len() {
            for (operand, tensor) in graph.node(self.order[consumer]).inputs.iter().enumerate() {
                if graph.value(*tensor).is_some() {
                    continue;
                }
                let producer = graph.tensor(*tensor).producer.map(|producer| position[&producer]);
                self.add_edge(graph, *tensor, producer, Some((consumer, operand)), &mut prices);
            }
        }
        for output in &graph.outputs {
            if let Some(producer) = graph.tensor(*output).producer {
                self.add_edge(graph, *output, Some(position[&producer]), None, &mut prices);
            }
        }
    }

    fn add_edge(
        &mut self,
        graph: &Graph,
        tensor: TensorId,
        producer: Option<usize>,
        consumer: Option<(usize, usize)>,
        prices: &mut Prices,
    ) {
        let shape = graph.shape(tensor);
        let element_bytes = graph.tensor_type(tensor).element.size_bytes() as u64;
        let devices = self.cluster.devices.len();
        let at_input = Sharding::whole(self.cluster.input, devices, shape);
        let at_output = Sharding::whole(self.cluster.output, devices, shape);
        // What a device has of a further result follows from what it computes of the first.
        let of_result =
            |node: NodeId, first: &Sharding| match graph.node(node).outputs.iter().position(|o| *o == tensor) {
                None | Some(0) => first.clone(),
                Some(at) => {
                    let part = |first: Region| result_parts(graph, node, &first)?.get(at).copied();
                    Sharding(first.0.iter().map(|region| region.and_then(part)).collect())
                }
            };
        let held: Vec<(u32, Option<(usize, bool)>)> = match producer {
            None => vec![(prices.class(&at_input), None)],
            Some(producer) => self.candidates[producer]
                .iter()
                .map(|candidate| {
                    let held = of_result(self.order[producer], &candidate.strategy.outputs);
                    (prices.class(&held), candidate.run)
                })
                .collect(),
        };
        let needed: Vec<(u32, Option<(usize, bool)>)> = match consumer {
            None => vec![(prices.class(&at_output), None)],
            Some((consumer, operand)) => self.candidates[consumer]
                .iter()
                .map(|candidate| {
                    (candidate.needs[operand].as_ref().map_or(0, |need| prices.class(need)), candidate.run)
                })
                .collect(),
        };
        let mut table = Vec::with_capacity(held.len() * needed.len());
        for (held, held_run) in &held {
            for (needed, needed_run) in &needed {
                let inside = matches!((held_run, needed_run), (Some((a, _)), Some((b, _))) if a == b);
                let leaves_early = matches!(held_run, Some((_, false))) && !inside;
                table.push(if leaves_early {
                    FORBIDDEN
                } else {
                    let key = (tensor, *held, *needed);
                    match prices.known.get(&key) {
                        Some(known) => *known,
                        None => {
                            let (held, needed) = (&prices.classes[*held as usize], &prices.classes[*needed as usize]);
                            let found = reshard(self.cluster, held, needed, shape, element_bytes);
                            let index = found.map_or(FORBIDDEN, |found| {
                                self.reshards.push(found);
                                self.reshards.len() as u32 - 1
                            });
                            prices.known.insert(key, index);
                            index
                        }
                    }
                });
            }
        }
        let columns = needed.len();
        let reach = consumer.map(|(node, _)| node).or(producer).map_or(1.0, |node| self.reach[node]);
        self.edges.push(Edge { producer, consumer, table, columns, reach });
    }

    /// Number of candidates of each node.
    pub fn domains(&self) -> Vec<usize> {
        self.candidates.iter().map(Vec::len).collect()
    }

    /// All candidates of all nodes.
    pub fn all(&self) -> Vec<Vec<usize>> {
        self.candidates.iter().map(|listed| (0..listed.len()).collect()).collect()
    }

    /// The problem as tables, for prices of candidates (node, choice) and of travel (index into the reshards) whenever
    /// it happens.
    pub fn factors(
        &self,
        node_price: &dyn Fn(usize, usize) -> f64,
        travel_price: &dyn Fn(usize) -> f64,
    ) -> Vec<Factor> {
        let travel: Vec<f64> = (0..self.reshards.len()).map(travel_price).collect();
        self.factors_of(&self.all(), node_price, &travel)
    }

    /// The same with these choices only.
    pub fn factors_of(
        &self,
        choices: &[Vec<usize>],
        node_price: &dyn Fn(usize, usize) -> f64,
        travel: &[f64],
    ) -> Vec<Factor> {
        let of_node = |(node, listed): (usize, &Vec<usize>)| Factor {
            scope: vec![node],
            table: listed.iter().map(|choice| node_price(node, *choice)).collect(),
        };
        let mut factors: Vec<Factor> = choices.iter().enumerate().map(of_node).collect();
        for edge in &self.edges {
            let rows = edge.producer.map_or(&[0][..], |node| &choices[node]);
            let columns = edge.consumer.map_or(&[0][..], |(node, _)| &choices[node]);
            let price = |row: usize, column: usize| {
                let index = edge.table[row * edge.columns + column] as usize;
                travel.get(index).map_or(f64::INFINITY, |price| price * edge.reach)
            };
            let pairs = rows.iter().flat_map(|row| columns.iter().map(|column| (*row, *column)));
            factors.push(Factor {
                scope: edge.producer.into_iter().chain(edge.consumer.map(|(node, _)| node)).collect(),
                table: pairs.map(|(row, column)| price(row, column)).collect(),
            });
        }
        factors
    }

    /// Index of what travels on an edge under an assignment; `None` if the two choices do not go together.
    pub fn travel_index(&self, edge: &Edge, assignment: &[usize]) -> Option<usize> {
        let row = edge.producer.map_or(0, |node| assignment[node]);
        let column = edge.consumer.map_or(0, |(node, _)| assignment[node]);
        let index = edge.table[row * edge.columns + column] as usize;
        (index < self.reshards.len()).then_some(index)
    }

    /// What travels on an edge under an assignment; `None` if the two choices do not go together.
    pub fn travel(&self, edge: &Edge, assignment: &[usize]) -> Option<&Reshard> {
        self.travel_index(edge, assignment).map(|index| &self.reshards[index])
    }

    /// Mean price of a candidate under an objective that adds up. A little of the other goods breaks ties.
    pub fn node_price(&self, objective: Objective, node: usize, candidate: &Candidate) -> f64 {
        self.reach[node] * self.price_when_reached(objective, candidate)
    }

    fn price_when_reached(&self, objective: Objective, candidate: &Candidate) -> f64 {
        let inner = exchange_seconds(self.cluster, &candidate.flows).unwrap_or(f64::INFINITY);
        let seconds = candidate.seconds.iter().copied().fold(0.0, f64::max) + inner;
        let bytes: u64 = candidate.flows.iter().map(|flow| flow.bytes).sum();
        let joules = || candidate.joules + self.flow_joules(&candidate.flows);
        match objective {
            Objective::Latency | Objective::Throughput | Objective::Memory => seconds + bytes as f64 * 1e-13,
            Objective::Traffic => bytes as f64 + seconds,
            Objective::Energy => joules() + seconds * 1e-6,
            Objective::Weighted(weights) => weights.cost(seconds, bytes as f64, joules()) + seconds * 1e-6,
        }
    }

    /// Price of travel, likewise.
    pub fn travel_price(&self, objective: Objective, reshard: &Reshard) -> f64 {
        let bytes = reshard.bytes();
        let joules = || reshard.steps.iter().map(|step| self.flow_joules(step)).sum::<f64>();
        match objective {
            Objective::Latency | Objective::Throughput | Objective::Memory => reshard.seconds + bytes as f64 * 1e-13,
            Objective::Traffic => bytes as f64 + reshard.seconds,
            Objective::Energy => joules() + reshard.seconds * 1e-6,
            Objective::Weighted(weights) => {
                weights.cost(reshard.seconds, bytes as f64, joules()) + reshard.seconds * 1e-6
            }
        }
    }

    fn flow_joules(&self, flows: &[Flow]) -> f64 {
        let target = |device: usize| &self.cluster.devices[device].target;
        flows.iter().map(|flow| cost::transfer_joules(target(flow.from), target(flow.to), flow.bytes)).sum()
    }

    /// The objective's value of an assignment, the parts of the tie-break included; infinite if it is not one.
    pub fn value(&self, objective: Objective, assignment: &[usize]) -> f64 {
        let nodes: f64 = assignment
            .iter()
            .zip(&self.candidates)
            .enumerate()
            .map(|(node, (choice, listed))| self.node_price(objective, node, &listed[*choice]))
            .sum();
        let travel = |edge: &Edge| {
            let price = |reshard: &Reshard| edge.reach * self.travel_price(objective, reshard);
            self.travel(edge, assignment).map_or(f64::INFINITY, price)
        };
        nodes + self.edges.iter().map(travel).sum::<f64>()
    }

    /// Seconds that each device is busy per inference: what limits the throughput of a stream of inferences.
    pub fn busy_of_flows(&self, flows: &[Flow], busy: &mut [f64]) {
        for flow in flows {
            let Some(link) = self.cluster.link(flow.from, flow.to) else { continue };
            for device in [flow.from, flow.to] {
                let message_seconds = self.cluster.devices[device].message_microseconds() * 1e-6;
                busy[device] += flow.bytes as f64 / link.bytes_per_second + message_seconds;
            }
        }
    }

    /// Weights of each device under an assignment.
    pub fn weights(&self, assignment: &[usize]) -> Vec<u64> {
        let mut weights = vec![0; self.ram.len()];
        for (choice, node) in assignment.iter().zip(&self.candidates) {
            for (sum, bytes) in weights.iter_mut().zip(&node[*choice].weights_bytes) {
                *sum += bytes;
            }
        }
        weights
    }

    /// Largest need for activations of each device.
    pub fn activations(&self, assignment: &[usize]) -> Vec<u64> {
        let mut most = vec![0; self.ram.len()];
        for (choice, node) in assignment.iter().zip(&self.candidates) {
            for (most, bytes) in most.iter_mut().zip(&node[*choice].activation_bytes) {
                *most = (*most).max(*bytes);
            }
        }
        most
    }

    /// Whether weights of a device occupy RAM too.
    pub fn weights_in_ram(&self, device: usize) -> bool {
        self.cluster.devices[device].target.system == System::Linux
    }

    /// RAM of each device under an assignment.
    pub fn ram_used(&self, assignment: &[usize]) -> Vec<u64> {
        let (weights, activations) = (self.weights(assignment), self.activations(assignment));
        (0..self.ram.len())
            .map(|device| activations[device] + if self.weights_in_ram(device) { weights[device] } else { 0 })
            .collect()
    }

    /// Whether every device can hold its part.
    pub fn fits(&self, assignment: &[usize]) -> bool {
        let (ram, weights) = (self.ram_used(assignment), self.weights(assignment));
        (0..self.ram.len()).all(|device| ram[device] <= self.ram[device] && weights[device] <= self.flash[device])
    }

    /// The assignment as strategies, and the operands that travel in several steps.
    #[allow(clippy::type_complexity, reason = "the two fields of a partition")]
    pub fn decode(
        &self,
        assignment: &[usize],
    ) -> (BTreeMap<NodeId, Strategy>, BTreeMap<(NodeId, usize), Vec<Sharding>>) {
        let strategies = self
            .order
            .iter()
            .zip(assignment)
            .zip(&self.candidates)
            .map(|((id, choice), node)| (*id, node[*choice].strategy.clone()))
            .collect();
        let mut relays = BTreeMap::new();
        for edge in &self.edges {
            if let (Some((consumer, operand)), Some(reshard)) = (edge.consumer, self.travel(edge, assignment))
                && !reshard.relays.is_empty()
            {
                relays.insert((self.order[consumer], operand), reshard.relays.clone());
            }
        }
        (strategies, relays)
    }
}

/// Shardings by number, and what has been priced between them.
#[derive(Default)]
struct Prices {
    classes: Vec<Sharding>,
    numbers: HashMap<Sharding, u32>,
    known: HashMap<(TensorId, u32, u32), u32>,
}

impl Prices {
    fn class(&mut self, sharding: &Sharding) -> u32 {
        if let Some(number) = self.numbers.get(sharding) {
            return *number;
        }
        let number = self.classes.len() as u32;
        self.classes.push(sharding.clone());
        self.numbers.insert(sharding.clone(), number);
        number
    }
}
