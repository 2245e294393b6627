//! The console of a device without an operating system: frames of one client, taken apart as their bytes come.

use crate::firmware::{Port, Program};
use crate::frame::{Checksum, HEADER_BYTES, Header, Kind, WANTS_ANSWERS, WANTS_COSTS};
use crate::node::{Counters, Finished, Record};
use crate::{DeviceCosts, Identity, Turn};

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// An answer to the input that has come, under this number; on a route, if it has said which.
    Input { number: u32, route: Option<u8> },
    /// Next inputs may take so many microseconds.
    Budget(u64),
    /// The next input finds states of zero.
    Reset,
    /// Peers that say nothing for so many microseconds are lost.
    Silence(u32),
    /// Counters.
    Status(u32),
}

/// A frame that is not whole after this time never will be: its client is gone.
const HALF_FRAME_US: u64 = 1_000_000;

/// A console.
pub(crate) struct Console<'c> {
    port: &'c mut dyn Port,
    identity: Identity,
    /// What the client wants to hear of.
    wants: u16,
    bytes: [u8; HEADER_BYTES],
    gathered: usize,
    /// The frame whose payload comes, and how much of it is there.
    frame: Option<(Header, usize)>,
    sum: Checksum,
    /// A payload that is no input.
    small: [u8; 8],
    /// When something came last.
    heard_us: u64,
}

impl<'c> Console<'c> {
    pub(crate) fn new(port: &'c mut dyn Port, identity: Identity) -> Console<'c> {
        Console {
            port,
            identity,
            wants: 0,
            bytes: [0; HEADER_BYTES],
            gathered: 0,
            frame: None,
            sum: Checksum::new(),
            small: [0; 8],
            heard_us: 0,
        }
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.port.write(bytes);
            bytes = bytes.get(count..).unwrap_or_default();
        }
    }

    fn send(&mut self, kind: Kind, turn: Turn, payload: &[u8]) {
        let Identity { plan_hash, device } = self.identity;
        let header = Header::new(kind, plan_hash, turn.inference, 0, device, payload).on_route(turn.route);
        self.put(&header.emit());
        self.put(payload);
    }

    /// Says who is there.
    pub(crate) fn greet(&mut self) {
        self.send(Kind::Hello, Turn::default(), &[]);
    }

    /// What became of the client's input.
    pub(crate) fn record(&mut self, record: &Record) {
        self.send(Kind::Record, Turn { inference: record.tag as u32, route: 0 }, &record.emit());
    }

    /// The answer to an input, if anybody wants it.
    pub(crate) fn answer(&mut self, input: u32, route: u8, bytes: &[u8]) {
        if self.wants & WANTS_ANSWERS != 0 && !bytes.is_empty() {
            self.send(Kind::Output, Turn { inference: input, route }, bytes);
        }
    }

    /// What an inference has cost, if anybody wants to know.
    pub(crate) fn report(&mut self, finished: &Finished, compute_us: u64) {
        if self.wants & WANTS_COSTS != 0 {
            let costs = DeviceCosts::from((finished, compute_us));
            self.send(Kind::Report, Turn { inference: finished.input, route: finished.route }, &costs.emit());
        }
    }

    /// Counters, as Prometheus reads them.
    pub(crate) fn status(&mut self, number: u32, counters: &Counters) {
        let mut text = Text { bytes: [0; 512], length: 0 };
        for (name, count) in counters.named() {
            text.add(b"partita_");
            text.add(name.as_bytes());
            text.add(b" ");
            text.add_number(count);
            text.add(b"\n");
        }
        self.send(
            Kind::Status,
            Turn { inference: number, route: 0 },
            text.bytes.get(..text.length).unwrap_or_default(),
        );
    }

