//! The iteration space of an operator: its axes, and for each operand and result the map from axes to indices.
//!
//! An operator is nested loops, one per [`Axis`], around one step that reads one element of each operand and writes one
//! of each result; an [`Access`] says which. It is what MLIR's linalg calls iterator types and indexing maps, with kinds
//! for what cannot be cut. [`iteration_space`] describes every operator once; what a part of a result needs
//! ([`crate::restrict`]), what can be summed over devices, multiply-adds and what axes count follow. Shapes of results do
//! not: `graph::infer` computes them by itself, and a test (`shapes_of_results_follow`) holds them against the space of each
//! operator. What computes a part, and what a sum is of, is said beside the loops ([`on_part`], [`summand`]).

mod operators;
mod parts;
mod reshape;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::region::Region;

pub use operators::iteration_space;
pub use parts::{Part, Summand, on_part, summand};

/// What an axis is to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisKind {
    /// Each index is computed by itself: the axis can be cut.
    Parallel,
    /// What is computed for parts of it is added up, so it can be cut over an operand.
    Sum,
    /// Combined in another way than by a sum: read whole.
    Reduction,
    /// Taps of a window.
    Tap,
    /// Read where another operand says, so as a whole.
    Gathered,
    /// Elements along it depend on each other, or the operator cannot say how: never cut. An operator that has no other
    /// axes is opaque.
    Coupled,
}

/// What the indices of an axis count; `None` in an [`Axis`] if that is what the operands count there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Samples that are answered together.
    Samples,
    /// Channels, neurons, features, heads.
    Channels,
    /// Rows of a product, such as tokens of a sequence.
    Rows,
    /// Places: rows, columns, planes.
    Space,
}

/// One axis of an iteration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Number of indices, from 0.
    pub extent: usize,
    /// Whether and how it can be cut.
    pub kind: AxisKind,
    /// What it counts.
    pub role: Option<Role>,
}

/// An index along one axis of a tensor: `offset` and `stride * index` of each axis among `terms`.
///
/// Several terms without a tap among them are digits of a number (their ranges do not overlap), as the axes are that a
/// reshape joins. Indices outside the tensor do not exist: a window skips them, a concatenation reads another operand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Constant part.
    pub offset: isize,
    /// Axes of the space, with strides; largest stride first but for taps.
    pub terms: Vec<(usize, isize)>,
}

impl Index {
    /// The axis itself, if the index is nothing but that of an axis.
    pub fn only(&self) -> Option<usize> {
        match self.terms[..] {
            [(axis, 1)] if self.offset == 0 => Some(axis),
            _ => None,
        }
    }
}

/// How an operand is read or a result written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Shape of the tensor.
    pub extents: Vec<usize>,
    /// One index per axis of the tensor.
    pub indices: Vec<Index>,
}

/// What one step of the loops is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// A multiplication and an addition.
    MultiplyAdd,
    /// Some function; what it costs goes by elements of the result.
    Elements,
    /// A copy of memory.
    Copies,
    /// Nothing: the result lies where the operand does.
    View,
}

/// An operator's loops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The loops.
    pub axes: Vec<Axis>,
    /// One per operand.
    pub operands: Vec<Access>,
    /// One per result.
    pub results: Vec<Access>,
    /// The step inside.
    pub arithmetic: Arithmetic,
    /// Most elements that are looked at, of an operator whose axes do not say that.
    pub steps: Option<u64>,
}

/// Indices of each axis of a space: `begin..end`.
pub type Ranges = Vec<(usize, usize)>;

impl Space {
    /// Everything.
    pub fn whole(&self) -> Ranges {
        self.axes.iter().map(|axis| (0, axis.extent)).collect()
    }

    /// The indices that compute `part` of a result; `None` if that cannot be computed by itself.
    pub fn ranges(&self, result: usize, part: &Region) -> Option<Ranges> {
        let access = &self.results[result];
        let mut ranges = self.whole();
        for (at, index) in access.indices.iter().enumerate() {
            let (begin, end) = (part.begin(at), part.end(at));
            if (begin, end) != (0, access.extents[at].max(1)) {
                self.narrow(&mut ranges, index, (begin, end), AxisKind::Parallel)?;
            }
        }
        Some(ranges)
    }

    /// Leaves the indices for which `index` is within `begin..end`, cutting axes of one kind only; `None` if these are no
    /// box.
    pub fn narrow(
        &self,
        ranges: &mut Ranges,
        index: &Index,
        (begin, end): (usize, usize),
        kind: AxisKind,
    ) -> Option<()> {
        let (mut begin, mut end) = (begin as isize - index.offset, end as isize - index.offset);
        let mut terms = index.terms.iter();
        loop {
            let (axis, stride) = *terms.next()?;
            let whole = (0, self.axes[axis].extent);
            if stride <= 0 || begin < 0 {
                return None;
            }
            let last = (end - 1) / stride;
            let aligned = begin % stride == 0 && end % stride == 0;
            // Some indices with all that is inside of them, or a part of what is inside of one.
            let range = if aligned { (begin / stride, end / stride) } else { (begin / stride, last + 1) };
            let range = (range.0 as usize, range.1 as usize);
            if range.1 > whole.1 || range != whole && self.axes[axis].kind != kind {
                return None;
            }
            ranges[axis] = range;
            if aligned {
                return Some(());
            }
            if last != begin / stride {
                return None;
            }
            (begin, end) = (begin - last * stride, end - last * stride);
        }
    }

