//! What a model loses without its parts: each alone, then the best sets, measured on the calibration samples.
//!
//! Half of the samples guide the search, the others say what the sets that were found are worth.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use super::parts::{Kind, Part, Repair, parts};
use super::repair;
use super::scores::{Score, Scorer, Set};
use super::search::{self, Candidate, Known};
use super::segments::{Segment, segments, way};
use crate::driver::Failure;
use crate::exits::calibrate::class;
use crate::graph::op::Activation;
use crate::graph::{Graph, Op, TensorId, Value};
use crate::host::backbone::Backbone;
use crate::samples::Samples;

/// Samples from which repairs are fitted.
const FITTED: usize = 256;

/// Rows of a fit per channel, and at least; more change nothing.
const ROWS_PER_CHANNEL: usize = 24;
const LEAST_ROWS: usize = 4096;

/// Largest map that is fitted: beyond this it costs more flash than it is worth.
const MAX_MAP_ELEMENTS: usize = 1 << 18;

/// Multiply-adds that the search may take: some minutes on two cores.
const SEARCH_MACS: f64 = 4e13;

/// Least samples that guide the search, if there are as many.
const LEAST_GUIDES: usize = 200;

/// Most sets that are measured on the samples that judge.
const MOST_JUDGED: usize = 24;

/// What is known of a model's parts.
pub struct Study {
    /// The parts.
    pub parts: Vec<Part>,
    /// The model as a chain.
    pub segments: Vec<Segment>,
    /// Each way of each segment alone: which, and what it scores on the samples that guide.
    pub singles: Vec<(usize, u8, Score)>,
    /// The whole model on the samples that guide.
    pub guide: Score,
    /// The whole model on the samples that judge.
    pub base: Score,
    /// Sets that nothing beats both in accuracy and in what they save, the whole model first, with what they score on
    /// the samples that judge.
    pub front: Vec<Member>,
    /// Sets that were measured.
    pub measured: usize,
}

/// A set of parts that can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which way each segment is computed.
    pub set: Set,
    /// What the samples that judge say.
    pub score: Score,
    /// Multiply-adds.
    pub macs: u64,
}

impl Study {
    /// What goes in a set, each with what takes its place.
    pub fn drops(&self, set: &Set) -> Vec<(&Part, Option<&Repair>)> {
        let ways = set.iter().zip(&self.segments).map(|(way, segment)| &segment.ways[usize::from(*way)]);
        ways.flat_map(|way| &way.drops).map(|(part, repair)| (&self.parts[*part], repair.as_ref())).collect()
    }
}

/// Studies a classifier; what was measured is kept in `cache`. Sets below `floor` (loss of accuracy against the whole model) are not pursued.
pub fn study(graph: &Graph, samples: &Samples, floor: f64, cache: &Path) -> Result<Study, Failure> {
    let parts = parts(graph);
    if parts.is_empty() {
        return Ok(Study {
            parts,
            segments: Vec::new(),
            singles: Vec::new(),
            guide: Score::default(),
            base: Score::default(),
            front: Vec::new(),
            measured: 0,
        });
    }
    let mut segments = segments(graph, &parts)?;
    let probabilities = answers_probabilities(graph);
    let labels = add_repairs(graph, &parts, &mut segments, samples)?;
    let scorer = Scorer::new(graph, &segments, probabilities, cache)?;
    let mut study = Guided::new(&scorer, &segments, samples, &labels).run(floor).map_err(Failure::Environment)?;
    study.parts = parts;
    study.segments = segments.clone();
    Ok(study)
}

/// Whether the first output is a softmax's.
pub fn answers_probabilities(graph: &Graph) -> bool {
    let producer = graph.outputs.first().and_then(|output| graph.tensor(*output).producer);
    producer.is_some_and(|producer| matches!(graph.node(producer).op, Op::Softmax { .. }))
}

