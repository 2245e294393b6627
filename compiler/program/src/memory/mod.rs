//! Gives every buffer its place in the arena and every weight its place in the weights section.
//!
//! `hoist` makes copies as early as they can be, `shift` moves windows over rows inside their memory, where that makes
//! the arena smaller; `in_place` lets kernels write over an input that nothing needs any more; [`lifetimes`] then says
//! from which step to which each independent buffer lives; `arena` packs them; [`check`] proves, without trusting the
//! others, that no two buffers that live at the same time overlap.

mod arena;
mod bounds;
mod check;
mod hoist;
mod in_place;
mod lifetimes;
mod parts;
mod shift;

pub use bounds::{Bounds, bounds};
pub use check::{OverlapError, check, copies_in_place};
pub use lifetimes::{Lifetime, lifetimes};
pub use parts::root_of;
use parts::size_bytes;

use crate::program::{BufferId, PORT_ALIGNMENT_BYTES, Program};

/// Alignment of every independent buffer and weight: a cache line, and the widest vector.
pub const ALIGNMENT_BYTES: usize = 64;

/// Fills in all offsets and the sizes of the arena and the weights section. Copies are made earlier, and what stays of
/// a window is moved inside it, where that makes the arena smaller.
pub fn plan(program: &mut Program, alignment_bytes: usize) {
    let mut moved: Vec<Program> = HOISTED_STEPS.iter().filter_map(|most| hoist::hoisted(program, *most)).collect();
    let shifted: Vec<Program> = std::iter::once(&*program).chain(&moved).filter_map(shift::shifted).collect();
    moved.extend(shifted);
    place_all(program, alignment_bytes);
    for mut moved in moved {
        place_all(&mut moved, alignment_bytes);
        if moved.arena_bytes < program.arena_bytes {
            *program = moved;
        }
    }
}

/// Copies that are made earlier: all, or those into what is soon put together, such as one band. What is put together
/// over a long time, such as the bands of a result, is better left in parts if something else is large meanwhile.
const HOISTED_STEPS: [usize; 2] = [usize::MAX, 48];

fn place_all(program: &mut Program, alignment_bytes: usize) {
    in_place::share(program);
    let lifetimes = lifetimes(program);
    let placed = arena::pack(program, &lifetimes, alignment_bytes);
    for (buffer, offset_bytes) in placed.offsets {
        program.buffers[buffer.0 as usize].offset_bytes = offset_bytes;
    }
    for index in 0..program.buffers.len() {
        let (root, first_byte) = root_of(program, BufferId(index as u32));
        program.buffers[index].offset_bytes = program.buffers[root.0 as usize].offset_bytes + first_byte;
    }
    program.arena_bytes = match program.kept_bytes() {
        0 => placed.size_bytes,
        kept => placed.size_bytes.next_multiple_of(PORT_ALIGNMENT_BYTES) + kept,
    };
    let mut end_bytes = 0usize;
    for weight in &mut program.weights {
        weight.offset_bytes = end_bytes.next_multiple_of(alignment_bytes);
        end_bytes = weight.offset_bytes + weight.bytes.len();
    }
    program.weights_bytes = end_bytes;
}

