//! Addresses and ends of loops: affine in the loop variables.

use crate::LoopVar;

/// `constant + sum of coefficient * loop variable`, terms sorted by variable, no zero coefficients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Affine {
    /// The part that no variable changes.
    pub constant: i64,
    /// Coefficient of each variable.
    pub terms: Vec<(LoopVar, i64)>,
}

impl Affine {
    /// A constant.
    pub fn constant(constant: i64) -> Affine {
        Affine { constant, terms: Vec::new() }
    }

    /// `coefficient * var`
    pub fn term(var: LoopVar, coefficient: i64) -> Affine {
        Affine::constant(0).plus_term(var, coefficient)
    }

    /// `self + coefficient * var`
    pub fn plus_term(mut self, var: LoopVar, coefficient: i64) -> Affine {
        match self.terms.binary_search_by_key(&var, |(other, _)| *other) {
            Ok(position) => {
                self.terms[position].1 += coefficient;
                if self.terms[position].1 == 0 {
                    self.terms.remove(position);
                }
            }
            Err(position) if coefficient != 0 => self.terms.insert(position, (var, coefficient)),
            Err(_) => {}
        }
        self
    }

    /// `self + coefficient * other`
    pub fn plus_affine(mut self, other: &Affine, coefficient: i64) -> Affine {
        self.constant += coefficient * other.constant;
        other.terms.iter().fold(self, |sum, (var, inner)| sum.plus_term(*var, coefficient * inner))
    }

    /// `self + constant`
    pub fn plus(mut self, constant: i64) -> Affine {
        self.constant += constant;
        self
    }

    /// What it comes to; `loops` are the values of all loop variables.
    pub fn value(&self, loops: &[i64]) -> i64 {
        self.constant + self.terms.iter().map(|(var, coefficient)| coefficient * loops[var.0 as usize]).sum::<i64>()
    }
}

/// End of a loop range. Rounding of a quotient is towards plus infinity (`Low`) so that `max(0, ceil(a / d))` and
/// `min(n, ceil(a / d))` both describe half-open ranges of taps that stay inside an input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A known number.
    Constant(i64),
    /// `max(low, ceil(affine / divisor))`: begin of a clipped range.
    Max(i64, Affine, i64),
    /// `min(high, ceil(affine / divisor))`: end of a clipped range.
    Min(i64, Affine, i64),
}

impl Bound {
    /// What it comes to; `loops` are the values of all loop variables.
    pub fn value(&self, loops: &[i64]) -> i64 {
        match self {
            Bound::Constant(value) => *value,
            Bound::Max(low, affine, divisor) => ceil_quotient(affine.value(loops), *divisor).max(*low),
            Bound::Min(high, affine, divisor) => ceil_quotient(affine.value(loops), *divisor).min(*high),
        }
    }
}

/// `ceil(value / divisor)` for a positive divisor.
pub fn ceil_quotient(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

/// How often a loop from `low` to `high` (exclusive) runs.
pub fn turns(low: i64, high: i64, step: i64) -> usize {
    usize::try_from(ceil_quotient(high - low, step)).unwrap_or(0)
}
