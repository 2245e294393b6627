//! The per-device figures of Hadidi et al. (IEEE IoT-J 7(6), 2020) for the graphs that they deployed, from Partita's own
//! restriction of nodes: parameters with biases, multiply-adds, elements in and out.

use crate::partition::cost::shard_work;
use crate::shard::Region;
use partita_ir::graph::op::{Conv, Gemm, Window};
use partita_ir::graph::{Activation, Graph, NodeId, Op, TensorType, Value};
use partita_ir::restrict::{Restriction, partial_sum, restrict};

/// What one device holds and does.
#[derive(Debug, PartialEq)]
struct Part {
    parameters: u64,
    macs: u64,
    input: u64,
    output: u64,
}

/// A graph of one node on `input`, whose last operands are weights and biases of these shapes.
fn one_node(input: &[usize], weights: &[usize], output: &[usize], op: Op) -> (Graph, NodeId) {
    let mut graph = Graph::new("hadidi");
    let x = graph.add_input("x", TensorType::f32(input));
    let values = |shape: &[usize]| Value::f32(shape, vec![0.0; shape.iter().product()]);
    let w = graph.add_constant("w", values(weights));
    let b = graph.add_constant("b", values(&output[1..2]));
    let y = graph.add_tensor("y", TensorType::f32(output));
    let id = graph.add_node("node", op, vec![x, w, b], vec![y]);
    graph.outputs.push(y);
    (graph, id)
}

/// A convolution with padding "same" and step 1 or more.
fn convolution(extents: &[usize], channels: usize, filters: usize, kernel: usize, stride: usize) -> (Graph, NodeId) {
    let outputs: Vec<usize> = extents.iter().map(|extent| extent.div_ceil(stride)).collect();
    let padding = |(extent, output): (&usize, &usize)| ((output - 1) * stride + kernel).saturating_sub(*extent);
    let missing: Vec<usize> = extents.iter().zip(&outputs).map(padding).collect();
    let window = Window {
        kernel: vec![kernel; extents.len()],
        stride: vec![stride; extents.len()],
        dilation: vec![1; extents.len()],
        pad_begin: missing.iter().map(|missing| missing / 2).collect(),
        pad_end: missing.iter().map(|missing| missing - missing / 2).collect(),
    };
    let op = Op::Conv(Conv { window, groups: 1, residual: false, activation: Activation::Relu });
    let shape = |channels: usize, extents: &[usize]| [&[1, channels], extents].concat();
    let weights = [&[filters, channels][..], &vec![kernel; extents.len()]].concat();
    one_node(&shape(channels, extents), &weights, &shape(filters, &outputs), op)
}

fn fully_connected(inputs: usize, outputs: usize) -> (Graph, NodeId) {
    let op =
        Op::Gemm(Gemm { transpose_a: false, transpose_b: true, alpha: 1.0, beta: 1.0, activation: Activation::Relu });
    one_node(&[1, inputs], &[outputs, inputs], &[1, outputs], op)
}

fn part_of(graph: &Graph, id: NodeId, restriction: Restriction, output: Vec<usize>) -> Part {
    let elements = |at: usize| restriction.operands[at].map_or(0, |region| region.element_count());
    let (parameters, input) = (elements(1) + elements(2), elements(0));
    let macs = shard_work(graph, id, &restriction).macs;
    Part { parameters, macs, input, output: output.iter().product::<usize>() as u64 }
}

/// Output channels `begin..end` of a node ("channel splitting").
fn by_output((graph, id): &(Graph, NodeId), begin: usize, end: usize) -> Part {
    let shape = graph.shape(graph.node(*id).outputs[0]);
    let result = Region::whole(shape).with(1, begin, end).expect("channels of the node");
    let restriction = restrict(graph, *id, &result).expect("convolutions and matrix products split by output");
    part_of(graph, *id, restriction, result.shape())
}

/// Input channels `begin..end` of a node ("filter splitting"); the first part carries the bias.
fn by_input((graph, id): &(Graph, NodeId), begin: usize, end: usize) -> Part {
    let node = graph.node(*id);
    let x = Region::whole(graph.shape(node.inputs[0])).with(1, begin, end).expect("channels of the operand");
    let result = Region::whole(graph.shape(node.outputs[0]));
    let partial_sum =
        partial_sum(graph, *id, &x, &result, begin == 0).expect("convolutions and matrix products split by input");
    part_of(graph, *id, partial_sum.restriction(result), graph.shape(node.outputs[0]).to_vec())
}

fn whole(node: &(Graph, NodeId)) -> Part {
    by_output(node, 0, node.0.shape(node.0.node(node.1).outputs[0])[1])
}

