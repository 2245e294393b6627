//! Operators of ai.onnx.ml that exporters of scikit-learn, LightGBM and XGBoost write: trees, linear models, scales.

use std::collections::{HashMap, HashSet};

use super::features::note_words;
use super::microsoft::only;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::op::{Activation, BinaryOp, Gemm, Op, ReduceKind, TreeEnsemble, UnaryOp};
use partita_ir::graph::{ElementType, TensorId, Value, values};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "LinearClassifier" => linear_classifier,
        "LinearRegressor" => linear_regressor,
        "Normalizer" => normalizer,
        "Scaler" => scaler,
        "TreeEnsemble" => super::forests::tree_ensemble,
        "TreeEnsembleClassifier" => tree_classifier,
        "TreeEnsembleRegressor" => tree_regressor,
        _ => return super::features::converter(op_type),
    })
}

/// Attributes of nodes of trees.
const NODES: [&str; 12] = [
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
];

/// Refuses attributes that are neither of trees' nodes nor among these.
fn known(context: &NodeContext<'_>, own: &[&str]) -> Result<(), Diagnostic> {
    let names = context.attributes.node.attribute.iter().map(|attribute| attribute.name.as_str());
    match names.into_iter().find(|name| !NODES.contains(name) && !own.contains(name)) {
        Some(other) => {
            Err(context.attributes.unsupported(format!("attribute `{}` is not supported", printable(other))))
        }
        None => Ok(()),
    }
}

/// The operand as rows of features, in `f32`.
pub(super) struct Rows {
    pub(super) x: TensorId,
    pub(super) features: usize,
}

pub(super) fn rows(context: &mut NodeContext<'_>, x: TensorId) -> Result<Rows, Diagnostic> {
    let x = match context.tensor_type(x).element.is_float() {
        true => context.as_f32(x)?,
        false => context.emit_own(Op::Cast { to: ElementType::F32 }, vec![x])?[0],
    };
    match context.shape(x)[..] {
        [features] if features > 0 => {
            Ok(Rows { x: context.value(Op::Reshape { shape: vec![1, features] }, &[x])?, features })
        }
        [_, features] if features > 0 => Ok(Rows { x, features }),
        _ => Err(context.refuse(format!("its input is {}, expected rows of features", context.tensor_type(x)))),
    }
}

/// The first operand.
fn first_rows(context: &mut NodeContext<'_>) -> Result<Rows, Diagnostic> {
    let x = context.input(0)?;
    rows(context, x)
}

/// A list of numbers, which may be a tensor, too.
pub(super) fn numbers(context: &NodeContext<'_>, name: &str) -> Result<Option<Vec<f32>>, Diagnostic> {
    if let Some(list) = context.attributes.floats(name)? {
        return Ok(Some(list.to_vec()));
    }
    match context.attributes.tensor(&format!("{name}_as_tensor"))? {
        Some(tensor) => Ok(Some(values::to_f32(&context.importer.read_tensor(tensor)?.data))),
        None => Ok(None),
    }
}

/// One number for all features, or as many as there are.
pub(super) fn along(
    context: &mut NodeContext<'_>,
    name: &str,
    count: usize,
    otherwise: f32,
) -> Result<TensorId, Diagnostic> {
    let list = numbers(context, name)?.filter(|list| !list.is_empty()).unwrap_or_else(|| vec![otherwise]);
    if list.len() != 1 && list.len() != count {
        return Err(context.refuse(format!("attribute `{name}` has {} entries, expected {count}", list.len())));
    }
    context.add_constant(name, Value::f32([list.len()], list))
}

fn transformed(context: &mut NodeContext<'_>, scores: TensorId) -> Result<TensorId, Diagnostic> {
    match context.attributes.string("post_transform", "NONE")?.as_str() {
        "NONE" => Ok(scores),
        "LOGISTIC" => context.unary(UnaryOp::Sigmoid, scores),
        "SOFTMAX" => context.value(Op::Softmax { axis: 1 }, &[scores]),
        other => Err(context.attributes.unknown_word("post_transform", other, &["NONE", "LOGISTIC", "SOFTMAX"])),
    }
}

