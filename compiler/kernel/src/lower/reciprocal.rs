//! Requantization without division: a rounded quotient as a product with the reciprocal of the divisor, proven equal.
//!
//! `round(x / d)` between two whole bounds is a staircase. A product with the reciprocal in two parts, `fma(x, high, x * low)`,
//! is another, and both only climb: rounding, clipping, products with positive numbers and their sums are monotonic. So
//! they are equal for every `f32` if and only if each step of the one is where the other has it, of which the element before
//! the step and the first one on it are witnesses. The parts have 48 bits, so that nearly every divisor has them.

/// Most steps of a staircase: numbers of 8 bits, with room for what is added to them.
const MOST_STEPS: f32 = 1024.0;

/// What the lower part of an exact reciprocal is to the upper one: not 0, by which an infinite dividend would become NaN.
const NEXT_TO_NOTHING: f32 = 1.0 / (1u64 << 60) as f32;

/// Units in the last place by which the lower part is moved, if what is nearest to the reciprocal is not equal.
const MOVES: [i32; 9] = [0, 1, -1, 2, -2, 3, -3, 4, -4];

/// High and low part of the reciprocal of a divisor, by which `fma(x, high, x * low)`, rounded to whole numbers (halves to the
/// even one) and clipped to the bounds, is what `x / divisor` is, for every `x` that is a number. `None` if no parts are
/// proven to be such.
pub(super) fn reciprocal(divisor: f32, bounds: [f32; 2]) -> Option<[f32; 2]> {
    let [least, most] = bounds;
    let are_whole = bounds.iter().all(|bound| bound.fract() == 0.0 && bound.abs() <= 65536.0);
    if !are_whole || most < least || most - least > MOST_STEPS || !divisor.is_normal() || divisor < 0.0 {
        return None;
    }
    let exact = f64::from(divisor).recip();
    // Not above the reciprocal, so that the lower part is positive.
    let nearest = exact as f32;
    let high = if f64::from(nearest) > exact { nearest.next_down() } else { nearest };
    let low = ((exact - f64::from(high)) as f32).max(high * NEXT_TO_NOTHING);
    let candidates = MOVES.into_iter().map(|by| [high, f32::from_bits(low.to_bits().saturating_add_signed(by))]);
    candidates.into_iter().find(|parts| is_equal(divisor, bounds, *parts))
}

/// The product with a reciprocal in two parts, on machines that round once where they multiply and add.
fn product(x: f32, [high, low]: [f32; 2]) -> f32 {
    x.mul_add(high, x * low)
}

/// Whether quotient and product round to the same number between the bounds, for every dividend that is a number.
fn is_equal(divisor: f32, [least, most]: [f32; 2], parts: [f32; 2]) -> bool {
    if parts.iter().any(|part| !part.is_normal() || *part < 0.0) {
        return false;
    }
    (least as i32..most as i32).all(|step| {
        let reaches = |quotient: f32| quotient.round_ties_even() > step as f32;
        first_beyond(divisor, step)
            .is_some_and(|first| reaches(product(first, parts)) && !reaches(product(first.next_down(), parts)))
    })
}