/// The smallest arena that any packing could reach: the most bytes alive during one step.
pub fn least_arena_bytes(program: &Program, alignment_bytes: usize) -> usize {
    // What begins to live at each step, and what has ceased to.
    let mut changes = vec![(0usize, 0usize); program.steps.len() + 3];
    for (buffer, life) in lifetimes(program) {
        let bytes = size_bytes(program, buffer).next_multiple_of(alignment_bytes);
        changes[life.first].0 += bytes;
        changes[life.last + 1].1 += bytes;
    }
    let alive = changes.iter().scan(0, |alive, (come, gone)| {
        *alive = *alive + come - gone;
        Some(*alive)
    });
    alive.max().unwrap_or(0) + program.kept_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Argument, Buffer, Layout, Message, Runs, Step};
    use partita_ir::graph::{ElementType, StepSize};
    use partita_kernel::{Access, BufferDeclaration, Kernel};

    /// A program whose steps copy `elements` from one buffer to the next: a chain of that many buffers.
    fn chain(elements: &[usize]) -> Program {
        let buffers = elements
            .iter()
            .enumerate()
            .map(|(index, elements)| Buffer {
                name: format!("t{index}"),
                tensor: None,
                element: ElementType::F32,
                offset: 0,
                step: StepSize::ONE,
                shape: vec![*elements],
                layout: Layout::Plain,
                elements: *elements,
                part_of: None,
                replaces: false,
                offset_bytes: 0,
            })
            .collect();
        let last = elements.len() as u32 - 1;
        let steps = (0..last)
            .map(|index| Step::Copy {
                from: (Argument::Buffer(BufferId(index)), 0),
                to: (BufferId(index + 1), 0),
                runs: Runs::one(1),
            })
            .collect();
        Program {
            buffers,
            steps,
            inputs: vec![(0, BufferId(0))],
            outputs: vec![(0, BufferId(last))],
            ..Program::default()
        }
    }

    #[test]
    fn a_chain_needs_two_neighbours_at_once() {
        let mut program = chain(&[16, 64, 32, 48, 16]);
        plan(&mut program, 64);
        check(&program).expect("the plan is sound");
        assert_eq!(program.arena_bytes, (64 + 32) * 4);
        assert_eq!(program.arena_bytes, least_arena_bytes(&program, 64));
    }

    #[test]
    fn parts_are_copied_as_soon_as_they_are_made() {
        // t0 makes t1, t2 and t3 one after the other; all three are copied into t4, which is read.
        let mut program = chain(&[16, 64, 64, 64, 192, 16]);
        let copy = |from: u32, to: u32, first: usize| Step::Copy {
            from: (Argument::Buffer(BufferId(from)), 0),
            to: (BufferId(to), first),
            runs: Runs::one(16),
        };
        let made = [copy(0, 1, 0), copy(0, 2, 0), copy(0, 3, 0)];
        let joined = [copy(1, 4, 0), copy(2, 4, 64), copy(3, 4, 128)];
        program.steps = made.into_iter().chain(joined).chain([copy(4, 5, 0)]).collect();
        plan(&mut program, 64);
        check(&program).expect("the plan is sound");
        // The input, one part at a time, and the whole.
        assert_eq!(program.arena_bytes, (16 + 64 + 192) * 4);
        let order: Vec<u32> = program
            .steps
            .iter()
            .map(|step| match step {
                Step::Copy { from: (Argument::Buffer(from), _), to, .. } if to.0.0 == 4 => from.0,
                _ => 0,
            })
            .collect();
        assert_eq!(order, [0, 1, 0, 2, 0, 3, 0]);
    }

    #[test]
    fn an_overwritten_buffer_is_refused() {
        let mut program = chain(&[16, 16, 32]);
        plan(&mut program, 64);
        // The last step reads t1, but now also t0, whose place t2 may have taken.
        let Step::Copy { from, .. } = &mut program.steps[1] else { panic!("a chain is made of copies") };
        from.0 = Argument::Buffer(BufferId(0));
        program.buffers[1].offset_bytes = program.buffers[0].offset_bytes;
        let error = check(&program).expect_err("t1 lies on t0");
        assert!(matches!(error, OverlapError::Overwritten { step: 1, writer: Some(0), .. }), "{error}");
    }

    #[test]
    fn nobody_reads_or_overwrites_what_is_on_its_way() {
        let message = |buffer: u32, number: u32| Message { peer: 1, number, buffer: BufferId(buffer), bytes: 64 };
        let copy = |from: u32, to: u32| Step::Copy {
            from: (Argument::Buffer(BufferId(from)), 0),
            to: (BufferId(to), 0),
            runs: Runs::one(16),
        };
        let mut program = chain(&[16, 16, 16, 16, 16]);
        program.steps = vec![
            copy(0, 1),
            Step::Start { sends: vec![message(1, 0)], receives: vec![message(2, 1)] },
            copy(0, 3),
            Step::Exchange { sends: vec![message(1, 0)], receives: vec![message(2, 1)] },
            copy(2, 4),
        ];
        plan(&mut program, 64);
        check(&program).expect("the plan is sound");
        assert_eq!(program.arena_bytes, 4 * 64, "the first four are alive at once");
        let mut early = program.clone();
        early.steps[2] = copy(2, 3);
        let error = check(&early).expect_err("buffer 2 may not have come yet");
        assert!(matches!(error, OverlapError::Overwritten { step: 2, .. }), "{error}");
        for (on, what) in [(1, "what leaves"), (2, "what comes")] {
            let mut broken = program.clone();
            broken.buffers[3].offset_bytes = broken.buffers[on].offset_bytes;
            let error = check(&broken).expect_err(what);
            assert!(matches!(error, OverlapError::Overwritten { step: 3, writer: Some(2), .. }), "{what}: {error}");
        }
    }

    #[test]
    fn scratch_memory_is_nobody_elses() {
        let mut program = chain(&[16, 32, 16]);
        let declare = |name: &str, access, elements| BufferDeclaration {
            name: name.to_string(),
            access,
            elements,
            storage: ElementType::F32,
        };
        let kernel = Kernel {
            name: "k".to_string(),
            summary: String::new(),
            lanes: 4,
            buffers: vec![
                declare("x", Access::Input, 16),
                declare("scratch", Access::Scratch, 32),
                declare("y", Access::Output, 16),
            ],
            loops: Vec::new(),
            variable_names: Vec::new(),
            body: Vec::new(),
            in_place: Vec::new(),
            split: None,
            alternative: None,
            winograd: None,
            macs: 0,
        };
        program.kernels = vec![kernel];
        let arguments = [0, 1, 2].map(|id| Argument::Buffer(BufferId(id))).to_vec();
        program.steps = vec![Step::Kernel { node: "n".to_string(), fused: Vec::new(), kernel: 0, arguments }];
        plan(&mut program, 64);
        check(&program).expect("the plan is sound");
        // Neither over what is read nor over what is written.
        for other in [0, 2] {
            let mut broken = program.clone();
            broken.buffers[1].offset_bytes = broken.buffers[other].offset_bytes;
            broken.arena_bytes *= 2;
            let error = check(&broken).expect_err("the scratch buffer lies on an operand");
            assert!(matches!(error, OverlapError::SharedScratch { step: 0, .. }), "{error}");
        }
    }

    #[test]
    fn a_buffer_outside_the_arena_is_refused() {
        let mut program = chain(&[16, 16]);
        plan(&mut program, 64);
        program.arena_bytes -= 4;
        assert!(matches!(check(&program), Err(OverlapError::Outside { .. })));
    }

    #[test]
    fn parts_lie_inside_their_whole() {
        let mut program = chain(&[16, 16, 32]);
        program.buffers[0].part_of = Some((BufferId(2), 0));
        program.buffers[1].part_of = Some((BufferId(2), 16));
        program.steps.truncate(1);
        plan(&mut program, 64);
        check(&program).expect("both parts are written once and read through the whole");
        assert_eq!(program.arena_bytes, 32 * 4);
        assert_eq!(program.buffers[1].offset_bytes, 64);
    }

    #[test]
    fn random_programs_are_packed_soundly() {
        let mut state = 1u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        for _ in 0..200 {
            let sizes: Vec<usize> = (0..2 + next(20)).map(|_| 1 + next(100) as usize).collect();
            let mut program = chain(&sizes);
            // Older buffers are read again now and then, so lifetimes overlap in every way.
            let copies = std::mem::take(&mut program.steps);
            for (index, copy) in copies.into_iter().enumerate() {
                if next(3) == 0 {
                    let older = BufferId(next(index as u64 + 1) as u32);
                    let message = Message { peer: 1, number: 0, buffer: older, bytes: 4 };
                    program.steps.push(Step::Exchange { sends: vec![message], receives: Vec::new() });
                }
                program.steps.push(copy);
            }
            plan(&mut program, 16);
            check(&program).expect("the plan is sound");
            assert!(program.arena_bytes >= least_arena_bytes(&program, 16));
        }
    }
}
