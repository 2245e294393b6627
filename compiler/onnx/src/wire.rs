//! A look over the bytes of a model before they are parsed: nesting, truncation and the number of messages.
//!
//! The protobuf library follows nested unknown groups without limit, and an empty message of two bytes becomes a
//! structure of hundreds; both are refused here, without recursion and without allocating more than the nesting.

use partita_ir::diagnostic::Diagnostic;

/// Deepest nesting of messages; an `If` in an `If` takes three levels.
const MAX_DEPTH: usize = 100;

/// Most messages of one model: nodes, attributes, tensors, entries.
const MAX_MESSAGES: usize = 4_000_000;

/// Message types of ONNX that hold other messages.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    NestedType,
    MapType,
    Shape,
    Function,
    Training,
    Annotation,
    Leaf,
}

/// Type of the message in field `field` of `message`; `None` if the field holds no message (onnx.proto, IR 10).
fn child(message: Message, field: u64) -> Option<Message> {
    Some(match (message, field) {
        (Message::Model, 7) => Message::Graph,
        (Message::Model, 8 | 14) => Message::Leaf,
        (Message::Model, 20) => Message::Training,
        (Message::Model, 25) => Message::Function,
        (Message::Training, 1 | 2) => Message::Graph,
        (Message::Training, 3 | 4) => Message::Leaf,
        (Message::Graph, 1) => Message::Node,
        (Message::Graph, 5) => Message::Tensor,
        (Message::Graph, 11..=13) => Message::ValueInfo,
        (Message::Graph, 14) => Message::Annotation,
        (Message::Graph, 15) => Message::SparseTensor,
        (Message::Graph, 16) => Message::Leaf,
        (Message::Node, 5) => Message::Attribute,
        (Message::Node, 9) => Message::Leaf,
        (Message::Attribute, 5 | 10) => Message::Tensor,
        (Message::Attribute, 6 | 11) => Message::Graph,
        (Message::Attribute, 14 | 15) => Message::Type,
        (Message::Attribute, 22 | 23) => Message::SparseTensor,
        (Message::Tensor, 3 | 13 | 16) => Message::Leaf,
        (Message::SparseTensor, 1 | 2) => Message::Tensor,
        (Message::ValueInfo, 2) => Message::Type,
        (Message::ValueInfo, 4) => Message::Leaf,
        (Message::Type, 1 | 8) => Message::TensorType,
        (Message::Type, 4 | 9) => Message::NestedType,
        (Message::Type, 5) => Message::MapType,
        (Message::TensorType, 2) => Message::Shape,
        (Message::NestedType, 1) => Message::Type,
        (Message::MapType, 2) => Message::Type,
        (Message::Shape, 1) => Message::Leaf,
        (Message::Function, 7) => Message::Node,
        (Message::Function, 9 | 14) => Message::Leaf,
        (Message::Function, 11) => Message::Attribute,
        (Message::Function, 12) => Message::ValueInfo,
        (Message::Annotation, 2) => Message::Leaf,
        _ => return None,
    })
}

/// Refuses bytes that are no plausible model: E0101 (not protobuf), E0102 (nesting), E0112 (counts).
pub fn scan(bytes: &[u8]) -> Result<(), Diagnostic> {
    let mut position = 0;
    let mut messages = 0usize;
    let mut open: Vec<(Message, usize)> = vec![(Message::Model, bytes.len())];
    while let Some((message, end)) = open.last().copied() {
        if position == end {
            open.pop();
            continue;
        }
        let tag = varint(bytes, &mut position, end)?;
        let left = end - position;
        match tag & 7 {
            0 => {
                varint(bytes, &mut position, end)?;
            }
            1 if left >= 8 => position += 8,
            5 if left >= 4 => position += 4,
            2 => {
                let length = varint(bytes, &mut position, end)?;
                let length = match usize::try_from(length) {
                    Ok(length) if length <= end - position => length,
                    _ => {
                        return Err(Diagnostic::new(
                            "E0101",
                            format!("the file is cut off or not ONNX: byte {position} claims {length} bytes"),
                        ));
                    }
                };
                match child(message, tag >> 3) {
                    Some(child) => {
                        messages += 1;
                        if messages > MAX_MESSAGES {
                            return Err(Diagnostic::new(
                                "E0112",
                                format!("the model has more than {MAX_MESSAGES} parts"),
                            ));
                        }
                        if open.len() >= MAX_DEPTH {
                            return Err(Diagnostic::new(
                                "E0102",
                                format!("the model is nested deeper than {MAX_DEPTH} levels"),
                            ));
                        }
                        open.push((child, position + length));
                    }
                    None => position += length,
                }
            }
            _ => {
                return Err(Diagnostic::new(
                    "E0101",
                    format!("the file is not ONNX: byte {position} is not a protobuf field"),
                ));
            }
        }
    }
    Ok(())
}

fn varint(bytes: &[u8], position: &mut usize, end: usize) -> Result<u64, Diagnostic> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if *position >= end {
            return Err(Diagnostic::new("E0101", format!("the file is cut off or not ONNX at byte {}", *position)));
        }
        let byte = bytes[*position];
        *position += 1;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    Err(Diagnostic::new("E0101", format!("the file is not ONNX: byte {} is not a protobuf number", *position)))
}
