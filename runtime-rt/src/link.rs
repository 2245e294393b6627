//! Links: frames over byte streams, and what the emitted programs ask of them.

use embedded_io::{ErrorType, Read, Write};

use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::{Error, LinkEvent};

/// What an emitted program sends and receives through.
pub trait Links {
    /// Sends a tensor to a device.
    fn send(&mut self, peer: usize, message: u16, payload: &[u8]) -> Result<(), Error>;

    /// Waits for a tensor from a device.
    fn receive(&mut self, peer: usize, message: u16, payload: &mut [u8]) -> Result<(), Error>;

    /// Sends and receives several tensors; both lists are in the order of message numbers. Links that cannot do it all
    /// at the same time go through both in that order, which the compiler has proven not to deadlock.
    fn exchange(&mut self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) -> Result<(), Error> {
        let mut sends = sends.iter().peekable();
        for receive in receives {
            while let Some(send) = sends.next_if(|send| send.message < receive.message) {
                self.send(send.peer, send.message, send.payload)?;
            }
            self.receive(receive.peer, receive.message, receive.payload)?;
        }
        for send in sends {
            self.send(send.peer, send.message, send.payload)?;
        }
        Ok(())
    }
}

/// A tensor that leaves.
pub struct Outgoing<'a> {
    /// Number of the receiving device.
    pub peer: usize,
    /// Number of the message within an inference.
    pub message: u16,
    /// The tensor's bytes.
    pub payload: &'a [u8],
}

/// A tensor that comes.
pub struct Incoming<'a> {
    /// Number of the sending device.
    pub peer: usize,
    /// Number of the message within an inference.
    pub message: u16,
    /// Where its bytes go.
    pub payload: &'a mut [u8],
}

/// The links of a device that serves one inference after the other.
pub trait InferenceLinks: Links {
    /// Says which inference the next tensors belong to.
    fn begin(&mut self, turn: Turn);

    /// Payload bytes sent since the inference began.
    fn sent_bytes(&self) -> u64;

    /// Payload bytes received since the inference began.
    fn received_bytes(&self) -> u64;
}

/// Which inference tensors belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Number of the inference.
    pub inference: u32,
    /// Variant of the network that it takes; 0 is the whole one.
    pub route: u8,
}

impl Turn {
    /// Whether something of `inference` is of the past. Numbers wrap around.
    pub(crate) fn is_past(self, inference: u32) -> bool {
        (inference.wrapping_sub(self.inference) as i32) < 0
    }
}

/// Refuses a frame that is not the tensor that should come now.
pub(crate) fn check_tensor(header: &Header, turn: Turn, message: u16, peer: usize) -> Result<(), Error> {
    let now = header.inference == turn.inference && header.route == turn.route;
    if header.kind != Kind::Tensor || header.message != message || !now {
        return Err(Error::WrongMessage);
    }
    if usize::from(header.sender) == peer { Ok(()) } else { Err(Error::WrongPeer) }
}

/// What devices that share several routes say to each other beside tensors.
pub trait FamilyLinks: InferenceLinks {
    /// Tells a device which inference begins.
    fn announce(&mut self, peer: usize, turn: Turn) -> Result<(), Error>;

    /// Waits until a device tells which inference begins; what is left of earlier ones is skipped.
    fn announced(&mut self, peer: usize) -> Result<Turn, Error>;

    /// Tells every device that can be reached that the inference which has begun is given up.
    fn abandon(&mut self);

    /// What has been learned of links, here or by others, oldest first; each is told once.
    fn link_event(&mut self) -> Option<LinkEvent>;

    /// Passes a link event on.
    fn tell(&mut self, peer: usize, event: &LinkEvent) -> Result<(), Error>;

    /// Sends bytes from whose arrival the other side learns how fast the link is.
    fn probe(&mut self, peer: usize) -> Result<(), Error>;
}

/// For programs without peers.
pub struct NoLinks;

impl Links for NoLinks {
    fn send(&mut self, _peer: usize, _message: u16, _payload: &[u8]) -> Result<(), Error> {
        Err(Error::NoLink)
    }

    fn receive(&mut self, _peer: usize, _message: u16, _payload: &mut [u8]) -> Result<(), Error> {
        Err(Error::NoLink)
    }
}

/// Is told after each step of a program; for profiles.
pub trait Observer {
    /// Step `index` is done.
    fn step(&mut self, index: usize);
}

impl Observer for () {
    fn step(&mut self, _index: usize) {}
}

/// Who is at this end of a link.
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

    /// Who is at this end.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
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
    use crate::PeerLinks;
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

    #[test]
    fn tensors_cross_a_link() {
        let (a, b) = pair();
        let mut sender = PeerLinks::new([(1, framed(a, OURS))]);
        let mut receiver = PeerLinks::new([(0, framed(b, THEIRS))]);
        sender.send(1, 9, b"hello").expect("the link works");
        let mut payload = [0u8; 5];
        receiver.receive(0, 9, &mut payload).expect("the link works");
        assert_eq!(&payload, b"hello");
        assert_eq!((sender.sent_bytes, receiver.received_bytes), (5, 5));
        assert_eq!(sender.send(3, 0, b"x"), Err(Error::NoLink));
    }

    #[test]
    fn what_the_plan_does_not_say_is_refused() {
        for (identity, message, length, expected) in [
            (Identity { plan_hash: 2, device: 1 }, 9, 5, Error::WrongPlan),
            (Identity { plan_hash: 1, device: 2 }, 9, 5, Error::WrongPeer),
            (THEIRS, 8, 5, Error::WrongMessage),
            (THEIRS, 9, 4, Error::WrongLength),
        ] {
            let (a, b) = pair();
            framed(a, identity).send(Kind::Tensor, 0, message, &b"hello"[..length]).expect("the link works");
            let mut receiver = PeerLinks::new([(1, framed(b, OURS))]);
            assert_eq!(receiver.receive(1, 9, &mut [0; 5]), Err(expected));
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_and_never_an_answer() {
        let (mut a, b) = pair();
        framed(a.try_clone().expect("a socket can be cloned"), THEIRS)
            .send(Kind::Tensor, 0, 9, b"hello")
            .expect("works");
        drop(b.try_clone());
        let mut whole = vec![0u8; HEADER_BYTES + 5];
        let mut b = b;
        b.read_exact(&mut whole).expect("it was sent");
        for length in 0..whole.len() {
            let (mut cut, rest) = pair();
            cut.write_all(&whole[..length]).expect("the link works");
            drop(cut);
            let error = PeerLinks::new([(1, framed(rest, OURS))]).receive(1, 9, &mut [0; 5]);
            assert_eq!(error, Err(if length == 0 { Error::Closed } else { Error::Stream }), "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged: Vec<u8> = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (mut line, rest) = pair();
            line.write_all(&damaged).expect("the link works");
            drop(line);
            assert_eq!(
                PeerLinks::new([(1, framed(rest, OURS))]).receive(1, 9, &mut [0; 5]),
                Err(Error::Checksum),
                "bit {bit}"
            );
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
