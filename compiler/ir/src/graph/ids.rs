//! Numbers of nodes and tensors: names are for readers.

/// Identifies a node of one graph, and of every graph that was made of it by editing. Never reused; later nodes have
/// larger numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Identifies a tensor of one graph, and of every graph that was made of it by editing. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TensorId(pub u32);
