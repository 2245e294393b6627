//! Half of the samples guide the search for sets of parts, the others judge what was found.

use super::demanded::Demanded;
use super::parts::{Drop, Part, dropped, macs};
use super::scores::{Ended, Score, Scorer, Set, score_graphs};
use super::search::{self, Candidate, Known, Problem};
use super::segments::Segment;
use super::studied::{Member, Study};
use crate::classifier::answers_probabilities;
use crate::host::Runner;
use crate::samples::Samples;
use partita_ir::graph::{Graph, Value};
use partita_placement::{Failure, internal};

/// Multiply-adds that the search may take: some minutes on two cores.
const SEARCH_MACS: f64 = 4e13;

/// Least samples that guide the search, if there are as many, and most: more say little more of differences.
const LEAST_GUIDES: usize = 200;
const MOST_GUIDES: usize = 1500;

/// Most sets that are measured on the samples that judge.
const MOST_JUDGED: usize = 12;

/// Samples by which the two kinds of compensations of a set are compared.
const COMPARED: usize = 500;

/// Accuracy that a set may lack while its compensations are those of single parts.
const WON_BACK: f64 = 0.03;

/// What the first of the samples that guide say of each alternative alone.
#[derive(Default)]
pub(super) struct Singles {
    /// The whole network.
    pub whole: Score,
    /// Segment, alternative and score.
    pub alternatives: Vec<(usize, u8, Score)>,
}

