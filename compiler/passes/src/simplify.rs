//! Local equations; each rule stands under its equation.

use super::PassError;
use super::pattern::{bypass, in_order, only_use, per_channel, producer, rewrite, with_scalar};
use partita_ir::graph::op::{Activation, Gemm, PoolKind, ReduceKind, UnaryOp};
use partita_ir::graph::{BinaryOp, ElementType, Graph, NodeId, Op, TensorType, Value};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        drop_neutral(graph, id);
    }
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        clip_from_bounds(graph, id);
        join_activations(graph, id);
        normalize_gemm(graph, id);
        global_pool(graph, id);
        square(graph, id);
        // Last: it may remove the node.
        gemm_from_matmul(graph, id);
    }
    Ok(())
}

/// `x + 0 = x`, `x - 0 = x`, `x * 1 = x`, `x / 1 = x`, `x ^ 1 = x`.
fn drop_neutral(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Op::Binary(function, Activation::None) = node.op else { return };
    let commutes = matches!(function, BinaryOp::Add | BinaryOp::Mul);
    let Some((x, value)) = with_scalar(graph, node) else { return };
    if !commutes && x != node.inputs[0] {
        return;
    }
    let neutral = match function {
        BinaryOp::Add | BinaryOp::Sub => value == 0.0,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow => value == 1.0,
        _ => false,
    };
    if neutral && graph.tensor_type(x) == graph.tensor_type(node.outputs[0]) {
        bypass(graph, id, x);
    }
}

/// `max(x, c) = clip(x, c, inf)`, `min(x, c) = clip(x, -inf, c)`.
fn clip_from_bounds(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Op::Binary(function, Activation::None) = node.op else { return };
    let Some((x, bound)) = with_scalar(graph, node) else { return };
    if bound.is_nan() || graph.tensor_type(x) != graph.tensor_type(node.outputs[0]) {
        return;
    }
    let activation = match function {
        BinaryOp::Max => Activation::Clip(bound, f32::INFINITY),
        BinaryOp::Min => Activation::Clip(f32::NEG_INFINITY, bound),
        _ => return,
    };
    rewrite(graph, id, Op::Unary(UnaryOp::Activation(activation)), vec![x]);
}

/// `clip(clip(x, a, b), c, d)` and `relu` among them: one clip. `clip(x, 0, inf) = relu(x)`.
fn join_activations(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Op::Unary(UnaryOp::Activation(activation)) = node.op else { return };
    let Some((low, high)) = bounds(activation) else { return };
    let mut input = node.inputs[0];
    let mut joined = (low, high);
    if let Some((_, before)) = producer(graph, input)
        && let Op::Unary(UnaryOp::Activation(first)) = before.op
        && let Some((first_low, first_high)) = bounds(first)
    {
        joined = (first_low.clamp(low, high), first_high.clamp(low, high));
        input = before.inputs[0];
    }
    let activation =
        if joined == (0.0, f32::INFINITY) { Activation::Relu } else { Activation::Clip(joined.0, joined.1) };
    rewrite(graph, id, Op::Unary(UnaryOp::Activation(activation)), vec![input]);
}

fn bounds(activation: Activation) -> Option<(f32, f32)> {
    match activation {
        Activation::Relu => Some((0.0, f32::INFINITY)),
        Activation::Clip(low, high) if low <= high => Some((low, high)),
        _ => None,
    }
}

/// `alpha A B + beta C` with constant B: alpha goes into B, B lies as `[K, N]`; with constant C: beta goes into C.
fn normalize_gemm(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Op::Gemm(gemm) = &node.op else { return };
    let mut gemm = gemm.clone();
    let mut inputs = node.inputs.clone();
    if let Some(b) = graph.f32_value(inputs[1])
        && (gemm.alpha != 1.0 || gemm.transpose_b)
    {
        let [rows, columns] = graph.shape(inputs[1])[..] else { return };
        let alpha = gemm.alpha;
        let value = if gemm.transpose_b {
            let mut transposed = vec![0.0; b.len()];
            for (index, element) in b.iter().enumerate() {
                transposed[index % columns * rows + index / columns] = alpha * element;
            }
            Value::f32([columns, rows], transposed)
        } else {
            Value::f32([rows, columns], b.iter().map(|element| alpha * element).collect())
        };
        let name = graph.tensor(inputs[1]).name.clone();
        inputs[1] = graph.add_constant(name, value);
        (gemm.alpha, gemm.transpose_b) = (1.0, false);
    }
    if let Some(c) = inputs.get(2).and_then(|c| graph.f32_value(*c))
        && gemm.beta != 1.0
    {
        let scaled = Value::f32(graph.shape(inputs[2]), c.iter().map(|element| gemm.beta * element).collect());
        let name = graph.tensor(inputs[2]).name.clone();
        inputs[2] = graph.add_constant(name, scaled);
        gemm.beta = 1.0;
    }
    rewrite(graph, id, Op::Gemm(gemm), inputs);
}

