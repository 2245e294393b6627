//! Tensors over one link, driven by the end that wants them.
//!
//! The receiver says when a message's place in its memory is free, and which chunks are missing: this is credit,
//! acknowledgement and request to repeat in one. The sender keeps nothing but what the plan keeps: the tensor lies in its
//! memory until the other end has it.

use super::plan::{Cursor, Part};
use super::wire::{Put, Take, WANT_BYTES};

/// Most messages of one link that are received at the same time.
pub(crate) const RECEIVES: usize = 4;

/// Most messages of one link that have been handed over and not acknowledged; schedules start no more before they wait
/// (`MOST_UNDER_WAY` of the compiler's `schedule::overlap`).
pub(crate) const SENDS: usize = 8;

/// Most chunks on their way.
const WINDOW: u16 = 64;

/// How many chunks the receiver takes before it moves the window.
const STRIDE: u16 = 16;

/// A chunk is missing, not late, when so many behind it have come.
const REORDERED: u16 = 3;

/// So many chunks tell how fast a link is.
pub(crate) const MEASURED: u16 = 4;

/// Longest time between two wants or offers of a message.
const LAST_WAIT_US: u64 = 60_000;

/// Number of chunks of a tensor.
pub(crate) fn chunks(bytes: u32, chunk_bytes: u16) -> u16 {
    u16::try_from(bytes.div_ceil(u32::from(chunk_bytes).max(1))).unwrap_or(u16::MAX).max(1)
}

/// Where a chunk lies in its tensor: offset and length.
pub(crate) fn chunk_range(bytes: u32, chunk_bytes: u16, chunk: u16) -> (u32, u16) {
    let at = u32::from(chunk) * u32::from(chunk_bytes);
    (at, bytes.saturating_sub(at).min(u32::from(chunk_bytes)) as u16)
}

/// Which chunks a want asks for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// None: the window moves.
    None,
    /// Those that later ones have overtaken.
    Overtaken,
    /// All that may have been sent.
    All,
}

/// A message that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiving {
    pub(crate) part: Part,
    pub(crate) step: u16,
    chunks: u16,
    /// All chunks before this one are there.
    base: u16,
    /// Chunks from `base` on that are there.
    bits: u64,
    /// The chunk behind the highest that has come.
    high: u16,
    /// When to say (again) what is wanted, and how long to wait after that.
    want_at_us: u64,
    wait_us: u64,
    /// What the next want asks for again.
    again: Again,
    /// Chunks since the last want.
    fresh: u16,
    /// `base` for which chunks were asked for again because later ones have come; the number behind it, 0 for none.
    asked_for: u16,
    /// When the first chunk came.
    begun_us: Option<u64>,
}

impl Receiving {
    fn new(part: Part, step: u16, chunk_bytes: u16, now_us: u64) -> Receiving {
        Receiving {
            part,
            step,
            chunks: chunks(part.bytes, chunk_bytes),
            base: 0,
            bits: 0,
            high: 0,
            want_at_us: now_us,
            wait_us: 0,
            again: Again::None,
            fresh: 0,
            asked_for: 0,
            begun_us: None,
        }
    }

    /// Bytes per second that came behind the first chunk, if they were enough to tell.
    pub(crate) fn rate(&self, chunk_bytes: u16, now_us: u64) -> Option<f32> {
        let took_us = now_us.saturating_sub(self.begun_us?);
        let bytes = self.part.bytes.saturating_sub(chunk_bytes.into());
        (self.chunks >= MEASURED && took_us > 0).then_some(bytes as f32 * 1e6 / took_us as f32)
    }

    /// Whether a chunk is still missing.
    pub(crate) fn misses(&self, chunk: u16) -> bool {
        let ahead = chunk.checked_sub(self.base);
        chunk < self.chunks && ahead.is_some_and(|ahead| ahead < 64 && self.bits >> ahead & 1 == 0)
    }

