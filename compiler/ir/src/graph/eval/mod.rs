//! Reference interpreter: the meaning of every operator, computed by runtime-rt's portable kernels.
//!
//! It folds constants, is the oracle of tests and `--verify`, and never runs on a device.

mod cost;
mod error;
mod run;

use std::collections::{BTreeMap, HashMap};

use partita_rt::kernels::{Call, Gather, Scatter, Steady};

pub use cost::operations;
pub use error::EvalError;

use error::wrong_type;

use super::call::reference_call;
use super::op::{BinaryOp, Decide, Op};
use super::types::{Data, ElementType, TensorType, Value};
use super::{Graph, TensorId};

/// Evaluates one operator on values of the types that the graph says; `outputs` are its inferred types.
pub fn evaluate_node(op: &Op, inputs: &[&Value], outputs: &[TensorType]) -> Result<Vec<Value>, EvalError> {
    if outputs.is_empty() {
        return Ok(Vec::new());
    }
    let types: Vec<TensorType> = inputs.iter().map(|input| input.tensor_type()).collect();
    let (read, written): (Vec<_>, Vec<_>) = (types.iter().collect(), outputs.iter().collect());
    let call = reference_call(op, &read, &written).ok_or_else(|| wrong_type(op, inputs))?;
    check_elements(op, &call, inputs)?;
    let results = if let Op::Decide(decide) = op {
        inputs[0].as_f32().map(|scores| vec![Data::F32(verdict(decide, scores, &mut Steady::new()))])
    } else {
        run::run(&call, inputs, outputs)
    };
    let results = results.ok_or_else(|| wrong_type(op, inputs))?;
    Ok(results.into_iter().zip(outputs).map(|(data, output)| Value { shape: output.shape.clone(), data }).collect())
}

/// Refuses operands whose elements a kernel would pass over in silence.
fn check_elements(op: &Op, call: &Call<'_>, inputs: &[&Value]) -> Result<(), EvalError> {
    match (call, inputs) {
        (Call::RoiAlign(_), [x, _, images]) => {
            let extent = x.shape.first().copied().unwrap_or(0);
            let Data::I64(images) = images.data.cast(ElementType::I64) else { return Err(wrong_type(op, inputs)) };
            let outside = images.iter().find(|image| !(0..extent as i64).contains(*image));
            outside.map_or(Ok(()), |image| Err(EvalError::Index { index: *image, extent }))
        }
        (Call::Gather(Gather { extent, .. }), [_, indices])
        | (Call::Scatter(Scatter { extent, .. }), [_, _, indices]) => {
            let extent = *extent;
            let Data::I64(indices) = indices.data.cast(ElementType::I64) else { return Err(wrong_type(op, inputs)) };
            let outside = |index: &&i64| **index >= extent as i64 || **index < -(extent as i64);
            indices.iter().find(outside).map_or(Ok(()), |index| Err(EvalError::Index { index: *index, extent }))
        }
        (Call::Binary(binary), [_, b]) => {
            let divides = matches!(binary.function, BinaryOp::Div | BinaryOp::Mod) && b.data.element().is_integer();
            let by_zero = divides && super::values::to_f32(&b.data).contains(&0.0);
            if by_zero { Err(EvalError::DivisionByZero) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// What an exit decides, and the confidence; `steady` is what it has said before.
fn verdict(decide: &Decide, scores: &[f32], steady: &mut Steady) -> Vec<f32> {
    let mut verdict = vec![0.0; 2];
    decide.call().run(scores, &mut verdict, decide.threshold, Some(steady));
    verdict
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
        let verdict = verdict(decide, elements, steady.entry(exit).or_default());
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
    evaluate_with(graph, inputs, &|_, _, _| None, observe)
}

/// Another way to compute an operator of one result, from its operands and the result's type; none where the reference
/// kernel is to do it.
pub type Shortcut<'a> = &'a dyn Fn(&Op, &[&Value], &TensorType) -> Option<Value>;

/// The same, with another way for some operators.
pub fn evaluate_with(
    graph: &Graph,
    inputs: &[Value],
    shortcut: Shortcut<'_>,
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
        let shorter = if let [only] = &types[..] { shortcut(&node.op, &operands, only) } else { None };
        let results = match shorter {
            Some(value) => vec![value],
            None => evaluate_node(&node.op, &operands, &types).map_err(named)?,
        };
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
