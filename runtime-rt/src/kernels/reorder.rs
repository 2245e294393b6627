//! Between plain `[N, C, spatial]` and blocked `[N, ceil(C / block), spatial, block]` layout.

/// Plain to blocked; lanes past the last channel become 0.
pub fn reorder_to_blocked(x: &[f32], y: &mut [f32], batch: usize, channels: usize, spatial: usize, block: usize) {
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
                    None => outs.for_each(|out| *out = 0.0),
                }
            }
        }
    }
}

/// Blocked to plain.
pub fn reorder_from_blocked(x: &[f32], y: &mut [f32], batch: usize, channels: usize, spatial: usize, block: usize) {
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
