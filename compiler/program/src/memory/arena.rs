//! Packs buffers with known lifetimes into one arena: dynamic storage allocation, offline.
//!
//! Greedy first fit in several orders (largest first, longest-lived first, in time), each placing a buffer at
//! the lowest offset free during its whole life; the smallest result is kept.

use std::collections::BTreeMap;

use super::lifetimes::Lifetime;
use super::parts::size_bytes;
use crate::program::{BufferId, Program};

/// Offsets of independent buffers and the size they need.
pub struct Packed {
    /// First byte of each buffer.
    pub offsets: BTreeMap<BufferId, usize>,
    /// End of the last.
    pub size_bytes: usize,
}

struct Item {
    buffer: BufferId,
    life: Lifetime,
    bytes: usize,
}

/// Packs all buffers in `lifetimes`.
pub fn pack(program: &Program, lifetimes: &BTreeMap<BufferId, Lifetime>, alignment_bytes: usize) -> Packed {
    let mut items: Vec<Item> = lifetimes
        .iter()
        .map(|(buffer, life)| Item {
            buffer: *buffer,
            life: *life,
            bytes: size_bytes(program, *buffer).next_multiple_of(alignment_bytes),
        })
        .collect();
    let in_time = first_fit(&items);
    items.sort_by_key(|item| (std::cmp::Reverse(item.bytes), item.life.first, item.buffer));
    let by_size = first_fit(&items);
    items.sort_by_key(|item| {
        let steps = item.life.last - item.life.first + 1;
        (std::cmp::Reverse(item.bytes.saturating_mul(steps)), item.buffer)
    });
    let by_area = first_fit(&items);
    [by_size, by_area, in_time]
        .into_iter()
        .min_by_key(|packed| packed.size_bytes)
        .unwrap_or(Packed { offsets: BTreeMap::new(), size_bytes: 0 })
}

fn first_fit(items: &[Item]) -> Packed {
    let mut placed: Vec<(usize, usize, Lifetime)> = Vec::with_capacity(items.len());
    let mut offsets = BTreeMap::new();
    let mut end_bytes = 0;
    for item in items {
        // `placed` is sorted by offset, so the first gap wide enough is the lowest.
        let mut offset = 0;
        for (start, bytes, life) in &placed {
            let meet = life.first <= item.life.last && item.life.first <= life.last;
            if meet {
                if offset + item.bytes <= *start {
                    break;
                }
                offset = offset.max(start + bytes);
            }
        }
        let position = placed.partition_point(|(start, _, _)| *start <= offset);
        placed.insert(position, (offset, item.bytes, item.life));
        offsets.insert(item.buffer, offset);
        end_bytes = end_bytes.max(offset + item.bytes);
    }
    Packed { offsets, size_bytes: end_bytes }
}
