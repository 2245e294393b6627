//! How far answers are from those of links that send every number as it is, and what each tensor adds to that.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::values::noise;
use partita_ir::graph::{Data, ElementType, Graph, NodeId, Op, TensorId, Value, eval};
use partita_ir::restrict::space;
use partita_placement::{Failure, internal};
use partita_plan::partition::encodings::{Encoding, Encodings, Steps, candidates};
use partita_plan::partition::node_macs;
use partita_plan::shard::{Encoded, rounded};

use super::products;
use super::{EncodedTensor, LinkOptions, LinksReport};
use crate::samples::{self, stacked};

/// Multiply-adds that may be spent on measuring an error once.
const MOST_MACS: u64 = 4_000_000_000;

/// Multiply-adds of one inference, and elements of all its activations, up to which a network is run at all: some
/// seconds, and 256 MB; and nodes, of which plans take long enough without being judged.
const MOST_MACS_ONCE: u64 = 40_000_000_000;
const MOST_ELEMENTS: usize = 64_000_000;
const MOST_NODES: usize = 1_000;

/// So many multiply-adds of a large product take as long as one step of a portable kernel.
const STEP_MACS: u64 = 20;

/// Multiply-adds that may be spent on trying every encoding alone: some seconds.
const MOST_MACS_ALONE: u64 = 40_000_000_000;

/// Most inputs that are tried.
const MOST_INFERENCES: u64 = 16;

/// First seed of the noise.
const SEED: usize = 26_000;

/// Numbers up to here may travel as halves: those of inputs that nobody has tried are hardly sixteen times as large.
const LARGEST_HALF: f32 = 4096.0;

/// What estimates may come to, of what they come to for all that a plan sends in fewer bytes: powers of this, from the
/// first on that may do, as long as what is measured exceeds the limit. Errors of tensors add up by chance.
const BUDGETS: f64 = 0.9;

/// So many times the limit may do by estimate.
const MARGIN: f64 = 1.3;

/// A network, inputs, and what it makes of them when links send every number as it is.
pub(super) struct Study {
    /// Per inference the graph's inputs.
    inputs: Vec<Vec<Value>>,
    measured_on: &'static str,
    /// Per inference the outputs.
    answers: Vec<Vec<Value>>,
    /// The smallest and the largest element of every tensor of real numbers.
    ranges: HashMap<TensorId, (f32, f32)>,
    /// What encodings change, as far as it was measured: an error, and whether it is of all inputs.
    measured: Vec<(Encodings, f32, bool)>,
    /// What encodings change by themselves, on the first input.
    alone: Vec<(TensorId, Encoding, f32)>,
}

impl Study {
    /// Runs a network on calibration samples, or on seeded noise if there are none.
    pub(super) fn of(graph: &Graph, wanted: &LinkOptions) -> Result<Study, Failure> {
        let (inputs, measured_on) = match &wanted.calibration {
            Some(path) => (from_samples(graph, path, wanted)?, "calibration"),
            None => ((0..inferences(graph)).map(|seed| from_noise(graph, seed)).collect(), "noise"),
        };
        let mut ranges: HashMap<TensorId, (f32, f32)> = inputs.iter().flatten().zip(graph.inputs.iter().cycle()).fold(
            HashMap::new(),
            |mut ranges, (value, tensor)| {
                widen(&mut ranges, *tensor, value);
                ranges
            },
        );
        let mut answers = Vec::with_capacity(inputs.len());
        for values in &inputs {
            let mut observe = |tensor, value: &Value| widen(&mut ranges, tensor, value);
            let answer = eval::evaluate_with(graph, values, &products::evaluate, &mut observe);
            answers.push(answer.map_err(internal)?);
        }
        let (measured, alone) = (Vec::new(), Vec::new());
        Ok(Study { inputs, measured_on, answers, ranges, measured, alone })
    }