/// Layers of one device: convolutions (filters, kernel, stride), a pooling of 2 where there is no kernel.
fn stage(mut extent: usize, mut channels: usize, layers: &[(usize, usize, usize)]) -> Part {
    let input = (extent * extent * channels) as u64;
    let mut sum = Part { parameters: 0, macs: 0, input, output: 0 };
    for (filters, kernel, stride) in layers.iter().copied() {
        if kernel == 0 {
            extent /= 2;
        } else {
            let part = whole(&convolution(&[extent, extent], channels, filters, kernel, stride));
            (sum.parameters, sum.macs) = (sum.parameters + part.parameters, sum.macs + part.macs);
            (extent, channels) = (extent.div_ceil(stride), filters);
        }
    }
    sum.output = (extent * extent * channels) as u64;
    sum
}

const POOL: (usize, usize, usize) = (0, 0, 0);

/// Millions with one decimal, as printed.
fn millions(macs: u64) -> String {
    format!("{:.1}", macs as f64 / 1e6)
}

#[test]
fn alexnet_over_five_to_seven_devices() {
    let convolutions = [(48, 11, 4), POOL, (128, 5, 1), POOL, (192, 3, 1), (192, 3, 1), (128, 3, 1), POOL];
    let convolutions = stage(220, 3, &convolutions);
    assert_eq!((convolutions.parameters, convolutions.input, convolutions.output), (945_856, 145_200, 4_608));
    assert_eq!(millions(convolutions.macs), "295.5");
    let first = fully_connected(4_608, 4_096);
    for (begin, end) in [(0, 2_048), (2_048, 4_096)] {
        let half = by_output(&first, begin, end);
        assert_eq!((half.parameters, half.input, half.output), (9_439_232, 4_608, 2_048));
        assert_eq!(millions(half.macs), "9.4");
    }
    let rest = [whole(&fully_connected(4_096, 4_096)), whole(&fully_connected(4_096, 1_000))];
    assert_eq!(rest.iter().map(|part| part.parameters).sum::<u64>(), 20_878_312);
    assert_eq!(millions(rest.iter().map(|part| part.macs).sum()), "20.9");
}

#[test]
fn vgg16_over_nine_and_eleven_devices() {
    let block = |filters: usize, count: usize| [vec![(filters, 3, 1); count], vec![POOL]].concat();
    let first = stage(220, 3, &block(64, 2));
    assert_eq!((first.parameters, first.output, millions(first.macs).as_str()), (38_720, 110 * 110 * 64, "1867.9"));
    let middle = stage(110, 64, &[block(128, 2), block(256, 3), block(512, 3)].concat());
    let expected = (7_596_544, 13 * 13 * 512, "11436.7");
    assert_eq!((middle.parameters, middle.output, millions(middle.macs).as_str()), expected);
    let last = stage(13, 512, &block(512, 3));
    assert_eq!((last.parameters, last.output, millions(last.macs).as_str()), (7_079_424, 18_432, "1196.2"));
    let all = [block(64, 2), block(128, 2), block(256, 3), block(512, 3), block(512, 3)].concat();
    let all = stage(220, 3, &all);
    // The table prints 14,500.7, which is the sum of its rounded rows.
    assert_eq!(all.parameters, 14_714_688);
    assert!((all.macs as f64 / 1e6 - 14_500.7).abs() < 0.2, "{}", all.macs);
}

#[test]
fn c3d_by_channel_and_by_filter() {
    let second = convolution(&[16, 56, 56], 64, 128, 3, 1);
    let channel = by_output(&second, 0, 43);
    assert_eq!((channel.parameters, (channel.macs as f64 / 1e6).round()), (74_347, 3_728.0));
    let filter = by_input(&second, 0, 22);
    assert_eq!((filter.parameters, (filter.macs as f64 / 1e6).round()), (76_160, 3_815.0));
    // They pad 128 to 129 and 64 to 66; here the last device simply has less.
    assert_eq!(by_output(&second, 86, 128).output, 42 * 16 * 56 * 56);
    assert_eq!(by_input(&second, 44, 64).input, 20 * 16 * 56 * 56);
}

#[test]
fn xception_by_channel_and_by_filter() {
    let middle = convolution(&[28, 28], 728, 728, 3, 1);
    let channel = by_output(&middle, 0, 364);
    assert_eq!((channel.parameters, millions(channel.macs).as_str()), (2_385_292, "1869.8"));
    let filter = by_input(&middle, 0, 364);
    assert_eq!((filter.parameters, millions(filter.macs).as_str()), (2_385_656, "1869.8"));
    // The other half carries no bias.
    assert_eq!(by_input(&middle, 364, 728).parameters, 2_385_656 - 728);
}
