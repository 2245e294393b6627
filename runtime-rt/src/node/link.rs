//! One link: its session, what is being sent over it, and what comes.

use super::Memory;
use super::gossip::Channel;
use super::plan::{Medium, Peer};
use super::random::Random;
use super::session::{Talk, is_closed_with_session};
use super::transfer::{Receiving, Transfers};
use super::wire::{self, BEAT_BYTES, CHECK_BYTES, HEADER_BYTES, Header, Parser, Put, SMALL_BYTES, Take};
use crate::noise::{Key, Stream, TAG_BYTES};

/// What a connection is that somebody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Too few bytes have come to tell.
    Unknown,
    /// Nobody who belongs here.
    Refused,
    /// Somebody with a peer's key, or who has heard such a call once: [`super::Guest::answer`] is to be sent to him.
    Answer,
    /// This peer of the plan's: [`super::Node::welcome`] takes the connection.
    Peer(usize),
}

/// What the driver is to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect, and say [`super::Node::on_connected`] or [`super::Node::on_closed`].
    Connect,
    /// Close it; nothing is to be said.
    Close,
}

/// Longest and shortest time after which something is taken for lost.
const ROUND_US: core::ops::RangeInclusive<u64> = 4_000..=60_000;

/// The frame that is being sent.
pub(super) struct Outgoing {
    head: [u8; HEADER_BYTES + SMALL_BYTES + TAG_BYTES],
    /// Bytes of `head`; none if nothing is being sent.
    pub(super) head_bytes: usize,
    /// Where in memory the payload of a tensor frame lies.
    body: Option<(usize, usize)>,
    /// Seals the body while it is sent, if it is sealed at all.
    stream: Option<Stream>,
    /// Which bytes of the body are sealed in the room that the driver gives.
    sealed: core::ops::Range<usize>,
    is_sealed: bool,
    check: [u8; TAG_BYTES],
    /// Bytes of the check behind a body.
    check_bytes: usize,
    /// Bytes of the frame that have gone.
    gone: usize,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing::new()
    }
}

impl Outgoing {
    const fn new() -> Outgoing {
        Outgoing {
            head: [0; HEADER_BYTES + SMALL_BYTES + TAG_BYTES],
            head_bytes: 0,
            body: None,
            stream: None,
            sealed: 0..0,
            is_sealed: false,
            check: [0; TAG_BYTES],
            check_bytes: 0,
            gone: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        (self.head_bytes, self.body, self.stream, self.gone) = (0, None, None, 0);
    }

    /// Puts a frame together; a payload follows the header here, a body stays where it is. With a key both are sealed.
    pub(super) fn put(&mut self, header: &Header, payload: &[u8], body: Option<(usize, &[u8])>, key: Option<&Key>) {
        let bytes = header.emit();
        let mut put = Put(&mut self.head);
        put.all(&bytes);
        put.all(payload);
        self.head_bytes = HEADER_BYTES + payload.len();
        (self.gone, self.sealed, self.check_bytes) = (0, 0..0, 0);
        self.body = body.map(|(at, content)| (at, content.len()));
        self.is_sealed = key.is_some();
        if let Some(key) = key {
            let mut stream = Stream::new(key, header.counter.into(), &bytes);
            if body.is_some() {
                (self.stream, self.check_bytes) = (Some(stream), TAG_BYTES);
                return;
            }
            stream.seal(self.head.get_mut(HEADER_BYTES..self.head_bytes).unwrap_or_default());
            let tag = stream.tag();
            Put(self.head.get_mut(self.head_bytes..).unwrap_or_default()).all(&tag);
            self.head_bytes += TAG_BYTES;
            return;
        }
        let mut sum = wire::payload_check(&bytes);
        sum.add(payload);
        if let Some((_, content)) = body {
            sum.add(content);
            Put(&mut self.check).all(&sum.value().to_le_bytes());
            self.check_bytes = CHECK_BYTES;
        } else if !payload.is_empty() {
            Put(self.head.get_mut(self.head_bytes..).unwrap_or_default()).all(&sum.value().to_le_bytes());
            self.head_bytes += CHECK_BYTES;
        }
    }

    /// What is left of the frame, in up to three pieces, or the next part of it: what is sealed of a body lies in
    /// `room`.
    pub(super) fn pieces<'a, M: Memory + ?Sized>(&'a mut self, memory: &'a M, room: &'a mut [u8]) -> [&'a [u8]; 3] {
        let length = self.body.map_or(0, |(_, length)| length);
        let gone = self.gone.saturating_sub(self.head_bytes);
        if self.is_sealed && gone >= self.sealed.end && self.sealed.end < length {
            self.seal_next(memory, room);
        }
        let head = self.head.get(self.gone.min(self.head_bytes)..self.head_bytes).unwrap_or_default();
        let body = match self.body {
            None => &[][..],
            Some(_) if self.is_sealed => {
                let from = gone.saturating_sub(self.sealed.start);
                room.get(from..self.sealed.len()).unwrap_or_default()
            }
            Some((offset, length)) => memory.read(offset, length).get(gone..).unwrap_or_default(),
        };
        let is_last = !self.is_sealed || self.sealed.end == length;
        let check = if is_last { self.check.get(gone.saturating_sub(length)..self.check_bytes) } else { None };
        [head, body, check.unwrap_or_default()]
    }

