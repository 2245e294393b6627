//! Functions of one, two or three elements.

use super::sum::{larger, smaller};
use super::{Activation, Walk, broadcast_strides};
use crate::elements::{CastTo, Number, Truth};

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum UnaryFunction {
    Activation(Activation),
    Sigmoid,
    Tanh,
    Elu { alpha: f32 },
    Selu { alpha: f32, gamma: f32 },
    Softplus,
    Erf,
    Gelu { tanh: bool },
    Exp,
    Log,
    Sqrt,
    Neg,
    Abs,
    Reciprocal,
    Floor,
    Ceil,
    Round,
    Silu,
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
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

impl UnaryFunction {
    /// Applies it to one element.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            UnaryFunction::Activation(activation) => activation.apply(x),
            UnaryFunction::Sigmoid => sigmoid(x),
            UnaryFunction::Tanh => libm::tanhf(x),
            UnaryFunction::Elu { alpha } => {
                if x < 0.0 {
                    alpha * libm::expm1f(x)
                } else {
                    x
                }
            }
            UnaryFunction::Selu { alpha, gamma } => {
                if x > 0.0 {
                    gamma * x
                } else {
                    gamma * alpha * libm::expm1f(x)
                }
            }
            // log(1 + exp(x)), without overflow for large x.
            UnaryFunction::Softplus => {
                if x > 0.0 {
                    x + libm::log1pf(libm::expf(-x))
                } else {
                    libm::log1pf(libm::expf(x))
                }
            }
            UnaryFunction::Erf => libm::erff(x),
            UnaryFunction::Gelu { tanh: false } => 0.5 * x * (1.0 + libm::erff(x * core::f32::consts::FRAC_1_SQRT_2)),
            UnaryFunction::Gelu { tanh: true } => {
                // sqrt(2 / pi) * (x + 0.044715 x^3)
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanhf(inner))
            }
            UnaryFunction::Exp => libm::expf(x),
            UnaryFunction::Log => libm::logf(x),
            UnaryFunction::Sqrt => libm::sqrtf(x),
            UnaryFunction::Neg => -x,
            UnaryFunction::Abs => libm::fabsf(x),
            UnaryFunction::Reciprocal => 1.0 / x,
            UnaryFunction::Floor => libm::floorf(x),
            UnaryFunction::Ceil => libm::ceilf(x),
            // ONNX Round: halves to even.
            UnaryFunction::Round => libm::rintf(x),
            UnaryFunction::Silu => x * sigmoid(x),
            UnaryFunction::Sin => libm::sinf(x),
            UnaryFunction::Cos => libm::cosf(x),
            UnaryFunction::Tan => libm::tanf(x),
            UnaryFunction::Asin => libm::asinf(x),
            UnaryFunction::Acos => libm::acosf(x),
            UnaryFunction::Atan => libm::atanf(x),
            UnaryFunction::Sinh => libm::sinhf(x),
            UnaryFunction::Cosh => libm::coshf(x),
            UnaryFunction::Asinh => libm::asinhf(x),
            UnaryFunction::Acosh => libm::acoshf(x),
            UnaryFunction::Atanh => libm::atanhf(x),
            // 0 of either sign is 0; NaN stays.
            UnaryFunction::Sign if x > 0.0 => 1.0,
            UnaryFunction::Sign if x < 0.0 => -1.0,
            UnaryFunction::Sign if x.is_nan() => x,
            UnaryFunction::Sign => 0.0,
        }
    }
}

/// Applies a function to every element.
pub fn unary(x: &[f32], y: &mut [f32], function: UnaryFunction) {
    for (out, element) in y.iter_mut().zip(x) {
        *out = function.apply(*element);
    }
}

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum BinaryFunction {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    Mod,
    /// The whole number nearest to a quotient, halves to the even one.
    RoundedQuotient,
}

impl BinaryFunction {
    /// Applies it to two elements.
    #[inline]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            BinaryFunction::Add => a + b,
            BinaryFunction::Sub => a - b,
            BinaryFunction::Mul => a * b,
            BinaryFunction::Div => a / b,
            BinaryFunction::Pow => libm::powf(a, b),
            // A NaN on either side is the answer, as in onnxruntime and numpy.
            BinaryFunction::Min => smaller(a, b),
            BinaryFunction::Max => larger(a, b),
            BinaryFunction::Mod => libm::fmodf(a, b),
            BinaryFunction::RoundedQuotient => libm::rintf(a / b),
        }
    }
}

