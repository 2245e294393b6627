//! The innermost statements of a register tile, for machines that multiply by one lane of a vector: sums of one pixel
//! and one vector of output channels each, `acc_PIXEL_VECTOR`.

use super::build::{Builder, mul_add};
use crate::{Affine, Buffer, Bytes, Expression, Statement, Variable};

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProductKind {
    /// `f32` by `f32`, added to `f32`.
    Numbers,
    /// Four bytes by four bytes, added to a whole number of 32 bits.
    Bytes,
}

impl ProductKind {
    pub(super) fn load(self, buffer: Buffer, at: Affine) -> Expression {
        match self {
            ProductKind::Numbers => Expression::Load(buffer, at),
            ProductKind::Bytes => Expression::LoadBytes(buffer, at),
        }
    }

    /// A vector of activations, or one of them in all lanes.
    pub(super) fn activations(self, buffer: Buffer, at: Affine, is_vector: bool) -> Expression {
        match (self, is_vector) {
            (ProductKind::Numbers, true) => Expression::Load(buffer, at),
            (ProductKind::Numbers, false) => Expression::Broadcast(buffer, at),
            (ProductKind::Bytes, true) => Expression::LoadBytes(buffer, at),
            (ProductKind::Bytes, false) => Expression::BroadcastBytes(buffer, at),
        }
    }

    fn add_product(self, element: Expression, weight: Expression, sum: Expression) -> Expression {
        match self {
            ProductKind::Numbers => mul_add(element, weight, sum),
            ProductKind::Bytes => {
                Expression::DotBytes(Bytes::Signed, Box::new(element), Box::new(weight), Box::new(sum))
            }
        }
    }
}

/// A vector of weights, and what it is multiplied with.
pub(super) struct Factor {
    /// Vector of output channels.
    pub vector: usize,
    /// Where the weights lie.
    pub at: Affine,
    /// Pixel, and the lane of a variable that it is multiplied by.
    pub elements: Vec<(usize, Variable, u32)>,
}

/// A vector of input channels per pixel; `rows[lane]` are the weights of an input channel, one vector after the other.
pub(super) fn by_lane(
    builder: &mut Builder,
    (data, pixels): (Buffer, &[(usize, Affine)]),
    (weights, rows, vectors): (Buffer, &[Affine], usize),
    lanes: usize,
    in_order: bool,
) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut loaded = Vec::with_capacity(pixels.len());
    for (pixel, at) in pixels {
        let element = builder.variable(&format!("x_{pixel}"));
        statements.push(Statement::Assign(element, Expression::Load(data, at.clone())));
        loaded.push((*pixel, element));
    }
    let factors = rows.iter().enumerate().flat_map(|(lane, row)| {
        let elements: Vec<_> = loaded.iter().map(|(pixel, element)| (*pixel, *element, lane as u32)).collect();
        (0..vectors).map(move |vector| Factor {
            vector,
            at: row.clone().plus((vector * lanes) as i64),
            elements: elements.clone(),
        })
    });
    let factors: Vec<Factor> = factors.collect();
    statements.extend(multiply(builder, (ProductKind::Numbers, weights), &factors, in_order));
    statements
}

/// `acc_p_v += element * weights` for all factors and their elements.
///
/// Weights are loaded two at a time: neighbours become one load of a pair. For a core that executes in order the
/// following two are loaded between the multiplications, so that none waits for its operand.
pub(super) fn multiply(
    builder: &mut Builder,
    (kind, weights): (ProductKind, Buffer),
    factors: &[Factor],
    in_order: bool,
) -> Vec<Statement> {
    let pairs: Vec<&[Factor]> = factors.chunks(2).collect();
    // Two pairs of variables, where one is loaded while the other is in use.
    let variable = |builder: &mut Builder, pair: usize, side: usize| -> Variable {
        let set = if in_order { pair % 2 } else { 0 };
        builder.variable(&format!("w_{}", 2 * set + side))
    };
    let load = |builder: &mut Builder, pair: usize| -> Vec<Statement> {
        let sides = pairs.get(pair).copied().unwrap_or_default().iter().enumerate();
        sides
            .map(|(side, factor)| {
                Statement::Assign(variable(builder, pair, side), kind.load(weights, factor.at.clone()))
            })
            .collect()
    };
    let mut statements = if in_order { load(builder, 0) } else { Vec::new() };
    for (pair, sides) in pairs.iter().enumerate() {
        let mut next = Vec::new();
        if in_order {
            next = load(builder, pair + 1);
            next.reverse();
        } else {
            statements.extend(load(builder, pair));
        }
        for (side, factor) in sides.iter().enumerate() {
            let weight = variable(builder, pair, side);
            for (position, (pixel, element, lane)) in factor.elements.iter().enumerate() {
                let sum = builder.variable(&format!("acc_{pixel}_{}", factor.vector));
                let element = Expression::Lane(*element, *lane);
                let product = kind.add_product(element, Expression::Variable(weight), Expression::Variable(sum));
                statements.push(Statement::Assign(sum, product));
                if position == 0 {
                    statements.extend(next.pop());
                }
            }
        }
        statements.extend(next.into_iter().rev());
    }
    statements
}
