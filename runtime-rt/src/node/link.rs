//! One link: its session, what is being sent over it, and what comes.

use super::gossip::Channel;
use super::plan::{Medium, Peer};
use super::random::Random;
use super::session::{Hello, Stage, Talk, is_closed_with_session};
use super::transfer::{Receiving, Transfers};
use super::wire::{self, BEAT_BYTES, CHECK_BYTES, HEADER_BYTES, Header, Kind, Parser, Piece, Put, SMALL_BYTES, Take};
use super::{Memory, Node};

/// What a connection is that somebody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Too few bytes have come to tell.
    Unknown,
    /// Nobody who belongs here.
    Refused,
    /// This peer of the plan's: what has come is its first bytes.
    Peer(usize),
}

/// What the driver is to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect, and say [`Node::on_connected`] or [`Node::on_closed`].
    Connect,
    /// Close it; nothing is to be said.
    Close,
}

/// Longest and shortest time after which something is taken for lost.
const ROUND_US: core::ops::RangeInclusive<u64> = 4_000..=60_000;

/// The frame that is being sent.
struct Outgoing {
    head: [u8; HEADER_BYTES + SMALL_BYTES + CHECK_BYTES],
    /// Bytes of `head`; none if nothing is being sent.
    head_bytes: usize,
    /// Where in memory the payload of a tensor frame lies, and its check.
    body: Option<(usize, usize)>,
    check: [u8; CHECK_BYTES],
    /// Bytes of the frame that have gone.
    gone: usize,
}

impl Outgoing {
    const fn new() -> Outgoing {
        Outgoing {
            head: [0; HEADER_BYTES + SMALL_BYTES + CHECK_BYTES],
            head_bytes: 0,
            body: None,
            check: [0; CHECK_BYTES],
            gone: 0,
        }
    }

    fn clear(&mut self) {
        (self.head_bytes, self.body, self.gone) = (0, None, 0);
    }

    /// Puts a frame together; a payload follows the header here, a body stays where it is.
    fn put(&mut self, header: &Header, payload: &[u8], body: Option<(usize, &[u8])>) {
        let bytes = header.emit();
        let mut sum = wire::payload_check(&bytes);
        sum.add(payload);
        let mut put = Put(&mut self.head);
        put.all(&bytes);
        put.all(payload);
        self.head_bytes = HEADER_BYTES + payload.len();
        if let Some((_, content)) = body {
            sum.add(content);
            self.check = sum.value().to_le_bytes();
        } else if !payload.is_empty() {
            put.all(&sum.value().to_le_bytes());
            self.head_bytes += CHECK_BYTES;
        }
        self.body = body.map(|(at, content)| (at, content.len()));
        self.gone = 0;
    }
}

/// Chunk of a message that is being written to memory.
type Filling = ((u32, u16, u16), usize);