    /// The strongest encoding of each tensor: bytes, if they are wanted, where samples have shown its range.
    pub(super) fn offers(&self, graph: &Graph, bytes: bool) -> Encodings {
        let is_wanted = |encoding: &Encoding| bytes || *encoding == Encoding::Half;
        let strongest = |tensor| Some((tensor, self.alternatives(tensor).into_iter().flatten().find(is_wanted)?));
        candidates(graph).into_iter().filter_map(strongest).collect()
    }

    /// What a tensor can be sent as, the strongest encoding first; as it is last.
    fn alternatives(&self, tensor: TensorId) -> Vec<Option<Encoding>> {
        let range = self.ranges.get(&tensor).copied();
        let (low, high) = range.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let bytes = Steps::covering(low, high).filter(|_| self.measured_on == "calibration").map(Encoding::Steps);
        let halves = (low.abs().max(high.abs()) <= LARGEST_HALF).then_some(Encoding::Half);
        bytes.into_iter().chain(halves).map(Some).chain([None]).collect()
    }

    /// The largest difference of an output's element to that of a graph that is rounded, as a share of the output's
    /// largest. Infinite where one of them answers no number and the other does.
    pub(super) fn error(&self, encoded: &Graph) -> Result<f32, Failure> {
        largest(&self.answers, encoded, &self.inputs)
    }

    /// The same for what links do; more than `limit` is told as soon as one input shows it.
    pub(super) fn error_within(&mut self, encoded: &Encoded, limit: f32) -> Result<f32, Failure> {
        let known = |(encodings, error, is_all): &(Encodings, f32, bool)| {
            (*encodings == encoded.encodings && (*is_all || *error > limit)).then_some(*error)
        };
        if let Some(error) = self.measured.iter().find_map(known) {
            return Ok(error);
        }
        let (mut worst, mut tried) = (0.0f32, 0);
        while tried < self.inputs.len() && worst <= limit {
            let one = tried..tried + 1;
            worst = worst.max(largest(&self.answers[one.clone()], &encoded.graph, &self.inputs[one])?);
            tried += 1;
        }
        self.measured.push((encoded.encodings.clone(), worst, tried == self.inputs.len()));
        Ok(worst)
    }

    /// What links may do that change an answer by more than a limit, and have done less than `first` so often already.
    ///
    /// What a looser limit is answered with is among what a stricter one is.
    pub(super) fn weaker_by(
        &mut self,
        graph: &Graph,
        now: &Encoded,
        first: &Encodings,
        limit: f32,
        weakened: usize,
    ) -> Result<Encodings, Failure> {
        if is_slow(graph, first) {
            return Ok(half_of(now));
        }
        let mut square = 0.0;
        for (tensor, encoding) in first {
            square += f64::from(self.alone(graph, *tensor, *encoding)?).powi(2);
        }
        let one = self.inputs.len().min(1);
        let together = largest(&self.answers[..one], &rounded(graph, first).0, &self.inputs[..one])?;
        let likely = MARGIN * f64::from(limit / together.max(f32::MIN_POSITIVE));
        let begin = (likely.ln() / BUDGETS.ln()).floor().max(1.0);
        self.weaker(graph, (&now.encodings, &now.travelling), square.sqrt() * BUDGETS.powf(begin + weakened as f64))
    }

    /// What an encoding changes by itself, on the first input.
    fn alone(&mut self, graph: &Graph, tensor: TensorId, encoding: Encoding) -> Result<f32, Failure> {
        if let Some((.., error)) = self.alone.iter().find(|(of, how, _)| (*of, *how) == (tensor, encoding)) {
            return Ok(*error);
        }
        let one = self.inputs.len().min(1);
        let by_itself = rounded(graph, &Encodings::from([(tensor, encoding)])).0;
        let error = largest(&self.answers[..one], &by_itself, &self.inputs[..one])?;
        self.alone.push((tensor, encoding, error));
        Ok(error)
    }

