//! Parts of a network that can go: residual branches, skip connections, projections, and operands of a concatenation.
//!
//! A sum of two tensors stands for a residual block or its skip connection: either term can be left out, and what only
//! it needed goes with it (Khan et al. 2023; Veit, Wilber and Belongie 2016). Found from the graph, not from names.

use super::channels;
use super::compensation::LinearMap;
use partita_ir::graph::op::{Activation, Conv, Window};
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId, UnaryOp, Value};
use partita_passes::PassError;
use partita_plan::partition::node_macs;

/// Most parts that are looked at: those whose absence saves most.
const MAX_PARTS: usize = 96;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// The branch of a sum that computes more: its block becomes an identity, or its projection.
    Block,
    /// The other term: the skip connection.
    Skip,
    /// A projection: a skip connection that computes something.
    Projection,
    /// An operand of a concatenation, or of several: the layers of a dense block are read by all that follow.
    Branch,
    /// Half of the channels between two convolutions: those whose filters weigh least.
    Channels,
}

/// Something that can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// The node that joins it with the rest.
    pub join: NodeId,
    /// Which operand of the join goes; for a convolution with a residual, 0 is the convolution itself and 3 the
    /// residual. Of channels, how many stay.
    pub operand: usize,
    /// Multiply-adds that go with it.
    pub macs: u64,
}

/// What takes the place of a part.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Compensation {
    /// The result becomes `activation(weights * x + bias)` at each place: a linear map of the channels of a tensor, or of
    /// its neighbourhood, with a step in space.
    Map {
        /// The tensor it reads, `[1, C, spatial..]`.
        from: TensorId,
        /// `[M, C, kernel..]`, row-major.
        weights: Vec<f32>,
        /// `[M]`
        bias: Vec<f32>,
        /// Step in each spatial dimension.
        stride: Vec<usize>,
        /// Extent of the neighbourhood in each spatial dimension: 1 or 3.
        kernel: usize,
    },
    /// This is added to each channel of what stays.
    Shift(Vec<f32>),
    /// Channels that go are taken to be this map of those that stay; it disappears in the weights that read them.
    Rest(LinearMap),
}

/// A part that goes, by its number, and what takes its place.
pub type Drop = (usize, Option<Compensation>);

/// All parts of a graph, in its order.
pub fn parts(graph: &Graph) -> Vec<Part> {
    let total = macs(graph);
    let mut found = Vec::new();
    for join in graph.topological_order().unwrap_or_default() {
        found.extend(channels::half(graph, join).and_then(|kept| {
            let part = Part { kind: PartKind::Channels, join, operand: kept, macs: 0 };
            let without = dropped(graph, &[(&part, None)]).ok()?;
            Some(Part { macs: total.saturating_sub(macs(&without)), ..part })
        }));
        let terms: Vec<usize> = match &graph.node(join).op {
            Op::Conv(conv) if conv.residual => vec![0, 3],
            Op::Binary(BinaryOp::Add, _) => vec![0, 1],
            Op::Concat { axis: 1 } => (0..graph.node(join).inputs.len()).collect(),
            _ => continue,
        };
        let sum = !matches!(graph.node(join).op, Op::Concat { .. });
        let constant = |operand: &usize| graph.value(graph.node(join).inputs[*operand]).is_some();
        let alike = |operand: &usize| {
            *operand == 0 && terms.contains(&3)
                || graph.shape(graph.node(join).inputs[*operand]) == graph.shape(graph.node(join).outputs[0])
        };
        if sum && !terms.iter().all(alike)
            || terms.iter().any(|term| (*term != 0 || !terms.contains(&3)) && constant(term))
        {
            continue;
        }
        let saved = |operand: usize| {
            let part = Part { kind: PartKind::Block, join, operand, macs: 0 };
            let without = dropped(graph, &[(&part, None)]).ok()?;
            let alive = without.inputs.iter().all(|input| !without.consumers(*input).is_empty());
            alive.then(|| total.saturating_sub(macs(&without)))
        };
        let saved: Vec<(usize, u64)> = terms.iter().filter_map(|operand| Some((*operand, saved(*operand)?))).collect();
        let most = saved.iter().map(|(_, macs)| *macs).max().unwrap_or(0);
        for (operand, macs) in saved {
            let operand_tensor = graph.node(join).inputs[operand];
            let known = |part: &Part| {
                part.kind == PartKind::Branch && graph.node(part.join).inputs[part.operand] == operand_tensor
            };
            let kind = match (sum, macs) {
                (false, 0) => continue,
                (false, _) if found.iter().any(known) => continue,
                (false, _) => PartKind::Branch,
                (true, 0) => PartKind::Skip,
                (true, macs) if macs == most => PartKind::Block,
                (true, _) => PartKind::Projection,
            };
            found.push(Part { kind, join, operand, macs });
        }
    }
    while found.len() > MAX_PARTS {
        let least = (0..found.len()).min_by_key(|at| found[*at].macs).unwrap_or(0);
        found.remove(least);
    }
    found
}

