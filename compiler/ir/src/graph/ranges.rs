//! Whole numbers through a graph: which tensors hold nothing else and between which bounds, and how large the sums of a
//! quantized model may become.
//!
//! Sums of whole numbers are exact in `f32`, in whatever order they are added, as long as no sum on the way is larger than
//! 2^24. Whether they can be follows from the weights and from the ranges of what is multiplied with them. How tensors are
//! stored (`stored`) follows from the same ranges.
//!
//! A range holds of numbers: what is made of an input that is NaN or infinite may be NaN where a range says otherwise.

use std::collections::HashMap;

use partita_rt::CastTo;

use super::op::{Activation, BinaryOp, Op, PadMode, PoolKind, ReduceKind, ResizeMode, UnaryOp};
use super::types::{ElementType, Value, are_whole, on_elements};
use super::{Graph, Node, NodeId, TensorId};

/// Up to here every whole number is an `f32`.
pub const EXACT_UP_TO: f64 = (1u32 << 24) as f64;

/// A node whose sums of whole numbers may be rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InexactSum {
    /// The node.
    pub node: NodeId,
    /// The largest sum that weights and ranges allow.
    pub largest: f64,
}

/// Where a tensor's elements lie, all of them whole numbers; both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest that there may be.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// A range, or nothing is known.
type Known = Option<Range>;

impl Range {
    /// From both ends.
    pub fn new(low: f64, high: f64) -> Range {
        Range { low, high }
    }

    fn joined(self, other: Range) -> Range {
        Range::new(self.low.min(other.low), self.high.max(other.high))
    }

    /// With zeros among the elements.
    fn with_zero(self) -> Range {
        self.joined(Range::new(0.0, 0.0))
    }

    fn times(self, other: Range) -> Range {
        let products = [self.low * other.low, self.low * other.high, self.high * other.low, self.high * other.high];
        let fold = |join: fn(f64, f64) -> f64, start| products.into_iter().fold(start, join);
        Range::new(fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }

    /// Sums of up to `count` such numbers.
    fn summed(self, count: f64) -> Range {
        Range::new(self.low.min(0.0) * count, self.high.max(0.0) * count)
    }

    fn plus(self, other: Range) -> Range {
        Range::new(self.low + other.low, self.high + other.high)
    }

    fn clipped(self, low: f64, high: f64) -> Range {
        Range::new(self.low.clamp(low, high), self.high.clamp(low, high))
    }

    fn largest(self) -> f64 {
        self.high.max(-self.low)
    }
}

/// Every node whose sums of whole numbers can exceed [`EXACT_UP_TO`], in the order of computation.
pub fn inexact_sums(graph: &Graph) -> Vec<InexactSum> {
    analyse(graph).1
}

/// By tensor: where its elements lie, if they are proven to be whole numbers.
pub fn whole_ranges(graph: &Graph) -> Vec<Option<Range>> {
    let mut ranges = analyse(graph).0;
    graph.tensor_ids().map(|tensor| ranges.of(tensor)).collect()
}

fn analyse(graph: &Graph) -> (Ranges<'_>, Vec<InexactSum>) {
    let mut ranges = Ranges { graph, known: HashMap::new() };
    for input in &graph.inputs {
        let range = of_type(graph.tensor_type(*input).element);
        ranges.known.insert(*input, range);
    }
    let mut found = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let (sums, result) = ranges.of_node(node);
        if let Some(largest) = sums.map(Range::largest).filter(|largest| *largest > EXACT_UP_TO) {
            found.push(InexactSum { node: id, largest });
        }
        for output in &node.outputs {
            ranges.known.insert(*output, result);
        }
    }
    (ranges, found)
}

/// What an element type holds, if that is little.
fn of_type(element: ElementType) -> Known {
    match element {
        ElementType::I8 => Some(Range::new(-128.0, 127.0)),
        ElementType::U8 => Some(Range::new(0.0, 255.0)),
        ElementType::Bool => Some(Range::new(0.0, 1.0)),
        ElementType::I16 => Some(Range::new(-32768.0, 32767.0)),
        ElementType::U16 => Some(Range::new(0.0, 65535.0)),
        ElementType::F32
        | ElementType::F64
        | ElementType::F16
        | ElementType::BF16
        | ElementType::I64
        | ElementType::I32
        | ElementType::U64
        | ElementType::U32 => None,
    }
}

/// Of a constant, if it holds whole numbers.
pub(super) fn of_value(value: &Value) -> Known {
    fn over<T: CastTo<f64>>(elements: &[T]) -> Known {
        let mut range = Range::new(f64::INFINITY, f64::NEG_INFINITY);
        for element in elements {
            let element = element.cast();
            if element.fract() != 0.0 {
                return None;
            }
            range = range.joined(Range::new(element, element));
        }
        (!elements.is_empty()).then_some(range)
    }
    on_elements!(&value.data, elements => over(elements))
}

