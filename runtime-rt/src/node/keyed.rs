//! What a link with keys has beside its sessions: greetings that only its two devices can make, and the keys of sessions.
//!
//! | bytes | field of a greeting's payload |
//! |---|---|
//! | 0..4 | stage, 0, 0, 0 |
//! | 4..12 | mark of the plan: a code of its hash |
//! | 12..64 | the message of Noise; 0 where the peer is asked to call |
//! | 64..80 | code over the sender, bytes 0..64 and, in an answer, the ephemeral key that it answers |
//!
//! The code costs a hash, so who has neither key costs no more than that. Who sends an old call once more costs a token, of
//! which there are [`TOKENS`] and one more every [`TOKEN_US`], and gets an answer that is of no use to him: a session begins
//! with the first frame under its keys.

use super::session::Stage;
use super::wire::{Put, Take};
use crate::noise::{CODE_BYTES, Call, Entropy, KEY_BYTES, Key, MARK_BYTES, MESSAGE_BYTES, Pair, Public, Transport};

/// Bytes of a greeting's payload.
pub(crate) const KEYED_HELLO_BYTES: usize = CODED_BYTES + CODE_BYTES;

/// Those that the code is over.
const CODED_BYTES: usize = 4 + MARK_BYTES + MESSAGE_BYTES;

/// Most calls that are answered at once, of which nothing came.
const TOKENS: u8 = 8;

/// How long it takes until one more is answered.
const TOKEN_US: u64 = 250_000;

/// A session's keys are used no longer than this.
const REKEY_US: u64 = 120_000_000;

/// Nor for more frames; their numbers have 32 bits.
const REKEY_FRAMES: u32 = 1 << 31;

/// Keys by which frames are opened.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'k> {
    current: Option<&'k Transport>,
    offered: Option<&'k Transport>,
}

impl<'k> Keys<'k> {
    /// Of a session that is offered, if there is one, and nothing else.
    pub(crate) fn offered(offer: Option<&'k Offer>) -> Keys<'k> {
        Keys { current: None, offered: offer.map(|offer| &offer.keys) }
    }

    /// The key of what the other end says in a session.
    pub(crate) fn of(self, session: u32) -> Option<&'k Key> {
        let both = self.current.into_iter().chain(self.offered);
        both.into_iter().find(|keys| keys.id == session).map(|keys| &keys.receive)
    }
}

/// A session that this end has offered to who has called.
pub(crate) struct Offer {
    /// Which life of the peer has called.
    pub(crate) life: u32,
    pub(crate) keys: Transport,
    /// Who calls once more with this key is answered the same.
    ephemeral: Public,
    answer: [u8; MESSAGE_BYTES],
}

impl Offer {
    /// Whether this call is the one that it answers.
    pub(crate) fn is_of(&self, call: &[u8; MESSAGE_BYTES]) -> bool {
        call.starts_with(&self.ephemeral)
    }
}

/// What a greeting has said.
pub(crate) enum Heard {
    /// It is not the peer's.
    Stranger,
    /// The peer's, of another plan.
    OtherPlan,
    /// The peer's, and of the past.
    Old,
    /// The peer asks to be called.
    Ask,
    /// The peer calls.
    Call([u8; MESSAGE_BYTES]),
    /// The peer answers: which life of it, and the session's keys.
    Answer(u32, Transport),
}

/// A link with keys.
pub(crate) struct Keyed {
    pair: Pair,
    /// The call under way.
    call: Option<(Call, [u8; MESSAGE_BYTES])>,
    current: Option<Transport>,
    pub(super) offered: Option<Offer>,
    /// Since when the keys are used.
    since_us: u64,
    tokens: u8,
    token_at_us: u64,
    /// The peer's last greeting was of another plan.
    pub(super) differs: bool,
}

impl Keyed {
    #[cfg(feature = "noise")]
    pub(crate) fn new(pair: Pair) -> Keyed {
        Keyed {
            pair,
            call: None,
            current: None,
            offered: None,
            since_us: 0,
            tokens: TOKENS,
            token_at_us: 0,
            differs: false,
        }
    }

