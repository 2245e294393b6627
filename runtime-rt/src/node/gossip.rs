//! What every node is to know: which inferences there are, and who sees whom.
//!
//! Both are items that only ever grow (an inference is begun, answered, ended; a device's view has a version), so it
//! matters neither in which order items come nor how often. A node passes on what is new to it, over every link until
//! the other end has acknowledged it. So no link and no device but the one with the input is needed for anybody else to
//! hear.

use super::plan::DEVICES;
use super::wire::{ITEM_BYTES, ITEMS, Put, Take};

/// Inferences that are remembered at once.
pub(crate) const TURNS: usize = 16;

/// Event frames of one link that are not acknowledged.
const UNHEARD: usize = 4;

/// How an inference went to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Exit at which it ended, and the confidence there; none if it went to the end.
    pub(crate) exit: Option<(u32, f32)>,
    pub(crate) route: u8,
}

/// An inference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) inference: u32,
    /// Number of the input; one that is tried again has several inferences.
    pub(crate) input: u32,
    pub(crate) route: u8,
    /// Given up by the device with the input.
    pub(crate) ended: bool,
    pub(crate) answer: Option<Answer>,
    /// When its time is up, by this device's clock.
    pub(crate) deadline_us: u64,
    /// Links over which it is still to be told, one bit each.
    dirty: u64,
}

impl Turn {
    /// Whether nobody needs to do anything for it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ended || self.answer.is_some()
    }
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) version: u32,
    pub(crate) boot: u32,
    /// Devices that it can exchange tensors with, one bit each.
    pub(crate) sees: u64,
    /// A peer and the rate at which payload came from it, the last that was worth telling.
    pub(crate) rate: (u8, f32),
    dirty: u64,
}

const UNSEEN: View = View { version: 0, boot: 0, sees: 0, rate: (0, 0.0), dirty: 0 };

/// One item of an event frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Turn(u32),
    View(u8),
}

/// An event frame that is on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u16,
    at_us: u64,
    items: [Option<Item>; ITEMS],
}

/// Event frames of one link.
#[derive(Debug)]
pub(crate) struct Channel {
    number: u16,
    unheard: [Option<Sent>; UNHEARD],
    /// Highest frame that has come, and which of the 16 before it.
    pub(crate) heard: u16,
    pub(crate) heard_before: u16,
    /// Whether the other end waits for an acknowledgement.
    pub(crate) owes: bool,
}

impl Channel {
    pub(crate) const fn new() -> Channel {
        Channel { number: 0, unheard: [None; UNHEARD], heard: 0, heard_before: 0, owes: false }
    }

    /// A frame of the other end has come.
    pub(crate) fn note(&mut self, number: u16) {
        self.owes = true;
        let ahead = number.wrapping_sub(self.heard);
        if ahead == 0 {
            return;
        }
        if ahead < 0x8000 {
            // Bit 0 is the one before the highest.
            let bits = u32::from(self.heard_before) << 1 | 1;
            self.heard_before = if ahead <= 16 { (bits << (ahead - 1)) as u16 } else { 0 };
            self.heard = number;
        } else if let Some(bit) = self.heard.wrapping_sub(number).checked_sub(1).filter(|bit| *bit < 16) {
            self.heard_before |= 1 << bit;
        }
    }

    /// The other end says what it has heard.
    pub(crate) fn acknowledged(&mut self, heard: u16, heard_before: u16) {
        let is_heard = |number: u16| match heard.wrapping_sub(number) {
            0 => true,
            behind @ 1..=16 => heard_before >> (behind - 1) & 1 == 1,
            _ => false,
        };
        for slot in &mut self.unheard {
            slot.take_if(|sent| is_heard(sent.number));
        }
    }

    /// When the oldest frame on its way is sent again.
    pub(crate) fn due_us(&self, round_us: u64) -> u64 {
        self.unheard.iter().flatten().map(|sent| sent.at_us + round_us).min().unwrap_or(u64::MAX)
    }

