//! The plan file: what was decided, as protobuf (schema in `proto/plan.proto`).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use prost::Message as _;
use sha2::{Digest, Sha256};

use partita_config::Cluster;
use partita_files::file;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::text::{Constants, op_name, print};
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_plan::partition::encodings::{Encoding, Encodings, Steps};
use partita_plan::partition::{self, Overlap, Partition, RowStreaming, Strategy};
use partita_plan::shard::row_streaming::rows;
use partita_plan::shard::{Region, Sharding};
use partita_plan::simulate::Prediction;
use partita_program::emit::family::Row;
use partita_program::program::{Argument, BufferId, Layout, Message, Program, Step};

use crate::routes::Route;

mod proto;

use proto::step::Kind as StepKind;

/// Digest of a graph: its text with the digests of all constants.
fn model_digest(graph: &Graph) -> Vec<u8> {
    Sha256::digest(print(graph, Constants::Summary).as_bytes()).to_vec()
}

/// What was decided about one model on one cluster.
#[derive(Clone, Copy)]
pub struct Decided<'a> {
    /// The simplified graph.
    pub graph: &'a Graph,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Who computes what.
    pub partition: &'a Partition,
    /// What will happen.
    pub prediction: &'a Prediction,
    /// One per device that takes part.
    pub programs: &'a [Program],
    /// Smaller routes through the network.
    pub routes: &'a [Route],
    /// When each route is taken.
    pub conditions: &'a [Row],
    /// Names of tensors that travel in fewer bytes, and what stands for their elements.
    pub encodings: &'a [(String, Encoding)],
}

/// The plan file's bytes; the same input gives the same bytes. Devices of other routes are devices of another plan.
pub fn write(decided: &Decided<'_>) -> Vec<u8> {
    let Decided { graph, cluster, partition, prediction, programs, routes, conditions, encodings } = *decided;
    let nodes = graph.topological_order().unwrap_or_default();
    let plan = proto::Plan {
        model_digest: model_digest(graph),
        compiler: env!("CARGO_PKG_VERSION").to_string(),
        cluster: cluster.name.clone(),
        devices: cluster
            .devices
            .iter()
            .map(|device| proto::Device { name: device.name.clone(), target: device.target.name.clone() })
            .collect(),
        objective: partition.objective.to_string(),
        optimal: partition.optimal,
        gap: partition.gap,
        latency_ms: prediction.latency_ms,
        throughput_hz: prediction.throughput_hz,
        traffic_bytes: prediction.traffic_bytes,
        energy_mj: prediction.energy_mj,
        nodes: write_nodes(graph, &nodes, partition),
        programs: programs.iter().map(program).collect(),
        stripes: partition
            .row_streaming
            .iter()
            .filter_map(|row_streaming| write_row_streaming(&nodes, row_streaming))
            .collect(),
        routes: routes.iter().map(write_route).collect(),
        conditions: conditions.iter().map(write_condition).collect(),
        encodings: encodings.iter().map(write_encoding).collect(),
        overlaps: partition.overlap.is_some(),
    };
    plan.encode_to_vec()
}

fn write_encoding((tensor, encoding): &(String, Encoding)) -> proto::Encoding {
    let (step, low, high) = match encoding {
        Encoding::Half => (0.0, 0, 0),
        Encoding::Steps(Steps { step, low, high }) => (*step, i32::from(*low), i32::from(*high)),
    };
    proto::Encoding { tensor: tensor.clone(), encoding: encoding.name().to_string(), step, low, high }
}

/// The encoding that was written; `None` if it is not one.
fn read_encoding(stored: &proto::Encoding) -> Option<Encoding> {
    let (low, high) = (i16::try_from(stored.low).ok()?, i16::try_from(stored.high).ok()?);
    let steps = Steps { step: stored.step, low, high };
    let is_sound = stored.step.is_normal() && stored.step > 0.0 && (low..=low.checked_add(255)?).contains(&high);
    [Encoding::Half, Encoding::Steps(steps)]
        .into_iter()
        .find(|encoding| encoding.name() == stored.encoding)
        .filter(|encoding| *encoding == Encoding::Half || is_sound)
}

