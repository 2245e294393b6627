//! Links of a hosted device: several messages at the same time over sockets, by polling.

use std::net::TcpStream;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Duplex;
use super::lanes::{self, Arrivals, Lane};
use super::steps::CatchUp;
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::{
    Error, FamilyLinks, FramedStream, Identity, Incoming, InferenceLinks, LinkEvent, Links, Outgoing, PeerLinks, Seen,
    StdStream, Turn,
};

/// Streams to all peers. Exchanges among sockets use them all at once; anything else goes one by one.
pub struct HostedLinks<const N: usize> {
    streams: PeerLinks<StdStream<std::boxed::Box<dyn Duplex>>, N>,
    /// The sockets among the streams.
    sockets: Vec<(usize, TcpStream)>,
    deadline: Duration,
    /// Per socket what this inference has shown of its rate.
    arrivals: Vec<Arrivals>,
    /// Whether inferences can be given up.
    several_routes: bool,
    /// Whether this one has been.
    given_up: bool,
}

impl<const N: usize> HostedLinks<N> {
    /// Links that have shaken hands.
    pub fn new(
        streams: PeerLinks<StdStream<std::boxed::Box<dyn Duplex>>, N>,
        sockets: Vec<(usize, TcpStream)>,
        deadline: Duration,
    ) -> HostedLinks<N> {
        let arrivals = vec![Arrivals::default(); sockets.len()];
        HostedLinks { streams, sockets, deadline, arrivals, several_routes: false, given_up: false }
    }

    /// The same for a program with several routes, whose inferences can be given up.
    pub(super) fn expect_routes(&mut self) {
        self.several_routes = true;
    }

    /// How long devices wait for each other.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Which inference this is.
    pub(super) fn turn(&self) -> Turn {
        self.streams.turn()
    }

    /// Keeps in mind that a device cannot be reached.
    pub(super) fn lose(&mut self, peer: usize) {
        self.streams.lose(peer);
    }

    pub(super) fn socket(&self, peer: usize) -> Option<&TcpStream> {
        self.sockets.iter().find(|(index, _)| *index == peer).map(|(_, socket)| socket)
    }
}

impl<const N: usize> InferenceLinks for HostedLinks<N> {
    fn begin(&mut self, turn: Turn) {
        self.streams.begin(turn);
        self.given_up = false;
        self.arrivals.fill(Arrivals::default());
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
        let _catch_up = CatchUp;
        self.streams.send(peer, message, payload)
    }

    fn receive(&mut self, peer: usize, message: u16, payload: &mut [u8]) -> Result<(), Error> {
        let _catch_up = CatchUp;
        match self.socket(peer) {
            Some(_) => self.exchange(&[], &mut [Incoming { peer, message, payload }]),
            None => self.streams.receive(peer, message, payload),
        }
    }