/// The samples in two halves.
pub(super) struct Guided<'a> {
    scorer: &'a Scorer<'a>,
    segments: &'a [Segment],
    /// Bytes that travel of what each segment computes.
    travels: Vec<u64>,
    guides: (Vec<&'a Value>, Vec<u32>),
    pub judges: (Vec<&'a Value>, Vec<u32>),
    runner: Runner<'a>,
}

impl<'a> Guided<'a> {
    pub fn new(
        scorer: &'a Scorer<'a>,
        segments: &'a [Segment],
        travels: Vec<u64>,
        samples: &'a Samples,
        labels: &[u32],
        runner: Runner<'a>,
    ) -> Guided<'a> {
        let half = |odd: usize| -> (Vec<&'a Value>, Vec<u32>) {
            let picked = samples.inputs.iter().zip(labels).skip(odd).step_by(2);
            picked.map(|(input, label)| (input, *label)).unzip()
        };
        let (mut guides, judges) = (half(0), half(1));
        // Singles and the greedy search each run about as many networks as there are alternatives.
        let macs: u64 = segments.iter().map(|segment| segment.alternatives[0].macs).sum();
        let alternatives: usize = segments.iter().map(|segment| segment.alternatives.len()).sum();
        let affordable = (SEARCH_MACS / (macs as f64 * 3.0 * alternatives as f64).max(1.0)) as usize;
        let count = guides.0.len().min(affordable.clamp(LEAST_GUIDES, MOST_GUIDES));
        guides.0.truncate(count);
        guides.1.truncate(count);
        Guided { scorer, segments, travels, guides, judges, runner }
    }

    fn macs(&self, set: &Set) -> u64 {
        set.iter()
            .zip(self.segments)
            .map(|(alternative, segment)| segment.alternatives[usize::from(*alternative)].macs)
            .sum()
    }

    /// Bytes that travel of what segments compute; of one that stays in part, as much as of its operations.
    fn sent_bytes(&self, set: &Set) -> u64 {
        let left = |(segment, alternative): (usize, &u8)| {
            let alternatives = &self.segments[segment].alternatives;
            let share = alternatives[usize::from(*alternative)].macs as f64 / alternatives[0].macs.max(1) as f64;
            (self.travels[segment] as f64 * share) as u64
        };
        set.iter().enumerate().map(left).sum()
    }

    fn score_guides(&self, sets: &[Set], count: usize, what: &'static str) -> anyhow::Result<Vec<Score>> {
        self.scorer.score(sets, &self.guides.0[..count], &self.guides.1[..count], what)
    }

    /// Scores of each alternative alone; those that are known are not measured again.
    pub fn singles(&self, known: Singles) -> anyhow::Result<Singles> {
        let none: Set = vec![0; self.segments.len()];
        let is_known = |segment: usize, alternative: u8| {
            known.alternatives.iter().any(|(s, w, _)| (*s, *w) == (segment, alternative))
        };
        let mut alternatives = Vec::new();
        for (segment, info) in self.segments.iter().enumerate() {
            let new = (1..info.alternatives.len() as u8).filter(|alternative| !is_known(segment, *alternative));
            alternatives.extend(new.map(|alternative| (segment, alternative)));
        }
        let with = |(segment, alternative): &(usize, u8)| {
            let mut set = none.clone();
            set[*segment] = *alternative;
            set
        };
        // For single parts the negative log-likelihood of fewer samples says enough.
        let all = self.guides.0.len();
        let few = (all / 2).clamp(LEAST_GUIDES.min(all), all);
        let sets: Vec<Set> = std::iter::once(none.clone()).chain(alternatives.iter().map(with)).collect();
        let scores = self.score_guides(&sets, few, "samples without one part")?;
        let new = alternatives
            .into_iter()
            .zip(&scores[1..])
            .map(|((segment, alternative), score)| (segment, alternative, *score));
        Ok(Singles { whole: scores[0], alternatives: known.alternatives.into_iter().chain(new).collect() })
    }

    /// All sets that were measured.
    pub fn search(&self, singles: Singles, demanded: &Demanded) -> anyhow::Result<(Study, Known)> {
        let none: Set = vec![0; self.segments.len()];
        let Singles { whole: alone, alternatives: singles } = singles;
        let all = self.guides.0.len();
        let candidate = |(segment, alternative, score): &(usize, u8, Score)| Candidate {
            segment: *segment,
            alternative: *alternative,
            loss: score.loss() - alone.loss(),
            drop: alone.accuracy() - score.accuracy(),
            size: added(self.segments, *segment, *alternative),
        };
        let candidates = undominated(&singles.iter().map(candidate).collect::<Vec<_>>(), self.segments);
        let mut known = Known::new();
        let guide = self.score_guides(std::slice::from_ref(&none), all, "samples of the whole network")?[0];
        known.insert(none, guide);
        let mut measure = |sets: &[Set]| self.score_guides(sets, all, "samples without some parts");
        let macs: Vec<f64> = candidates.iter().map(|one| self.saved(one)).collect();
        let bytes: Vec<f64> = candidates.iter().map(|one| self.spared(one)).collect();
        let floor = demanded.floor(guide);
        let mut seek = |gains: &[f64]| {
            let problem = Problem { segments: self.segments.len(), options: &candidates, gains, floor };
            search::search(problem, &mut known, &mut measure)
        };
        let bounds = (seek(&macs)?, seek(&bytes)?);
        Ok((Study { singles, alone, guide, bounds, measured: known.len(), ..Study::default() }, known))
    }

    /// Sets that none beats in accuracy and operations, or in accuracy and traffic; the whole network first.
    pub fn worth(&self, known: Known, floor: f64) -> Vec<Set> {
        let none: Set = vec![0; self.segments.len()];
        // Compensations that are fitted again for the whole set may still win something back.
        let fair = |(_, score): &(Set, Score)| score.accuracy() >= floor - WON_BACK;
        let fair: Vec<(Set, Score)> = known.into_iter().filter(fair).collect();
        let mut sets = vec![none];
        for cost in
            [&|set: &Set| self.macs(set) as f64, &|set: &Set| self.sent_bytes(set) as f64] as [&dyn Fn(&Set) -> f64; 2]
        {
            for set in front_of(&fair, cost).into_iter().take(MOST_JUDGED) {
                if !sets.contains(&set) {
                    sets.push(set);
                }
            }
        }
        sets
    }

    /// The whole network, and sets with two kinds of compensations, measured: the better by the samples that guide, and
    /// what the others say of it.
    pub fn judge(
        &self,
        graph: &Graph,
        parts: &[Part],
        sets: &[Set],
        refitted: Vec<Vec<Drop>>,
        classes: usize,
    ) -> Result<(Ended, Vec<Member>), Failure> {
        let alone = |set: &Set| -> Vec<Drop> {
            let alternatives = set
                .iter()
                .zip(self.segments)
                .map(|(alternative, segment)| &segment.alternatives[usize::from(*alternative)]);
            alternatives.flat_map(|alternative| alternative.drops.iter().cloned()).collect()
        };
        let mut choices: Vec<(usize, Vec<Drop>)> = Vec::new();
        for (at, (set, again)) in sets.iter().zip(refitted).enumerate() {
            let first = alone(set);
            if again != first {
                choices.push((at, again));
            }
            choices.push((at, first));
        }
        let without = |(_, drops): &(usize, Vec<Drop>)| {
            let drops: Vec<_> =
                drops.iter().map(|(part, compensation)| (&parts[*part], compensation.as_ref())).collect();
            dropped(graph, &drops).map_err(internal)
        };
        let graphs = choices.iter().map(without).collect::<Result<Vec<Graph>, Failure>>()?;
        let probabilities = answers_probabilities(graph);
        let scores = |graphs: &[&Graph], inputs: &[&Value], labels: &[u32]| {
            let ended = score_graphs(graphs, inputs, labels, probabilities, self.runner);
            ended.map_err(Failure::of)
        };
        let few = self.guides.0.len().min(COMPARED);
        let guided = scores(&graphs.iter().collect::<Vec<_>>(), &self.guides.0[..few], &self.guides.1[..few])?;
        let best = |at: usize| {
            let own = (0..choices.len()).filter(|choice| choices[*choice].0 == at);
            own.min_by(|a, b| guided[*a].score.nll.total_cmp(&guided[*b].score.nll))
        };
        let best: Vec<usize> = (0..sets.len()).filter_map(best).collect();
        let judged: Vec<&Graph> = best.iter().map(|choice| &graphs[*choice]).collect();
        let judged = scores(&judged, &self.judges.0, &self.judges.1)?;
        let base = judged.first().cloned().unwrap_or_default();
        let member = |(choice, ended): (&usize, Ended)| {
            let (at, drops) = &choices[*choice];
            let set = sets[*at].clone();
            let (macs, sent_bytes) = (macs(&graphs[*choice]), self.sent_bytes(&set));
            let (score, evidence) = (ended.score, ended.against(&base, &self.judges.1, classes));
            Member { set, drops: drops.clone(), score, evidence, macs, sent_bytes, ends_at: None }
        };
        let all: Vec<Member> = best.iter().zip(judged).map(member).collect();
        let worth = |member: &Member| (member.macs, member.sent_bytes, std::cmp::Reverse(member.score.right));
        let beats = |other: &Member, member: &Member| {
            let (a, b) = (worth(other), worth(member));
            a != b && a.0 <= b.0 && a.1 <= b.1 && a.2 <= b.2
        };
        let beaten = |member: &Member| all.iter().any(|other| beats(other, member));
        let front = all.iter().filter(|member| member.drops.is_empty() || !beaten(member)).cloned().collect();
        Ok((base, front))
    }

    /// Bytes that need not travel: of a segment that stays in part, as much as its operations shrink.
    fn spared(&self, candidate: &Candidate) -> f64 {
        let alternatives = &self.segments[candidate.segment].alternatives;
        let (whole, left) =
            (alternatives[0].macs.max(1) as f64, alternatives[usize::from(candidate.alternative)].macs as f64);
        self.travels[candidate.segment] as f64 * (1.0 - left / whole)
    }

    fn saved(&self, candidate: &Candidate) -> f64 {
        let alternatives = &self.segments[candidate.segment].alternatives;
        alternatives[0].macs.saturating_sub(alternatives[usize::from(candidate.alternative)].macs) as f64
    }
}

