//! From calibration samples to a graph of whole numbers: what is read is looked at, and every step is done in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::judge::{self, Answered, evidence};
use super::observe::{Observed, observe, probed};
use super::options::QuantizeOptions;
use super::report::{QuantizationReport, QuantizedAccuracy, QuantizedLayer};
use super::search::{self, ObservedGraph, Tried};
use super::{choose, equalize, prepare};
use crate::accuracy::{DEFAULT_LOSS, Evidence, HoldoutReport, Limits, overcharged, provable, worst_classes};
use crate::classifier;
use crate::confidence::share_range;
use crate::holdout::{self, Calibration};
use crate::host::{Backbone, Host, Runner};
use crate::progress::note;
use crate::samples::{self, Samples};
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::quantization::Quantization;
use partita_ir::graph::text::op_name;
use partita_ir::graph::{BinaryOp, ElementType, Graph, NodeId, Op, TensorId, Value};
use partita_passes::{TIDY, run};
use partita_placement::{Failure, internal};
use partita_plan::partition::node_macs;
use partita_train::chance::Chance;

/// Fewer samples say too little of ranges.
const LEAST_SAMPLES: usize = 32;

/// As many samples teach at most; more say no more of ranges.
const MOST_TEACHING: usize = 512;

/// Bytes of observed tensors that processes send at most while they are observed.
const MOST_OBSERVED_BYTES: usize = 8 << 30;

/// Samples by which layers are compared.
const COMPARED: usize = 64;

/// Where no limit can be kept because there are no classes, the answer's signal to noise must be this, in dB.
const LEAST_DECIBEL: f64 = 10.0;

/// Losing classes that the report names.
const WORST: usize = 3;

/// A graph of whole numbers, and what it was made of.
#[derive(Debug)]
pub struct Quantized {
    /// The graph of whole numbers.
    pub graph: Graph,
    /// The graph of real numbers that the quantization is about: with equalized weights, if that helped.
    pub real: Graph,
    /// What of it is computed in whole numbers.
    pub quantization: Quantization,
    /// What is known of it.
    pub report: QuantizationReport,
}

/// A version of the network: in real numbers, and in whole ones.
struct Version {
    real: Graph,
    observed: BTreeMap<TensorId, Observed>,
    equalized: bool,
}

/// What judges.
struct Judge {
    inputs: Vec<Value>,
    /// Where the model is a classifier: its classes, and those of the samples if they are known.
    classes: Option<usize>,
    labels: Option<Vec<u32>>,
    limits: Limits,
    by_hand: bool,
    gap: f64,
}

