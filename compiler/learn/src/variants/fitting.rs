//! Compensations fitted on calibration samples: first each part alone, then all of a set one behind the other.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use partita_train::matrix::{Matrix, product};

use super::channels;
use super::compensation::{self, LinearMap};
use super::parts::{Compensation, Drop, Part, PartKind};
use super::scores::{self, Scorer, Set};
use super::segments::{Alternative, Segment, alternative, limit_alternatives};
use crate::classifier::class;
use crate::host::{Backbone, Host, MOST_GRAPHS, Runner};
use crate::kept::{key, remembered};
use crate::progress::Progress;
use crate::samples::Samples;
use partita_files::data;
use partita_ir::graph::op::Activation;
use partita_ir::graph::{Graph, Op, TensorId, Value};
use partita_ir::parallel::{gather, in_parallel, workers};
use partita_placement::Failure;

/// Samples from which compensations are fitted: as many as memory allows, within these.
const MOST_FITTED: usize = 256;
const LEAST_FITTED: usize = 4;
const MOST_SEEN_BYTES: usize = 512 << 20;

/// Rows of a fit per channel, and at least; more change nothing.
const ROWS_PER_CHANNEL: usize = 24;
const LEAST_ROWS: usize = 4096;

/// Largest map that is fitted: beyond this it costs more flash than it is worth.
const MAX_MAP_ELEMENTS: usize = 1 << 18;
const MAX_MAP_INPUTS: usize = 1024;

/// What the whole network computes of the samples from which compensations are fitted.
#[derive(Default)]
struct Observed {
    /// Elements of tensors between segments, of one sample after the other; the network's input under no tensor.
    elements: BTreeMap<Option<TensorId>, Vec<f32>>,
    /// Mean of each channel of operands of concatenations that may go.
    means: BTreeMap<TensorId, Vec<f32>>,
    /// Sums of products of the channels of tensors of which channels may go, and of ones: `[channels + 1, channels +
    /// 1]`.
    products: BTreeMap<TensorId, Vec<f64>>,
}

/// Fits compensations. Samples run through the whole network when something is fitted first; where all of it is kept
/// from an earlier run, they do not.
pub struct Fitter<'a> {
    host: &'a dyn Host,
    graph: &'a Graph,
    samples: &'a Samples,
    /// Tensors between segments, operands that may go, tensors of which channels may go.
    cuts: Vec<TensorId>,
    branches: Vec<TensorId>,
    narrow: Vec<TensorId>,
    /// Samples to which compensations are fitted, at most.
    fitted: usize,
    seen: OnceLock<(Vec<u32>, Observed)>,
    /// Held while samples run.
    running: Mutex<()>,
}

