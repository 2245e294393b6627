//! What the device with the input knows of its routes.

use super::plan::Plan;
use crate::Chooser;

/// Most routes whose late answers are counted.
const ROUTES: usize = 32;

/// After so many late answers in a row a route is left alone for a while, if there is another.
const LATE: u8 = 2;

/// How long, at first; it doubles with each further one, six times at most.
const REST_US: u64 = 250_000;

/// What is known of the routes.
#[derive(Debug)]
pub struct Lead<'p> {
    pub(super) next: u32,
    pub(super) chooser: Option<Chooser<'p>>,
    /// Devices that can be reached, one bit each.
    pub(super) reached: u64,
    /// Late answers in a row on each route, and until when it rests.
    pub(super) late: [(u8, u64); ROUTES],
    /// Versions of the views whose rates the chooser has heard, mixed.
    pub(super) rates_heard: u32,
}

impl<'p> Lead<'p> {
    pub(super) fn new(plan: &Plan<'p>) -> Lead<'p> {
        let chooser = plan.family.filter(|_| plan.device == plan.input).map(Chooser::new);
        Lead { next: 0, chooser, reached: 0, late: [(0, 0); ROUTES], rates_heard: 0 }
    }

    /// A device whose link to this one is to be probed.
    pub(super) fn probe(&mut self, plan: &Plan<'_>, now_us: u64) -> Option<usize> {
        let is_peer = |device: usize| plan.peers.iter().any(|peer| usize::from(peer.device) == device);
        self.chooser.as_mut()?.probe(plan.device.into(), is_peer, now_us)
    }

    pub(super) fn rests(&self, route: u8, now_us: u64) -> bool {
        self.late.get(usize::from(route)).is_some_and(|(_, until_us)| now_us < *until_us)
    }

    pub(super) fn note_late(&mut self, route: u8, now_us: u64) {
        if let Some((count, until_us)) = self.late.get_mut(usize::from(route)) {
            *count = count.saturating_add(1);
            if let Some(more) = count.checked_sub(LATE) {
                *until_us = now_us + (REST_US << more.min(6));
            }
        }
    }

    pub(super) fn note_answer(&mut self, route: u8) {
        if let Some(late) = self.late.get_mut(usize::from(route)) {
            *late = (0, 0);
        }
    }
}
