//! Conversion of lengths between Rust, which counts with `usize`, and libtorch, which counts with `i64`.

/// Converts a length in memory for libtorch.
pub(crate) fn to_i64(length: usize) -> i64 {
    i64::try_from(length).expect("a length in memory fits 63 bits")
}

/// Converts the dimension of a tensor, or a position along it, to a length in memory.
pub(crate) fn to_usize(dimension: i64) -> usize {
    usize::try_from(dimension).expect("neither a dimension of a tensor nor a place is negative")
}