    fn has_room(&self) -> bool {
        self.unheard.iter().any(Option::is_none)
    }
}

/// What this node knows.
#[derive(Debug)]
pub(crate) struct Known {
    /// Which life of the device with the input; higher ones are later.
    pub(crate) term: u32,
    /// The first inference that is not over.
    pub(crate) floor: u32,
    turns: [Option<Turn>; TURNS],
    views: [View; DEVICES],
    /// Links over which there may be something to tell, one bit each.
    untold: u64,
    /// Whether somebody sees other devices than before.
    pub(crate) views_changed: bool,
    /// Devices that were restarted, one bit each.
    pub(crate) restarted: u64,
}

/// What an item was to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Old,
    New,
}

impl Known {
    pub(crate) const fn new() -> Known {
        Known {
            term: 0,
            floor: 0,
            turns: [None; TURNS],
            views: [UNSEEN; DEVICES],
            untold: 0,
            views_changed: true,
            restarted: 0,
        }
    }

    fn slot(&self, inference: u32) -> usize {
        inference as usize % TURNS
    }

    /// An inference, if it is remembered.
    pub(crate) fn turn(&self, inference: u32) -> Option<&Turn> {
        let turn = self.turns.get(self.slot(inference))?.as_ref()?;
        (turn.inference == inference).then_some(turn)
    }

    /// Whether an inference is over.
    pub(crate) fn is_over(&self, inference: u32) -> bool {
        inference < self.floor || self.turn(inference).is_some_and(Turn::is_over)
    }

    /// What a device said last.
    pub(crate) fn view(&self, device: u8) -> &View {
        self.views.get(usize::from(device)).unwrap_or(&UNSEEN)
    }

    /// A new inference; only on the device with the input, whose numbers fit.
    pub(crate) fn begin(&mut self, inference: u32, input: u32, route: u8, deadline_us: u64) {
        let turn = Turn { inference, input, route, ended: false, answer: None, deadline_us, dirty: u64::MAX };
        self.untold = u64::MAX;
        let at = self.slot(inference);
        if let Some(slot) = self.turns.get_mut(at) {
            *slot = Some(turn);
        }
    }

    /// An inference that is about to change.
    fn turn_mut(&mut self, inference: u32) -> Option<&mut Turn> {
        self.untold = u64::MAX;
        let at = self.slot(inference);
        self.turns.get_mut(at)?.as_mut().filter(|turn| turn.inference == inference)
    }

    /// An inference is given up.
    pub(crate) fn end(&mut self, inference: u32) {
        if let Some(turn) = self.turn_mut(inference) {
            (turn.ended, turn.dirty) = (true, u64::MAX);
        }
    }

    /// An inference has an answer.
    pub(crate) fn answer(&mut self, inference: u32, answer: Answer) {
        if let Some(turn) = self.turn_mut(inference) {
            turn.answer.get_or_insert(answer);
            turn.dirty = u64::MAX;
        }
    }

    /// The first inference that is not over moves on; what is before it is forgotten.
    pub(crate) fn raise_floor(&mut self, floor: u32) {
        if floor > self.floor {
            self.floor = floor;
            for slot in &mut self.turns {
                slot.take_if(|turn| turn.inference < floor);
            }
        }
    }

    /// Another life of the device with the input: its inferences are others.
    pub(crate) fn begin_term(&mut self, term: u32, floor: u32) {
        (self.term, self.floor) = (term, floor);
        self.turns = [None; TURNS];
    }

    /// This device's own view. Versions go up, also past those of an earlier life that others still know.
    pub(crate) fn set_own(&mut self, device: u8, boot: u32, sees: u64, rate: Option<(u8, f32)>) {
        let Some(view) = self.views.get_mut(usize::from(device)) else { return };
        let new = View { boot, sees, rate: rate.unwrap_or(view.rate), ..*view };
        if new != *view || view.version == 0 {
            self.untold = u64::MAX;
            self.views_changed |= view.sees != sees;
            *view = View { version: view.version.wrapping_add(1).max(1), dirty: u64::MAX, ..new };
        }
    }

