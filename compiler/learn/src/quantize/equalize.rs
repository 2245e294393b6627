//! Channels of neighbouring layers made alike: what one layer multiplies a channel by, the next divides it by again (Nagel et
//! al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.1). ReLU lets that pass.

use std::collections::BTreeMap;

use partita_ir::graph::op::Activation;
use partita_ir::graph::quantization::output_axis;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, Value};

/// Each round makes one pair after the other alike, which disturbs its neighbours a little less every time.
const ROUNDS: usize = 20;

/// Channels that differ by more than this are left further apart: one that is next to nothing says nothing.
const MOST: f32 = 1e3;

/// Two layers, of which the second alone reads what the first makes.
#[derive(Clone, Copy)]
struct Pair {
    first: NodeId,
    second: NodeId,
    channels: usize,
}

/// The same function with other weights; none if no layers are neighbours, or all are alike already.
pub fn run(graph: &Graph) -> Option<Graph> {
    let pairs = pairs(graph);
    let mut weights: BTreeMap<NodeId, Vec<f32>> = BTreeMap::new();
    let mut biases: BTreeMap<NodeId, Vec<f32>> = BTreeMap::new();
    for Pair { first, second, .. } in &pairs {
        for id in [first, second] {
            let inputs = &graph.node(*id).inputs;
            weights.insert(*id, graph.f32_value(inputs[1])?.to_vec());
            if let Some(bias) = inputs.get(2) {
                biases.insert(*id, graph.f32_value(*bias)?.to_vec());
            }
        }
    }
    let mut changed = false;
    for _ in 0..ROUNDS {
        for pair in &pairs {
            let own = largest(&weights[&pair.first], pair.channels, |at| output_channel(graph, pair.first, at));
            let next = largest(&weights[&pair.second], pair.channels, |at| input_channel(graph, pair.second, at));
            let factor = |(own, next): (&f32, &f32)| {
                let factor = (next / own).sqrt();
                // A channel that is nothing on one side stays as it is.
                if factor.is_normal() { factor.clamp(1.0 / MOST, MOST) } else { 1.0 }
            };
            let factors: Vec<f32> = own.iter().zip(&next).map(factor).collect();
            changed |= factors.iter().any(|factor| (factor - 1.0).abs() > 1e-3);
            if let Some(first) = weights.get_mut(&pair.first) {
                let scaled = first.iter_mut().enumerate();
                scaled.for_each(|(at, weight)| *weight *= factors[output_channel(graph, pair.first, at)]);
            }
            if let Some(bias) = biases.get_mut(&pair.first) {
                bias.iter_mut().zip(&factors).for_each(|(bias, factor)| *bias *= factor);
            }
            if let Some(second) = weights.get_mut(&pair.second) {
                let scaled = second.iter_mut().enumerate();
                scaled.for_each(|(at, weight)| *weight /= factors[input_channel(graph, pair.second, at)]);
            }
        }
    }
    if !changed || weights.values().chain(biases.values()).flatten().any(|weight| !weight.is_finite()) {
        return None;
    }
    let mut graph = graph.clone();
    for (position, all) in [(1, weights), (2, biases)] {
        for (id, elements) in all {
            let mut inputs = graph.node(id).inputs.clone();
            let shape = graph.shape(inputs[position]).to_vec();
            let name = format!("{}.equalized.{position}", graph.node(id).name);
            inputs[position] = graph.add_constant(name, Value::f32(shape, elements));
            graph.set_inputs(id, inputs);
        }
    }
    Some(graph)
}

fn pairs(graph: &Graph) -> Vec<Pair> {
    let mut found = Vec::new();
    for first in graph.topological_order().unwrap_or_default() {
        let node = graph.node(first);
        let activation = match &node.op {
            Op::Conv(conv) => conv.activation,
            Op::Gemm(gemm) => gemm.activation,
            _ => continue,
        };
        let passes = matches!(activation, Activation::None | Activation::Relu);
        let Some(axis) = output_axis(graph, node).filter(|_| passes) else { continue };
        let channels = graph.shape(node.inputs[1])[axis];
        let output: TensorId = node.outputs[0];
        let [second] = graph.consumers(output)[..] else { continue };
        let next = graph.node(second);
        let same_kind = matches!((&node.op, &next.op), (Op::Conv(_), Op::Conv(_)) | (Op::Gemm(_), Op::Gemm(_)));
        // Who shares weights with others cannot change them.
        let own = |id: NodeId| graph.node(id).inputs[1..].iter().all(|weights| graph.has_one_consumer(*weights));
        if same_kind && next.inputs[0] == output && output_axis(graph, next).is_some() && !graph.is_output(output) {
            let is_free = own(first) && own(second);
            found.extend(is_free.then_some(Pair { first, second, channels }));
        }
    }
    found
}

