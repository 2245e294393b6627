//! The program's steps, one by one.

use super::gossip::Answer;
use super::inputs::Inputs;
use super::plan::{Cursor, Step};
use super::run::{Finished, Flow, Stage, Work};
use super::{Link, Node};

impl<L: AsRef<[Link]> + AsMut<[Link]>> Node<'_, L> {
    /// What the device is to do now. Until it has said [`Node::on_done`] there is nothing else.
    pub fn poll_work(&mut self) -> Work {
        self.lead();
        loop {
            if self.run.busy.is_some() {
                return Work::Nothing;
            }
            if !self.run.active {
                if !self.begin() {
                    return Work::Nothing;
                }
                continue;
            }
            if self.known.is_over(self.run.inference) {
                self.finish();
                continue;
            }
            let work = match self.run.stage {
                Stage::Load => self.load(),
                Stage::Steps => match self.advance() {
                    None => continue,
                    Some(work) => work,
                },
                Stage::Deliver => self.deliver(),
                Stage::Over => match self.links.as_ref().iter().any(|link| link.transfers.holds(u16::MAX)) {
                    true => Work::Nothing,
                    false => {
                        self.finish();
                        continue;
                    }
                },
            };
            if work != Work::Nothing {
                self.run.busy = Some((self.now_us, true));
            }
            return work;
        }
    }

    /// What [`Node::poll_work`] gave is done.
    pub fn on_done(&mut self, flow: Flow) {
        let Some((_, true)) = self.run.busy.take() else { return };
        match (self.run.stage, flow) {
            (Stage::Load, _) => self.run.stage = Stage::Steps,
            (Stage::Steps, Flow::Next) => self.run.step = self.run.step.saturating_add(1),
            (Stage::Steps, Flow::Leave(exit, confidence)) => {
                (self.run.exit, self.run.step) = (Some((exit, confidence)), u16::MAX);
            }
            (Stage::Deliver, _) => {
                let answer = Answer { exit: self.run.exit, route: self.run.route };
                self.answer(answer);
            }
            (Stage::Over, _) => {}
        }
    }

    /// Begins the next inference, if it is known.
    fn begin(&mut self) -> bool {
        self.run.inference = self.run.inference.max(self.known.floor);
        let inference = self.run.inference;
        if self.known.turn(inference).is_none() && !self.try_next(inference) {
            // It may be that they are counted from 0 again.
            return self.run.inference != inference;
        }
        let Some(turn) = self.known.turn(inference).copied() else { return false };
        let Some(route) = self.plan.route(turn.route).copied().filter(|_| !turn.is_over()) else {
            self.run.inference = inference.wrapping_add(1);
            return true;
        };
        let stage = if self.is_lead() { Stage::Load } else { Stage::Steps };
        (self.run.active, self.run.route, self.run.stage) = (true, turn.route, stage);
        (self.run.step, self.run.exit) = (0, None);
        self.run.input = turn.input;
        (self.run.begun_us, self.run.sent_bytes, self.run.received_bytes) = (self.now_us, 0, 0);
        for (link, peer) in self.links.as_mut().iter_mut().zip(self.plan.peers) {
            let next = |leaves| route.next_part(Cursor::default(), peer.device, leaves);
            link.transfers.begin(next(false), next(true));
        }
        true
    }

    /// The inference under way here, and its route.
    pub fn under_way(&self) -> Option<(u32, u8)> {
        self.run.active.then_some(self.run.current())
    }

    /// What the last inference that was not given up has cost here; said once, and lost with the next one.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.run.finished.take()
    }

    /// Nothing is left to do for an inference.
    fn finish(&mut self) {
        // One that is forgotten already was answered, or given up so long ago that nobody asks.
        if self.known.turn(self.run.inference).is_none_or(|turn| !turn.ended) {
            self.run.finished = Some(Finished {
                input: self.run.input,
                route: self.run.route,
                exit: self.run.exit,
                took_us: self.now_us.saturating_sub(self.run.begun_us),
                sent_bytes: self.run.sent_bytes,
                received_bytes: self.run.received_bytes,
            });
        }
        (self.run.active, self.run.inference) = (false, self.run.inference.wrapping_add(1));
        self.links.as_mut().iter_mut().for_each(|link| link.transfers.begin(None, None));
    }

    fn load(&self) -> Work {
        let input = self.known.turn(self.run.inference).map_or(0, |turn| turn.input);
        Work::Load { place: Inputs::place(input), route: self.run.route }
    }

    /// Goes on to the next thing to do; none if the stage has changed.
    fn advance(&mut self) -> Option<Work> {
        let (step, inference, now_us) = (self.run.step, self.run.inference, self.now_us);
        let route = self.plan.routes.get(usize::from(self.run.route)).copied()?;
        let Some(what) = route.steps.get(usize::from(step)) else {
            let answers = self.plan.device == self.plan.output;
            self.run.stage = if answers { Stage::Deliver } else { Stage::Over };
            return None;
        };
        if self.links.as_ref().iter().any(|link| link.transfers.holds(step)) {
            return Some(Work::Nothing);
        }
        let mut done = true;
        for (link, peer) in self.links.as_mut().iter_mut().zip(self.plan.peers) {
            let round_us = link.round_us();
            let transfers = &mut link.transfers;
            while let Some((cursor, of, part)) = transfers.comes {
                if part.bound.min(of) > step || !transfers.want(part, of, peer.chunk_bytes, now_us) {
                    break;
                }
                transfers.comes = route.next_part(cursor, peer.device, false);
            }
            while let Some((cursor, of, part)) = transfers.leaves {
                if of > step || !transfers.hand_over(inference, part, peer.chunk_bytes, now_us, round_us) {
                    break;
                }
                self.run.sent_bytes += u64::from(part.bytes);
                transfers.leaves = route.next_part(cursor, peer.device, true);
            }
            done &= transfers.is_done(step);
        }
        match what {
            Step::Compute => Some(Work::Compute { route: self.run.route, step }),
            Step::Exchange { .. } if done => {
                self.run.step = step + 1;
                None
            }
            Step::Exchange { .. } => Some(Work::Nothing),
        }
    }

    fn deliver(&mut self) -> Work {
        let Some(turn) = self.known.turn(self.run.inference).copied() else { return Work::Nothing };
        // An input that was tried again although its answer was there is not answered twice.
        if let Some(answer) = self.run.delivered(turn.input) {
            self.answer(answer);
            return self.poll_work();
        }
        let answer = Answer { exit: self.run.exit, route: self.run.route };
        let count = self.run.delivered.len();
        if let Some(slot) = self.run.delivered.get_mut(turn.input as usize % count) {
            *slot = Some((turn.input, answer));
        }
        let exit = self.run.exit.map(|(exit, _)| exit);
        Work::Deliver { input: turn.input, route: self.run.route, exit }
    }

    fn answer(&mut self, answer: Answer) {
        self.known.answer(self.run.inference, answer);
        self.run.stage = Stage::Over;
    }
}