/// The classes: numbers, or for words their places in the list.
fn labels(context: &mut NodeContext<'_>, name: &str) -> Result<Vec<i64>, Diagnostic> {
    let labels = match context.attributes.long_ints(name)? {
        Some(labels) if !labels.is_empty() => labels.to_vec(),
        _ => {
            let words = context.attributes.long_strings("classlabels_strings")?.unwrap_or_default();
            note_words(context, "is the place of a class in the model's list of words, from 0 on", &words);
            (0..words.len() as i64).collect()
        }
    };
    match labels.len() {
        0 => Err(context.refuse("it has no list of classes")),
        1 => Err(context.attributes.unsupported("one class is not supported")),
        _ => Ok(labels),
    }
}

/// The class with the highest score of each row.
fn best(context: &mut NodeContext<'_>, labels: Vec<i64>, scores: TensorId) -> Result<TensorId, Diagnostic> {
    let labels = context.add_constant("labels", Value::i64([labels.len()], labels))?;
    let op = Op::ArgMax { axis: 1, keep_dims: false, select_last: false };
    let index = context.value(op, &[scores])?;
    context.value(Op::Gather { axis: 0 }, &[labels, index])
}

/// `(x - offset) * scale`
fn scaler(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["offset", "scale"])?;
    let Rows { x, features } = first_rows(context)?;
    let (offset, scale) = (along(context, "offset", features, 0.0)?, along(context, "scale", features, 1.0)?);
    let moved = context.binary(BinaryOp::Sub, x, offset)?;
    context.emit(Op::Binary(BinaryOp::Mul, Activation::None), vec![moved, scale])
}

/// Rows divided by their norm; what is nothing but zeros stays so.
fn normalizer(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["norm"])?;
    let Rows { x, .. } = first_rows(context)?;
    let over = |kind| Op::Reduce { kind, axes: vec![1], keep_dims: true };
    let norm = match context.attributes.string("norm", "MAX")?.as_str() {
        "L1" => {
            let size = context.unary(UnaryOp::Abs, x)?;
            context.value(over(ReduceKind::Sum), &[size])?
        }
        "L2" => context.value(over(ReduceKind::L2), &[x])?,
        "MAX" => context.value(over(ReduceKind::Max), &[x])?,
        other => return Err(context.attributes.unknown_word("norm", other, &["MAX", "L1", "L2"])),
    };
    let (zero, one) = (context.number(0.0, x)?, context.number(1.0, x)?);
    let is_zero = context.binary(BinaryOp::Equal, norm, zero)?;
    let norm = context.value(Op::Where, &[is_zero, one, norm])?;
    context.emit(Op::Binary(BinaryOp::Div, Activation::None), vec![x, norm])
}

/// `x * coefficients' + intercepts`, with as many targets as there are.
fn linear(context: &mut NodeContext<'_>, targets: usize) -> Result<TensorId, Diagnostic> {
    let Rows { x, features } = first_rows(context)?;
    let weights = numbers(context, "coefficients")?.unwrap_or_default();
    if Some(weights.len()) != targets.checked_mul(features) {
        let message = format!("{} coefficients for {features} features and {targets} results", weights.len());
        return Err(context.attributes.unsupported(message));
    }
    let weights = context.add_constant("coefficients", Value::f32([targets, features], weights))?;
    let bias = along(context, "intercepts", targets, 0.0)?;
    let gemm = Gemm { transpose_a: false, transpose_b: true, alpha: 1.0, beta: 1.0, activation: Activation::None };
    context.value(Op::Gemm(gemm), &[x, weights, bias])
}

fn linear_regressor(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["coefficients", "intercepts", "post_transform", "targets"])?;
    let targets = usize::try_from(context.attributes.int("targets", 1)?).unwrap_or(0);
    let result = linear(context, targets)?;
    not_transformed(context)?;
    context.bind(&[result])
}

