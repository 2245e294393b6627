//! Functions of one, two or three elements.

use super::{Activation, Walk, broadcast_strides};

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
            // A NaN on either side is the answer, as in onnxruntime.
            BinaryFunction::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            BinaryFunction::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
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
pub fn select<T: Copy>(
    condition: &[bool],
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
        let chosen = if condition.get(at).copied().unwrap_or(false) { a.get(at_a) } else { b.get(at_b) };
        if let Some(element) = chosen {
            *out = *element;
        }
        walk.step();
    }
}