/// Multiply-adds of a graph.
pub fn macs(graph: &Graph) -> u64 {
    graph.node_ids().map(|id| node_macs(graph, id)).sum()
}

/// The graph without some parts, each with what takes its place. Weights, tensors and nodes that stay keep their names.
///
/// Errors: a pass that cleans up failed, which is a bug of ours.
pub fn dropped(graph: &Graph, drops: &[(&Part, Option<&Compensation>)]) -> Result<Graph, PassError> {
    let mut result = graph.clone();
    for (part, compensation) in drops {
        drop_part(&mut result, part, *compensation);
    }
    partita_passes::run(partita_passes::TIDY, &mut result, &mut |_, _, _| {})?;
    Ok(result)
}

fn drop_part(graph: &mut Graph, part: &Part, compensation: Option<&Compensation>) {
    let node = graph.node(part.join).clone();
    let output = node.outputs[0];
    if part.kind == PartKind::Channels {
        let rest = match compensation {
            Some(Compensation::Rest(rest)) => Some(rest),
            _ => None,
        };
        channels::narrow(graph, part.join, part.operand, rest);
        return;
    }
    if let (Op::Concat { .. }, Some(operand)) = (&node.op, node.inputs.get(part.operand)) {
        drop_operand(graph, part, *operand, compensation);
        return;
    }
    let activation = match &node.op {
        Op::Conv(conv) => conv.activation,
        Op::Binary(_, activation) => *activation,
        _ => return,
    };
    match (compensation, &node.op) {
        (Some(Compensation::Map { from, weights, bias, stride, kernel }), _) => {
            let (channels, results) = (graph.shape(*from)[1], bias.len());
            let ones = vec![1; stride.len()];
            let extents = vec![*kernel; stride.len()];
            let shape: Vec<usize> = [results, channels].iter().chain(&extents).copied().collect();
            let name = format!("{}.map", node.name);
            let weights = graph.add_constant(format!("{name}.weights"), Value::f32(shape, weights.clone()));
            let bias = graph.add_constant(format!("{name}.bias"), Value::f32([results], bias.clone()));
            let pads = vec![kernel / 2; stride.len()];
            let window = Window {
                kernel: extents,
                stride: stride.clone(),
                dilation: ones,
                pad_begin: pads.clone(),
                pad_end: pads,
            };
            let conv = Conv { window, groups: 1, residual: false, activation };
            graph.replace_node(part.join, Op::Conv(conv), vec![*from, weights, bias]);
        }
        // The residual goes, the convolution stays.
        (shift, Op::Conv(conv)) if part.operand == 3 => {
            let mut inputs = node.inputs.clone();
            inputs.truncate(3);
            if let (Some(Compensation::Shift(shift)), Some(bias)) = (shift, graph.f32_value(inputs[2])) {
                let moved: Vec<f32> = bias.iter().zip(shift).map(|(bias, shift)| bias + shift).collect();
                inputs[2] = graph.add_constant(format!("{}.shifted", node.name), Value::f32([moved.len()], moved));
            }
            graph.replace_node(part.join, Op::Conv(Conv { residual: false, ..conv.clone() }), inputs);
        }
        (shift, op) => {
            let stays = match op {
                Op::Conv(_) => node.inputs[3],
                _ => node.inputs[1 - part.operand],
            };
            match shift {
                Some(Compensation::Shift(shift)) => {
                    let rank = graph.shape(output).len();
                    let mut shape = vec![1; rank];
                    shape[1] = shift.len();
                    let name = format!("{}.shift", node.name);
                    let shift = graph.add_constant(name, Value::f32(shape, shift.clone()));
                    graph.replace_node(part.join, Op::Binary(BinaryOp::Add, activation), vec![stays, shift]);
                }
                _ if activation == Activation::None || is_activated(graph, stays, activation) => {
                    graph.replace_node(part.join, Op::Identity, vec![stays]);
                }
                _ => graph.replace_node(part.join, Op::Unary(UnaryOp::Activation(activation)), vec![stays]),
            }
        }
    }
}

