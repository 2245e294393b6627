//! Independent proof of a memory plan: replays the steps and looks at bytes, not at how they were assigned.

use std::collections::{BTreeMap, BTreeSet};

use super::lifetimes::{buffers_read, buffers_written};
use super::shift::moves_forwards;
use crate::program::{Argument, Buffer, BufferId, Layout, Program, Step};
use partita_kernel::Access;

/// A read that would not find what was written; a bug of ours.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OverlapError {
    /// A step reads bytes that a later write has replaced.
    #[error(
        "step {step} reads `{buffer}`, but byte {byte} of the arena holds another value (written by step {writer:?})"
    )]
    Overwritten {
        /// Step that reads (index into the program's steps; `steps.len()` is the caller reading outputs).
        step: usize,
        /// Name of the buffer.
        buffer: String,
        /// First byte in conflict.
        byte: usize,
        /// Step that wrote there last, if any.
        writer: Option<usize>,
    },
    /// A kernel works in memory that it also reads from or writes its result to.
    #[error("in step {step}, scratch `{scratch}` shares memory with `{other}`")]
    SharedScratch {
        /// Step (index into the program's steps).
        step: usize,
        /// Name of the scratch buffer.
        scratch: String,
        /// Name of the other operand.
        other: String,
    },
    /// A copy writes over what it has still to read.
    #[error("step {step} copies `{buffer}` to where it lies itself, over what it has still to read")]
    CopiesOverItself {
        /// Step (index into the program's steps).
        step: usize,
        /// Name of the buffer that is read.
        buffer: String,
    },
    /// A buffer lies outside the arena.
    #[error("buffer `{buffer}` ends at byte {end} of an arena of {arena_bytes} bytes")]
    Outside {
        /// Name of the buffer.
        buffer: String,
        /// One past its last byte.
        end: usize,
        /// Size of the arena.
        arena_bytes: usize,
    },
}

/// Who wrote a part of the arena: the value group and the step. [`NOBODY`] where something is on its way.
type Mark = (BufferId, usize);

/// Nobody may read what may or may not have come.
const NOBODY: BufferId = BufferId(u32::MAX);

/// What every byte of the arena holds, as ranges that do not overlap: by first byte, one past the last, and who wrote
/// there. As many as there are writes, however large the arena is; nobody has written to what lies between them.
#[derive(Default)]
struct Marks {
    ranges: BTreeMap<usize, (usize, Mark)>,
}

impl Marks {
    /// Replaces what a range holds.
    fn write(&mut self, begin: usize, end: usize, mark: Mark) {
        if begin >= end {
            return;
        }
        // Ranges that reach into this one from either side keep what lies outside.
        if let Some((first, (last, other))) =
            self.ranges.range(..begin).next_back().map(|(first, held)| (*first, *held))
            && last > begin
        {
            self.ranges.insert(first, (begin, other));
            if last > end {
                self.ranges.insert(end, (last, other));
            }
        }
        while let Some((first, (last, other))) =
            self.ranges.range(begin..end).next().map(|(first, held)| (*first, *held))
        {
            self.ranges.remove(&first);
            if last > end {
                self.ranges.insert(end, (last, other));
            }
        }
        self.ranges.insert(begin, (end, mark));
    }

    /// The first byte of a range that holds something else than the group's value, and the step that wrote it.
    fn other_than(&self, group: BufferId, begin: usize, end: usize) -> Option<(usize, Option<usize>)> {
        if begin >= end {
            return None;
        }
        let before = self.ranges.range(..begin).next_back().filter(|(_, (last, _))| *last > begin);
        let mut at = begin;
        for (first, (last, (writer, step))) in before.into_iter().chain(self.ranges.range(begin..end)) {
            if *first > at {
                return Some((at, None));
            }
            if *writer != group {
                return Some((at, Some(*step)));
            }
            at = *last;
        }
        (at < end).then_some((at, None))
    }
}

/// Replays the program over an arena of marks. Every write marks its bytes with the writer's value group (buffers
/// that share one value: a whole and its parts, a tensor and its reshapes); every read must find its own group.
pub fn check(program: &Program) -> Result<(), OverlapError> {
    for buffer in &program.buffers {
        let end = buffer.offset_bytes + buffer.elements * buffer.element.size_bytes();
        let arena_bytes = program.arena_bytes.saturating_sub(program.kept_bytes());
        if end > arena_bytes {
            return Err(OverlapError::Outside { buffer: buffer.name.clone(), end, arena_bytes });
        }
    }
    let mut marks = Marks::default();
    let mut under_way: BTreeSet<u32> = BTreeSet::new();
    for (_, buffer) in &program.inputs {
        write(program, &mut marks, *buffer, 0);
    }
    for (index, step) in program.steps.iter().enumerate() {
        check_scratch(program, index, step)?;
        check_copy(program, index, step)?;
        if let Step::Start { receives, .. } = step {
            for message in receives {
                mark(program, &mut marks, message.buffer, (NOBODY, index));
            }
            under_way.extend(receives.iter().map(|message| message.number));
        }
        if let Step::Exchange { receives, .. } = step {
            // Nobody wrote where something was on its way.
            for message in receives.iter().filter(|message| under_way.remove(&message.number)) {
                holds(program, &marks, message.buffer, NOBODY, index)?;
            }
        }
        for buffer in buffers_read(program, step) {
            read(program, &marks, buffer, index)?;
        }
        if !matches!(step, Step::Start { .. }) {
            for buffer in buffers_written(program, step) {
                write(program, &mut marks, buffer, index);
            }
        }
    }
    for (_, buffer) in &program.outputs {
        read(program, &marks, *buffer, program.steps.len())?;
    }
    Ok(())
}