/// Applies a function of two elements with broadcasting, then an activation.
#[allow(clippy::too_many_arguments, reason = "tensors and their shapes")]
pub fn binary(
    a: &[f32],
    a_shape: &[usize],
    b: &[f32],
    b_shape: &[usize],
    y: &mut [f32],
    y_shape: &[usize],
    function: BinaryFunction,
    activation: Activation,
) {
    let mut walk = Walk::new(y_shape, [broadcast_strides(a_shape, y_shape), broadcast_strides(b_shape, y_shape)]);
    for out in y {
        let [at_a, at_b] = *walk.positions();
        if let (Some(a), Some(b)) = (a.get(at_a), b.get(at_b)) {
            *out = activation.apply(function.apply(*a, *b));
        }
        walk.step();
    }
}

/// Calls `each` with every element of `y` and what two operands broadcast to it.
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

/// Applies a function to every element, whatever numbers they are.
pub fn map<T: Number>(x: &[T], y: &mut [T], function: UnaryFunction) {
    for (out, element) in y.iter_mut().zip(x) {
        *out = T::map(function, *element);
    }
}

/// Applies a function of two elements with broadcasting, whatever numbers they are.
pub fn combine<T: Number>(
    a: &[T],
    a_shape: &[usize],
    b: &[T],
    b_shape: &[usize],
    y: &mut [T],
    y_shape: &[usize],
    function: BinaryFunction,
) {
    broadcast((a, a_shape), (b, b_shape), (y, y_shape), |a, b| T::combine(function, a, b));
}

/// A comparison of two elements; none holds for what is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Compares elements with broadcasting.
pub fn compare<T: Copy + PartialOrd, B: Truth>(
    a: &[T],
    a_shape: &[usize],
    b: &[T],
    b_shape: &[usize],
    y: &mut [B],
    y_shape: &[usize],
    comparison: Comparison,
) {
    let test = |a: T, b: T| match comparison {
        Comparison::Equal => a == b,
        Comparison::Less => a < b,
        Comparison::LessOrEqual => a <= b,
        Comparison::Greater => a > b,
        Comparison::GreaterOrEqual => a >= b,
    };
    broadcast((a, a_shape), (b, b_shape), (y, y_shape), |a, b| B::of(test(a, b)));
}

/// A function of two truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the ONNX operator of the same name")]
pub enum Logic {
    And,
    Or,
}

/// Joins truth values with broadcasting.
pub fn logic<B: Truth>(
    a: &[B],
    a_shape: &[usize],
    b: &[B],
    b_shape: &[usize],
    y: &mut [B],
    y_shape: &[usize],
    function: Logic,
) {
    let join = |a: bool, b: bool| match function {
        Logic::And => a && b,
        Logic::Or => a || b,
    };
    broadcast((a, a_shape), (b, b_shape), (y, y_shape), |a, b| B::of(join(a.holds(), b.holds())));
}

/// ONNX Not.
pub fn not<B: Truth>(x: &[B], y: &mut [B]) {
    for (out, element) in y.iter_mut().zip(x) {
        *out = B::of(!element.holds());
    }
}

/// ONNX Cast, see [`CastTo`].
pub fn cast<T: CastTo<U>, U>(x: &[T], y: &mut [U]) {
    for (out, element) in y.iter_mut().zip(x) {
        *out = element.cast();
    }
}

/// ONNX PRelu: `slope` broadcasts to `x`, which has the shape of `y`.
pub fn p_relu(x: &[f32], slope: &[f32], slope_shape: &[usize], y: &mut [f32], y_shape: &[usize]) {
    let mut walk = Walk::new(y_shape, [broadcast_strides(slope_shape, y_shape)]);
    for (out, element) in y.iter_mut().zip(x) {
        let slope = slope.get(walk.positions()[0]).copied().unwrap_or(0.0);
        *out = if *element < 0.0 { slope * element } else { *element };
        walk.step();
    }
}

/// ONNX Where: elements of `a` where `condition` holds, else of `b`; all broadcast to `y_shape`.
#[allow(clippy::too_many_arguments, reason = "tensors and their shapes")]
pub fn select<B: Truth, T: Copy>(
    condition: &[B],
    condition_shape: &[usize],
    a: &[T],
    a_shape: &[usize],
    b: &[T],
    b_shape: &[usize],
    y: &mut [T],
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