    /// Encodings that together change an answer by no more than a limit, by estimate: each is tried alone on the first
    /// input, and weaker ones take its place where a byte brings most.
    pub(super) fn weaker(
        &mut self,
        graph: &Graph,
        (encodings, sent): (&Encodings, &BTreeMap<TensorId, u64>),
        limit: f64,
    ) -> Result<Encodings, Failure> {
        // Per tensor its alternatives from the one that was tried on: squares of errors, and bytes that travel once.
        let mut known: Vec<(TensorId, Vec<EncodingPrice>)> = Vec::new();
        for (tensor, tried) in encodings {
            let elements = sent.get(tensor).copied().unwrap_or_default() as f64;
            let mut prices = Vec::new();
            let stronger = |encoding: &Option<Encoding>| encoding.is_some() && *encoding != Some(*tried);
            for encoding in self.alternatives(*tensor).into_iter().skip_while(stronger) {
                let error = match encoding {
                    Some(encoding) => f64::from(self.alone(graph, *tensor, encoding)?),
                    None => 0.0,
                };
                let bytes = elements * encoding.map_or(4.0, |encoding| encoding.element_bytes() as f64);
                prices.push(EncodingPrice { encoding, square: error * error, bytes });
            }
            known.push((*tensor, prices));
        }
        while known.iter().map(|(_, prices)| prices[0].square).sum::<f64>() > limit * limit {
            let brings = |prices: &[EncodingPrice]| match prices {
                [now, next, ..] => (now.square - next.square) / (next.bytes - now.bytes).max(1.0),
                _ => f64::NEG_INFINITY,
            };
            let best = (0..known.len()).max_by(|a, b| brings(&known[*a].1).total_cmp(&brings(&known[*b].1)));
            match best.filter(|best| known[*best].1.len() > 1) {
                Some(best) => known[best].1.remove(0),
                None => break,
            };
        }
        Ok(known.into_iter().filter_map(|(tensor, prices)| Some((tensor, prices[0].encoding?))).collect())
    }

    /// What is known of encodings.
    pub(super) fn report(&self, graph: &Graph, encodings: &Encodings, error: f32) -> LinksReport {
        let tensor = |(tensor, encoding): (&TensorId, &Encoding)| EncodedTensor {
            tensor: graph.tensor(*tensor).name.clone(),
            encoding: encoding.name(),
            step: match encoding {
                Encoding::Half => None,
                Encoding::Steps(steps) => Some(steps.step),
            },
            how: *encoding,
            elements: graph.tensor_type(*tensor).element_count(),
        };
        LinksReport {
            limit: None,
            error,
            measured_on: self.measured_on,
            samples: self.inputs.len(),
            tensors: encodings.iter().map(tensor).collect(),
            exact_latency_ms: None,
            exact_traffic_bytes: None,
        }
    }
}

/// What an encoding of a tensor costs: the square of what it changes, and the bytes that travel.
struct EncodingPrice {
    encoding: Option<Encoding>,
    square: f64,
    bytes: f64,
}

/// Whether a network is small enough to be run while it is compiled.
pub(super) fn is_affordable(graph: &Graph) -> bool {
    let elements = |tensor: TensorId| match graph.is_constant(tensor) {
        true => 0,
        false => graph.tensor_type(tensor).element_count(),
    };
    let all = graph.tensor_ids().map(elements).fold(0usize, usize::saturating_add);
    graph.node_count() <= MOST_NODES && all <= MOST_ELEMENTS && macs(graph) <= MOST_MACS_ONCE
}

/// Whether trying every encoding by itself would take too long.
fn is_slow(graph: &Graph, encodings: &Encodings) -> bool {
    macs(graph).saturating_mul(encodings.len() as u64) > MOST_MACS_ALONE
}