    fn hear_turn(&mut self, turn: Turn, link: u64) -> Heard {
        // What is far ahead cannot be: the device with the input waits for the floor.
        if turn.inference < self.floor || (turn.inference - self.floor) as usize >= TURNS {
            return Heard::Old;
        }
        let at = self.slot(turn.inference);
        let Some(slot) = self.turns.get_mut(at) else { return Heard::Old };
        match slot {
            Some(known) if known.inference == turn.inference => {
                let is_new = (turn.ended && !known.ended) || (turn.answer.is_some() && known.answer.is_none());
                if !is_new {
                    return Heard::Old;
                }
                known.ended |= turn.ended;
                known.answer = known.answer.or(turn.answer);
                known.dirty |= !link;
            }
            // The slot holds one that is over: numbers in use differ by less than the ring.
            _ => *slot = Some(Turn { dirty: !link, ..turn }),
        }
        Heard::New
    }

    fn hear_view(&mut self, device: u8, heard: View, own: u8, link: u64) -> Heard {
        let Some(view) = self.views.get_mut(usize::from(device)) else { return Heard::Old };
        if device == own {
            // An earlier life of this device.
            if heard.version > view.version || (heard.version == view.version && heard.boot != view.boot) {
                view.version = heard.version.wrapping_add(1);
                view.dirty = u64::MAX;
                return Heard::New;
            }
            return Heard::Old;
        }
        if heard.version < view.version {
            view.dirty |= link;
            return Heard::Old;
        }
        if heard.version == view.version {
            return Heard::Old;
        }
        if view.boot != heard.boot && view.boot != 0 {
            self.restarted |= 1 << device;
        }
        self.views_changed |= view.sees != heard.sees || view.boot != heard.boot;
        *view = View { dirty: !link, ..heard };
        Heard::New
    }

    /// Takes the items of an event frame that came over link number `link`; inferences only if they are of this term.
    /// Whether any was new.
    pub(crate) fn hear(&mut self, payload: &[u8], of_term: bool, own: u8, link: usize, now_us: u64) -> bool {
        let link = 1u64 << (link % 64);
        self.untold = u64::MAX;
        let mut any_new = false;
        for bytes in payload.chunks_exact(ITEM_BYTES) {
            let heard = match parse(bytes, now_us) {
                Some(Parsed::Turn(turn)) if of_term => self.hear_turn(turn, link),
                Some(Parsed::View(device, view)) => self.hear_view(device, view, own, link),
                Some(Parsed::Turn(_)) | None => Heard::Old,
            };
            any_new |= heard == Heard::New;
        }
        any_new
    }

    /// A new session: the other end is told everything.
    pub(crate) fn tell_all(&mut self, channel: &mut Channel, link: usize) {
        *channel = Channel::new();
        let link = 1u64 << (link % 64);
        self.untold |= link;
        self.turns.iter_mut().flatten().for_each(|turn| turn.dirty |= link);
        self.views.iter_mut().filter(|view| view.version > 0).for_each(|view| view.dirty |= link);
    }

