//! How two devices prove who they are, and what they say afterwards is kept from others: `Noise_KK_25519_ChaChaPoly_BLAKE2s`
//! (Perrin, The Noise Protocol Framework, revision 34) without allocator, the same on Linux and on microcontrollers.
//!
//! Both ends know each other's public key beforehand. The prologue is [`prologue`]: version, plan, and who calls whom, so
//! devices of different plans never agree. What Noise leaves to its user is here too: a code over the first messages that
//! only the two devices can make, so that others cost a hash and not a curve ([`Pair`]), and messages that are sealed piece by
//! piece ([`stream::Stream`]).
//!
//! Nothing allocates or panics; secrets are overwritten when they are dropped, and nothing branches on them.

mod entropy;
mod handshake;
mod hash;
mod sizes;
mod stream;

pub use entropy::Entropy;
pub use handshake::{Call, Pair, Private, Transport, prologue};
pub(crate) use sizes::{CODE_BYTES, MARK_BYTES};
pub use sizes::{KEY_BYTES, MESSAGE_BYTES, Public, TAG_BYTES};
pub use stream::{Key, Stream};
