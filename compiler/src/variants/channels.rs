//! Channels between two convolutions, of which those go whose filters weigh least.
//!
//! What goes is not simply forgotten: each such channel is taken to be a linear map of those that stay, fitted to what the
//! samples have there ([`super::repair::rest`]), and that map is added to the weights of the convolution that reads them
//! (He, Zhang and Sun 2017, Channel Pruning, section 3.1, solves the same problem per layer).

use super::repair::LinearMap;
use crate::graph::{Graph, NodeId, Op, TensorId, Value};

/// Fewest channels of which some can go, and of how many those that stay are a multiple.
const LEAST_CHANNELS: usize = 16;
const CHANNEL_GROUP: usize = 8;

/// How many channels stay if half of them go before a convolution; none if they cannot.
pub fn half(graph: &Graph, second: NodeId) -> Option<usize> {
    let channels = graph.shape(graph.node(pair(graph, second)?).outputs[0])[1];
    let kept = (channels / 2).next_multiple_of(CHANNEL_GROUP);
    (channels >= LEAST_CHANNELS && kept < channels).then_some(kept)
}

/// What a convolution reads that has channels which can go.
pub fn between(graph: &Graph, second: NodeId) -> TensorId {
    graph.node(second).inputs[0]
}

/// The convolution before a convolution that alone reads it; both dense.
fn pair(graph: &Graph, second: NodeId) -> Option<NodeId> {
    let dense = |id: NodeId| matches!(&graph.node(id).op, Op::Conv(conv) if conv.groups == 1);
    let between = *graph.node(second).inputs.first()?;
    let first = graph.tensor(between).producer?;
    let alone = graph.consumers(between) == [second] && !graph.is_output(between);
    let residual = matches!(&graph.node(first).op, Op::Conv(conv) if conv.residual);
    let weights = [first, second].map(|id| graph.node(id).inputs.get(1).and_then(|w| graph.f32_value(*w)));
    (dense(second) && dense(first) && alone && !residual && weights.iter().all(Option::is_some)).then_some(first)
}

/// Weights of the two convolutions.
struct Filters<'a> {
    /// `[channels, ..]`
    first: &'a [f32],
    /// `[results, channels, taps]`
    second: &'a [f32],
    channels: usize,
    results: usize,
    taps: usize,
}

impl Filters<'_> {
    fn of(graph: &Graph, first: NodeId, second: NodeId) -> Option<Filters<'_>> {
        let shape = graph.shape(graph.node(second).inputs[1]);
        let weights = |id: NodeId| graph.f32_value(graph.node(id).inputs[1]);
        let taps = shape[2..].iter().product();
        let (first, second) = (weights(first)?, weights(second)?);
        Some(Filters { first, second, channels: shape[1], results: shape[0], taps })
    }

    /// What makes a channel.
    fn before(&self, channel: usize) -> &[f32] {
        let per_filter = self.first.len() / self.channels;
        &self.first[channel * per_filter..(channel + 1) * per_filter]
    }

    /// What a result makes of a channel.
    fn after(&self, result: usize, channel: usize) -> &[f32] {
        let begin = (result * self.channels + channel) * self.taps;
        &self.second[begin..begin + self.taps]
    }

    /// Channels in two parts, each in their order: so many that weigh most on both sides, and the others.
    fn divided(&self, kept: usize) -> (Vec<usize>, Vec<usize>) {
        let norm = |weights: &[f32]| weights.iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>();
        let weight = |channel: usize| {
            let after: f64 = (0..self.results).map(|result| norm(self.after(result, channel))).sum();
            norm(self.before(channel)) * after
        };
        let mut stay: Vec<usize> = (0..self.channels).collect();
        stay.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
        let mut go = stay.split_off(kept.min(self.channels));
        stay.sort_unstable();
        go.sort_unstable();
        (stay, go)
    }
}

/// Which channels stay before a convolution if so many do, and which go.
pub fn divided(graph: &Graph, second: NodeId, kept: usize) -> Option<(Vec<usize>, Vec<usize>)> {
    Some(Filters::of(graph, pair(graph, second)?, second)?.divided(kept))
}

