//! Parts of a cluster: what each is asked, and which others are asked where not all were.

use std::collections::BTreeSet;

use partita_plan::partition::subsets::{are_all, closed};
use partita_plan::partition::{
    Effort, Further, Objective, PartitionOptions, StrategyFamily, device_subset, weights_exceed,
};

use super::{Contest, working_devices};

/// How often a device may be left out of the best plan's.
const ROUNDS: usize = 4;

/// Clusters of more devices are not looked at that closely.
const FEW_DEVICES: usize = 16;

impl Contest<'_> {
    /// Asks a part of the cluster, unless nothing that it answers can win; whether it has no answer without a search within
    /// limits on memory.
    pub(super) fn ask_part(&mut self, devices: &[usize], further: &[Further], room_for_all: bool) -> bool {
        let wanted = self.wanted.clone();
        let options = PartitionOptions { effort: Effort::Exact, ..wanted.restricted(devices) };
        let part = device_subset::restricted(self.cluster, devices);
        if room_for_all && self.cannot_win(devices) || weights_exceed(self.graph, &part, &options.reserve_bytes) {
            return false;
        }
        let is_limited = self.ask(devices.to_vec(), options, further).is_some();
        // Stages are not among what the other families say, and those of all devices may be worse than of some.
        if wanted.family == StrategyFamily::Auto && wanted.objective == Objective::Throughput {
            let family = StrategyFamily::Pipeline;
            let options = PartitionOptions { family, effort: Effort::Part, ..wanted.restricted(devices) };
            self.ask(devices.to_vec(), options, &[]);
        }
        is_limited
    }

    /// Where not every part was asked: the devices of the best plan without one of them, as long as that is better. They are
    /// asked all that a cluster of them would be asked.
    pub(super) fn ask_fewer(&mut self, further: &[Further], room_for_all: bool) {
        if self.cluster.devices.len() > FEW_DEVICES || are_all(self.cluster) {
            return;
        }
        let mut asked: BTreeSet<Vec<usize>> = BTreeSet::new();
        for _ in 0..ROUNDS {
            let Some(best) = self.best() else { return };
            let (before, working) = (best.rank.0, working_devices(&best.partition));
            let without = |left_out: &usize| working.iter().copied().filter(|device| device != left_out).collect();
            let parts = working.iter().filter_map(|left_out| closed(self.cluster, without(left_out)));
            let parts: Vec<Vec<usize>> = parts.collect();
            for part in parts {
                if asked.insert(part.clone()) {
                    self.ask_part(&part, further, room_for_all);
                }
            }
            if self.best().is_none_or(|best| best.rank.0 >= before) {
                return;
            }
        }
    }
}
