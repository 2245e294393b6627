//! The one block of memory that a device program works in, and views into it by constant offsets.

use core::cell::UnsafeCell;

use crate::elements::Plain;

/// `BYTES` of zeroed, cache-line aligned memory. Offsets and lengths are constants that the compiler has checked
/// against `BYTES`; they are checked again in builds with debug assertions.
#[repr(C, align(64))]
pub struct Arena<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: all access goes through `&mut self` of the model that owns the arena, or through raw pointers handed out by
// `pointer`, whose callers promise exclusive use.
unsafe impl<const BYTES: usize> Sync for Arena<BYTES> {}

impl<const BYTES: usize> Default for Arena<BYTES> {
    fn default() -> Self {
        Arena::new()
    }
}

impl<const BYTES: usize> Arena<BYTES> {
    /// Zeroed memory, so that a static lands in `.bss`.
    pub const fn new() -> Arena<BYTES> {
        Arena(UnsafeCell::new([0; BYTES]))
    }

    /// Address of a byte.
    ///
    /// # Safety
    /// `offset_bytes` must be at most `BYTES`, and whoever dereferences must hold exclusive use of the bytes it touches.
    #[inline(always)]
    pub unsafe fn pointer<T>(&self, offset_bytes: usize) -> *mut T {
        debug_assert!(offset_bytes <= BYTES && offset_bytes % align_of::<T>() == 0);
        // SAFETY: in bounds, as the caller promises.
        unsafe { self.0.get().cast::<u8>().add(offset_bytes).cast() }
    }

    /// Elements to read.
    ///
    /// # Safety
    /// The range must lie inside the arena, be aligned for `T`, and not be written while the slice lives.
    #[inline(always)]
    pub unsafe fn slice<T: Plain>(&self, offset_bytes: usize, elements: usize) -> &[T] {
        debug_assert!(offset_bytes + elements * size_of::<T>() <= BYTES);
        // SAFETY: in bounds and unaliased, as the caller promises; every byte is initialised, and any are a `T`.
        unsafe { core::slice::from_raw_parts(self.pointer(offset_bytes), elements) }
    }

    /// Elements to write.
    ///
    /// # Safety
    /// The range must lie inside the arena, be aligned for `T`, and not be otherwise used while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "disjoint parts of one arena are written at once")]
    pub unsafe fn slice_mut<T: Plain>(&self, offset_bytes: usize, elements: usize) -> &mut [T] {
        debug_assert!(offset_bytes + elements * size_of::<T>() <= BYTES);
        // SAFETY: in bounds and exclusive, as the caller promises; every byte is initialised, and any are a `T`.
        unsafe { core::slice::from_raw_parts_mut(self.pointer(offset_bytes), elements) }
    }
}

/// Copies `count` runs of `elements` elements whose first elements lie `from_stride` and `to_stride` elements apart.
///
/// # Safety
/// Every run must lie inside memory that may be read and written as `T`, and no run read may overlap one written.
#[inline]
pub unsafe fn copy_runs<T>(
    from: *const T,
    from_stride: usize,
    to: *mut T,
    to_stride: usize,
    elements: usize,
    count: usize,
) {
    for run in 0..count {
        // SAFETY: as the caller promises.
        unsafe { core::ptr::copy_nonoverlapping(from.add(run * from_stride), to.add(run * to_stride), elements) };
    }
}

/// The same inside one memory, run by run in their order: a run may be written over itself and earlier ones.
///
/// Not used for all copies: runs of some ten elements would take up to 1.4 times as long, since nothing of a run may be
/// written before all of it was read.
///
/// # Safety
/// Every run must lie inside memory that may be read and written as `T`, and none may be written over a later one that is
/// still to be read.
#[inline]
pub unsafe fn move_runs<T>(
    from: *const T,
    from_stride: usize,
    to: *mut T,
    to_stride: usize,
    elements: usize,
    count: usize,
) {
    for run in 0..count {
        // SAFETY: as the caller promises.
        unsafe { core::ptr::copy(from.add(run * from_stride), to.add(run * to_stride), elements) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, copy_runs, move_runs};
    use crate::elements::{Bool, F16};
    use crate::kernels;

    #[test]
    fn any_bytes_are_truth_values() {
        let arena = Arena::<1024>::new();
        // SAFETY: the ranges lie inside the arena and do not overlap.
        let (bytes, bits) = unsafe { (arena.slice_mut::<u8>(0, 256), arena.slice_mut::<u8>(512, 512)) };
        (0..=255u8).zip(bytes).for_each(|(value, byte)| *byte = value);
        bits.fill(0xff);
        // SAFETY: as above; nothing writes while they are read.
        let (flags, halves) = unsafe { (arena.slice::<Bool>(0, 256), arena.slice::<F16>(512, 256)) };
        let (mut chosen, mut inverse) = ([0i64; 256], [Bool(7); 256]);
        kernels::Where { condition_shape: &[256], a_shape: &[1], b_shape: &[1], y_shape: &[256] }.run(
            flags,
            &[1],
            &[2],
            &mut chosen,
        );
        kernels::Unary { function: kernels::UnaryOp::Not }.run(flags, &mut inverse);
        assert!(chosen[0] == 2 && chosen[1..].iter().all(|one| *one == 1));
        assert!(inverse[0].0 == 1 && inverse[1..].iter().all(|byte| byte.0 == 0));
        assert!(halves.iter().all(|half| half.to_f32().is_nan()));
    }

    #[test]
    fn runs_land_at_their_distances() {
        let from = [1, 2, 3, 4, 5, 6];
        let mut to = [0; 7];
        // SAFETY: two runs of two elements, 3 and 4 apart, lie inside both arrays.
        unsafe { copy_runs(from.as_ptr(), 3, to.as_mut_ptr().add(1), 4, 2, 2) };
        assert_eq!(to, [0, 1, 2, 0, 0, 4, 5]);
    }

    #[test]
    fn runs_move_inside_their_memory() {
        let mut memory = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let start = memory.as_mut_ptr();
        // SAFETY: of two blocks of six elements the last four move to the front: neither run reaches a later one.
        unsafe { move_runs(start.add(2).cast_const(), 6, start, 6, 4, 2) };
        assert_eq!(memory, [2, 3, 4, 5, 4, 5, 8, 9, 10, 11, 10, 11]);
    }
}
