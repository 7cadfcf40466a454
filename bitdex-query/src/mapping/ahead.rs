//! Asking for memory before it is read.
//!
//! A read that waits for memory takes a hundred times as long as one that does not, and many that wait at once take hardly
//! longer than one: so whoever knows what it will read asks for all of it first.

#![allow(unsafe_code)]

/// Bytes that come at once.
const LINE: usize = 64;

/// As [`fetch`], of all that some things lie in, one behind the other.
#[inline]
pub fn fetch_all<T>(of: &[T]) {
    of.chunks((LINE / size_of::<T>().max(1)).max(1)).filter_map(<[T]>::first).for_each(fetch);
}

/// Asks the processor to fetch what `of` lies in, and does not wait for it. A hint: where the processor knows none such,
/// nothing happens.
#[inline]
pub fn fetch<T>(of: &T) {
    for line in 0..size_of::<T>().div_ceil(LINE) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = std::ptr::from_ref(of).cast::<i8>().wrapping_add(line * LINE);
            // SAFETY: the instruction is of every x86-64; it changes nothing that the program sees, and never faults,
            // wherever it points to.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (of, line);
    }
}
