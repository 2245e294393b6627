//! The handshake: one message each way, after which both ends have the same keys and know that the other has its own.
//!
//! ```text
//! -> s, <- s, known beforehand
//! -> e, es, ss, payload      Pair::call
//! <- e, ee, se, payload      Pair::answer, Call::finish
//! ```

use curve25519_dalek::constants::X25519_BASEPOINT;
use curve25519_dalek::montgomery::MontgomeryPoint;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Entropy;
use super::hash::{HASH_BYTES, hash, hkdf, hmac};
use super::sizes::{CODE_BYTES, KEY_BYTES, MARK_BYTES, MESSAGE_BYTES, PAYLOAD_BYTES, Public, TAG_BYTES};
use super::stream::{Key, Stream};

/// The name of what is spoken here.
const NAME: &[u8] = b"Noise_KK_25519_ChaChaPoly_BLAKE2s";

/// What both ends must agree on beforehand. Two devices have one link, so who calls whom is the link.
///
/// Version of the frames, first eight bytes of the plan's SHA-256, numbers of the device that calls and of the other.
pub fn prologue(version: u8, plan_hash: u64, caller: u8, other: u8) -> [u8; 18] {
    let mut bytes = [0; 18];
    let fields = b"partita".iter().copied().chain([version]).chain(plan_hash.to_le_bytes()).chain([caller, other]);
    bytes.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
    bytes
}

/// A device's private key, which never leaves it.
#[derive(Clone)]
pub struct Private([u8; KEY_BYTES]);

impl Private {
    /// A key of any 32 bytes that nobody guesses.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Private {
        Private(bytes)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> Public {
        X25519_BASEPOINT.mul_clamped(self.0).to_bytes()
    }

