//! The frame of a node's links, and the parser that finds frames in bytes of any origin.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | magic `P`, `t` |
//! | 2 | version of the format, 2 |
//! | 3 | kind |
//! | 4..8 | session: both sides' nonces mixed; 0 in greetings |
//! | 8..12 | counter of the sender's frames in this session, from 1 |
//! | 12..16 | term: which life of the device with the input |
//! | 16..20 | inference; in beats and events the floor, the first inference that is not over |
//! | 20..22 | message number within the inference |
//! | 22 | sending device |
//! | 23 | route |
//! | 24..28 | remaining microseconds of the inference, `u32::MAX` if it has no limit |
//! | 28..30 | chunk of the tensor, or number of the event frame |
//! | 30..32 | payload length, bounded by [`Kind::most_bytes`] |
//! | 32..34 | highest event frame heard |
//! | 34..36 | which of the 16 before it were heard, bit 0 the nearest |
//! | 36..40 | CRC-32 of bytes 0..36 |
//!
//! A payload is followed by the CRC-32 of the header's CRC and the payload, so that no payload fits another header.
//! On a link with keys every frame but greetings is a message of Noise instead, whose number is the counter: the payload is
//! sealed, a tag of 16 bytes follows it, also if it is empty, and the header is the associated data. Numbers are
//! little-endian.
//!
//! A receiver that loses its place looks for the next magic whose header checks: a damaged payload costs its frame, lost
//! bytes cost at most the frame after it too.

use super::keyed::{KEYED_HELLO_BYTES, Keys};
use crate::frame::Checksum;
use crate::noise::{Stream, TAG_BYTES};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 40;

/// Bytes of the check behind a payload.
pub const CHECK_BYTES: usize = 4;

/// Largest payload of a frame that is not a tensor's.
pub const SMALL_BYTES: usize = ITEM_BYTES * ITEMS;

/// Bytes of one item of an event frame.
pub const ITEM_BYTES: usize = 24;

/// Most items of an event frame.
pub const ITEMS: usize = 8;

const MAGIC: [u8; 2] = *b"Pt";
pub(crate) const VERSION: u8 = 2;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is there, of which plan: the way into a session.
    Hello,
    /// A sign of life, with clocks for the time of a round trip.
    Beat,
    /// Items that every device is to know: inferences, and who sees whom.
    Event,
    /// The receiver has room for a message, and says which chunks of it are missing.
    Want,
    /// The receiver has all of a message, or needs it no more.
    Have,
    /// The sender has a message and has heard nothing of it lately.
    Offer,
    /// One chunk of a tensor.
    Tensor,
    /// Bytes from whose arrival the other end learns how fast the link is.
    Probe,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Beat,
            3 => Kind::Event,
            4 => Kind::Want,
            5 => Kind::Have,
            6 => Kind::Offer,
            7 => Kind::Tensor,
            8 => Kind::Probe,
            _ => return None,
        })
    }

    fn to_byte(self) -> u8 {
        match self {
            Kind::Hello => 1,
            Kind::Beat => 2,
            Kind::Event => 3,
            Kind::Want => 4,
            Kind::Have => 5,
            Kind::Offer => 6,
            Kind::Tensor => 7,
            Kind::Probe => 8,
        }
    }

    /// Most payload bytes of such a frame, on a link whose tensors come in chunks of `chunk_bytes`.
    pub fn most_bytes(self, chunk_bytes: u16) -> usize {
        match self {
            Kind::Hello => KEYED_HELLO_BYTES,
            Kind::Beat => BEAT_BYTES,
            Kind::Event => SMALL_BYTES,
            Kind::Want => WANT_BYTES,
            Kind::Have | Kind::Offer => 0,
            Kind::Tensor | Kind::Probe => usize::from(chunk_bytes),
        }
    }
}

/// Bytes of a greeting's payload on a link without keys.
pub const HELLO_BYTES: usize = 24;

/// Bytes of a beat's payload.
pub const BEAT_BYTES: usize = 12;

/// Bytes of a want's payload.
pub const WANT_BYTES: usize = 12;

