//! The same where bytes are not multiplied by fours: columns are widened to numbers of 16 bits, two of four channels in a
//! vector, and each is multiplied with every tap that meets it (`smlal`).

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::{FOUR, Factor, Products};
use crate::lower::build::Builder;
use crate::lower::window::Window3;
use crate::{Affine, Buffer, Expression, Factors, Function, Half, Statement, Variable};

/// Bytes of the packed weights of one tap: four numbers of 16 bits, twice, one for each half.
pub(super) const TAP_BYTES: usize = 16;

/// The products of pixels, whose taps in the input are given; the others meet padding, if that is not 0. Columns are counted
/// from the tile's first tap.
pub(super) fn products(inside: &[std::ops::Range<usize>], window: &Window3, zeros: i32) -> Products {
    let mut terms = Vec::new();
    for (pixel, inside) in inside.iter().enumerate() {
        for tap in 0..window.kernel[2] {
            if inside.contains(&tap) {
                terms.push((pixel, Factor::Columns((pixel * window.stride[2] + tap) as i64), tap));
            } else if zeros != 0 {
                terms.push((pixel, Factor::Padding, tap));
            }
        }
    }
    Products { terms }
}

/// Whether four columns can be loaded at once wherever some are, if loads may begin from one column up to another.
pub(super) fn reaches(products: &Products, begins: [i64; 2]) -> bool {
    columns(products)
        .is_none_or(|[first, last]| begins[0] <= begins[1] && first >= begins[0] && last < begins[1] + FOUR as i64)
}

/// The first and the last column that is met.
fn columns(products: &Products) -> Option<[i64; 2]> {
    let columns = || {
        products.terms.iter().filter_map(|(_, factor, _)| match factor {
            Factor::Columns(column) => Some(*column),
            Factor::Padding => None,
        })
    };
    Some([columns().min()?, columns().max()?])
}

/// `[block][depth][height][tap][twice][channel]`, numbers of 16 bits, each as two bytes.
pub(super) fn pack(weights: &[f32], window: &Window3, channels: usize) -> Vec<f32> {
    let taps = window.taps();
    let mut packed = Vec::new();
    for block in 0..channels.div_ceil(FOUR) {
        for tap in 0..taps {
            for lane in 0..2 * FOUR {
                let channel = block * FOUR + lane % FOUR;
                let weight = if channel < channels { weights[channel * taps + tap] } else { 0.0 };
                packed.extend([weight, if weight < 0.0 { -1.0 } else { 0.0 }]);
            }
        }
    }
    packed
}

/// The products of one row of taps; `input` and `packed` are where its first column and its first tap lie.
pub(super) fn row(
    builder: &mut Builder,
    products: &Products,
    [(x, input), (weights, packed)]: [(Buffer, &Affine); 2],
    begins: [i64; 2],
    zeros: i32,
) -> Vec<Statement> {
    let mut body = Vec::new();
    // Neighbours are loaded together.
    let used: BTreeSet<usize> = products.terms.iter().map(|(.., tap)| *tap).collect();
    for tap in used {
        let at = packed.clone().plus((tap * TAP_BYTES) as i64);
        builder.assign(&format!("w_{tap}"), Expression::LoadBytes(weights, at), &mut body);
    }
    let [first, last] = columns(products).unwrap_or([0, 0]);
    let begin = |column: i64| {
        let at = first + (column - first) / FOUR as i64 * FOUR as i64;
        at.min(last + 1 - FOUR as i64).clamp(begins[0], begins[1])
    };
    let mut terms: Vec<&(usize, Factor, usize)> = products.terms.iter().collect();
    terms.sort_by_key(|(pixel, factor, _)| match factor {
        Factor::Columns(column) => (*column, *pixel),
        Factor::Padding => (i64::MAX, *pixel),
    });
    let mut loaded: BTreeMap<i64, Variable> = BTreeMap::new();
    let mut widened: BTreeMap<(i64, bool), Variable> = BTreeMap::new();
    let mut padding = None;
    for (pixel, factor, tap) in terms {
        let (element, half) = match factor {
            Factor::Columns(column) => {
                let from = begin(*column);
                let place = column - from;
                let bytes = *loaded.entry(from).or_insert_with(|| {
                    let at = input.clone().plus(from * FOUR as i64);
                    builder.assign(&format!("x_{}", from - begins[0]), Expression::LoadBytes(x, at), &mut body)
                });
                let is_high = place >= 2;
                let widen = if is_high { Function::WidenHigh } else { Function::WidenLow };
                let element = *widened.entry((from, is_high)).or_insert_with(|| {
                    let name = format!("x_{}_{}", from - begins[0], if is_high { "high" } else { "low" });
                    builder.assign(&name, Expression::Unary(widen, Box::new(Expression::Variable(bytes))), &mut body)
                });
                (element, if place % 2 == 0 { Half::Low } else { Half::High })
            }
            Factor::Padding => {
                let element = *padding.get_or_insert_with(|| {
                    let bytes = Box::new(Expression::Whole(zeros));
                    builder.assign("x_padding", Expression::Unary(Function::WidenLow, bytes), &mut body)
                });
                (element, Half::Low)
            }
        };
        let [weight, sum] = [format!("w_{tap}"), format!("acc_{pixel}")].map(|name| builder.variable(&name));
        let [a, b, c] = [element, weight, sum].map(|part| Box::new(Expression::Variable(part)));
        body.push(Statement::Assign(sum, Expression::AddProducts(Factors::Words(half), a, b, c)));
    }
    body
}
