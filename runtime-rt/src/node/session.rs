//! Sessions: how two nodes agree that they are talking now, and notice when they no longer are.
//!
//! The end that calls sends a greeting with a fresh nonce; the other answers with its own; both mixed are the session's
//! number. The answering end keeps the session it has until a frame of the new one comes, so a replayed or forged
//! greeting cuts nothing. With keys, the two greetings are the two messages of Noise KK (`keyed.rs`), and the session's
//! number comes of them.

use super::keyed::{Heard, Keyed, Keys, Offer};
use super::plan::{Medium, Peer};
use super::random::Random;
use super::wire::{HELLO_BYTES, Put, Take};
use crate::noise::{Entropy, Key, Transport};

/// Shortest time between two greetings or connections.
const FIRST_CALL_US: u64 = 10_000;

/// Longest.
const LAST_CALL_US: u64 = 400_000;

/// Longest where the last call was refused: that is known at once and costs next to nothing, and a device whose program
/// is started again refuses until it listens. A call that nobody answers is given longer, since one that is given up
/// before its answer can have come never gets through.
const LAST_REFUSED_US: u64 = 100_000;

/// How long a link that was lost has to be good before inferences are sent over it, at first; it doubles with each
/// loss.
const FIRST_HOLD_US: u64 = 50_000;

/// Longest such time: less than it takes to notice silence, so that who returns is of use again before it would be
/// missed.
const LAST_HOLD_US: u64 = 200_000;

/// After so long without a loss a link is as good as new.
const FORGIVEN_US: u64 = 10_000_000;

/// Which of the greetings one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Asks the other end to call: it speaks of a session that is not known here.
    Ask,
    /// The end that calls.
    Call,
    /// The other.
    Answer,
}

impl Stage {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Stage::Ask => 0,
            Stage::Call => 1,
            Stage::Answer => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Stage> {
        Some(match byte {
            0 => Stage::Ask,
            1 => Stage::Call,
            2 => Stage::Answer,
            _ => return None,
        })
    }
}

/// A greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) stage: Stage,
    pub(crate) plan_hash: u64,
    /// Differs each time the device starts.
    pub(crate) boot: u32,
    pub(crate) caller_nonce: u32,
    pub(crate) answer_nonce: u32,
}

impl Hello {
    pub(crate) fn emit(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut put = Put(&mut bytes);
        put.all(&[self.stage.to_byte(), 0, 0, 0]);
        put.all(&self.plan_hash.to_le_bytes());
        put.all(&self.boot.to_le_bytes());
        put.all(&self.caller_nonce.to_le_bytes());
        put.all(&self.answer_nonce.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Hello> {
        let mut take = Take(bytes);
        let [stage, 0, 0, 0] = take.bytes()? else { return None };
        let stage = Stage::from_byte(stage)?;
        let plan_hash = take.u64()?;
        let (boot, caller_nonce, answer_nonce) = (take.u32()?, take.u32()?, take.u32()?);
        Some(Hello { stage, plan_hash, boot, caller_nonce, answer_nonce })
    }
}

/// Counters that have come: the highest, and which of the 64 up to it.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    top: u32,
    bits: u64,
}

impl Window {
    /// Whether a counter comes for the first time; it is noted.
    fn accept(&mut self, counter: u32) -> bool {
        if counter > self.top {
            let ahead = counter - self.top;
            self.bits = if ahead < 64 { self.bits << ahead | 1 } else { 1 };
            self.top = counter;
            return true;
        }
        let behind = self.top - counter;
        if behind >= 64 || self.bits >> behind & 1 == 1 {
            return false;
        }
        self.bits |= 1 << behind;
        true
    }
}

/// An accepted conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) id: u32,
    /// Which life of the peer.
    pub(crate) boot: u32,
    /// Frames sent.
    pub(crate) sent: u32,
    window: Window,
}

/// What came of a frame's session number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It belongs here.
    Yes,
    /// It belongs here and is the first of a new session; whether the peer has been restarted since the last.
    New { restarted: bool },
    /// It was here before.
    Again,
    /// It is of another session.
    Unknown,
}

/// What came of a keyed greeting.
pub(crate) enum Greeted {
    /// Nothing yet.
    Nothing,
    /// It is nobody's who has a key.
    Stranger,
    /// The peer's, of another plan.
    OtherPlan,
    /// A session has begun; whether the peer has been restarted since the last.
    Begun { restarted: bool },
}