/// Who makes regressors transforms nothing, and onnxruntime does so only of several targets.
pub(super) fn not_transformed(context: &NodeContext<'_>) -> Result<(), Diagnostic> {
    match context.attributes.string("post_transform", "NONE")?.as_str() {
        "NONE" => Ok(()),
        other => Err(context.attributes.unknown_word("post_transform", other, &["NONE"])),
    }
}

fn linear_classifier(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &["classlabels_ints", "classlabels_strings", "coefficients", "intercepts", "multi_class", "post_transform"],
    )?;
    let labels = labels(context, "classlabels_ints")?;
    let scores = linear(context, labels.len())?;
    let class = best(context, labels, scores)?;
    let scores = transformed(context, scores)?;
    context.bind(&[class, scores])
}

/// Trees as the kernel reads them.
pub(super) struct Trees {
    pub(super) nodes: Vec<i32>,
    pub(super) thresholds: Vec<f32>,
    pub(super) roots: Vec<i32>,
    pub(super) targets: Vec<i32>,
    pub(super) weights: Vec<f32>,
}

/// ONNX's lists; what leaves say is named `target` or `class`.
fn trees(context: &NodeContext<'_>, leaves: &str, features: usize, targets: usize) -> Result<Trees, Diagnostic> {
    let list = |name: &str| -> Result<&[i64], Diagnostic> { Ok(context.attributes.long_ints(name)?.unwrap_or(&[])) };
    let ids = list("nodes_nodeids")?;
    let of_node = |name: &str| -> Result<&[i64], Diagnostic> {
        let list = list(name)?;
        if list.len() == ids.len() {
            return Ok(list);
        }
        Err(context.refuse(format!("attribute `{name}` has {} entries for {} nodes", list.len(), ids.len())))
    };
    let (of_tree, feature) = (of_node("nodes_treeids")?, of_node("nodes_featureids")?);
    let children = [of_node("nodes_truenodeids")?, of_node("nodes_falsenodeids")?];
    let missing = list("nodes_missing_value_tracks_true")?;
    let modes = context.attributes.long_strings("nodes_modes")?.unwrap_or_default();
    let thresholds = numbers(context, "nodes_values")?.unwrap_or_default();
    if [modes.len(), thresholds.len()] != [ids.len(); 2] || i32::try_from(ids.len()).is_err() || ids.is_empty() {
        let message = format!("{} modes and {} values for {} nodes", modes.len(), thresholds.len(), ids.len());
        return Err(context.refuse(message));
    }
    let mut places: HashMap<(i64, i64), usize> = HashMap::new();
    let (mut seen, mut roots) = (HashSet::new(), Vec::new());
    for (at, (tree, id)) in of_tree.iter().zip(ids).enumerate() {
        if places.insert((*tree, *id), at).is_some() {
            return Err(context.refuse(format!("node {id} of tree {tree} stands twice in its lists")));
        }
        if seen.insert(*tree) {
            roots.push(at as i32);
        }
    }
    let weights = numbers(context, &format!("{leaves}_weights"))?.unwrap_or_default();
    let [tree_of, node_of, target_of] =
        [list(&format!("{leaves}_treeids"))?, list(&format!("{leaves}_nodeids"))?, list(&format!("{leaves}_ids"))?];
    if [tree_of.len(), node_of.len(), target_of.len()] != [weights.len(); 3] || i32::try_from(weights.len()).is_err() {
        return Err(context.refuse(format!("lists of leaves for {} weights differ in length", weights.len())));
    }
    let mut said: Vec<(usize, i32, f32)> = Vec::with_capacity(weights.len());
    for (at, weight) in weights.iter().enumerate() {
        let key = (tree_of[at], node_of[at]);
        let target =
            i32::try_from(target_of[at]).ok().filter(|target| (0..targets as i64).contains(&i64::from(*target)));
        let (Some(node), Some(target)) = (places.get(&key), target) else {
            let message = format!("a weight of target {} in node {} of tree {}", target_of[at], key.1, key.0);
            return Err(context.refuse(format!("{message}, which is not there")));
        };
        said.push((*node, target, *weight));
    }
    said.sort_by_key(|(node, ..)| *node);
    let mut nodes = Vec::with_capacity(4 * ids.len());
    for (at, mode) in modes.iter().enumerate() {
        let comparison = match mode.as_str() {
            "LEAF" => {
                let begin = said.partition_point(|(node, ..)| *node < at);
                let end = said.partition_point(|(node, ..)| *node <= at);
                nodes.extend([0, 0, begin as i32, end as i32]);
                continue;
            }
            "BRANCH_LEQ" => 1,
            "BRANCH_LT" => 2,
            "BRANCH_GTE" => 3,
            "BRANCH_GT" => 4,
            "BRANCH_EQ" => 5,
            "BRANCH_NEQ" => 6,
            other => return Err(context.attributes.unsupported(format!("a node of mode `{}`", printable(other)))),
        };
        let is_missing = missing.get(at).is_some_and(|missing| *missing != 0);
        let of_child = |list: &[i64]| places.get(&(of_tree[at], list[at])).map(|place| *place as i32);
        let feature = i32::try_from(feature[at]).ok().filter(|at| usize::try_from(*at).is_ok_and(|at| at < features));
        let (Some(feature), [Some(first), Some(second)]) = (feature, children.map(of_child)) else {
            let message = format!("node {} of tree {}", ids[at], of_tree[at]);
            return Err(
                context.refuse(format!("{message} has a child that is not there, or no one of {features} features"))
            );
        };
        nodes.extend([feature, comparison + if is_missing { 8 } else { 0 }, first, second]);
    }
    // A list without elements is no operand.
    said.extend(said.is_empty().then_some((0, 0, 0.0)));
    let (targets, weights) = said.iter().map(|(_, target, weight)| (*target, *weight)).unzip();
    Ok(Trees { nodes, thresholds, roots, targets, weights })
}

