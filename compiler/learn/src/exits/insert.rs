//! Chosen exits into the graph: view, blocks, matrices, what an earlier exit has said, decision.

use partita_train::design::Block;
use partita_train::head::{Head, Separable};

use partita_ir::graph::infer::{InferError, infer};
use partita_ir::graph::op::{Conv, Decide, ExitRule, Gemm, Patience, PoolKind, Window};
use partita_ir::graph::{Activation, BinaryOp, Graph, Op, TensorId, Value};

/// What is added behind one tensor.
pub struct Exit<'a> {
    /// Number, in the order of the graph.
    pub number: usize,
    /// The tensor.
    pub tensor: TensorId,
    /// What makes of it what the head sees; none if that is the tensor itself.
    pub view: Option<&'a Op>,
    /// The head.
    pub head: &'a Head,
    /// What counts as confidence.
    pub rule: ExitRule,
    /// What scores are divided by.
    pub temperature: f32,
    /// In a stream, what the answers before count.
    pub patience: Option<Patience>,
    /// Least confidence.
    pub threshold: f32,
    /// Share of inferences that are expected to end here.
    pub share: f64,
    /// Whether the model's answer is probabilities, so that the exit's must be too.
    pub probabilities: bool,
    /// Scores of an earlier exit that are added to the head's own, and their weight.
    pub reuses: Option<(TensorId, f32)>,
}

/// Adds an exit. Returns its scores.
pub fn insert(graph: &mut Graph, exit: &Exit<'_>) -> Result<TensorId, InferError> {
    let prefix = format!("exit{}", exit.number);
    let mut x = exit.tensor;
    if let Some(op) = exit.view {
        x = add(graph, format!("{prefix}.view"), op.clone(), vec![x])?;
    }
    for (index, separable) in exit.head.blocks.iter().enumerate() {
        x = block(graph, &format!("{prefix}.block{index}"), separable, x)?;
    }
    if !exit.head.blocks.is_empty() {
        x = add(graph, format!("{prefix}.average"), Op::GlobalPool(PoolKind::Average), vec![x])?;
    }
    let features = graph.tensor_type(x).element_count();
    if graph.shape(x) != [1, features] {
        x = add(graph, format!("{prefix}.flatten"), Op::Reshape { shape: vec![1, features] }, vec![x])?;
    }
    for (index, layer) in exit.head.layers.iter().enumerate() {
        let last = index + 1 == exit.head.layers.len();
        let outputs = layer.bias.len();
        let name = format!("{prefix}.layer{index}");
        let inputs = layer.weights.len() / outputs.max(1);
        // The form in which simplification leaves matrix products, and in which kernels want them.
        let transposed =
            (0..inputs).flat_map(|input| (0..outputs).map(move |output| layer.weights[output * inputs + input]));
        let value = Value::f32([inputs, outputs], transposed.collect());
        let weights = graph.add_constant(format!("{name}.weights"), value);
        let bias = graph.add_constant(format!("{name}.bias"), Value::f32([outputs], layer.bias.clone()));
        let activation = if last { Activation::None } else { Activation::Relu };
        let gemm = Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation };
        x = add(graph, name, Op::Gemm(gemm), vec![x, weights, bias])?;
    }
    if let Some((earlier, weight)) = exit.reuses {
        let weight = graph.add_constant(format!("{prefix}.weight"), Value::f32([], vec![weight]));
        let product = Op::Binary(BinaryOp::Mul, Activation::None);
        let weighted = add(graph, format!("{prefix}.earlier"), product, vec![earlier, weight])?;
        x = add(graph, format!("{prefix}.together"), Op::Binary(BinaryOp::Add, Activation::None), vec![x, weighted])?;
    }
    let scores = x;
    let mut temperature = exit.temperature;
    if exit.probabilities {
        // The answer is calibrated probabilities; the decision reads them as they are.
        let factor = graph.add_constant(format!("{prefix}.calm"), Value::f32([], vec![1.0 / temperature]));
        let op = Op::Binary(BinaryOp::Mul, Activation::None);
        x = add(graph, format!("{prefix}.calibrated"), op, vec![x, factor])?;
        x = add(graph, format!("{prefix}.probabilities"), Op::Softmax { axis: 1 }, vec![x])?;
        temperature = 1.0;
    }
    let decide = Decide {
        exit: exit.number,
        rule: exit.rule,
        logits: !exit.probabilities,
        temperature,
        threshold: exit.threshold,
        share: exit.share,
        patience: exit.patience,
    };
    add(graph, format!("{prefix}.verdict"), Op::Decide(decide), vec![x])?;
    Ok(scores)
}