impl<'a> Fitter<'a> {
    fn new(
        graph: &'a Graph,
        parts: &[Part],
        segments: &[Segment],
        samples: &'a Samples,
        host: &'a dyn Host,
    ) -> Fitter<'a> {
        let ends = segments.iter().map(|segment| segment.to);
        let cuts: Vec<TensorId> = ends.filter(|to| !graph.is_output(*to)).collect();
        let mut branches: Vec<TensorId> = parts.iter().filter_map(|part| branch(graph, part)).collect();
        branches.retain(|branch| !cuts.contains(branch) && !graph.is_output(*branch));
        branches.sort_unstable();
        branches.dedup();
        let narrow = parts.iter().filter(|part| part.kind == PartKind::Channels);
        let narrow: Vec<TensorId> = narrow.map(|part| channels::between(graph, part.join)).collect();
        let kept = cuts.iter().chain(&narrow).chain(&graph.inputs);
        let bytes: usize = kept.map(|tensor| graph.tensor_type(*tensor).size_bytes()).sum();
        let fitted = (MOST_SEEN_BYTES / bytes.max(1)).clamp(LEAST_FITTED, MOST_FITTED);
        let (seen, running) = (OnceLock::new(), Mutex::new(()));
        Fitter { host, graph, samples, cuts, branches, narrow, fitted, seen, running }
    }

    /// Compensations are fitted to samples that guide, not to those that judge.
    fn is_fitted(&self, at: usize) -> bool {
        at.is_multiple_of(2) && at / 2 < self.fitted
    }

    /// The samples to which compensations are fitted.
    fn inputs(&self) -> Vec<&'a Value> {
        let all = self.samples.inputs.iter().enumerate();
        all.filter(|(at, _)| self.is_fitted(*at)).map(|(_, input)| input).collect()
    }

    fn seen(&self) -> anyhow::Result<&Observed> {
        Ok(&self.run()?.1)
    }

    /// The labels, or the model's own answers where nobody says what samples are; and what it computes on the way.
    fn run(&self) -> anyhow::Result<&(Vec<u32>, Observed)> {
        let _one_at_a_time = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = self.seen.get() {
            return Ok(seen);
        }
        let (graph, samples) = (self.graph, self.samples);
        let mut probe = graph.clone();
        probe.outputs.extend(self.cuts.iter().chain(&self.branches).chain(&self.narrow));
        let backbone = Backbone::of(self.host, probe);
        // Where nobody says what samples are, all of them are asked.
        let is_asked = |at: &usize| samples.labels.is_none() || self.is_fitted(*at);
        let asked: Vec<usize> = (0..samples.inputs.len()).filter(is_asked).collect();
        let outputs = answers(&backbone, &samples.inputs, &asked, |at| self.is_fitted(at))
            .context("running the calibration samples")?;
        let labels: Vec<u32> = match &samples.labels {
            Some(labels) => labels.iter().map(|label| *label as u32).collect(),
            None => outputs.iter().map(|outputs| class(&outputs[0]) as u32).collect(),
        };
        let mut seen = Observed::default();
        let fitted = asked.iter().filter(|at| self.is_fitted(**at)).count();
        for (at, outputs) in asked.iter().zip(outputs).filter(|(at, _)| self.is_fitted(**at)) {
            let mut tensors = outputs.into_iter().skip(1);
            seen.elements.entry(None).or_default().extend(data::to_f32(&samples.inputs[*at].data));
            for (cut, elements) in self.cuts.iter().zip(tensors.by_ref()) {
                seen.elements.entry(Some(*cut)).or_default().extend(elements);
            }
            for (branch, elements) in self.branches.iter().zip(tensors.by_ref()) {
                let own = Rows { shape: graph.shape(*branch), elements: &elements }.means();
                let sums = seen.means.entry(*branch).or_insert_with(|| vec![0.0; own.len()]);
                sums.iter_mut().zip(own).for_each(|(sum, mean)| *sum += mean / fitted as f32);
            }
            for (between, elements) in self.narrow.iter().zip(tensors) {
                let own = Rows { shape: graph.shape(*between), elements: &elements }.products(fitted);
                let sum = seen.products.entry(*between).or_insert_with(|| vec![0.0; own.len()]);
                sum.iter_mut().zip(own).for_each(|(sum, product)| *sum += product);
            }
        }
        Ok(self.seen.get_or_init(|| (labels, seen)))
    }
}