/// A header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame carries.
    pub kind: Kind,
    /// Session of the frame.
    pub session: u32,
    /// Number of the frame in its session.
    pub counter: u32,
    /// Which life of the device with the input.
    pub term: u32,
    /// Inference, or the floor.
    pub inference: u32,
    /// Number of the message within the inference.
    pub message: u16,
    /// Sending device.
    pub sender: u8,
    /// Route of the inference.
    pub route: u8,
    /// Microseconds that the inference has left.
    pub remaining_us: u32,
    /// Chunk of the tensor, or number of the event frame.
    pub chunk: u16,
    /// Bytes of payload.
    pub length: u16,
    /// Highest event frame heard.
    pub heard: u16,
    /// Which of those before it.
    pub heard_before: u16,
}

impl Header {
    /// An empty header of a kind.
    pub const fn new(kind: Kind, sender: u8) -> Header {
        Header {
            kind,
            session: 0,
            counter: 0,
            term: 0,
            inference: 0,
            message: 0,
            sender,
            route: 0,
            remaining_us: u32::MAX,
            chunk: 0,
            length: 0,
            heard: 0,
            heard_before: 0,
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        let mut put = Put(&mut bytes);
        put.all(&MAGIC);
        put.all(&[VERSION, self.kind.to_byte()]);
        put.all(&self.session.to_le_bytes());
        put.all(&self.counter.to_le_bytes());
        put.all(&self.term.to_le_bytes());
        put.all(&self.inference.to_le_bytes());
        put.all(&self.message.to_le_bytes());
        put.all(&[self.sender, self.route]);
        put.all(&self.remaining_us.to_le_bytes());
        put.all(&self.chunk.to_le_bytes());
        put.all(&self.length.to_le_bytes());
        put.all(&self.heard.to_le_bytes());
        put.all(&self.heard_before.to_le_bytes());
        let (checked, _) = bytes.split_at(HEADER_BYTES - CHECK_BYTES);
        let crc = Checksum::of(checked).to_le_bytes();
        for (slot, byte) in bytes.iter_mut().skip(HEADER_BYTES - CHECK_BYTES).zip(crc) {
            *slot = byte;
        }
        bytes
    }

    /// Reads a header; `None` if these bytes are none.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let (checked, crc) = bytes.split_at(HEADER_BYTES - CHECK_BYTES);
        if Checksum::of(checked).to_le_bytes() != *crc {
            return None;
        }
        let mut take = Take(checked);
        let _magic: [u8; 2] = take.bytes()?;
        let [version, kind] = take.bytes()?;
        if version != VERSION {
            return None;
        }
        let kind = Kind::from_byte(kind)?;
        let (session, counter, term, inference) = (take.u32()?, take.u32()?, take.u32()?, take.u32()?);
        let message = take.u16()?;
        let [sender, route] = take.bytes()?;
        let remaining_us = take.u32()?;
        let (chunk, length, heard, heard_before) = (take.u16()?, take.u16()?, take.u16()?, take.u16()?);
        Some(Header {
            kind,
            session,
            counter,
            term,
            inference,
            message,
            sender,
            route,
            remaining_us,
            chunk,
            length,
            heard,
            heard_before,
        })
    }
}

/// Begins the check of a payload behind a header.
pub(crate) fn payload_check(header: &[u8; HEADER_BYTES]) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(header.get(HEADER_BYTES - CHECK_BYTES..).unwrap_or_default());
    sum
}

/// Writes fields one after the other; what does not fit is dropped.
pub(crate) struct Put<'a>(pub &'a mut [u8]);

impl Put<'_> {
    pub(crate) fn all(&mut self, field: &[u8]) {
        let room = core::mem::take(&mut self.0);
        let (here, rest) = room.split_at_mut(field.len().min(room.len()));
        for (slot, byte) in here.iter_mut().zip(field) {
            *slot = *byte;
        }
        self.0 = rest;
    }
}

/// Reads fields one after the other.
pub(crate) struct Take<'a>(pub &'a [u8]);

impl Take<'_> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
}

/// What a parser has found in some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Part of a tensor's chunk or a probe, from byte `at` of the chunk on, opened; not yet checked.
    Part {
        /// Header of the frame.
        header: Header,
        /// Where in the chunk.
        at: usize,
        /// What came.
        bytes: &'b [u8],
    },
    /// A whole frame that checks. The payload of one that is no tensor's is in [`Parser::payload`].
    Frame(Header),
    /// A frame whose payload does not check.
    Damaged,
    /// A frame of a session whose keys are not known here.
    Unknown(Header),
}