/// Runs samples through the whole network, and adds to each segment ways with a repair. The labels, or the model's own
/// answers where nobody says what samples are.
fn add_repairs(
    graph: &Graph,
    parts: &[Part],
    segments: &mut [Segment],
    samples: &Samples,
) -> Result<Vec<u32>, Failure> {
    let environment = |error: anyhow::Error| Failure::Environment(error.context("running the calibration samples"));
    let mut probe = graph.clone();
    let cuts: Vec<TensorId> = segments.iter().map(|segment| segment.to).filter(|to| !graph.is_output(*to)).collect();
    probe.outputs.extend(&cuts);
    let backbone = Backbone::build(probe)?;
    let mut process = backbone.start().map_err(environment)?;
    let known: Vec<u32> = samples.labels.iter().flatten().map(|label| *label as u32).collect();
    let wanted = if samples.labels.is_some() { FITTED.min(samples.inputs.len()) } else { samples.inputs.len() };
    let mut answers = Vec::new();
    // Per cut the rows of channels that were seen, `[rows, channels]`; the network's input first.
    let mut rows: BTreeMap<Option<TensorId>, Vec<f32>> = BTreeMap::new();
    for (number, input) in samples.inputs.iter().take(wanted).enumerate() {
        let mut outputs = process.answer(input).map_err(environment)?.into_iter();
        answers.push(class(&outputs.next().unwrap_or_default()) as u32);
        if number >= FITTED {
            continue;
        }
        let tensors = cuts.iter().map(|cut| Some(*cut)).zip(outputs);
        let first = (None, crate::data::to_f32(&input.data));
        for (cut, elements) in std::iter::once(first).chain(tensors) {
            let known = rows.entry(cut).or_default();
            known.extend(elements);
        }
    }
    for segment in segments.iter_mut() {
        let single: Vec<(usize, usize)> = segment.ways.iter().skip(1).enumerate().filter_map(single_part).collect();
        for (at, part) in single {
            let Some(repair) = repaired(graph, segment, &parts[part], &rows) else { continue };
            let way = way(graph, segment.from, segment.to, vec![(part, Some(repair))], parts)?;
            let plain = &segment.ways[at + 1];
            // Where the plain way computes something already, the repair takes nothing more.
            let keeps_both = plain.macs < way.macs;
            if keeps_both {
                segment.ways.push(way);
            } else {
                segment.ways[at + 1] = way;
            }
        }
    }
    Ok(if samples.labels.is_some() { known } else { answers })
}

fn single_part((at, way): (usize, &super::segments::Way)) -> Option<(usize, usize)> {
    match way.drops.as_slice() {
        [(part, None)] => Some((at, *part)),
        _ => None,
    }
}

