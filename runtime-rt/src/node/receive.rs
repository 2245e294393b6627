//! What a node does with bytes that come: frames are checked, and each goes to whom it is about.

use super::plan::Medium;
use super::session::{Accepted, Greeted, Hello};
use super::transfer::{self, Want};
use super::wire::{Header, Kind, Piece};
use super::{Link, Memory, Node};

impl<L: AsRef<[Link]> + AsMut<[Link]>> Node<'_, L> {
    /// Bytes have come from a peer: any part of a stream, or one datagram.
    /// They are opened where they lie, on a link with keys.
    pub fn on_bytes<M: Memory + ?Sized>(&mut self, at: usize, bytes: &mut [u8], memory: &mut M) {
        let Some(peer) = self.plan.peers.get(at) else { return };
        let mut rest = bytes;
        let datagram = peer.medium == Medium::Datagrams;
        loop {
            let Some(link) = self.links.as_mut().get_mut(at) else { return };
            let Some(piece) = link.parser.take(&mut rest, peer.chunk_bytes, link.talk.keys()) else { break };
            match piece {
                Piece::Part { header, at: from, bytes } if header.sender == peer.device => {
                    self.on_part(at, &header, from, bytes, memory);
                }
                Piece::Frame(header) if header.sender == peer.device => self.on_frame(at, &header),
                Piece::Unknown(header) if header.sender == peer.device => self.on_unknown(at, &header),
                Piece::Damaged => self.counters.damaged += 1,
                Piece::Part { .. } | Piece::Frame(_) | Piece::Unknown(_) => self.counters.unknown += 1,
            }
        }
        if let Some(link) = self.links.as_mut().get_mut(at).filter(|_| datagram) {
            link.parser.reset();
        }
    }

    /// Part of a chunk goes to its place, if there is one now.
    fn on_part<M: Memory + ?Sized>(&mut self, at: usize, header: &Header, from: usize, bytes: &[u8], memory: &mut M) {
        let now = self.run.is_at(header.inference) && header.term == self.known.term && header.kind == Kind::Tensor;
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        let talking = link.talk.session.is_some_and(|session| session.id == header.session);
        let wanted = link.transfers.receiving(header.message).filter(|receiving| receiving.misses(header.chunk));
        let place = wanted.filter(|_| now && talking).and_then(|receiving| {
            let part = receiving.part;
            let (offset, length) = transfer::chunk_range(part.bytes, peer.chunk_bytes, header.chunk);
            (length == header.length).then_some(part.offset_bytes as usize + offset as usize)
        });
        let chunk = (header.inference, header.message, header.chunk);
        let written = match link.filling {
            _ if from == 0 => Some(0),
            Some((of, written)) if of == chunk && written == from => Some(written),
            _ => None,
        };
        link.filling = match (place, written) {
            (Some(place), Some(written)) => {
                memory.write(place + from, bytes);
                Some((chunk, written + bytes.len()))
            }
            _ => None,
        };
    }

    /// A frame has come that checks.
    pub(super) fn on_frame(&mut self, at: usize, header: &Header) {
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        if header.kind == Kind::Hello && link.talk.keyed.is_some() {
            return self.on_keyed_hello(at, header);
        }
        if header.kind == Kind::Hello {
            let Some(hello) = Hello::parse(link.parser.payload(header)) else { return };
            if hello.plan_hash != self.plan.hash {
                self.counters.other_plans += 1;
            } else if let Some(restarted) = link.talk.hear(&hello, peer, self.now_us, &mut self.random) {
                self.on_session(at, restarted);
            }
            return;
        }
        match link.talk.accept(header.session, header.counter, self.now_us) {
            Accepted::Yes => {}
            Accepted::New { restarted } => self.on_session(at, restarted),
            Accepted::Again => {
                self.counters.repeated += 1;
                return;
            }
            Accepted::Unknown => return self.on_unknown(at, header),
        }
        if let Some(link) = self.links.as_mut().get_mut(at) {
            link.channel.acknowledged(header.heard, header.heard_before);
        }
        match header.kind {
            Kind::Hello => {}
            Kind::Beat | Kind::Event => self.on_event(at, header),
            Kind::Want | Kind::Have | Kind::Offer | Kind::Tensor if header.term == self.known.term => {
                self.on_transfer(at, header);
            }
            Kind::Want | Kind::Have | Kind::Offer | Kind::Tensor => {}
            Kind::Probe => {
                let now_us = self.now_us;
                self.links.as_mut().get_mut(at).into_iter().for_each(|link| link.hear_probe(header, now_us));
            }
        }
    }

    /// A greeting has come on a link with keys.
    fn on_keyed_hello(&mut self, at: usize, header: &Header) {
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        let Some(entropy) = self.entropy.as_mut() else { return };
        let (payload, times) = (link.parser.payload(header), (self.boot, self.now_us));
        match link.talk.hear_keyed(payload, peer, times, (entropy, &mut self.random)) {
            Greeted::Nothing => {}
            Greeted::Stranger => self.counters.strangers += 1,
            Greeted::OtherPlan => self.counters.other_plans += 1,
            Greeted::Begun { restarted } => self.on_session(at, restarted),
        }
    }

    /// A frame of another session has come.
    fn on_unknown(&mut self, at: usize, header: &Header) {
        self.counters.unknown += 1;
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        link.talk.ask(header.session, peer, self.now_us, &mut self.random);
    }

    /// A session has begun.
    fn on_session(&mut self, at: usize, restarted: bool) {
        self.counters.begun += 1;
        let now_us = self.now_us;
        if let Some(link) = self.links.as_mut().get_mut(at) {
            link.begin_session(now_us, restarted);
            self.known.tell_all(&mut link.channel, at);
        }
        self.see();
    }

    /// A sign of life or an event frame has come.
    fn on_event(&mut self, at: usize, header: &Header) {
        self.hear_term(at, header.term, header.inference);
        let of_term = header.term == self.known.term;
        let Some(link) = self.links.as_mut().get_mut(at) else { return };
        let payload = link.parser.payload(header);
        if header.kind == Kind::Beat {
            link.hear_beat(header, self.now_us);
            return;
        }
        link.channel.note(header.chunk);
        self.known.hear(payload, of_term, self.plan.device, at, self.now_us);
    }

    /// Somebody speaks of a life of the device with the input, and of its first inference that is not over.
    fn hear_term(&mut self, at: usize, term: u32, floor: u32) {
        if term < self.known.term {
            // It is told which one it is.
            self.links.as_mut().get_mut(at).into_iter().for_each(|link| link.beat_now());
        } else if self.is_lead() {
            if term > self.known.term {
                self.outbid(term);
            }
        } else if term > self.known.term {
            self.known.begin_term(term, floor);
            self.run.restart(floor);
            self.links.as_mut().iter_mut().for_each(|link| link.transfers.forget());
        } else {
            self.known.raise_floor(floor);
        }
    }

    fn on_transfer(&mut self, at: usize, header: &Header) {
        let (now_us, inference, message) = (self.now_us, header.inference, header.message);
        let current = self.run.is_at(inference);
        let past = self.run.is_past(inference) || self.known.is_over(inference);
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        let round_us = link.round_us();
        match header.kind {
            Kind::Want => {
                let Some(want) = Want::parse(link.parser.payload(header)) else { return };
                let taken = current && link.transfers.hear_want(message, &want, now_us, round_us);
                if !taken && !past {
                    link.transfers.note_early(inference, message, want);
                }
            }
            Kind::Have if current => link.transfers.hear_have(message),
            Kind::Offer if past || (current && link.transfers.is_there(message)) => {
                link.transfers.acknowledge(inference, message);
            }
            Kind::Offer if current => link.transfers.repeat_want(message, now_us),
            Kind::Tensor if past => link.transfers.acknowledge(inference, message),
            Kind::Tensor if current => {
                let chunk = (inference, message, header.chunk);
                let filled = link.filling.take() == Some((chunk, usize::from(header.length)));
                let whole = link.transfers.take_chunk(message, header.chunk, filled, now_us, round_us);
                if let Some(receiving) = whole {
                    self.run.received_bytes += u64::from(receiving.part.bytes);
                    link.note_rate(&receiving, peer, now_us);
                }
                if link.transfers.is_there(message) {
                    link.transfers.acknowledge(inference, message);
                }
            }
            _ => {}
        }
    }
}