/// How a payload is checked.
#[allow(clippy::large_enum_variant, reason = "a link has one of it, and nowhere else to put it")]
enum Check {
    /// By a sum over it.
    Sum(Checksum),
    /// By a tag, and it is opened.
    Tag(Stream),
    /// Not at all: the keys are not known.
    Unknown,
}

impl Check {
    /// Bytes of the check behind the payload.
    fn bytes(&self) -> usize {
        if let Check::Sum(_) = self { CHECK_BYTES } else { TAG_BYTES }
    }

    /// The next bytes of the payload, opened in their place.
    fn add(&mut self, bytes: &mut [u8]) {
        match self {
            Check::Sum(sum) => sum.add(bytes),
            Check::Tag(stream) => stream.open(bytes),
            Check::Unknown => {}
        }
    }
}

/// Finds frames in a stream of bytes. Holds at most one small frame; chunks pass through.
pub struct Parser {
    header_bytes: [u8; HEADER_BYTES],
    gathered: usize,
    frame: Option<Header>,
    /// Payload bytes of `frame` that have come.
    got: usize,
    /// None while there is no frame.
    check: Option<Check>,
    check_bytes: [u8; TAG_BYTES],
    checked: usize,
    small: [u8; SMALL_BYTES],
}

impl Default for Parser {
    fn default() -> Self {
        Parser::new()
    }
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub const fn new() -> Parser {
        Parser {
            header_bytes: [0; HEADER_BYTES],
            gathered: 0,
            frame: None,
            got: 0,
            check: None,
            check_bytes: [0; TAG_BYTES],
            checked: 0,
            small: [0; SMALL_BYTES],
        }
    }

    /// What has been gathered is forgotten: another stream, or another datagram.
    pub fn reset(&mut self) {
        (self.gathered, self.frame, self.check) = (0, None, None);
    }

    /// Payload of the frame that was found last, if it is no tensor's.
    pub fn payload(&self, header: &Header) -> &[u8] {
        self.small.get(..usize::from(header.length)).unwrap_or_default()
    }

