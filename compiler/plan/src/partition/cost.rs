//! What shards and exchanges cost, from the figures of target files.

use super::Method;
use partita_config::{Cluster, Device, Target, Topology, WeightStorage};
use partita_ir::graph::{ElementType, Graph, NodeId, Op, TensorId};
use partita_ir::region::Region;
use partita_ir::restrict::{Restriction, space};
use partita_ir::space::Arithmetic;
use partita_kernel::lower::winograd::{Filterable, Part};

/// What a node, or a shard of one, asks of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Multiply-adds.
    pub macs: u64,
    /// Whether they are those of a depthwise convolution.
    pub depthwise: bool,
    /// The convolution, if Winograd's algorithm may be faster.
    pub filterable: Option<Filterable>,
    /// Output channels of what multiplies: kernels compute whole vectors of them.
    pub channels: u64,
    /// Elements of the results of an operator that is not a copy.
    pub elements: u64,
    /// Bytes of constants.
    pub weights_bytes: u64,
    /// Bytes among them that `--weights` stores in fewer.
    pub narrow_bytes: u64,
    /// Bytes of constants if whole numbers are stored in as few as hold them.
    pub whole_weights_bytes: u64,
    /// Input channels of a convolution, or elements of a product's rows, if both factors are stored in 8 bits; 0 if not.
    pub byte_terms: u64,
    /// Bytes of activations read and written.
    pub activation_bytes: u64,
    /// The same if whole numbers are stored in as few as hold them, and sums that are quantized at once nowhere.
    pub whole_activation_bytes: u64,
}

impl Work {
    /// Bytes of constants as a device has them.
    pub fn stored_weights_bytes(&self, device: &Device) -> u64 {
        let storage = device.settings.weight_storage;
        let stored = self.narrow_bytes * storage.size_bytes() as u64 / WeightStorage::F32.size_bytes() as u64;
        let stored = self.weights_bytes - self.narrow_bytes + stored;
        let is_whole = device.target.stores_narrow() || self.multiplies_bytes(device);
        if is_whole { stored.min(self.whole_weights_bytes) } else { stored }
    }

    /// Bytes of activations as a device has them.
    pub fn stored_activation_bytes(&self, device: &Device) -> u64 {
        let is_whole = device.target.stores_narrow() || device.multiplies_stored_bytes();
        if is_whole { self.whole_activation_bytes } else { self.activation_bytes }
    }

    /// Whether a device multiplies bytes: kernels read blocks of a vector of channels.
    fn multiplies_bytes(&self, device: &Device) -> bool {
        device.multiplies_stored_bytes() && self.byte_terms >= u64::from(device.target.instruction_set.lanes())
    }

    /// How many times as fast as numbers a device multiplies.
    pub fn byte_speedup(&self, device: &Device) -> f64 {
        match (self.multiplies_bytes(device), device.target.dot_product, device.target.in_order) {
            (false, ..) => 1.0,
            (true, true, _) => BYTE_SPEEDUP,
            (true, false, false) => HALVES_SPEEDUP,
            (true, false, true) => HALVES_SPEEDUP_IN_ORDER,
        }
    }
}

/// How many times as many products of bytes are done in the same time. Measured with AVX-512 VNNI: convolutions of ResNet-8 are
/// 2.8 to 3.5 times as fast, of DS-CNN 2.6 times.
const BYTE_SPEEDUP: f64 = 3.0;

/// The same without an instruction that multiplies them by fours. By llvm-mca 14, the hot loop of DS-CNN's pointwise
/// convolutions does 8.0 instead of 4.0 multiply-adds per cycle of a Cortex-A72, and 3.1 instead of 2.3 of a Cortex-A53.
const HALVES_SPEEDUP: f64 = 2.0;
const HALVES_SPEEDUP_IN_ORDER: f64 = 1.35;

/// What a node of a graph asks.
pub fn node_work(graph: &Graph, id: NodeId) -> Work {
    let whole = |tensor: &TensorId| Region::whole(graph.shape(*tensor));
    let node = graph.node(id);
    let space = space(graph, id);
    let restriction = Restriction {
        op: node.op.clone(),
        operands: node.inputs.iter().map(|input| Some(whole(input))).collect(),
        results: node.outputs.iter().map(whole).collect(),
        macs: space.macs(&space.whole()),
        space,
    };
    shard_work(graph, id, &restriction)
}

