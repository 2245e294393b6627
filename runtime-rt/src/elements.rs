//! What kernels ask of elements of all types: functions, arithmetic, order.

mod types;

use core::cmp::Ordering;

pub use types::{Bf16, Bool, CastTo, F16, Plain, SeenAs, Truth};

use crate::kernels::{Activation, BinaryOp, ReduceKind, UnaryOp, reduce_in_blocks, reduce_in_order};

/// Elements that functions are applied to. Which functions an element type has is said in the compiler's `graph::elements`;
/// of others the result is the first operand.
pub trait Scalar: Copy + Default + PartialOrd {
    /// A function of one element.
    fn map(function: UnaryOp, x: Self) -> Self;

    /// A function of every element.
    #[inline]
    fn map_all(function: UnaryOp, x: &[Self], y: &mut [Self]) {
        for (out, element) in y.iter_mut().zip(x) {
            *out = Self::map(function, *element);
        }
    }

    /// Arithmetic or logic of two elements. Integers wrap around; a quotient or remainder by 0 is 0.
    fn combine(function: BinaryOp, a: Self, b: Self) -> Self;
}

/// Elements that can be added.
pub trait Number: Scalar {
    /// The sum of `count` elements divided by their number.
    fn mean(sum: Self, count: usize) -> Self;

    /// A reduction of such elements over the axes whose flag is set, see [`Reduce`](crate::kernels::Reduce).
    #[inline(always)]
    fn reduce(x: &[Self], y: &mut [Self], x_shape: &[usize], reduced: &[bool], kind: ReduceKind) {
        reduce_in_order(x, y, x_shape, reduced, kind);
    }
}

impl Scalar for f32 {
    #[inline]
    fn map(function: UnaryOp, x: f32) -> f32 {
        function.apply(x)
    }

    // Compiled with the run time, as what is not generic is, a firmware is smaller.
    fn map_all(function: UnaryOp, x: &[f32], y: &mut [f32]) {
        for (out, element) in y.iter_mut().zip(x) {
            *out = function.apply(*element);
        }
    }

    #[inline]
    fn combine(function: BinaryOp, a: f32, b: f32) -> f32 {
        function.apply(a, b)
    }
}

impl Number for f32 {
    #[inline]
    fn mean(sum: f32, count: usize) -> f32 {
        sum / count as f32
    }

    #[inline(always)]
    fn reduce(x: &[f32], y: &mut [f32], x_shape: &[usize], reduced: &[bool], kind: ReduceKind) {
        reduce_in_blocks(x, y, x_shape, reduced, kind);
    }
}

macro_rules! truths {
    ($($truth:ident)*) => {$(
        impl Scalar for $truth {
            #[inline]
            fn map(function: UnaryOp, x: $truth) -> $truth {
                $truth::of(x.holds() != matches!(function, UnaryOp::Not))
            }

            #[inline]
            fn combine(function: BinaryOp, a: $truth, b: $truth) -> $truth {
                $truth::of(match function {
                    BinaryOp::And => a.holds() && b.holds(),
                    BinaryOp::Or => a.holds() || b.holds(),
                    _ => a.holds(),
                })
            }
        }
    )*};
}

truths!(bool Bool);

macro_rules! narrow_numbers {
    ($($narrow:ident)*) => {$(
        impl PartialEq for $narrow {
            fn eq(&self, other: &$narrow) -> bool {
                self.to_f32() == other.to_f32()
            }
        }

        impl PartialOrd for $narrow {
            fn partial_cmp(&self, other: &$narrow) -> Option<Ordering> {
                self.to_f32().partial_cmp(&other.to_f32())
            }
        }

        impl Scalar for $narrow {
            #[inline]
            fn map(function: UnaryOp, x: $narrow) -> $narrow {
                $narrow::from_f32(function.apply(x.to_f32()))
            }

            #[inline]
            fn combine(function: BinaryOp, a: $narrow, b: $narrow) -> $narrow {
                $narrow::from_f32(function.apply(a.to_f32(), b.to_f32()))
            }
        }

        impl Number for $narrow {
            #[inline]
            fn mean(sum: $narrow, count: usize) -> $narrow {
                $narrow::from_f32(sum.to_f32() / count as f32)
            }
        }
    )*};
}

narrow_numbers!(F16 Bf16);