/// Adds to each segment alternatives with a compensation. The labels, or the model's own answers where nobody says what
/// samples are; and what fits further compensations.
pub fn add_compensations<'a>(
    graph: &'a Graph,
    parts: &[Part],
    segments: &mut [Segment],
    samples: &'a Samples,
    runner: Runner<'a>,
) -> Result<(Vec<u32>, Fitter<'a>), Failure> {
    let fitter = Fitter::new(graph, parts, segments, samples, runner.host);
    let single = |(number, segment): (usize, &Segment)| {
        let alone = segment.alternatives.iter().skip(1).enumerate().filter_map(single_part);
        alone.map(|(at, part)| (number, at + 1, part)).collect::<Vec<_>>()
    };
    let single: Vec<(usize, usize, usize)> = segments.iter().enumerate().flat_map(single).collect();
    let all: Vec<&Value> = samples.inputs.iter().collect();
    let file = |what: &str, inputs: &[&Value]| {
        runner.cache.join("variants").join(format!("{what}-{}-{}.json", key(graph, &[]), scores::digest(inputs, &[])))
    };
    let labels = match &samples.labels {
        Some(labels) => Ok(labels.iter().map(|label| *label as u32).collect()),
        None => remembered(&file("answers", &all), &["all".to_string()], |_| Ok(vec![fitter.run()?.0.clone()]))
            .map(|mut labels: Vec<Vec<u32>>| labels.swap_remove(0)),
    };
    let labels: Vec<u32> = labels.map_err(Failure::of)?;
    let names: Vec<String> = single.iter().map(|(number, at, part)| format!("{number} {at} {part}")).collect();
    let compensations = remembered(&file("compensation", &fitter.inputs()), &names, |new| {
        let seen = fitter.seen()?;
        gather(new.len(), |job| {
            let (segment, _, part) = single[new[job]];
            Ok(compensated(graph, &segments[segment], &parts[part], seen))
        })
    })
    .map_err(Failure::of)?;
    for ((number, at, part), compensations) in single.into_iter().zip(compensations) {
        let segment = &mut segments[number];
        for compensation in compensations {
            let alternative = alternative(graph, segment.from, segment.to, vec![(part, Some(compensation))], parts)?;
            // Where the plain alternative computes something already, the compensation takes nothing more.
            let keeps_both = segment.alternatives[at].macs < alternative.macs;
            if keeps_both && alternative.macs < segment.alternatives[0].macs {
                segment.alternatives.push(alternative);
            } else if !keeps_both {
                segment.alternatives[at] = alternative;
            }
        }
    }
    limit_alternatives(segments, MOST_GRAPHS);
    Ok((labels, fitter))
}

/// What the network says of some samples, on all cores: all outputs if the sample is wanted whole, of others the first.
fn answers(
    backbone: &Backbone<'_>,
    inputs: &[Value],
    asked: &[usize],
    is_whole: impl Fn(usize) -> bool + Sync,
) -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
    let answers = Mutex::new(vec![Vec::new(); asked.len()]);
    let progress = Progress::new(asked.len() as u64, "samples through the whole network");
    let pieces = workers(asked.len());
    in_parallel(pieces, |piece| {
        let mut process = backbone.start()?;
        for (at, sample) in asked.iter().enumerate().skip(piece).step_by(pieces) {
            let mut outputs = process.answer(&inputs[*sample])?;
            outputs.truncate(if is_whole(*sample) { usize::MAX } else { 1 });
            answers.lock().unwrap_or_else(PoisonError::into_inner)[at] = outputs;
            progress.step();
        }
        anyhow::Ok(())
    })?;
    progress.finish();
    Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn single_part((at, alternative): (usize, &Alternative)) -> Option<(usize, usize)> {
    match alternative.drops.as_slice() {
        [(part, None)] => Some((at, *part)),
        _ => None,
    }
}

/// What may take the place of a part that is all that goes in a segment.
fn compensated(graph: &Graph, segment: &Segment, part: &Part, seen: &Observed) -> Vec<Compensation> {
    match part.kind {
        PartKind::Block => [1, 3].iter().filter_map(|kernel| map_of(graph, segment, part, seen, *kernel)).collect(),
        PartKind::Skip => mean_of_entry(graph, segment, part, seen).map(Compensation::Shift).into_iter().collect(),
        PartKind::Branch => mean_of_branch(graph, part, seen).map(Compensation::Shift).into_iter().collect(),
        PartKind::Channels => rest_of_channels(graph, part, seen).map(Compensation::Rest).into_iter().collect(),
        PartKind::Projection => Vec::new(),
    }
}

