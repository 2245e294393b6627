//! Element types that operators take and give: one table for inference, the importer, evaluation and emitted calls.

use super::infer::InferError;
use super::op::{Activation, BinaryOp, Op, ReduceKind, ResizeMode, UnaryOp};
use super::types::{ElementType, TensorType};

/// Whether an operator is defined on elements of a type. Indices of Gather and the condition of Where do not count.
pub fn takes(op: &Op, element: ElementType) -> bool {
    let is_f32 = element == ElementType::F32;
    match op {
        Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::Gemm(_)
        | Op::MatMul
        | Op::Einsum(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::PRelu
        | Op::Pool(_)
        | Op::GlobalPool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::NonMaxSuppression(_)
        | Op::RoiAlign(_)
        | Op::TreeEnsemble(_)
        | Op::Decide(_) => is_f32,
        Op::ArgMax { .. } => element != ElementType::Bool,
        Op::Scatter { function: Some(function) } => binary_takes(*function, element),
        // Whole numbers among each other are cast.
        Op::BitCast { to } => element.size_bytes() == to.size_bytes() && element.is_float() != to.is_float(),
        Op::Unary(function) => unary_takes(*function, element),
        Op::Binary(_, activation) if *activation != Activation::None => is_f32,
        Op::Binary(function, _) => binary_takes(*function, element),
        Op::Reduce { kind: ReduceKind::L2, .. } => is_f32,
        // Means of few bits are none of ONNX's.
        Op::Reduce { kind: ReduceKind::Mean, .. } => element.is_float() || element.size_bytes() >= 4,
        Op::Reduce { kind: ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min, .. } => element != ElementType::Bool,
        Op::Resize { mode, .. } => match mode {
            ResizeMode::Nearest(_) => true,
            ResizeMode::Linear => is_f32,
        },
        Op::Where
        | Op::Scatter { function: None }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Cast { .. }
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => true,
    }
}

fn unary_takes(function: UnaryOp, element: ElementType) -> bool {
    let signed = matches!(element, ElementType::I64 | ElementType::I32 | ElementType::I16 | ElementType::I8);
    match function {
        UnaryOp::Not => element == ElementType::Bool,
        UnaryOp::Neg => element.is_float() || signed,
        UnaryOp::Abs => element != ElementType::Bool,
        UnaryOp::Activation(Activation::Relu) => element.is_float() && element != ElementType::F64 || signed,
        UnaryOp::Exp
        | UnaryOp::Log
        | UnaryOp::Sqrt
        | UnaryOp::Reciprocal
        | UnaryOp::Floor
        | UnaryOp::Ceil
        | UnaryOp::Round
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Tan
        | UnaryOp::Asin
        | UnaryOp::Acos
        | UnaryOp::Atan
        | UnaryOp::Sinh
        | UnaryOp::Cosh
        | UnaryOp::Asinh
        | UnaryOp::Acosh
        | UnaryOp::Atanh => element.is_float(),
        UnaryOp::Sign => element != ElementType::Bool,
        UnaryOp::Half | UnaryOp::Steps { .. } => element == ElementType::F32,
        UnaryOp::Activation(_)
        | UnaryOp::Sigmoid
        | UnaryOp::Tanh
        | UnaryOp::Elu { .. }
        | UnaryOp::Selu { .. }
        | UnaryOp::Softplus
        | UnaryOp::Erf
        | UnaryOp::Gelu { .. }
        | UnaryOp::Silu => element.is_float() && element != ElementType::F64,
    }
}

fn binary_takes(function: BinaryOp, element: ElementType) -> bool {
    match function {
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Pow
        | BinaryOp::Min
        | BinaryOp::Max
        | BinaryOp::Mod
        | BinaryOp::Less
        | BinaryOp::LessOrEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterOrEqual => element != ElementType::Bool,
        BinaryOp::RoundedQuotient => element == ElementType::F32,
        BinaryOp::Equal => true,
        BinaryOp::And | BinaryOp::Or => element == ElementType::Bool,
    }
}

/// Element type of the results for operands of these types.
pub fn result(op: &Op, operands: &[ElementType]) -> ElementType {
    let first = operands.first().copied().unwrap_or(ElementType::F32);
    match op {
        Op::Binary(function, _) if function.is_comparison() => ElementType::Bool,
        Op::ArgMax { .. } | Op::NonMaxSuppression(_) => ElementType::I64,
        Op::Cast { to } | Op::BitCast { to } => *to,
        Op::Where => operands.get(1).copied().unwrap_or(first),
        Op::Decide(_) => ElementType::F32,
        Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::Gemm(_)
        | Op::MatMul
        | Op::Einsum(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::Unary(_)
        | Op::Binary(..)
        | Op::PRelu
        | Op::Pool(_)
        | Op::GlobalPool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Reduce { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Scatter { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Resize { .. }
        | Op::RoiAlign(_)
        | Op::TreeEnsemble(_)
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => first,
    }
}

/// The operands whose elements an operator computes with or moves, all of one type; the others choose among them.
pub fn values(op: &Op, operands: usize) -> std::ops::Range<usize> {
    if matches!(op, Op::Gather { .. } | Op::TreeEnsemble(_) | Op::Decide(_)) {
        return 0..operands.min(1);
    }
    if matches!(op, Op::Scatter { .. } | Op::RoiAlign(_)) {
        return 0..operands.min(2);
    }
    if matches!(op, Op::Where) { 1.min(operands)..operands } else { 0..operands }
}

/// Whether every element of the results is one of the operands', or tells how they compare: whole numbers that are
/// carried as real ones stay what they are.
pub fn only_chooses(op: &Op) -> bool {
    match op {
        Op::Binary(function, activation) => {
            *activation == Activation::None
                && (function.is_comparison() || matches!(function, BinaryOp::Min | BinaryOp::Max))
        }
        Op::Unary(function) => matches!(function, UnaryOp::Activation(Activation::Relu)),
        Op::Pool(pool) => pool.kind == super::op::PoolKind::Max,
        Op::GlobalPool(kind) => *kind == super::op::PoolKind::Max,
        Op::Reduce { kind, .. } => matches!(kind, ReduceKind::Max | ReduceKind::Min),
        Op::Resize { mode, .. } => matches!(mode, ResizeMode::Nearest(_)),
        Op::Scatter { function } => matches!(function, None | Some(BinaryOp::Min | BinaryOp::Max)),
        Op::Where
        | Op::ArgMax { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Cast { .. }
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => true,
        Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::Gemm(_)
        | Op::MatMul
        | Op::Einsum(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::Lrn { .. }
        | Op::PRelu
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::NonMaxSuppression(_)
        | Op::RoiAlign(_)
        | Op::TreeEnsemble(_)
        | Op::BitCast { .. }
        | Op::Decide(_) => false,
    }
}

/// Whether an operator takes operands of these types, all of one type where it computes with several.
pub fn check(op: &Op, operands: &[&TensorType]) -> Result<(), InferError> {
    let refuse = |message: String| Err(InferError::Mismatch(message));
    let values = &operands[values(op, operands.len())];
    if let Some(operand) = values.iter().find(|operand| !takes(op, operand.element)) {
        let only_f32 = ElementType::ALL.iter().all(|other| takes(op, *other) == (*other == ElementType::F32));
        return Err(InferError::Elements(match only_f32 {
            true => format!("an input is {operand}, expected f32 elements"),
            false => format!("an input is {operand}, which is not supported"),
        }));
    }
    let other = values
        .split_first()
        .and_then(|(first, rest)| Some((first, rest.iter().find(|operand| operand.element != first.element)?)));
    match (op, other) {
        (Op::Where, _) if operands[0].element != ElementType::Bool => {
            refuse(format!("choosing between {} and {} by {}", operands[1], operands[2], operands[0]))
        }
        (Op::Where, Some((a, b))) => refuse(format!("choosing between {a} and {b} by {}", operands[0])),
        (_, Some((a, b))) => refuse(format!("operands {a} and {b} have different element types")),
        (Op::Gather { .. } | Op::Scatter { .. } | Op::RoiAlign(_), None) => match operands.last() {
            Some(indices) if !matches!(indices.element, ElementType::I64 | ElementType::I32) => {
                refuse(format!("the indices are {indices}, expected i64 or i32 elements"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
