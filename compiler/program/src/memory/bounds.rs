//! When tensors that travel may leave their places alone: from which step on a place is free for what comes, and until
//! which step what leaves must stay.
//!
//! Links write and read the arena while steps compute ([`partita_rt::node`]), so the earlier what comes may come, and the
//! later what leaves may leave, the less does a device wait.

use std::ops::Range;

use super::lifetimes::{buffers_read, buffers_written};
use crate::program::{BufferId, Message, Program, Step};

/// Bounds of an exchange, in the order of its lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// For each tensor that leaves the first step that writes over it; `steps.len()` if none does.
    pub sends: Vec<usize>,
    /// For each tensor that comes the first step from whose beginning on nothing else uses its place.
    pub receives: Vec<usize>,
}

/// Bounds of every step; those of steps that exchange nothing are empty.
///
/// A place is free before step `f` if no step from `f` to the exchange uses it. What leaves it before that has arrived when
/// `f` begins: the place being free bounds what leaves, as a write would.
pub fn bounds(program: &Program) -> Vec<Bounds> {
    let range = |id: &BufferId| {
        let buffer = &program.buffers[id.0 as usize];
        buffer.offset_bytes..buffer.offset_bytes + buffer.elements * buffer.element.size_bytes()
    };
    let ranges = |ids: Vec<BufferId>| -> Vec<Range<usize>> { ids.iter().map(range).collect() };
    let read: Vec<_> = program.steps.iter().map(|step| ranges(buffers_read(program, step))).collect();
    // What comes is where its exchange says; that it may have come before is what is asked here.
    let writes = |step: &Step| match step {
        Step::Start { .. } => Vec::new(),
        _ => buffers_written(program, step),
    };
    let written: Vec<_> = program.steps.iter().map(|step| ranges(writes(step))).collect();
    let meets = |ranges: &[Range<usize>], place: &Range<usize>| ranges.iter().any(|range| overlap(range, place));
    let mut found: Vec<Bounds> = vec![Bounds::default(); program.steps.len()];
    for (index, step) in program.steps.iter().enumerate() {
        let Step::Exchange { receives, .. } = step else { continue };
        let free = |message: &Message| {
            let place = place(program, message);
            let uses = |earlier: &usize| meets(&read[*earlier], &place) || meets(&written[*earlier], &place);
            (0..index).rev().find(uses).map_or(0, |last| last + 1)
        };
        found[index].receives = receives.iter().map(free).collect();
    }
    for index in 0..program.steps.len() {
        let (Step::Start { sends, .. } | Step::Exchange { sends, .. }) = &program.steps[index] else { continue };
        let over = |message: &Message| {
            let leaves = place(program, message);
            let writes = |later: usize| match &program.steps[later] {
                Step::Exchange { receives, .. } => {
                    let comes = receives.iter().zip(&found[later].receives);
                    comes.filter(|(message, _)| overlap(&place(program, message), &leaves)).map(|(_, free)| *free).min()
                }
                _ => meets(&written[later], &leaves).then_some(later),
            };
            (index + 1..program.steps.len()).filter_map(writes).min().unwrap_or(program.steps.len())
        };
        found[index].sends = sends.iter().map(over).collect();
    }
    found
}

fn place(program: &Program, message: &Message) -> Range<usize> {
    let begin = program.buffers[message.buffer.0 as usize].offset_bytes;
    begin..begin + message.bytes
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Argument, Buffer, Layout, Runs};
    use partita_ir::graph::{ElementType, StepSize};

    /// A program over places of 64 bytes, and what of each exchange is bounded how.
    fn bounds_of(places: &[usize], steps: Vec<Step>) -> Vec<Bounds> {
        let buffer = |place: &usize| Buffer {
            name: String::new(),
            tensor: None,
            element: ElementType::F32,
            offset: 0,
            step: StepSize::ONE,
            shape: vec![16],
            layout: Layout::Plain,
            elements: 16,
            part_of: None,
            replaces: false,
            offset_bytes: place * 64,
        };
        bounds(&Program { buffers: places.iter().map(buffer).collect(), steps, ..Program::default() })
    }

    fn copy(from: u32, to: u32) -> Step {
        let (from, to) = ((Argument::Buffer(BufferId(from)), 0), (BufferId(to), 0));
        Step::Copy { from, to, runs: Runs::one(16) }
    }

    fn message(buffer: u32) -> Message {
        Message { peer: 1, number: 0, buffer: BufferId(buffer), bytes: 64 }
    }

    fn exchange(sends: &[u32], receives: &[u32]) -> Step {
        let messages = |buffers: &[u32]| buffers.iter().map(|buffer| message(*buffer)).collect();
        Step::Exchange { sends: messages(sends), receives: messages(receives) }
    }

    #[test]
    fn what_leaves_stays_until_it_is_written_over() {
        let steps = vec![copy(0, 1), exchange(&[1], &[]), copy(0, 2), copy(0, 1), exchange(&[1], &[])];
        let found = bounds_of(&[0, 1, 2], steps);
        assert_eq!((found[1].sends.as_slice(), found[4].sends.as_slice()), (&[3][..], &[5][..]));
    }

    #[test]
    fn what_comes_may_come_when_its_place_is_used_no_more() {
        let steps = vec![copy(0, 1), copy(1, 2), copy(2, 0), exchange(&[], &[1]), copy(1, 2)];
        assert_eq!(bounds_of(&[0, 1, 2], steps)[3].receives, [2]);
        assert_eq!(bounds_of(&[0, 1], vec![copy(0, 0), exchange(&[], &[1])])[1].receives, [0]);
    }

    #[test]
    fn what_leaves_a_place_has_arrived_before_something_comes_there() {
        // Buffer 3 lies where buffer 1 did.
        let steps = vec![copy(0, 1), exchange(&[1], &[]), copy(0, 2), exchange(&[], &[3]), copy(3, 2)];
        let found = bounds_of(&[0, 1, 2, 1], steps);
        assert_eq!(found[3].receives, [2], "the step after it leaves");
        assert_eq!(found[1].sends, [2], "and so that is when it must have arrived");
    }

    #[test]
    fn what_is_started_leaves_and_comes_in_between() {
        // Buffer 1 is sent and buffer 2 comes while buffer 3 is made of buffer 0.
        let start = Step::Start { sends: vec![message(1)], receives: vec![message(2)] };
        let steps = vec![copy(0, 1), start, copy(0, 3), exchange(&[1], &[2]), copy(2, 1)];
        let found = bounds_of(&[0, 1, 2, 3], steps.clone());
        assert_eq!(found[1].sends, [4], "it stays until the exchange that waits for it is over");
        assert_eq!(found[3].receives, [0], "nothing else is ever there");
        // Where buffer 2 lies on buffer 0, it may not come before that is read for the last time.
        assert_eq!(bounds_of(&[0, 1, 0, 3], steps)[3].receives, [3]);
    }
}
