//! Between plain `[N, C, spatial]` and blocked `[N, ceil(C / block), spatial, block]` layout, and between the types in which
//! elements are stored.

use crate::CastTo;

/// Elements plus `offset`, as another type holds them: whole numbers of its range, `f32`, or the nearest `f16`.
pub fn restore<A: CastTo<f32>, B>(x: &[A], y: &mut [B], offset: f32)
where
    f32: CastTo<B>,
{
    if offset == 0.0 {
        // A sum with 0 would make 0 of -0.
        for (x, y) in x.iter().zip(y) {
            let element: f32 = (*x).cast();
            *y = element.cast();
        }
        return;
    }
    for (x, y) in x.iter().zip(y) {
        let element: f32 = (*x).cast();
        *y = (element + offset).cast();
    }
}

/// Multiples of a step as whole numbers less `offset`, in few bytes: `per_step` is the inverse of the step. Of what is no number
/// any number becomes.
pub fn to_steps<B>(x: &[f32], y: &mut [B], per_step: f32, offset: i32)
where
    i32: CastTo<B>,
{
    // The sum has steps of 1: its lowest bits are the whole number.
    let bias = 12_582_912.0f32;
    for (x, y) in x.iter().zip(y) {
        let whole = ((x * per_step + bias).to_bits() as i32).wrapping_sub(bias.to_bits() as i32);
        *y = whole.wrapping_sub(offset).cast();
    }
}

/// Whole numbers plus `offset` as multiples of a step.
pub fn from_steps<A: CastTo<f32>>(x: &[A], y: &mut [f32], step: f32, offset: f32) {
    for (x, y) in x.iter().zip(y) {
        let whole: f32 = (*x).cast();
        *y = (whole + offset) * step;
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

#[cfg(test)]
mod tests {
    use super::{from_steps, restore, to_steps};
    use crate::F16;
    use crate::kernels::UnaryOp;

    #[test]
    fn halves_come_and_go() {
        let x = [0.0, -0.0, 1.5, -65504.0, f32::INFINITY, f32::NEG_INFINITY, 6e-8, 65520.0];
        let mut halves = [F16(0); 8];
        restore(&x, &mut halves, 0.0);
        let mut y = [0.0f32; 8];
        restore(&halves, &mut y, 0.0);
        let bits = |x: f32| x.to_bits();
        assert_eq!(y.map(bits), x.map(|x| bits(UnaryOp::Half.apply(x))));
        let mut none = [F16(0)];
        restore(&[f32::NAN], &mut none, 0.0);
        assert!(none[0].to_f32().is_nan());
    }

    #[test]
    fn what_is_rounded_to_steps_comes_back_to_the_last_bit() {
        for (step, low, high, offset) in
            [(0.037f32, -128.0, 127.0, 0), (1e-6, 0.0, 255.0, 128), (3e8, -3.0, 252.0, 125), (0.1, -200.0, 55.0, -72)]
        {
            let rounded = UnaryOp::Steps { step, low, high };
            let numbers: [f32; 401] = core::array::from_fn(|at| (at as f32 - 200.0) * 1.7 * step);
            let x = numbers.map(|x| rounded.apply(x));
            let mut bytes = [0i8; 401];
            to_steps(&x, &mut bytes, 1.0 / step, offset);
            let mut y = [0.0f32; 401];
            from_steps(&bytes, &mut y, step, offset as f32);
            assert_eq!(x, y, "{step}");
            assert_eq!((x[0], x[400]), ((low.max(-340.0)) * step, high.min(340.0) * step));
            assert!(rounded.apply(f32::NAN).is_nan());
            assert_eq!(rounded.apply(f32::INFINITY), high * step);
        }
    }
}
