//! Walks over kernels.

use super::{Affine, Buffer, Expression, Statement};

/// Every place in memory that statements touch, and whether they write it.
pub fn each_access(statements: &[Statement], found: &mut impl FnMut(Buffer, &Affine, bool)) {
    for statement in statements {
        match statement {
            Statement::For { body, .. } => each_access(body, found),
            Statement::Assign(_, value) => each_load(value, found),
            Statement::Store(buffer, at, value) | Statement::StorePartial(buffer, at, _, value) => {
                found(*buffer, at, true);
                each_load(value, found);
            }
            Statement::Barrier | Statement::Comment(_) => {}
        }
    }
}

fn each_load(value: &Expression, found: &mut impl FnMut(Buffer, &Affine, bool)) {
    match value {
        Expression::Variable(_) | Expression::Constant(_) | Expression::Lane(..) => {}
        Expression::Load(buffer, at)
        | Expression::LoadPartial(buffer, at, _)
        | Expression::LoadStrided(buffer, at, _)
        | Expression::Broadcast(buffer, at) => found(*buffer, at, false),
        Expression::MulAdd(a, b, c) => [a, b, c].into_iter().for_each(|value| each_load(value, found)),
        Expression::Binary(_, a, b) => [a, b].into_iter().for_each(|value| each_load(value, found)),
        Expression::Unary(_, a) | Expression::SumLanes(a) | Expression::MaxLanes(a) => each_load(a, found),
    }
}