/// The least dividend whose quotient is rounded to more than a whole number.
fn first_beyond(divisor: f32, step: i32) -> Option<f32> {
    let reaches = |x: f32| (x / divisor).round_ties_even() > step as f32;
    let mut first = ((f64::from(step) + 0.5) * f64::from(divisor)) as f32;
    // The nearest is one or two away; what is not even finite has none.
    while first.is_normal() && reaches(first) {
        first = first.next_down();
    }
    while first.is_normal() && !reaches(first) {
        first = first.next_up();
    }
    first.is_normal().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::values::noise;
    use partita_ir::graph::{TensorType, Value};

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let value: Value = noise(&TensorType::f32([count]), seed);
        value.as_f32().expect("noise is f32").to_vec()
    }

    fn by_division(x: f32, divisor: f32, [least, most]: [f32; 2]) -> f32 {
        (x / divisor).clamp(least, most).round_ties_even()
    }

    fn by_product(x: f32, parts: [f32; 2], [least, most]: [f32; 2]) -> f32 {
        product(x, parts).clamp(least, most).round_ties_even()
    }

    #[test]
    fn all_whole_sums_become_what_division_makes_of_them() {
        for (index, x) in random(60, 1).into_iter().enumerate() {
            let divisor = (x.abs() + 1e-3) * [1.0, 30.0, 700.0][index % 3];
            let bounds = [[-128.0, 127.0], [0.0, 255.0], [-211.0, 44.0]][index / 3 % 3];
            let parts = reciprocal(divisor, bounds).unwrap_or_else(|| panic!("{divisor} has a reciprocal"));
            // As far as results go, and half as far again.
            for sum in (-400.0 * divisor) as i32..(400.0 * divisor) as i32 + 2 {
                let x = sum as f32;
                assert_eq!(by_product(x, parts, bounds), by_division(x, divisor, bounds), "{x} by {divisor}");
            }
        }
    }

    #[test]
    fn real_numbers_next_to_every_step_do_as_well() {
        let bounds = [-128.0, 127.0];
        for x in random(400, 2) {
            let divisor = x.abs() * 0.7 + 1e-4;
            let parts = reciprocal(divisor, bounds).unwrap_or_else(|| panic!("{divisor} has a reciprocal"));
            for step in -140..140 {
                let mut near = ((f64::from(step) + 0.5) * f64::from(divisor)) as f32;
                (0..20).for_each(|_| near = near.next_down());
                for _ in 0..40 {
                    assert_eq!(
                        by_product(near, parts, bounds),
                        by_division(near, divisor, bounds),
                        "{near} by {divisor}"
                    );
                    near = near.next_up();
                }
            }
            for far in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE] {
                assert_eq!(by_product(far, parts, bounds), by_division(far, divisor, bounds), "{far} by {divisor}");
            }
        }
    }

    #[test]
    fn exact_reciprocals_keep_infinity() {
        for divisor in [0.25, 1.0, 2.0, 1024.0] {
            let parts = reciprocal(divisor, [0.0, 255.0]).expect("a power of two has a reciprocal");
            assert_eq!(by_product(f32::INFINITY, parts, [0.0, 255.0]), 255.0);
            assert_eq!(by_product(-f32::INFINITY, parts, [0.0, 255.0]), 0.0);
        }
    }

    /// A reciprocal of 24 bits is wrong somewhere for most divisors; the proof must see where.
    #[test]
    fn what_is_not_equal_is_found() {
        let bounds = [-128.0, 127.0];
        let mut refused = 0;
        for x in random(200, 3) {
            let divisor = x.abs() * 500.0 + 100.0;
            let short = [divisor.recip(), divisor.recip() * NEXT_TO_NOTHING];
            let is_proven = is_equal(divisor, bounds, short);
            let differs = (-128..128).any(|step| {
                let first = first_beyond(divisor, step).expect("quotients of this size have steps");
                [first, first.next_down()]
                    .iter()
                    .any(|x| by_product(*x, short, bounds) != by_division(*x, divisor, bounds))
            });
            assert_eq!(is_proven, !differs, "{divisor}");
            refused += usize::from(!is_proven);
        }
        assert!(refused > 100, "{refused} of 200 were refused");
        assert!(!is_equal(3.0, bounds, [0.34, 1e-9]), "another reciprocal");
        for (divisor, bounds) in
            [(0.0, bounds), (-2.0, bounds), (f32::NAN, bounds), (2.0, [0.5, 3.0]), (2.0, [0.0, 1e5])]
        {
            assert_eq!(reciprocal(divisor, bounds), None, "{divisor} between {bounds:?}");
        }
    }
}