/// A copy inside one memory goes run by run, none of them over a later one.
fn check_copy(program: &Program, index: usize, step: &Step) -> Result<(), OverlapError> {
    let Step::Copy { from: (Argument::Buffer(from), first), to: (to, at), runs } = step else { return Ok(()) };
    if !copies_in_place(program, step) {
        return Ok(());
    }
    let (source, target) = (&program.buffers[from.0 as usize], &program.buffers[to.0 as usize]);
    let bytes = source.element.size_bytes();
    let is_whole = source.offset_bytes.is_multiple_of(bytes) && target.offset_bytes.is_multiple_of(bytes);
    let element = |buffer: &Buffer, first: usize| buffer.offset_bytes / bytes + first;
    if is_whole && moves_forwards(element(source, *first), element(target, *at), runs) {
        return Ok(());
    }
    Err(OverlapError::CopiesOverItself { step: index, buffer: source.name.clone() })
}

/// Whether a step copies from memory to the same memory: the two buffers share bytes.
pub fn copies_in_place(program: &Program, step: &Step) -> bool {
    let Step::Copy { from: (Argument::Buffer(from), _), to: (to, _), .. } = step else { return false };
    let bytes = |id: &BufferId| {
        let buffer = &program.buffers[id.0 as usize];
        buffer.offset_bytes..buffer.offset_bytes + buffer.elements * buffer.element.size_bytes()
    };
    let (a, b) = (bytes(from), bytes(to));
    a.start < b.end && b.start < a.end
}

/// A kernel's scratch memory holds nothing else while it runs.
fn check_scratch(program: &Program, index: usize, step: &Step) -> Result<(), OverlapError> {
    let Step::Kernel { kernel, arguments, .. } = step else { return Ok(()) };
    let bytes = |id: BufferId| {
        let buffer = &program.buffers[id.0 as usize];
        buffer.offset_bytes..buffer.offset_bytes + buffer.elements * buffer.element.size_bytes()
    };
    let operands = || {
        let all = program.kernels[*kernel].buffers.iter().zip(arguments);
        all.filter_map(|(declared, argument)| match argument {
            Argument::Buffer(id) => Some((declared.access, *id)),
            Argument::Weight(_) => None,
        })
    };
    for (position, (access, scratch)) in operands().enumerate() {
        let meets = |(other, (_, id)): &(usize, (Access, BufferId))| {
            let (a, b) = (bytes(scratch), bytes(*id));
            *other != position && a.start < b.end && b.start < a.end
        };
        if access == Access::Scratch
            && let Some((_, (_, other))) = operands().enumerate().find(meets)
        {
            let name = |id: BufferId| program.buffers[id.0 as usize].name.clone();
            return Err(OverlapError::SharedScratch { step: index, scratch: name(scratch), other: name(other) });
        }
    }
    Ok(())
}

fn write(program: &Program, marks: &mut Marks, id: BufferId, step: usize) {
    mark(program, marks, id, (value_group(program, id), step));
}

fn mark(program: &Program, marks: &mut Marks, id: BufferId, mark: Mark) {
    let buffer = &program.buffers[id.0 as usize];
    let end = buffer.offset_bytes + buffer.elements * buffer.element.size_bytes();
    marks.write(buffer.offset_bytes, end, mark);
}

fn read(program: &Program, marks: &Marks, id: BufferId, step: usize) -> Result<(), OverlapError> {
    holds(program, marks, id, value_group(program, id), step)
}

/// Whether a buffer's place holds a group's value.
fn holds(program: &Program, marks: &Marks, id: BufferId, group: BufferId, step: usize) -> Result<(), OverlapError> {
    let buffer = &program.buffers[id.0 as usize];
    let end = buffer.offset_bytes + logical_bytes(program, id);
    match marks.other_than(group, buffer.offset_bytes, end) {
        None => Ok(()),
        Some((byte, writer)) => Err(OverlapError::Overwritten { step, buffer: buffer.name.clone(), byte, writer }),
    }
}

/// The outermost buffer whose value this one shares.
fn value_group(program: &Program, mut id: BufferId) -> BufferId {
    while let Buffer { part_of: Some((parent, _)), replaces: false, .. } = &program.buffers[id.0 as usize] {
        id = *parent;
    }
    id
}

/// Bytes that hold elements of the tensor, without the slack at the end.
fn logical_bytes(program: &Program, id: BufferId) -> usize {
    let buffer = &program.buffers[id.0 as usize];
    match buffer.layout {
        Layout::Plain => buffer.shape.iter().product::<usize>() * buffer.element.size_bytes(),
        Layout::Blocked(_) => buffer.elements * buffer.element.size_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_bytes_would() {
        let mut state = 7u64;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        for _ in 0..50 {
            let mut marks = Marks::default();
            let mut bytes: Vec<Option<Mark>> = vec![None; 64];
            for step in 0..40 {
                let begin = next(64);
                let end = begin + next(64 - begin + 1);
                let group = BufferId(next(4) as u32);
                if next(2) == 0 {
                    marks.write(begin, end, (group, step));
                    bytes[begin..end].fill(Some((group, step)));
                }
                let expected = (begin..end)
                    .find(|byte| bytes[*byte].is_none_or(|(writer, _)| writer != group))
                    .map(|byte| (byte, bytes[byte].map(|(_, step)| step)));
                assert_eq!(marks.other_than(group, begin, end), expected);
            }
            assert!(marks.ranges.len() <= 64);
        }
    }
}
