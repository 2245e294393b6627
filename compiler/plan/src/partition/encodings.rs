//! How tensors of real numbers may travel in fewer bytes than they are computed in.
//!
//! A tensor that has an encoding is rounded to the numbers that the encoding has, where it is made and for everybody, before
//! any part of it travels (`shard::encoded`). So whoever reads it reads the same, whether it came over a link or not, and an
//! answer does not depend on who computes what.

use std::collections::{BTreeMap, BTreeSet};

use partita_config::Device;
use partita_ir::graph::{ElementType, Graph, Op, TensorId, UnaryOp};

/// What stands for an element on links.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    /// The nearest `f16`.
    Half,
    /// The nearest multiple of a step.
    Steps(Steps),
}

/// Multiples of a step that a byte can stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    /// The step.
    pub step: f32,
    /// The smallest multiple.
    pub low: i16,
    /// The largest, not more than 255 above.
    pub high: i16,
}

/// The tensors that may travel in fewer bytes; all others are sent as they are.
pub type Encodings = BTreeMap<TensorId, Encoding>;

/// Nothing is encoded.
pub static EXACT: Encodings = BTreeMap::new();

impl Encoding {
    /// The word for it in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Half => "f16",
            Encoding::Steps(_) => "int8",
        }
    }

    /// Bytes of an element on links.
    pub fn element_bytes(self) -> u64 {
        match self {
            Encoding::Half => 2,
            Encoding::Steps(_) => 1,
        }
    }

    /// The operator that rounds to what can be sent.
    pub fn rounding(self) -> Op {
        Op::Unary(match self {
            Encoding::Half => UnaryOp::Half,
            Encoding::Steps(Steps { step, low, high }) => UnaryOp::Steps { step, low: low.into(), high: high.into() },
        })
    }
}

impl Steps {
    /// 255 steps from the smallest to the largest of some numbers, zero among them. `None` if they are all zero, or not all
    /// numbers.
    pub fn covering(low: f32, high: f32) -> Option<Steps> {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = (high - low) / 255.0;
        let first = (low / step).round_ties_even();
        (step.is_normal() && (1.0 / step).is_normal()).then_some(Steps {
            step,
            low: first as i16,
            high: first as i16 + 255,
        })
    }
}

/// Every tensor that may be encoded: real numbers that are computed, or given, and are not known to be whole. States are not:
/// they would be rounded again with every inference.
pub fn candidates(graph: &Graph) -> Vec<TensorId> {
    let states: BTreeSet<TensorId> = graph.state_pairs().flat_map(|(output, input)| [output, input]).collect();
    let is_real = |tensor: &TensorId| {
        let made = graph.tensor(*tensor).producer.is_some() || graph.inputs.contains(tensor);
        made && graph.tensor_type(*tensor).element == ElementType::F32
            && graph.stored(*tensor).element == ElementType::F32
            && !states.contains(tensor)
    };
    graph.tensor_ids().filter(is_real).collect()
}

/// An element on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TravellingElement {
    /// Bytes on links.
    pub bytes: u64,
    /// Whether it is rounded, and converted before it leaves and when it has come.
    pub is_encoded: bool,
}

/// How elements of a tensor travel.
pub fn travels_as(graph: &Graph, encodings: &Encodings, tensor: TensorId) -> TravellingElement {
    match encodings.get(&tensor) {
        Some(encoding) => TravellingElement { bytes: encoding.element_bytes(), is_encoded: true },
        None => {
            let bytes = graph.stored(tensor).element.size_bytes() as u64;
            TravellingElement { bytes, is_encoded: is_encoded(graph, tensor) }
        }
    }
}

/// Bytes of a whole tensor on links.
pub fn travel_bytes(graph: &Graph, encodings: &Encodings, tensor: TensorId) -> u64 {
    graph.tensor_type(tensor).element_count() as u64 * travels_as(graph, encodings, tensor).bytes
}

/// Whether a tensor of a graph is stored in another way on links than numbers are computed with, so that it is converted before
/// it leaves and when it has come.
pub fn is_encoded(graph: &Graph, tensor: TensorId) -> bool {
    graph.tensor_type(tensor).element == ElementType::F32 && graph.stored(tensor).is_for_links()
}

/// Seconds that a device takes to convert so many elements.
pub fn conversion_seconds(device: &Device, elements: u64) -> f64 {
    elements as f64 / device.target.rate.element_per_second
}
