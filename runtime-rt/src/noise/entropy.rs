//! Numbers for keys, out of one that the device's random source gave when it started.

use super::hash::{HASH_BYTES, hmac};
use zeroize::Zeroize;

/// A source of secrets. What it gave before cannot be found from what it holds now.
pub struct Entropy([u8; HASH_BYTES]);

impl Entropy {
    /// Begins with bytes of a random source of which nobody else knows anything.
    pub fn new(seed: [u8; 32]) -> Entropy {
        Entropy(seed)
    }

    /// The next secret. `own` is mixed in, so that a poor source is not the only thing that nobody knows.
    pub fn next(&mut self, own: &[u8]) -> [u8; 32] {
        let secret = hmac(&self.0, &[b"secret", own]);
        let next = hmac(&self.0, &[b"next"]);
        self.0.zeroize();
        self.0 = next;
        secret
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