    /// Items for the next event frame of a link: the frame's number, and how many bytes of `payload` they take.
    pub(crate) fn next_event(
        &mut self,
        channel: &mut Channel,
        link: usize,
        (now_us, round_us): (u64, u64),
        payload: &mut [u8],
    ) -> Option<(u16, usize)> {
        let bit = 1u64 << (link % 64);
        // What was not heard is told again.
        for sent in channel.unheard.iter_mut().filter_map(|slot| slot.take_if(|sent| sent.at_us + round_us <= now_us)) {
            self.untold |= bit;
            for item in sent.items.into_iter().flatten() {
                match item {
                    Item::Turn(inference) => self.turn_mut(inference).into_iter().for_each(|turn| turn.dirty |= bit),
                    Item::View(device) => {
                        self.views.get_mut(usize::from(device)).into_iter().for_each(|view| view.dirty |= bit);
                    }
                }
            }
        }
        if self.untold & bit == 0 || !channel.has_room() {
            return None;
        }
        let mut found = self.turns.iter().flatten().any(|turn| turn.dirty & bit != 0);
        found |= self.views.iter().any(|view| view.dirty & bit != 0);
        if !found {
            self.untold &= !bit;
            return None;
        }
        let mut items = [None; ITEMS];
        let mut put = Put(payload);
        let mut count = 0;
        let turns = self.turns.iter_mut().flatten().filter(|turn| turn.dirty & bit != 0);
        for (slot, turn) in items.iter_mut().zip(turns) {
            put.all(&turn_bytes(turn, now_us));
            turn.dirty &= !bit;
            (*slot, count) = (Some(Item::Turn(turn.inference)), count + 1);
        }
        let views = (0u8..).zip(&mut self.views).filter(|(_, view)| view.dirty & bit != 0);
        for (slot, (device, view)) in items.iter_mut().skip(count).zip(views) {
            put.all(&view_bytes(device, view));
            view.dirty &= !bit;
            (*slot, count) = (Some(Item::View(device)), count + 1);
        }
        channel.number = channel.number.wrapping_add(1);
        let slot = channel.unheard.iter_mut().find(|slot| slot.is_none())?;
        *slot = Some(Sent { number: channel.number, at_us: now_us, items });
        Some((channel.number, count * ITEM_BYTES))
    }
}

enum Parsed {
    Turn(Turn),
    View(u8, View),
}

/// 1, route, flags (1 ended, 2 answered, 4 at an exit), the answer's route; inference, input, microseconds left, exit,
/// confidence.
fn turn_bytes(turn: &Turn, now_us: u64) -> [u8; ITEM_BYTES] {
    let mut bytes = [0; ITEM_BYTES];
    let mut put = Put(&mut bytes);
    let (exit, confidence) = turn.answer.and_then(|answer| answer.exit).unwrap_or((0, 0.0));
    let at_exit = turn.answer.is_some_and(|answer| answer.exit.is_some());
    let flags = u8::from(turn.ended) | u8::from(turn.answer.is_some()) << 1 | u8::from(at_exit) << 2;
    put.all(&[1, turn.route, flags, turn.answer.map_or(0, |answer| answer.route)]);
    put.all(&turn.inference.to_le_bytes());
    put.all(&turn.input.to_le_bytes());
    put.all(&u32::try_from(turn.deadline_us.saturating_sub(now_us)).unwrap_or(u32::MAX).to_le_bytes());
    put.all(&exit.to_le_bytes());
    put.all(&confidence.to_le_bytes());
    bytes
}