    fn exchange(&mut self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) -> Result<(), Error> {
        let _catch_up = CatchUp;
        let peers = sends.iter().map(|send| send.peer).chain(receives.iter().map(|receive| receive.peer));
        let (Some(identity), true) =
            (self.streams.identity(), peers.into_iter().all(|peer| self.socket(peer).is_some()))
        else {
            return self.streams.exchange(sends, receives);
        };
        let involved = |peer: usize| {
            sends.iter().any(|send| send.peer == peer) || receives.iter().any(|receive| receive.peer == peer)
        };
        let sockets = self.sockets.iter().filter(|(peer, _)| involved(*peer));
        if sockets.clone().any(|(peer, _)| self.streams.is_lost(*peer)) {
            return Err(Error::Closed);
        }
        let turn = self.streams.turn();
        let mut lanes: Vec<Lane<'_, '_>> =
            sockets.map(|(peer, socket)| Lane::new(*peer, socket, turn, identity)).collect();
        for send in sends {
            let Identity { plan_hash, device } = identity;
            let header = Header::new(Kind::Tensor, plan_hash, turn.inference, send.message, device, send.payload);
            let lane = lanes.iter_mut().find(|lane| lane.peer == send.peer).ok_or(Error::NoLink)?;
            lane.sends.push((header.on_route(turn.route).emit(), send.payload));
        }
        let (mut sent_bytes, mut received_bytes) = (0, 0);
        sent_bytes += sends.iter().map(|send| send.payload.len() as u64).sum::<u64>();
        for receive in receives {
            received_bytes += receive.payload.len() as u64;
            let lane = lanes.iter_mut().find(|lane| lane.peer == receive.peer).ok_or(Error::NoLink)?;
            lane.receives.push((receive.message, receive.payload));
        }
        let result = lanes::run(&mut lanes, &self.sockets, self.deadline);
        let (mut lost, mut asked): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        if let Err(stuck) = &result {
            match stuck.error {
                // Who is silent may itself wait for another.
                Error::Deadline | Error::Abandoned if self.several_routes => {
                    let waited_for = lanes.iter().filter(|lane| !lane.wants().is_empty()).map(|lane| lane.peer);
                    asked.extend(waited_for.filter(|peer| stuck.error == Error::Deadline || *peer != stuck.peer));
                }
                Error::Closed | Error::Stream | Error::Deadline | Error::Checksum => lost.push(stuck.peer),
                _ => {}
            }
            // Frames that have been begun are ended, or what follows on those streams could not be read.
            for lane in &mut lanes {
                if !lost.contains(&lane.peer) && lane.settle(SETTLE.min(self.deadline)).is_err() {
                    lost.push(lane.peer);
                }
            }
        }
        let mut heard: Vec<LinkEvent> = Vec::new();
        for lane in &mut lanes {
            let at = self.sockets.iter().position(|(peer, _)| *peer == lane.peer);
            if let Some(arrivals) = at.and_then(|at| self.arrivals.get_mut(at)) {
                arrivals.add(lane.arrivals);
            }
            heard.append(&mut lane.link_events);
        }
        heard.into_iter().for_each(|event| self.streams.learn(event));
        asked.retain(|peer| !lost.contains(peer));
        lost.into_iter().for_each(|peer| self.streams.lose(peer));
        if let Err(stuck) = result {
            if !asked.is_empty() {
                self.lose_silent(asked, &stuck);
            }
            return Err(stuck.error);
        }
        self.streams.sent_bytes += sent_bytes;
        self.streams.received_bytes += received_bytes;
        Ok(())
    }
}

/// How long a frame that has been begun may take to end when its inference is given up.
const SETTLE: Duration = Duration::from_secs(5);

impl<const N: usize> FamilyLinks for HostedLinks<N> {
    fn announce(&mut self, peer: usize, turn: Turn) -> Result<(), Error> {
        self.streams.announce(peer, turn)
    }

    fn announced(&mut self, peer: usize) -> Result<Turn, Error> {
        // Peers that have something for the next inference already; it is read then.
        let mut early: Vec<usize> = Vec::new();
        loop {
            if self.socket(peer).is_none() {
                return self.streams.announced(peer);
            }
            let watched = |other: usize| other == peer || !early.contains(&other);
            // There may be nothing to do for long.
            let sockets = self.sockets.iter().filter(|(other, _)| watched(*other));
            let mut waiting: Vec<PollFd<'_>> = sockets.map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
            match poll(&mut waiting, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(Error::Stream),
            }
            match self.peek(peer) {
                Peeked::Frame(header) if header.kind == Kind::Probe => self.answer_probe(peer)?,
                Peeked::Frame(_) | Peeked::End => return self.streams.announced(peer),
                Peeked::Nothing => {}
            }
            for at in 0..self.sockets.len() {
                let other = self.sockets.get(at).map_or(peer, |(other, _)| *other);
                if other != peer && !early.contains(&other) && !self.skip_past(other, true) {
                    early.push(other);
                }
            }
        }
    }

    fn abandon(&mut self) {
        if !std::mem::replace(&mut self.given_up, true) {
            self.streams.abandon();
        }
    }

    fn link_event(&mut self) -> Option<LinkEvent> {
        self.notice_arrivals();
        for at in 0..self.sockets.len() {
            let peer = self.sockets.get(at).map_or(usize::MAX, |(peer, _)| *peer);
            // Link events may lie behind what was sent for an inference that has been given up.
            self.skip_past(peer, self.given_up);
        }
        self.streams.link_event()
    }

