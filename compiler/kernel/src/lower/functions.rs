//! Transcendental functions as vector arithmetic, for inference: a few units in the last place, no special cases but
//! those that matter (no overflow, NaN stays NaN). Coefficients are least-error fits made for this file; the tests
//! compare with `libm`.

use super::build::{Builder, binary, mul_add};
use crate::{Arithmetic, Expression, Function, Statement};
use partita_ir::graph::op::UnaryOp;

/// Writes functions into a body: what is used twice becomes a variable.
pub(super) struct Functions<'a> {
    pub builder: &'a mut Builder,
    pub statements: &'a mut Vec<Statement>,
}

/// `exp(r) = 1 + r + r^2 * polynomial`, for |r| up to ln 2 / 2.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_717, 0.001_381_461_2];

/// `erf(x) = x * numerator(x^2) / denominator(x^2)` for |x| up to 3.92, where it is 1 in `f32`.
const ERF: ([f32; 6], [f32; 6]) = (
    [std::f32::consts::FRAC_2_SQRT_PI, 0.190_405_18, 0.052_748_554, 0.003_765_561_2, 0.000_284_881_42, 2.050_097e-6],
    [1.0, 0.502_074_96, 0.114_108_58, 0.014_969_106, 0.001_162_521_8, 3.809_174_4e-5],
);
const ERF_END: f32 = 3.92;

/// The same for the hyperbolic tangent, up to 9.
const TANH: ([f32; 7], [f32; 4]) = (
    [1.0, 0.130_840_14, 0.003_103_959_6, 1.115_434_1e-5, -2.022_534_9e-8, 5.278_002_3e-11, -8.488_837e-14],
    [1.0, 0.464_173_4, 0.024_495_192, 0.000_254_615],
);
const TANH_END: f32 = 9.0;

/// Functions that have a form here.
pub(super) fn has(function: UnaryOp) -> bool {
    matches!(function, UnaryOp::Sigmoid | UnaryOp::Silu | UnaryOp::Tanh | UnaryOp::Erf | UnaryOp::Gelu { .. })
}

impl Functions<'_> {
    /// A value that is used several times.
    pub fn name(&mut self, name: &str, value: Expression) -> Expression {
        Expression::Variable(self.builder.assign(name, value, self.statements))
    }

    /// One of the functions that [`has`] names.
    pub fn apply(&mut self, function: UnaryOp, x: Expression) -> Option<Expression> {
        let x = self.name("argument", x);
        Some(match function {
            UnaryOp::Sigmoid => self.sigmoid(x),
            UnaryOp::Silu => {
                let gate = self.sigmoid(x.clone());
                binary(Arithmetic::Mul, x, gate)
            }
            UnaryOp::Tanh => self.tanh(x),
            UnaryOp::Erf => self.erf(x),
            UnaryOp::Gelu { tanh: false } => {
                let inner = binary(Arithmetic::Mul, x.clone(), constant(std::f32::consts::FRAC_1_SQRT_2));
                let erf = self.erf(inner);
                self.half_gate(x, erf)
            }
            UnaryOp::Gelu { tanh: true } => {
                let square = binary(Arithmetic::Mul, x.clone(), x.clone());
                // sqrt(2 / pi) * (x + 0.044715 x^3)
                let factor = mul_add(square, constant(0.035_677_408), constant(0.797_884_6));
                let tanh = self.tanh(binary(Arithmetic::Mul, x.clone(), factor));
                self.half_gate(x, tanh)
            }
            _ => return None,
        })
    }

    /// `x * (1 + gate) / 2`
    fn half_gate(&mut self, x: Expression, gate: Expression) -> Expression {
        let half = self.name("half", binary(Arithmetic::Mul, x, constant(0.5)));
        mul_add(half.clone(), gate, half)
    }

    /// `2^n * exp(r)` with `x = n ln 2 + r`. At least 2^-126 and at most the largest power: what is smaller or larger is
    /// cut off.
    pub fn exp(&mut self, x: Expression) -> Expression {
        self.exp_up_to(x, 88.37)
    }

    /// The same, cut off at `end`; from 88.38 on the power is infinite.
    fn exp_up_to(&mut self, x: Expression, end: f32) -> Expression {
        // Operands in this order keep a NaN.
        let raised = binary(Arithmetic::Max, constant(-87.33), x);
        let x = self.name("clipped", binary(Arithmetic::Min, constant(end), raised));
        let scaled = binary(Arithmetic::Mul, x.clone(), constant(std::f32::consts::LOG2_E));
        let power = self.name("power", Expression::Unary(Function::RoundSmall, Box::new(scaled)));
        // ln 2 in two parts, the first of few digits, so that the difference is exact.
        let near = mul_add(power.clone(), constant(-355.0 / 512.0), x);
        let rest = self.name("rest", mul_add(power.clone(), constant(2.121_944_4e-4), near));
        let polynomial = self.polynomial("polynomial", &EXP, &rest);
        let square = binary(Arithmetic::Mul, rest.clone(), rest.clone());
        let sum = mul_add(square, polynomial, binary(Arithmetic::Add, rest, constant(1.0)));
        binary(Arithmetic::Mul, sum, Expression::Unary(Function::PowerOfTwo, Box::new(power)))
    }

    fn sigmoid(&mut self, x: Expression) -> Expression {
        // 0 far below, so that `x * sigmoid(x)` is no infinity there: NaN at -inf, as the product that models spell out.
        let exp = self.exp_up_to(Expression::Unary(Function::Neg, Box::new(x)), 89.0);
        binary(Arithmetic::Div, constant(1.0), binary(Arithmetic::Add, exp, constant(1.0)))
    }

    fn erf(&mut self, x: Expression) -> Expression {
        self.odd(x, &ERF.0, &ERF.1, ERF_END)
    }

    fn tanh(&mut self, x: Expression) -> Expression {
        self.odd(x, &TANH.0, &TANH.1, TANH_END)
    }

    /// `x * numerator(x^2) / denominator(x^2)`, clipped to where it holds.
    fn odd(&mut self, x: Expression, numerator: &[f32], denominator: &[f32], end: f32) -> Expression {
        let raised = binary(Arithmetic::Max, constant(-end), x);
        let x = self.name("clipped", binary(Arithmetic::Min, constant(end), raised));
        let square = self.name("square", binary(Arithmetic::Mul, x.clone(), x.clone()));
        let above = self.polynomial("numerator", numerator, &square);
        let below = self.polynomial("denominator", denominator, &square);
        binary(Arithmetic::Div, binary(Arithmetic::Mul, x, above), below)
    }

    /// Horner's rule; coefficients from the constant on.
    fn polynomial(&mut self, name: &str, coefficients: &[f32], x: &Expression) -> Expression {
        let mut sum = constant(coefficients.last().copied().unwrap_or(0.0));
        for coefficient in coefficients.iter().rev().skip(1) {
            sum = self.name(name, mul_add(sum, x.clone(), constant(*coefficient)));
        }
        sum
    }
}