    /// X25519 (RFC 7748). None with a point of a small subgroup, from which everybody knows the result.
    fn agree(&self, public: &Public) -> Option<Secret> {
        let shared = Secret(MontgomeryPoint(*public).mul_clamped(self.0).to_bytes());
        let known: bool = shared.0.ct_eq(&[0; KEY_BYTES]).into();
        (!known).then_some(shared)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What two keys share.
struct Secret([u8; KEY_BYTES]);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Noise's symmetric state (section 5.2).
struct Symmetric {
    chaining: [u8; HASH_BYTES],
    hash: [u8; HASH_BYTES],
    key: Key,
}

impl Symmetric {
    fn new(begun: &[u8; HASH_BYTES]) -> Symmetric {
        Symmetric { chaining: hash(&[NAME]), hash: *begun, key: Key([0; 32]) }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn mix_key(&mut self, secret: &Secret) {
        let (chaining, key) = hkdf(&self.chaining, &secret.0);
        self.chaining.zeroize();
        (self.chaining, self.key) = (chaining, Key(key));
    }

    /// Seals a payload in its place. Each key seals one.
    fn seal(&mut self, payload: &mut [u8]) -> [u8; TAG_BYTES] {
        let mut stream = Stream::new(&self.key, 0, &self.hash);
        stream.seal(payload);
        let tag = stream.tag();
        self.hash = hash(&[&self.hash, payload, &tag]);
        tag
    }

    /// Opens a payload in its place; whether it was sealed with this.
    fn open(&mut self, payload: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        let hash = hash(&[&self.hash, payload, tag]);
        let mut stream = Stream::new(&self.key, 0, &self.hash);
        stream.open(payload);
        self.hash = hash;
        stream.checks(tag)
    }

    /// The keys of what is said from now on: of the end that has called, and of the other.
    fn split(&self) -> (Key, Key) {
        let (calls, answers) = hkdf(&self.chaining, &[]);
        (Key(calls), Key(answers))
    }

    /// A number for the session that both ends know; never 0.
    fn id(&self) -> u32 {
        let [a, b, c, d, ..] = self.hash;
        u32::from_le_bytes([a, b, c, d]) | 1
    }
}

impl Drop for Symmetric {
    fn drop(&mut self) {
        self.chaining.zeroize();
    }
}

/// Keys of a session.
#[derive(Clone)]
pub struct Transport {
    /// For what this end says.
    pub send: Key,
    /// For what the other end says.
    pub receive: Key,
    /// Number of the session, the same at both ends; never 0.
    pub id: u32,
}

/// What a device needs to greet one of its peers.
pub struct Pair {
    private: Private,
    peer: Public,
    /// What both private keys share: no message has to compute it.
    shared: Secret,
    /// The hash with which every handshake begins: prologue, key of the end that calls, key of the other.
    begun: [u8; HASH_BYTES],
    code_key: Secret,
    /// Says to whom has one of the keys which plan it is, and nothing to others.
    mark: [u8; MARK_BYTES],
}

impl Pair {
    /// The device with key `private` and its peer, of which `calls` says whether this end begins. `link` are the numbers of
    /// the end that calls and of the other.
    ///
    /// None if the peer's key is none that anybody could have made.
    pub fn new(
        private: &Private,
        peer: &Public,
        (version, plan): (u8, u64),
        link: (u8, u8),
        calls: bool,
    ) -> Option<Pair> {
        let shared = private.agree(peer)?;
        let code_key = Secret(hmac(&shared.0, &[b"partita greeting", &[version, link.0, link.1]]));
        let mut mark = [0; MARK_BYTES];
        let marked = hmac(&code_key.0, &[b"plan", &plan.to_le_bytes()]);
        mark.iter_mut().zip(marked).for_each(|(slot, byte)| *slot = byte);
        let own = private.public();
        let (first, second) = if calls { (&own, peer) } else { (peer, &own) };
        let begun = begun(&prologue(version, plan, link.0, link.1), first, second);
        Some(Pair { private: private.clone(), peer: *peer, shared, begun, code_key, mark })
    }

    /// The mark of the plan.
    pub(crate) fn mark(&self) -> &[u8; MARK_BYTES] {
        &self.mark
    }

    /// A code that only this device and its peer can make, over a greeting's bytes.
    pub(crate) fn code(&self, parts: &[&[u8]]) -> [u8; CODE_BYTES] {
        let mut code = [0; CODE_BYTES];
        let whole = hmac(&self.code_key.0, parts);
        code.iter_mut().zip(whole).for_each(|(slot, byte)| *slot = byte);
        code
    }

    /// Whether a code is that of a greeting's bytes.
    pub(crate) fn is_coded(&self, parts: &[&[u8]], code: &[u8; CODE_BYTES]) -> bool {
        self.code(parts).ct_eq(code).into()
    }

    /// Begins a handshake: the message for the peer. `life` is told to it.
    pub fn call(&self, life: u32, entropy: &mut Entropy) -> Option<(Call, [u8; MESSAGE_BYTES])> {
        let ephemeral = Private(entropy.next(&self.private.0));
        let mut payload = life.to_le_bytes();
        let (call, tag) = self.call_with(ephemeral, &mut payload)?;
        let message = message(&call.public, &payload, &tag);
        Some((call, message))
    }

    fn call_with(&self, ephemeral: Private, payload: &mut [u8]) -> Option<(Call, [u8; TAG_BYTES])> {
        let public = ephemeral.public();
        let mut state = Symmetric::new(&self.begun);
        state.mix_hash(&public);
        state.mix_key(&ephemeral.agree(&self.peer)?);
        state.mix_key(&self.shared);
        let tag = state.seal(payload);
        Some((Call { state, ephemeral, public }, tag))
    }

    /// Answers a message of [`Pair::call`]: which life of the peer says so, the message for it, and the session's keys.
    ///
    /// None if it was not made with the peer's key for this plan and link.
    pub fn answer(
        &self,
        heard: &[u8; MESSAGE_BYTES],
        life: u32,
        entropy: &mut Entropy,
    ) -> Option<(u32, [u8; MESSAGE_BYTES], Transport)> {
        let (remote, mut theirs, tag) = parts(heard);
        let ephemeral = Private(entropy.next(&self.private.0));
        let mut payload = life.to_le_bytes();
        let (state, public, answer_tag) = self.answer_with(&remote, (&mut theirs, &tag), ephemeral, &mut payload)?;
        let (receive, send) = state.split();
        let transport = Transport { send, receive, id: state.id() };
        Some((u32::from_le_bytes(theirs), message(&public, &payload, &answer_tag), transport))
    }

    fn answer_with(
        &self,
        remote: &Public,
        (heard, tag): (&mut [u8], &[u8; TAG_BYTES]),
        ephemeral: Private,
        payload: &mut [u8],
    ) -> Option<(Symmetric, Public, [u8; TAG_BYTES])> {
        let mut state = Symmetric::new(&self.begun);
        state.mix_hash(remote);
        state.mix_key(&self.private.agree(remote)?);
        state.mix_key(&self.shared);
        if !state.open(heard, tag) {
            return None;
        }
        let public = ephemeral.public();
        state.mix_hash(&public);
        state.mix_key(&ephemeral.agree(remote)?);
        state.mix_key(&ephemeral.agree(&self.peer)?);
        let tag = state.seal(payload);
        Some((state, public, tag))
    }
}

/// A handshake that this end has begun.
pub struct Call {
    state: Symmetric,
    ephemeral: Private,
    public: Public,
}

impl Call {
    /// Ends it with the peer's answer: which life of the peer has answered, and the session's keys. `pair` is the one that
    /// has begun it.
    ///
    /// None if it is no answer to this call by the peer; the call still waits for one then.
    pub fn finish(&self, pair: &Pair, heard: &[u8; MESSAGE_BYTES]) -> Option<(u32, Transport)> {
        let (remote, mut theirs, tag) = parts(heard);
        let state = self.finish_with(pair, &remote, &mut theirs, &tag)?;
        let (send, receive) = state.split();
        Some((u32::from_le_bytes(theirs), Transport { send, receive, id: state.id() }))
    }

    fn finish_with(&self, pair: &Pair, remote: &Public, heard: &mut [u8], tag: &[u8; TAG_BYTES]) -> Option<Symmetric> {
        let Symmetric { chaining, hash, key } = &self.state;
        let mut state = Symmetric { chaining: *chaining, hash: *hash, key: key.clone() };
        state.mix_hash(remote);
        state.mix_key(&self.ephemeral.agree(remote)?);
        state.mix_key(&pair.private.agree(remote)?);
        state.open(heard, tag).then_some(state)
    }
}

/// The hash of what both ends know beforehand.
fn begun(prologue: &[u8], caller: &Public, other: &Public) -> [u8; HASH_BYTES] {
    [prologue, caller, other].iter().fold(hash(&[NAME]), |begun, part| hash(&[&begun, part]))
}

fn message(ephemeral: &Public, payload: &[u8; PAYLOAD_BYTES], tag: &[u8; TAG_BYTES]) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let bytes = ephemeral.iter().chain(payload).chain(tag);
    message.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    message
}

fn parts(message: &[u8; MESSAGE_BYTES]) -> (Public, [u8; PAYLOAD_BYTES], [u8; TAG_BYTES]) {
    let (mut ephemeral, mut payload, mut tag) = ([0; KEY_BYTES], [0; PAYLOAD_BYTES], [0; TAG_BYTES]);
    let slots = ephemeral.iter_mut().chain(&mut payload).chain(&mut tag);
    slots.zip(message).for_each(|(slot, byte)| *slot = *byte);
    (ephemeral, payload, tag)
}

#[cfg(test)]
mod tests;