    /// Seals the next bytes of the body into `room`.
    fn seal_next<M: Memory + ?Sized>(&mut self, memory: &M, room: &mut [u8]) {
        let (Some((offset, length)), Some(stream)) = (self.body, self.stream.as_mut()) else { return };
        let from = self.sealed.end;
        let count = room.len().min(length - from);
        let piece = room.get_mut(..count).unwrap_or_default();
        piece.iter_mut().zip(memory.read(offset + from, count)).for_each(|(slot, byte)| *slot = *byte);
        stream.seal(piece);
        self.sealed = from..from + count;
        if let Some(stream) = self.stream.take_if(|_| from + count == length) {
            self.check = stream.tag();
        }
    }

    /// So many bytes have gone.
    pub(super) fn sent(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.head_bytes + self.body.map_or(0, |(_, length)| length) + self.check_bytes {
            self.clear();
        }
    }
}

/// Chunk of a message that is being written to memory.
type Filling = ((u32, u16, u16), usize);

/// One link of a node.
pub struct Link {
    /// Whether bytes can be sent.
    pub(crate) open: bool,
    pub(super) close: bool,
    /// Since when.
    open_us: u64,
    pub(crate) talk: Talk,
    pub(crate) parser: Parser,
    pub(super) out: Outgoing,
    pub(crate) channel: Channel,
    pub(crate) transfers: Transfers,
    /// The chunk whose bytes are coming, and how many of them were written.
    pub(crate) filling: Option<Filling>,
    pub(super) beat_at_us: u64,
    /// The other end's clock in its last beat, and when that came.
    their_clock: Option<(u32, u64)>,
    /// Smoothed time of a round trip.
    trip_us: u64,
    /// Rate at which tensors came last, in bytes per second.
    rate: Option<f32>,
    /// The rate that others know.
    told_rate: f32,
    /// Probes to send, and how many have come since when.
    probes_left: u16,
    probed: Option<(u16, u64)>,
}

/// Probes that are sent one after the other.
const PROBES: u16 = 8;

impl Default for Link {
    fn default() -> Link {
        Link::new()
    }
}

impl Link {
    /// Nothing is known of it yet.
    pub const fn new() -> Link {
        Link {
            open: false,
            close: false,
            open_us: 0,
            talk: Talk::new(),
            parser: Parser::new(),
            out: Outgoing::new(),
            channel: Channel::new(),
            transfers: Transfers::new(),
            filling: None,
            beat_at_us: 0,
            their_clock: None,
            trip_us: 10_000,
            rate: None,
            told_rate: 0.0,
            probes_left: 0,
            probed: None,
        }
    }

    /// Time after which something is taken for lost.
    pub(crate) fn round_us(&self) -> u64 {
        (self.trip_us * 2 + 2_000).clamp(*ROUND_US.start(), *ROUND_US.end())
    }

    pub(crate) fn beat_now(&mut self) {
        self.beat_at_us = 0;
    }

    pub(crate) fn connected(&mut self, now_us: u64) {
        (self.open, self.close, self.open_us, self.filling) = (true, false, now_us, None);
        self.parser.reset();
        self.out.clear();
        self.talk.connected(now_us);
    }

    pub(crate) fn lose(&mut self, peer: &Peer, close: bool, now_us: u64, random: &mut Random) {
        self.talk.lose(now_us, random);
        (self.filling, self.their_clock) = (None, None);
        if is_closed_with_session(peer.medium) {
            self.parser.reset();
            self.out.clear();
            if close {
                (self.open, self.close) = (false, true);
            }
        }
    }