/// The map from what enters a segment to what its block makes of it, if the block is all of the segment.
fn map_of(graph: &Graph, segment: &Segment, part: &Part, seen: &Observed, kernel: usize) -> Option<Compensation> {
    let from = segment.from?;
    if graph.node(part.join).outputs.first() != Some(&segment.to) || graph.shape(from).len() < 3 {
        return None;
    }
    let x = Rows { shape: graph.shape(from), elements: seen.elements.get(&Some(from))? };
    let y = Rows { shape: graph.shape(segment.to), elements: seen.elements.get(&Some(segment.to))? };
    fit_map(&x, &y, from, activation_of(graph, part)?, kernel)
}

/// What channels that go are of those that stay.
fn rest_of_channels(graph: &Graph, part: &Part, seen: &Observed) -> Option<LinearMap> {
    let (stay, go) = channels::divided(graph, part.join, part.operand)?;
    compensation::rest(seen.products.get(&channels::between(graph, part.join))?, &stay, &go)
}

/// The tensor that goes with an operand of a concatenation.
fn branch(graph: &Graph, part: &Part) -> Option<TensorId> {
    (part.kind == PartKind::Branch).then(|| graph.node(part.join).inputs[part.operand])
}

/// Mean of each channel of an operand of a concatenation.
fn mean_of_branch(graph: &Graph, part: &Part, seen: &Observed) -> Option<Vec<f32>> {
    let branch = branch(graph, part)?;
    let whole = |elements| Rows { shape: graph.shape(branch), elements }.means();
    seen.means.get(&branch).cloned().or_else(|| seen.elements.get(&Some(branch)).map(|elements| whole(elements)))
}

/// Mean of each channel of a skip connection that begins where its segment does.
fn mean_of_entry(graph: &Graph, segment: &Segment, part: &Part, seen: &Observed) -> Option<Vec<f32>> {
    let from = segment.from?;
    let starts_here = graph.node(part.join).inputs.get(part.operand) == Some(&from) && graph.shape(from).len() > 1;
    starts_here.then_some(())?;
    Some(Rows { shape: graph.shape(from), elements: seen.elements.get(&Some(from))? }.means())
}

/// Elements of a tensor `[1, C, spatial..]` of several samples, one after the other.
struct Rows<'a> {
    shape: &'a [usize],
    elements: &'a [f32],
}

impl Rows<'_> {
    fn plane(&self) -> usize {
        self.shape[2..].iter().product()
    }

    /// Places in space of all samples.
    fn places(&self) -> usize {
        self.elements.len() / self.shape[1].max(1)
    }

    /// Channels around `stride` times a place of a tensor of shape `output`, `kernel` places wide in each direction,
    /// zero outside: `[C, kernel..]`. Places count through all samples.
    fn row(&self, place: usize, stride: &[usize], kernel: usize, output: &[usize], row: &mut Vec<f32>) {
        let plane: usize = output[2..].iter().product();
        let (sample, mut rest) = (place / plane, place % plane);
        let axes = stride.len();
        // Offset of each tap in a plane; none outside.
        let mut taps: Vec<Option<usize>> = vec![Some(0)];
        let mut step = 1;
        let mut offsets: Vec<Vec<Option<usize>>> = Vec::with_capacity(axes);
        for axis in (0..axes).rev() {
            let (extent, centre) = (self.shape[axis + 2], rest % output[axis + 2] * stride[axis]);
            rest /= output[axis + 2];
            let along = (0..kernel).map(|tap| (centre + tap).checked_sub(kernel / 2).filter(|at| *at < extent));
            offsets.push(along.map(|at| at.map(|at| at * step)).collect());
            step *= extent;
        }
        for along in offsets.iter().rev() {
            taps = taps.iter().flat_map(|tap| along.iter().map(move |offset| Some((*tap)? + (*offset)?))).collect();
        }
        let own = self.plane();
        for channel in 0..self.shape[1] {
            let first = (sample * self.shape[1] + channel) * own;
            row.extend(taps.iter().map(|tap| tap.map_or(0.0, |tap| self.elements[first + tap])));
        }
    }

    /// Sums over places of the products of channels, and of ones; of so many places that `samples` like this one have
    /// enough together.
    fn products(&self, samples: usize) -> Vec<f64> {
        let (channels, plane) = (self.shape[1], self.plane());
        let wanted = LEAST_ROWS.max(ROWS_PER_CHANNEL * channels).div_ceil(samples.max(1));
        // An odd step visits all rows and columns of space.
        let every = (plane / wanted.max(1)).max(1) | 1;
        let element = |place: usize, channel: usize| self.elements.get(channel * plane + place);
        let mut rows = Vec::with_capacity(plane.div_ceil(every) * (channels + 1));
        for place in (0..plane).step_by(every) {
            rows.extend((0..channels).map(|channel| f64::from(element(place, channel).copied().unwrap_or(0.0))));
            rows.push(1.0);
        }
        let rows = Matrix::new(&rows, channels + 1);
        product(&rows.transposed(), &rows)
    }

    /// Mean of each channel.
    fn means(&self) -> Vec<f32> {
        let (channels, plane) = (self.shape[1], self.plane());
        let mut sums = vec![0.0f64; channels];
        for (at, elements) in self.elements.chunks_exact(plane.max(1)).enumerate() {
            sums[at % channels] += elements.iter().map(|element| f64::from(*element)).sum::<f64>();
        }
        sums.into_iter().map(|sum| (sum / self.places().max(1) as f64) as f32).collect()
    }
}