fn constant(value: f32) -> Expression {
    Expression::Constant(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::{Access, Affine};

    fn computed(function: UnaryOp, x: f32) -> f32 {
        let mut builder = Builder::new(4);
        let from = builder.buffer("x", Access::Input, 4);
        let to = builder.buffer("y", Access::Output, 4);
        let mut body = Vec::new();
        let value = Expression::Load(from, Affine::constant(0));
        let value =
            Functions { builder: &mut builder, statements: &mut body }.apply(function, value).expect("it has a form");
        body.push(Statement::Store(to, Affine::constant(0), value));
        let kernel = builder.finish("function".to_string(), String::new(), body, 0);
        let mut buffers = vec![vec![x; 4], vec![0.0; 4]];
        evaluate(&kernel, &mut buffers);
        buffers[1][0]
    }

    #[test]
    fn functions_are_as_exact_as_they_say() {
        let cases = [
            (UnaryOp::Sigmoid, 30.0),
            (UnaryOp::Silu, 30.0),
            (UnaryOp::Tanh, 12.0),
            (UnaryOp::Erf, 6.0),
            (UnaryOp::Gelu { tanh: false }, 8.0),
            (UnaryOp::Gelu { tanh: true }, 8.0),
        ];
        for (op, end) in cases {
            for step in -2000..=2000 {
                let x = step as f32 / 2000.0 * end;
                let (found, expected) = (computed(op, x), op.apply(x));
                // Gelu is a small difference of large numbers on the far left.
                let allowed = 1e-6 * expected.abs().max(if x < -2.0 { 1.0 } else { x.abs().min(1.0) });
                assert!((found - expected).abs() <= allowed, "{op:?} of {x} is {found}, expected {expected}");
            }
            assert!(computed(op, f32::NAN).is_nan(), "{op:?} of NaN");
        }
        assert_eq!(computed(UnaryOp::Sigmoid, f32::INFINITY), 1.0);
        assert_eq!(computed(UnaryOp::Sigmoid, f32::NEG_INFINITY), 0.0);
        assert!(computed(UnaryOp::Silu, f32::NEG_INFINITY).is_nan());
        assert_eq!(computed(UnaryOp::Silu, f32::INFINITY), f32::INFINITY);
        assert!(computed(UnaryOp::Silu, -1000.0).abs() < 1e-35);
        assert_eq!((computed(UnaryOp::Erf, 9.0), computed(UnaryOp::Erf, f32::NEG_INFINITY)), (1.0, -1.0));
    }
}
