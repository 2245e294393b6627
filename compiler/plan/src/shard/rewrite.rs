//! The rewrite itself: one walk over the graph that remembers what every device holds of every tensor.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::assemble::{self, Joint, joint, pieces};
use super::names::Names;
use super::{Event, ShardError, Sharded, Transfer, pieces as cut, row_streaming};
use crate::partition::relay::route;
use crate::partition::{Method, Partition};
use partita_config::Cluster;
use partita_ir::graph::infer::infer;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, TensorType};
use partita_ir::region::{Region, Sharding};
use partita_ir::restrict::{self, Restriction};

/// Splits every node as its strategy says.
pub fn apply(graph: &Graph, partition: &Partition, cluster: &Cluster) -> Result<Sharded, ShardError> {
    rewrite(graph, partition, cluster, true)
}

/// The same without the values of constants, which are then tensors that nobody makes: for whoever asks for sizes only.
pub fn sketch(graph: &Graph, partition: &Partition, cluster: &Cluster) -> Result<Sharded, ShardError> {
    rewrite(graph, partition, cluster, false)
}

fn rewrite(
    graph: &Graph,
    partition: &Partition,
    cluster: &Cluster,
    with_constants: bool,
) -> Result<Sharded, ShardError> {
    let mut to = Graph::new(graph.name.clone());
    (to.opset, to.states) = (graph.opset, graph.states);
    let names: Vec<&str> = cluster.devices.iter().map(|device| device.name.as_str()).collect();
    let mut rewriter = Rewriter {
        from: graph,
        to,
        cluster,
        device_names: &names,
        holdings: BTreeMap::new(),
        with_constants,
        constants: HashMap::new(),
        names: Names::default(),
        node_names: Names::default(),
        events: Vec::new(),
        devices: BTreeMap::new(),
        origins: BTreeMap::new(),
        labels: BTreeMap::new(),
        travelling: BTreeMap::new(),
        origin: None,
    };
    for input in &graph.inputs {
        let tensor = graph.tensor(*input);
        rewriter.unique(tensor.name.clone());
        let id = rewriter.to.add_input(tensor.name.clone(), tensor.tensor_type.clone());
        rewriter.hold(*input, cluster.input, rewriter.whole(*input), id);
    }
    let order = graph.topological_order().unwrap_or_default();
    let mut left = order.as_slice();
    let pieces = partition.overlap.as_ref().map(|overlap| &overlap.pieces);
    // Nodes that were computed with the one before them.
    let mut done = BTreeSet::new();
    while let Some((id, rest)) = left.split_first() {
        match partition.row_streaming.iter().find(|row_streaming| row_streaming.nodes.first() == Some(id)) {
            Some(row_streaming) => {
                left = left.strip_prefix(row_streaming.nodes.as_slice()).ok_or_else(|| unfit(graph, *id))?;
                rewriter.row_streaming(partition, row_streaming)?;
            }
            None if done.contains(id) => left = rest,
            None => {
                left = rest;
                let turns = pieces
                    .and_then(|pieces| pieces.get(id))
                    .and_then(|count| cut::turns(graph, partition, cluster, *id, *count));
                match turns {
                    Some(turns) => {
                        let rounds = cut::rounding(graph, partition, *id);
                        done.extend(rounds);
                        rewriter.by_pieces(partition, (*id, rounds), &turns)?;
                    }
                    None => rewriter.split(partition, *id, None)?,
                }
            }
        }
    }
    rewriter.origin = None;
    rewriter.finish(cluster.output)?;
    let Rewriter { to, events, devices, origins, labels, travelling, .. } = rewriter;
    let events = super::leave::add(events, &to, cluster, |node| devices.get(&node).copied())
        .ok_or_else(|| ShardError::Missing { tensor: "verdict".to_string(), part: "any of it".to_string() })?;
    let overlaps = partition.overlap.is_some();
    Ok(Sharded { graph: to, events, devices, origins, labels, travelling, overlaps })
}

fn unfit(graph: &Graph, id: NodeId) -> ShardError {
    ShardError::NotRestrictable {
        node: graph.node_label(id),
        part: "bands of rows with the nodes behind it".to_string(),
    }
}

