//! `Loop` and `Scan` whose number of turns is known while importing: the nodes of the body, once for each turn.

use std::collections::HashSet;

use onnx_protobuf::GraphProto;

use super::branches::{MAX_BRANCHES, fixable, results_of};
use super::expressions::part;
use super::importer::{Importer, NodeContext};
use super::nodes::{MAX_UNROLLED_NODES, Placed, node_label};
use super::refusals::unsupported;
use super::{inputs, order, tensors};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::op::Op;
use partita_ir::graph::{Data, TensorId, TensorType, Value};

/// The body of a loop, ready to be added many times.
struct Body<'a> {
    graph: &'a GraphProto,
    nodes: Vec<Placed>,
    order: Vec<usize>,
    opset: i64,
    label: String,
}

impl<'a> Body<'a> {
    /// Checks the body; its constants are added here, once for all turns.
    fn new(context: &mut NodeContext<'a>) -> Result<Body<'a>, Diagnostic> {
        let Some(graph) = context.attributes.graph("body")? else {
            return Err(context.refuse("attribute `body` is missing"));
        };
        let opset = context.opset();
        let label = node_label(context.attributes.index, context.attributes.node);
        let importer = &mut *context.importer;
        importer.depth += 1;
        let reserved = importer.reserve_graph(graph);
        importer.depth -= 1;
        reserved?;
        let nodes = importer.functions.expand(graph.node.clone(), opset)?;
        let constants = graph.initializer.iter().map(|initializer| initializer.name.as_str());
        let arguments = graph.input.iter().map(|input| input.name.as_str());
        let results = nodes.iter().flat_map(|placed| &placed.node.output).map(String::as_str);
        let mut own: HashSet<&str> = HashSet::new();
        for name in arguments.chain(constants).chain(results).filter(|name| !name.is_empty()) {
            if !own.insert(name) || importer.tensor(name).is_some() {
                let message = format!("tensor `{}` in the body of {label} is made twice", printable(name));
                return Err(Diagnostic::new("E0110", message));
            }
        }
        if let Some(diagnostic) = unsupported(&nodes, importer.operators).diagnostic {
            return Err(diagnostic.note(format!("in `body` of {label}")));
        }
        importer.note_reads(nodes.iter().map(|placed| &placed.node));
        importer.note_reads_of_results(&graph.output);
        let order = {
            let given: HashSet<&str> = graph
                .input
                .iter()
                .map(|input| input.name.as_str())
                .chain(graph.initializer.iter().map(|initializer| initializer.name.as_str()))
                .chain(graph.sparse_initializer.iter().map(|initializer| initializer.values.name.as_str()))
                .collect();
            order::topological(&nodes, |name| given.contains(name) || importer.tensor(name).is_some())?
        };
        importer.depth += 1;
        let added = importer
            .add_initializers(graph.initializer.clone())
            .and_then(|()| importer.add_sparse_initializers(&graph.sparse_initializer));
        importer.depth -= 1;
        added?;
        Ok(Body { graph, nodes, order, opset, label })
    }

    fn too_long(&self) -> Diagnostic {
        let message =
            format!("{}: its turns, one after the other, are more than {MAX_UNROLLED_NODES} nodes", self.label);
        Diagnostic::new("E0112", message)
    }

    /// Whether the condition that a turn is given is the one that it makes: the loop ends with its number of turns.
    fn keeps_its_condition(&self) -> bool {
        let given = self.graph.input.get(1).map(|condition| condition.name.as_str());
        let made = self.graph.output.first().map(|condition| condition.name.as_str());
        let passes_on = |placed: &Placed| {
            let is = |names: &[String], name: Option<&str>| names.first().map(String::as_str) == name;
            placed.node.op_type == "Identity" && is(&placed.node.input, given) && is(&placed.node.output, made)
        };
        given.is_some() && (given == made || self.nodes.iter().any(passes_on))
    }

    /// One turn: its results for these arguments.
    fn turn(&self, importer: &mut Importer, arguments: &[TensorId]) -> Result<Vec<TensorId>, Diagnostic> {
        if !importer.reserve_turn(self.nodes.len() + 1) {
            return Err(self.too_long());
        }
        for (argument, id) in self.graph.input.iter().zip(arguments) {
            importer.know(&argument.name, *id);
        }
        importer.depth += 1;
        let added = self.order.iter().try_for_each(|position| importer.add_node(&self.nodes[*position]));
        importer.depth -= 1;
        importer.opset = self.opset;
        added.map_err(|diagnostic| diagnostic.note(format!("in `body` of {}", self.label)))?;
        let results = results_of(importer, self.graph);
        importer.forget(self.graph.input.iter().map(|argument| argument.name.as_str()));
        importer.forget(self.nodes.iter().flat_map(|placed| &placed.node.output).map(String::as_str));
        results
    }

    /// After the last turn.
    fn forget(&self, importer: &mut Importer) {
        importer.forget(self.graph.initializer.iter().map(|initializer| initializer.name.as_str()));
        importer.forget(self.graph.sparse_initializer.iter().map(|initializer| initializer.values.name.as_str()));
    }

    /// Type of a result without elements, of a loop that has no turns: as far as the body declares it.
    fn empty(&self, context: &NodeContext<'_>, result: usize, axis: usize) -> Result<Value, Diagnostic> {
        let declared = &self.graph.output[result];
        let shape = inputs::declared_extents(declared, &Default::default());
        let shape = shape.and_then(|shape| shape.into_iter().collect::<Option<Vec<usize>>>());
        let (Some(element), Some(mut shape)) = (tensors::declared_element(declared), shape) else {
            let name = printable(&declared.name);
            let message = format!("it has no turns, and the type of `{name}` is not declared");
            return Err(context.attributes.unsupported(message));
        };
        if axis > shape.len() {
            return Err(context.refuse(format!("axis {axis} of {shape:?}")));
        }
        shape.insert(axis, 0);
        Ok(Value::empty(TensorType::new(element, shape)))
    }
}

/// Loops nest like branches.
fn check_depth(context: &NodeContext<'_>) -> Result<(), Diagnostic> {
    if context.importer.depth >= MAX_BRANCHES {
        return Err(context.refuse(format!("loops are nested deeper than {MAX_BRANCHES} levels")));
    }
    Ok(())
}

/// A scalar that must be known.
fn known(context: &NodeContext<'_>, tensor: TensorId, what: &str) -> Result<Data, Diagnostic> {
    match context.importer.graph.value(tensor) {
        Some(value) if value.data.len() == 1 => Ok(value.data.clone()),
        Some(value) => Err(context.refuse(format!("{what} is {}, expected a scalar", value.tensor_type()))),
        None => {
            let name = printable(&context.importer.graph.tensor(tensor).name);
            let message = format!("{what} (`{name}`) is computed at run time; only one known before is supported");
            let refusal = context.attributes.unsupported(message);
            Err(fixable(context, tensor).into_iter().fold(refusal, Diagnostic::note))
        }
    }
}

fn truth(context: &NodeContext<'_>, tensor: TensorId) -> Result<bool, Diagnostic> {
    match known(context, tensor, "its condition")? {
        Data::Bool(truth) => Ok(truth[0]),
        other => Err(context.refuse(format!("its condition is {}, expected bool", other.element().name()))),
    }
}

/// After so many turns a loop that cannot end earlier is measured: what else is wrong with it has been seen by then.
const MEASURED_TURNS: usize = 256;

/// Loop-1, -11, -13, ..: at most as many turns as the first operand says, while the condition holds.
pub fn unroll(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    check_depth(context)?;
    let most = match context.optional_input(0) {
        None => usize::MAX,
        Some(count) => match known(context, count, "its number of turns")? {
            Data::I64(count) => usize::try_from(count[0]).unwrap_or(0),
            other => {
                return Err(context.refuse(format!("its number of turns is {}, expected i64", other.element().name())));
            }
        },
    };
    let mut goes_on = match context.optional_input(1) {
        None => true,
        Some(condition) => truth(context, condition)?,
    };
    let mut state = (2..context.inputs.len()).map(|position| context.input(position)).collect::<Result<Vec<_>, _>>()?;
    let first_own = context.importer.graph.tensor_ids().len();
    let body = Body::new(context)?;
    let (arguments, results) = (body.graph.input.len(), body.graph.output.len());
    if arguments != state.len() + 2 || results < state.len() + 1 {
        let message =
            format!("its body takes {arguments} and makes {results} tensors for {} that are kept", state.len());
        return Err(context.refuse(message));
    }
    let mut stacks: Vec<Vec<TensorId>> = vec![Vec::new(); results - 1 - state.len()];
    let mut turn = 0;
    while goes_on && turn < most {
        let left = (body.nodes.len() + 1).saturating_mul(most - turn);
        if turn == MEASURED_TURNS && body.keeps_its_condition() && !context.importer.has_room(left) {
            return Err(body.too_long());
        }
        let number = context.add_constant("turn", Value::i64(Vec::new(), vec![turn as i64]))?;
        let truth_value = Value { shape: Vec::new(), data: Data::Bool(vec![true]) };
        let condition = context.add_constant("goes_on", truth_value)?;
        let arguments: Vec<TensorId> = [number, condition].into_iter().chain(state.iter().copied()).collect();
        let made = body.turn(context.importer, &arguments)?;
        // Of the last turn nobody asks whether it goes on.
        goes_on = turn + 1 == most || truth(context, made[0])?;
        let kept = state.len();
        for (stack, one) in stacks.iter_mut().zip(&made[1 + kept..]) {
            stack.push(*one);
        }
        state.copy_from_slice(&made[1..1 + kept]);
        turn += 1;
    }
    for (number, stack) in stacks.iter().enumerate() {
        let position = 1 + context.inputs.len().saturating_sub(2) + number;
        let stacked = stacked(context, &body, stack, position, 0)?;
        state.push(stacked);
    }
    body.forget(context.importer);
    context.bind_branch(&state, first_own)
}

/// What the turns make, along a new axis.
fn stacked(
    context: &mut NodeContext<'_>,
    body: &Body<'_>,
    parts: &[TensorId],
    result: usize,
    axis: usize,
) -> Result<TensorId, Diagnostic> {
    if parts.is_empty() {
        let empty = body.empty(context, result, axis)?;
        return context.add_constant("empty", empty);
    }
    let mut rows = Vec::with_capacity(parts.len());
    for part in parts {
        let mut shape = context.shape(*part);
        if axis > shape.len() {
            return Err(context.refuse(format!("axis {axis} of results {shape:?}")));
        }
        shape.insert(axis, 1);
        rows.push(context.value(Op::Reshape { shape }, &[*part])?);
    }
    if rows.len() == 1 {
        return Ok(rows[0]);
    }
    context.value(Op::Concat { axis }, &rows)
}

/// One index of an axis, without that axis.
fn row(context: &mut NodeContext<'_>, x: TensorId, axis: usize, index: usize) -> Result<TensorId, Diagnostic> {
    let mut shape = context.shape(x);
    let one = context.value(part(&shape, axis, index, 1), &[x])?;
    shape.remove(axis);
    context.value(Op::Reshape { shape }, &[one])
}

/// An attribute of one flag or axis per scanned tensor.
fn list(context: &NodeContext<'_>, name: &str, count: usize) -> Result<Vec<i64>, Diagnostic> {
    let list = context.attributes.ints(name)?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
    if list.len() != count {
        return Err(context.refuse(format!("attribute `{name}` has {} entries, expected {count}", list.len())));
    }
    Ok(list)
}

/// A tensor that is read or made in slices.
struct Scanned {
    axis: usize,
    reverse: bool,
}

/// Scan-9, -11, ..: one turn for each slice of the scanned operands; Scan-8 does so for each sample of a batch.
pub fn scan(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    check_depth(context)?;
    let batched = context.opset() < 9;
    if batched && context.optional_input(0).is_some() {
        return Err(context.attributes.unsupported("sequences of several lengths are not supported"));
    }
    let operands: Vec<TensorId> = (usize::from(batched)..context.inputs.len())
        .map(|position| context.input(position))
        .collect::<Result<Vec<_>, _>>()?;
    let scanned = context.attributes.int("num_scan_inputs", 0)?;
    let Some(kept) =
        usize::try_from(scanned).ok().filter(|count| *count > 0).and_then(|count| operands.len().checked_sub(count))
    else {
        return Err(context.refuse(format!("it scans {scanned} of {} operands", operands.len())));
    };
    let first_own = context.importer.graph.tensor_ids().len();
    let body = Body::new(context)?;
    let (arguments, results) = (body.graph.input.len(), body.graph.output.len());
    if arguments != operands.len() || results < kept {
        let message = format!("its body takes {arguments} and makes {results} tensors, {kept} of which are kept");
        return Err(context.refuse(message));
    }
    let (sources, makes) = (operands.len() - kept, results - kept);
    let directions = list(context, if batched { "directions" } else { "scan_input_directions" }, sources)?;
    let axes = if batched { vec![0; sources] } else { list(context, "scan_input_axes", sources)? };
    let mut reads = Vec::with_capacity(sources);
    for ((operand, axis), reverse) in operands[kept..].iter().zip(axes).zip(directions) {
        let rank = context.shape(*operand).len() - usize::from(batched && !context.shape(*operand).is_empty());
        reads.push(Scanned { axis: context.axis(axis, rank)?, reverse: reverse != 0 });
    }
    let made_axes = if batched { vec![0; makes] } else { list(context, "scan_output_axes", makes)? };
    let made_directions = if batched { vec![0; makes] } else { list(context, "scan_output_directions", makes)? };
    let made = (made_axes, made_directions);
    let results = if batched {
        let batch = context.shape(operands[kept])[0];
        if operands.iter().any(|operand| context.shape(*operand).first() != Some(&batch)) || batch == 0 {
            return Err(context.refuse("its operands have different batches"));
        }
        let mut samples: Vec<Vec<TensorId>> = Vec::with_capacity(batch);
        for sample in 0..batch {
            let of_sample = operands.iter().map(|operand| row(context, *operand, 0, sample));
            let of_sample = of_sample.collect::<Result<Vec<_>, _>>()?;
            samples.push(scan_once(context, &body, &of_sample, kept, &reads, &made)?);
        }
        let mut results = Vec::with_capacity(kept + makes);
        for result in 0..kept + makes {
            let parts: Vec<TensorId> = samples.iter().map(|sample| sample[result]).collect();
            results.push(stacked(context, &body, &parts, result, 0)?);
        }
        results
    } else {
        scan_once(context, &body, &operands, kept, &reads, &made)?
    };
    body.forget(context.importer);
    context.bind_branch(&results, first_own)
}

/// All turns of one scan: the states that are left, then what was made along its axes.
fn scan_once(
    context: &mut NodeContext<'_>,
    body: &Body<'_>,
    operands: &[TensorId],
    kept: usize,
    reads: &[Scanned],
    (axes, directions): &(Vec<i64>, Vec<i64>),
) -> Result<Vec<TensorId>, Diagnostic> {
    let extents: Vec<usize> =
        operands[kept..].iter().zip(reads).map(|(operand, read)| context.shape(*operand)[read.axis]).collect();
    let turns = extents[0];
    if extents.iter().any(|extent| *extent != turns) {
        return Err(context.refuse(format!("what it scans has {extents:?} slices")));
    }
    let mut state = operands[..kept].to_vec();
    let mut stacks: Vec<Vec<TensorId>> = vec![Vec::new(); axes.len()];
    for turn in 0..turns {
        let mut arguments = state.clone();
        for (operand, read) in operands[kept..].iter().zip(reads) {
            let index = if read.reverse { turns - 1 - turn } else { turn };
            arguments.push(row(context, *operand, read.axis, index)?);
        }
        let made = body.turn(context.importer, &arguments)?;
        state.copy_from_slice(&made[..kept]);
        for (stack, one) in stacks.iter_mut().zip(&made[kept..]) {
            stack.push(*one);
        }
    }
    for (number, mut stack) in stacks.into_iter().enumerate() {
        if directions[number] != 0 {
            stack.reverse();
        }
        let rank = stack.first().map_or(1, |one| context.shape(*one).len() + 1);
        let axis = context.axis(axes[number], rank)?;
        state.push(stacked(context, body, &stack, kept + number, axis)?);
    }
    Ok(state)
}
