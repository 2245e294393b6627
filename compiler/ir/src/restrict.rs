//! Which part of each operand a part of a node's result needs, and the operator that computes just that part: what
//! [`crate::space`] says of an operator, for a node.

use crate::graph::{Activation, BinaryOp, ElementType, Graph, NodeId, Op};
use crate::region::Region;
use crate::space::{AxisKind, Part, Ranges, Space, iteration_space, on_part, summand};

/// A node restricted to a part of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Restriction {
    /// The operator on the restricted operands.
    pub op: Op,
    /// Part of each operand; `None` for an operand that is not needed.
    pub operands: Vec<Option<Region>>,
    /// Part of each result, the first as asked for.
    pub results: Vec<Region>,
    /// The loops of the whole node.
    pub space: Space,
    /// Multiply-adds.
    pub macs: u64,
}

/// The iteration space of a node.
pub fn space(graph: &Graph, id: NodeId) -> Space {
    iteration_space(&graph.node(id).op, &shapes(graph, id))
}

fn shapes(graph: &Graph, id: NodeId) -> Vec<&[usize]> {
    graph.node(id).inputs.iter().map(|input| graph.shape(*input)).collect()
}

/// The node restricted to `result`, a part of its first output; `None` if that cannot be computed by itself.
pub fn restrict(graph: &Graph, id: NodeId, result: &Region) -> Option<Restriction> {
    let (node, shapes) = (graph.node(id), shapes(graph, id));
    let space = iteration_space(&node.op, &shapes);
    if Region::whole(graph.shape(*node.outputs.first()?)) == *result {
        return Some(Restriction {
            op: node.op.clone(),
            operands: shapes.iter().map(|shape| Some(Region::whole(shape))).collect(),
            results: node.outputs.iter().map(|output| Region::whole(graph.shape(*output))).collect(),
            macs: space.macs(&space.whole()),
            space,
        });
    }
    let ranges = space.ranges(0, result)?;
    let operands = operands(&space, &ranges)?;
    let results = space.results.iter().map(|access| space.touched(access, &ranges)?).collect::<Option<Vec<_>>>()?;
    let op = on_part(&node.op, &Part { shapes: &shapes, operands: &operands, result })?;
    let macs = space.macs(&ranges);
    Some(Restriction { op, operands, results, space, macs })
}

/// The part of the result at a position that is computed with a part of the first; `None` if that cannot be computed by
/// itself. One at a time: a node may have thousands of results, and who asks for each would ask for all of them each time.
pub fn result_part(graph: &Graph, id: NodeId, first: &Region, at: usize) -> Option<Region> {
    let outputs = &graph.node(id).outputs;
    let whole = |at: usize| Some(Region::whole(graph.shape(*outputs.get(at)?)));
    if whole(0)? == *first {
        return whole(at);
    }
    let space = space(graph, id);
    space.touched(space.results.get(at)?, &space.ranges(0, first)?)?
}

/// What loops over `ranges` read; `None` if that is scattered.
fn operands(space: &Space, ranges: &Ranges) -> Option<Vec<Option<Region>>> {
    space.operands.iter().map(|access| space.touched(access, ranges)).collect()
}

/// One of several partial sums whose sum is the whole result.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialSum {
    /// The operator without activation and residual.
    pub op: Op,
    /// Part of each operand; `None` for one that this partial sum leaves out (bias and residual of all but the first).
    pub operands: Vec<Option<Region>>,
    /// Factor of the partial sum, 1 if there is nothing to do.
    pub scale: f32,
    /// What the sum goes through.
    pub activation: Activation,
    /// Position of an operand that is added to the sum.
    pub residual: Option<usize>,
    /// The loops of the whole node.
    pub space: Space,
    /// Multiply-adds.
    pub macs: u64,
}

/// The part of a node's result that comes from the part `x` of its first operand (input splitting); `None` if the
/// result is not a sum over such parts. `result` is the part of the result that is wanted: all of it, or some rows of a
/// convolution's. `first` says whether this partial sum carries the bias.
pub fn partial_sum(graph: &Graph, id: NodeId, x: &Region, result: &Region, first: bool) -> Option<PartialSum> {
    let node = graph.node(id);
    let summand = summand(&node.op)?;
    // Partial sums of real numbers only: means of integers truncate.
    if graph.tensor_type(*node.inputs.first()?).element != ElementType::F32 {
        return None;
    }
    let shapes = shapes(graph, id);
    let space = iteration_space(&node.op, &shapes);
    let mut ranges = space.ranges(0, result)?;
    let read = space.operands.first().filter(|read| space.has(read, AxisKind::Sum))?;
    for (axis, index) in read.indices.iter().enumerate() {
        if (x.begin(axis), x.end(axis)) != (0, shapes[0][axis].max(1)) {
            space.narrow(&mut ranges, index, (x.begin(axis), x.end(axis)), AxisKind::Sum)?;
        }
    }
    let mut operands = operands(&space, &ranges)?;
    let op = on_part(&summand.op, &Part { shapes: &shapes, operands: &operands, result })?;
    // What does not depend on the axis that is summed over is added once.
    for (position, (part, access)) in operands.iter_mut().zip(&space.operands).enumerate() {
        let summed = space.has(access, AxisKind::Sum) || position == 0;
        *part = part.filter(|_| summed || first && summand.residual != Some(position));
    }
    let share = || {
        let sums = space.axes.iter().zip(&ranges).filter(|(axis, _)| axis.kind == AxisKind::Sum);
        let (part, whole) =
            sums.fold((1, 1), |(part, whole), (axis, range)| (part * (range.1 - range.0), whole * axis.extent));
        part as f32 / whole as f32
    };
    Some(PartialSum {
        op,
        operands,
        scale: if summand.mean { share() } else { 1.0 },
        activation: summand.activation,
        residual: summand.residual,
        macs: space.macs(&ranges),
        space,
    })
}

impl PartialSum {
    /// What computes it, as a part of a node whose result is `result`.
    pub fn restriction(self, result: Region) -> Restriction {
        Restriction { op: self.op, operands: self.operands, results: vec![result], space: self.space, macs: self.macs }
    }
}

/// The operator that sums partial sums, with what follows the sum.
pub fn sum(activation: Activation) -> Op {
    Op::Binary(BinaryOp::Add, activation)
}
