//! The closed set of operators: the ones we mean, not ONNX's.
//!
//! The importer turns every ONNX operator into these. What ONNX passes as extra constant inputs (shapes, axes, pads,
//! clip bounds) is an attribute here, already resolved against the input shapes: no negative axis, no `auto_pad`, no
//! `ceil_mode`, no -1 dimension. What ONNX spells in many ways is spelled once: Flatten, Squeeze and Unsqueeze are
//! `Reshape`; Sum, Min and Max of many are chains of `Binary`; Dropout and Identity are gone; a Constant is a tensor
//! with a value and no producer.
//!
//! Functions of elements, and what else is the same on a device, are the run time's. Spatial attributes have one entry
//! per spatial dimension (1 to 3), outermost first, for shapes `[N, C, spatial..]`.

use serde::{Deserialize, Serialize};

use super::types::ElementType;

pub use partita_rt::kernels::{
    Activation, BinaryOp, ExitRule, NearestRounding, PadMode, Patience, PoolKind, ReduceKind, ResizeCoordinates,
    ResizeMode, UnaryOp,
};

/// Window of a convolution or pooling.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Window {
    /// Extent in each spatial dimension, at least 1.
    pub kernel: Vec<usize>,
    /// Step in each spatial dimension, at least 1.
    pub stride: Vec<usize>,
    /// Distance between taps, at least 1.
    pub dilation: Vec<usize>,
    /// Zero elements before the first in each spatial dimension.
    pub pad_begin: Vec<usize>,
    /// Zero elements after the last, enlarged for `ceil_mode` so that the output shape follows from the window alone.
    pub pad_end: Vec<usize>,
}

/// Convolution (ONNX Conv-1, -11, -22).
///
/// Inputs: x `[N, C, spatial..]`, weights `[M, C/groups, kernel..]`, bias `[M]` (always there; zeros if the model has
/// none), and if `residual` a tensor of the output's shape that is added before the activation.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Conv {
    /// Window.
    pub window: Window,
    /// Number of groups; `groups == C` with one weight channel is depthwise.
    pub groups: usize,
    /// Whether a fourth input is added to the result.
    pub residual: bool,
    /// Applied last.
    pub activation: Activation,
}

/// Transposed convolution (ONNX ConvTranspose-1, -11).
///
/// Inputs: x `[N, C, spatial..]`, weights `[C, M/groups, kernel..]`, bias `[M]`. Pads are cropped from the full result;
/// output spatial size is the node's output shape (it already includes `output_padding`).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConvTranspose {
    /// Window.
    pub window: Window,
    /// Extra elements at the end of each spatial dimension (ONNX `output_padding`).
    pub output_padding: Vec<usize>,
    /// Number of groups.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

/// `activation(alpha * A' * B' + beta * C)` (ONNX Gemm-7..13). Inputs: A, B, and C if there is a third input
/// (it broadcasts to `[M, N]`).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Gemm {
    /// A is `[K, M]` instead of `[M, K]`.
    pub transpose_a: bool,
    /// B is `[N, K]` instead of `[K, N]`.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
    /// Applied last.
    pub activation: Activation,
}

/// Pooling (ONNX MaxPool, AveragePool). Input x `[N, C, spatial..]`.
///
/// Padded elements never win a maximum. An average divides by the taps inside the input, or, with
/// `count_include_pad`, by the taps inside the input or its declared pads (`declared_pad_end`, not those that
/// `ceil_mode` adds).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pool {
    /// Maximum or average.
    pub kind: PoolKind,
    /// Window; `pad_end` includes what `ceil_mode` needs.
    pub window: Window,
    /// Pads at the end as the model declared them.
    pub declared_pad_end: Vec<usize>,
    /// Whether declared pads count in an average.
    pub count_include_pad: bool,
}

/// Sum of products of the elements of one or two inputs (ONNX Einsum-12). Each axis has a label, a number: axes of one label
/// have one extent and share their index, and what the result lacks is summed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Einsum {
    /// Label of each axis, by input.
    pub terms: Vec<Vec<usize>>,
    /// Label of each axis of the result.
    pub result: Vec<usize>,
}

/// Boxes by falling scores, without those that overlap a better one of their class (ONNX NonMaxSuppression-10, -11). Inputs
/// boxes `[images, boxes, 4]`, scores `[images, classes, boxes]`; output `i64[rows, 3]`: image, class and box of each that
/// is kept, and -1 in rows behind the last.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NonMaxSuppression {
    /// Rows of the result; what is kept beyond is left out.
    pub rows: usize,
    /// Most boxes that a class of an image keeps.
    pub most: usize,
    /// Most that two boxes of a class may have in common, as a share of what either covers.
    pub overlap: f32,
    /// Boxes whose score is not larger are passed over.
    pub least: Option<f32>,
    /// A box is `[x, y, width, height]` around its centre, not `[y, x, y, x]` of two corners.
    pub centred: bool,
}