/// 2, device, peer of the rate, 0; version, boot, who is seen, bytes per second.
fn view_bytes(device: u8, view: &View) -> [u8; ITEM_BYTES] {
    let mut bytes = [0; ITEM_BYTES];
    let mut put = Put(&mut bytes);
    put.all(&[2, device, view.rate.0, 0]);
    put.all(&view.version.to_le_bytes());
    put.all(&view.boot.to_le_bytes());
    put.all(&view.sees.to_le_bytes());
    put.all(&view.rate.1.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8], now_us: u64) -> Option<Parsed> {
    let mut take = Take(bytes);
    match take.bytes()? {
        [1, route, flags @ 0..=7, answered_on] => {
            let (inference, input, left_us, exit) = (take.u32()?, take.u32()?, take.u32()?, take.u32()?);
            let exit = (flags & 4 != 0).then_some((exit, f32::from_bits(take.u32()?)));
            let answer = (flags & 2 != 0).then_some(Answer { exit, route: answered_on });
            let deadline_us = now_us.saturating_add(left_us.into());
            let ended = flags & 1 != 0;
            Some(Parsed::Turn(Turn { inference, input, route, ended, answer, deadline_us, dirty: 0 }))
        }
        [2, device, peer, 0] => {
            let (version, boot, sees) = (take.u32()?, take.u32()?, take.u64()?);
            let rate = f32::from_bits(take.u32()?);
            let rate = if rate.is_finite() && rate >= 0.0 { rate } else { 0.0 };
            Some(Parsed::View(device, View { version, boot, sees, rate: (peer, rate), dirty: 0 }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::random::Random;
    use crate::node::wire::SMALL_BYTES;
    use std::vec::Vec;

    #[test]
    fn frames_are_acknowledged_in_any_order() {
        let mut channel = Channel::new();
        for (number, heard, before) in
            [(1, 1, 1), (3, 3, 0b110), (2, 3, 0b111), (2, 3, 0b111), (40, 40, 0), (24, 40, 1 << 15)]
        {
            channel.note(number);
            assert_eq!((channel.heard, channel.heard_before), (number.max(heard), before), "{number}");
        }
    }

    /// Nodes on a ring tell each other over links that lose half of all frames and give them in any order.
    #[test]
    fn everybody_comes_to_know_the_same() {
        for seed in 0..if cfg!(miri) { 1 } else { 50 } {
            let mut random = Random::new(seed);
            let mut nodes: Vec<Known> = (0..5).map(|_| Known::new()).collect();
            let mut channels: Vec<[Channel; 2]> = (0..5).map(|_| [Channel::new(), Channel::new()]).collect();
            nodes[0].begin(0, 0, 2, 1_000_000);
            nodes[0].begin(1, 1, 0, 1_000_000);
            for round in 0..if cfg!(miri) { 120 } else { 400u64 } {
                let now_us = round * 1000;
                match round {
                    20 => nodes[0].end(0),
                    50 if nodes[3].turn(1).is_some() => {
                        nodes[3].answer(1, Answer { exit: Some((1, 0.5)), route: 0 });
                    }
                    60 => nodes[2].set_own(2, 77, 0b1010, None),
                    _ => {}
                }
                for from in 0..5 {
                    for link in 0..2 {
                        let to = (from + if link == 0 { 1 } else { 4 }) % 5;
                        let mut payload = [0; SMALL_BYTES];
                        let channel = &mut channels[from][link];
                        let Some((number, bytes)) = nodes[from].next_event(channel, link, (now_us, 5000), &mut payload)
                        else {
                            continue;
                        };
                        if random.below(2) == 0 {
                            continue;
                        }
                        nodes[to].hear(&payload[..bytes], true, to as u8, 1 - link, now_us);
                        channels[to][1 - link].note(number);
                        if random.below(2) == 0 {
                            let (heard, before) = (channels[to][1 - link].heard, channels[to][1 - link].heard_before);
                            channels[from][link].acknowledged(heard, before);
                        }
                    }
                }
            }
            for (at, node) in nodes.iter().enumerate() {
                assert!(node.turn(0).is_some_and(|turn| turn.ended && turn.route == 2), "seed {seed}, node {at}");
                let answer = node.turn(1).and_then(|turn| turn.answer);
                assert_eq!(answer, Some(Answer { exit: Some((1, 0.5)), route: 0 }), "seed {seed}, node {at}");
                assert_eq!((node.view(2).boot, node.view(2).sees), (77, 0b1010), "seed {seed}, node {at}");
            }
        }
    }

    #[test]
    fn a_device_that_starts_anew_outbids_what_is_known_of_its_earlier_life() {
        let (mut new, mut other) = (Known::new(), Known::new());
        let old = View { version: 57, boot: 3, sees: 0b111, rate: (0, 0.0), dirty: 0 };
        other.hear(&view_bytes(1, &old), true, 0, 0, 0);
        new.set_own(1, 4, 0b1, None);
        other.hear(&view_bytes(1, new.view(1)), true, 0, 0, 0);
        assert_eq!(other.view(1).boot, 3, "not yet");
        new.hear(&view_bytes(1, other.view(1)), true, 1, 0, 0);
        other.hear(&view_bytes(1, new.view(1)), true, 0, 0, 0);
        assert_eq!((other.view(1).boot, other.view(1).sees), (4, 0b1));
        assert_eq!(other.restarted, 0b10);
    }
}
