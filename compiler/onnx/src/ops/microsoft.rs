//! Operators of com.microsoft, which exporters for onnxruntime write.

use super::Converter;
use super::recurrent::{Cell, layer};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "DynamicQuantizeLSTM" => |context| layer(context, Cell::Lstm),
        _ => return None,
    })
}
