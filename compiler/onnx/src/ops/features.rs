//! Operators of ai.onnx.ml that prepare features and name results: chosen columns, missing numbers, categories, kernels
//! of support vectors, tables of scores.

use super::microsoft::only;
use super::ml::{along, not_transformed, numbers, rows};
use crate::importer::{Converter, NodeContext};
use crate::words;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::op::{BinaryOp, Op, ReduceKind, UnaryOp};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "ArrayFeatureExtractor" => chosen_features,
        "Binarizer" => binarizer,
        "FeatureVectorizer" => joined_features,
        "Imputer" => imputer,
        "LabelEncoder" => label_encoder,
        "OneHotEncoder" => one_hot_encoder,
        "SVMRegressor" => support_vector_regressor,
        "ZipMap" => zip_map,
        _ => return None,
    })
}

/// ONNX ai.onnx.ml ArrayFeatureExtractor-1: columns by their numbers; a vector is one row.
fn chosen_features(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &[])?;
    let (x, indices) = (context.input(0)?, context.input(1)?);
    let count = context.tensor_type(indices).element_count();
    let indices = context.value(Op::Reshape { shape: vec![count] }, &[indices])?;
    let rank = context.shape(x).len();
    let axis = rank.checked_sub(1).ok_or_else(|| context.refuse("its input is a scalar, expected features"))?;
    let chosen = context.value(Op::Gather { axis }, &[x, indices])?;
    match rank {
        1 => context.emit(Op::Reshape { shape: vec![1, count] }, vec![chosen]),
        _ => context.bind(&[chosen]),
    }
}

/// Whether an element is NaN, which is all that differs from itself.
fn not_a_number(context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
    let is_number = context.binary(BinaryOp::Equal, x, x)?;
    context.unary(UnaryOp::Not, is_number)
}

/// ONNX ai.onnx.ml Binarizer-1: 1 above the threshold, else 0.
fn binarizer(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["threshold"])?;
    let x = context.input(0)?;
    let threshold = f64::from(context.attributes.float("threshold", 0.0)?);
    let threshold = context.number(threshold, x)?;
    let above = context.binary(BinaryOp::Greater, x, threshold)?;
    let (zero, one) = (context.number(0.0, x)?, context.number(1.0, x)?);
    context.emit(Op::Where, vec![above, one, zero])
}

/// ONNX ai.onnx.ml FeatureVectorizer-1: columns beside each other, in `f32`.
fn joined_features(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["inputdimensions"])?;
    let sizes = context.attributes.sizes("inputdimensions", 1)?;
    let mut parts = Vec::new();
    for (at, x) in context.all_inputs()?.into_iter().enumerate() {
        let rows = rows(context, x)?;
        if sizes.as_ref().is_some_and(|sizes| sizes.get(at) != Some(&rows.features)) {
            return Err(context.refuse(format!("input {at} has {} features, not those of its list", rows.features)));
        }
        parts.push(rows.x);
    }
    context.emit(Op::Concat { axis: 1 }, parts)
}

/// ONNX ai.onnx.ml Imputer-1: a number instead of what is missing, which is NaN or another number.
fn imputer(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["imputed_value_floats", "imputed_value_int64s", "replaced_value_float", "replaced_value_int64"])?;
    let x = context.input(0)?;
    let features = context.shape(x).last().copied().unwrap_or(1);
    let (missing, imputed) = match context.promised(x).is_float() {
        true => {
            let replaced = context.attributes.float("replaced_value_float", 0.0)?;
            let missing = match replaced.is_nan() {
                true => not_a_number(context, x)?,
                false => {
                    let replaced = context.number(f64::from(replaced), x)?;
                    context.binary(BinaryOp::Equal, x, replaced)?
                }
            };
            (missing, along(context, "imputed_value_floats", features, 0.0)?)
        }
        false => {
            let list = context.attributes.ints("imputed_value_int64s")?.unwrap_or_default().to_vec();
            if ![1, features].contains(&list.len()) {
                let message =
                    format!("attribute `imputed_value_int64s` has {} entries for {features} features", list.len());
                return Err(context.refuse(message));
            }
            let replaced = context.attributes.int("replaced_value_int64", 0)?;
            let replaced = context.add_constant("replaced", Value::i64(Vec::new(), vec![replaced]))?;
            let missing = context.binary(BinaryOp::Equal, x, replaced)?;
            (missing, context.add_constant("imputed", Value::i64([list.len()], list))?)
        }
    };
    context.emit(Op::Where, vec![missing, imputed, x])
}