    /// A chunk is there; whether all are.
    fn take(&mut self, chunk: u16, now_us: u64, round_us: u64) -> bool {
        if !self.misses(chunk) {
            return false;
        }
        self.bits |= 1 << (chunk - self.base);
        while self.bits & 1 == 1 {
            self.bits >>= 1;
            self.base += 1;
        }
        if self.base >= self.chunks {
            return true;
        }
        self.begun_us.get_or_insert(now_us);
        self.high = self.high.max(chunk + 1);
        self.fresh += 1;
        self.wait_us = round_us;
        if self.high > self.base + REORDERED && self.asked_for != self.base + 1 {
            // They may be late by a little, and are not waited for any longer than that.
            self.asked_for = self.base + 1;
            (self.want_at_us, self.again) = (now_us + round_us / 4, Again::Overtaken);
        } else if self.fresh >= STRIDE && self.again != Again::Overtaken {
            (self.want_at_us, self.again) = (now_us, Again::None);
        } else if self.again == Again::All {
            self.want_at_us = now_us + round_us;
        }
        false
    }
}

/// What a receiver says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) base: u16,
    /// Of how many chunks from `base` on those that are missing are to be sent again, if they were sent.
    pub(crate) again: u16,
    pub(crate) bits: u64,
}

impl Want {
    pub(crate) fn emit(&self) -> [u8; WANT_BYTES] {
        let mut bytes = [0; WANT_BYTES];
        let mut put = Put(&mut bytes);
        put.all(&self.base.to_le_bytes());
        put.all(&self.again.to_le_bytes());
        put.all(&self.bits.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Want> {
        let mut take = Take(bytes);
        Some(Want { base: take.u16()?, again: take.u16()?, bits: take.u64()? })
    }
}

/// A message that was handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) part: Part,
    chunks: u16,
    /// All chunks before this one have arrived.
    base: u16,
    /// The first chunk that was never sent, and the first that may not be sent yet.
    next: u16,
    limit: u16,
    /// Chunks from `base` on that are to be sent again.
    again: u64,
    /// When chunks were asked for again last, or the first was sent.
    again_us: Option<u64>,
    offer_at_us: u64,
    wait_us: u64,
}

impl Sending {
    fn new(part: Part, chunk_bytes: u16, now_us: u64, round_us: u64) -> Sending {
        Sending {
            part,
            chunks: chunks(part.bytes, chunk_bytes),
            base: 0,
            next: 0,
            limit: 0,
            again: 0,
            again_us: None,
            offer_at_us: now_us + round_us,
            wait_us: round_us,
        }
    }

    fn hear(&mut self, want: &Want, now_us: u64, round_us: u64) {
        let Some(ahead) = want.base.checked_sub(self.base) else { return };
        self.again = if ahead < 64 { self.again >> ahead } else { 0 };
        self.base = want.base.min(self.chunks);
        self.next = self.next.max(self.base);
        self.limit = self.limit.max(self.base.saturating_add(WINDOW).min(self.chunks));
        let asked = (self.next - self.base).min(want.again).min(64);
        let asked = if asked < 64 { (1u64 << asked) - 1 } else { u64::MAX };
        // What was sent within half a round trip may be on its way.
        let settled = self.again_us.is_none_or(|since| now_us >= since + round_us / 2);
        if asked != 0 && settled {
            (self.again, self.again_us) = (self.again | asked, Some(now_us));
        }
        self.again &= !want.bits;
        (self.offer_at_us, self.wait_us) = (now_us + round_us, round_us);
    }

    /// The next chunk to send.
    fn next_chunk(&mut self, now_us: u64) -> Option<u16> {
        self.again_us.get_or_insert(now_us);
        if self.again != 0 {
            let ahead = self.again.trailing_zeros() as u16;
            self.again &= self.again - 1;
            return Some(self.base + ahead);
        }
        if self.next < self.limit {
            self.next += 1;
            return Some(self.next - 1);
        }
        None
    }
}

/// Both directions of one link, in one inference.
#[derive(Debug)]
pub(crate) struct Transfers {
    pub(crate) receiving: [Option<Receiving>; RECEIVES],
    pub(crate) sending: [Option<Sending>; SENDS],
    /// Wants of messages that were not handed over yet, with the inference.
    early: [Option<(u32, u16, Want)>; RECEIVES],
    /// Messages to acknowledge.
    haves: [Option<(u32, u16)>; SENDS],
    /// The first of the route's parts that has not been wanted yet, and the first that has not been handed over.
    pub(crate) comes: Option<Next>,
    pub(crate) leaves: Option<Next>,
}

/// A part of a route, its step, and where to look for the one behind it.
pub(crate) type Next = (Cursor, u16, Part);

impl Transfers {
    pub(crate) const fn new() -> Transfers {
        Transfers {
            receiving: [None; RECEIVES],
            sending: [None; SENDS],
            early: [None; RECEIVES],
            haves: [None; SENDS],
            comes: None,
            leaves: None,
        }
    }

