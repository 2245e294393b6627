//! What is promised, looked at: answers, records, silence that is noticed, and that all is well after the last fault.

use partita_rt::node::{Node, Outcome, Why};

use super::network::note;
use super::world::{Asked, DETECT_US, World};

impl World<'_> {
    /// Who cannot be heard is noticed; and every input has its record in time.
    pub(super) fn look(&mut self) {
        for device in 0..self.cluster.devices {
            for (link, wire) in self.wires_of(device).into_iter().enumerate() {
                let peer = self.other(wire, device);
                let runs = self.machines[device].paused == 0 && self.machines[device].node.is_some();
                // Who hangs falls silent when it has done so for as long as it takes to be missed.
                let hung_since = self.machines[peer].hung_since.filter(|_| self.machines[peer].hung.is_some());
                let hangs = hung_since.is_some_and(|since| self.now > since + DETECT_US + DETECT_US / 50);
                let silent = self.machines[peer].paused > 0 || self.machines[peer].node.is_none() || hangs;
                let pipe = self.pipe(wire, peer);
                let deaf = runs && (silent || pipe.cut > 0);
                let last = pipe.last_arrival;
                let since = &mut self.machines[device].deaf_since[link];
                *since = if deaf { Some(since.unwrap_or(self.now).max(last.min(self.now))) } else { None };
                let noticed_by = since.map(|since| since + DETECT_US + DETECT_US / 50 + 20_000);
                let talks = self.machines[device].node.as_ref().is_some_and(|node| node.is_talking(link));
                if talks && noticed_by.is_some_and(|by| self.now > by) {
                    self.fail(&format!(
                        "device {device} has not noticed that {peer} is silent since {since:?}",
                        since = self.machines[device].deaf_since[link]
                    ));
                }
            }
        }
        let lead = self.cluster.input;
        if self.machines[lead].paused == 0 && self.machines[lead].node.is_some() {
            for (tag, asked) in &self.asked {
                let given = asked.deadline - asked.accepted_at;
                if self.now > asked.deadline + given / 50 + 30_000 && !self.asked.keys().any(|other| other < tag) {
                    self.fail(&format!("input {tag} has no record although its time is up"));
                }
            }
        }
    }

    /// An answer is that of an input which was accepted: of mixed inputs, routes or damaged bytes there is none such.
    pub(super) fn is_right(&mut self, route: u8, exit: Option<u32>, answer: &[u8]) {
        let (cluster, at) = (self.cluster, usize::from(route));
        let right = |asked: &mut Asked| {
            let input = &asked.input;
            let known = asked.answers[at].get_or_insert_with(|| cluster.routes[at].reference(cluster, input));
            known.1 == exit && known.0 == answer
        };
        // Of an input whose record is made, or whose client is gone, an answer may still come.
        let known = self.asked.values_mut().any(right) || self.past.iter_mut().rev().any(right);
        if !known {
            self.fail(&format!("an answer of route {route}, exit {exit:?}, is wrong"));
        }
    }

    /// The records that a device has made: each is of an input that waits for one, in order, and right.
    pub(super) fn records(&mut self, device: usize) {
        while let Some(record) = self.machines[device].node.as_mut().and_then(Node::poll_record) {
            let Some(asked) = self.asked.remove(&record.tag) else {
                self.fail(&format!("input {} has two records", record.tag));
            };
            note!(self, "record of {}: {:?}, {} tries", record.tag, record.outcome, record.tries);
            self.past.push_back(asked.clone());
            // A device that hung answers what was given up long ago.
            if self.past.len() > 1024 {
                self.past.pop_front();
            }
            if self.asked.keys().any(|tag| *tag < record.tag) {
                self.fail("records are not in the order of acceptance");
            }
            let (route, exit) = match record.outcome {
                Outcome::Full => (0, None),
                Outcome::Exit(exit, _) => (0, Some(exit)),
                Outcome::Variant(route, exit) => (route, exit.map(|(exit, _)| exit)),
                Outcome::Late => {
                    self.summary.late += 1;
                    self.is_excused(&asked, "late");
                    continue;
                }
                Outcome::Failed(why) => {
                    self.summary.failed += 1;
                    if why != Why::NoRoute {
                        self.fail("nobody has stopped anything");
                    }
                    self.is_excused(&asked, "given up");
                    continue;
                }
            };
            match record.outcome {
                Outcome::Full => self.summary.full += 1,
                Outcome::Exit(..) => self.summary.exits += 1,
                _ => self.summary.variants += 1,
            }
            self.summary.took_us += record.took_us;
            self.summary.answers.push(self.now);
            if self.now >= self.faults_end && self.summary.recovered_us == 0 {
                self.summary.recovered_us = self.now - self.faults_end;
            }
            let taken = &self.cluster.routes[usize::from(route)];
            if taken.reference(self.cluster, &asked.input).1 != exit {
                self.fail(&format!("record of {}: exit {exit:?} is wrong", record.tag));
            }
        }
    }

    /// Whether something may go wrong now: a fault is under way, or was not long ago.
    fn is_excused(&self, asked: &Asked, what: &str) {
        if asked.accepted_at >= self.faults_end + 2_500_000 {
            self.fail(&format!("an input is {what} although all is well"));
        }
    }

    /// Some time after the last fault everybody talks to everybody, and the next inputs have to be answered.
    pub(super) fn is_whole_again(&mut self) {
        for device in 0..self.cluster.devices {
            for link in 0..self.plans[device].peers.len() {
                if !self.machines[device].node.as_ref().is_some_and(|node| node.is_talking(link)) {
                    self.fail(&format!("device {device} does not talk over its link {link} although all is well"));
                }
            }
        }
        let lead = self.machines[self.cluster.input].node.as_ref();
        if !lead.is_some_and(|lead| lead.can_take(0)) {
            self.fail("the whole network's route is not taken although all is well");
        }
        self.budget = (20_000_000, 1);
        self.feed_every = self.feed_every.max(20_000);
    }
}
