//! Moves what stays of a window inside the window's own memory.
//!
//! Rows that stream are computed from a window over the last few: what stays of it is copied out, and the next window is put
//! together of that and of what has come. Both windows and what stays are alive one after the other, two at a time. Where the
//! next window is as large as the last, it can take its memory, and what stays moves to its beginning there.

use std::collections::{BTreeMap, HashMap};

use super::lifetimes::{Lifetime, buffers_read, buffers_written, lifetimes};
use super::parts::root_of;
use crate::program::{Argument, BufferId, Program, Runs, Step};

/// The program with windows that take the memory of the last; `None` if there are none.
///
/// Legal if what stays is written once, by a copy out of the old window that nothing reads behind it, and read once, by a copy
/// into a new window that nothing has touched before; both windows are independent, of one size and layout; and no run moves
/// to where one that has not moved yet begins.
pub fn shifted(program: &Program) -> Option<Program> {
    let uses = uses(program);
    let mut lives = lifetimes(program);
    let mut shifted = program.clone();
    let mut gone = vec![false; program.steps.len()];
    for index in 0..program.steps.len() {
        let Some(shift) = candidate(&shifted, &uses, &lives, index) else { continue };
        if let (Some(of_new), Some(of_old)) = (lives.remove(&shift.new), lives.get_mut(&shift.old)) {
            of_old.last = of_old.last.max(of_new.last);
        }
        lives.remove(&shift.stays);
        let new = &mut shifted.buffers[shift.new.0 as usize];
        (new.part_of, new.replaces) = (Some((shift.old, 0)), true);
        shifted.steps[index] = shift.step;
        gone[shift.joins] = true;
    }
    if !gone.contains(&true) {
        return None;
    }
    let mut gone = gone.into_iter();
    shifted.steps.retain(|_| !gone.next().unwrap_or(false));
    Some(shifted)
}

/// A window whose memory the next one can take.
struct Shift {
    /// The independent buffer of the old window, and the new one.
    old: BufferId,
    new: BufferId,
    /// What stays, as a buffer of its own that is then no longer used.
    stays: BufferId,
    /// The step that puts it into the new window.
    joins: usize,
    /// The step that moves it.
    step: Step,
}

/// The first and last step that touches each buffer by its own name, and how many do.
fn uses(program: &Program) -> HashMap<BufferId, (usize, usize, usize)> {
    let mut uses: HashMap<BufferId, (usize, usize, usize)> = HashMap::new();
    for (index, step) in program.steps.iter().enumerate() {
        for buffer in buffers_read(program, step).into_iter().chain(buffers_written(program, step)) {
            let (_, last, count) = uses.entry(buffer).or_insert((index, index, 0));
            (*last, *count) = (index, *count + 1);
        }
    }
    uses
}

fn candidate(
    program: &Program,
    uses: &HashMap<BufferId, (usize, usize, usize)>,
    lives: &BTreeMap<BufferId, Lifetime>,
    index: usize,
) -> Option<Shift> {
    let Step::Copy { from: (Argument::Buffer(window), first), to: (stays, 0), runs: out } = &program.steps[index]
    else {
        return None;
    };
    // Two uses by its own name and none by others': a copy makes it, a copy reads it.
    let (_, joins, 2) = *uses.get(stays)? else { return None };
    let life = lives.get(stays)?;
    if (life.first, life.last) != (index + 1, joins + 1) {
        return None;
    }
    let Step::Copy { from: (Argument::Buffer(source), 0), to: (new, at), runs: into } = &program.steps[joins] else {
        return None;
    };
    let (old, first_byte) = root_of(program, *window);
    let (old_info, new_info) = (&program.buffers[old.0 as usize], &program.buffers[new.0 as usize]);
    let fits = source == stays
        && first_byte == 0
        && new_info.part_of.is_none()
        && program.buffers[window.0 as usize].layout == new_info.layout
        && program.buffers[window.0 as usize].elements == new_info.elements
        && old_info.elements == new_info.elements
        && old_info.element == new_info.element;
    // Behind this step nobody reads the old window, and before it nobody touches the new one.
    let meets = lives.get(&old)?.last == index + 1 && lives.get(new)?.first > index + 1;
    let is_same = out.to_stride == into.from_stride && out.elements == into.elements && out.count == into.count;
    let runs = Runs { to_stride: into.to_stride, ..*out };
    let moves = fits && meets && is_same && moves_forwards(*first, *at, &runs);
    let step = Step::Copy { from: (Argument::Buffer(*window), *first), to: (*new, *at), runs };
    moves.then_some(Shift { old, new: *new, stays: *stays, joins, step })
}

