//! The node: what runs on every device between its program and its links, without input and output of its own.
//!
//! Bytes and time go in, bytes and work come out. A driver owns sockets, lines, clock and threads; it calls
//!
//! - [`Node::on_tick`] with the time, before anything else and when [`Node::due_us`] has come;
//! - [`Node::on_connected`], [`Node::on_closed`], [`Node::on_bytes`] when a link says something;
//! - [`Node::poll_order`] and [`Node::poll_send`] for each peer, [`Node::poll_work`] and [`Node::poll_record`], after any of
//!   these and until there is nothing; it does the work and says so with [`Node::on_done`].
//!
//! The same node runs under Linux, on microcontrollers and, with time and bytes of the test's making, in the simulator
//! (`runtime-rt/tests/node.rs`), which breaks links and devices in every way that it knows and asserts what is promised
//! here.
//!
//! # Frames
//!
//! `wire.rs` has the one format. Within a session a frame is accepted once (a window of 64 counters), and only if
//! session, sender, checksums and the length that its kind allows are right.
//!
//! | kind | says |
//! |---|---|
//! | `Hello` | ask, call or answer, with plan, boot and nonces (`session.rs`) |
//! | `Beat` | sign of life every `detect / 10`; clocks for the round trip; term and floor; acknowledges events |
//! | `Event` | items that everybody is to know: inferences and views (`gossip.rs`) |
//! | `Want` | the place of a message is free; which chunks are missing: credit, and request to repeat (`transfer.rs`) |
//! | `Have` | a message is there, or not needed any more |
//! | `Offer` | a message waits here and nothing was heard of it for a round trip |
//! | `Tensor` | a chunk, straight from and to the program's memory |
//! | `Probe` | eight of them tell the other end how fast the link is |
//!
//! # States
//!
//! - A **link** is closed, open, or in a session. The end that calls connects and greets for ever, with back-off up to
//!   0.4 s, or 0.1 s where connections are refused. A session ends when its connection closes or nothing was heard for
//!   `detect`; time for which this node itself was stopped does not count. A peer with another boot number has been
//!   restarted and is greeted beside the old session, which ends with the new one's first frame.
//! - A **view** is what a device says of itself: whom it can exchange tensors with. A link can be used if both its ends say
//!   so, a device if usable links lead to it. So nobody's word counts for a third, a broken link is told from a broken
//!   device, and what a device said before it vanished has no effect.
//! - An **inference** is begun by the device with the input, answered by the one with the output, or ended by the first.
//!   Numbers go up by one; nodes work on them in that order, as every node's schedule does, so exchanges meet. Only the
//!   device with the input decides: when a link or a device of a route goes, it ends the inference and tries the input again
//!   on another route while there is time. A *term* counts the lives of that device; what is of an earlier term is void.
//! - An **input** waits, runs, and ends in one [`Record`]; records come in the order of acceptance.
//! - The **program** is a list of steps, asked for one by one ([`Step`], [`Work`]). Nothing is asked for while a step runs,
//!   so what has been given up ends at the next step.
//!
//! # Timers
//!
//! Beat (`detect / 10`), silence (`detect`), call (10 ms, doubling to 400 ms, half of it random; at most 100 ms after a
//! refused connection), round trip (twice the smoothed measure and 2 ms, from 4 to 60 ms): events, wants and offers that
//! nothing came of are repeated then, doubling to 60 ms. A link that was lost is used again after 50 ms in a session,
//! doubling to 0.2 s with each loss in 10 s. An input's own deadline. A step that computes for longer than `detect` and
//! `hung_us` counts as hung: the node falls silent.
//!
//! # Invariants
//!
//! 1. Every accepted input has one record, at its deadline at the latest; none is made twice, none after another's that
//!    was accepted later.
//! 2. A chunk is written to memory only while its message is wanted in the inference under way and the chunk is missing;
//!    it counts when its check has come out right, and all of it was written. So no damage, duplicate or leftover reaches a
//!    program.
//! 3. A tensor's memory is not given back to the program before the other end has it (`bound`), nor wanted into before the
//!    program has left it.
//! 4. All memory is in [`Node`]; nothing is queued by length: at most `RECEIVES` messages wanted,
//!    `SENDS` handed over, one frame being sent per link, `TURNS` inferences, [`INPUTS`] inputs.
//! 5. An output is delivered once per input, also if the input was tried again after it.

mod decide;
mod gossip;
mod guest;
mod inputs;
mod keyed;
mod lead;
mod link;
pub mod plan;
pub mod random;
mod receive;
mod run;
mod send;
mod session;
mod steps;
mod transfer;
mod wire;

pub use guest::Guest;
pub use inputs::{INPUTS, Outcome, Record, Why};
pub use lead::Lead;
pub use link::{Greeting, Link, Order};
pub use plan::{Medium, Part, Peer, Plan, Route, Step};
pub use run::{Finished, Flow, Work};

use gossip::Known;
use inputs::Inputs;
use random::Random;
use run::Run;

