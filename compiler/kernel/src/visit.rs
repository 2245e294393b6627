//! Walks over kernels.

use super::{Affine, Buffer, Expression, LoopVar, Statement};

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
            Statement::Prefetch(buffer, at) => found(*buffer, at, false),
            Statement::Barrier | Statement::Comment(_) => {}
        }
    }
}

fn each_load(value: &Expression, found: &mut impl FnMut(Buffer, &Affine, bool)) {
    each_within(value, &mut |part| match part {
        Expression::Load(buffer, at)
        | Expression::LoadPartial(buffer, at, _)
        | Expression::LoadStrided(buffer, at, _)
        | Expression::LoadBytes(buffer, at)
        | Expression::BroadcastBytes(buffer, at)
        | Expression::Broadcast(buffer, at) => found(*buffer, at, false),
        _ => {}
    });
}

/// Every constant that statements compute with.
pub fn each_constant(statements: &[Statement], found: &mut impl FnMut(f32)) {
    each_expression(statements, &mut |part| match part {
        Expression::Constant(number) => found(*number),
        Expression::Whole(number) => found(f32::from_bits(*number as u32)),
        _ => {}
    });
}

/// Every expression inside every statement, operands before what is computed of them.
pub fn each_expression(statements: &[Statement], found: &mut impl FnMut(&Expression)) {
    for statement in statements {
        match statement {
            Statement::For { body, .. } => each_expression(body, found),
            Statement::Assign(_, value) | Statement::Store(_, _, value) | Statement::StorePartial(_, _, _, value) => {
                each_within(value, found);
            }
            Statement::Prefetch(..) | Statement::Barrier | Statement::Comment(_) => {}
        }
    }
}

/// Every expression inside a value, operands before what is computed of them.
pub fn each_within(value: &Expression, found: &mut impl FnMut(&Expression)) {
    match value {
        Expression::MulAdd(a, b, c) | Expression::DotBytes(_, a, b, c) | Expression::AddProducts(_, a, b, c) => {
            [a, b, c].into_iter().for_each(|operand| each_within(operand, found));
        }
        Expression::Binary(_, a, b) | Expression::Join(_, a, b) => {
            [a, b].into_iter().for_each(|operand| each_within(operand, found))
        }
        Expression::Unary(_, a) | Expression::SumLanes(a) | Expression::MaxLanes(a) => each_within(a, found),
        Expression::Variable(_)
        | Expression::Constant(_)
        | Expression::Whole(_)
        | Expression::Lane(..)
        | Expression::Load(..)
        | Expression::LoadPartial(..)
        | Expression::LoadStrided(..)
        | Expression::LoadBytes(..)
        | Expression::BroadcastBytes(..)
        | Expression::Broadcast(..) => {}
    }
    found(value);
}

/// Every expression inside every statement, operands before what is computed of them.
pub fn each_expression_mut(statements: &mut [Statement], change: &mut impl FnMut(&mut Expression)) {
    for statement in statements {
        match statement {
            Statement::For { body, .. } => each_expression_mut(body, change),
            Statement::Assign(_, value) | Statement::Store(_, _, value) | Statement::StorePartial(_, _, _, value) => {
                each_inside(value, change)
            }
            Statement::Prefetch(..) | Statement::Barrier | Statement::Comment(_) => {}
        }
    }
}

/// Every expression inside a value, operands before what is computed of them.
pub fn each_inside(value: &mut Expression, change: &mut impl FnMut(&mut Expression)) {
    match value {
        Expression::MulAdd(a, b, c) | Expression::DotBytes(_, a, b, c) | Expression::AddProducts(_, a, b, c) => {
            [a, b, c].into_iter().for_each(|operand| each_inside(operand, change));
        }
        Expression::Binary(_, a, b) | Expression::Join(_, a, b) => {
            [a, b].into_iter().for_each(|operand| each_inside(operand, change))
        }
        Expression::Unary(_, a) | Expression::SumLanes(a) | Expression::MaxLanes(a) => each_inside(a, change),
        Expression::Variable(_)
        | Expression::Constant(_)
        | Expression::Whole(_)
        | Expression::Lane(..)
        | Expression::Load(..)
        | Expression::LoadPartial(..)
        | Expression::LoadStrided(..)
        | Expression::LoadBytes(..)
        | Expression::BroadcastBytes(..)
        | Expression::Broadcast(..) => {}
    }
    change(value);
}

/// The same statements for a loop variable that is larger by a number; bounds of loops inside stay as they are.
pub fn shifted(statements: &[Statement], var: LoopVar, by: i64) -> Vec<Statement> {
    let mut statements = statements.to_vec();
    each_place_mut(&mut statements, &mut |at| {
        let coefficient = at.terms.iter().find(|(other, _)| *other == var).map_or(0, |(_, coefficient)| *coefficient);
        at.constant += coefficient * by;
    });
    statements
}

/// The same statements where a loop variable has a value; no bounds of loops inside may depend on it.
pub fn fixed(statements: &[Statement], var: LoopVar, value: i64) -> Vec<Statement> {
    let mut statements = shifted(statements, var, value);
    each_place_mut(&mut statements, &mut |at| at.terms.retain(|(other, _)| *other != var));
    statements
}

fn each_place_mut(statements: &mut [Statement], change: &mut impl FnMut(&mut Affine)) {
    for statement in statements {
        match statement {
            Statement::For { body, .. } => each_place_mut(body, change),
            Statement::Assign(_, value) => each_operand_mut(value, change),
            Statement::Store(_, at, value) | Statement::StorePartial(_, at, _, value) => {
                change(at);
                each_operand_mut(value, change);
            }
            Statement::Prefetch(_, at) => change(at),
            Statement::Barrier | Statement::Comment(_) => {}
        }
    }
}

fn each_operand_mut(value: &mut Expression, change: &mut impl FnMut(&mut Affine)) {
    each_inside(value, &mut |part| match part {
        Expression::Load(_, at)
        | Expression::LoadPartial(_, at, _)
        | Expression::LoadStrided(_, at, _)
        | Expression::LoadBytes(_, at)
        | Expression::BroadcastBytes(_, at)
        | Expression::Broadcast(_, at) => change(at),
        _ => {}
    });
}
