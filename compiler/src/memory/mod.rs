//! Gives every buffer its place in the arena and every weight its place in the weights section.
//!
//! [`in_place`] first lets kernels write over an input that nothing needs any more; [`lifetimes`] then says from which
//! step to which each independent buffer lives; [`arena`] packs them; [`check`] proves, without trusting the others, that
//! no two buffers that live at the same time overlap.

mod arena;
mod check;
mod in_place;
mod lifetimes;

pub use check::{OverlapError, check};
pub use lifetimes::{Lifetime, lifetimes};

use crate::program::{BufferId, Program};

/// Alignment of every independent buffer and weight: a cache line, and the widest vector.
pub const ALIGNMENT_BYTES: usize = 64;

/// Fills in all offsets and the sizes of the arena and the weights section.
pub fn plan(program: &mut Program, alignment_bytes: usize) {
    in_place::share(program);
    let lifetimes = lifetimes(program);
    let placed = arena::pack(program, &lifetimes, alignment_bytes);
    for (buffer, offset_bytes) in placed.offsets {
        program.buffers[buffer.0 as usize].offset_bytes = offset_bytes;
    }
    program.arena_bytes = placed.size_bytes;
    for index in 0..program.buffers.len() {
        let (root, first_byte) = root_of(program, BufferId(index as u32));
        program.buffers[index].offset_bytes = program.buffers[root.0 as usize].offset_bytes + first_byte;
    }
    let mut end_bytes = 0usize;
    for weight in &mut program.weights {
        weight.offset_bytes = end_bytes.next_multiple_of(alignment_bytes);
        end_bytes = weight.offset_bytes + weight.bytes.len();
    }
    program.weights_bytes = end_bytes;
}

/// The independent buffer that a buffer is part of (possibly itself), and its first byte there.
pub fn root_of(program: &Program, mut id: BufferId) -> (BufferId, usize) {
    let mut first_byte = 0;
    while let Some((parent, first_element)) = program.buffers[id.0 as usize].part_of {
        first_byte += first_element * program.buffers[id.0 as usize].element.size_bytes();
        id = parent;
    }
    (id, first_byte)
}

/// The smallest arena that any packing could reach: the most bytes alive during one step.
pub fn least_arena_bytes(program: &Program, alignment_bytes: usize) -> usize {
    let lifetimes = lifetimes(program);
    let last = program.steps.len() + 1;
    (0..=last)
        .map(|step| {
            lifetimes
                .iter()
                .filter(|(_, life)| life.first <= step && step <= life.last)
                .map(|(buffer, _)| size_bytes(program, *buffer).next_multiple_of(alignment_bytes))
                .sum()
        })
        .max()
        .unwrap_or(0)
}

fn size_bytes(program: &Program, id: BufferId) -> usize {
    let buffer = &program.buffers[id.0 as usize];
    buffer.elements * buffer.element.size_bytes()
}
