//! How tensors lie in memory and on links: whole numbers of a small range in as few bytes as hold them.
//!
//! What a tensor is, its [`TensorType`](super::TensorType) says, and every operator computes with that. Which bytes stand
//! for it is another matter: the `f32` elements of a quantized tensor are whole numbers (`onnx/src/ops/quantized.rs`), and
//! where [`whole_ranges`] proves them to lie between -128 and 127, a byte holds them without loss. Where the range is as
//! narrow but lies elsewhere, a number is added to every byte. What has been rounded to the numbers that `f16` has
//! ([`UnaryOp::Half`]), or to multiples of a step ([`UnaryOp::Steps`]), and is then only moved, takes two bytes or one on links.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use super::ranges::{Range, whole_ranges};
use super::types::ElementType;
use super::{Graph, Op, TensorId, UnaryOp, elements};

/// What stands for an element in memory: its value is `(stored + offset) * step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Type of what is stored.
    pub element: ElementType,
    /// What is added to it; 0 unless elements are whole `f32` numbers, or multiples of a step, that would not fit otherwise.
    pub offset: i32,
    /// What the sum is multiplied by; 1 unless elements have been rounded to multiples of it.
    pub step: StepSize,
}

/// A positive factor, compared by its bits.
#[derive(Clone, Copy, Debug)]
pub struct StepSize(pub f32);

impl StepSize {
    /// No factor.
    pub const ONE: StepSize = StepSize(1.0);
}

impl PartialEq for StepSize {
    fn eq(&self, other: &StepSize) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for StepSize {}

impl Hash for StepSize {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl Stored {
    /// Elements as they are.
    pub fn plain(element: ElementType) -> Stored {
        Stored::shifted(element, 0)
    }

    /// Whole numbers less an offset.
    pub fn shifted(element: ElementType, offset: i32) -> Stored {
        Stored { element, offset, step: StepSize::ONE }
    }

    /// Whether elements are only rounded to be sent: memory holds them as they are computed with.
    pub fn is_for_links(&self) -> bool {
        self.element == ElementType::F16 || self.step != StepSize::ONE
    }

