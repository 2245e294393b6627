//! Sockets that all send and receive at the same time, by polling.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::steps::catch_up;
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::peer_links::{Come, sort};
use crate::{Error, Identity, LinkEvent, Turn};

/// What goes over one socket during an exchange.
pub(super) struct Lane<'s, 'p> {
    pub(super) peer: usize,
    socket: &'s TcpStream,
    turn: Turn,
    identity: Identity,
    /// Headers and payloads, in order; the first `sends_done` have left, and `sent` bytes of the next.
    pub(super) sends: Vec<([u8; HEADER_BYTES], &'p [u8])>,
    sends_done: usize,
    sent: usize,
    /// Message numbers and where the payloads go, in order; likewise.
    pub(super) receives: Vec<(u16, &'p mut [u8])>,
    receives_done: usize,
    received: usize,
    header_bytes: [u8; HEADER_BYTES],
    header: Option<Header>,
    /// The frame that comes is not a tensor of this turn: what it is, and its payload so far.
    aside: Option<(Come, Vec<u8>)>,
    /// When the frame that comes began, how much of it was there at once, and whether the rest had to be waited for.
    begun: Option<(Instant, usize)>,
    waited: bool,
    /// What this exchange has shown of the link's rate.
    pub(super) arrivals: Arrivals,
    /// What the other side has told meanwhile.
    pub(super) link_events: Vec<LinkEvent>,
}

/// Payload that has been waited for.
#[derive(Clone, Copy, Default)]
pub(super) struct Arrivals {
    /// Bytes behind the first piece of each frame.
    pub(super) bytes: usize,
    /// From the first piece to the last.
    pub(super) time: Duration,
}

impl Arrivals {
    /// Adds others.
    pub(super) fn add(&mut self, other: Arrivals) {
        self.bytes += other.bytes;
        self.time += other.time;
    }
}

/// Why an exchange has ended before its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stuck {
    /// With whom.
    pub(super) peer: usize,
    /// What happened.
    pub(super) error: Error,
    /// Since when nothing had moved.
    pub(super) quiet: Duration,
}

/// Moves all lanes until everything has left and come; gives up when nothing moves for the deadline, or when somebody on
/// any of the sockets has given the inference up.
pub(super) fn run(lanes: &mut [Lane<'_, '_>], sockets: &[(usize, TcpStream)], deadline: Duration) -> Result<(), Stuck> {
    let mut last_move = Instant::now();
    loop {
        let mut moved = false;
        for lane in lanes.iter_mut() {
            let quiet = last_move.elapsed();
            let both = lane.write().and_then(|wrote| Ok(wrote | lane.read()?));
            moved |= both.map_err(|error| Stuck { peer: lane.peer, error, quiet })?;
        }
        let Some(waiting_for) = lanes.iter().find(|lane| !lane.wants().is_empty()).map(|lane| lane.peer) else {
            return Ok(());
        };
        // Here, not at the end: what a slower processor does for one piece, it does while the next is under way.
        catch_up();
        if moved {
            last_move = Instant::now();
            continue;
        }
        let quiet = last_move.elapsed();
        let stuck = |peer: usize, error: Error| Stuck { peer, error, quiet };
        // Who has given the inference up does not read any more; that is seen where nothing is to be received, too.
        if let Some(peer) = given_up_by(lanes, sockets) {
            return Err(stuck(peer, Error::Abandoned));
        }
        let left = deadline.checked_sub(quiet).ok_or(stuck(waiting_for, Error::Deadline))?.min(LOOK_AROUND);
        let mut waiting: Vec<PollFd<'_>> = lanes
            .iter()
            .filter(|lane| !lane.wants().is_empty())
            .map(|lane| PollFd::from_borrowed_fd(lane.socket.as_fd(), lane.wants()))
            .collect();
        match wait(&mut waiting, left) {
            Ok(()) | Err(Error::Deadline) => {}
            Err(error) => return Err(stuck(waiting_for, error)),
        }
    }
}

/// Who has given the inference up, of those from whom nothing is to be received now.
fn given_up_by(lanes: &[Lane<'_, '_>], sockets: &[(usize, TcpStream)]) -> Option<usize> {
    let turn = lanes.first()?.turn;
    let is_read = |peer: usize| lanes.iter().any(|lane| lane.peer == peer && lane.wants().contains(PollFlags::IN));
    let has_given_up = |socket: &TcpStream| {
        let mut bytes = [0u8; HEADER_BYTES];
        let peeked = recv(socket, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let header = peeked.ok().filter(|(count, _)| *count == HEADER_BYTES).and_then(|_| Header::parse(&bytes));
        header.is_some_and(|header| header.kind == Kind::Abandon && header.inference == turn.inference)
    };
    sockets.iter().find(|(peer, socket)| !is_read(*peer) && has_given_up(socket)).map(|(peer, _)| *peer)
}

/// Time between two looks at sockets on which nothing is to be received.
const LOOK_AROUND: Duration = Duration::from_millis(50);

fn wait(waiting: &mut [PollFd<'_>], left: Duration) -> Result<(), Error> {
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ };
    match poll(waiting, Some(&timeout)) {
        Ok(0) => Err(Error::Deadline),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(_) => Err(Error::Stream),
    }
}

impl<'s, 'p> Lane<'s, 'p> {
    /// A lane with nothing to do.
    pub(super) fn new(peer: usize, socket: &'s TcpStream, turn: Turn, identity: Identity) -> Lane<'s, 'p> {
        Lane {
            peer,
            socket,
            turn,
            identity,
            sends: Vec::new(),
            sends_done: 0,
            sent: 0,
            receives: Vec::new(),
            receives_done: 0,
            received: 0,
            header_bytes: [0; HEADER_BYTES],
            header: None,
            aside: None,
            begun: None,
            waited: false,
            arrivals: Arrivals::default(),
            link_events: Vec::new(),
        }
    }

    /// What to wait for.
    pub(super) fn wants(&self) -> PollFlags {
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
    fn read(&mut self) -> Result<bool, Error> {
        let mut moved = false;
        while self.receives_done < self.receives.len() {
            let room = match (&self.header, &mut self.aside, self.receives.get_mut(self.receives_done)) {
                (None, ..) => self.header_bytes.get_mut(self.received..),
                (Some(_), Some((_, bytes)), _) => bytes.get_mut(self.received..),
                (Some(_), None, Some((_, payload))) => payload.get_mut(self.received..),
                (Some(_), None, None) => None,
            };
            let room = room.unwrap_or_default();
            if room.is_empty() {
                self.received = 0;
                match self.header.take() {
                    None => self.take_header()?,
                    Some(header) => self.take_payload(&header)?,
                }
                continue;
            }
            match recv(self.socket, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) if self.received == 0 && self.header.is_none() => return Err(Error::Closed),
                Ok((0, _)) => return Err(Error::Stream),
                Ok((count, _)) => {
                    (self.received, moved) = (self.received + count, true);
                    if self.header.is_some() && self.begun.is_none() {
                        self.begun = Some((Instant::now(), count));
                    }
                }
                Err(Errno::AGAIN) => {
                    self.waited |= self.begun.is_some();
                    return Ok(moved);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(moved)
    }

    /// A header is there: what follows it?
    fn take_header(&mut self) -> Result<(), Error> {
        let header = Header::parse(&self.header_bytes).ok_or(Error::Checksum)?;
        if header.plan_hash != self.identity.plan_hash {
            return Err(Error::WrongPlan);
        }
        let Some((message, payload)) = self.receives.get(self.receives_done) else { return Ok(()) };
        match sort(&header, self.turn, *message, self.peer)? {
            Come::Tensor if header.length as usize != payload.len() => return Err(Error::WrongLength),
            Come::Tensor => {}
            _ if header.length as usize > MOST_ASIDE => return Err(Error::WrongLength),
            come => self.aside = Some((come, vec![0; header.length as usize])),
        }
        (self.header, self.begun, self.waited) = (Some(header), None, false);
        Ok(())
    }

    /// A payload is there.
    fn take_payload(&mut self, header: &Header) -> Result<(), Error> {
        match self.aside.take() {
            Some((Come::LinkEvent, bytes)) => {
                header.check(&bytes)?;
                let event = bytes.as_slice().try_into().ok().and_then(LinkEvent::parse);
                self.link_events.extend(event);
            }
            Some(_) => {}
            None => {
                let Some((_, payload)) = self.receives.get(self.receives_done) else { return Ok(()) };
                header.check(payload)?;
                self.receives_done += 1;
                if let (true, Some((begin, first))) = (self.waited, self.begun) {
                    self.arrivals.add(Arrivals { bytes: payload.len() - first, time: begin.elapsed() });
                }
            }
        }
        Ok(())
    }

    /// Ends the frames that have been begun in both directions, and forgets them.
    pub(super) fn settle(&mut self, most: Duration) -> Result<(), Error> {
        let give_up = Instant::now() + most;
        let left = || give_up.checked_duration_since(Instant::now()).ok_or(Error::Deadline);
        // Of what was to be sent, only the frame that has been begun.
        self.sends.truncate(self.sends_done + usize::from(self.sent > 0));
        while self.sends_done < self.sends.len() {
            if !self.write()? {
                wait(&mut [PollFd::new(self.socket, PollFlags::OUT)], left()?)?;
            }
        }
        while self.received > 0 || self.header.is_some() {
            let length = self.header.as_ref().map_or(HEADER_BYTES, |header| header.length as usize);
            let mut bytes = [0u8; 4096];
            let rest = length.saturating_sub(self.received).min(bytes.len());
            if rest == 0 {
                self.received = 0;
                self.header = match self.header {
                    None => {
                        let (start, _) = self.header_bytes.split_at(HEADER_BYTES);
                        let header = <&[u8; HEADER_BYTES]>::try_from(start).ok().and_then(Header::parse);
                        Some(header.ok_or(Error::Checksum)?)
                    }
                    Some(_) => None,
                };
                continue;
            }
            wait(&mut [PollFd::new(self.socket, PollFlags::IN)], left()?)?;
            match recv(self.socket, &mut bytes[..rest], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Error::Closed),
                Ok((count, _)) => {
                    if self.header.is_none() {
                        let begin = self.received;
                        let slots = self.header_bytes.iter_mut().skip(begin);
                        slots.zip(&bytes[..count]).for_each(|(slot, byte)| *slot = *byte);
                    }
                    self.received += count;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(())
    }
}

/// Largest frame of an inference that has been given up: as large as a tensor can be on the small devices that this is
/// for.
const MOST_ASIDE: usize = 256 << 20;

pub(super) fn error_of(error: Errno) -> Error {
    match error {
        Errno::PIPE | Errno::CONNRESET | Errno::CONNABORTED => Error::Closed,
        Errno::TIMEDOUT => Error::Deadline,
        _ => Error::Stream,
    }
}
