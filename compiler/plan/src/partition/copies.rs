//! Tensors that several nodes read: in which shardings they may be made available once, for all readers.
//!
//! What has been sent for one reader is there for the next, so travel is no matter of pairs of nodes: keys and values of an
//! attention both read all rows of a tensor that travels once. Such a tensor is a variable of its own, between the node
//! that makes it and those that read it. It is either as it was made, or has become one of the shardings that at least two
//! readers may want; prices stay prices of pairs.

use std::collections::HashMap;

use partita_config::Cluster;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::restrict::result_part;

use super::price::Candidate;
use super::strategy::{Method, Strategy};
use crate::shard::{Region, Sharding};

/// Most shardings that a tensor may become, beside those in which it may be made: those that most candidates want.
const MOST: usize = 24;

/// What a tensor that several nodes read may be to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// What devices have of it.
    pub sharding: Sharding,
    /// As it was made: by candidates of this run. Otherwise whoever made it, it has become this.
    pub made: Option<Option<(usize, bool)>>,
}

/// What a device has of a result after a candidate of the node that makes it: what of further results follows from the first.
pub fn held(graph: &Graph, node: NodeId, candidate: &Candidate, tensor: TensorId) -> Sharding {
    let first = &candidate.strategy.outputs;
    match graph.node(node).outputs.iter().position(|output| *output == tensor) {
        None | Some(0) => first.clone(),
        Some(at) => {
            let part = |first: Region| result_part(graph, node, &first, at);
            Sharding(first.0.iter().map(|region| region.and_then(part)).collect())
        }
    }
}

/// The tensors that several nodes read and that may be wanted alike by some of them, with what they may be.
pub fn copies(
    graph: &Graph,
    cluster: &Cluster,
    order: &[NodeId],
    candidates: &[Vec<Candidate>],
) -> HashMap<TensorId, Vec<Copy>> {
    // Per tensor and reader how many of its candidates want what; in order, so that equal questions have equal answers.
    let mut wanted: HashMap<TensorId, Vec<Vec<(Sharding, usize)>>> = HashMap::new();
    for (id, listed) in order.iter().zip(candidates) {
        for (operand, tensor) in graph.node(*id).inputs.iter().enumerate() {
            if graph.value(*tensor).is_some() {
                continue;
            }
            let mut counts: Vec<(Sharding, usize)> = Vec::new();
            let mut places: HashMap<&Sharding, usize> = HashMap::new();
            for need in listed.iter().filter_map(|candidate| candidate.needs[operand].as_ref()) {
                let at = *places.entry(need).or_insert_with(|| {
                    counts.push((need.clone(), 0));
                    counts.len() - 1
                });
                counts[at].1 += 1;
            }
            wanted.entry(*tensor).or_default().push(counts);
        }
    }
    for output in &graph.outputs {
        let at_output = Sharding::whole(cluster.output, cluster.devices.len(), graph.shape(*output));
        wanted.entry(*output).or_default().push(vec![(at_output, 1)]);
    }
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let listed = |(tensor, readers): (TensorId, Vec<Vec<(Sharding, usize)>>)| {
        let alike = wanted_alike(&readers);
        if alike.is_empty() {
            return None;
        }
        let mut copies: Vec<Copy> = Vec::new();
        match graph.tensor(tensor).producer {
            None => {
                let at_input = Sharding::whole(cluster.input, cluster.devices.len(), graph.shape(tensor));
                copies.push(Copy { sharding: at_input, made: Some(None) });
            }
            Some(producer) => {
                for candidate in &candidates[position[&producer]] {
                    let sharding = held(graph, producer, candidate, tensor);
                    let copy = Copy { sharding, made: Some(candidate.run) };
                    if !copies.contains(&copy) {
                        copies.push(copy);
                    }
                }
            }
        }
        copies.extend(alike.into_iter().map(|sharding| Copy { sharding, made: None }));
        Some((tensor, copies))
    };
    wanted.into_iter().filter_map(listed).collect()
}

/// What at least two readers may want; not more than [`MOST`].
fn wanted_alike(readers: &[Vec<(Sharding, usize)>]) -> Vec<Sharding> {
    if readers.len() < 2 {
        return Vec::new();
    }
    let mut sums: HashMap<&Sharding, (usize, usize)> = HashMap::new();
    for (sharding, count) in readers.iter().flatten() {
        let (by, sum) = sums.entry(sharding).or_default();
        (*by, *sum) = (*by + 1, *sum + count);
    }
    let mut alike: Vec<(&Sharding, usize)> = Vec::new();
    for (sharding, _) in readers.iter().flatten() {
        if let Some((by, sum)) = sums.remove(sharding)
            && by > 1
        {
            alike.push((sharding, sum));
        }
    }
    alike.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    alike.into_iter().take(MOST).map(|(sharding, _)| sharding.clone()).collect()
}

impl Copy {
    /// A candidate of the tensor's variable: it costs nothing by itself.
    pub fn candidate(&self) -> Candidate {
        let devices = self.sharding.0.len();
        Candidate {
            strategy: Strategy { method: Method::Replicated, outputs: self.sharding.clone(), partial_sums: None },
            run: self.made.flatten(),
            groups: 0,
            needs: Vec::new(),
            seconds: vec![0.0; devices],
            joules: 0.0,
            weights_bytes: vec![0; devices],
            activation_bytes: vec![0; devices],
            flows: Vec::new(),
        }
    }
}
