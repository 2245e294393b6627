//! Element types that operators take and give: one table for inference, the importer, evaluation and emitted calls.

use super::infer::InferError;
use super::op::{Activation, BinaryOp, Op, Pool, PoolKind, ReduceKind, ResizeMode, UnaryOp};
use super::types::{ElementType, TensorType};

/// Element types that an operator is defined on.
#[derive(Clone, Copy)]
enum Takes {
    F32,
    Any,
    NotBool,
    /// Real numbers, and whole ones of at least 32 bits.
    Wide,
    /// Those of another kind and of the same size.
    Bits(ElementType),
    OfOne(UnaryOp),
    OfTwo(BinaryOp),
}

/// Which operands hold what is computed with or moved, all of one type.
#[derive(Clone, Copy)]
enum Values {
    All,
    /// So many; the others are tables.
    First(usize),
    /// So many; the last says where.
    Indexed(usize),
    /// All but the first, which says by `bool` elements which of them is taken.
    Chosen,
}

/// What results are made of.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    /// Elements of the operands, all of them or those that the operator's parameters say.
    Moves,
    /// Elements of the first operand, by what they or indices are.
    Picks,
    /// Elements of any operand, fixed ones, or how operands compare.
    Chooses,
    /// New ones.
    Computes,
}

/// What an operator is to the elements of its operands.
struct Elements {
    takes: Takes,
    /// Element type of results; `None` for that of the values.
    result: Option<ElementType>,
    values: Values,
    effect: Effect,
}

/// The table: every operator once.
fn elements(op: &Op) -> Elements {
    let computed = Elements { takes: Takes::F32, result: None, values: Values::All, effect: Effect::Computes };
    let moved = Elements { takes: Takes::Any, result: None, values: Values::All, effect: Effect::Moves };
    let chosen_if = |is_chosen: bool| if is_chosen { Effect::Chooses } else { Effect::Computes };
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
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Pool(Pool { kind: PoolKind::Average, .. })
        | Op::GlobalPool(PoolKind::Average)
        | Op::Resize { mode: ResizeMode::Linear, .. } => computed,
        Op::Pool(Pool { kind: PoolKind::Max, .. }) | Op::GlobalPool(PoolKind::Max) => {
            Elements { effect: Effect::Picks, ..computed }
        }
        Op::Resize { mode: ResizeMode::Nearest(_), .. } => Elements { effect: Effect::Picks, ..moved },
        Op::NonMaxSuppression(_) => Elements { result: Some(ElementType::I64), ..computed },
        Op::RoiAlign(_) => Elements { values: Values::Indexed(2), ..computed },
        Op::TreeEnsemble(_) | Op::Decide(_) => Elements { values: Values::First(1), ..computed },
        Op::Unary(function) => {
            let effect = chosen_if(matches!(function, UnaryOp::Activation(Activation::Relu)));
            Elements { takes: Takes::OfOne(*function), effect, ..computed }
        }
        Op::Binary(function, activation) => {
            let is_plain = *activation == Activation::None;
            let is_extreme = matches!(function, BinaryOp::Min | BinaryOp::Max);
            Elements {
                takes: if is_plain { Takes::OfTwo(*function) } else { Takes::F32 },
                result: function.is_comparison().then_some(ElementType::Bool),
                values: Values::All,
                effect: chosen_if(is_plain && (function.is_comparison() || is_extreme)),
            }
        }
        Op::Reduce { kind, .. } => {
            // Means of few bits are none of ONNX's.
            let takes = match kind {
                ReduceKind::L2 => Takes::F32,
                ReduceKind::Mean => Takes::Wide,
                ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min => Takes::NotBool,
            };
            Elements { takes, effect: chosen_if(matches!(kind, ReduceKind::Max | ReduceKind::Min)), ..computed }
        }
        Op::ArgMax { .. } => {
            Elements { takes: Takes::NotBool, result: Some(ElementType::I64), effect: Effect::Chooses, ..moved }
        }
        Op::Where => Elements { values: Values::Chosen, effect: Effect::Chooses, ..moved },
        Op::Gather { .. } => Elements { values: Values::Indexed(1), effect: Effect::Picks, ..moved },
        Op::Scatter { function } => Elements {
            takes: function.map_or(Takes::Any, Takes::OfTwo),
            values: Values::Indexed(2),
            effect: chosen_if(matches!(function, None | Some(BinaryOp::Min | BinaryOp::Max))),
            ..moved
        },
        Op::Pad { .. } => Elements { effect: Effect::Chooses, ..moved },
        Op::Cast { to } => Elements { result: Some(*to), effect: Effect::Chooses, ..moved },
        Op::BitCast { to } => Elements { takes: Takes::Bits(*to), result: Some(*to), ..computed },
        Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => moved,
    }
}

/// Whether an operator is defined on elements of a type. Indices of Gather and the condition of Where do not count.
pub fn takes(op: &Op, element: ElementType) -> bool {
    match elements(op).takes {
        Takes::F32 => element == ElementType::F32,
        Takes::Any => true,
        Takes::NotBool => element != ElementType::Bool,
        Takes::Wide => element.is_float() || element.size_bytes() >= 4,
        // Whole numbers among each other are cast.
        Takes::Bits(to) => element.size_bytes() == to.size_bytes() && element.is_float() != to.is_float(),
        Takes::OfOne(function) => unary_takes(function, element),
        Takes::OfTwo(function) => binary_takes(function, element),
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
    let first = operands.get(values(op, operands.len()).start).or(operands.first());
    elements(op).result.or(first.copied()).unwrap_or(ElementType::F32)
}

/// The operands whose elements an operator computes with or moves, all of one type; the others choose among them.
pub fn values(op: &Op, operands: usize) -> std::ops::Range<usize> {
    match elements(op).values {
        Values::All => 0..operands,
        Values::First(count) | Values::Indexed(count) => 0..operands.min(count),
        Values::Chosen => 1.min(operands)..operands,
    }
}

/// Whether every element of the results is one of the operands', or tells how they compare: whole numbers that are
/// carried as real ones stay what they are.
pub fn only_chooses(op: &Op) -> bool {
    elements(op).effect != Effect::Computes
}

/// Whether results are elements of the operands, whatever these are: what is true of each operand's elements is true of
/// the results'.
pub fn only_moves(op: &Op) -> bool {
    elements(op).effect == Effect::Moves
}

/// Whether every element of the result is one of the first operand's.
pub fn only_picks(op: &Op) -> bool {
    elements(op).effect == Effect::Picks
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
    match (elements(op).values, other) {
        (Values::Chosen, _) if operands[0].element != ElementType::Bool => {
            refuse(format!("choosing between {} and {} by {}", operands[1], operands[2], operands[0]))
        }
        (Values::Chosen, Some((a, b))) => refuse(format!("choosing between {a} and {b} by {}", operands[0])),
        (_, Some((a, b))) => refuse(format!("operands {a} and {b} have different element types")),
        (Values::Indexed(_), None) => match operands.last() {
            Some(indices) if !matches!(indices.element, ElementType::I64 | ElementType::I32) => {
                refuse(format!("the indices are {indices}, expected i64 or i32 elements"))
            }
            _ => Ok(()),
        },
        (Values::All | Values::First(_) | Values::Chosen, None) => Ok(()),
    }
}