/// Output channel of a weight of a node.
fn output_channel(graph: &Graph, id: NodeId, at: usize) -> usize {
    let node = graph.node(id);
    let shape = graph.shape(node.inputs[1]);
    match node.op {
        Op::Conv(_) => at / shape[1..].iter().product::<usize>().max(1),
        _ => at % shape[1].max(1),
    }
}

/// Input channel of a weight of a node.
pub(super) fn input_channel(graph: &Graph, id: NodeId, at: usize) -> usize {
    let node = graph.node(id);
    let shape = graph.shape(node.inputs[1]);
    match &node.op {
        Op::Conv(conv) => {
            let taps: usize = shape[2..].iter().product::<usize>().max(1);
            let (within, outputs) = (shape[1].max(1), (shape[0] / conv.groups.max(1)).max(1));
            let output = at / (taps * within);
            output / outputs * within + at / taps % within
        }
        _ => at / shape[1].max(1),
    }
}

/// The largest weight of each channel.
fn largest(weights: &[f32], channels: usize, channel: impl Fn(usize) -> usize) -> Vec<f32> {
    let mut largest = vec![0.0f32; channels];
    for (at, weight) in weights.iter().enumerate() {
        let own = &mut largest[channel(at)];
        *own = own.max(weight.abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::text;

    const TEXT: &str = r#"graph "g" opset 17
input %0 "x": f32[1,1,2,2]
const %1 "w": f32[2,1,1,1] = [100.0, 0.1]
const %2 "b": f32[2] = [1.0, -0.05]
const %3 "v": f32[2,1,1,1] = [0.5, 3.0]
const %4 "c": f32[2] = [0.0, 1.0]
const %5 "u": f32[1,2,1,1] = [1.0, -7.0]
const %6 "d": f32[1] = [0.0]
%7 "a": f32[1,2,2,2] = "a"(%0, %1, %2) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:Relu))
%8 "e": f32[1,2,2,2] = "e"(%7, %3, %4) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:2,residual:false,activation:Relu))
%9 "y": f32[1,1,2,2] = "y"(%8, %5, %6) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:None))
output %9
"#;

    #[test]
    fn the_function_stays_and_channels_become_alike() {
        let graph = text::parse(TEXT).expect("it is a graph");
        let equal = run(&graph).expect("channels differ");
        let x = Value::f32([1, 1, 2, 2], vec![-1.0, 0.3, 0.5, 2.0]);
        let answer = |graph: &Graph| evaluate(graph, std::slice::from_ref(&x)).expect("it is computed").swap_remove(0);
        for (a, b) in answer(&graph).as_f32().expect("real").iter().zip(answer(&equal).as_f32().expect("real")) {
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} is {b}");
        }
        for pair in pairs(&equal) {
            let weights = |id: NodeId| equal.f32_value(equal.node(id).inputs[1]).expect("they are known");
            let own = largest(weights(pair.first), 2, |at| output_channel(&equal, pair.first, at));
            let next = largest(weights(pair.second), 2, |at| input_channel(&equal, pair.second, at));
            for (own, next) in own.iter().zip(next) {
                assert!((own / next - 1.0).abs() < 0.05, "{own} and {next}");
            }
        }
        assert_eq!(pairs(&graph).len(), 2);
    }

    #[test]
    fn what_is_read_twice_or_bounded_above_stays() {
        let clipped = TEXT.replacen("activation:Relu", "activation:Clip(0.0,6.0)", 2);
        assert!(run(&text::parse(&clipped).expect("it is a graph")).is_none());
        let seen = TEXT.replace("output %9", "output %9\noutput %8");
        assert_eq!(pairs(&text::parse(&seen).expect("it is a graph")).len(), 1);
    }

    #[test]
    fn channels_of_groups_are_counted_through() {
        let graph = text::parse(TEXT).expect("it is a graph");
        let order = graph.topological_order().expect("it has one");
        assert_eq!([0, 1].map(|at| input_channel(&graph, order[1], at)), [0, 1]);
        assert_eq!([0, 1].map(|at| input_channel(&graph, order[2], at)), [0, 1]);
        assert_eq!([0, 1].map(|at| input_channel(&graph, order[0], at)), [0, 0]);
    }
}
