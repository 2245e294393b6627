//! BLAKE2s, and what Noise makes of it: HMAC (RFC 2104) and HKDF (The Noise Protocol Framework, section 4.3).

use blake2::{Blake2s256, Digest};

/// Bytes of a hash.
pub(super) const HASH_BYTES: usize = 32;

/// Bytes that BLAKE2s takes at a time.
const BLOCK_BYTES: usize = 64;

/// The hash of these bytes, one after the other.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; HASH_BYTES] {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// HMAC-BLAKE2s of these bytes, one after the other.
pub(super) fn hmac(key: &[u8; HASH_BYTES], parts: &[&[u8]]) -> [u8; HASH_BYTES] {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(slot, byte)| *slot ^= byte);
        block
    };
    let mut inner = Blake2s256::new();
    inner.update(padded(0x36));
    parts.iter().for_each(|part| inner.update(part));
    let inner: [u8; HASH_BYTES] = inner.finalize().into();
    hash(&[&padded(0x5c), &inner])
}

/// HKDF with two outputs.
pub(super) fn hkdf(chaining: &[u8; HASH_BYTES], input: &[u8]) -> ([u8; HASH_BYTES], [u8; HASH_BYTES]) {
    let key = hmac(chaining, &[input]);
    let first = hmac(&key, &[&[1]]);
    let second = hmac(&key, &[&first, &[2]]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> std::string::String {
        bytes.iter().map(|byte| std::format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_hash_is_blake2s() {
        // RFC 7693, appendix B.
        assert_eq!(hex(&hash(&[b"a", b"bc"])), "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    }
}
