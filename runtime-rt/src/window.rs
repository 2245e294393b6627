//! The window through which links see a program's memory while the program computes.

use crate::node::Memory;

/// Memory that begins there and has so many bytes.
pub(crate) struct Window(pub(crate) *mut u8, pub(crate) usize);

// SAFETY: what is behind it lives as long as its driver, and the node's rules keep reads and writes of links apart from
// those of the program.
unsafe impl Send for Window {}

impl Memory for Window {
    fn read(&self, offset_bytes: usize, length: usize) -> &[u8] {
        if offset_bytes.checked_add(length).is_none_or(|end| end > self.1) {
            return &[];
        }
        // SAFETY: inside the memory; the program does not write to what leaves before it has arrived.
        unsafe { core::slice::from_raw_parts(self.0.add(offset_bytes), length) }
    }

    fn write(&mut self, offset_bytes: usize, bytes: &[u8]) {
        if offset_bytes.checked_add(bytes.len()).is_some_and(|end| end <= self.1) {
            // SAFETY: inside the memory; the program does not touch what comes before it is there.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(offset_bytes), bytes.len()) };
        }
    }
}
