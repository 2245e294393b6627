//! Shifts of whole numbers, as products and quotients with powers of two.

use super::Converter;
use crate::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op};
use partita_ir::graph::{Data, ElementType, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "BitShift" => bit_shift,
        _ => return None,
    })
}

/// ONNX BitShift-11, -28. What is shifted by more bits than there are, or by fewer than none, is lost: nothing is left but,
/// to the right, the sign.
fn bit_shift(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, by) = (context.input(0)?, context.input(1)?);
    let element = context.promised(x);
    if !element.is_integer() || context.promised(by) != element {
        let message = format!("operands {} and {}", context.tensor_type(x), context.tensor_type(by));
        return Err(context.refuse(message));
    }
    let left = match context.attributes.string("direction", "")?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(context.attributes.unknown_word("direction", other, &["LEFT", "RIGHT"])),
    };
    let bits = 8 * element.size_bytes();
    let is_signed = matches!(element, ElementType::I64 | ElementType::I32 | ElementType::I16 | ElementType::I8);
    // The quotient by the most negative power is the sign, too.
    let most = if is_signed && !left { bits - 1 } else { bits };
    let powers = Data::I64((0..most).map(|bit| 1i64.wrapping_shl(bit as u32)).collect()).cast(element);
    let powers = context.add_constant("powers", Value { shape: vec![most], data: powers })?;
    let (zero, limit) = (context.number(0.0, x)?, context.number(most as f64, x)?);
    let not_negative = context.binary(BinaryOp::GreaterOrEqual, by, zero)?;
    let below = context.binary(BinaryOp::Less, by, limit)?;
    let is_kept = context.binary(BinaryOp::And, not_negative, below)?;
    let place = context.value(Op::Where, &[is_kept, by, zero])?;
    let place = context.value(Op::Cast { to: ElementType::I64 }, &[place])?;
    let power = context.value(Op::Gather { axis: 0 }, &[powers, place])?;
    if left {
        let product = context.binary(BinaryOp::Mul, x, power)?;
        return context.emit(Op::Where, vec![is_kept, product, zero]);
    }
    let quotient = context.binary(BinaryOp::Div, x, power)?;
    if !is_signed {
        return context.emit(Op::Where, vec![is_kept, quotient, zero]);
    }
    // Quotients are cut off towards zero, shifts go down.
    let product = context.binary(BinaryOp::Mul, quotient, power)?;
    let is_cut = context.binary(BinaryOp::Less, x, product)?;
    let one = context.number(1.0, x)?;
    let lower = context.binary(BinaryOp::Sub, quotient, one)?;
    let shifted = context.value(Op::Where, &[is_cut, lower, quotient])?;
    let is_negative = context.binary(BinaryOp::Less, x, zero)?;
    let none = context.binary(BinaryOp::Sub, zero, one)?;
    let sign = context.value(Op::Where, &[is_negative, none, zero])?;
    context.emit(Op::Where, vec![is_kept, shifted, sign])
}