/// Activation of the node that joins a part with the rest.
fn activation_of(graph: &Graph, part: &Part) -> Option<Activation> {
    match &graph.node(part.join).op {
        Op::Conv(conv) => Some(conv.activation),
        Op::Binary(_, activation) => Some(*activation),
        _ => None,
    }
}

/// The linear map of channels that comes nearest to `y` from `x`, with a step in space if `y` is smaller.
fn fit_map(x: &Rows<'_>, y: &Rows<'_>, from: TensorId, activation: Activation, kernel: usize) -> Option<Compensation> {
    let (input, output) = (x.shape, y.shape);
    let (channels, results) = (input[1], output[1]);
    let stride: Vec<usize> = input[2..].iter().zip(&output[2..]).map(|(a, b)| a / b.max(&1)).collect();
    let fits = |((a, b), step): ((&usize, &usize), &usize)| *step > 0 && a.div_ceil(*step) == *b;
    let divides = input[2..].iter().zip(&output[2..]).zip(&stride).all(fits);
    let inputs = channels * kernel.pow(stride.len() as u32);
    if !divides || inputs * results > MAX_MAP_ELEMENTS || inputs > MAX_MAP_INPUTS {
        return None;
    }
    let wanted = LEAST_ROWS.max(ROWS_PER_CHANNEL * inputs);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let ones = vec![1; stride.len()];
    // An odd step visits all rows and columns of space.
    let every = (y.places() / wanted).max(1) | 1;
    for place in (0..y.places()).step_by(every) {
        y.row(place, &ones, 1, output, &mut b);
        x.row(place, &stride, kernel, output, &mut a);
    }
    let map = compensation::fit(&a, &b, inputs, results, activation)?;
    Some(Compensation::Map { from, weights: map.weights, bias: map.bias, stride, kernel })
}

/// What the compensations of sets become when each is fitted to what really reaches it: behind other parts that have
/// gone, not in the whole network. The goal of each is still what the whole network has there.
pub fn refit(
    parts: &[Part],
    segments: &[Segment],
    sets: &[Set],
    fitter: &Fitter<'_>,
    scorer: &Scorer<'_>,
) -> anyhow::Result<Vec<Vec<Drop>>> {
    let names: Vec<String> = sets.iter().map(scores::name).collect();
    remembered(&scorer.file("refitted", &fitter.inputs(), &[]), &names, |new| {
        let seen = fitter.seen()?;
        gather(new.len(), |at| refit_one(fitter.graph, parts, segments, &sets[new[at]], seen, scorer))
    })
}

