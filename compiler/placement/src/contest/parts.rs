//! Parts of a cluster: what each is asked, and which others are asked where not all were.

use std::collections::BTreeSet;

use partita_plan::partition::subsets::{are_all, closed};
use partita_plan::partition::{
    Effort, Further, Objective, PartitionOptions, StrategyFamily, device_subset, weights_exceed,
};

use super::ahead::Ahead;
use super::{Contest, working_devices};

/// How often the best plan's devices may become others.
const ROUNDS: usize = 4;

/// Clusters of more devices are not looked at that closely.
const FEW_DEVICES: usize = 16;

impl Contest<'_> {
    /// Asks a part of the cluster, unless nothing that it answers can win; whether it has no answer without a search within
    /// limits on memory.
    pub(super) fn ask_part(
        &mut self,
        devices: &[usize],
        further: &[Further],
        room_for_all: bool,
        (ahead, others): (&mut Ahead, &[Vec<usize>]),
    ) -> bool {
        if room_for_all && self.cannot_win(devices) || !self.may_fit(devices) {
            return false;
        }
        if !ahead.has(devices) {
            self.ask_parts_ahead(ahead, others, further, room_for_all);
        }
        let (wanted, options) = (self.wanted.clone(), self.part_options(devices));
        let answers = ahead.take(devices).unwrap_or_else(|| self.answers(devices, &options, further));
        let is_limited = self.enter_answers(devices.to_vec(), options, answers).is_some();
        // Stages are not among what the other families say, and those of all devices may be worse than of some.
        if wanted.family == StrategyFamily::Auto && wanted.objective == Objective::Throughput {
            let family = StrategyFamily::Pipeline;
            let options = PartitionOptions { family, effort: Effort::Part, ..wanted.restricted(devices) };
            self.ask(devices.to_vec(), options, &[]);
        }
        is_limited
    }

    /// What a part is asked.
    pub(super) fn part_options(&self, devices: &[usize]) -> PartitionOptions {
        PartitionOptions { effort: Effort::Exact, ..self.wanted.restricted(devices) }
    }

    /// Whether the devices of a part can hold all weights together.
    pub(super) fn may_fit(&self, devices: &[usize]) -> bool {
        let part = device_subset::restricted(self.cluster, devices);
        !weights_exceed(self.graph, &part, &self.part_options(devices).reserve_bytes)
    }

    /// Where not every part was asked: the devices of the best plan without one of them, or with another in its place, as long
    /// as that is better. Those without one are asked all that a cluster of them would be asked.
    pub(super) fn ask_neighbours(&mut self, further: &[Further], common: &[Further], room_for_all: bool) {
        let count = self.cluster.devices.len();
        if count > FEW_DEVICES || are_all(self.cluster) {
            return;
        }
        let mut asked: BTreeSet<Vec<usize>> = self.questions.iter().map(|question| question.devices.clone()).collect();
        let mut is_new = |part: &Vec<usize>| part.len() < count && asked.insert(part.clone());
        for _ in 0..ROUNDS {
            let Some(best) = self.best() else { return };
            let (before, working) = (best.rank.0, working_devices(&best.partition));
            let without = |left_out: usize| working.iter().copied().filter(move |device| *device != left_out);
            let fewer = working.iter().filter_map(|out| closed(self.cluster, without(*out).collect()));
            let fewer: Vec<Vec<usize>> = fewer.filter(&mut is_new).collect();
            let idle: Vec<usize> = (0..count).filter(|device| !working.contains(device)).collect();
            let pairs = working.iter().flat_map(|out| idle.iter().map(move |other| (*out, *other)));
            let others = pairs.filter_map(|(out, other)| closed(self.cluster, without(out).chain([other]).collect()));
            let others: Vec<Vec<usize>> = others.filter(&mut is_new).collect();
            for (parts, further) in [(fewer, further), (others, common)] {
                let mut ahead = Ahead::default();
                for (at, part) in parts.iter().enumerate() {
                    self.ask_part(part, further, room_for_all, (&mut ahead, &parts[at..]));
                }
            }
            if self.best().is_none_or(|best| best.rank.0 >= before) {
                return;
            }
        }
    }
}
