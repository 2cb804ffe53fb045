#![no_main]
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

// The router on a fake model, as in tests/api.
#[path = "../../tests/api/fake.rs"]
mod fake;
#[path = "../../tests/api/support.rs"]
mod support;
#[path = "../targets/request.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::run(bytes));
