//! Lets a kernel write its result over an input that nothing reads later.

use std::collections::BTreeMap;

use super::lifetimes::{Lifetime, buffers_read, lifetimes};
use super::parts::root_of;
use crate::program::{Argument, BufferId, Program, Step};
use partita_kernel::Access;

/// Makes outputs parts of dying inputs where the kernel allows it ([`partita_kernel::Kernel::in_place`]).
///
/// Legal if the input and the output own or share their memory at the same first byte with the same size in all and of an
/// element, the input's
/// memory is not read after the step, the step reads it only through that one argument, and the output's memory
/// did not exist before the step.
pub fn share(program: &mut Program) {
    let mut lives = lifetimes(program);
    for index in 0..program.steps.len() {
        if let Some((input, output)) = candidate(program, &lives, index) {
            let (root, _) = root_of(program, input);
            if let (Some(of_output), Some(of_root)) = (lives.remove(&output), lives.get_mut(&root)) {
                of_root.last = of_root.last.max(of_output.last);
            }
            // Of the root at once, at the same first byte: chains of parts would be walked again and again.
            let output = &mut program.buffers[output.0 as usize];
            output.part_of = Some((root, 0));
            output.replaces = true;
        }
    }
}

fn candidate(program: &Program, lives: &BTreeMap<BufferId, Lifetime>, index: usize) -> Option<(BufferId, BufferId)> {
    let step = &program.steps[index];
    let Step::Kernel { kernel, arguments, .. } = step else { return None };
    let kernel = &program.kernels[*kernel];
    let output = kernel.buffers.iter().zip(arguments).find_map(|(declared, argument)| match argument {
        Argument::Buffer(buffer) if declared.access == Access::Output => Some(*buffer),
        _ => None,
    })?;
    let output_info = &program.buffers[output.0 as usize];
    if output_info.part_of.is_some() {
        return None;
    }
    // A concat may have made other buffers parts of the output: then its memory lives before this step.
    if lives.get(&output)?.first != index + 1 {
        return None;
    }
    kernel.in_place.iter().find_map(|allowed| {
        let Argument::Buffer(input) = arguments[allowed.0 as usize] else { return None };
        let (root, first_byte) = root_of(program, input);
        let input_info = &program.buffers[input.0 as usize];
        let root_info = &program.buffers[root.0 as usize];
        let reads = buffers_read(program, step).into_iter().filter(|read| root_of(program, *read).0 == root).count();
        let fits = first_byte == 0
            && input_info.elements == output_info.elements
            && input_info.layout == output_info.layout
            && input_info.element.size_bytes() == output_info.element.size_bytes()
            && root_info.elements * root_info.element.size_bytes()
                == output_info.elements * output_info.element.size_bytes();
        (fits && reads == 1 && lives.get(&root)?.last == index + 1).then_some((input, output))
    })
}
