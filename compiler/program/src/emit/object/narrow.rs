//! Stores of whole numbers in bytes: several vectors that follow each other are one store.
//!
//! Numbers are rounded as they become whole ones (`fcvtns`), and clipped where they become bytes, which saturate; offsets are
//! taken away from numbers of 16 bits. All of it comes to what the kernel says: rounded numbers only climb, and what lies
//! beyond the bounds of a type lies beyond those of the kernel.

use partita_kernel::{Affine, Arithmetic, Buffer, Expression, Function, Statement};

/// Most vectors that are stored together: as many as fill one with bytes.
pub(super) const MOST_TOGETHER: usize = 4;

/// Largest offset, and bound, that numbers of 16 bits have room for.
const LARGEST: f32 = 16384.0;

/// What is done to the numbers of a vector before they are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Narrowing {
    /// They are to be rounded, halves to the even number.
    pub(super) rounds: bool,
    /// Between which bounds they are clipped.
    pub(super) bounds: Option<[f32; 2]>,
    /// What is taken away from them, then.
    pub(super) offset: f32,
}

/// How many statements store neighbouring vectors in one buffer.
pub(super) fn together(statements: &[Statement]) -> usize {
    let Some(Statement::Store(buffer, first, _)) = statements.first() else { return 1 };
    let is_next = |(index, statement): &(usize, &Statement)| match statement {
        Statement::Store(other, at, _) => {
            other == buffer && at.terms == first.terms && at.constant == first.constant + 4 * *index as i64
        }
        _ => false,
    };
    statements.iter().take(MOST_TOGETHER).enumerate().take_while(is_next).count()
}

/// A value taken apart: what is done last to it, and what that is done to.
pub(super) fn taken_apart(value: &Expression) -> (Narrowing, &Expression) {
    let is_small = |number: &f32| number.fract() == 0.0 && number.abs() <= LARGEST;
    let mut narrowing = Narrowing { rounds: false, bounds: None, offset: 0.0 };
    let mut rest = value;
    if let Expression::Binary(Arithmetic::Sub, number, offset) = rest
        && let Expression::Constant(offset) = **offset
        && is_small(&offset)
    {
        narrowing.offset = offset;
        rest = number;
    }
    if let Expression::Unary(Function::Round | Function::RoundSmall, number) = rest {
        narrowing.rounds = true;
        rest = number;
        if let Expression::Binary(Arithmetic::Min, high, raised) = rest
            && let Expression::Binary(Arithmetic::Max, low, number) = &**raised
            && let (Expression::Constant(low), Expression::Constant(high)) = (&**low, &**high)
            && is_small(low)
            && is_small(high)
        {
            narrowing.bounds = Some([*low, *high]);
            rest = number;
        }
    }
    (narrowing, rest)
}

/// Where as many neighbours as fill a vector with bytes are loaded from, if nothing else is done to them.
pub(super) fn loaded_together<'a>(values: &[&'a Expression]) -> Option<(Buffer, &'a Affine)> {
    let Some(Expression::Load(from, first)) = values.first() else { return None };
    let is_next = |(index, value): (usize, &&Expression)| match value {
        Expression::Load(other, at) => {
            other == from && at.terms == first.terms && at.constant == first.constant + 4 * index as i64
        }
        _ => false,
    };
    (values.len() == MOST_TOGETHER && values.iter().enumerate().all(is_next)).then_some((*from, first))
}