/// Whether runs that move one after the other, each as if by way of another place, arrive whole: none is written to where a
/// later one still lies. `from` and `to` are the first elements in the same memory.
pub fn moves_forwards(from: usize, to: usize, runs: &Runs) -> bool {
    let Some(last) = runs.count.checked_sub(1) else { return true };
    // The distance changes by the same amount from run to run, so the first and the last pair decide.
    let clear = |run: usize| to + run * runs.to_stride + runs.elements <= from + (run + 1) * runs.from_stride;
    last == 0 || clear(0) && clear(last - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{check, plan};
    use crate::program::{Buffer, Layout, Message};
    use partita_ir::graph::{ElementType, StepSize};

    /// Windows of three rows over a stream of rows, two blocks of which lie apart: each window is made of two rows of the
    /// last and of one that has come.
    fn windows(count: u32) -> Program {
        let buffer = |name: String, elements: usize| Buffer {
            name,
            tensor: None,
            element: ElementType::F32,
            offset: 0,
            step: StepSize::ONE,
            shape: vec![elements],
            layout: Layout::Plain,
            elements,
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        };
        let mut program = Program { buffers: vec![buffer("w0".into(), 96)], ..Program::default() };
        let runs = |elements, from_stride, to_stride| Runs { count: 2, elements, from_stride, to_stride };
        let copy = |from, to, runs| Step::Copy { from: (Argument::Buffer(BufferId(from)), 0), to, runs };
        let mut window = 0;
        for number in 1..=count {
            let at = program.buffers.len() as u32;
            let (stays, row, next, result) = (at, at + 1, at + 2, at + 3);
            program.buffers.push(buffer(format!("s{number}"), 64));
            program.buffers.push(buffer(format!("r{number}"), 32));
            program.buffers.push(buffer(format!("w{number}"), 96));
            program.buffers.push(buffer(format!("y{number}"), 16));
            let message = |buffer| Message { peer: 1, number, buffer: BufferId(buffer), bytes: 64 };
            program.steps.extend([
                Step::Copy {
                    from: (Argument::Buffer(BufferId(window)), 16),
                    to: (BufferId(stays), 0),
                    runs: runs(32, 48, 32),
                },
                Step::Exchange { sends: Vec::new(), receives: vec![message(row)] },
                copy(stays, (BufferId(next), 0), runs(32, 32, 48)),
                copy(row, (BufferId(next), 32), runs(16, 16, 48)),
                copy(next, (BufferId(result), 0), Runs::one(16)),
                Step::Exchange { sends: vec![message(result)], receives: Vec::new() },
            ]);
            window = next;
        }
        program.inputs = vec![(0, BufferId(0))];
        program.outputs = vec![(0, BufferId(window))];
        program
    }

    #[test]
    fn what_stays_moves_inside_its_window() {
        let mut program = windows(3);
        let before = program.steps.len();
        plan(&mut program, 64);
        check(&program).expect("the plan is sound");
        assert_eq!(program.steps.len(), before - 3, "each window is put together by one copy less");
        // A window and a row, instead of two windows, or a window and what stays of it.
        assert_eq!(program.arena_bytes, (96 + 32) * 4);
    }

    #[test]
    fn a_window_that_is_read_again_keeps_its_memory() {
        let mut program = windows(2);
        // The second step that moves sends the first window, too.
        let message = Message { peer: 1, number: 9, buffer: BufferId(3), bytes: 64 };
        program.steps.insert(9, Step::Exchange { sends: vec![message], receives: Vec::new() });
        let shifted = shifted(&program).expect("the first window moves");
        assert_eq!(shifted.steps.len(), program.steps.len() - 1);
        assert_eq!(shifted.buffers[7].part_of, None);
    }

    #[test]
    fn runs_that_meet_later_ones_do_not_move() {
        let runs = |count, elements, from_stride, to_stride| Runs { count, elements, from_stride, to_stride };
        assert!(moves_forwards(16, 0, &runs(2, 32, 48, 48)));
        assert!(moves_forwards(0, 16, &runs(1, 32, 48, 48)), "one run moves either way");
        assert!(moves_forwards(0, 16, &runs(2, 32, 48, 48)), "to the end of a block, before the next");
        assert!(!moves_forwards(0, 17, &runs(2, 32, 48, 48)));
        assert!(!moves_forwards(16, 0, &runs(9, 32, 48, 60)), "the last would overtake");
        // What is allowed is what a copy by way of other memory gives.
        for (from, to, runs) in [(16, 0, runs(3, 32, 48, 48)), (0, 16, runs(3, 32, 48, 48)), (5, 2, runs(4, 3, 9, 8))] {
            assert!(moves_forwards(from, to, &runs));
            let old: Vec<usize> = (0..200).collect();
            let (mut inside, mut outside) = (old.clone(), old.clone());
            for run in 0..runs.count {
                let (at, end) = (from + run * runs.from_stride, to + run * runs.to_stride);
                inside.copy_within(at..at + runs.elements, end);
                outside[end..end + runs.elements].copy_from_slice(&old[at..at + runs.elements]);
            }
            assert_eq!(inside, outside);
        }
    }
}