/// Regions of images as grids of bins (ONNX RoiAlign-10, -16, -22). Inputs x `[images, channels, height, width]`, regions
/// `[regions, 4]` as x and y of two corners, and the image of each, `[regions]` (i64/i32); output
/// `[regions, channels, bins..]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RoiAlign {
    /// What a bin is of its samples.
    pub kind: PoolKind,
    /// Rows and columns of bins.
    pub bins: [usize; 2],
    /// Factor of a region's coordinates.
    pub scale: f32,
    /// The centre of the first pixel is at 0, not at a half.
    pub half_pixel: bool,
    /// Samples of a bin along each axis; if 0, one for each pixel that it is high or wide.
    pub ratio: usize,
}

/// Many decision trees (ONNX ai.onnx.ml TreeEnsembleRegressor, -Classifier). Inputs x `[rows, features]` and the tables of
/// [`partita_rt::kernels::TreeEnsemble`]: nodes `i32[nodes, 4]`, thresholds `[nodes]`, roots `i32[trees]`, targets `i32[weights]`
/// and weights `[weights]`; output `[rows, targets]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TreeEnsemble {
    /// Numbers in a row of the result.
    pub targets: usize,
    /// Sum, Max or Min of what leaves say.
    pub kind: ReduceKind,
}

/// One operator with its attributes. Inputs and outputs are in the [`super::Node`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Op {
    /// See [`Conv`].
    Conv(Conv),
    /// See [`ConvTranspose`].
    ConvTranspose(ConvTranspose),
    /// See [`Gemm`].
    Gemm(Gemm),
    /// Batched matrix product (ONNX MatMul, numpy rules). Inputs A, B.
    MatMul,
    /// See [`Einsum`].
    Einsum(Einsum),
    /// Inference form (ONNX BatchNormalization). Inputs x, scale, bias, mean, variance, the last four `[C]`.
    BatchNormalization {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Inputs x, scale `[C]`, bias `[C]`; statistics per sample and channel.
    InstanceNormalization {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Inputs x, scale `[C]`, bias `[C]`; statistics per sample and group of channels (ONNX GroupNormalization-21).
    GroupNormalization {
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Inputs x, scale, bias (always there), both of shape `x.shape[axis..]`; statistics over `axis..`.
    LayerNormalization {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Local response normalisation across channels (ONNX LRN-1).
    Lrn {
        /// Scale.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Constant.
        bias: f32,
        /// Number of channels in the window.
        size: usize,
    },
    /// Element-wise function of one input.
    Unary(UnaryOp),
    /// Element-wise function of two inputs with broadcasting, then an activation (f32 only if not `None`).
    Binary(BinaryOp, Activation),
    /// Inputs x, slope (broadcasts to x).
    PRelu,
    /// Inputs condition (bool), a, b; all broadcast.
    Where,
    /// See [`Pool`].
    Pool(Pool),
    /// Reduces all spatial dimensions to 1.
    GlobalPool(PoolKind),
    /// Softmax along one axis (ONNX Softmax-13; older forms are imported as Reshape + this).
    Softmax {
        /// Axis.
        axis: usize,
    },
    /// Logarithm of softmax along one axis.
    LogSoftmax {
        /// Axis.
        axis: usize,
    },
    /// Reduction over sorted axes.
    Reduce {
        /// What is computed.
        kind: ReduceKind,
        /// Axes, ascending.
        axes: Vec<usize>,
        /// Whether reduced axes stay as 1.
        keep_dims: bool,
    },
    /// Index of the largest element along an axis, `i64`.
    ArgMax {
        /// Axis.
        axis: usize,
        /// Whether the axis stays as 1.
        keep_dims: bool,
        /// Take the last of equal elements.
        select_last: bool,
    },
    /// Inputs joined along an axis.
    Concat {
        /// Axis.
        axis: usize,
    },
    /// Input cut along an axis, one output per size.
    Split {
        /// Axis.
        axis: usize,
        /// Size of each output along the axis.
        sizes: Vec<usize>,
    },
    /// Every axis: `output[i] = input[start + i * step]`; output sizes are the output's shape.
    Slice {
        /// First index per axis.
        starts: Vec<usize>,
        /// Step per axis, not zero, may be negative.
        steps: Vec<isize>,
        /// Output size per axis.
        sizes: Vec<usize>,
    },
    /// Same elements, another shape.
    Reshape {
        /// New shape.
        shape: Vec<usize>,
    },
    /// `output.shape[i] = input.shape[permutation[i]]`
    Transpose {
        /// Axis of the input for each axis of the output.
        permutation: Vec<usize>,
    },
    /// Elements added (never removed) around the input.
    Pad {
        /// How new elements are filled.
        mode: PadMode,
        /// Per axis, before.
        begin: Vec<usize>,
        /// Per axis, after.
        end: Vec<usize>,
    },
    /// Inputs data, indices (i64/i32; negative counts from the end).
    Gather {
        /// Axis of data.
        axis: usize,
    },
    /// Inputs data `[rows, length]`, updates `[count, length]`, and where they go, `[count]` (i64/i32; negative counts from
    /// the end): rows replaced, or taken together with their updates one after the other.
    Scatter {
        /// What a row and an update become; the update if nothing.
        function: Option<BinaryOp>,
    },
    /// Broadcast to a shape.
    Expand {
        /// Output shape.
        shape: Vec<usize>,
    },
    /// Same value.
    Identity,
    /// Element type conversion (ONNX Cast; float to integer truncates).
    Cast {
        /// New element type.
        to: ElementType,
    },
    /// The same bits as elements of another type (ONNX BitCast-26): a real one and a whole one of the same size.
    BitCast {
        /// New element type.
        to: ElementType,
    },
    /// Interpolation to another spatial size; scales are per axis (1 for unchanged axes).
    Resize {
        /// Interpolation.
        mode: ResizeMode,
        /// Coordinate mapping.
        coordinates: ResizeCoordinates,
        /// Output size / input size as ONNX uses it for the mapping, per axis.
        scales: Vec<f32>,
        /// Output size per axis.
        sizes: Vec<usize>,
    },
    /// Spatial blocks to channels (ONNX SpaceToDepth-1).
    SpaceToDepth {
        /// Block edge.
        block: usize,
    },
    /// See [`NonMaxSuppression`].
    NonMaxSuppression(NonMaxSuppression),
    /// See [`RoiAlign`].
    RoiAlign(RoiAlign),
    /// See [`TreeEnsemble`].
    TreeEnsemble(TreeEnsemble),
    /// See [`Decide`]. The scores, and, if it is not the scores themselves, the answer of an inference that ends here.
    Decide(Decide),
    /// Channels to spatial blocks (ONNX DepthToSpace-11).
    DepthToSpace {
        /// Block edge.
        block: usize,
        /// `CRD` order instead of `DCR`.
        column_row_depth: bool,
    },
}

/// The decision of an exit. Input: scores `[1, classes]`; output `[2]`: 1 to leave or 0 to go on, and the confidence.
/// The scores are the answer if the inference ends here.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Decide {
    /// Number of the exit, from 0 in the order of the graph.
    pub exit: usize,
    /// What counts.
    pub rule: ExitRule,
    /// Whether scores become probabilities by softmax; they are probabilities already if not.
    pub logits: bool,
    /// What scores are divided by before the softmax.
    pub temperature: f32,
    /// Least confidence that ends the inference.
    pub threshold: f32,
    /// Share of all inferences that are expected to end here.
    pub share: f64,
    /// In a stream, what the answers before count; nothing if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
}

impl Decide {
    /// The kernel that decides; the threshold is not one of its parameters, since it can be moved while a program runs.
    pub fn call(&self) -> partita_rt::kernels::Decide {
        partita_rt::kernels::Decide {
            rule: self.rule,
            temperature: self.logits.then_some(self.temperature),
            patience: self.patience,
        }
    }
}

impl Window {
    /// One that is the same in every spatial dimension, but for its extent.
    pub fn uniform(kernel: &[usize], stride: usize, dilation: usize, pad: usize) -> Window {
        let each = |value: usize| vec![value; kernel.len()];
        Window {
            kernel: kernel.to_vec(),
            stride: each(stride),
            dilation: each(dilation),
            pad_begin: each(pad),
            pad_end: each(pad),
        }
    }

    /// Output extent in spatial dimension `index` for an input of `input` elements:
    /// `(input + pads - dilation * (kernel - 1) - 1) / stride + 1`. None if the window does not fit.
    pub fn output_extent(&self, index: usize, input: usize) -> Option<usize> {
        let reach = self.dilation[index].checked_mul(self.kernel[index] - 1)?.checked_add(1)?;
        let padded = input.checked_add(self.pad_begin[index])?.checked_add(self.pad_end[index])?;
        Some(padded.checked_sub(reach)? / self.stride[index] + 1)
    }
}
