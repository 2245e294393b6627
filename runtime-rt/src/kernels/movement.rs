//! Operators that move elements without changing them.

use super::{MAX_RANK, broadcast_strides, strides};
use crate::CastTo;

/// The same elements (ONNX Identity, Reshape).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Identity;

impl Identity {
    /// `y` from `x`.
    #[inline]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        for (out, element) in y.iter_mut().zip(x) {
            *out = *element;
        }
    }
}

/// Tensors joined along an axis (ONNX Concat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Concat {
    /// Elements of the result from one index of the axes before the joined one to the next.
    pub row: usize,
}

impl Concat {
    /// `y` from the parts in order.
    pub fn run<T: Copy>(&self, parts: &[&[T]], y: &mut [T]) {
        let rows = y.len() / self.row.max(1);
        let mut first = 0;
        for part in parts {
            let width = part.len() / rows.max(1);
            for (row, out) in part.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(self.row.max(1))) {
                if let Some(out) = out.get_mut(first..first + width) {
                    out.iter_mut().zip(row).for_each(|(out, element)| *out = *element);
                }
            }
            first += width;
        }
    }
}

/// A tensor cut along an axis (ONNX Split).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Split {
    /// Elements of the input from one index of the axes before the cut one to the next.
    pub row: usize,
}

impl Split {
    /// The parts in order from `x`.
    pub fn run<T: Copy>(&self, x: &[T], parts: &mut [&mut [T]]) {
        let rows = x.len() / self.row.max(1);
        let mut first = 0;
        for part in parts {
            let width = part.len() / rows.max(1);
            for (row, out) in x.chunks_exact(self.row.max(1)).zip(part.chunks_exact_mut(width.max(1))) {
                if let Some(row) = row.get(first..first + width) {
                    out.iter_mut().zip(row).for_each(|(out, element)| *out = *element);
                }
            }
            first += width;
        }
    }
}

/// `y[i] = x[start + i * step]` per axis (ONNX Slice). Steps may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Slice<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// First index per axis.
    pub starts: &'a [usize],
    /// Step per axis.
    pub steps: &'a [isize],
}

impl Slice<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        slice(x, y, self.x_shape, self.y_shape, self.starts, self.steps);
    }
}

fn slice<T: Copy>(x: &[T], y: &mut [T], x_shape: &[usize], y_shape: &[usize], starts: &[usize], steps: &[isize]) {
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

/// `y.shape[i] = x.shape[permutation[i]]` (ONNX Transpose).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Transpose<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// Axis of the input for each axis of the result.
    pub permutation: &'a [usize],
}

impl Transpose<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        transpose(x, y, self.x_shape, self.y_shape, self.permutation);
    }
}

fn transpose<T: Copy>(x: &[T], y: &mut [T], x_shape: &[usize], y_shape: &[usize], permutation: &[usize]) {
    let own = strides(x_shape);
    let mut view = [0usize; MAX_RANK];
    for (slot, axis) in view.iter_mut().zip(permutation) {
        *slot = own.get(*axis).copied().unwrap_or(0);
    }
    gather_view(x, y, y_shape, 0, view);
}

/// Elements repeated along broadcast axes (ONNX Expand).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Expand<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
}

impl Expand<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        expand(x, y, self.x_shape, self.y_shape);
    }
}

fn expand<T: Copy>(x: &[T], y: &mut [T], x_shape: &[usize], y_shape: &[usize]) {
    gather_view(x, y, y_shape, 0, broadcast_strides(x_shape, y_shape));
}

/// How padding is filled (ONNX Pad `mode`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub enum PadMode {
    /// With a value.
    Constant(f32),
    /// Mirrored at the edge, without repeating it.
    Reflect,
    /// With the nearest element.
    Edge,
}

/// Elements added around a tensor (ONNX Pad with pads that are not negative).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Pad<'a> {
    /// Shape of the input.
    pub x_shape: &'a [usize],
    /// Shape of the result.
    pub y_shape: &'a [usize],
    /// Elements before the first, per axis.
    pub begin: &'a [usize],
    /// How new elements are filled.
    pub mode: PadMode,
}

impl Pad<'_> {
    /// `y` from `x`.
    #[inline(always)]
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T])
    where
        f32: CastTo<T>,
    {
        pad(x, y, self.x_shape, self.y_shape, self.begin, self.mode);
    }
}