fn refit_one(
    graph: &Graph,
    parts: &[Part],
    segments: &[Segment],
    set: &Set,
    seen: &Observed,
    scorer: &Scorer<'_>,
) -> anyhow::Result<Vec<Drop>> {
    let mut process = scorer.start()?;
    let mut drops = Vec::new();
    // Elements of what reaches the segment, of all samples; none while it is what the whole network has.
    let mut now: Option<Vec<f32>> = None;
    for (depth, (segment, alternative)) in segments.iter().zip(set).enumerate() {
        let alternative_info = &segment.alternatives[usize::from(*alternative)];
        let shape = segment.from.map_or_else(|| graph.shape(graph.inputs[0]), |from| graph.shape(from)).to_vec();
        let x = match &now {
            Some(elements) => elements,
            None => seen.elements.get(&segment.from).context("a tensor was not seen")?,
        };
        let map = match alternative_info.drops.as_slice() {
            [(part, Some(Compensation::Map { from, kernel, .. }))] if now.is_some() => {
                let goal = seen.elements.get(&Some(segment.to)).context("a tensor was not seen")?;
                let activation = activation_of(graph, &parts[*part]).unwrap_or(Activation::None);
                let (x, y) =
                    (Rows { shape: &shape, elements: x }, Rows { shape: graph.shape(segment.to), elements: goal });
                fit_map(&x, &y, *from, activation, *kernel).map(|map| (*part, map, activation))
            }
            _ => None,
        };
        let outgoing = match &map {
            Some((_, map, activation)) => Some(apply(map, *activation, &shape, x, graph.shape(segment.to))),
            None if *alternative == 0 && now.is_none() => None,
            None => {
                let one: usize = shape.iter().product();
                let samples = x.chunks_exact(one.max(1));
                let answers = samples.map(|sample| {
                    let value = Value::f32(shape.clone(), sample.to_vec());
                    scorer
                        .pass(&mut process, depth, *alternative, &value)
                        .map(|value| value.as_f32().unwrap_or(&[]).to_vec())
                });
                Some(answers.collect::<anyhow::Result<Vec<Vec<f32>>>>()?.concat())
            }
        };
        now = outgoing;
        match map {
            Some((part, map, _)) => drops.push((part, Some(map))),
            None => drops.extend(alternative_info.drops.iter().cloned()),
        }
    }
    Ok(drops)
}

/// A map of channels on all samples.
fn apply(map: &Compensation, activation: Activation, shape: &[usize], x: &[f32], result: &[usize]) -> Vec<f32> {
    let Compensation::Map { weights, bias, stride, kernel, .. } = map else { return x.to_vec() };
    let rows = Rows { shape, elements: x };
    let (channels, results) = (shape[1], result[1]);
    let plane: usize = result[2..].iter().product();
    let samples = x.len() / shape.iter().product::<usize>().max(1);
    let mut y = vec![0.0; samples * results * plane];
    let inputs = channels * kernel.pow(stride.len() as u32);
    let mut row = Vec::with_capacity(inputs);
    let (low, high) = match activation {
        Activation::Relu => (0.0, f32::INFINITY),
        Activation::Clip(low, high) => (low, high),
        _ => (f32::NEG_INFINITY, f32::INFINITY),
    };
    for place in 0..samples * plane {
        row.clear();
        rows.row(place, stride, *kernel, result, &mut row);
        let first = place / plane * results * plane + place % plane;
        for (m, (weights, bias)) in weights.chunks_exact(inputs).zip(bias).enumerate() {
            let sum: f32 = weights.iter().zip(&row).map(|(w, x)| w * x).sum();
            y[first + m * plane] = (sum + bias).clamp(low, high);
        }
    }
    y
}
