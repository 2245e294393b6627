//! The links of a device, one stream per peer, one message at a time.

use embedded_io::{Read, Write};

use crate::frame::{Header, Kind};
use crate::link::{FamilyLinks, Turn, check_tensor};
use crate::link_events::Queue;
use crate::{Error, FramedStream, Identity, InferenceLinks, LinkEvent, Links, Seen};

/// Bytes of a probe.
pub const PROBE_BYTES: usize = 16 << 10;

/// Links of a device, one stream per peer. `N` is the number of peers.
pub struct PeerLinks<S, const N: usize> {
    links: [Peer<S>; N],
    turn: Turn,
    link_events: Queue,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

struct Peer<S> {
    index: usize,
    stream: FramedStream<S>,
    /// Cannot be reached any more.
    lost: bool,
}

/// What to do with a frame that has come where a tensor is waited for.
pub(crate) enum Come {
    /// It is the tensor.
    Tensor,
    /// It is of an inference that has been given up: its payload is to be skipped.
    Past,
    /// Its payload is a link event.
    LinkEvent,
}

/// Sorts a frame that has come where a tensor of this turn is waited for.
pub(crate) fn sort(header: &Header, turn: Turn, message: u16, peer: usize) -> Result<Come, Error> {
    match header.kind {
        Kind::Status => Ok(Come::LinkEvent),
        Kind::Tensor | Kind::Abandon if turn.is_past(header.inference) => Ok(Come::Past),
        Kind::Abandon if header.inference == turn.inference => Err(Error::Abandoned),
        _ => check_tensor(header, turn, message, peer).map(|()| Come::Tensor),
    }
}

impl<S: Read + Write, const N: usize> PeerLinks<S, N> {
    /// Links that have shaken hands.
    pub fn new(links: [(usize, FramedStream<S>); N]) -> PeerLinks<S, N> {
        let links = links.map(|(index, stream)| Peer { index, stream, lost: false });
        PeerLinks { links, turn: Turn::default(), link_events: Queue::default(), sent_bytes: 0, received_bytes: 0 }
    }

    /// Who is at this end.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.links.first().map(|peer| peer.stream.identity())
    }

    /// Which inference the next tensors belong to.
    #[cfg(feature = "std")]
    pub(crate) fn turn(&self) -> Turn {
        self.turn
    }

    fn peer(&mut self, peer: usize) -> Result<&mut Peer<S>, Error> {
        let found = self.links.iter_mut().find(|link| link.index == peer).ok_or(Error::NoLink)?;
        if found.lost { Err(Error::Closed) } else { Ok(found) }
    }

    /// Whether a device cannot be reached any more.
    #[cfg(feature = "std")]
    pub(crate) fn is_lost(&self, peer: usize) -> bool {
        self.links.iter().any(|link| link.index == peer && link.lost)
    }

    /// Keeps in mind that a device cannot be reached.
    pub(crate) fn lose(&mut self, peer: usize) {
        let own = self.identity().map_or(0, |identity| identity.device);
        if let Some(link) = self.links.iter_mut().find(|link| link.index == peer && !link.lost) {
            link.lost = true;
            self.link_events.push(LinkEvent { between: (own, peer as u8), what: Seen::Lost });
        }
    }

    /// Keeps what has been learned of a link.
    #[cfg(feature = "std")]
    pub(crate) fn learn(&mut self, event: LinkEvent) {
        self.link_events.push(event);
    }

    /// Does something with the stream to a device; a stream that fails is lost.
    pub(crate) fn with<T>(
        &mut self,
        peer: usize,
        work: impl FnOnce(&mut FramedStream<S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let result = work(&mut self.peer(peer)?.stream);
        if let Err(Error::Closed | Error::Stream | Error::Deadline | Error::Checksum) = result {
            self.lose(peer);
        }
        result
    }

    /// Reads the link event behind a header.
    pub(crate) fn take_link_event(&mut self, peer: usize, header: &Header) -> Result<(), Error> {
        let mut bytes = [0; LinkEvent::BYTES];
        self.with(peer, |stream| stream.receive_payload(header, &mut bytes))?;
        if let Some(event) = LinkEvent::parse(&bytes) {
            self.link_events.push(event);
        }
        Ok(())
    }
}

impl<S: Read + Write, const N: usize> InferenceLinks for PeerLinks<S, N> {
    fn begin(&mut self, turn: Turn) {
        self.turn = turn;
        self.sent_bytes = 0;
        self.received_bytes = 0;
    }

    fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes
    }
}

impl<S: Read + Write, const N: usize> Links for PeerLinks<S, N> {
    fn send(&mut self, peer: usize, message: u16, payload: &[u8]) -> Result<(), Error> {
        let turn = self.turn;
        self.with(peer, |stream| stream.send_on(Kind::Tensor, turn, message, payload))?;
        self.sent_bytes += payload.len() as u64;
        Ok(())
    }

    fn receive(&mut self, peer: usize, message: u16, payload: &mut [u8]) -> Result<(), Error> {
        let turn = self.turn;
        loop {
            let header = self.with(peer, FramedStream::receive_header)?;
            match sort(&header, turn, message, peer)? {
                Come::Tensor => {
                    self.with(peer, |stream| stream.receive_payload(&header, payload))?;
                    self.received_bytes += payload.len() as u64;
                    return Ok(());
                }
                Come::Past => self.with(peer, |stream| stream.skip_payload(&header))?,
                Come::LinkEvent => self.take_link_event(peer, &header)?,
            }
        }
    }
}

impl<S: Read + Write, const N: usize> FamilyLinks for PeerLinks<S, N> {
    fn announce(&mut self, peer: usize, turn: Turn) -> Result<(), Error> {
        self.with(peer, |stream| stream.send_on(Kind::Announce, turn, 0, &[]))
    }

    fn announced(&mut self, peer: usize) -> Result<Turn, Error> {
        loop {
            let header = match self.peer(peer)?.stream.receive_header() {
                // There may be nothing to do for long.
                Err(Error::Deadline) => continue,
                result => result?,
            };
            match header.kind {
                Kind::Announce => return Ok(Turn { inference: header.inference, route: header.route }),
                Kind::Tensor | Kind::Abandon | Kind::Probe => {
                    self.with(peer, |stream| stream.skip_payload(&header))?;
                }
                Kind::Status => self.take_link_event(peer, &header)?,
                _ => return Err(Error::WrongMessage),
            }
        }
    }

    fn abandon(&mut self) {
        let turn = self.turn;
        for at in 0..N {
            if let Some(peer) = self.links.get(at).map(|link| link.index) {
                // One that cannot be reached is remembered as lost.
                let _ = self.with(peer, |stream| stream.send_on(Kind::Abandon, turn, 0, &[]));
            }
        }
    }

    fn link_event(&mut self) -> Option<LinkEvent> {
        self.link_events.pop()
    }

    fn tell(&mut self, peer: usize, event: &LinkEvent) -> Result<(), Error> {
        let turn = self.turn;
        self.with(peer, |stream| stream.send_on(Kind::Status, turn, 0, &event.emit()))
    }

    fn probe(&mut self, peer: usize) -> Result<(), Error> {
        static ZEROS: [u8; PROBE_BYTES] = [0; PROBE_BYTES];
        let turn = self.turn;
        self.with(peer, |stream| stream.send_on(Kind::Probe, turn, 0, &ZEROS))
    }
}
