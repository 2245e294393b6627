//! Matrix products and normalisations with learned parameters.

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{Activation, BinaryOp, Gemm, Op, ReduceKind, UnaryOp};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Gemm" => gemm,
        "MatMul" => matmul,
        "BatchNormalization" => batch_normalization,
        "InstanceNormalization" => instance_normalization,
        "LayerNormalization" => layer_normalization,
        _ => return None,
    })
}

fn matmul(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let factors = [context.input(0)?, context.input(1)?];
    let ranks = factors.map(|factor| context.shape(factor).len());
    if ranks.iter().all(|rank| *rank >= 2)
        && context.emit_products(&Op::MatMul, factors, None, [ranks[1] - 1, ranks[0].max(ranks[1]) - 1])?
    {
        return Ok(());
    }
    context.emit(Op::MatMul, factors.to_vec())
}

fn gemm(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let factors = [context.input(0)?, context.input(1)?];
    let beta = context.attributes.float("beta", 1.0)?;
    // What is multiplied by zero is not read: it may hold anything (BLAS, onnxruntime).
    let addend = context.optional_input(2).filter(|_| beta != 0.0);
    let gemm = Gemm {
        transpose_a: context.attributes.flag("transA", false)?,
        transpose_b: context.attributes.flag("transB", false)?,
        alpha: context.attributes.float("alpha", 1.0)?,
        beta: if addend.is_some() { beta } else { 1.0 },
        activation: Activation::None,
    };
    let is_plain = gemm.alpha == 1.0 && gemm.beta == 1.0 && context.shape(factors[1]).len() == 2;
    let axes = [usize::from(!gemm.transpose_b), 1];
    let op = Op::Gemm(gemm);
    if is_plain && context.emit_products(&op, factors, addend, axes)? {
        return Ok(());
    }
    context.emit(op, factors.into_iter().chain(addend).collect())
}

fn epsilon(context: &NodeContext<'_>) -> Result<f32, Diagnostic> {
    let epsilon = context.attributes.float("epsilon", 1e-5)?;
    if epsilon.is_finite() && epsilon >= 0.0 {
        Ok(epsilon)
    } else {
        Err(context.refuse(format!("attribute `epsilon` is {epsilon}, expected a small positive number")))
    }
}

fn batch_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    if context.attributes.flag("training_mode", false)? {
        return Err(context.attributes.unsupported("it is in training mode").help("export the model for inference"));
    }
    if context.attributes.int("spatial", 1)? != 1 {
        return Err(context.attributes.unsupported("`spatial` = 0 (statistics per element) is not supported"));
    }
    // Old exporters list the statistics of training, which nothing reads.
    if context.uses_more_than_first() {
        return Err(context.attributes.unsupported("its outputs beyond the first belong to training"));
    }
    let epsilon = epsilon(context)?;
    let inputs = (0..5).map(|position| context.input(position)).collect::<Result<Vec<_>, _>>()?;
    // Before opset 14 the number of results said which form is meant.
    let is_test = context.opset() < 7 && context.attributes.flag("is_test", false)?;
    if context.opset() < 14 && context.attributes.node.output.len() == 5 && !is_test {
        return normalization_by_batch(context, [inputs[0], inputs[1], inputs[2]], epsilon);
    }
    context.emit(Op::BatchNormalization { epsilon }, inputs)
}

/// The form that lists all its results: statistics are those of the batch itself.
fn normalization_by_batch(
    context: &mut NodeContext<'_>,
    [x, scale, bias]: [TensorId; 3],
    epsilon: f32,
) -> Result<(), Diagnostic> {
    let shape = context.shape(x);
    let [_, channels, ..] = shape[..] else {
        return Err(context.refuse(format!("its input is {}, expected batch and channels", context.tensor_type(x))));
    };
    let message =
        context.refuse("lists the results of training, so it normalises by the statistics of the batch itself");
    context.importer.graph.remarks.push(
        Diagnostic { code: "W0134", ..message }.help("export the model for inference if that is not what is meant"),
    );
    let axes: Vec<usize> = (0..shape.len()).filter(|axis| *axis != 1).collect();
    let (_, less, root) = statistics(context, x, axes, epsilon)?;
    let normal = context.binary(BinaryOp::Div, less, root)?;
    let mut along = vec![1; shape.len() - 1];
    along[0] = channels;
    let scale = context.value(Op::Reshape { shape: along.clone() }, &[scale])?;
    let bias = context.value(Op::Reshape { shape: along }, &[bias])?;
    let scaled = context.binary(BinaryOp::Mul, normal, scale)?;
    context.emit(Op::Binary(BinaryOp::Add, Activation::None), vec![scaled, bias])
}

fn instance_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let epsilon = epsilon(context)?;
    let inputs = (0..3).map(|position| context.input(position)).collect::<Result<Vec<_>, _>>()?;
    context.emit(Op::InstanceNormalization { epsilon }, inputs)
}

fn layer_normalization(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, scale) = (context.input(0)?, context.input(1)?);
    let epsilon = epsilon(context)?;
    let axis = context.attributes.int("axis", -1)?;
    let axis = context.axis(axis, context.shape(x).len())?;
    let bias = match context.optional_input(2) {
        Some(bias) => bias,
        None => {
            let shape = context.shape(scale);
            context.make_zeros("bias", shape)?
        }
    };
    let y = context.value(Op::LayerNormalization { axis, epsilon }, &[x, scale, bias])?;
    if !context.uses_more_than_first() {
        return context.bind(&[y]);
    }
    let (mean, _, root) = statistics(context, x, (axis..context.shape(x).len()).collect(), epsilon)?;
    let inverse = context.unary(UnaryOp::Reciprocal, root)?;
    context.bind(&[y, mean, inverse])
}

/// Mean, difference from it, and `sqrt(variance + epsilon)` over axes that stay as 1.
fn statistics(
    context: &mut NodeContext<'_>,
    x: TensorId,
    axes: Vec<usize>,
    epsilon: f32,
) -> Result<(TensorId, TensorId, TensorId), Diagnostic> {
    let over = Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims: true };
    let mean = context.value(over.clone(), &[x])?;
    let less = context.binary(BinaryOp::Sub, x, mean)?;
    let square = context.binary(BinaryOp::Mul, less, less)?;
    let variance = context.value(over, &[square])?;
    let epsilon = context.number(f64::from(epsilon), x)?;
    let sum = context.binary(BinaryOp::Add, variance, epsilon)?;
    Ok((mean, less, context.unary(UnaryOp::Sqrt, sum)?))
}
