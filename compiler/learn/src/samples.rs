//! Labelled samples, converted to the model's input.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::fit::{self, DataLayout};
use partita_files::data::{self, Arrays, Normalization};
use partita_ir::diagnostic::printable;
use partita_ir::graph::{ElementType, Graph, NodeId, Op, TensorId, TensorType, Value};

/// Samples of a data set.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Each the type of one sample of the model's input.
    pub inputs: Vec<Value>,
    /// Right class of each; none if the file has no labels.
    pub labels: Option<Vec<usize>>,
}

/// How the data lies in its file.
#[derive(Clone, Debug, Default)]
pub struct Preparation {
    /// Applied to every element.
    pub normalize: Option<Normalization>,
    /// Order of channels and space.
    pub layout: Option<DataLayout>,
    /// Samples that the graph answers together, 0 or 1 for one.
    pub batch: usize,
}

/// Reads up to `limit` samples: array `x`, the first dimension counting them, and labels `y`.
pub fn load(path: &Path, graph: &Graph, preparation: &Preparation, limit: Option<usize>) -> anyhow::Result<Samples> {
    let [input] = graph.given_inputs() else {
        bail!("labelled data needs a model with one input; this one has {}", graph.given_inputs().len());
    };
    let mut wanted = graph.tensor_type(*input).clone();
    if preparation.batch > 1
        && let Some(first) = wanted.shape.first_mut()
    {
        *first = 1;
    }
    let wanted = &wanted;
    let arrays = data::read_npz_for(path, &["x", "y"])?;
    let array = |name: &str| arrays.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    let x = array("x").with_context(|| format!("there is no array `x`, only {}", names(&arrays)))?;
    let count = *x.shape.first().context("array `x` is a scalar; its first dimension should count samples")?;
    ensure!(count > 0, "there are no samples");
    let labels = array("y").map(|y| labels(y, count)).transpose()?;
    let per_sample = x.data.len() / count;
    check_samples_shape(x, wanted, preparation)?;
    let count = limit.unwrap_or(count).min(count);
    let elements = data::to_f32(&x.data);
    if let Some(position) = elements.iter().take(count * per_sample).position(|element| !element.is_finite()) {
        bail!("sample {} of `x` holds {}; expected finite numbers", position / per_sample.max(1), elements[position]);
    }
    if wanted.element == ElementType::F32
        && preparation.normalize.is_none()
        && !scales_itself(graph)
        && !is_for_numbers_as_large(graph, &elements)
        && let Some(warning) = fit::unnormalised(&elements)
    {
        crate::progress::say(format_args!("warning: `{}`: {warning}", path.display()));
    }
    let inputs = elements
        .chunks_exact(per_sample.max(1))
        .take(count)
        .map(|sample| sample_value(preparation, sample, wanted))
        .collect::<anyhow::Result<Vec<Value>>>()?;
    Ok(Samples { inputs, labels: labels.map(|labels| labels.into_iter().take(count).collect()) })
}

