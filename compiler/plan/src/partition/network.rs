//! The optimisation problem: a choice of one candidate per node, and what the choice of two neighbours makes travel.

use std::collections::{BTreeMap, HashMap};

use super::candidates::candidates;
use super::connect::Connecting;
use super::copies::copies;
use super::cost::{self, Flow, exchange_seconds};
use super::elimination::Factor;
use super::price::{Candidate, Scope};
use super::reshard::Reshard;
use super::{Objective, Strategy};
use crate::shard::Sharding;
use partita_config::{Cluster, System};
use partita_ir::graph::{NodeId, TensorId};

/// A tensor between two choices.
#[derive(Debug)]
pub struct Edge {
    /// Position of the variable that it comes from; none for an input of the graph.
    pub producer: Option<usize>,
    /// Position of the variable that it goes to, and as which operand; none for an output of the graph.
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

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// How a node is computed.
    Node(NodeId),
    /// What a tensor that several nodes read is to them ([`super::copies`]).
    Shared(TensorId),
}

/// Variables, candidates and edges.
pub struct Network<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Nodes in topological order, and behind each what several read of its results.
    pub variables: Vec<Variable>,
    /// Candidates of each.
    pub candidates: Vec<Vec<Candidate>>,
    /// Share of inferences that reach each: exits before it end the others.
    pub reach: Vec<f64>,
    /// What flows between them.
    pub edges: Vec<Edge>,
    /// What may have to travel.
    pub reshards: Vec<Reshard>,
    /// Of each tensor with a variable of its own what devices have of it by the candidates of the node that makes it.
    pub made: HashMap<usize, Vec<Sharding>>,
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
        let mut copies = copies(graph, cluster, &order, &candidates);
        let mut network = Network {
            cluster,
            variables: Vec::new(),
            candidates: Vec::new(),
            reach: Vec::new(),
            edges: Vec::new(),
            reshards: Vec::new(),
            made: HashMap::new(),
            ram,
            flash,
        };
        let mut connecting = Connecting::new(graph, &by_node, choice.encodings);
        for input in &graph.inputs {
            connecting.share(&mut network, *input, None, &mut copies);
        }
        for (id, listed) in order.into_iter().zip(candidates) {
            let at = network.variables.len();
            network.variables.push(Variable::Node(id));
            network.candidates.push(listed);
            network.reach.push(by_node.get(&id).copied().unwrap_or(1.0));
            for (operand, tensor) in graph.node(id).inputs.iter().enumerate() {
                if graph.value(*tensor).is_none() {
                    connecting.read(&mut network, *tensor, Some((at, operand)));
                }
            }
            for output in &graph.node(id).outputs {
                connecting.share(&mut network, *output, Some((at, id)), &mut copies);
            }
        }
        for output in &graph.outputs {
            if graph.tensor(*output).producer.is_some() {
                connecting.read(&mut network, *output, None);
            }
        }
        network
    }

    /// The nodes, in topological order, with the positions of their variables.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, NodeId)> + '_ {
        self.variables.iter().enumerate().filter_map(|(at, variable)| match variable {
            Variable::Node(id) => Some((at, *id)),
            Variable::Shared(_) => None,
        })
    }

    /// The assignment that has these choices of nodes, and of what several of them read whatever is then best under an
    /// objective that adds up.
    pub fn completed(&self, objective: Objective, of_nodes: &[usize]) -> Vec<usize> {
        let mut assignment = vec![0; self.variables.len()];
        let nodes: Vec<usize> = self.nodes().map(|(at, _)| at).collect();
        nodes.iter().zip(of_nodes).for_each(|(at, choice)| assignment[*at] = *choice);
        for at in (0..self.variables.len()).filter(|at| matches!(self.variables[*at], Variable::Shared(_))) {
            let touching: Vec<&Edge> = (self.edges.iter())
                .filter(|edge| edge.producer == Some(at) || edge.consumer.is_some_and(|(node, _)| node == at))
                .collect();
            let mut price = |choice: usize| -> f64 {
                assignment[at] = choice;
                let of = |edge: &&Edge| {
                    let travel = self.travel(edge, &assignment);
                    travel.map_or(f64::INFINITY, |reshard| edge.reach * self.travel_price(objective, reshard))
                };
                touching.iter().map(of).sum()
            };
            let prices: Vec<f64> = (0..self.candidates[at].len()).map(&mut price).collect();
            let best = prices.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
            assignment[at] = best.map_or(0, |(choice, _)| choice);
        }
        assignment
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
        let chosen = |at: usize| &self.candidates[at][assignment[at]];
        let strategies = self.nodes().map(|(at, id)| (id, chosen(at).strategy.clone())).collect();
        // How a tensor that several read comes to be what it is to them.
        let mut arrivals: HashMap<usize, &Edge> = HashMap::new();
        for edge in &self.edges {
            if let Some((at, _)) = edge.consumer.filter(|(at, _)| matches!(self.variables[*at], Variable::Shared(_))) {
                arrivals.insert(at, edge);
            }
        }
        let mut relays = BTreeMap::new();
        for edge in &self.edges {
            let Some((consumer, operand)) = edge.consumer else { continue };
            let (Variable::Node(id), Some(reshard)) = (self.variables[consumer], self.travel(edge, assignment)) else {
                continue;
            };
            let arrival = edge.producer.and_then(|at| Some((at, arrivals.get(&at)?)));
            let first = arrival.and_then(|(at, arrival)| Some((at, self.travel(arrival, assignment)?)));
            let path = match first.filter(|(_, first)| !first.flows_nothing()) {
                None => reshard.relays.clone(),
                // It is read as it became: the first that reads it brings that about.
                Some((at, first)) => {
                    let became = &chosen(at).strategy.outputs;
                    let maker = arrivals.get(&at).and_then(|arrival| arrival.producer);
                    let made = self.made.get(&at).and_then(|made| made.get(maker.map_or(0, |maker| assignment[maker])));
                    match (&chosen(consumer).needs[operand], made) {
                        (Some(need), _) if need == became => first.relays.clone(),
                        (Some(need), Some(made)) if holds(made, need) => Vec::new(),
                        _ if reshard.flows_nothing() && first.relays.is_empty() => Vec::new(),
                        _ => [&first.relays[..], std::slice::from_ref(became), &reshard.relays[..]].concat(),
                    }
                }
            };
            if !path.is_empty() {
                relays.insert((id, operand), path);
            }
        }
        (strategies, relays)
    }
}

/// Whether every device has all that it needs.
fn holds(held: &Sharding, needed: &Sharding) -> bool {
    needed.parts().all(|(device, need)| held.0[device].is_some_and(|held| held.contains(&need)))
}