/// Of each element whether it is each of these, `[.., keys]` of 0 and 1 in `f32`.
fn matches(context: &mut NodeContext<'_>, x: TensorId, keys: Data) -> Result<TensorId, Diagnostic> {
    let count = keys.len();
    let is_nan = matches!(&keys, Data::F32(keys) if keys.iter().all(|key| key.is_nan()));
    let mut shape = context.shape(x);
    shape.push(1);
    let x = context.value(Op::Reshape { shape }, &[x])?;
    let is_key = match is_nan {
        true => not_a_number(context, x)?,
        false => {
            let keys = context.add_constant("keys", Value { shape: vec![count], data: keys })?;
            context.binary(BinaryOp::Equal, x, keys)?
        }
    };
    context.value(Op::Cast { to: ElementType::F32 }, &[is_key])
}

/// A list of numbers of an attribute: `NAMEint64s`, `NAMEfloats` or, since version 4, `NAMEtensor`.
fn listed(context: &NodeContext<'_>, name: &str) -> Result<Data, Diagnostic> {
    if let Some(list) = context.attributes.long_ints(&format!("{name}_int64s"))? {
        return Ok(Data::I64(list.to_vec()));
    }
    if let Some(list) = context.attributes.floats(&format!("{name}_floats"))? {
        return Ok(Data::F32(list.to_vec()));
    }
    if let Some(tensor) = context.attributes.tensor(&format!("{name}_tensor"))? {
        return Ok(context.importer.read_tensor(tensor)?.data);
    }
    Err(context.attributes.unsupported("words are not supported, only numbers for numbers"))
}

/// ONNX ai.onnx.ml LabelEncoder-2, -4: a number for each number of a list, and one for all others.
fn label_encoder(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &[
            "default_float",
            "default_int64",
            "default_string",
            "default_tensor",
            "keys_floats",
            "keys_int64s",
            "keys_tensor",
            "values_floats",
            "values_int64s",
            "values_tensor",
        ],
    )?;
    let x = context.input(0)?;
    let (keys, values) = (listed(context, "keys")?, listed(context, "values")?);
    if keys.len() != values.len() || keys.is_empty() {
        return Err(context.refuse(format!("{} values for {} keys", values.len(), keys.len())));
    }
    let element = values.element();
    let other = match context.attributes.tensor("default_tensor")? {
        Some(tensor) => context.importer.read_tensor(tensor)?.data.cast(element),
        None if element.is_float() => Data::F32(vec![context.attributes.float("default_float", -0.0)?]).cast(element),
        None => Data::I64(vec![context.attributes.int("default_int64", -1)?]).cast(element),
    };
    if other.len() != 1 {
        return Err(context.refuse("its default should be one number"));
    }
    let shape = context.shape(x);
    let axis = shape.len();
    let count = keys.len();
    let found = matches(context, x, keys.cast(context.promised(x)))?;
    let values = context.add_constant("values", Value { shape: vec![count], data: values })?;
    let other = context.add_constant("default", Value { shape: Vec::new(), data: other })?;
    let at = context.value(Op::ArgMax { axis, keep_dims: false, select_last: false }, &[found])?;
    let value = context.value(Op::Gather { axis: 0 }, &[values, at])?;
    let any = context.value(Op::Reduce { kind: ReduceKind::Max, axes: vec![axis], keep_dims: false }, &[found])?;
    let any = context.value(Op::Cast { to: ElementType::Bool }, &[any])?;
    context.emit(Op::Where, vec![any, value, other])
}

/// ONNX ai.onnx.ml OneHotEncoder-1 of numbers: 1 for the category that an element is, nothing but 0 if it is none.
fn one_hot_encoder(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["cats_int64s", "zeros"])?;
    context.attributes.flag("zeros", true)?;
    let x = context.input(0)?;
    let categories = context.attributes.long_ints("cats_int64s")?.unwrap_or_default().to_vec();
    if categories.is_empty() {
        return Err(context.attributes.unsupported("categories that are words are not supported, only numbers"));
    }
    let categories = Data::I64(categories).cast(context.promised(x));
    let found = matches(context, x, categories)?;
    context.emit(Op::Identity, vec![found])
}

