//! Operators that move elements without changing them.

use super::{MAX_RANK, broadcast_strides, strides};

/// Copies one input of a Concat into its place: `inner` is the number of elements of one index of the axis, `first` and
/// `extent` the input's place along the axis, `total` the output's extent.
pub fn concat_part<T: Copy>(x: &[T], y: &mut [T], inner: usize, first: usize, extent: usize, total: usize) {
    for (row, out) in x.chunks_exact((extent * inner).max(1)).zip(y.chunks_exact_mut((total * inner).max(1))) {
        if let Some(out) = out.get_mut(first * inner..(first + extent) * inner) {
            out.iter_mut().zip(row).for_each(|(out, element)| *out = *element);
        }
    }
}

/// Copies one output of a Split out of its place; arguments as in [`concat_part`].
pub fn split_part<T: Copy>(x: &[T], y: &mut [T], inner: usize, first: usize, extent: usize, total: usize) {
    for (row, out) in x.chunks_exact((total * inner).max(1)).zip(y.chunks_exact_mut((extent * inner).max(1))) {
        if let Some(row) = row.get(first * inner..(first + extent) * inner) {
            out.iter_mut().zip(row).for_each(|(out, element)| *out = *element);
        }
    }
}

/// `y[i..] = x[starts + i * steps..]` per axis. Steps may be negative.
pub fn slice<T: Copy>(x: &[T], x_shape: &[usize], y: &mut [T], y_shape: &[usize], starts: &[usize], steps: &[isize]) {
    let own = strides(x_shape);
    let mut first = 0usize;
    // Wrapping arithmetic makes a negative stride a large positive one; positions inside the tensor come out right.
    let mut view = [0usize; MAX_RANK];
    for ((slot, stride), (start, step)) in view.iter_mut().zip(&own).zip(starts.iter().zip(steps)) {
        first = first.wrapping_add(start.wrapping_mul(*stride));
        *slot = (*step as usize).wrapping_mul(*stride);
    }
    gather_view(x, y, y_shape, first, view);
}

/// `y.shape[i] = x.shape[permutation[i]]`
pub fn transpose<T: Copy>(x: &[T], x_shape: &[usize], y: &mut [T], y_shape: &[usize], permutation: &[usize]) {
    let own = strides(x_shape);
    let mut view = [0usize; MAX_RANK];
    for (slot, axis) in view.iter_mut().zip(permutation) {
        *slot = own.get(*axis).copied().unwrap_or(0);
    }
    gather_view(x, y, y_shape, 0, view);
}

/// Repeats elements along broadcast axes.
pub fn expand<T: Copy>(x: &[T], x_shape: &[usize], y: &mut [T], y_shape: &[usize]) {
    gather_view(x, y, y_shape, 0, broadcast_strides(x_shape, y_shape));
}

fn gather_view<T: Copy>(x: &[T], y: &mut [T], y_shape: &[usize], first: usize, view: [usize; MAX_RANK]) {
    // Rows along the last axis, then an odometer over the others.
    let (width, outer) = y_shape.split_last().map_or((1, y_shape), |(width, outer)| (*width, outer));
    let step = view.get(outer.len()).copied().unwrap_or(0);
    let mut index = [0usize; MAX_RANK];
    let mut position = first;
    for row in y.chunks_mut(width.max(1)) {
        let run = x.get(position..).unwrap_or(&[]);
        if step == 1 {
            for (out, element) in row.iter_mut().zip(run) {
                *out = *element;
            }
        } else {
            let mut at = position;
            for out in row {
                if let Some(element) = x.get(at) {
                    *out = *element;
                }
                at = at.wrapping_add(step);
            }
        }
        for ((extent, stride), index) in outer.iter().zip(&view).zip(&mut index).rev() {
            *index += 1;
            position = position.wrapping_add(*stride);
            if *index < *extent {
                break;
            }
            position = position.wrapping_sub(stride.wrapping_mul(*index));
            *index = 0;
        }
    }
}

/// How [`pad`] fills new elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadFill<T> {
    /// With a value.
    Constant(T),
    /// Mirrored at the edge, without repeating it.
    Reflect,
    /// With the nearest element.
    Edge,
}

