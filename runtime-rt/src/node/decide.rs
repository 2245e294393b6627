//! What the device with the input decides: which input is tried next, on which route, and when one is given up.

use super::inputs::{Input, Inputs, Outcome, Record, State, Why, outcome};
use super::{Link, Node};
use crate::{LinkEvent, Seen};

/// Most inferences under way at once; half of what is remembered, so that late events of earlier ones find their place.
const UNDER_WAY: u32 = super::gossip::TURNS as u32 / 2;

/// From this number of an inference on they are counted from 0 again: half of what there is, two million seconds at a
/// thousand a second.
const LAST_INFERENCE: u32 = 1 << 31;

impl<L: AsRef<[Link]> + AsMut<[Link]>> Node<'_, L> {
    /// Accepts an input that is to be answered within so many microseconds: the place for its bytes, which have to stay
    /// there until its record has been taken. None if all places are taken, or inputs are not given here.
    pub fn accept(&mut self, tag: u64, budget_us: u64) -> Option<usize> {
        self.accept_on(tag, None, budget_us)
    }

    /// The same for an input that may take one route only.
    pub fn accept_on(&mut self, tag: u64, route: Option<u8>, budget_us: u64) -> Option<usize> {
        if !self.is_lead() {
            return None;
        }
        self.inputs.accept(tag, route, self.now_us, budget_us)
    }

    /// The record of the oldest input, once it is over.
    pub fn poll_record(&mut self) -> Option<Record> {
        self.lead();
        self.inputs.take()
    }

    /// The work is to end: no input that has been accepted is answered any more.
    pub fn stop(&mut self) {
        let now_us = self.now_us;
        for input in self.inputs.open() {
            if let State::Running { inference, .. } = input.state {
                self.known.end(inference);
            }
            input.close(Outcome::Failed(Why::Stopped), now_us);
        }
    }

    /// Whether all that a route needs is there.
    pub fn can_take(&self, route: u8) -> bool {
        let Some(route) = self.plan.route(route) else { return false };
        route.devices & !self.lead.reached == 0 && route.links.iter().all(|(a, b)| self.is_usable(*a, *b))
    }

    /// Whether both ends of a link say that it can be used.
    fn is_usable(&self, a: u8, b: u8) -> bool {
        let sees = |from: u8, to: u8| self.known.view(from).sees >> (to % 64) & 1 == 1;
        sees(a, b) && sees(b, a)
    }

    /// Looks anew which devices can be reached.
    fn reach(&mut self) {
        let mut reached = 1u64 << (self.plan.device % 64);
        let mut looked_at = 0u64;
        while reached & !looked_at != 0 {
            let from = (reached & !looked_at).trailing_zeros() as u8;
            looked_at |= 1 << from;
            let near = (0..64u8).filter(|to| self.is_usable(from, *to));
            reached |= near.fold(0u64, |near, to| near | 1 << to);
        }
        self.lead.reached = reached;
        let devices = self.plan.routes.iter().fold(0, |devices, route| devices | route.devices);
        if let Some(chooser) = self.lead.chooser.as_mut() {
            chooser.set_reached(reached, devices);
        }
    }

    /// Tells the chooser what devices have said of their links.
    fn hear_rates(&mut self) {
        let Some(chooser) = self.lead.chooser.as_mut() else { return };
        let reached = (0..64u8).filter(|device| self.lead.reached >> device & 1 == 1);
        let views = reached.map(|device| (device, self.known.view(device)));
        let versions = views.clone().fold(0u32, |sum, (_, view)| sum.rotate_left(5) ^ view.version);
        if versions == core::mem::replace(&mut self.lead.rates_heard, versions) {
            return;
        }
        for (device, view) in views.filter(|(_, view)| view.rate.1 > 0.0) {
            chooser.hear(&LinkEvent { between: (device, view.rate.0), what: Seen::BytesPerSecond(view.rate.1) });
        }
    }

    /// An answer was late: rates that were heard before that was known may say why.
    fn hear_slow_rates(&mut self) {
        let Some(chooser) = self.lead.chooser.as_mut() else { return };
        for (device, view) in (0..64u8).map(|device| (device, self.known.view(device))) {
            let between = (device, view.rate.0);
            if view.rate.1 > 0.0 && chooser.rate_of(between).is_some_and(|rate| view.rate.1 < rate) {
                chooser.hear(&LinkEvent { between, what: Seen::BytesPerSecond(view.rate.1) });
            }
        }
    }

    /// The best route that can be taken.
    fn choose(&self, wanted: Option<u8>) -> Option<u8> {
        if let Some(route) = wanted {
            return Some(route).filter(|route| self.can_take(*route));
        }
        let among = |rested: bool| {
            let can = |route: u8| self.can_take(route) && !(rested && self.lead.rests(route, self.now_us));
            let routes = 0..u8::try_from(self.plan.routes.len()).unwrap_or(u8::MAX);
            let chosen = self.lead.chooser.as_ref().and_then(|chooser| chooser.choose_among(can));
            chosen.or_else(|| routes.into_iter().find(|route| can(*route)))
        };
        among(true).or_else(|| among(false))
    }

    /// What is over is closed, what cannot go on is tried again, what is late is said to be.
    pub(super) fn lead(&mut self) {
        if !self.is_lead() {
            return;
        }
        let views_changed = core::mem::take(&mut self.known.views_changed);
        let restarted = core::mem::take(&mut self.known.restarted);
        if views_changed {
            self.reach();
        }
        self.hear_rates();
        let now_us = self.now_us;
        if self.inputs.is_empty() {
            return;
        }
        let mut inputs = core::mem::replace(&mut self.inputs, Inputs::new(0));
        let mut late = false;
        let best = self.choose(None);
        for input in inputs.open() {
            let choice = if input.wanted.is_some() { self.choose(input.wanted) } else { best };
            let State::Running { inference, route, since_us } = input.state else {
                if now_us >= input.deadline_us {
                    let outcome = if choice.is_none() { Outcome::Failed(Why::NoRoute) } else { Outcome::Late };
                    input.close(outcome, now_us);
                }
                continue;
            };
            if let Some(answer) = self.known.turn(inference).and_then(|turn| turn.answer) {
                input.close(outcome(answer), now_us);
                self.lead.note_answer(route);
                if let Some(chooser) = self.lead.chooser.as_mut() {
                    late |= chooser.took(route, now_us.saturating_sub(since_us));
                }
            } else if now_us >= input.deadline_us {
                self.known.end(inference);
                self.lead.note_late(route, now_us);
                input.close(Outcome::Late, now_us);
            } else {
                // Without another way it may still work out: links come back, and go on where they stopped.
                let stuck = !self.can_take(route) && choice.is_some_and(|choice| choice != route);
                let forgot = self.plan.route(route).is_some_and(|route| route.devices & restarted != 0);
                if stuck || forgot {
                    self.known.end(inference);
                    self.counters.tried_again += 1;
                    input.state = State::Waiting;
                }
            }
        }
        self.inputs = inputs;
        if late {
            self.hear_slow_rates();
        }
        let mut floor = self.known.floor;
        while floor < self.lead.next && self.known.is_over(floor) {
            floor += 1;
        }
        self.known.raise_floor(floor);
    }

    /// Begins the next inference, if an input waits and a route can be taken.
    pub(super) fn try_next(&mut self, inference: u32) -> bool {
        if !self.is_lead() || inference < self.lead.next || self.lead.next - self.known.floor >= UNDER_WAY {
            return false;
        }
        if inference >= LAST_INFERENCE {
            // Numbers only go up. This is as if the device had been started again, and what is under way is tried again.
            self.begin_life(self.known.term.wrapping_add(1), 0);
            return false;
        }
        let now_us = self.now_us;
        let mut inputs = core::mem::replace(&mut self.inputs, Inputs::new(0));
        // One whose only route is not there does not keep others waiting.
        let waits = |input: &&mut Input| input.state == State::Waiting && now_us < input.deadline_us;
        let next = inputs.open().filter(waits).find_map(|input| Some((self.choose(input.wanted)?, input)));
        let began = next.map(|(route, input)| {
            input.run(inference, route, now_us);
            self.known.begin(inference, input.number, route, input.deadline_us);
            self.lead.next = inference.wrapping_add(1);
        });
        self.inputs = inputs;
        began.is_some()
    }

    /// Somebody has heard of a later life of this device than this one, which cannot be: this one becomes the latest,
    /// and everything is tried again.
    pub(super) fn outbid(&mut self, term: u32) {
        let term = term.wrapping_add(1 + self.random.below(64) as u32);
        self.begin_life(term, self.lead.next);
    }

    /// Another life of this device as others see it: what was under way is tried again, under other numbers.
    fn begin_life(&mut self, term: u32, next: u32) {
        self.lead.next = next;
        self.known.begin_term(term, next);
        self.run.restart(next);
        self.links.as_mut().iter_mut().for_each(|link| link.transfers.forget());
        for input in self.inputs.open() {
            if let State::Running { .. } = input.state {
                self.counters.tried_again += 1;
                input.state = State::Waiting;
            }
        }
    }

    /// When an input is late, or a route may be tried again.
    pub(super) fn inputs_due_us(&self) -> u64 {
        let rests = self.lead.late.iter().map(|(_, until_us)| *until_us).filter(|until_us| *until_us > self.now_us);
        let rests = rests.min().filter(|_| self.inputs.waits()).unwrap_or(u64::MAX);
        self.inputs.deadline_us().min(rests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::plan::{Medium, Part, Peer, Plan, Route, Step};
    use crate::node::run::{Flow, Work};

    const SENDS: Part = Part { peer: 1, message: 0, offset_bytes: 0, bytes: 8, bound: 2 };
    const RECEIVES: Part = Part { peer: 0, message: 0, offset_bytes: 0, bytes: 8, bound: 0 };

    /// Two devices at both ends of a line: the first has the input and the second the answer.
    fn plan(device: u8) -> Plan<'static> {
        const PEERS: [[Peer; 1]; 2] = [
            [Peer { device: 1, medium: Medium::Line, chunk_bytes: 64, calls: false }],
            [Peer { device: 0, medium: Medium::Line, chunk_bytes: 64, calls: true }],
        ];
        const ROUTES: [[Route<'_>; 1]; 2] = [
            [Route {
                steps: &[Step::Compute, Step::Exchange { sends: &[SENDS], receives: &[] }],
                devices: 3,
                links: &[(0, 1)],
            }],
            [Route {
                steps: &[Step::Exchange { sends: &[], receives: &[RECEIVES] }, Step::Compute],
                devices: 3,
                links: &[(0, 1)],
            }],
        ];
        let at = usize::from(device);
        Plan {
            hash: 1,
            device,
            input: 0,
            output: 1,
            peers: &PEERS[at],
            routes: &ROUTES[at],
            family: None,
            detect_us: 300_000,
            hung_us: 0,
        }
    }

    #[test]
    fn inferences_are_counted_from_0_again_before_there_are_no_numbers_left() {
        let mut nodes = [Node::<[Link; 1]>::new(plan(0), 5), Node::<[Link; 1]>::new(plan(1), 6)];
        let term = nodes[0].known.term;
        let first = LAST_INFERENCE - 10;
        nodes[0].begin_life(term, first);
        let (mut given, mut outcomes) = (0, std::vec::Vec::new());
        for now_us in (0..4_000_000).step_by(1000) {
            for at in 0..2 {
                nodes[at].on_tick(now_us);
                while given < 40 && nodes[0].accept(given, 3_000_000).is_some() {
                    given += 1;
                }
                let mut memory = [0u8; 8];
                while let Some(pieces) = nodes[at].poll_send(0, &memory[..], &mut []) {
                    let mut bytes = pieces.concat();
                    nodes[at].on_sent(0, bytes.len());
                    nodes[1 - at].on_bytes(0, &mut bytes, &mut memory[..]);
                }
                while nodes[at].poll_work() != Work::Nothing {
                    nodes[at].on_done(Flow::Next);
                }
                outcomes.extend(nodes[at].poll_record().map(|record| (record.tag, record.outcome)));
            }
        }
        let expected: std::vec::Vec<_> = (0..40).map(|tag| (tag, Outcome::Full)).collect();
        assert_eq!(outcomes, expected);
        assert_eq!((nodes[0].known.term, nodes[1].known.term), (term + 1, term + 1));
        assert!(nodes[0].lead.next < 100, "{}", nodes[0].lead.next);
        // Nothing was tried again that had not begun.
        assert!(nodes[0].counters().tried_again <= u64::from(UNDER_WAY));
    }

    #[test]
    fn who_works_alone_goes_on_at_once_when_they_are() {
        let routes = [Route { steps: &[Step::Compute], devices: 1, links: &[] }];
        let mut node = Node::<[Link; 0]>::new(Plan { output: 0, peers: &[], routes: &routes, ..plan(0) }, 5);
        node.on_tick(0);
        node.begin_life(node.known.term, LAST_INFERENCE - 1);
        for tag in 0..3 {
            node.accept(tag, 1_000_000).expect("there is room");
            while node.poll_work() != Work::Nothing {
                node.on_done(Flow::Next);
            }
            assert_eq!(node.poll_record().map(|record| record.tag), Some(tag));
        }
        assert_eq!(node.lead.next, 2);
    }
}
