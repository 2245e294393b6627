//! Links of a hosted device: several messages at the same time over sockets, by polling.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Duplex;
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::link::check_tensor;
use crate::{Error, Identity, Incoming, InferenceLinks, Links, Outgoing, PeerLinks, StdStream};

/// Streams to all peers. Exchanges among sockets use them all at once; anything else goes one by one.
pub struct HostedLinks<const N: usize> {
    streams: PeerLinks<StdStream<std::boxed::Box<dyn Duplex>>, N>,
    /// The sockets among the streams.
    sockets: Vec<(usize, TcpStream)>,
    deadline: Duration,
}

impl<const N: usize> HostedLinks<N> {
    /// Links that have shaken hands.
    pub fn new(
        streams: PeerLinks<StdStream<std::boxed::Box<dyn Duplex>>, N>,
        sockets: Vec<(usize, TcpStream)>,
        deadline: Duration,
    ) -> HostedLinks<N> {
        HostedLinks { streams, sockets, deadline }
    }

    fn socket(&self, peer: usize) -> Option<&TcpStream> {
        self.sockets.iter().find(|(index, _)| *index == peer).map(|(_, socket)| socket)
    }
}

impl<const N: usize> InferenceLinks for HostedLinks<N> {
    fn begin(&mut self, inference: u32) {
        self.streams.begin(inference);
    }

    fn sent_bytes(&self) -> u64 {
        self.streams.sent_bytes()
    }

    fn received_bytes(&self) -> u64 {
        self.streams.received_bytes()
    }
}

impl<const N: usize> Links for HostedLinks<N> {
    fn send(&mut self, peer: usize, message: u16, payload: &[u8]) -> Result<(), Error> {
        self.streams.send(peer, message, payload)
    }

    fn receive(&mut self, peer: usize, message: u16, payload: &mut [u8]) -> Result<(), Error> {
        self.streams.receive(peer, message, payload)
    }

    fn exchange(&mut self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) -> Result<(), Error> {
        let peers = sends.iter().map(|send| send.peer).chain(receives.iter().map(|receive| receive.peer));
        let (Some(identity), true) =
            (self.streams.identity(), peers.into_iter().all(|peer| self.socket(peer).is_some()))
        else {
            return self.streams.exchange(sends, receives);
        };
        let inference = self.streams.inference();
        let mut lanes: Vec<Lane<'_, '_>> = self.sockets.iter().map(|(peer, socket)| Lane::new(*peer, socket)).collect();
        for send in sends {
            let header =
                Header::new(Kind::Tensor, identity.plan_hash, inference, send.message, identity.device, send.payload);
            let lane = lanes.iter_mut().find(|lane| lane.peer == send.peer).ok_or(Error::NoLink)?;
            lane.sends.push((header.emit(), send.payload));
        }
        let (mut sent_bytes, mut received_bytes) = (0, 0);
        sent_bytes += sends.iter().map(|send| send.payload.len() as u64).sum::<u64>();
        for receive in receives {
            received_bytes += receive.payload.len() as u64;
            let lane = lanes.iter_mut().find(|lane| lane.peer == receive.peer).ok_or(Error::NoLink)?;
            lane.receives.push((receive.message, receive.payload));
        }
        run(&mut lanes, identity, inference, self.deadline)?;
        self.streams.sent_bytes += sent_bytes;
        self.streams.received_bytes += received_bytes;
        Ok(())
    }
}

/// What goes over one socket during an exchange.
struct Lane<'s, 'p> {
    peer: usize,
    socket: &'s TcpStream,
    /// Headers and payloads, in order; the first `sends_done` have left, and `sent` bytes of the next.
    sends: Vec<([u8; HEADER_BYTES], &'p [u8])>,
    sends_done: usize,
    sent: usize,
    /// Message numbers and where the payloads go, in order; likewise.
    receives: Vec<(u16, &'p mut [u8])>,
    receives_done: usize,
    received: usize,
    header_bytes: [u8; HEADER_BYTES],
    header: Option<Header>,
}

/// Moves all lanes until everything has left and come; gives up when nothing moves for the deadline.
fn run(lanes: &mut [Lane<'_, '_>], identity: Identity, inference: u32, deadline: Duration) -> Result<(), Error> {
    let mut last_move = Instant::now();
    loop {
        let mut moved = false;
        for lane in lanes.iter_mut() {
            moved |= lane.write()?;
            moved |= lane.read(identity, inference)?;
        }
        if lanes.iter().all(|lane| lane.wants().is_empty()) {
            return Ok(());
        }
        if moved {
            last_move = Instant::now();
            continue;
        }
        let left = deadline.checked_sub(last_move.elapsed()).ok_or(Error::Deadline)?;
        let mut waiting: Vec<PollFd<'_>> = lanes
            .iter()
            .filter(|lane| !lane.wants().is_empty())
            .map(|lane| PollFd::from_borrowed_fd(lane.socket.as_fd(), lane.wants()))
            .collect();
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ };
        match poll(&mut waiting, Some(&timeout)) {
            Ok(0) => return Err(Error::Deadline),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Error::Stream),
        }
    }
}

