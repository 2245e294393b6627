//! Functions of one, two or three elements.

use super::sum::{larger, smaller};
use super::{Activation, Walk, broadcast_strides};
use crate::elements::{CastTo, F16, Scalar, SeenAs, Truth};

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum UnaryOp {
    /// One of the activations that a producer's epilogue can also carry.
    Activation(Activation),
    Sigmoid,
    Tanh,
    Elu {
        alpha: f32,
    },
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Softplus,
    Erf,
    /// Exact (erf) or `tanh` approximation (ONNX Gelu-20).
    Gelu {
        tanh: bool,
    },
    Exp,
    Log,
    Sqrt,
    Neg,
    Abs,
    Reciprocal,
    Floor,
    Ceil,
    Round,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Sign,
    /// Of truth values.
    Not,
    /// `x * sigmoid(x)`, made by fusing Sigmoid and Mul; NaN at -inf, as that product is (its limit is 0).
    Silu,
    /// The nearest `f16`, as an `f32` ([`F16::from_f32`]): Cast there and back.
    Half,
    /// The nearest multiple of a step, from `low` to `high` steps, both whole: QuantizeLinear and DequantizeLinear.
    Steps {
        step: f32,
        low: f32,
        high: f32,
    },
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

impl UnaryOp {
    /// Applies it to a real number.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            UnaryOp::Activation(activation) => activation.apply(x),
            UnaryOp::Sigmoid => sigmoid(x),
            UnaryOp::Tanh => libm::tanhf(x),
            UnaryOp::Elu { alpha } => {
                if x < 0.0 {
                    alpha * libm::expm1f(x)
                } else {
                    x
                }
            }
            UnaryOp::Selu { alpha, gamma } => {
                if x > 0.0 {
                    gamma * x
                } else {
                    gamma * alpha * libm::expm1f(x)
                }
            }
            // log(1 + exp(x)), without overflow for large x.
            UnaryOp::Softplus => {
                if x > 0.0 {
                    x + libm::log1pf(libm::expf(-x))
                } else {
                    libm::log1pf(libm::expf(x))
                }
            }
            UnaryOp::Erf => libm::erff(x),
            UnaryOp::Gelu { tanh: false } => 0.5 * x * (1.0 + libm::erff(x * core::f32::consts::FRAC_1_SQRT_2)),
            UnaryOp::Gelu { tanh: true } => {
                // sqrt(2 / pi) * (x + 0.044715 x^3)
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanhf(inner))
            }
            UnaryOp::Exp => libm::expf(x),
            UnaryOp::Log => libm::logf(x),
            UnaryOp::Sqrt => libm::sqrtf(x),
            UnaryOp::Neg => -x,
            UnaryOp::Abs => libm::fabsf(x),
            UnaryOp::Reciprocal => 1.0 / x,
            UnaryOp::Floor => libm::floorf(x),
            UnaryOp::Ceil => libm::ceilf(x),
            // ONNX Round: halves to even.
            UnaryOp::Round => libm::rintf(x),
            UnaryOp::Silu => x * sigmoid(x),
            UnaryOp::Half => F16::from_f32(x).to_f32(),
            // Clipped first: what is left is small enough to be rounded on every machine alike.
            UnaryOp::Steps { step, low, high } => {
                libm::rintf(Activation::Clip(low, high).apply(x * (1.0 / step))) * step
            }
            UnaryOp::Sin => libm::sinf(x),
            UnaryOp::Cos => libm::cosf(x),
            UnaryOp::Tan => libm::tanf(x),
            UnaryOp::Asin => libm::asinf(x),
            UnaryOp::Acos => libm::acosf(x),
            UnaryOp::Atan => libm::atanf(x),
            UnaryOp::Sinh => libm::sinhf(x),
            UnaryOp::Cosh => libm::coshf(x),
            UnaryOp::Asinh => libm::asinhf(x),
            UnaryOp::Acosh => libm::acoshf(x),
            UnaryOp::Atanh => libm::atanhf(x),
            // 0 of either sign is 0; NaN stays.
            UnaryOp::Sign if x > 0.0 => 1.0,
            UnaryOp::Sign if x < 0.0 => -1.0,
            UnaryOp::Sign if x.is_nan() => x,
            UnaryOp::Sign => 0.0,
            // A function of truth values; the compiler does not ask for it.
            UnaryOp::Not => x,
        }
    }
}

/// A function of two elements; the operands broadcast as numpy does (ONNX multidirectional broadcasting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    /// C remainder for floats and ONNX Mod with fmod=0 for integers (sign of the divisor).
    Mod,
    /// The whole number nearest to a quotient, halves to the even one (ONNX QuantizeLinear but for the zero point).
    RoundedQuotient,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

impl BinaryOp {
    /// Whether the result says how the operands compare, see [`BinaryOp::holds`].
    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            BinaryOp::Equal | BinaryOp::Less | BinaryOp::LessOrEqual | BinaryOp::Greater | BinaryOp::GreaterOrEqual
        )
    }

    /// Whether a comparison holds; none does for what is not a number, and nothing that is not a comparison.
    #[inline]
    pub fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            BinaryOp::Equal => a == b,
            BinaryOp::Less => a < b,
            BinaryOp::LessOrEqual => a <= b,
            BinaryOp::Greater => a > b,
            BinaryOp::GreaterOrEqual => a >= b,
            _ => false,
        }
    }

    /// Applies arithmetic to two real numbers; what is not arithmetic gives `a`.
    #[inline]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Pow => libm::powf(a, b),
            // A NaN on either side is the answer, as in onnxruntime and numpy.
            BinaryOp::Min => smaller(a, b),
            BinaryOp::Max => larger(a, b),
            BinaryOp::Mod => libm::fmodf(a, b),
            BinaryOp::RoundedQuotient => libm::rintf(a / b),
            BinaryOp::Equal
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual
            | BinaryOp::And
            | BinaryOp::Or => a,
        }
    }
}

