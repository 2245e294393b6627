//! Frames over byte streams that wait: how clients and devices talk to each other.

use embedded_io::{ErrorType, Read, Write};

use crate::Error;
use crate::frame::{HEADER_BYTES, Header, Kind};

/// Which inference a frame belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Number of the inference.
    pub inference: u32,
    /// Variant of the network that it takes; 0 is the whole one.
    pub route: u8,
}

/// Who is at this end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Plan this program was compiled from.
    pub plan_hash: u64,
    /// Number of this device in the cluster.
    pub device: u8,
}

/// Frames over a byte stream. The stream's reads return with an error or with 0 bytes when the peer is gone, and with
/// an error when its deadline has passed.
pub struct FramedStream<S> {
    stream: S,
    identity: Identity,
    /// Whether bytes that are no frame are skipped; on serial lines noise precedes the first frame.
    skips_noise: bool,
}

impl<S: Read + Write> FramedStream<S> {
    /// A stream whose bytes are all frames, such as TCP.
    pub fn new(stream: S, identity: Identity) -> FramedStream<S> {
        FramedStream { stream, identity, skips_noise: false }
    }

    /// A stream that may begin or continue with noise, such as a serial line.
    pub fn over_serial(stream: S, identity: Identity) -> FramedStream<S> {
        FramedStream { stream, identity, skips_noise: true }
    }

    /// Sends one frame.
    pub fn send(&mut self, kind: Kind, inference: u32, message: u16, payload: &[u8]) -> Result<(), Error> {
        self.send_on(kind, Turn { inference, route: 0 }, message, payload)
    }

    /// The same with a route.
    pub(crate) fn send_on(&mut self, kind: Kind, turn: Turn, message: u16, payload: &[u8]) -> Result<(), Error> {
        let Identity { plan_hash, device } = self.identity;
        let header = Header::new(kind, plan_hash, turn.inference, message, device, payload).on_route(turn.route);
        self.stream.write_all(&header.emit()).map_err(|_| Error::Stream)?;
        self.stream.write_all(payload).map_err(|_| Error::Stream)?;
        self.stream.flush().map_err(|_| Error::Stream)
    }

    /// Waits for the header of the next frame; refuses frames of another plan.
    pub fn receive_header(&mut self) -> Result<Header, Error> {
        let mut bytes = [0u8; HEADER_BYTES];
        self.fill(&mut bytes, true)?;
        loop {
            match Header::parse(&bytes) {
                Some(header) if header.plan_hash != self.identity.plan_hash => return Err(Error::WrongPlan),
                Some(header) => return Ok(header),
                None if !self.skips_noise => return Err(Error::Checksum),
                None => {
                    // One byte further.
                    bytes.rotate_left(1);
                    let mut next = [0u8];
                    self.fill(&mut next, false)?;
                    if let (Some(last), [byte]) = (bytes.last_mut(), next) {
                        *last = byte;
                    }
                }
            }
        }
    }

    /// Reads the payload that follows a header, and checks it.
    pub fn receive_payload(&mut self, header: &Header, payload: &mut [u8]) -> Result<(), Error> {
        if payload.len() != header.length as usize {
            return Err(Error::WrongLength);
        }
        self.fill(payload, false)?;
        header.check(payload)
    }

    /// Reads the payload that follows a header, and forgets it.
    #[cfg(feature = "std")]
    pub(crate) fn skip_payload(&mut self, header: &Header) -> Result<(), Error> {
        let mut rest = header.length as usize;
        let mut bytes = [0; 256];
        while rest > 0 {
            let count = rest.min(bytes.len());
            self.fill(bytes.split_at_mut_checked(count).map_or(&mut [], |(part, _)| part), false)?;
            rest -= count;
        }
        Ok(())
    }

    /// What frames travel over.
    #[cfg(feature = "std")]
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Exchanges hellos with the peer; refuses a device that is not `peer` or comes from another plan.
    pub fn shake_hands(&mut self, peer: u8) -> Result<(), Error> {
        if self.shake_hands_with_any()? == peer { Ok(()) } else { Err(Error::WrongPeer) }
    }

    /// Exchanges hellos with whoever is there; gives its number. Refuses a device of another plan.
    pub fn shake_hands_with_any(&mut self) -> Result<u8, Error> {
        self.send(Kind::Hello, 0, 0, &[])?;
        let hello = self.receive_header()?;
        if hello.kind == Kind::Hello && hello.length == 0 { Ok(hello.sender) } else { Err(Error::WrongMessage) }
    }