/// What the trees come to, `[rows, targets]`.
fn ensemble(context: &mut NodeContext<'_>, op: TreeEnsemble, leaves: &str) -> Result<(TensorId, usize), Diagnostic> {
    let Rows { x, features } = first_rows(context)?;
    let trees = trees(context, leaves, features, op.targets)?;
    grown(context, x, op, trees)
}

/// What trees that are read say of rows, `[rows, targets]`, and how many trees there are.
pub(super) fn grown(
    context: &mut NodeContext<'_>,
    x: TensorId,
    op: TreeEnsemble,
    trees: Trees,
) -> Result<(TensorId, usize), Diagnostic> {
    let Trees { nodes, thresholds, roots, targets, weights } = trees;
    let count = roots.len();
    let tables = [
        x,
        context.make_constant("nodes", [nodes.len() / 4, 4], nodes)?,
        context.make_constant("thresholds", [thresholds.len()], thresholds)?,
        context.make_constant("roots", [count], roots)?,
        context.make_constant("targets", [targets.len()], targets)?,
        context.make_constant("weights", [weights.len()], weights)?,
    ];
    Ok((context.emit_own(Op::TreeEnsemble(op), tables.to_vec())?[0], count))
}

/// ONNX ai.onnx.ml TreeEnsembleRegressor-1, -3, -5.
fn tree_regressor(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let own = [
        "aggregate_function",
        "base_values",
        "base_values_as_tensor",
        "n_targets",
        "target_ids",
        "target_nodeids",
        "target_treeids",
        "target_weights",
        "target_weights_as_tensor",
    ];
    known(context, &own)?;
    not_transformed(context)?;
    let targets = usize::try_from(context.attributes.int("n_targets", 1)?).unwrap_or(0);
    let function = context.attributes.string("aggregate_function", "SUM")?;
    let kind = match function.as_str() {
        "SUM" | "AVERAGE" => ReduceKind::Sum,
        "MIN" => ReduceKind::Min,
        "MAX" => ReduceKind::Max,
        other => {
            let known = ["SUM", "AVERAGE", "MIN", "MAX"];
            return Err(context.attributes.unknown_word("aggregate_function", other, &known));
        }
    };
    let (mut result, count) = ensemble(context, TreeEnsemble { targets, kind }, "target")?;
    if function == "AVERAGE" {
        let count = context.number(count as f64, result)?;
        result = context.binary(BinaryOp::Div, result, count)?;
    }
    let base = along(context, "base_values", targets, 0.0)?;
    context.emit(Op::Binary(BinaryOp::Add, Activation::None), vec![result, base])
}

