//! What stands for `noise` where links have no keys: nothing of it can be made, so the compiler leaves out all that would
//! use it.

use core::convert::Infallible;

#[path = "noise/sizes.rs"]
mod sizes;

pub(crate) use sizes::{CODE_BYTES, KEY_BYTES, MARK_BYTES, MESSAGE_BYTES, Public, TAG_BYTES};

pub(crate) struct Entropy(Infallible);
pub(crate) struct Key(Infallible);
pub(crate) struct Stream(Infallible);
pub(crate) struct Pair(Infallible);
pub(crate) struct Call(Infallible);

pub(crate) struct Transport {
    pub(crate) send: Key,
    pub(crate) receive: Key,
    pub(crate) id: u32,
}

impl Stream {
    pub(crate) fn new(key: &Key, _number: u64, _associated: &[u8]) -> Stream {
        match key.0 {}
    }

    pub(crate) fn seal(&mut self, _bytes: &mut [u8]) {
        match self.0 {}
    }

    pub(crate) fn open(&mut self, _bytes: &mut [u8]) {
        match self.0 {}
    }

    pub(crate) fn tag(self) -> [u8; TAG_BYTES] {
        match self.0 {}
    }

    pub(crate) fn checks(self, _tag: &[u8; TAG_BYTES]) -> bool {
        match self.0 {}
    }
}

impl Pair {
    pub(crate) fn mark(&self) -> &[u8; MARK_BYTES] {
        match self.0 {}
    }

    pub(crate) fn code(&self, _parts: &[&[u8]]) -> [u8; CODE_BYTES] {
        match self.0 {}
    }

    pub(crate) fn is_coded(&self, _parts: &[&[u8]], _code: &[u8; CODE_BYTES]) -> bool {
        match self.0 {}
    }

    pub(crate) fn call(&self, _life: u32, _entropy: &mut Entropy) -> Option<(Call, [u8; MESSAGE_BYTES])> {
        match self.0 {}
    }

    pub(crate) fn answer(
        &self,
        _heard: &[u8; MESSAGE_BYTES],
        _life: u32,
        _entropy: &mut Entropy,
    ) -> Option<(u32, [u8; MESSAGE_BYTES], Transport)> {
        match self.0 {}
    }
}

impl Call {
    pub(crate) fn finish(&self, _pair: &Pair, _heard: &[u8; MESSAGE_BYTES]) -> Option<(u32, Transport)> {
        match self.0 {}
    }
}
