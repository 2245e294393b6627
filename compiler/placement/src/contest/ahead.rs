//! Questions that are asked on several cores at once, before it is known whether all of them have to be. Answers compete in
//! the order in which they would without, so there being cores changes nothing.

use std::collections::BTreeMap;

use partita_ir::parallel;
use partita_plan::partition::{Further, Partition, PartitionError, PartitionOptions};

use super::{Contest, Question};

/// What a question is answered with, and further ones by the same tables.
pub(super) type Answers = (Result<Partition, PartitionError>, Vec<(Further, Partition)>);

/// Parts that are asked beside the whole cluster, which takes about as long as all of these.
const BESIDE_ALL: usize = 3;

/// Answers that nobody has asked for yet, by devices.
#[derive(Default)]
pub(super) struct Ahead {
    found: BTreeMap<Vec<usize>, Answers>,
}

impl Ahead {
    pub(super) fn has(&self, devices: &[usize]) -> bool {
        self.found.contains_key(devices)
    }

    pub(super) fn take(&mut self, devices: &[usize]) -> Option<Answers> {
        self.found.remove(devices)
    }
}

impl Contest<'_> {
    /// Asks the whole cluster, and beside it the first of its parts.
    pub(super) fn ask_ahead(
        &self,
        ahead: &mut Ahead,
        (main, further): (&Question, &[Further]),
        parts: &[Vec<usize>],
        common: &[Further],
    ) {
        let Some(options) = &main.options else { return };
        let mut all = vec![(main.devices.clone(), options.clone(), further)];
        if parallel::workers(parts.len() + 1) > 1 {
            let beside = parts.iter().take(BESIDE_ALL).filter(|devices| self.may_fit(devices));
            all.extend(beside.map(|devices| (devices.clone(), self.part_options(devices), common)));
        }
        self.ask_at_once(ahead, &all);
    }

    /// Asks a part, and beside it as many others that seem worth it as there are cores.
    pub(super) fn ask_parts_ahead(&self, ahead: &mut Ahead, parts: &[Vec<usize>], common: &[Further], all: bool) {
        let is_worth =
            |devices: &&Vec<usize>| !(ahead.has(devices) || all && self.cannot_win(devices)) && self.may_fit(devices);
        let next = parts.iter().filter(is_worth).take(parallel::workers(parts.len()));
        let next: Vec<_> = next.map(|devices| (devices.clone(), self.part_options(devices), common)).collect();
        self.ask_at_once(ahead, &next);
    }

    fn ask_at_once(&self, ahead: &mut Ahead, all: &[(Vec<usize>, PartitionOptions, &[Further])]) {
        let answers = parallel::map(all.len(), |at| {
            let (devices, options, further) = &all[at];
            self.answers(devices, options, further)
        });
        ahead.found.extend(all.iter().map(|(devices, ..)| devices.clone()).zip(answers));
    }
}