/// Quantizes a simplified graph.
///
/// Errors: E0190, E0192, E0193 where the model or the samples cannot be quantized or judged; E0194 where no
/// quantization keeps the limits.
#[allow(
    clippy::too_many_lines,
    reason = "steps in the order in which they are done, each with what those before have made"
)]
pub fn quantize(graph: &Graph, wanted: &QuantizeOptions, host: &dyn Host) -> Result<Quantized, Failure> {
    let real = prepare::run(graph).map_err(internal)?;
    let layers = choose::candidates(&real);
    check_model(graph, &layers)?;
    let samples = load(&wanted.calibration, graph, wanted)?;
    let labelled = samples.labels.is_some();
    let (teaching, mut judge) = split(graph, samples, wanted)?;
    judge.check_provable()?;
    let mut real = real;
    run(TIDY, &mut real, &mut |_, _, _| {}).map_err(internal)?;
    let equal = equalize::run(&real);
    let tensors = choose::observed(&real, &layers);
    let teaching = &teaching[..affordable(&real, &tensors, teaching.len())];
    note(&format!("quantization: {} samples teach, {} others judge", teaching.len(), judge.inputs.len()));

    let reals: Vec<Graph> = std::iter::once(real).chain(equal).collect();
    let probes: Vec<Graph> = reals.iter().map(|real| probed(real, tensors.iter().copied())).collect();
    let backbone = Backbone::of_all(host, probes.clone())?;
    let mut versions = Vec::new();
    for (number, (real, probe)) in reals.into_iter().zip(&probes).enumerate() {
        let observed = observe(&backbone, (number, probe), &tensors, teaching)?;
        versions.push(Version { real, observed, equalized: number > 0 });
    }
    drop(backbone);

    let all: BTreeSet<NodeId> = layers.iter().copied().collect();
    let compared = &teaching[..teaching.len().min(COMPARED)];
    let (version, decibels) = best(versions, &all, compared, wanted, host)?;
    let real = ObservedGraph { graph: &version.real, observed: &version.observed, method: wanted.ranges };

    let (quantization, quantized) = real.quantized(&all)?;
    let backbone = Backbone::of_all(host, vec![version.real.clone(), quantized.graph.clone()])?;
    let mut answers = judge::answers(&backbone, &[0, 1], &judge.inputs)?.into_iter();
    let (base, answered) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
    drop(backbone);
    let labels = judge.labels.take().unwrap_or_else(|| base.classes.iter().map(|class| *class as u32).collect());
    let holdout = beside(graph, wanted, &judge, labelled, (&base, &labels), host)?;
    judge.gap = holdout.as_ref().map_or(0.0, |known| known.widened_by);
    judge.labels = Some(labels);

    let mut found = Tried { quantization, quantized, answered };
    let mut alone = BTreeMap::new();
    if !judge.is_kept(&base, &found.answered) {
        note(&format!("quantization: {}; layers are tried one by one", judge.says(&base, &found.answered)));
        alone = search::alone(&real, &layers, compared, host)?;
        let tried = search::tried(&real, &layers, search::steps(&alone), &judge.inputs, host)?;
        let mut nearest = judge.says(&base, &found.answered);
        let mut kept = None;
        for one in tried {
            if judge.is_kept(&base, &one.answered) {
                kept = Some(one);
                break;
            }
            nearest = judge.says(&base, &one.answered);
        }
        found = kept.ok_or_else(|| not_kept(&judge, &nearest))?;
    }
    let accuracy = judge.accuracy(&base, &found.answered, labelled, holdout);
    let known = Known { decibels: &decibels, alone: &alone, found: &found };
    let report = QuantizationReport {
        numbers: "int8",
        ranges: wanted.ranges,
        equalized: version.equalized,
        samples: teaching.len(),
        judging_samples: judge.inputs.len(),
        signal_to_noise_db: found.answered.noise.decibel(),
        accuracy,
        real_weights_bytes: bytes(&version.real, true),
        weights_bytes: bytes(&found.quantized.graph, true),
        real_activations_bytes: bytes(&version.real, false),
        activations_bytes: bytes(&found.quantized.graph, false),
        layers: known.layers(&version.real),
    };
    Ok(Quantized { graph: found.quantized.graph, real: version.real, quantization: found.quantization, report })
}

fn refusal(code: &'static str, message: impl Into<String>, help: &str) -> Failure {
    Failure::Input(vec![Diagnostic::new(code, message.into()).help(help)])
}

/// Refuses what is quantized already, and what has nothing to quantize.
fn check_model(graph: &Graph, layers: &[NodeId]) -> Result<(), Failure> {
    let rounds = |id: NodeId| matches!(graph.node(id).op, Op::Binary(BinaryOp::RoundedQuotient, _));
    if let Some(id) = graph.node_ids().find(|id| rounds(*id)) {
        let message = format!("the model is quantized already: node `{}` rounds", printable(&graph.node(id).name));
        return Err(refusal(
            "E0193",
            message,
            "leave --quantize out, and --calibration beside --numbers int8: its whole numbers are kept as they are",
        ));
    }
    if layers.is_empty() {
        let message = "there is nothing to quantize: no convolution or matrix product with constant weights";
        return Err(refusal("E0193", message, "compile without --quantize"));
    }
    Ok(())
}

fn load(path: &Path, graph: &Graph, wanted: &QuantizeOptions) -> Result<Samples, Failure> {
    samples::load(path, graph, &wanted.preparation, None)
        .map_err(|error| Failure::Environment(error.context(format!("calibration data `{}`", path.display()))))
}

