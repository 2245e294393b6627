//! How tensors lie in memory.

/// How the elements of a tensor lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major over the logical shape. What links, callers and reference kernels use.
    Plain,
    /// `[N, ceil(C / block), spatial.., block]`: channels in blocks of one vector, the tail of the last block zero or
    /// don't-care. A tensor whose spatial size is 1 lies the same way in `Plain`, padded at the end.
    Blocked(u32),
}
