//! Between plain `[N, C, spatial]` and blocked `[N, ceil(C / block), spatial, block]` layout, and between the types in which
//! elements are stored.

use crate::CastTo;

/// Elements plus `offset`, as another type holds them: whole numbers of its range, or `f32`.
pub fn restore<A: CastTo<f32>, B>(x: &[A], y: &mut [B], offset: f32)
where
    f32: CastTo<B>,
{
    for (x, y) in x.iter().zip(y) {
        let element: f32 = (*x).cast();
        *y = (element + offset).cast();
    }
}

/// Plain to blocked; lanes past the last channel become 0.
pub fn reorder_to_blocked<T: Copy + Default>(
    x: &[T],
    y: &mut [T],
    batch: usize,
    channels: usize,
    spatial: usize,
    block: usize,
) {
    let (block, spatial) = (block.max(1), spatial.max(1));
    let sample = channels.div_ceil(block) * spatial * block;
    let planes = channels.max(1) * spatial;
    for (x, y) in x.chunks_exact(planes).zip(y.chunks_exact_mut(sample.max(1))).take(batch) {
        for (group, out) in y.chunks_exact_mut(spatial * block).enumerate() {
            for lane in 0..block {
                let plane = x.chunks_exact(spatial).nth(group * block + lane);
                let outs = out.iter_mut().skip(lane).step_by(block);
                match plane {
                    Some(plane) => outs.zip(plane).for_each(|(out, element)| *out = *element),
                    None => outs.for_each(|out| *out = T::default()),
                }
            }
        }
    }
}

/// Blocked to plain.
pub fn reorder_from_blocked<T: Copy>(
    x: &[T],
    y: &mut [T],
    batch: usize,
    channels: usize,
    spatial: usize,
    block: usize,
) {
    let (block, spatial) = (block.max(1), spatial.max(1));
    let sample = channels.div_ceil(block) * spatial * block;
    let planes = channels.max(1) * spatial;
    for (x, y) in x.chunks_exact(sample.max(1)).zip(y.chunks_exact_mut(planes)).take(batch) {
        for (channel, out) in y.chunks_exact_mut(spatial).enumerate() {
            let group = x.chunks_exact(spatial * block).nth(channel / block).unwrap_or(&[]);
            for (out, element) in out.iter_mut().zip(group.iter().skip(channel % block).step_by(block)) {
                *out = *element;
            }
        }
    }
}
