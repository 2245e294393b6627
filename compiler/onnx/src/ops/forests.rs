//! Trees as ai.onnx.ml writes them since version 5, which replaces its regressor and classifier: nodes and leaves in lists
//! of their own.

use super::microsoft::only;
use super::ml::{Rows, Trees, grown, rows};
use crate::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op, ReduceKind, TreeEnsemble, UnaryOp};
use partita_ir::graph::values;

/// The lists of TreeEnsemble, in which a leaf has one number for one target, and a node may ask whether a feature is one
/// of several numbers: the same as several nodes that ask for one each.
struct Listed<'a> {
    features: &'a [i64],
    modes: Vec<u8>,
    splits: Vec<f32>,
    missing: &'a [i64],
    /// Where true leads and where false does, and whether that is a leaf.
    children: [(&'a [i64], &'a [i64]); 2],
    /// For each node of mode 6 the numbers that it asks for, in the order of the nodes.
    members: Vec<Vec<f32>>,
    leaf_targets: &'a [i64],
    leaf_weights: Vec<f32>,
    roots: &'a [i64],
}

/// The mode of a node that asks whether a feature is a member of a set.
const MEMBER: u8 = 6;

impl<'a> Listed<'a> {
    fn read(context: &NodeContext<'a>) -> Result<Listed<'a>, Diagnostic> {
        let list =
            |name: &str| -> Result<&'a [i64], Diagnostic> { Ok(context.attributes.long_ints(name)?.unwrap_or(&[])) };
        let tensor = |name: &str| -> Result<Vec<f32>, Diagnostic> {
            match context.attributes.tensor(name)? {
                Some(tensor) => Ok(values::to_f32(&context.importer.read_tensor(tensor)?.data)),
                None => Ok(Vec::new()),
            }
        };
        let modes = tensor("nodes_modes")?;
        let mut members: Vec<Vec<f32>> =
            tensor("membership_values")?.split(|x| x.is_nan()).map(<[f32]>::to_vec).collect();
        // The list ends with a separator.
        members.pop_if(|last| last.is_empty());
        let listed = Listed {
            features: list("nodes_featureids")?,
            modes: modes.iter().map(|mode| *mode as u8).collect(),
            splits: tensor("nodes_splits")?,
            missing: list("nodes_missing_value_tracks_true")?,
            children: [
                (list("nodes_truenodeids")?, list("nodes_trueleafs")?),
                (list("nodes_falsenodeids")?, list("nodes_falseleafs")?),
            ],
            members,
            leaf_targets: list("leaf_targetids")?,
            leaf_weights: tensor("leaf_weights")?,
            roots: list("tree_roots")?,
        };
        let count = listed.modes.len();
        let [(yes, yes_leaf), (no, no_leaf)] = listed.children;
        let lengths = [listed.features.len(), listed.splits.len(), yes.len(), yes_leaf.len(), no.len(), no_leaf.len()];
        if lengths != [count; 6] || count == 0 || listed.leaf_targets.len() != listed.leaf_weights.len() {
            return Err(
                context.refuse(format!("lists of {lengths:?} entries for {count} nodes, or of leaves that differ"))
            );
        }
        let sets = listed.modes.iter().filter(|mode| **mode == MEMBER).count();
        if sets != listed.members.len() {
            return Err(context.refuse(format!("{} sets for {sets} nodes that ask for members", listed.members.len())));
        }
        Ok(listed)
    }

    /// As the kernel reads them: nodes, leaves, and further nodes of sets.
    fn trees(self, context: &NodeContext<'_>, features: usize, targets: usize) -> Result<Trees, Diagnostic> {
        let (count, leaves) = (self.modes.len(), self.leaf_weights.len());
        let further: usize = self.members.iter().map(|set| set.len().saturating_sub(1)).sum();
        if i32::try_from(count + leaves + further).is_err() {
            return Err(context.refuse(format!("{count} nodes and {leaves} leaves are too many")));
        }
        let wrong = |at: usize| {
            context.refuse(format!(
                "node {at} leads to a child that is not there, or asks for no one of {features} features"
            ))
        };
        let below = |number: i64, count: usize| usize::try_from(number).ok().filter(|number| *number < count);
        let mut behind = Vec::with_capacity(4 * further);
        let mut behind_thresholds = Vec::with_capacity(further);
        let mut nodes: Vec<i32> = Vec::with_capacity(4 * (count + leaves + further));
        let mut thresholds = Vec::with_capacity(count + leaves + further);
        let mut sets = self.members.into_iter();
        for (at, mode) in self.modes.iter().enumerate() {
            let child = |(places, are_leaves): (&[i64], &[i64])| match are_leaves[at] {
                0 => below(places[at], count),
                _ => below(places[at], leaves).map(|leaf| count + leaf),
            };
            let (Some(feature), [Some(yes), Some(no)]) = (below(self.features[at], features), self.children.map(child))
            else {
                return Err(wrong(at));
            };
            let is_missing = self.missing.get(at).is_some_and(|missing| *missing != 0);
            let row = |comparison: usize, no: usize| {
                [feature, comparison + if is_missing { 8 } else { 0 }, yes, no].map(|number| number as i32)
            };
            match *mode {
                mode if mode < MEMBER => {
                    nodes.extend(row(usize::from(mode) + 1, no));
                    thresholds.push(self.splits[at]);
                }
                MEMBER => {
                    // Nothing is equal to what is no number.
                    let set = sets.next().filter(|set| !set.is_empty()).unwrap_or_else(|| vec![f32::NAN]);
                    for (place, member) in set.iter().enumerate() {
                        let next = count + leaves + behind_thresholds.len() + usize::from(place > 0);
                        let row = row(5, if place + 1 < set.len() { next } else { no });
                        let (rows, values) = match place {
                            0 => (&mut nodes, &mut thresholds),
                            _ => (&mut behind, &mut behind_thresholds),
                        };
                        rows.extend(row);
                        values.push(*member);
                    }
                }
                other => return Err(context.attributes.unsupported(format!("a node of mode {other}"))),
            }
        }
        for (at, target) in self.leaf_targets.iter().enumerate() {
            if below(*target, targets).is_none() {
                return Err(context.refuse(format!("leaf {at} is for target {target} of {targets}")));
            }
            nodes.extend([0, 0, at as i32, at as i32 + 1]);
            thresholds.push(0.0);
        }
        nodes.extend(behind);
        thresholds.extend(behind_thresholds);
        let mut roots = Vec::with_capacity(self.roots.len());
        for (tree, root) in self.roots.iter().enumerate() {
            let root = below(*root, count);
            roots.push(root.ok_or_else(|| context.refuse(format!("tree {tree} has a root that is not there")))? as i32);
        }
        if roots.is_empty() || leaves == 0 {
            return Err(context.refuse(format!("{} trees with {leaves} leaves", roots.len())));
        }
        let targets = self.leaf_targets.iter().map(|target| *target as i32).collect();
        Ok(Trees { nodes, thresholds, roots, targets, weights: self.leaf_weights })
    }
}

/// ONNX ai.onnx.ml TreeEnsemble-5.
pub(super) fn tree_ensemble(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &[
            "aggregate_function",
            "leaf_targetids",
            "leaf_weights",
            "membership_values",
            "n_targets",
            "nodes_falseleafs",
            "nodes_falsenodeids",
            "nodes_featureids",
            "nodes_hitrates",
            "nodes_missing_value_tracks_true",
            "nodes_modes",
            "nodes_splits",
            "nodes_trueleafs",
            "nodes_truenodeids",
            "post_transform",
            "tree_roots",
        ],
    )?;
    let x = context.input(0)?;
    let promised = context.promised(x);
    let Rows { x, features } = rows(context, x)?;
    let targets = usize::try_from(context.attributes.int("n_targets", 1)?).unwrap_or(0);
    let function = context.attributes.int("aggregate_function", 1)?;
    let kind = match function {
        0 | 1 => ReduceKind::Sum,
        2 => ReduceKind::Min,
        3 => ReduceKind::Max,
        other => return Err(context.refuse(format!("attribute `aggregate_function` is {other}, expected 0 to 3"))),
    };
    let listed = Listed::read(context)?;
    let trees = listed.trees(context, features, targets)?;
    let (mut result, count) = grown(context, x, TreeEnsemble { targets, kind }, trees)?;
    if function == 0 {
        let count = context.number(count as f64, result)?;
        result = context.binary(BinaryOp::Div, result, count)?;
    }
    result = match context.attributes.int("post_transform", 0)? {
        0 => result,
        1 => context.value(Op::Softmax { axis: 1 }, &[result])?,
        2 => context.unary(UnaryOp::Sigmoid, result)?,
        other => return Err(context.attributes.unsupported(format!("`post_transform` of {other}, only 0, 1 and 2"))),
    };
    context.importer.promise(result, promised);
    context.bind(&[result])
}
