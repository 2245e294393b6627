//! Which tensors have grids, and which numbers weights become: from what was observed to a quantization.

use std::collections::{BTreeMap, BTreeSet};

use super::equalize::input_channel;
use super::histogram::RangeMethod;
use super::observe::Observed;
use partita_ir::graph::op::Op;
use partita_ir::graph::quantization::{Grid, Products, Quantization, moves, origin, output_axis};
use partita_ir::graph::{BinaryOp, Graph, Node, NodeId, TensorId};

/// The largest weight in steps.
const MOST_STEPS: f32 = 127.0;

/// The largest bias in steps: a quarter of what sums of whole numbers in `f32` hold exactly (2^24). Where the weights of a
/// channel are so small that its bias would be larger, their steps are.
const MOST_BIAS: f32 = (1u32 << 22) as f32;

/// Smallest step of a channel whose weights are all zero.
const LEAST_STEP: f32 = 1e-12;

/// Convolutions and matrix products that can be computed in whole numbers, in the order of the graph.
pub fn candidates(graph: &Graph) -> Vec<NodeId> {
    let order = graph.topological_order().unwrap_or_default();
    order.into_iter().filter(|id| output_axis(graph, graph.node(*id)).is_some()).collect()
}

/// Tensors that have grids where these nodes are computed in whole numbers: what they read and make, and sums between them,
/// which are kept in memory for others.
pub fn rounded(graph: &Graph, int8: &BTreeSet<NodeId>) -> BTreeSet<TensorId> {
    let mut found = BTreeSet::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let Some(output) = node.outputs.first().copied() else { continue };
        if int8.contains(&id) {
            found.insert(origin(graph, node.inputs[0]));
            if !is_answer(graph, node) {
                found.insert(output);
            }
        }
        let is_sum = matches!(node.op, Op::Binary(BinaryOp::Add, _))
            && node.inputs.iter().all(|input| !graph.is_constant(*input))
            && node.inputs.iter().any(|input| found.contains(&origin(graph, *input)));
        if is_sum && graph.is_read(output) {
            found.insert(output);
        }
    }
    found
}

/// Whether a matrix product's result is scores: real numbers, which nothing multiplies any more, are all the more exact.
fn is_answer(graph: &Graph, node: &Node) -> bool {
    let Op::Gemm(_) = node.op else { return false };
    let mut tensors = vec![node.outputs[0]];
    while let Some(tensor) = tensors.pop() {
        for reader in graph.consumers(tensor) {
            let reader = graph.node(reader);
            match reader.op {
                Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::ArgMax { .. } => {}
                _ if moves(graph, reader) => tensors.extend(&reader.outputs),
                _ => return false,
            }
        }
    }
    true
}

/// Tensors that must be observed where any of these nodes may be computed in whole numbers.
pub fn observed(graph: &Graph, nodes: &[NodeId]) -> Vec<TensorId> {
    let mut found = rounded(graph, &nodes.iter().copied().collect());
    found.extend(nodes.iter().map(|id| graph.node(*id).inputs[0]));
    found.into_iter().collect()
}

/// The quantization of these nodes.
pub fn quantization(
    graph: &Graph,
    int8: &BTreeSet<NodeId>,
    observed: &BTreeMap<TensorId, Observed>,
    method: RangeMethod,
) -> Quantization {
    let grid = |tensor: TensorId| {
        let (low, high) = observed.get(&tensor).map_or((0.0, 0.0), |seen| seen.histogram.range(method));
        (tensor, Grid::over(low, high))
    };
    let grids: BTreeMap<TensorId, Grid> = rounded(graph, int8).into_iter().map(grid).collect();
    let of_node = |id: &NodeId| {
        let x = graph.node(*id).inputs[0];
        let scale = grids.get(&origin(graph, x))?.scale;
        let means = observed.get(&x).map_or(&[][..], |seen| &seen.means);
        Some((*id, products(graph, *id, scale, means)?))
    };
    let products = int8.iter().filter_map(of_node).collect();
    Quantization { grids, products }
}

