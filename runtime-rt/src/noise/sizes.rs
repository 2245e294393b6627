//! Bytes of what is spoken: frames have room for them whether there is anybody to speak with or not.

/// Bytes of a private or public key.
pub const KEY_BYTES: usize = 32;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// Bytes that each end tells the other in its message: which life of the device it is.
pub(super) const PAYLOAD_BYTES: usize = 4;

/// Bytes of a message: an ephemeral key, and a payload that is sealed.
pub const MESSAGE_BYTES: usize = KEY_BYTES + PAYLOAD_BYTES + TAG_BYTES;

/// Bytes of the code over a greeting.
pub(crate) const CODE_BYTES: usize = 16;

/// Bytes of a plan's mark.
pub(crate) const MARK_BYTES: usize = 8;

/// A device's public key: what others know it by.
pub type Public = [u8; KEY_BYTES];