    /// The smallest box of a tensor that `ranges` read or write. The outer `None`: what they touch is scattered over that
    /// box; the inner: nothing.
    pub fn touched(&self, access: &Access, ranges: &Ranges) -> Option<Option<Region>> {
        let mut found = Vec::with_capacity(access.indices.len());
        for (index, extent) in access.indices.iter().zip(&access.extents) {
            let (mut low, mut high) = (index.offset, index.offset);
            let (mut places, mut digits, mut taps, mut uncut) = (1, 0, false, true);
            for (axis, stride) in &index.terms {
                let (begin, end) = ranges[*axis];
                let (first, last) = (begin as isize * stride, (end as isize - 1) * stride);
                (low, high) = (low + first.min(last), high + first.max(last));
                uncut &= (begin, end) == (0, self.axes[*axis].extent);
                match self.axes[*axis].kind {
                    AxisKind::Tap => taps = true,
                    _ => (places, digits) = (places * (end - begin) as isize, digits + 1),
                }
            }
            if digits > 1 && places != high - low + 1 {
                return None;
            }
            // A window that is not cut leaves its operand whole, with what strides pass over at its end: it need not be
            // copied then.
            let (begin, end) =
                if taps && uncut { (0, *extent as isize) } else { (low.max(0), (high + 1).min(*extent as isize)) };
            if begin >= end {
                return Some(None);
            }
            found.push((begin as usize, end as usize));
        }
        Some(Region::new(found))
    }

    /// Multiply-adds of some of the loops; 0 if the operator does not multiply.
    pub fn macs(&self, ranges: &Ranges) -> u64 {
        match self.arithmetic {
            Arithmetic::MultiplyAdd => ranges.iter().map(|(begin, end)| (end - begin) as u64).product(),
            Arithmetic::Elements | Arithmetic::Copies | Arithmetic::View => 0,
        }
    }

    /// Whether an access depends on an axis of a kind.
    pub fn has(&self, access: &Access, kind: AxisKind) -> bool {
        access.indices.iter().flat_map(|index| &index.terms).any(|(axis, _)| self.axes[*axis].kind == kind)
    }

    /// The last axis of the first result whose channels the operator makes itself.
    pub fn channels(&self) -> Option<usize> {
        let makes = |(axis, _): &(usize, isize)| {
            self.axes[*axis].kind == AxisKind::Parallel && self.axes[*axis].role == Some(Role::Channels)
        };
        self.results.first()?.indices.iter().rposition(|index| index.terms.iter().any(makes))
    }

    /// Whether the second operand is a row-major matrix `[depth, columns]` by which rows of the first are multiplied,
    /// which `--weights` stores in fewer bytes.
    pub fn is_matrix_product(&self) -> bool {
        let [x, matrix] = [0, 1].map(|at| self.operands.get(at).map_or(&[][..], |access| &access.indices));
        let sums = |index: &Index| index.only().is_some_and(|axis| self.axes[axis].kind == AxisKind::Sum);
        let columns = self.results.first().and_then(|result| result.indices.last());
        matches!(matrix, [depth, last] if sums(depth) && x.last() == Some(depth) && columns == Some(last))
    }

    /// Whether it has axes of more than one index, and none of them can be cut.
    pub fn is_opaque(&self) -> bool {
        let cut = |axis: &Axis| matches!(axis.kind, AxisKind::Parallel | AxisKind::Sum);
        let mut long = self.axes.iter().filter(|axis| axis.extent > 1).peekable();
        long.peek().is_some() && !long.any(cut)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (axis, stride)) in self.terms.iter().enumerate() {
            match (at, stride.signum()) {
                (0, 1) => {}
                (0, _) => write!(f, "-")?,
                (_, 1) => write!(f, " + ")?,
                _ => write!(f, " - ")?,
            }
            match stride.unsigned_abs() {
                1 => write!(f, "d{axis}")?,
                stride => write!(f, "{stride}*d{axis}")?,
            }
        }
        match (self.terms.len(), self.offset) {
            (0, offset) => write!(f, "{offset}"),
            (_, 0) => Ok(()),
            (_, offset) if offset < 0 => write!(f, " - {}", -offset),
            (_, offset) => write!(f, " + {offset}"),
        }
    }
}

impl fmt::Display for Space {
    /// `[d0: 1 samples, d1: 8 channels, d2: 3 sum channels, ..] (d0, d2, d3 + d4 - 1), (d1, d2, d4) -> (d0, d1, d3)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axis = |(at, axis): (usize, &Axis)| {
            let kind = match axis.kind {
                AxisKind::Parallel => "",
                AxisKind::Sum => " sum",
                AxisKind::Reduction => " reduction",
                AxisKind::Tap => " tap",
                AxisKind::Gathered => " gathered",
                AxisKind::Coupled => " coupled",
            };
            let role = match axis.role {
                None => "",
                Some(Role::Samples) => " samples",
                Some(Role::Channels) => " channels",
                Some(Role::Rows) => " rows",
                Some(Role::Space) => " space",
            };
            format!("d{at}: {}{kind}{role}", axis.extent)
        };
        let axes: Vec<String> = self.axes.iter().enumerate().map(axis).collect();
        let accesses = |accesses: &[Access]| {
            let one = |access: &Access| {
                let indices: Vec<String> = access.indices.iter().map(Index::to_string).collect();
                format!("({})", indices.join(", "))
            };
            accesses.iter().map(one).collect::<Vec<String>>().join(", ")
        };
        write!(f, "[{}] {} -> {}", axes.join(", "), accesses(&self.operands), accesses(&self.results))?;
        match self.arithmetic {
            _ if self.is_opaque() => write!(f, " opaque"),
            Arithmetic::MultiplyAdd => write!(f, " multiply-add"),
            Arithmetic::Elements => Ok(()),
            Arithmetic::Copies => write!(f, " copy"),
            Arithmetic::View => write!(f, " view"),
        }
    }
}