/// A depthwise convolution and a pointwise one, and what they add up to.
fn block(graph: &mut Graph, prefix: &str, separable: &Separable, x: TensorId) -> Result<TensorId, InferError> {
    let Block { inputs, outputs, window } = separable.block;
    // Where space has one dimension, blocks see it as one row.
    let axes = 4 - graph.shape(x).len()..2;
    let conv = |kernel: [usize; 2], stride: [usize; 2], groups: usize, residual: bool| {
        let pads: Vec<usize> = kernel[axes.clone()].iter().map(|extent| extent / 2).collect();
        let window = Window {
            kernel: kernel[axes.clone()].to_vec(),
            stride: stride[axes.clone()].to_vec(),
            dilation: vec![1; pads.len()],
            pad_begin: pads.clone(),
            pad_end: pads,
        };
        Op::Conv(Conv { window, groups, residual, activation: Activation::Relu })
    };
    let mut weights = |name: &str, shape: Vec<usize>, weights: &[f32], rows: usize, bias: &[f32]| {
        // From `[rows, outputs]` to `[outputs, rows]`.
        let outputs = bias.len();
        let turned = (0..outputs).flat_map(|output| (0..rows).map(move |row| weights[row * outputs + output]));
        let weights = graph.add_constant(format!("{prefix}.{name}.weights"), Value::f32(shape, turned.collect()));
        [weights, graph.add_constant(format!("{prefix}.{name}.bias"), Value::f32([outputs], bias.to_vec()))]
    };
    let taps = window.kernel.iter().product();
    let shape = |first: usize, second: usize, kernel: &[usize]| [&[first, second], kernel].concat();
    let depthwise = shape(inputs, 1, &window.kernel[axes.clone()]);
    let depthwise = weights("depthwise", depthwise, &separable.depthwise, taps, &separable.depthwise_bias);
    let pointwise = shape(outputs, inputs, &[1, 1][axes.clone()]);
    let pointwise = weights("pointwise", pointwise, &separable.pointwise, inputs, &separable.pointwise_bias);
    let op = conv(window.kernel, window.stride, inputs, false);
    let y = add(graph, format!("{prefix}.depthwise"), op, [&[x][..], &depthwise[..]].concat())?;
    let residual = separable.block.residual();
    let mut operands = vec![y, pointwise[0], pointwise[1]];
    operands.extend(residual.then_some(x));
    add(graph, format!("{prefix}.pointwise"), conv([1, 1], [1, 1], 1, residual), operands)
}

/// Adds a node with one output, named after it.
pub(super) fn add(graph: &mut Graph, name: String, op: Op, inputs: Vec<TensorId>) -> Result<TensorId, InferError> {
    let types: Vec<_> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
    let output_type = infer(&op, &types)?.swap_remove(0);
    let output = graph.add_tensor(format!("{name}.out"), output_type);
    graph.add_node(name, op, inputs, vec![output]);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use partita_ir::graph::{eval, text};
    use partita_train::head::Layer;

    /// One matrix of two classes.
    fn matrix(weights: [f32; 4], bias: [f32; 2]) -> Head {
        let layers = vec![Layer { weights: weights.to_vec(), bias: bias.to_vec() }];
        Head { layers, ..Head::default() }
    }

    #[test]
    fn a_later_exit_adds_what_an_earlier_one_has_said() {
        for probabilities in [false, true] {
            let source = r#"graph "g" opset 17
input %0 "x": f32[1,2]
%1 "y": f32[1,2] = "last"(%0) Unary(Abs)
output %1
"#;
            let mut graph = text::parse(source).expect("it is well formed");
            let input = graph.inputs[0];
            let (first, second) = (matrix([1.0, 0.0, 0.0, 2.0], [0.5, 0.0]), matrix([0.0, 1.0, 1.0, 0.0], [0.0, 1.0]));
            // Nothing leaves at the first, everything at the second.
            let exit = |number, head, reuses, threshold| Exit {
                number,
                tensor: input,
                view: None,
                head,
                rule: ExitRule::Probability,
                temperature: 2.0,
                patience: None,
                threshold,
                share: 0.0,
                probabilities,
                reuses,
            };
            let said = insert(&mut graph, &exit(0, &first, None, 2.0)).expect("it fits");
            insert(&mut graph, &exit(1, &second, Some((said, 3.0)), 0.0)).expect("it fits");
            let x = Value::f32([1, 2], vec![1.0, -2.0]);
            let found = eval::evaluate_until_exit(&graph, &[x], &mut BTreeMap::new()).expect("it can be evaluated");
            assert_eq!(found.exit.map(|(exit, _)| exit), Some(1));
            // Of the second (-2, 2), of the first (1.5, -4) three times.
            let scores = [-2.0 + 3.0 * 1.5, 2.0 - 3.0 * 4.0f32];
            let odds = ((scores[1] - scores[0]) / 2.0).exp();
            let expected = if probabilities { [1.0 / (1.0 + odds), odds / (1.0 + odds)] } else { scores };
            let answer = partita_files::data::to_f32(&found.outputs[0].data).to_vec();
            assert!(
                answer.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
                "{answer:?}, expected {expected:?}"
            );
        }
    }
}