/// The half of what travels in fewer bytes that saves most.
fn half_of(encoded: &Encoded) -> Encodings {
    let Encoded { encodings, travelling, .. } = encoded;
    let saved_bytes = |tensor: &TensorId| {
        travelling.get(tensor).copied().unwrap_or_default() * (4 - encodings[tensor].element_bytes())
    };
    let mut by_bytes: Vec<TensorId> = encodings.keys().copied().collect();
    by_bytes.sort_by_key(|tensor| std::cmp::Reverse(saved_bytes(tensor)));
    by_bytes.into_iter().take(encodings.len() / 2).map(|tensor| (tensor, encodings[&tensor])).collect()
}

/// What running a network once takes, in multiply-adds of large products.
fn macs(graph: &Graph) -> u64 {
    graph.node_ids().map(|id| node_cost(graph, id)).fold(0, u64::saturating_add)
}

fn node_cost(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let macs = node_macs(graph, id);
    let elements = |tensor: &TensorId| graph.tensor_type(*tensor).element_count() as u64;
    let loops = space(graph, id);
    let steps = match &node.op {
        // Windows are put side by side once for all filters.
        Op::Conv(conv) if conv.groups == 1 => {
            let filters = node.outputs.first().and_then(|output| graph.shape(*output).get(1).copied());
            return macs.saturating_add(STEP_MACS.saturating_mul(macs / filters.unwrap_or(1).max(1) as u64));
        }
        Op::Gemm(_) | Op::MatMul => return macs,
        Op::RoiAlign(align) => {
            let samples = (align.ratio as u64).max(1).saturating_mul((align.ratio as u64).max(1));
            node.outputs.iter().map(elements).sum::<u64>().saturating_mul(samples)
        }
        // Each box is compared with those before it.
        Op::NonMaxSuppression(_) => {
            let boxes = node.inputs.get(1).map_or(0, elements);
            boxes.saturating_mul(node.inputs.first().map_or(0, elements) / 4)
        }
        _ if loops.is_opaque() => node.inputs.iter().chain(&node.outputs).map(elements).sum(),
        _ => loops.axes.iter().fold(1, |steps: u64, axis| steps.saturating_mul(axis.extent as u64)),
    };
    macs.max(steps.saturating_mul(STEP_MACS))
}

/// How many inputs an error is measured on: fewer of large networks.
fn inferences(graph: &Graph) -> usize {
    (MOST_MACS / macs(graph).max(1)).clamp(1, MOST_INFERENCES) as usize
}

fn from_samples(graph: &Graph, path: &Path, wanted: &LinkOptions) -> Result<Vec<Vec<Value>>, Failure> {
    let batch = wanted.preparation.batch.max(1);
    let loaded = samples::load(path, graph, &wanted.preparation, Some(inferences(graph) * batch)).map_err(|error| {
        let shown = printable(&path.display().to_string());
        Failure::Input(vec![Diagnostic::new("E0190", format!("calibration samples `{shown}`: {error:#}"))])
    })?;
    Ok(stacked(&loaded.inputs, batch).into_iter().map(|value| with_states(graph, vec![value])).collect())
}

fn from_noise(graph: &Graph, seed: usize) -> Vec<Value> {
    let tensors = graph.given_inputs().iter().enumerate();
    let given = tensors.map(|(at, input)| noise(graph.tensor_type(*input), (SEED + 100 * seed + at) as u64));
    with_states(graph, given.collect())
}

/// States are zero at first.
fn with_states(graph: &Graph, mut given: Vec<Value>) -> Vec<Value> {
    given.extend(graph.state_pairs().map(|(_, state)| Value::zeros(graph.tensor_type(state))));
    given
}

/// Takes the elements of a tensor into its range; what is no number makes it endless.
fn widen(ranges: &mut HashMap<TensorId, (f32, f32)>, tensor: TensorId, value: &Value) {
    let Some(elements) = value.as_f32() else { return };
    let range = ranges.entry(tensor).or_insert((0.0, 0.0));
    for element in elements {
        *range = match element.is_nan() {
            true => (f32::NEG_INFINITY, f32::INFINITY),
            false => (range.0.min(*element), range.1.max(*element)),
        };
    }
}