/// The conversations with one peer.
pub(crate) struct Talk {
    /// Keys, where the link has any.
    pub(super) keyed: Option<Keyed>,
    pub(crate) session: Option<Session>,
    /// The session that this one has taken the place of; 0 if none. What is still on its way of it is of no use.
    previous: u32,
    /// One that is offered to the peer and not yet taken.
    offered: Option<Session>,
    /// Nonces of that offer, or of the own call.
    caller_nonce: u32,
    answer_nonce: u32,
    /// A greeting that is to be sent now.
    reply: Option<Stage>,
    /// When to call next, and how long to wait after that.
    pub(crate) call_at_us: u64,
    call_wait_us: u64,
    /// Which life of the peer was talked to last; 0 if none.
    last_boot: u32,
    /// When the peer was heard last, in a session.
    heard_us: u64,
    /// Since when there is a session, and how long it has to be good.
    since_us: u64,
    hold_us: u64,
    /// When the peer was asked to call last.
    asked_us: u64,
}

impl Talk {
    pub(crate) const fn new() -> Talk {
        Talk {
            keyed: None,
            session: None,
            previous: 0,
            offered: None,
            caller_nonce: 0,
            answer_nonce: 0,
            reply: None,
            call_at_us: 0,
            call_wait_us: FIRST_CALL_US,
            last_boot: 0,
            heard_us: 0,
            since_us: 0,
            hold_us: 0,
            asked_us: 0,
        }
    }

    /// Whether the link is good enough for inferences.
    pub(crate) fn is_good(&self, now_us: u64) -> bool {
        self.session.is_some() && now_us >= self.good_at_us()
    }

    /// When a link with a session is good enough.
    pub(crate) fn good_at_us(&self) -> u64 {
        self.since_us + self.hold_us
    }

    /// Whether the peer has said nothing for too long.
    pub(crate) fn is_silent(&self, now_us: u64, detect_us: u64) -> bool {
        self.session.is_some() && now_us >= self.heard_us + detect_us
    }

    /// When it will have.
    pub(crate) fn silent_at_us(&self, detect_us: u64) -> u64 {
        if self.session.is_some() { self.heard_us + detect_us } else { u64::MAX }
    }

    /// This device itself was stopped for a while: nobody else was silent then.
    pub(crate) fn forgive(&mut self, us: u64) {
        self.heard_us += us;
    }

    /// The session is over.
    pub(crate) fn lose(&mut self, now_us: u64, random: &mut Random) {
        (self.offered, self.reply, self.previous) = (None, None, 0);
        self.keyed.iter_mut().for_each(Keyed::lose);
        if self.session.take().is_some() {
            if now_us > self.since_us + FORGIVEN_US {
                self.hold_us = 0;
            }
            self.hold_us = (self.hold_us * 2).clamp(FIRST_HOLD_US, LAST_HOLD_US);
            self.call_wait_us = FIRST_CALL_US;
        }
        // Many that lose the same peer do not call it at the same moment.
        self.call_at_us = now_us + random.below(self.call_wait_us);
    }

    /// A connection could not be made; the next attempt is not far.
    pub(crate) fn refused(&mut self, now_us: u64, random: &mut Random) {
        self.call_wait_us = self.call_wait_us.min(LAST_REFUSED_US);
        self.call_at_us = now_us + random.below(self.call_wait_us);
    }

    /// Whether it is time to call; the next time is later.
    pub(crate) fn calls_now(&mut self, now_us: u64, random: &mut Random) -> bool {
        if self.session.is_some() || now_us < self.call_at_us {
            return false;
        }
        self.call_at_us = now_us + self.call_wait_us / 2 + random.below(self.call_wait_us / 2);
        self.call_wait_us = (self.call_wait_us * 2).min(LAST_CALL_US);
        true
    }

    /// A new connection: the first greeting goes at once.
    pub(crate) fn connected(&mut self, now_us: u64) {
        self.call_at_us = now_us;
    }