    /// Fills a buffer. A stream that ends before the first byte of a frame is closed, not broken.
    fn fill(&mut self, mut buffer: &mut [u8], at_boundary: bool) -> Result<(), Error> {
        let mut started = !at_boundary;
        while !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(if started { Error::Stream } else { Error::Closed }),
                Ok(count) => {
                    started = true;
                    buffer = buffer.split_at_mut_checked(count).map_or(&mut [], |(_, rest)| rest);
                }
                Err(error) => return Err(error_of::<S>(&error)),
            }
        }
        Ok(())
    }
}

fn error_of<S: ErrorType>(error: &S::Error) -> Error {
    use embedded_io::{Error as _, ErrorKind};
    match error.kind() {
        ErrorKind::TimedOut => Error::Deadline,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Stream,
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::vec::Vec;

    const OURS: Identity = Identity { plan_hash: 1, device: 0 };
    const THEIRS: Identity = Identity { plan_hash: 1, device: 1 };

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("the system makes a pair of sockets")
    }

    fn framed(stream: UnixStream, identity: Identity) -> FramedStream<crate::StdStream<UnixStream>> {
        FramedStream::new(crate::StdStream(stream), identity)
    }

    /// The payload of the next frame.
    fn receive(stream: &mut FramedStream<crate::StdStream<UnixStream>>) -> Result<Vec<u8>, Error> {
        let header = stream.receive_header()?;
        let mut payload = std::vec![0; 5];
        stream.receive_payload(&header, &mut payload).map(|()| payload)
    }

    #[test]
    fn frames_of_another_plan_or_length_are_refused() {
        for (identity, length, expected) in [
            (Identity { plan_hash: 2, device: 1 }, 5, Err(Error::WrongPlan)),
            (THEIRS, 4, Err(Error::WrongLength)),
            (THEIRS, 5, Ok(b"hello".to_vec())),
        ] {
            let (a, b) = pair();
            framed(a, identity).send(Kind::Output, 0, 9, &b"hello"[..length]).expect("the link works");
            assert_eq!(receive(&mut framed(b, OURS)), expected);
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_and_never_an_answer() {
        let (mut a, mut b) = pair();
        framed(a.try_clone().expect("a socket can be cloned"), THEIRS)
            .send(Kind::Output, 0, 9, b"hello")
            .expect("works");
        let mut whole = std::vec![0u8; HEADER_BYTES + 5];
        b.read_exact(&mut whole).expect("it was sent");
        for length in 0..whole.len() {
            let (mut cut, rest) = pair();
            cut.write_all(&whole[..length]).expect("the link works");
            drop(cut);
            let error = receive(&mut framed(rest, OURS));
            assert_eq!(error, Err(if length == 0 { Error::Closed } else { Error::Stream }), "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged: Vec<u8> = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (mut line, rest) = pair();
            line.write_all(&damaged).expect("the link works");
            drop(line);
            assert_eq!(receive(&mut framed(rest, OURS)), Err(Error::Checksum), "bit {bit}");
        }
        a.flush().expect("the socket still exists");
    }

    #[test]
    fn a_serial_line_finds_the_frame_behind_noise() {
        let (mut a, b) = pair();
        a.write_all(b"PtPPt\0\xff boot messages Pt\x01").expect("the link works");
        framed(a, THEIRS).send(Kind::Hello, 0, 0, &[]).expect("the link works");
        let mut line = FramedStream::over_serial(crate::StdStream(b), OURS);
        assert_eq!(line.receive_header().map(|header| header.sender), Ok(1));
    }

    #[test]
    fn hands_are_shaken_with_the_right_peer_only() {
        let (a, b) = pair();
        let other = std::thread::spawn(move || framed(b, THEIRS).shake_hands(0));
        assert_eq!(framed(a, OURS).shake_hands(1), Ok(()));
        assert_eq!(other.join().expect("no panic"), Ok(()));
        let (a, b) = pair();
        let other = std::thread::spawn(move || framed(b, Identity { plan_hash: 7, device: 1 }).shake_hands(0));
        assert_eq!(framed(a, OURS).shake_hands(1), Err(Error::WrongPlan));
        assert_eq!(other.join().expect("no panic"), Err(Error::WrongPlan));
    }
}
