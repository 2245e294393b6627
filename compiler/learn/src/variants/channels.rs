//! Channels between two convolutions, of which those go whose filters weigh least; depthwise convolutions may lie between
//! (an inverted residual: expand, filter, project).
//!
//! What goes is not simply forgotten: each such channel is taken to be a linear map of those that stay, fitted to what the
//! samples have there (`super::compensation::rest`), and that map is added to the weights of the convolution that reads them
//! (He, Zhang and Sun 2017, Channel Pruning, section 3.1, solves the same problem per layer).

use super::compensation::LinearMap;
use partita_ir::graph::op::Conv;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, Value};

/// Fewest channels of which some can go, and of how many those that stay are a multiple.
const LEAST_CHANNELS: usize = 16;
const CHANNEL_GROUP: usize = 8;

/// How many channels stay if half of them go before a convolution; none if they cannot.
pub fn half(graph: &Graph, second: NodeId) -> Option<usize> {
    let channels = graph.shape(graph.node(makers(graph, second)?[0]).outputs[0])[1];
    let kept = (channels / 2).next_multiple_of(CHANNEL_GROUP);
    (channels >= LEAST_CHANNELS && kept < channels).then_some(kept)
}

/// What a convolution reads that has channels which can go.
pub fn between(graph: &Graph, second: NodeId) -> TensorId {
    graph.node(second).inputs[0]
}

/// The convolutions that make what a dense convolution reads, and nobody else: a dense one, and depthwise ones behind it.
fn makers(graph: &Graph, second: NodeId) -> Option<Vec<NodeId>> {
    let constant = |id: NodeId| graph.node(id).inputs.get(1).and_then(|weights| graph.f32_value(*weights)).is_some();
    let conv = |id: NodeId| match &graph.node(id).op {
        Op::Conv(conv) if constant(id) => Some(conv),
        _ => None,
    };
    conv(second).filter(|conv| conv.groups == 1)?;
    let mut found = Vec::new();
    let mut reader = second;
    loop {
        let between = *graph.node(reader).inputs.first()?;
        let maker = graph.tensor(between).producer?;
        let alone = graph.consumers(between) == [reader] && !graph.is_output(between);
        let made = conv(maker).filter(|conv| alone && !conv.residual)?;
        found.insert(0, maker);
        let channels = graph.shape(between)[1];
        match made.groups {
            1 => return Some(found),
            groups if groups == channels && graph.shape(graph.node(maker).inputs[1])[1] == 1 => reader = maker,
            _ => return None,
        }
    }
}

/// Weights of convolutions that make channels, and of one that reads them.
struct Filters<'a> {
    /// `[channels, ..]` each.
    makers: Vec<&'a [f32]>,
    /// `[results, channels, taps]`
    second: &'a [f32],
    channels: usize,
    results: usize,
    taps: usize,
}

impl Filters<'_> {
    fn of<'a>(graph: &'a Graph, makers: &[NodeId], second: NodeId) -> Option<Filters<'a>> {
        let shape = graph.shape(graph.node(second).inputs[1]);
        let weights = |id: NodeId| graph.f32_value(graph.node(id).inputs[1]);
        let taps = shape[2..].iter().product();
        let makers = makers.iter().map(|maker| weights(*maker)).collect::<Option<Vec<_>>>()?;
        Some(Filters { makers, second: weights(second)?, channels: shape[1], results: shape[0], taps })
    }

    /// What one of the convolutions has to make a channel.
    fn before(&self, maker: usize, channel: usize) -> &[f32] {
        let weights = self.makers[maker];
        let per_filter = weights.len() / self.channels;
        &weights[channel * per_filter..(channel + 1) * per_filter]
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
            (0..self.makers.len()).map(|maker| norm(self.before(maker, channel))).product::<f64>() * after
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
    Some(Filters::of(graph, &makers(graph, second)?, second)?.divided(kept))
}

