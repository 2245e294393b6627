//! How tensors lie in memory and on links: whole numbers of a small range in as few bytes as hold them.
//!
//! What a tensor is, its [`TensorType`](super::TensorType) says, and every operator computes with that. Which bytes stand
//! for it is another matter: the `f32` elements of a quantized tensor are whole numbers (`onnx/src/ops/quantized.rs`), and
//! where [`whole_ranges`] proves them to lie between -128 and 127, a byte holds them without loss. Where the range is as
//! narrow but lies elsewhere, a number is added to every byte.

use super::Graph;
use super::ranges::{Range, whole_ranges};
use super::types::ElementType;

/// What stands for an element in memory: its value is `stored + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Type of what is stored.
    pub element: ElementType,
    /// What is added to it; 0 unless elements are whole `f32` numbers that would not fit otherwise.
    pub offset: i32,
}

impl Stored {
    /// Elements as they are.
    pub fn plain(element: ElementType) -> Stored {
        Stored { element, offset: 0 }
    }

    /// Whole `f32` numbers of a range.
    pub fn whole(range: Range) -> Stored {
        let Range { low, high } = range;
        let plain = [(ElementType::I8, -128.0, 127.0), (ElementType::U8, 0.0, 255.0)];
        if let Some((element, ..)) = plain.into_iter().find(|(_, least, most)| *least <= low && high <= *most) {
            return Stored::plain(element);
        }
        let is_near = low.abs().max(high.abs()) < f64::from(i16::MAX);
        match () {
            // As far from -128 as from 127, or nearly so.
            () if is_near && high - low <= 255.0 => Stored { element: ElementType::I8, offset: low as i32 + 128 },
            () if -32768.0 <= low && high <= 32767.0 => Stored::plain(ElementType::I16),
            () => Stored::plain(ElementType::F32),
        }
    }
}

/// By tensor: how it is stored.
pub(super) fn stored(graph: &Graph) -> Vec<Stored> {
    let stored = |(tensor, range): (_, Option<Range>)| match (graph.tensor_type(tensor).element, range) {
        (ElementType::F32, Some(range)) => Stored::whole(range),
        (element, _) => Stored::plain(element),
    };
    graph.tensor_ids().zip(whole_ranges(graph)).map(stored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::text;

    #[test]
    fn a_byte_holds_whatever_range_has_256_numbers() {
        let stored = |low: f64, high: f64| {
            let Stored { element, offset } = Stored::whole(Range::new(low, high));
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