/// What a kernel says of each row and each support vector, `[rows, vectors]`.
fn kernel(context: &mut NodeContext<'_>, x: TensorId, vectors: TensorId) -> Result<TensorId, Diagnostic> {
    let parameters = context.attributes.floats("kernel_params")?.unwrap_or_default();
    let parameter = |at: usize| f64::from(parameters.get(at).copied().unwrap_or(0.0));
    let (gamma, offset, degree) = (parameter(0), parameter(1), parameter(2));
    let kind = context.attributes.string("kernel_type", "LINEAR")?;
    let [count, features] = context.shape(vectors)[..] else { return Err(context.refuse("vectors are no matrix")) };
    let gamma = context.number(gamma, x)?;
    if kind == "RBF" {
        let rows = context.shape(x)[0];
        let row = context.value(Op::Reshape { shape: vec![rows, 1, features] }, &[x])?;
        let vectors = context.value(Op::Reshape { shape: vec![1, count, features] }, &[vectors])?;
        let difference = context.binary(BinaryOp::Sub, row, vectors)?;
        let squares = context.binary(BinaryOp::Mul, difference, difference)?;
        let over = Op::Reduce { kind: ReduceKind::Sum, axes: vec![2], keep_dims: false };
        let square = context.value(over, &[squares])?;
        let product = context.binary(BinaryOp::Mul, square, gamma)?;
        let less = context.unary(UnaryOp::Neg, product)?;
        return context.unary(UnaryOp::Exp, less);
    }
    let vectors = context.value(Op::Transpose { permutation: vec![1, 0] }, &[vectors])?;
    let product = context.value(Op::MatMul, &[x, vectors])?;
    if kind == "LINEAR" {
        return Ok(product);
    }
    let scaled = context.binary(BinaryOp::Mul, product, gamma)?;
    let offset = context.number(offset, x)?;
    let sum = context.binary(BinaryOp::Add, scaled, offset)?;
    match kind.as_str() {
        "POLY" => {
            let degree = context.number(degree, x)?;
            context.binary(BinaryOp::Pow, sum, degree)
        }
        "SIGMOID" => context.unary(UnaryOp::Tanh, sum),
        other => Err(context.attributes.unknown_word("kernel_type", other, &["LINEAR", "POLY", "RBF", "SIGMOID"])),
    }
}

/// ONNX ai.onnx.ml SVMRegressor-1; of one class it says 1 inside and -1 outside.
fn support_vector_regressor(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(
        context,
        &[
            "coefficients",
            "kernel_params",
            "kernel_type",
            "n_supports",
            "one_class",
            "post_transform",
            "rho",
            "support_vectors",
        ],
    )?;
    not_transformed(context)?;
    let x = context.input(0)?;
    let rows = rows(context, x)?;
    let supports = usize::try_from(context.attributes.int("n_supports", 0)?).unwrap_or(0);
    let coefficients = numbers(context, "coefficients")?.unwrap_or_default();
    let terms = if supports > 0 { supports } else { rows.features };
    let vectors = numbers(context, "support_vectors")?.unwrap_or_default();
    if coefficients.len() != terms || supports > 0 && Some(vectors.len()) != supports.checked_mul(rows.features) {
        let message = format!("{} coefficients and {} numbers of vectors", coefficients.len(), vectors.len());
        return Err(context.refuse(format!("{message} for {supports} vectors of {} features", rows.features)));
    }
    let measured = match supports {
        0 => rows.x,
        _ => {
            let vectors = context.add_constant("vectors", Value::f32([supports, rows.features], vectors))?;
            kernel(context, rows.x, vectors)?
        }
    };
    let coefficients = context.add_constant("coefficients", Value::f32([terms, 1], coefficients))?;
    let product = context.value(Op::MatMul, &[measured, coefficients])?;
    let rho = along(context, "rho", 1, 0.0)?;
    let sum = context.binary(BinaryOp::Add, product, rho)?;
    if !context.attributes.flag("one_class", false)? {
        return context.emit(Op::Identity, vec![sum]);
    }
    let zero = context.number(0.0, sum)?;
    let inside = context.binary(BinaryOp::Greater, sum, zero)?;
    let (one, less) = (context.number(1.0, sum)?, context.number(-1.0, sum)?);
    context.emit(Op::Where, vec![inside, one, less])
}

/// Says what numbers stand for that ONNX has words for.
pub(super) fn note_words(context: &mut NodeContext<'_>, what: &str, words: &[String]) {
    let name = printable(context.attributes.node.output.first().map_or("", String::as_str));
    context.importer.graph.remarks.push(words::remark(format!("`{name}` {what}"), words.iter()));
}

/// ONNX ai.onnx.ml ZipMap-1 makes a list of maps from classes to scores; the scores are returned as they are.
fn zip_map(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    only(context, &["classlabels_int64s", "classlabels_strings"])?;
    let words = match context.attributes.ints("classlabels_int64s")? {
        Some(classes) => classes.iter().map(ToString::to_string).collect(),
        None => context.attributes.strings("classlabels_strings")?.unwrap_or_default(),
    };
    note_words(context, "is a table with a column for each class, not a list of maps", &words);
    let x = context.input(0)?;
    context.emit(Op::Identity, vec![x])
}
