//! Connections of nobody yet: who has made one is known by a greeting, and on a link with keys only when the first frame of
//! its session has come. Until then the link and its session stay as they are.

use super::keyed::{Heard, KEYED_HELLO_BYTES, Keys, Offer};
use super::link::{Greeting, Outgoing};
use super::plan::{Medium, Peer};
use super::session::{Hello, Stage};
use super::wire::{Header, Kind, Parser, Piece};
use super::{Link, Node};

/// Bytes after which somebody who has not greeted does not belong here.
const MOST_BYTES: usize = 1024;

/// A connection of nobody yet. A driver holds a limited number of them, and none for longer than
/// [`super::Plan::detect_us`].
#[derive(Default)]
pub struct Guest {
    parser: Parser,
    /// The peer that it may be.
    at: Option<usize>,
    offer: Option<Offer>,
    /// The first frame of the session.
    first: Option<Header>,
    heard_bytes: usize,
    out: Outgoing,
}

impl Guest {
    /// What is to be sent to him.
    pub fn answer(&mut self) -> &[u8] {
        let [head, ..] = self.out.pieces(&(), &mut []);
        head
    }

    /// Whether he has said something that only a device of the cluster can have made.
    pub fn has_greeted(&self) -> bool {
        self.offer.is_some()
    }
}

impl<L: AsRef<[Link]> + AsMut<[Link]>> Node<'_, L> {
    /// Who has made a connection, by its first bytes. What is left of them is behind what was looked at.
    pub fn greet(&mut self, guest: &mut Guest, bytes: &mut &mut [u8]) -> Greeting {
        guest.heard_bytes = guest.heard_bytes.saturating_add(bytes.len());
        let chunk_bytes = guest.at.and_then(|at| self.plan.peers.get(at)).map_or(0, |peer| peer.chunk_bytes);
        loop {
            let keys = guest.offer.as_ref().map(|offer| Keys::offered(Some(offer)));
            let piece = guest.parser.take(bytes, chunk_bytes, keys);
            match piece {
                None if guest.offer.is_none() && guest.heard_bytes > MOST_BYTES => return Greeting::Refused,
                None => return Greeting::Unknown,
                Some(Piece::Part { .. }) => {}
                Some(Piece::Frame(header)) if header.kind == Kind::Hello => return self.greet_with(guest, &header),
                Some(Piece::Frame(header)) if guest.offer.is_some() => {
                    guest.first = Some(header);
                    return guest.at.map_or(Greeting::Refused, Greeting::Peer);
                }
                Some(Piece::Frame(_) | Piece::Unknown(_) | Piece::Damaged) => return Greeting::Refused,
            }
        }
    }

    /// A guest has greeted.
    fn greet_with(&mut self, guest: &mut Guest, header: &Header) -> Greeting {
        let who = |peer: &Peer| peer.device == header.sender && !peer.calls && peer.medium == Medium::Connection;
        let Some(at) = self.plan.peers.iter().position(who) else { return Greeting::Refused };
        let Some(link) = self.links.as_mut().get_mut(at) else { return Greeting::Refused };
        let payload = guest.parser.payload(header);
        let Some(keyed) = link.talk.keyed.as_mut() else {
            let hello = Hello::parse(payload).filter(|hello| hello.stage == Stage::Call);
            if hello.is_none_or(|hello| hello.plan_hash != self.plan.hash) {
                return Greeting::Refused;
            }
            (guest.at, guest.first) = (Some(at), Some(*header));
            return Greeting::Peer(at);
        };
        let message = match keyed.hear(header.sender, payload) {
            Heard::Call(message) => message,
            Heard::OtherPlan => {
                self.counters.other_plans += 1;
                return Greeting::Refused;
            }
            _ => {
                self.counters.strangers += 1;
                return Greeting::Refused;
            }
        };
        // Who has heard nothing calls once more.
        if !guest.offer.as_ref().is_some_and(|offer| offer.is_of(&message)) {
            let Some(entropy) = self.entropy.as_mut() else { return Greeting::Refused };
            let Some(offer) = keyed.offer(&message, self.boot, entropy, self.now_us) else { return Greeting::Refused };
            (guest.at, guest.offer) = (Some(at), Some(offer));
        }
        let Some(offer) = &guest.offer else { return Greeting::Refused };
        let payload = keyed.answer_of(offer, self.plan.device);
        let length = KEYED_HELLO_BYTES as u16;
        guest.out.put(&Header { length, ..Header::new(Kind::Hello, self.plan.device) }, &payload, None, None);
        Greeting::Answer
    }

    /// The connection to a peer is that of a guest; one that was there before is not used any more. What he says further
    /// comes with [`Node::on_bytes`].
    pub fn welcome(&mut self, guest: Guest) {
        let Some(at) = guest.at else { return };
        self.on_connected(at);
        let (Some(link), Some(header)) = (self.links.as_mut().get_mut(at), guest.first) else { return };
        link.parser = guest.parser;
        if let Some(offer) = guest.offer {
            link.talk.offer(offer);
        }
        // A tensor's chunk was not written anywhere; it is asked for again.
        self.on_frame(at, &header);
    }
}