pub(super) struct Rewriter<'a> {
    pub(super) from: &'a Graph,
    pub(super) to: Graph,
    cluster: &'a Cluster,
    pub(super) device_names: &'a [&'a str],
    /// Per tensor of the original graph and device: boxes and the tensors of the new graph that hold them.
    pub(super) holdings: BTreeMap<TensorId, Vec<Vec<(Region, TensorId)>>>,
    pub(super) with_constants: bool,
    /// Slices of constants.
    pub(super) constants: HashMap<(TensorId, Option<Region>), TensorId>,
    names: Names,
    node_names: Names,
    events: Vec<Event>,
    devices: BTreeMap<NodeId, usize>,
    origins: BTreeMap<NodeId, NodeId>,
    pub(super) labels: BTreeMap<NodeId, (String, Method)>,
    travelling: BTreeMap<TensorId, u64>,
    /// Node of the original graph that is being split.
    pub(super) origin: Option<NodeId>,
}

impl Rewriter<'_> {
    pub(super) fn whole(&self, tensor: TensorId) -> Region {
        Region::whole(self.from.shape(tensor))
    }

    pub(super) fn hold(&mut self, tensor: TensorId, device: usize, region: Region, held_as: TensorId) {
        let devices = self.device_names.len();
        self.holdings.entry(tensor).or_insert_with(|| vec![Vec::new(); devices])[device].push((region, held_as));
    }

    pub(super) fn held(&self, tensor: TensorId, device: usize) -> &[(Region, TensorId)] {
        self.holdings.get(&tensor).map_or(&[], |devices| devices[device].as_slice())
    }

    /// A name that no tensor has.
    pub(super) fn unique(&mut self, wanted: String) -> String {
        self.names.unique(wanted)
    }

    /// Adds a node with one output on a device; `name` is that of the output, and of the node unless given.
    pub(super) fn add(
        &mut self,
        device: usize,
        node_name: Option<String>,
        name: String,
        op: Op,
        inputs: Vec<TensorId>,
    ) -> Result<TensorId, ShardError> {
        let types: Vec<&TensorType> = inputs.iter().map(|input| self.to.tensor_type(*input)).collect();
        let output_type = infer(&op, &types)
            .map_err(|error| ShardError::IllTyped { node: name.clone(), problem: error.to_string() })?
            .swap_remove(0);
        let name = self.unique(name);
        let node_name = node_name.unwrap_or_else(|| name.clone());
        let output = self.to.add_tensor(name, output_type);
        let node = self.to.add_node(node_name, op, inputs, vec![output]);
        self.place(node, device);
        Ok(output)
    }

    fn place(&mut self, node: NodeId, device: usize) {
        self.devices.insert(node, device);
        self.origins.extend(self.origin.map(|origin| (node, origin)));
        self.events.push(Event::Compute(node));
    }

    /// The elements `part` of a tensor `source` that holds `region`, on a device.
    fn slice(
        &mut self,
        device: usize,
        source: TensorId,
        region: &Region,
        part: &Region,
    ) -> Result<TensorId, ShardError> {
        if region == part {
            return Ok(source);
        }
        let op = assemble::slice(region, part);
        let name = format!("{}{part}", base_name(&self.to.tensor(source).name));
        self.add(device, None, name, op, vec![source])
    }

    /// Brings the part that each device needs to it.
    pub(super) fn materialise(&mut self, tensor: TensorId, needs: &[Option<Region>]) -> Result<(), ShardError> {
        let held: Vec<Vec<Region>> = (0..needs.len())
            .map(|device| self.held(tensor, device).iter().map(|(region, _)| *region).collect())
            .collect();
        let mut wanted = Vec::new();
        for (device, need) in needs.iter().enumerate() {
            let Some(need) = need else { continue };
            if held[device].iter().any(|region| region.contains(need)) {
                continue;
            }
            match pieces(&held, device, need, &|a, b| self.cluster.link(a, b).is_some()) {
                Some(found) => wanted.push((device, *need, found)),
                None => return self.materialise_by_hops(tensor, device, need, needs),
            }
        }
        self.exchange(
            wanted
                .iter()
                .map(|(device, need, found)| {
                    let sources = found
                        .iter()
                        .map(|piece| (piece.region, piece.device, self.held(tensor, piece.device)[piece.held]));
                    (*device, *need, sources.collect())
                })
                .collect(),
            Some(tensor),
        )
        .map(|_| ())
    }

    /// Takes what has no direct link to a device there from hop to hop; then everything else.
    fn materialise_by_hops(
        &mut self,
        tensor: TensorId,
        device: usize,
        need: &Region,
        needs: &[Option<Region>],
    ) -> Result<(), ShardError> {
        let held: Vec<Vec<Region>> = (0..needs.len())
            .map(|device| self.held(tensor, device).iter().map(|(region, _)| *region).collect())
            .collect();
        let missing = || ShardError::Missing { tensor: self.from.tensor(tensor).name.clone(), part: need.to_string() };
        let found = pieces(&held, device, need, &|_, _| true).ok_or_else(missing)?;
        let routes = found.iter().map(|piece| match piece.device == device {
            true => Some(Vec::new()),
            false => route(self.cluster, piece.device, device),
        });
        let routes: Vec<Vec<usize>> = routes.collect::<Option<_>>().ok_or_else(missing)?;
        for (piece, route) in found.iter().zip(routes).filter(|(_, route)| route.len() > 1) {
            for hop in route {
                let mut there = vec![None; needs.len()];
                there[hop] = Some(piece.region);
                self.materialise(tensor, &there)?;
            }
        }
        self.materialise(tensor, needs)
    }

    /// Cuts, exchanges and joins pieces: for each (device, need, pieces with owner and where they lie). With `tensor`
    /// the joined boxes become holdings of it; the pieces are always returned as they arrived.
    #[allow(clippy::type_complexity, reason = "local to this file; a type for each level would hide the shape")]
    pub(super) fn exchange(
        &mut self,
        wanted: Vec<(usize, Region, Vec<(Region, usize, (Region, TensorId))>)>,
        tensor: Option<TensorId>,
    ) -> Result<Vec<Vec<TensorId>>, ShardError> {
        let mut slices: HashMap<(TensorId, Region, usize), TensorId> = HashMap::new();
        let mut transfers = Vec::new();
        let mut arrived = Vec::with_capacity(wanted.len());
        for (device, _, sources) in &wanted {
            let mut parts = Vec::with_capacity(sources.len());
            for (region, owner, (held_region, held_as)) in sources {
                let key = (*held_as, *region, *owner);
                let part = match slices.get(&key) {
                    Some(part) => *part,
                    None => self.slice(*owner, *held_as, held_region, region)?,
                };
                slices.insert(key, part);
                if owner != device {
                    transfers.push(Transfer { tensor: part, from: *owner, to: *device });
                }
                parts.push(part);
            }
            arrived.push(parts);
        }
        if !transfers.is_empty() {
            let elements = |transfer: &Transfer| self.to.tensor_type(transfer.tensor).element_count() as u64;
            let sent: u64 = transfers.iter().map(elements).sum();
            tensor.into_iter().for_each(|tensor| *self.travelling.entry(tensor).or_default() += sent);
            self.events.push(Event::Exchange(transfers));
        }
        if let Some(tensor) = tensor {
            for ((device, need, sources), parts) in wanted.iter().zip(&arrived) {
                let regions: Vec<Region> = sources.iter().map(|(region, _, _)| *region).collect();
                let joint = joint(need, &regions, &(0..regions.len()).collect::<Vec<_>>());
                let name = self.from.tensor(tensor).name.clone();
                let Some(joint) = joint else {
                    return Err(ShardError::Missing { tensor: name, part: need.to_string() });
                };
                let name = format!("{}@{}", name, self.device_names[*device]);
                let joined = self.join(*device, &joint, parts, &name)?;
                self.hold(tensor, *device, *need, joined);
            }
        }
        Ok(arrived)
    }

    fn join(&mut self, device: usize, joint: &Joint, parts: &[TensorId], name: &str) -> Result<TensorId, ShardError> {
        match joint {
            Joint::Piece(index) => Ok(parts[*index]),
            Joint::Concat { axis, parts: inner } => {
                let inputs =
                    inner.iter().map(|joint| self.join(device, joint, parts, name)).collect::<Result<Vec<_>, _>>()?;
                self.add(device, None, name.to_string(), Op::Concat { axis: *axis }, inputs)
            }
        }
    }

    /// The tensor of the new graph that holds exactly `part` on a device that has it.
    pub(super) fn operand(&mut self, tensor: TensorId, device: usize, part: &Region) -> Result<TensorId, ShardError> {
        if self.from.value(tensor).is_some() {
            return self.constant(tensor, part);
        }
        let held = self.held(tensor, device);
        let found = held.iter().find(|(region, _)| region == part);
        let Some((region, id)) = found.or_else(|| held.iter().find(|(region, _)| region.contains(part))).copied()
        else {
            let tensor = self.from.tensor(tensor).name.clone();
            return Err(ShardError::Missing { tensor, part: part.to_string() });
        };
        let slice = self.slice(device, id, &region, part)?;
        if region != *part {
            self.hold(tensor, device, *part, slice);
        }
        Ok(slice)
    }

    /// Splits a node as its strategy says, or only these rows of its result.
    pub(super) fn split(
        &mut self,
        partition: &Partition,
        id: NodeId,
        rows: Option<(usize, usize)>,
    ) -> Result<(), ShardError> {
        let strategy = partition.strategies.get(&id);
        let Some(strategy) = strategy.filter(|strategy| strategy.outputs.0.len() == self.device_names.len()) else {
            return Err(ShardError::NoStrategy(self.from.node_label(id)));
        };
        self.origin = Some(id);
        let outputs = match rows {
            None => {
                self.reroute(id, partition)?;
                strategy.outputs.clone()
            }
            Some(rows) => row_streaming::of_rows(&strategy.outputs, rows),
        };
        match &strategy.partial_sums {
            None => self.node(id, strategy.method, &outputs, outputs.only_device().is_some()),
            Some(partial_sums) => self.sum(id, &outputs, partial_sums, rows),
        }
    }

    /// Takes the operands of a node to the intermediate shardings that the partition chose for them.
    fn reroute(&mut self, id: NodeId, partition: &Partition) -> Result<(), ShardError> {
        for (position, tensor) in self.from.node(id).inputs.iter().enumerate() {
            for relay in partition.relays.get(&(id, position)).into_iter().flatten() {
                self.materialise(*tensor, &relay.0)?;
            }
        }
        Ok(())
    }

    /// Brings together what each device needs of the operands. `needs[operand][device]`.
    pub(super) fn gather(&mut self, id: NodeId, needs: &[Vec<Option<Region>>]) -> Result<(), ShardError> {
        let from = self.from;
        for (tensor, needs) in from.node(id).inputs.iter().zip(needs) {
            if from.value(*tensor).is_none() {
                self.materialise(*tensor, needs)?;
            }
        }
        Ok(())
    }

    /// Brings what each device needs for these parts of a node there: how it is restricted to them.
    fn bring(&mut self, id: NodeId, outputs: &Sharding) -> Result<Vec<(usize, Restriction)>, ShardError> {
        let from = self.from;
        let mut shards = Vec::new();
        let mut needs = vec![vec![None; self.device_names.len()]; from.node(id).inputs.len()];
        for (device, region) in outputs.parts() {
            let restriction = restrict::restrict(from, id, &region)
                .ok_or_else(|| ShardError::NotRestrictable { node: from.node_label(id), part: region.to_string() })?;
            for (needs, part) in needs.iter_mut().zip(&restriction.operands) {
                needs[device] = *part;
            }
            shards.push((device, restriction));
        }
        self.gather(id, &needs)?;
        Ok(shards)
    }

    /// Brings the operands of a node to where its strategy wants them.
    pub(super) fn bring_operands(&mut self, partition: &Partition, id: NodeId) -> Result<(), ShardError> {
        let strategy = partition.strategies.get(&id).ok_or_else(|| ShardError::NoStrategy(self.from.node_label(id)))?;
        self.origin = Some(id);
        self.reroute(id, partition)?;
        self.bring(id, &strategy.outputs).map(drop)
    }

    /// Splits a node by its result: every device computes its part.
    /// `alone` says whether it has no other parts than these.
    pub(super) fn node(
        &mut self,
        id: NodeId,
        method: Method,
        outputs: &Sharding,
        alone: bool,
    ) -> Result<(), ShardError> {
        let from = self.from;
        let node = from.node(id);
        let shards = self.bring(id, outputs)?;
        for (device, restriction) in shards {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (tensor, part) in node.inputs.iter().zip(&restriction.operands) {
                if let Some(part) = part {
                    inputs.push(self.operand(*tensor, device, part)?);
                }
            }
            // A concatenation of one part is that part.
            let op = match restriction.op {
                Op::Concat { .. } if inputs.len() == 1 => Op::Identity,
                op => op,
            };
            self.shard(id, method, (device, &restriction.results), op, inputs, alone)?;
        }
        Ok(())
    }

    /// Adds one shard of a node, with all of its outputs.
    #[expect(clippy::too_many_arguments, reason = "what a part is, where it comes from and where it goes")]
    fn shard(
        &mut self,
        id: NodeId,
        method: Method,
        (device, results): (usize, &[Region]),
        op: Op,
        inputs: Vec<TensorId>,
        alone: bool,
    ) -> Result<(), ShardError> {
        let from = self.from;
        let node = from.node(id);
        let types: Vec<&TensorType> = inputs.iter().map(|input| self.to.tensor_type(*input)).collect();
        let ill_typed = |problem: String| ShardError::IllTyped { node: from.node_label(id), problem };
        let output_types = infer(&op, &types).map_err(|error| ill_typed(error.to_string()))?;
        let suffix = if alone { String::new() } else { format!("@{}", self.device_names[device]) };
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for ((output, region), output_type) in node.outputs.iter().zip(results).zip(output_types) {
            if from.shape(*output).iter().all(|extent| *extent > 0) && output_type.shape != region.shape() {
                return Err(ill_typed(format!("{region} became {:?}", output_type.shape)));
            }
            let name = self.unique(format!("{}{suffix}", from.tensor(*output).name));
            let tensor = self.to.add_tensor(name, output_type);
            self.hold(*output, device, *region, tensor);
            outputs.push(tensor);
        }
        // One of several pieces or bands has a name of its own.
        let name = self.node_names.unique(format!("{}{suffix}", node.name));
        let new = self.to.add_node(name, op, inputs, outputs);
        self.labels.insert(new, (node.name.clone(), method));
        self.place(new, device);
        Ok(())
    }

    /// Brings the graph's outputs to where they are wanted, under their names.
    fn finish(&mut self, device: usize) -> Result<(), ShardError> {
        let from = self.from;
        let mut holders: Option<HashMap<String, TensorId>> = None;
        for output in &from.outputs {
            let whole = self.whole(*output);
            if from.value(*output).is_none() {
                let mut needs = vec![None; self.device_names.len()];
                needs[device] = Some(whole);
                self.materialise(*output, &needs)?;
            }
            let tensor = self.operand(*output, device, &whole)?;
            let name = &from.tensor(*output).name;
            if self.to.tensor(tensor).name != *name {
                let to = &self.to;
                let named = || to.tensor_ids().map(|id| (to.tensor(id).name.clone(), id)).collect();
                let holders = holders.get_or_insert_with(named);
                let old = to.tensor(tensor).name.clone();
                // A tensor that was added since has a name of its own.
                if let Some(holder) = holders.insert(name.clone(), tensor) {
                    holders.insert(old.clone(), holder);
                    self.to.rename_tensor(holder, old);
                }
                self.to.rename_tensor(tensor, name.clone());
            }
            self.to.outputs.push(tensor);
        }
        Ok(())
    }
}

/// The name of a tensor without the box that a slice has added.
fn base_name(name: &str) -> &str {
    name.split_once("[").map_or(name, |(base, _)| base)
}
