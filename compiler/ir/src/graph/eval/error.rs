//! Why a node cannot be evaluated.

use crate::graph::op::Op;
use crate::graph::text::op_name;
use crate::graph::types::Value;

/// Why a node could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The operator has no meaning for these element types.
    #[error("{op} is not defined for {types}")]
    ElementType {
        /// Name of the operator.
        op: &'static str,
        /// Types of the inputs.
        types: String,
    },
    /// Data-dependent: an index past the end.
    #[error("index {index} is outside an axis of {extent} elements")]
    Index {
        /// The index.
        index: i64,
        /// Extent of the axis.
        extent: usize,
    },
    /// An integer was divided by zero.
    #[error("an integer is divided by zero")]
    DivisionByZero,
    /// As many inputs as the graph has must be given, of its types.
    #[error("input {position} should be {expected}, but is {found}")]
    Input {
        /// Position among the graph's inputs.
        position: usize,
        /// What the graph says.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The graph is not acyclic or reads what nothing makes; `verify` would have said so.
    #[error("the graph cannot be evaluated in any order")]
    Order,
    /// A node failed.
    #[error("node `{node}`: {source}")]
    Node {
        /// Name of the node.
        node: String,
        /// What happened.
        source: Box<EvalError>,
    },
}

pub(super) fn wrong_type(op: &Op, inputs: &[&Value]) -> EvalError {
    let types: Vec<String> = inputs.iter().map(|value| value.tensor_type().to_string()).collect();
    EvalError::ElementType { op: op_name(op), types: types.join(", ") }
}
