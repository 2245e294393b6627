//! Buffers that are part of others, and how large they are.

use crate::program::{BufferId, Program};

/// The independent buffer that a buffer is part of (possibly itself), and its first byte there.
pub fn root_of(program: &Program, mut id: BufferId) -> (BufferId, usize) {
    let mut first_byte = 0;
    while let Some((parent, first_element)) = program.buffers[id.0 as usize].part_of {
        first_byte += first_element * program.buffers[id.0 as usize].element.size_bytes();
        id = parent;
    }
    (id, first_byte)
}

/// Bytes of a buffer.
pub(super) fn size_bytes(program: &Program, id: BufferId) -> usize {
    let buffer = &program.buffers[id.0 as usize];
    buffer.elements * buffer.element.size_bytes()
}
