//! Several programs of one device over the same weights: each constant is stored once, each kernel emitted once.

use std::collections::HashMap;

use super::{Argument, Program, Step, Weight, WeightId};
use crate::memory::ALIGNMENT_BYTES;
use partita_kernel::Kernel;

/// Gives programs of one device, one per route, the same weights and kernels: those of the first, and whatever the others
/// need beyond. The arena is as large as the largest.
pub fn link_routes(programs: &mut [&mut Program]) {
    let mut weights: Vec<Weight> = Vec::new();
    let mut kernels: Vec<Kernel> = Vec::new();
    // Constants of another shape over the same bytes share their place.
    let mut stored = Stored::default();
    for program in programs.iter_mut() {
        let own = std::mem::take(&mut program.weights);
        let weight_ids: Vec<WeightId> = own
            .into_iter()
            .map(|weight| {
                let same = |known: &Weight| (known.element, &known.shape) == (weight.element, &weight.shape);
                let known = weights.iter().position(|known| same(known) && known.bytes == weight.bytes);
                let at = known.unwrap_or_else(|| {
                    let offset_bytes = stored.place(&weight.bytes);
                    weights.push(Weight { offset_bytes, ..weight });
                    weights.len() - 1
                });
                WeightId(at as u32)
            })
            .collect();
        let own = std::mem::take(&mut program.kernels);
        let kernel_ids: Vec<usize> = own.into_iter().map(|kernel| place_kernel(&mut kernels, kernel)).collect();
        for step in &mut program.steps {
            rename(step, &weight_ids, &kernel_ids);
        }
    }
    let arena_bytes = programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0);
    for program in programs {
        program.weights.clone_from(&weights);
        program.kernels.clone_from(&kernels);
        (program.weights_bytes, program.arena_bytes) = (stored.section.len(), arena_bytes);
    }
}

/// The weights section so far.
#[derive(Default)]
struct Stored {
    section: Vec<u8>,
    /// Aligned places by the bytes that begin there.
    places: HashMap<[u8; ALIGNMENT_BYTES], Vec<usize>>,
}

impl Stored {
    /// Where bytes lie: at an aligned place where they happen to be already, such as a part of another constant, or at
    /// the end.
    fn place(&mut self, bytes: &[u8]) -> usize {
        if let Some(start) = bytes.first_chunk::<ALIGNMENT_BYTES>()
            && let Some(places) = self.places.get(start)
        {
            let there = |place: &&usize| self.section.get(**place..**place + bytes.len()) == Some(bytes);
            if let Some(place) = places.iter().find(there) {
                return *place;
            }
        }
        let begin = self.section.len().next_multiple_of(ALIGNMENT_BYTES);
        self.section.resize(begin, 0);
        self.section.extend_from_slice(bytes);
        for (index, start) in bytes.chunks_exact(ALIGNMENT_BYTES).enumerate() {
            let start = start.first_chunk::<ALIGNMENT_BYTES>().copied().unwrap_or([0; ALIGNMENT_BYTES]);
            let places = self.places.entry(start).or_default();
            // Many places begin alike only where nothing is to be gained, such as zeros.
            if places.len() < MOST_PLACES {
                places.push(begin + index * ALIGNMENT_BYTES);
            }
        }
        begin
    }
}

/// Places with the same beginning that are looked at.
const MOST_PLACES: usize = 16;

/// The place of a kernel among those known; a new one gets a name of its own.
fn place_kernel(kernels: &mut Vec<Kernel>, mut kernel: Kernel) -> usize {
    let text = |kernel: &Kernel| (kernel.lanes, kernel.buffers.clone(), kernel.in_place.clone());
    let same = |known: &Kernel| text(known) == text(&kernel) && known.body == kernel.body;
    if let Some(known) = kernels.iter().position(same) {
        return known;
    }
    let wanted = kernel.name.clone();
    let mut number = 2;
    while kernels.iter().any(|known| known.name == kernel.name) {
        kernel.name = format!("{wanted}_{number}");
        number += 1;
    }
    kernels.push(kernel);
    kernels.len() - 1
}

fn rename(step: &mut Step, weights: &[WeightId], kernels: &[usize]) {
    let argument = |argument: &mut Argument| {
        if let Argument::Weight(id) = argument {
            *id = weights[id.0 as usize];
        }
    };
    match step {
        Step::Kernel { kernel, arguments, .. } => {
            *kernel = kernels[*kernel];
            arguments.iter_mut().for_each(argument);
        }
        Step::Reference { inputs, .. } => inputs.iter_mut().for_each(argument),
        Step::Copy { from, .. } => argument(&mut from.0),
        Step::Reorder { .. } | Step::Leave { .. } | Step::Start { .. } | Step::Exchange { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{BufferId, Runs, Source};
    use partita_ir::graph::ElementType;

    fn weight(bytes: &[u8]) -> Weight {
        let bytes = bytes.to_vec();
        Weight {
            name: "w".to_string(),
            element: ElementType::I8,
            shape: vec![bytes.len()],
            bytes: bytes.into(),
            order: None,
            source: Source::default(),
            offset_bytes: 0,
        }
    }

    /// A program that copies each of its weights.
    fn program(weights: Vec<Weight>, arena_bytes: usize) -> Program {
        let copy =
            |at| Step::Copy { from: (Argument::Weight(WeightId(at)), 0), to: (BufferId(0), 0), runs: Runs::one(1) };
        let steps = (0..weights.len() as u32).map(copy).collect();
        Program { weights, steps, arena_bytes, ..Program::default() }
    }

    #[test]
    fn what_routes_share_is_stored_once() {
        let mut programs =
            [program(vec![weight(&[1; 70]), weight(&[2; 8])], 100), program(vec![weight(&[2; 8]), weight(&[3])], 200)];
        link_routes(&mut programs.iter_mut().collect::<Vec<_>>());
        let [base, small] = programs;
        assert_eq!(base.weights, small.weights);
        assert_eq!(base.weights.iter().map(|weight| weight.offset_bytes).collect::<Vec<_>>(), [0, 128, 192]);
        assert_eq!((base.weights_bytes, small.arena_bytes, base.arena_bytes), (193, 200, 200));
        let read = |program: &Program| -> Vec<Argument> {
            let from = |step: &Step| if let Step::Copy { from, .. } = step { Some(from.0) } else { None };
            program.steps.iter().filter_map(from).collect()
        };
        let mut parts = [program(vec![weight(&[7; 256])], 0), program(vec![weight(&[7; 100])], 0)];
        link_routes(&mut parts.iter_mut().collect::<Vec<_>>());
        assert_eq!(parts[1].weights_bytes, 256, "a part of another constant takes no room");
        assert_eq!(read(&base), [Argument::Weight(WeightId(0)), Argument::Weight(WeightId(1))]);
        assert_eq!(read(&small), [Argument::Weight(WeightId(1)), Argument::Weight(WeightId(2))]);
    }
}
