//! Chosen exits into the graph: view, matrices, decision.

use super::candidates::View;
use super::heads::Head;
use crate::graph::infer::infer;
use crate::graph::op::{Decide, ExitRule, Gemm};
use crate::graph::{Activation, Graph, NodeId, Op, TensorId, Value};

/// What is added behind one tensor.
pub struct Exit<'a> {
    /// Number, in the order of the graph.
    pub number: usize,
    /// The tensor.
    pub tensor: TensorId,
    /// What the head sees of it.
    pub view: &'a View,
    /// The head.
    pub head: &'a Head,
    /// What counts as confidence.
    pub rule: ExitRule,
    /// What scores are divided by.
    pub temperature: f32,
    /// Least confidence.
    pub threshold: f32,
    /// Share of inferences that are expected to end here.
    pub share: f64,
    /// Whether the model's answer is probabilities, so that the exit's must be too.
    pub probabilities: bool,
}

/// Adds an exit. Returns the node that decides.
pub fn insert(graph: &mut Graph, exit: &Exit<'_>) -> Result<NodeId, crate::graph::infer::InferError> {
    let prefix = format!("exit{}", exit.number);
    let mut x = exit.tensor;
    if let Some(op) = &exit.view.op {
        x = add(graph, format!("{prefix}.view"), op.clone(), vec![x])?;
    }
    if graph.shape(x) != [1, exit.view.features] {
        x = add(graph, format!("{prefix}.flatten"), Op::Reshape { shape: vec![1, exit.view.features] }, vec![x])?;
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
    let mut temperature = exit.temperature;
    if exit.probabilities {
        // The answer is calibrated probabilities; the decision reads them as they are.
        let factor = graph.add_constant(format!("{prefix}.calm"), Value::f32([], vec![1.0 / temperature]));
        let op = Op::Binary(crate::graph::BinaryOp::Mul, Activation::None);
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
    };
    let verdict = add(graph, format!("{prefix}.verdict"), Op::Decide(decide), vec![x])?;
    Ok(graph.tensor(verdict).producer.unwrap_or_default())
}

fn add(
    graph: &mut Graph,
    name: String,
    op: Op,
    inputs: Vec<TensorId>,
) -> Result<TensorId, crate::graph::infer::InferError> {
    let types: Vec<_> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
    let output_type = infer(&op, &types)?.swap_remove(0);
    let output = graph.add_tensor(format!("{name}.out"), output_type);
    graph.add_node(name, op, inputs, vec![output]);
    Ok(output)
}