/// Samples that teach, and what judges.
fn split(graph: &Graph, samples: Samples, wanted: &QuantizeOptions) -> Result<(Vec<Value>, Judge), Failure> {
    let count = samples.inputs.len();
    if count < LEAST_SAMPLES {
        let message = format!("{count} calibration samples are too few to quantize by; at least {LEAST_SAMPLES}");
        return Err(refusal("E0192", message, "give more samples"));
    }
    let limits = wanted.demands.limits;
    let by_hand = limits != Limits::default();
    let needs_classes = by_hand || wanted.demands.holdout.is_some();
    let help = "leave --max-loss, --min-accuracy, --max-class-loss and --holdout out";
    let classes = match classifier::classes(graph, help) {
        Ok(classes) => Some(classes),
        Err(refused) if needs_classes => return Err(Failure::Input(vec![refused])),
        Err(_) => None,
    };
    if let Some(classes) = classes
        && let Some((message, help)) = crate::fit::label_fault(samples.labels.as_deref().unwrap_or(&[]), classes)
    {
        return Err(refusal("E0192", message, &help));
    }
    let mut order: Vec<usize> = (0..count).collect();
    Chance::new(0x5eed).shuffle(&mut order);
    let teaching = (count / 2).min(MOST_TEACHING);
    let (teaching, mut judging) = (order[..teaching].to_vec(), order[teaching..].to_vec());
    judging.sort_unstable();
    let take = |list: &[usize]| -> Vec<Value> { list.iter().map(|at| samples.inputs[*at].clone()).collect() };
    let labels = samples.labels.as_ref().filter(|_| classes.is_some());
    let judge = Judge {
        inputs: take(&judging),
        classes,
        labels: labels.map(|labels| judging.iter().map(|at| labels[*at] as u32).collect()),
        limits: limits.or_loss(DEFAULT_LOSS),
        by_hand,
        gap: 0.0,
    };
    Ok((take(&teaching), judge))
}

/// How many samples can be observed without sending too much.
fn affordable(graph: &Graph, tensors: &[TensorId], samples: usize) -> usize {
    let bytes: usize = tensors.iter().map(|tensor| graph.tensor_type(*tensor).size_bytes()).sum();
    samples.min((MOST_OBSERVED_BYTES / bytes.max(1)).max(LEAST_SAMPLES))
}

/// The version whose answer in whole numbers is nearest to that in real ones, and signal to noise by layer, in dB.
fn best(
    versions: Vec<Version>,
    int8: &BTreeSet<NodeId>,
    inputs: &[Value],
    wanted: &QuantizeOptions,
    host: &dyn Host,
) -> Result<(Version, BTreeMap<NodeId, f64>), Failure> {
    let mut graphs = Vec::new();
    let mut places = Vec::new();
    for Version { real, observed, .. } in &versions {
        let observed = ObservedGraph { graph: real, observed, method: wanted.ranges };
        let made = observed.quantized(int8)?.1;
        // Results of layers, where they have steps.
        let results = int8.iter().map(|id| {
            let output = real.node(*id).outputs[0];
            let (steps, scale) = made.steps.get(&output).copied().unwrap_or((output, 1.0));
            (*id, output, steps, scale)
        });
        let results: Vec<(NodeId, TensorId, TensorId, f32)> = results.collect();
        let exact = probed(real, results.iter().map(|(_, output, ..)| *output));
        let whole = probed(&made.graph, results.iter().map(|(_, _, steps, _)| *steps));
        let place = |graph: &Graph, tensor: TensorId| graph.outputs.iter().position(|output| *output == tensor);
        let own: Vec<(NodeId, (usize, usize, f32))> = results
            .into_iter()
            .filter_map(|(id, output, steps, scale)| Some((id, (place(&exact, output)?, place(&whole, steps)?, scale))))
            .collect();
        // The answer stands for the version.
        places.push(own);
        graphs.extend([exact, whole]);
    }
    let backbone = Backbone::of_all(host, graphs)?;
    let mut compared = Vec::new();
    for (number, (version, own)) in versions.into_iter().zip(places).enumerate() {
        let answer = (0, 0, 1.0);
        let all: Vec<(usize, usize, f32)> =
            std::iter::once(answer).chain(own.iter().map(|(_, place)| *place)).collect();
        let noise = judge::layers(&backbone, [2 * number, 2 * number + 1], &all, inputs)?;
        let decibels = own.iter().zip(&noise[1..]).map(|((id, _), noise)| (*id, noise.decibel())).collect();
        compared.push((noise[0].decibel(), version, decibels));
    }
    let best = compared.into_iter().reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map(|(_, version, decibels)| (version, decibels))
        .ok_or_else(|| Failure::Internal(anyhow::anyhow!("there is no version")))
}

