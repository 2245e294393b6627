//! What producers apply to each element after bias and residual.

/// What is applied to each element of an operator's result, after bias and residual.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, low), high)`; Relu6 is `Clip(0, 6)`.
    Clip(f32, f32),
    /// `x` if positive, else `alpha * x`.
    LeakyRelu(f32),
    /// `x * min(max(x / 6 + 0.5, 0), 1)` (ONNX HardSwish-14).
    HardSwish,
    /// `min(max(alpha * x + beta, 0), 1)` (ONNX HardSigmoid-6).
    HardSigmoid(f32, f32),
}

impl Activation {
    /// Applies it to one element. NaN stays NaN where ONNX says so: comparisons keep `x` unless it is past a bound.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Clip(low, high) => clip(x, low, high),
            Activation::LeakyRelu(alpha) => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            Activation::HardSwish => x * clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0),
            Activation::HardSigmoid(alpha, beta) => clip(alpha * x + beta, 0.0, 1.0),
        }
    }
}

#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let raised = if x < low { low } else { x };
    if raised > high { high } else { raised }
}