    /// Keys by which frames of this link are opened.
    pub(crate) fn keys(&self) -> Keys<'_> {
        Keys { current: self.current.as_ref(), offered: self.offered.as_ref().map(|offer| &offer.keys) }
    }

    /// The key of what this end says.
    pub(crate) fn sends_with(&self) -> Option<&Key> {
        self.current.as_ref().map(|keys| &keys.send)
    }

    /// Whether other keys are due.
    pub(crate) fn is_worn(&self, sent: u32, now_us: u64) -> bool {
        sent >= REKEY_FRAMES || now_us >= self.since_us + REKEY_US
    }

    /// A session begins with these keys.
    pub(crate) fn begin(&mut self, keys: Transport, now_us: u64) {
        (self.current, self.since_us) = (Some(keys), now_us);
        // The greeting has led to something.
        self.tokens = (self.tokens + 1).min(TOKENS);
    }

    /// The session is over.
    pub(crate) fn lose(&mut self) {
        (self.current, self.offered) = (None, None);
    }

    fn spend(&mut self, now_us: u64) -> bool {
        while self.tokens < TOKENS && now_us >= self.token_at_us + TOKEN_US {
            self.tokens += 1;
            self.token_at_us += TOKEN_US;
        }
        if self.tokens == TOKENS {
            self.token_at_us = now_us;
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    /// A greeting's payload; none where there is nothing to say.
    pub(crate) fn greeting(
        &mut self,
        stage: Stage,
        (sender, life): (u8, u32),
        entropy: &mut Entropy,
    ) -> Option<[u8; KEYED_HELLO_BYTES]> {
        match stage {
            Stage::Ask => Some(self.emit(stage, sender, &[0; MESSAGE_BYTES], &[])),
            Stage::Call => {
                if self.call.is_none() {
                    self.call = self.pair.call(life, entropy);
                }
                let (_, message) = self.call.as_ref()?;
                Some(self.emit(stage, sender, message, &[]))
            }
            Stage::Answer => self.offered.as_ref().map(|offer| self.answer_of(offer, sender)),
        }
    }

    /// The greeting that offers a session.
    pub(crate) fn answer_of(&self, offer: &Offer, sender: u8) -> [u8; KEYED_HELLO_BYTES] {
        self.emit(Stage::Answer, sender, &offer.answer, &offer.ephemeral)
    }

    fn emit(&self, stage: Stage, sender: u8, message: &[u8; MESSAGE_BYTES], of: &[u8]) -> [u8; KEYED_HELLO_BYTES] {
        let mut bytes = [0; KEYED_HELLO_BYTES];
        let mut put = Put(&mut bytes);
        put.all(&[stage.to_byte(), 0, 0, 0]);
        put.all(self.pair.mark());
        put.all(message);
        let (coded, code) = bytes.split_at_mut(CODED_BYTES);
        Put(code).all(&self.pair.code(&[&[sender], coded, of]));
        bytes
    }

    /// A greeting has come from the peer, or from somebody who says so.
    pub(crate) fn hear(&mut self, sender: u8, payload: &[u8]) -> Heard {
        let Some((coded, code)) = payload.split_at_checked(CODED_BYTES) else { return Heard::Stranger };
        let mut take = Take(coded);
        let (Some([stage, 0, 0, 0]), Some(mark), Some(message)) =
            (take.bytes(), take.bytes::<MARK_BYTES>(), take.bytes::<MESSAGE_BYTES>())
        else {
            return Heard::Stranger;
        };
        let (Some(stage), Ok(code)) = (Stage::from_byte(stage), code.try_into()) else { return Heard::Stranger };
        let of = match (stage, &self.call) {
            (Stage::Answer, None) => return Heard::Old,
            (Stage::Answer, Some((_, message))) => message.get(..KEY_BYTES).unwrap_or_default(),
            _ => &[],
        };
        if !self.pair.is_coded(&[&[sender], coded, of], code) {
            // An answer to an earlier call is the peer's, too, but nothing says so.
            return if stage == Stage::Answer { Heard::Old } else { Heard::Stranger };
        }
        self.differs = mark != *self.pair.mark();
        if self.differs {
            return Heard::OtherPlan;
        }
        match stage {
            Stage::Ask => Heard::Ask,
            Stage::Call => Heard::Call(message),
            Stage::Answer => {
                let finished = self.call.as_ref().and_then(|(call, _)| call.finish(&self.pair, &message));
                let Some((life, keys)) = finished else { return Heard::Stranger };
                self.call = None;
                Heard::Answer(life, keys)
            }
        }
    }

    /// Whether this call was answered already, and the session is still offered.
    pub(crate) fn has_answered(&self, message: &[u8; MESSAGE_BYTES]) -> bool {
        self.offered.as_ref().is_some_and(|offer| offer.is_of(message))
    }

    /// A session for who has called with this message; none if it is nobody, or if too many came of which nothing came.
    pub(crate) fn offer(
        &mut self,
        message: &[u8; MESSAGE_BYTES],
        life: u32,
        entropy: &mut Entropy,
        now_us: u64,
    ) -> Option<Offer> {
        if !self.spend(now_us) {
            return None;
        }
        let ephemeral = *message.first_chunk()?;
        let (theirs, answer, keys) = self.pair.answer(message, life, entropy)?;
        Some(Offer { life: theirs, keys, ephemeral, answer })
    }
}