fn activated(range: Range, activation: Activation) -> Known {
    let whole = |bound: f32| bound.fract() == 0.0 || bound.is_infinite();
    match activation {
        Activation::None => Some(range),
        Activation::Relu => Some(range.clipped(0.0, f64::INFINITY)),
        Activation::Clip(low, high) if low <= high && whole(low) && whole(high) => {
            Some(range.clipped(f64::from(low), f64::from(high)))
        }
        Activation::Clip(..) | Activation::LeakyRelu(_) | Activation::HardSwish | Activation::HardSigmoid(..) => None,
    }
}

struct Ranges<'a> {
    graph: &'a Graph,
    known: HashMap<TensorId, Known>,
}

impl Ranges<'_> {
    fn of(&mut self, tensor: TensorId) -> Known {
        if let Some(known) = self.known.get(&tensor) {
            return *known;
        }
        let found = match self.graph.value(tensor) {
            Some(value) => of_value(value),
            None => self.graph.whole_range(tensor),
        };
        self.known.insert(tensor, found);
        found
    }

    /// What the sums that a node adds up come to on the way, and what its results hold.
    #[expect(clippy::too_many_lines, reason = "one arm for each operator")]
    fn of_node(&mut self, node: &Node) -> (Known, Known) {
        let inputs: Vec<Known> = node.inputs.iter().map(|input| self.of(*input)).collect();
        let first = inputs.first().copied().flatten();
        let all = || inputs.iter().copied().reduce(|a, b| Some(a?.joined(b?))).flatten();
        let extent = |axes: &[usize]| axes.iter().map(|axis| self.graph.shape(node.inputs[0])[*axis] as f64).product();
        match &node.op {
            Op::Conv(conv) => {
                let mut sums = self.products(node, first, 0);
                if conv.residual {
                    sums = sums.zip(inputs[3]).map(|(sums, residual)| sums.plus(residual.with_zero()));
                }
                (sums, sums.and_then(|sums| activated(sums, conv.activation)))
            }
            Op::ConvTranspose(conv) => {
                let sums = self.products(node, first, 1);
                (sums, sums.and_then(|sums| activated(sums, conv.activation)))
            }
            Op::Gemm(gemm) => {
                let is_plain = gemm.alpha == 1.0 && gemm.beta == 1.0;
                let axis = usize::from(!gemm.transpose_b);
                let sums = self.products(node, first.filter(|_| is_plain), axis);
                (sums, sums.and_then(|sums| activated(sums, gemm.activation)))
            }
            Op::MatMul => {
                let rank = self.graph.shape(node.inputs[1]).len();
                let sums = self.products(node, first, rank.saturating_sub(1));
                (sums, sums)
            }
            // A mean is no whole number, the sum that it is made of is.
            Op::Pool(pool) => match pool.kind {
                PoolKind::Max => (None, first),
                PoolKind::Average => {
                    let taps = pool.window.kernel.iter().map(|extent| *extent as f64).product();
                    (first.map(|x| x.summed(taps)), None)
                }
            },
            Op::GlobalPool(kind) => match kind {
                PoolKind::Max => (None, first),
                PoolKind::Average => {
                    let axes: Vec<usize> = (2..self.graph.shape(node.inputs[0]).len()).collect();
                    (first.map(|x| x.summed(extent(&axes))), None)
                }
            },
            Op::Reduce { kind, axes, .. } => {
                let sums = first.map(|x| x.summed(extent(axes)));
                match kind {
                    ReduceKind::Sum => (sums, sums),
                    ReduceKind::Mean => (sums, None),
                    ReduceKind::Max | ReduceKind::Min => (None, first),
                    ReduceKind::L2 => (None, None),
                }
            }
            Op::Binary(function, last) => {
                let both = first.zip(inputs[1]);
                let result = match function {
                    BinaryOp::Add => both.map(|(a, b)| a.plus(b)),
                    BinaryOp::Sub => both.map(|(a, b)| a.plus(b.times(Range::new(-1.0, -1.0)))),
                    BinaryOp::Mul => both.map(|(a, b)| a.times(b)),
                    BinaryOp::Min | BinaryOp::Max => all(),
                    // Whatever was divided: the result is whole, and its bounds say where it lies.
                    BinaryOp::RoundedQuotient => Some(Range::new(f64::NEG_INFINITY, f64::INFINITY)),
                    BinaryOp::Div
                    | BinaryOp::Pow
                    | BinaryOp::Mod
                    | BinaryOp::Equal
                    | BinaryOp::Less
                    | BinaryOp::LessOrEqual
                    | BinaryOp::Greater
                    | BinaryOp::GreaterOrEqual
                    | BinaryOp::And
                    | BinaryOp::Or => None,
                };
                let sums = match function {
                    BinaryOp::Add | BinaryOp::Sub => result,
                    _ => None,
                };
                let result = result.and_then(|range| activated(range, *last));
                (sums, result.filter(|range| range.largest().is_finite()))
            }
            Op::Unary(function) => match function {
                UnaryOp::Activation(activation) => (None, first.and_then(|range| activated(range, *activation))),
                UnaryOp::Neg => (None, first.map(|range| range.times(Range::new(-1.0, -1.0)))),
                UnaryOp::Abs => (None, first.map(|range| Range::new(0.0, range.largest()))),
                UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => (None, first),
                // Up to 2048 every whole number is one.
                UnaryOp::Half => (None, first.filter(|range| range.largest() <= 2048.0)),
                UnaryOp::Sign => (None, first.map(|_| Range::new(-1.0, 1.0))),
                UnaryOp::Sigmoid
                | UnaryOp::Tanh
                | UnaryOp::Elu { .. }
                | UnaryOp::Selu { .. }
                | UnaryOp::Softplus
                | UnaryOp::Erf
                | UnaryOp::Gelu { .. }
                | UnaryOp::Exp
                | UnaryOp::Log
                | UnaryOp::Sqrt
                | UnaryOp::Reciprocal
                | UnaryOp::Sin
                | UnaryOp::Cos
                | UnaryOp::Tan
                | UnaryOp::Asin
                | UnaryOp::Acos
                | UnaryOp::Atan
                | UnaryOp::Sinh
                | UnaryOp::Cosh
                | UnaryOp::Asinh
                | UnaryOp::Acosh
                | UnaryOp::Atanh
                | UnaryOp::Not
                | UnaryOp::Steps { .. }
                | UnaryOp::Silu => (None, None),
            },
            Op::Cast { to } => (None, first.map_or_else(|| of_type(*to), |range| cast(range, *to))),
            Op::BitCast { to } => (None, of_type(*to)),
            Op::Concat { .. } => (None, all()),
            Op::Where => (None, inputs[1].zip(inputs[2]).map(|(a, b)| a.joined(b))),
            Op::Scatter { function: None | Some(BinaryOp::Min | BinaryOp::Max) } => {
                (None, first.zip(inputs[1]).map(|(a, b)| a.joined(b)))
            }
            Op::Scatter { .. } => (None, None),
            Op::Pad { mode, .. } => match mode {
                PadMode::Constant(value) if value.fract() == 0.0 => {
                    (None, first.map(|range| range.joined(Range::new(f64::from(*value), f64::from(*value)))))
                }
                PadMode::Constant(_) => (None, None),
                PadMode::Reflect | PadMode::Edge => (None, first),
            },
            Op::Resize { mode, .. } => match mode {
                ResizeMode::Nearest(_) => (None, first),
                ResizeMode::Linear => (None, None),
            },
            Op::Split { .. }
            | Op::Slice { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Gather { .. }
            | Op::Expand { .. }
            | Op::Identity
            | Op::SpaceToDepth { .. }
            | Op::DepthToSpace { .. } => (None, first),
            Op::Einsum(_)
            | Op::BatchNormalization { .. }
            | Op::InstanceNormalization { .. }
            | Op::GroupNormalization { .. }
            | Op::LayerNormalization { .. }
            | Op::Lrn { .. }
            | Op::PRelu
            | Op::Softmax { .. }
            | Op::LogSoftmax { .. }
            | Op::ArgMax { .. }
            | Op::NonMaxSuppression(_)
            | Op::RoiAlign(_)
            | Op::TreeEnsemble(_)
            | Op::Decide(_) => (None, None),
        }
    }

    /// All sums of some of the products that a node adds up for one of its results, and of a third operand: of the result for
    /// which they may be largest. `axis` of the second operand is the one that results have, too.
    fn products(&mut self, node: &Node, x: Known, axis: usize) -> Known {
        let (x, second) = (x?, *node.inputs.get(1)?);
        let weights = self.of(second)?;
        let shape = self.graph.shape(second);
        let outputs = *shape.get(axis)?;
        let Some(elements) = self.graph.f32_value(second) else {
            // Matrices may be many; of weights all that is not a result's own is summed.
            let terms = match axis + 1 == shape.len() {
                true => *shape.get(axis.checked_sub(1)?)?,
                false => shape.iter().product::<usize>() / outputs.max(1),
            };
            let addend = node.inputs.get(2).map_or(Some(Range::new(0.0, 0.0)), |third| self.of(*third))?;
            return Some(x.times(weights).summed(terms as f64).plus(addend.with_zero()));
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let mut sums = vec![Range::new(0.0, 0.0); outputs];
        for (index, weight) in elements.iter().enumerate() {
            let product = x.times(Range::new(f64::from(*weight), f64::from(*weight)));
            let sum = &mut sums[index / inner.max(1) % outputs];
            *sum = Range::new(sum.low + product.low.min(0.0), sum.high + product.high.max(0.0));
        }
        // What is added once is there from the start.
        let addend = match node.inputs.get(2) {
            None => Range::new(0.0, 0.0),
            Some(third) => {
                if let Some(bias) = self.graph.f32_value(*third).filter(|bias| bias.len() == outputs && are_whole(bias))
                {
                    for (sum, bias) in sums.iter_mut().zip(bias) {
                        *sum = sum.plus(Range::new(f64::from(*bias), f64::from(*bias)).with_zero());
                    }
                    Range::new(0.0, 0.0)
                } else {
                    self.of(*third)?.with_zero()
                }
            }
        };
        sums.into_iter().reduce(Range::joined).map(|sums| sums.plus(addend))
    }
}

/// As `of_type`, but not larger than before.
fn cast(range: Range, to: ElementType) -> Known {
    match (to, of_type(to)) {
        (ElementType::Bool, bounds) => bounds,
        (_, Some(bounds)) => Some(range.clipped(bounds.low, bounds.high)),
        (_, None) => Some(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;
    use crate::graph::op::{Conv, Window};

    /// A convolution of `channels` int8 channels with weights that all are `weight`, and a bias.
    fn quantized(channels: usize, weight: f32, bias: f32) -> Graph {
        let mut graph = Graph::new("quantized");
        let x = graph.add_input("x", TensorType::new(ElementType::I8, [1, channels, 4, 4]));
        let steps = graph.add_tensor("steps", TensorType::f32([1, channels, 4, 4]));
        graph.add_node("cast", Op::Cast { to: ElementType::F32 }, vec![x], vec![steps]);
        let weights = graph.add_constant("w", Value::f32([2, channels, 3, 3], vec![weight; 2 * channels * 9]));
        let bias = graph.add_constant("b", Value::f32([2], vec![0.0, bias]));
        let window = Window::uniform(&[3, 3], 1, 1, 1);
        let conv = Conv { window, groups: 1, residual: false, activation: Activation::None };
        let y = graph.add_tensor("y", TensorType::f32([1, 2, 4, 4]));
        graph.add_node("conv", Op::Conv(conv), vec![steps, weights, bias], vec![y]);
        graph.outputs.push(y);
        graph
    }

    fn largest(graph: &Graph) -> Vec<(String, f64)> {
        inexact_sums(graph).into_iter().map(|sum| (graph.node(sum.node).name.clone(), sum.largest)).collect()
    }

    #[test]
    fn sums_are_bounded_by_weights_and_ranges() {
        // 1024 x 9 products of at most 128 x 127.
        let most = 1024.0 * 9.0 * 128.0 * 127.0;
        assert_eq!(largest(&quantized(1024, 127.0, 0.0)), [("conv".to_string(), most)]);
        assert_eq!(largest(&quantized(1024, -127.0, 5.0)), [("conv".to_string(), most + 5.0)]);
        // 114 channels of 9 products of 128 x 127 are just below 2^24.
        assert_eq!(largest(&quantized(114, 127.0, 0.0)), []);
        assert_eq!(largest(&quantized(114, 127.0, -200_000.0)).len(), 1);
        // Weights that are no whole numbers promise nothing.
        assert_eq!(largest(&quantized(1024, 0.5, 0.0)), []);
    }

    #[test]
    fn what_is_quantized_again_is_small_again() {
        let mut graph = quantized(1024, 127.0, 0.0);
        let y = graph.outputs[0];
        let divisor = graph.add_constant("d", Value::f32([], vec![0.5]));
        let narrow = graph.add_tensor("narrow", TensorType::f32([1, 2, 4, 4]));
        let round = Op::Binary(BinaryOp::RoundedQuotient, Activation::Clip(-128.0, 127.0));
        graph.add_node("round", round, vec![y, divisor], vec![narrow]);
        let sum = graph.add_tensor("sum", TensorType::f32([1, 2, 1, 1]));
        let reduce = Op::Reduce { kind: ReduceKind::Sum, axes: vec![2, 3], keep_dims: true };
        graph.add_node("reduce", reduce, vec![narrow], vec![sum]);
        graph.outputs = vec![sum].into();
        let names: Vec<String> = largest(&graph).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["conv"]);
    }
}