    /// Takes what has come; an order, once all of it is there. Inputs are left where they are while there is no place.
    pub(crate) fn hear(&mut self, has_place: bool, program: &mut dyn Program, now_us: u64) -> Option<Order> {
        loop {
            let Some((header, got)) = self.frame else {
                let count = self.port.read(self.bytes.get_mut(self.gathered..).unwrap_or_default());
                self.gathered += count;
                self.align(0);
                if count == 0 {
                    return None;
                }
                if self.gathered >= HEADER_BYTES {
                    let header =
                        Header::parse(&self.bytes).filter(|header| header.plan_hash == self.identity.plan_hash);
                    (self.frame, self.sum, self.heard_us) = (header.map(|header| (header, 0)), Checksum::new(), now_us);
                    self.gathered = if header.is_some() { 0 } else { self.gathered };
                    self.align(1);
                }
                continue;
            };
            let route = header.message.checked_sub(1).map(|route| u8::try_from(route).unwrap_or(u8::MAX));
            let is_input = header.kind == Kind::Input && header.length > 0;
            let input = if is_input { program.input_mut(route.unwrap_or(0)) } else { &mut [] };
            let fits = is_input && input.len() == header.length as usize;
            let left = (header.length as usize).saturating_sub(got);
            if left == 0 {
                self.frame = None;
                if self.sum.value() != header.payload_crc {
                    continue;
                }
                match self.order(&header, route, fits) {
                    None => continue,
                    order => return order,
                }
            }
            if fits && !has_place {
                // The client waits, and is not gone.
                self.heard_us = now_us;
                return None;
            }
            let mut skipped = [0; 32];
            let place = match (fits, header.length as usize <= self.small.len()) {
                (true, _) => input.get_mut(got..),
                (false, true) => self.small.get_mut(got..),
                (false, false) => Some(&mut skipped[..]),
            };
            let place = place.unwrap_or_default();
            let room = left.min(place.len());
            let place = place.get_mut(..room).unwrap_or_default();
            let count = self.port.read(place);
            if count == 0 {
                if now_us.saturating_sub(self.heard_us) > HALF_FRAME_US {
                    self.frame = None;
                }
                return None;
            }
            self.sum.add(place.get(..count).unwrap_or_default());
            (self.frame, self.heard_us) = (Some((header, got + count)), now_us);
        }
    }

    /// What a whole frame says.
    fn order(&mut self, header: &Header, route: Option<u8>, fits: bool) -> Option<Order> {
        let number = u64::from_le_bytes(self.small);
        match header.kind {
            Kind::Input if fits => Some(Order::Input { number: header.inference, route }),
            Kind::Budget if header.length == 8 => Some(Order::Budget(number)),
            Kind::Silence if header.length == 8 => Some(Order::Silence(u32::try_from(number).unwrap_or(u32::MAX))),
            Kind::Reset => Some(Order::Reset),
            Kind::Status => Some(Order::Status(header.inference)),
            Kind::Subscribe => {
                self.wants = header.message;
                None
            }
            Kind::Hello => {
                self.greet();
                None
            }
            _ => None,
        }
    }

    /// Drops gathered bytes before the first place from `from` on where a header may begin.
    fn align(&mut self, from: usize) {
        let gathered = self.bytes.get(..self.gathered).unwrap_or_default();
        let begins = |at: &usize| gathered.get(*at..).is_some_and(|rest| rest.starts_with(b"Pt") || rest == b"P");
        let at = (from..gathered.len()).find(begins).unwrap_or(gathered.len());
        let moved = self.bytes;
        self.bytes.iter_mut().zip(moved.iter().skip(at)).for_each(|(slot, byte)| *slot = *byte);
        self.gathered -= at;
    }
}

/// A text that is put together without an allocator; what does not fit is dropped.
struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Text {
    fn add(&mut self, more: &[u8]) {
        let room = self.bytes.iter_mut().skip(self.length).zip(more);
        self.length += room.map(|(slot, byte)| *slot = *byte).count();
    }

    fn add_number(&mut self, number: u64) {
        let mut digits = [0u8; 20];
        let mut rest = number;
        let mut first = digits.len();
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (rest % 10) as u8;
            (rest, first) = (rest / 10, at);
            if rest == 0 {
                break;
            }
        }
        self.add(digits.get(first..).unwrap_or_default());
    }
}