use crate::noise::Entropy;
#[cfg(feature = "noise")]
use crate::noise::{Pair, Private, Public};

/// A program's memory, where tensors leave from and come to. Links write while the program computes, elsewhere.
pub trait Memory {
    /// Bytes that leave; fewer if there are not so many.
    fn read(&self, offset_bytes: usize, length: usize) -> &[u8];
    /// Bytes that come; what does not fit is dropped.
    fn write(&mut self, offset_bytes: usize, bytes: &[u8]);
}

impl Memory for [u8] {
    fn read(&self, offset_bytes: usize, length: usize) -> &[u8] {
        self.get(offset_bytes..offset_bytes.saturating_add(length)).unwrap_or_default()
    }

    fn write(&mut self, offset_bytes: usize, bytes: &[u8]) {
        let place = self.get_mut(offset_bytes..offset_bytes.saturating_add(bytes.len()));
        place.into_iter().for_each(|place| place.copy_from_slice(bytes));
    }
}

/// Memory of programs without any: nothing is read or written.
impl Memory for () {
    fn read(&self, _offset_bytes: usize, _length: usize) -> &[u8] {
        &[]
    }

    fn write(&mut self, _offset_bytes: usize, _bytes: &[u8]) {}
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that were damaged.
    pub damaged: u64,
    /// Frames that came twice.
    pub repeated: u64,
    /// Frames of another session.
    pub unknown: u64,
    /// Greetings of another plan.
    pub other_plans: u64,
    /// Greetings of who has no key, on links with keys.
    pub strangers: u64,
    /// Sessions that began.
    pub begun: u64,
    /// Sessions that ended because nothing was heard.
    pub silent: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Inferences that were tried again.
    pub tried_again: u64,
    /// Tensor bytes sent, repeated ones too.
    pub sent_bytes: u64,
}

impl Counters {
    /// All of them with their names, for metrics.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("tried_again_total", self.tried_again),
            ("sessions_begun_total", self.begun),
            ("sessions_silent_total", self.silent),
            ("connections_closed_total", self.closed),
            ("frames_damaged_total", self.damaged),
            ("frames_repeated_total", self.repeated),
            ("frames_unknown_total", self.unknown),
            ("greetings_of_other_plans_total", self.other_plans),
            ("greetings_without_key_total", self.strangers),
            ("sent_bytes_total", self.sent_bytes),
        ]
    }
}

/// A device's running program. `L` holds its links, at least as many as the plan has peers: an array where nothing can
/// be allocated.
pub struct Node<'p, L> {
    plan: Plan<'p>,
    /// Which life of this device; never 0.
    boot: u32,
    random: Random,
    /// Where keys of sessions come from; none if links have no keys.
    entropy: Option<Entropy>,
    /// What the clock said last, and time that has passed here: it never goes back.
    clock_us: Option<u64>,
    now_us: u64,
    links: L,
    known: Known,
    run: Run,
    inputs: Inputs,
    lead: Lead<'p>,
    counters: Counters,
}

impl<'p, const PEERS: usize> Node<'p, [Link; PEERS]> {
    /// A node that has just started, with room for so many peers. `seed` is of the device's random source and differs
    /// with every start.
    pub fn new(plan: Plan<'p>, seed: u64) -> Self {
        Node::with_links(core::array::from_fn(|_| Link::default()), plan, seed)
    }
}

