//! A node as a kernel call: what goes in, and what comes out of its lowering.

use partita_ir::graph::op::{Conv, Pool};
use partita_ir::graph::{Stored, TensorType};

use super::winograd::Forms;
use crate::Kernel;
use crate::layout::Layout;

/// An input of a node, as the lowering sees it.
#[derive(Clone, Debug)]
pub struct Operand<'a> {
    /// Element type and logical shape.
    pub tensor_type: &'a TensorType,
    /// Layout; constants are plain.
    pub layout: Layout,
    /// The elements, if constant and f32.
    pub value: Option<&'a [f32]>,
    /// Whether they are whole numbers, or cut from such.
    pub whole: bool,
    /// How they are kept where the device has a choice, of activations.
    pub stored: Stored,
    /// How it is packed, of weights.
    pub packing: Packing,
}

/// In which order a convolution's kernel reads its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOrder {
    /// Vectors of output channels per tile.
    pub vectors: usize,
    /// Transformed for Winograd's algorithm in these forms.
    pub forms: Option<Forms>,
}

/// How a kernel's weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As suits the kernel.
    Free,
    /// Another kernel has packed them so, and this one reads the same.
    Shared(WeightOrder),
    /// This kernel packs them so, for the sake of another program of the device.
    Like(WeightOrder),
    /// As suits the kernel, but not transformed for Winograd's algorithm: that takes up to four times the bytes.
    Untransformed,
}

impl Packing {
    /// The order, if it is given.
    pub fn order(self) -> Option<WeightOrder> {
        match self {
            Packing::Free | Packing::Untransformed => None,
            Packing::Shared(order) | Packing::Like(order) => Some(order),
        }
    }
}

/// A choice of layouts for the activations of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutChoice {
    /// One per input; ignored for constants that the kernel packs.
    pub inputs: Vec<Layout>,
    /// Layout of the only output.
    pub output: Layout,
}

/// What a kernel parameter is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// Input number `i` of the node.
    Input(usize),
    /// Constants packed for this kernel.
    Weights {
        /// Input number of the node they were made from, for naming; elements in reading order.
        from: usize,
        /// Packed elements.
        elements: Vec<f32>,
    },
    /// Constants that are packed in the same way as for another kernel ([`Packing::Shared`]).
    SameWeights {
        /// Input number of the node they were made from.
        from: usize,
    },
    /// So many elements that nobody else needs, before or after.
    Scratch(usize),
    /// The node's output.
    Output,
}

/// What the parameters of a convolution's kernel are bound to, without scratch memory: the input, a residual, weights and
/// bias in the kernel's order. Weights that another kernel has packed are not packed again.
pub(super) fn convolution_bindings(
    conv: &Conv,
    packing: Packing,
    weights: impl FnOnce() -> Vec<f32>,
    bias: Vec<f32>,
) -> Vec<Binding> {
    let mut bindings = vec![Binding::Input(0)];
    bindings.extend(conv.residual.then_some(Binding::Input(3)));
    bindings.push(match packing {
        Packing::Shared(_) => Binding::SameWeights { from: 1 },
        Packing::Free | Packing::Like(_) | Packing::Untransformed => Binding::Weights { from: 1, elements: weights() },
    });
    bindings.push(Binding::Weights { from: 2, elements: bias });
    bindings
}

/// A node as a kernel call.
#[derive(Clone, Debug, PartialEq)]
pub struct LoweredNode {
    /// The kernel.
    pub kernel: Kernel,
    /// One per kernel buffer.
    pub bindings: Vec<Binding>,
    /// The order of the packed weights, if there are several for one node.
    pub order: Option<WeightOrder>,
}

/// The pooling of a convolution's result.
#[derive(Clone, Copy, Debug)]
pub struct Pooling<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// Type of its result.
    pub output: &'a TensorType,
}
