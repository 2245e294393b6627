//! Connects the variables of a network: who reads what from where, and what has to travel for it.

use std::collections::{BTreeMap, HashMap};

use super::copies::{Copy, held};
use super::encodings::{Encodings, travels_as};
use super::network::{Edge, FORBIDDEN, Network, Variable};
use super::price::Candidate;
use super::reshard::reshard;
use crate::shard::Sharding;
use partita_ir::graph::{Graph, NodeId, TensorId};

/// What is known while variables are connected.
pub(super) struct Connecting<'g> {
    graph: &'g Graph,
    /// Share of inferences that reach each node.
    reach: &'g BTreeMap<NodeId, f64>,
    encodings: &'g Encodings,
    prices: Prices,
    /// Position of the variable from which a tensor is read, and what it may be there.
    places: HashMap<TensorId, (usize, Vec<Source>)>,
}

/// What devices may have of a tensor, by the number of its class, and the run of tiles that made it so.
type Source = (u32, Option<(usize, bool)>);

impl<'g> Connecting<'g> {
    /// Nothing is connected yet.
    pub(super) fn new(graph: &'g Graph, reach: &'g BTreeMap<NodeId, f64>, encodings: &'g Encodings) -> Connecting<'g> {
        Connecting { graph, reach, encodings, prices: Prices::default(), places: HashMap::new() }
    }

    /// A tensor may be read from the node that makes it, or from a variable of its own, which is added here.
    pub(super) fn share(
        &mut self,
        network: &mut Network<'_>,
        tensor: TensorId,
        producer: Option<(usize, NodeId)>,
        copies: &mut HashMap<TensorId, Vec<Copy>>,
    ) {
        let sources: Vec<Source> = match producer {
            None => {
                let at_input =
                    Sharding::whole(network.cluster.input, network.cluster.devices.len(), self.graph.shape(tensor));
                vec![(self.prices.class(&at_input), None)]
            }
            Some((at, id)) => {
                let of = |candidate: &Candidate| (held(self.graph, id, candidate, tensor), candidate.run);
                let held: Vec<_> = network.candidates[at].iter().map(of).collect();
                held.into_iter().map(|(held, run)| (self.prices.class(&held), run)).collect()
            }
        };
        let Some(copies) = copies.remove(&tensor) else {
            if let Some((at, _)) = producer {
                self.places.insert(tensor, (at, sources));
            }
            return;
        };
        // Of readers behind exits as many inferences want it as reach the first of them.
        let by_caller = self.graph.is_output(tensor).then(|| producer.map_or(1.0, |(at, _)| network.reach[at]));
        let readers = self.graph.consumers(tensor).into_iter();
        let by_readers = readers.map(|reader| self.reach.get(&reader).copied().unwrap_or(1.0));
        let reach = by_readers.chain(by_caller).fold(0.0, f64::max);
        let at = network.variables.len();
        let made = sources.iter().map(|(class, _)| self.prices.classes[*class as usize].clone());
        network.made.insert(at, made.collect());
        network.variables.push(Variable::Shared(tensor));
        network.candidates.push(copies.iter().map(Copy::candidate).collect());
        network.reach.push(reach);
        let shared: Vec<(Source, bool)> = copies
            .iter()
            .map(|copy| ((self.prices.class(&copy.sharding), copy.made.flatten()), copy.made.is_some()))
            .collect();
        let mut table = Vec::with_capacity(sources.len() * shared.len());
        for source in &sources {
            for (copy, is_made) in &shared {
                table.push(match is_made {
                    true if source != copy => FORBIDDEN,
                    true => self.prices.travel(network, (self.graph, self.encodings), tensor, (source.0, source.0)),
                    false => self.travel(network, tensor, *source, *copy),
                });
            }
        }
        let columns = shared.len();
        network.edges.push(Edge {
            producer: producer.map(|(at, _)| at),
            consumer: Some((at, 0)),
            table,
            columns,
            reach,
        });
        self.places.insert(tensor, (at, shared.into_iter().map(|(copy, _)| copy).collect()));
    }

    /// An edge to whoever reads a tensor: an operand of a node, or the caller.
    pub(super) fn read(&mut self, network: &mut Network<'_>, tensor: TensorId, consumer: Option<(usize, usize)>) {
        let (shape, devices) = (self.graph.shape(tensor), network.cluster.devices.len());
        let (producer, sources) = match self.places.get(&tensor) {
            Some((at, sources)) => (Some(*at), sources.clone()),
            None => (None, vec![(self.prices.class(&Sharding::whole(network.cluster.input, devices, shape)), None)]),
        };
        let needs: Vec<Source> = match consumer {
            None => vec![(self.prices.class(&Sharding::whole(network.cluster.output, devices, shape)), None)],
            Some((at, operand)) => (network.candidates[at].iter())
                .map(|candidate| {
                    let need = candidate.needs[operand].as_ref();
                    (need.map_or(0, |need| self.prices.class(need)), candidate.run)
                })
                .collect(),
        };
        let mut table = Vec::with_capacity(sources.len() * needs.len());
        for source in &sources {
            for need in &needs {
                table.push(self.travel(network, tensor, *source, *need));
            }
        }
        let columns = needs.len();
        let reach = consumer.map(|(at, _)| at).or(producer).map_or(1.0, |at| network.reach[at]);
        network.edges.push(Edge { producer, consumer, table, columns, reach });
    }

    /// What has to travel between two choices: tiles of a run that goes on leave it for nobody else.
    fn travel(&mut self, network: &mut Network<'_>, tensor: TensorId, source: Source, need: Source) -> u32 {
        let inside = matches!((source.1, need.1), (Some((a, _)), Some((b, _))) if a == b);
        if matches!(source.1, Some((_, false))) && !inside {
            return FORBIDDEN;
        }
        self.prices.travel(network, (self.graph, self.encodings), tensor, (source.0, need.0))
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

    /// Index into the network's reshards of what is between two classes; [`FORBIDDEN`] where no links lead.
    fn travel(
        &mut self,
        network: &mut Network<'_>,
        (graph, encodings): (&Graph, &Encodings),
        tensor: TensorId,
        (held, needed): (u32, u32),
    ) -> u32 {
        if let Some(known) = self.known.get(&(tensor, held, needed)) {
            return *known;
        }
        let (from, to) = (&self.classes[held as usize], &self.classes[needed as usize]);
        let element = travels_as(graph, encodings, tensor);
        let found = reshard(network.cluster, from, to, graph.shape(tensor), element);
        let index = found.map_or(FORBIDDEN, |found| {
            network.reshards.push(found);
            network.reshards.len() as u32 - 1
        });
        self.known.insert((tensor, held, needed), index);
        index
    }
}
