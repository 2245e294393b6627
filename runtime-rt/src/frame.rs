//! The frame by which programs talk to a device ([`crate::node`] has that of devices among each other).
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | magic `P`, `t` |
//! | 2 | version of the format |
//! | 3 | kind |
//! | 4..12 | plan hash |
//! | 12..16 | inference number |
//! | 16..18 | message number |
//! | 18 | sending device |
//! | 19 | route: which variant of the network this inference takes, 0 for the whole one |
//! | 20..24 | payload length |
//! | 24..28 | CRC-32 of the payload |
//! | 28..32 | CRC-32 of bytes 0..28 |
//!
//! Numbers are little-endian; CRC-32 is that of IEEE 802.3. A receiver that loses its place looks for the next magic
//! whose header checks.

use crate::Error;

/// CRC-32 by the processor's own instructions.
#[cfg(feature = "std")]
use crc32fast::hash as checksum;

/// CRC-32 byte by byte, from a table of 1 KiB.
#[cfg(any(test, not(feature = "std")))]
mod by_table {
    use crc::{CRC_32_ISO_HDLC, Crc, Table};

    static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

    pub(super) fn checksum(bytes: &[u8]) -> u32 {
        CRC.checksum(bytes)
    }

    /// A sum over bytes that come in pieces.
    #[cfg(not(feature = "std"))]
    pub(super) struct Sum(crc::Digest<'static, u32, Table<1>>);

    #[cfg(not(feature = "std"))]
    impl Sum {
        pub(super) fn new() -> Sum {
            Sum(CRC.digest())
        }

        pub(super) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(super) fn value(&self) -> u32 {
            self.0.clone().finalize()
        }
    }
}
#[cfg(not(feature = "std"))]
use by_table::checksum;

/// CRC-32 of bytes that come in pieces.
pub(crate) struct Checksum {
    #[cfg(feature = "std")]
    sum: crc32fast::Hasher,
    #[cfg(not(feature = "std"))]
    sum: by_table::Sum,
}

impl Checksum {
    /// Of no bytes yet.
    pub(crate) fn new() -> Checksum {
        #[cfg(feature = "std")]
        return Checksum { sum: crc32fast::Hasher::new() };
        #[cfg(not(feature = "std"))]
        return Checksum { sum: by_table::Sum::new() };
    }

    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> u32 {
        checksum(bytes)
    }

    /// More bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
    }

    /// The sum so far.
    pub(crate) fn value(&self) -> u32 {
        #[cfg(feature = "std")]
        return self.sum.clone().finalize();
        #[cfg(not(feature = "std"))]
        return self.sum.value();
    }
}

/// Bytes of a header.
pub const HEADER_BYTES: usize = 32;

const MAGIC: [u8; 2] = *b"Pt";
const VERSION: u8 = 1;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first frame: who is there, from which plan.
    Hello,
    /// The runner feeds an input.
    Input,
    /// A device returns an output.
    Output,
    /// What an inference cost a device.
    Report,
    /// The runner ends the work.
    Stop,
    /// How long each step took.
    Profile,
    /// What has happened on a device so far.
    Status,
    /// What a client wants to hear of: the message number has [`WANTS_ANSWERS`] and [`WANTS_COSTS`].
    Subscribe,
    /// Microseconds, as eight bytes, that a client's next inputs may take.
    Budget,
    /// What became of a client's input, see [`crate::node::Record`].
    Record,
    /// The next input finds states of zero.
    Reset,
    /// Microseconds, as eight bytes, after which a peer that says nothing is lost: to firmware, which has no command line.
    Silence,
}

/// A client wants every answer of the device.
pub const WANTS_ANSWERS: u16 = 1;
/// A client wants to know what inferences cost the device.
pub const WANTS_COSTS: u16 = 2;

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            3 => Kind::Input,
            4 => Kind::Output,
            5 => Kind::Report,
            6 => Kind::Stop,
            7 => Kind::Profile,
            10 => Kind::Status,
            12 => Kind::Subscribe,
            13 => Kind::Budget,
            14 => Kind::Record,
            15 => Kind::Reset,
            16 => Kind::Silence,
            _ => return None,
        })
    }

    fn to_byte(self) -> u8 {
        match self {
            Kind::Hello => 1,
            Kind::Input => 3,
            Kind::Output => 4,
            Kind::Report => 5,
            Kind::Stop => 6,
            Kind::Profile => 7,
            Kind::Status => 10,
            Kind::Subscribe => 12,
            Kind::Budget => 13,
            Kind::Record => 14,
            Kind::Reset => 15,
            Kind::Silence => 16,
        }
    }
}