/// The network in real numbers on other samples, if anything is known of that.
fn beside(
    graph: &Graph,
    wanted: &QuantizeOptions,
    judge: &Judge,
    labelled: bool,
    (base, labels): (&Answered, &[u32]),
    host: &dyn Host,
) -> Result<Option<HoldoutReport>, Failure> {
    let (Some(holdout), Some(classes)) = (&wanted.demands.holdout, judge.classes) else { return Ok(None) };
    let known = Calibration { path: &wanted.calibration, labelled, preparation: &wanted.preparation, classes };
    let beside = holdout::read(holdout, graph, &known)?;
    let accuracy = evidence(base, base, labels, classes).accuracy();
    let runner = Runner { host, cache: &wanted.cache };
    Ok(Some(beside.compare(graph, classes, accuracy, runner)?))
}

impl Judge {
    /// Refuses limits that so many samples cannot prove of anything, before anything is tried.
    fn check_provable(&self) -> Result<(), Failure> {
        let (true, Some(classes)) = (self.by_hand, self.classes) else { return Ok(()) };
        // How many samples a class has is not known yet where labels are the network's own answers.
        let unlabelled = vec![0; self.inputs.len()];
        let (labels, limits) = match &self.labels {
            Some(labels) => (labels, self.limits),
            None => (&unlabelled, Limits { max_class_loss: None, ..self.limits }),
        };
        let best = provable(labels, classes, &limits, self.gap);
        if limits.allow(&best) {
            return Ok(());
        }
        let best = best.rounded().loosened(limits).options();
        let nearest = format!("{best} is all that can be proven, were no answer changed");
        Err(not_kept(self, &nearest))
    }

    fn evidence(&self, base: &Answered, found: &Answered) -> Option<Evidence> {
        Some(evidence(base, found, self.labels.as_deref()?, self.classes?))
    }

    /// Whether answers keep the limits: those of the user are proven; the default is kept on the samples.
    fn is_kept(&self, base: &Answered, found: &Answered) -> bool {
        match self.evidence(base, found) {
            Some(evidence) if self.by_hand => self.limits.allow(&evidence.proven(self.gap)),
            Some(evidence) => evidence.difference.loss() <= DEFAULT_LOSS,
            None => found.noise.decibel() >= LEAST_DECIBEL,
        }
    }

    /// What answers lose, in words.
    fn says(&self, base: &Answered, found: &Answered) -> String {
        let decibel = found.noise.decibel();
        match self.evidence(base, found) {
            Some(evidence) => {
                let (loss, bound) = (evidence.difference.loss() * 100.0, evidence.proven(self.gap));
                let proven = bound.like(&self.limits).rounded().options();
                format!("{loss:.2} points are lost ({proven} is proven), signal to noise is {decibel:.1} dB")
            }
            None => format!("signal to noise of the answer is {decibel:.1} dB"),
        }
    }

    fn accuracy(
        &self,
        base: &Answered,
        found: &Answered,
        labelled: bool,
        holdout: Option<HoldoutReport>,
    ) -> Option<QuantizedAccuracy> {
        let evidence = self.evidence(base, found)?;
        let samples = evidence.difference.samples;
        let base = evidence.base_right as f64 / samples.max(1) as f64;
        Some(QuantizedAccuracy {
            labelled,
            base,
            quantized: evidence.accuracy(),
            quantized_range: share_range(evidence.accuracy(), samples),
            loss: evidence.difference.loss(),
            loss_bound: evidence.difference.loss_bound() + self.gap,
            limits: self.limits,
            limits_by_hand: self.by_hand,
            holdout,
            worst_classes: worst_classes(&evidence.classes, WORST),
            overcharged_classes: overcharged(&evidence.classes, self.limits.allowed_loss(base)),
        })
    }
}

fn not_kept(judge: &Judge, nearest: &str) -> Failure {
    let wanted = match judge.classes {
        Some(_) => judge.limits.options(),
        None => format!("{LEAST_DECIBEL:.0} dB"),
    };
    let message =
        format!("no quantization keeps {wanted}: at best {nearest}, by {} samples that judge", judge.inputs.len());
    let help = "give more calibration samples, which prove more; allow more loss (--max-loss); try --quantize-ranges min-max \
                or percentile; or compile without --quantize";
    Failure::Infeasible(Diagnostic::new("E0194", message).help(help))
}