/// What a shard of a node asks, without building it.
pub fn shard_work(graph: &Graph, id: NodeId, shard: &Restriction) -> Work {
    let node = graph.node(id);
    // As `f32`, and as few as they can be.
    let bytes = |tensor: &TensorId, part: &Region| {
        // Tensors without elements have no bytes, though their regions count as one.
        let elements = part.element_count().min(graph.tensor_type(*tensor).element_count() as u64);
        let of_element = [graph.tensor_type(*tensor).element.size_bytes(), kept_element_bytes(graph, *tensor)];
        of_element.map(|element_bytes| elements * element_bytes as u64)
    };
    let (mut weights_bytes, mut activation_bytes) = ([0; 2], [0; 2]);
    let add = |sum: &mut [u64; 2], more: [u64; 2]| sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    for (input, part) in node.inputs.iter().zip(&shard.operands) {
        let read = part.map_or([0; 2], |part| bytes(input, &part));
        add(if graph.is_constant(*input) { &mut weights_bytes } else { &mut activation_bytes }, read);
    }
    for (output, part) in node.outputs.iter().zip(&shard.results) {
        add(&mut activation_bytes, bytes(output, part));
    }
    let [weights_bytes, whole_weights_bytes] = weights_bytes;
    let is_view = shard.space.arithmetic == Arithmetic::View;
    let [activation_bytes, whole_activation_bytes] = if is_view { [0; 2] } else { activation_bytes };
    let result = shard.results.first();
    let channels = shard.space.channels().and_then(|axis| Some(result?.extent(axis)));
    let elements = node
        .outputs
        .first()
        .zip(result)
        .map_or(0, |(output, part)| part.element_count().min(graph.tensor_type(*output).element_count() as u64));
    let shapes = || (shard.operands.first().copied().flatten().map(|x| x.shape()), result.map(Region::shape));
    let filterable = match (&shard.op, has_whole_weights(graph, id)) {
        (Op::Conv(conv), false) => match shapes() {
            (Some(x), Some(result)) => Filterable::of(conv, &x, &result),
            (_, _) => None,
        },
        (_, _) => None,
    };
    let is_byte =
        |at: usize| node.inputs.get(at).is_some_and(|operand| graph.stored(*operand).element.size_bytes() == 1);
    let x_shape = shard.operands.first().copied().flatten().map_or(Vec::new(), |x| x.shape());
    let terms = if let Op::Conv(conv) = &shard.op {
        // Depthwise ones are done in numbers, but on Arm, and there not four times as fast.
        x_shape.get(1).filter(|channels| **channels != conv.groups).map_or(0, |channels| channels / conv.groups)
    } else if shard.space.is_matrix_product() && has_constant_matrix(graph, id) {
        x_shape.last().copied().unwrap_or(0)
    } else {
        0
    };
    let byte_terms = if has_whole_weights(graph, id) && is_byte(0) && is_byte(1) { terms as u64 } else { 0 };
    let narrow_bytes = match shard.operands.get(1) {
        Some(Some(matrix)) if has_constant_matrix(graph, id) && shard.space.is_matrix_product() => {
            matrix.element_count() * WeightStorage::F32.size_bytes() as u64
        }
        _ => 0,
    };
    Work {
        macs: shard.macs,
        depthwise: matches!(&shard.op, Op::Conv(conv) if conv.groups > 1 && x_channels(shard) == conv.groups),
        filterable,
        channels: channels.unwrap_or(1) as u64,
        elements: match shard.space.arithmetic {
            Arithmetic::MultiplyAdd | Arithmetic::Elements => elements,
            // Movements are copies of memory; views nothing at all.
            Arithmetic::Copies | Arithmetic::View => 0,
        },
        weights_bytes,
        narrow_bytes: narrow_bytes.min(weights_bytes),
        whole_weights_bytes,
        byte_terms,
        activation_bytes,
        whole_activation_bytes,
    }
}