fn write_route(route: &Route) -> proto::Route {
    proto::Route {
        name: route.name.clone(),
        nodes: write_nodes(&route.graph, &route.graph.topological_order().unwrap_or_default(), &route.partition),
        programs: route.programs.iter().map(program).collect(),
    }
}

fn write_condition(row: &Row) -> proto::Condition {
    proto::Condition {
        missing: row.missing.iter().map(|device| *device as u32).collect(),
        bytes_per_second: row.bytes_per_second.clone(),
        route: row.route as u32,
    }
}

fn write_nodes(graph: &Graph, order: &[NodeId], partition: &Partition) -> Vec<proto::Node> {
    let node = |id: &NodeId| {
        let node = graph.node(*id);
        proto::Node {
            name: node.name.clone(),
            op: op_name(&node.op).to_string(),
            strategy: partition.strategies.get(id).map(|strategy| write_strategy(*id, strategy, partition)),
        }
    };
    order.iter().map(node).collect()
}

fn write_strategy(id: NodeId, strategy: &Strategy, partition: &Partition) -> proto::Strategy {
    let relays = partition.relays.range((id, 0)..=(id, usize::MAX));
    proto::Strategy {
        method: strategy.method.name().to_string(),
        outputs: write_sharding(&strategy.outputs),
        partial_sums: strategy.partial_sums.as_ref().map_or(Vec::new(), write_sharding),
        relays: relays
            .flat_map(|((_, operand), relays)| relays.iter().map(move |relay| (*operand as u32, relay)))
            .map(|(operand, relay)| proto::Relay { operand, parts: write_sharding(relay) })
            .collect(),
        pieces: partition.overlap.as_ref().and_then(|overlap| overlap.pieces.get(&id)).map_or(0, |count| *count as u32),
    }
}

fn write_sharding(sharding: &Sharding) -> Vec<proto::Part> {
    let part = |(device, region): (usize, Region)| proto::Part {
        device: device as u32,
        begin: (0..region.rank()).map(|axis| region.begin(axis) as u32).collect(),
        end: (0..region.rank()).map(|axis| region.end(axis) as u32).collect(),
    };
    sharding.parts().map(part).collect()
}

fn write_row_streaming(order: &[NodeId], row_streaming: &RowStreaming) -> Option<proto::Stripes> {
    let first = order.iter().position(|id| row_streaming.nodes.first() == Some(id))?;
    let number = |number: usize| u32::try_from(number).ok();
    Some(proto::Stripes {
        first: number(first)?,
        nodes: number(row_streaming.nodes.len())?,
        count: number(row_streaming.count)?,
    })
}

/// Runs whose nodes can all be computed in rows, apart from each other; `None` if they are not.
fn read_row_streaming(stored: &[proto::Stripes], graph: &Graph, partition: &Partition) -> Option<Vec<RowStreaming>> {
    let order = graph.topological_order()?;
    let mut taken = HashSet::new();
    let read = |row_streaming: &proto::Stripes| {
        let (first, count) = (row_streaming.first as usize, row_streaming.count as usize);
        let nodes = order.get(first..first.checked_add(row_streaming.nodes as usize)?)?.to_vec();
        let sound = |id: &NodeId| taken.insert(*id) && rows(graph, *id, partition).is_some();
        // More turns than rows would only repeat nothing.
        let most = nodes.iter().filter_map(|id| rows(graph, *id, partition)).max()?;
        ((1..=most).contains(&count) && nodes.iter().all(sound)).then_some(RowStreaming { nodes, count })
    };
    stored.iter().map(read).collect()
}