    /// Another inference begins with these parts, or none.
    pub(crate) fn begin(&mut self, comes: Option<Next>, leaves: Option<Next>) {
        self.receiving = [None; RECEIVES];
        self.sending = [None; SENDS];
        (self.comes, self.leaves) = (comes, leaves);
    }

    /// Another life of the device with the input: what was wanted early has other numbers.
    pub(crate) fn forget(&mut self) {
        self.begin(None, None);
        self.early = [None; RECEIVES];
        self.haves = [None; SENDS];
    }

    /// Whether an exchange has nothing left to do on this link.
    pub(crate) fn is_done(&self, step: u16) -> bool {
        let behind = |next: &Option<Next>| next.is_none_or(|(_, of, _)| of > step);
        behind(&self.comes)
            && behind(&self.leaves)
            && self.receiving.iter().flatten().all(|receiving| receiving.step > step)
    }

    /// Whether a step has to wait for what leaves.
    pub(crate) fn holds(&self, step: u16) -> bool {
        self.sending.iter().flatten().any(|sending| sending.part.bound <= step)
    }

    /// Another session with the peer: what was on its way may be lost. A peer that was restarted has forgotten what it
    /// wanted.
    pub(crate) fn resume(&mut self, now_us: u64, restarted: bool) {
        for receiving in self.receiving.iter_mut().flatten() {
            (receiving.want_at_us, receiving.wait_us, receiving.again) = (now_us, 0, Again::All);
        }
        for sending in self.sending.iter_mut().flatten() {
            sending.offer_at_us = now_us;
            if restarted {
                (sending.base, sending.next, sending.limit, sending.again) = (0, 0, 0, 0);
            }
        }
        if restarted {
            self.early = [None; RECEIVES];
            self.haves = [None; SENDS];
        }
    }

    /// Wants a message; whether there was room.
    pub(crate) fn want(&mut self, part: Part, step: u16, chunk_bytes: u16, now_us: u64) -> bool {
        let Some(slot) = self.receiving.iter_mut().find(|slot| slot.is_none()) else { return false };
        *slot = Some(Receiving::new(part, step, chunk_bytes, now_us));
        true
    }

    /// Hands a message over; whether there was room.
    pub(crate) fn hand_over(
        &mut self,
        inference: u32,
        part: Part,
        chunk_bytes: u16,
        now_us: u64,
        round_us: u64,
    ) -> bool {
        let Some(slot) = self.sending.iter_mut().find(|slot| slot.is_none()) else { return false };
        let mut sending = Sending::new(part, chunk_bytes, now_us, round_us);
        for early in &mut self.early {
            if let Some((_, _, want)) = early.take_if(|(of, message, _)| (*of, *message) == (inference, part.message)) {
                sending.hear(&Want { again: 0, ..want }, now_us, round_us);
            }
        }
        *slot = Some(sending);
        true
    }

    /// The message that is wanted under a number.
    pub(crate) fn receiving(&self, message: u16) -> Option<&Receiving> {
        self.receiving.iter().flatten().find(|receiving| receiving.part.message == message)
    }

    /// Whether a message of this inference has come, all of it.
    pub(crate) fn is_there(&self, message: u16) -> bool {
        self.comes.is_none_or(|(_, _, part)| message < part.message) && self.receiving(message).is_none()
    }