/// Bytes of an element where whole numbers are stored in as few as hold them. What is quantized at once, by operators on
/// single elements, is nowhere: what they make counts.
fn kept_element_bytes(graph: &Graph, tensor: TensorId) -> usize {
    let own = graph.stored(tensor).element.size_bytes();
    let mut at = tensor;
    for _ in 0..MOST_BEFORE_QUANTIZED {
        // Asked first, because a tensor may have thousands of readers.
        if graph.has_one_consumer(at)
            && let [reader] = graph.consumers(at)[..]
            && let Op::Binary(..) | Op::Unary(_) = graph.node(reader).op
            && graph.tensor_type(graph.node(reader).outputs[0]) == graph.tensor_type(tensor)
            && !graph.is_output(at)
        {
            at = graph.node(reader).outputs[0];
        } else {
            break;
        }
        let kept = graph.stored(at).element.size_bytes();
        if kept < own {
            return kept;
        }
    }
    own
}

/// Most operators on single elements between a layer and the quantization of its result: scale, bias, residual, activation,
/// and some to spare.
const MOST_BEFORE_QUANTIZED: usize = 8;

/// Channels of a shard's first operand.
fn x_channels(shard: &Restriction) -> usize {
    shard.operands.first().copied().flatten().filter(|x| x.rank() > 1).map_or(0, |x| x.extent(1))
}

fn has_whole_weights(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).inputs.get(1).is_some_and(|weights| graph.is_whole(*weights))
}

fn has_constant_matrix(graph: &Graph, id: NodeId) -> bool {
    let matrix = graph.node(id).inputs.get(1);
    matrix.is_some_and(|matrix| {
        let is_real = graph.tensor_type(*matrix).element == ElementType::F32;
        graph.shape(*matrix).len() == 2 && graph.is_constant(*matrix) && is_real
    })
}

/// Multiply-adds that a node's operator needs.
pub fn node_macs(graph: &Graph, id: NodeId) -> u64 {
    node_work(graph, id).macs
}

/// Bytes of constants that a node reads, whole numbers in as few as hold them.
pub fn node_weights_bytes(graph: &Graph, id: NodeId) -> u64 {
    node_work(graph, id).whole_weights_bytes
}

/// Time of some work on a device: the slowest of arithmetic, elements and memory. What multiplies takes longer the fewer
/// products are in one result, which has to be finished and written. Of convolutions the fastest way.
pub fn seconds(work: &Work, device: &Device) -> f64 {
    let (target, rate) = (&device.target, &device.target.rate);
    let stored_bytes = work.stored_weights_bytes(device);
    let memory = |weights: f64| {
        (stored_bytes as f64 * weights + work.stored_activation_bytes(device) as f64) / rate.memory_bytes_per_second
    };
    if work.macs == 0 {
        return (work.elements as f64 / rate.element_per_second).max(memory(1.0));
    }
    let lanes = u64::from(target.instruction_set.lanes());
    let whole_vectors = work.channels.next_multiple_of(lanes) as f64 / work.channels.max(1) as f64;
    let macs_per_second = if work.depthwise { rate.depthwise_macs_per_second } else { rate.conv_macs_per_second };
    let arithmetic = work.macs as f64 * whole_vectors / (macs_per_second * work.byte_speedup(device));
    let results = work.elements as f64 * whole_vectors / rate.result_per_second;
    let direct = (arithmetic + results).max(memory(1.0));
    let filterable = work.filterable.filter(|_| device.allows_winograd());
    let winograd = filterable.iter().flat_map(|filterable| filterable.parts(lanes));
    let seconds = |part: Part| (arithmetic * part.time + results * part.results).max(memory(part.weights));
    winograd.map(seconds).fold(direct, f64::min)
}

/// The family of operators whose measurements speak for a node that was not measured itself.
pub fn family(work: &Work) -> &'static str {
    match (work.macs, work.depthwise) {
        (0, _) => "elements",
        (_, true) => "depthwise",
        (_, false) => "conv",
    }
}

/// The family of what joins and cuts tensors between devices.
pub const COPIES: &str = "copies";