    /// Takes bytes until there is something to say; none when all are taken. Payloads longer than `chunk_bytes` allows
    /// are no frames. Chunks are opened where they lie, on a link with `keys`.
    pub fn take<'b>(
        &mut self,
        bytes: &mut &'b mut [u8],
        chunk_bytes: u16,
        keys: Option<Keys<'_>>,
    ) -> Option<Piece<'b>> {
        while !bytes.is_empty() {
            let Some((header, check)) = self.frame.zip(self.check.as_mut()) else {
                if let Some(found) = self.take_header(bytes, chunk_bytes, keys) {
                    return Some(found);
                }
                continue;
            };
            let left = usize::from(header.length) - self.got.min(usize::from(header.length));
            if left > 0 {
                let here = split(bytes, left);
                let at = self.got;
                self.got += here.len();
                let known = !matches!(check, Check::Unknown);
                if matches!(header.kind, Kind::Tensor | Kind::Probe) {
                    check.add(here);
                    if known {
                        return Some(Piece::Part { header, at, bytes: here });
                    }
                    continue;
                }
                let place = self.small.get_mut(at..at + here.len()).unwrap_or_default();
                place.iter_mut().zip(here.iter()).for_each(|(slot, byte)| *slot = *byte);
                check.add(place);
                continue;
            }
            let wanted = check.bytes();
            let here = split(bytes, wanted - self.checked.min(wanted));
            self.check_bytes.iter_mut().skip(self.checked).zip(&*here).for_each(|(slot, byte)| *slot = *byte);
            self.checked += here.len();
            if self.checked >= wanted {
                let [a, b, c, d, ..] = self.check_bytes;
                let sound = match self.check.take() {
                    Some(Check::Sum(sum)) => sum.value().to_le_bytes() == [a, b, c, d],
                    Some(Check::Tag(stream)) => stream.checks(&self.check_bytes),
                    Some(Check::Unknown) | None => {
                        (self.frame, self.gathered) = (None, 0);
                        return Some(Piece::Unknown(header));
                    }
                };
                (self.frame, self.gathered) = (None, 0);
                return Some(if sound { Piece::Frame(header) } else { Piece::Damaged });
            }
        }
        None
    }

    /// Gathers a header, or looks for the next place where one may begin.
    fn take_header<'b>(
        &mut self,
        bytes: &mut &'b mut [u8],
        chunk_bytes: u16,
        keys: Option<Keys<'_>>,
    ) -> Option<Piece<'b>> {
        let wanted = HEADER_BYTES - self.gathered.min(HEADER_BYTES);
        let here = split(bytes, wanted);
        self.header_bytes.iter_mut().skip(self.gathered).zip(&*here).for_each(|(slot, byte)| *slot = *byte);
        self.gathered += here.len();
        self.align(0);
        if self.gathered < HEADER_BYTES {
            return None;
        }
        let header = Header::parse(&self.header_bytes);
        let Some(header) = header.filter(|header| usize::from(header.length) <= header.kind.most_bytes(chunk_bytes))
        else {
            self.align(1);
            return None;
        };
        let check = match keys.filter(|_| header.kind != Kind::Hello) {
            None if header.length == 0 => {
                self.gathered = 0;
                return Some(Piece::Frame(header));
            }
            None => Check::Sum(payload_check(&self.header_bytes)),
            Some(keys) => match keys.of(header.session) {
                Some(key) => Check::Tag(Stream::new(key, header.counter.into(), &self.header_bytes)),
                None => Check::Unknown,
            },
        };
        (self.frame, self.got, self.checked, self.check) = (Some(header), 0, 0, Some(check));
        None
    }

    /// Drops gathered bytes before the first place from `from` on where a header may begin.
    fn align(&mut self, from: usize) {
        let gathered = self.header_bytes.get(..self.gathered).unwrap_or_default();
        let begins = |at: &usize| gathered.get(*at..).is_some_and(|rest| rest.starts_with(&MAGIC) || rest == b"P");
        let at = (from..gathered.len()).find(begins).unwrap_or(gathered.len());
        let moved = self.header_bytes;
        self.header_bytes.iter_mut().zip(moved.iter().skip(at)).for_each(|(slot, byte)| *slot = *byte);
        self.gathered -= at;
    }
}