/// ONNX ai.onnx.ml TreeEnsembleClassifier-1, -3, -5.
fn tree_classifier(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let own = [
        "base_values",
        "base_values_as_tensor",
        "class_ids",
        "class_nodeids",
        "class_treeids",
        "class_weights",
        "class_weights_as_tensor",
        "classlabels_int64s",
        "classlabels_strings",
    ];
    known(context, &own)?;
    let labels = labels(context, "classlabels_int64s")?;
    let ids: HashSet<i64> = context.attributes.long_ints("class_ids")?.unwrap_or(&[]).iter().copied().collect();
    let (mut result, base) = match (labels.len(), ids.contains(&0), ids.len()) {
        (2, true, 1) => return one_score(context, [labels[0], labels[1]]),
        (2, false, 1) => return Err(context.attributes.unsupported("weights of nothing but the second class")),
        (count, ..) => {
            let op = TreeEnsemble { targets: count, kind: ReduceKind::Sum };
            (ensemble(context, op, "class")?.0, along(context, "base_values", count, 0.0)?)
        }
    };
    // Of two classes, too, the higher score counts, as ONNX's reference says; onnxruntime asks whether the second is positive.
    result = context.binary(BinaryOp::Add, result, base)?;
    let class = best(context, labels, result)?;
    let scores = transformed(context, result)?;
    context.bind(&[class, scores])
}

/// Weights of one class of two are a score for the second against the first, as onnxruntime reads them: a share if none of
/// them is negative, else a distance from the border.
fn one_score(context: &mut NodeContext<'_>, labels: [i64; 2]) -> Result<(), Diagnostic> {
    let is_logistic = match context.attributes.string("post_transform", "NONE")?.as_str() {
        "NONE" => false,
        "LOGISTIC" => true,
        other => return Err(context.attributes.unknown_word("post_transform", other, &["NONE", "LOGISTIC"])),
    };
    let weights = numbers(context, "class_weights")?.unwrap_or_default();
    let base = numbers(context, "base_values")?.filter(|base| !base.is_empty()).unwrap_or_else(|| vec![0.0]);
    let [base] = base[..] else { return Err(context.attributes.unsupported("several base values for one score")) };
    let (sum, _) = ensemble(context, TreeEnsemble { targets: 1, kind: ReduceKind::Sum }, "class")?;
    let base = context.number(f64::from(base), sum)?;
    let score = context.binary(BinaryOp::Add, sum, base)?;
    let is_share = weights.iter().all(|weight| *weight >= 0.0);
    let mut other = context.unary(UnaryOp::Neg, score)?;
    if is_share && !is_logistic {
        let one = context.number(1.0, score)?;
        other = context.binary(BinaryOp::Sub, one, score)?;
    }
    let mut scores = context.value(Op::Concat { axis: 1 }, &[other, score])?;
    if is_logistic {
        scores = context.unary(UnaryOp::Sigmoid, scores)?;
    }
    let limit = context.number(if is_share { 0.5 } else { 0.0 }, score)?;
    let is_second = context.binary(BinaryOp::Greater, score, limit)?;
    let rows = context.shape(score)[0];
    let is_second = context.value(Op::Reshape { shape: vec![rows] }, &[is_second])?;
    let mut label = |label: i64| context.add_constant("label", Value::i64(Vec::new(), vec![label]));
    let (first, second) = (label(labels[0])?, label(labels[1])?);
    let class = context.value(Op::Where, &[is_second, second, first])?;
    context.bind(&[class, scores])
}
