//! The innermost statements of a register tile, for machines that multiply by one lane of a vector: a vector of input
//! channels per pixel, times one vector of weights per lane and vector of output channels.

use super::build::{Builder, mul_add};
use crate::kernel::{Affine, Buffer, Expression, Statement, Variable};

/// A vector of weights, and what it is multiplied with.
pub(super) struct Factor {
    /// Lane of every pixel's vector.
    pub lane: usize,
    /// Vector of output channels: `acc_PIXEL_VECTOR` sums up the products.
    pub vector: usize,
    /// Where the weights lie.
    pub at: Affine,
}

/// `acc_p_v += x_p[lane] * weights` for all pixels and factors.
///
/// Weights are loaded two at a time: neighbours become one load of a pair. For a core that executes in order the
/// following two are loaded between the multiplications, so that none waits for its operand.
pub(super) fn by_lane(
    builder: &mut Builder,
    (data, pixels): (Buffer, &[(usize, Affine)]),
    (weights, factors): (Buffer, &[Factor]),
    in_order: bool,
) -> Vec<Statement> {
    let mut statements = Vec::new();
    let load = |builder: &mut Builder, name: String, from: Buffer, at: &Affine| {
        Statement::Assign(builder.variable(&name), Expression::Load(from, at.clone()))
    };
    for (pixel, at) in pixels {
        statements.push(load(builder, format!("x_{pixel}"), data, at));
    }
    let pairs: Vec<&[Factor]> = factors.chunks(2).collect();
    // Two pairs of variables, where one is loaded while the other is in use.
    let variable = |builder: &mut Builder, pair: usize, side: usize| -> Variable {
        let set = if in_order { pair % 2 } else { 0 };
        builder.variable(&format!("w_{}", 2 * set + side))
    };
    let load_pair = |builder: &mut Builder, pair: usize| -> Vec<Statement> {
        let sides = pairs[pair].iter().enumerate();
        sides
            .map(|(side, factor)| {
                Statement::Assign(variable(builder, pair, side), Expression::Load(weights, factor.at.clone()))
            })
            .collect()
    };
    for pair in 0..pairs.len() {
        let mut next = Vec::new();
        if !in_order || pair == 0 {
            statements.extend(load_pair(builder, pair));
        }
        if in_order && pair + 1 < pairs.len() {
            next = load_pair(builder, pair + 1);
            next.reverse();
        }
        for (side, factor) in pairs[pair].iter().enumerate() {
            let weight = variable(builder, pair, side);
            for (position, (pixel, _)) in pixels.iter().enumerate() {
                let element = builder.variable(&format!("x_{pixel}"));
                let sum = builder.variable(&format!("acc_{pixel}_{}", factor.vector));
                let element = Expression::Lane(element, factor.lane as u32);
                let product = mul_add(element, Expression::Variable(weight), Expression::Variable(sum));
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
