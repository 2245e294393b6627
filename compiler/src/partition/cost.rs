//! What nodes and transfers cost, from the figures of target files.

use crate::config::{Link, Target};
use crate::graph::{Graph, NodeId, Op, TensorId};

/// Multiply-adds that a node's operator needs.
pub fn node_macs(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let output = node.outputs.first().map_or(0, |output| graph.tensor_type(*output).element_count() as u64);
    let weights = |position: usize| graph.shape(node.inputs[position]);
    match &node.op {
        Op::Conv(_) => output * weights(1)[1..].iter().product::<usize>() as u64,
        Op::ConvTranspose(_) => {
            let input = graph.tensor_type(node.inputs[0]).element_count() as u64;
            input * weights(1)[1..].iter().product::<usize>() as u64
        }
        Op::Gemm(gemm) => {
            let shape = graph.shape(node.inputs[0]);
            output * if gemm.transpose_a { shape[0] } else { shape[1] } as u64
        }
        Op::MatMul => output * graph.shape(node.inputs[0]).last().copied().unwrap_or(1) as u64,
        _ => 0,
    }
}

/// Bytes of constants that a node reads.
pub fn node_weights_bytes(graph: &Graph, id: NodeId) -> u64 {
    let constants = graph.node(id).inputs.iter().filter(|input| graph.value(**input).is_some());
    constants.map(|input| graph.tensor_type(*input).size_bytes() as u64).sum()
}

/// Time of a node on a target: the slowest of arithmetic, memory and elements.
pub fn node_seconds(graph: &Graph, id: NodeId, target: &Target) -> f64 {
    let node = graph.node(id);
    let rate = &target.rate;
    let macs = node_macs(graph, id) as f64;
    let activations = |tensors: &[TensorId]| -> u64 {
        let moved = tensors.iter().filter(|tensor| graph.value(**tensor).is_none());
        moved.map(|tensor| graph.tensor_type(*tensor).size_bytes() as u64).sum()
    };
    let bytes = node_weights_bytes(graph, id) + activations(&node.inputs) + activations(&node.outputs);
    let memory = bytes as f64 / rate.memory_bytes_per_second;
    let arithmetic = match &node.op {
        Op::Conv(conv) if conv.groups > 1 && conv.groups == graph.shape(node.inputs[0])[1] => {
            macs / rate.depthwise_macs_per_second
        }
        Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) | Op::MatMul => macs / rate.conv_macs_per_second,
        Op::Reshape { .. } | Op::Identity => return 0.0,
        _ => {
            let elements: usize = node.outputs.iter().map(|output| graph.tensor_type(*output).element_count()).sum();
            elements as f64 / rate.element_per_second
        }
    };
    arithmetic.max(memory)
}

/// Time until `bytes` have crossed a link.
pub fn transfer_seconds(link: &Link, bytes: u64) -> f64 {
    link.latency_ms * 1e-3 + bytes as f64 / link.bytes_per_second
}

/// Energy of a node on a target.
pub fn node_joules(graph: &Graph, id: NodeId, target: &Target) -> f64 {
    let bytes = node_weights_bytes(graph, id) as f64;
    (node_macs(graph, id) as f64 * target.energy.picojoule_per_mac + bytes * target.energy.picojoule_per_byte) * 1e-12
}

/// Energy of sending `bytes` from one target to another.
pub fn transfer_joules(from: &Target, to: &Target, bytes: u64) -> f64 {
    bytes as f64 * (from.energy.link_nanojoule_per_byte + to.energy.link_nanojoule_per_byte) * 1e-9
}