    /// A greeting to send now.
    pub(crate) fn greeting(&mut self, peer: &Peer, now_us: u64, random: &mut Random) -> Option<(Stage, u32, u32)> {
        let worn = self.keyed.as_ref().zip(self.session);
        if peer.calls && worn.is_some_and(|(keyed, session)| keyed.is_worn(session.sent, now_us)) {
            self.call_again(now_us, random);
        }
        if let Some(stage) = self.reply.take() {
            return Some((stage, self.caller_nonce, self.answer_nonce));
        }
        if peer.calls && self.calls_now(now_us, random) {
            if self.caller_nonce == 0 {
                self.caller_nonce = random.tag();
            }
            return Some((Stage::Call, self.caller_nonce, 0));
        }
        None
    }

    /// A greeting of this plan has come; whether a session has begun, and with a restarted peer.
    pub(crate) fn hear(&mut self, hello: &Hello, peer: &Peer, now_us: u64, random: &mut Random) -> Option<bool> {
        match (hello.stage, peer.calls) {
            // The peer knows nothing of the session: a new one is agreed on beside it.
            (Stage::Ask, true) => {
                if self.session.is_some() {
                    self.call_again(now_us, random);
                }
                None
            }
            (Stage::Call, false) => {
                if self.offered.is_none() || self.caller_nonce != hello.caller_nonce {
                    (self.caller_nonce, self.answer_nonce) = (hello.caller_nonce, random.tag());
                }
                let id = mix(self.caller_nonce, self.answer_nonce);
                if self.session.is_none_or(|session| session.id != id) {
                    self.offered = Some(Session { id, boot: hello.boot, sent: 0, window: Window::default() });
                    self.reply = Some(Stage::Answer);
                }
                None
            }
            (Stage::Answer, true) if hello.caller_nonce == self.caller_nonce && self.caller_nonce != 0 => {
                let id = mix(hello.caller_nonce, hello.answer_nonce);
                self.caller_nonce = 0;
                Some(self.begin(Session { id, boot: hello.boot, sent: 0, window: Window::default() }, now_us))
            }
            _ => None,
        }
    }

    /// A greeting has come on a link with keys. `life` is that of this device.
    pub(crate) fn hear_keyed(
        &mut self,
        payload: &[u8],
        peer: &Peer,
        (life, now_us): (u32, u64),
        (entropy, random): (&mut Entropy, &mut Random),
    ) -> Greeted {
        let Some(keyed) = self.keyed.as_mut() else { return Greeted::Stranger };
        match (keyed.hear(peer.device, payload), peer.calls) {
            (Heard::Stranger, _) | (Heard::Ask | Heard::Answer(..), false) | (Heard::Call(_), true) => {
                Greeted::Stranger
            }
            (Heard::OtherPlan, _) => Greeted::OtherPlan,
            (Heard::Old, _) => Greeted::Nothing,
            (Heard::Ask, true) => {
                if self.session.is_some() {
                    self.call_again(now_us, random);
                }
                Greeted::Nothing
            }
            (Heard::Call(message), false) => {
                if keyed.has_answered(&message) {
                    self.reply = Some(Stage::Answer);
                } else if let Some(offer) = keyed.offer(&message, life, entropy, now_us) {
                    self.offer(offer);
                    self.reply = Some(Stage::Answer);
                }
                Greeted::Nothing
            }
            (Heard::Answer(life, keys), true) => {
                self.caller_nonce = 0;
                let session = Session { id: keys.id, boot: life, sent: 0, window: Window::default() };
                Greeted::Begun { restarted: self.begin_keyed(session, keys, now_us) }
            }
        }
    }

    /// A session is offered to who has called.
    pub(crate) fn offer(&mut self, offer: Offer) {
        self.offered = Some(Session { id: offer.keys.id, boot: offer.life, sent: 0, window: Window::default() });
        self.keyed.iter_mut().for_each(|keyed| keyed.offered = None);
        if let Some(keyed) = self.keyed.as_mut() {
            keyed.offered = Some(offer);
        }
    }

    fn begin_keyed(&mut self, session: Session, keys: Transport, now_us: u64) -> bool {
        if let Some(keyed) = self.keyed.as_mut() {
            keyed.begin(keys, now_us);
        }
        self.begin(session, now_us)
    }