/// Time of some work that belongs to a node and a method, as measured where it was.
pub fn corrected_seconds(work: &Work, device: &Device, node: &str, method: Method) -> f64 {
    seconds(work, device) * device.settings.corrections.factor(node, method.name(), family(work))
}

/// Time of a whole node on a device.
pub fn node_seconds(graph: &Graph, id: NodeId, device: &Device) -> f64 {
    corrected_seconds(&node_work(graph, id), device, &graph.node(id).name, Method::Whole)
}

/// Energy of some work on a device.
pub fn joules(work: &Work, device: &Device) -> f64 {
    let read_bytes = work.stored_weights_bytes(device);
    let energy = &device.target.energy;
    (work.macs as f64 * energy.picojoule_per_mac + read_bytes as f64 * energy.picojoule_per_byte) * 1e-12
}

/// Energy of sending `bytes` from one target to another.
pub fn transfer_joules(from: &Target, to: &Target, bytes: u64) -> f64 {
    bytes as f64 * (from.energy.link_nanojoule_per_byte + to.energy.link_nanojoule_per_byte) * 1e-9
}

/// Bytes and messages that go from one device to another in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Index of the sending device.
    pub from: usize,
    /// Index of the receiving device.
    pub to: usize,
    /// Payload bytes.
    pub bytes: u64,
}

/// Time of an exchange, all flows at once, on the media they use: ports, shared buses or wires, and the processors at
/// their ends. `None` if two devices have no link.
pub fn exchange_seconds(cluster: &Cluster, flows: &[Flow]) -> Option<f64> {
    let devices = cluster.devices.len();
    let mut latency = 0.0f64;
    let mut slowest = 0.0f64;
    // Seconds that each port is busy, out and in; per medium.
    let mut ports = vec![(0.0f64, 0.0f64); cluster.media.len() * devices];
    let mut buses = vec![0.0f64; cluster.media.len()];
    let mut processors = vec![0.0f64; devices];
    // Processor time for messages out and in: what comes has been sent before.
    let mut overheads = vec![(0.0f64, 0.0f64); devices];
    for flow in flows {
        let link = cluster.link(flow.from, flow.to)?;
        let time = flow.bytes as f64 / link.bytes_per_second;
        latency = latency.max(link.latency_ms * 1e-3);
        for device in [flow.from, flow.to] {
            let rate = &cluster.devices[device].target.rate;
            processors[device] += flow.bytes as f64 / rate.link_bytes_per_second;
        }
        let message_seconds = |device: usize| cluster.devices[device].message_microseconds() * 1e-6;
        overheads[flow.from].0 += message_seconds(flow.from);
        overheads[flow.to].1 += message_seconds(flow.to);
        match cluster.media[link.medium].topology {
            Topology::Switch => {
                ports[link.medium * devices + flow.from].0 += time;
                ports[link.medium * devices + flow.to].1 += time;
            }
            Topology::Bus => buses[link.medium] += time,
            Topology::PointToPoint => {
                // Both directions of a wire are found by looking for the flow back.
                let back = flows.iter().find(|other| (other.from, other.to) == (flow.to, flow.from));
                let half = cluster.media[link.medium].half_duplex;
                let other = back.filter(|_| half).map_or(0.0, |other| other.bytes as f64 / link.bytes_per_second);
                slowest = slowest.max(time + other);
            }
        }
    }
    for (index, (out, into)) in ports.iter().enumerate() {
        let half = cluster.media[index / devices.max(1)].half_duplex;
        slowest = slowest.max(if half { out + into } else { out.max(*into) });
    }
    let busy = buses.into_iter().chain(processors).fold(slowest, f64::max);
    let most = overheads.into_iter().fold((0.0f64, 0.0f64), |most, (out, into)| (most.0.max(out), most.1.max(into)));
    let overhead = most.0 + most.1;
    Some(if flows.is_empty() { 0.0 } else { latency + overhead + busy })
}

/// Time until `bytes` have crossed the link between two devices alone.
pub fn transfer_seconds(cluster: &Cluster, from: usize, to: usize, bytes: u64) -> Option<f64> {
    exchange_seconds(cluster, &[Flow { from, to, bytes }])
}