/// ONNX Pad with non-negative pads; `begin` counts elements before the first, per axis.
pub fn pad<T: Copy>(x: &[T], x_shape: &[usize], y: &mut [T], y_shape: &[usize], begin: &[usize], fill: PadFill<T>) {
    let own = strides(x_shape);
    let mut index = [0usize; MAX_RANK];
    for out in y {
        let mut position = Some(0usize);
        for (((at, before), extent), stride) in index.iter().zip(begin).zip(x_shape).zip(&own) {
            let source = match (at.checked_sub(*before), fill) {
                (Some(inside), _) if inside < *extent => Some(inside),
                (_, PadFill::Constant(_)) => None,
                (None, PadFill::Edge) => Some(0),
                (Some(_), PadFill::Edge) => extent.checked_sub(1),
                (None, PadFill::Reflect) => Some((before - at).min(extent.saturating_sub(1))),
                (Some(past), PadFill::Reflect) => (2 * extent).checked_sub(past + 2),
            };
            position = match (position, source) {
                (Some(position), Some(source)) => Some(position + source * stride),
                _ => None,
            };
        }
        match (position.and_then(|position| x.get(position)), fill) {
            (Some(element), _) => *out = *element,
            (None, PadFill::Constant(value)) => *out = value,
            (None, PadFill::Reflect | PadFill::Edge) => {}
        }
        for (index, extent) in index.iter_mut().zip(y_shape).rev() {
            *index += 1;
            if *index < *extent {
                break;
            }
            *index = 0;
        }
    }
}

/// ONNX Gather: `outer` indices before the axis, `extent` along it, `inner` elements after it. Negative indices count
/// from the end; indices outside leave the output as it was.
pub fn gather<T: Copy, I: Copy + Into<i64>>(x: &[T], indices: &[I], y: &mut [T], extent: usize, inner: usize) {
    let rows = y.chunks_exact_mut((indices.len() * inner).max(1));
    for (block, out) in x.chunks_exact((extent * inner).max(1)).zip(rows) {
        for (index, out) in indices.iter().zip(out.chunks_exact_mut(inner.max(1))) {
            let index: i64 = (*index).into();
            let index = if index < 0 { index.wrapping_add(extent as i64) } else { index };
            let source = usize::try_from(index).ok().and_then(|index| block.chunks_exact(inner.max(1)).nth(index));
            if let Some(source) = source {
                out.iter_mut().zip(source).for_each(|(out, element)| *out = *element);
            }
        }
    }
}

/// ONNX SpaceToDepth: `x` `[N, C, H, W]` to `[N, C * block^2, H / block, W / block]`.
pub fn space_to_depth<T: Copy>(x: &[T], x_shape: &[usize; 4], y: &mut [T], block: usize) {
    let [n, c, h, w] = *x_shape;
    let block = block.max(1);
    let (rows, columns) = (h / block, w / block);
    // The output as [N, block row, block column, C, row, column].
    let shape = [n, block, block, c, rows, columns];
    let view = [c * h * w, w, 1, h * w, w * block, block, 0, 0];
    gather_view(x, y, &shape, 0, view);
}

/// ONNX DepthToSpace: `x` `[N, C, H, W]` to `[N, C / block^2, H * block, W * block]`, depth-column-row or
/// column-row-depth order.
pub fn depth_to_space<T: Copy>(x: &[T], x_shape: &[usize; 4], y: &mut [T], block: usize, column_row_depth: bool) {
    let [n, c, h, w] = *x_shape;
    let block = block.max(1);
    let depth = c / (block * block);
    // The output as [N, depth, row, block row, column, block column].
    let shape = [n, depth, h, block, w, block];
    let plane = h * w;
    let view = if column_row_depth {
        [c * plane, block * block * plane, w, block * plane, 1, plane, 0, 0]
    } else {
        [c * plane, plane, w, block * depth * plane, 1, depth * plane, 0, 0]
    };
    gather_view(x, y, &shape, 0, view);
}