    /// Keys by which frames of this link are opened; none on a link without.
    pub(crate) fn keys(&self) -> Option<Keys<'_>> {
        self.keyed.as_ref().map(Keyed::keys)
    }

    /// Whether the link has keys and no session or numbers left under them; else the key of what this end says, if any.
    pub(crate) fn sends_with(&self) -> Result<Option<&Key>, Spent> {
        let Some(keyed) = &self.keyed else { return Ok(None) };
        let left = self.session.is_some_and(|session| session.sent < u32::MAX);
        keyed.sends_with().filter(|_| left).map(Some).ok_or(Spent)
    }

    /// Whether a frame of a session is to be looked at.
    pub(crate) fn accept(&mut self, session: u32, counter: u32, now_us: u64) -> Accepted {
        if let Some(current) = self.session.as_mut().filter(|current| current.id == session) {
            if !current.window.accept(counter) {
                return Accepted::Again;
            }
            self.heard_us = now_us;
            return Accepted::Yes;
        }
        if let Some(mut offered) = self.offered.take_if(|offered| offered.id == session) {
            offered.window.accept(counter);
            let keys = self.keyed.as_mut().and_then(|keyed| keyed.offered.take()).map(|offer| offer.keys);
            let restarted = match keys {
                Some(keys) => self.begin_keyed(offered, keys, now_us),
                None => self.begin(offered, now_us),
            };
            return Accepted::New { restarted };
        }
        Accepted::Unknown
    }

    /// A frame of an unknown session has come: the other end is told, now and then.
    ///
    /// Not of the session before: the other end says things in it until this one's first frame is there, and what it
    /// has said comes for as long again. Where that takes longer than [`FIRST_CALL_US`], each session would call for
    /// the next before anything has come in it. If the other end does not take this session, it asks.
    pub(crate) fn ask(&mut self, session: u32, peer: &Peer, now_us: u64, random: &mut Random) {
        if self.previous == session && session != 0 {
            return;
        }
        if peer.calls {
            if self.session.is_some() {
                self.call_again(now_us, random);
            }
        } else if now_us >= self.asked_us + FIRST_CALL_US && self.reply.is_none() {
            self.asked_us = now_us;
            self.reply = Some(Stage::Ask);
        }
    }

    /// Calls beside the session that there is; the same call again while it is not answered.
    fn call_again(&mut self, now_us: u64, random: &mut Random) {
        if now_us < self.asked_us + FIRST_CALL_US {
            return;
        }
        self.asked_us = now_us;
        if self.caller_nonce == 0 {
            self.caller_nonce = random.tag();
        }
        self.reply = Some(Stage::Call);
    }

    fn begin(&mut self, session: Session, now_us: u64) -> bool {
        let restarted = self.last_boot != session.boot;
        if self.session.is_none() {
            self.since_us = now_us;
        }
        self.previous = self.session.map_or(0, |session| session.id);
        (self.last_boot, self.heard_us) = (session.boot, now_us);
        (self.session, self.offered, self.call_wait_us) = (Some(session), None, FIRST_CALL_US);
        restarted
    }
}

/// A session has no numbers left, or there is none: nothing can be said.
pub(crate) struct Spent;

/// Whether a link of this medium ends with its session.
pub(crate) fn is_closed_with_session(medium: Medium) -> bool {
    medium == Medium::Connection
}