/// What best takes the place of a part that is all that goes in a segment; `rows` holds all elements of both its ends.
fn repaired(
    graph: &Graph,
    segment: &Segment,
    part: &Part,
    rows: &BTreeMap<Option<TensorId>, Vec<f32>>,
) -> Option<Repair> {
    let join = graph.node(part.join);
    let from = segment.from?;
    if join.outputs.first() != Some(&segment.to) || graph.shape(from).len() < 3 {
        return None;
    }
    let (input, output) = (graph.shape(from), graph.shape(segment.to));
    let x = Rows { shape: input, elements: rows.get(&Some(from))? };
    match part.kind {
        Kind::Block => {
            let activation = match &join.op {
                Op::Conv(conv) => conv.activation,
                Op::Binary(_, activation) => *activation,
                _ => return None,
            };
            let (channels, results) = (input[1], output[1]);
            let stride: Vec<usize> =
                input[2..].iter().zip(&output[2..]).map(|(a, b)| a / b.max(&1)).collect();
            let divides = input[2..].iter().zip(&output[2..]).zip(&stride).all(|((a, b), step)| a.div_ceil(*step) == *b);
            if !divides || channels * results > MAX_MAP_ELEMENTS || rows.get(&Some(segment.to)).is_none() {
                return None;
            }
            let y = Rows { shape: output, elements: rows.get(&Some(segment.to))? };
            let wanted = LEAST_ROWS.max(ROWS_PER_CHANNEL * channels);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let places = y.places();
            let every = (places / wanted).max(1);
            // An odd step visits all rows and columns of space.
            for place in (0..places).step_by(every | 1) {
                y.row(place, &vec![1; stride.len()], output, &mut b);
                x.row(place, &stride, output, &mut a);
            }
            let map = repair::fit(&a, &b, channels, results, activation)?;
            Some(Repair::Map { from, weights: map.weights, bias: map.bias, stride })
        }
        Kind::Skip => {
            let residual = match &join.op {
                Op::Conv(_) => join.inputs.get(3),
                _ => join.inputs.get(part.operand),
            };
            let bare = matches!(&join.op, Op::Conv(conv) if conv.activation != Activation::None || conv.residual);
            (residual == Some(&from) && (bare || matches!(join.op, Op::Binary(..)))).then(|| Repair::Shift(x.means()))
        }
        Kind::Projection | Kind::Branch => None,
    }
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

    /// Channels at `stride` times a place of a tensor of shape `output`; places count through all samples.
    fn row(&self, place: usize, stride: &[usize], output: &[usize], row: &mut Vec<f32>) {
        let plane: usize = output[2..].iter().product();
        let (sample, mut rest) = (place / plane, place % plane);
        let mut offset = 0;
        let mut step = 1;
        for axis in (2..output.len()).rev() {
            offset += rest % output[axis] * stride[axis - 2] * step;
            rest /= output[axis];
            step *= self.shape[axis];
        }
        let own = self.plane();
        let first = sample * self.shape[1] * own + offset;
        row.extend((0..self.shape[1]).map(|channel| self.elements[first + channel * own]));
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

/// The samples in two halves.
struct Guided<'a> {
    scorer: &'a Scorer<'a>,
    segments: &'a [Segment],
    guides: (Vec<&'a Value>, Vec<u32>),
    judges: (Vec<&'a Value>, Vec<u32>),
}

impl<'a> Guided<'a> {
    fn new(scorer: &'a Scorer<'a>, segments: &'a [Segment], samples: &'a Samples, labels: &[u32]) -> Guided<'a> {
        let half = |odd: usize| -> (Vec<&'a Value>, Vec<u32>) {
            let picked = samples.inputs.iter().zip(labels).skip(odd).step_by(2);
            picked.map(|(input, label)| (input, *label)).unzip()
        };
        let (mut guides, judges) = (half(0), half(1));
        // Singles and the greedy search each run about as many networks as there are ways, twice.
        let macs: u64 = segments.iter().map(|segment| segment.ways[0].macs).sum();
        let ways: usize = segments.iter().map(|segment| segment.ways.len()).sum();
        let affordable = (SEARCH_MACS / (macs as f64 * 3.0 * ways as f64).max(1.0)) as usize;
        let count = guides.0.len().min(affordable.max(LEAST_GUIDES));
        guides.0.truncate(count);
        guides.1.truncate(count);
        Guided { scorer, segments, guides, judges }
    }

    fn macs(&self, set: &Set) -> u64 {
        set.iter().zip(self.segments).map(|(way, segment)| segment.ways[usize::from(*way)].macs).sum()
    }

    fn run(&self, floor: f64) -> anyhow::Result<Study> {
        let none: Set = vec![0; self.segments.len()];
        let mut known = Known::new();
        let mut singles = Vec::new();
        for (segment, info) in self.segments.iter().enumerate() {
            singles.extend((1..info.ways.len()).map(|way| (segment, way as u8)));
        }
        let with = |(segment, way): &(usize, u8)| {
            let mut set = none.clone();
            set[*segment] = *way;
            set
        };
        let sets: Vec<Set> = std::iter::once(none.clone()).chain(singles.iter().map(with)).collect();
        let scores = self.scorer.score(&sets, &self.guides.0, &self.guides.1, "samples without one part")?;
        let guide = scores[0];
        known.extend(sets.into_iter().zip(scores.iter().copied()));
        let singles: Vec<(usize, u8, Score)> =
            singles.into_iter().zip(&scores[1..]).map(|((segment, way), score)| (segment, way, *score)).collect();
        let candidates: Vec<Candidate> = singles
            .iter()
            .map(|(segment, way, score)| Candidate {
                segment: *segment,
                way: *way,
                loss: score.loss() - guide.loss(),
                drop: guide.accuracy() - score.accuracy(),
            })
            .collect();
        let candidates = undominated(&candidates, self.segments);
        let mut measure = |sets: &[Set]| self.scorer.score(sets, &self.guides.0, &self.guides.1, "samples without some parts");
        // What a part saves in operations, and in nodes whose results travel.
        let macs: Vec<f64> = candidates.iter().map(|one| self.saved(one)).collect();
        let alike: Vec<f64> = macs.iter().map(|macs| f64::from(u8::from(*macs > 0.0))).collect();
        let floor = guide.accuracy() - floor;
        for gains in [&macs, &alike] {
            search::search(self.segments.len(), &candidates, gains, floor, &mut known, &mut measure)?;
        }
        let measured = known.len();
        let mut worth: Vec<(Set, u64, Score)> =
            known.into_iter().map(|(set, score)| (self.macs(&set), set, score)).map(|(m, s, c)| (s, m, c)).collect();
        worth.retain(|(_, _, score)| score.accuracy() >= floor - 0.02);
        let front = front_of(worth);
        let mut sets: Vec<Set> = front.into_iter().filter(|set| *set != none).take(MOST_JUDGED).collect();
        sets.insert(0, none);
        let scores = self.scorer.score(&sets, &self.judges.0, &self.judges.1, "samples that judge sets of parts")?;
        let base = scores[0];
        let members = sets.into_iter().zip(scores);
        let mut front: Vec<Member> =
            members.map(|(set, score)| Member { macs: self.macs(&set), set, score }).collect();
        // Those that turned out no better than one that does less.
        let all = front.clone();
        front.retain(|member| {
            !all.iter().any(|other| other.macs < member.macs && other.score.accuracy() >= member.score.accuracy())
                || member.set.iter().all(|way| *way == 0)
        });
        Ok(Study { parts: Vec::new(), segments: Vec::new(), singles, guide, base, front, measured })
    }

    fn saved(&self, candidate: &Candidate) -> f64 {
        let ways = &self.segments[candidate.segment].ways;
        ways[0].macs.saturating_sub(ways[usize::from(candidate.way)].macs) as f64
    }
}

/// Ways that no other way of the same segment beats in both what it saves and what it loses.
fn undominated(candidates: &[Candidate], segments: &[Segment]) -> Vec<Candidate> {
    let macs = |candidate: &Candidate| segments[candidate.segment].ways[usize::from(candidate.way)].macs;
    let beats = |a: &Candidate, b: &Candidate| {
        a.segment == b.segment && a.way != b.way && macs(a) <= macs(b) && (a.loss, a.way) < (b.loss, b.way)
    };
    candidates.iter().filter(|b| !candidates.iter().any(|a| beats(a, b))).copied().collect()
}

/// Sets that none beats in both accuracy and operations, from the one that saves most.
fn front_of(mut sets: Vec<(Set, u64, Score)>) -> Vec<Set> {
    sets.sort_by(|a, b| a.1.cmp(&b.1).then(b.2.right.cmp(&a.2.right)).then(a.0.cmp(&b.0)));
    let mut best = 0;
    sets.retain(|(_, _, score)| {
        let better = score.right > best;
        best = best.max(score.right);
        better
    });
    sets.into_iter().map(|(set, _, _)| set).collect()
}

/// Reads samples for variants.
pub fn load(path: &std::path::Path, graph: &Graph, preparation: &crate::samples::Preparation) -> Result<Samples, Failure> {
    crate::samples::load(path, graph, preparation, None)
        .with_context(|| format!("calibration data `{}`", path.display()))
        .map_err(Failure::Environment)
}