/// `MatMul(A, B)` with a constant matrix B is a Gemm over A's rows; a following Add of a constant row is its C.
fn gemm_from_matmul(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id).clone();
    if node.op != Op::MatMul || graph.f32_value(node.inputs[1]).is_none() {
        return;
    }
    let a_shape = graph.shape(node.inputs[0]).to_vec();
    let [depth, columns] = graph.shape(node.inputs[1])[..] else { return };
    if a_shape.len() < 2 {
        return;
    }
    let rows: usize = a_shape[..a_shape.len() - 1].iter().product();
    let mut last = id;
    let mut inputs = vec![node.inputs[0], node.inputs[1]];
    let consumers = graph.consumers(node.outputs[0]);
    if let [add] = consumers[..]
        && only_use(graph, node.outputs[0]).is_some()
        && let Op::Binary(BinaryOp::Add, Activation::None) = graph.node(add).op
    {
        let add_inputs = &graph.node(add).inputs;
        let other = if add_inputs[0] == node.outputs[0] { add_inputs[1] } else { add_inputs[0] };
        let row =
            graph.f32_value(other).filter(|row| row.len() == columns && graph.shape(other).last() == Some(&columns));
        let same = graph.shape(graph.node(add).outputs[0]) == graph.shape(node.outputs[0]);
        if let Some(row) = row.map(<[f32]>::to_vec)
            && same
        {
            let name = graph.tensor(other).name.clone();
            inputs.push(graph.add_constant(name, Value::f32([columns], row)));
            last = add;
        }
    }
    let gemm =
        Op::Gemm(Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation: Activation::None });
    if a_shape.len() == 2 {
        if last != id {
            graph.remove_node(id);
        }
        return rewrite(graph, last, gemm, inputs);
    }
    let output_shape = graph.shape(node.outputs[0]).to_vec();
    let flat = graph.add_tensor(format!("{}.rows", node.name), TensorType::f32([rows, depth]));
    graph.add_node(
        format!("{}.rows", node.name),
        Op::Reshape { shape: vec![rows, depth] },
        vec![inputs[0]],
        vec![flat],
    );
    let product = graph.add_tensor(format!("{}.product", node.name), TensorType::f32([rows, columns]));
    inputs[0] = flat;
    graph.add_node(format!("{}.gemm", node.name), gemm, inputs, vec![product]);
    if last != id {
        graph.remove_node(id);
    }
    rewrite(graph, last, Op::Reshape { shape: output_shape }, vec![product]);
}

/// A mean or maximum over all spatial axes, and a pool whose window is the whole input, are global pools.
fn global_pool(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id).clone();
    let Some(&input) = node.inputs.first() else { return };
    let shape = graph.shape(input).to_vec();
    if shape.len() < 3 || graph.tensor_type(input).element != ElementType::F32 {
        return;
    }
    let spatial: Vec<usize> = (2..shape.len()).collect();
    match &node.op {
        Op::Reduce { kind, axes, keep_dims } if *axes == spatial => {
            let kind = match kind {
                ReduceKind::Mean => PoolKind::Average,
                ReduceKind::Max => PoolKind::Max,
                ReduceKind::Sum | ReduceKind::Min | ReduceKind::L2 => return,
            };
            if *keep_dims {
                return rewrite(graph, id, Op::GlobalPool(kind), vec![input]);
            }
            let mut pooled = shape;
            pooled[2..].fill(1);
            let tensor = graph.add_tensor(format!("{}.pooled", node.name), TensorType::f32(pooled));
            graph.add_node(format!("{}.pool", node.name), Op::GlobalPool(kind), vec![input], vec![tensor]);
            let shape = graph.shape(node.outputs[0]).to_vec();
            rewrite(graph, id, Op::Reshape { shape }, vec![tensor]);
        }
        Op::Pool(pool)
            if pool.window.kernel == shape[2..]
                && pool.window.pad_begin.iter().chain(&pool.window.pad_end).all(|pad| *pad == 0)
                && pool.window.dilation.iter().all(|dilation| *dilation == 1) =>
        {
            rewrite(graph, id, Op::GlobalPool(pool.kind), vec![input]);
        }
        _ => {}
    }
}

/// `x ^ 2 = x * x`, `x ^ 0.5 = sqrt(x)`.
fn square(graph: &mut Graph, id: NodeId) {
    let node = graph.node(id);
    let Op::Binary(BinaryOp::Pow, last) = node.op else { return };
    let base = node.inputs[0];
    let exponent = per_channel(graph, node.inputs[1], graph.shape(base).len(), 1);
    if graph.tensor_type(base) != graph.tensor_type(node.outputs[0]) {
        return;
    }
    match exponent.as_deref() {
        Some([2.0]) => rewrite(graph, id, Op::Binary(BinaryOp::Mul, last), vec![base, base]),
        Some([0.5]) if last == Activation::None => rewrite(graph, id, Op::Unary(UnaryOp::Sqrt), vec![base]),
        _ => {}
    }
}