    /// A chunk has come and checks, and was written to its place, or not; the message if it was the last of it.
    pub(crate) fn take_chunk(
        &mut self,
        message: u16,
        chunk: u16,
        written: bool,
        now_us: u64,
        round_us: u64,
    ) -> Option<Receiving> {
        let of = |slot: &&mut Option<Receiving>| slot.is_some_and(|receiving| receiving.part.message == message);
        let slot = self.receiving.iter_mut().find(of).filter(|_| written)?;
        if slot.as_mut()?.take(chunk, now_us, round_us) { slot.take() } else { None }
    }

    /// The other end wants a message of the inference that is under way here.
    pub(crate) fn hear_want(&mut self, message: u16, want: &Want, now_us: u64, round_us: u64) -> bool {
        let sending = self.sending.iter_mut().flatten().find(|sending| sending.part.message == message);
        sending.map(|sending| sending.hear(want, now_us, round_us)).is_some()
    }

    /// The other end wants a message that is not there yet.
    pub(crate) fn note_early(&mut self, inference: u32, message: u16, want: Want) {
        // Who wants something of an inference wants nothing of those before it any more.
        if self.early.iter().flatten().any(|(of, _, _)| *of > inference) {
            return;
        }
        for slot in &mut self.early {
            slot.take_if(|(of, number, _)| *of < inference || *number == message);
        }
        if let Some(slot) = self.early.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((inference, message, want));
        }
    }

    /// The other end has a message, or needs it no more.
    pub(crate) fn hear_have(&mut self, message: u16) {
        for slot in &mut self.sending {
            slot.take_if(|sending| sending.part.message == message);
        }
    }