/// The number of a session; never 0.
fn mix(caller_nonce: u32, answer_nonce: u32) -> u32 {
    let both = u64::from(caller_nonce) << 32 | u64::from(answer_nonce);
    Random::new(both).tag()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_comes_once() {
        let mut window = Window::default();
        for (counter, new) in
            [(1, true), (1, false), (3, true), (2, true), (2, false), (100, true), (37, true), (36, false)]
        {
            assert_eq!(window.accept(counter), new, "{counter}");
        }
        assert!(window.accept(u32::MAX) && !window.accept(u32::MAX) && !window.accept(100));
    }

    fn peer(calls: bool) -> Peer {
        Peer { device: 0, medium: Medium::Line, chunk_bytes: 64, calls }
    }

    /// Exchanges greetings until nobody has any; whether both ends have begun the same session.
    fn greet(caller: &mut Talk, other: &mut Talk, boots: (u32, u32), now_us: u64) -> bool {
        let mut random = Random::new(now_us + u64::from(boots.0));
        let hello =
            |(stage, caller_nonce, answer_nonce), boot| Hello { stage, plan_hash: 1, boot, caller_nonce, answer_nonce };
        let call = caller.greeting(&peer(true), now_us, &mut random).expect("it calls");
        other.hear(&hello(call, boots.0), &peer(false), now_us, &mut random);
        let answer = other.greeting(&peer(false), now_us, &mut random).expect("it answers");
        caller.hear(&hello(answer, boots.1), &peer(true), now_us, &mut random);
        let session = caller.session.expect("the answer is enough");
        matches!(other.accept(session.id, 1, now_us), Accepted::New { .. })
            && other.session.is_some_and(|s| s.id == session.id)
    }

    #[test]
    fn a_peer_that_returns_before_it_was_missed_is_talked_to_at_once() {
        let (mut caller, mut other) = (Talk::new(), Talk::new());
        assert!(greet(&mut caller, &mut other, (7, 8), 1000));
        let old = other.session.expect("there is one").id;
        // The caller starts anew; until its first frame the old session stays.
        let mut again = Talk::new();
        let mut random = Random::new(5);
        let (stage, caller_nonce, _) = again.greeting(&peer(true), 2000, &mut random).expect("it calls");
        let call = Hello { stage, plan_hash: 1, boot: 9, caller_nonce, answer_nonce: 0 };
        other.hear(&call, &peer(false), 2000, &mut random);
        assert_eq!(other.accept(old, 2, 2000), Accepted::Yes, "a greeting alone cuts nothing");
        let (_, _, answer_nonce) = other.greeting(&peer(false), 2000, &mut random).expect("it answers");
        let answer = Hello { stage: Stage::Answer, plan_hash: 1, boot: 8, caller_nonce, answer_nonce };
        assert_eq!(again.hear(&answer, &peer(true), 2000, &mut random), Some(true));
        let new = again.session.expect("there is one").id;
        assert_eq!(other.accept(new, 1, 2000), Accepted::New { restarted: true });
        assert_eq!(other.accept(old, 3, 2000), Accepted::Unknown, "frames of the old session are of the past");
        assert_eq!(other.accept(new, 1, 2000), Accepted::Again, "and none comes twice");
    }

    #[test]
    fn what_is_on_its_way_of_the_session_before_calls_for_no_other() {
        let (mut caller, mut other) = (Talk::new(), Talk::new());
        let mut random = Random::new(3);
        assert!(greet(&mut caller, &mut other, (7, 8), 1000));
        let before = caller.session.expect("there is one").id;
        let unknown = before ^ 1;
        caller.ask(unknown, &peer(true), 20_000, &mut random);
        assert!(greet(&mut caller, &mut other, (7, 8), 20_000), "a session that nobody knows is reason to call");
        // So long after the last call that another one would be made.
        for (end, calls) in [(&mut caller, true), (&mut other, false)] {
            end.ask(before, &peer(calls), 50_000, &mut random);
            assert_eq!(end.greeting(&peer(calls), 50_000, &mut random), None);
            end.ask(unknown, &peer(calls), 50_000, &mut random);
            assert!(end.greeting(&peer(calls), 50_000, &mut random).is_some());
        }
    }

    #[test]
    fn who_refuses_is_called_again_soon_and_who_is_silent_less_often() {
        let mut random = Random::new(1);
        for (refuses, least_us, most_us) in [(true, 0, LAST_REFUSED_US), (false, LAST_CALL_US / 2, LAST_CALL_US)] {
            let (mut talk, mut now_us) = (Talk::new(), 0);
            for call in 0..200 {
                assert!(talk.calls_now(now_us, &mut random) && !talk.calls_now(now_us, &mut random));
                if refuses {
                    talk.refused(now_us, &mut random);
                }
                let wait_us = talk.call_at_us - now_us;
                assert!(call < 8 || (least_us..=most_us).contains(&wait_us), "{wait_us} us after call {call}");
                now_us = talk.call_at_us;
            }
            assert!(now_us > 100 * most_us / 4, "{now_us} us for all: calls are not one behind the other");
        }
    }

    #[test]
    fn a_link_that_was_lost_has_to_be_good_for_longer_each_time() {
        let (mut caller, mut other) = (Talk::new(), Talk::new());
        let mut random = Random::new(1);
        let mut holds = std::vec::Vec::new();
        for round in 0..4u64 {
            let now_us = 1000 + round * 100_000;
            caller.call_at_us = 0;
            assert!(greet(&mut caller, &mut other, (7, 8), now_us));
            holds.push(caller.good_at_us() - now_us);
            caller.lose(now_us, &mut random);
            other.lose(now_us, &mut random);
        }
        assert_eq!(holds, [0, 50_000, 100_000, 200_000]);
    }
}
