//! The limit on what oneDNN and libtorch keep for every shape of input.
//!
//! oneDNN compiles a primitive for each layer and each shape of its input, and libtorch keeps descriptions of
//! primitives beside it. A linear layer's primitive takes about 0.6 MB. By default both caches hold 1024 entries,
//! libtorch's once per kind of layer and thread: a gigabyte once enough shapes have come. libtorch means to turn
//! oneDNN's cache off, but sets a variable that oneDNN no longer reads.

use std::ffi::OsStr;

/// Capacity of oneDNN's cache in primitives, for the whole process.
const ONEDNN: &str = "ONEDNN_PRIMITIVE_CACHE_CAPACITY";

/// Capacity of libtorch's caches of descriptions, each for one kind of layer and one thread.
const LIBTORCH: &str = "LRU_CACHE_CAPACITY";

/// Most descriptions in each of libtorch's caches. What is missing here is found in oneDNN's cache within 3 us. So
/// these caches need only hold the layers of one pass.
const MOST_DESCRIPTIONS: u32 = 64;

/// Limits the primitives that oneDNN keeps for the whole process to `count`, those used last, and libtorch's
/// descriptions of them accordingly. A limit that the environment already sets stays.
///
/// Both libraries read their limits from the environment, oneDNN when it computes its first layer and libtorch on the
/// first layer of each thread. So the function changes the environment of the process and must be called before other
/// threads read it.
///
/// # Panics
/// Panics when the process has other threads.
pub(crate) fn limit_primitives(count: u32) {
    assert_eq!(threads(), 1, "the environment is changed before other threads start");
    for (name, capacity) in [(ONEDNN, count), (LIBTORCH, count.min(MOST_DESCRIPTIONS))] {
        if std::env::var_os(name).is_none_or(|value| value == OsStr::new("")) {
            // SAFETY: this is the only thread, so no other one reads the environment meanwhile.
            unsafe { std::env::set_var(name, capacity.to_string()) };
        }
    }
}

/// Returns the number of threads of the process. Returns 1 where the system does not list them.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}