    /// A message is to be acknowledged. If there is no room the sender will ask.
    pub(crate) fn acknowledge(&mut self, inference: u32, message: u16) {
        if self.haves.iter().flatten().any(|have| *have == (inference, message)) {
            return;
        }
        if let Some(slot) = self.haves.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((inference, message));
        }
    }

    /// An acknowledgement to send.
    pub(crate) fn next_have(&mut self) -> Option<(u32, u16)> {
        self.haves.iter_mut().find_map(Option::take)
    }

    /// The other end has nothing new of a message that is wanted, or the want was lost.
    pub(crate) fn repeat_want(&mut self, message: u16, now_us: u64) {
        let of = |receiving: &&mut Receiving| receiving.part.message == message;
        if let Some(receiving) = self.receiving.iter_mut().flatten().find(of) {
            (receiving.want_at_us, receiving.again) = (now_us, Again::All);
        }
    }

    /// A want to send now: the message's number, and what is wanted of it.
    pub(crate) fn next_want(&mut self, now_us: u64, round_us: u64) -> Option<(u16, Want)> {
        let due = |receiving: &&mut Receiving| receiving.want_at_us <= now_us;
        let receiving = self.receiving.iter_mut().flatten().find(due)?;
        let again = match receiving.again {
            Again::None => 0,
            Again::Overtaken => receiving.high.saturating_sub(receiving.base),
            Again::All => WINDOW,
        };
        let want = Want { base: receiving.base, again, bits: receiving.bits };
        receiving.wait_us = (receiving.wait_us * 2).clamp(round_us, LAST_WAIT_US.max(round_us));
        (receiving.want_at_us, receiving.again, receiving.fresh) = (now_us + receiving.wait_us, Again::All, 0);
        Some((receiving.part.message, want))
    }

    /// An offer to send now.
    pub(crate) fn next_offer(&mut self, now_us: u64, round_us: u64) -> Option<u16> {
        let due = |sending: &&mut Sending| {
            sending.offer_at_us <= now_us && sending.again == 0 && sending.next >= sending.limit
        };
        let sending = self.sending.iter_mut().flatten().find(due)?;
        sending.wait_us = (sending.wait_us * 2).clamp(round_us, LAST_WAIT_US.max(round_us));
        sending.offer_at_us = now_us + sending.wait_us;
        Some(sending.part.message)
    }

    /// A chunk to send now: its part and number. Messages go in their order.
    pub(crate) fn next_chunk(&mut self, now_us: u64, round_us: u64) -> Option<(Part, u16)> {
        let ready =
            self.sending.iter_mut().flatten().filter(|sending| sending.again != 0 || sending.next < sending.limit);
        let sending = ready.min_by_key(|sending| sending.part.message)?;
        let chunk = sending.next_chunk(now_us)?;
        sending.offer_at_us = now_us + sending.wait_us.max(round_us);
        Some((sending.part, chunk))
    }

    /// When the next want or offer is due, of those that are not yet.
    pub(crate) fn due_us(&self, now_us: u64) -> u64 {
        let wants = self.receiving.iter().flatten().map(|receiving| receiving.want_at_us);
        let offers = self.sending.iter().flatten().map(|sending| sending.offer_at_us);
        wants.chain(offers).filter(|time| *time > now_us).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::random::Random;
    use std::vec::Vec;

    const CHUNK: u16 = 10;

    fn part(message: u16, bytes: u32) -> Part {
        Part { peer: 1, message, offset_bytes: 0, bytes, bound: 0 }
    }

    /// Sends one tensor over a link that loses a share of frames and delivers the others late; milliseconds that it took,
    /// and chunks that were sent.
    fn send(bytes: u32, loss_percent: u64, seed: u64) -> (u64, usize) {
        let mut random = Random::new(seed);
        let (mut from, mut to) = (Transfers::new(), Transfers::new());
        from.begin(None, None);
        to.begin(None, None);
        assert!(to.want(part(0, bytes), 0, CHUNK, 0) && from.hand_over(0, part(0, bytes), CHUNK, 0, 2000));
        let (mut chunks_sent, mut wire) = (0, Vec::<(u64, Option<u16>, Option<Want>)>::new());
        for now_us in (0..10_000_000).step_by(100) {
            let mut arrives = || (random.below(100) >= loss_percent).then(|| now_us + 500 + random.below(300));
            while let Some((_, want)) = to.next_want(now_us, 2000) {
                wire.extend(arrives().map(|at| (at, None, Some(want))));
            }
            for _ in 0..4 {
                if let Some((_, chunk)) = from.next_chunk(now_us, 2000) {
                    chunks_sent += 1;
                    wire.extend(arrives().map(|at| (at, Some(chunk), None)));
                }
            }
            while let Some(at) = wire.iter().position(|(at, _, _)| *at <= now_us) {
                match wire.swap_remove(at) {
                    (_, Some(chunk), _) if to.take_chunk(0, chunk, true, now_us, 2000).is_some() => {
                        assert!(to.receiving(0).is_none());
                        return (now_us / 1000, chunks_sent);
                    }
                    (_, _, Some(want)) => drop(from.hear_want(0, &want, now_us, 2000)),
                    _ => {}
                }
            }
        }
        panic!("{bytes} bytes never came at {loss_percent} % loss, seed {seed}");
    }

    #[test]
    fn every_chunk_comes_once_where_nothing_is_lost() {
        for bytes in [1, 9, 10, 11, 640, 641, if cfg!(miri) { 650 } else { 5000 }] {
            let (_, sent) = send(bytes, 0, 3);
            assert_eq!(sent, usize::from(chunks(bytes, CHUNK)), "{bytes} bytes");
        }
    }

    #[test]
    fn losses_are_repaired_by_sending_what_is_missing() {
        for seed in 0..if cfg!(miri) { 1 } else { 20 } {
            let count = if cfg!(miri) { 80 } else { 200 };
            let (took_ms, sent) = send(10 * count, 20, seed);
            assert!(took_ms < 200, "seed {seed}: {took_ms} ms");
            assert!(sent < 2 * count as usize, "seed {seed}: {sent} chunks for {count}");
        }
    }

    #[test]
    fn a_damaged_want_asks_for_nothing_that_is_not_there() {
        let mut random = Random::new(4);
        for _ in 0..if cfg!(miri) { 2 } else { 10_000 } {
            let mut from = Transfers::new();
            from.begin(None, None);
            from.hand_over(0, part(0, 1000), CHUNK, 0, 2000);
            for _ in 0..4 {
                let want = Want { base: random.next() as u16 % 200, again: random.next() as u16, bits: random.next() };
                from.hear_want(0, &want, 0, 2000);
                for _ in 0..random.below(80) {
                    if let Some((_, chunk)) = from.next_chunk(0, 2000) {
                        assert!(chunk < 100);
                    }
                }
            }
        }
    }
}