fn pad<T: Copy>(x: &[T], y: &mut [T], x_shape: &[usize], y_shape: &[usize], begin: &[usize], mode: PadMode)
where
    f32: CastTo<T>,
{
    let own = strides(x_shape);
    let mut index = [0usize; MAX_RANK];
    for out in y {
        let mut position = Some(0usize);
        for (((at, before), extent), stride) in index.iter().zip(begin).zip(x_shape).zip(&own) {
            let source = match (at.checked_sub(*before), mode) {
                (Some(inside), _) if inside < *extent => Some(inside),
                (_, PadMode::Constant(_)) => None,
                (None, PadMode::Edge) => Some(0),
                (Some(_), PadMode::Edge) => extent.checked_sub(1),
                (None, PadMode::Reflect) => Some((before - at).min(extent.saturating_sub(1))),
                (Some(past), PadMode::Reflect) => (2 * extent).checked_sub(past + 2),
            };
            position = match (position, source) {
                (Some(position), Some(source)) => Some(position + source * stride),
                _ => None,
            };
        }
        match (position.and_then(|position| x.get(position)), mode) {
            (Some(element), _) => *out = *element,
            (None, PadMode::Constant(value)) => *out = value.cast(),
            (None, PadMode::Reflect | PadMode::Edge) => {}
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

/// Elements chosen by indices along an axis (ONNX Gather). Negative indices count from the end; indices outside leave the
/// output as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Gather {
    /// Extent of the axis.
    pub extent: usize,
    /// Elements of one index of the axis.
    pub inner: usize,
}

impl Gather {
    /// `y` from `x`, one block of `inner` elements for each index.
    pub fn run<T: Copy, I: Copy + Into<i64>>(&self, x: &[T], indices: &[I], y: &mut [T]) {
        let rows = y.chunks_exact_mut((indices.len() * self.inner).max(1));
        for (block, out) in x.chunks_exact((self.extent * self.inner).max(1)).zip(rows) {
            for (index, out) in indices.iter().zip(out.chunks_exact_mut(self.inner.max(1))) {
                let index: i64 = (*index).into();
                let index = if index < 0 { index.wrapping_add(self.extent as i64) } else { index };
                let source =
                    usize::try_from(index).ok().and_then(|index| block.chunks_exact(self.inner.max(1)).nth(index));
                if let Some(source) = source {
                    out.iter_mut().zip(source).for_each(|(out, element)| *out = *element);
                }
            }
        }
    }
}

/// Spatial blocks to channels (ONNX SpaceToDepth): `[N, C, H, W]` to `[N, C * block^2, H / block, W / block]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SpaceToDepth {
    /// Shape of the input.
    pub x_shape: [usize; 4],
    /// Block edge.
    pub block: usize,
}

impl SpaceToDepth {
    /// `y` from `x`.
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        let [n, c, h, w] = self.x_shape;
        let block = self.block.max(1);
        let (rows, columns) = (h / block, w / block);
        // The output as [N, block row, block column, C, row, column].
        let shape = [n, block, block, c, rows, columns];
        let view = [c * h * w, w, 1, h * w, w * block, block, 0, 0];
        gather_view(x, y, &shape, 0, view);
    }
}

/// Channels to spatial blocks (ONNX DepthToSpace): `[N, C, H, W]` to `[N, C / block^2, H * block, W * block]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct DepthToSpace {
    /// Shape of the input.
    pub x_shape: [usize; 4],
    /// Block edge.
    pub block: usize,
    /// `CRD` order instead of `DCR`.
    pub column_row_depth: bool,
}

impl DepthToSpace {
    /// `y` from `x`.
    pub fn run<T: Copy>(&self, x: &[T], y: &mut [T]) {
        let [n, c, h, w] = self.x_shape;
        let block = self.block.max(1);
        let depth = c / (block * block);
        // The output as [N, depth, row, block row, column, block column].
        let shape = [n, depth, h, block, w, block];
        let plane = h * w;
        let view = if self.column_row_depth {
            [c * plane, block * block * plane, w, block * plane, 1, plane, 0, 0]
        } else {
            [c * plane, plane, w, block * depth * plane, 1, depth * plane, 0, 0]
        };
        gather_view(x, y, &shape, 0, view);
    }
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