impl<'s> Lane<'s, '_> {
    fn new(peer: usize, socket: &'s TcpStream) -> Lane<'s, 'static> {
        Lane {
            peer,
            socket,
            sends: Vec::new(),
            sends_done: 0,
            sent: 0,
            receives: Vec::new(),
            receives_done: 0,
            received: 0,
            header_bytes: [0; HEADER_BYTES],
            header: None,
        }
    }

    /// What to wait for.
    fn wants(&self) -> PollFlags {
        let mut wants = PollFlags::empty();
        if self.sends_done < self.sends.len() {
            wants |= PollFlags::OUT;
        }
        if self.receives_done < self.receives.len() {
            wants |= PollFlags::IN;
        }
        wants
    }

    /// Writes what the socket takes; says whether it took anything.
    fn write(&mut self) -> Result<bool, Error> {
        let mut moved = false;
        while let Some((header, payload)) = self.sends.get(self.sends_done) {
            let (bytes, flags) = match self.sent.checked_sub(HEADER_BYTES) {
                None => (header.get(self.sent..).unwrap_or(&[]), SendFlags::MORE),
                Some(at) => (payload.get(at..).unwrap_or(&[]), SendFlags::empty()),
            };
            if bytes.is_empty() {
                (self.sends_done, self.sent) = (self.sends_done + 1, 0);
                continue;
            }
            match send(self.socket, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => (self.sent, moved) = (self.sent + count, true),
                Err(Errno::AGAIN) => return Ok(moved),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(moved)
    }

    /// Reads what the socket has; says whether it had anything.
    fn read(&mut self, identity: Identity, inference: u32) -> Result<bool, Error> {
        let mut moved = false;
        while let Some((message, payload)) = self.receives.get_mut(self.receives_done) {
            let room = match self.header {
                None => self.header_bytes.get_mut(self.received..).unwrap_or_default(),
                Some(_) => payload.get_mut(self.received..).unwrap_or_default(),
            };
            if room.is_empty() {
                match self.header.take() {
                    None => {
                        let header = Header::parse(&self.header_bytes).ok_or(Error::Checksum)?;
                        if header.plan_hash != identity.plan_hash {
                            return Err(Error::WrongPlan);
                        }
                        check_tensor(&header, inference, *message, self.peer)?;
                        if header.length as usize != payload.len() {
                            return Err(Error::WrongLength);
                        }
                        self.header = Some(header);
                    }
                    Some(header) => {
                        header.check(payload)?;
                        self.receives_done += 1;
                    }
                }
                self.received = 0;
                continue;
            }
            match recv(self.socket, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) if self.received == 0 && self.header.is_none() => return Err(Error::Closed),
                Ok((0, _)) => return Err(Error::Stream),
                Ok((count, _)) => (self.received, moved) = (self.received + count, true),
                Err(Errno::AGAIN) => return Ok(moved),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(moved)
    }
}

fn error_of(error: Errno) -> Error {
    match error {
        Errno::PIPE | Errno::CONNRESET | Errno::CONNABORTED => Error::Closed,
        Errno::TIMEDOUT => Error::Deadline,
        _ => Error::Stream,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FramedStream;
    use std::net::TcpListener;
    use std::{boxed::Box, vec};

    /// Devices 0 and 1, joined by a socket.
    fn pair() -> (HostedLinks<1>, HostedLinks<1>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let one = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (other, _) = listener.accept().expect("it connects");
        let links = |device: u8, peer: usize, socket: TcpStream| {
            let stream: Box<dyn Duplex> = Box::new(socket.try_clone().expect("a socket can be cloned"));
            let line = FramedStream::new(StdStream(stream), Identity { plan_hash: 1, device });
            HostedLinks::new(PeerLinks::new([(peer, line)]), vec![(peer, socket)], Duration::from_millis(300))
        };
        (links(0, 1, one), links(1, 0, other))
    }

    #[test]
    fn both_directions_flow_at_once_whatever_their_size() {
        let (mut a, mut b) = pair();
        // Far more than the socket buffers hold: two blocking sends would wait for each other for ever.
        let large = vec![7u8; 16 << 20];
        let copy = large.clone();
        let other = std::thread::spawn(move || {
            let mut answer = vec![0u8; 3];
            let mut first = vec![0u8; copy.len()];
            let sends = [Outgoing { peer: 0, message: 1, payload: &copy }];
            let mut receives = [
                Incoming { peer: 0, message: 0, payload: &mut first },
                Incoming { peer: 0, message: 2, payload: &mut answer },
            ];
            b.exchange(&sends, &mut receives).expect("the link works");
            (first == copy, answer, b.received_bytes())
        });
        let mut got = vec![0u8; large.len()];
        let sends =
            [Outgoing { peer: 1, message: 0, payload: &large }, Outgoing { peer: 1, message: 2, payload: b"end" }];
        a.exchange(&sends, &mut [Incoming { peer: 1, message: 1, payload: &mut got }]).expect("the link works");
        assert!(got == large);
        let (same, answer, received_bytes) = other.join().expect("no panic");
        assert!(same);
        assert_eq!((answer.as_slice(), received_bytes), (b"end".as_slice(), large.len() as u64 + 3));
    }

    #[test]
    fn silence_and_departure_end_the_wait() {
        let (mut a, b) = pair();
        let mut got = [0u8; 4];
        let silent = a.exchange(&[], &mut [Incoming { peer: 1, message: 0, payload: &mut got }]);
        assert_eq!(silent, Err(Error::Deadline));
        drop(b);
        let gone = a.exchange(&[], &mut [Incoming { peer: 1, message: 0, payload: &mut got }]);
        assert_eq!(gone, Err(Error::Closed));
    }

    #[test]
    fn another_message_is_refused() {
        let (mut a, mut b) = pair();
        b.send(0, 5, b"four").expect("the link works");
        let mut got = [0u8; 4];
        let wrong = a.exchange(&[], &mut [Incoming { peer: 1, message: 4, payload: &mut got }]);
        assert_eq!(wrong, Err(Error::WrongMessage));
    }
}