fn largest(answers: &[Vec<Value>], encoded: &Graph, inputs: &[Vec<Value>]) -> Result<f32, Failure> {
    let mut worst = 0.0f32;
    for (expected, values) in answers.iter().zip(inputs) {
        let found = eval::evaluate_with(encoded, values, &products::evaluate, &mut |_, _| {}).map_err(internal)?;
        let differences = expected.iter().zip(&found).map(|(expected, found)| difference(expected, found));
        worst = differences.fold(worst, f32::max);
    }
    Ok(worst)
}

/// The largest difference of two tensors as a share of the largest element of the first.
fn difference(expected: &Value, found: &Value) -> f32 {
    let (Data::F64(expected), Data::F64(found)) =
        (expected.data.cast(ElementType::F64), found.data.cast(ElementType::F64))
    else {
        return f32::INFINITY;
    };
    let finite = expected.iter().map(|element| element.abs()).filter(|element| element.is_finite());
    let scale = finite.fold(f64::from(f32::MIN_POSITIVE), f64::max);
    let of = |(expected, found): (&f64, &f64)| match expected == found || expected.is_nan() && found.is_nan() {
        true => 0.0,
        false => (expected - found).abs() / scale,
    };
    // A NaN is no number to compare with: on one side only it is the largest difference of all.
    let worst = |worst: f64, next: f64| if next.is_nan() { f64::INFINITY } else { worst.max(next) };
    expected.iter().zip(&found).map(of).fold(0.0, worst) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shares_of_the_largest_element() {
        let value = |elements: &[f32]| Value::f32([elements.len()], elements.to_vec());
        assert_eq!(difference(&value(&[1.0, -4.0]), &value(&[1.0, -3.0])), 0.25);
        assert_eq!(difference(&value(&[f32::NAN, 2.0]), &value(&[f32::NAN, 2.0])), 0.0);
        assert_eq!(difference(&value(&[f32::NAN, 2.0]), &value(&[1.0, 2.0])), f32::INFINITY);
        assert_eq!(difference(&value(&[1.0, 2.0]), &value(&[f32::INFINITY, 2.0])), f32::INFINITY);
    }

    #[test]
    fn what_costs_least_is_given_back_first() {
        // Of two tensors that the answer is the sum of one is a thousandth of the other.
        const TEXT: &str = r#"graph "t" opset 17
input %0 "x": f32[1,64]
const %1 "small": f32[] = [0.001]
%2 "large": f32[1,64] = "large"(%0) Unary(Tanh)
%3 "rest": f32[1,64] = "rest"(%0, %1) Binary(Mul,None)
%4 "y": f32[1,64] = "y"(%2, %3) Binary(Add,None)
output %4
"#;
        let graph = partita_ir::graph::text::parse(TEXT).expect("the text is a graph");
        let mut study = Study::of(&graph, &LinkOptions::exact()).expect("it runs");
        let named = |name: &str| graph.tensor_ids().find(|id| graph.tensor(*id).name == name).expect("it is there");
        let (large, rest) = (named("large"), named("rest"));
        let halves = Encodings::from([(large, Encoding::Half), (rest, Encoding::Half)]);
        let error = study.error(&rounded(&graph, &halves).0).expect("it runs");
        assert!(error > 1e-4 && error < 5e-4, "{error}");
        let sent = BTreeMap::from([(large, 64), (rest, 64)]);
        let kept = study.weaker(&graph, (&halves, &sent), 1e-5).expect("it runs");
        assert_eq!(kept, Encodings::from([(rest, Encoding::Half)]));
        assert!(study.error(&rounded(&graph, &kept).0).expect("it runs") < 1e-6);
        // Noise shows no ranges that bytes could stand for.
        assert!(study.offers(&graph, true).values().all(|encoding| *encoding == Encoding::Half));
    }
}