    /// Whether a connection leads nowhere: nobody greets at its other end.
    pub(crate) fn is_vain(&self, peer: &Peer, now_us: u64, detect_us: u64) -> bool {
        let greets = self.open && self.talk.session.is_none() && peer.medium == Medium::Connection;
        greets && now_us >= self.open_us + detect_us
    }

    pub(crate) fn begin_session(&mut self, now_us: u64, restarted: bool) {
        self.filling = None;
        self.transfers.resume(now_us, restarted);
        self.beat_at_us = now_us;
        self.their_clock = None;
    }

    /// When something is to be done about this link. What is due already waits for the link to take bytes.
    pub(crate) fn due_us(&self, peer: &Peer, now_us: u64, detect_us: u64) -> u64 {
        let later = |times: &[u64]| times.iter().copied().filter(|time| *time > now_us).min().unwrap_or(u64::MAX);
        if self.talk.session.is_none() {
            let vain_us = if self.open { self.open_us + detect_us } else { u64::MAX };
            return later(&[vain_us, if peer.calls { self.talk.call_at_us } else { u64::MAX }]);
        }
        let transfers_us = self.transfers.due_us(now_us);
        let (good_us, silent_us) = (self.talk.good_at_us(), self.talk.silent_at_us(detect_us));
        // Whoever is not called for a while takes it that it was stopped.
        let awake_us = now_us + detect_us / 10;
        later(&[awake_us, self.beat_at_us, self.channel.due_us(self.round_us()), transfers_us, good_us, silent_us])
    }

    /// A beat: the sender's clock, the receiver's clock as the sender heard it last, and how long ago that was.
    pub(crate) fn hear_beat(&mut self, header: &Header, now_us: u64) {
        let mut take = Take(self.parser.payload(header));
        let (Some(clock), Some(echo), Some(held_us)) = (take.u32(), take.u32(), take.u32()) else { return };
        self.their_clock = Some((clock, now_us));
        if held_us == u32::MAX {
            return;
        }
        let trip_us = (now_us as u32).wrapping_sub(echo).wrapping_sub(held_us);
        // What took longer than any beat waits is of a clock that jumped.
        if trip_us < 5_000_000 {
            self.trip_us = (self.trip_us * 7 + u64::from(trip_us)) / 8;
        }
    }

    pub(super) fn beat(&mut self, now_us: u64) -> [u8; BEAT_BYTES] {
        let mut bytes = [0; BEAT_BYTES];
        let mut put = Put(&mut bytes);
        let (echo, held_us) = self.their_clock.map_or((0, u32::MAX), |(clock, since_us)| {
            (clock, u32::try_from(now_us.saturating_sub(since_us)).unwrap_or(u32::MAX))
        });
        put.all(&(now_us as u32).to_le_bytes());
        put.all(&echo.to_le_bytes());
        put.all(&held_us.to_le_bytes());
        bytes
    }

    /// A message has come: how fast, if it was long enough to tell.
    pub(crate) fn note_rate(&mut self, receiving: &Receiving, peer: &Peer, now_us: u64) {
        self.rate = receiving.rate(peer.chunk_bytes, now_us).or(self.rate);
    }

    /// A probe has come. They are numbered from 0, and the last tells.
    pub(crate) fn hear_probe(&mut self, header: &Header, now_us: u64) {
        if header.chunk == 0 {
            self.probed = Some((1, now_us));
            return;
        }
        let Some((count, since_us)) = self.probed.filter(|(count, _)| *count == header.chunk) else { return };
        self.probed = Some((count + 1, since_us));
        if count + 1 == PROBES && now_us > since_us {
            let bytes = u32::from(header.length) * u32::from(count);
            self.rate = Some(bytes as f32 * 1e6 / (now_us - since_us) as f32);
        }
    }

    /// The rate, if it is not what was told last.
    pub(crate) fn rate_event(&mut self) -> Option<f32> {
        let rate = self.rate.take()?;
        let told = core::mem::replace(&mut self.told_rate, rate);
        if (0.8..1.25).contains(&(rate / told)) {
            self.told_rate = told;
            return None;
        }
        Some(rate)
    }

    /// How fast the link is to be measured.
    pub(crate) fn probe(&mut self) {
        self.probes_left = PROBES;
    }

    /// The next probe's number.
    pub(super) fn next_probe(&mut self) -> Option<u16> {
        self.probes_left = self.probes_left.checked_sub(1)?;
        Some(PROBES - 1 - self.probes_left)
    }
}