/// Names of arrays, for a message: the first of them, if there are many.
fn names(arrays: &[(String, Value)]) -> String {
    let shown: Vec<String> = arrays.iter().take(MOST_NAMES).map(|(name, _)| printable(name)).collect();
    match arrays.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Most names in a message.
const MOST_NAMES: usize = 8;

/// Refuses samples whose shape differs from the input's in any axis; the input may count one sample, or none.
fn check_samples_shape(x: &Value, wanted: &TensorType, preparation: &Preparation) -> anyhow::Result<()> {
    let shape = fit::expected(&wanted.shape, preparation.layout);
    let sample = &x.shape[1..];
    if sample == shape || shape.first() == Some(&1) && sample == &shape[1..] {
        return Ok(());
    }
    // As if there were one sample, which is what the input counts.
    let one: Vec<usize> = std::iter::once(1).chain(sample.iter().copied()).collect();
    let found = if sample.len() == shape.len() { sample } else { &one };
    let hint = fit::hint(found, &wanted.shape, preparation.layout).map_or(String::new(), |hint| format!("; {hint}"));
    bail!("a sample of `x` has shape {sample:?}, but the model's input is {wanted}{hint}")
}

/// Whether the first thing that a model does with its input is arithmetic with constants, which may be its scale.
fn scales_itself(graph: &Graph) -> bool {
    let readers = graph.inputs.iter().flat_map(|input| graph.consumers(*input));
    readers.into_iter().any(|reader| matches!(graph.node(reader).op, Op::Binary(..) | Op::Unary(_)))
}

/// Largest response of a first layer, as a root of mean squares, to numbers of the size that it was trained on.
const LARGEST_RESPONSE: f64 = 16.0;

/// Whether the weights of the first layer are as small as a model has them that was trained on numbers as large as these:
/// what follows is of ordinary size.
fn is_for_numbers_as_large(graph: &Graph, elements: &[f32]) -> bool {
    let squares = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let input_square = squares(elements) / elements.len().max(1) as f64;
    let is_small = |reader: NodeId| {
        let node = graph.node(reader);
        let outputs = match (&node.op, node.inputs.get(1), node.outputs.first()) {
            (Op::Conv(_), Some(weights), _) => graph.shape(*weights).first().copied(),
            (Op::Gemm(_) | Op::MatMul, _, Some(output)) => graph.shape(*output).last().copied(),
            _ => None,
        };
        let weights = node.inputs.get(1).and_then(|weights| graph.f32_value(*weights));
        outputs.zip(weights).is_some_and(|(outputs, weights)| {
            (squares(weights) / outputs.max(1) as f64 * input_square).sqrt() < LARGEST_RESPONSE
        })
    };
    graph.inputs.iter().flat_map(|input| graph.consumers(*input)).any(is_small)
}

/// The arrays that feed the graph's inputs, in their order: by name, or any single array for a single input; in the model's
/// layout and scale.
pub fn bind(graph: &Graph, arrays: &Arrays, preparation: &Preparation) -> anyhow::Result<Vec<Value>> {
    let prepared = preparation.layout == Some(DataLayout::Nhwc) || preparation.normalize.is_some();
    ensure!(
        !prepared || graph.given_inputs().len() == 1,
        "--layout and --normalize are for models with one input; this one has {}",
        graph.given_inputs().len()
    );
    let bind_one = |input: &TensorId| {
        let tensor = graph.tensor(*input);
        let found = arrays.iter().find(|(name, _)| *name == tensor.name);
        let single = (graph.given_inputs().len() == 1 && arrays.len() == 1).then(|| &arrays[0]);
        let (_, value) = found.or(single).with_context(|| {
            let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
            format!("no array for input `{}`; the file has {}", tensor.name, names.join(", "))
        })?;
        let mut wanted = tensor.tensor_type.clone();
        if preparation.batch > 1
            && let Some(first) = wanted.shape.first_mut()
        {
            *first = preparation.batch;
        }
        let wanted = &wanted;
        if value.shape != fit::expected(&wanted.shape, preparation.layout) {
            let hint = fit::hint(&value.shape, &wanted.shape, preparation.layout);
            let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
            bail!("input `{}` is {wanted}, but its array has shape {:?}{hint}", tensor.name, value.shape);
        }
        if !prepared {
            data::converted(&value.data, wanted).with_context(|| format!("input `{}`", tensor.name))?;
            return Ok(value.clone());
        }
        let mut one = wanted.clone();
        let samples = one.shape.first().copied().unwrap_or(1).max(1);
        if let Some(first) = one.shape.first_mut() {
            *first = 1;
        }
        let elements = data::to_f32(&value.data);
        let chunks = elements.chunks_exact(one.element_count().max(1));
        let parts = chunks.map(|sample| sample_value(preparation, sample, &one)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(stacked(&parts, samples).swap_remove(0))
    };
    graph.given_inputs().iter().map(bind_one).collect()
}

/// Which group each sample belongs to, by an array of integers.
pub fn groups(path: &Path, array: &str, samples: usize) -> anyhow::Result<Vec<u32>> {
    let arrays = data::read_npz_for(path, &[array])?;
    let value = arrays.iter().find(|(name, _)| name == array).map(|(_, value)| value);
    let value = value.with_context(|| format!("there is no array `{array}`, only {}", names(&arrays)))?;
    ensure!(value.data.len() == samples, "there are {samples} samples but {} elements of `{array}`", value.data.len());
    ensure!(!value.data.element().is_float(), "groups `{array}` are floats; expected integers");
    Ok(data::to_f32(&value.data).into_iter().map(|group| group as i64 as u32).collect())
}

/// Samples stacked along their first dimension, `batch` of them in each; the last is repeated where too few are left.
pub fn stacked(samples: &[Value], batch: usize) -> Vec<Value> {
    let stack = |chunk: &[Value]| {
        let elements = (0..batch).filter_map(|index| chunk.get(index).or(chunk.last()));
        let elements: Vec<f32> = elements.flat_map(|sample| data::to_f32(&sample.data)).collect();
        let mut shape = chunk[0].shape.clone();
        if batch > 1 {
            shape[0] = batch;
        }
        Value { shape, data: data::from_f32(elements, chunk[0].data.element()) }
    };
    samples.chunks(batch.max(1)).map(stack).collect()
}

fn labels(y: &Value, count: usize) -> anyhow::Result<Vec<usize>> {
    let data = &y.data;
    if let [samples, classes] = y.shape[..]
        && samples == count
        && classes > 1
    {
        bail!(
            "labels `y` have shape {:?}, as if one-hot; expected the number of each class: save y.argmax(1)",
            y.shape
        );
    }
    ensure!(data.len() == count, "there are {count} samples but {} labels", data.len());
    if data.element().is_float() {
        bail!("labels `y` are floats; expected integers: save y.astype(\"int64\")");
    }
    let label = |(sample, label): (usize, f32)| {
        ensure!(label >= 0.0, "label {label} of sample {sample} is negative");
        Ok(label as usize)
    };
    data::to_f32(data).into_iter().enumerate().map(label).collect()
}

/// One sample in the model's layout and scale.
fn sample_value(preparation: &Preparation, sample: &[f32], wanted: &TensorType) -> anyhow::Result<Value> {
    let mut elements = sample.to_vec();
    let channels = wanted.shape.get(1).copied().unwrap_or(1);
    let plane: usize = wanted.shape.iter().skip(2).product();
    if preparation.layout == Some(DataLayout::Nhwc) {
        ensure!(wanted.rank() >= 3, "--layout nhwc needs an input with channels and space, not {wanted}");
        for (index, element) in elements.iter_mut().enumerate() {
            *element = sample[index % plane * channels + index / plane % channels];
        }
    }
    if let Some(normalization) = &preparation.normalize {
        normalization.apply(&mut elements, channels, plane)?;
    }
    if wanted.element == ElementType::F32 {
        return Ok(Value::f32(wanted.shape.clone(), elements));
    }
    let typed = data::from_f32(elements.clone(), wanted.element);
    if wanted.element.is_float() {
        return Ok(Value { shape: wanted.shape.clone(), data: typed });
    }
    if let Some((given, _)) = elements.iter().zip(data::to_f32(&typed)).find(|(given, typed)| *given != typed) {
        bail!("`x` holds {given}, which is no {} of the model's input {wanted}", wanted.element.name());
    }
    Ok(Value { shape: wanted.shape.clone(), data: typed })
}
