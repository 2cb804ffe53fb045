#![no_main]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../targets/image.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::run(bytes));