/// A function of every element.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Unary {
    /// The function.
    pub function: UnaryOp,
}

impl Unary {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Scalar>(&self, x: &[T], y: &mut [T]) {
        T::map_all(self.function, x, y);
    }
}

/// Arithmetic or logic with broadcasting, then an activation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Binary<'a> {
    /// Shape of the left operand.
    pub a_shape: &'a [usize],
    /// Shape of the right one.
    pub b_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// The function.
    pub function: BinaryOp,
    /// Applied last; only to real numbers.
    pub activation: Activation,
}

impl Binary<'_> {
    /// `y` from `a` and `b`.
    #[inline(always)]
    pub fn run<T: Scalar>(&self, a: &[T], b: &[T], y: &mut [T]) {
        let (function, activation) = (self.function, self.activation);
        let (a, b, y) = ((a, self.a_shape), (b, self.b_shape), (y, self.y_shape));
        match activation {
            Activation::None => broadcast(a, b, y, |a, b| T::combine(function, a, b)),
            _ => broadcast(a, b, y, |a, b| T::map(UnaryOp::Activation(activation), T::combine(function, a, b))),
        }
    }
}

/// A comparison with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Compare<'a> {
    /// Shape of the left operand.
    pub a_shape: &'a [usize],
    /// Shape of the right one.
    pub b_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// The comparison.
    pub function: BinaryOp,
}

impl Compare<'_> {
    /// `y` from `a` and `b`.
    #[inline(always)]
    pub fn run<T: Copy + PartialOrd, B: Truth>(&self, a: &[T], b: &[T], y: &mut [B]) {
        let function = self.function;
        let (a, b, y) = ((a, self.a_shape), (b, self.b_shape), (y, self.y_shape));
        broadcast(a, b, y, |a, b| B::of(function.holds(a, b)));
    }
}

/// Elements of another type (ONNX Cast), see [`CastTo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Cast;

impl Cast {
    /// `y` from `x`.
    pub fn run<T: CastTo<U>, U>(&self, x: &[T], y: &mut [U]) {
        for (out, element) in y.iter_mut().zip(x) {
            *out = element.cast();
        }
    }
}

/// The same bits as elements of another type (ONNX BitCast-26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BitCast;

impl BitCast {
    /// `y` from `x`.
    pub fn run<T: SeenAs<U>, U>(&self, x: &[T], y: &mut [U]) {
        for (out, element) in y.iter_mut().zip(x) {
            *out = element.seen();
        }
    }
}

/// `slope * x` where `x` is negative, else `x` (ONNX PRelu).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PRelu<'a> {
    /// Shape of the slopes, which broadcast to that of `x`.
    pub slope_shape: &'a [usize],
    /// Shape of `x` and of the result.
    pub y_shape: &'a [usize],
}

impl PRelu<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run(&self, x: &[f32], slope: &[f32], y: &mut [f32]) {
        p_relu(x, slope, y, self.slope_shape, self.y_shape);
    }
}

fn p_relu(x: &[f32], slope: &[f32], y: &mut [f32], slope_shape: &[usize], y_shape: &[usize]) {
    let mut walk = Walk::new(y_shape, [broadcast_strides(slope_shape, y_shape)]);
    for (out, element) in y.iter_mut().zip(x) {
        let slope = slope.get(walk.positions()[0]).copied().unwrap_or(0.0);
        *out = if *element < 0.0 { slope * element } else { *element };
        walk.step();
    }
}

/// Elements of `a` where a condition holds, else of `b` (ONNX Where); all broadcast to the shape of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Where<'a> {
    /// Shape of the condition.
    pub condition_shape: &'a [usize],
    /// Shape of the first choice.
    pub a_shape: &'a [usize],
    /// Shape of the second one.
    pub b_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
}

impl Where<'_> {
    /// `y` from `a` and `b`.
    #[inline(always)]
    pub fn run<B: Truth, T: Copy>(&self, condition: &[B], a: &[T], b: &[T], y: &mut [T]) {
        choose(condition, a, b, y, self.condition_shape, self.a_shape, self.b_shape, self.y_shape);
    }
}

#[expect(clippy::too_many_arguments, reason = "tensors and their shapes")]
fn choose<B: Truth, T: Copy>(
    condition: &[B],
    a: &[T],
    b: &[T],
    y: &mut [T],
    condition_shape: &[usize],
    a_shape: &[usize],
    b_shape: &[usize],
    y_shape: &[usize],
) {
    let views = [condition_shape, a_shape, b_shape].map(|shape| broadcast_strides(shape, y_shape));
    let mut walk = Walk::new(y_shape, views);
    for out in y {
        let [at, at_a, at_b] = *walk.positions();
        let chosen =
            if condition.get(at).is_some_and(|condition| condition.holds()) { a.get(at_a) } else { b.get(at_b) };
        if let Some(element) = chosen {
            *out = *element;
        }
        walk.step();
    }
}

/// Every element of `y` is `each` of what two operands, with their shapes, broadcast to it.
fn broadcast<T: Copy, Y>(a: (&[T], &[usize]), b: (&[T], &[usize]), y: (&mut [Y], &[usize]), each: impl Fn(T, T) -> Y) {
    let mut walk = Walk::new(y.1, [broadcast_strides(a.1, y.1), broadcast_strides(b.1, y.1)]);
    for out in y.0 {
        let [at_a, at_b] = *walk.positions();
        if let (Some(a), Some(b)) = (a.0.get(at_a), b.0.get(at_b)) {
            *out = each(*a, *b);
        }
        walk.step();
    }
}
