//! Folds per-channel scales and shifts into the weights of the convolution or Gemm before them.
//!
//! With s = scale / sqrt(variance + epsilon), `s * (W x + b - mean) + bias = (s W) x + (s (b - mean) + bias)`
//! (BatchNormalization, ONNX; also Mul and Add by per-channel constants). A BatchNormalization with no such producer
//! becomes a depthwise convolution of kernel 1, which a later convolution or activation can join.

use super::PassError;
use super::pattern::{bypass, in_order, only_use, per_channel, rewrite};
use partita_ir::graph::op::{Activation, Conv, Window};
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId, Value};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        if let Some((x, scale, shift)) = scale_and_shift(graph, id)
            && !fold(graph, id, x, &scale, &shift)
            && matches!(graph.node(id).op, Op::BatchNormalization { .. })
        {
            become_depthwise(graph, id, x, scale, shift);
        }
    }
    Ok(())
}

/// The node as `scale * x + shift` per channel (axis 1), if it is that with constants.
fn scale_and_shift(graph: &Graph, id: NodeId) -> Option<(TensorId, Vec<f32>, Vec<f32>)> {
    let node = graph.node(id);
    match &node.op {
        Op::BatchNormalization { epsilon } => {
            let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|position| graph.f32_value(node.inputs[position]));
            let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
            let factors: Vec<f32> = scale
                .iter()
                .zip(variance)
                .map(|(scale, variance)| {
                    (f64::from(*scale) / (f64::from(*variance) + f64::from(*epsilon)).sqrt()) as f32
                })
                .collect();
            let shifts = bias
                .iter()
                .zip(mean.iter().zip(&factors))
                .map(|(bias, (mean, factor))| (f64::from(*bias) - f64::from(*mean) * f64::from(*factor)) as f32)
                .collect();
            Some((node.inputs[0], factors, shifts))
        }
        Op::Binary(function, Activation::None) => {
            let [a, b] = node.inputs[..] else { return None };
            let (x, constant, swapped) = if graph.value(b).is_some() { (a, b, false) } else { (b, a, true) };
            let shape = graph.shape(x);
            if graph.shape(node.outputs[0]) != shape || shape.len() < 2 {
                return None;
            }
            let channels = shape[1];
            let constant = per_channel(graph, constant, shape.len(), channels)?;
            let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
            match (function, swapped) {
                (BinaryOp::Mul, _) => Some((x, constant, zeros)),
                (BinaryOp::Add, _) => Some((x, ones, constant)),
                (BinaryOp::Sub, false) => Some((x, ones, constant.iter().map(|c| -c).collect())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Folds into the producer of `x`; says whether it did.
fn fold(graph: &mut Graph, id: NodeId, x: TensorId, scale: &[f32], shift: &[f32]) -> bool {
    let Some(producer) = only_use(graph, x) else { return false };
    let node = graph.node(producer).clone();
    let weights_and_bias = match &node.op {
        Op::Conv(conv) if !conv.residual && conv.activation == Activation::None => {
            scaled_weights(graph, node.inputs[1], scale, 0).zip(shifted(graph, node.inputs[2], scale, shift))
        }
        Op::ConvTranspose(conv) if conv.groups == 1 && conv.activation == Activation::None => {
            scaled_weights(graph, node.inputs[1], scale, 1).zip(shifted(graph, node.inputs[2], scale, shift))
        }
        Op::Gemm(gemm) if gemm.activation == Activation::None && gemm.alpha == 1.0 && gemm.beta == 1.0 => {
            let axis = usize::from(!gemm.transpose_b);
            let columns = scale.len();
            let bias = match node.inputs.get(2) {
                Some(c) => per_channel(graph, *c, 2, columns).map(|c| Value::f32([columns], combine(&c, scale, shift))),
                None => Some(Value::f32([columns], shift.to_vec())),
            };
            scaled_weights(graph, node.inputs[1], scale, axis).zip(bias)
        }
        _ => None,
    };
    let Some((weights, bias)) = weights_and_bias else { return false };
    // The producer's result takes the place of this node's; a graph output keeps its name that way.
    if !graph.can_replace(graph.node(id).outputs[0], x) {
        return false;
    }
    let name = |position: usize| {
        node.inputs.get(position).map_or(format!("{}.bias", node.name), |id| graph.tensor(*id).name.clone())
    };
    let (weights_name, bias_name) = (name(1), name(2));
    let weights = graph.add_constant(weights_name, weights);
    let bias = graph.add_constant(bias_name, bias);
    rewrite(graph, producer, node.op, vec![node.inputs[0], weights, bias]);
    bypass(graph, id, x)
}

fn combine(bias: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
    bias.iter().zip(scale.iter().zip(shift)).map(|(bias, (scale, shift))| bias * scale + shift).collect()
}

fn shifted(graph: &Graph, bias: TensorId, scale: &[f32], shift: &[f32]) -> Option<Value> {
    let bias = graph.f32_value(bias)?;
    (bias.len() == scale.len()).then(|| Value::f32([bias.len()], combine(bias, scale, shift)))
}

/// Constant weights with every index of `axis` multiplied by its scale. All equal to 1 costs nothing but a copy.
fn scaled_weights(graph: &Graph, weights: TensorId, scale: &[f32], axis: usize) -> Option<Value> {
    let elements = graph.f32_value(weights)?;
    let shape = graph.shape(weights);
    if shape.get(axis) != Some(&scale.len()) {
        return None;
    }
    let inner: usize = shape[axis + 1..].iter().product();
    let scaled = elements
        .iter()
        .enumerate()
        .map(|(index, element)| element * scale[index / inner.max(1) % scale.len()])
        .collect();
    Some(Value::f32(shape, scaled))
}

/// `scale * x + shift` as a depthwise convolution of kernel 1, for inputs with 1 to 3 spatial dimensions.
fn become_depthwise(graph: &mut Graph, id: NodeId, x: TensorId, scale: Vec<f32>, shift: Vec<f32>) {
    let rank = graph.shape(x).len();
    if !(3..=5).contains(&rank) {
        return;
    }
    let (spatial, channels) = (rank - 2, scale.len());
    let mut shape = vec![channels, 1];
    shape.extend(vec![1; spatial]);
    let name = graph.node(id).name.clone();
    let weights = graph.add_constant(format!("{name}.scale"), Value::f32(shape, scale));
    let bias = graph.add_constant(format!("{name}.shift"), Value::f32([channels], shift));
    let window = Window::uniform(&vec![1; spatial], 1, 1, 0);
    let op = Op::Conv(Conv { window, groups: channels, residual: false, activation: Activation::None });
    rewrite(graph, id, op, vec![x, weights, bias]);
}