    fn tell(&mut self, peer: usize, event: &LinkEvent) -> Result<(), Error> {
        self.streams.tell(peer, event)
    }

    fn probe(&mut self, peer: usize) -> Result<(), Error> {
        self.streams.probe(peer)
    }
}

/// What comes next on a stream.
pub(super) enum Peeked {
    /// A frame whose header is there.
    Frame(Header),
    /// Not even a header yet.
    Nothing,
    /// Nothing that can be read any more.
    End,
}

/// Payload of an inference that has to arrive in several pieces before its rate is believed.
const TELLING_BYTES: usize = 4096;

impl<const N: usize> HostedLinks<N> {
    /// What comes next from a device.
    pub(super) fn peek(&self, peer: usize) -> Peeked {
        let mut bytes = [0u8; HEADER_BYTES];
        let Some(socket) = self.socket(peer) else { return Peeked::Nothing };
        match recv(socket, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((HEADER_BYTES, _)) => Header::parse(&bytes).map_or(Peeked::End, Peeked::Frame),
            Ok((0, _)) => Peeked::End,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Peeked::Nothing,
            Err(_) => Peeked::End,
        }
    }

    /// Reads what a device has sent for inferences that are over, so that it is not kept waiting, and link events; says whether
    /// more may come. Tensors may have to be waited for; without them it goes as far as the first.
    fn skip_past(&mut self, peer: usize, tensors: bool) -> bool {
        loop {
            match self.peek(peer) {
                Peeked::Nothing => return true,
                Peeked::End => {
                    self.streams.lose(peer);
                    return false;
                }
                Peeked::Frame(header) if header.kind == Kind::Status => {
                    if self.take_link_event(peer).is_err() {
                        return false;
                    }
                }
                Peeked::Frame(header) => {
                    let turn = self.streams.turn();
                    let over = turn.is_past(header.inference) || turn.inference == header.inference;
                    let is_skipped = header.kind == Kind::Abandon || tensors && header.kind == Kind::Tensor;
                    if !over || !is_skipped {
                        return false;
                    }
                    if self.skip_frame(peer).is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Reads a frame that nobody needs.
    pub(super) fn skip_frame(&mut self, peer: usize) -> Result<(), Error> {
        self.streams.with(peer, |stream| {
            let header = stream.receive_header()?;
            stream.skip_payload(&header)
        })
    }

    /// Reads a frame with a link event.
    pub(super) fn take_link_event(&mut self, peer: usize) -> Result<(), Error> {
        let header = self.streams.with(peer, FramedStream::receive_header)?;
        self.streams.take_link_event(peer, &header)
    }

    /// Reads a probe, and tells its sender how fast it came.
    fn answer_probe(&mut self, peer: usize) -> Result<(), Error> {
        let own = self.streams.identity().map_or(0, |identity| identity.device);
        let header = self.streams.with(peer, FramedStream::receive_header)?;
        let begin = Instant::now();
        self.streams.with(peer, |stream| stream.skip_payload(&header))?;
        let rate = header.length as f32 / begin.elapsed().as_secs_f32().max(1e-6);
        self.streams.tell(peer, &LinkEvent { between: (own, peer as u8), what: Seen::BytesPerSecond(rate) })
    }

    /// Makes link events of what this inference has shown of the links.
    fn notice_arrivals(&mut self) {
        let Some(Identity { device, .. }) = self.streams.identity() else { return };
        for ((peer, _), arrivals) in self.sockets.iter().zip(&mut self.arrivals) {
            if arrivals.bytes >= TELLING_BYTES {
                let rate = arrivals.bytes as f32 / arrivals.time.as_secs_f32().max(1e-6);
                self.streams.learn(LinkEvent { between: (device, *peer as u8), what: Seen::BytesPerSecond(rate) });
            }
            *arrivals = Arrivals::default();
        }
    }
}

// Miri has no sockets.
#[cfg(all(test, not(miri)))]
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
