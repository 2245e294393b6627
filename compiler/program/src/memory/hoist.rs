//! Copies into a common buffer, made as soon as what they copy is there.
//!
//! A concatenation whose parts cannot be made in place copies them one by one. Left where the concatenation stands, all
//! parts are alive at once, beside the whole; copied as soon as it is made, each part is alive only briefly.

use std::collections::HashMap;

use super::lifetimes::{buffers_read, buffers_written};
use super::parts::root_of;
use crate::program::{Argument, BufferId, Program, Step};

/// Steps that are looked at for all copies of a program together; further copies stay where they are. Networks that people
/// train need thousands.
const MAX_LOOKS: usize = 4_000_000;

/// The program with copies moved forwards, by at most so many steps, where nothing else touches their destination; `None`
/// if there is none.
pub fn hoisted(program: &Program, most_steps: usize) -> Option<Program> {
    // Only what is put together from several parts gains.
    let mut parts: HashMap<BufferId, usize> = HashMap::new();
    for step in &program.steps {
        if let Step::Copy { to: (to, _), .. } = step {
            *parts.entry(root_of(program, *to).0).or_default() += 1;
        }
    }
    if parts.values().all(|count| *count < 2) {
        return None;
    }
    let mut moved = program.clone();
    let mut changed = false;
    let mut looks = 0;
    for index in 0..moved.steps.len() {
        if looks > MAX_LOOKS {
            break;
        }
        let place = earliest(&moved, index, &parts, &mut looks);
        if let Some(place) = place.filter(|place| index - place <= most_steps) {
            moved.steps[place..=index].rotate_right(1);
            changed = true;
        }
    }
    changed.then_some(moved)
}

/// The earliest place of the copy at `index`, if it may move: behind the last step that writes what it reads, as long as
/// no step on the way but copies to other parts touches what it writes.
fn earliest(program: &Program, index: usize, parts: &HashMap<BufferId, usize>, looks: &mut usize) -> Option<usize> {
    let Step::Copy { from: (Argument::Buffer(from), _), to: (to, _), .. } = &program.steps[index] else { return None };
    let root = |buffer: BufferId| root_of(program, buffer).0;
    let (source, destination) = (root(*from), root(*to));
    if source == destination || parts.get(&destination).is_none_or(|count| *count < 2) {
        return None;
    }
    let writes_part = |step: &Step| matches!(step, Step::Copy { to: (other, _), .. } if root(*other) == destination);
    let touches = |buffers: Vec<BufferId>, wanted: BufferId| buffers.into_iter().any(|buffer| root(buffer) == wanted);
    let mut place = index;
    for earlier in (0..index).rev() {
        *looks += 1;
        let step = &program.steps[earlier];
        if touches(buffers_written(program, step), source) {
            break;
        }
        let sibling = writes_part(step);
        let read = touches(buffers_read(program, step), destination);
        if read || !sibling && touches(buffers_written(program, step), destination) {
            break;
        }
        place = earlier;
    }
    // Siblings keep their order, so that a program without anything to gain stays as it is.
    while place < index && writes_part(&program.steps[place]) {
        place += 1;
        *looks += 1;
    }
    (place < index).then_some(place)
}
