//! Reference interpreter: the meaning of every operator, computed by runtime-rt's portable kernels.
//!
//! It folds constants, is the oracle of tests and `--verify`, and never runs on a device.

pub mod elementwise;
mod error;
pub mod movement;
pub mod spatial;

use std::collections::{BTreeMap, HashMap};

use partita_rt::kernels::Steady;

pub use error::EvalError;

use super::op::{Op, ResizeMode};
use super::types::{Data, TensorType, Value};
use super::{Graph, TensorId};

/// Evaluates one operator on values of the types that the graph says; `outputs` are its inferred types.
pub fn evaluate_node(op: &Op, inputs: &[&Value], outputs: &[TensorType]) -> Result<Vec<Value>, EvalError> {
    let Some(output) = outputs.first() else { return Ok(Vec::new()) };
    let single = |data: Data| Ok(vec![Value { shape: output.shape.clone(), data }]);
    match op {
        Op::Resize { mode: ResizeMode::Nearest(_), .. } => single(movement::evaluate(op, inputs, output)?),
        Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::Gemm(_)
        | Op::MatMul
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::Pool(_)
        | Op::GlobalPool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Resize { .. } => single(Data::F32(spatial::evaluate(op, inputs, output)?)),
        Op::Unary(_) | Op::Binary(..) | Op::PRelu | Op::Where | Op::Cast { .. } => {
            single(elementwise::evaluate(op, inputs, output)?)
        }
        Op::Reduce { .. } | Op::ArgMax { .. } | Op::Decide(_) => {
            single(spatial::evaluate_reduction(op, inputs, output)?)
        }
        Op::Split { axis, sizes } => movement::split(inputs[0], *axis, sizes, outputs),
        Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => single(movement::evaluate(op, inputs, output)?),
    }
}

/// Evaluates a graph; gives its outputs in order.
pub fn evaluate(graph: &Graph, inputs: &[Value]) -> Result<Vec<Value>, EvalError> {
    evaluate_observed(graph, inputs, &mut |_, _| {})
}

/// An answer, and the exit that gave it with its confidence; no exit if the whole network was needed.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyAnswer {
    /// The outputs.
    pub outputs: Vec<Value>,
    /// The exit.
    pub exit: Option<(usize, f32)>,
}

/// Evaluates a graph with exits. `steady` is what the exits have said to the samples before; an empty map at first.
pub fn evaluate_until_exit(
    graph: &Graph,
    inputs: &[Value],
    steady: &mut BTreeMap<usize, Steady>,
) -> Result<EarlyAnswer, EvalError> {
    let exits = graph.exits();
    let ports: Vec<[TensorId; 2]> = exits.iter().map(|id| [graph.node(*id).inputs[0], graph.answer(*id)]).collect();
    let mut seen: HashMap<TensorId, Value> = HashMap::new();
    let outputs = evaluate_observed(graph, inputs, &mut |tensor, value| {
        if ports.as_flattened().contains(&tensor) {
            seen.insert(tensor, value.clone());
        }
    })?;
    for (exit, (id, [scores, answer])) in exits.iter().zip(&ports).enumerate() {
        let (Some(scores), Some(answer)) = (seen.get(scores), seen.get(answer)) else { continue };
        let Some(decide) = graph.decide(*id) else { continue };
        let Data::F32(elements) = &scores.data else { continue };
        let mut verdict = [0.0; 2];
        spatial::verdict_of(decide, elements, &mut verdict, steady.entry(exit).or_default());
        if partita_rt::kernels::leaves(&verdict) {
            return Ok(EarlyAnswer { outputs: vec![answer.clone()], exit: Some((exit, verdict[1])) });
        }
    }
    Ok(EarlyAnswer { outputs, exit: None })
}

/// Evaluates a graph and shows every tensor as it is made. Tensors that nothing needs any more are freed.
pub fn evaluate_observed(
    graph: &Graph,
    inputs: &[Value],
    observe: &mut dyn FnMut(TensorId, &Value),
) -> Result<Vec<Value>, EvalError> {
    let order = graph.topological_order().ok_or(EvalError::Order)?;
    let mut uses: HashMap<TensorId, usize> = HashMap::new();
    for node in &order {
        for input in &graph.node(*node).inputs {
            *uses.entry(*input).or_default() += 1;
        }
    }
    for output in &graph.outputs {
        *uses.entry(*output).or_default() += 1;
    }
    let mut values: HashMap<TensorId, Value> = HashMap::new();
    for (position, tensor) in graph.inputs.iter().enumerate() {
        let expected = graph.tensor_type(*tensor);
        let given = inputs
            .get(position)
            .filter(|value| value.data.len() == expected.element_count() && value.data.element() == expected.element);
        let Some(given) = given else {
            return Err(EvalError::Input {
                position,
                expected: expected.to_string(),
                found: inputs.get(position).map_or("missing".to_string(), |value| value.tensor_type().to_string()),
            });
        };
        values.insert(*tensor, given.clone());
    }
    for id in order {
        let node = graph.node(id);
        let named = |source: EvalError| EvalError::Node { node: node.name.clone(), source: Box::new(source) };
        let operands = node
            .inputs
            .iter()
            .map(|input| graph.value(*input).map(|value| &**value).or_else(|| values.get(input)))
            .collect::<Option<Vec<&Value>>>()
            .ok_or(EvalError::Order)?;
        let types: Vec<TensorType> = node.outputs.iter().map(|output| graph.tensor_type(*output).clone()).collect();
        let results = evaluate_node(&node.op, &operands, &types).map_err(named)?;
        for (output, value) in node.outputs.iter().zip(results) {
            observe(*output, &value);
            if uses.contains_key(output) {
                values.insert(*output, value);
            }
        }
        for input in &node.inputs {
            if let Some(left) = uses.get_mut(input) {
                *left -= 1;
                if *left == 0 {
                    values.remove(input);
                }
            }
        }
    }
    graph
        .outputs
        .iter()
        .map(|output| {
            let constant = graph.value(*output).map(|value| (**value).clone());
            constant.or_else(|| values.get(output).cloned()).ok_or(EvalError::Order)
        })
        .collect()
}