/// A header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame carries.
    pub kind: Kind,
    /// Plan of the sender.
    pub plan_hash: u64,
    /// Counts inferences from 0.
    pub inference: u32,
    /// Number of the message within an inference.
    pub message: u16,
    /// Number of the sending device in the cluster.
    pub sender: u8,
    /// Which variant of the network the inference takes; 0 is the whole one.
    pub route: u8,
    /// Bytes of payload.
    pub length: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl Header {
    /// A header for a payload.
    pub fn new(kind: Kind, plan_hash: u64, inference: u32, message: u16, sender: u8, payload: &[u8]) -> Header {
        let length = payload.len() as u32;
        Header { kind, plan_hash, inference, message, sender, route: 0, length, payload_crc: checksum(payload) }
    }

    /// The same on another route.
    pub fn on_route(self, route: u8) -> Header {
        Header { route, ..self }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| {
            for (slot, byte) in bytes.iter_mut().skip(at).zip(field) {
                *slot = *byte;
            }
        };
        put(0, &MAGIC);
        put(2, &[VERSION, self.kind.to_byte()]);
        put(4, &self.plan_hash.to_le_bytes());
        put(12, &self.inference.to_le_bytes());
        put(16, &self.message.to_le_bytes());
        put(18, &[self.sender, self.route]);
        put(20, &self.length.to_le_bytes());
        put(24, &self.payload_crc.to_le_bytes());
        let (checked, _) = bytes.split_at(28);
        let crc = checksum(checked).to_le_bytes();
        for (slot, byte) in bytes.iter_mut().skip(28).zip(crc) {
            *slot = byte;
        }
        bytes
    }

    /// Reads a header; `None` if these bytes are none.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
            bytes.get(at..at + N)?.try_into().ok()
        }
        let crc = u32::from_le_bytes(take(bytes, 28)?);
        let (checked, _) = bytes.split_at(28);
        if take::<2>(bytes, 0)? != MAGIC || take::<1>(bytes, 2)? != [VERSION] || checksum(checked) != crc {
            return None;
        }
        let [kind] = take::<1>(bytes, 3)?;
        let [sender, route] = take::<2>(bytes, 18)?;
        Some(Header {
            kind: Kind::from_byte(kind)?,
            plan_hash: u64::from_le_bytes(take(bytes, 4)?),
            inference: u32::from_le_bytes(take(bytes, 12)?),
            message: u16::from_le_bytes(take(bytes, 16)?),
            sender,
            route,
            length: u32::from_le_bytes(take(bytes, 20)?),
            payload_crc: u32::from_le_bytes(take(bytes, 24)?),
        })
    }

    /// Checks a payload that has arrived.
    pub fn check(&self, payload: &[u8]) -> Result<(), Error> {
        if payload.len() != self.length as usize {
            return Err(Error::WrongLength);
        }
        if checksum(payload) == self.payload_crc { Ok(()) } else { Err(Error::Checksum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let header = Header::new(Kind::Output, 0x0123_4567_89ab_cdef, 7, 300, 5, b"payload").on_route(3);
        assert_eq!(Header::parse(&header.emit()), Some(header));
        assert_eq!(header.check(b"payload"), Ok(()));
        assert_eq!(header.check(b"Payload"), Err(Error::Checksum));
        assert_eq!(header.check(b"pay"), Err(Error::WrongLength));
    }

    #[test]
    fn all_devices_compute_the_same_sum() {
        let bytes: std::vec::Vec<u8> = (0..1000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for length in [0, 1, 15, 16, 17, 64, 333, 1000] {
            assert_eq!(checksum(&bytes[..length]), by_table::checksum(&bytes[..length]), "{length} bytes");
        }
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = Header::new(Kind::Input, 42, 1, 2, 3, b"x").emit();
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&damaged), None, "bit {bit}");
        }
    }
}