/// Takes up to so many bytes from the beginning.
fn split<'b>(bytes: &mut &'b mut [u8], most: usize) -> &'b mut [u8] {
    let whole = core::mem::take(bytes);
    let (here, rest) = whole.split_at_mut(most.min(whole.len()));
    *bytes = rest;
    here
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn frame(kind: Kind, chunk: u16, payload: &[u8]) -> Vec<u8> {
        let header = Header { chunk, length: payload.len() as u16, counter: 9, ..Header::new(kind, 3) };
        let bytes = header.emit();
        let mut sum = payload_check(&bytes);
        sum.add(payload);
        let check = if payload.is_empty() { Vec::new() } else { sum.value().to_le_bytes().to_vec() };
        [&bytes[..], payload, &check].concat()
    }

    /// Chunks of whole tensor frames, and how many were damaged.
    fn tensors(stream: &[u8], step: usize) -> (Vec<(u16, Vec<u8>)>, usize) {
        let (mut parser, mut found, mut damaged) = (Parser::new(), Vec::new(), 0);
        let mut gathered: Vec<u8> = Vec::new();
        for mut bytes in stream.to_vec().chunks_mut(step) {
            while let Some(piece) = parser.take(&mut bytes, 512, None) {
                match piece {
                    Piece::Part { at, bytes, .. } => {
                        gathered.truncate(at);
                        gathered.extend(bytes);
                    }
                    Piece::Frame(header) if header.kind == Kind::Tensor => {
                        found.push((header.chunk, core::mem::take(&mut gathered)));
                    }
                    Piece::Frame(_) | Piece::Unknown(_) => {}
                    Piece::Damaged => damaged += 1,
                }
            }
        }
        (found, damaged)
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let header = Header { session: 1, term: 2, inference: 3, heard: 4, ..Header::new(Kind::Want, 5) };
        assert_eq!(Header::parse(&header.emit()), Some(header));
        for bit in (0..HEADER_BYTES * 8).step_by(if cfg!(miri) { 13 } else { 1 }) {
            let mut damaged = header.emit();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let payload: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        let stream = [frame(Kind::Tensor, 1, &payload), frame(Kind::Beat, 0, &[7; 12]), frame(Kind::Tensor, 2, b"x")];
        for step in [1, 2, 3, 39, 40, 41, 100, 1000].into_iter().step_by(if cfg!(miri) { 3 } else { 1 }) {
            let (found, damaged) = tensors(&stream.concat(), step);
            assert_eq!(found, [(1, payload.clone()), (2, b"x".to_vec())], "in pieces of {step}");
            assert_eq!(damaged, 0);
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_frame_and_a_lost_byte_at_most_two() {
        let frames: Vec<Vec<u8>> = (0..6).map(|at| frame(Kind::Tensor, at, &[at as u8; 100])).collect();
        let stream = frames.concat();
        for at in (0..2 * frames[0].len()).step_by(if cfg!(miri) { 151 } else { 1 }) {
            let mut flipped = stream.clone();
            flipped[at] ^= 0x10;
            assert!(tensors(&flipped, 64).0.len() >= 5, "byte {at}");
            let mut lost = stream.clone();
            lost.remove(at);
            let found = tensors(&lost, 64).0;
            assert!(found.len() >= 4, "byte {at}");
            assert!(found.iter().all(|(chunk, bytes)| bytes == &[*chunk as u8; 100]), "byte {at}");
        }
    }

    #[test]
    fn a_frame_longer_than_its_kind_allows_is_none() {
        for (kind, length) in [(Kind::Beat, 13), (Kind::Have, 1), (Kind::Tensor, 513), (Kind::Hello, 81)] {
            let header = Header { length, ..Header::new(kind, 0) };
            let mut parser = Parser::new();
            assert_eq!(parser.take(&mut &mut header.emit()[..], 512, None), None, "{kind:?}");
            assert_eq!(tensors(&[&header.emit()[..], &frame(Kind::Tensor, 4, b"next")].concat(), 7).0.len(), 1);
        }
    }

    /// Random bytes, and frames that were cut, joined and damaged: nothing is found that was not sent, and memory stays
    /// inside the parser. `PARTITA_FUZZ` says how many inputs.
    #[test]
    fn no_bytes_confuse_the_parser() {
        let inputs = std::env::var("PARTITA_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(if cfg!(miri) {
            10u64
        } else {
            20_000
        });
        let mut random = crate::node::random::Random::new(1);
        let payloads: Vec<Vec<u8>> = (0..4u8).map(|at| std::vec![at ^ 0x5a; usize::from(at) * 60 + 1]).collect();
        let mut parser = Parser::new();
        let mut stream: Vec<u8> = Vec::new();
        for input in 0..inputs {
            stream.clear();
            for _ in 0..1 + random.below(3) {
                match random.below(4) {
                    0 => stream.extend((0..random.below(64)).map(|_| random.next() as u8)),
                    1 => stream.extend(b"PtPPt\x02\x07PtPt"),
                    _ => {
                        let at = random.below(4) as usize;
                        stream.extend(frame(Kind::Tensor, at as u16, &payloads[at]));
                    }
                }
            }
            for _ in 0..random.below(3) {
                let at = random.below(stream.len().max(1) as u64) as usize;
                match (stream.get_mut(at), random.below(3)) {
                    (None, _) => {}
                    (Some(byte), 0) => *byte ^= 1 << random.below(8),
                    (Some(_), 1) => drop(stream.remove(at)),
                    (Some(_), _) => stream.insert(at, random.next() as u8),
                }
            }
            let mut rest = &mut stream[..];
            let mut gathered = [0u8; 512];
            while let Some(piece) = parser.take(&mut rest, 512, None) {
                match piece {
                    Piece::Part { at, bytes, .. } => gathered[at..at + bytes.len()].copy_from_slice(bytes),
                    Piece::Frame(header) if header.kind == Kind::Tensor => {
                        let sent = &payloads[usize::from(header.chunk)];
                        // Of a frame that began in the last input only the end is here.
                        assert_eq!(usize::from(header.length), sent.len(), "input {input}");
                    }
                    Piece::Frame(header) | Piece::Unknown(header) => panic!("input {input}: {header:?} was never sent"),
                    Piece::Damaged => {}
                }
            }
            assert!(rest.is_empty());
        }
    }
}
