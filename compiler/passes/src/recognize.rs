//! Finds operators that exporters spell out of smaller ones.

use super::PassError;
use super::pattern::{in_order, only_use, producer, rewrite, scalar, with_scalar};
use partita_ir::graph::op::{Activation, UnaryOp};
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        silu(graph, id);
        hard_swish(graph, id);
        gelu(graph, id);
    }
    Ok(())
}

/// The two operands of a product.
fn product(graph: &Graph, id: NodeId) -> Option<[TensorId; 2]> {
    let node = graph.node(id);
    match (&node.op, &node.inputs[..]) {
        (Op::Binary(BinaryOp::Mul, Activation::None), [a, b]) => Some([*a, *b]),
        _ => None,
    }
}

/// `x * sigmoid(x)`
fn silu(graph: &mut Graph, id: NodeId) {
    gated(graph, id, &|op| matches!(op, Op::Unary(UnaryOp::Sigmoid)), UnaryOp::Silu);
}

/// `x * hard_sigmoid(x)` with alpha = 1/6, beta = 1/2
fn hard_swish(graph: &mut Graph, id: NodeId) {
    let is_gate = |op: &Op| match op {
        Op::Unary(UnaryOp::Activation(Activation::HardSigmoid(alpha, beta))) => {
            (alpha - 1.0 / 6.0).abs() < 1e-6 && *beta == 0.5
        }
        _ => false,
    };
    gated(graph, id, &is_gate, UnaryOp::Activation(Activation::HardSwish));
}

/// `x * gate(x)` where nothing else reads the gate.
fn gated(graph: &mut Graph, id: NodeId, is_gate: &dyn Fn(&Op) -> bool, whole: UnaryOp) {
    let Some([a, b]) = product(graph, id) else { return };
    for (x, gate) in [(a, b), (b, a)] {
        let Some(gate_node) = only_use(graph, gate) else { continue };
        let node = graph.node(gate_node);
        if is_gate(&node.op) && node.inputs[0] == x {
            return rewrite(graph, id, Op::Unary(whole), vec![x]);
        }
    }
}

/// `x * (erf(x / sqrt(2)) + 1) * 0.5`, in any order of the products.
fn gelu(graph: &mut Graph, id: NodeId) {
    let Some(factors) = product(graph, id) else { return };
    let mut operands = Vec::with_capacity(3);
    for factor in factors {
        match graph.tensor(factor).producer.and_then(|node| product(graph, node)) {
            Some(inner) if only_use(graph, factor).is_some() && operands.len() < 2 => operands.extend(inner),
            _ => operands.push(factor),
        }
    }
    let Some([a, b]) = without_half(graph, &operands) else { return };
    for (x, gate) in [(a, b), (b, a)] {
        let same_type = graph.tensor_type(x) == graph.tensor_type(graph.node(id).outputs[0]);
        if gate_of(graph, gate) == Some(x) && same_type {
            return rewrite(graph, id, Op::Unary(UnaryOp::Gelu { tanh: false }), vec![x]);
        }
    }
}

/// The two operands beside the constant 0.5 among three.
fn without_half(graph: &Graph, operands: &[TensorId]) -> Option<[TensorId; 2]> {
    let at = operands.iter().position(|operand| scalar(graph, *operand) == Some(0.5))?;
    let rest: Vec<TensorId> =
        operands.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, id)| *id).collect();
    rest.try_into().ok()
}

/// The x of `erf(x / sqrt(2)) + 1`.
fn gate_of(graph: &Graph, gate: TensorId) -> Option<TensorId> {
    let (_, add) = producer(graph, gate)?;
    let Op::Binary(BinaryOp::Add, Activation::None) = add.op else { return None };
    let (erf, one) = with_scalar(graph, add)?;
    let (_, erf) = producer(graph, erf)?;
    if one != 1.0 || erf.op != Op::Unary(UnaryOp::Erf) {
        return None;
    }
    let (_, scaled) = producer(graph, erf.inputs[0])?;
    let (x, factor) = with_scalar(graph, scaled)?;
    let root = match scaled.op {
        Op::Binary(BinaryOp::Div, Activation::None) if scaled.inputs[0] == x => factor,
        Op::Binary(BinaryOp::Mul, Activation::None) => 1.0 / factor,
        _ => return None,
    };
    ((root - std::f32::consts::SQRT_2).abs() < 1e-5).then_some(x)
}
