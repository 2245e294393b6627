//! Bits of whole numbers: shifts as products and quotients with powers of two, the rest by tables of four bits.

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "BitShift" => bit_shift,
        "BitwiseNot" => bitwise_not,
        "BitwiseAnd" => |context| bitwise(context, |_, _, both| Ok(both)),
        // Each is the sum less what both have, once or twice.
        "BitwiseOr" => |context| bitwise(context, |context, sum, both| context.binary(BinaryOp::Sub, sum, both)),
        "BitwiseXor" => |context| {
            bitwise(context, |context, sum, both| {
                let rest = context.binary(BinaryOp::Sub, sum, both)?;
                context.binary(BinaryOp::Sub, rest, both)
            })
        },
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
    let is_signed = is_signed(element);
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

fn is_signed(element: ElementType) -> bool {
    matches!(element, ElementType::I64 | ElementType::I32 | ElementType::I16 | ElementType::I8)
}

/// All bits of the other kind: `-1 - x`, or the largest number less `x`.
fn bitwise_not(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let element = context.promised(x);
    if !element.is_integer() {
        return Err(context.refuse(format!("its operand is {}", context.tensor_type(x))));
    }
    let ones = Data::I64(vec![-1]).cast(element);
    let ones = context.add_constant("ones", Value { shape: Vec::new(), data: ones })?;
    context.emit(Op::Binary(BinaryOp::Sub, Activation::None), vec![ones, x])
}

/// What follows from the sum of two operands and the bits that both have; all arithmetic wraps.
fn bitwise(
    context: &mut NodeContext<'_>,
    finish: impl Fn(&mut NodeContext<'_>, TensorId, TensorId) -> Result<TensorId, Diagnostic>,
) -> Result<(), Diagnostic> {
    let (a, b) = (context.input(0)?, context.input(1)?);
    let element = context.promised(a);
    if !element.is_integer() || context.promised(b) != element {
        let message = format!("operands {} and {}", context.tensor_type(a), context.tensor_type(b));
        return Err(context.refuse(message));
    }
    let table = Data::I64((0..256).map(|index| (index >> 4) & (index & 15)).collect()).cast(element);
    let table = context.add_constant("table", Value { shape: vec![256], data: table })?;
    let sixteen = context.add_constant("sixteen", Value::i64(Vec::new(), vec![16]))?;
    let mut both: Option<TensorId> = None;
    for place in (0..8 * element.size_bytes()).step_by(4) {
        let unit = Data::I64(vec![1i64 << place]).cast(element);
        let unit = context.add_constant("unit", Value { shape: Vec::new(), data: unit })?;
        let mut digits = Vec::with_capacity(2);
        for operand in [a, b] {
            // Rounded down, not towards zero: what is below the digit is taken away before.
            let below = context.binary(BinaryOp::Mod, operand, unit)?;
            let rest = context.binary(BinaryOp::Sub, operand, below)?;
            let rest = context.binary(BinaryOp::Div, rest, unit)?;
            let radix = context.number(16.0, operand)?;
            let digit = context.binary(BinaryOp::Mod, rest, radix)?;
            digits.push(context.value(Op::Cast { to: ElementType::I64 }, &[digit])?);
        }
        let index = context.binary(BinaryOp::Mul, digits[0], sixteen)?;
        let index = context.binary(BinaryOp::Add, index, digits[1])?;
        let digit = context.value(Op::Gather { axis: 0 }, &[table, index])?;
        let digit = context.binary(BinaryOp::Mul, digit, unit)?;
        both = Some(match both {
            Some(both) => context.binary(BinaryOp::Add, both, digit)?,
            None => digit,
        });
    }
    let Some(both) = both else { return Err(context.refuse("it has no bits")) };
    let sum = context.binary(BinaryOp::Add, a, b)?;
    let result = finish(context, sum, both)?;
    context.emit(Op::Identity, vec![result])
}