impl Scalar for f64 {
    #[inline]
    fn map(function: UnaryOp, x: f64) -> f64 {
        match function {
            UnaryOp::Neg => -x,
            UnaryOp::Abs => libm::fabs(x),
            UnaryOp::Floor => libm::floor(x),
            UnaryOp::Ceil => libm::ceil(x),
            UnaryOp::Round => libm::rint(x),
            UnaryOp::Sqrt => libm::sqrt(x),
            UnaryOp::Reciprocal => 1.0 / x,
            UnaryOp::Exp => libm::exp(x),
            UnaryOp::Log => libm::log(x),
            UnaryOp::Sign if x == 0.0 => 0.0,
            UnaryOp::Sign if !x.is_nan() => libm::copysign(1.0, x),
            UnaryOp::Sin => libm::sin(x),
            UnaryOp::Cos => libm::cos(x),
            UnaryOp::Tan => libm::tan(x),
            UnaryOp::Asin => libm::asin(x),
            UnaryOp::Acos => libm::acos(x),
            UnaryOp::Atan => libm::atan(x),
            UnaryOp::Sinh => libm::sinh(x),
            UnaryOp::Cosh => libm::cosh(x),
            UnaryOp::Asinh => libm::asinh(x),
            UnaryOp::Acosh => libm::acosh(x),
            UnaryOp::Atanh => libm::atanh(x),
            other => f64::from(other.apply(x as f32)),
        }
    }

    #[inline]
    fn combine(function: BinaryOp, a: f64, b: f64) -> f64 {
        match function {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Pow => libm::pow(a, b),
            BinaryOp::Min if a < b || a.is_nan() => a,
            BinaryOp::Max if a > b || a.is_nan() => a,
            BinaryOp::Min | BinaryOp::Max => b,
            BinaryOp::Mod => libm::fmod(a, b),
            BinaryOp::RoundedQuotient => libm::rint(a / b),
            _ => a,
        }
    }
}

impl Number for f64 {
    #[inline]
    fn mean(sum: f64, count: usize) -> f64 {
        sum / count as f64
    }
}

macro_rules! whole_numbers {
    ($($whole:ident)*) => {$(
        impl Scalar for $whole {
            #[inline]
            fn map(function: UnaryOp, x: $whole) -> $whole {
                match function {
                    UnaryOp::Neg => x.wrapping_neg(),
                    UnaryOp::Abs if x < 0 as $whole => x.wrapping_neg(),
                    UnaryOp::Sign if x < 0 as $whole => (1 as $whole).wrapping_neg(),
                    UnaryOp::Sign => <$whole>::from(x != 0),
                    UnaryOp::Activation(Activation::Relu) if x < 0 as $whole => 0,
                    _ => x,
                }
            }

            #[inline]
            fn combine(function: BinaryOp, a: $whole, b: $whole) -> $whole {
                match function {
                    BinaryOp::Add => a.wrapping_add(b),
                    BinaryOp::Sub => a.wrapping_sub(b),
                    BinaryOp::Mul => a.wrapping_mul(b),
                    BinaryOp::Div | BinaryOp::Mod | BinaryOp::RoundedQuotient if b == 0 => 0,
                    BinaryOp::Div | BinaryOp::RoundedQuotient => a.wrapping_div(b),
                    // ONNX Mod with fmod = 0: the divisor's sign.
                    BinaryOp::Mod => {
                        let rest = a.wrapping_rem(b);
                        if rest != 0 && (rest < 0 as $whole) != (b < 0 as $whole) { rest.wrapping_add(b) } else { rest }
                    }
                    // The truncated power: 0 for most negative exponents.
                    BinaryOp::Pow if b < 0 as $whole => match (a == 1, a.wrapping_neg() == 1) {
                        (true, _) => 1,
                        (_, true) if b & 1 == 1 => a,
                        (_, true) => 1,
                        _ => 0,
                    },
                    BinaryOp::Pow => {
                        let (mut base, mut left, mut power) = (a, b, 1 as $whole);
                        while left != 0 {
                            if left & 1 == 1 {
                                power = power.wrapping_mul(base);
                            }
                            base = base.wrapping_mul(base);
                            left >>= 1;
                        }
                        power
                    }
                    BinaryOp::Min => a.min(b),
                    BinaryOp::Max => a.max(b),
                    _ => a,
                }
            }
        }

        impl Number for $whole {
            #[inline]
            fn mean(sum: $whole, count: usize) -> $whole {
                match count as $whole {
                    0 => 0,
                    count => sum.wrapping_div(count),
                }
            }
        }
    )*};
}

whole_numbers!(i64 i32 i16 i8 u64 u32 u16 u8);

#[cfg(test)]
mod tests {
    use super::Scalar;
    use crate::kernels::BinaryOp;

    #[test]
    fn integers_wrap_and_never_trap() {
        use BinaryOp::{Add, Div, Mod, Pow};
        assert_eq!(i32::combine(Add, i32::MAX, 1), i32::MIN);
        assert_eq!(i64::combine(Div, i64::MIN, -1), i64::MIN);
        assert_eq!([i64::combine(Div, -7, 2), i64::combine(Mod, -7, 2), i64::combine(Mod, 7, -2)], [-3, 1, -1]);
        assert_eq!([i64::combine(Div, 5, 0), i64::combine(Mod, 5, 0), i64::combine(Mod, 6, -3)], [0, 0, 0]);
        assert_eq!([i64::combine(Pow, 3, 4), i64::combine(Pow, 2, -1), i64::combine(Pow, -1, -3)], [81, 0, -1]);
        assert_eq!([u8::combine(Pow, 2, 8), u8::combine(Add, 255, 1)], [0, 0]);
    }
}
