//! From which step to which each independent buffer holds something that is still needed.

use std::collections::BTreeMap;

use super::parts::root_of;
use crate::program::{Argument, BufferId, Program, Step};
use partita_kernel::Access;

/// Steps during which a buffer is in use, both ends included. Step numbers here are one more than indices into
/// [`Program::steps`]: 0 is the time when the caller feeds the inputs, `steps.len() + 1` when it reads the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// First step that writes it.
    pub first: usize,
    /// Last step that reads or writes it.
    pub last: usize,
}

/// Lifetimes of all independent buffers; the uses of a part are uses of the whole. Buffers never used are left out.
pub fn lifetimes(program: &Program) -> BTreeMap<BufferId, Lifetime> {
    let mut found: BTreeMap<BufferId, Lifetime> = BTreeMap::new();
    let mut touch = |buffer: BufferId, step: usize| {
        let (root, _) = root_of(program, buffer);
        found
            .entry(root)
            .and_modify(|life| {
                life.first = life.first.min(step);
                life.last = life.last.max(step);
            })
            .or_insert(Lifetime { first: step, last: step });
    };
    for (_, buffer) in &program.inputs {
        touch(*buffer, 0);
    }
    for (index, step) in program.steps.iter().enumerate() {
        for buffer in buffers_read(program, step).into_iter().chain(buffers_written(program, step)) {
            touch(buffer, index + 1);
        }
    }
    for (_, buffer) in &program.outputs {
        touch(*buffer, program.steps.len() + 1);
    }
    found
}

/// Buffers that a step reads.
pub fn buffers_read(program: &Program, step: &Step) -> Vec<BufferId> {
    let buffer_of = |argument: &Argument| match argument {
        Argument::Buffer(buffer) => Some(*buffer),
        Argument::Weight(_) => None,
    };
    match step {
        Step::Kernel { kernel, arguments, .. } => {
            let declared = &program.kernels[*kernel].buffers;
            let inputs =
                arguments.iter().zip(declared).filter(|(_, d)| !matches!(d.access, Access::Output | Access::Scratch));
            inputs.filter_map(|(argument, _)| buffer_of(argument)).collect()
        }
        Step::Reference { inputs, .. } => inputs.iter().filter_map(buffer_of).collect(),
        Step::Reorder { from, .. } => vec![*from],
        Step::Copy { from, .. } => buffer_of(&from.0).into_iter().collect(),
        Step::Leave { verdict, answer, .. } => std::iter::once(*verdict).chain(*answer).collect(),
        Step::Start { sends, .. } | Step::Exchange { sends, .. } => {
            sends.iter().map(|message| message.buffer).collect()
        }
    }
}

/// Buffers that a step writes.
pub fn buffers_written(program: &Program, step: &Step) -> Vec<BufferId> {
    match step {
        Step::Kernel { kernel, arguments, .. } => {
            let declared = &program.kernels[*kernel].buffers;
            arguments
                .iter()
                .zip(declared)
                .filter(|(_, declaration)| matches!(declaration.access, Access::Output | Access::Scratch))
                .filter_map(|(argument, _)| match argument {
                    Argument::Buffer(buffer) => Some(*buffer),
                    Argument::Weight(_) => None,
                })
                .collect()
        }
        Step::Reference { outputs, .. } => outputs.clone(),
        Step::Reorder { to, .. } => vec![*to],
        Step::Copy { to, .. } => vec![to.0],
        Step::Leave { .. } => Vec::new(),
        Step::Start { receives, .. } | Step::Exchange { receives, .. } => {
            receives.iter().map(|message| message.buffer).collect()
        }
    }
}