/// Weights that an alternative adds, as a share of the model's.
pub fn added(segments: &[Segment], segment: usize, alternative: u8) -> f64 {
    let alternatives = &segments[segment].alternatives;
    let whole = segments.iter().filter_map(|segment| segment.alternatives[0].graph.as_ref());
    let all: usize = whole.flat_map(constants).map(|(_, bytes)| bytes).sum();
    let own = |alternative: usize| alternatives[alternative].graph.iter().flat_map(constants);
    let known: Vec<String> = own(0).map(|(name, _)| name).collect();
    let new: usize =
        own(usize::from(alternative)).filter(|(name, _)| !known.contains(name)).map(|(_, bytes)| bytes).sum();
    new as f64 / all.max(1) as f64
}

/// Alternatives that no other of the same segment beats in both what it saves and what it loses.
fn undominated(candidates: &[Candidate], segments: &[Segment]) -> Vec<Candidate> {
    let macs =
        |candidate: &Candidate| segments[candidate.segment].alternatives[usize::from(candidate.alternative)].macs;
    let beats = |a: &Candidate, b: &Candidate| {
        let cheaper = macs(a) <= macs(b) && a.size <= b.size;
        a.segment == b.segment
            && a.alternative != b.alternative
            && cheaper
            && (a.loss, a.alternative) < (b.loss, b.alternative)
    };
    candidates.iter().filter(|b| !candidates.iter().any(|a| beats(a, b))).copied().collect()
}

/// Names and bytes of the constants that a graph reads.
fn constants(graph: &Graph) -> Vec<(String, usize)> {
    let read =
        |tensor: &partita_ir::graph::TensorId| !graph.consumers(*tensor).is_empty() && graph.value(*tensor).is_some();
    let named = |tensor| (graph.tensor(tensor).name.clone(), graph.tensor_type(tensor).size_bytes());
    graph.tensor_ids().filter(read).map(named).collect()
}

/// Sets that none beats in both accuracy and a cost, from the cheapest.
fn front_of(sets: &[(Set, Score)], cost: &dyn Fn(&Set) -> f64) -> Vec<Set> {
    let mut sorted: Vec<(f64, &Set, &Score)> = sets.iter().map(|(set, score)| (cost(set), set, score)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.2.right.cmp(&a.2.right)).then(a.1.cmp(b.1)));
    let mut best = 0;
    sorted.retain(|(_, _, score)| {
        let better = score.right > best;
        best = best.max(score.right);
        better
    });
    sorted.into_iter().map(|(_, set, _)| set.clone()).collect()
}