    /// Whole `f32` numbers of a range.
    pub fn whole(range: Range) -> Stored {
        let Range { low, high } = range;
        let plain = [(ElementType::I8, -128.0, 127.0), (ElementType::U8, 0.0, 255.0)];
        if let Some((element, ..)) = plain.into_iter().find(|(_, least, most)| *least <= low && high <= *most) {
            return Stored::plain(element);
        }
        let is_near = low.abs().max(high.abs()) < f64::from(i16::MAX);
        if is_near && high - low <= 255.0 {
            // As far from -128 as from 127, or nearly so.
            Stored::shifted(ElementType::I8, low as i32 + 128)
        } else if -32768.0 <= low && high <= 32767.0 {
            Stored::plain(ElementType::I16)
        } else {
            Stored::plain(ElementType::F32)
        }
    }
}

/// By tensor: how it is stored.
pub(super) fn stored(graph: &Graph) -> Vec<Stored> {
    let rounded = rounded(graph);
    let stored = |(tensor, range): (TensorId, Option<Range>)| {
        let element = graph.tensor_type(tensor).element;
        match (element, range, rounded.get(&tensor)) {
            (ElementType::F32, Some(range), _) => Stored::whole(range),
            (ElementType::F32, None, Some(stored)) => *stored,
            (element, ..) => Stored::plain(element),
        }
    };
    graph.tensor_ids().zip(whole_ranges(graph)).map(stored).collect()
}

/// Tensors that hold nothing but numbers that fewer bytes can stand for, having been rounded to them.
fn rounded(graph: &Graph) -> HashMap<TensorId, Stored> {
    let mut found = HashMap::new();
    let rounding = |op: &Op| {
        if let Op::Unary(UnaryOp::Steps { step, low, high }) = op {
            let whole = Stored::whole(Range::new((*low).into(), (*high).into()));
            return Some(Stored { step: StepSize(*step), ..whole }).filter(|stored| stored.element.size_bytes() == 1);
        }
        matches!(op, Op::Unary(UnaryOp::Half)).then_some(Stored::plain(ElementType::F16))
    };
    // Few graphs have any; asked of all tensors only there.
    if !graph.node_ids().any(|id| rounding(&graph.node(id).op).is_some()) {
        return found;
    }
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let moves = elements::only_moves(&node.op);
        let first = || found.get(node.inputs.first()?).copied();
        let alike = |stored: &Stored| node.inputs.iter().all(|input| found.get(input) == Some(stored));
        let stored = rounding(&node.op).or_else(|| first().filter(|stored| moves && alike(stored)));
        if let Some(stored) = stored {
            found.extend(node.outputs.iter().map(|output| (*output, stored)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::text;

    #[test]
    fn a_byte_holds_whatever_range_has_256_numbers() {
        let stored = |low: f64, high: f64| {
            let Stored { element, offset, .. } = Stored::whole(Range::new(low, high));
            (element, offset)
        };
        assert_eq!(stored(-128.0, 127.0), (ElementType::I8, 0));
        assert_eq!(stored(0.0, 127.0), (ElementType::I8, 0));
        assert_eq!(stored(0.0, 255.0), (ElementType::U8, 0));
        assert_eq!(stored(-111.0, 144.0), (ElementType::I8, 17));
        assert_eq!(stored(-3.0, 252.0), (ElementType::I8, 125));
        assert_eq!(stored(-3.0, 253.0), (ElementType::I16, 0));
        assert_eq!(stored(-32768.0, 32767.0), (ElementType::I16, 0));
        assert_eq!(stored(0.0, 40000.0), (ElementType::F32, 0));
        assert_eq!(stored(70000.0, 70001.0), (ElementType::F32, 0));
    }

    #[test]
    fn storage_follows_from_what_is_proven() {
        let text = r#"graph "case" opset 17
input %0 "x": f32[1,4]
const %1 "step": f32[] = [0.5]
const %2 "zero": f32[] = [-100.0]
%3 "steps": f32[1,4] = "round"(%0, %1) Binary(RoundedQuotient,Clip(-28.0,227.0))
%4 "quantized": f32[1,4] = "add"(%3, %2) Binary(Add,None)
%5 "real": f32[1,4] = "scale"(%3, %1) Binary(Mul,None)
%6 "bytes": i8[1,4] = "cast"(%4) Cast(to:I8)
output %5
output %6
"#;
        let graph = text::parse(text).expect("the text is a graph");
        let stored: Vec<(ElementType, i32)> =
            graph.tensor_ids().map(|tensor| (graph.stored(tensor).element, graph.stored(tensor).offset)).collect();
        use ElementType::{F32, I8};
        assert_eq!(stored, [(F32, 0), (F32, 0), (I8, 0), (I8, 100), (I8, 0), (F32, 0), (I8, 0)]);
        assert_eq!(graph.stored_bytes(graph.outputs[0]), 16);
    }

    #[test]
    fn what_is_rounded_and_moved_takes_two_bytes() {
        let text = r#"graph "case" opset 17
input %0 "x": f32[4,4]
%1 "half": f32[4,4] = "half"(%0) Unary(Half)
%2 "cut": f32[2,4] = "cut"(%1) Slice(starts:[1,0],steps:[1,1],sizes:[2,4])
%3 "joined": f32[6,4] = "joined"(%1, %2) Concat(axis:0)
%4 "mixed": f32[6,4] = "mixed"(%2, %0) Concat(axis:0)
%5 "sum": f32[6,4] = "sum"(%3, %4) Binary(Add,None)
%6 "steps": f32[6,4] = "steps"(%5) Unary(Steps(step:0.5,low:-100.0,high:155.0))
%7 "turned": f32[4,6] = "turned"(%6) Transpose(permutation:[1,0])
output %7
"#;
        let graph = text::parse(text).expect("the text is a graph");
        let stored: Vec<ElementType> = graph.tensor_ids().map(|tensor| graph.stored(tensor).element).collect();
        use ElementType::{F16, F32, I8};
        assert_eq!(stored, [F32, F16, F16, F16, F32, F32, I8, I8]);
        let turned = graph.stored(graph.outputs[0]);
        assert_eq!((turned.offset, turned.step), (28, StepSize(0.5)));
        assert!(turned.is_for_links() && graph.stored(crate::graph::TensorId(1)).is_for_links());
        assert_eq!(graph.stored_bytes(crate::graph::TensorId(2)), 16);
    }

    #[test]
    fn what_changes_is_asked_again() {
        let text =
            "graph \"case\" opset 17\ninput %0 \"x\": i8[4]\n%1 \"y\": f32[4] = \"cast\"(%0) Cast(to:F32)\noutput %1\n";
        let mut graph = text::parse(text).expect("the text is a graph");
        let y = graph.outputs[0];
        assert_eq!(graph.stored(y), Stored::plain(ElementType::I8));
        let half = graph.add_constant("half", crate::graph::Value::f32([], vec![0.5]));
        let scaled = graph.add_tensor("scaled", graph.tensor_type(y).clone());
        let scale = super::super::Op::Binary(super::super::BinaryOp::Mul, super::super::Activation::None);
        graph.add_node("scale", scale, vec![y, half], vec![scaled]);
        assert_eq!(graph.stored(scaled), Stored::plain(ElementType::F32));
    }
}
