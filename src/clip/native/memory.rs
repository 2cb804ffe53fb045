//! What the C library's allocator keeps of memory that libtorch has freed.
//!
//! A pass frees blocks of many sizes, and glibc keeps most of them for the next pass. After passes of many shapes the
//! blocks that are kept fit few of the blocks that are asked for, so resident memory depends on the shapes that came
//! last. Besides, each of glibc's arenas, by default eight for each processor, keeps up to 64 MB free at its end, which
//! only its own threads use again.

/// Limits the arenas of glibc's allocator. Call it before other threads start, since arenas do not go away. A limit that
/// the environment sets (`MALLOC_ARENA_MAX`) stays. Does nothing where the C library is another one.
pub(crate) fn limit_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        glibc::mallopt(glibc::M_ARENA_MAX, glibc::ARENAS);
    }
}

/// Returns to the system the memory that glibc's allocator has free, of all threads. Takes a few milliseconds, in which
/// other threads may wait to allocate. Does nothing where the C library is another one.
pub(crate) fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::malloc_trim(0);
}

/// glibc's own functions beside the standard ones, as its malloc.h has them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    /// Arenas of the whole process: one for the main thread, the others shared by the workers of the models and the
    /// threads that decode.
    pub const ARENAS: c_int = 4;

    /// The parameter of [`mallopt`] for the largest number of arenas.
    pub const M_ARENA_MAX: c_int = -8;

    // Both take the allocator's own locks and may be called at any time.
    unsafe extern "C" {
        /// mallopt(3).
        pub safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
        /// malloc_trim(3).
        pub safe fn malloc_trim(pad: usize) -> c_int;
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Bytes of a page on the processors that the server is built for.
    const PAGE: usize = 4096;

    /// Returns how many of the addresses lie in memory that the process has now, by the system's map of its pages.
    /// What other tests do in the same process does not count.
    fn present(addresses: &[usize]) -> usize {
        let map = std::fs::File::open("/proc/self/pagemap").expect("Linux has it");
        let is_present = |address: &&usize| {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, (**address / PAGE * 8) as u64)
                .expect("every address has an entry");
            u64::from_ne_bytes(entry) >> 63 == 1
        };
        addresses.iter().filter(is_present).count()
    }

    #[test]
    fn memory_between_blocks_in_use_goes_back() {
        let blocks: Vec<Vec<u8>> = (0..16384).map(|_| vec![1; PAGE]).collect();
        // Every 64th stays, so that the heap does not end with free memory.
        let (kept, freed): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(place, _)| place % 64 == 0);
        let addresses: Vec<_> = freed.iter().map(|(_, block)| block.as_ptr() as usize).collect();
        assert_eq!(present(&addresses), addresses.len());
        drop(freed);
        assert!(
            present(&addresses) > addresses.len() / 2,
            "glibc keeps what lies between blocks in use"
        );
        return_free_memory();
        assert!(present(&addresses) < addresses.len() / 2);
        drop(kept);
    }
}
