//! What a node sends and whom it connects to: frames are put together when a link can take them, never before.

use super::keyed::{KEYED_HELLO_BYTES, Keyed};
use super::link::Order;
use super::plan::Medium;
use super::session::Hello;
use super::wire::{HELLO_BYTES, Header, Kind, Put, SMALL_BYTES};
use super::{Link, Memory, Node, transfer};
use crate::noise::Entropy;

impl<L: AsRef<[Link]> + AsMut<[Link]>> Node<'_, L> {
    /// What is to be done with the connection to a peer.
    pub fn poll_order(&mut self, at: usize) -> Option<Order> {
        let (link, peer) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at))?;
        if core::mem::take(&mut link.close) {
            return Some(Order::Close);
        }
        let connects = peer.medium == Medium::Connection && peer.calls && !link.open;
        (connects && link.talk.calls_now(self.now_us, &mut self.random)).then_some(Order::Connect)
    }

    /// Bytes to send to a peer, in up to three pieces: a datagram, or the next ones of a frame. [`Node::on_sent`] says how
    /// many have gone.
    ///
    /// On a link with keys tensors are sealed in `room`, which is that link's alone and keeps what was put there until all
    /// of it has gone; it holds a chunk where datagrams are sent, and else any number of bytes. Without keys it may be empty.
    pub fn poll_send<'a, M: Memory + ?Sized>(
        &'a mut self,
        at: usize,
        memory: &'a M,
        room: &'a mut [u8],
    ) -> Option<[&'a [u8]; 3]> {
        if self.links.as_ref().get(at)?.out.head_bytes == 0 {
            self.compose(at, memory)?;
        }
        Some(self.links.as_mut().get_mut(at)?.out.pieces(memory, room))
    }

    /// So many bytes of what [`Node::poll_send`] gave have gone. A datagram has gone even if it was refused.
    pub fn on_sent(&mut self, at: usize, count: usize) {
        self.links.as_mut().get_mut(at).into_iter().for_each(|link| link.out.sent(count));
    }

    /// Puts the next frame of a link together, if there is one.
    fn compose<M: Memory + ?Sized>(&mut self, at: usize, memory: &M) -> Option<()> {
        let hung = self.run.is_hung(self.now_us, self.detect_us().max(self.plan.hung_us.into()));
        let now_us = self.now_us;
        let beat_us = self.detect_us() / 10;
        let (link, peer) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at))?;
        if !link.open || hung {
            return None;
        }
        let mut header = Header::new(Kind::Hello, self.plan.device);
        if let Some((stage, caller_nonce, answer_nonce)) = link.talk.greeting(peer, now_us, &mut self.random) {
            let hello = Hello { stage, plan_hash: self.plan.hash, boot: self.boot, caller_nonce, answer_nonce };
            let keyed = link.talk.keyed.as_mut();
            let (payload, length) = greeting(&hello, self.plan.device, keyed, self.entropy.as_mut())?;
            header.length = length as u16;
            link.out.put(&header, payload.get(..length).unwrap_or_default(), None, None);
            return Some(());
        }
        let session = link.talk.session?;
        link.talk.sends_with().ok()?;
        (header.session, header.counter) = (session.id, session.sent.wrapping_add(1));
        (header.heard, header.heard_before) = (link.channel.heard, link.channel.heard_before);
        (header.term, header.inference) = (self.known.term, self.known.floor);
        let round_us = link.round_us();
        let mut payload = [0; SMALL_BYTES];
        let mut length = 0;
        let mut body = None;
        if let Some((number, bytes)) = self.known.next_event(&mut link.channel, at, (now_us, round_us), &mut payload) {
            (header.kind, header.chunk, length) = (Kind::Event, number, bytes);
        } else if let Some((inference, message)) = link.transfers.next_have() {
            (header.kind, header.inference, header.message) = (Kind::Have, inference, message);
        } else if let Some((message, want)) = link.transfers.next_want(now_us, round_us) {
            (header.kind, header.message) = (Kind::Want, message);
            let want = want.emit();
            Put(&mut payload).all(&want);
            length = want.len();
        } else if now_us >= link.beat_at_us {
            header.kind = Kind::Beat;
            let beat = link.beat(now_us);
            Put(&mut payload).all(&beat);
            length = beat.len();
            link.beat_at_us = now_us + beat_us;
        } else if let Some(message) = link.transfers.next_offer(now_us, round_us) {
            (header.kind, header.message) = (Kind::Offer, message);
        } else if let Some((part, chunk)) = link.transfers.next_chunk(now_us, round_us) {
            let (from, bytes) = transfer::chunk_range(part.bytes, peer.chunk_bytes, chunk);
            let offset = part.offset_bytes as usize + from as usize;
            (header.kind, header.message, header.chunk) = (Kind::Tensor, part.message, chunk);
            header.length = bytes;
            body = Some((offset, memory.read(offset, bytes.into())));
            self.counters.sent_bytes += u64::from(bytes);
        } else if let Some(number) = link.next_probe() {
            let content = memory.read(0, peer.chunk_bytes.into());
            (header.kind, header.chunk, header.length) = (Kind::Probe, number, content.len() as u16);
            body = Some((0, content)).filter(|(_, content)| !content.is_empty());
        } else if link.channel.owes {
            header.kind = Kind::Beat;
            let beat = link.beat(now_us);
            Put(&mut payload).all(&beat);
            length = beat.len();
        } else {
            return None;
        }
        if matches!(header.kind, Kind::Want | Kind::Offer | Kind::Tensor) {
            (header.inference, header.route) = self.run.current();
            header.remaining_us = self.remaining_us(header.inference);
        }
        let (link, _) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at))?;
        link.channel.owes = false;
        if let Some(session) = link.talk.session.as_mut() {
            session.sent = header.counter;
        }
        if body.is_none() {
            header.length = length as u16;
        }
        let key = link.talk.sends_with().ok()?;
        link.out.put(&header, payload.get(..length).unwrap_or_default(), body, key);
        Some(())
    }

    fn remaining_us(&self, inference: u32) -> u32 {
        let deadline_us = self.known.turn(inference).map_or(u64::MAX, |turn| turn.deadline_us);
        u32::try_from(deadline_us.saturating_sub(self.now_us)).unwrap_or(u32::MAX)
    }
}

/// The payload of a greeting, and how many of its bytes are used; none where there is nothing to say.
fn greeting(
    hello: &Hello,
    sender: u8,
    keyed: Option<&mut Keyed>,
    entropy: Option<&mut Entropy>,
) -> Option<([u8; KEYED_HELLO_BYTES], usize)> {
    let Some(keyed) = keyed else {
        let mut payload = [0; KEYED_HELLO_BYTES];
        Put(&mut payload).all(&hello.emit());
        return Some((payload, HELLO_BYTES));
    };
    let payload = keyed.greeting(hello.stage, (sender, hello.boot), entropy?)?;
    Some((payload, KEYED_HELLO_BYTES))
}
