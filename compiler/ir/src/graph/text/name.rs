//! Names of operators, as messages and reports show them.

use crate::graph::op::{BinaryOp, Op, PoolKind, ReduceKind, UnaryOp};

/// Name of an operator: ONNX's where there is one.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Conv(_) => "Conv",
        Op::ConvTranspose(_) => "ConvTranspose",
        Op::Gemm(_) => "Gemm",
        Op::MatMul => "MatMul",
        Op::Einsum(_) => "Einsum",
        Op::BatchNormalization { .. } => "BatchNormalization",
        Op::InstanceNormalization { .. } => "InstanceNormalization",
        Op::GroupNormalization { .. } => "GroupNormalization",
        Op::LayerNormalization { .. } => "LayerNormalization",
        Op::Lrn { .. } => "LRN",
        Op::Unary(function) => unary_name(*function),
        Op::Binary(function, _) => binary_name(*function),
        Op::PRelu => "PRelu",
        Op::Where => "Where",
        Op::Pool(pool) => match pool.kind {
            PoolKind::Max => "MaxPool",
            PoolKind::Average => "AveragePool",
        },
        Op::GlobalPool(PoolKind::Max) => "GlobalMaxPool",
        Op::GlobalPool(PoolKind::Average) => "GlobalAveragePool",
        Op::Softmax { .. } => "Softmax",
        Op::LogSoftmax { .. } => "LogSoftmax",
        Op::Reduce { kind, .. } => match kind {
            ReduceKind::Mean => "ReduceMean",
            ReduceKind::Sum => "ReduceSum",
            ReduceKind::Max => "ReduceMax",
            ReduceKind::Min => "ReduceMin",
            ReduceKind::L2 => "ReduceL2",
        },
        Op::ArgMax { .. } => "ArgMax",
        Op::Decide(_) => "Decide",
        Op::Concat { .. } => "Concat",
        Op::Split { .. } => "Split",
        Op::Slice { .. } => "Slice",
        Op::Reshape { .. } => "Reshape",
        Op::Transpose { .. } => "Transpose",
        Op::Pad { .. } => "Pad",
        Op::Gather { .. } => "Gather",
        Op::Expand { .. } => "Expand",
        Op::Identity => "Identity",
        Op::Cast { .. } => "Cast",
        Op::Resize { .. } => "Resize",
        Op::SpaceToDepth { .. } => "SpaceToDepth",
        Op::DepthToSpace { .. } => "DepthToSpace",
    }
}

fn unary_name(function: UnaryOp) -> &'static str {
    use crate::graph::op::Activation;
    match function {
        UnaryOp::Activation(activation) => match activation {
            Activation::None => "Identity",
            Activation::Relu => "Relu",
            Activation::Clip(..) => "Clip",
            Activation::LeakyRelu(_) => "LeakyRelu",
            Activation::HardSwish => "HardSwish",
            Activation::HardSigmoid(..) => "HardSigmoid",
        },
        UnaryOp::Sigmoid => "Sigmoid",
        UnaryOp::Tanh => "Tanh",
        UnaryOp::Elu { .. } => "Elu",
        UnaryOp::Selu { .. } => "Selu",
        UnaryOp::Softplus => "Softplus",
        UnaryOp::Erf => "Erf",
        UnaryOp::Gelu { .. } => "Gelu",
        UnaryOp::Exp => "Exp",
        UnaryOp::Log => "Log",
        UnaryOp::Sqrt => "Sqrt",
        UnaryOp::Neg => "Neg",
        UnaryOp::Abs => "Abs",
        UnaryOp::Reciprocal => "Reciprocal",
        UnaryOp::Floor => "Floor",
        UnaryOp::Ceil => "Ceil",
        UnaryOp::Round => "Round",
        UnaryOp::Sin => "Sin",
        UnaryOp::Cos => "Cos",
        UnaryOp::Tan => "Tan",
        UnaryOp::Asin => "Asin",
        UnaryOp::Acos => "Acos",
        UnaryOp::Atan => "Atan",
        UnaryOp::Sinh => "Sinh",
        UnaryOp::Cosh => "Cosh",
        UnaryOp::Asinh => "Asinh",
        UnaryOp::Acosh => "Acosh",
        UnaryOp::Atanh => "Atanh",
        UnaryOp::Sign => "Sign",
        UnaryOp::Not => "Not",
        UnaryOp::Silu => "Silu",
    }
}

fn binary_name(function: BinaryOp) -> &'static str {
    match function {
        BinaryOp::Add => "Add",
        BinaryOp::Sub => "Sub",
        BinaryOp::Mul => "Mul",
        BinaryOp::Div => "Div",
        BinaryOp::Pow => "Pow",
        BinaryOp::Min => "Min",
        BinaryOp::Max => "Max",
        BinaryOp::Mod => "Mod",
        BinaryOp::RoundedQuotient => "RoundedQuotient",
        BinaryOp::Equal => "Equal",
        BinaryOp::Less => "Less",
        BinaryOp::LessOrEqual => "LessOrEqual",
        BinaryOp::Greater => "Greater",
        BinaryOp::GreaterOrEqual => "GreaterOrEqual",
        BinaryOp::And => "And",
        BinaryOp::Or => "Or",
    }
}