/// Leaves so many channels before a convolution. The others are forgotten, or taken to be `rest` of those that stay:
/// `[go, stay]`, each in their order.
pub fn narrow(graph: &mut Graph, second: NodeId, kept: usize, rest: Option<&LinearMap>) {
    let Some(first) = pair(graph, second) else { return };
    let (before, after) = (graph.node(first).clone(), graph.node(second).clone());
    let biases = [before.inputs[2], after.inputs[2]].map(|bias| graph.f32_value(bias).map(<[f32]>::to_vec));
    let ([Some(bias), Some(mut last_bias)], Some(filters)) = (biases, Filters::of(graph, first, second)) else {
        return;
    };
    let (stay, go) = filters.divided(kept);
    let rows: Vec<f32> = stay.iter().flat_map(|channel| filters.before(*channel).iter().copied()).collect();
    let mut columns: Vec<f32> = Vec::with_capacity(filters.results * stay.len() * filters.taps);
    for (result, last_bias) in last_bias.iter_mut().enumerate() {
        let begin = columns.len();
        columns.extend(stay.iter().flat_map(|channel| filters.after(result, *channel).iter().copied()));
        let Some(rest) = rest.filter(|rest| rest.bias.len() == go.len()) else { continue };
        for ((gone, weights), constant) in go.iter().zip(rest.weights.chunks_exact(stay.len())).zip(&rest.bias) {
            let taps = filters.after(result, *gone);
            for (own, weight) in columns[begin..].chunks_exact_mut(filters.taps).zip(weights) {
                own.iter_mut().zip(taps).for_each(|(own, tap)| *own += weight * tap);
            }
            *last_bias += constant * taps.iter().sum::<f32>();
        }
    }
    let with = |shape: &[usize], axis: usize| {
        let mut shape = shape.to_vec();
        shape[axis] = stay.len();
        shape
    };
    let shapes = (with(graph.shape(before.inputs[1]), 0), with(graph.shape(after.inputs[1]), 1));
    let name = |node: &str, what: &str| format!("{node}.narrow.{what}");
    let first_weights = graph.add_constant(name(&before.name, "weights"), Value::f32(shapes.0, rows));
    let first_bias: Vec<f32> = stay.iter().map(|channel| bias[*channel]).collect();
    let first_bias = graph.add_constant(name(&before.name, "bias"), Value::f32([stay.len()], first_bias));
    let mut inputs = after.inputs;
    inputs[1] = graph.add_constant(name(&after.name, "weights"), Value::f32(shapes.1, columns));
    if rest.is_some() {
        inputs[2] = graph.add_constant(name(&after.name, "bias"), Value::f32([last_bias.len()], last_bias));
    }
    let between = before.outputs[0];
    let mut tensor_type = graph.tensor_type(between).clone();
    tensor_type.shape[1] = stay.len();
    graph.set_inputs(first, vec![before.inputs[0], first_weights, first_bias]);
    graph.set_tensor_type(between, tensor_type);
    graph.set_inputs(second, inputs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval;
    use crate::graph::text::parse;

    /// Two convolutions with 16 channels between them, of which the second half are sixteen times the first.
    fn network() -> (Graph, NodeId) {
        let conv = "window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,\
                    residual:false,activation:Relu";
        let text = format!(
            r#"graph "case" opset 17
input %0 "x": f32[1,4,2,2]
const %1 "w1": f32[16,4,1,1] = random(1)
const %2 "b1": f32[16] = random(2)
const %3 "w2": f32[3,16,1,1] = random(3)
const %4 "b2": f32[3] = [0.5, 0.25, 1.0]
%5 "h": f32[1,16,2,2] = "first"(%0, %1, %2) Conv(({conv}))
%6 "y": f32[1,3,2,2] = "second"(%5, %3, %4) Conv(({conv}))
output %6
"#
        );
        let mut graph = parse(&text).expect("the text is a graph");
        let first = graph.node_ids().find(|id| graph.node(*id).name == "first").expect("it was named");
        let second = graph.node_ids().find(|id| graph.node(*id).name == "second").expect("it was named");
        let constant =
            |node: NodeId, at: usize| graph.f32_value(graph.node(node).inputs[at]).expect("constant").to_vec();
        let (weights, bias, after) = (constant(first, 1), constant(first, 2), constant(second, 1));
        let twice = |half: &[f32]| [half.to_vec(), half.iter().map(|w| w * 16.0).collect()].concat();
        let weights = graph.add_constant("w", Value::f32([16, 4, 1, 1], twice(&weights[..32])));
        let bias = graph.add_constant("b", Value::f32([16], twice(&bias[..8])));
        // What reads them weighs twins alike, so those that are sixteen times the others stay.
        let alike = after.chunks_exact(16).flat_map(|row| [&row[..8], &row[..8]].concat()).collect();
        let alike = graph.add_constant("a", Value::f32([3, 16, 1, 1], alike));
        let (x, h, last) = (graph.inputs[0], graph.node(second).inputs[0], graph.node(second).inputs[2]);
        graph.set_inputs(first, vec![x, weights, bias]);
        graph.set_inputs(second, vec![h, alike, last]);
        (graph, second)
    }

    #[test]
    fn channels_that_others_say_already_can_go_without_a_trace() {
        let (graph, second) = network();
        assert_eq!(half(&graph, second), Some(8));
        assert_eq!(divided(&graph, second, 8), Some(((8..16).collect(), (0..8).collect())));
        let weights = (0..64).map(|at| if at % 9 == 0 { 1.0 / 16.0 } else { 0.0 }).collect();
        let rest = LinearMap { weights, bias: vec![0.0; 8] };
        let input = Value::f32([1, 4, 2, 2], (0..16).map(|at| (at % 7) as f32 / 7.0 - 0.3).collect());
        let error = |rest: Option<&LinearMap>| -> f32 {
            let mut narrowed = graph.clone();
            narrow(&mut narrowed, second, 8, rest);
            let [whole, narrow] = [&graph, &narrowed].map(|graph| {
                eval::evaluate(graph, std::slice::from_ref(&input)).expect("it can be computed").swap_remove(0)
            });
            let pairs = whole.as_f32().expect("f32").iter().zip(narrow.as_f32().expect("f32"));
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(error(Some(&rest)) < 1e-5, "{}", error(Some(&rest)));
        assert!(error(None) > 0.01, "{}", error(None));
    }
}