/// A sharding of a tensor of this shape over so many devices; `None` if it is not one.
fn read_sharding(parts: &[proto::Part], devices: usize, shape: &[usize]) -> Option<Sharding> {
    let mut sharding = Sharding(vec![None; devices]);
    for part in parts {
        let ranges = part.begin.iter().zip(&part.end).map(|(begin, end)| (*begin as usize, *end as usize));
        let region =
            Region::new(ranges).filter(|region| part.begin.len() == part.end.len() && region.rank() == shape.len());
        let slot = sharding.0.get_mut(part.device as usize)?;
        *slot = Some(region.filter(|region| Region::whole(shape).contains(region))?);
    }
    Some(sharding)
}

fn program(program: &Program) -> proto::Program {
    let mut weights = Sha256::new();
    for weight in &program.weights {
        weights.update(weight.bytes.as_slice());
    }
    proto::Program {
        device: program.device as u32,
        arena_bytes: program.arena_bytes as u64,
        weights_bytes: program.weights_bytes as u64,
        weights_digest: weights.finalize().to_vec(),
        buffers: program
            .buffers
            .iter()
            .map(|buffer| proto::Buffer {
                name: buffer.name.clone(),
                element: buffer.element.name().to_string(),
                shape: buffer.shape.iter().map(|extent| *extent as u64).collect(),
                block: match buffer.layout {
                    Layout::Plain => 0,
                    Layout::Blocked(block) => block,
                },
                offset_bytes: buffer.offset_bytes as u64,
                elements: buffer.elements as u64,
            })
            .collect(),
        steps: program.steps.iter().map(|step| proto::Step { kind: Some(step_kind(program, step)) }).collect(),
    }
}

fn step_kind(program: &Program, step: &Step) -> StepKind {
    let index = |argument: &Argument| match argument {
        Argument::Buffer(BufferId(id)) => Some(*id),
        Argument::Weight(_) => None,
    };
    match step {
        Step::Kernel { node, fused, kernel, arguments } => StepKind::Kernel(proto::Call {
            node: node.clone(),
            fused: fused.clone(),
            name: program.kernels[*kernel].name.clone(),
            buffers: arguments.iter().filter_map(index).collect(),
        }),
        Step::Reference { node, op, inputs, outputs } => StepKind::Reference(proto::Call {
            node: node.clone(),
            fused: Vec::new(),
            name: op_name(op).to_string(),
            buffers: inputs.iter().filter_map(index).chain(outputs.iter().map(|output| output.0)).collect(),
        }),
        Step::Reorder { from, to } => StepKind::Reorder(proto::Move { from: Some(from.0), to: to.0 }),
        Step::Copy { from, to, .. } => StepKind::Copy(proto::Move { from: index(&from.0), to: to.0.0 }),
        Step::Leave { exit, verdict, answer } => StepKind::Leave(proto::Leave {
            exit: *exit as u32,
            verdict: verdict.0,
            answer: answer.map(|answer| answer.0),
        }),
        Step::Start { sends, receives } => StepKind::Start(exchange(sends, receives)),
        Step::Exchange { sends, receives } => StepKind::Exchange(exchange(sends, receives)),
    }
}

fn exchange(sends: &[Message], receives: &[Message]) -> proto::Exchange {
    let messages = |messages: &[Message]| messages.iter().map(message).collect();
    proto::Exchange { sends: messages(sends), receives: messages(receives) }
}

fn message(message: &Message) -> proto::Message {
    proto::Message {
        peer: message.peer as u32,
        number: message.number,
        buffer: message.buffer.0,
        bytes: message.bytes as u64,
    }
}