impl<'p, L: AsRef<[Link]> + AsMut<[Link]>> Node<'p, L> {
    /// The same with links that are kept somewhere else, all of them new.
    pub fn with_links(mut links: L, plan: Plan<'p>, seed: u64) -> Node<'p, L> {
        let mut random = Random::new(seed);
        let boot = random.tag();
        let mut known = Known::new();
        known.set_own(plan.device, boot, 0, None);
        if plan.device == plan.input {
            known.begin_term(random.tag() >> 1 | 1, 0);
        }
        let first_input = random.tag();
        for (link, peer) in links.as_mut().iter_mut().zip(plan.peers) {
            link.open = peer.medium != Medium::Connection;
        }
        Node {
            plan,
            boot,
            random,
            entropy: None,
            clock_us: None,
            now_us: 0,
            links,
            known,
            run: Run::new(),
            inputs: Inputs::new(first_input),
            lead: Lead::new(&plan),
            counters: Counters::default(),
        }
    }

    /// From now on peers have to prove who they are, and what is said is sealed: this device's private key, its peers'
    /// public ones in the order of the plan, and 32 bytes of the device's random source, of which nobody else may know
    /// anything. To be called before anything else is; whether the keys can be used.
    #[cfg(feature = "noise")]
    #[must_use]
    pub fn set_keys(&mut self, private: &Private, peers: &[Public], secret: [u8; 32]) -> bool {
        self.entropy = Some(Entropy::new(secret));
        let own = self.plan.device;
        let mut keyed = 0;
        for ((link, peer), public) in self.links.as_mut().iter_mut().zip(self.plan.peers).zip(peers) {
            let ends = if peer.calls { (own, peer.device) } else { (peer.device, own) };
            let pair = Pair::new(private, public, (wire::VERSION, self.plan.hash), ends, peer.calls);
            keyed += usize::from(pair.is_some());
            link.talk.keyed = pair.map(keyed::Keyed::new);
        }
        keyed == self.plan.peers.len()
    }

    /// Whether peer number `link` has said last, and proven, that it is of another plan.
    pub fn is_of_another_plan(&self, link: usize) -> bool {
        let keyed = self.links.as_ref().get(link).and_then(|link| link.talk.keyed.as_ref());
        keyed.is_some_and(|keyed| keyed.differs)
    }

    /// Another time without a sign of life after which a peer is lost.
    pub fn set_detect_us(&mut self, detect_us: u32) {
        self.plan.detect_us = detect_us;
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether there is a session with peer number `link` of the plan.
    pub fn is_talking(&self, link: usize) -> bool {
        self.links.as_ref().get(link).is_some_and(|link| link.talk.session.is_some())
    }

    fn is_lead(&self) -> bool {
        self.plan.device == self.plan.input
    }

    fn detect_us(&self) -> u64 {
        self.plan.detect_us.into()
    }

    /// The device with the input has links probed that were slow.
    fn probe(&mut self) {
        let Some(peer) = self.lead.probe(&self.plan, self.now_us) else { return };
        let links = self.links.as_mut().iter_mut().zip(self.plan.peers);
        links.filter(|(_, with)| usize::from(with.device) == peer).for_each(|(link, _)| link.probe());
    }

    /// Time has passed. Clocks may begin anywhere, run a little fast or slow, stop, and jump.
    pub fn on_tick(&mut self, clock_us: u64) {
        let passed_us = clock_us.saturating_sub(self.clock_us.unwrap_or(clock_us));
        self.clock_us = Some(clock_us);
        self.now_us = self.now_us.saturating_add(passed_us);
        // A node that was stopped has heard nobody, which says nothing of them.
        let stopped_us = passed_us.saturating_sub(self.detect_us() / 3);
        for at in 0..self.plan.peers.len().min(self.links.as_ref().len()) {
            let (now_us, detect_us) = (self.now_us, self.detect_us());
            let Some(link) = self.links.as_mut().get_mut(at) else { continue };
            link.talk.forgive(stopped_us);
            let Some(peer) = self.plan.peers.get(at) else { continue };
            if link.talk.is_silent(now_us, detect_us) {
                self.counters.silent += 1;
                self.lose(at, true);
            } else if link.is_vain(peer, now_us, detect_us) {
                self.lose(at, true);
            }
        }
        self.see();
        self.probe();
    }

    /// When [`Node::on_tick`] is to be called at the latest, by the clock that it was given last.
    pub fn due_us(&self) -> u64 {
        let detect_us = self.detect_us();
        let links = self.links.as_ref().iter().zip(self.plan.peers);
        let links = links.map(|(link, peer)| link.due_us(peer, self.now_us, detect_us)).min().unwrap_or(u64::MAX);
        let inputs = self.inputs_due_us();
        let left_us = links.min(inputs).saturating_sub(self.now_us);
        self.clock_us.unwrap_or(0).saturating_add(left_us)
    }

    /// A connection to a peer is there; one that was there before is not used any more.
    pub fn on_connected(&mut self, link: usize) {
        if self.is_talking(link) {
            self.lose(link, false);
        }
        let now_us = self.now_us;
        if let Some(link) = self.links.as_mut().get_mut(link) {
            link.connected(now_us);
        }
    }

    /// The connection to a peer was closed, or could not be made.
    pub fn on_closed(&mut self, link: usize) {
        self.counters.closed += u64::from(self.is_talking(link));
        self.lose(link, false);
        if let Some(link) = self.links.as_mut().get_mut(link) {
            if !core::mem::take(&mut link.open) {
                link.talk.refused(self.now_us, &mut self.random);
            }
        }
        self.see();
    }

    /// A session is over.
    fn lose(&mut self, at: usize, close: bool) {
        let Some((link, peer)) = self.links.as_mut().get_mut(at).zip(self.plan.peers.get(at)) else { return };
        link.lose(peer, close, self.now_us, &mut self.random);
    }

    /// Says anew whom this device can exchange tensors with.
    fn see(&mut self) {
        // Where there is no other route, nothing is gained by waiting until a link has proven itself.
        let waits = self.plan.routes.len() > 1;
        let is_good = |link: &Link| link.talk.session.is_some() && (!waits || link.talk.is_good(self.now_us));
        let good = self.links.as_ref().iter().zip(self.plan.peers).filter(|(link, _)| is_good(link));
        let sees = good.fold(0u64, |sees, (_, peer)| sees | 1 << (peer.device % 64));
        let mut links = self.links.as_mut().iter_mut().zip(self.plan.peers);
        let rate = links.find_map(|(link, peer)| link.rate_event().map(|rate| (peer.device, rate)));
        self.known.set_own(self.plan.device, self.boot, sees, rate);
    }
}
