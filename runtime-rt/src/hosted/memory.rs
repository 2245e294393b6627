//! Maps a program's memory before its first inference, which would otherwise stop at every page.

use core::ffi::c_void;

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Has the working memory mapped, in large pages where the kernel gives them, and the weights read in. A kernel that does
/// not know the advice (Linux before 5.14) changes nothing.
pub fn map_ahead<T>(working: &mut T, weights: &'static [u8]) {
    let working = (&raw mut *working).cast::<c_void>();
    let page_bytes = page_size();
    for (start, bytes, advice) in [
        (working, size_of::<T>(), Advice::LinuxHugepage),
        (working, size_of::<T>(), Advice::LinuxPopulateWrite),
        (weights.as_ptr().cast_mut().cast::<c_void>(), weights.len(), Advice::LinuxPopulateRead),
    ] {
        let begins_inside = start.align_offset(page_bytes);
        let whole_bytes = bytes.saturating_sub(begins_inside) / page_bytes * page_bytes;
        if whole_bytes > 0 {
            // SAFETY: the pages lie inside what the references point to, which nobody else uses meanwhile or nobody writes to,
            // and this advice changes no byte of it.
            let _ = unsafe { madvise(start.wrapping_byte_add(begins_inside), whole_bytes, advice) };
        }
    }
}

// Miri has no `madvise`.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::map_ahead;

    #[test]
    fn memory_stays_as_it_is() {
        static WEIGHTS: [u8; 300_000] = [7; 300_000];
        let mut working = std::vec![3u8; 300_000].into_boxed_slice();
        let array: &mut [u8; 300_000] = working.as_mut().try_into().expect("as long");
        map_ahead(array, &WEIGHTS);
        assert!(array.iter().all(|byte| *byte == 3) && WEIGHTS.iter().all(|byte| *byte == 7));
        // Less than a page, and none.
        map_ahead(&mut [1u8; 10], &[]);
    }
}