/// Whether a tensor has been through a rectifier already, so that another changes nothing.
fn is_activated(graph: &Graph, tensor: TensorId, activation: Activation) -> bool {
    let Some(producer) = graph.tensor(tensor).producer else { return false };
    let last = match &graph.node(producer).op {
        Op::Conv(conv) => conv.activation,
        Op::Binary(_, activation) | Op::Unary(UnaryOp::Activation(activation)) => *activation,
        _ => return false,
    };
    last == activation && matches!(activation, Activation::Relu | Activation::Clip(..))
}

/// An operand becomes a constant in each channel, in all concatenations that read it.
fn drop_operand(graph: &mut Graph, part: &Part, operand: TensorId, compensation: Option<&Compensation>) {
    let tensor_type = graph.tensor_type(operand).clone();
    let channels = tensor_type.shape[1];
    let values = match compensation {
        Some(Compensation::Shift(shift)) if shift.len() == channels => shift.clone(),
        _ => vec![0.0; channels],
    };
    let mut shape = vec![1; tensor_type.shape.len()];
    shape[1] = channels;
    let name = format!("{}.operand-{}", graph.node(part.join).name, part.operand);
    let value = graph.add_constant(format!("{name}.mean"), Value::f32(shape, values));
    let spread = graph.add_tensor(name.clone(), tensor_type.clone());
    graph.add_node(name, Op::Expand { shape: tensor_type.shape }, vec![value], vec![spread]);
    for join in concatenations(graph, operand) {
        let inputs = graph.node(join).inputs.iter();
        let inputs = inputs.map(|input| if *input == operand { spread } else { *input }).collect();
        graph.set_inputs(join, inputs);
    }
}

/// The nodes that join a part with the rest: one, but for an operand of several concatenations.
pub fn joins(graph: &Graph, part: &Part) -> Vec<NodeId> {
    match part.kind {
        PartKind::Branch => concatenations(graph, graph.node(part.join).inputs[part.operand]),
        _ => vec![part.join],
    }
}