/// Weights and bias of a node in steps, where a step of what it reads is `scale` and the means of its channels are known.
fn products(graph: &Graph, id: NodeId, scale: f32, means: &[f64]) -> Option<Products> {
    let node = graph.node(id);
    let axis = output_axis(graph, node)?;
    let (weights, shape) = (graph.f32_value(node.inputs[1])?, graph.shape(node.inputs[1]));
    let count = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product::<usize>().max(1);
    let bias = match node.inputs.get(2) {
        Some(bias) => graph.f32_value(*bias)?.to_vec(),
        None => vec![0.0; count],
    };
    let channel = |at: usize| at / inner % count;
    let mut largest = vec![0.0f32; count];
    for (at, weight) in weights.iter().enumerate() {
        largest[channel(at)] = largest[channel(at)].max(weight.abs());
    }
    let step =
        |(largest, bias): (&f32, &f32)| (largest / MOST_STEPS).max(bias.abs() / (MOST_BIAS * scale)).max(LEAST_STEP);
    let scales: Vec<f32> = largest.iter().zip(&bias).map(step).collect();
    let mut changes = vec![0.0f64; count];
    let round = |(at, weight): (usize, &f32)| {
        let step = scales[channel(at)];
        let whole = (weight / step).round_ties_even().clamp(-MOST_STEPS, MOST_STEPS);
        // What rounding this weight adds to a result on average.
        let change = f64::from(whole) * f64::from(step) - f64::from(*weight);
        changes[channel(at)] += change * means.get(input_channel(graph, id, at)).copied().unwrap_or(0.0);
        whole as i8
    };
    let weights = weights.iter().enumerate().map(round).collect();
    let in_steps = |(index, bias): (usize, &f32)| {
        let exact = (f64::from(*bias) - changes[index]) / (f64::from(scale) * f64::from(scales[index]));
        exact.round_ties_even() as i32
    };
    let bias = bias.iter().enumerate().map(in_steps).collect();
    Some(Products { weights, scales, bias })
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::text;

    const TEXT: &str = r#"graph "g" opset 17
input %0 "x": f32[1,2,2,2]
const %1 "w": f32[2,2,1,1] = [1.0, 0.501, -0.01, 0.003]
const %2 "b": f32[2] = [0.5, 1000.0]
const %3 "m": f32[2,3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
%4 "a": f32[1,2,2,2] = "a"(%0, %1, %2) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:None))
%5 "s": f32[1,2,2,2] = "s"(%4, %0) Binary(Add,Relu)
%6 "p": f32[1,2,1,1] = "p"(%5) GlobalPool(Average)
%7 "f": f32[1,2] = "f"(%6) Reshape(shape:[1,2])
%8 "l": f32[1,3] = "l"(%7, %3) Gemm(Gemm(transpose_a:false,transpose_b:false,alpha:1.0,beta:1.0,activation:None))
%9 "y": f32[1,3] = "y"(%8) Softmax(axis:1)
output %9
"#;

    #[test]
    fn what_products_read_and_make_has_grids() {
        let graph = text::parse(TEXT).expect("it is a graph");
        let nodes = candidates(&graph);
        assert_eq!(nodes.len(), 2);
        let all = rounded(&graph, &nodes.iter().copied().collect());
        // The input, the convolution, the sum, and the mean that is read through a reshape; scores stay real.
        assert_eq!(all, [0, 4, 5, 6].map(TensorId).into());
        assert_eq!(rounded(&graph, &[nodes[1]].into()), [6].map(TensorId).into());
        assert_eq!(observed(&graph, &nodes), [0, 4, 5, 6, 7].map(TensorId));
    }

    #[test]
    fn weights_have_steps_of_their_channel_and_biases_make_up_for_them() {
        let graph = text::parse(TEXT).expect("it is a graph");
        let id = candidates(&graph)[0];
        let Products { weights, scales, bias } = products(&graph, id, 0.01, &[0.0, 2.0]).expect("it is plain");
        assert_eq!((weights[0], weights[1]), (127, 64), "64 steps are more than 0.501");
        assert!((scales[0] - 1.0 / 127.0).abs() < 1e-9);
        let exact = (0.5 - 2.0 * (64.0 / 127.0 - 0.501)) / (0.01 / 127.0);
        assert!((f64::from(bias[0]) - exact).abs() <= 0.51, "{} is not {exact}", bias[0]);
        // A bias of 1000 in steps of 0.01 x 0.01 / 127 would be 1.27e9.
        assert!(bias[1].abs() < 1 << 23 && weights[3].abs() <= 1, "{bias:?} {weights:?}");
    }
}