/// Bytes of a graph's constants, or of its other tensors, as they can be stored. What is rounded at once is never
/// stored.
fn bytes(graph: &Graph, constants: bool) -> u64 {
    let rounds = |id: &NodeId| matches!(graph.node(*id).op, Op::Binary(BinaryOp::RoundedQuotient, _));
    let passes =
        |tensor: TensorId| graph.tensor(tensor).producer.is_some() && graph.consumers(tensor).iter().all(rounds);
    let is_stored = |tensor: &TensorId| graph.is_output(*tensor) || (graph.is_read(*tensor) && !passes(*tensor));
    let tensors = graph.tensor_ids().filter(|tensor| is_stored(tensor) && graph.is_constant(*tensor) == constants);
    tensors.map(|tensor| graph.stored_bytes(tensor) as u64).sum()
}

/// What is known of layers.
struct Known<'a> {
    decibels: &'a BTreeMap<NodeId, f64>,
    alone: &'a BTreeMap<NodeId, f64>,
    found: &'a Tried,
}

impl Known<'_> {
    /// All nodes that multiply.
    fn layers(&self, graph: &Graph) -> Vec<QuantizedLayer> {
        let order = graph.topological_order().unwrap_or_default();
        let layers = order.into_iter().filter(|id| node_macs(graph, *id) > 0 && has_weights(graph, *id));
        layers.map(|id| self.layer(graph, id)).collect()
    }

    fn layer(&self, graph: &Graph, id: NodeId) -> QuantizedLayer {
        let node = graph.node(id);
        let is_whole = self.found.quantization.products.contains_key(&id);
        let why = match self.alone.get(&id) {
            _ if is_whole => None,
            Some(decibel) => Some(format!("alone it leaves {decibel:.1} dB of the answer, and too much would be lost")),
            None => Some("its operator, or what it multiplies, has no whole numbers".to_string()),
        };
        QuantizedLayer {
            node: node.name.clone(),
            op: op_name(&node.op),
            numbers: if is_whole { "int8" } else { "f32" },
            why,
            signal_to_noise_db: self.decibels.get(&id).copied().filter(|_| is_whole && self.alone.is_empty()),
            alone_db: self.alone.get(&id).copied(),
        }
    }
}

