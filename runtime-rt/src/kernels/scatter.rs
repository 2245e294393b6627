//! Rows put where indices say.

use super::BinaryOp;
use crate::elements::Scalar;

/// Rows with updates at computed positions, one after the other (ONNX ScatterElements, ScatterND). Negative positions
/// count from the end; updates at positions outside are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Scatter {
    /// Number of rows.
    pub extent: usize,
    /// Elements of a row.
    pub inner: usize,
    /// What a row and its update become; the update if nothing.
    pub function: Option<BinaryOp>,
}

impl Scatter {
    /// `y` from `x`; one row of `updates` for each of the positions.
    pub fn run<T: Scalar, I: Copy + Into<i64>>(&self, x: &[T], updates: &[T], positions: &[I], y: &mut [T]) {
        let inner = self.inner.max(1);
        for (out, element) in y.iter_mut().zip(x) {
            *out = *element;
        }
        for (position, update) in positions.iter().zip(updates.chunks_exact(inner)) {
            let position: i64 = (*position).into();
            let position = if position < 0 { position.wrapping_add(self.extent as i64) } else { position };
            let row = usize::try_from(position).ok().and_then(|position| y.chunks_exact_mut(inner).nth(position));
            for (out, update) in row.into_iter().flatten().zip(update) {
                *out = match self.function {
                    Some(function) => T::combine(function, *out, *update),
                    None => *update,
                };
            }
        }
    }
}