/// One link.
pub(crate) struct Link {
    /// Whether bytes can be sent.
    pub(crate) open: bool,
    close: bool,
    /// Since when.
    open_us: u64,
    pub(crate) talk: Talk,
    pub(crate) parser: Parser,
    out: Outgoing,
    pub(crate) channel: Channel,
    pub(crate) transfers: Transfers,
    /// The chunk whose bytes are coming, and how many of them were written.
    pub(crate) filling: Option<Filling>,
    beat_at_us: u64,
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

impl Link {
    pub(crate) fn new() -> Link {
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

    fn beat(&mut self, now_us: u64) -> [u8; BEAT_BYTES] {
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
    pub(crate) fn news_of_rate(&mut self) -> Option<f32> {
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
    fn next_probe(&mut self) -> Option<u16> {
        self.probes_left = self.probes_left.checked_sub(1)?;
        Some(PROBES - 1 - self.probes_left)
    }
}

impl<const PEERS: usize> Node<'_, PEERS> {
    /// Who has made a connection, by its first bytes. A driver holds a limited number of such connections, and none for
    /// longer than [`super::Plan::detect_us`].
    pub fn greet(&self, bytes: &[u8]) -> Greeting {
        let mut parser = Parser::new();
        let mut rest = bytes;
        let header = match parser.take(&mut rest, 0) {
            Some(Piece::Frame(header)) if header.kind == Kind::Hello => header,
            None if bytes.len() < HEADER_BYTES + wire::HELLO_BYTES + CHECK_BYTES => return Greeting::Unknown,
            _ => return Greeting::Refused,
        };
        let hello = Hello::parse(parser.payload(&header));
        let calls = hello.is_some_and(|hello| hello.plan_hash == self.plan.hash && hello.stage == Stage::Call);
        let who = |peer: &Peer| peer.device == header.sender && !peer.calls && peer.medium == Medium::Connection;
        let found = self.plan.peers.iter().position(who).filter(|_| calls);
        found.map_or(Greeting::Refused, Greeting::Peer)
    }

    /// What is to be done with the connection to a peer.
    pub fn poll_order(&mut self, at: usize) -> Option<Order> {
        let (link, peer) = self.links.get_mut(at).zip(self.plan.peers.get(at))?;
        if core::mem::take(&mut link.close) {
            return Some(Order::Close);
        }
        let connects = peer.medium == Medium::Connection && peer.calls && !link.open;
        (connects && link.talk.calls_now(self.now_us, &mut self.random)).then_some(Order::Connect)
    }

    /// Bytes to send to a peer, in up to three pieces: a datagram, or what is left of a frame. [`Node::on_sent`] says how
    /// many have gone.
    pub fn poll_send<'a, M: Memory + ?Sized>(&'a mut self, at: usize, memory: &'a M) -> Option<[&'a [u8]; 3]> {
        if self.links.get(at)?.out.head_bytes == 0 {
            self.compose(at, memory)?;
        }
        let out = &self.links.get(at)?.out;
        let head = out.head.get(..out.head_bytes).unwrap_or_default();
        let (body, check) = match out.body {
            Some((offset, length)) => (memory.read(offset, length), &out.check[..]),
            None => (&[][..], &[][..]),
        };
        let mut gone = out.gone;
        Some([head, body, check].map(|piece| {
            let skip = gone.min(piece.len());
            gone -= skip;
            piece.get(skip..).unwrap_or_default()
        }))
    }

    /// So many bytes of what [`Node::poll_send`] gave have gone. A datagram has gone even if it was refused.
    pub fn on_sent(&mut self, at: usize, count: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let out = &mut link.out;
        out.gone += count;
        let whole = out.head_bytes + out.body.map_or(0, |(_, length)| length + CHECK_BYTES);
        if out.gone >= whole {
            out.clear();
        }
    }

    /// Puts the next frame of a link together, if there is one.
    fn compose<M: Memory + ?Sized>(&mut self, at: usize, memory: &M) -> Option<()> {
        let hung = self.run.is_hung(self.now_us, self.detect_us());
        let now_us = self.now_us;
        let beat_us = self.detect_us() / 10;
        let (link, peer) = self.links.get_mut(at).zip(self.plan.peers.get(at))?;
        if !link.open || hung {
            return None;
        }
        let mut header = Header::new(Kind::Hello, self.plan.device);
        if let Some((stage, caller_nonce, answer_nonce)) = link.talk.greeting(peer, now_us, &mut self.random) {
            let hello = Hello { stage, plan_hash: self.plan.hash, boot: self.boot, caller_nonce, answer_nonce };
            let payload = hello.emit();
            header.length = payload.len() as u16;
            link.out.put(&header, &payload, None);
            return Some(());
        }
        let session = link.talk.session?;
        (header.session, header.counter) = (session.id, session.sent.wrapping_add(1));
        (header.heard, header.heard_before) = (link.channel.heard, link.channel.heard_before);
        (header.term, header.inference) = (self.known.term, self.known.floor);
        let round_us = link.round_us();
        let mut payload = [0; SMALL_BYTES];
        let mut length = 0;
        let mut body = None;
        if let Some((number, bytes)) = self.known.next_event(&mut link.channel, at, (now_us, round_us), &mut payload) {
            (header.kind, header.chunk, length) = (Kind::Event, number, bytes);
        } else if let Some((inference, message)) = link.transfers.next_have() {
            (header.kind, header.inference, header.message) = (Kind::Have, inference, message);
        } else if let Some((message, want)) = link.transfers.next_want(now_us, round_us) {
            (header.kind, header.message) = (Kind::Want, message);
            let want = want.emit();
            Put(&mut payload).all(&want);
            length = want.len();
        } else if now_us >= link.beat_at_us {
            header.kind = Kind::Beat;
            let beat = link.beat(now_us);
            Put(&mut payload).all(&beat);
            length = beat.len();
            link.beat_at_us = now_us + beat_us;
        } else if let Some(message) = link.transfers.next_offer(now_us, round_us) {
            (header.kind, header.message) = (Kind::Offer, message);
        } else if let Some((part, chunk)) = link.transfers.next_chunk(now_us, round_us) {
            let (from, bytes) = super::transfer::chunk_range(part.bytes, peer.chunk_bytes, chunk);
            let offset = part.offset_bytes as usize + from as usize;
            (header.kind, header.message, header.chunk) = (Kind::Tensor, part.message, chunk);
            header.length = bytes;
            body = Some((offset, memory.read(offset, bytes.into())));
            self.counters.sent_bytes += u64::from(bytes);
        } else if let Some(number) = link.next_probe() {
            let content = memory.read(0, peer.chunk_bytes.into());
            (header.kind, header.chunk, header.length) = (Kind::Probe, number, content.len() as u16);
            body = Some((0, content)).filter(|(_, content)| !content.is_empty());
        } else if link.channel.owes {
            header.kind = Kind::Beat;
            let beat = link.beat(now_us);
            Put(&mut payload).all(&beat);
            length = beat.len();
        } else {
            return None;
        }
        if matches!(header.kind, Kind::Want | Kind::Offer | Kind::Tensor) {
            (header.inference, header.route) = self.run.current();
            header.remaining_us = self.remaining_us(header.inference);
        }
        let (link, _) = self.links.get_mut(at).zip(self.plan.peers.get(at))?;
        link.channel.owes = false;
        if let Some(session) = link.talk.session.as_mut() {
            session.sent = header.counter;
        }
        if body.is_none() {
            header.length = length as u16;
        }
        link.out.put(&header, payload.get(..length).unwrap_or_default(), body);
        Some(())
    }

    fn remaining_us(&self, inference: u32) -> u32 {
        let deadline_us = self.known.turn(inference).map_or(u64::MAX, |turn| turn.deadline_us);
        u32::try_from(deadline_us.saturating_sub(self.now_us)).unwrap_or(u32::MAX)
    }
}