/// Leaves so many channels before a convolution. The others are forgotten, or taken to be `rest` of those that stay:
/// `[go, stay]`, each in their order.
pub fn narrow(graph: &mut Graph, second: NodeId, kept: usize, rest: Option<&LinearMap>) {
    let Some(makers) = makers(graph, second) else { return };
    let after = graph.node(second).clone();
    let bias = |id: NodeId| graph.f32_value(graph.node(id).inputs[2]).map(<[f32]>::to_vec);
    let (Some(mut last_bias), Some(filters)) = (bias(second), Filters::of(graph, &makers, second)) else { return };
    let Some(biases) = makers.iter().map(|maker| bias(*maker)).collect::<Option<Vec<_>>>() else { return };
    let (stay, go) = filters.divided(kept);
    let rows = |maker: usize| stay.iter().flat_map(|channel| filters.before(maker, *channel).iter().copied()).collect();
    let rows: Vec<Vec<f32>> = (0..makers.len()).map(rows).collect();
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
    let name = |node: &str, what: &str| format!("{node}.narrow.{what}");
    for ((maker, rows), bias) in makers.iter().zip(rows).zip(biases) {
        let before = graph.node(*maker).clone();
        let Op::Conv(conv) = before.op else { return };
        let shape = with(graph.shape(before.inputs[1]), 0);
        let weights = graph.add_constant(name(&before.name, "weights"), Value::f32(shape, rows));
        let bias: Vec<f32> = stay.iter().map(|channel| bias[*channel]).collect();
        let bias = graph.add_constant(name(&before.name, "bias"), Value::f32([stay.len()], bias));
        let mut tensor_type = graph.tensor_type(before.outputs[0]).clone();
        tensor_type.shape[1] = stay.len();
        graph.set_tensor_type(before.outputs[0], tensor_type);
        let groups = if conv.groups == 1 { 1 } else { stay.len() };
        graph.replace_node(*maker, Op::Conv(Conv { groups, ..conv }), vec![before.inputs[0], weights, bias]);
    }
    let shape = with(graph.shape(after.inputs[1]), 1);
    let mut inputs = after.inputs;
    inputs[1] = graph.add_constant(name(&after.name, "weights"), Value::f32(shape, columns));
    if rest.is_some() {
        inputs[2] = graph.add_constant(name(&after.name, "bias"), Value::f32([last_bias.len()], last_bias));
    }
    graph.set_inputs(second, inputs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::eval;
    use partita_ir::graph::text::parse;

    /// Two convolutions with 16 channels between them, of which the second half are sixteen times the first, and perhaps a
    /// depthwise one that halves all of them.
    fn network(is_inverted: bool) -> (Graph, NodeId) {
        let conv = |groups: usize| {
            let window = "window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0])";
            format!("Conv(({window},groups:{groups},residual:false,activation:Relu))")
        };
        let (dense, depthwise) = (conv(1), conv(16));
        let halves = vec!["0.5"; 16].join(", ");
        let (between, read) = match is_inverted {
            true => (format!("%7 \"d\": f32[1,16,2,2] = \"depthwise\"(%5, %8, %2) {depthwise}\n"), "%7"),
            false => (String::new(), "%5"),
        };
        let text = format!(
            r#"graph "case" opset 17
input %0 "x": f32[1,4,2,2]
const %1 "w1": f32[16,4,1,1] = random(1)
const %2 "b1": f32[16] = random(2)
const %3 "w2": f32[3,16,1,1] = random(3)
const %4 "b2": f32[3] = [0.5, 0.25, 1.0]
const %8 "halves": f32[16,1,1,1] = [{halves}]
%5 "h": f32[1,16,2,2] = "first"(%0, %1, %2) {dense}
{between}%6 "y": f32[1,3,2,2] = "second"({read}, %3, %4) {dense}
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
        let depthwise = graph.node_ids().find(|id| graph.node(*id).name == "depthwise");
        if let Some(depthwise) = depthwise {
            let inputs = &graph.node(depthwise).inputs;
            let inputs = vec![inputs[0], inputs[1], bias];
            graph.set_inputs(depthwise, inputs);
        }
        graph.set_inputs(first, vec![x, weights, bias]);
        graph.set_inputs(second, vec![h, alike, last]);
        (graph, second)
    }

    #[test]
    fn channels_that_others_say_already_can_go_without_a_trace() {
        for is_inverted in [false, true] {
            tell_from_others(is_inverted);
        }
    }

    fn tell_from_others(is_inverted: bool) {
        let (graph, second) = network(is_inverted);
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
        let mut narrowed = graph.clone();
        narrow(&mut narrowed, second, 8, Some(&rest));
        assert_eq!(narrowed.shape(narrowed.node(second).inputs[0]), [1, 8, 2, 2]);
    }
}
