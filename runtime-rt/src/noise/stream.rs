//! AEAD_CHACHA20_POLY1305 (RFC 8439, section 2.8) over messages that come and go in pieces: a tensor is sealed while it is
//! sent, straight from the memory that it lies in, and opened to the memory that it goes to.
//!
//! What was opened is worth nothing before its tag is right.

use super::sizes::TAG_BYTES;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that Poly1305 takes at a time.
const BLOCK_BYTES: usize = 16;

/// A key for one direction of a session.
#[derive(Clone)]
pub struct Key(pub(super) [u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Key {}

/// One message that is being sealed or opened.
pub struct Stream {
    cipher: ChaCha20,
    mac: Poly1305,
    /// Bytes of a block that is not whole yet.
    partial: [u8; BLOCK_BYTES],
    filled: usize,
    associated_bytes: u64,
    message_bytes: u64,
}

impl Stream {
    /// Begins the message of a number that no other one under this key has; `associated` is authenticated with it.
    pub fn new(key: &Key, number: u64, associated: &[u8]) -> Stream {
        // Noise, section 12: four bytes of zero and the number, little-endian.
        let mut nonce = [0; 12];
        nonce.iter_mut().skip(4).zip(number.to_le_bytes()).for_each(|(slot, byte)| *slot = byte);
        let mut cipher = ChaCha20::new(&key.0.into(), &nonce.into());
        // The first block of the key stream is the other key's.
        let mut block = [0u8; 64];
        let _ = cipher.try_apply_keystream(&mut block);
        let mut mac_key = [0u8; 32];
        mac_key.iter_mut().zip(&block).for_each(|(slot, byte)| *slot = *byte);
        let mut mac = Poly1305::new(&mac_key.into());
        mac.update_padded(associated);
        block.zeroize();
        mac_key.zeroize();
        let associated_bytes = associated.len() as u64;
        Stream { cipher, mac, partial: [0; BLOCK_BYTES], filled: 0, associated_bytes, message_bytes: 0 }
    }

    /// Seals the next bytes of the message, in their place.
    pub fn seal(&mut self, bytes: &mut [u8]) {
        // It fails after 256 GiB; no message has so many bytes.
        let _ = self.cipher.try_apply_keystream(bytes);
        self.absorb(bytes);
    }

    /// Opens the next bytes of the message, in their place.
    pub fn open(&mut self, bytes: &mut [u8]) {
        self.absorb(bytes);
        let _ = self.cipher.try_apply_keystream(bytes);
    }

    /// Sealed bytes go into the tag.
    fn absorb(&mut self, bytes: &[u8]) {
        self.message_bytes += bytes.len() as u64;
        let mut rest = bytes;
        if self.filled > 0 {
            let (here, behind) = rest.split_at((BLOCK_BYTES - self.filled.min(BLOCK_BYTES)).min(rest.len()));
            self.partial.iter_mut().skip(self.filled).zip(here).for_each(|(slot, byte)| *slot = *byte);
            self.filled += here.len();
            rest = behind;
            if self.filled < BLOCK_BYTES {
                return;
            }
            self.mac.update_padded(&self.partial);
            self.filled = 0;
        }
        let (whole, behind) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
        self.mac.update_padded(whole);
        self.partial.iter_mut().zip(behind).for_each(|(slot, byte)| *slot = *byte);
        self.filled = behind.len();
    }

    /// The tag, at the end of the message.
    pub fn tag(mut self) -> [u8; TAG_BYTES] {
        self.mac.update_padded(self.partial.get(..self.filled).unwrap_or_default());
        let mut lengths = [0; BLOCK_BYTES];
        let both = self.associated_bytes.to_le_bytes().into_iter().chain(self.message_bytes.to_le_bytes());
        lengths.iter_mut().zip(both).for_each(|(slot, byte)| *slot = byte);
        self.mac.update_padded(&lengths);
        self.mac.finalize().into()
    }

    /// Whether this is the tag, at the end of the message; how long that takes does not depend on the answer.
    pub fn checks(self, tag: &[u8; TAG_BYTES]) -> bool {
        self.tag().ct_eq(tag).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
        hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// RFC 8439, appendix A.5: text that was sealed with a nonce of which the first four bytes are zero.
    #[test]
    fn a_published_message_opens() {
        let key =
            Key(bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0").try_into().expect("a key"));
        let number = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let mut sealed = bytes(
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b
             0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06ef4f0ef61c186324e
             2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf45
             34d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a10
             73a6727627097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
        );
        let tag: [u8; 16] = bytes("eead9d67890cbb22392336fea1851f38").try_into().expect("a tag");
        let mut stream = Stream::new(&key, number, &bytes("f33388860000000000004e91"));
        stream.open(&mut sealed);
        assert!(sealed.starts_with(b"Internet-Drafts are draft documents"));
        assert!(stream.checks(&tag));
    }

    #[test]
    fn pieces_of_any_size_make_the_same_message() {
        let key = Key([7; 32]);
        let text: Vec<u8> = (0..1000u32).map(|at| (at * 31) as u8).collect();
        let mut whole = text.clone();
        let mut stream = Stream::new(&key, 9, b"header");
        stream.seal(&mut whole);
        let tag = stream.tag();
        for step in [1, 3, 15, 16, 17, 64, 100, 999] {
            let mut sealed = text.clone();
            let mut stream = Stream::new(&key, 9, b"header");
            sealed.chunks_mut(step).for_each(|piece| stream.seal(piece));
            assert_eq!(sealed, whole, "in pieces of {step}");
            assert_eq!(stream.tag(), tag, "in pieces of {step}");
            let mut stream = Stream::new(&key, 9, b"header");
            sealed.chunks_mut(step).for_each(|piece| stream.open(piece));
            assert_eq!(sealed, text);
            assert!(stream.checks(&tag));
        }
    }

    #[test]
    fn every_flipped_bit_and_another_number_are_noticed() {
        let key = Key([7; 32]);
        let sealed = |number: u64, associated: &[u8]| {
            let mut text = *b"a tensor of nineteen";
            let mut stream = Stream::new(&key, number, associated);
            stream.seal(&mut text);
            (text, stream.tag())
        };
        let opens = |(mut text, tag): ([u8; 20], [u8; 16]), number: u64, associated: &[u8]| {
            let mut stream = Stream::new(&key, number, associated);
            stream.open(&mut text);
            stream.checks(&tag)
        };
        assert!(opens(sealed(3, b"h"), 3, b"h"));
        assert!(!opens(sealed(3, b"h"), 4, b"h") && !opens(sealed(3, b"h"), 3, b"i"));
        for bit in 0..8 * 36 {
            let (mut text, mut tag) = sealed(3, b"h");
            match bit / 8 {
                at @ 0..20 => text[at] ^= 1 << (bit % 8),
                at => tag[at - 20] ^= 1 << (bit % 8),
            }
            assert!(!opens((text, tag), 3, b"h"), "bit {bit}");
        }
    }
}