/// Whether a node is a layer: what it reads is `f32`, and it multiplies.
fn has_weights(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let is_real = node.inputs.first().is_some_and(|x| graph.tensor_type(*x).element == ElementType::F32);
    is_real && matches!(node.op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) | Op::MatMul | Op::Einsum(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::Demands;
    use crate::host::reference::Reference;
    use crate::quantize::RangeMethod;
    use crate::samples::Preparation;
    use partita_files::data::{Arrays, write_npz};
    use partita_ir::graph::text;

    /// Three layers. What the second makes of its first input is a thousand times larger than of its second, and the
    /// third asks as much of both: a grid over both is too coarse for one. A bound keeps channels from being made
    /// alike.
    const COARSE: &str = r#"graph "coarse" opset 17
input %0 "x": f32[1,2]
const %1 "u": f32[2,2] = [1.0, 0.0, 0.0, 1.0]
const %2 "v": f32[2,2] = [1000.0, 0.0, 0.0, 1.0]
const %3 "w": f32[2,2] = [0.001, -0.001, -1.0, 1.0]
%4 "a": f32[1,2] = "first"(%0, %1) Gemm(Gemm(transpose_a:false,transpose_b:false,alpha:1.0,beta:1.0,activation:Clip(-9.0,9.0)))
%5 "b": f32[1,2] = "second"(%4, %2) Gemm(Gemm(transpose_a:false,transpose_b:false,alpha:1.0,beta:1.0,activation:Clip(-9000.0,9000.0)))
%6 "y": f32[1,2] = "third"(%5, %3) Gemm(Gemm(transpose_a:false,transpose_b:false,alpha:1.0,beta:1.0,activation:None))
output %6
"#;

    /// Samples with the class of the larger of two numbers.
    fn samples(count: usize, labelled: bool) -> Arrays {
        let mut chance = Chance::new(7);
        let x: Vec<f32> = (0..2 * count).map(|_| 2.0 * chance.unit() - 1.0).collect();
        let y = x.chunks(2).map(|pair| i64::from(pair[0] <= pair[1])).collect();
        let mut arrays = vec![("x".to_string(), Value::f32([count, 2], x))];
        if labelled {
            arrays.push(("y".to_string(), Value::i64([count], y)));
        }
        arrays
    }

    fn quantized(text: &str, arrays: &Arrays, limits: Limits) -> Result<Quantized, Failure> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let calibration = folder.path().join("calibration.npz");
        write_npz(&calibration, arrays).expect("the folder is ours");
        let wanted = QuantizeOptions {
            calibration,
            preparation: Preparation::default(),
            demands: Demands { limits, holdout: None },
            ranges: RangeMethod::MinMax,
            cache: folder.path().to_path_buf(),
        };
        quantize(&text::parse(text).expect("it is a graph"), &wanted, &Reference)
    }

    fn numbers(quantized: &Quantized) -> Vec<&'static str> {
        quantized.report.layers.iter().map(|layer| layer.numbers).collect()
    }

    #[test]
    fn a_layer_that_loses_too_much_stays_and_says_why() {
        let made = quantized(COARSE, &samples(400, true), Limits::default()).expect("most of it can be quantized");
        let layers = &made.report.layers;
        assert_eq!(layers.len(), 3);
        assert!(numbers(&made).contains(&"f32") && numbers(&made).contains(&"int8"), "{layers:?}");
        assert!(
            layers.iter().all(|layer| layer.alone_db.is_some() && (layer.why.is_some() == (layer.numbers == "f32")))
        );
        let accuracy = made.report.accuracy.expect("it is a classifier");
        assert!(accuracy.labelled && accuracy.base == 1.0 && accuracy.loss <= 0.01, "{accuracy:?}");
    }

    #[test]
    fn what_nothing_keeps_is_refused_with_what_is_nearest() {
        // 200 samples prove no loss below 1.2816 / 201, and with what this network loses none below that of five
        // answers.
        for (limit, nearest) in [(0.006, "--max-loss 0.0064 is all that can be proven"), (0.0064, "points are lost")] {
            let limits = Limits { max_loss: Some(limit), ..Limits::default() };
            let refused = quantized(COARSE, &samples(400, true), limits).expect_err("so few prove less");
            assert!(matches!(&refused, Failure::Infeasible(why) if why.code == "E0194"), "{refused}");
            let said = refused.to_string();
            for part in [format!("--max-loss {limit}").as_str(), "200 samples", nearest] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }

    #[test]
    fn answers_in_real_numbers_are_right_where_nobody_says_what_is() {
        let fine = COARSE.replace("[1000.0, 0.0", "[1.0, 0.0").replace("[0.001, -0.001", "[1.0, -1.0");
        let made = quantized(&fine, &samples(300, false), Limits::default()).expect("it can be quantized");
        assert_eq!(numbers(&made), ["int8"; 3]);
        let accuracy = made.report.accuracy.as_ref().expect("it is a classifier");
        assert!(!accuracy.labelled && accuracy.base == 1.0);
        assert!(made.report.signal_to_noise_db > 30.0, "{}", made.report.signal_to_noise_db);
        // Twice the same, to the last number.
        let again = quantized(&fine, &samples(300, false), Limits::default()).expect("it can be quantized");
        assert_eq!(again.quantization, made.quantization);
        assert_eq!(again.graph.to_string(), made.graph.to_string());
    }

    #[test]
    fn few_samples_and_unknown_classes_are_refused() {
        let few = quantized(COARSE, &samples(31, true), Limits::default()).expect_err("they are too few").to_string();
        assert!(few.contains("E0192") && few.contains("31 calibration samples"), "{few}");
        let three = COARSE.replace("output %6", "output %6\noutput %5");
        let limits = Limits { max_loss: Some(0.1), ..Limits::default() };
        let refused =
            quantized(&three, &samples(100, true), limits).expect_err("two outputs are no classes").to_string();
        assert!(refused.contains("E0190"), "{refused}");
        let made = quantized(&three, &samples(100, true), Limits::default()).expect("without limits nobody asks");
        assert!(made.report.accuracy.is_none());
    }
}