/// First eight bytes of the plan's SHA-256, compiled into every device.
pub fn plan_hash(plan_bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(plan_bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

fn refused(path: &Path, message: &str) -> Vec<Diagnostic> {
    let shown = printable(&path.display().to_string());
    vec![Diagnostic::new("E0175", format!("plan `{shown}`: {message}"))]
}

fn read(path: &Path) -> Result<proto::Plan, Vec<Diagnostic>> {
    let bytes = file::read(path, file::MAX_PLAN_BYTES).map_err(|problem| refused(path, &problem))?;
    proto::Plan::decode(&*bytes).map_err(|error| refused(path, &format!("not a plan: {error}")))
}

fn objective_of(plan: &proto::Plan) -> partition::Objective {
    partition::Objective::parse(&plan.objective).unwrap_or(partition::Objective::Latency)
}

/// What an earlier plan was made for.
pub fn read_objective(path: &Path) -> Result<partition::Objective, Vec<Diagnostic>> {
    Ok(objective_of(&read(path)?))
}

/// What travels in fewer bytes by an earlier plan for the same model.
pub fn read_encodings(path: &Path, graph: &Graph) -> Result<Encodings, Vec<Diagnostic>> {
    let find = |stored: &proto::Encoding| {
        let tensor = graph.tensor_ids().find(|tensor| graph.tensor(*tensor).name == stored.tensor);
        let found = tensor.zip(read_encoding(stored));
        let shown = printable(&stored.tensor);
        found.ok_or_else(|| {
            refused(path, &format!("it sends `{shown}` as {}, which this model has not", stored.encoding))
        })
    };
    read(path)?.encodings.iter().map(find).collect()
}

/// The partition of an earlier plan for the same model and devices.
pub fn read_partition(path: &Path, graph: &Graph, cluster: &Cluster) -> Result<Partition, Vec<Diagnostic>> {
    let plan = read(path)?;
    let refuse = |message: String| refused(path, &message);
    if plan.model_digest != model_digest(graph) {
        return Err(refuse("it was made for another model".to_string()));
    }
    let names: Vec<&str> = plan.devices.iter().map(|device| device.name.as_str()).collect();
    if !cluster.devices.iter().map(|device| device.name.as_str()).eq(names.iter().copied()) {
        return Err(refuse(format!("it was made for devices {}", printable(&names.join(", ")))));
    }
    let order = graph.topological_order().unwrap_or_default();
    let mut strategies: BTreeMap<NodeId, Strategy> = BTreeMap::new();
    let mut relays: BTreeMap<(NodeId, usize), Vec<Sharding>> = BTreeMap::new();
    let mut pieces = BTreeMap::new();
    for (id, stored) in order.iter().zip(&plan.nodes) {
        let unfit = || refuse(format!("the strategy of node `{}` does not fit it", printable(&stored.name)));
        let node = graph.node(*id);
        let strategy = stored.strategy.as_ref().ok_or_else(unfit)?;
        let sharding = |parts: &[proto::Part], tensor: Option<&TensorId>| {
            read_sharding(parts, cluster.devices.len(), graph.shape(*tensor?))
                .filter(|found| !parts.is_empty() || found.0.is_empty())
        };
        let method = partition::Method::from_name(&strategy.method).ok_or_else(unfit)?;
        let outputs = sharding(&strategy.outputs, node.outputs.first()).ok_or_else(unfit)?;
        let partial_sums = match strategy.partial_sums.as_slice() {
            [] => None,
            parts => Some(sharding(parts, node.inputs.first()).ok_or_else(unfit)?),
        };
        for relay in &strategy.relays {
            let operand = relay.operand as usize;
            let relay = sharding(&relay.parts, node.inputs.get(operand)).ok_or_else(unfit)?;
            relays.entry((*id, operand)).or_default().push(relay);
        }
        strategies.insert(*id, Strategy { method, outputs, partial_sums });
        pieces.extend((strategy.pieces > 0).then_some((*id, strategy.pieces as usize)));
    }
    let overlap = plan.overlaps.then_some(Overlap { pieces });
    let partition = Partition { relays, overlap, objective: objective_of(&plan), ..Partition::given(strategies) };
    let unfit = || refuse("its row streaming does not fit the nodes".to_string());
    let row_streaming = read_row_streaming(&plan.stripes, graph, &partition).ok_or_else(unfit)?;
    Ok(Partition { row_streaming, ..partition })
}