/// Concatenations of channels that read a tensor.
fn concatenations(graph: &Graph, tensor: TensorId) -> Vec<NodeId> {
    let mut readers = graph.consumers(tensor);
    readers.retain(|reader| matches!(graph.node(*reader).op, Op::Concat { axis: 1 }));
    readers
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::text::{Constants, parse, print};

    const CONV: &str = "window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1";

    /// A stem, a block with an identity, a block with a projection, a concatenation of two branches.
    fn network() -> Graph {
        let text = format!(
            r#"graph "case" opset 17
input %0 "x": f32[1,4,6,6]
const %1 "w": f32[4,4,3,3] = random(1)
const %2 "b": f32[4] = [0.5, -0.5, 0.25, 0.0]
const %3 "p": f32[4,4,3,3] = random(2)
%4 "stem": f32[1,4,6,6] = "stem"(%0, %1, %2) Conv(({CONV},residual:false,activation:Relu))
%5 "u": f32[1,4,6,6] = "first"(%4, %1, %2) Conv(({CONV},residual:false,activation:Relu))
%6 "y": f32[1,4,6,6] = "second"(%5, %1, %2, %4) Conv(({CONV},residual:true,activation:Relu))
%7 "v": f32[1,4,6,6] = "third"(%6, %1, %2) Conv(({CONV},residual:false,activation:Relu))
%8 "w2": f32[1,4,6,6] = "fourth"(%7, %1, %2) Conv(({CONV},residual:false,activation:None))
%9 "z": f32[1,4,6,6] = "projection"(%6, %3, %2, %8) Conv(({CONV},residual:true,activation:Relu))
%10 "left": f32[1,4,6,6] = "left"(%9, %1, %2) Conv(({CONV},residual:false,activation:Relu))
%11 "both": f32[1,8,6,6] = "both"(%10, %9) Concat(axis:1)
output %11
"#
        );
        parse(&text).expect("the text is a graph")
    }

    fn nodes(graph: &Graph) -> Vec<String> {
        let order = graph.topological_order().expect("there is no cycle");
        order.into_iter().map(|id| graph.node(id).name.clone()).collect()
    }

    #[test]
    fn blocks_skips_projections_and_branches_are_found() {
        let graph = network();
        let found: Vec<(PartKind, &str, usize)> = parts(&graph)
            .iter()
            .map(|part| (part.kind, graph.node(part.join).name.clone().leak() as &str, part.operand))
            .collect();
        assert_eq!(
            found,
            [
                (PartKind::Block, "second", 0),
                (PartKind::Skip, "second", 3),
                (PartKind::Projection, "projection", 0),
                (PartKind::Block, "projection", 3),
                (PartKind::Branch, "both", 0),
            ],
            "what the other operand of the concatenation hands on is needed anyway"
        );
    }

    #[test]
    fn what_only_a_part_needed_goes_with_it() {
        let graph = network();
        let parts = parts(&graph);
        let without = |at: usize, compensation: Option<&Compensation>| {
            dropped(&graph, &[(&parts[at], compensation)]).expect("a part can go")
        };
        assert_eq!(nodes(&without(0, None)), ["stem", "third", "fourth", "projection", "left", "both"]);
        // The skip connection: the branch stays as it is.
        assert_eq!(nodes(&without(1, None)).len(), 8);
        assert!(print(&without(1, None), Constants::Summary).contains("\"second\"(%"), "the convolution stays");
        // Without the projection the branch is activated by itself.
        assert_eq!(
            nodes(&without(2, None)),
            ["stem", "first", "second", "third", "fourth", "projection", "left", "both"]
        );
        assert_eq!(nodes(&without(3, None)), ["stem", "first", "second", "projection", "left", "both"]);
        let from = graph.node(parts[0].join).inputs[3];
        let map = Compensation::Map { from, weights: vec![1.0; 16], bias: vec![0.0; 4], stride: vec![1, 1], kernel: 1 };
        let mapped = without(0, Some(&map));
        assert_eq!(nodes(&mapped), ["stem", "second", "third", "fourth", "projection", "left", "both"]);
        assert_eq!(macs(&without(0, None)) + 16 * 36, macs(&mapped), "a map of 4 channels to 4 at 36 places");
        // Everything at once.
        let all: Vec<(&Part, Option<&Compensation>)> = [0, 3, 4].map(|at| (&parts[at], None)).to_vec();
        let least = dropped(&graph, &all).expect("all can go");
        assert_eq!(nodes(&least), ["stem", "projection", "both.operand-0", "both"]);
    }
}
