//! Which layers stay in `f32` where too much is lost in whole numbers: those that disturb the answer most, as few as
//! suffice.

use std::collections::{BTreeMap, BTreeSet};

use super::choose;
use super::histogram::RangeMethod;
use super::judge::{self, Answered};
use super::observe::Observed;
use crate::host::{Backbone, Host};
use partita_ir::graph::quantization::Quantization;
use partita_ir::graph::{Graph, NodeId, TensorId, Value};
use partita_passes::quantize::{self, Quantized};
use partita_placement::{Failure, internal};

/// Most layers that are tried alone; of more layers every second, third or so is, and speaks for its neighbours.
const MOST_ALONE: usize = 64;

/// A graph, what was observed of it, and how ranges are chosen.
pub struct ObservedGraph<'a> {
    /// The graph, in real numbers.
    pub graph: &'a Graph,
    /// Of its tensors.
    pub observed: &'a BTreeMap<TensorId, Observed>,
    /// Of ranges.
    pub method: RangeMethod,
}

impl ObservedGraph<'_> {
    /// The graph with these nodes in whole numbers.
    pub fn quantized(&self, int8: &BTreeSet<NodeId>) -> Result<(Quantization, Quantized), Failure> {
        let quantization = choose::quantization(self.graph, int8, self.observed, self.method);
        let quantized = quantize::run(self.graph, &quantization).map_err(internal)?;
        Ok((quantization, quantized))
    }
}

/// By layer: signal to noise of the answer in dB, if that layer alone is quantized.
pub fn alone(
    real: &ObservedGraph<'_>,
    layers: &[NodeId],
    inputs: &[Value],
    host: &dyn Host,
) -> Result<BTreeMap<NodeId, f64>, Failure> {
    let apart = layers.len().div_ceil(MOST_ALONE).max(1);
    let tried: Vec<NodeId> = layers.iter().copied().step_by(apart).collect();
    let mut graphs = vec![real.graph.clone()];
    for id in &tried {
        graphs.push(real.quantized(&[*id].into())?.1.graph);
    }
    let numbers: Vec<usize> = (0..graphs.len()).collect();
    let backbone = Backbone::of_all(host, graphs)?;
    let answers = judge::answers(&backbone, &numbers, inputs)?;
    let noise: Vec<f64> = answers[1..].iter().map(|answered| answered.noise.decibel()).collect();
    Ok(layers.iter().enumerate().map(|(at, id)| (*id, noise[at / apart])).collect())
}

/// Sets of layers that stay in `f32`, the fewest first: one, two, four and so on of those that disturb most.
pub fn steps(alone: &BTreeMap<NodeId, f64>) -> Vec<BTreeSet<NodeId>> {
    let mut layers: Vec<(NodeId, f64)> = alone.iter().map(|(id, decibel)| (*id, *decibel)).collect();
    layers.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let counts = std::iter::successors(Some(1usize), |count| Some(count * 2)).take_while(|count| *count < layers.len());
    counts.map(|count| layers[..count].iter().map(|(id, _)| *id).collect()).collect()
}

/// A step of the search.
pub struct Tried {
    /// What is computed in whole numbers.
    pub quantization: Quantization,
    /// The graph.
    pub quantized: Quantized,
    /// Its answers.
    pub answered: Answered,
}

/// Quantizes all layers but those of each set, and asks for the answers to all samples.
pub fn tried(
    real: &ObservedGraph<'_>,
    layers: &[NodeId],
    sets: Vec<BTreeSet<NodeId>>,
    inputs: &[Value],
    host: &dyn Host,
) -> Result<Vec<Tried>, Failure> {
    let mut graphs = vec![real.graph.clone()];
    let mut made = Vec::new();
    for kept in sets {
        let int8 = layers.iter().copied().filter(|id| !kept.contains(id)).collect();
        let (quantization, quantized) = real.quantized(&int8)?;
        graphs.push(quantized.graph.clone());
        made.push((quantization, quantized));
    }
    let numbers: Vec<usize> = (0..graphs.len()).collect();
    let backbone = Backbone::of_all(host, graphs)?;
    let answers = judge::answers(&backbone, &numbers, inputs)?;
    let tried = |((quantization, quantized), answered)| Tried { quantization, quantized, answered };
    Ok(made.into_iter().zip(answers.into_iter().skip(1)).map(tried).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_disturb_most_stay_first() {
        let alone: BTreeMap<NodeId, f64> =
            [(0, 40.0), (1, 10.0), (2, 30.0), (3, 20.0), (4, 50.0)].map(|(id, decibel)| (NodeId(id), decibel)).into();
        let sets: Vec<Vec<u32>> = steps(&alone).iter().map(|set| set.iter().map(|id| id.0).collect()).collect();
        assert_eq!(sets, [vec![1], vec![1, 3], vec![0, 1, 2, 3]]);
        assert!(steps(&[(NodeId(7), 1.0)].into()).is_empty(), "the only layer is no choice");
    }
}
