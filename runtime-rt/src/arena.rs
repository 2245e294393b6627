//! The one block of memory that a device program works in, and views into it by constant offsets.

use core::cell::UnsafeCell;

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
        debug_assert!(offset_bytes <= BYTES && offset_bytes.is_multiple_of(align_of::<T>()));
        // SAFETY: in bounds, as the caller promises.
        unsafe { self.0.get().cast::<u8>().add(offset_bytes).cast() }
    }

    /// Elements to read.
    ///
    /// # Safety
    /// The range must lie inside the arena, be aligned for `T`, and not be written while the slice lives.
    #[inline(always)]
    pub unsafe fn slice<T>(&self, offset_bytes: usize, elements: usize) -> &[T] {
        debug_assert!(offset_bytes + elements * size_of::<T>() <= BYTES);
        // SAFETY: in bounds and unaliased, as the caller promises; every byte is initialised, and `T` is a plain number.
        unsafe { core::slice::from_raw_parts(self.pointer(offset_bytes), elements) }
    }

    /// Elements to write.
    ///
    /// # Safety
    /// The range must lie inside the arena, be aligned for `T`, and not be otherwise used while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "disjoint parts of one arena are written at once")]
    pub unsafe fn slice_mut<T>(&self, offset_bytes: usize, elements: usize) -> &mut [T] {
        debug_assert!(offset_bytes + elements * size_of::<T>() <= BYTES);
        // SAFETY: in bounds and exclusive, as the caller promises; every byte is initialised, and `T` is a plain number.
        unsafe { core::slice::from_raw_parts_mut(self.pointer(offset_bytes), elements) }
    }
}
